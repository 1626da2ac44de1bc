"""Plans of rectified images."""

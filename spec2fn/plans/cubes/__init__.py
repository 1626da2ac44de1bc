"""Plans of cubes."""

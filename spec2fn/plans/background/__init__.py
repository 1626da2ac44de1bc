"""Plans of background, imprint, stray light and correlated noise."""

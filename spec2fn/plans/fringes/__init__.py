"""Plans of fringes."""

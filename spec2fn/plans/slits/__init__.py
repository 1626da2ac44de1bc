"""Plans of slits: where they are, what lies in them."""

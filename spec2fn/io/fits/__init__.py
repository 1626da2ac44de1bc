"""FITS: the layout of exposures and products, read and written."""

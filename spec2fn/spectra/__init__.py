"""Traced extraction: from images and cubes to spectra, and from columns to Datasets."""

"""The synthetic medium-resolution spectrometer of MIRI."""

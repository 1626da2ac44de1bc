"""The synthetic low-resolution spectrometer of MIRI."""

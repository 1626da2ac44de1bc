"""Synthetic slitless spectrographs: NIRISS and NIRCam with a grism in the beam."""

"""The grism of NIRCam for time series that synthetic exposures are taken with."""

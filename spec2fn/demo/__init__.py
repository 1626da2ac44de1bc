"""The embedded examples: exposures of known truth, calibrated and compared."""

"""Whole steps and pipelines on disturbed exposures: a few seeds each, more of them by night."""

from spec2fn.testing.profiles import load_profile

load_profile()

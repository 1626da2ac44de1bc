"""badpix_selfcal of NIRSpec IFU exposures against the peer's functions."""

import numpy as np
import pytest

from spec2fn.io import open_exposure
from spec2fn.steps.badpix_selfcal import badpix_selfcal

pytestmark = pytest.mark.parity


def test_pixels_found_in_several_exposures(scenario):
    from jwst.badpix_selfcal.badpix_selfcal import apply_flags
    from jwst.badpix_selfcal.badpix_selfcal import badpix_selfcal as find
    from stdatamodels.jwst import datamodels

    paths = sorted(scenario("nrs_ifu_members").glob("*_rate.fits"))[:3]
    science, *others = (open_exposure(p).load() for p in paths)
    assert science.attrs["dispaxis"] == 1
    out = badpix_selfcal(science, selfcal=tuple(others))
    models = [datamodels.open(p) for p in paths]
    lowest = np.fmin.reduce([m.data for m in models])
    theirs = apply_flags(models[0], find(lowest, dispaxis=1))
    np.testing.assert_array_equal(out["dq"], theirs.dq)
    for name, expected in (("sci", theirs.data), ("err", theirs.err)):
        np.testing.assert_array_equal(out[name], expected)
    for model in models:
        model.close()

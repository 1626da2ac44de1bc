"""Steps of slitless spectra that whole runs leave out, on the peer's own input to them."""

import numpy as np
import pytest

from spec2fn.io import open_product
from spec2fn.steps.pixel_replace import pixel_replace

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]

PLANES = {"sci": "data", "err": "err", "var_poisson": "var_poisson", "var_rnoise": "var_rnoise"}


@pytest.mark.parametrize("algorithm", ["mingrad", "fit_profile"])
@pytest.mark.parametrize("name", ["niriss_wfss", "miri_wfss"])
def test_replaced_pixels(scenario, allowed, name, algorithm):
    from jwst.pixel_replace import PixelReplaceStep
    from stdatamodels.jwst import datamodels

    folder = scenario(name, without=("wfss_contam",))
    (path,) = (folder / "steps").glob("*_cal.fits")
    before = open_product(path)
    ours = pixel_replace(before, algorithm=algorithm)
    changed = 0
    with datamodels.open(path) as model:
        theirs = PixelReplaceStep(skip=False, algorithm=algorithm).run(model)
        assert len(theirs.slits) == len(ours)
        for i, slit in enumerate(theirs.slits):
            mine = ours.slit(i)
            np.testing.assert_array_equal(mine["dq"], slit.dq)
            for plane, native in PLANES.items():
                allowed(algorithm).agree(mine[plane], getattr(slit, native), slit.name, plane)
            changed += int((mine["sci"] != before.slit(i)["sci"]).sum())
    assert changed > 100

"""imprint and the nod subtraction of MOS against the peer, from cleaned exposures on."""

import numpy as np
import pytest

from spec2fn.io import open_exposure
from spec2fn.steps.background import background
from spec2fn.steps.imprint import imprint

pytestmark = pytest.mark.parity

STEM = "jw01234004001_"
SCIENCE, NOD, IMPRINT = "03101_00001", "03101_00002", "03103_00001"


def test_nods_with_an_imprint(scenario, allowed):
    steps = scenario("nrs_mos_nod") / "steps"

    def product(exposure, kind):
        return open_exposure(steps / f"{STEM}{exposure}_nrs1_{kind}.fits").load()

    cleaned = {e: product(e, "clean_flicker_noise") for e in (SCIENCE, NOD, IMPRINT)}
    members = (cleaned[IMPRINT],)
    left = {}
    for exposure in (SCIENCE, NOD):
        out = imprint(cleaned[exposure], imprint=members, propagate_variance=False)
        agree(out, product(exposure, "imprint_subtract"), allowed("planes"))
        left[exposure] = out
    out = background(left[SCIENCE], background=(left[NOD],), propagate_variance=False)
    agree(out, product(SCIENCE, "bsub"), allowed("planes"))


def agree(ours, theirs, row):
    np.testing.assert_array_equal(ours["dq"], theirs["dq"])
    for name in ("sci", "err", "var_poisson", "var_rnoise"):
        row.close(ours[name], theirs[name])

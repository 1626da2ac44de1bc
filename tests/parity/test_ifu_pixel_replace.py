"""pixel_replace on integral-field exposures against the peer."""

import numpy as np
import pytest
import xarray as xr

from spec2fn.io import open_exposure
from spec2fn.steps.pixel_replace import pixel_replace

pytestmark = pytest.mark.parity

PLANES = ("sci", "err", "var_poisson", "var_rnoise", "var_flat")


@pytest.mark.parametrize("name", ["nrs_ifu_prism", "miri_mrs_12short"])
def test_minimum_gradient(scenario, allowed, name):
    folder = scenario(name) / "steps"
    before, after = (
        open_exposure(next(folder.glob(f"*_{s}.fits"))).load() for s in ("cal", "pixel_replace")
    )
    out = pixel_replace(before)
    np.testing.assert_array_equal(out["dq"], after["dq"])
    assert ((out["dq"].values & ~before["dq"].values) != 0).sum() > 1000
    for plane in PLANES:
        allowed("mingrad").close(out[plane], after[plane], err_msg=plane)


def test_profiles_of_slices(scenario, allowed):
    """On the first rows of an exposure: the peer takes a second for every slice."""
    from jwst.pixel_replace.pixel_replace import PixelReplacement
    from stdatamodels.jwst import datamodels

    (path,) = (scenario("nrs_ifu_prism") / "steps").glob("*_cal.fits")
    with datamodels.open(path) as model:
        regions = np.where(model.regions <= 4, model.regions, 0)
        names = {"sci": model.data, "err": model.err, "dq": model.dq} | {
            n: getattr(model, n) for n in PLANES[2:]
        }
        planes = {k: (("y", "x"), np.array(v)) for k, v in names.items()}
        attrs = {"exp_type": "NRS_IFU", "dispaxis": model.meta.wcsinfo.dispersion_direction}
        ds = xr.Dataset({**planes, "regions": (("y", "x"), regions.astype(np.int32))}, attrs=attrs)
        model.regions = regions
        PixelReplacement(model, algorithm="fit_profile").replace()
        out = pixel_replace(ds, algorithm="fit_profile")
        np.testing.assert_array_equal(out["dq"], model.dq)
        inside = regions > 0
        replaced = inside & ((out["dq"].values & ~ds["dq"].values) != 0)
        assert replaced.sum() > 100
        for plane in PLANES:
            theirs = model.data if plane == "sci" else getattr(model, plane)
            np.testing.assert_array_equal(out[plane].values[~inside], theirs[~inside])
            # the peer's simplex stops short of the minimum
            allowed("fit_profile").agree(out[plane].values[replaced], theirs[replaced], plane)

"""assign_wcs against the peer: the gwcs itself, the planes, the keywords."""

import os
from pathlib import Path

import numpy as np
import pytest

from spec2fn.io import open_exposure
from spec2fn.refs import open_reference
from spec2fn.schema import meta_of
from spec2fn.steps.assign_wcs import assign_wcs
from spec2fn.wcs.invert import invert
from spec2fn.wcs.lower import box_of, lower

pytestmark = pytest.mark.parity

SCENARIOS = [
    "miri_lrs_slit",
    "miri_lrs_slitless",
    "miri_lrs_slit_ints",
    "miri_lrs_slitless_real",
]


@pytest.fixture(params=SCENARIOS)
def case(request, scenario):
    """Our exposure after assign_wcs, and the peer's."""
    if request.param.endswith("_real") and not os.environ.get("SPEC2FN_REALDATA"):
        pytest.skip("SPEC2FN_REALDATA is not set")
    folder = scenario(request.param)
    (peer,) = (folder / "steps").glob("*_assign_wcs.fits")
    stem = peer.name.removesuffix("_assign_wcs.fits")
    (path,) = folder.glob(f"{stem}_rate*.fits")
    (crds,) = folder.glob("crds_cache/references/jwst/miri")
    refs = {k: open_reference(next(crds.glob(f"*_{k}_*"))) for k in ("distortion", "specwcs")}
    from stdatamodels.jwst import datamodels

    with datamodels.open(Path(peer)) as theirs:
        yield assign_wcs(open_exposure(path), **refs), theirs


def test_the_gwcs_is_the_peers(case, allowed):
    ours, theirs = case
    wcs, other = meta_of(ours).wcs, theirs.meta.wcs
    assert wcs.available_frames == other.available_frames
    assert box_of(wcs) == box_of(other)
    y, x = np.mgrid[: ours.sizes["y"], : ours.sizes["x"]].astype(float)
    world = other(x, y)
    for a, b, name in zip(wcs(x, y), world, ("ra", "dec", "wavelength"), strict=True):
        np.testing.assert_array_equal(a, b)
        allowed("planes").close(ours[name], b)
    inside = np.isfinite(world[0])
    target = [w[inside] for w in world]
    for a, b in zip(wcs.invert(*target), other.invert(*target), strict=True):
        np.testing.assert_array_equal(a, b)


def test_wavelengths_are_equal_in_single_precision(case):
    ours, theirs = case
    a = ours["wavelength"].values.astype(np.float32)
    np.testing.assert_array_max_ulp(a, theirs.wavelength.astype(np.float32), maxulp=1)


def test_keywords(case, allowed):
    ours, theirs = case
    info = theirs.meta.wcsinfo
    assert ours.attrs.get("s_region") == info.s_region
    # the official one says BARYCENT of wavelengths that nothing has moved there
    assert ours.attrs["specsys"] == ("TOPOCENT" if info.velosys is None else info.specsys)
    assert ours.attrs["dispaxis"] == info.dispersion_direction
    if ours.attrs["exp_type"] == "MIR_LRS-FIXEDSLIT":
        for name in ("dithered_ra", "dithered_dec"):
            expected = getattr(theirs.meta.dither, name)
            assert float(ours[name]) == allowed("keywords").approx(expected)


def test_detector_to_world_and_back(case, allowed):
    ours, _ = case
    transform = lower(meta_of(ours).wcs)
    y, x = np.nonzero(np.isfinite(ours["wavelength"].values))
    x, y = x[::5].astype(float), y[::5].astype(float)
    start = (x + 0.4, np.clip(y - 0.4, y.min(), y.max()))
    bounds = ((x.min() - 5, x.max() + 5), (y.min(), y.max()))
    back = invert(transform, transform(x, y), start, periods=(360.0, None, None), bounds=bounds)
    allowed("inverse").close(back[0], x)
    allowed("inverse").close(back[1], y)
    # the inverse polynomials of the imager's distortion are less good, but theirs
    through = lower(meta_of(ours).wcs, "world", "detector")(*transform(x, y))
    allowed("inverse_of_the_imager").close(through[0], x)
    allowed("inverse").close(through[1], y)


def test_a_product_of_the_official_pipeline(allowed):
    folder = os.environ.get("SPEC2FN_REALDATA")
    if not folder:
        pytest.skip("SPEC2FN_REALDATA is not set")
    (path,) = Path(folder, "miri_lrs").glob("*_calints.fits")
    from stdatamodels.jwst import datamodels

    with datamodels.open(path) as product:
        wcs = product.meta.wcs
        y, x = np.mgrid[: product.data.shape[-2], : product.data.shape[-1]].astype(float)
        expected = wcs(x, y, with_bounding_box=False)
        for ours, theirs in zip(lower(wcs)(x, y), expected, strict=True):
            allowed("planes").close(ours, theirs)

"""assign_wcs of the MRS against the peer."""

import numpy as np
import pytest

from spec2fn.io import open_exposure
from spec2fn.refs import open_reference
from spec2fn.schema import meta_of
from spec2fn.steps.assign_wcs import assign_wcs
from spec2fn.wcs.lower import box_of

pytestmark = pytest.mark.parity


@pytest.fixture(scope="module", params=["miri_mrs_12short", "miri_mrs_34long"])
def case(request, scenario):
    """Our exposure after assign_wcs, and the peer's."""
    from stdatamodels.jwst import datamodels

    folder = scenario(request.param)
    (peer,) = (folder / "steps").glob("*_00001_*_assign_wcs.fits")
    path = folder / peer.name.replace("assign_wcs", "rate")
    (crds,) = folder.glob("crds_cache/references/jwst/miri")
    kinds = ("distortion", "regions", "specwcs", "wavelengthrange")
    refs = {k: open_reference(next(crds.glob(f"*_{k}_*"))) for k in kinds}
    with datamodels.open(peer) as theirs:
        yield assign_wcs(open_exposure(path), **refs), theirs


def test_the_gwcs_is_the_peers(case):
    ours, theirs = case
    wcs, other = meta_of(ours).wcs, theirs.meta.wcs
    assert wcs.available_frames == other.available_frames
    assert box_of(wcs) == box_of(other)
    assert ours.attrs["s_region"] == theirs.meta.wcsinfo.s_region
    assert ours.attrs["dispaxis"] == theirs.meta.wcsinfo.dispersion_direction
    y, x = np.mgrid[: ours.sizes["y"], : ours.sizes["x"]].astype(float)
    world = other(x, y)
    for a, b, name in zip(wcs(x, y), world, ("ra", "dec", "wavelength"), strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_allclose(ours[name], b, rtol=1e-15, atol=0)
    local = other.get_transform("detector", "alpha_beta")(x, y)
    for name, b in zip(("alpha", "beta"), local, strict=False):
        np.testing.assert_array_equal(ours[name], b)
    inside = np.isfinite(world[0])
    target = [w[inside] for w in world]
    pixels = [w.invert(*target, with_bounding_box=False) for w in (wcs, other)]
    for a, b in zip(*pixels, strict=True):
        np.testing.assert_array_equal(a, b)


def test_parts_of_the_gwcs_have_the_peers_names(case):
    ours, theirs = case
    for a, b in zip(meta_of(ours).wcs.pipeline, theirs.meta.wcs.pipeline, strict=True):
        assert a.frame.name == b.frame.name
        assert a.frame.axes_names == b.frame.axes_names
        assert a.frame.unit == b.frame.unit
        if b.transform is not None:
            assert a.transform.name == b.transform.name
            assert a.transform.n_inputs == b.transform.n_inputs
    selectors = [w.pipeline[0].transform for w in (meta_of(ours).wcs, theirs.meta.wcs)]
    assert list(selectors[0].selector) == list(selectors[1].selector)
    np.testing.assert_array_equal(
        selectors[0].label_mapper.mapper, selectors[1].label_mapper.mapper
    )

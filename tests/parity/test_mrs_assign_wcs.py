"""assign_wcs of the MRS against the peer."""

import os
from pathlib import Path

import numpy as np
import pytest

from spec2fn.io import open_exposure
from spec2fn.refs import open_reference
from spec2fn.schema import meta_of
from spec2fn.steps.assign_wcs import assign_wcs
from spec2fn.wcs.lower import box_of, lower

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


def inverse_of_the_detector(wcs, world, velocity):
    """The official inverse takes wavelengths that are not corrected to the barycentre."""
    ra, dec, wavelength = world
    moving = wavelength * (1 + (velocity or 0.0) / 299792458.0)
    return wcs.invert(ra, dec, moving, with_bounding_box=False)


def test_the_gwcs_is_the_peers(case, allowed):
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
        allowed("planes").close(ours[name], b)
    local = other.get_transform("detector", "alpha_beta")(x, y)
    for name, b in zip(("alpha", "beta"), local, strict=False):
        np.testing.assert_array_equal(ours[name], b)
    inside = np.isfinite(world[0])
    target = [w[inside] for w in world]
    mine = wcs.invert(*target, with_bounding_box=False)
    back = inverse_of_the_detector(other, target, theirs.meta.wcsinfo.velosys)
    for a, b in zip(mine, back, strict=True):
        both = np.isfinite(a) & np.isfinite(b)
        assert np.mean(np.isfinite(a) == np.isfinite(b)) > 0.999
        allowed("inverse").close(a[both], b[both])


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


BANDS = {"A": "SHORT", "B": "MEDIUM", "C": "LONG"}


@pytest.mark.filterwarnings("ignore::stdatamodels.exceptions.ValidationWarning")
@pytest.mark.parametrize("name", ["12A", "12B", "12C", "34A", "34B", "34C"])
def test_every_sub_band_in_flight(name, allowed, tmp_path):
    """The same references in both: the gwcs, its inverse and our planes."""
    from jwst.assign_wcs.assign_wcs import load_wcs
    from stdatamodels.jwst import datamodels

    if not os.environ.get("SPEC2FN_REALDATA"):
        pytest.skip("SPEC2FN_REALDATA is not set")
    folder = Path(os.environ["SPEC2FN_REALDATA"]) / "miri_mrs" / "flt9"
    files = {k: folder / f"jwst_miri_mrs{name}_{k}_flt9.asdf" for k in ("distortion", "specwcs")}
    files["wavelengthrange"] = folder / "jwst_miri_mrs_wavelengthrange_flt9.asdf"
    slices = open_reference(files["distortion"], "distortion").attrs["tree"]["slices"]
    # the map of the slices is not among these files: give every slice as many columns
    regions = np.zeros((9, 1024, 1032), dtype=np.int32)
    regions[7] = np.asarray(slices)[np.arange(1032) * len(slices) // 1032]
    files["regions"] = tmp_path / "regions.asdf"
    model = datamodels.RegionsModel()
    model.regions = regions
    model.save(files["regions"])

    theirs = datamodels.IFUImageModel((1024, 1032))
    theirs.meta.exposure.type = "MIR_MRS"
    detector = {"12": "MIRIFUSHORT", "34": "MIRIFULONG"}[name[:2]]
    instrument = {"name": "MIRI", "channel": name[:2], "band": BANDS[name[2]]}
    instrument["detector"] = detector
    for key, value in instrument.items():
        setattr(theirs.meta.instrument, key, value)
    pointing = {"v2_ref": -503.0, "v3_ref": -318.9, "ra_ref": 0.0004, "dec_ref": -27.8}
    pointing |= {"roll_ref": 30.0, "velosys": 12345.6, "vparity": -1, "v3yangle": 0.0}
    for key, value in pointing.items():
        setattr(theirs.meta.wcsinfo, key, value)
    theirs.meta.velocity_aberration.scale_factor = 1.00002
    theirs.save(tmp_path / "exp_rate.fits")
    theirs = load_wcs(theirs, {k: str(v) for k, v in files.items()})

    refs = {k: open_reference(v, k) for k, v in files.items()}
    ours = assign_wcs(open_exposure(tmp_path / "exp_rate.fits"), **refs)
    wcs, other = meta_of(ours).wcs, theirs.meta.wcs
    y, x = np.mgrid[:1024:5, :1032].astype(float)
    world = other(x, y)
    assert np.isfinite(world[0]).mean() > 0.5
    for a, b, plane in zip(wcs(x, y), world, ("ra", "dec", "wavelength"), strict=True):
        np.testing.assert_array_equal(a, b)
        allowed("planes_in_flight").close(ours[plane][::5], b)
    local = other.get_transform("detector", "alpha_beta")(x, y)
    for plane, b in zip(("alpha", "beta"), local, strict=False):
        np.testing.assert_array_equal(ours[plane][::5], b)
    inside = [w[np.isfinite(world[0])][::7] for w in world]
    mine = lower(wcs, "world", "detector")(*inside)
    for a, b in zip(mine, inverse_of_the_detector(other, inside, 12345.6), strict=True):
        # at the ends of a band it depends on the wavelength whether a channel has it
        both = np.isfinite(a) & np.isfinite(b)
        assert np.mean(np.isfinite(a) == np.isfinite(b)) > 0.999
        allowed("inverse").close(a[both], b[both])
    assert ours.attrs["s_region"] == theirs.meta.wcsinfo.s_region

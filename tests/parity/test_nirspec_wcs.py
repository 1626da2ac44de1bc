"""NIRSpec slits against the peer: every gwcs, slit attributes, cut-outs; and on real optics."""

import os
from pathlib import Path

import numpy as np
import pytest

from spec2fn.io import open_exposure
from spec2fn.io.msa import read_msa_metadata
from spec2fn.refs import open_reference
from spec2fn.schema import meta_of
from spec2fn.steps.assign_wcs import assign_wcs
from spec2fn.steps.extract_2d import extract_2d
from spec2fn.testing import nirspec as toy
from spec2fn.wcs.lower import lower
from spec2fn.wcs.msa_slitlets import open_slitlets

pytestmark = pytest.mark.parity

SCENARIOS = [
    "nrs_fs_g395h",
    "nrs_fs_prism",
    "nrs_fs_nrs2",
    "nrs_bots_g395h",
    "nrs_mos_prism",
    "nrs_mos_g395m",
]
REFERENCES = (
    "camera",
    "collimator",
    "disperser",
    "fore",
    "fpa",
    "msa",
    "ote",
    "wavelengthrange",
)
PLANNED = (
    "source_id",
    "source_name",
    "source_alias",
    "stellarity",
    "source_xpos",
    "source_ypos",
    "source_ra",
    "source_dec",
    "quadrant",
    "xcen",
    "ycen",
    "slitlet_id",
    "shutter_id",
    "shutter_state",
    "dither_position",
    "slit_xscale",
    "slit_yscale",
    "slit_ymin",
    "slit_ymax",
    "xstart",
    "ystart",
    "xsize",
    "ysize",
)


@pytest.fixture(params=SCENARIOS)
def case(request, scenario):
    """Our exposure after assign_wcs, and the peer's steps."""
    folder = scenario(request.param)
    peer = sorted((folder / "steps").glob("*_assign_wcs.fits"))[0]
    stem = peer.name.removesuffix("_assign_wcs.fits")
    (path,) = folder.glob(f"{stem}_rate*.fits")
    crds = folder / "crds_cache/references/jwst/nirspec"
    refs = {k: open_reference(min(crds.glob(f"*_{k}_*"))) for k in REFERENCES}
    msa = tuple(read_msa_metadata(p) for p in folder.glob("*_msa.fits"))
    ours = assign_wcs(open_exposure(path), **refs, msa_metadata=msa)
    return ours, peer, peer.with_name(f"{stem}_extract_2d.fits")


def relative(ours, theirs):
    """Largest difference, relative to the largest value."""
    assert np.array_equal(np.isnan(ours), np.isnan(theirs))
    if not np.isfinite(theirs).any():
        return 0.0
    return np.nanmax(np.abs(ours - theirs)) / max(np.nanmax(np.abs(theirs)), 1e-300)


def test_every_gwcs_is_the_peers(case, allowed):
    from jwst.assign_wcs.nirspec import nrs_wcs_set_input
    from stdatamodels.jwst import datamodels

    ours, path, _ = case
    wcs = meta_of(ours).wcs
    with datamodels.open(path) as theirs:
        slits = theirs.meta.wcs.get_transform("gwa", "slit_frame").slits
        assert [str(s.name) for s in slits] == [s.name for s in wcs.batch.slits]
        assert meta_of(ours).records["spectral_order"] == theirs.meta.wcsinfo.spectral_order
        for key, slit in enumerate(slits):
            one, other = wcs[key], nrs_wcs_set_input(theirs, slit.name)
            assert one.available_frames == other.available_frames
            boxes = [np.array([tuple(i) for i in w.bounding_box]) for w in (one, other)]
            allowed("boxes").close(*boxes)
            (x0, x1), (y0, y1) = boxes[1]
            y, x = np.mgrid[np.ceil(y0) : y1 : 5, np.ceil(x0) : x1 : 37]
            for frame in one.available_frames[1:]:
                a = one.get_transform("detector", frame)(x, y)
                b = other.get_transform("detector", frame)(x, y)
                assert max(map(relative, a, b)) < allowed("frames").rtol
            world = other(x, y, with_bounding_box=False)
            batch = wcs.batch.world(np.array(key), x, y)
            assert max(map(relative, batch, world)) < allowed("frames").rtol
            world = [w[np.isfinite(world[2])] for w in world]
            back = one.get_transform("world", "detector")(*world)
            allowed("inverse").close(back, other.get_transform("world", "detector")(*world))


def test_cut_outs_are_the_peers(case, allowed):
    from stdatamodels.jwst import datamodels

    ours, _, path = case
    slits = extract_2d(ours)
    mos = ours.attrs["exp_type"] == "NRS_MSASPEC"
    with datamodels.open(path) as model:
        theirs = model.slits if hasattr(model, "slits") else [model]
        assert slits.names == tuple(s.name for s in theirs)
        for slit, other in zip(slits, theirs, strict=True):
            for name in PLANNED:
                value = getattr(other, name, None)
                if value is None and not mos:
                    continue  # attributes of shutters, which the peer gives to slitlets alone
                if isinstance(value, str):
                    assert slit[name].item() == value, name
                else:
                    assert slit[name].item() == allowed("attributes").approx(value), name
            assert slit["s_region"].item() == other.meta.wcsinfo.s_region
            single = slit["wavelength"].values.astype(np.float32)
            np.testing.assert_array_equal(single, other.wavelength)
            # steps between changed sci and dq, but not the errors
            np.testing.assert_array_equal(slit["err"], other.err)
            y, x = np.mgrid[: slit.sizes["y"] : 5, : slit.sizes["x"] : 29]
            wcs = meta_of(slits.buckets[0]).wcs[int(slit["slit"])]
            differ = map(relative, wcs(x, y), other.meta.wcs(x, y))
            assert max(differ) < allowed("frames").rtol


def realdata(name):
    folder = os.environ.get("SPEC2FN_REALDATA")
    if not folder:
        pytest.skip("SPEC2FN_REALDATA is not set")
    return Path(folder, name)


def ground_references(disperser, place):
    """The ground references, with a fixed slit at `place` (x, y, width, height)."""
    import xarray as xr
    from astropy.modeling.models import Identity

    folder = realdata("crds/references/nirspec")
    names = ("camera_0004", "collimator_0004", "fore_0023", "fpa_0005", "ote_0005")
    names += (disperser, "wavelengthrange_0004")
    refs = {n.split("_")[0]: open_reference(folder / f"jwst_nirspec_{n}.asdf") for n in names}
    kind = [("NO", "i4"), ("XC", "f8"), ("YC", "f8"), ("SIZEX", "f8"), ("SIZEY", "f8")]
    slit = {"data": np.array([(0, *place)], dtype=kind), "model": Identity(2)}
    return refs | {"msa": xr.Dataset(attrs={"tree": {f"Q{q}": slit for q in range(1, 6)}})}


def test_a_trace_of_the_instrument_model(allowed):
    """The trace that ESA's pipeline computed for S200A1, at the accuracy the peer asks of itself.

    The MSA reference that goes with it cannot be had any more: the slit is where the trace says.
    """
    from astropy.io import fits
    from astropy.wcs import WCS

    (path,) = realdata("traces").glob("Trace_SLIT_A_200_1_*")
    with fits.open(path) as trace:
        wavelength, along, x_msa, y_msa = (trace[i].data.astype(float) for i in (4, 5, 6, 7))
        inside = np.abs(along) < 0.5
        y, x = inside.nonzero()
        # positions count from 1
        x, y = (v - 1 for v in WCS(trace[1].header).wcs_pix2world(x, y, 0))
    height, middle = np.polyfit(along[inside], y_msa[inside], 1)
    place = (np.mean(x_msa[inside]), middle, 81e-6, height)
    tilts = {"GWA_XTIL": 0.3316612243652344, "GWA_YTIL": 0.1260581910610199}
    ds = toy.exposure(grating="G140M", subarray="SUBS200A1", VELOSYS=None, VA_SCALE=None, **tilts)
    refs = ground_references("disperser_0032", place)
    wcs = meta_of(assign_wcs(ds, **refs, slit_y_low=-0.5, slit_y_high=0.5)).wcs
    position, batch = wcs.batch.slit_frame(np.array(0), x, y)
    lowered = lower(wcs[0], "sca", "v2v3")(x, y)[2] * 1e-6
    for found in (batch, lowered):
        seen = np.isfinite(found)
        assert seen.mean() > 0.95
        allowed("trace").close(found[seen], wavelength[inside][seen])
    allowed("place_in_the_slit").close(position[seen], along[inside][seen])


@pytest.mark.parametrize("which", ["nirspec_fs", "nirspec_mos"])
def test_published_gwcs_can_be_lowered(which, allowed):
    from stdatamodels.jwst import datamodels

    (path,) = realdata(which).glob("*.fits")
    with datamodels.open(path) as model:
        for slit in getattr(model, "slits", [model]):
            wcs = slit.meta.wcs
            shape = slit.data.shape if which == "nirspec_mos" else (2048, 2048)
            y, x = np.mgrid[0 : shape[0] : max(1, shape[0] // 60), 0 : shape[1] : 7].astype(float)
            expected = wcs(x, y, with_bounding_box=False)
            for frame in wcs.available_frames[1:]:
                found = lower(wcs, "detector", frame)(x, y)
                other = wcs.get_transform("detector", frame)(x, y)
                assert max(map(relative, found, other)) < allowed("published").rtol, frame
            place = [
                v[np.isfinite(expected[2])]
                for v in wcs.get_transform("detector", "slit_frame")(x, y)
            ]
            if which == "nirspec_fs":
                place[2] = place[2] * 1e-6  # what its inverse takes
            for a, b in zip(
                lower(wcs, "slit_frame", "gwa")(*place),
                wcs.get_transform("slit_frame", "gwa")(*place),
                strict=True,
            ):
                allowed("published").close(a, b)
            if which == "nirspec_mos":
                y, x = np.mgrid[: shape[0], : shape[1]].astype(float)
                wavelength = lower(wcs)(x, y)[2]
                allowed("published_wavelengths").close(wavelength, slit.wavelength)


def _parts(wcs):
    """The references a published gwcs was made of, taken out of its transforms."""
    from astropy.modeling.models import Identity, Polynomial1D

    steps = {s.frame.name: s.transform for s in wcs.pipeline}
    camera, rotation = steps["sca"].left.left, steps["sca"].right
    before = steps["gwa"].inverse.left.left.left
    collimator = Identity(2)
    collimator.inverse = before.right.left.left
    ote = steps["oteip"].left.right.left | steps["oteip"].right.left
    still = {"tilt_model": Polynomial1D(1, c0=0.0, c1=0.0), "zeroreadings": [0.0]}
    theta = dict(
        zip(("theta_x", "theta_y", "theta_z", "tilt_y"), rotation.angles.value, strict=True)
    )
    density = steps["gwa"].inverse.right.groove_density.value
    disperser = {**theta, "groovedensity": density, "gwa_tiltx": still, "gwa_tilty": still}
    place = before.left.left
    kind = [("NO", "i4"), ("XC", "f8"), ("YC", "f8"), ("SIZEX", "f8"), ("SIZEY", "f8")]
    width, height, x, y = place.parameters
    slits = {"data": np.array([(0, x, y, width, height)], dtype=kind), "model": before.left.right}
    return {
        # it counts pixels from 1
        "fpa": {"nrs1_model": camera.left.right},
        "camera": {"model": camera.right},
        "collimator": {"model": collimator},
        "disperser": disperser,
        "ote": {"model": ote},
        "msa": {f"Q{q}": slits for q in range(1, 6)},
        "wavelengthrange": {
            "waverange_selector": ["F070LP_G140H"],
            "order": [-1],
            "wavelengthrange": [[0.7e-6, 1.27e-6]],
        },
    }


def test_frames_of_a_published_product(allowed):
    """An official FS product of 2017, put together again from its parts.

    Its references but the fore-optics are older than those that can still be had, and it
    approximates the position along the slit by a straight line, where a table is used today.
    """
    import xarray as xr
    from stdatamodels.jwst import datamodels

    (path,) = realdata("nirspec_fs").glob("*.fits")
    ground = open_reference(realdata("crds/references/nirspec") / "jwst_nirspec_fore_0023.asdf")
    with datamodels.open(path) as model:
        for slit in model.slits:
            theirs = slit.meta.wcs
            trees = _parts(theirs)
            refs = {k: xr.Dataset(attrs={"tree": tree}) for k, tree in trees.items()}
            refs["fore"] = ground.assign_attrs(filter="N/A", made_for=())
            ds = toy.exposure(
                grating="G140M", subarray="SUBS200A1", VELOSYS=None, VA_SCALE=None
            ).assign_attrs(grating="G140H", filter="F070LP")
            wcs = meta_of(assign_wcs(ds, **refs)).wcs
            one = wcs[0]
            y, x = np.mgrid[0:2048:64, 0:2048:64].astype(float)
            gwa = theirs.get_transform("detector", "gwa")(x + 1, y + 1)
            differ = map(relative, one.get_transform("detector", "gwa")(x, y), gwa)
            assert max(differ) < allowed("published").rtol
            rng = np.random.default_rng(1)
            place = (*rng.uniform(-0.5, 0.5, (2, 50)), rng.uniform(0.7e-6, 1.2e-6, 50))
            for frame in ("gwa", "msa_frame", "oteip"):
                a = one.get_transform("slit_frame", frame)(*place)
                b = theirs.get_transform("slit_frame", frame)(*place)
                assert max(map(relative, a, b)) < allowed("put_together").rtol, frame
            a = one.get_transform("slit_frame", "v2v3")(*place)
            b = theirs.get_transform("slit_frame", "v2v3")(*place)
            assert max(map(relative, a, b)) < allowed("put_together").rtol
            # wavelength of the same place in the slit
            along, wavelength = theirs.get_transform("detector", "slit_frame")(x + 1, y + 1)[1:]
            good = np.isfinite(wavelength)
            before = wcs.batch.entrance(np.array(0), 0.0, along[good])
            found = lower(wcs.batch.optics.wavelength)(*before[:2], gwa[0][good])
            allowed("put_together").close(found * 1e6, wavelength[good])


@pytest.mark.parametrize("name", ["msa_configuration.fits", "msa_fs_configuration.fits"])
def test_slitlets_of_published_files(name, allowed):
    from jwst.assign_wcs.nirspec import get_open_msa_slits

    from spec2fn.errors import InputError

    path = realdata("nirspec_msa") / name
    msa = read_msa_metadata(path)
    compared = 0
    for number in sorted({int(i) for i in msa["shutter_info.msa_metadata_id"].values}):
        try:
            theirs = get_open_msa_slits("1234", str(path), number, 1, slit_y_range=[-0.5, 0.5])
        except Exception:
            # what the peer refuses, we refuse
            with pytest.raises(InputError):
                open_slitlets(msa, number, 1)
            continue
        ours = open_slitlets(msa, number, 1, program="01234", y_range=(-0.5, 0.5))
        _same_slits(ours, theirs, allowed("slitlets"))
        compared += len(ours)
    assert compared > 4


def test_slitlets_of_a_flight_file(allowed):
    from jwst.assign_wcs.nirspec import get_open_msa_slits

    (path,) = realdata("nirspec_msa").glob("jw02736*")
    msa = read_msa_metadata(path)
    for dither in (1, 2, 3):
        theirs = get_open_msa_slits("2736", str(path), 1, dither)
        ours = open_slitlets(msa, 1, dither, program="02736")
        _same_slits(ours, theirs, allowed("slitlets"))


def _same_slits(ours, theirs, row):
    assert [s.name for s in ours] == [str(s.name) for s in theirs]
    for a, b in zip(ours, theirs, strict=True):
        for field in b._fields:
            if field in ("name", "slit_id"):
                continue
            value = getattr(b, field)
            assert getattr(a, field) == (value if isinstance(value, str) else row.approx(value)), (
                field
            )

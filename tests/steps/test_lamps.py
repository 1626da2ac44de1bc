"""Lamps of NIRSpec: world coordinates that end at the shutters, grids along the slit, pipelines."""

import functools
import logging

import numpy as np
import pytest
import xarray as xr

from spec2fn import pipelines
from spec2fn.engine.pipeline import steps_of
from spec2fn.errors import InputError, ParameterError
from spec2fn.forward.reference_files import open_references
from spec2fn.forward.renderers import write_references
from spec2fn.modes import MODES
from spec2fn.schema import meta_of, status_of
from spec2fn.steps.assign_wcs import assign_wcs
from spec2fn.steps.cube_build import cube_build
from spec2fn.steps.extract_1d import extract_1d
from spec2fn.steps.extract_2d import extract_2d
from spec2fn.steps.msaflagopen import msaflagopen
from spec2fn.steps.resample_spec import resample_spec
from spec2fn.steps.wavecorr import wavecorr
from spec2fn.testing import nirspec as toy
from spec2fn.wcs.msa_grid import build_msa_grid

GRATING = "G395M"
LAMP = {"OPMODE": "FIXEDSLIT", "LAMP": "LINE3", "FILTER": "OPAQUE", "FXD_SLIT": "NONE"}
SLITS = (901, 945, 500, 120)
SLICES = (701, 851, 300, 240)
VELOCITY = 12345.6 / 299792458.0  # of the telescope, in units of that of light


@functools.cache
def references(*, ifu=False):
    """Without what light of a lamp does not pass."""
    refs = {k: v for k, v in toy.references(GRATING, ifu=ifu).items() if k not in ("fore", "ote")}
    ranges = dict(refs["wavelengthrange"].attrs["tree"])
    for name, value in (
        ("waverange_selector", f"LINE3_{GRATING}"),
        ("wavelengthrange", [2.9e-6, 5.0e-6]),
        ("order", -1),
    ):
        ranges[name] = [*ranges[name], value]
    refs["wavelengthrange"] = refs["wavelengthrange"].assign_attrs(tree=ranges)
    return refs


def lamp(exp_type="NRS_LAMP", window=SLITS, **keywords):
    how = {**LAMP, **keywords}
    return toy.exposure(exp_type, GRATING, subarray="ALLSLITS", window=window, **how)


@functools.cache
def assigned(opmode="FIXEDSLIT", **options):
    ifu = opmode == "IFU"
    ds = lamp(window=SLICES if ifu else SLITS, OPMODE=opmode)
    return assign_wcs(ds, **references(ifu=ifu), **options)


def test_the_gwcs_of_a_slit_ends_at_the_shutters_and_knows_the_way_back():
    wcs = meta_of(assigned()).wcs
    assert len(wcs) == 5
    for i in wcs:
        one = wcs[i]
        assert one.available_frames == ["detector", "sca", "gwa", "slit_frame", "msa_frame"]
        (x0, x1), rows = wcs.boxes[i]
        x, y = np.linspace(x0 + 3, x1 - 3, 7), np.full(7, rows.mean())
        found = one(x, y, with_bounding_box=False)
        np.testing.assert_allclose(found, wcs.world(np.array(i), x, y), rtol=1e-12)
        lit = np.isfinite(found[2])
        assert lit.sum() > 4
        assert np.all((found[2][lit] > 2.5) & (found[2][lit] < 5.5))  # micron
        # light is taken to come from the middle of the slit
        assert np.ptp(found[0][lit]) < 1e-7
        back = one.invert(*(v[lit] for v in found), with_bounding_box=False)
        np.testing.assert_allclose(back, (x[lit], y[lit]), atol=1e-6)


def test_wavelengths_are_those_of_the_sky_but_for_the_motion_of_the_telescope():
    sky = toy.exposure("NRS_FIXEDSLIT", GRATING, subarray="ALLSLITS", window=SLITS)
    sky = extract_2d(assign_wcs(sky, **toy.references(GRATING)))
    for velocity, factor in ((False, 1 + VELOCITY), (True, 1.0)):
        ds = assigned(lamp_velocity=velocity)
        assert ds.attrs["specsys"] == ("BARYCENT" if velocity else "TOPOCENT")
        slits = extract_2d(ds)
        assert slits.names == sky.names
        one, other = (s.slit("S400A1") for s in (slits, sky))
        # the lamp has a range of its own, and so another box
        x = int(one["xstart"]) - int(other["xstart"])
        y = int(one["ystart"]) - int(other["ystart"])
        ny, nx = one["sci"].shape
        theirs = other["wavelength"].values[y : y + ny, x : x + nx]
        np.testing.assert_allclose(one["wavelength"].values, theirs * factor, rtol=1e-12)


def test_slits_of_a_lamp_have_no_place_on_the_sky():
    slits = extract_2d(assigned())
    assert slits.attrs["model"] == "MultiSlitModel"
    for bucket in slits.buckets:
        assert not {"ra", "dec", "s_region"} & set(bucket.variables)
        assert set(bucket["source_type"].values) == {"UNKNOWN"}
    assert "s_region" not in slits.attrs


def test_an_unknown_lamp_has_the_range_of_the_grating(caplog):
    with caplog.at_level(logging.WARNING, "spec2fn"):
        ds = assign_wcs(lamp(LAMP="LINE9"), **references())
    assert f"does not know LINE9_{GRATING}" in caplog.text
    assert meta_of(ds).records["waverange"] == pytest.approx((2.8e-6, 5.3e-6))
    assert meta_of(assigned()).records["waverange"] == pytest.approx((2.9e-6, 5.0e-6))


def test_rows_of_rectified_slits_are_places_along_them():
    slits = extract_2d(assigned())
    # pixels hold their wavelength
    slits = slits.map(
        lambda b: b.assign(sci=(b["sci"].dims, b["wavelength"].values.astype(np.float32)))
    )
    out = slits.map(resample_spec)
    for i in out.ids:
        one, before = out.slit(i), slits.slit(i)
        wcs = meta_of(one).wcs[i]
        assert wcs.available_frames == ["detector", "world"]
        ny, nx = one["sci"].shape
        assert nx == np.isfinite(before["wavelength"].values).any(axis=0).sum()
        y, x = np.mgrid[:ny, :nx].astype(float)
        x_msa, y_msa, wavelength = wcs(x, y)
        np.testing.assert_allclose(one["wavelength"], wavelength, rtol=1e-12)
        # straight in both directions
        assert np.ptp(y_msa, axis=1).max() == 0
        assert np.ptp(np.diff(y_msa[:, 0])) < 1e-12
        np.testing.assert_allclose(wcs.invert(x_msa, y_msa, wavelength), (x, y), atol=1e-6)
        # light is where its wavelength is
        known = np.isfinite(one["sci"].values)
        step = np.gradient(wavelength, axis=1)
        assert known.mean() > 0.9
        assert np.abs((one["sci"].values - wavelength) / step)[known].max() < 1.0
        assert np.median(np.abs((one["sci"].values - wavelength) / step)[known]) < 0.3


def test_pixels_of_another_size():
    bucket = extract_2d(assigned()).buckets[0]
    usual, fine = (resample_spec(bucket, pixel_scale_ratio=r) for r in (1.0, 2.0))
    np.testing.assert_array_equal(fine["ysize"], 2 * usual["ysize"])
    with pytest.raises(ParameterError, match="use pixel_scale_ratio instead"):
        resample_spec(bucket, pixel_scale=0.05)


def test_spectra_are_sums_over_the_whole_slit():
    slits = extract_2d(assigned())
    ones = slits.map(lambda b: b.assign(sci=b["sci"] * 0 + np.float32(2.0)))
    x1d = extract_1d(ones.map(resample_spec))
    lit = x1d["npixels"].values > 0
    ratio = x1d["flux"].values[lit] / x1d["npixels"].values[lit]
    np.testing.assert_allclose(ratio, 2.0, rtol=1e-6)
    assert x1d["flux"].attrs["units"] == "DN/s"
    # of the unrectified spectra as well, by wavelengths of their own
    direct = extract_1d(ones)
    wave = direct["wavelength"].values
    assert np.nanmin(wave) > 2.5
    assert np.nanmax(wave) < 5.5


def test_a_grid_needs_two_rows_and_columns():
    shape = (5, 6)
    nothing = [np.full(shape, np.nan)] * 3
    assert "direction" in build_msa_grid(nothing)
    flat = [np.ones(shape), np.ones(shape), np.ones(shape) * np.arange(6)]
    assert "same place" in build_msa_grid(flat)
    y, _ = np.mgrid[:5, :6] * 1e-5
    assert "two columns" in build_msa_grid([0 * y, y, 0 * y + 3.0])


def test_slices_of_a_lamp():
    ds = assigned("IFU")
    assert not {"ra", "dec"} & set(ds.variables)
    assert ds.attrs["specsys"] == "TOPOCENT"
    lit = ds["slice_id"].values > 0
    assert np.array_equal(lit, np.isfinite(ds["wavelength"].values))
    wcs = meta_of(ds).wcs
    assert wcs.available_frames[-2:] == ["slicer", "msa_frame"]
    y, x = (v[::50].astype(float) for v in np.nonzero(lit))
    found = wcs(x, y)
    np.testing.assert_allclose(found[2], ds["wavelength"].values[lit][::50], rtol=1e-11)
    back = wcs.invert(*found, with_bounding_box=False)
    np.testing.assert_allclose(back, (x, y), atol=1e-3)


@functools.cache
def cubepar(tmp):
    files = write_references(tmp, "NRS_LAMP:IFU:LINE")
    return open_references(files, "NRS_LAMP", load=True)["cubepar"].assign_attrs(made_for=())


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    return cubepar(tmp_path_factory.mktemp("lamp"))


@pytest.mark.parametrize("from_file", [False, True])
def test_light_is_in_the_planes_of_its_wavelength(reference, from_file):
    ds = assigned("IFU")
    wave = np.nan_to_num(ds["wavelength"].values).astype(np.float32)
    ds = ds.assign(sci=(("y", "x"), wave), err=(("y", "x"), wave * 0 + 1))
    if from_file:
        # a product holds the gwcs alone
        records = {k: v for k, v in meta_of(ds).records.items() if k != "slices"}
        meta = meta_of(ds).replace(wcs=meta_of(ds).wcs.load())
        meta = type(meta)(**{**vars(meta), "records": records})
        ds = ds.drop_vars(["wavelength", "slit_y"]).assign_attrs(meta=meta)
    cube = cube_build(ds, reference, coord_system="internal_cal")
    label = cube["wavelength"].values[:, None, None]
    off = (cube["sci"].values - label) / np.diff(cube["wavelength"].values).mean()
    assert np.isfinite(off).sum() > 1000
    assert abs(np.nanmedian(off)) < 0.02
    # neighbours along the dispersion share planes evenly
    assert np.nanmax(np.abs(off)) < 1.0


def test_what_a_pixel_covers_begins_at_its_centre_where_that_is_asked_for(reference):
    options = {"coord_system": "internal_cal", "wavemin": 3.5, "wavemax": 3.9}
    sky = toy.exposure("NRS_IFU", GRATING, window=SLICES)
    sky = assign_wcs(sky, **toy.references(GRATING, ifu=True))
    wave = np.nan_to_num(sky["wavelength"].values).astype(np.float32)
    sky = sky.assign(sci=(("y", "x"), wave), err=(("y", "x"), wave * 0 + 1))
    rename = {"cubepar.filter": reference["cubepar.filter"].copy(data=np.array([b"F290LP"]))}
    off = {}
    for outline in ("centred", "shifted"):
        cube = cube_build(sky, reference.assign(rename), internal_outline=outline, **options)
        label = cube["wavelength"].values[:, None, None]
        off[outline] = np.nanmedian(cube["sci"].values - label) / np.nanmedian(
            np.abs(np.diff(wave, axis=1)[(wave[:, 1:] > 0) & (wave[:, :-1] > 0)])
        )
    assert abs(off["centred"]) < 0.02
    assert off["shifted"] == pytest.approx(-0.5, abs=0.03)
    lamps = assigned("IFU")
    same = [
        cube_build(lamps, reference, internal_outline=o, **options)["sci"].values
        for o in ("centred", "shifted")
    ]
    np.testing.assert_array_equal(*same)


def test_cubes_of_lamps_are_not_built_on_the_sky(reference):
    with pytest.raises(ParameterError, match="use 'internal_cal'"):
        cube_build(assigned("IFU"), reference)


def test_shutters_beside_fixed_slits_are_flagged_on_demand():
    states = {"state": "open", "TA state": "open", "Internal state": "normal"}
    tree = {"msaoper": [{"Q": 3, "x": 180, "y": y, **states} for y in range(130, 171, 4)]}
    msaoper = xr.Dataset(attrs={"tree": tree, "filename": "msaoper.json"})
    ds = assign_wcs(lamp(window=(901, 401, 300, 1200)), **references())
    assert status_of(msaflagopen(ds, msaoper), "msaflagopen").startswith("SKIPPED")
    flagged = msaflagopen(ds, msaoper, beside_fixed_slits=True)
    assert status_of(flagged, "msaflagopen") == "COMPLETE"
    assert (flagged["dq"].values != ds["dq"].values).any()


def test_wavelengths_are_corrected_for_point_sources_alone():
    bucket = extract_2d(assigned()).buckets[0]
    reference = xr.Dataset(attrs={"tree": {}, "filename": "wavecorr.asdf"})
    skipped = wavecorr(bucket, reference, lamps=False)
    assert status_of(skipped, "wavecorr") == (
        "SKIPPED: no wavelength correction applies to NRS_LAMP"
    )
    assert "no wavecorr reference" in status_of(wavecorr(bucket), "wavecorr")


TABLE = {
    # steps by light and aperture, as the description of stage 2 lists them
    "NRS_LAMP:FIXEDSLIT:LINE": "extract_2d flat_field resample_spec extract_1d",
    "NRS_LAMP:BRIGHTOBJ:LINE": "extract_2d flat_field resample_spec extract_1d",
    "NRS_LAMP:MSASPEC:LINE": "extract_2d flat_field resample_spec extract_1d",
    "NRS_LAMP:IFU:LINE": "flat_field cube_build extract_1d",
    "NRS_LAMP:FIXEDSLIT:FLAT": "extract_2d flat_field",
    "NRS_LAMP:BRIGHTOBJ:FLAT": "extract_2d flat_field",
    "NRS_LAMP:MSASPEC:FLAT": "extract_2d flat_field",
    "NRS_LAMP:IFU:FLAT": "imprint flat_field",
    "NRS_AUTOWAVE:FIXEDSLIT": "extract_2d flat_field resample_spec extract_1d",
    "NRS_AUTOWAVE:BRIGHTOBJ": "extract_2d flat_field resample_spec extract_1d",
    "NRS_AUTOWAVE:MSASPEC": "extract_2d flat_field resample_spec extract_1d",
    "NRS_AUTOWAVE:IFU": "flat_field cube_build extract_1d",
    "NRS_AUTOFLAT:MSASPEC": "extract_2d",
}


@pytest.mark.parametrize("name", TABLE)
def test_pipelines_are_those_of_the_table(name):
    exp_type, opmode, light = (*name.split(":"), "")[:3]
    state = {"LINE": "LINE2", "FLAT": "FLAT2"}.get(light, "REF")
    attrs = {"exp_type": exp_type, "lamp_mode": opmode, "lamp_state": state, "grating": "G235M"}
    _, pipeline = pipelines.for_exposure(xr.Dataset(attrs=attrs))
    # those that are off by default among them
    everywhere = {"assign_wcs", "msaflagopen", "wavecorr", "adaptive_trace_model", "pixel_replace"}
    assert {s.name for s in steps_of(pipeline)} - everywhere == set(TABLE[name].split())
    assert {m for m in MODES if MODES[m].lamp} >= set(TABLE)


@pytest.mark.parametrize(
    ("attrs", "said"),
    [
        ({"lamp_mode": "IMAGE"}, "OPMODE is IMAGE"),
        ({"lamp_mode": "GRATING-ONLY"}, "OPMODE is GRATING-ONLY"),
        ({"lamp_mode": "NONE"}, "OPMODE is NONE"),
        ({"lamp_mode": None}, "OPMODE is missing"),
        ({"grating": "MIRROR"}, "GRATING is MIRROR"),
        ({"lamp_state": "NONE"}, "LAMP is NONE"),
        ({"lamp_state": None}, "LAMP is missing"),
    ],
)
def test_where_nothing_is_to_be_done_a_line_says_so(attrs, said):
    usual = {"exp_type": "NRS_LAMP", "lamp_mode": "IFU", "lamp_state": "REF", "grating": "G140H"}
    with pytest.raises(InputError, match=f"nothing is to be done .* {said}") as raised:
        pipelines.for_exposure(xr.Dataset(attrs={**usual, **attrs}))
    assert "\n" not in str(raised.value)

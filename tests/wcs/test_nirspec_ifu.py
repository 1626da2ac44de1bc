"""The WCS of the slices of the NIRSpec IFU on optics with exact inverses."""

import functools

import numpy as np
import pytest
import xarray as xr

from spec2fn.errors import DatasetError, InputError, NoDataOnDetectorError, ReferenceError
from spec2fn.schema import meta_of, with_meta
from spec2fn.steps.assign_wcs import assign_wcs
from spec2fn.testing import nirspec as toy
from spec2fn.wcs.coordinates import slice_map, with_coordinates
from spec2fn.wcs.invert import invert
from spec2fn.wcs.slices import ifu_slices

# part of the detector with the middle four slices
WINDOW = {
    "G395H": (701, 851, 300, 240),
    "G235M": (701, 851, 300, 240),
    "PRISM": (901, 851, 300, 240),
}
CASES = [("G395H", "NRS1"), ("G395H", "NRS2"), ("G235M", "NRS1"), ("PRISM", "NRS1")]


@functools.cache
def assigned(grating="G395H", detector="NRS1", **options):
    ds = toy.exposure("NRS_IFU", grating, detector=detector, window=WINDOW[grating])
    return assign_wcs(ds, **toy.references(grating, ifu=True), **options)


def planes(ds):
    return np.array([ds[n].values for n in ("ra", "dec", "wavelength")])


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_planes_are_the_gwcs_at_every_pixel(case):
    ds = assigned(*case)
    y, x = np.indices(ds["sci"].shape, dtype=float)
    found = np.array(meta_of(ds).wcs(x, y))
    np.testing.assert_allclose(planes(ds), found, rtol=1e-11)
    lit = ds["slice_id"].values > 0
    assert lit.any()
    assert not lit.all()
    assert np.array_equal(lit, np.isfinite(ds["wavelength"].values))
    assert np.array_equal(lit, np.isfinite(ds["slit_y"].values))
    assert ds["regions"].identical(ds["slice_id"].rename("regions"))


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_light_of_a_slice_falls_where_the_planes_say(case):
    ds = assigned(*case)
    batch = meta_of(ds).records["slices"]
    rng = np.random.default_rng(4)
    number = rng.integers(0, 30, 40000)
    along, wavelength = rng.uniform(-0.5, 0.5, 40000), rng.uniform(*batch.optics.waverange, 40000)
    x, y = batch.detector(number, 0.0, along, wavelength)
    column, row = np.rint(x).astype(int), np.rint(y).astype(int)
    ny, nx = ds["sci"].shape
    inside = (column >= 0) & (column < nx) & (row >= 0) & (row < ny)
    assert inside.sum() > 100
    pixel = (row[inside], column[inside])
    assert np.array_equal(ds["slice_id"].values[pixel], number[inside] + 1)
    # half a pixel at most, in units of the slice and of the dispersion; the light of another
    # wavelength than the middle one takes another way behind the slicer
    assert np.abs(ds["slit_y"].values[pixel] - along[inside]).max() < 0.6 / 29
    step = np.nanmax(np.abs(np.diff(ds["wavelength"].values, axis=1)))
    assert np.abs(ds["wavelength"].values[pixel] - wavelength[inside] * 1e6).max() < 0.6 * step


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_detector_to_world_and_back(case):
    ds = assigned(*case)
    wcs = meta_of(ds).wcs
    y, x = np.nonzero(ds["slice_id"].values)
    y, x = y[::97].astype(float), x[::97].astype(float)
    world = np.array(wcs(x, y))
    back = wcs.invert(*world)
    # the position along a slice does not depend on wavelength on the way to the sky
    one = ifu_slices(ds)
    for number in np.unique(ds["slice_id"].values)[1:]:
        mine = ds["slice_id"].values[y.astype(int), x.astype(int)] == number
        chain = lambda a, b, k=number: one.world(*one.slicer(int(k), a, b))  # noqa: E731
        again = invert(
            chain, world[:, mine], (x[mine] + 0.2, y[mine] - 0.2), periods=(360.0, None, None)
        )
        good = np.isfinite(again[0])
        assert good.mean() > 0.8
        np.testing.assert_allclose(again[0][good], x[mine][good], atol=1e-4)
        np.testing.assert_allclose(again[1][good], y[mine][good], atol=1e-4)
    # behind the slicer it does, which makes the gwcs of the instrument inexact by design
    np.testing.assert_allclose(back[0], x, atol=0.01)
    np.testing.assert_allclose(back[1], y, atol=0.01)


def test_neighbours_on_the_sky_lie_in_opposite_halves_of_the_detector():
    ds = toy.exposure("NRS_IFU", "G395H", window=(1001, 1, 4, 2048))
    ds = assign_wcs(ds, **toy.references("G395H", ifu=True))
    number = ds["slice_id"].values
    rows = [np.nonzero((number == k).any(axis=1))[0].mean() for k in range(1, 31)]
    assert np.all(np.diff(rows[::2]) < 0)
    assert np.all(np.diff(rows[1::2]) > 0)


def test_footprint_holds_every_pixel():
    ds = assigned()
    corners = np.array(ds.attrs["s_region"].split()[2:], dtype=float).reshape(4, 2)
    ra, dec = ds["ra"].values, ds["dec"].values
    assert np.nanmin(ra) == pytest.approx(corners[:, 0].min(), abs=1e-9)
    assert np.nanmax(ra) == pytest.approx(corners[:, 0].max(), abs=1e-9)
    assert np.nanmin(dec) == pytest.approx(corners[:, 1].min(), abs=1e-9)
    assert np.nanmax(dec) == pytest.approx(corners[:, 1].max(), abs=1e-9)


def test_footprint_and_planes_over_zero_right_ascension():
    ds = toy.exposure("NRS_IFU", "G395H", window=WINDOW["G395H"], RA_REF=0.0)
    moved = assign_wcs(ds, **toy.references("G395H", ifu=True))
    offset = (moved["ra"].values - assigned()["ra"].values + 53.1 + 180.0) % 360.0 - 180.0
    assert np.nanmax(np.abs(offset)) < 1e-10
    assert np.nanmin(moved["ra"].values) >= 0
    assert np.nanmax(moved["ra"].values) < 360
    corners = np.array(moved.attrs["s_region"].split()[2::2], dtype=float)
    assert (np.ptp(corners + 180.0 - 360.0 * (corners > 180)) < 0.01).all()


def test_gwcs_of_slices_and_of_pixels_agree():
    ds = assigned()
    by_slice = meta_of(assigned(nrs_ifu_slice_wcs=True)).wcs
    assert by_slice.available_frames[:5] == ["detector", "sca", "gwa", "slit_frame", "slicer"]
    for number in np.unique(ds["slice_id"].values)[1:]:
        y, x = np.nonzero(ds["slice_id"].values == number)
        found = by_slice(x[::31].astype(float), y[::31].astype(float), int(number) - 1)
        for ours, theirs in zip(planes(ds)[:, y[::31], x[::31]], found[:3], strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-11)
        box = by_slice.bounding_box[int(number) - 1]
        assert len(box) == 2


def test_slices_at_corners_and_after_a_file(tmp_path):
    from spec2fn.io import open_product, save

    ds = assigned()
    path = save(ds.assign_attrs(model="IFUImageModel"), tmp_path / "jw_nrs1_cal.fits")
    again = open_product(path)
    here, there = ifu_slices(ds), ifu_slices(again)
    assert here.numbers == there.numbers
    assert np.array_equal(again["regions"].values, ds["regions"].values)
    for number in here.numbers:
        assert here.boxes[number] == there.boxes[number]
        y, x = np.nonzero(ds["slice_id"].values == number)
        x, y = x[::31] + 0.37, y[::31] - 0.25
        for a, b in zip(here.slicer(number, x, y), there.slicer(number, x, y), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-13)
        place = here.slicer(number, x, y)
        for a, b in zip(here.world(*place), there.world(*place), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12)


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_coordinates_are_those_of_the_gwcs_of_a_file(tmp_path, case):
    from spec2fn.io import open_product, save

    ds = assigned(*case)
    again = open_product(save(ds.assign_attrs(model="IFUImageModel"), tmp_path / "jw_cal.fits"))
    assert not {"ra", "dec", "slice_id", "slit_y"} & set(again.variables)
    found = with_coordinates(again)
    for name in ("ra", "dec", "wavelength", "slit_y"):
        assert found[name].dims == ("y", "x")
        assert found[name].attrs == ds[name].attrs
        np.testing.assert_allclose(found[name], ds[name], rtol=1e-10, atol=1e-11)
    np.testing.assert_array_equal(found["slice_id"], ds["slice_id"])
    assert with_coordinates(ds) is ds
    # of an exposure that keeps the transforms, but not what they give
    bare = with_coordinates(ds.drop_vars(["ra", "slit_y"]))
    np.testing.assert_allclose(bare["ra"], ds["ra"], rtol=1e-12)
    np.testing.assert_allclose(bare["slit_y"], ds["slit_y"], rtol=1e-12, atol=1e-12)


def test_coordinates_need_a_wcs_of_slices():
    ds = assigned().drop_vars(["ra", "slice_id", "regions"])
    for wcs, message in ((None, "has no WCS"), (meta_of(ds).wcs, "no map of the slices")):
        other = with_meta(ds, wcs=wcs).isel(y=slice(0, 9))
        for function in (with_coordinates, slice_map):
            with pytest.raises(InputError, match=rf"cube_build: .*{message}.*assign_wcs"):
                function(other, "cube_build")


def test_integrations_share_the_regions(tmp_path):
    from spec2fn.io import open_product, save

    ds = toy.exposure("NRS_IFU", "G395H", window=WINDOW["G395H"], integrations=3)
    ds = assign_wcs(ds, **toy.references("G395H", ifu=True))
    assert ds["sci"].ndim == 3
    assert ds["regions"].dims == ds["wavelength"].dims == ("y", "x")
    path = save(ds.assign_attrs(model="CubeModel"), tmp_path / "jw_nrs1_calints.fits")
    again = open_product(path)
    np.testing.assert_array_equal(again["sci"].values, ds["sci"].values)
    np.testing.assert_array_equal(again["regions"].values, ds["regions"].values)
    np.testing.assert_allclose(again["wavelength"].values, ds["wavelength"].values, rtol=1e-7)


def test_without_chromatic_correction():
    refs = {**toy.references("G395H", ifu=True), "chromcorr": None}
    ds = assign_wcs(toy.exposure("NRS_IFU", "G395H", window=WINDOW["G395H"]), **refs)
    assert "oteip_chromcorr" not in meta_of(ds).wcs.available_frames
    # it moves the light by 200 and 100 microdegrees per micron
    both = np.isfinite(ds["ra"].values)
    moved = np.hypot(
        (ds["ra"] - assigned()["ra"]).values[both] * np.cos(np.deg2rad(27.8)),
        (ds["dec"] - assigned()["dec"]).values[both],
    )
    expected = np.hypot(200e-6, 100e-6) * ds["wavelength"].values[both]
    np.testing.assert_allclose(moved, expected, rtol=1e-3)


@pytest.mark.parametrize(
    ("grating", "detector"), [("G235M", "NRS2"), ("PRISM", "NRS2")], ids=["G235M", "PRISM"]
)
def test_nothing_on_the_second_detector(grating, detector):
    ds = toy.exposure("NRS_IFU", grating, detector=detector)
    with pytest.raises(NoDataOnDetectorError, match="no slice of the IFU falls on detector NRS2"):
        assign_wcs(ds, **toy.references(grating, ifu=True))


def test_no_light_in_the_window():
    ds = toy.exposure("NRS_IFU", "G395H", window=(1, 1, 8, 8))
    with pytest.raises(InputError, match="no slice of the IFU"):
        assign_wcs(ds, **toy.references("G395H", ifu=True))


def test_bad_references_and_parameters():
    ds = toy.exposure("NRS_IFU", "G395H", window=WINDOW["G395H"])
    refs = toy.references("G395H", ifu=True)
    for name in ("ifufore", "ifuslicer", "ifupost"):
        with pytest.raises(ReferenceError, match=name):
            assign_wcs(ds, **{**refs, name: None})
        with pytest.raises(ReferenceError, match=name):
            assign_wcs(ds, **{**refs, name: xr.Dataset(attrs={"tree": {}})})
    tree = dict(refs["ifuslicer"].attrs["tree"])
    short = xr.Dataset(attrs={"tree": {**tree, "data": tree["data"][:7]}})
    with pytest.raises(ReferenceError, match="needs 30 rows"):
        assign_wcs(ds, **{**refs, "ifuslicer": short})
    with pytest.raises(InputError, match="slit_y_low"):
        assign_wcs(ds, **refs, slit_y_low=0.5, slit_y_high=-0.5)
    with pytest.raises(InputError, match="disperses no light"):
        assign_wcs(ds.assign_attrs(grating="MIRROR"), **refs)


def test_slices_need_a_wcs():
    with pytest.raises(DatasetError, match="run assign_wcs"):
        ifu_slices(toy.exposure("NRS_IFU", "G395H", window=(1, 1, 8, 8)))

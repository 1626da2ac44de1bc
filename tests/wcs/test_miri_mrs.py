"""The WCS of the MRS: made-up references, published products, and every sub-band in flight."""

import os
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from astropy.io import fits
from astropy.modeling import models

from spec2fn.errors import InputError, ReferenceError
from spec2fn.io import open_product, save
from spec2fn.refs import open_reference
from spec2fn.schema import Meta, meta_of, with_meta
from spec2fn.steps.assign_wcs import assign_wcs
from spec2fn.wcs.coordinates import slice_map, with_coordinates
from spec2fn.wcs.invert import invert
from spec2fn.wcs.lower import lower

NY, NX = 16, 24
SLICES = (101, 102, 201)
STARTS = (1, 7, 14)  # first column of each slice, which is 5 wide
HEADER = {
    "EXP_TYPE": "MIR_MRS",
    "V2_REF": -503.0,
    "V3_REF": -318.0,
    "RA_REF": 0.0,
    "DEC_REF": 30.0,
    "ROLL_REF": 0.0,
    "VA_SCALE": 1.0,
}


def _plane(c0, c_first, c_second):
    return models.Polynomial2D(1, c0_0=c0, c1_0=c_first, c0_1=c_second)


def references(band="SHORT"):
    """alpha = 0.2 (x - centre), lambda = 5 (8 in channel 2) + 0.01 y, V2, V3 = alpha, beta."""
    alpha = [_plane(-0.2 * (s + 2), 0.0, 0.2) for s in STARTS]
    offset = [5.0, 5.0, 8.0]
    regions = np.zeros((9, NY, NX), dtype=np.int32)
    for number, start in zip(SLICES, STARTS, strict=True):
        regions[7, :, start : start + 5] = number
    to_v2v3 = models.Shift(-503.0) & models.Shift(-318.0)
    distortion = {
        "slices": list(SLICES),
        "alpha_model": alpha,
        "beta_model": [models.Const1D(b) for b in (-0.5, 0.5, 0.0)],
        "x_model": [_plane(s + 2.0, 0.0, 5.0) for s in STARTS],
        "y_model": [_plane(-o * 100, 100.0, 0.0) for o in offset],
        "abv2v3_model": {"channel_band": [f"1{band}", f"2{band}"], "model": [to_v2v3] * 2},
        "bzero": {"channel_band": [f"1{band}", f"2{band}"], "beta_zero": [-0.5, 0.0]},
        "bdel": {"channel_band": [f"1{band}", f"2{band}"], "delta_beta": [1.0, 1.0]},
    }
    ranges = {
        "waverange_selector": [f"1{band}", f"2{band}"],
        "wavelengthrange": [(4.0, 6.0), (7.0, 9.0)],
    }
    specwcs = {"model": [_plane(o, 0.01, 0.0) for o in offset]}
    trees = {
        "distortion": distortion,
        "regions": {"regions": regions},
        "specwcs": specwcs,
        "wavelengthrange": ranges,
    }
    return {
        k: xr.Dataset(attrs={"tree": v, "filename": f"{k}.asdf", "meta": Meta()})
        for k, v in trees.items()
    }


def exposure(shape=(NY, NX), **changes):
    attrs = {"exp_type": "MIR_MRS", "channel": "12", "band": "SHORT", "detector": "MIRIFUSHORT"}
    dims = ("integration", "y", "x")[-len(shape) :]
    return xr.Dataset(
        {"sci": (dims, np.zeros(shape, np.float32))},
        attrs=attrs | {"meta": Meta(primary=HEADER | changes, filename="exp_rate.fits")},
    )


def test_coordinates_of_made_up_slices():
    out = assign_wcs(exposure(), **references())
    y, x = np.mgrid[:NY, :NX].astype(float)
    regions = references()["regions"].attrs["tree"]["regions"][7]
    np.testing.assert_array_equal(out["slice_id"], regions)
    inside = regions > 0
    for name in ("alpha", "beta", "wavelength", "ra", "dec"):
        assert out[name].dtype == np.float64
        np.testing.assert_array_equal(np.isfinite(out[name]), inside)
    first = regions == 102
    np.testing.assert_allclose(out["alpha"].values[first], 0.2 * (x - 9)[first], atol=1e-13)
    np.testing.assert_array_equal(out["beta"].values[first], 0.5)
    second = regions == 201
    np.testing.assert_allclose(out["wavelength"].values[second], (8 + 0.01 * y)[second])
    # V2 grows with right ascension at roll 0, V3 with declination
    np.testing.assert_allclose(out["dec"].values[first], 30 + 0.5 / 3600, atol=1e-8)
    right = np.mod(out["ra"].values[first] + 180, 360) - 180
    along = out["alpha"].values[first] / 3600 / np.cos(np.deg2rad(30))
    np.testing.assert_allclose(right, along, atol=1e-8)
    assert out.attrs["dispaxis"] == 2
    assert out.attrs["specsys"] == "TOPOCENT"  # without VELOSYS


def test_channels_that_see_different_sub_bands():
    crossed = references("SHORT-LONG")
    out = assign_wcs(exposure().assign_attrs(band="SHORT-LONG"), **crossed)
    plain = assign_wcs(exposure(), **references())
    for name in ("wavelength", "ra", "slice_id"):
        np.testing.assert_array_equal(out[name], plain[name])


def test_the_footprint_may_lie_across_the_meridian():
    corners = assign_wcs(exposure(), **references()).attrs["s_region"].split()[2:]
    ra, dec = np.array(corners, dtype=float).reshape(4, 2).T
    assert ra[0] > 359.99
    assert ra[1] < 0.01
    assert dec[2] - dec[1] == pytest.approx(1 / 3600, rel=1e-5)


def test_velocity_and_wavelength_range():
    moved = assign_wcs(exposure(VELOSYS=2.99792458e5), **references())  # a thousandth of c
    still = assign_wcs(exposure(), **references())
    inside = still["slice_id"].values > 0
    ratio = (moved["wavelength"] / still["wavelength"]).values[inside]
    np.testing.assert_allclose(ratio, 1 / 1.001, rtol=1e-12)
    refs = references()
    refs["wavelengthrange"].attrs["tree"]["wavelengthrange"][0] = (5.045, 6.0)
    cut = assign_wcs(exposure(), **refs)
    rows = np.isfinite(cut["wavelength"].values[:, 2])
    np.testing.assert_array_equal(rows, np.arange(NY) > 4)
    assert np.isfinite(cut["alpha"].values[0, 2])


def test_every_integration_shares_the_planes():
    one = assign_wcs(exposure(), **references())
    many = assign_wcs(exposure((3, NY, NX)), **references())
    for name in ("alpha", "ra", "slice_id"):
        assert many[name].dims == ("y", "x")
        np.testing.assert_array_equal(many[name], one[name])


def test_coordinates_are_those_of_the_gwcs_of_a_file(tmp_path):
    ds = assign_wcs(exposure(), **references())
    cards = {k: v for k, v in HEADER.items() if k != "EXP_TYPE"}
    ds = with_meta(
        ds,
        primary=fits.Header({"EXP_TYPE": "MIR_MRS", "INSTRUME": "MIRI"}),
        science=fits.Header(cards),
    )
    again = open_product(save(ds.assign_attrs(model="IFUImageModel"), tmp_path / "jw_cal.fits"))
    planes = {"alpha", "beta", "ra", "dec", "wavelength"}
    assert not planes & set(again.variables)
    found = with_coordinates(again)
    for name in planes:
        assert found[name].attrs == ds[name].attrs
        np.testing.assert_allclose(found[name], ds[name], rtol=1e-13, atol=1e-13)
    np.testing.assert_array_equal(found["slice_id"], ds["slice_id"])
    np.testing.assert_array_equal(slice_map(again, "test"), ds["slice_id"])


def test_the_reference_is_left_as_it_was():
    refs = references()
    model = refs["distortion"].attrs["tree"]["abv2v3_model"]["model"][0]
    assign_wcs(exposure(), **refs)
    assert not model.has_user_inverse


def test_what_does_not_fit_is_said():
    refs = references()
    with pytest.raises(ReferenceError, match=r"'regions' is missing"):
        assign_wcs(exposure(), **(refs | {"regions": None}))
    other = references("LONG")
    with pytest.raises(ReferenceError, match="has no range for 1SHORT; it has 1LONG, 2LONG"):
        assign_wcs(exposure(), **(refs | {"wavelengthrange": other["wavelengthrange"]}))
    with pytest.raises(ReferenceError, match="is for 1LONG, 2LONG, but the exposure is of 1SHORT"):
        assign_wcs(exposure(), **(refs | {"distortion": other["distortion"]}))
    with pytest.raises(InputError, match=r"has 8 x 24 pixels.*16 x 24.*full frame"):
        assign_wcs(exposure((8, 24)), **refs)
    short = references()
    del short["specwcs"].attrs["tree"]["model"][0]
    with pytest.raises(ReferenceError, match="2 models for 3 slices"):
        assign_wcs(exposure(), **short)
    bare = exposure()
    del bare.attrs["band"]
    with pytest.raises(InputError, match="keyword BAND is missing"):
        assign_wcs(bare, **refs)
    odd = exposure().assign_attrs(channel="12X")
    with pytest.raises(InputError, match="CHANNEL is '12X'"):
        assign_wcs(odd, **refs)


@pytest.fixture(scope="module")
def realdata():
    folder = os.environ.get("SPEC2FN_REALDATA")
    if not folder:
        pytest.skip("SPEC2FN_REALDATA is not set")
    return Path(folder)


@pytest.mark.parametrize("name", ["12A", "34B"])
def test_published_products_are_met_bit_for_bit(realdata, name):
    product = open_product(realdata / "miri_mrs" / f"miri_mrs_template_{name}_cal.fits.gz")
    meta = meta_of(product)
    crds = realdata / "crds" / "references" / "miri"
    files = {
        "distortion": crds / meta.get("R_DISTOR").removeprefix("crds://"),
        "specwcs": crds / meta.get("R_SPCWCS").removeprefix("crds://"),
        "wavelengthrange": crds / "jwst_miri_wavelengthrange_0005.asdf",
        "regions": realdata / "miri_mrs" / f"miri_mrs_regions_{name}.asdf",
    }
    out = assign_wcs(product, **{k: open_reference(v, k) for k, v in files.items()})
    y, x = np.mgrid[:1024:3, :1032].astype(float)
    for frame, planes in {
        "alpha_beta": ("alpha", "beta", None),
        "v2v3": (None, None, "wavelength"),
    }.items():
        published = meta.wcs.get_transform("detector", frame)(x, y)
        ours = lower(meta_of(out).wcs, None, frame)(x[:1], y[:, :1])
        for a, b, plane in zip(published, ours, planes, strict=True):
            np.testing.assert_array_equal(b, a)
            if plane is not None:
                np.testing.assert_array_equal(out[plane][::3], a)
    assert np.isfinite(out["wavelength"]).sum() > 600_000


@pytest.fixture(scope="module")
def flight(realdata):
    """``flight(name)``: references of both sub-bands of a detector, with a map of its slices."""
    folder = realdata / "miri_mrs" / "flt9"

    def load(name):
        kinds = ("distortion", "specwcs")
        refs = {k: open_reference(folder / f"jwst_miri_mrs{name}_{k}_flt9.asdf", k) for k in kinds}
        ranges = folder / "jwst_miri_mrs_wavelengthrange_flt9.asdf"
        refs["wavelengthrange"] = open_reference(ranges, "wavelengthrange")
        tree = refs["distortion"].attrs["tree"]
        spec, waves = refs["specwcs"].attrs["tree"], refs["wavelengthrange"].attrs["tree"]
        selectors = [str(s) for s in waves["waverange_selector"]]
        regions = np.zeros((9, 1024, 1032), dtype=np.int32)
        row, columns = np.arange(1024.0), np.arange(1032)
        for i, number in enumerate(tree["slices"]):
            band = next(b for b in tree["bzero"]["channel_band"] if b[0] == str(number)[0])
            low, high = waves["wavelengthrange"][selectors.index(band)]
            reach = {"1": 1.66, "2": 2.06, "3": 2.68, "4": 3.42}[band[0]]
            lam = np.linspace(low, high, 300)
            edges = []
            for alpha in (-reach, reach):
                x = tree["x_model"][i](lam, np.full_like(lam, alpha))
                y = tree["y_model"][i](lam, np.full_like(lam, alpha))
                order = np.argsort(y)
                edges.append(np.interp(row, y[order], x[order]))
            left, right = np.sort(edges, axis=0)
            inside = (columns > left[:, None]) & (columns < right[:, None])
            regions[7][inside & (regions[7] == 0)] = number
        assert spec["slices"] == tree["slices"]
        refs["regions"] = xr.Dataset(attrs={"tree": {"regions": regions}, "meta": Meta()})
        channel, band = name[:2], {"A": "SHORT", "B": "MEDIUM", "C": "LONG"}[name[2]]
        attrs = {"channel": channel, "band": band, "exp_type": "MIR_MRS"}
        header = HEADER | {"V2_REF": -503.0, "RA_REF": 53.1, "ROLL_REF": 30.0, "VELOSYS": 12345.6}
        ds = xr.Dataset(
            {"sci": (("y", "x"), np.zeros((1024, 1032), np.float32))},
            attrs=attrs | {"meta": Meta(primary=header | {"VA_SCALE": 1.00002})},
        )
        return ds, refs

    return load


@pytest.mark.parametrize("name", ["12A", "12B", "12C", "34A", "34B", "34C"])
def test_every_sub_band_in_flight(flight, name):
    ds, refs = flight(name)
    out = assign_wcs(ds, **refs)
    wcs = meta_of(out).wcs
    y, x = np.mgrid[:1024:7, :1032].astype(float)
    for plane, expected in zip(("ra", "dec", "wavelength"), wcs(x, y), strict=True):
        np.testing.assert_allclose(out[plane].values[::7], expected, rtol=1e-15, atol=0)
    # both channels are there, and a slice has one beta
    ids = out["slice_id"].values
    assert {i // 100 for i in np.unique(ids[ids > 0])} == {int(c) for c in name[:2]}
    inside = np.isfinite(out["ra"].values[::211, ::3])
    assert inside.mean() > 0.5
    pixel = tuple(c[inside] for c in np.broadcast_arrays(*np.mgrid[:1024:211, :1032:3][::-1]))
    world = tuple(out[p].values[::211, ::3][inside] for p in ("ra", "dec", "wavelength"))
    start = lower(wcs, "world", "detector")(*world)
    back = invert(lower(wcs), world, start, iterations=4, periods=(360, None, None))
    # polynomials of their own, fitted: a few pixels are 0.2 off, most of them 0.01
    for a, b in zip(start, pixel, strict=True):
        assert np.median(np.abs(a - b)) < 0.03
    for a, b in zip(back, pixel, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-3)

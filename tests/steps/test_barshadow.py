from itertools import pairwise

import jax
import numpy as np
import pytest
import xarray as xr
from astropy.io import fits
from scipy.ndimage import map_coordinates

from spec2fn.dq import PIXEL
from spec2fn.errors import DatasetError, ReferenceError
from spec2fn.kernels.bar_shadows import assemble_shadows
from spec2fn.schema import Meta, status_of
from spec2fn.steps.barshadow import barshadow
from spec2fn.transforms import jit, value_and_grad

DNU = PIXEL["DO_NOT_USE"]
HALF = 10
SCALE = 1.14


def one(y, w):
    """Transmission of a single open shutter; y in shutters from its centre."""
    return (1.0 - 0.6 * y * y) * (0.9 + 0.02 * w)


def three(y, w):
    return (1.0 - 0.1 * np.abs(np.sin(np.pi * y))) * (0.9 + 0.02 * w)


def reference(n_wave=30, **keywords):
    y = np.linspace(-1, 1, 2 * HALF + 1)[:, None]
    w = 0.9 + 0.02 * np.arange(n_wave)
    header = {"CRVAL1": 0.9e-6, "CDELT1": 0.02e-6, "CRVAL2": -1.0, "CDELT2": 1 / HALF, **keywords}
    header = fits.Header({k: v for k, v in header.items() if v is not None})
    return xr.Dataset(
        {
            "data1x1": (("y", "x"), one(y, w).astype(np.float32)),
            "data1x3": (("y", "x"), three(y, w).astype(np.float32)),
        },
        attrs={"meta": Meta(science=header)},
    )


def expected(ds, i, scale=SCALE):
    """Shadow at every pixel of a slit: linear in the assembled image, constant beyond it."""
    state, ref = str(ds["shutter_state"].values[i]), reference()
    image = assemble_shadows(ref["data1x1"].values, ref["data1x3"].values, (state,))[0]
    ny = int(ds["ysize"][i])
    along = (np.arange(ny) - (ny - 1) / 2) / 8.0 / scale
    row = HALF * (1 + state.index("x") + along)
    w = ds["wavelength"].values[i, :ny]
    column = (w - 0.9) / 0.02
    place = np.broadcast_to(row[:, None], w.shape), np.nan_to_num(column)
    out = map_coordinates(image.astype(float), place, order=1, mode="nearest")
    return np.where(np.isfinite(w), out, np.nan)


@pytest.fixture
def bucket(slits):
    def make(states=("x", "1x1", "x"), **kwargs):
        variables = {
            "source_type": ["EXTENDED"] * 3,
            "slit_yscale": [SCALE] * 3,
            "shutter_state": list(states),
            **kwargs,
        }
        return slits(**variables)

    return make


@pytest.mark.parametrize("n", [None, 2])
def test_extended_sources_are_divided_by_the_shadow(bucket, n):
    ds = bucket(n=n, source_type=["POINT", "EXTENDED", "EXTENDED"])
    out = barshadow(ds, reference())
    assert status_of(out, "barshadow") == "COMPLETE"
    assert list(out["barshadow_corrected"].values) == [False, True, True]
    assert out["barshadow"].dims == ("slit", "y", "x")
    assert out["barshadow"].dtype == np.float32
    for i in (1, 2):
        ny = int(ds["ysize"][i])
        factor = expected(ds, i)
        ours = out["barshadow"].values[i, :ny]
        far = np.isfinite(factor)
        np.testing.assert_allclose(ours[far], factor[far], rtol=2e-6)
        assert np.isnan(ours[~far]).all()
        extra = (None,) * (ds["sci"].ndim - 3)
        for name, power in (("sci", 1), ("err", 1), ("var_poisson", 2), ("var_rnoise", 2)):
            np.testing.assert_allclose(
                out[name].values[i][..., :ny, :],
                ds[name].values[i][..., :ny, :] / factor[extra] ** power,
                rtol=4e-6,
            )
    np.testing.assert_array_equal((out["dq"].values[1:] & DNU) > 0, np.isnan(out["sci"].values[1:]))


def test_point_sources_and_slitlets_without_shutters_are_left_alone(bucket):
    ds = bucket(states=("x", "1x1", ""), source_type=["EXTENDED", "POINT", "EXTENDED"])
    out = barshadow(ds, reference())
    assert list(out["barshadow_corrected"].values) == [True, False, False]
    assert (out["barshadow"].values[1:] == 1).all()
    for name in ("sci", "err", "var_poisson", "dq"):
        np.testing.assert_array_equal(out[name].values[1:], ds[name].values[1:])


def test_no_corrected_slitlet_is_a_skipped_step(bucket):
    ds = bucket(states=("x", "1x1", ""))
    out = barshadow(ds, reference(), source_type="POINT")
    assert status_of(out, "barshadow").startswith(
        "SKIPPED: no slit is corrected: the source is POINT"
    )
    np.testing.assert_array_equal(out["sci"].values, ds["sci"].values)


def test_source_type_overrides_that_of_the_slits(bucket):
    ds = bucket(source_type=["POINT", "EXTENDED", "UNKNOWN"])
    assert list(barshadow(ds, reference())["barshadow_corrected"].values) == [False, True, True]
    for kind, corrected in (("POINT", False), ("extended", True)):
        out = barshadow(ds, reference(), source_type=kind)
        assert list(out["barshadow_corrected"].values) == [corrected] * 3


def test_wavelengths_are_those_before_wavecorr(bucket):
    ds = bucket()
    moved = ds.assign(wavelength_uncorrected=ds["wavelength"], wavelength=ds["wavelength"] + 0.05)
    np.testing.assert_array_equal(
        barshadow(moved, reference())["barshadow"].values,
        barshadow(ds, reference())["barshadow"].values,
    )


def test_scale_of_the_shutters_where_the_slit_has_none(bucket):
    ds = bucket(slit_yscale=[np.nan] * 3)
    out = barshadow(ds, reference())["barshadow"].values[2, 0:9]
    factor = expected(ds, 2, 1.15)
    np.testing.assert_allclose(out[np.isfinite(factor)], factor[np.isfinite(factor)], rtol=2e-6)
    np.testing.assert_array_equal(
        barshadow(ds.drop_vars("slit_yscale"), reference())["barshadow"][2, :9], out
    )


@pytest.mark.parametrize("state", ["x", "1x", "x01", "1x0011", "10x"])
def test_shadows_join_pieces_by_the_states_of_neighbours(state):
    single = np.arange(7.0)[:, None] * np.ones(2)
    triple = 100 + np.arange(7.0)[:, None] * np.ones(2)
    image = assemble_shadows(single, triple, (state,))[0, :, 0]
    assert image.shape == (3 * (len(state) + 1),)
    np.testing.assert_array_equal(image[:3], single[:3, 0])
    np.testing.assert_array_equal(image[-2:], single[-2:, 0])
    is_open = [True] + [s != "0" for s in state[1:]]
    pieces = {
        (True, True): triple[:4, 0],
        (True, False): single[3:, 0],
        (False, True): single[:4, 0],
        (False, False): np.zeros(4),
    }
    chain = [single[:4, 0], *(pieces[p] for p in pairwise(is_open)), single[4:, 0]]
    for k, (before, after) in enumerate(pairwise(chain)):
        assert image[3 * (k + 1)] == (before[-1] + after[0]) / 2
        np.testing.assert_array_equal(image[3 * k + 1 : 3 * k + 3], before[1:3])


def test_inverse_undoes_the_correction(bucket):
    ds, ref = bucket(), reference()
    back = barshadow(barshadow(ds, ref), ref, inverse=True)
    good = np.isfinite(back["sci"].values)
    assert good.sum() > 500
    for name in ("sci", "err", "var_poisson"):
        np.testing.assert_allclose(back[name].values[good], ds[name].values[good], rtol=1e-6)


def test_result_depends_neither_on_order_nor_on_padding_nor_on_company(bucket, widened):
    ds, ref = bucket(states=("x", "1x1", "x1")), reference()
    out = barshadow(ds, ref)
    turned = barshadow(ds.isel(slit=[2, 0, 1]), ref).isel(slit=[1, 2, 0])
    wide = barshadow(widened(ds), ref)
    for name in ("sci", "dq", "barshadow"):
        np.testing.assert_array_equal(turned[name].values, out[name].values)
        cut = wide[name].isel(x=slice(ds.sizes["x"]), y=slice(ds.sizes["y"]))
        np.testing.assert_array_equal(cut.values, out[name].values)
        for i in range(3):
            alone = barshadow(ds.isel(slit=[i]), ref)
            np.testing.assert_array_equal(alone[name].values[0], out[name].values[i])


def test_a_broken_slit_is_reported_and_the_others_go_on(bucket):
    ds = bucket(slit_problem=["", "extract_2d: odd", ""])
    wcs = {**ds.attrs["meta"].wcs, 1: object()}
    out = barshadow(ds.assign_attrs(meta=Meta(wcs=wcs)), reference())
    first, second, third = out["slit_problem"].values
    assert not first
    assert not third
    assert second.startswith("extract_2d: odd; barshadow: ")
    assert np.isnan(out["sci"].values[1]).all()
    assert np.isfinite(out["sci"].values[2]).any()


def test_reasons_to_skip_and_errors(bucket):
    ds = bucket()
    assert status_of(barshadow(ds, None), "barshadow").startswith("SKIPPED: no barshadow reference")
    out = barshadow(ds.assign_attrs(exp_type="NRS_FIXEDSLIT"), reference())
    assert status_of(out, "barshadow") == "SKIPPED: no bars cast shadows in NRS_FIXEDSLIT"
    with pytest.raises(ReferenceError, match="lacks CRVAL1, CDELT1 or CDELT2"):
        barshadow(ds, reference(CDELT2=None))
    with pytest.raises(ReferenceError, match="lacks DATA1X3"):
        barshadow(ds, reference().drop_vars("data1x3"))
    with pytest.raises(ReferenceError, match="odd number of rows"):
        barshadow(ds, reference().isel(y=slice(0, 20)))
    with pytest.raises(DatasetError, match="run extract_2d"):
        barshadow(ds.isel(slit=0, drop=True), reference())


def test_jit_equals_eager(bucket):
    ds, ref = bucket(n=2), reference()
    plan = barshadow.plan(ds, ref)
    eager, compiled = barshadow(ds, ref, plan=plan), jit(barshadow)(ds, ref, plan=plan)
    for name in ("sci", "err", "var_poisson", "dq", "barshadow"):
        np.testing.assert_allclose(compiled[name].values, eager[name].values, rtol=4e-7)


def test_gradients_are_finite_and_right(bucket):
    ds, ref = bucket(source_type=["POINT", "EXTENDED", "EXTENDED"]), reference()
    plan = barshadow.plan(ds, ref)

    def total(d, r):
        out = barshadow(d, r, plan=plan)
        good = (out["dq"].data & np.uint32(DNU)) == 0
        return jax.numpy.sum(jax.numpy.where(good, out["sci"].data, 0.0), dtype=float)

    value, grads = jit(value_and_grad(total, {0: ("sci", "wavelength"), 1: ("data1x1",)}))(ds, ref)
    assert all(np.isfinite(np.asarray(g)).all() for by in grads.values() for g in by.values())
    data = np.nan_to_num(ds["sci"].values)
    np.testing.assert_allclose((np.asarray(grads[0]["sci"]) * data).sum(), value, rtol=1e-5)

    direction = np.random.default_rng(2).normal(size=ref["data1x1"].shape)
    step = 1e-3
    ups = []
    for sign in (1, -1):
        moved = ref.assign(data1x1=ref["data1x1"].astype(float) + sign * step * direction)
        out = barshadow(ds, moved, plan=plan)
        ups.append(float(np.nansum(np.where(out["dq"] & DNU, 0, out["sci"]), dtype=float)))
    slope = (ups[0] - ups[1]) / (2 * step)
    found = (np.asarray(grads[1]["data1x1"]) * direction).sum()
    np.testing.assert_allclose(found, slope, rtol=2e-3, atol=0.05)

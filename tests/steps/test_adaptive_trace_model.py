"""adaptive_trace_model on point sources in slits and slices, whose traces are known."""

import functools
from itertools import pairwise

import numpy as np
import pytest
from astropy.io import fits

from spec2fn.compatibility import preset
from spec2fn.dq import PIXEL
from spec2fn.engine.step import Skip
from spec2fn.errors import DatasetError, ParameterError
from spec2fn.io import open_product, save
from spec2fn.plans.cubes.cube_geometry import slice_frame
from spec2fn.plans.slits.slit_planes import slit_planes
from spec2fn.schema import meta_of, replace_data, status_of, with_meta
from spec2fn.steps.adaptive_trace_model import adaptive_trace_model
from spec2fn.steps.pixel_replace import pixel_replace
from spec2fn.testing import exposures
from spec2fn.wcs.coordinates import with_coordinates
from spec2fn.wcs.evaluate import evaluate
from spec2fn.wcs.finer import coarse_pixels

PLANES = ("sci", "err", "var_poisson", "var_rnoise", "var_flat")
SNR = 100.0  # of the brightest pixel


@functools.cache
def bare(exp_type):
    return exposures.step_input("adaptive_trace_model", exp_type).dataset


def lit(ds, along, width, seed=1, bad=0.02, noise_of=lambda truth: np.full(truth.shape, 1 / SNR)):
    """The exposure with a source of some width [units of `along`] at 0.15 of the largest one."""
    rng = np.random.default_rng(seed)
    peak = 0.15 * np.nanmax(along)
    place = np.indices(along.shape)[-ds.attrs["dispaxis"]]
    truth = np.exp(-0.5 * ((along - peak) / width) ** 2) * (1 + 0.5 * np.sin(place / 20))
    known = np.isfinite(ds["sci"].values) & np.isfinite(truth)
    shape = ds["sci"].shape
    off = ~known | (rng.random(shape) < bad)
    noise = np.broadcast_to(noise_of(truth), shape)
    planes = {
        "sci": np.broadcast_to(truth, shape) + rng.normal(size=shape) * noise,
        "err": noise,
        **{n: noise**2 / 3 for n in PLANES[2:] if n in ds},
    }
    planes = {n: np.where(off, np.nan, v).astype(np.float32) for n, v in planes.items()}
    dq = np.where(off, ds["dq"].values | 1, ds["dq"].values & ~np.uint32(1)).astype(np.uint32)
    return replace_data(ds, None, **planes, dq=dq), np.where(known, truth, np.nan)


@functools.cache
def in_slits(*names):
    """Slits with a source each, and their true traces by id.

    The dispersion is tilted enough in S1600A1 alone.
    """
    slits = bare("NRS_FIXEDSLIT").select(names or ("S1600A1",))
    buckets, truths = [], {}
    for bucket in slits.buckets:
        along = -slit_planes(bucket, np.ones(bucket.sizes["slit"], bool), "test")[0]
        new, truth = lit(bucket, along, 0.08)
        buckets.append(new)
        truths |= dict(zip(map(int, bucket["slit"].values), truth, strict=True))
    return slits.with_pieces(tuple(buckets)), truths


@functools.cache
def in_slices():
    ds = bare("NRS_IFU")
    along = np.full(ds["sci"].shape, np.nan)
    pixel = np.flatnonzero((ds["slice_id"].values > 0) & np.isfinite(ds["wavelength"].values))
    along.reshape(-1)[pixel] = -slice_frame(ds, meta_of(ds).wcs, pixel)[0]
    return lit(ds, along, 0.08 * np.nanmax(along))


def assert_describes(model, truth, sci, err):
    there = np.isfinite(model)
    assert there.sum() > 200
    pull = ((sci - model) / err)[there & np.isfinite(sci)]
    assert np.std(pull) < 1.1
    assert abs(np.mean(pull)) < 0.05
    # the model averages over many columns
    away = (model - truth)[there & np.isfinite(truth)]
    assert np.std(away) < 0.6 / SNR


def test_model_of_a_source_in_a_slit():
    slits, truths = in_slits()
    out = adaptive_trace_model(slits)
    assert status_of(out, "adaptive_trace_model") == "COMPLETE"
    for slit in out:
        truth = truths[int(slit["slit"])][: slit.sizes["y"], : slit.sizes["x"]]
        model = slit["trace_model"].values
        assert slit["trace_model"].dtype == np.float32
        assert_describes(model, truth, slit["sci"].values, slit["err"].values)
    for a, b in zip(out.buckets, slits.buckets, strict=True):
        assert set(a.variables) - set(b.variables) == {"trace_model"}
        np.testing.assert_array_equal(a["sci"], b["sci"])


def test_model_of_a_source_in_slices():
    ds, truth = in_slices()
    out = adaptive_trace_model(ds, fit_threshold=3.0)
    assert_describes(out["trace_model"].values, truth, ds["sci"].values, ds["err"].values)
    assert not np.isfinite(out["trace_model"].values[ds["slice_id"].values == 0]).any()


def test_faint_slits_are_left_out():
    slits, _ = in_slits()
    faint = slits.map(lambda b: b.assign(err=b["err"] * np.float32(20)))
    for bucket in adaptive_trace_model(faint).buckets:
        assert np.isnan(bucket["trace_model"]).all()
    for bucket in adaptive_trace_model(faint, fit_threshold=0.0).buckets:
        assert np.isfinite(bucket["trace_model"]).any()


def test_slope_limit_says_what_is_compact():
    slits, _ = in_slits()

    def covered(**how):
        out = adaptive_trace_model(slits, **how)
        return sum(int(np.isfinite(b["trace_model"]).sum()) for b in out.buckets)

    assert covered(slope_limit=0.9) == 0
    assert 0 < covered() < covered(slope_limit=0.0) == covered(psf_optimal=True)


def test_scale_follows_the_data_of_a_fixed_plan():
    slits, _ = in_slits()
    plan = adaptive_trace_model.plan(slits)
    twice = slits.map(lambda b: b.assign(sci=b["sci"] * np.float32(2)))
    one, two = (adaptive_trace_model(s, plan=plan) for s in (slits, twice))
    for a, b in zip(one.buckets, two.buckets, strict=True):
        np.testing.assert_allclose(b["trace_model"], 2 * a["trace_model"], rtol=1e-6)


def test_negative_background_is_no_obstacle():
    slits, _ = in_slits()
    low = slits.map(lambda b: b.assign(sci=b["sci"] - np.float32(0.5)))
    for a, b in zip(
        adaptive_trace_model(slits).buckets, adaptive_trace_model(low).buckets, strict=True
    ):
        difference = a["trace_model"].values - b["trace_model"].values
        known = np.isfinite(difference)
        assert known.sum() > 200
        assert np.abs(difference[known] - 0.5).max() < 3 / SNR


def test_of_several_integrations_the_median_is_modelled():
    ds = bare("MIR_LRS-SLITLESS")
    out = adaptive_trace_model(ds)
    assert out["trace_model"].dims == ("y", "x")
    median = ds.isel(integration=0).assign(
        {n: (("y", "x"), np.median(ds[n].values, axis=0)) for n in ("sci", "err")}
    )
    np.testing.assert_array_equal(adaptive_trace_model(median)["trace_model"], out["trace_model"])
    with pytest.raises(ParameterError, match="oversample needs 1 for several integrations"):
        adaptive_trace_model(ds, oversample=2)


@pytest.mark.parametrize("factor", [2.0, 3.0])
def test_finer_pixels_of_a_slit(factor):
    slits, _ = in_slits()
    slits = slits.map(lambda b: b.assign(bunit=("slit", np.array(["MJy"] * b.sizes["slit"]))))
    out = adaptive_trace_model(slits, oversample=factor)
    for before, slit in zip(slits, out, strict=True):
        assert slit.sizes["y"] == before.sizes["y"] * factor
        assert float(slit["pixar_sr"]) == pytest.approx(float(before["pixar_sr"]) / factor)
        rows = slit["sci"].values.reshape(before.sizes["y"], int(factor), -1)
        whole = np.isfinite(rows).all(axis=1) & np.isfinite(before["sci"].values)
        assert whole.sum() > 300
        sums = rows.sum(axis=1)[whole]
        assert sums.sum() == pytest.approx(before["sci"].values[whole].sum(), rel=0.03)
        assert_same_places(before, slit, int(before["slit"]), factor, 0)
        assert set(np.unique(slit["dq"].values & 1)) <= {0, 1}
        assert_flags(slit)


def assert_flags(ds):
    missing = (ds["dq"].values & PIXEL["DO_NOT_USE"]) != 0
    for name in PLANES:
        if name in ds:
            np.testing.assert_array_equal(np.isnan(ds[name]), missing, name)
    saved = (ds["dq"].values & PIXEL["FLUX_ESTIMATED"]) != 0
    assert saved.any()
    assert not (saved & missing).any()


def assert_same_places(before, after, key, factor, axis):
    """The gwcs of the finer pixels is that of the exposure, between its pixels."""
    old, new = (meta_of(d).wcs for d in (before, after))
    old, new = (w[key] if hasattr(w, "keys") else w for w in (old, new))
    assert [f for f in new.available_frames if f not in old.available_frames] == ["coordinates"]
    y, x = np.indices(after["sci"].shape)
    places = [x.astype(float), y.astype(float)]
    size = after["sci"].shape[axis]
    places[1 - axis] = coarse_pixels(size, factor)[places[1 - axis].astype(int)]
    expected = evaluate(old, *places)
    for a, b in zip(evaluate(new, x, y), expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)
    known = np.isfinite(after["wavelength"].values)
    np.testing.assert_allclose(after["wavelength"].values[known], expected[2][known], rtol=1e-12)


def test_finer_pixels_of_slices_make_the_same_cube():
    from spec2fn.steps.cube_build import cube_build

    given = exposures.step_input("cube_build", "NRS_IFU")
    ds, _ = in_slices()
    fine = adaptive_trace_model(ds, fit_threshold=3.0, oversample=2)
    assert fine.sizes["y"] == 2 * ds.sizes["y"]
    assert_flags(fine)
    same = np.repeat(ds["slice_id"].values, 2, axis=0)
    assert (fine["slice_id"].values == same).mean() > 0.99
    one, two = (cube_build(pixel_replace(d), **given.references) for d in (ds, fine))
    a, b = (c["sci"].values.astype(float) for c in (one, two))
    assert a.shape == b.shape
    both = np.isfinite(a) & np.isfinite(b)
    assert both.sum() > 0.9 * np.isfinite(a).sum()
    assert b[both].sum() == pytest.approx(a[both].sum(), rel=0.02)
    assert np.corrcoef(a[both], b[both])[0, 1] > 0.97


def test_finer_slits_are_resampled():
    from spec2fn.steps.resample_spec import resample_spec

    slits, _ = in_slits()
    fine = adaptive_trace_model(slits, oversample=2)
    for a, b in zip(resample_spec(slits), resample_spec(fine), strict=True):
        # surface brightness, on twice as many pixels
        assert b.sizes["y"] == pytest.approx(2 * a.sizes["y"], abs=2)
        low, high = (np.nansum(d["sci"].values, axis=0) for d in (a, b))
        inner = slice(20, -20)
        ratio = high[inner] / 2 / low[inner]
        assert np.median(ratio) == pytest.approx(1, abs=0.03)
        # but for columns whose bad pixels the model replaces
        assert (np.abs(ratio - 1) < 0.1).mean() > 0.95


def test_finer_pixels_of_the_lrs():
    ds = bare("MIR_LRS-FIXEDSLIT")
    out = adaptive_trace_model(ds, oversample=2)
    assert out["sci"].shape == (ds.sizes["y"], 2 * ds.sizes["x"])
    assert_same_places(ds, out, None, 2.0, 1)
    pairs = out["sci"].values.reshape(*ds["sci"].shape, 2)
    whole = np.isfinite(pairs).all(axis=2) & np.isfinite(ds["sci"].values)
    bright = whole & (ds["sci"].values > 20 * ds["err"].values)
    assert bright.sum() > 500
    mean = pairs.mean(axis=2)[bright]
    assert mean.sum() == pytest.approx(ds["sci"].values[bright].sum(), rel=0.05)


def test_bad_pixels_are_replaced_by_the_model():
    slits, truths = in_slits()
    out = pixel_replace(slits, algorithm="trace_model")
    first = pixel_replace(adaptive_trace_model(slits), algorithm="trace_model")
    assert status_of(out, "adaptive_trace_model") == "COMPLETE"
    for slit, same, before in zip(out, first, slits, strict=True):
        np.testing.assert_array_equal(slit["sci"], same["sci"])
        model = slit["trace_model"].values
        filled = np.isnan(before["sci"].values) & np.isfinite(model)
        assert filled.sum() > 10
        np.testing.assert_array_equal(slit["sci"].values[filled], model[filled])
        truth = truths[int(slit["slit"])][: slit.sizes["y"], : slit.sizes["x"]]
        away = (slit["sci"].values - truth)[filled & np.isfinite(truth)]
        assert np.abs(away).max() < 5 / SNR
        assert (slit["dq"].values[filled] & PIXEL["FLUX_ESTIMATED"] != 0).all()
        assert (slit["dq"].values[filled] & PIXEL["DO_NOT_USE"] == 0).all()
        np.testing.assert_allclose(slit["err"].values[filled], 1 / SNR, rtol=1e-5)


def test_hot_pixels_do_not_raise_the_model_of_their_columns():
    slits, truths = in_slits()
    (bucket,) = slits.buckets
    sci = bucket["sci"].values.copy()
    row = np.nanargmax(np.nan_to_num(sci[0]), axis=0)
    columns = np.flatnonzero(np.isfinite(adaptive_trace_model(bucket)["trace_model"][0].max("y")))
    columns = columns[5:-5:15]
    sci[0, row[columns], columns] += 300.0
    hot = bucket.assign(sci=(bucket["sci"].dims, sci, bucket["sci"].attrs))
    assert columns.size > 5
    truth = truths[int(bucket["slit"][0])]
    peak = np.nanmax(np.where(np.isfinite(truth), truth, 0), axis=0)[columns]

    def off(step):
        model = step["trace_model"][0].values
        return np.abs(np.nanmax(model, axis=0)[columns] / peak - 1)

    for one in (
        adaptive_trace_model(hot),
        pixel_replace(hot, algorithm="trace_model"),
    ):
        assert off(one).max() < 0.2
    for one in (
        adaptive_trace_model(hot, robust_scale=False),
        pixel_replace(hot, algorithm="trace_model", robust_scale=False),
    ):
        assert off(one).min() > 2


def in_five_slices(bad, width=0.17):
    """A bright source with the noise of its photons in slices of the MRS."""
    ds = bare("MIR_MRS")
    number = ds["slice_id"].values
    ds = ds.assign(sci=ds["sci"].where((number >= 105) & (number < 110)))
    along = with_coordinates(ds, "test")["alpha"].values
    return lit(ds, along, width, bad=bad, noise_of=lambda t: np.sqrt(np.abs(t) + 0.002) / 200)


def residuals(ds, **how):
    """Median of the residuals [standard deviations], by signal-to-noise ratio, and their width."""
    model = adaptive_trace_model(ds, fit_threshold=0.0, **how)["trace_model"].values
    sci, err = ds["sci"].values, ds["err"].values
    there = np.isfinite(model) & np.isfinite(sci)
    pull, ratio = ((sci - model) / err)[there], (model / err)[there]
    bins = [(ratio >= low) & (ratio < high) for low, high in pairwise((3, 10, 30, 100, 300))]
    assert min(map(np.count_nonzero, bins)) > 2000
    low, high = np.percentile(pull, [15.87, 84.13])
    return np.array([np.median(pull[b]) for b in bins]), (high - low) / 2


@pytest.mark.parametrize("bad", [0.0, 0.02, 0.05])
def test_residuals_are_noise(bad):
    ds, _ = in_five_slices(bad)
    middle, width = residuals(ds)
    # measured: 0.05 and 0.96 for any of them
    assert np.abs(middle).max() < 0.08
    assert width < 1.0


def test_missing_pixels_raise_the_shoulders_of_official_models():
    ds, _ = in_five_slices(0.05)
    middle, width = residuals(ds, **preset("jwst-3.0")["adaptive_trace_model"])
    # the brightest pixels come out too low, since the scale fits all of them
    assert middle[1] < -1
    assert middle[3] > 0.1
    assert width > 1.2


def test_profiles_that_no_row_samples_lie_between_those_of_other_rows():
    # in the middle of the detector the trace follows the columns
    ds, truth = in_five_slices(0.01, width=0.16 * (1 + 1e-4 * np.arange(1024)[:, None]))

    def off(**how):
        model = adaptive_trace_model(ds, fit_threshold=0.0, **how)["trace_model"].values
        away = ((model - truth) / ds["err"].values)[420:640]
        bright = np.isfinite(away) & ((truth / ds["err"].values)[420:640] > 10)
        assert bright.sum() > 5000
        return np.sqrt(np.mean(away[bright] ** 2))

    # measured: 0.67 and 1.50
    assert off() < 0.8
    assert off(interpolate_profiles=False) > 1.3


def test_without_a_model_neighbours_are_taken():
    ds = bare("NIS_WFSS")
    assert isinstance(adaptive_trace_model.plan(ds), Skip)
    assert status_of(adaptive_trace_model(ds), "adaptive_trace_model").startswith("SKIPPED: trace")
    out, expected = (pixel_replace(ds, algorithm=a) for a in ("trace_model", "mingrad"))
    for a, b in zip(out.buckets, expected.buckets, strict=True):
        np.testing.assert_array_equal(a["sci"], b["sci"])
        assert "pixel_replace: trace models are made for slits" in meta_of(a).records["warnings"][0]


def test_what_is_missing_is_named():
    slits, _ = in_slits()
    bucket = slits.buckets[0]
    with pytest.raises(DatasetError, match="run extract_2d"):
        adaptive_trace_model(with_meta(bucket, wcs=None))
    with pytest.raises(DatasetError, match="found none; run extract_2d first"):
        adaptive_trace_model(bucket.isel(slit=0))
    ds, _ = in_slices()
    with pytest.raises(DatasetError, match="needs the dispersion axis"):
        adaptive_trace_model(ds.assign_attrs(dispaxis=None))
    lrs = bare("MIR_LRS-FIXEDSLIT")
    with pytest.raises(DatasetError, match=r"needs the WCS.*run assign_wcs first"):
        adaptive_trace_model(with_meta(lrs, wcs=None))


def test_products_hold_the_model(tmp_path):
    ds, _ = in_slices()
    out = adaptive_trace_model(ds, fit_threshold=3.0)
    path = tmp_path / "one_cal.fits"
    save(out, path)
    with fits.open(path) as hdus:
        names = [h.name for h in hdus]
        assert names.index("TRACEMODEL") == names.index("VAR_POISSON") - 1
        assert hdus[0].header["S_TRCMOD"] == "COMPLETE"
    np.testing.assert_array_equal(open_product(path)["trace_model"], out["trace_model"])


@pytest.mark.parametrize("factor", [1.0, 2.0])
def test_intermediate_results(tmp_path, factor):
    slits, _ = in_slits("S1600A1", "S400A1")
    assert len(slits.buckets) == 2
    out = adaptive_trace_model(slits, oversample=factor, save_intermediate_results=True)
    records = meta_of(out).records
    finer = ("linear_interp", "spline_residual")
    assert all((name in records) == (factor == 2) for name in finer)
    full, used = (records[name] for name in ("spline_full", "spline_used"))
    assert full.names == slits.names
    for whole, part, slit in zip(full, used, out, strict=True):
        np.testing.assert_array_equal(part["sci"], slit["trace_model"])
        known = np.isfinite(part["sci"].values)
        np.testing.assert_array_equal(whole["sci"].values[known], part["sci"].values[known])
    if factor == 2:
        for linear, rest, part, slit in zip(*(records[n] for n in finer), used, out, strict=True):
            model, more = (d["sci"].values for d in (part, rest))
            value = np.where(np.isfinite(model), model + np.nan_to_num(more), linear["sci"].values)
            known = np.isfinite(slit["sci"].values)
            np.testing.assert_allclose(slit["sci"].values[known], value[known], atol=1e-6)
    path = tmp_path / "one_spline_full.fits"
    save(full, path)
    assert len(open_product(path)) == len(slits)


def test_transformations():
    pytest.importorskip("jax")
    from spec2fn import transforms

    slits, _ = in_slits()
    for factor in (1.0, 2.0):
        step = adaptive_trace_model.with_(oversample=factor)
        expected = step(slits)
        compiled = transforms.jit(step)(slits, plan=step.plan(slits))
        for a, b in zip(compiled.buckets, expected.buckets, strict=True):
            for name in ("trace_model", "sci", "err"):
                np.testing.assert_allclose(a[name], b[name], rtol=1e-4, atol=1e-6)
            np.testing.assert_array_equal(a["dq"], b["dq"])

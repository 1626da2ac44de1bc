import dataclasses

import numpy as np
import pytest
import xarray as xr

from spec2fn import transforms
from spec2fn.errors import DatasetError, ParameterError, ReferenceError
from spec2fn.schema import Meta, meta_of, status_of
from spec2fn.steps.residual_fringe import residual_fringe

ROWS, WIDTH = 512, 6
RANGES = {1: (4.9, 5.35), 3: (11.6, 13.4)}
NUMBERS = {1: (101, 102), 3: (301, 302)}


def reference(slices=(101, 102, 301, 302), least_snr=10.0):
    n = len(slices)
    columns = {
        "ffreq": (2.9, 0.4),
        "dffreq": (1.5, 0.15),
        "min_nfringes": (1, 1),
        "max_nfringes": (10, 15),
        "min_snr": (least_snr, least_snr),
        "pgram_res": (0.001, 0.001),
    }
    out = {"max_amp.wavelength": (("a",), np.array([4.5, 29.0]))}
    out["max_amp.amplitude"] = (("a",), np.array([0.12, 0.12]))
    for band in ("short", "medium", "long"):
        out[f"rfc_freq_{band}.slice"] = (("row",), np.array(slices, dtype=float))
        for name, value in columns.items():
            out[f"rfc_freq_{band}.{name}"] = (("row", "kind"), np.tile(value, (n, 1)))
    return xr.Dataset(out)


def exposure(channel=1, integrations=None, amplitude=1.0, line=0.0, seed=0):
    """Two slices of one channel, a column between them; and the spectrum without fringes."""
    rng = np.random.default_rng(seed)
    low, high = RANGES[channel]
    x = np.arange(2 * WIDTH + 3)
    slices = np.zeros((ROWS, x.size), dtype=np.int32)
    slices[:, 1 : WIDTH + 1], slices[:, WIDTH + 2 : -1] = NUMBERS[channel]
    wave = np.linspace(low, high, ROWS)[:, None] + 0.001 * np.sin(x)
    turns = 2 * np.pi * 1e4 / wave
    fringes = 0.03 * np.cos(turns / 2.8 + 0.3 * x) + 0.012 * np.cos(turns / 2.6 + 0.1 * x)
    if channel > 2:
        fringes = fringes + 0.02 * np.cos(turns / 0.41 + 0.2 * x)
    middle = 0.5 * (low + high)
    smooth = 50.0 * (1 + 0.2 * np.sin(wave)) * (1 + 0.1 * np.cos(x))
    smooth = smooth * (1 + line * np.exp(-0.5 * ((wave - middle) / 0.001) ** 2))
    factors = (1.0,) if integrations is None else np.linspace(1.0, 2.0, integrations)
    data = np.stack([smooth * (1 + amplitude * f * fringes) for f in factors])
    data *= 1 + 0.002 * rng.normal(size=data.shape)
    data = data[0] if integrations is None else data
    sci = np.where(slices > 0, data, 1.0).astype(np.float32)
    dims = ("y", "x") if integrations is None else ("integration", "y", "x")
    flat = ("y", "x")
    variables = {
        "sci": (dims, sci, {"units": "MJy/sr"}),
        "err": (dims, np.abs(0.002 * sci)),
        "dq": (dims, np.zeros(sci.shape, np.uint32)),
        "wavelength": (flat, np.where(slices > 0, wave, np.nan)),
        "slice_id": (flat, slices),
    }
    attrs = {"exp_type": "MIR_MRS", "band": "SHORT", "status_fringe": "COMPLETE", "meta": Meta()}
    return xr.Dataset(variables, attrs=attrs), np.where(slices > 0, smooth, np.nan)


def scatter(data, smooth):
    columns = np.isfinite(smooth).all(axis=0) & ~np.isnan(data).all(axis=-2)
    if columns.ndim > 1:
        columns = columns.all(axis=0)
    return np.nanstd(data[..., columns] / smooth[:, columns] - 1, axis=-2)


@pytest.mark.parametrize("channel", [1, 3])
def test_fringes_are_removed(channel):
    ds, smooth = exposure(channel)
    out = residual_fringe(ds, reference())
    assert status_of(out, "residual_fringe") == "COMPLETE"
    before, after = scatter(ds["sci"].data, smooth), scatter(out["sci"].data, smooth)
    assert (after < 0.25 * before).all()
    outside = ds["slice_id"].data == 0
    np.testing.assert_array_equal(out["sci"].data[outside], ds["sci"].data[outside])
    for name in ("err", "dq"):
        np.testing.assert_array_equal(out[name].data, ds[name].data)
    table = meta_of(out).records["residual_fringe_columns"]
    done = table["outcome"] == "corrected"
    np.testing.assert_allclose(table["period"][done, 0], 2.8, atol=0.05)
    assert (table["number"][done, 0] >= 2).all()
    if channel == 3:
        np.testing.assert_allclose(table["period"][done, 1], 0.41, atol=0.01)


def test_lines_keep_their_flux():
    ds, smooth = exposure(line=1.5)
    out = residual_fringe(ds, reference())["sci"].data
    _, without = exposure()
    line = (smooth - without)[:, 1 : WIDTH + 1].sum(axis=0)
    found = (out - without)[:, 1 : WIDTH + 1][250:262].sum(axis=0)
    np.testing.assert_allclose(found, line, rtol=0.05)


def test_bad_pixels_stay_bad_and_spoil_nothing():
    ds, smooth = exposure()
    sci, dq = ds["sci"].data.copy(), ds["dq"].data.copy()
    bad = np.random.default_rng(1).random(sci.shape) < 0.02
    bad[:, 3] = True  # a whole column
    sci[bad], dq[bad] = np.nan, 1
    ds = ds.assign(sci=(("y", "x"), sci), dq=(("y", "x"), dq))
    out = residual_fringe(ds, reference())
    np.testing.assert_array_equal(np.isnan(out["sci"].data), bad)
    assert (scatter(out["sci"].data, smooth) < 0.3 * scatter(sci, smooth)).all()
    assert meta_of(out).records["residual_fringe"]["corrected"] == 2 * WIDTH - 1


def test_columns_without_correction_are_counted_by_reason():
    ds, _ = exposure()
    slices, sci = ds["slice_id"].data.copy(), ds["sci"].data.copy()
    slices[45:, 2] = 0  # a short piece
    sci[:, 4] = np.random.default_rng(2).normal(size=ROWS)  # noise
    ds = ds.assign(slice_id=(("y", "x"), slices), sci=(("y", "x"), sci))
    out = residual_fringe(ds, reference())
    counts = meta_of(out).records["residual_fringe"]
    table = meta_of(out).records["residual_fringe_columns"]
    assert sum(counts.values()) == len(table["slice"])
    reason = dict(zip(table["column"].tolist(), table["outcome"].tolist(), strict=True))
    assert "fewer than 51 pixels" in reason[2]
    assert "signal-to-noise" in reason[4]
    for column in (2, 4):
        np.testing.assert_array_equal(out["sci"].data[:, column], sci[:, column])
    assert reason[6] == "corrected"


def test_a_spectrum_too_short_for_its_fringes():
    ds, _ = exposure()
    wave = 5.0 + 0.0001 * (ds["wavelength"].data - 5.0)
    out = residual_fringe(ds.assign(wavelength=(("y", "x"), wave)), reference())
    np.testing.assert_array_equal(out["sci"].data, ds["sci"].data)
    assert meta_of(out).records["residual_fringe"]["shorter than 5 fringes"] == 2 * WIDTH


def test_ignored_regions():
    ds, smooth = exposure()
    low, high = RANGES[1]
    everything = residual_fringe(
        ds, reference(), ignore_region_min=(low - 1,), ignore_region_max=(high + 1,)
    )
    np.testing.assert_allclose(everything["sci"].data, ds["sci"].data, rtol=1e-6)
    part = residual_fringe(ds, reference(), ignore_region_min=(5.3,), ignore_region_max=(5.32,))
    assert (scatter(part["sci"].data, smooth) < 0.3 * scatter(ds["sci"].data, smooth)).all()


def test_integrations_have_amplitudes_of_their_own():
    ds, smooth = exposure(integrations=2)  # the second with fringes twice as high
    out = residual_fringe(ds, reference())["sci"].data
    ratio = scatter(out, smooth) / scatter(ds["sci"].data, smooth)
    assert (ratio < 0.25).all()
    first = ds.isel(integration=0)
    np.testing.assert_allclose(out[0], residual_fringe(first, reference())["sci"].data, rtol=1e-6)


def test_the_correction_scales_with_the_exposure():
    ds, _ = exposure()
    plan = residual_fringe.plan(ds, reference())
    out = residual_fringe(ds, reference(), plan=plan)["sci"].data
    scaled = ds.assign(sci=ds["sci"] * np.float32(3.0))
    np.testing.assert_allclose(
        residual_fringe(scaled, reference(), plan=plan)["sci"].data, 3.0 * out, rtol=1e-5
    )


def test_the_planned_fringes_are_those_of_the_search():
    ds, _ = exposure()
    plan = residual_fringe.plan(ds, reference(), save_intermediate_results=True)
    out = residual_fringe(ds, reference(), plan=plan, save_intermediate_results=True)
    records = meta_of(out).records
    factor = records["rfc_factors"]["sci"].data
    np.testing.assert_allclose(out["sci"].data, ds["sci"].data * factor, rtol=1e-6)
    inside = ds["slice_id"].data > 0
    level = records["background_fit"]["sci"].data[inside] / ds["sci"].data[inside]
    np.testing.assert_allclose(level, 1.0, atol=0.06)
    assert np.nansum(records["knot_locations"]["sci"].data) > 0
    assert np.nanmax(records["weights_features"]["sci"].data) > 0.5


def test_gradients_with_the_plan_held_fixed():
    import jax
    import jax.numpy as jnp

    ds, _ = exposure()
    sci = ds["sci"].data.copy()
    sci[100, 3] = np.nan
    ds = ds.assign(sci=(("y", "x"), sci))
    plan = residual_fringe.plan(ds, reference())
    column = np.random.default_rng(3).normal(size=sci.shape).astype(np.float32)

    def merit(image):
        out = residual_fringe(ds.assign(sci=(("y", "x"), image)), reference(), plan=plan)
        return jnp.nansum(jnp.asarray(out["sci"].data) * column)

    gradient = np.asarray(jax.jit(jax.grad(merit))(jnp.asarray(sci)))
    assert np.isfinite(gradient).all()

    def in_numpy(image):
        out = residual_fringe(ds.assign(sci=(("y", "x"), image)), reference(), plan=plan)
        return np.nansum(out["sci"].data.astype(float) * column)

    direction = np.random.default_rng(4).normal(size=sci.shape).astype(np.float32)
    slope = (in_numpy(sci + direction) - in_numpy(sci - direction)) / 2
    assert np.nansum(gradient * direction) == pytest.approx(slope, rel=2e-2)


def test_gradient_with_respect_to_the_fringe_model():
    import jax
    import jax.numpy as jnp

    ds, _ = exposure()
    plan = residual_fringe.plan(ds, reference())
    stage = plan.stages[0]
    block = stage.blocks[0]

    def corrected(offset):
        blocks = (dataclasses.replace(block, offset=offset), *stage.blocks[1:])
        new = (dataclasses.replace(stage, blocks=blocks), *plan.stages[1:])
        image = ds.assign(sci=(("y", "x"), jnp.asarray(ds["sci"].data)))
        out = residual_fringe(image, reference(), plan=dataclasses.replace(plan, stages=new))
        return out["sci"].data.sum()

    gradient = np.asarray(jax.jit(jax.grad(corrected))(jnp.asarray(block.offset)))
    assert np.isfinite(gradient).all()
    # more fringes, less flux: d(y / (1 + m)) / dm = -y / (1 + m)^2
    assert (gradient <= 0).all()
    assert np.median(gradient) == pytest.approx(-np.median(ds["sci"].data), rel=0.3)


def test_compiled_equals_eager():
    ds, _ = exposure(integrations=2)
    plan = residual_fringe.plan(ds, reference())
    compiled = transforms.jit(lambda ds, plan: residual_fringe(ds, None, plan=plan))
    eager = residual_fringe(ds, None, plan=plan)["sci"].data
    np.testing.assert_allclose(np.asarray(compiled(ds, plan)["sci"].data), eager, rtol=1e-5)


def test_what_does_not_apply_is_skipped():
    ds, _ = exposure()
    out = residual_fringe(ds.assign_attrs(exp_type="NRS_IFU"), reference())
    assert "MIR_MRS" in status_of(out, "residual_fringe")
    assert "fringefreq" in status_of(residual_fringe(ds, None), "residual_fringe")


def test_unsuited_input_is_refused():
    ds, _ = exposure()
    with pytest.raises(DatasetError, match="fringe flat"):
        residual_fringe(ds.assign_attrs(status_fringe="SKIPPED: none"), reference())
    with pytest.raises(DatasetError, match="BAND"):
        residual_fringe(ds.assign_attrs(band=""), reference())
    with pytest.raises(DatasetError, match="slice_id"):
        residual_fringe(ds.drop_vars("slice_id"), reference())
    with pytest.raises(ParameterError, match="both ends"):
        residual_fringe(ds, reference(), ignore_region_min=(5.0,))
    with pytest.raises(ReferenceError, match="slice 102"):
        residual_fringe(ds, reference(slices=(101,)))
    with pytest.raises(ReferenceError, match="ffreq"):
        residual_fringe(ds, reference().drop_vars("rfc_freq_short.ffreq"))


def test_another_map_of_the_slices():
    ds, _ = exposure()
    labels = np.asarray(ds["slice_id"].values)
    first = np.where(labels == labels[labels > 0].min(), labels, 0)
    maps = np.repeat(first[None], 9, axis=0)
    regions = xr.Dataset(attrs={"tree": {"regions": maps}})
    out = residual_fringe(ds, reference(), regions)
    other = (labels > 0) & (first == 0)
    np.testing.assert_array_equal(out["sci"].values[other], ds["sci"].values[other])
    assert (out["sci"].values[first > 0] != ds["sci"].values[first > 0]).any()
    small = xr.Dataset(attrs={"tree": {"regions": maps[:, 1:]}})
    with pytest.raises(ReferenceError, match=r"residual_fringe needs .*'regions' with maps of"):
        residual_fringe(ds, reference(), small)

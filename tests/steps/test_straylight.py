"""Stray light of whole frames with known sources."""

import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from spec2fn.dq import PIXEL
from spec2fn.errors import DatasetError, ReferenceError
from spec2fn.plans.background.straylight import COLUMNS
from spec2fn.schema import meta_of, status_of
from spec2fn.steps.straylight import straylight
from spec2fn.transforms import jit, value_and_grad

SHAPE = (1024, 1032)
SOURCE = (400, 300)  # row, column
FLUX = 2000.0
PROFILE = {
    "lor_fwhm": 60.0,
    "lor_scale": 1e-3,
    "gau_fwhm": 6.0,
    "gau_xoff": 20.0,
    "gau_scale1": 5e-4,
    "gau_scale2": 2e-4,
}


def exposure(n=None, **attrs):
    rng = np.random.default_rng(0)
    shape = SHAPE if n is None else (n, *SHAPE)
    sci = (0.25 + 0.01 * rng.normal(size=shape)).astype(np.float32)
    sci[(..., *SOURCE)] += np.float32(FLUX)
    sci[..., 5, 5] = np.nan
    dq = np.zeros(shape, np.uint32)
    sci[..., 700, 100], dq[..., 700, 100] = 1e5, PIXEL["DO_NOT_USE"]
    dims = ("integration", "y", "x")[-len(shape) :]
    attrs = {"exp_type": "MIR_MRS", "channel": "12", "band": "SHORT", **attrs}
    return xr.Dataset({"sci": (dims, sci), "dq": (dims, dq)}, attrs=attrs)


def reference(**changes):
    names = [f"ch{c}{b}" for c in "1234" for b in "abc"]
    columns = {
        f"{n}.{c}": (f"{n}_row", np.full(1024, v, np.float32))
        for n in names
        for c, v in (PROFILE | changes).items()
    }
    return xr.Dataset(columns)


def regions():
    maps = np.zeros((9, *SHAPE), np.int32)
    for start in range(20, 1000, 40):
        maps[3, :, start : start + 25] = 101
    return xr.Dataset(attrs={"tree": {"regions": maps}})


def artifact():
    """In the row of the source, from formula."""
    d = np.arange(1032) - SOURCE[1]
    gamma, sigma = 30.0, 6.0 / 2.3548200450309493
    out = 1e-3 * gamma**2 / (gamma**2 + d**2)
    for k, a in ((1, 5e-4), (2, 2e-4)):
        for s in (-20.0, 20.0):
            out += a * np.exp(-0.5 * ((d - k * s) / (k * sigma)) ** 2)
    out[:4] = out[-4:] = 0
    return FLUX * out


def test_artifact_and_pedestal_are_removed():
    ds = exposure()
    ideal = ds["sci"].values.copy()
    ds["sci"].values[SOURCE[0]] += artifact().astype(np.float32)
    out = straylight(ds, reference())
    assert status_of(out, "straylight") == "COMPLETE"
    edge = np.ones(1032, bool)
    edge[4:-4] = False
    good = np.isfinite(ideal)
    expected = ideal - np.where(edge, 0, 0.25)
    row = np.abs(out["sci"].values[SOURCE[0]] - expected[SOURCE[0]])
    # what remains: the artifact is bright enough to be taken for sources that scatter again
    assert row.max() < 0.08 * artifact().max()
    others = np.delete(np.arange(1024), SOURCE[0])
    np.testing.assert_allclose(
        out["sci"].values[others][good[others]], expected[others][good[others]], atol=1e-3
    )
    np.testing.assert_array_equal(np.isnan(out["sci"]), np.isnan(ds["sci"]))
    np.testing.assert_array_equal(out["dq"], ds["dq"])
    # reference pixels keep their value
    np.testing.assert_array_equal(out["sci"].values[:, edge], ds["sci"].values[:, edge])


def test_integrations_are_corrected_one_by_one():
    ds = exposure(2)
    ds["sci"].values[1] *= np.float32(1.5)
    both = straylight(ds, reference(), regions(), clean_showers=True)
    for k in range(2):
        one = straylight(ds.isel(integration=k), reference(), regions(), clean_showers=True)
        np.testing.assert_allclose(both["sci"].values[k], one["sci"], rtol=1e-5, atol=1e-6)


def test_a_few_rows_are_corrected_as_in_the_full_frame():
    rows = slice(380, 480)
    whole = straylight(exposure(), reference())["sci"].isel(y=rows)
    table = {
        "mrsxartcorr": reference().isel({f"ch{c}{b}_row": rows for c in "1234" for b in "abc"})
    }
    part = straylight(exposure().isel(y=rows), **table)["sci"]
    # the dark level is that of fewer pixels
    np.testing.assert_allclose(part, whole, atol=2e-3)


def test_bands_without_a_profile_lose_the_pedestal_only():
    ds = exposure(band="SHORT-MEDIUM")
    out = straylight(ds, reference())
    inner = (ds["sci"] - out["sci"]).values[:, 4:-4]
    assert np.nanstd(inner) < 1e-4
    assert np.nanmean(inner) == pytest.approx(0.25, abs=1e-3)


def test_a_smooth_shower_is_removed_everywhere():
    y, x = np.mgrid[:1024, :1032]
    shower = np.exp(-0.5 * (((x - 600) / 150.0) ** 2 + ((y - 500) / 80.0) ** 2))
    ds = exposure()
    ds["sci"].values[...] += shower.astype(np.float32)
    quiet = straylight(exposure(), reference(), regions(), clean_showers=True)
    out = straylight(
        ds,
        reference(),
        regions(),
        clean_showers=True,
        shower_high_reject=100.0,
        shower_low_reject=0.0,
        save_shower_model=True,
    )
    left = (out["sci"] - quiet["sci"]).values
    assert np.nanpercentile(np.abs(left), 99) < 0.05
    record = meta_of(out).records["shower_model"]
    assert record["sci"].dims == ("y", "x")
    assert float(record["sci"][500, 600]) == pytest.approx(1.0, abs=0.15)
    assert "shower_model" not in meta_of(quiet).records


def test_narrow_models_follow_narrow_showers():
    y, x = np.mgrid[:1024, :1032]
    shower = np.exp(-0.5 * (((x - 600) / 20.0) ** 2 + ((y - 500) / 12.0) ** 2))
    ds = exposure()
    ds["sci"].values[...] += shower.astype(np.float32)
    options = {"clean_showers": True, "shower_high_reject": 100.0, "shower_low_reject": 0.0}

    def left(**widths):
        out = straylight(ds, reference(), regions(), **options, **widths)
        quiet = straylight(exposure(), reference(), regions(), **options, **widths)
        return np.nanstd((out["sci"] - quiet["sci"]).values)

    narrow = left(shower_x_stddev=9.0, shower_y_stddev=3.0)
    assert narrow < left() < left(shower_x_stddev=60.0, shower_y_stddev=30.0)


def test_what_does_not_fit_is_said():
    assert "no mrsxartcorr" in status_of(straylight(exposure()), "straylight")
    other = straylight(exposure(exp_type="MIR_LRS-FIXEDSLIT"), reference())
    assert "not in MIR_LRS-FIXEDSLIT" in status_of(other, "straylight")
    with pytest.raises(DatasetError, match=r"is \(1024, 512\).*all 1032 columns"):
        straylight(exposure().isel(x=slice(0, 512)), reference())
    with pytest.raises(ReferenceError, match="512 rows, as many as 'sci'"):
        straylight(exposure().isel(y=slice(0, 512)), reference())
    with pytest.raises(ReferenceError, match="clean_showers needs the reference 'regions'"):
        straylight(exposure(), reference(), clean_showers=True)
    few = xr.Dataset(attrs={"tree": {"regions": np.zeros((3, *SHAPE), np.int32)}})
    with pytest.raises(ReferenceError, match="shower_plane=8"):
        straylight(exposure(), reference(), few, clean_showers=True, shower_plane=8)
    with pytest.raises(ReferenceError, match=r"table 'ch1a'.*needs the columns"):
        straylight(exposure(), reference().drop_vars("ch1a.gau_xoff"))


def test_gradients_by_exposure_and_profile_agree_with_differences():
    ds, ref = exposure(), reference()
    plan = straylight.plan(ds, ref, regions(), clean_showers=True)
    names = [f"ch1a.{c}" for c in COLUMNS]

    def total(ds, ref):
        out = straylight(ds, ref, regions(), plan=plan, clean_showers=True)["sci"].data
        row = out[SOURCE[0], 250:350]
        return (jnp.where(jnp.isfinite(row), row, 0.0) ** 2).sum()

    compiled = jit(value_and_grad(total, {0: ("sci",), 1: tuple(names)}))
    value, grads = compiled(ds, ref)
    assert np.isfinite(float(value))
    for slope in (*grads[0].values(), *grads[1].values()):
        assert np.isfinite(slope).all()
    name, step = "ch1a.lor_scale", 2e-4
    moved = [float(total(ds, ref.assign({name: ref[name] + np.float32(s)}))) for s in (step, -step)]
    slope = (moved[0] - moved[1]) / (2 * step)
    assert float(grads[1][name].sum()) == pytest.approx(slope, rel=1e-2)

import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from astropy.io import fits

from spec2fn.dq import PIXEL
from spec2fn.errors import DatasetError, InputError, ReferenceError
from spec2fn.schema import Meta
from spec2fn.steps.photom import photom
from spec2fn.transforms import jit, value_and_grad

DNU = PIXEL["DO_NOT_USE"]
SHAPE = (6, 8)
NAMES = ("sci", "err", "var_poisson", "var_rnoise", "var_flat")
KNOTS = {1: [4.0, 6.0, 8.0], 2: [5.0, 12.0]}
COEFFICIENTS = {"t0": 59700.0, "year1value": 0.9, "tsoft": 10.0}
ALPHA = {1: [-0.1, -0.2, -0.4], 2: [-0.05, -0.3]}
TIME = 60400.0


def exposure(n=None, **attrs):
    rng = np.random.default_rng(0)
    dims, shape = ("y", "x"), SHAPE
    if n is not None:
        dims, shape = ("integration", *dims), (n, *SHAPE)
    planes = {
        k: (dims, rng.uniform(1, 2, shape).astype(np.float32), {"units": "DN/s"}) for k in NAMES
    }
    slices = np.zeros(SHAPE, np.int32)
    slices[:, 1:3], slices[:, 4:7] = 101, 205
    wave = np.where(slices > 200, 9.0, 5.0) + 0.8 * np.arange(6)[:, None]  # some beyond the table
    return xr.Dataset(
        {
            **planes,
            "dq": (dims, np.zeros(shape, np.uint32)),
            "wavelength": (("y", "x"), np.where(slices > 0, wave, np.nan)),
            "slice_id": (("y", "x"), slices),
            "mid_time": ((), np.float64(TIME)),
        },
        attrs={"exp_type": "MIR_MRS", "instrument": "MIRI", **attrs},
    )


def reference(*, times=True):
    rng = np.random.default_rng(1)
    image = rng.uniform(40, 60, SHAPE).astype(np.float32)
    image[0, 0] = np.nan
    dq = np.zeros(SHAPE, np.uint32)
    dq[2, 2], dq[3, 3] = PIXEL["NON_SCIENCE"], DNU
    out = {"sci": (("y", "x"), image), "dq": (("y", "x"), dq)}
    for c in (1, 2, 3, 4) if times else ():
        table, knots = f"timecoeff_powerlaw_ch{c}", KNOTS.get(c, [10.0, 20.0])
        columns = {k: np.full(len(knots), v) for k, v in COEFFICIENTS.items()}
        columns |= {"binwave": knots, "alpha": ALPHA.get(c, [0.0, 0.0])}
        for name, column in columns.items():
            out[f"{table}.{name}"] = (f"{table}_row", np.asarray(column, np.float32))
    header = fits.Header([("PHOTMJSR", 50.0), ("PIXAR_SR", 8e-13), ("PIXAR_A2", 0.034)])
    return xr.Dataset(out, attrs={"meta": Meta(primary=header)})


def throughput(ds):
    out = np.ones(SHAPE)
    for c, knots in KNOTS.items():
        alpha = np.asarray(ALPHA[c], np.float32).astype(float)
        year, soft = (float(np.float32(COEFFICIENTS[k])) for k in ("year1value", "tsoft"))
        values = year * ((TIME - 59700.0 + soft) / (365.0 + soft)) ** alpha
        values = np.minimum(values, 1.0)
        here = ds["slice_id"].values // 100 == c
        w = ds["wavelength"].values
        k = np.clip(np.searchsorted(knots, w) - 1, 0, len(knots) - 2)
        lo, hi = np.take(knots, k), np.take(knots, k + 1)
        t = (w - lo) / (hi - lo)
        out = np.where(here, values[k] * (1 - t) + values[k + 1] * t, out)
    return out


@pytest.mark.parametrize("n", [None, 2])
@pytest.mark.parametrize("timed", [True, False])
def test_the_image_of_factors_and_the_time_dependence(n, timed):
    ds, ref = exposure(n), reference()
    out = photom(ds, ref, apply_time_correction=timed)
    factor = ref["sci"].values / (throughput(ds) if timed else 1.0)
    bad = np.isnan(factor) | (ref["dq"].values & DNU != 0)
    for name in NAMES:
        power = 2 if name.startswith("var") else 1
        expected = np.where(bad, np.nan, ds[name].values * factor**power)
        assert out[name].dtype == np.float32
        np.testing.assert_allclose(out[name], expected, rtol=5e-7)
    flags = np.where(bad, ref["dq"].values | DNU, ref["dq"].values)
    np.testing.assert_array_equal(out["dq"], np.broadcast_to(flags, out["dq"].shape))
    assert out["sci"].attrs["units"] == "MJy/sr"
    assert float(out["photmjsr"]) == 50.0
    assert float(out["photuja2"]) == pytest.approx(50.0 * 23.504430538)
    assert float(out["pixar_sr"]) == 8e-13
    assert float(out["pixar_a2"]) == 0.034


def test_the_throughput_is_at_most_that_of_the_beginning():
    ds = exposure().assign(mid_time=((), np.float64(59701.0)))
    early = photom(ds, reference())["sci"]
    np.testing.assert_allclose(early, photom(ds, reference(times=False))["sci"], rtol=1e-6)


def test_inverse_undoes_it_time_dependence_included():
    ds, ref = exposure(), reference()
    back = photom(photom(ds, ref), ref, inverse=True)
    good = np.isfinite(back["sci"].values)
    assert good.sum() == good.size - 2
    for name in NAMES:
        np.testing.assert_allclose(back[name].values[good], ds[name].values[good], rtol=1e-6)
    assert back["sci"].attrs["units"] == "DN/s"


def test_what_does_not_fit_is_said():
    with pytest.raises(DatasetError, match="'slice_id'"):
        photom(exposure().drop_vars("slice_id"), reference())
    with pytest.raises(InputError, match="mid time"):
        photom(exposure().drop_vars("mid_time"), reference())
    with pytest.raises(ReferenceError, match=r"is missing, needs \(6, 8\)"):
        photom(exposure(), reference().drop_vars("sci"))
    with pytest.raises(ReferenceError, match=r"no 'timecoeff_powerlaw_ch2\.alpha'"):
        photom(exposure(), reference().drop_vars("timecoeff_powerlaw_ch2.alpha"))
    falling = reference()
    name = "timecoeff_powerlaw_ch1.binwave"
    falling[name] = falling[name][::-1]
    with pytest.raises(ReferenceError, match="increasing wavelengths"):
        photom(exposure(), falling)


def test_gradients_by_exposure_image_and_coefficients():
    ds, ref = exposure(), reference()
    plan = photom.plan(ds, ref)

    def total(ds, ref):
        sci = photom(ds, ref, plan=plan)["sci"].data
        return jnp.where(jnp.isfinite(sci), sci, 0.0).sum()

    name, step = "timecoeff_powerlaw_ch1.alpha", 1e-2
    value, grads = jit(value_and_grad(total, {0: ("sci",), 1: ("sci", name)}))(ds, ref)
    by_ds, by_ref = grads[0], grads[1]
    for slope in (*by_ds.values(), *by_ref.values()):
        assert np.isfinite(slope).all()
        assert np.abs(slope).max() > 0
    moved = ref.assign({name: ref[name] + np.float32(step)})
    slope = (float(total(ds, moved)) - float(value)) / step
    assert float(by_ref[name].sum()) == pytest.approx(slope, rel=0.02)

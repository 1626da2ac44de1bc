import dataclasses

import jax
import numpy as np
import pytest
import xarray as xr

from spec2fn.dq import PIXEL
from spec2fn.errors import DatasetError, InputError, ReferenceError
from spec2fn.schema import status_of
from spec2fn.steps.photom import photom
from spec2fn.transforms import jit, value_and_grad, vmap

DNU = PIXEL["DO_NOT_USE"]
SHAPE = (6, 4)
WAVES = np.array([5.0, 6.0, 8.0, 9.0, 0.0], np.float32)
RESPONSE = np.array([1.0, 3.0, 2.0, 4.0, 0.0], np.float32)


def exposure(n=None, **attrs):
    rng = np.random.default_rng(0)
    dims, shape = ("y", "x"), SHAPE
    if n is not None:
        dims, shape = ("integration", *dims), (n, *SHAPE)

    def plane():
        return (dims, rng.uniform(1, 2, shape).astype(np.float32), {"units": "DN/s"})

    names = ("sci", "err", "var_poisson", "var_rnoise", "var_flat")
    wave = np.repeat(np.linspace(4.5, 9.0, 6)[:, None], 4, axis=1)
    wave[:, 0] = np.nan
    attrs = {"exp_type": "MIR_LRS-SLITLESS", "instrument": "MIRI", "filter": "P750L", **attrs}
    return xr.Dataset(
        {
            **{k: plane() for k in names},
            "dq": (dims, np.zeros(shape, np.uint32)),
            "wavelength": (("y", "x"), wave),
            "mid_time": ((), np.float64(60000.0)),
        },
        attrs={"subarray": "SLITLESSPRISM", **attrs},
    )


def reference(subarrays=("FULL", "SLITLESSPRISM"), *, flip=False, scale=1.0, times=False):
    n = len(subarrays)
    waves, response = WAVES.copy(), RESPONSE.copy()
    waves[:4] *= np.float32(scale)
    if flip:
        waves[:4], response[:4] = waves[3::-1].copy(), RESPONSE[3::-1]
    row, table = "photom_row", {}
    table["photom.filter"] = (row, np.array(["P750L"] * n))
    table["photom.subarray"] = (row, np.array(subarrays))
    table["photom.photmjsr"] = (row, np.linspace(10, 20, n).astype(np.float32))
    table["photom.nelem"] = (row, np.full(n, 4, np.int16))
    table["photom.wavelength"] = ((row, "e"), np.tile(waves, (n, 1)))
    table["photom.relresponse"] = ((row, "e"), np.tile(response, (n, 1)))
    table["pixar_sr"] = ((), np.float64(2.8e-13))
    table["pixar_a2"] = ((), np.float64(0.012))
    if times:
        for name, values in {
            "timecoeff_linear": {"t0": 59635.0, "lossperyear": 0.1},
            "timecoeff_exponential": {"t0": 59900.0, "amplitude": 0.2, "tau": 100.0, "const": 0.8},
            "timecoeff_powerlaw": {"t0": 59635.0, "year1value": 0.95, "tsoft": 1.0, "alpha": -0.1},
        }.items():
            for column, value in values.items():
                table[f"{name}.{column}"] = (f"{name}_row", np.full(n, value, np.float32))
    return xr.Dataset(table)


def expected_response(ds):
    return np.interp(ds["wavelength"].values, WAVES[:4], RESPONSE[:4], left=np.nan, right=np.nan)


@pytest.mark.parametrize("ref", [reference(), reference(flip=True), reference(scale=1e-6)])
@pytest.mark.parametrize("n", [None, 2])
def test_factor_by_row_and_wavelength(ref, n):
    ds = exposure(n)
    out = photom(ds, ref)
    factor = 20 * expected_response(ds)
    assert np.isfinite(factor).sum() == 15
    np.testing.assert_allclose(out["sci"].values, ds["sci"].values * factor, rtol=1e-6)
    np.testing.assert_allclose(out["err"].values, ds["err"].values * factor, rtol=1e-6)
    for name in ("var_poisson", "var_rnoise", "var_flat"):
        np.testing.assert_allclose(out[name].values, ds[name].values * factor**2, rtol=1e-6)
        assert out[name].dtype == np.float32
    np.testing.assert_array_equal(out["dq"].values == DNU, np.isnan(out["sci"].values))
    assert out["sci"].attrs["units"] == out["err"].attrs["units"] == "MJy/sr"
    assert float(out["photmjsr"]) == 20
    assert float(out["photuja2"]) == pytest.approx(20 * 23.504431, rel=1e-7)
    assert float(out["pixar_sr"]) == 2.8e-13
    assert float(out["pixar_a2"]) == 0.012


def test_time_dependence_is_the_product_of_its_tables():
    ds, ref = exposure(), reference(times=True)
    linear = 1 - 0.1
    exponential = 0.2 * np.exp(-1.0) + 0.8
    power = 0.95
    value = float(photom(ds, ref)["photmjsr"])
    assert value == pytest.approx(20 / (linear * exponential * power), rel=1e-6)
    off = photom(ds, ref, apply_time_correction=False)
    assert float(off["photmjsr"]) == 20


def test_inverse_undoes_photom():
    ds, ref = exposure(), reference(times=True)
    back = photom(photom(ds, ref), ref, inverse=True)
    good = np.isfinite(back["sci"].values)
    for name in ("sci", "err", "var_poisson", "var_flat"):
        np.testing.assert_allclose(back[name].values[good], ds[name].values[good], rtol=1e-6)
    assert back["sci"].attrs["units"] == "DN/s"


def test_rows_for_any_subarray_are_named_generic():
    out = photom(exposure(), reference(("generic", "FULL")))
    assert float(out["photmjsr"]) == 10


def test_area_reference_precedes_the_photom_reference():
    area = xr.Dataset({"pixar_sr": ((), np.float64(3e-13))})
    out = photom(exposure(), reference(), area)
    assert float(out["pixar_sr"]) == 3e-13
    assert float(out["pixar_a2"]) == 0.012


def test_reasons_to_skip():
    out = photom(exposure(), None)
    assert status_of(out, "photom") == "SKIPPED: no photom reference for MIR_LRS-SLITLESS"
    out = photom(exposure(subarray="SUB64"), reference())
    text = "the photom reference has no row for filter P750L and subarray SUB64"
    assert status_of(out, "photom") == f"SKIPPED: {text}"
    assert "photmjsr" not in out


def test_errors_name_what_is_missing():
    with pytest.raises(InputError, match="cannot calibrate MIR_IMAGE"):
        photom(exposure(exp_type="MIR_IMAGE"), reference())
    with pytest.raises(ReferenceError, match="has 2 rows for filter=P750L"):
        photom(exposure(), reference(("SLITLESSPRISM", "SLITLESSPRISM")))
    with pytest.raises(DatasetError, match="run assign_wcs first"):
        photom(exposure().drop_vars("wavelength"), reference())
    with pytest.raises(InputError, match="EXPMID"):
        photom(exposure().drop_vars("mid_time"), reference(times=True))
    photom(exposure().drop_vars("mid_time"), reference(times=True), apply_time_correction=False)
    with pytest.raises(ReferenceError, match=r"'photom\.relresponse'"):
        photom(exposure(), reference().drop_vars("photom.relresponse"))
    broken = reference(times=True).drop_vars("timecoeff_linear.t0")
    with pytest.raises(ReferenceError, match="timecoeff_linear"):
        photom(exposure(), broken)
    with pytest.raises(ReferenceError, match="needs the reference it was made with"):
        photom(exposure(), plan=photom.plan(exposure(), reference()))


def test_rows_of_the_time_dependence_are_those_with_the_same_keys():
    """In another order, and with rows of modes that have no conversion."""
    ds, ref = exposure(), reference(times=True)
    loss = "timecoeff_linear"
    expected = photom(ds, ref)["sci"].values
    rows = f"{loss}_row"
    for order in (["SLITLESSPRISM", "FULL"], ["SUB64", "FULL", "slitlessprism "]):
        own = [s.strip().upper() == "SLITLESSPRISM" for s in order]
        keyed = ref.drop_vars([f"{loss}.t0", f"{loss}.lossperyear"]).assign(
            {
                f"{loss}.filter": (rows, ["P750L"] * len(order)),
                f"{loss}.subarray": (rows, order),
                f"{loss}.t0": (rows, np.full(len(order), 59635.0, np.float32)),
                f"{loss}.lossperyear": (rows, np.where(own, 0.1, 0.7).astype(np.float32)),
            }
        )
        np.testing.assert_array_equal(photom(ds, keyed)["sci"].values, expected)
    twice = keyed.assign({f"{loss}.subarray": (rows, ["SLITLESSPRISM"] * 3)})
    none = keyed.assign({f"{loss}.subarray": (rows, ["FULL"] * 3)})
    for wrong, count in ((twice, 3), (none, 0)):
        with pytest.raises(ReferenceError, match=rf"has {count} rows for .*PRISM, needs one"):
            photom(ds, wrong)
    # a table without keys has no other order than that of the conversions
    short = ref.drop_vars([f"{loss}.t0", f"{loss}.lossperyear"]).assign(
        {f"{loss}.{c}": (rows, [1.0]) for c in ("t0", "lossperyear")}
    )
    with pytest.raises(ReferenceError, match="has 0 rows for row 1"):
        photom(ds, short)


def test_jit_equals_eager_and_vmap_equals_loop():
    ds, ref = exposure(3), reference(times=True)
    plan = photom.plan(ds, ref)
    eager = photom(ds, ref, plan=plan)
    compiled = jit(photom)(ds, ref, plan=plan)
    mapped = jit(vmap(lambda d, r: photom(d, r, plan=plan)))(ds, ref)
    for name in ("sci", "err", "var_flat", "dq", "photmjsr"):
        np.testing.assert_allclose(compiled[name].values, eager[name].values, rtol=3e-7)
    np.testing.assert_allclose(mapped["sci"].values, eager["sci"].values, rtol=3e-7)
    assert compiled["sci"].dtype == np.float32


def test_gradients_with_respect_to_factor_response_and_time_coefficients():
    ds, ref = exposure(), reference(times=True)
    ds["sci"].values[2, 2] = np.nan
    plan = photom.plan(ds, ref)
    jnp = jax.numpy

    def total(d, r):
        out = photom(d, r, plan=plan)
        return jnp.sum(jnp.where(out["dq"].data == 0, out["sci"].data, jnp.float32(0)))

    names = ("photom.photmjsr", "photom.relresponse", "timecoeff_linear.lossperyear")
    value, grads = jit(value_and_grad(total, {0: ("sci",), 1: names}))(ds, ref)
    for g in (*grads[0].values(), *grads[1].values()):
        assert np.isfinite(g).all()
    value = float(value)
    by_factor = np.asarray(grads[1]["photom.photmjsr"])
    np.testing.assert_allclose(by_factor, [0, value / 20], rtol=1e-5)
    # linear in the response, too
    by_response = np.asarray(grads[1]["photom.relresponse"])
    assert (by_response[0] == 0).all()
    np.testing.assert_allclose((by_response[1] * RESPONSE).sum(), value, rtol=1e-5)
    # 1 / (1 - loss): the exposure is one year after t0
    by_loss = np.asarray(grads[1]["timecoeff_linear.lossperyear"])[1]
    np.testing.assert_allclose(by_loss, value / 0.9, rtol=1e-5)


def test_the_plan_serves_any_chunk_of_integrations():
    ds, ref = exposure(4), reference()
    plan = photom.plan(ds, ref)
    whole = photom(ds, ref, plan=plan)
    parts = [photom(ds.isel(integration=[i]), ref, plan=plan)["sci"].values for i in range(4)]
    np.testing.assert_array_equal(np.concatenate(parts), whole["sci"].values)
    assert dataclasses.is_dataclass(plan)

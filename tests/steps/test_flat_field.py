import jax
import numpy as np
import pytest
import xarray as xr

from spec2fn.dq import PIXEL
from spec2fn.errors import ReferenceError
from spec2fn.schema import meta_of, status_of
from spec2fn.steps.flat_field import flat_field
from spec2fn.transforms import jit, value_and_grad, vmap

DNU = PIXEL["DO_NOT_USE"]
SHAPE = (4, 5)


def exposure(n=None, seed=0, **attrs):
    rng = np.random.default_rng(seed)
    dims, shape = ("y", "x"), SHAPE
    if n is not None:
        dims, shape = ("integration", *dims), (n, *SHAPE)

    def plane():
        return (dims, rng.uniform(1, 2, shape).astype(np.float32), {"units": "DN/s"})

    names = ("sci", "err", "var_poisson", "var_rnoise")
    dq = np.zeros(shape, np.uint32)
    dq[..., 3, 0] = DNU | PIXEL["HOT"]
    attrs = {"exp_type": "MIR_LRS-SLITLESS", "instrument": "MIRI", **attrs}
    return xr.Dataset(
        {**{k: plane() for k in names}, "dq": (dims, dq)},
        attrs={"xstart": 3, "ystart": 2, **attrs},
    )


def reference(shape=(8, 9), seed=1):
    rng = np.random.default_rng(seed)
    sci = rng.uniform(0.8, 1.2, shape).astype(np.float32)
    err = rng.uniform(0.01, 0.02, shape).astype(np.float32)
    dq = np.zeros(shape, np.uint32)
    # pixels (0, 0), (0, 1), (0, 2), (0, 3) of the exposure
    sci[1, 2] = np.nan
    sci[1, 3] = 0.0
    dq[1, 4] = PIXEL["NO_FLAT_FIELD"]
    dq[1, 5] = PIXEL["UNRELIABLE_FLAT"]
    planes = {"sci": sci, "err": err, "dq": dq}
    return xr.Dataset(
        {k: (("y", "x"), v) for k, v in planes.items()}, attrs={"xstart": 1, "ystart": 1}
    )


def test_the_part_of_the_flat_under_the_exposure_is_applied():
    ds, flat = exposure(2), reference()
    out = flat_field(ds, flat)
    f = flat["sci"].values[1:5, 2:7].astype(float)
    good = (out["dq"].values & DNU) == 0
    with np.errstate(divide="ignore"):
        expected = ds["sci"].values / f
    np.testing.assert_allclose(out["sci"].values[good], expected[good], rtol=1e-6)
    variances = sum(out[v].values for v in ("var_poisson", "var_rnoise", "var_flat"))
    np.testing.assert_allclose(out["err"].values[good], np.sqrt(variances)[good], rtol=1e-6)
    assert out["var_flat"].dims == ds["sci"].dims
    assert out["sci"].attrs["units"] == "DN/s"
    assert status_of(out, "flat_field") == "COMPLETE"


def test_pixels_without_flat_are_flagged():
    out = flat_field(exposure(), reference())
    no_flat = DNU | PIXEL["NO_FLAT_FIELD"]
    expected = [no_flat, no_flat, no_flat, PIXEL["UNRELIABLE_FLAT"], 0]
    np.testing.assert_array_equal(out["dq"][0], expected)
    assert int(out["dq"][3, 0]) == DNU | PIXEL["HOT"]
    invalid = (out["dq"].values & DNU) != 0
    for name in ("sci", "err", "var_poisson", "var_rnoise", "var_flat"):
        np.testing.assert_array_equal(np.isnan(out[name].values), invalid)
        assert out[name].dtype == np.float32


def test_inverse_undoes_the_flat():
    ds, flat = exposure(), reference()
    back = flat_field(flat_field(ds, flat), flat, inverse=True)
    good = (back["dq"].values & DNU) == 0
    for name in ("sci", "var_poisson", "var_rnoise"):
        np.testing.assert_allclose(back[name].values[good], ds[name].values[good], rtol=1e-6)
    assert (back["var_flat"].values[good] == 0).all()


def test_without_a_flat_the_step_is_skipped():
    ds = exposure()
    out = flat_field(ds, None)
    assert status_of(out, "flat_field") == "SKIPPED: no flat reference for MIR_LRS-SLITLESS"
    xr.testing.assert_identical(out.drop_attrs(), ds.drop_attrs())


def test_a_plan_is_no_flat():
    plan = flat_field.plan(exposure(), reference())
    with pytest.raises(ReferenceError, match="needs the reference it was made with"):
        flat_field(exposure(), plan=plan)


def test_a_flat_of_the_wrong_size_is_one_clear_line():
    flat = reference().isel(y=slice(0, 3), x=slice(0, 3))
    text = r"flat_field: reference 'flat' is \(3, 3\) but 'sci' is \(4, 5\)"
    with pytest.raises(ReferenceError, match=text):
        flat_field(exposure(), flat)


@pytest.mark.parametrize("kind", ["dataset", "array", "path"])
def test_a_user_supplied_flat_precedes_the_reference(kind, tmp_path):
    ds, mine = exposure(), np.full(SHAPE, 2.0, np.float32)
    given = mine
    if kind == "dataset":
        given = xr.Dataset({"sci": (("y", "x"), mine)})
    elif kind == "path":
        from astropy.io import fits

        given = str(tmp_path / "mine.fits")
        fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(mine, name="SCI")]).writeto(given)
    out = flat_field(ds, reference(), user_supplied_flat=given)
    good = (ds["dq"].values & DNU) == 0
    np.testing.assert_allclose(out["sci"].values[good], ds["sci"].values[good] / 2, rtol=1e-6)
    assert (out["var_flat"].values[good] == 0).all()


def test_the_applied_flat_is_kept_on_request():
    flat = reference()
    out = flat_field(exposure(), flat, save_interpolated_flat=True)
    kept = meta_of(out).records["interpolatedflat"]
    np.testing.assert_array_equal(kept["sci"].values, flat["sci"].values[1:5, 2:7])
    assert "interpolatedflat" not in meta_of(flat_field(exposure(), flat)).records


def test_jit_equals_eager_and_vmap_equals_loop():
    ds, flat = exposure(3), reference()
    plan = flat_field.plan(ds, flat)
    eager = flat_field(ds, flat, plan=plan)
    compiled = jit(flat_field)(ds, flat, plan=plan)
    mapped = jit(vmap(lambda d, f: flat_field(d, f, plan=plan)))(ds, flat)
    for name in ("sci", "err", "var_flat", "dq"):
        np.testing.assert_allclose(compiled[name].values, eager[name].values, rtol=1e-6)
        np.testing.assert_allclose(mapped[name].values, eager[name].values, rtol=1e-6)
    one = flat_field(ds.isel(integration=1), flat, plan=plan)
    np.testing.assert_array_equal(one["sci"].values, eager["sci"].values[1])


def test_gradient_with_respect_to_data_and_flat():
    ds, flat = exposure(), reference()
    plan = flat_field.plan(ds, flat)
    jnp = jax.numpy

    def total(d, f):
        out = flat_field(d, f, plan=plan)
        good = (out["dq"].data & np.uint32(DNU)) == 0
        return jnp.sum(jnp.where(good, out["sci"].data, jnp.float32(0)))

    _, grads = jit(value_and_grad(total, {0: ("sci",), 1: ("sci",)}))(ds, flat)
    by_sci, by_flat = np.asarray(grads[0]["sci"]), np.array(grads[1]["sci"])
    assert np.isfinite(by_sci).all()
    assert np.isfinite(by_flat).all()
    f = flat["sci"].values[1:5, 2:7].astype(float)
    good = np.isfinite(flat_field(ds, flat)["sci"].values)
    expected = np.where(good, -ds["sci"].values / np.where(good, f, 1) ** 2, 0)
    np.testing.assert_allclose(by_flat[1:5, 2:7], expected, rtol=1e-5)
    by_flat[1:5, 2:7] = 0
    assert (by_flat == 0).all()
    np.testing.assert_allclose(by_sci, np.where(good, 1 / np.where(good, f, 1), 0), rtol=1e-6)

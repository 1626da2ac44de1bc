import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from spec2fn.errors import DatasetError, ReferenceError
from spec2fn.schema import status_of
from spec2fn.steps.fringe import fringe
from spec2fn.transforms import value_and_grad

SHAPE = (6, 8)
NAMES = ("sci", "err", "var_poisson", "var_rnoise", "var_flat")


def exposure(n=None, **attrs):
    rng = np.random.default_rng(0)
    dims, shape = ("y", "x"), SHAPE
    if n is not None:
        dims, shape = ("integration", *dims), (n, *SHAPE)
    planes = {k: (dims, rng.uniform(1, 2, shape).astype(np.float32)) for k in NAMES}
    planes["sci"][1][..., 2, 3] = np.nan
    dq = np.zeros(shape, np.uint32)
    attrs = {"exp_type": "MIR_MRS", "instrument": "MIRI", "xstart": 1, "ystart": 1, **attrs}
    return xr.Dataset({**planes, "dq": (dims, dq)}, attrs=attrs)


def reference(shape=SHAPE):
    rng = np.random.default_rng(1)
    flat = rng.uniform(0.8, 1.2, shape).astype(np.float32)
    flat[0, 0], flat[1, 1] = np.nan, 0.0
    dq = rng.integers(0, 4, shape).astype(np.uint32)
    return xr.Dataset({"sci": (("y", "x"), flat), "dq": (("y", "x"), dq)})


@pytest.mark.parametrize("n", [None, 2])
def test_values_are_divided_and_flags_left(n):
    ds, ref = exposure(n), reference()
    out = fringe(ds, ref)
    flat = np.where(np.isfinite(ref["sci"]) & (ref["sci"] != 0), ref["sci"], 1)
    for name in NAMES:
        power = 2 if name.startswith("var") else 1
        assert out[name].dtype == np.float32
        np.testing.assert_allclose(out[name], ds[name].values / flat**power, rtol=3e-7)
    np.testing.assert_array_equal(out["dq"], ds["dq"])
    # where there is no fringe flat nothing changes
    np.testing.assert_array_equal(out["sci"].values[..., 0, 0], ds["sci"].values[..., 0, 0])
    assert status_of(out, "fringe") == "COMPLETE"


def test_when_it_is_skipped():
    assert "no fringe reference" in status_of(fringe(exposure()), "fringe")
    other = fringe(exposure(exp_type="MIR_LRS-FIXEDSLIT"), reference())
    assert "not of MIR_LRS-FIXEDSLIT" in status_of(other, "fringe")


def test_sizes_that_do_not_fit_are_said():
    with pytest.raises(ReferenceError, match="'fringe'"):
        fringe(exposure(), reference((4, 4)))
    plan = fringe.plan(exposure(), reference())
    with pytest.raises(DatasetError, match=r"make it with fringe\.plan"):
        fringe(exposure().isel(y=slice(0, 3)), reference(), plan=plan)


def test_gradients_by_exposure_and_flat():
    ds, ref = exposure(), reference()
    plan = fringe.plan(ds, ref)

    def total(ds, ref):
        sci = fringe(ds, ref, plan=plan)["sci"].data
        return jnp.where(jnp.isfinite(sci), sci, 0.0).sum()

    _, grads = value_and_grad(total, {0: ("sci",), 1: ("sci",)})(ds, ref)
    by_ds, by_ref = grads[0], grads[1]
    good = np.isfinite(ds["sci"].values)
    flat = np.where(np.isfinite(ref["sci"]) & (ref["sci"] != 0), ref["sci"], 1)
    np.testing.assert_allclose(by_ds["sci"], np.where(good, 1 / flat, 0), rtol=1e-6)
    expected = np.where(good & np.isfinite(ref["sci"]) & (ref["sci"] != 0), -ds["sci"] / flat**2, 0)
    np.testing.assert_allclose(by_ref["sci"], expected, rtol=1e-5)

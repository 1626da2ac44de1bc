"""pixel_replace on buckets of padded slits."""

import numpy as np
import pytest
import xarray as xr

from spec2fn.dq import PIXEL
from spec2fn.schema import Meta
from spec2fn.steps.pixel_replace import pixel_replace
from spec2fn.transforms import jit
from tests.buckets import bucketize

ALGORITHMS = ("mingrad", "fit_profile")
PLANES = ("sci", "err", "dq", "var_poisson")
SHAPES = ((12, 30), (9, 33), (12, 26), (3, 20))


def slit(i, n=None):
    """A bright trace along x with bad pixels, some of them at the edges, and an unlit corner."""
    rng = np.random.default_rng(i)
    shape = SHAPES[i]
    full = shape if n is None else (n, *shape)
    dims = ("y", "x") if n is None else ("integration", "y", "x")
    y, x = np.indices(shape)
    sci = (60 + x) * np.exp(-0.5 * ((y - shape[0] / 2.2) / 1.7) ** 2) + rng.normal(0, 1, full)
    dq = np.zeros(full, np.uint32)
    dq[rng.random(full) < 0.06] = PIXEL["DO_NOT_USE"] | PIXEL["HOT"]
    dq[..., shape[0] // 2, -2:] = dq[..., -2:, 5] = PIXEL["DO_NOT_USE"]
    dq[..., 0, :6] = PIXEL["DO_NOT_USE"] | PIXEL["NON_SCIENCE"]
    sci[dq != 0] = np.nan
    err = 0.05 * np.abs(sci) + 0.5
    planes = {"sci": sci, "err": err, "var_poisson": err**2}
    data = {k: (dims, v.astype(np.float32)) for k, v in planes.items()}
    names = {"slit": ((), i), "slit_name": ((), np.array(f"S{i}"))}
    return xr.Dataset(
        {**data, "dq": (dims, dq), **names},
        attrs={"instrument": "NIRSPEC", "dispaxis": 1, "meta": Meta()},
    )


def bucket(order=range(4), n=None):
    return bucketize([slit(i, n) for i in order], most=1)


@pytest.mark.parametrize("n", [None, 2])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_neither_padding_nor_company_nor_order_matters(algorithm, n):
    out = bucket(n=n).map(lambda b: pixel_replace(b, algorithm=algorithm))
    turned = bucket((2, 0, 3, 1), n).map(lambda b: pixel_replace(b, algorithm=algorithm))
    assert len(out.buckets) == 1
    replaced = 0
    for i in range(4):
        alone = pixel_replace(slit(i, n), algorithm=algorithm)
        replaced += int(((alone["dq"].values & PIXEL["FLUX_ESTIMATED"]) != 0).sum())
        for name in PLANES:
            np.testing.assert_array_equal(out.slit(i)[name], alone[name], err_msg=name)
            np.testing.assert_array_equal(turned.slit(i)[name], alone[name], err_msg=name)
    assert replaced > 20


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_padding_stays_what_it_was(algorithm):
    before = bucket().buckets[0]
    after = pixel_replace(before, algorithm=algorithm)
    y, x = np.indices(before["sci"].shape[-2:])
    outside = (y >= before["ysize"].values[:, None, None]) | (
        x >= before["xsize"].values[:, None, None]
    )
    assert outside.any()
    for name in PLANES:
        np.testing.assert_array_equal(after[name].values[outside], before[name].values[outside])


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_compiled_slits_are_the_same(algorithm):
    ds = bucket(n=2).buckets[0]
    eager = pixel_replace(ds, algorithm=algorithm)
    step = pixel_replace.with_(algorithm=algorithm)
    compiled = jit(step)(ds, plan=step.plan(ds))
    np.testing.assert_array_equal(compiled["dq"], eager["dq"])
    for name in ("sci", "err", "var_poisson"):
        np.testing.assert_allclose(compiled[name], eager[name], rtol=1e-5, err_msg=name)


def test_every_integration_is_its_own():
    ds = bucket(n=3).buckets[0]
    out = pixel_replace(ds)
    for k in range(3):
        one = pixel_replace(ds.isel(integration=k))
        for name in PLANES:
            np.testing.assert_array_equal(out[name].values[:, k], one[name].values)

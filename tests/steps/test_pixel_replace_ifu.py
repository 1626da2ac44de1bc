"""pixel_replace on the slices of an integral-field unit."""

import numpy as np
import pytest
import xarray as xr

from spec2fn import transforms
from spec2fn.dq import PIXEL
from spec2fn.errors import DatasetError, HostOnlyError
from spec2fn.schema import Meta
from spec2fn.steps.pixel_replace import pixel_replace

SHAPE = (30, 40)
WIDTH = 8  # rows from slice to slice
BAD = PIXEL["DO_NOT_USE"]


def truth(dispaxis=1):
    """Three slices with traces at different heights, and their numbers."""
    y, x = np.indices(SHAPE)
    row = y - 0.05 * x
    number = np.floor(row / WIDTH).astype(int)
    slices = np.where((row % WIDTH > 0.8) & (number >= 0) & (number < 3), number + 1, 0)
    centre = WIDTH * number + np.choose(np.clip(number, 0, 2), [2.5, 4.0, 5.5])
    bright = np.choose(np.clip(number, 0, 2), [10.0, 300.0, 40.0])
    sci = bright * np.exp(-0.5 * ((row - centre) / 1.3) ** 2) + 1.0
    return (sci, slices) if dispaxis == 1 else (sci.T, slices.T)


def exposure(dispaxis=1, name="slice_id", integrations=None):
    sci, slices = truth(dispaxis)
    rng = np.random.default_rng(3)
    shape = sci.shape if integrations is None else (integrations, *sci.shape)
    bad = rng.random(shape) < 0.05
    dq = np.where(bad, BAD, 0).astype(np.uint32)
    dq[..., slices == 0] |= PIXEL["NON_SCIENCE"]
    planes = {"sci": sci, "err": 0.01 * sci, "var_poisson": 1e-4 * sci**2}
    dims = ("y", "x") if integrations is None else ("integration", "y", "x")
    data = {
        k: (dims, np.where(bad, np.nan, np.broadcast_to(v, shape)).astype(np.float32))
        for k, v in planes.items()
    }
    return xr.Dataset(
        {**data, "dq": (dims, dq), name: (("y", "x"), slices.astype(np.int32))},
        attrs={"exp_type": "NRS_IFU", "dispaxis": dispaxis, "meta": Meta()},
    )


@pytest.mark.parametrize("name", ["slice_id", "regions"])
@pytest.mark.parametrize("dispaxis", [1, 2])
def test_profiles_come_from_the_slice_itself(dispaxis, name):
    ds = exposure(dispaxis, name)
    sci, slices = truth(dispaxis)
    out = pixel_replace(ds, algorithm="fit_profile")
    filled = (out["dq"].values & PIXEL["FLUX_ESTIMATED"]) != 0
    np.testing.assert_array_equal(filled, (ds["dq"].values == BAD) & (slices > 0))
    assert filled.sum() > 20
    error = np.abs(out["sci"].values - sci)[filled] / sci[filled]
    assert np.median(error) < 0.05
    for plane in ("sci", "err", "dq", "var_poisson"):
        np.testing.assert_array_equal(out[plane].values[~filled], ds[plane].values[~filled])


def test_a_neighbour_does_not_matter():
    ds = exposure()
    out = pixel_replace(ds, algorithm="fit_profile")
    louder = ds["sci"].where(ds["slice_id"] != 2, 1e4 * ds["sci"]).astype(np.float32)
    changed = pixel_replace(ds.assign(sci=louder), algorithm="fit_profile")
    others = ds["slice_id"].values != 2
    np.testing.assert_array_equal(changed["sci"].values[others], out["sci"].values[others])


def test_integrations_are_independent():
    many = exposure(integrations=3)
    out = pixel_replace(many, algorithm="fit_profile")
    for k in range(3):
        one = pixel_replace(many.isel(integration=k), algorithm="fit_profile")
        np.testing.assert_array_equal(out["sci"].values[k], one["sci"].values)
        np.testing.assert_array_equal(out["dq"].values[k], one["dq"].values)


def test_compiled_equals_eager_given_the_plan():
    ds = exposure()
    plan = pixel_replace.plan(ds, algorithm="fit_profile")
    compiled = transforms.jit(lambda d, p: pixel_replace(d, plan=p, algorithm="fit_profile"))
    out, eager = compiled(ds, plan), pixel_replace(ds, algorithm="fit_profile")
    np.testing.assert_array_equal(out["dq"], eager["dq"])
    np.testing.assert_allclose(out["sci"], eager["sci"], rtol=1e-5)
    with pytest.raises(HostOnlyError, match=r"plan = pixel_replace\.plan"):
        transforms.jit(lambda d: pixel_replace(d, algorithm="fit_profile"))(ds)


def test_the_minimum_gradient_has_nothing_to_plan():
    ds = exposure()
    plan = pixel_replace.plan(ds)
    assert all(getattr(plan, name) is None for name in plan.declared)
    out = transforms.jit(pixel_replace)(ds, plan=plan)
    np.testing.assert_allclose(out["sci"], pixel_replace(ds)["sci"])


def test_without_slices_profiles_cannot_be_fitted():
    with pytest.raises(DatasetError, match="slice_id"):
        pixel_replace(exposure().drop_vars("slice_id"), algorithm="fit_profile")

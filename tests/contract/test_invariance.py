"""What must not matter: values of masked pixels, chunks, earlier runs, order of reading."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spec2fn import run
from spec2fn.calibration import calibrate
from spec2fn.dq import Pixel
from spec2fn.engine.pipeline import without
from spec2fn.schema import PLANES, replace_data
from spec2fn.testing import exposures, strategies

SLIT, SLITLESS = exposures.RENDERED


def assert_same(a, b):
    if hasattr(a, "buckets"):
        for one, other in zip(a.buckets, b.buckets, strict=True):
            assert_same(one, other)
        return
    assert set(a.variables) == set(b.variables)
    for name in a.variables:
        np.testing.assert_array_equal(a[name].data, b[name].data, err_msg=name)


def fill_masked(ds, seed):
    """Replace whatever unusable pixels hold."""
    rng = np.random.default_rng(seed)
    unusable = (ds["dq"].data & np.uint32(Pixel.DO_NOT_USE)) != 0
    values = [0.0, 1.0, -1e4, 1e20, np.nan, np.inf, -np.inf]
    new = {}
    for name, plane in PLANES.items():
        if name in ds and plane.kind in ("value", "variance"):
            data = np.array(ds[name].data)
            data[unusable] = rng.choice(values, int(unusable.sum()))
            new[name] = np.abs(data) if plane.kind == "variance" else data
    return replace_data(ds, None, **new)


@pytest.mark.parametrize("exp_type", exposures.EXP_TYPES)
def test_a_masked_pixel_may_hold_anything(exp_type):
    pipeline, refs = exposures.pipeline(exp_type), exposures.references(exp_type)
    if exp_type == exposures.MRS:
        # the dark level between its channels is, as officially, that of all pixels there
        pipeline = without(pipeline, "straylight")
    obs = exposures.observation(exp_type)
    before = run(pipeline, obs, refs)

    @strategies.share(0.02)
    @given(seed=st.integers(0, 2**32 - 1))
    def check(seed):
        backgrounds = tuple(fill_masked(m, seed + 1) for m in obs.members.get("background", ()))
        members = {"background": backgrounds} if backgrounds else {}
        after = run(pipeline, obs.replace(fill_masked(obs.science, seed), **members), refs)
        for kind, product in before.products.items():
            assert_same(after.products[kind], product)

    check()


@strategies.share(0.03)
@given(
    size=st.integers(1, 5),
    seed=st.integers(0, 2**32 - 1),
    replace=st.booleans(),
)
def test_the_number_of_integrations_in_work_does_not_matter(size, seed, replace):
    obs = exposures.observation(SLITLESS, integrations=5)
    obs = obs.replace(strategies.disturb(obs.science, seed))
    refs = dict(exposures.references(SLITLESS))
    options = {"params": {"pixel_replace": {"skip": not replace}}, "parameter_references": False}
    whole = calibrate(obs, overrides=_all(refs), **options)
    pieces = calibrate(obs, overrides=_all(refs), chunk_integrations=size, **options)
    for kind, product in whole.products.items():
        assert_same(pieces.products[kind], product)


def _all(refs):
    from spec2fn.engine.pipeline import needed_references

    return {k: refs.get(k) for k in needed_references(exposures.pipeline(SLITLESS))}


def test_runs_leave_nothing_behind():
    def once(exp_type):
        refs = exposures.references(exp_type)
        return run(exposures.pipeline(exp_type), exposures.observation(exp_type), refs).dataset

    first = once(SLITLESS)
    once(SLIT)
    assert_same(once(SLITLESS), first)


@strategies.share(0.03)
@given(seed=st.integers(0, 2**32 - 1))
def test_integrations_do_not_see_each_other(seed):
    obs = exposures.observation(SLITLESS, integrations=3)
    ds = strategies.disturb(obs.science, seed)
    pipeline, refs = exposures.pipeline(SLITLESS), exposures.references(SLITLESS)
    together = run(pipeline, ds, refs).products["x1d"]
    alone = run(pipeline, ds.isel(integration=slice(1, 2)), refs).products["x1d"]
    np.testing.assert_array_equal(alone["flux"].data[0], together["flux"].data[1])
    np.testing.assert_array_equal(alone["flux_error"].data[0], together["flux_error"].data[1])

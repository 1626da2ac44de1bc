"""The step badpix_selfcal."""

import numpy as np
import pytest

from spec2fn.dq import PIXEL
from spec2fn.engine.pipeline import Observation, also_on
from spec2fn.engine.run import run
from spec2fn.schema import status_of
from spec2fn.steps.background import background
from spec2fn.steps.badpix_selfcal import badpix_selfcal

BITS = PIXEL["DO_NOT_USE"] | PIXEL["OTHER_BAD_PIXEL"]
HOT = (20, 11)


@pytest.fixture
def make(lrs_case):
    rng = np.random.default_rng(0)

    def exposure(shape=(40, 30), source=5):
        ds = lrs_case.exposure(shape=shape).assign_attrs(dispaxis=2)
        sci = rng.normal(5, 1, shape).astype(np.float32)
        sci[..., source] += 40
        sci[(..., *HOT)] += 60
        dims = ds["sci"].dims
        var = {k: (dims, np.full(shape, 0.5, np.float32)) for k in ("var_poisson", "var_rnoise")}
        return ds.assign(sci=(dims, sci), **var)

    return exposure


@pytest.mark.parametrize("shape", [(40, 30), (3, 40, 30)])
def test_pixels_hot_in_all_exposures_are_flagged(make, shape):
    science = make(shape)
    out = badpix_selfcal(science, background=(make(source=20),), selfcal=(make(shape, 15),))
    bad = (out["dq"].values & BITS) == BITS
    assert bad[(..., *HOT)].all()
    assert 2 <= bad.reshape(-1, 40, 30)[0].sum() <= 6
    for name in ("sci", "err", "var_poisson", "var_rnoise"):
        np.testing.assert_array_equal(np.isnan(out[name]), bad)
        np.testing.assert_array_equal(out[name].values[~bad], science[name].values[~bad])
    assert status_of(out, "badpix_selfcal") == "COMPLETE"


def test_alone_only_if_forced(make):
    science = make()
    assert status_of(badpix_selfcal(science), "badpix_selfcal").startswith("SKIPPED: no selfcal")
    out = badpix_selfcal(science, force_single=True)
    assert out["dq"].values[HOT] == BITS


def test_flagging_again_with_the_same_plan_changes_nothing(make):
    science, others = make(), (make(source=20),)
    plan = badpix_selfcal.plan(science, background=others)
    once = badpix_selfcal(science, plan=plan)
    twice = badpix_selfcal(once, plan=plan)
    for name in ("sci", "dq", "err"):
        np.testing.assert_array_equal(once[name], twice[name])


def test_backgrounds_get_the_same_pixels(make):
    pipeline = (
        also_on("background", badpix_selfcal.with_(skip=False), share_plan=True),
        background,
    )
    nod = make((2, 40, 30), 20)
    result = run(pipeline, Observation(make(), {"background": (nod,)}))
    flagged = result.members["background"][0]
    assert (flagged["dq"].values[(..., *HOT)] == BITS).all()
    np.testing.assert_array_equal(
        flagged["dq"].values[0] == BITS, result.dataset["dq"].values == BITS
    )
    assert np.isnan(result.dataset["sci"].values[HOT])


def test_off_by_default_and_needs_all_integrations():
    assert badpix_selfcal.skip
    assert not badpix_selfcal.chunkable


def test_jit(make):
    pytest.importorskip("jax")
    from spec2fn import transforms

    science = make((2, 40, 30))
    plan = badpix_selfcal.plan(science, force_single=True)
    compiled = transforms.jit(badpix_selfcal)(science, plan=plan)
    eager = badpix_selfcal(science, plan=plan)
    for name in ("sci", "err", "dq", "var_rnoise"):
        np.testing.assert_array_equal(compiled[name], eager[name])

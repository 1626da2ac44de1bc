"""What every step promises, checked for every step of the library on disturbed exposures."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spec2fn import transforms
from spec2fn.engine.library import registered_steps
from spec2fn.engine.pipeline import steps_of
from spec2fn.engine.step import Skip
from spec2fn.errors import HostOnlyError
from spec2fn.pieces import pieces_of
from spec2fn.pipelines import MODES
from spec2fn.testing import contract, exposures, strategies

CASES = [
    # fixed slits beside slitlets have the steps of fixed slits alone
    pytest.param(
        name,
        exp_type,
        id=f"{name}-{exp_type}",
        marks=pytest.mark.nightly if name.startswith("fs/") else (),
    )
    for exp_type in exposures.EXP_TYPES
    for name in exposures.step_keys(exp_type)
]
SEEDS = st.integers(0, 2**32 - 1)


def _cost(exp_type):
    # the slit exposure of MIRI is a whole detector
    return strategies.share(0.03 if exp_type == "MIR_LRS-SLITLESS" else 0.02)


def test_every_step_is_covered():
    # lamps shine on the slits and slices of the sky, and have its steps
    modes = {mode for mode in MODES if ":" not in mode}
    assert modes <= set(exposures.EXP_TYPES), "add an exposure of the mode to spec2fn.testing"
    covered = {
        step.function.__name__ for _, pipeline in MODES.values() for step in steps_of(pipeline)
    }
    assert covered == set(registered_steps()), "a step that no pipeline has is not tested"


@pytest.mark.parametrize(("name", "exp_type"), CASES)
def test_contract(name, exp_type):
    given_to = exposures.step_input(name, exp_type)

    @_cost(exp_type)
    @given(seed=SEEDS)
    def check(seed):
        ds = strategies.disturb(given_to.dataset, seed)
        held = (ds, dict(given_to.references), dict(given_to.members))
        before = contract.content(held)
        out = given_to(ds)
        assert contract.content(held) == before, "the input was modified"
        contract.check_result(given_to.step, ds, out)

    check()


@pytest.mark.parametrize(("name", "exp_type"), CASES)
def test_compiled_equals_eager(name, exp_type):
    given_to = exposures.step_input(name, exp_type)
    if not given_to.step.traceable:
        pytest.skip("the step is host-side by declaration")
    compiled = transforms.jit(
        lambda ds, refs, members, plan: given_to.step(ds, plan=plan, **refs, **members)
    )

    # rounding decides whether a pixel at the limit of brightness scatters light
    near = 1e-5 if name == "straylight" else 1e-6

    @strategies.share(0.01)
    @given(seed=SEEDS)
    def check(seed):
        ds = strategies.disturb(given_to.dataset, seed)
        plan = given_to.plan(ds)
        if _skips(plan):
            return
        eager = given_to(ds, plan=plan)
        traced = compiled(ds, dict(given_to.references), dict(given_to.members), plan)
        contract.check_same(given_to.step, traced, eager, near=near)

    check()


def _skips(plan):
    return any(isinstance(p, Skip) for p in (plan if isinstance(plan, tuple) else (plan,)))


@pytest.mark.parametrize(("name", "exp_type"), CASES)
def test_planning_inside_a_trace_names_the_remedy(name, exp_type):
    given_to = exposures.step_input(name, exp_type)
    if given_to.plan(given_to.dataset) is None:
        pytest.skip("the step has one phase")
    compiled = transforms.jit(lambda ds: given_to.step(ds, **given_to.references))
    with pytest.raises(HostOnlyError, match=f"plan = {given_to.step.name}.plan"):
        compiled(given_to.dataset)


@pytest.mark.parametrize(("name", "exp_type"), CASES)
def test_the_same_call_gives_the_same_result(name, exp_type):
    given_to = exposures.step_input(name, exp_type)
    first = _values(given_to())
    given_to(strategies.disturb(given_to.dataset, 5))
    assert _values(given_to()) == first


def _values(out):
    return [contract.content(part)[:2] for part in pieces_of(out)]

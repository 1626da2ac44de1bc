"""What every step promises, checked for every registered step on disturbed exposures."""

import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spec2fn import transforms
from spec2fn.compose import Skip, registered_steps, steps_of
from spec2fn.dq import Pixel
from spec2fn.errors import HostOnlyError
from spec2fn.pipelines import MODES
from spec2fn.schema import PLANES, status_of
from spec2fn.testing import exposures, strategies

STEPS = sorted(registered_steps())
CASES = [
    pytest.param(name, exp_type, id=f"{name}-{exp_type}")
    for name in STEPS
    for exp_type in exposures.EXP_TYPES
    if any(e.name == name for e in exposures.pipeline(exp_type))
]
SEEDS = st.integers(0, 2**32 - 1)


def _cost(exp_type):
    # the slit exposure is a whole detector
    return strategies.share(0.12 if exp_type == "MIR_LRS-FIXEDSLIT" else 0.3)


def _fingerprint(value):
    """Bytes of everything a Dataset (or a mapping, or a tuple of them) holds."""
    if hasattr(value, "variables"):
        content = {
            name: (v.dims, v.dtype.str, zlib.crc32(np.ascontiguousarray(v.data).tobytes()))
            if v.dtype.kind != "O"
            else repr(v.data)
            for name, v in value.variables.items()
        }
        attrs = {k: v for k, v in value.attrs.items() if k not in ("meta", "tree")}
        return content, attrs, id(value.attrs.get("meta"))
    if isinstance(value, dict):
        return {k: _fingerprint(v) for k, v in value.items()}
    if isinstance(value, tuple):
        return tuple(map(_fingerprint, value))
    return value


def test_every_step_of_a_pipeline_is_covered():
    used = {step.name for _, pipeline in MODES.values() for step in steps_of(pipeline)}
    covered = {case.values[0] for case in CASES}
    assert used <= covered, "add an exposure of the mode to spec2fn.testing.exposures"


@pytest.mark.parametrize(("name", "exp_type"), CASES)
def test_contract(name, exp_type):
    given_to = exposures.step_input(name, exp_type)

    @_cost(exp_type)
    @given(seed=SEEDS)
    def check(seed):
        ds = strategies.disturb(given_to.dataset, seed)
        held = (ds, dict(given_to.references), dict(given_to.members))
        before = _fingerprint(held)
        out = given_to(ds)
        assert _fingerprint(held) == before, "the input was modified"
        _check_status(out, ds, name)
        _check_arrays(out, ds)
        _check_flags(out)

    check()


def _check_status(out, ds, name):
    status = status_of(out, name)
    if status != "COMPLETE":
        assert status.startswith("SKIPPED: ")
        assert len(status) > len("SKIPPED: ")
        assert set(out.variables) == set(ds.variables)
    for key, value in ds.attrs.items():
        if key.startswith("status_") and key != f"status_{name}":
            assert out.attrs[key] == value


def _check_arrays(out, ds):
    for name, variable in out.variables.items():
        data = variable.data
        assert isinstance(data, np.ndarray)
        mine = name not in ds.variables or data is not ds.variables[name].data
        assert not (mine and data.flags.writeable), f"{name} can be written to"
        if name in PLANES and "wave" not in variable.dims:
            assert variable.dtype == PLANES[name].dtype, name


def _check_flags(out):
    if "sci" not in out or "err" not in out:
        return
    sci, err = np.isnan(out["sci"].data), np.isnan(out["err"].data)
    np.testing.assert_array_equal(sci, err, "sci and err are not NaN together")
    if "dq" in out and out["dq"].shape == sci.shape:
        unusable = (out["dq"].data & np.uint32(Pixel.DO_NOT_USE)) != 0
        np.testing.assert_array_equal(sci, unusable, "NaN and DO_NOT_USE do not agree")


@pytest.mark.parametrize(("name", "exp_type"), CASES)
def test_compiled_equals_eager(name, exp_type):
    given_to = exposures.step_input(name, exp_type)
    if not given_to.step.traceable:
        pytest.skip("the step is host-side by declaration")
    compiled = transforms.jit(
        lambda ds, refs, members, plan: given_to.step(ds, plan=plan, **refs, **members)
    )

    @strategies.share(0.1)
    @given(seed=SEEDS)
    def check(seed):
        ds = strategies.disturb(given_to.dataset, seed)
        plan = given_to.plan(ds)
        if isinstance(plan, Skip):
            return
        eager = given_to(ds, plan=plan)
        traced = compiled(ds, dict(given_to.references), dict(given_to.members), plan)
        assert set(eager.variables) == set(traced.variables)
        for key, variable in eager.variables.items():
            _compare(key, np.asarray(traced[key].data), variable.data)

    check()


def _compare(name, traced, eager):
    assert traced.shape == eager.shape, name
    if eager.dtype.kind not in "fc":
        np.testing.assert_array_equal(traced, eager, name)
        return
    assert traced.dtype == eager.dtype, name
    np.testing.assert_array_equal(np.isnan(traced), np.isnan(eager), f"NaN of {name}")
    finite = np.isfinite(eager)
    np.testing.assert_array_equal(np.isfinite(traced), finite, f"infinities of {name}")
    # sums of float32 pixels in another order differ by their rounding
    size = np.abs(eager[finite]).max(initial=0.0)
    np.testing.assert_allclose(traced[finite], eager[finite], rtol=2e-5, atol=1e-6 * size)


@pytest.mark.parametrize(("name", "exp_type"), CASES)
def test_planning_inside_a_trace_names_the_remedy(name, exp_type):
    given_to = exposures.step_input(name, exp_type)
    if given_to.step.planner is None:
        pytest.skip("the step has one phase")
    compiled = transforms.jit(lambda ds: given_to.step(ds, **given_to.references))
    with pytest.raises(HostOnlyError, match=f"plan = {name}.plan"):
        compiled(given_to.dataset)


@pytest.mark.parametrize(("name", "exp_type"), CASES)
def test_the_same_call_gives_the_same_result(name, exp_type):
    given_to = exposures.step_input(name, exp_type)
    first = _fingerprint(given_to())[0]
    given_to(strategies.disturb(given_to.dataset, 5))
    assert _fingerprint(given_to())[0] == first

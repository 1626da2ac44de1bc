"""Mapped along a dim, a step does to each element what it does to all of them."""

import numpy as np
import pytest

from spec2fn import transforms
from spec2fn.engine.pipeline import find_steps
from spec2fn.engine.step import Skip
from spec2fn.errors import PlanError
from spec2fn.testing import exposures, strategies

DIMS = {
    "integration": ("MIR_LRS-SLITLESS", "NRS_BRIGHTOBJ"),
    "slit": ("NRS_FIXEDSLIT", "NRS_MSASPEC"),
}
DEFAULT = ("MIR_LRS-SLITLESS", "NRS_FIXEDSLIT")  # the others are slow: most time is compilation
# these compute with one list of the pixels of all slits, so that a slit costs what it has of them;
# within a list the pixels of a slit are as many as they are, which is no dim
LISTS = {
    "flat_field": "PixelList.position",
    "photom": "PixelList.position",
    "resample_spec": "Overlap.rows",
}

# of all integrations together: mapped along them, each would have a model of its own
JOINT = ("adaptive_trace_model",)


def parts(value):
    return getattr(value, "buckets", (value,))


def traceable(dim, exp_type):
    """Steps of a mode; in a branch with a single slit there is nothing to be mapped."""
    names = exposures.step_keys(exp_type)
    start = names.index("extract_2d") + 1 if dim == "slit" else 0
    steps = {n: find_steps(exposures.pipeline(exp_type), n)[0] for n in names[start:]}
    return [
        n
        for n, step in steps.items()
        # a step that wants all slits does something with them together
        if step.traceable
        and not n.startswith("fs/")
        and (dim != "slit" or step.scope != "slits")
        and not (dim == "integration" and n in JOINT)
    ]


CASES = [
    pytest.param(
        dim,
        name,
        exp_type,
        id=f"{dim}-{name}-{exp_type}",
        marks=() if exp_type in DEFAULT else pytest.mark.slow,
    )
    for dim, exp_types in DIMS.items()
    for exp_type in exp_types
    for name in traceable(dim, exp_type)
]


@pytest.mark.parametrize(("dim", "name", "exp_type"), CASES)
def test_mapping_along_a_dim_equals_the_step(dim, name, exp_type):
    given_to = exposures.step_input(name, exp_type)
    step = given_to.step
    mapped = transforms.jit(transforms.vmap(step, dim))
    ds = strategies.disturb(given_to.dataset, 3)
    if dim == "slit":
        ds = max(ds.buckets, key=lambda b: b.sizes["slit"])
    assert all(p.sizes[dim] > 1 for p in parts(ds))
    more = {**given_to.references, **given_to.members}
    plan = step.plan(ds, **more)
    if any(isinstance(p, Skip) for p in (plan if isinstance(plan, tuple) else (plan,))):
        pytest.skip("the step does not apply")
    if dim == "slit" and step.name in LISTS:
        with pytest.raises(PlanError, match=rf"{LISTS[step.name]}.*along 'slit'"):
            mapped(ds, plan=plan, **more)
        return
    one, all_at_once = mapped(ds, plan=plan, **more), step(ds, plan=plan, **more)
    for a, b in zip(parts(one), parts(all_at_once), strict=True):
        assert_same(a, b, dim)


def assert_same(out, expected, dim):
    assert set(out.variables) == set(expected.variables)
    # the spectrum of a single integration is no time series
    own = {"meta", "model"} if dim == "integration" else {"meta"}
    assert {k: v for k, v in out.attrs.items() if k not in own} == {
        k: v for k, v in expected.attrs.items() if k not in own
    }
    for name, variable in expected.variables.items():
        assert out[name].dims == variable.dims, name
        a, b = np.asarray(out[name].data), np.asarray(variable.data)
        if b.dtype.kind == "f":
            assert a.dtype == b.dtype, name
            finite = np.isfinite(b)
            np.testing.assert_array_equal(np.isfinite(a), finite, name)
            size = np.abs(b[finite]).max(initial=0.0)
            np.testing.assert_allclose(a[finite], b[finite], rtol=2e-5, atol=1e-6 * size)
        else:
            np.testing.assert_array_equal(a, b, name)

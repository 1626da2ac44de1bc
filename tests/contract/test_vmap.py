"""Mapped along a dim, a step does to each element what it does to all of them."""

import jax.numpy as jnp
import numpy as np
import pytest

from spec2fn import transforms
from spec2fn.engine.pipeline import find_steps
from spec2fn.engine.step import Skip
from spec2fn.testing import exposures, strategies

DIMS = {
    "integration": ("MIR_LRS-SLITLESS", "NRS_BRIGHTOBJ"),
    "slit": ("NRS_FIXEDSLIT", "NRS_MSASPEC", "NIS_WFSS"),
}
DEFAULT = ("MIR_LRS-SLITLESS", "NRS_FIXEDSLIT")  # the others are slow: most time is compilation
PLANES = ("sci", "var_poisson")

# what describes the grid of an output does not come out of a trace
UNTRACED = {"resample_spec": {"s_region", "resample_pixel_scale_ratio"}}

# steps whose plans list the pixels of all slits, with references and members of the plan that they
# have a derivative with respect to
LISTS = {
    "flat_field": ("dflat/fast_variation.data", "width"),
    "photom": ("photom/photom.relresponse", "pixar_sr"),
    "resample_spec": (None, "overlap/area"),
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
    one, all_at_once = mapped(ds, plan=plan, **more), step(ds, plan=plan, **more)
    for a, b in zip(parts(one), parts(all_at_once), strict=True):
        assert_same(a, b, dim, UNTRACED.get(step.name, set()))


@pytest.mark.parametrize(
    ("name", "exp_type"),
    [
        pytest.param(
            name,
            exp_type,
            marks=() if exp_type in DEFAULT and name != "flat_field" else pytest.mark.slow,
        )
        for name in LISTS
        for exp_type in ("NRS_FIXEDSLIT", "NRS_MSASPEC")
    ],
)
def test_slits_that_plans_list_together_can_be_mapped_and_differentiated(name, exp_type):
    key = next(n for n in traceable("slit", exp_type) if n.split("/")[-1] == name)
    given_to = exposures.step_input(key, exp_type)
    step, refs = given_to.step, given_to.references
    ds = max(given_to.dataset.buckets, key=lambda b: b.sizes["slit"])
    # two point sources with slits between them, and no pixel of the first one is listed
    types = np.array(["POINT", *["EXTENDED"] * (ds.sizes["slit"] - 2), "POINT"])
    wave = ds["wavelength"].where(ds["slit"] != ds["slit"][0])
    ds = ds.assign(source_type=("slit", types), wavelength=wave)
    ds = ds.assign({n: ds[n].where(ds["wavelength"].notnull()) for n in ("ra", "dec") if n in ds})
    plan = step.plan(ds, **refs)
    mapped = transforms.vmap(step, "slit")
    expected = step(ds, plan=plan, **refs)
    out = transforms.jit(mapped)(ds, plan=plan, **refs)
    assert_same(out, expected, "slit", UNTRACED.get(name, set()))

    rng = np.random.default_rng(4)
    weights = {n: rng.normal(size=expected[n].shape) / np.nanmax(expected[n]) for n in PLANES}

    def loss(function):
        def of(ds, refs, plan):
            out = function(ds, plan=plan, **refs)
            planes = ((w, jnp.asarray(out[n].data, dtype=float)) for n, w in weights.items())
            return sum(jnp.sum(w * jnp.where(jnp.isfinite(p), p, 0.0)) for w, p in planes)

        return of

    of_reference, of_plan = LISTS[name]
    wrt = {0: PLANES, 1: (of_reference,) if of_reference else (), 2: (of_plan,)}
    (value, found), (at_once, slopes) = (
        transforms.jit(transforms.value_and_grad(loss(f), wrt))(ds, refs, plan)
        for f in (mapped, step)
    )
    assert float(value) == pytest.approx(float(at_once), rel=1e-5)
    for i, names in wrt.items():
        for path in names:
            a, b = np.asarray(found[i][path]), np.asarray(slopes[i][path])
            assert np.isfinite(b).all(), path
            assert (b != 0).any(), path
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * np.abs(b).max(), err_msg=path)


@pytest.mark.slow
def test_warnings_of_some_slits_are_those_of_a_bucket():
    given_to = exposures.step_input("photom", "NRS_FIXEDSLIT")
    ds = max(given_to.dataset.buckets, key=lambda b: b.sizes["slit"])
    # without areas of pixels there is something to say of slits without a point source
    photom = given_to.references["photom"].drop_vars(("pixar_a2", "pixar_sr"), errors="ignore")
    plan = given_to.step.plan(ds, photom)
    assert [bool(w) for w in plan.warnings] == [False, True, True]
    out = transforms.jit(transforms.vmap(given_to.step, "slit"))(ds, photom, plan=plan)
    assert_same(out, given_to.step(ds, photom, plan=plan), "slit", set())


def assert_same(out, expected, dim, untraced):
    assert set(out.variables) == set(expected.variables) - untraced
    # the spectrum of a single integration is no time series
    own = {"meta", *untraced, *(["model"] if dim == "integration" else [])}
    assert {k: v for k, v in out.attrs.items() if k not in own} == {
        k: v for k, v in expected.attrs.items() if k not in own
    }
    for name, variable in expected.drop_vars(untraced, errors="ignore").variables.items():
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

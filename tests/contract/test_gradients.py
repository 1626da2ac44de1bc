"""Gradients through the steps and through whole pipelines, against finite differences."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spec2fn import transforms
from spec2fn.engine.pipeline import find_step
from spec2fn.engine.run import run
from spec2fn.engine.step import Skip
from spec2fn.testing import exposures, strategies

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
    if find_step(exposures.pipeline(exp_type), name).traceable
]


def _scalar(ds, weights):
    """A smooth function of everything a step made that has a scale."""
    if hasattr(ds, "buckets"):
        return sum(_scalar(b, weights) for b in ds.buckets)
    total = jnp.zeros(())
    for name in ("sci", "flux"):
        if name in ds:
            data = jnp.asarray(ds[name].data)
            good = jnp.isfinite(data)
            clean = jnp.where(good, data, 0.0).astype(jnp.float64)
            total = total + jnp.sum(jnp.asarray(weights(clean.shape)) * clean)
    return total


@pytest.mark.parametrize(("name", "exp_type"), CASES)
def test_gradients_are_finite_at_masked_pixels_too(name, exp_type):
    given_to = exposures.step_input(name, exp_type)

    def loss(ds, plan):
        out = given_to.step(ds, plan=plan, **given_to.references, **given_to.members)
        return _scalar(out, np.ones)

    parts = getattr(given_to.dataset, "buckets", None)
    # spectra that have been extracted before they are calibrated
    plane = "sci" if parts is not None or "sci" in given_to.dataset else "flux"
    wrt = (plane,) if parts is None else tuple(f"{i}/sci" for i in range(len(parts)))
    gradient = transforms.jit(transforms.value_and_grad(loss, wrt=wrt))

    @strategies.share(0.01)
    @given(seed=st.integers(0, 2**32 - 1))
    def check(seed):
        ds = strategies.disturb(given_to.dataset, seed)
        plan = given_to.plan(ds)
        if any(isinstance(p, Skip) for p in (plan if isinstance(plan, tuple) else (plan,))):
            return
        value, found = gradient(ds, plan)
        assert np.isfinite(float(value))
        for slope in found.values():
            assert np.isfinite(np.asarray(slope)).all()

    check()


@pytest.mark.parametrize("exp_type", exposures.RENDERED)
@pytest.mark.parametrize("wrt", ["sci", "flat", "photom"])
def test_gradients_of_the_spectrum_agree_with_finite_differences(exp_type, wrt):
    pipeline = tuple(e for e in exposures.pipeline(exp_type) if e.name != "assign_wcs")
    refs = dict(exposures.references(exp_type))
    obs = exposures.observation(exp_type)
    first = exposures.pipeline(exp_type)[0]
    members = {
        role: tuple(first(m, **_of(first, refs)) for m in values)
        for role, values in obs.members.items()
        if role == "background"
    }
    science = first(obs.science, **_of(first, refs))
    plans = run(pipeline, science, refs, members=members).plans

    def loss(ds, given):
        out = run(pipeline, ds, {**refs, **given}, members=members, plans=plans).dataset
        return _scalar(out, lambda shape: np.random.default_rng(7).normal(size=shape)) * 1e3

    given_refs = {"flat": refs["flat"], "photom": refs["photom"]}
    name = {"sci": "sci", "flat": "flat/sci", "photom": "photom/photom.photmjsr"}[wrt]
    where = 0 if wrt == "sci" else 1
    gradient = transforms.jit(transforms.value_and_grad(loss, wrt={where: (name,)}))
    _, found = gradient(science, given_refs)
    slope = np.asarray(found[where][name], dtype=np.float64)
    assert np.isfinite(slope).all()
    assert (slope != 0).any()

    held = np.asarray((science["sci"] if wrt == "sci" else _get(given_refs, name)).data)
    direction = _direction(held, slope)
    up, down = (
        loss(*_moved(science, given_refs, name, held, sign * direction)) for sign in (1, -1)
    )
    assert float(up - down) / 2 == pytest.approx(float((slope * direction).sum()), rel=2e-3)


def _of(step, refs):
    return {r: refs[r] for r in step.refs if r in refs}


def _get(refs, path):
    reference, _, variable = path.partition("/")
    return refs[reference][variable]


def _direction(held, slope):
    """A step large against the rounding of float32, small against the curvature."""
    rng = np.random.default_rng(3)
    step = rng.uniform(0.5, 1.5, held.shape) * np.sign(slope) * 2e-3 * np.nan_to_num(np.abs(held))
    return step.astype(held.dtype)


def _moved(science, refs, name, held, direction):
    moved = np.asarray(held + direction, dtype=held.dtype)
    if name == "sci":
        return science.assign(sci=(science["sci"].dims, moved, science["sci"].attrs)), refs
    reference, _, variable = name.partition("/")
    old = refs[reference]
    return science, {**refs, reference: old.assign({variable: (old[variable].dims, moved)})}

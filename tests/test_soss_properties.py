"""Overlapping orders, told apart: what must hold whatever the exposure, and gradients."""

from dataclasses import replace

import numpy as np
import pytest

from spec2fn.calibration import calibrate
from spec2fn.engine.pipeline import needed_references
from spec2fn.kernels.atoca import (
    decontaminate,
    order_amplitudes,
    order_models,
)
from spec2fn.plans.extraction.soss_references import trace_model
from spec2fn.plans.extraction.trace_fit import moved_plan
from spec2fn.schema import EXTRACTED, PLANES, replace_data
from spec2fn.spectra.order_spectra import extract_orders
from spec2fn.steps.extract_soss import extract_soss
from spec2fn.testing import exposures

SOSS = exposures.SOSS
COUNT = 3
FAST = {"soss_n_os": 1, "soss_tikfac": 1e-8, "soss_rtol": 1e-2}


@pytest.fixture(scope="module")
def given_to():
    return exposures.step_input("extract_1d", SOSS)


@pytest.fixture(scope="module")
def ds(given_to):
    return given_to.dataset


@pytest.fixture(scope="module")
def step():
    return extract_soss.with_(**FAST)


@pytest.fixture(scope="module")
def plan(given_to, step, ds):
    return step.plan(ds, **given_to.references)


def extracted(step, ds, given_to):
    return step(ds, **given_to.references)


def columns_of(out):
    return [n for n in EXTRACTED if n in out and out[n].dtype.kind == "f"]


def scaled(ds, factor):
    power = {"value": 1, "variance": 2}
    planes = {
        name: ds[name].data * np.float32(factor ** power[plane.kind])
        for name, plane in PLANES.items()
        if name in ds and plane.kind in power
    }
    return replace_data(ds, None, **planes)


def test_the_order_of_integrations_does_not_matter(step, ds, given_to):
    turned = ds.isel(integration=slice(None, None, -1))
    one, other = (extracted(step, d, given_to) for d in (ds, turned))
    for name in columns_of(one):
        a, b = one[name].values, other[name].values
        b = b[::-1] if "integration" in one[name].dims else b
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9 * np.nanmax(np.abs(a)), err_msg=name)


@pytest.mark.parametrize("factor", [2.0**-6, 4.0])
def test_flux_and_errors_scale_with_the_exposure(ds, given_to, factor):
    # what is searched for scales as well
    step = extract_soss.with_(**{**FAST, "soss_tikfac": None})
    one, other = (extracted(step, d, given_to) for d in (ds, scaled(ds, factor)))
    for name in ("flux", "flux_error", "flux_error_cov"):
        a, b = factor * one[name].values, other[name].values
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6 * np.nanmax(np.abs(a)), err_msg=name)
    np.testing.assert_array_equal(one["npixels"], other["npixels"])


def test_what_is_left_and_the_other_models_are_the_data(plan, ds):
    data = np.nan_to_num(ds["sci"].values.astype(float))
    amplitudes = order_amplitudes(plan.models, data)
    models = np.nan_to_num(order_models(plan.models, amplitudes))
    clean = decontaminate(plan.models, data, amplitudes)
    for k in range(len(plan.orders)):
        others = models.sum(1) - models[:, k]
        np.testing.assert_allclose(clean[:, k] + others, data, rtol=1e-12, atol=1e-9)


def test_models_are_linear_in_the_data(plan, ds):
    data = np.nan_to_num(ds["sci"].values.astype(float))
    together = order_amplitudes(plan.models, data[0] + 0.5 * data[1])
    apart = order_amplitudes(plan.models, data)
    np.testing.assert_allclose(together, apart[0] + 0.5 * apart[1], rtol=1e-9, atol=1e-7)


def test_pieces_of_integrations_give_the_same_products():
    obs = exposures.observation(SOSS, integrations=COUNT)
    pipeline = exposures.pipeline(SOSS)
    refs = dict(exposures.references(SOSS))
    options = {
        "params": {"extract_1d": FAST},
        "parameter_references": False,
        "overrides": {k: refs.get(k) for k in needed_references(pipeline)},
    }
    whole = calibrate(obs, **options)
    pieces = calibrate(obs, **options, chunk_integrations=2)
    for kind, product in whole.products.items():
        for name in product.variables:
            np.testing.assert_array_equal(
                pieces.products[kind][name].data, product[name].data, err_msg=f"{kind} {name}"
            )


def test_a_blank_integration_is_a_blank_spectrum_and_harms_no_other(step, given_to, ds):
    sci = np.array(ds["sci"].values)
    dq = np.array(ds["dq"].values)
    three = ds.isel(integration=[0, 1, 0])
    sci, dq = (np.concatenate([v, v[:1]]) for v in (sci, dq))
    sci[2], dq[2] = np.nan, dq[2] | 1
    blank = three.assign(sci=(three["sci"].dims, sci), dq=(three["dq"].dims, dq))
    out = extracted(step, blank, given_to)
    usual = extracted(step, ds, given_to)
    assert np.isnan(out["flux"].values[2]).all()
    lit = np.isfinite(usual["flux"].values)
    a, b = out["flux"].values[:2][lit], usual["flux"].values[lit]
    assert np.median(np.abs(a / b - 1)) < 1e-4


def test_an_always_bad_column_has_no_spectrum_and_its_neighbours_do(step, given_to, ds):
    sci, dq = (np.array(ds[n].values) for n in ("sci", "dq"))
    sci[:, :, 400], dq[:, :, 400] = np.nan, dq[:, :, 400] | 1
    out = extracted(step, ds.assign(sci=(ds["sci"].dims, sci), dq=(ds["dq"].dims, dq)), given_to)
    usual = extracted(step, ds, given_to)
    flux = out["flux"].values[:, 0]
    assert np.isnan(flux[:, 400]).all()
    near = [*range(390, 400), *range(401, 411)]
    np.testing.assert_allclose(flux[:, near], usual["flux"].values[:, 0, near], rtol=5e-3)


# -- gradients ---------------------------------------------------------------------------------


def directional(loss, at, direction, step):
    """Slope along a direction: by JAX, and by central differences of two steps (Richardson)."""
    import jax

    at, direction = (jax.numpy.asarray(v, dtype=float) for v in (at, direction))
    slope = jax.jit(jax.grad(loss))(at)
    loss = jax.jit(loss)

    def central(h):
        return float(loss(at + h * direction) - loss(at - h * direction)) / (2 * h)

    numeric = (4 * central(step / 2) - central(step)) / 3
    return float((slope * direction).sum()), numeric


def weights_for(out, seed=0):
    weights = np.random.default_rng(seed).standard_normal(out.shape)
    return np.where(np.isfinite(out), weights, 0.0)


@pytest.fixture(scope="module")
def kept(plan):
    pytest.importorskip("jax")
    return plan


def test_gradient_in_the_pixels(kept, ds):
    import jax.numpy as jnp

    sci = np.nan_to_num(ds["sci"].values.astype(float))
    weights = weights_for(order_amplitudes(kept.models, sci))

    def loss(data):
        out = order_amplitudes(kept.models, data)
        return (weights * jnp.where(jnp.isfinite(out), out, 0.0)).sum()

    direction = np.random.default_rng(1).standard_normal(sci.shape)
    exact, numeric = directional(loss, sci, direction, 1e-2)
    assert exact == pytest.approx(numeric, rel=1e-5)


def test_gradient_in_the_factor(kept, ds):
    import jax.numpy as jnp

    sci = np.nan_to_num(ds["sci"].values.astype(float))
    weights = weights_for(order_amplitudes(kept.models, sci))
    start = float(np.log(kept.models.joint.factor))

    def loss(log_factor):
        joint = replace(kept.models.joint, factor=jnp.exp(log_factor))
        out = order_amplitudes(replace(kept.models, joint=joint), jnp.asarray(sci))
        return (weights * jnp.where(jnp.isfinite(out), out, 0.0)).sum()

    exact, numeric = directional(loss, start, 1.0, 4e-3)
    assert exact == pytest.approx(numeric, rel=1e-5)


def test_gradient_in_the_profile(kept, ds):
    import jax.numpy as jnp

    sci = np.nan_to_num(ds["sci"].values.astype(float))[0]
    weights = weights_for(order_amplitudes(kept.models, sci))

    def loss(profile):
        out = order_amplitudes(replace(kept.models, profile=profile), jnp.asarray(sci))
        return (weights * jnp.where(jnp.isfinite(out), out, 0.0)).sum()

    direction = np.asarray(kept.profile) * np.random.default_rng(2).standard_normal(
        kept.profile.shape
    )
    # with smaller steps rounding shows: 1e-8 of the slope at 1e-5
    exact, numeric = directional(loss, kept.profile, direction, 1e-3)
    assert exact == pytest.approx(numeric, rel=1e-8)


def test_gradient_in_the_response(kept, ds):
    """Of which throughput and resolution are factors."""
    import jax.numpy as jnp

    sci = np.nan_to_num(ds["sci"].values.astype(float))[0]
    weights = weights_for(order_amplitudes(kept.models, sci))

    def loss(throughput):
        joint = kept.models.joint
        joint = replace(joint, response=jnp.asarray(joint.response) * throughput[..., None])
        out = order_amplitudes(replace(kept.models, joint=joint), jnp.asarray(sci))
        return (weights * jnp.where(jnp.isfinite(out), out, 0.0)).sum()

    shape = kept.models.joint.response.shape[:2]
    smooth = np.sin(np.linspace(0, 3, shape[1])) * np.array([[1.0], [-0.5]])
    # with smaller steps rounding shows: 1e-6 of the slope at 1e-5
    exact, numeric = directional(loss, np.ones(shape), smooth, 3e-3)
    assert exact == pytest.approx(numeric, rel=1e-7)


@pytest.mark.parametrize("wanted", [pytest.param("position", marks=pytest.mark.slow), "shift"])
def test_gradient_of_the_flux_in_the_angle_of_the_wheel(kept, ds, given_to, wanted):
    import jax.numpy as jnp

    model = trace_model(ds, given_to.references["pastasoss"], kept.orders)
    start = {"position": model.position, "shift": 0.0}
    weights = weights_for(extract_orders(ds, kept)["flux"].values)

    def loss(value):
        plan = moved_plan(kept, model, **{**start, wanted: value})
        out = extract_orders(ds, plan)["flux"].data
        return (weights * jnp.where(jnp.isfinite(out), out, 0.0)).sum()

    # edges of boxes that cross one of a pixel make kinks, of which a small step meets few, and
    # with smaller ones rounding shows: 1e-3 of the slope at 1e-9
    exact, numeric = directional(loss, start[wanted], 1.0, 1e-5)
    assert abs(exact) > 0
    assert exact == pytest.approx(numeric, rel=1e-5)


def test_a_plan_that_is_not_moved_is_the_plan(kept, ds, given_to):
    model = trace_model(ds, given_to.references["pastasoss"], kept.orders)
    same = moved_plan(kept, model, model.position)
    for name in ("weights", "wavelength", "profile"):
        np.testing.assert_allclose(getattr(same, name), getattr(kept, name), atol=1e-12)
    flux, usual = (extract_orders(ds, p)["flux"].values for p in (same, kept))
    np.testing.assert_allclose(flux, usual, rtol=1e-9, atol=1e-9 * np.nanmax(usual))
    lower = moved_plan(kept, model, model.position, shift=-2.5)
    box = np.take_along_axis(lower.weights, lower.rows, axis=1)
    np.testing.assert_allclose(box.sum(axis=1), lower.weights.sum(axis=1), atol=1e-12)


@pytest.mark.slow
def test_gradient_of_the_flux_in_the_exposure(kept, ds, given_to):
    import jax.numpy as jnp

    weights = weights_for(extract_orders(ds, kept)["flux"].values)

    def loss(sci):
        out = extract_orders(ds.assign(sci=(ds["sci"].dims, sci)), kept)["flux"].data
        return (weights * jnp.where(jnp.isfinite(out), out, 0.0)).sum()

    sci = ds["sci"].values.astype(float)
    direction = np.random.default_rng(1).standard_normal(sci.shape)
    exact, numeric = directional(loss, sci, np.where(np.isfinite(sci), direction, 0.0), 1.0)
    assert exact == pytest.approx(numeric, rel=1e-5)

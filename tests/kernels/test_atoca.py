"""ATOCA against dense linear algebra on a small exposure."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spec2fn.host.atoca import AtocaSettings, pixel_ends, plan_atoca
from spec2fn.kernels.atoca import (
    contamination_variance,
    decontaminate,
    order_amplitudes,
    order_models,
)
from spec2fn.kernels.spectrum_fit import (
    amplitude_covariance,
    column_sums,
    fit_spectrum,
    pixel_integrals,
)
from tests.soss_orders import COLUMNS, ROWS, SETTINGS, flux, orders

FACTOR = 1e-3


@pytest.fixture(autouse=True)
def _double_precision():
    with jax.enable_x64(True):
        yield


def exposure(seed=0, factor=FACTOR, along=None, **settings):
    """Plan and data of integrations that obey the model of the plan."""
    rng = np.random.default_rng(seed)
    three = orders()
    error = np.full((ROWS, COLUMNS), 0.4) + 0.1 * rng.random((ROWS, COLUMNS))
    mask = rng.random(error.shape) < 0.02
    mask[:, 40] = True
    unmodelled = np.zeros(error.shape, bool)
    unmodelled[:, :2] = True
    blank = np.ones(error.shape)
    choices = {**SETTINGS, "factor": factor, **settings}
    given = {"wave_grid": np.linspace(1.0, 2.79, 900), "estimate": estimate()}
    one = {**choices, "factor": FACTOR, "search": "official"}
    draft = plan_atoca(
        three, blank, error, mask, unmodelled, settings=AtocaSettings(**one), **given
    )
    truth = amplitudes_of(draft, flux)
    image = np.nansum(order_models(draft, truth), axis=0)
    data = image + error * rng.normal(size=(3, *image.shape))
    given["optics"] = True
    given |= along or {}
    plan = plan_atoca(
        three, data[0], error, mask, unmodelled, settings=AtocaSettings(**choices), **given
    )
    return plan, data, truth, error


def estimate():
    wave = np.linspace(0.9, 2.8, 300)
    return np.array([wave, flux(wave)])


def amplitudes_of(plan, spectrum):
    """Amplitudes that the fits of a plan give to a spectrum; NaN where there are none."""
    out = np.full(plan.profile.shape[::2], np.nan)
    for fit in (*plan.alone.values(), plan.joint):
        light = spectrum(fit.wave) * (1 if fit is plan.joint else 0.01)
        known = (dense(fit) @ light).reshape(fit.response.shape[:2])
        for i, order in enumerate(fit.orders):
            out[order] = np.where(fit.covered[i], known[i], out[order])
    return out


def dense(fit):
    """Response as a matrix, (order times disp, wave)."""
    many, disp, taps = fit.response.shape
    out = np.zeros((many * disp, len(fit.wave)))
    at = fit.first.reshape(-1, 1) + np.arange(taps)
    np.put_along_axis(out, at, fit.response.reshape(-1, taps), axis=1)
    return out


def normal(fit, sums):
    """Dense response, precision of its rows, and the slope times the factor."""
    many, disp = fit.response.shape[:2]
    listed = (np.asarray(fit.position)[: many * disp] < len(fit.chain)).ravel()
    matrix = dense(fit) * listed[:, None]
    precision = np.zeros((many * disp, many * disp))
    for o in range(many):
        for p in range(many):
            place = np.arange(disp)
            precision[o * disp + place, p * disp + place] = sums.precision[o, p]
    slope = np.diff(np.eye(len(fit.wave)), axis=0) / np.diff(fit.wave)[:, None]
    return matrix, precision, float(fit.factor) * slope


def fits(plan, data):
    for fit in (plan.joint, *plan.alone.values()):
        yield fit, column_sums(plan.profile[list(fit.orders)], fit.weight, data)


def solved(matrix, precision, smooth, pull):
    """Spectrum by least squares, which loses less to rounding than the normal equations."""
    size, vectors = np.linalg.eigh(precision)
    keep = size > 0
    root = (vectors[:, keep] * np.sqrt(size[keep])).T
    whitened = (vectors[:, keep] / np.sqrt(size[keep])).T @ pull.reshape(len(pull), -1).T
    right = np.concatenate([whitened, np.zeros((len(smooth), len(pull)))])
    return np.linalg.lstsq(np.concatenate([root @ matrix, smooth]), right, rcond=None)[0].T


@pytest.mark.parametrize("factor", [1e-5, 1e-3, 1.0])
def test_the_spectrum_solves_the_normal_equations(factor):
    plan, data, *_ = exposure(factor=factor)
    for fit, sums in fits(plan, data):
        tried = replace(fit, factor=np.array(factor))
        matrix, precision, slope = normal(tried, sums)
        expected = solved(matrix, precision, slope, sums.pull)
        spectrum, amplitude = fit_spectrum(tried, sums)
        found = amplitude.reshape(len(data), -1) * (matrix != 0).any(axis=1)
        scale = np.abs(expected @ matrix.T).max()
        np.testing.assert_allclose(found, expected @ matrix.T, atol=3e-7 * scale)
        np.testing.assert_allclose(spectrum, expected, atol=1e-5 * np.abs(expected).max())


def test_covariances_are_those_of_the_dense_inverse():
    plan, data, *_ = exposure()
    for fit, sums in fits(plan, data):
        matrix, precision, slope = normal(fit, sums)
        inverse = np.linalg.inv(matrix.T @ precision @ matrix + slope.T @ slope)
        gain = matrix @ inverse @ matrix.T
        found = amplitude_covariance(fit, sums.precision)
        many, disp = fit.response.shape[:2]
        place = np.arange(disp)
        for o, p in np.ndindex(many, many):
            for ours, theirs in (
                (found.posterior, gain),
                (found.sampling, gain @ precision @ gain),
            ):
                listed = (np.asarray(fit.position)[: many * disp] < len(fit.chain)).reshape(
                    many, -1
                )
                wanted = theirs[o * disp + place, p * disp + place] * listed[o] * listed[p]
                np.testing.assert_allclose(ours[o, p], wanted, atol=3e-5 * np.abs(wanted).max())


def test_variance_of_decontaminated_sums():
    plan, data, truth, error = exposure()
    used = np.asarray(plan.joint.weight) > 0
    weights = np.stack([o.aperture for o in orders()]) * used
    rng = np.random.default_rng(5)
    noisy = data[:1] * 0 + error * rng.normal(size=(600, *error.shape))
    noisy = np.where(plan.modelled, noisy, 0.0)
    summed = (weights * decontaminate(plan, noisy, order_amplitudes(plan, noisy))).sum(axis=-2)
    predicted = (weights**2 * error**2).sum(axis=1) + contamination_variance(plan, weights)
    covered = np.isfinite(truth[:2]).all(axis=0) & (weights.sum(axis=1) > 5).all(axis=0)
    ratio = summed.std(axis=0)[:2, covered] / np.sqrt(predicted[:2, covered])
    assert abs(ratio.mean() - 1) < 0.01
    assert (abs(ratio - 1) < 0.18).all()


def test_models_find_the_truth_and_share_the_light():
    plan, data, truth, _ = exposure(factor=None, search="evidence")
    amplitudes = order_amplitudes(plan, data)
    assert (np.isfinite(amplitudes) == np.isfinite(truth)).all()
    sums = column_sums(plan.profile[:2], plan.joint.weight, data)
    known = amplitude_covariance(plan.joint, sums.precision).posterior
    for o in range(2):
        some = plan.joint.covered[o] & (known[o, o] > 0)
        pulls = (amplitudes - truth)[:, o, some] / np.sqrt(known[o, o, some])
        assert abs(np.median(pulls)) < 0.5
        assert 0.6 < np.percentile(np.abs(pulls), 68) < 1.5
    models = order_models(plan, amplitudes)
    assert np.isnan(models[..., ~plan.modelled]).all()
    alone = decontaminate(plan, data, amplitudes)
    others = np.nansum(models, axis=1, keepdims=True) - np.nan_to_num(models)
    np.testing.assert_allclose(alone + others, data[:, None] + 0 * alone, atol=1e-9)


def test_errors_of_each_integration_count_where_they_are_given():
    plan, data, _, error = exposure()
    same = order_amplitudes(plan, data, np.broadcast_to(error, data.shape))
    np.testing.assert_allclose(same, order_amplitudes(plan, data), rtol=1e-9)
    errors = np.stack([error, 2 * error, error])
    errors[2, :, 100:] = np.nan
    other = order_amplitudes(plan, data, errors)
    np.testing.assert_array_equal(other[:, 0], same[:, 0])
    assert np.nanmax(np.abs(other[1] / same[1] - 1)) > 1e-6


def test_the_optics_make_the_response():
    plan, *_ = exposure()
    for i, key in enumerate("01"):
        made = plan.optics[key].response()
        np.testing.assert_allclose(made, plan.joint.response[i], atol=1e-12 * made.max())


def traced(plan):
    def moved(fit):
        names = ("response", "wave", "factor", "weight")
        return replace(fit, **{n: jnp.asarray(getattr(fit, n)) for n in names})

    alone = {k: moved(f) for k, f in plan.alone.items()}
    return replace(plan, joint=moved(plan.joint), alone=alone, profile=jnp.asarray(plan.profile))


def test_jax_agrees_and_maps_over_integrations():
    plan, data, *_ = exposure()
    expected = order_amplitudes(plan, data)
    moved = traced(plan)
    mapped = jax.jit(jax.vmap(lambda image: order_amplitudes(moved, image)))(jnp.asarray(data))
    np.testing.assert_allclose(mapped, expected, rtol=1e-6)


def test_gradients_agree_with_finite_differences():
    plan, data, *_ = exposure()
    plan = traced(plan)
    rng = np.random.default_rng(7)
    weights = rng.normal(size=plan.profile.shape[::2])
    start = {
        "data": jnp.asarray(data[0]),
        "factor": jnp.log(plan.joint.factor),
        "profile": plan.profile,
        "gain": jnp.asarray(plan.optics["0"].gain),
        "shift": jnp.asarray(0.0),
    }
    smooth = np.sin(np.arange(COLUMNS) / 9.0)
    direction = {
        "data": (1.0, rng.normal(size=data[0].shape)),
        "factor": (1e-2, np.array(1.0)),
        "profile": (1e-3, plan.profile * smooth),
        "gain": (1e-3, start["gain"] * np.sin(9 * plan.optics["0"].wave)),
        "shift": (1e-6, np.array(1.0)),
    }

    @jax.jit
    def loss(values):
        first, second = (plan.optics[key] for key in "01")
        response = [
            first.response(gain=values["gain"], shift=values["shift"]),
            second.response(shift=values["shift"]),
        ]
        joint = replace(plan.joint, factor=jnp.exp(values["factor"]), response=jnp.stack(response))
        changed = replace(plan, joint=joint, profile=values["profile"])
        found = order_amplitudes(changed, values["data"])
        return jnp.where(jnp.isfinite(found), found * weights, 0.0).sum()

    def central(name, along, step):
        ends = [float(loss({**start, name: start[name] + sign * step * along})) for sign in (1, -1)]
        return (ends[0] - ends[1]) / (2 * step)

    gradient = jax.jit(jax.grad(loss))(start)
    for name, (step, along) in direction.items():
        slope = float(jnp.vdot(gradient[name], along))
        coarse, fine = (central(name, along, h) for h in (step, step / 2))
        # with smaller steps rounding shows, with a larger shift ends of pixels cross nodes
        rel = 1e-5 if name == "shift" else 1e-8
        assert slope == pytest.approx((4 * fine - coarse) / 3, rel=rel), name


def test_integrals_of_pixels_are_exact_for_straight_lines_and_follow_the_wavelengths():
    grid = np.sort(np.random.default_rng(0).random(60))
    lower, upper = np.array([0.2, 0.31, 0.5]), np.array([0.3, 0.315, 0.9])
    first = np.searchsorted(grid, lower, side="right") - 1
    weights = pixel_integrals(grid, lower, upper, first, 45)
    at = np.minimum(first[:, None] + np.arange(45), 59)
    found = (weights * (2.0 - 3.0 * grid[at])).sum(axis=1)
    np.testing.assert_allclose(found, 2 * (upper - lower) - 1.5 * (upper**2 - lower**2), rtol=1e-10)

    def light(shift):
        moved = [jnp.asarray(e) + shift for e in (lower, upper)]
        values = pixel_integrals(jnp.asarray(grid), *moved, first, 45)
        return (values * jnp.asarray(grid[at] ** 2)).sum()

    numeric = (light(1e-6) - light(-1e-6)) / 2e-6
    np.testing.assert_allclose(jax.grad(light)(0.0), numeric, rtol=1e-6)


def test_ends_of_pixels():
    low, high = pixel_ends(np.array([np.nan, 3.0, 2.0, 1.5]))
    np.testing.assert_allclose(low, [0, 2.5, 1.75, 1.25])
    np.testing.assert_allclose(high, [0, 3.5, 2.5, 1.75])

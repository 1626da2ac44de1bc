"""Field stars and constants of columns, fitted along with the orders."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spec2fn.errors import InputError
from spec2fn.kernels.atoca import (
    contamination_variance,
    decontaminate,
    order_amplitudes,
)
from spec2fn.kernels.atoca_nuisances import contaminant_variance, without_nuisances
from spec2fn.kernels.spectrum_fit import (
    column_sums,
)
from tests.kernels.test_atoca import dense, exposure, normal
from tests.soss_orders import COLUMNS, ROWS, orders

STRENGTHS = np.array([[5.0, 0.0], [8.0, 3.0], [0.0, -2.0]])


@pytest.fixture(autouse=True)
def _double_precision():
    with jax.enable_x64(True):
        yield


def stars(places=((26, 60), (30, 90))):
    y, x = np.mgrid[:ROWS, :COLUMNS]
    return np.array([np.exp(-((y - r) ** 2 + (x - c) ** 2) / 6.0) for r, c in places])


def summed(plan, weights, data):
    clean = without_nuisances(plan, data).data
    return (weights * decontaminate(plan, clean, order_amplitudes(plan, clean))).sum(axis=-2)


def everything(plan):
    """Design matrix of the pixels of the joint fit, precision of what is sought, and the pixels."""
    fit = plan.joint
    used = np.asarray(fit.weight) > 0
    column = np.nonzero(used)[1]
    response = dense(fit).reshape(2, COLUMNS, -1)
    light = np.einsum("op,opw->pw", plan.profile[:2][:, used], response[:, column])
    stripes = np.eye(COLUMNS)[column]
    images = plan.nuisances.images[:, used].T
    sums = column_sums(plan.profile[:2], fit.weight, np.zeros(used.shape))
    slope = normal(fit, sums)[2]
    matrix = np.concatenate([light, images, stripes], axis=1)
    size = light.shape[1]
    precision = np.zeros((matrix.shape[1],) * 2)
    precision[:size, :size] = slope.T @ slope
    precision[-COLUMNS:, -COLUMNS:] = np.eye(COLUMNS) / float(plan.nuisances.flicker) ** 2
    return matrix, precision, used, size


def test_they_are_those_of_a_fit_of_everything_at_once():
    plan, data, *_ = exposure(along={"contaminants": stars(), "flicker": 3.0})
    # pixels of one fit
    plan = replace(plan, alone={}, nuisances=replace(plan.nuisances, alone=()))
    lit = data + np.einsum("ik,kyx->iyx", STRENGTHS, stars())
    found = without_nuisances(plan, lit)
    matrix, precision, used, size = everything(plan)
    weight = np.asarray(plan.joint.weight)[used]
    left = matrix.T @ (weight[:, None] * matrix) + precision
    expected = np.linalg.lstsq(left, matrix.T @ (weight * lit[:, used]).T, rcond=1e-14)[0].T
    np.testing.assert_allclose(found.strength, expected[:, size : size + 2], atol=1e-4)
    np.testing.assert_allclose(found.level, expected[:, size + 2 :], atol=1e-4)
    light = expected[:, :size] @ dense(plan.joint).T
    known = np.asarray(plan.joint.covered).ravel()
    amplitudes = order_amplitudes(plan, found.data)[:, :2].reshape(len(lit), -1)
    scale = np.abs(light[:, known]).max()
    np.testing.assert_allclose(amplitudes[:, known], light[:, known], atol=1e-5 * scale)


def test_field_stars_are_told_from_the_orders():
    plan, data, *_ = exposure(along={"contaminants": stars()})
    lit = data + np.einsum("ik,kyx->iyx", STRENGTHS, stars())
    found, plain = (without_nuisances(plan, d) for d in (lit, data))
    # linear, and unbiased within the noise of a star of ten pixels
    np.testing.assert_allclose(found.strength - plain.strength, STRENGTHS, atol=1e-6)
    np.testing.assert_allclose(found.strength, STRENGTHS, atol=1.0)
    np.testing.assert_allclose(found.data, plain.data, atol=1e-5)
    assert (found.level == 0).all()


def test_the_smoothness_is_found_without_them():
    star = 300 * stars()
    usual = exposure(factor=None, search="evidence")[0].joint.factor
    along = {"contaminants": stars()}
    data = exposure()[1][:1] + star.sum(axis=0)
    plan = planned(data[0], along)
    other = planned(data[0], {})
    assert abs(np.log(plan.joint.factor / usual)) < 0.2
    assert abs(np.log(other.joint.factor / usual)) > 1.0
    assert np.allclose(without_nuisances(plan, data[0]).strength, 300, atol=2)


def planned(image, along):
    """Plan of the exposure for another image."""
    from spec2fn.host import atoca
    from tests.kernels import test_atoca

    made, real = [], atoca.plan_atoca

    def with_image(three, data, *rest, **given):
        if given["settings"].search == "evidence":
            data = image
        made.append(real(three, data, *rest, **given))
        return made[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(test_atoca, "plan_atoca", with_image)
        return exposure(factor=None, search="evidence", along=along)[0]


def test_a_constant_in_each_column_is_told_from_the_orders():
    plan, data, *_ = exposure(along={"flicker": 3.0})
    level = np.random.default_rng(3).normal(0, 3.0, (3, COLUMNS))
    flickering = data + level[:, None]
    plain, clean = order_amplitudes(plan, flickering), order_amplitudes(plan, data)
    found = without_nuisances(plan, flickering)
    fitted = order_amplitudes(plan, found.data)
    seen = (np.asarray(plan.joint.weight) > 0).sum(axis=0) > 5
    assert np.std((found.level - level)[:, seen]) < 0.2 * level.std()
    assert (found.level[:, (np.asarray(plan.joint.weight) == 0).all(axis=0)] == 0).all()
    for order in range(3):
        known = np.isfinite(fitted[:, order]) & seen
        worse = np.std((plain - clean)[:, order][known])
        assert np.std((fitted - clean)[:, order][known]) < 0.35 * worse
    # and without a prior nothing depends on it
    free = replace(plan, nuisances=replace(plan.nuisances, flicker=np.array(np.inf)))
    both = [order_amplitudes(free, without_nuisances(free, d).data) for d in (data, flickering)]
    np.testing.assert_allclose(both[0], both[1], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "along",
    [{"flicker": 0.3}, {"contaminants": stars(), "flicker": 3.0}],
    ids=["columns", "both"],
)
def test_variance_of_decontaminated_sums(along):
    plan, _, truth, error = exposure(along=along)
    used = np.asarray(plan.joint.weight) > 0
    weights = np.stack([o.aperture for o in orders()]) * used
    rng = np.random.default_rng(5)
    noisy = error * rng.normal(size=(600, *error.shape))
    noisy += along.get("flicker", 0.0) * rng.normal(size=(600, 1, COLUMNS))
    found = summed(plan, weights, np.where(plan.modelled, noisy, 0.0))
    predicted = (weights**2 * error**2).sum(axis=1) + contamination_variance(plan, weights)
    predicted += contaminant_variance(plan, weights)
    covered = np.isfinite(truth[:2]).all(axis=0) & (weights.sum(axis=1) > 5).all(axis=0)
    ratio = found.std(axis=0)[:2, covered] / np.sqrt(predicted[:2, covered])
    assert abs(ratio.mean() - 1) < 0.02
    assert (abs(ratio - 1) < 0.18).all()


def test_variance_by_the_strengths_of_stars():
    plan, _, _, error = exposure(along={"contaminants": stars(), "flicker": 3.0})
    used = np.asarray(plan.joint.weight) > 0
    weights = np.stack([o.aperture for o in orders()])
    none = {"images": stars()[:0], "normal": np.zeros((0, 0)), "levels": np.zeros((0, COLUMNS))}
    without = replace(plan, nuisances=replace(plan.nuisances, **none))
    change = np.zeros((3, COLUMNS))
    for column in range(52, 70):  # one pixel after the other
        rows = np.flatnonzero(used[:, column])
        noise = np.zeros((len(rows), ROWS, COLUMNS))
        noise[np.arange(len(rows)), rows, column] = error[rows, column]
        for one, sign in ((plan, 1), (without, -1)):
            change += sign * (summed(one, weights, noise) ** 2).sum(axis=0)
    expected = contaminant_variance(plan, weights)
    # but for noise of the few pixels that only fits of single orders have
    near = slice(57, 64)
    most = np.abs(expected[:, near]).max()
    np.testing.assert_allclose(change[:, near], expected[:, near], atol=0.02 * most)


def test_what_cannot_be_told_apart_says_so():
    twice = np.concatenate([stars(), stars()[:1]])
    outside = np.zeros((1, ROWS, COLUMNS))
    outside[0, 0, 50] = 1.0
    for images, number in ((twice, "3 of 3"), (np.concatenate([stars(), outside]), "3 of 3")):
        with pytest.raises(InputError, match=f"image {number}; leave it out"):
            exposure(along={"contaminants": images})


def test_jax_agrees():
    plan, data, *_ = exposure(along={"contaminants": stars(), "flicker": 3.0})
    expected = without_nuisances(plan, data)
    found = jax.jit(jax.vmap(lambda image: without_nuisances(plan, image)))(jnp.asarray(data))
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)

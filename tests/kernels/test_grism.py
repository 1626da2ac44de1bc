"""Polynomial traces: their inverse against the roots of NumPy, and the approximate ones."""

import numpy as np
import pytest

from spec2fn.kernels.grism import (
    evaluate,
    field_coefficients,
    from_samples,
    rotated,
    solve,
    to_nearest_sample,
)

CUBIC = [12.0, -300.0, 8.0, -3.0]
FOLDED = [-56.0, 2655.0, -5218.0]  # turns back at t = 0.25


@pytest.mark.parametrize("coefficients", [[5.0, -3.0], [5.0, 300.0, 20.0], CUBIC])
def test_the_inverse_is_exact(coefficients):
    t = np.linspace(-0.2, 1.3, 41)
    np.testing.assert_allclose(
        solve(coefficients, evaluate(coefficients, t)), t, rtol=0, atol=1e-14
    )


def test_the_inverse_is_a_root():
    value = np.array([10.0, -120.0, -280.0])
    for v, t in zip(value, solve(CUBIC, value), strict=True):
        roots = np.roots([*CUBIC[:0:-1], CUBIC[0] - v])
        real = roots[abs(roots.imag) < 1e-9].real
        assert abs(real - t).min() < 1e-13


def test_a_trace_that_turns_back_has_two_branches():
    t = np.array([0.0, 0.1, 0.24, 0.26, 0.4, 1.0])
    value = evaluate(FOLDED, t)
    longer, shorter = (solve(FOLDED, value, turned_back=b) for b in (False, True))
    np.testing.assert_allclose(np.where(t > 0.2544, longer, shorter), t, atol=1e-9)
    turn = 2655 / 5218
    np.testing.assert_allclose(longer + shorter, turn, atol=1e-9)
    # beyond the turning point there is nothing, and a straight trace does not turn
    assert np.isnan(solve(FOLDED, np.array([300.0, 1e5]))).all()
    assert np.isnan(solve([1.0, 2.0], value, turned_back=True)).all()


def test_many_sources_at_once():
    rng = np.random.default_rng(0)
    coefficients = [rng.normal(size=(5, 1)), 300 + rng.normal(size=(5, 1)), rng.normal(size=(5, 1))]
    t = rng.uniform(size=(5, 7))
    found = solve(coefficients, evaluate(coefficients, t))
    np.testing.assert_allclose(found, t, atol=1e-14)
    for k in range(5):
        one = [c[k] for c in coefficients]
        np.testing.assert_allclose(solve(one, evaluate(one, t[k])), found[k], atol=1e-15)


def test_field_dependence():
    c = np.array([[[1.0, 2.0], [3.0, 0.0]], [[4.0, 0.0], [0.0, 0.0]]])
    first, second = field_coefficients(c, np.array([10.0, 20.0]), np.array([5.0, 6.0]))
    np.testing.assert_array_equal(first, [1 + 2 * 5 + 3 * 10, 1 + 2 * 6 + 3 * 20])
    np.testing.assert_array_equal(second, [4.0, 4.0])


def test_rotation_is_counter_clockwise():
    dx, dy = rotated([1.0, 0.0], [0.0, 2.0], np.array(90.0))
    np.testing.assert_allclose([*dx, *dy], [0.0, -2.0, 1.0, 0.0], atol=1e-15)


@pytest.mark.parametrize("sign", [1, -1])
def test_samples_are_those_of_numpy(sign):
    coefficients = [sign * c for c in CUBIC]
    t = np.linspace(0, 1, 10)
    table = evaluate(coefficients, t)
    order = np.argsort(table)
    value = np.linspace(table.min() - 40, table.max() + 40, 83)
    found = from_samples(coefficients, value, 10, extrapolate=False)
    np.testing.assert_allclose(found, np.interp(value, table[order], t[order]), atol=1e-14)
    beyond = from_samples(coefficients, value, 10, extrapolate=True)
    inside = (value > table.min()) & (value < table.max())
    np.testing.assert_array_equal(beyond[inside], found[inside])
    assert ((beyond < 0) | (beyond > 1))[~inside].all()


def test_the_nearest_sample_is_continued():
    # an independent computation, with all samples at once
    t = np.linspace(0, 1, 40)
    value = np.linspace(-288, 16, 61)
    square = (evaluate(CUBIC, t)[:, None] - value) ** 2
    gradient = np.gradient(square, axis=0)
    expected = []
    for k, (column, slope) in enumerate(zip(square.T, gradient.T, strict=True)):
        i = np.argmin(column)
        if i in (0, 39) or slope[i] == 0:
            expected.append(t[i])
            continue
        a, b = (i - 1, i) if slope[i] < 0 else (i, i + 1)
        expected.append(t[b] - slope[b] * (t[b] - t[a]) / (slope[b] - slope[a]))
        assert abs(expected[-1] - solve(CUBIC, value[k])) < 0.5 / 39
    found = to_nearest_sample(CUBIC, value, 40)
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_jax_agrees_and_differentiates():
    jax = pytest.importorskip("jax")
    with jax.enable_x64(True):
        jnp = jax.numpy
        value = jnp.array([10.0, -120.0, -280.0])
        coefficients = [jnp.array(c) for c in CUBIC]
        np.testing.assert_allclose(solve(coefficients, value), solve(CUBIC, np.asarray(value)))
        for how in (
            lambda c: from_samples(c, value, 10, extrapolate=True),
            lambda c: to_nearest_sample(c, value, 40),
        ):
            np.testing.assert_allclose(how(coefficients), how(list(map(np.asarray, CUBIC))))
        slopes = jax.vmap(jax.grad(lambda v: solve(coefficients, v)))(value)
        t = solve(CUBIC, np.asarray(value))
        exact = 1 / (CUBIC[1] + 2 * CUBIC[2] * t + 3 * CUBIC[3] * t**2)
        np.testing.assert_allclose(slopes, exact, rtol=1e-12)

"""Profiles moved by fractions of a pixel."""

import numpy as np
import pytest

from spec2fn.host.trace_position import profile_coefficients
from spec2fn.kernels.profile_shift import moved_profile

ROWS = np.arange(40.0)


def bell(center):
    return np.exp(-0.5 * ((ROWS[:, None] - center) / 3.0) ** 2)


@pytest.mark.parametrize("move", [0.0, 1.0, 0.3, -2.6])
def test_a_smooth_profile_is_moved(move):
    center = np.array([18.0, 20.5, 22.0])
    coefficients = profile_coefficients(bell(center))
    moved = moved_profile(coefficients, np.full(3, move))
    np.testing.assert_allclose(moved, bell(center + move), atol=1e-12 if move == 0 else 1e-3)
    slope = moved_profile(coefficients, np.full(3, move), derivative=True)
    exact = -(ROWS[:, None] - center - move) / 9.0 * bell(center + move)
    np.testing.assert_allclose(slope, exact, atol=1e-3)


def test_columns_move_by_themselves_and_leading_axes_are_kept():
    coefficients = profile_coefficients(np.stack([bell(np.array([15.0, 20.0]))] * 2))
    moved = moved_profile(coefficients, np.array([[0.0, 1.0], [2.0, -1.0]]))
    np.testing.assert_allclose(moved[0], bell(np.array([15.0, 21.0])), atol=1e-6)
    # the tail of the first is mirrored at the first row
    np.testing.assert_allclose(moved[1], bell(np.array([17.0, 19.0])), atol=1e-4)


def test_the_derivative_in_the_move_is_exact():
    jax = pytest.importorskip("jax")
    coefficients = profile_coefficients(bell(np.array([18.0, 20.5])))
    weights = np.random.default_rng(0).random((40, 2))

    def loss(move):
        return (weights * moved_profile(jax.numpy.asarray(coefficients), move)).sum()

    at = np.array([0.37, -1.42])
    slope = jax.grad(loss)(jax.numpy.asarray(at))
    step = 1e-6
    for k in range(2):
        d = step * np.eye(2)[k]
        numeric = (loss(jax.numpy.asarray(at + d)) - loss(jax.numpy.asarray(at - d))) / (2 * step)
        assert float(slope[k]) == pytest.approx(float(numeric), rel=1e-6)

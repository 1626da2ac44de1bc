"""Traces that turn with the pupil wheel, against an independent computation; gradients."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from scipy.interpolate import CubicSpline

from spec2fn.kernels.soss_trace import OrderTrace, box_weights, place_trace, turned_trace
from spec2fn.kernels.splines import cubic_spline

GRID = np.linspace(0.5, 3.5, 601)
COLUMNS = 300


@pytest.fixture
def trace():
    x = np.arange(0.0, COLUMNS, 3.0)
    y = 60 + 0.05 * x + 1e-4 * (x - 120) ** 2
    # a wavelength that falls along x, and shifts a little with the angle
    coefficients = np.array([[2.8, 0.02, 0.0], [-1.9, 0.01, 0.0], [-0.05, 0.0, 0.0]])
    extents = np.array([[0.0, -0.2], [COLUMNS, 0.2]])
    kept = tuple(range(len(x)))
    return OrderTrace(
        x, y, np.array([150.0, 65.0]), coefficients, extents, np.array(245.76), kept, 1, 280
    )


def test_at_the_commanded_angle_the_trace_is_that_of_the_reference(trace):
    placed = place_trace(trace, 245.76, GRID, COLUMNS)
    x = np.arange(280.0)
    near = (x >= trace.x[1]) & (x <= trace.x[-2])
    # tabulated by wavelength in between
    np.testing.assert_allclose(placed.center[near], np.interp(x, trace.x, trace.y)[near], atol=2e-3)
    u = x / COLUMNS
    expected = 2.8 - 1.9 * u - 0.05 * u**2 + 0.5 * (0.02 + 0.01 * u)
    np.testing.assert_allclose(placed.wavelength[near], expected[near], atol=1e-5)
    np.testing.assert_allclose(placed.wave[:280][near], expected[near], atol=1e-5)


def test_points_turn_about_the_pivot(trace):
    x, y = turned_trace(trace, 245.76 + 90)  # by a right angle: the pivot stays, x becomes y
    moved = replace(trace, x=trace.x + 7, pivot=trace.pivot + np.array([7.0, 0.0]))
    np.testing.assert_allclose(turned_trace(moved, 245.76 + 90)[1], y)
    np.testing.assert_allclose(x, trace.x)
    angle = np.deg2rad(0.1)
    _, small = turned_trace(trace, 245.86)
    lifted = trace.y + angle * (trace.x - 150)  # to first order
    np.testing.assert_allclose(small, lifted, atol=0.02)


def test_the_trace_ends_where_it_leaves_the_detector(trace):
    kept = tuple(range(60))
    placed = place_trace(replace(trace, kept=kept), 245.76, GRID, COLUMNS)
    whole = place_trace(trace, 245.76, GRID, COLUMNS)
    np.testing.assert_allclose(placed.center[:150], whole.center[:150], atol=1e-6)
    assert not np.allclose(placed.center[200:], whole.center[200:], atol=1e-2)


def test_wavelengths_end_with_the_grid(trace):
    placed = place_trace(trace, 245.76, np.linspace(1.5, 2.5, 400), COLUMNS)
    inside = np.isfinite(placed.wave)
    assert 0 < inside.sum() < COLUMNS
    assert placed.wave[inside].min() >= 1.5
    assert placed.wave[inside].max() <= 2.5


def test_gradients_agree_with_finite_differences(trace):
    def placed(position, dx, dy):
        return place_trace(trace, position, GRID, COLUMNS, shift=(dx, dy))

    at, step = (245.8, 0.2, -0.3), 1e-4
    for k in range(3):
        direction = tuple(float(i == k) for i in range(3))
        _, tangent = jax.jvp(placed, at, direction)
        ends = [
            placed(*(a + s * d for a, d in zip(at, direction, strict=True))) for s in (step, -step)
        ]
        for found, up, down in zip(tangent, *ends, strict=True):
            expected = (np.asarray(up) - np.asarray(down)) / (2 * step)
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_boxes_hold_their_width():
    center = np.array([20.0, 30.25, 33.3, 1.0])
    weights = box_weights(center, 11.5, 64)
    np.testing.assert_allclose(weights.sum(axis=0)[:3], 11.5)
    assert weights.max() == 1
    # cut by the edge of the detector
    np.testing.assert_allclose(weights[:, 3].sum(), 1 + 0.5 + 5.75)
    higher = box_weights(center[:3] + 1, 11.5, 64)
    np.testing.assert_allclose(higher[1:], weights[:-1, :3], atol=1e-12)


def test_splines_are_those_of_scipy():
    rng = np.random.default_rng(3)
    points = np.sort(rng.uniform(0, 10, 40))
    values = rng.normal(size=(40, 2))
    x = np.linspace(-1, 11, 200)
    expected = CubicSpline(points, values)(x)
    np.testing.assert_allclose(cubic_spline(points, values, x), expected, rtol=1e-9, atol=1e-9)
    traced = jax.jit(cubic_spline)(points, values, x)
    np.testing.assert_allclose(traced, expected, rtol=1e-9, atol=1e-9)

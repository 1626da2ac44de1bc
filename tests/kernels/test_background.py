"""Subtraction of one image from many integrations."""

import numpy as np
import pytest

from spec2fn.kernels.background import add_in_quadrature, per_plane


def test_per_plane_spells_out_the_axes():
    image = np.arange(6.0).reshape(2, 3)
    assert per_plane(image, np.zeros((4, 2, 3))).shape == (1, 2, 3)
    assert per_plane(image, image).shape == (2, 3)


def test_errors_add_in_quadrature_and_zero_adds_nothing():
    err = np.array([[[3.0, 0.1, 0.0, np.nan]]], dtype=np.float32)
    variance = np.array([[16.0, 0.0, 0.0, 1.0]], dtype=np.float32)
    out = add_in_quadrature(err, variance)
    assert out.dtype == np.float32
    np.testing.assert_array_equal(out, np.array([[[5.0, 0.1, 0.0, np.nan]]], np.float32))


def test_gradient_is_finite_where_both_are_zero():
    jax = pytest.importorskip("jax")
    err = np.array([[3.0, 0.0]], dtype=np.float32)
    variance = np.array([[16.0, 0.0]], dtype=np.float32)
    gradient = jax.grad(lambda e: add_in_quadrature(e, variance).sum())(jax.numpy.asarray(err))
    np.testing.assert_allclose(gradient, [[0.6, 1.0]], rtol=1e-6)

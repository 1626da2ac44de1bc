"""Interpolation along columns with gaps."""

import numpy as np
import pytest

from spec2fn.kernels.interpolation_linear import bridge_rows


def gappy(seed=2):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(3, 12, 5))
    good = rng.random(values.shape) < 0.6
    good[1, :, 2] = False
    place = np.sort(rng.uniform(-1.5, 13, (3, 20)), axis=1)
    place[:, 4] = 3.0
    return values, good, place


def test_equals_one_column_at_a_time():
    values, good, place = gappy()
    found = bridge_rows(np.where(good, values, np.nan), good, place)
    for k in range(3):
        for column in range(5):
            at = np.flatnonzero(good[k, :, column])
            if not at.size:
                assert np.isnan(found[k, :, column]).all()
                continue
            expected = np.interp(place[k], at, values[k, at, column])
            np.testing.assert_allclose(found[k, :, column], expected, atol=1e-14)


def test_jax_and_its_gradient():
    jax = pytest.importorskip("jax")
    values, good, place = gappy()
    expected = bridge_rows(values, good, place)
    np.testing.assert_allclose(jax.jit(bridge_rows)(values, good, place), expected, atol=1e-14)
    known = np.isfinite(expected)

    def total(v):
        return jax.numpy.sum(jax.numpy.where(known, bridge_rows(v, good, place), 0.0))

    gradient = jax.grad(total)(np.where(good, values, 0.0))
    assert np.isfinite(gradient).all()
    assert float(gradient.sum()) == pytest.approx(known.sum())

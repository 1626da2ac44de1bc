"""Drizzle operator: values, adjoint, derivatives, covariance, weights, flags."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spec2fn.host.drizzle import drizzle_overlap, neighbour_pairs
from spec2fn.kernels import resampling as r

SHAPE_IN, SHAPE_OUT = (9, 7), (11, 9)


@pytest.fixture(scope="module")
def overlap():
    y, x = np.indices(SHAPE_IN, dtype=float)
    pixel_map = np.stack([1.05 * x - 0.1 * y + 0.9, 0.12 * x + 1.1 * y + 0.3])
    return drizzle_overlap(pixel_map, SHAPE_OUT, "square", 0.9)


@pytest.fixture(scope="module")
def pixels():
    rng = np.random.default_rng(5)
    data = rng.normal(10, 3, SHAPE_IN).astype("f4").ravel()
    weight = rng.uniform(0.5, 2, SHAPE_IN).astype("f4").ravel()
    weight[[3, 20, 21]] = 0
    data[3] = np.nan
    return data, weight


def dense(overlap, weight):
    a = np.zeros((overlap.n_out, overlap.n_in))
    a[overlap.rows, overlap.cols] = overlap.area
    a = a * weight
    total = a.sum(axis=1)
    return np.divide(a, total[:, None], where=total[:, None] > 0, out=np.zeros_like(a)), total


def test_apply_is_the_weighted_mean(overlap, pixels):
    data, weight = pixels
    matrix, total = dense(overlap, weight)
    coefficient, wht = r.coefficients(overlap, weight)
    out = r.apply(overlap, coefficient, data)
    np.testing.assert_allclose(wht, total, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(out, matrix @ np.nan_to_num(data), rtol=1e-5, atol=1e-5)
    assert out.dtype == wht.dtype == np.float32


def test_constant_stays_constant_and_masked_pixels_do_not_matter(overlap, pixels):
    data, weight = pixels
    coefficient, wht = r.coefficients(overlap, weight)
    flat = np.full_like(data, 3.5)
    flat[weight == 0] = np.inf
    out = r.apply(overlap, coefficient, flat)
    np.testing.assert_allclose(out[wht > 0], 3.5, rtol=1e-6)
    assert np.all(out[wht == 0] == 0)


def test_weight_is_conserved(overlap):
    # every input pixel that lies within the output gives all of itself away
    given = np.bincount(overlap.cols, weights=overlap.area, minlength=overlap.n_in)
    np.testing.assert_allclose(given, 1, rtol=1e-12)
    weight = np.linspace(1, 2, overlap.n_in, dtype="f4")
    _, wht = r.coefficients(overlap, weight)
    np.testing.assert_allclose(wht.sum(), weight.sum(), rtol=1e-6)


def test_adjoint(overlap, pixels):
    _, weight = pixels
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(3, overlap.n_in)), rng.normal(size=(3, overlap.n_out))
    coefficient, _ = r.coefficients(overlap, weight.astype(float))
    left = (r.apply(overlap, coefficient, x) * y).sum(axis=1)
    right = (r.apply_adjoint(overlap, coefficient, y) * x).sum(axis=1)
    np.testing.assert_allclose(left, right, rtol=1e-10)
    jax_right = r.apply_adjoint(overlap, jnp.asarray(coefficient), jnp.asarray(y))
    np.testing.assert_allclose((np.asarray(jax_right) * x).sum(axis=1), right, rtol=1e-10)


def test_linear(overlap, pixels):
    data, weight = pixels
    data = np.nan_to_num(data).astype(float)
    coefficient, _ = r.coefficients(overlap, weight.astype(float))
    other = data[::-1]
    both = r.apply(overlap, coefficient, 2 * data - 3 * other)
    apart = 2 * r.apply(overlap, coefficient, data) - 3 * r.apply(overlap, coefficient, other)
    np.testing.assert_allclose(both, apart, rtol=1e-12, atol=1e-10)


def test_covariance_is_that_of_the_matrix(overlap, pixels):
    _, weight = pixels
    variance = np.linspace(1, 4, overlap.n_in)
    matrix, _ = dense(overlap, weight)
    full = (matrix * variance) @ matrix.T
    coefficient, _ = r.coefficients(overlap, weight.astype(float))
    ny, nx = SHAPE_OUT
    for axis, step in ((1, 1), (0, nx)):
        pairs = neighbour_pairs(overlap, axis)
        found = r.pair_covariance(overlap, pairs, coefficient, variance)
        found = found.reshape(pairs.lags, ny, nx)
        for lag in range(1, pairs.lags + 1):
            wanted = np.zeros((ny, nx))
            for row in range(overlap.n_out):
                y, x = divmod(row, nx)
                inside = x + lag < nx if axis == 1 else y + lag < ny
                if inside:
                    wanted[y, x] = full[row, row + lag * step]
            np.testing.assert_allclose(found[lag - 1], wanted, rtol=1e-5, atol=1e-7)
        assert pairs.lags >= 1
    diagonal = r.apply(overlap, coefficient**2, variance)
    np.testing.assert_allclose(diagonal, np.diag(full), rtol=1e-5, atol=1e-7)


def test_variance_is_the_squared_mean_deviation(overlap, pixels):
    _, weight = pixels
    variance = np.linspace(1, 4, overlap.n_in).astype("f4")
    variance[10] = 0
    matrix, _ = dense(overlap, weight)
    coefficient, _ = r.coefficients(overlap, weight)
    found = r.resample_variance(overlap, coefficient, variance)
    np.testing.assert_allclose(found, (matrix @ np.sqrt(variance)) ** 2, rtol=1e-5, atol=1e-7)


def test_jit_is_eager_and_vmap_is_a_loop(overlap, pixels):
    data, weight = pixels
    stack = np.stack([data, 2 * data, data[::-1]])
    weights = np.stack([weight, weight[::-1], 1 + weight])

    def run(d, w):
        coefficient, wht = r.coefficients(overlap, w)
        return r.apply(overlap, coefficient, d), wht

    eager = [run(d, w) for d, w in zip(stack, weights, strict=True)]
    together = run(stack, weights)
    mapped = jax.vmap(run)(jnp.asarray(stack), jnp.asarray(weights))
    compiled = jax.jit(run)(jnp.asarray(stack), jnp.asarray(weights))
    for k in range(2):
        wanted = np.stack([e[k] for e in eager])
        for found in (together[k], mapped[k], compiled[k]):
            np.testing.assert_allclose(np.asarray(found), wanted, rtol=2e-6, atol=1e-6)
            assert found.dtype == np.float32


def test_gradients(overlap):
    rng = np.random.default_rng(2)
    data = jnp.asarray(rng.normal(size=overlap.n_in))
    variance = rng.uniform(0.5, 2, overlap.n_in)
    variance[4] = 0
    dq = np.zeros(overlap.n_in, dtype="u4")
    dq[7] = 1

    def scalar(d, v):
        weight = r.drizzle_weight(jnp.asarray(dq), (d, v), weight_type="ivm", var_rnoise=v)
        coefficient, _ = r.coefficients(overlap, weight)
        sci = r.apply(overlap, coefficient, d)
        return jnp.sum(sci**2) + jnp.sum(r.resample_variance(overlap, coefficient, v))

    v = jnp.asarray(variance)
    grads = jax.grad(scalar, argnums=(0, 1))(data, v)
    assert all(np.isfinite(g).all() for g in grads)
    assert grads[0][7] == grads[1][7] == grads[0][4] == 0
    for k in (0, 12, 30):
        step = jnp.zeros(overlap.n_in).at[k].set(1e-5)
        first = (scalar(data + step, v) - scalar(data - step, v)) / 2e-5
        second = (scalar(data, v + step) - scalar(data, v - step)) / 2e-5
        np.testing.assert_allclose(grads[0][k], first, rtol=1e-5, atol=1e-8)
        np.testing.assert_allclose(grads[1][k], second, rtol=1e-5, atol=1e-8)


def test_weights():
    nan = np.nan
    sci = np.array([1, nan, 1, 1, 1, 1], dtype="f4")
    var = np.array([4, 4, 0, nan, 2, 1e-45], dtype="f4")
    dq = np.array([4, 0, 0, 0, 512, 0], dtype="u4")
    ivm = r.drizzle_weight(dq, (sci, var), weight_type="ivm", var_rnoise=var)
    np.testing.assert_array_equal(ivm, np.array([0.25, 0, 0, 0, 0, 0], dtype="f4"))
    time = r.drizzle_weight(dq, (sci, var), weight_type="exptime", exposure_time=7.0)
    np.testing.assert_array_equal(time, np.array([7, 0, 7, 0, 0, 7], dtype="f4"))
    same = r.drizzle_weight(dq, (sci,), weight_type=None)
    np.testing.assert_array_equal(same, np.array([1, 0, 1, 1, 0, 1], dtype="f4"))
    np.testing.assert_array_equal(same, r.drizzle_weight(dq, (sci,), weight_type="ivm"))
    assert ivm.dtype == time.dtype == same.dtype == np.float32


@pytest.mark.parametrize("size", [1.0, 1e-26, 1e-32])
def test_gradients_by_the_variance_do_not_depend_on_the_unit(overlap, pixels, size):
    # point sources are in MJy: the derivative of a weight is beyond the largest float32
    data, variance = (p[:] for p in pixels)
    variance = np.where(variance > 0, variance, np.nan)
    signs = np.random.default_rng(8).normal(size=overlap.n_out).astype("f4")

    def loss(variance, scale):
        dq = jnp.zeros(variance.shape, "u4")
        v = variance * jnp.asarray(scale, "f4")
        weight = r.drizzle_weight(dq, (jnp.asarray(data), v), var_rnoise=v)
        return (r.apply(overlap, r.coefficients(overlap, weight)[0], data) * signs).sum()

    slope = jax.grad(loss)(jnp.asarray(variance, "f4"), size)
    expected = jax.grad(loss)(jnp.asarray(variance, "f4"), 1.0)
    assert np.isfinite(slope).all()
    np.testing.assert_allclose(slope, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
    step = 1e-2 * np.nan_to_num(variance) * np.sign(slope)
    up, down = (loss(jnp.asarray(variance + k * step, "f4"), size) for k in (1, -1))
    np.testing.assert_allclose(float(up - down) / 2, (slope * step).sum(), rtol=5e-3)


def test_flags_are_those_of_all_contributors(overlap, pixels):
    _, weight = pixels
    rng = np.random.default_rng(3)
    dq = (1 << rng.integers(0, 32, overlap.n_in, dtype=np.uint64)).astype("u4")
    coefficient, _ = r.coefficients(overlap, weight)
    found = r.propagate_flags(overlap, coefficient, dq)
    wanted = np.zeros(overlap.n_out, dtype="u4")
    for row, col in zip(overlap.rows, overlap.cols, strict=True):
        if weight[col] > 0:
            wanted[row] |= dq[col]
    np.testing.assert_array_equal(found, wanted)
    traced = jax.jit(lambda c, d: r.propagate_flags(overlap, c, d))(coefficient, dq)
    np.testing.assert_array_equal(np.asarray(traced), wanted)


def test_nothing_overlaps():
    nowhere = drizzle_overlap(np.full((2, 3, 4), np.nan), (5, 5))
    coefficient, wht = r.coefficients(nowhere, np.ones(12, dtype="f4"))
    assert not r.apply(nowhere, coefficient, np.ones(12, dtype="f4")).any()
    assert not wht.any()
    pairs = neighbour_pairs(nowhere, 1)
    assert not r.pair_covariance(nowhere, pairs, coefficient, np.ones(12, dtype="f4")).any()
    assert not r.propagate_flags(nowhere, coefficient, np.ones(12, dtype="u4")).any()

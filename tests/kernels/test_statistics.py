"""Order statistics by sorting networks, running medians, clipping."""

import numpy as np
import pytest

from spec2fn.kernels.namespace import safe_sqrt
from spec2fn.kernels.statistics import clip_bounds, masked_median, running_median, sorting_network


@pytest.mark.parametrize("n", range(1, 19))
def test_network_sorts_every_pattern_of_zeros_and_ones(n):
    # by the zero-one principle that proves that it sorts everything
    count = min(1 << n, 4096)
    numbers = np.arange(count) if n <= 12 else np.random.default_rng(0).integers(0, 1 << n, count)
    planes = [((numbers >> k) & 1).astype(float) for k in range(n)]
    expected = np.sort(np.stack(planes), axis=0)
    for i, j in sorting_network(n):
        assert i < j
        planes[i], planes[j] = np.minimum(planes[i], planes[j]), np.maximum(planes[i], planes[j])
    np.testing.assert_array_equal(np.stack(planes), expected)


@pytest.mark.parametrize("n", [1, 2, 5, 6, 8])
def test_masked_median_is_nanmedian(n):
    rng = np.random.default_rng(n)
    values = rng.normal(size=(n, 40, 30)).astype(np.float32)
    mask = rng.random(values.shape) > 0.4
    median, found = masked_median(list(values), list(mask))
    assert median.dtype == np.float32
    np.testing.assert_array_equal(found, mask.any(axis=0))
    expected = np.ma.median(np.ma.array(values, mask=~mask), axis=0)
    np.testing.assert_allclose(median[found], expected.compressed(), rtol=1e-6)
    assert (median[~found] == 0).all()


def test_masked_values_do_not_matter():
    rng = np.random.default_rng(1)
    values = rng.normal(size=(4, 50)).astype(np.float32)
    mask = rng.random(values.shape) > 0.5
    spoiled = np.where(mask, values, np.float32(np.nan))
    for a, b in zip(
        masked_median(list(values), list(mask)),
        masked_median(list(spoiled), list(mask)),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


def test_masked_median_has_finite_gradients_under_jax():
    jax = pytest.importorskip("jax")
    rng = np.random.default_rng(2)
    values = rng.normal(size=(6, 20)).astype(np.float32)
    mask = rng.random(values.shape) > 0.5
    mask[:, 3] = False
    values[~mask] = np.nan

    def total(x):
        return masked_median(list(x), list(mask))[0].sum()

    gradient = np.asarray(jax.grad(total)(jax.numpy.asarray(values)))
    assert np.isfinite(gradient).all()
    assert (gradient[~mask] == 0).all()
    np.testing.assert_allclose(gradient.sum(axis=0), mask.any(axis=0), rtol=1e-6)


def brute_median(image, size):
    ky, kx = size
    out = np.full(image.shape, np.nan)
    for y, x in np.ndindex(*image.shape):
        window = []
        for j in range(y - ky // 2, y - ky // 2 + ky):
            for i in range(x - kx // 2, x - kx // 2 + kx):
                inside = 0 <= j < image.shape[0] and 0 <= i < image.shape[1]
                window.append(image[j, i] if inside else 0.0)
        window = np.array(window)
        if np.isfinite(window).any():
            out[y, x] = np.nanmedian(window)
    return out


@pytest.mark.parametrize("size", [(1, 1), (5, 1), (1, 4), (3, 3), (15, 1)])
@pytest.mark.parametrize("holes", [0.0, 0.3])
def test_running_median_pads_with_zero_and_ignores_nan(size, holes):
    rng = np.random.default_rng(3)
    image = rng.normal(5, 1, size=(17, 13))
    image[rng.random(image.shape) < holes] = np.nan
    image[8:12, 4:9] = np.nan if holes else image[8:12, 4:9]
    expected = brute_median(image, size)
    for block in (1, 40, 1 << 16):
        np.testing.assert_allclose(running_median(image, size, block), expected, rtol=1e-12)


def brute_bounds(values, sigma, maxiters):
    values = values[np.isfinite(values)]
    low, high = -np.inf, np.inf
    iteration = 0
    while values.size and (maxiters is None or iteration < maxiters):
        iteration += 1
        low = np.median(values) - sigma * values.std()
        high = np.median(values) + sigma * values.std()
        kept = values[(values >= low) & (values <= high)]
        if kept.size == values.size:
            break
        values = kept
    return low, high


@pytest.mark.parametrize("n", [1, 2, 3, 7, 30])
@pytest.mark.parametrize(("sigma", "maxiters"), [(3.0, None), (1.5, None), (1.0, 1), (2.0, 3)])
def test_clip_bounds_keep_what_the_plain_loop_keeps(n, sigma, maxiters):
    rng = np.random.default_rng(n)
    values = rng.normal(size=(n, 60))
    values[rng.random(values.shape) < 0.1] *= 1e8
    values[rng.random(values.shape) < 0.1] = np.nan
    values[rng.random(values.shape) < 0.02] = np.inf
    for block in (1 << 18, n):
        low, high = clip_bounds(values, sigma, maxiters, block)
        kept = np.isfinite(values) & (values >= low) & (values <= high)
        for lane in range(60):
            a, b = brute_bounds(values[:, lane], sigma, maxiters)
            column = values[:, lane]
            expected = np.isfinite(column) & (column >= a) & (column <= b)
            np.testing.assert_array_equal(kept[:, lane], expected)


def test_square_root_has_a_finite_gradient_everywhere():
    jax = pytest.importorskip("jax")
    x = np.array([4.0, 0.0, -1.0, np.nan, np.inf], dtype=np.float32)
    np.testing.assert_array_equal(safe_sqrt(x), [2.0, 0.0, np.nan, np.nan, np.inf])
    gradient = jax.grad(lambda a: jax.numpy.nansum(safe_sqrt(a)[:4]))(jax.numpy.asarray(x))
    np.testing.assert_allclose(gradient, [0.25, 0, 0, 0, 0])

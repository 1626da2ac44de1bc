"""Stray-light kernels against direct sums and astropy."""

import jax
import jax.numpy as jnp
import numpy as np
from astropy.convolution import Gaussian2DKernel, convolve
from astropy.stats import sigma_clipped_stats

from spec2fn.kernels.straylight import (
    clipped,
    cross_artifact,
    gaussian_taps,
    row_profiles,
    shower_light,
    within_percentiles,
)

RNG = np.random.default_rng(3)


def _tables(ny, dtype=np.float64):
    names = ("lor_fwhm", "lor_scale", "gau_fwhm", "gau_xoff", "gau_scale1", "gau_scale2")
    ranges = ((5, 9), (1e-3, 2e-3), (2, 3), (4, 6), (1e-3, 2e-3), (5e-4, 1e-3))
    return {n: RNG.uniform(*r, ny).astype(dtype) for n, r in zip(names, ranges, strict=True)}


def _profile(t, row, d):
    gamma, sigma = t["lor_fwhm"][row] / 2, t["gau_fwhm"][row] / 2.3548200450309493
    out = t["lor_scale"][row] * gamma**2 / (gamma**2 + d**2)
    for k, name in ((1, "gau_scale1"), (2, "gau_scale2")):
        for sign in (-1, 1):
            x = (d - sign * k * t["gau_xoff"][row]) / (k * sigma)
            out = out + t[name][row] * np.exp(-0.5 * x**2)
    return out


def test_the_artifact_is_the_sum_over_all_sources_of_a_half():
    ny, nx, middle, end = 3, 40, 22, 37
    left, right = _tables(ny), _tables(ny)
    light = RNG.uniform(0, 100, (2, ny, nx))
    expected = np.zeros_like(light)
    x = np.arange(nx)
    for row in range(ny):
        for source in range(end):
            profile = _profile(left if source < middle else right, row, x - source)
            expected[:, row] += light[:, row, source, None] * profile
    halves = [
        (slice(0, middle), row_profiles(**left, width=nx)),
        (slice(middle, end), row_profiles(**right, width=nx)),
    ]
    np.testing.assert_allclose(cross_artifact(light, halves), expected, rtol=1e-12)
    single = [(s, p.astype(np.float32)) for s, p in halves]
    found = cross_artifact(light.astype(np.float32), single)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=3e-7 * expected.max())
    assert not cross_artifact(light, []).any()


def test_a_profile_without_width_is_nothing():
    t = {name: np.zeros(2) for name in _tables(2)}
    t["lor_scale"][:] = t["gau_scale1"][:] = 1.0
    np.testing.assert_array_equal(row_profiles(**t, width=8), 0.0)


def test_clipping_is_that_of_astropy():
    values = RNG.normal(size=(4, 3000)) + RNG.choice([0, 30.0], p=[0.97, 0.03], size=(4, 3000))
    values[3] = 2.0  # nothing to clip, no spread
    mean, median, deviation = clipped(values)
    for k in range(4):
        expected = sigma_clipped_stats(values[k])
        np.testing.assert_allclose((mean[k], median[k], deviation[k]), expected, rtol=1e-12)
    for a, b in zip(jax.jit(clipped)(values), (mean, median, deviation), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


def test_percentiles_are_those_of_numpy():
    values = RNG.normal(size=(2, 30, 20))
    kept = RNG.uniform(size=values.shape) < 0.5
    found = within_percentiles(values, kept, 5.0, 90.0)
    for v, k, f in zip(values, kept, found, strict=True):
        low, high = np.percentile(v[k], [5.0, 90.0])
        np.testing.assert_array_equal(f, k & (v >= low) & (v <= high))
    assert not within_percentiles(values, np.zeros_like(kept), 5.0, 90.0).any()


def test_showers_are_a_gaussian_average_of_the_pixels_kept():
    values = RNG.normal(size=(25, 31))
    kept = RNG.uniform(size=values.shape) < 0.4
    kernel = Gaussian2DKernel(3.0, y_stddev=1.5)
    assert kernel.shape == (gaussian_taps(1.5, 3.0).size, gaussian_taps(3.0, 3.0).size)
    expected = convolve(
        np.where(kept, values, np.nan), kernel, boundary="fill", nan_treatment="interpolate"
    )
    np.testing.assert_allclose(shower_light(values, kept, 3.0, 1.5), expected, atol=1e-13)


def test_out_of_reach_of_dark_pixels_nothing_is_known():
    values, kept = np.ones((40, 60)), np.zeros((40, 60), bool)
    found = shower_light(values, kept, 1.0, 1.0)
    assert not found.any()


def test_gradients_are_finite():
    values = RNG.normal(size=(12, 14)).astype(np.float32)
    kept = RNG.uniform(size=values.shape) < 0.5
    t = {k: jnp.asarray(v) for k, v in _tables(12, np.float32).items()}

    def total(values, t):
        light = jnp.where(values > 0, values, 0.0)
        artifact = cross_artifact(light, [(slice(0, 9), row_profiles(**t, width=14))])
        _, level, _ = clipped(values.reshape(1, -1))
        return (artifact + level + shower_light(values, kept, 2.0, 1.0)).sum()

    for leaf in jax.tree.leaves(jax.jit(jax.grad(total, argnums=(0, 1)))(values, t)):
        assert np.isfinite(leaf).all()
        assert np.abs(leaf).max() > 0

"""Fits of harmonics to incomplete series."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spec2fn.kernels.nsclean import cosine_gain, fit_harmonics, lowpass_gain, synthesize


def series(n=64, lines=5, seed=0):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(lines, n))
    power = np.where(rng.uniform(size=(lines, n)) < 0.7, rng.uniform(0.5, 2.0, (lines, n)), 0.0)
    return values, power


@pytest.mark.parametrize("harmonics", [np.arange(4), np.array([0, 1, 2, 31, 32])])
def test_fit_is_the_weighted_least_squares_solution(harmonics):
    values, power = series()
    real, imaginary = fit_harmonics(values, power, harmonics)
    m = np.arange(values.shape[1])[:, None]
    basis = np.exp(2j * np.pi * m * harmonics / values.shape[1])
    for line in range(len(values)):
        weight = np.sqrt(power[line])
        expected, *_ = np.linalg.lstsq(basis * weight[:, None], values[line] * weight)
        np.testing.assert_allclose(real[line] + 1j * imaginary[line], expected, atol=1e-9)


def test_values_without_weight_do_not_matter():
    values, power = series()
    other = np.where(power == 0, 1e6, values)
    for a, b in zip(
        fit_harmonics(values, power, np.arange(3)),
        fit_harmonics(other, power, np.arange(3)),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, atol=1e-10)


def test_line_without_weight_has_no_model_and_harms_no_other():
    values, power = series()
    power[2] = 0.0
    real, imaginary = fit_harmonics(values, power, np.arange(3))
    assert (real[2] == 0).all()
    assert (imaginary[2] == 0).all()
    alone = fit_harmonics(values[3:4], power[3:4], np.arange(3))
    np.testing.assert_allclose(real[3], alone[0][0], rtol=1e-12)


def test_fewer_samples_than_harmonics_stay_finite():
    values, power = series()
    power[0, 2:] = 0.0
    power[0, :2] = 1.0
    assert all(np.isfinite(part).all() for part in fit_harmonics(values, power, np.arange(6)))


def test_synthesis_inverts_the_real_fourier_transform():
    values, _ = series(n=32)
    transform = np.fft.rfft(values) / 32
    out = synthesize(transform.real, transform.imag, np.arange(17), 32)
    np.testing.assert_allclose(out, values, atol=1e-12)


def test_complete_wave_is_recovered():
    n = 256
    wave = 0.3 + 2.0 * np.cos(2 * np.pi * 2 * np.arange(n) / n + 0.4)
    k = np.arange(4)
    model = synthesize(*fit_harmonics(wave[None], np.ones((1, n)), k), k, n)
    np.testing.assert_allclose(model[0], wave, atol=1e-9)


def test_gains():
    gain = lowpass_gain(2048, 1 / 256, 1 / 1024)
    np.testing.assert_allclose(gain, [1, 1, 1, 1, 1, 1, 1, 1, 0.5], atol=1e-12)
    harmonics, gain = cosine_gain(1000, (1061.0, 1211.0, 49943.0, 49957.0), 1e-5)
    # 100 Hz apart, up to 50 kHz
    np.testing.assert_array_equal(harmonics, [*range(13), 500])
    assert gain[10] == 1.0
    assert 0 < gain[12] < gain[11] < 1
    assert gain[-1] == 1.0


def test_jit_and_gradient():
    values, power = series()
    k = np.arange(3)

    def model(v):
        return synthesize(*fit_harmonics(v, jnp.asarray(power), k), k, 64)

    np.testing.assert_allclose(jax.jit(model)(values), model(values), atol=1e-10)
    np.testing.assert_allclose(
        model(jnp.asarray(values)), synthesize(*fit_harmonics(values, power, k), k, 64), atol=1e-10
    )

    def total(v):
        return jnp.sum(model(v) ** 2)

    slope = np.asarray(jax.grad(total)(jnp.asarray(values)))
    step = 1e-5
    up, down = values.copy(), values.copy()
    up[1, 7] += step
    down[1, 7] -= step
    numeric = (total(jnp.asarray(up)) - total(jnp.asarray(down))) / (2 * step)
    np.testing.assert_allclose(slope[1, 7], numeric, rtol=1e-5, atol=1e-9)
    assert (slope[power == 0] == 0).all()

"""Weighted least-squares fits of a few Fourier harmonics to incomplete series.

The 1/f noise of the NIRSpec detectors is smooth in the order in which pixels are read. Where a
series of pixels has gaps (the pixels that see light), its lowest harmonics are found by weighted
least squares: B. J. Rauscher 2024, PASP 136, 015001. For equally spaced pixels the normal
matrix holds the Fourier transform of the weights at the differences of the harmonics, so that no
basis matrix has to be built per series.
"""

from __future__ import annotations

from types import ModuleType

import numpy as np

from spec2fn.kernels.namespace import array_namespace
from spec2fn.typing import Array, HostArray

__all__ = ["cosine_gain", "fit_harmonics", "lowpass_gain", "synthesize"]


def lowpass_gain(n: int, half_power: float, width: float) -> HostArray:
    """Gain (k,) of a low-pass filter at the harmonics 0 … k - 1 of `n` samples; others have none.

    Parameters
    ----------
    n : int
    half_power : float
        Frequency of the middle of the roll-off [1 / sample].
    width : float
        Width of the roll-off, half a cosine [1 / sample].
    """
    frequency = np.fft.rfftfreq(n)
    phase = np.clip((frequency - half_power) / width + 0.5, 0.0, 1.0)
    gain = 0.5 * (1.0 + np.cos(np.pi * phase))
    return gain[: np.count_nonzero(phase < 1.0)]


def cosine_gain(
    n: int, cutoffs: tuple[float, float, float, float], step: float
) -> tuple[HostArray, HostArray]:
    """Gain of a filter that passes the lowest and the highest harmonics of `n` samples.

    Parameters
    ----------
    n : int
        Number of samples.
    cutoffs : tuple of four float
        Frequencies [Hz] where the gain begins to fall from one, is zero, begins to rise again,
        and is one.
    step : float
        Time between samples [s].

    Returns
    -------
    harmonics : ndarray, (k,), int64
        With a gain above zero.
    gain : ndarray, (k,), float64
        Their gain.
    """
    # in float32, as the published code, because the last harmonic may fall on a cutoff
    f = np.fft.rfftfreq(n, np.float32(step)).astype(np.float32)
    a, b, c, d = (np.float32(v) for v in cutoffs)
    pi = np.float32(np.pi)
    gain = np.zeros(f.shape)
    falling, rising = (a <= f) & (f < b), (c <= f) & (f < d)
    gain[falling] = 0.5 * (1.0 + np.cos(pi / (b - a) * (f[falling] - a)))
    gain[rising] = 0.5 * (1.0 - np.cos(pi / (d - c) * (f[rising] - c)))
    gain[(f < a) | (f >= d)] = 1.0
    harmonics = np.flatnonzero(gain > 0)
    return harmonics, gain[harmonics]


def _waves(xp: ModuleType, harmonics: Array, n: int, dtype: Array) -> tuple[Array, Array]:
    # modulo n before the multiplication by 2 pi, which would lose digits of large phases
    turns = (np.arange(n)[:, None] * np.asarray(harmonics)) % n / n
    angle = 2.0 * np.pi * turns
    return xp.asarray(np.cos(angle), dtype=dtype), xp.asarray(np.sin(angle), dtype=dtype)


def fit_harmonics(values: Array, power: Array, harmonics: Array) -> tuple[Array, Array]:
    """Fit complex harmonics to series of real numbers by weighted least squares.

    Minimises ``sum(power * abs(values - sum(c[k] * exp(2j pi h[k] m / n)))**2)`` for every
    series. Harmonics of positive frequency alone are fitted, as published: each carries half of a
    real wave (:func:`synthesize` adds the other half).

    Parameters
    ----------
    values : array, (…, n), float64
        What it holds where `power` is zero does not matter, but must be finite.
    power : array, (…, n), float64
        Squared weights.
    harmonics : array of int, (k,)
        Not traced.

    Returns
    -------
    real, imaginary : array, (…, k)
        Coefficients; zero where `power` is zero throughout.
    """
    xp = array_namespace(values, power)
    dtype = values.dtype
    h = np.asarray(harmonics)
    n = values.shape[-1]
    difference = h[:, None] - h[None, :]
    lags, index = np.unique(np.abs(difference), return_inverse=True)
    cos, sin = _waves(xp, lags, n, dtype)
    index = index.reshape(difference.shape)
    sign = xp.asarray(-np.sign(difference), dtype=dtype)
    real = (power @ cos)[..., index]
    imaginary = (power @ sin)[..., index] * sign
    cos, sin = _waves(xp, h, n, dtype)
    weighted = power * values
    # a complex Hermitian system as a real symmetric one
    top = xp.concatenate([real, -imaginary], axis=-1)
    matrix = xp.concatenate([top, xp.concatenate([imaginary, real], axis=-1)], axis=-2)
    rhs = xp.concatenate([weighted @ cos, -(weighted @ sin)], axis=-1)
    solution = _solve(xp, matrix, rhs)
    k = h.size
    return solution[..., :k], solution[..., k:]


def _solve(xp: ModuleType, matrix: Array, rhs: Array) -> Array:
    # series without any weight get a solvable system with the solution zero
    total = matrix[..., 0, 0]
    empty = total <= 0
    one = xp.ones((), total.dtype)
    scale = xp.where(empty, one, total)
    eye = xp.eye(matrix.shape[-1], dtype=matrix.dtype)
    lead = (None,) * (matrix.ndim - 2)
    matrix = xp.where(empty[..., None, None], eye[lead], matrix / scale[..., None, None])
    # relative to the largest term: bounds what a series with fewer samples than harmonics gives
    # without being felt by any other
    matrix = matrix + xp.asarray(1e-12, matrix.dtype) * eye[lead]
    return xp.linalg.solve(matrix, (rhs / scale[..., None])[..., None])[..., 0]


def synthesize(real: Array, imaginary: Array, harmonics: Array, n: int) -> Array:
    """Evaluate harmonics as a real series (…, n): the inverse of a real Fourier transform.

    Parameters
    ----------
    real, imaginary : array, (…, k), float64
        Coefficients of :func:`fit_harmonics`.
    harmonics : array of int, (k,)
        Not traced.
    n : int
        Number of samples.
    """
    xp = array_namespace(real, imaginary)
    h = np.asarray(harmonics)
    cos, sin = _waves(xp, h, n, real.dtype)
    twice = xp.asarray(np.where((h == 0) | (2 * h == n), 1.0, 2.0), dtype=real.dtype)
    twice = twice.reshape((1,) * (real.ndim - 1) + twice.shape)
    return (real * twice) @ cos.T - (imaginary * twice) @ sin.T

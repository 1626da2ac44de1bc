"""Stray light of the MIRI MRS: the cross artifact, the pedestal, and cosmic-ray showers.

Light scattered inside the detectors is a convolution: along rows for the cross artifact, whose
profile changes slowly from row to row, and in both directions for showers. Convolutions are done
by Fourier transform, with room for the wings beyond the edges.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from spec2fn.kernels.namespace import array_namespace, safe_divide
from spec2fn.typing import Array, HostArray

__all__ = [
    "clipped",
    "cross_artifact",
    "gaussian_taps",
    "row_profiles",
    "shower_light",
    "within_percentiles",
]

_SIGMA_OF_FWHM = 1.0 / (2.0 * math.sqrt(2.0 * math.log(2.0)))
_LEAST_WEIGHT = 1e-6  # share of a smoothing kernel below which nothing is known


def _fast_length(n: int) -> int:
    """Return the next length from `n` on for which real transforms are fast."""
    from scipy.fft import next_fast_len

    size: int = next_fast_len(n, real=True)
    return size


def _middle(ordered: Array, kept: Array) -> Array:
    """Median of the kept values, which follow each other in increasing order."""
    xp = array_namespace(ordered, kept)
    count = xp.sum(kept, axis=-1, keepdims=True)
    first = xp.argmax(kept, axis=-1, keepdims=True)
    below = xp.take_along_axis(ordered, first + xp.maximum(count - 1, 0) // 2, axis=-1)
    last = ordered.shape[-1] - 1
    above = xp.take_along_axis(ordered, xp.minimum(first + count // 2, last), axis=-1)
    return ((below + above) * np.asarray(0.5, ordered.dtype))[..., 0]


def _moments(values: Array, kept: Array) -> tuple[Array, Array]:
    """Mean and population standard deviation of the kept values along the last axis."""
    xp = array_namespace(values, kept)
    zero = xp.zeros((), dtype=values.dtype)
    count = xp.maximum(xp.sum(kept, axis=-1, keepdims=True), 1).astype(values.dtype)
    mean = xp.sum(xp.where(kept, values, zero), axis=-1, keepdims=True) / count
    square = xp.where(kept, values - mean, zero) ** 2
    variance = xp.sum(square, axis=-1, keepdims=True) / count
    flat = variance <= 0
    spread = xp.sqrt(xp.where(flat, xp.ones_like(variance), variance))
    return mean[..., 0], xp.where(flat, zero, spread)[..., 0]


def clipped(values: Array, sigma: float = 3.0, iterations: int = 5) -> tuple[Array, Array, Array]:
    """Mean, median and standard deviation after sigma clipping about the median.

    Parameters
    ----------
    values : array, (..., n)
        Finite.
    sigma : float
        Values farther from the median than so many standard deviations are left out.
    iterations : int
        At most.

    Returns
    -------
    mean, median, deviation : array, (...)
    """
    xp = array_namespace(values)
    reach = np.asarray(sigma, values.dtype)
    # sorted, so that what is kept is always one run of values
    ordered = xp.sort(values, axis=-1)
    kept = xp.ones(values.shape, dtype=bool)
    for _ in range(iterations):
        median = _middle(ordered, kept)[..., None]
        _, deviation = _moments(ordered, kept)
        before = kept
        kept = kept & (xp.abs(ordered - median) <= reach * deviation[..., None])
        if xp is np and bool((kept == before).all()):
            break
    mean, deviation = _moments(ordered, kept)
    return mean, _middle(ordered, kept), deviation


def row_profiles(
    *,
    lor_fwhm: Array,
    lor_scale: Array,
    gau_fwhm: Array,
    gau_xoff: Array,
    gau_scale1: Array,
    gau_scale2: Array,
    width: int,
) -> Array:
    """Fourier transform of the profile of the cross artifact in every row.

    A source of unit flux leaves a Lorentzian, a pair of Gaussians on both sides of it, and a
    second pair twice as far away and twice as wide.

    Parameters
    ----------
    lor_fwhm, gau_fwhm, gau_xoff : array, (y,)
        Widths and offset [pixel].
    lor_scale, gau_scale1, gau_scale2 : array, (y,)
        Amplitudes for a unit source.
    width : int
        Columns of the detector.

    Returns
    -------
    array, (y, n)
        Real, as the profile is even; n belongs to transforms of ``_fast_length(2 width - 1)``.
    """
    xp = array_namespace(lor_fwhm, lor_scale, gau_fwhm, gau_xoff, gau_scale1, gau_scale2)
    size = _fast_length(2 * width - 1)
    dtype = xp.asarray(lor_fwhm).dtype
    place = np.arange(size)
    distance = xp.asarray(np.minimum(place, size - place), dtype=dtype)[: size // 2 + 1]
    gamma = lor_fwhm[:, None] * np.asarray(0.5, dtype)
    some = gamma > 0
    square = xp.where(some, gamma * gamma, xp.ones_like(gamma))
    profile = xp.where(some, lor_scale[:, None] * square / (square + distance**2), 0 * square)
    for order, amplitude in ((1.0, gau_scale1), (2.0, gau_scale2)):
        factor = np.asarray(order, dtype)
        spread = gau_fwhm[:, None] * np.asarray(order * _SIGMA_OF_FWHM, dtype)
        some = spread > 0
        scale = xp.where(some, spread, xp.ones_like(spread)) * np.asarray(math.sqrt(2.0), dtype)
        offset = factor * gau_xoff[:, None]
        pair = xp.exp(-(((distance - offset) / scale) ** 2))
        pair = pair + xp.exp(-(((distance + offset) / scale) ** 2))
        profile = profile + xp.where(some, amplitude[:, None] * pair, xp.zeros_like(pair))
    mirrored = profile[:, 1 : (size + 1) // 2][:, ::-1]
    whole = xp.concatenate([profile, mirrored], axis=1)
    return xp.real(xp.fft.rfft(whole, axis=-1))


def cross_artifact(light: Array, halves: Sequence[tuple[slice, Array]]) -> Array:
    """Light that the sources on the detector scatter along their rows.

    Parameters
    ----------
    light : array, (..., y, x), float32
        Flux of the sources, zero where there is none.
    halves : sequence of (slice, array)
        Columns of the sources of a channel, and their :func:`row_profiles`. The light they
        scatter reaches all columns.

    Returns
    -------
    array, (..., y, x)
    """
    xp = array_namespace(light, *(profile for _, profile in halves))
    width = light.shape[-1]
    size = _fast_length(2 * width - 1)
    column = np.arange(width)
    total: Array = None
    for columns, profile in halves:
        inside = (column >= columns.start) & (column < columns.stop)
        part = xp.where(inside, light, xp.zeros_like(light))
        spectrum = xp.fft.rfft(part, n=size, axis=-1)
        spectrum = spectrum * profile.astype(spectrum.dtype)
        total = spectrum if total is None else total + spectrum
    if total is None:
        return xp.zeros_like(light)
    return xp.fft.irfft(total, n=size, axis=-1)[..., :width].astype(light.dtype)


def within_percentiles(values: Array, kept: Array, low: float, high: float) -> Array:
    """Which of the kept pixels of an image lie within two percentiles of all kept ones.

    Parameters
    ----------
    values : array, (..., y, x)
        Finite where kept.
    kept : array of bool, (..., y, x)
    low, high : float
        Percentiles, interpolated linearly.

    Returns
    -------
    array of bool, (..., y, x)
    """
    xp = array_namespace(values, kept)
    shape = (*values.shape[:-2], -1)
    infinite = xp.asarray(np.inf, dtype=values.dtype)
    ordered = xp.sort(xp.reshape(xp.where(kept, values, infinite), shape), axis=-1)
    count = xp.sum(xp.reshape(kept, shape), axis=-1, keepdims=True)
    last = xp.maximum(count - 1, 0)
    zero = xp.zeros((), dtype=values.dtype)
    limits = []
    for percentile in (low, high):
        at = last.astype(float) * (percentile / 100.0)
        lower = xp.floor(at).astype(last.dtype)
        ends = (lower, xp.minimum(lower + 1, last))
        below, above = (
            xp.where(count > 0, xp.take_along_axis(ordered, end, axis=-1), zero) for end in ends
        )
        part = (at - xp.floor(at)).astype(values.dtype)
        limits.append((below + part * (above - below))[..., None])
    return kept & (values >= limits[0]) & (values <= limits[1])


def gaussian_taps(deviation: float, widest: float) -> HostArray:
    """Weights of a sampled Gaussian of sum 1, cut at four times the `widest` deviation."""
    size = math.ceil(8.0 * widest)
    size += 1 - size % 2
    place = np.arange(size) - size // 2
    taps = np.exp(-0.5 * (place / deviation) ** 2)
    normalised: HostArray = taps / taps.sum()
    return normalised


def _smoothed(image: Array, taps: HostArray, axis: int) -> Array:
    """Circular convolution along an axis."""
    xp = array_namespace(image)
    length = image.shape[axis]
    size = _fast_length(length)
    centred = np.zeros(size)
    centred[: taps.size] = taps
    centred = np.roll(centred, -(taps.size // 2))
    shape = [1] * image.ndim
    shape[axis] = -1
    spectrum = xp.fft.rfft(image, n=size, axis=axis)
    response = np.fft.rfft(centred).real.reshape(shape).astype(spectrum.dtype)
    smooth = xp.fft.irfft(spectrum * response, n=size, axis=axis)
    index: list[Array] = [slice(None)] * image.ndim
    index[axis] = slice(0, length)
    return smooth[tuple(index)].astype(image.dtype)


def shower_light(values: Array, kept: Array, x_deviation: float, y_deviation: float) -> Array:
    """Smooth image of the light between the slices, interpolated over everything else.

    A Gaussian average of the kept pixels around each pixel; beyond the edges of the detector it
    is taken to be dark. Zero where the Gaussian reaches no kept pixel and no edge.

    Parameters
    ----------
    values : array, (..., y, x), float32
    kept : array of bool, (..., y, x)
    x_deviation, y_deviation : float
        Standard deviations [pixel].

    Returns
    -------
    array, (..., y, x)
    """
    xp = array_namespace(values, kept)
    widest = max(x_deviation, y_deviation)  # the kernel is a square
    taps = [gaussian_taps(d, widest) for d in (y_deviation, x_deviation)]
    reach = [t.size // 2 for t in taps]
    padding = [(0, 0)] * (values.ndim - 2) + [(r, r) for r in reach]
    zero = xp.zeros((), dtype=values.dtype)
    light = xp.pad(xp.where(kept, values, zero), padding)
    weight = xp.pad(kept.astype(values.dtype), padding, constant_values=1)
    inner = (..., slice(reach[0], -reach[0] or None), slice(reach[1], -reach[1] or None))
    for axis, t in zip((-1, -2), reversed(taps), strict=True):
        light, weight = _smoothed(light, t, axis), _smoothed(weight, t, axis)
    light, weight = light[inner], weight[inner]
    return safe_divide(light, weight, weight > _LEAST_WEIGHT, 0.0)

"""Fits of the 1/f noise of one detector image (host only).

All functions work in the orientation of the detector, in which pixels are read along rows:
columns of a NIRSpec image (reversed in order for NRS2). See B. J. Rauscher 2024, PASP 136,
015001, and the description of the flicker noise step in the JWST pipeline documentation.
"""

from __future__ import annotations

import functools

import numpy as np

from spec2fn.kernels.nsclean import cosine_gain, fit_harmonics, lowpass_gain, synthesize
from spec2fn.typing import HostArray

__all__ = ["fit_full_frame", "fit_subarray", "line_medians", "median_stripes", "transposed"]

_BLOCK = 32  # rows that are turned into columns at once

# full frame: frequencies per pixel, lengths in pixels
_HALF_POWER = 1.0 / 256.0
_ROLL_OFF = _HALF_POWER / 4.0
_DENSITY_SIGMA = 32.0
_LEAST_DENSITY = 1e-5  # a pixel alone has 1e-2
_SMOOTHING_SIGMA = 1.5
_LINE_REJECTION = 3.0
_REFERENCE_LINES = 4
# subarrays: pixels, seconds
_SECTION = 512
_LINE_OVERHEAD = 12
_PIXEL_TIME = 1.0e-5
_SECTION_REJECTION = 4.0
_MINIMUM_USED = 0.05


def transposed(image: HostArray) -> HostArray:
    """Return a copy of an image (y, x) with its axes exchanged, in C order.

    Block by block: in one go, neighbours in the copy would come from as many pages of memory.
    """
    out = np.empty(image.shape[::-1], image.dtype)
    for i in range(0, image.shape[0], _BLOCK):
        out[:, i : i + _BLOCK] = image[i : i + _BLOCK].T
    return out


def line_medians(values: HostArray, mask: HostArray) -> HostArray:
    """Median (…, 1) of the masked-in values (…, n) of every line, zero for a line without any."""
    ordered = np.where(mask, values, np.float32(np.inf))
    ordered.sort(axis=-1)
    count = np.count_nonzero(mask, axis=-1)[..., None]
    some = np.maximum(count, 1)
    low = np.take_along_axis(ordered, (some - 1) // 2, axis=-1)
    high = np.take_along_axis(ordered, some // 2, axis=-1)
    middle = np.float32(0.5) * (np.where(count > 0, low, 0) + np.where(count > 0, high, 0))
    return middle.astype(np.float32)


def median_stripes(image: HostArray, mask: HostArray, channels: int = 1) -> HostArray:
    """Noise as the median of each line, or of each part of it that an amplifier reads.

    Parameters
    ----------
    image, mask : ndarray, (line, n)
        Detector orientation; `mask` is true for background.
    channels : int
        Number of equal parts of a line.
    """
    lines, n = image.shape
    parts = (lines, channels, n // channels)
    medians = line_medians(image.reshape(parts), mask.reshape(parts))
    return np.broadcast_to(medians, parts).reshape(lines, n)


def fit_full_frame(image: HostArray, mask: HostArray, *, centred: bool = False) -> HostArray:
    """Noise (line, n) of a full frame: the lowest harmonics of each line, smoothed across lines.

    Pixels are weighted with the inverse density of usable pixels around them, outliers of a line
    take its median, and the reference pixels at the first and last lines are left alone.

    Parameters
    ----------
    image : ndarray, (line, n), float32
        Background-subtracted, finite.
    mask : bool ndarray, (line, n)
    centred : bool
        Centre the kernels of the weights and of the smoothing. The published code has both one
        pixel and one line off, so that a line is corrected with its predecessor's noise.
    """
    lines, n = image.shape
    shift = 0 if centred else 1
    gain = lowpass_gain(n, _HALF_POWER, _ROLL_OFF)
    harmonics = np.arange(gain.size)
    inner = slice(_REFERENCE_LINES, lines - _REFERENCE_LINES)
    values = _without_outliers(image[inner], mask[inner])
    power = np.zeros((values.shape[0], n))
    density = _density(mask, shift)[inner]
    np.divide(1.0, density, out=power, where=mask[inner] & (density != 0))
    np.square(power, out=power)
    real, imaginary = fit_harmonics(values.astype(np.float64), power, harmonics)
    coefficients = np.zeros((lines, gain.size), dtype=complex)
    coefficients[inner] = (real + 1j * imaginary) * gain
    smooth = _gaussian_transform(lines, _SMOOTHING_SIGMA, shift, half=False)
    coefficients = np.fft.ifft(np.fft.fft(coefficients, axis=0) * smooth[:, None], axis=0)
    coefficients *= np.exp(-2j * np.pi * harmonics * shift / n)
    return synthesize(coefficients.real, coefficients.imag, harmonics, n).astype(np.float32)


def _without_outliers(values: HostArray, mask: HostArray) -> HostArray:
    centre = line_medians(values, mask)
    spread = np.float32(1.4826) * line_medians(np.abs(values - centre), mask)
    reach = np.float32(_LINE_REJECTION) * spread
    fine = (centre - reach <= values) & (values <= centre + reach)
    return np.where(fine, values, centre)


@functools.lru_cache(maxsize=8)
def _gaussian_transform(n: int, sigma: float, shift: int, *, half: bool) -> HostArray:
    distance = np.arange(n) - n // 2
    kernel = np.exp(-0.5 * (distance / sigma) ** 2) / (sigma * np.sqrt(2.0 * np.pi))
    kernel = np.roll(kernel, shift - n // 2)
    return np.fft.rfft(kernel) if half else np.fft.fft(kernel)


def _density(mask: HostArray, shift: int) -> HostArray:
    """Fraction of usable pixels around each pixel of a line."""
    from scipy import fft

    n = mask.shape[1]
    kernel = _gaussian_transform(n, _DENSITY_SIGMA, 0, half=True).astype(np.complex64)
    density = fft.irfft(fft.rfft(mask.astype(np.float32), axis=1) * kernel, n, axis=1)
    if shift:
        # where the predecessor of a line has next to nothing, only rounding errors are found:
        # there a line has its own density
        shifted = np.roll(density, (shift, shift), axis=(0, 1))
        lost = (mask & (shifted < _LEAST_DENSITY)).any(axis=1)
        density = np.where(lost[:, None], density, shifted)
    return density


def fit_subarray(
    image: HostArray, mask: HostArray, cutoffs: tuple[float, float, float, float]
) -> HostArray | None:
    """Noise of a subarray: low and highest harmonics in time, over overlapping groups of lines.

    A group has about 512 usable pixels; neighbouring groups overlap by half and are averaged with
    weights that fall towards their ends.

    Parameters
    ----------
    image : ndarray, (line, n), float32
        Background-subtracted, finite.
    mask : bool ndarray, (line, n)
    cutoffs : tuple of four float
        Of the filter [Hz], see :func:`spec2fn.kernels.nsclean.cosine_gain`.

    Returns
    -------
    ndarray, (line, n), float64, or None
        Zero where fewer than 5 % of the pixels are usable; None if nowhere are enough.
    """
    mask = _mask_outliers(image, mask)
    sections = _sections(np.count_nonzero(mask, axis=1))
    if not sections:
        return None
    model, weight = np.zeros(image.shape), np.zeros(image.shape)
    lengths: dict[int, list[int]] = {}
    for first, length in sections:
        lengths.setdefault(length, []).append(first)
    for length, starts in lengths.items():
        rows = np.asarray(starts)[:, None] + np.arange(length)
        fitted = _fit_sections(image[rows], mask[rows], cutoffs)
        # never zero, so that a single fit has all the weight
        taper = 1.001 - np.abs(np.linspace(-1.0, 1.0, length))
        for first, part in zip(starts, fitted, strict=True):
            model[first : first + length] += taper[:, None] * part
            weight[first : first + length] += taper[:, None]
    return np.divide(model, weight, out=np.zeros_like(model), where=weight > 0)


def _mask_outliers(image: HostArray, mask: HostArray) -> HostArray:
    from scipy.ndimage import binary_dilation

    centre = np.median(image[mask])
    spread = np.float32(1.4825) * np.median(np.abs(image[mask] - centre))
    outlier = mask & (np.abs(image - centre) > np.float32(_SECTION_REJECTION) * spread)
    return mask & ~binary_dilation(outlier)  # with their neighbours along both axes


def _sections(count: HostArray) -> list[tuple[int, int]]:
    """First line and number of lines of each group."""
    used = np.flatnonzero(count)
    if not used.size:
        return []
    end = int(used[-1]) + 1
    before = np.concatenate([[0], np.cumsum(count)])
    first, sections = int(used[0]), []
    while first < end:
        last = end
        if before[-1] - before[first] > 1.5 * _SECTION:
            last = min(end, int(np.searchsorted(before, before[first] + _SECTION, side="right")))
        sections.append((first, last - first))
        # groups overlap by half; the last is the one that reaches the end
        first = end if last == end else first + max(int(np.round((last - first) / 2)), 1)
    return sections


def _fit_sections(
    values: HostArray, mask: HostArray, cutoffs: tuple[float, float, float, float]
) -> HostArray:
    """Noise (section, line, n) of groups of one length; pauses between lines are masked samples."""
    count, lines, n = values.shape
    enough = mask.mean(axis=(1, 2)) > _MINIMUM_USED
    padded = np.zeros((count, lines, n + _LINE_OVERHEAD))
    used = np.zeros(padded.shape, dtype=bool)
    used[..., :n] = mask & enough[:, None, None]
    padded[..., :n] = np.where(used[..., :n], values, 0.0)
    ticks = lines * (n + _LINE_OVERHEAD)
    harmonics, gain = cosine_gain(ticks, cutoffs, _PIXEL_TIME)
    sigma = 1.0 / (0.5 * (cutoffs[0] + cutoffs[1])) / _PIXEL_TIME / 8.0
    kernel = _gaussian_transform(ticks, sigma, 1, half=True)
    series = used.reshape(count, ticks)
    density = np.fft.irfft(np.fft.rfft(series) * kernel, ticks)
    power = np.where(series, 1.0 / np.square(np.where(series, density, 1.0)), 0.0)
    real, imaginary = fit_harmonics(padded.reshape(count, ticks), power, harmonics)
    model = synthesize(real * gain, imaginary * gain, harmonics, ticks)
    return model.reshape(padded.shape)[..., :n]

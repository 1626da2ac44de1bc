"""Find point sources in a small image.

The algorithm is DAOFIND (P. B. Stetson 1987, PASP 99, 191): local maxima of the image convolved
with a Gaussian less its mean, accepted by sharpness and roundness, and centred by fits of the
marginal distributions. Weights of the fits and limits are those of its common implementations.
"""

from __future__ import annotations

import math

import numpy as np

__all__ = ["brightest_source"]

_TRUNCATION = 1.5  # radius of the kernel in standard deviations
_SEPARATION = 2.5  # of maxima, in FWHM
_SHARPNESS = (0.2, 1.0)
_ROUNDNESS = (-1.0, 1.0)


def brightest_source(
    image: np.ndarray, threshold: float, fwhm: float = 3.0
) -> tuple[float, float] | None:
    """Return the position of the brightest point source.

    Parameters
    ----------
    image : array of float, (y, x)
        Finite, background subtracted.
    threshold : float
        Peak a source needs, in the units of the image.
    fwhm : float
        Width of sources [pixel].

    Returns
    -------
    (float, float) or None
        Zero-indexed pixel x, y; None if nothing in the image looks like a point source.
    """
    from scipy.ndimage import convolve

    image = np.asarray(image, dtype=np.float64)
    sigma = fwhm / math.sqrt(8.0 * math.log(2.0))
    half = int(max(2, _TRUNCATION * sigma))
    offset = np.arange(-half, half + 1)
    square = offset[:, None] ** 2 + offset**2
    gaussian = np.exp(-square / (2.0 * sigma**2))
    inside = (square <= (_TRUNCATION * sigma) ** 2) | (square <= 4)
    inner = gaussian * inside
    n = int(inside.sum())
    spread = float((inner**2).sum() - inner.sum() ** 2 / n)
    kernel = (inner - inner.sum() / n) / spread * inside
    smooth = convolve(image, kernel, mode="constant")
    best: tuple[float, float] | None = None
    brightest = -np.inf
    for y, x in _maxima(smooth, threshold / math.sqrt(spread), _SEPARATION * fwhm):
        cut, blurred = _cut(image, y, x, half), _cut(smooth, y, x, half)
        sharpness = (cut[half, half] - (cut[inside].sum() - cut[half, half]) / (n - 1)) / blurred[
            half, half
        ]
        fit_x, fit_y = (_marginal(c, gaussian, sigma) for c in (cut, cut.T))
        flux = float(cut.sum())
        if fit_x is None or fit_y is None or not _SHARPNESS[0] <= sharpness <= _SHARPNESS[1]:
            continue
        (dx, height_x), (dy, height_y) = fit_x, fit_y
        roundness = (_asymmetry(blurred), 2.0 * (height_x - height_y) / (height_x + height_y))
        if all(_ROUNDNESS[0] <= r <= _ROUNDNESS[1] for r in roundness) and flux > brightest:
            best, brightest = (x + dx, y + dy), flux
    return best


def _maxima(smooth: np.ndarray, threshold: float, separation: float) -> list[tuple[int, int]]:
    """Pixels above the threshold that are the largest within the separation."""
    from scipy.ndimage import maximum_filter

    reach = int(separation)
    offset = np.arange(-reach, reach + 1)
    disc = offset[:, None] ** 2 + offset**2 <= separation**2
    largest = maximum_filter(smooth, footprint=disc, mode="constant", cval=0.0)
    peaks = np.nonzero((smooth == largest) & (smooth > threshold))
    return [(int(y), int(x)) for y, x in zip(*peaks, strict=True)]


def _cut(image: np.ndarray, y: int, x: int, half: int) -> np.ndarray:
    """Square around a pixel, zero beyond the edge of the image."""
    padded = np.pad(image, half)
    return padded[y : y + 2 * half + 1, x : x + 2 * half + 1]


def _marginal(cut: np.ndarray, gaussian: np.ndarray, sigma: float) -> tuple[float, float] | None:
    """Offset along x of the source from the middle, and the height of the fitted Gaussian."""
    size = len(cut)
    half = size // 2
    offset = np.arange(size) - half
    weight = half - np.abs(offset) + 1.0
    total = weight.sum()
    data = weight @ cut
    model = weight @ gaussian
    slope = -model * offset
    model_sum, data_sum, slope_sum = weight @ model, weight @ data, weight @ slope
    numerator = weight @ (data * model) - data_sum * model_sum / total
    denominator = weight @ model**2 - model_sum**2 / total
    if not (numerator > 0 and denominator > 0):
        return None
    height = numerator / denominator
    shift = weight @ (model * slope) - (weight @ (data * slope) - slope_sum * data_sum)
    shift = shift / (height * (weight @ slope**2) / sigma**2)
    if abs(shift) > size / 2:
        shift = 0.0 if data_sum == 0 else (weight @ (data * offset)) / data_sum
    return (float(shift) if abs(shift) <= size / 2 else 0.0), float(height)


def _asymmetry(cut: np.ndarray) -> float:
    """Ratio of two-fold to four-fold symmetry: zero for a round source."""
    half = len(cut) // 2
    ring = cut.copy()
    ring[half, half] = 0.0
    two = (
        -ring[: half + 1, half + 1 :].sum()
        + ring[:half, : half + 1].sum()
        - ring[half:, :half].sum()
        + ring[half + 1 :, half:].sum()
    )
    four = np.abs(ring).sum()
    return float(2.0 * two / four) if four > 0 else math.inf

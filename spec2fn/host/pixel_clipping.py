"""Sigma clipping of all pixels of an image, on one sorted copy of their values.

What survives clipping about a median is a contiguous run of the sorted values, so that an image
is sorted once however often it is clipped.
"""

from __future__ import annotations

import numpy as np

from spec2fn.typing import HostArray

__all__ = ["SortedPixels"]

_CLIP = 3.0
_MAXITERS = 5
_BINS = 2000


class SortedPixels:
    """Values of some pixels, to be clipped again and again.

    Parameters
    ----------
    values : ndarray, (n,), float32
        Finite; in any order.

    Attributes
    ----------
    low, high : float
        Values in ``[low, high]`` have survived so far.
    """

    def __init__(self, values: HostArray) -> None:
        self._sorted = np.sort(values)
        self._first, self._last = 0, self._sorted.size
        self.low, self.high = -np.inf, np.inf
        # about the median, so that sums of squares do not cancel
        self._origin = float(self._sorted[self._sorted.size // 2]) if self._sorted.size else 0.0
        self._centred = self._sorted.astype(np.float64)
        self._centred -= self._origin

    @property
    def size(self) -> int:
        """Number of values that are left."""
        return self._last - self._first

    def median(self) -> np.float32:
        """Median of the values that are left (NaN if there are none)."""
        left = self._sorted[self._first : self._last]
        return np.float32(_middle(left) if left.size else np.nan)

    def clip(
        self,
        n_lower: float,
        n_upper: float,
        *,
        lower_half: bool = False,
        fit_histogram: bool = False,
    ) -> None:
        """Discard what is far below or above the bulk of the values.

        Parameters
        ----------
        n_lower, n_upper : float
            Distance from the centre in standard deviations. Both numbers are those of the values
            within three standard deviations of their median.
        lower_half : bool
            Take the width from the values below the centre, as if the others mirrored them: bright
            diffuse light then does not widen the limits.
        fit_histogram : bool
            Take centre and width from a Gaussian fitted to the histogram of the values.
        """
        if not self.size:
            return
        values = self._centred[self._first : self._last]
        first, last, sigma = _bulk(values)
        bulk = values[first:last]
        if fit_histogram:
            centre, sigma = _gaussian(values, float(np.mean(bulk)), sigma)
        else:
            centre = float(_middle(bulk))
        if lower_half:
            sigma = _mirrored_width(
                values[: np.searchsorted(values, centre, side="right")] - centre
            )
        low, high = centre - n_lower * sigma, centre + n_upper * sigma
        start = self._first
        self._first = start + int(np.searchsorted(values, low, side="left"))
        self._last = start + int(np.searchsorted(values, high, side="right"))
        self.low = max(self.low, low + self._origin)
        self.high = min(self.high, high + self._origin)

    def keep(self, image: HostArray, mask: HostArray) -> HostArray:
        """Return `mask` without the pixels of `image` (float32) that were discarded."""
        low, high = np.float32(self.low), np.float32(self.high)
        # limits in the type of the pixels, rounded inwards: the same pixels without a copy
        low = np.nextafter(low, np.float32(np.inf)) if float(low) < self.low else low
        high = np.nextafter(high, np.float32(-np.inf)) if float(high) > self.high else high
        kept: HostArray = mask & (image >= low)
        kept &= image <= high
        return kept


def _middle(ascending: HostArray) -> np.floating:
    """Median of sorted values, in their own precision."""
    n = ascending.size
    half = ascending.dtype.type(0.5)
    middle: np.floating = half * (ascending[(n - 1) // 2] + ascending[n // 2])
    return middle


def _bulk(values: HostArray) -> tuple[int, int, float]:
    """Run of the sorted values within three deviations of their median, and its width."""
    first, last = 0, values.size
    total, square = float(values.sum()), float(np.dot(values, values))
    for _ in range(_MAXITERS):
        n = last - first
        sigma = _width(total, square, n)
        inside = values[first:last]
        centre = _middle(inside)
        a = first + int(np.searchsorted(inside, centre - _CLIP * sigma, side="left"))
        b = first + int(np.searchsorted(inside, centre + _CLIP * sigma, side="right"))
        if (a, b) == (first, last):
            break
        ends = values[first:a], values[b:last]
        removed = sum(float(np.dot(e, e)) for e in ends)
        if removed < 0.999 * square:
            total -= sum(float(e.sum()) for e in ends)
            square -= removed
        else:
            kept = values[a:b]
            total, square = float(kept.sum()), float(np.dot(kept, kept))
        first, last = a, b
    return first, last, _width(total, square, last - first)


def _width(total: float, square: float, n: int) -> float:
    mean = total / n
    return float(np.sqrt(max(square / n - mean * mean, 0.0)))


def _mirrored_width(below: HostArray) -> float:
    """The same for values and their mirror image: about a centre that stays where it is."""
    n = below.size
    sigma = float(np.sqrt(np.dot(below, below) / n))
    for _ in range(_MAXITERS):
        first = int(np.searchsorted(below, -_CLIP * sigma, side="left"))
        if below.size - first == n:
            break
        kept = below[first:]
        n = kept.size
        sigma = float(np.sqrt(np.dot(kept, kept) / n))
    return sigma


def _gaussian(values: HostArray, centre: float, sigma: float) -> tuple[float, float]:
    from scipy.optimize import curve_fit

    if not sigma > 0:
        return centre, sigma
    limits = (centre - 4.0 * sigma, centre + 4.0 * sigma)
    counts, edges = np.histogram(values, bins=_BINS, range=limits)
    x = 0.5 * (edges[1:] + edges[:-1])

    def profile(x: HostArray, height: float, mean: float, width: float) -> HostArray:
        return height * np.exp(-0.5 * ((x - mean) / width) ** 2)

    top = int(np.argmax(counts))
    start = (counts[top], x[top], sigma)
    bounds = ([0.0, x[0], 0.0], [np.inf, x[-1], x[-1] - x[0]])
    try:
        (_, mean, width), _ = curve_fit(profile, x, counts, p0=start, bounds=bounds)
    except (RuntimeError, ValueError):
        # not a peak: what the clipping gave stands
        return centre, sigma
    return float(mean), float(width)

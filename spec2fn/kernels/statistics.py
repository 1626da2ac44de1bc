"""Order statistics and clipping of stacks of arrays.

Medians of a handful of planes are computed with a sorting network: a fixed sequence of
elementwise minima and maxima. That needs no sort primitive, so it is vectorised in NumPy, cheap
under XLA on a CPU, and differentiable almost everywhere. Clipping searches and is host-only.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np

from spec2fn.kernels.namespace import array_namespace
from spec2fn.typing import Array, HostArray

__all__ = ["clip_bounds", "masked_median", "running_median", "sorting_network"]


@functools.cache
def sorting_network(n: int) -> tuple[tuple[int, int], ...]:
    """Return the comparators (i, j), i < j, that sort `n` values when applied in order.

    Batcher's merge exchange for arbitrary `n` (K. E. Batcher 1968, AFIPS 32, 307; D. E. Knuth,
    The Art of Computer Programming 3, algorithm 5.2.2M).
    """
    pairs: list[tuple[int, int]] = []
    if n < 2:
        return ()
    top = 1 << ((n - 1).bit_length() - 1)
    p = top
    while p > 0:
        q, r, d = top, 0, p
        while d > 0:
            pairs += [(i, i + d) for i in range(n - d) if i & p == r]
            d, q, r = q - p, q >> 1, p
        p >>= 1
    return tuple(pairs)


def masked_median(planes: Sequence[Array], masks: Sequence[Array]) -> tuple[Array, Array]:
    """Return the elementwise median of several arrays over the entries that are masked in.

    Parameters
    ----------
    planes : sequence of array
        Equal shapes and dtypes; what they hold where their mask is false does not matter.
    masks : sequence of bool array
        True where the plane takes part.

    Returns
    -------
    median : array
        Mean of the two middle values for an even number; zero where nothing takes part.
    found : bool array
        Whether anything takes part.
    """
    xp = array_namespace(*planes, *masks)
    n = len(planes)
    dtype = planes[0].dtype
    zero, infinity = xp.zeros((), dtype), xp.asarray(np.inf, dtype)
    values = [xp.where(m, p, infinity) for p, m in zip(planes, masks, strict=True)]
    count = masks[0].astype(xp.int32)
    for mask in masks[1:]:
        count = count + mask.astype(xp.int32)
    for i, j in sorting_network(n):
        a, b = values[i], values[j]
        values[i], values[j] = xp.minimum(a, b), xp.maximum(a, b)
    low = high = xp.zeros(count.shape, dtype)
    lower, upper = (count - 1) >> 1, count >> 1
    for i, value in enumerate(values):
        if i < (n + 1) // 2:
            low = xp.where(lower == i, value, low)
        if i <= n // 2:
            high = xp.where(upper == i, value, high)
    found = count > 0
    return xp.where(found, (low + high) / 2, zero), found


def running_median(image: HostArray, size: tuple[int, int], block: int = 1 << 16) -> HostArray:
    """Median filter that ignores NaN and counts pixels beyond the edge as zero (host only).

    Parameters
    ----------
    image : ndarray, (y, x)
        May contain NaN.
    size : (int, int)
        Window in rows and columns; an even one reaches one pixel farther down than up.
    block : int, optional
        Pixels per block, which keeps the stack of shifted copies in the processor's cache.

    Returns
    -------
    ndarray, (y, x)
        NaN where the window holds nothing but NaN.
    """
    ny, nx = image.shape
    ky, kx = size
    pad = ((ky // 2, (ky - 1) // 2), (kx // 2, (kx - 1) // 2))
    padded = np.pad(image, pad)
    valid = ~np.isnan(padded)
    out = np.empty_like(image)
    rows = max(1, block // max(nx, 1))
    for top in range(0, ny, rows):
        h = min(rows, ny - top)
        at = [(slice(top + i, top + i + h), slice(j, j + nx)) for i in range(ky) for j in range(kx)]
        median, found = _window_median(padded, valid, at)
        out[top : top + h] = np.where(found, median, np.asarray(np.nan, image.dtype))
    return out


def _window_median(
    padded: HostArray, valid: HostArray, at: list[tuple[slice, slice]]
) -> tuple[Array, Array]:
    masks = [valid[k] for k in at]
    if not all(m.all() for m in masks):
        return masked_median([padded[k] for k in at], masks)
    # without NaN the middle of the network is all that is needed
    values = [padded[k] for k in at]
    n = len(values)
    for i, j in _median_network(n):
        a, b = values[i], values[j]
        values[i], values[j] = np.minimum(a, b), np.maximum(a, b)
    middle = (values[(n - 1) // 2] + values[n // 2]) / 2 if n % 2 == 0 else values[n // 2]
    return middle, np.True_


@functools.cache
def _median_network(n: int) -> tuple[tuple[int, int], ...]:
    """Comparators that can reach the middle."""
    needed = {(n - 1) // 2, n // 2}
    kept: list[tuple[int, int]] = []
    for i, j in reversed(sorting_network(n)):
        if i in needed or j in needed:
            needed |= {i, j}
            kept.append((i, j))
    return tuple(reversed(kept))


def clip_bounds(
    values: HostArray, sigma: float, maxiters: int | None = None, block: int = 1 << 18
) -> tuple[HostArray, HostArray]:
    """Bounds of iterative sigma clipping about the median, along the first axis (host only).

    Values farther than `sigma` population standard deviations from the median of those that
    remain are left out until none is, or `maxiters` times.

    Parameters
    ----------
    values : ndarray, (n, …)
        Anything that is not finite does not take part.
    sigma : float
    maxiters : int, optional
        No limit if None.
    block : int, optional
        Values handled at a time.

    Returns
    -------
    low, high : ndarray, (…), float64
        Limits of the last iteration: values in ``[low, high]`` are kept, also one that an earlier
        iteration had left out (as in `astropy.stats.sigma_clip`). NaN where no value is finite.
    """
    n, shape = values.shape[0], values.shape[1:]
    flat = values.reshape(n, -1)
    low = np.full(flat.shape[1], -np.inf)
    high = np.full(flat.shape[1], np.inf)
    # of n numbers none is farther from the median than 1 + sqrt(n - 1) standard deviations: at
    # most sqrt(n - 1) from the mean, which is at most 1 from the median
    if sigma <= 1.0 + math.sqrt(max(n - 1, 0)):
        width = max(1, block // max(n, 1))
        for start in range(0, flat.shape[1], width):
            part = flat[:, start : start + width]
            at = _may_clip(part, sigma)
            low[start + at], high[start + at] = _clip_block(part[:, at], sigma, maxiters)
    return low.reshape(shape), high.reshape(shape)


def _may_clip(values: HostArray, sigma: float) -> HostArray:
    # a value within (sigma - 1) deviations of the mean is within sigma of the median; where that
    # holds for all there is nothing to sort
    finite = np.isfinite(values)
    x = np.where(finite, values, np.float64(0.0))
    count = np.maximum(np.count_nonzero(finite, axis=0), 1)
    x -= x.sum(axis=0) / count
    np.abs(x, out=x)
    x[~finite] = 0.0
    farthest = x.max(axis=0)
    np.square(x, out=x)
    reach = max(sigma - 1.0, 0.0) * np.sqrt(x.sum(axis=0) / count)
    return np.flatnonzero(farthest > reach * (1.0 - 1e-9))


def _clip_block(
    values: HostArray, sigma: float, maxiters: int | None
) -> tuple[HostArray, HostArray]:
    # sorted along the last axis, what remains is always a contiguous run [first, last)
    ordered = np.ascontiguousarray(values.T, dtype=np.float64)
    ordered[~np.isfinite(ordered)] = np.nan
    ordered.sort(axis=1)
    size, n = ordered.shape
    first = np.zeros(size, dtype=np.intp)
    last = np.count_nonzero(~np.isnan(ordered), axis=1)
    low, high = np.full(size, np.nan), np.full(size, np.nan)
    active = np.flatnonzero(last > 0)
    position = np.arange(n)
    iteration = 0
    while active.size and (maxiters is None or iteration < maxiters):
        iteration += 1
        x, a, b = ordered[active], first[active], last[active]
        inside = (position >= a[:, None]) & (position < b[:, None])
        count = b - a
        mean = np.sum(x, axis=1, where=inside) / count
        spread = np.sum((x - mean[:, None]) ** 2, axis=1, where=inside) / count
        lane = np.arange(active.size)
        median = 0.5 * (x[lane, a + (count - 1) // 2] + x[lane, a + count // 2])
        reach = sigma * np.sqrt(spread)
        low[active], high[active] = median - reach, median + reach
        below = np.count_nonzero(inside & (x < (median - reach)[:, None]), axis=1)
        above = np.count_nonzero(inside & (x > (median + reach)[:, None]), axis=1)
        first[active], last[active] = a + below, b - above
        active = active[(below + above > 0) & (b - a > below + above)]
    return low, high

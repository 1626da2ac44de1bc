"""By how much an image has to be multiplied to fit another, pixels that stand out left aside."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from spec2fn.typing import HostArray

__all__ = ["Scaling", "scale_to_fit"]


_SAMPLE = 20_000  # pixels, to guess percentiles


class Scaling(NamedTuple):
    """How an image fits another.

    Attributes
    ----------
    factor : float
        NaN if no pixel is left.
    iterations : int
        How often pixels were rejected.
    pixels : int
        How many pixels the factor was found with.
    """

    factor: float
    iterations: int
    pixels: int


def scale_to_fit(
    data: HostArray,
    error: HostArray,
    image: HostArray,
    usable: HostArray,
    *,
    percent: float = 1.0,
    max_iterations: int = 5,
    least_change: float = 0.0,
    profile_axis: int | None = None,
) -> Scaling:
    """Find the factor by which an image fits data best.

    The factor of least squares, weighted with the errors, is that of all usable pixels at first;
    then, again and again, the lowest and the highest residuals are rejected.

    Parameters
    ----------
    data, error : array, shape (y, x)
        Image with its standard errors. Pixels without value, or of which an error is 0, do not
        count.
    image : array, shape (y, x)
        What is to be scaled.
    usable : bool array, shape (y, x)
        Pixels that count.
    percent : float
        How many of the pixels are rejected at each end, each time.
    max_iterations : int
        How often.
    least_change : float
        Stop when the root mean square of the median profile of the residuals has not become
        smaller by this fraction; 0 to look at no profile.
    profile_axis : int, optional
        Axis along which the medians of the profile are taken, if `least_change` is not 0.

    Returns
    -------
    Scaling

    Notes
    -----
    Algorithm: background subtraction step of the JWST calibration pipeline, "WFSS Mode"
    (https://jwst-pipeline.readthedocs.io).
    """
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        weight = image / np.square(error, dtype=np.float64)
        good = np.asarray(usable, bool) & np.isfinite(data) & np.isfinite(weight)
    (places,) = np.nonzero(good.ravel())
    values, shape_of, weight = (np.asarray(a).ravel()[places] for a in (data, image, weight))
    # what a pixel adds to both sums: the few that are rejected are taken off again
    terms = weight * values, weight * shape_of
    sums = [float(term.sum()) for term in terms]
    gone = np.zeros(0, np.intp)
    last, count = np.inf, 0
    while count < max_iterations and gone.size < places.size:
        # single precision tells which pixels stand out
        residual = values - values.dtype.type(_ratio(sums)) * shape_of
        residual[gone] = np.nan
        if least_change > 0:
            spread = _profile_spread(residual, places, good.shape, profile_axis)
            if np.isfinite(last) and (last - spread) / last < least_change:
                break
            last = spread
        count += 1
        left = places.size - gone.size
        out = np.concatenate(
            [_tail(residual, left, percent), _tail(-residual, left, percent)], dtype=np.intp
        )
        gone = np.concatenate([gone, out])
        sums = [total - float(term[out].sum()) for total, term in zip(sums, terms, strict=True)]
    pixels = places.size - gone.size
    return Scaling(_ratio(sums) if pixels else np.nan, count, pixels)


def _tail(values: HostArray, count: int, percent: float) -> HostArray:
    """Positions of the values below a percentile of those that are numbers, `count` in all.

    Only what is below an estimate of the percentile, from a sample, is sorted.
    """
    rank = (count - 1) * percent / 100
    sample = values[:: max(values.size // _SAMPLE, 1)]
    share = min(2 * percent + 1, 100)
    (low,) = np.nonzero(values < np.nanpercentile(sample, share))
    if low.size < rank + 2:
        (low,) = np.nonzero(np.isfinite(values))
    first = int(rank)
    below = np.partition(values[low], (first, min(first + 1, low.size - 1)))
    ends = below[first], below[min(first + 1, low.size - 1)]
    limit = ends[0] + (ends[1] - ends[0]) * below.dtype.type(rank - first)
    return low[values[low] < limit]


def _ratio(sums: Sequence[float]) -> float:
    return sums[0] / sums[1] if sums[1] > 0 else np.nan


def _profile_spread(
    residual: HostArray, places: HostArray, shape: tuple[int, ...], axis: int | None
) -> float:
    """Root mean square of the medians along an axis."""
    plane = np.full(shape, np.nan)
    plane.ravel()[places] = residual
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # rows without any pixel
        profile = np.nanmedian(plane, axis=axis)
        return float(np.sqrt(np.nanmean(profile**2)))

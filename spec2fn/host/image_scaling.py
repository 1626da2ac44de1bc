"""By how much an image has to be multiplied to fit another, pixels that stand out left aside."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from spec2fn.typing import HostArray

__all__ = ["Scaling", "scale_to_fit"]


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
    kept = np.ones(places.size, bool)
    last, count = np.inf, 0
    while count < max_iterations and kept.any():
        # single precision tells which pixels stand out
        residual = values - values.dtype.type(_ratio(sums)) * shape_of
        if least_change > 0:
            spread = _profile_spread(residual[kept], places[kept], good.shape, profile_axis)
            if np.isfinite(last) and (last - spread) / last < least_change:
                break
            last = spread
        count += 1
        low, high = np.percentile(residual[kept], (percent, 100 - percent))
        (out,) = np.nonzero(kept & ((residual < low) | (residual > high)))
        kept[out] = False
        sums = [total - float(term[out].sum()) for total, term in zip(sums, terms, strict=True)]
    pixels = int(np.count_nonzero(kept))
    return Scaling(_ratio(sums) if pixels else np.nan, count, pixels)


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

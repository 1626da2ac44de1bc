"""Which slits and slices hold a source that a trace model describes, and where in them it is.

Algorithm: adaptive trace model of the JWST calibration pipeline
(https://jwst-pipeline.readthedocs.io). All arrays are of one slit or slice, (y, column).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np

from spec2fn.host.trace_splines import native_spacing
from spec2fn.kernels.statistics import clip_bounds
from spec2fn.typing import HostArray

__all__ = [
    "Profile",
    "clipped_moments",
    "column_scales",
    "compact_pixels",
    "cross_profile",
    "steep_positions",
    "trimmed",
]

_CLIPPINGS = 5
_BRIGHTEST = 5  # pixels that say what the scale of a column is about
_OUTLIER = 2.0  # standard deviations of their ratio to the model
_FAR = 5.0  # standard deviations from the median of the brightest pixels
_APART = 0.5  # and share of it, beyond which one of them says nothing of the scale
_NORMAL = 1.4826  # standard deviation for a median absolute deviation of 1
_FAINT = 5.0  # signal-to-noise ratio of an edge that may be bad
_NOISY = 5.0  # standard deviations by which the errors of a bad edge stand out
_FEWEST_STEEP = 50
_LEAST_PEAK = 0.2  # of the highest one in the histogram of steep pixels


def clipped_moments(values: HostArray, sigma: float = 3.0) -> tuple[HostArray, HostArray]:
    """Return mean and population standard deviation after clipping about the median.

    Parameters
    ----------
    values : array, (n, …)
        Those that are not finite do not take part.

    Returns
    -------
    mean, deviation : array of float64, (…)
        NaN where nothing is finite.
    """
    if not values.size:
        return (np.full(values.shape[1:], np.nan),) * 2
    low, high = clip_bounds(values, sigma, _CLIPPINGS)
    with np.errstate(invalid="ignore", divide="ignore"):
        kept = np.isfinite(values) & (values >= low) & (values <= high)
        count = np.count_nonzero(kept, axis=0)
        mean = np.sum(values, axis=0, where=kept, dtype=float) / count
        away = np.where(kept, values - mean, 0.0)
        return mean, np.sqrt(np.sum(away * away, axis=0) / count)


@dataclass(frozen=True, eq=False)
class Profile:
    """Medians along the dispersion, by position along the slit in steps of half a pixel."""

    along: HostArray
    flux: HostArray
    error: HostArray
    snr: HostArray

    def exceeds(self, peak: float | None, snr: float | None) -> bool:
        """Whether the brightest position is above the threshold of the flux, or of the ratio."""
        if peak is None and snr is None:
            return True
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # no position has data
            flux, ratio = np.nanmax(self.flux), np.nanmax(self.snr)
        return bool((peak is not None and flux > peak) or (snr is not None and ratio > snr))


def cross_profile(flux: HostArray, error: HostArray, along: HostArray) -> Profile | None:
    """Collapse a spectrum along the dispersion; None if no pixel has flux, error and position."""
    valid = np.isfinite(flux) & np.isfinite(error) & np.isfinite(along) & (error > 0)
    if not valid.any():
        return None
    step = native_spacing(along) / 2.0
    positions = np.arange(np.nanmin(along), np.nanmax(along), step)
    place = along[valid]
    order = np.argsort(place)
    place = place[order]
    begin = np.searchsorted(place, positions - step / 2.0)
    end = np.searchsorted(place, positions + step / 2.0)
    values = flux[valid][order], error[valid][order]
    stacks = (*values, values[0] / values[1])
    medians = [
        np.array([np.median(v[a:b]) if b > a else np.nan for a, b in zip(begin, end, strict=True)])
        for v in stacks
    ]
    return Profile(positions, *medians)


def trimmed(flux: HostArray, along: HostArray, profile: Profile) -> HostArray:
    """Return the flux without the ends of the slit where there is noise and no signal."""
    known = np.isfinite(profile.snr)
    mean, rms = clipped_moments(profile.error[known])
    with np.errstate(invalid="ignore"):
        bad = (np.abs(profile.snr) < _FAINT) & (profile.error > mean + _NOISY * rms)
    if not bad.any() or bad.all():
        return flux
    off = np.zeros(flux.shape, dtype=bool)
    below, above = (profile.along[bad & side] for side in (profile.along < 0, profile.along > 0))
    with np.errstate(invalid="ignore"):
        if below.size:
            off |= along <= below.max()
        if above.size:
            off |= along >= above.min()
    return np.where(off, np.asarray(np.nan, flux.dtype), flux)


def column_scales(
    flux: HostArray, model: HostArray, *, robust: bool
) -> tuple[HostArray, HostArray]:
    """Return what brings the profiles of the columns to the flux.

    The scale is the mean ratio, weighted by the profile, of pixels that agree with the brightest.

    Parameters
    ----------
    flux, model : array, (y, column)
        Flux (NaN where not usable) and profile (NaN where there is none).
    robust : bool
        Whether an outlier among the brightest, which are too few for their standard deviation
        to tell it, is found by its distance from their median.

    Returns
    -------
    scale : array of float64, (column,)
    weight : array of float64, (y, column)
        Of the fluxes in the scale, which is their sum: scale = sum(weight * flux).
    """
    defined = np.isfinite(model)
    profile = np.where(defined, model, 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.where(defined & (profile != 0), flux / profile, np.nan)
    known = np.isfinite(ratio)
    weight = np.where(known & (profile >= 0) & ~(ratio < 0), profile, 0.0)
    ranked = np.where(defined, weight, -np.inf)
    place = max(ranked.shape[0] - _BRIGHTEST, 0)
    threshold = np.partition(ranked, place, axis=0)[place]
    bright = np.where(known & (ranked >= threshold), ratio, np.nan)
    if robust:
        bright = _without_outliers(bright)
    mean, rms = clipped_moments(bright)
    with np.errstate(invalid="ignore"):
        weight[np.abs(mean - ratio) > _OUTLIER * rms] = 0.0
    total = weight.sum(axis=0)
    weight /= np.where(total > 0, total, 1.0)
    scale = np.sum(np.where(weight > 0, ratio, 0.0) * weight, axis=0)
    return scale, weight / np.where(profile != 0, profile, 1.0)


def _without_outliers(ratio: HostArray) -> HostArray:
    """Leave out what is far from the median of its column (y, column)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # columns without pixels
        middle = np.nanmedian(ratio, axis=0)
        away = np.abs(ratio - middle)
        spread = _NORMAL * np.nanmedian(away, axis=0)
    limit = np.maximum(_FAR * spread, _APART * np.abs(middle))
    with np.errstate(invalid="ignore"):
        return np.where(away <= limit, ratio, np.nan)


def steep_positions(
    model: HostArray, along: HostArray, limit: float, margins: tuple[int, int]
) -> HostArray:
    """Return the positions of pixels between which and the one before a profile changes much.

    Parameters
    ----------
    model, along : array, (y, column)
        Profile (NaN where there is none), and positions.
    limit : float
        Least change from pixel to pixel.
    margins : (int, int)
        Pixels at the beginning and at the end of the profile of a column that do not count.
    """
    defined = np.isfinite(model)
    from_below = np.cumsum(defined, axis=0)
    inner = defined & (from_below > margins[0]) & (from_below <= from_below[-1] - margins[1])
    before = np.where(defined, from_below - 1, 0)
    # pixels without a profile in between are passed over
    with np.errstate(invalid="ignore"):
        ordered = np.take_along_axis(model, np.argsort(~defined, axis=0, kind="stable"), axis=0)
        change = np.abs(np.diff(ordered, axis=0, prepend=0.0))
        steep = inner & (np.take_along_axis(change, before, axis=0) > limit)
    return along.T[steep.T]


def compact_pixels(
    along: HostArray, steep: HostArray, native: float, knots: int, pad: int
) -> HostArray:
    """Return which pixels lie near a compact source.

    Parameters
    ----------
    along : array, (y, column)
        Positions along the slit; NaN where there is no profile.
    steep : array, (n,)
        Positions of pixels where the profile is steep.
    native : float
        Distance of two pixels along the slit.
    knots : int
        Intervals of the splines, of which as many half pixels about the middle are looked at.
    pad : int
        Pixels around the position of a source that count as it.

    Returns
    -------
    array of bool, (y, column)
    """
    from scipy.signal import find_peaks

    out = np.zeros(along.shape, dtype=bool)
    reach = native * knots / 4.0
    if len(steep) < _FEWEST_STEEP or not reach > 0:
        return out
    number, edges = np.histogram(steep, bins=knots, range=(-reach, reach))
    if not number.any():
        return out
    peaks, _ = find_peaks(number / number.max(), height=_LEAST_PEAK)
    for position in edges[peaks]:
        with np.errstate(invalid="ignore"):
            out |= (along > position - pad * native) & (along <= position + pad * native)
    return out

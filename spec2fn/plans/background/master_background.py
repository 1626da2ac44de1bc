"""One background spectrum from the spectra of many slitlets, on the host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.dq import PIXEL
from spec2fn.errors import InputError
from spec2fn.plan_base import Plan, array
from spec2fn.typing import HostArray

if TYPE_CHECKING:
    import xarray as xr

__all__ = [
    "Spectrum",
    "combine_spectra",
    "common_wavelengths",
    "expand",
    "smooth",
    "user_spectrum",
]

_VALUES = ("flux", "surf_bright")
_VARIANCES = ("sb_var_poisson", "sb_var_rnoise", "sb_var_flat")
_ERRORS = ("flux_error", "sb_error", "flux_error_cov")
# a group of wavelengths is one if it is narrower than this share of what its neighbours span
_NARROW = 0.8
_ROUNDING = float(np.finfo(np.float32).eps)


class Spectrum(Plan):
    """A combined spectrum.

    Attributes
    ----------
    wavelength : (wave,) float64
        [um], strictly ascending.
    surf_bright : (wave,) float64
        [MJy/sr]
    columns : dict of str to (wave,) array
        The others: ``flux`` [Jy], ``flux_error``, ``sb_error``, the variances ``sb_var_*``,
        ``dq``, ``weight``, ``n_input``; whichever are known.
    """

    wavelength: HostArray = array("wave")
    surf_bright: HostArray = array("wave")
    columns: dict[str, HostArray] = array("wave")


def combine_spectra(
    spectra: xr.Dataset, sigma_clip: float | None = 3.0, exposure_time: float = 1.0
) -> Spectrum | str:
    """Combine spectra by a weighted mean, without outliers.

    Every element of a spectrum goes to the nearest element of the combined one.

    Parameters
    ----------
    spectra : xarray.Dataset
        Extracted spectra, dims ``([integration,] spectrum, wave)``.
    sigma_clip : float, optional
        Values farther from the median of their element than so many times the median absolute
        deviation (of all elements) are left out.
    exposure_time : float
        Weight of every spectrum [s].

    Returns
    -------
    Spectrum or str
        Elements to which no spectrum contributes are left out; or the reason why there are none.

    Notes
    -----
    Algorithm: JWST pipeline documentation, combine_1d step. All fluxes of an element are judged,
    surface brightness goes along.
    """
    inputs = _usable(spectra)
    if not inputs:
        return "no background spectrum has a valid flux and wavelengths in order"
    wavelength = common_wavelengths([s["wavelength"] for s in inputs])
    if wavelength.size == 0:
        return "the background spectra are too short"
    names = [n for n in (*_VALUES, *_ERRORS, *_VARIANCES) if n in inputs[0]]
    planes = {n: np.zeros((len(inputs), wavelength.size)) for n in names}
    weight = np.zeros((len(inputs), wavelength.size))
    dq = np.zeros(wavelength.size, dtype=np.uint32)
    elements = np.arange(wavelength.size, dtype=float)
    for i, one in enumerate(inputs):
        place = np.interp(one["wavelength"], wavelength, elements, left=np.nan, right=np.nan)
        good = np.isfinite(place) & ~np.isnan(one["flux"])
        good &= (one["dq"] & PIXEL["DO_NOT_USE"]) == 0
        nearest = np.rint(place[good]).astype(int)
        np.bitwise_or.at(dq, nearest, one["dq"][good])
        for name in names:
            planes[name][i, nearest] = one[name][good]
        weight[i, nearest] = exposure_time
    used = weight > 0
    if sigma_clip is not None:
        used &= ~_outliers(planes["flux"] * weight, used, sigma_clip)
    weight = np.where(used, weight, 0.0)
    total = weight.sum(axis=0)
    kept = used.any(axis=0)
    if not kept.any():
        return "no element of the background spectra is left"
    safe = np.where(total > 0, total, 1.0)
    columns: dict[str, Any] = {}
    for name, values in planes.items():
        if name in _VALUES:
            columns[name] = np.nansum(values * weight, axis=0) / safe
        elif name in _ERRORS:
            columns[name] = np.sqrt(np.nansum((values * weight) ** 2, axis=0)) / safe
        else:
            columns[name] = np.nansum(values * weight**2, axis=0) / safe**2
    columns |= {"dq": dq, "weight": total, "n_input": used.sum(axis=0).astype(float)}
    columns = {n: c[kept] for n, c in columns.items()}
    return Spectrum(wavelength[kept], columns.pop("surf_bright"), columns)


def _usable(spectra: xr.Dataset) -> list[dict[str, HostArray]]:
    """Spectra that can be combined, without their padding."""
    names = [
        n
        for n in ("wavelength", "dq", *_VALUES, *_ERRORS, *_VARIANCES)
        if n in spectra and "wave" in spectra[n].dims
    ]
    whole = spectra[names].broadcast_like(spectra["flux"])
    size = spectra.sizes["wave"]
    columns = {
        n: np.asarray(whole[n].transpose(*spectra["flux"].dims).data).reshape(-1, size)
        for n in names
    }
    # images hold wavelengths in single precision, and so must the spectra: next to a cosmic ray
    # the background is so steep that the difference would be seen
    columns["wavelength"] = columns["wavelength"].astype(np.float32).astype(np.float64)
    usable = []
    for i in range(columns["flux"].shape[0]):
        valid = np.isfinite(columns["wavelength"][i])
        one = {n: c[i, valid] for n, c in columns.items()}
        steps = np.diff(one["wavelength"])
        in_order = steps.size > 0 and (np.all(steps > 0) or np.all(steps < 0))
        if in_order and np.isfinite(one["flux"]).any():
            usable.append(one)
    return usable


def _outliers(values: HostArray, used: HostArray, threshold: float) -> HostArray:
    """Which values are far from the median of their column."""
    from warnings import catch_warnings, simplefilter

    known = np.where(used & (values != 0), values, np.nan)
    with catch_warnings():
        simplefilter("ignore", RuntimeWarning)  # columns without values
        median = np.nanmedian(known, axis=0)
        deviation = np.nanmedian(np.abs(known - median))
    with np.errstate(invalid="ignore"):
        return np.abs(values - median) > threshold * deviation


def common_wavelengths(grids: Sequence[HostArray]) -> HostArray:
    """Find wavelengths that suit several spectra.

    Where the spectra agree, their wavelengths stand in groups, and the mean of each group is
    taken; where they do not, means of as many neighbours as there are spectra.

    Parameters
    ----------
    grids : sequence of array, shape (wave,)
        Wavelengths of each spectrum, strictly ascending or descending, at least two.

    Returns
    -------
    array, shape (n,)
        Ascending.

    Notes
    -----
    Algorithm: JWST pipeline documentation, combine_1d step.
    """
    ascending = [np.asarray(g) if g[1] > g[0] else np.asarray(g)[::-1] for g in grids]
    pooled = np.sort(np.concatenate(ascending))
    covering = np.zeros(pooled.size, dtype=np.int64)
    for grid in ascending:
        start = grid[0] - 0.5 * (grid[1] - grid[0])
        stop = grid[-1] + 0.5 * (grid[-1] - grid[-2])
        covering += (pooled >= start) & (pooled < stop)
    mean, spread = _moving_statistics(pooled, covering)
    around = np.full(pooled.size, np.nan)
    around[1:-1] = (spread[:-2] + spread[2:]) / 2
    around[[0, -1]] = spread[[1, -2]]
    chosen = np.where((spread == 0) | (spread < _NARROW * around), mean, -1.0)
    i = 0
    while i < pooled.size:
        count = covering[i]
        middle = count // 2
        if i + middle < pooled.size:
            count = covering[i + middle]
            free = chosen[max(i - 1, 0) : min(i + count + 1, pooled.size - 1)].max() <= 0
            if i + count < pooled.size and free:
                chosen[i] = pooled[i : i + count].mean()
        i += count
    return np.unique(chosen[chosen > 0])


def _moving_statistics(values: HostArray, counts: HostArray) -> tuple[HostArray, HostArray]:
    """Mean and standard deviation of as many neighbours as `counts` says."""
    mean, spread = np.full(values.size, -1.0), np.full(values.size, 9999.0)
    for count in np.unique(counts):
        # the group of an element: one more below than above for even counts
        first = np.flatnonzero(counts == count) + count // 2 + 1 - count
        inside = (first >= 0) & (first + count <= values.size)
        where = np.flatnonzero(counts == count)[inside]
        groups = np.lib.stride_tricks.sliding_window_view(values, count)[first[inside]]
        mean[where], spread[where] = groups.mean(axis=1), groups.std(axis=1)
    return mean, spread


def smooth(spectrum: Spectrum, width: int) -> Spectrum:
    """Filter fluxes with a moving median, zeros beyond the ends; errors stay as they are.

    Parameters
    ----------
    spectrum : Spectrum
    width : int
        Elements; even widths are lowered by one.
    """
    width -= width % 2 == 0
    if width <= 1:
        return spectrum
    from scipy.signal import medfilt

    columns = dict(spectrum.columns)
    if "flux" in columns:
        columns["flux"] = medfilt(columns["flux"], width)
    return Spectrum(spectrum.wavelength, medfilt(spectrum.surf_bright, width), columns)


def user_spectrum(given: xr.Dataset) -> Spectrum:
    """Read a background spectrum that the user gave.

    Parameters
    ----------
    given : xarray.Dataset
        Extracted or combined spectra with ``wavelength`` and ``surf_bright``, of which the first
        is taken; or an opened file of such (``combine1d.*`` or ``extract1d.*``).

    Raises
    ------
    InputError
        If there is no such column, or nothing in it.
    """
    prefixes = ("", "combine1d.", "extract1d.")
    prefix = next((p for p in prefixes if f"{p}surf_bright" in given), None)
    if prefix is None or f"{prefix}wavelength" not in given:
        held = ", ".join(sorted(map(str, given.variables))) or "nothing"
        msg = (
            "master_background.user_background: needs columns WAVELENGTH and SURF_BRIGHT in a"
            f" table EXTRACT1D or COMBINE1D, found {held}"
        )
        raise InputError(msg)
    names = ("wavelength", "surf_bright", "sb_error", *_VARIANCES)
    columns = {}
    for name in names:
        if f"{prefix}{name}" in given:
            data = np.asarray(given[f"{prefix}{name}"].data, dtype=np.float64)
            columns[name] = data.reshape(-1, data.shape[-1])[0]
    known = np.isfinite(columns["wavelength"]) & np.isfinite(columns["surf_bright"])
    if not known.any():
        msg = "master_background.user_background: has no finite wavelength and surface brightness"
        raise InputError(msg)
    _, order = np.unique(columns["wavelength"][known], return_index=True)
    columns = {n: c[known][order] for n, c in columns.items()}
    return Spectrum(columns.pop("wavelength"), columns.pop("surf_bright"), columns)


def expand(
    spectrum: Spectrum, wavelength: HostArray, *, variances: bool = True
) -> tuple[HostArray, HostArray, HostArray]:
    """Interpolate a spectrum linearly at the wavelengths of pixels.

    Parameters
    ----------
    spectrum : Spectrum
    wavelength : array of float64
        [um], may be NaN. Beyond an end by no more than the rounding of single precision is at
        the end.
    variances : bool
        Whether variances are needed.

    Returns
    -------
    covered : array of bool
        Pixels within the wavelengths of the spectrum.
    surf_bright : array of float64
        [MJy/sr], 0 outside.
    variance : array of float64
        [(MJy/sr)^2], 0 outside; without dimensions if it is unknown or not needed.
    """
    knots = spectrum.wavelength
    elements = np.arange(knots.size, dtype=float)
    # the ends are wavelengths of pixels themselves, and rounding must not drop these
    first, last = knots[0] * (1 - _ROUNDING), knots[-1] * (1 + _ROUNDING)
    known = np.isfinite(wavelength) & (wavelength >= first) & (wavelength <= last)
    place = np.interp(wavelength[known], knots, elements)
    below = np.minimum(place.astype(np.int64), max(knots.size - 2, 0))
    above = np.minimum(below + 1, knots.size - 1)
    share = place - below
    lower, upper = 1 - share, share

    def on_pixels(column: HostArray, power: int) -> HostArray:
        out = np.zeros(np.shape(wavelength))
        out[known] = lower**power * column[below] + upper**power * column[above]
        return out

    columns = spectrum.columns
    variance = np.zeros(())
    if variances:
        parts = [columns[n] for n in _VARIANCES if n in columns]
        if not parts and "sb_error" in columns:
            parts = [columns["sb_error"] ** 2]
        if parts:
            variance = on_pixels(np.nan_to_num(sum(parts) * _resampled(columns)), 2)
    return known, on_pixels(spectrum.surf_bright, 1), variance


def _resampled(columns: Mapping[str, HostArray]) -> HostArray | float:
    """By what the covariance of resampling changes the variance of a spectrum."""
    if not {"flux_error", "flux_error_cov"} <= columns.keys():
        return 1.0
    stated, true = columns["flux_error"], columns["flux_error_cov"]
    ratio = np.divide(true, stated, out=np.ones_like(stated), where=stated > 0)
    return np.where(np.isfinite(ratio), ratio, 1.0) ** 2

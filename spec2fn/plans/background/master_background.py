"""One background spectrum from the spectra of many slitlets, on the host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.dq import PIXEL
from spec2fn.errors import InputError
from spec2fn.kernels.namespace import array_namespace, safe_divide, safe_sqrt
from spec2fn.plan_base import Plan, array
from spec2fn.typing import Array, HostArray

if TYPE_CHECKING:
    import xarray as xr

__all__ = [
    "Combination",
    "MasterBackgroundPlan",
    "Placement",
    "Spectrum",
    "combine_spectra",
    "common_wavelengths",
    "place",
    "user_spectrum",
    "variance_of",
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


class Combination(Plan):
    """How spectra are combined into one: a linear map of their columns.

    Attributes
    ----------
    rows : array of int, shape (spectrum,)
        The spectra that are used, among those of all integrations.
    place : array of int, shape (spectrum, wave)
        Element of each of them that is the nearest to an element of the combined one.
    weight : array, shape (spectrum, wave)
        0 where there is none, or it is an outlier.
    wavelength : array, shape (wave,)
        [um], strictly ascending.
    dq : array of uint32, shape (wave,)
    smoothed : mapping of str to array of int, shape (wave,)
        Element that is the median around each, counted from 1; 0 stands for zero. Of the columns
        that are smoothed.
    """

    rows: HostArray = array("(integration spectrum)")
    place: HostArray = array("_ wave")
    weight: HostArray = array("_ wave")
    wavelength: HostArray = array("wave")
    dq: HostArray = array("wave")
    smoothed: dict[str, HostArray] | None = array("wave", default=None)

    def __call__(self, spectra: xr.Dataset) -> Spectrum:
        """Combine spectra, dims ``([integration,] spectrum, wave)``."""
        held = _columns(spectra)
        xp = array_namespace(*held.values())
        weight, rows, place = (xp.asarray(a) for a in (self.weight, self.rows, self.place))
        total = weight.sum(axis=0)
        columns: dict[str, Array] = {}
        for name, values in held.items():
            if name in {"dq", "wavelength"}:  # they are the plan's
                continue
            taken = values[rows[:, None], place].astype(weight.dtype)
            used = (weight > 0) & ~xp.isnan(taken)
            taken = xp.where(used, taken, xp.zeros_like(taken))
            if name in _VALUES:
                columns[name] = (taken * weight).sum(axis=0) / total
            elif name in _ERRORS:
                columns[name] = safe_sqrt(((taken * weight) ** 2).sum(axis=0)) / total
            else:
                columns[name] = (taken * weight**2).sum(axis=0) / total**2
        columns |= {
            "dq": self.dq,
            "weight": total,
            "n_input": (weight > 0).astype(weight.dtype).sum(axis=0),
        }
        zero = xp.zeros(1, dtype=weight.dtype)
        for name, order in (self.smoothed or {}).items():
            columns[name] = xp.concatenate([zero, columns[name]])[order]
        return Spectrum(self.wavelength, columns.pop("surf_bright"), columns)


def combine_spectra(
    spectra: xr.Dataset,
    sigma_clip: float | None = 3.0,
    exposure_time: float = 1.0,
    median_kernel: int = 1,
) -> Combination | str:
    """Find out how to combine spectra by a weighted mean, without outliers.

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
    median_kernel : int
        Elements of a moving median (zeros beyond the ends) of the fluxes; errors stay as they
        are. Even widths are lowered by one.

    Returns
    -------
    Combination or str
        Elements to which no spectrum contributes are left out; or the reason why there are none.

    Notes
    -----
    Algorithm: JWST pipeline documentation, combine_1d step. All fluxes of an element are judged,
    surface brightness goes along.
    """
    columns = _columns(spectra)
    inputs = _usable(columns)
    if not inputs:
        return "no background spectrum has a valid flux and wavelengths in order"
    wavelength = common_wavelengths([wave for _, _, wave in inputs])
    if wavelength.size == 0:
        return "the background spectra are too short"
    place = np.zeros((len(inputs), wavelength.size), dtype=np.int64)
    weight = np.zeros(place.shape)
    flux = np.zeros(place.shape)
    dq = np.zeros(wavelength.size, dtype=np.uint32)
    elements = np.arange(wavelength.size, dtype=float)
    for i, (row, valid, wave) in enumerate(inputs):
        near = np.interp(wave, wavelength, elements, left=np.nan, right=np.nan)
        values, flags = columns["flux"][row, valid], columns["dq"][row, valid]
        good = np.isfinite(near) & ~np.isnan(values) & ((flags & PIXEL["DO_NOT_USE"]) == 0)
        nearest = np.rint(near[good]).astype(int)
        np.bitwise_or.at(dq, nearest, flags[good])
        place[i, nearest] = valid[good]
        flux[i, nearest] = values[good]
        weight[i, nearest] = exposure_time
    used = weight > 0
    if sigma_clip is not None:
        used &= ~_outliers(flux * weight, used, sigma_clip)
    kept = used.any(axis=0)
    if not kept.any():
        return "no element of the background spectra is left"
    rows = np.array([row for row, _, _ in inputs])
    weight = np.where(used, weight, 0.0)
    found = Combination(rows, place[:, kept], weight[:, kept], wavelength[kept], dq[kept])
    width = median_kernel - (median_kernel % 2 == 0)
    if width <= 1:
        return found
    spectrum = found(spectra)
    fluxes = {"surf_bright": spectrum.surf_bright, "flux": spectrum.columns["flux"]}
    return replace(found, smoothed={n: _medians(v, width) for n, v in fluxes.items()})


def _columns(spectra: xr.Dataset) -> dict[str, Array]:
    """Columns of spectra, shape (integrations times spectra, wave)."""
    flux = spectra.variables["flux"]
    columns: dict[str, Array] = {}
    for name in ("wavelength", "dq", *_VALUES, *_ERRORS, *_VARIANCES):
        variable = spectra.variables.get(name)
        if variable is None or "wave" not in variable.dims:
            continue
        index = tuple(slice(None) if d in variable.dims else None for d in flux.dims)
        data = variable.transpose(*(d for d in flux.dims if d in variable.dims)).data
        xp = array_namespace(data)
        columns[name] = xp.broadcast_to(data[index], flux.shape).reshape(-1, flux.shape[-1])
    return columns


def _usable(columns: Mapping[str, HostArray]) -> list[tuple[int, HostArray, HostArray]]:
    """Spectra that can be combined: row, elements that are no padding, and their wavelengths."""
    # images hold wavelengths in single precision, and so must the spectra: next to a cosmic ray
    # the background is so steep that the difference would be seen
    waves = np.asarray(columns["wavelength"]).astype(np.float32).astype(np.float64)
    usable = []
    for row, wave in enumerate(waves):
        (valid,) = np.nonzero(np.isfinite(wave))
        steps = np.diff(wave[valid])
        in_order = steps.size > 0 and (np.all(steps > 0) or np.all(steps < 0))
        if in_order and np.isfinite(columns["flux"][row, valid]).any():
            usable.append((row, valid, wave[valid]))
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


def _medians(values: HostArray, width: int) -> HostArray:
    """The element that is the median of `width` around each, from 1; 0 is zero beyond the ends."""
    elements = np.pad(np.arange(1, values.size + 1), width // 2)
    around = np.lib.stride_tricks.sliding_window_view(elements, width)
    ranks = np.argsort(np.concatenate([[0.0], values])[around], axis=1, kind="stable")
    return np.take_along_axis(around, ranks[:, width // 2, None], axis=1)[:, 0]


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


class Placement(Plan):
    """Where pixels stand among the wavelengths of a spectrum.

    Attributes
    ----------
    covered : array of bool
        Pixels within the wavelengths of the spectrum.
    below, above : array of int
        The elements between which a pixel stands.
    share : array
        How far it is from the former to the latter.
    """

    covered: HostArray = array("[slit] y x")
    below: HostArray = array("[slit] y x")
    above: HostArray = array("[slit] y x")
    share: HostArray = array("[slit] y x")

    def interpolated(self, column: Array, power: int = 1) -> Array:
        """Interpolate a column linearly (or, with `power` 2, its variance); 0 outside."""
        xp = array_namespace(column, self.share)
        share, zero = xp.asarray(self.share), xp.zeros((), dtype=self.share.dtype)
        column = xp.asarray(column)
        values = (1 - share) ** power * column[self.below] + share**power * column[self.above]
        return xp.where(self.covered, values, zero)


def place(wavelength: HostArray, knots: HostArray) -> Placement:
    """Find pixels among the wavelengths of a spectrum.

    Parameters
    ----------
    wavelength : array of float64
        Of pixels [um], may be NaN. Beyond an end by no more than the rounding of single precision
        is at the end.
    knots : array of float64
        Of the spectrum [um], ascending.
    """
    # the ends are wavelengths of pixels themselves, and rounding must not drop these
    first, last = knots[0] * (1 - _ROUNDING), knots[-1] * (1 + _ROUNDING)
    known = np.isfinite(wavelength) & (wavelength >= first) & (wavelength <= last)
    where = np.interp(np.where(known, wavelength, first), knots, np.arange(knots.size, dtype=float))
    below = np.minimum(where.astype(np.int64), max(knots.size - 2, 0))
    above = np.minimum(below + 1, knots.size - 1)
    return Placement(known, below, above, where - below)


def variance_of(spectrum: Spectrum) -> Array | None:
    """Return the variance of the surface brightness of a spectrum; None if it is unknown.

    That of combined spectra includes the covariance of resampling.
    """
    columns = spectrum.columns
    parts = [columns[n] for n in _VARIANCES if n in columns]
    if not parts and "sb_error" in columns:
        parts = [columns["sb_error"] ** 2]
    if not parts:
        return None
    total = sum(parts[1:], parts[0]) * _resampled(columns)
    xp = array_namespace(total)
    return xp.where(xp.isfinite(total), total, xp.zeros_like(total))


def _resampled(columns: Mapping[str, Array]) -> Array | float:
    """By what the covariance of resampling changes the variance of a spectrum."""
    if not {"flux_error", "flux_error_cov"} <= columns.keys():
        return 1.0
    stated, true = columns["flux_error"], columns["flux_error_cov"]
    xp = array_namespace(stated, true)
    ratio = safe_divide(true, stated, stated > 0, fill=1.0)
    return xp.where(xp.isfinite(ratio), ratio, xp.ones_like(ratio)) ** 2


class MasterBackgroundPlan(Plan):
    """What is fixed about the background of slitlets: the rest is linear in their pixels.

    Attributes
    ----------
    corrections : tuple
        The plan of each step that calibrates the background.
    resampling, extraction
        Plans of the spectra of the background slitlets; None if the user gave a spectrum.
    combination : Combination, optional
        How these are combined: wavelengths, outliers, and which element is the median of its
        neighbours.
    spectrum : Spectrum, optional
        What the user gave.
    places : tuple of Placement
        Where the pixels of each bucket of slitlets stand in the spectrum.
    adds_variance : bool
        Whether the variance of the background is added.
    """

    corrections: tuple[Any, ...]
    resampling: Any = None
    extraction: Any = None
    combination: Combination | None = None
    spectrum: Spectrum | None = None
    places: tuple[Placement, ...] = ()
    adds_variance: bool = False

"""How overlapping spectral orders of an exposure are told apart: what is planned for ATOCA.

Which pixels are fitted, at which wavelengths the spectrum is sought, how columns respond to it,
and how smooth it has to be. :mod:`spec2fn.kernels.spectrum_fit` has the model and its solution.

A. Darveau-Bernier et al. 2022, PASP 134, 094502.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from spec2fn.errors import InputError
from spec2fn.host.atoca_factor import Problem, Trials, best_factor, official_factor
from spec2fn.host.atoca_grid import oversample, shared_grid
from spec2fn.host.atoca_kernel import Rows, SpectralKernel, kernel_rows, throughput_at
from spec2fn.kernels.atoca import (
    Atoca,
    OrderOptics,
)
from spec2fn.kernels.atoca_nuisances import contaminant_products, without_nuisances
from spec2fn.kernels.spectrum_fit import (
    SpectrumFit,
    band_order,
    column_sums,
    pixel_integrals,
    responses,
)
from spec2fn.typing import HostArray

__all__ = [
    "AtocaSettings",
    "DetectorOrder",
    "pixel_ends",
    "plan_atoca",
    "typical_integration",
]

_FEWEST = 25  # pixels of an order
_ALONE = 3  # points for each pixel of an order that stands alone
_APART = 1e-4  # profile of order 2 where order 1 is estimated
_LEAST = 1e-6  # of what columns respond, or say, for one to be listened to
_HOLD = 1e-6  # how much ends of the estimate are drawn to their neighbours
_SIGNIFICANT = 1e-3  # profile of an order that stands alone


@dataclass(frozen=True)
class DetectorOrder:
    """One spectral order on the detector.

    Attributes
    ----------
    wave : ndarray, (disp,)
        Wavelength at the centres of columns [um]; NaN where there is none.
    trace : ndarray, (disp,)
        Wavelength along the trace [um]; NaN beyond its end.
    profile : ndarray, (cross, disp)
        Share of the light of a column that a pixel gets.
    aperture : ndarray, (cross, disp)
        Weights of pixels that are extracted.
    throughput : ndarray, (2, n)
        Wavelength [um] and throughput.
    kernel : SpectralKernel
        Resolution.
    """

    wave: HostArray
    trace: HostArray
    profile: HostArray
    aperture: HostArray
    throughput: HostArray
    kernel: SpectralKernel


@dataclass(frozen=True)
class AtocaSettings:
    """Choices of a plan.

    Attributes
    ----------
    threshold : float
        Profile from which on an order counts, where the grid does not cover its wavelengths.
    oversampling : int
        Points of the grid for each pixel.
    rtol : float
        Relative error of the integral of the spectrum over an interval of the grid.
    grid_size : int
        The most points of the grid.
    factor : float, optional
        Weight of the smoothness of the spectrum of orders 1 and 2; default: it is searched.
    search : str
        How: ``"evidence"``, ``"gcv"`` or ``"official"`` (:mod:`spec2fn.host.atoca_factor`).
    separation : (float, float)
        Wavelengths [um] of order 2: the joint fit begins at the first; the fit of the blue part
        of order 2 ends at the second.
    capped, exact_ends, free_ends : bool
        False for the official behaviour: a grid may have more points than `grid_size`; the ends
        of a pixel are integrated by the slope next to it; spectra of orders that stand alone are
        zero beyond the last pixel.
    """

    threshold: float = 1e-2
    oversampling: int = 2
    rtol: float = 1e-4
    grid_size: int = 20_000
    factor: float | None = None
    search: str = "evidence"
    separation: tuple[float, float] = (0.77, 0.95)
    capped: bool = True
    exact_ends: bool = True
    free_ends: bool = True


def typical_integration(
    mean: HostArray, error: HostArray, integrations: int, *, noise: bool = False
) -> HostArray:
    """Image from which grid and factor are found, for all integrations alike.

    Parameters
    ----------
    mean : ndarray, (cross, disp)
        Over integrations.
    error : ndarray, (cross, disp)
        Of a single one.
    integrations : int
        How many there are.
    noise : bool
        Bring the noise back to that of a single integration, by random numbers of the official
        seed. Without it the mean is taken for what it is; give the error of the mean to the plan
        for a fit that makes use of it.

    Returns
    -------
    ndarray, (cross, disp)
    """
    if not noise:
        return mean
    missing = error * np.sqrt((integrations - 1) / integrations)
    return mean + np.random.default_rng(42).normal(0.0, missing)


def pixel_ends(wave: HostArray) -> tuple[HostArray, HostArray]:
    """Wavelengths of the lower and upper ends of columns, halfway to the next; zero without one.

    Raises
    ------
    InputError
        If wavelengths neither rise nor fall along the columns.
    """
    good = np.isfinite(wave) & (wave > 0)
    centre = wave[good]
    half = np.diff(centre) / 2
    if len(half) == 0 or not ((half > 0).all() or (half < 0).all()):
        msg = "wavelengths must rise or fall from column to column; check the wavelength map"
        raise InputError(msg)
    ends = np.zeros((2, len(wave)))
    ends[0, good] = centre - np.concatenate([half[:1], half])
    ends[1, good] = centre + np.concatenate([half, half[-1:]])
    return ends.min(axis=0), ends.max(axis=0)


@dataclass(frozen=True)
class _Reach:
    """Which pixels a grid of wavelengths can explain.

    Attributes
    ----------
    used : bool ndarray, (cross, disp)
    seen : bool ndarray, (order, disp)
        Columns of each order within the grid.
    start, stop : tuple of int
        Piece of the grid that each order sees.
    """

    used: HostArray
    seen: HostArray
    start: tuple[int, ...]
    stop: tuple[int, ...]


def _reach(
    orders: Sequence[DetectorOrder],
    grid: HostArray,
    masks: HostArray,
    threshold: float,
    pieces: Sequence[tuple[int, int]] | None = None,
) -> _Reach:
    """Pixels to fit: within an aperture, with a wavelength, and explained if an order matters.

    `masks` (order, cross, disp) are True where an order is not to be fitted.
    """
    ends = [pixel_ends(o.wave) for o in orders]
    significant = np.all([o.profile > threshold for o in orders], axis=0)
    pieces = pieces or [(0, len(grid))] * len(orders)
    for _ in range(2):
        limits = [(grid[a], grid[b - 1]) for a, b in pieces]
        beyond = np.array(
            [(low < a) | (high > b) for (low, high), (a, b) in zip(ends, limits, strict=True)]
        )
        unused = (masks | beyond[:, None]).all(axis=0)
        unused |= beyond.any(axis=0) & significant
        seen = ~(beyond[:, None] | unused)
        fewest = int(seen.sum(axis=(1, 2)).min())
        if fewest < _FEWEST:
            msg = (
                f"an order needs {_FEWEST} usable pixels within its aperture and the grid of "
                f"wavelengths ({grid[0]:.4f} to {grid[-1]:.4f} um), found {fewest}"
            )
            raise _TooFewPixelsError(msg)
        waves = [o.wave[s.any(axis=0)] for o, s in zip(orders, seen, strict=True)]
        found = [
            (
                max(a, int(np.searchsorted(grid, w.min(), side="left"))),
                min(b, int(np.searchsorted(grid, w.max(), side="right"))),
            )
            for w, (a, b) in zip(waves, pieces, strict=True)
        ]
        last, pieces = pieces, found
    start, stop = zip(*last, strict=True)
    return _Reach(~unused, ~beyond, start, stop)


class _TooFewPixelsError(InputError):
    """An order has next to no usable pixels."""


@dataclass(frozen=True)
class _Scene:
    """An image with its masks, and columns that are listened to, as all fits share it."""

    data: HostArray
    error: HostArray
    bad: HostArray
    outside: HostArray
    heard: HostArray

    @property
    def unmodelled(self) -> HostArray:
        return np.asarray(self.outside.all(axis=0))


def _columns(
    order: DetectorOrder,
    grid: HostArray,
    piece: tuple[int, int],
    seen: HostArray,
    *,
    gain: HostArray,
    kernel: Rows | None,
    exact: bool,
) -> Rows:
    """Response of the columns that see a grid."""
    start, stop = piece
    part = grid[start:stop]
    lower, upper = pixel_ends(order.wave)
    ends = np.where(seen, lower, part[0]), np.where(seen, upper, part[0])
    first, integrals = integrals_of(part, *ends, exact=exact)
    integrals = integrals * seen[:, None]
    if kernel is None:
        kernel = Rows(np.arange(start, stop), np.ones((stop - start, 1)))
    nodes = np.minimum(first[:, None] + np.arange(integrals.shape[1]), len(part) - 1)
    reached = kernel.first[nodes]
    touched = integrals != 0
    low = np.where(touched, reached, len(grid)).min(axis=1)
    high = np.where(touched, reached, -1).max(axis=1) + kernel.values.shape[1]
    taps = int((high - low)[seen].max(initial=1))
    begin = np.clip(np.where(seen, low, 0), 0, len(grid) - taps)
    return Rows(
        begin,
        responses(
            integrals,
            first,
            gain[start:stop],
            kernel.values,
            kernel_first=kernel.first,
            first=begin,
            taps=taps,
        ),
    )


def integrals_of(grid: HostArray, lower: HostArray, upper: HostArray, *, exact: bool) -> Rows:
    """Weights with which a function on a grid, linear in between, is integrated over pixels.

    Parameters
    ----------
    grid : ndarray, (wave,)
    lower, upper : ndarray, (pixel,)
        Within the grid.
    exact : bool
        False: the official weights (:func:`_official_integrals`).

    Returns
    -------
    Rows
    """
    if not exact:
        return _official_integrals(grid, lower, upper)
    low = np.clip(np.searchsorted(grid, lower, side="right") - 1, 0, len(grid) - 1)
    high = np.searchsorted(grid, upper, side="left")
    taps = min(max(int((high - low).max()) + 1, 2), len(grid))
    low = np.minimum(low, len(grid) - taps)
    return Rows(low, pixel_integrals(grid, lower, upper, low, taps))


def _official_integrals(grid: HostArray, lower: HostArray, upper: HostArray) -> Rows:
    """Weights of pixels as the official pipeline has them.

    What lies behind the last point within a pixel is integrated by the mean of the last two points
    instead of towards the next one, and what lies before the first one by the slope of the
    interval before: the weights add up to the width of the pixel, and stand 3/8 of a step too far
    in the blue. In the pixel that begins in the first interval of the grid, the points are taken
    one for the other.
    """
    size = len(grid)
    low = np.searchsorted(grid, lower, side="right") - 1
    last = np.searchsorted(grid, upper) - 1
    first = low - (grid[low] != lower)
    lost = first < 0
    many = last - first + 1 - lost
    taps = max(int((last - first).max()) + 1, 3)
    number = np.arange(taps)
    point = first[:, None] + number
    step = np.append(np.diff(grid), grid[-1] - grid[-2])
    row = np.arange(len(lower))
    # -1 is the last point of the grid, as it is for the official pipeline
    wave, width = grid[np.clip(point, -1, size - 1)], step[np.clip(point, -1, size - 2)]
    width[point == -1] = step[size - 2]
    end, before = many - 1, np.maximum(many - 2, 0)
    tail = upper - wave[row, before]
    head = wave[:, 1] - lower
    values = np.zeros((len(lower), taps))
    long = many >= 3
    # from the lower end to the second point, along the first interval
    outer = point[:, 0] != low
    share = np.where(outer, head / width[:, 0], 1.0)
    values[:, 0] += np.where(long, head * share, 0.0)
    values[:, 1] += np.where(long, head + outer * share * (lower - wave[:, 0]), 0.0)
    # from the last but one point to the upper end
    crossed = point[row, end] != last
    share = np.where(crossed, tail / width[row, before], 1.0)
    rest = share * (wave[row, end] - upper)
    np.add.at(values, (row, end), np.where(long, tail * share, 0.0))
    np.add.at(values, (row, before), np.where(long, tail + crossed * rest, 0.0))
    # whole intervals in between
    whole = (number >= 1) & (number < (many - 2)[:, None])
    interval = np.where(whole, np.roll(wave, -1, axis=1) - wave, 0.0)
    values += interval
    values[:, 1:] += interval[:, :-1]
    # pixels of two points
    both = (many == 2)[:, None]
    outer_end = point[:, 1] != last
    pair = (
        np.stack(
            [
                head + outer_end * (wave[:, 1] - upper),
                upper - wave[:, 0] + outer * (lower - wave[:, 0]),
            ],
            axis=1,
        )
        * ((upper - lower) / width[:, 0])[:, None]
    )
    values[:, :2] += np.where(both, pair, 0.0)
    values *= 0.5
    # the point before the grid is none
    values[lost, :-1] = values[lost, 1:]
    values[lost, -1] = 0.0
    begin = np.minimum(np.maximum(first, 0), size - taps)
    return Rows(begin, _shifted(values, np.maximum(first, 0) - begin))


def _shifted(values: HostArray, by: HostArray) -> HostArray:
    """Move each row to the right; what it loses there is zero."""
    at = np.arange(values.shape[1]) - by[:, None]
    return np.where(at >= 0, np.take_along_axis(values, np.maximum(at, 0), axis=1), 0.0)


def plan_atoca(
    orders: Sequence[DetectorOrder],
    data: HostArray,
    error: HostArray,
    mask: HostArray,
    unmodelled: HostArray,
    *,
    settings: AtocaSettings,
    wave_grid: HostArray | None = None,
    estimate: HostArray | None = None,
    separate: Sequence[int] = (1, 2),
    contaminants: HostArray | None = None,
    flicker: float | None = None,
    optics: bool = False,
) -> Atoca:
    """Plan how orders are told apart.

    Parameters
    ----------
    orders : sequence of DetectorOrder
        Orders 1, 2 and, if it is wanted, 3.
    data, error : ndarray, (cross, disp)
        A typical integration, from which estimate, grid and factors are found, and the errors
        with which all integrations are weighted [DN/s].
    mask : bool ndarray, (cross, disp)
        True for pixels that are not fitted. Pixels without finite data, or without an error that
        is positive and finite, are not fitted either.
    unmodelled : bool ndarray, (cross, disp)
        True for pixels that have no model, such as reference pixels.
    settings : AtocaSettings
    wave_grid : ndarray, (wave,), optional
        Wavelengths of the joint fit [um]; default :func:`~spec2fn.host.atoca_grid.shared_grid`.
    estimate : ndarray, (2, n), optional
        Wavelength [um] and flux density of the spectrum; default that of order 1 where there
        is no light of order 2.
    separate : sequence of int
        Positions of orders with a fit of their own: 1 for the blue part of order 2, 2 for order 3.
        Those with too few pixels are left out.
    contaminants : ndarray, (contaminant, cross, disp), optional
        Images whose strengths are fitted as well, such as the zeroth orders of field stars.
    flicker : float, optional
        Fit a constant in each column as well, of this prior standard deviation [DN/s].
    optics : bool
        Keep what gradients in throughputs and wavelengths need; for exact ends alone.

    Returns
    -------
    Atoca

    Raises
    ------
    InputError
        If orders 1 or 2 have too few pixels, a grid or an estimate cannot be used, or an image of
        a contaminant cannot be told from the orders and the other images.
    """
    data, error = data.astype(float), error.astype(float)
    good = np.isfinite(data) & np.isfinite(error) & (error > 0)
    outside = np.array([~(o.aperture > 0) | unmodelled for o in orders])
    scene = _Scene(
        np.where(good, data, 0.0), np.where(good, error, 1.0), mask | ~good, outside, np.array(True)
    )
    spectrum: Callable[[HostArray], HostArray] | None = None
    if estimate is not None:
        spectrum = _spline(estimate)
    elif wave_grid is None or (settings.factor is None):
        spectrum = _estimate(orders[0], orders[1], scene, exact=settings.exact_ends)
    if wave_grid is None:
        assert spectrum is not None
        grid = shared_grid(
            orders[0].trace,
            orders[1].trace,
            spectrum,
            settings.separation[0],
            oversampling=settings.oversampling,
            rtol=settings.rtol,
            size=settings.grid_size,
            capped=settings.capped,
        )
    else:
        grid = _checked_grid(wave_grid)
    joint, seen = _joint_fit(orders, grid, scene, settings)
    if flicker is not None:
        # in columns without a model of order 1 its light would pass for a constant
        scene = replace(scene, heard=np.asarray(joint.covered)[0])
        joint, seen = _joint_fit(orders, grid, scene, settings)

    def plan(scene: _Scene) -> Atoca:
        fits = _with_factors(joint, orders, scene, separate, settings=settings, spectrum=spectrum)
        return Atoca(
            joint=fits[0],
            alone=fits[1],
            profile=np.stack([o.profile for o in orders]),
            modelled=~scene.unmodelled,
            optics=seen if optics else None,
        )

    first = plan(scene)
    if contaminants is None and flicker is None:
        return first
    images = np.zeros((0, *data.shape)) if contaminants is None else contaminants
    first = _with_nuisances(first, images, flicker)
    # how smooth the spectrum is shows without them
    cleaned = replace(scene, data=np.asarray(without_nuisances(first, scene.data).data))
    return _with_nuisances(plan(cleaned), images, flicker)


def _with_factors(
    joint: SpectrumFit,
    orders: Sequence[DetectorOrder],
    scene: _Scene,
    separate: Sequence[int],
    *,
    settings: AtocaSettings,
    spectrum: Callable[[HostArray], HostArray] | None,
) -> tuple[SpectrumFit, dict[str, SpectrumFit]]:
    """Joint fit, and those of single orders by position, as smooth as the data ask for."""
    factor = settings.factor
    if factor is None:
        assert spectrum is not None
        problem = _problem(joint, orders, scene)
        factor = _search(problem, problem.guess(spectrum), (-4.0, 4.0), settings)[0]
    alone = {}
    for place in separate:
        longest = settings.separation[1] if place == 1 else np.inf
        try:
            fit = _single_fit(orders, place, longest, scene, settings=settings)
        except _TooFewPixelsError:
            continue
        found = _search(_problem(fit, orders, scene), factor, (-2.0, 8.0), settings)[0]
        alone[str(place)] = replace(fit, factor=np.array(found))
    return replace(joint, factor=np.array(factor)), alone


def _with_nuisances(plan: Atoca, images: HostArray, flicker: float | None) -> Atoca:
    """Add what is fitted along with the orders."""
    sigma = None if flicker is None else np.array(float(flicker))
    nuisances, lost = contaminant_products(plan, images, sigma)
    if lost is not None:
        msg = (
            "an image of a contaminant needs light in pixels of the apertures that neither the"
            f" orders nor the images before it explain, found none in image {lost + 1} of"
            f" {len(images)}; leave it out of soss_contaminants"
        )
        raise InputError(msg)
    return replace(plan, nuisances=nuisances)


def _search(
    problem: Problem, guess: float, decades: tuple[float, float], settings: AtocaSettings
) -> tuple[float, Trials | None]:
    if settings.search == "official":
        return official_factor(problem, guess, decades)
    return best_factor(problem, guess, settings.search), None


def _problem(fit: SpectrumFit, orders: Sequence[DetectorOrder], scene: _Scene) -> Problem:
    profile = np.stack([orders[o].profile for o in fit.orders])
    sums = column_sums(profile, np.asarray(fit.weight), scene.data)
    return Problem(fit, profile, scene.data, scene.error, sums)


def _spline(table: HostArray) -> Callable[[HostArray], HostArray]:
    from scipy.interpolate import UnivariateSpline

    wave, flux = table[:, np.isfinite(table).all(axis=0)]
    if len(wave) < 4:
        msg = (
            f"an estimate of the spectrum needs four finite values at least, found {len(wave)}"
            "; check soss_estimate"
        )
        raise InputError(msg)
    at = np.argsort(wave)
    return UnivariateSpline(wave[at], flux[at], k=3, s=0, ext=0)


def _checked_grid(grid: HostArray) -> HostArray:
    found = np.unique(np.asarray(grid, float))
    if found.size < 2 or not np.isfinite(found).all():
        msg = (
            f"a grid of wavelengths needs two finite values at least, found {found.size}"
            "; check soss_wave_grid_in"
        )
        raise InputError(msg)
    return found


def _joint_fit(
    orders: Sequence[DetectorOrder],
    grid: HostArray,
    scene: _Scene,
    settings: AtocaSettings,
) -> tuple[SpectrumFit, dict[str, OrderOptics]]:
    """Fit of orders 1 and 2 together, but for the factor, and what it is made of."""
    both = orders[:2]
    reach = _reach(both, grid, scene.outside[:2] | scene.bad, settings.threshold)
    exact, lines, kernels = settings.exact_ends, [], []
    for order, seen, start, stop in zip(both, reach.seen, reach.start, reach.stop, strict=True):
        gain = throughput_at(order.throughput, grid) * grid
        kernel = kernel_rows(order.kernel, order.trace, grid, start, stop)
        lines.append(
            _line(
                order, grid, (start, stop), seen, gain=gain, kernel=kernel, scene=scene, exact=exact
            )
        )
        kernels.append((gain[start:stop], kernel))
    fit = _assemble((0, 1), both, grid, lines, reach=reach, scene=scene)
    optics = {}
    for i, (order, (gain, kernel)) in enumerate(zip(both, kernels, strict=True)):
        part = grid[reach.start[i] : reach.stop[i]]
        lower, upper = (np.where(reach.seen[i], e, part[0]) for e in pixel_ends(order.wave))
        rows = integrals_of(part, lower, upper, exact=True)
        optics[str(i)] = OrderOptics(
            wave=part,
            lower=lower,
            upper=upper,
            seen=reach.seen[i],
            gain=gain,
            kernel=kernel.values,
            kernel_first=kernel.first,
            node_first=rows.first,
            first=np.asarray(fit.first)[i],
            nodes=rows.values.shape[1],
            taps=fit.response.shape[2],
        )
    return fit, optics


def _line(
    order: DetectorOrder,
    grid: HostArray,
    piece: tuple[int, int],
    seen: HostArray,
    *,
    gain: HostArray,
    kernel: Rows | None,
    scene: _Scene,
    exact: bool,
) -> _Line:
    """Response of an order to a grid in the fit, and in the model that is made from it."""
    fitted = _columns(order, grid, piece, seen, gain=gain, kernel=kernel, exact=exact)
    # a convolved spectrum ends where the order does
    start, stop = (0, len(grid)) if kernel is None else piece
    try:
        again = _reach([order], grid[start:stop], scene.unmodelled[None], _SIGNIFICANT)
    except _TooFewPixelsError:
        return _Line(fitted, None, np.zeros(len(seen), bool))
    known = again.seen[0]
    if exact:
        return _Line(fitted, None, known & seen)
    inner = start + again.start[0], start + again.stop[0]
    if kernel is not None:
        part = slice(again.start[0], again.stop[0])
        kernel = Rows(kernel.first[part], kernel.values[part])
    model = _columns(order, grid, inner, known, gain=gain, kernel=kernel, exact=exact)
    return _Line(fitted, model, known)


def _single_fit(
    orders: Sequence[DetectorOrder],
    place: int,
    longest: float,
    scene: _Scene,
    *,
    settings: AtocaSettings,
) -> SpectrumFit:
    """Fit of an order that stands alone, at its own resolution and throughput."""
    order = orders[place]
    native = np.sort(order.trace[np.isfinite(order.trace)])
    native = native[native < longest]
    if len(native) < 2:
        msg = f"order {place + 1} needs two pixels below {longest} um, found {len(native)}"
        raise _TooFewPixelsError(msg)
    grid = oversample(native, _ALONE)
    masks = (scene.outside[place] | scene.bad)[None]
    reach = _reach([order], grid, masks, _SIGNIFICANT)
    piece = reach.start[0], reach.stop[0]
    exact, seen = settings.exact_ends, reach.seen[0]
    line = _line(order, grid, piece, seen, gain=grid, kernel=None, scene=scene, exact=exact)
    free = settings.free_ends
    return _assemble((place,), [order], grid, [line], reach=reach, scene=scene, free_ends=free)


@dataclass(frozen=True)
class _Line:
    """Response of the columns of one order.

    Attributes
    ----------
    fitted : Rows
    model : Rows or None
        Of the model, if it is another one.
    known : bool ndarray, (disp,)
        Columns that have a model.
    """

    fitted: Rows
    model: Rows | None
    known: HostArray


def _aligned(lines: Sequence[_Line], size: int) -> tuple[HostArray, HostArray, HostArray]:
    """First point, response and model response of all columns, (order, disp[, tap])."""
    pairs = [(line.fitted, line.model or line.fitted) for line in lines]
    taken = np.array([[(r.values != 0).any(axis=1) for r in pair] for pair in pairs])
    starts = np.array([[r.first for r in pair] for pair in pairs])
    widths = np.array([[[r.values.shape[1]] for r in pair] for pair in pairs])
    first = np.where(taken, starts, size).min(axis=1)
    last = np.where(taken, starts + widths, 0).max(axis=1)
    taps = max(int((last - first).max()), 2)
    first = np.minimum(first, size - taps)
    out = np.zeros((2, *first.shape, taps))
    for i, pair in enumerate(pairs):
        for values, r, some in zip(out[:, i], pair, taken[i], strict=True):
            at = (r.first - first[i])[some, None] + np.arange(r.values.shape[1])
            values[np.flatnonzero(some)[:, None], at] = r.values[some]
    return first, out[0], out[1]


def _assemble(
    places: Sequence[int],
    orders: Sequence[DetectorOrder],
    grid: HostArray,
    lines: Sequence[_Line],
    *,
    reach: _Reach,
    scene: _Scene,
    free_ends: bool = True,
) -> SpectrumFit:
    """Put a fit together but for its factor, and order its equations."""
    same = all(line.model is None for line in lines)
    first, response, model = _aligned(lines, len(grid))
    covered = np.array([line.known for line in lines])
    total = np.abs(response.sum(axis=-1))
    weight = _weight(scene.error, reach.used & scene.heard)
    # columns that say next to nothing would only cost precision; officially they are listened to
    least = _LEAST if same else 0.0
    said = np.einsum("oyx,yx->ox", np.stack([o.profile**2 for o in orders]), weight)
    typical = said.sum(axis=1, keepdims=True) / (said > 0).sum(axis=1, keepdims=True)
    listed = reach.seen & (total > _LEAST**2 * total.max()) & (said > least * typical)
    pins = np.array([], int)
    if not free_ends:
        informed = np.zeros(len(grid), bool)
        some = listed & (weight > 0).any(axis=0)
        at = first[some][:, None] + np.arange(response.shape[-1])
        informed[at[response[some] != 0]] = True
        pins = np.flatnonzero(~informed)
        lost = np.isin(first[..., None] + np.arange(response.shape[-1]), pins)
        touches = (lost & (response != 0)).any(axis=-1)
        covered = covered & ~(lost & (model != 0)).any(axis=-1)
        # only those next to what is known matter
        near = informed.copy()
        near[1:] |= informed[:-1]
        near[:-1] |= informed[1:]
        pins = pins[near[pins]]
        listed &= ~touches
    wave = np.concatenate([np.concatenate([o.wave for o in orders]), grid[pins]])
    flags = np.concatenate([listed.ravel(), np.ones(len(pins), bool)])
    chosen = np.flatnonzero(flags)
    chain = chosen[np.argsort(wave[chosen], kind="stable")]
    position = np.full(len(flags), len(chain))
    position[chain] = np.arange(len(chain))
    fit = SpectrumFit(
        wave=grid,
        response=response,
        first=first,
        factor=np.array(np.nan),
        weight=weight,
        covered=covered,
        pins=pins,
        chain=chain,
        position=position,
        turn=np.arange(len(chain) - 1),
        width=0,
        orders=tuple(places),
        model_response=None if same else model,
    )
    turn, width = band_order(fit)
    return replace(fit, turn=turn, width=width)


def _weight(error: HostArray, used: HostArray) -> HostArray:
    return np.where(used, 1.0 / np.where(used, error, 1.0) ** 2, 0.0)


def _estimate(
    first: DetectorOrder, second: DetectorOrder, scene: _Scene, *, exact: bool
) -> Callable[[HostArray], HostArray]:
    """Estimate the spectrum from pixels of order 1 in which there is no light of order 2.

    At the resolution of order 1. The official estimate (not `exact`) is not unique: nothing holds
    its ends, which are what rounding makes of them.

    Returns
    -------
    callable
        Cubic spline of flux density over wavelength [um].
    """
    from scipy.interpolate import UnivariateSpline
    from scipy.sparse import csr_array, diags_array
    from scipy.sparse.linalg import spsolve

    light = np.maximum(first.profile, 0.0)
    lit = (light.sum(axis=0) > 0) & (first.wave > 0)
    # officially a mean over the column, whose rounding decides whether the outermost column counts
    centre = first.wave if exact else _column_means(first.wave, light, lit)
    grid = np.sort(centre[lit])
    masks = (second.profile >= _APART) | scene.outside[0] | scene.bad
    reach = _reach([first], grid, masks[None], _SIGNIFICANT)
    gain = throughput_at(first.throughput, grid) * grid
    piece = reach.start[0], reach.stop[0]
    rows = _columns(first, grid, piece, reach.seen[0], gain=gain, kernel=None, exact=exact)
    sums = column_sums(first.profile[None], _weight(scene.error, reach.used), scene.data)
    taps = rows.values.shape[1]
    columns = rows.first[:, None] + np.arange(taps)
    matrix = csr_array(
        (rows.values.ravel(), columns.ravel(), np.arange(0, columns.size + 1, taps)),
        shape=(len(columns), len(grid)),
    )
    matrix.eliminate_zeros()
    right = matrix.T @ sums.pull[0]
    normal = (matrix.T @ diags_array(sums.precision[0, 0]) @ matrix).tocsr()
    known = np.flatnonzero(right)
    normal = normal[known][:, known]
    if exact:
        step = diags_array([-1.0, 1.0], offsets=[0, 1], shape=(len(known) - 1, len(known)))
        normal = normal + _HOLD * np.median(normal.diagonal()) * (step.T @ step)
    spectrum = spsolve(normal.tocsc(), right[known])
    finite = np.isfinite(spectrum)
    if finite.sum() < 4:
        msg = (
            "the estimate of the spectrum needs four wavelengths at least at which order 1 has"
            f" light of its own, found {finite.sum()}; give soss_estimate"
        )
        raise InputError(msg)
    return UnivariateSpline(grid[known][finite], spectrum[finite], k=3, s=0, ext=0)


def _column_means(wave: HostArray, light: HostArray, lit: HostArray) -> HostArray:
    """Mean wavelength of the pixels of each column: that of the column, but for rounding."""
    weight = np.where(lit, light, 1.0)
    mean: HostArray = np.average(np.broadcast_to(wave, light.shape), weights=weight, axis=0)
    return mean

"""The wavelengths at which ATOCA looks for the spectrum that two orders share.

Boundaries of the pixels of both orders, divided until the trapezoidal rule integrates an estimate
of the spectrum well enough.

A. Darveau-Bernier et al. 2022, PASP 134, 094502.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from spec2fn.errors import InputError
from spec2fn.typing import HostArray

__all__ = ["adaptive_grid", "oversample", "pixel_boundaries", "shared_grid"]

Spectrum: TypeAlias = Callable[[HostArray], HostArray]
"""Flux density as a function of wavelength [um]."""

_ABSOLUTE = 1e-6  # error of an integral that is good enough
_FINEST = 1e-5  # [um], 1/100 of a pixel
_ROUNDS = 30


def pixel_boundaries(wave: HostArray) -> HostArray:
    """Boundaries of the pixels whose centres are given, ascending, one more than there are pixels.

    Parameters
    ----------
    wave : ndarray, (pixel,)
        Wavelengths of the centres [um]; those that are not finite are left out.
    """
    centre = np.sort(wave[np.isfinite(wave)])
    if len(centre) < 2:
        msg = f"the wavelengths of an order need two pixels at least, found {len(centre)}"
        raise InputError(msg)
    half = np.diff(centre) / 2
    lower = centre - np.concatenate([half[:1], half])
    return np.append(lower, centre[-1] + half[-1])


def oversample(grid: HostArray, parts: int | HostArray) -> HostArray:
    """Divide each interval of an ascending grid into so many equal parts."""
    many = np.broadcast_to(parts, len(grid) - 1)
    first = np.repeat(np.cumsum(many) - many, many)
    share = (np.arange(len(first)) - first) / np.repeat(many, many)
    start, step = np.repeat(grid[:-1], many), np.repeat(np.diff(grid), many)
    return np.append(start + share * step, grid[-1:])


def _errors(grid: HostArray, spectrum: Spectrum) -> tuple[HostArray, HostArray]:
    """Error of the trapezoidal rule in each interval, from one step of Romberg's; relative too."""
    step = np.diff(grid)
    ends = spectrum(grid)
    coarse = 0.5 * step * (ends[:-1] + ends[1:])
    fine = 0.5 * (coarse + step * spectrum(grid[:-1] + 0.5 * step))
    better = (4.0 * fine - coarse) / 3.0
    error = np.abs(better - coarse)
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = np.where(better != 0, np.abs(error / better), np.inf)
    return error, relative


def _spaced(grid: HostArray) -> HostArray:
    """Leave out points that follow the last one that is kept too closely."""
    if not (np.diff(grid) <= _FINEST).any():
        return grid
    kept = [grid[0]]
    for value in grid[1:].tolist():
        if value - kept[-1] > _FINEST:
            kept.append(value)
    return np.array(kept)


def adaptive_grid(
    grid: HostArray, spectrum: Spectrum, size: int, *, rtol: float, capped: bool = True
) -> HostArray:
    """Halve the intervals of a grid in which the trapezoidal rule is not good enough.

    Parameters
    ----------
    grid : ndarray, (wave,)
        [um], ascending.
    spectrum : callable
        What is integrated.
    size : int
        The most points; intervals of the largest relative error come first.
    rtol : float
        Relative error of the integral of an interval that is good enough.
    capped : bool
        False reproduces the official behaviour when `size` is reached exactly: all intervals are
        halved once more.

    Returns
    -------
    ndarray
        [um], ascending.
    """
    for _ in range(_ROUNDS if len(grid) > 1 else 0):
        error, relative = _errors(grid, spectrum)
        coarse = ~((relative < rtol) | (error < _ABSOLUTE))
        if not coarse.any():
            break
        left = size - len(grid)
        full = coarse.sum() + len(coarse) > size
        if full:
            worst = np.argsort(relative)[-left:] if left or not capped else np.array([], int)
            coarse = np.zeros(len(coarse), bool)
            coarse[worst] = True
        grid = _spaced(oversample(grid, 1 + coarse))
        if full:
            break
    return grid


def _between(grid: HostArray, low: float, high: float) -> HostArray:
    """The points between two wavelengths, and one more on either side."""
    start = max(int(np.searchsorted(grid, low, side="right")) - 1, 0)
    stop = min(int(np.searchsorted(grid, high, side="left")), len(grid) - 1)
    return grid[start : stop + 1]


def _beyond(grid: HostArray, covered: HostArray) -> HostArray:
    """The points on either side of what is covered, and one more within."""
    below = int((grid < covered.min()).sum())
    above = int((grid <= covered.max()).sum())
    keep = np.zeros(len(grid), bool)
    if below:
        keep[: below + 1] = True
    if above < len(grid):
        keep[max(above - 1, 0) :] = True
    return grid[keep]


def _thinned(pieces: Sequence[HostArray], size: int) -> list[HostArray]:
    """Keep as many points as fit, evenly, in all pieces alike."""
    total = sum(map(len, pieces))
    if total <= size:
        return list(pieces)
    many = [max(2, int(len(p) * size / total)) if len(p) else 0 for p in pieces]
    chosen = [
        np.unique(np.linspace(0, len(p) - 1, n).round().astype(int))
        for p, n in zip(pieces, many, strict=True)
    ]
    return [p[i] for p, i in zip(pieces, chosen, strict=True)]


def shared_grid(
    first: HostArray,
    second: HostArray,
    estimate: Spectrum,
    shortest: float,
    *,
    oversampling: int = 2,
    rtol: float = 1e-4,
    size: int = 20_000,
    capped: bool = True,
) -> HostArray:
    """Wavelengths for the spectrum that orders 1 and 2 share.

    Parameters
    ----------
    first, second : ndarray, (pixel,)
        Wavelengths of the pixels of orders 1 and 2 along their traces [um].
    estimate : callable
        Estimate of the spectrum in order 1, down to the shortest wavelength of it.
    shortest : float
        Where order 2 stands alone and is left to a fit of its own [um].
    oversampling : int
        Points for each pixel at least.
    rtol : float
        See :func:`adaptive_grid`.
    size : int
        The most points. What both orders see is refined first, then the rest of order 1.
    capped : bool
        True: there are never more; if the pixels alone need more, their points are thinned out.
        False: the official behaviour, by which no piece has less points than its pixels need, and
        the last may be halved once more.

    Returns
    -------
    ndarray, (wave,)
        [um], strictly ascending.

    Raises
    ------
    InputError
        If nothing lies between `shortest` and the longest wavelength of order 1.
    """
    red = oversample(pixel_boundaries(first), oversampling)
    blue = oversample(pixel_boundaries(second), oversampling)
    shared = blue >= red.min()
    if shared.any():
        red = red[red > blue[shared].min()]
    if not red.size or red.max() <= shortest:
        msg = (
            f"wavelengths of order 1 must reach beyond {shortest} um, found"
            f" {first[np.isfinite(first)]}; check the pastasoss reference"
        )
        raise InputError(msg)

    def flat(wave: HostArray) -> HostArray:
        return np.ones_like(wave)

    pieces: list[HostArray] = []
    for piece in (blue[shared], red, blue[~shared]):
        inside = _between(piece, shortest, red.max()) if piece.size else piece
        covered = np.concatenate(pieces) if pieces else np.array([])
        pieces.append(_beyond(inside, covered) if covered.size and inside.size else inside)
    if capped:
        pieces = _thinned(pieces, size)
    sizes = [len(p) for p in pieces]
    for i, (piece, spectrum) in enumerate(zip(pieces, (estimate, estimate, flat), strict=True)):
        room = size - sum(sizes[:i]) - sum(sizes[i + 1 :])
        grid = adaptive_grid(piece, spectrum, max(room, len(piece)), rtol=rtol, capped=capped)
        pieces[i], sizes[i] = grid, len(grid)
    return np.unique(np.concatenate(pieces))

"""Corrections of many slits at once: tables by slit, gathered at planned places.

The first axis of every array is the slit. Searching is done on the host (plans); kernels only
gather and interpolate, so that they are differentiable in tables, positions and wavelengths.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.kernels.namespace import array_namespace
from spec2fn.kernels.photometry import rescale

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "assemble_shadows",
    "bilinear_by_slit",
    "bilinear_clipped",
    "interpolate_by_slit",
    "offsets_at",
    "rescale_slits",
]


def _gather(xp: Any, table: Any, index: Any) -> Any:
    flat = xp.reshape(index, (index.shape[0], -1))
    return xp.reshape(xp.take_along_axis(table, flat, axis=1), index.shape)


def interpolate_by_slit(points: Any, values: Any, index: Any, x: Any) -> Any:
    """Interpolate linearly, each slit in its own table.

    Parameters
    ----------
    points : array, shape (slit, n)
        Strictly ascending in each row.
    values : array, shape (slit, n)
    index : array of int, shape (slit, ...)
        Lower end of the cell of each element, from 0 to n - 2.
    x : array, shape (slit, ...)
        Finite; beyond its cell the cell is extrapolated.

    Returns
    -------
    array, shape (slit, ...)
    """
    xp = array_namespace(points, values, index, x)
    points, values, index = xp.asarray(points), xp.asarray(values), xp.asarray(index)
    # a line for each cell: tables are small, and to gather from them is what takes time
    slope = (values[:, 1:] - values[:, :-1]) / (points[:, 1:] - points[:, :-1])
    start = values[:, :-1] - slope * points[:, :-1]
    return _gather(xp, start, index) + _gather(xp, slope, index) * x


def offsets_at(table: Any, positions: Any, where: Any) -> Any:
    """Interpolate linearly along the last axis of a table, at one position for each slit.

    Parameters
    ----------
    table : array, shape (slit, n, m)
    positions : array, shape (slit, m)
        Strictly ascending, m at least 2.
    where : array, shape (slit,)
        Finite; beyond the positions the outermost cells are extrapolated.

    Returns
    -------
    array, shape (slit, n)
    """
    xp = array_namespace(table, positions, where)
    table, positions, where = xp.asarray(table), xp.asarray(positions), xp.asarray(where)
    below = xp.sum(positions <= where[:, None], axis=1) - 1
    cell = xp.clip(below, 0, positions.shape[1] - 2)[:, None]
    low = xp.take_along_axis(positions, cell, axis=1)
    high = xp.take_along_axis(positions, cell + 1, axis=1)
    t = (where[:, None] - low) / (high - low)
    start = xp.take_along_axis(table, cell[:, None], axis=2)[..., 0]
    end = xp.take_along_axis(table, cell[:, None] + 1, axis=2)[..., 0]
    return start + t * (end - start)


def bilinear_by_slit(cubes: Any, which: Any, column: Any, row: Any) -> Any:
    """Interpolate planes of cubes, at one place for each slit.

    Parameters
    ----------
    cubes : array, shape (k, n, y, x)
    which : array of int, shape (slit,)
        The cube of each slit.
    column, row : array of float, shape (slit,)
        Zero-based, finite; the dtype in which to compute. Places outside are extrapolated from
        the nearest cell.

    Returns
    -------
    array, shape (slit, n)
    """
    xp = array_namespace(cubes, which, column, row)
    cubes, which = xp.asarray(cubes), xp.asarray(which)
    column, row = xp.asarray(column), xp.asarray(row)
    n_rows, n_columns = cubes.shape[-2:]
    j = xp.clip(xp.floor(column), 0, max(n_columns - 2, 0)).astype("int32")
    i = xp.clip(xp.floor(row), 0, max(n_rows - 2, 0)).astype("int32")
    t = (column - j.astype(column.dtype))[:, None]
    u = (row - i.astype(row.dtype))[:, None]

    def at(y: Any, x: Any) -> Any:
        return cubes[which, :, y, x].astype(column.dtype)

    lower = (1 - t) * at(i, j) + t * at(i, j + 1)
    upper = (1 - t) * at(i + 1, j) + t * at(i + 1, j + 1)
    return (1 - u) * lower + u * upper


def bilinear_clipped(images: Any, which: Any, row: Any, column: Any) -> Any:
    """Interpolate images at many places, each slit in its own image.

    Parameters
    ----------
    images : array, shape (k, r, c)
    which : array of int, shape (slit,)
        The image of each slit.
    row, column : array of float, shape (slit, y, x)
        Zero-based, finite; the dtype in which to compute. Places outside take the value of the
        nearest edge.

    Returns
    -------
    array, shape (slit, y, x)
    """
    xp = array_namespace(images, which, row, column)
    row, column = xp.asarray(row), xp.asarray(column)
    images = xp.asarray(images).astype(row.dtype)
    n_rows, n_columns = images.shape[-2:]
    row, column = xp.clip(row, 0, n_rows - 1), xp.clip(column, 0, n_columns - 1)
    i = xp.clip(xp.floor(row), 0, max(n_rows - 2, 0)).astype("int32")
    j = xp.clip(xp.floor(column), 0, max(n_columns - 2, 0)).astype("int32")
    u, t = row - i.astype(row.dtype), column - j.astype(column.dtype)
    k = xp.asarray(which)[:, None, None]
    lower = (1 - t) * images[k, i, j] + t * images[k, i, j + 1]
    upper = (1 - t) * images[k, i + 1, j] + t * images[k, i + 1, j + 1]
    return (1 - u) * lower + u * upper


def assemble_shadows(single: Any, triple: Any, states: tuple[str, ...]) -> Any:
    """Build the bar shadows of slitlets from those of one and of three open shutters.

    Parameters
    ----------
    single, triple : array, shape (2 h + 1, c)
        Transmission from the centre of the shutter below to the centre of the one above, of a
        single open shutter and of the middle one of three.
    states : tuple of str
        State of each shutter of a slitlet: ``"0"`` closed, anything else open. Not empty.

    Returns
    -------
    array, shape (k, h (n_max + 1), c)
        From one shutter below the first to one above the last; shorter slitlets repeat their
        last row.

    Notes
    -----
    Where two pieces meet, the mean of both is taken. Algorithm: JWST pipeline documentation,
    barshadow step.
    """
    xp = array_namespace(single, triple)
    single, triple = xp.asarray(single), xp.asarray(triple)
    half = (single.shape[0] - 1) // 2
    dark = xp.broadcast_to(xp.nanmin(single), (half + 1, single.shape[1]))
    between = {
        (True, True): triple[: half + 1],
        (True, False): single[half:],
        (False, True): single[: half + 1],
        (False, False): dark,
    }
    length = half * (max(map(len, states)) + 1)
    out = []
    for state in states:
        # the first piece leads up to an open shutter, whatever the state says of it
        is_open = [True, *(s != "0" for s in state[1:])]
        pieces = [single[: half + 1]]
        pieces += [between[pair] for pair in pairwise(is_open)]
        pieces.append(single[half + 1 :])
        rows = [pieces[0][:-1]]
        for before, after in pairwise(pieces):
            rows += [0.5 * (before[-1:] + after[:1]), after[1:-1]]
        rows.append(pieces[-1][-1:])
        image = xp.concatenate(rows)
        missing = length - image.shape[0]
        out.append(xp.concatenate([image, xp.repeat(image[-1:], missing, axis=0)]))
    return xp.stack(out)


def rescale_slits(
    values: Mapping[str, Any],
    variances: Mapping[str, Any],
    dq: Any,
    factor: Any,
    applies: Any,
    **options: Any,
) -> tuple[dict[str, Any], Any]:
    """Apply :func:`spec2fn.kernels.photometry.rescale` to some of the slits.

    Parameters
    ----------
    values, variances, dq
        Shape ``(slit, ..., y, x)``.
    factor : array, shape (slit, y, x)
        Where it is not finite, pixels become NaN and are flagged.
    applies : array of bool, shape (slit,)
        The other slits are left as they are.
    **options
        Of ``rescale``.
    """
    xp = array_namespace(dq, factor, *values.values(), *variances.values())
    between = (1,) * (len(dq.shape) - len(factor.shape))
    factor = xp.reshape(factor, (factor.shape[0], *between, *factor.shape[1:]))
    chosen = xp.reshape(xp.asarray(applies), (-1, *(1,) * (len(dq.shape) - 1)))
    usable = xp.isfinite(factor) | ~chosen
    planes, flags = rescale(values, variances, dq, factor, usable, **options)
    if xp is np and np.all(applies):
        return planes, flags
    before = {**values, **variances}
    out = {name: xp.where(chosen, plane, before[name]) for name, plane in planes.items()}
    return out, xp.where(chosen, flags, dq)

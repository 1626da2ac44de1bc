"""Corrections of many slits at once: tables by slit, gathered at planned places.

The first axis of every array is the slit. Searching is done on the host (plans); kernels only
gather and interpolate, so that they are differentiable in tables, positions and wavelengths.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

from spec2fn.kernels.namespace import array_namespace
from spec2fn.typing import Array

__all__ = ["bilinear", "bilinear_by_slit", "interpolate_by_slit", "offsets_at"]


def _gather(xp: ModuleType, table: Array, index: Array) -> Array:
    flat = xp.reshape(index, (index.shape[0], -1))
    return xp.reshape(xp.take_along_axis(table, flat, axis=1), index.shape)


def interpolate_by_slit(points: Array, values: Array, index: Array, x: Array) -> Array:
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


def offsets_at(table: Array, positions: Array, place: Array) -> Array:
    """Interpolate linearly along the last axis of a table, at one position for each slit.

    Parameters
    ----------
    table : array, shape (slit, n, m)
    positions : array, shape (slit, m)
        Strictly ascending, m at least 2.
    place : array, shape (slit,)
        Finite; beyond the positions the outermost cells are extrapolated.

    Returns
    -------
    array, shape (slit, n)
    """
    xp = array_namespace(table, positions, place)
    table, positions, place = xp.asarray(table), xp.asarray(positions), xp.asarray(place)
    below = xp.sum(positions <= place[:, None], axis=1) - 1
    cell = xp.clip(below, 0, positions.shape[1] - 2)[:, None]
    low = xp.take_along_axis(positions, cell, axis=1)
    high = xp.take_along_axis(positions, cell + 1, axis=1)
    t = (place[:, None] - low) / (high - low)
    start = xp.take_along_axis(table, cell[:, None], axis=2)[..., 0]
    end = xp.take_along_axis(table, cell[:, None] + 1, axis=2)[..., 0]
    return start + t * (end - start)


def bilinear_by_slit(cubes: Array, which: Array, column: Array, row: Array) -> Array:
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
    column, row = xp.asarray(column)[:, None], xp.asarray(row)[:, None]

    def at(y: Array, x: Array) -> Array:
        return cubes[which, :, y[:, 0], x[:, 0]].astype(column.dtype)

    return bilinear(at, column, row, cubes.shape[-2:])


def bilinear(
    at: Callable[[Array, Array], Array], column: Array, row: Array, shape: tuple[int, int]
) -> Array:
    """Interpolate between the values ``at(y, x)`` of images of a shape (y, x).

    Places are zero-based and finite, their dtype is that in which to compute. Those outside are
    extrapolated from the nearest cell.
    """
    xp = array_namespace(column, row)
    i, j = (
        xp.clip(xp.floor(place), 0, max(size - 2, 0)).astype("int32")
        for place, size in zip((row, column), shape, strict=True)
    )
    u, t = row - i.astype(row.dtype), column - j.astype(column.dtype)
    lower = (1 - t) * at(i, j) + t * at(i, j + 1)
    upper = (1 - t) * at(i + 1, j) + t * at(i + 1, j + 1)
    return (1 - u) * lower + u * upper

"""Linear interpolation in tables with one or two axes."""

from __future__ import annotations

from types import ModuleType

import numpy as np

from spec2fn.kernels.namespace import array_namespace
from spec2fn.typing import Array

__all__ = ["bridge_rows", "interpolate1d", "interpolate2d", "nearest1d"]


def _locate(xp: ModuleType, points: Array, x: Array) -> tuple[Array, Array, Array]:
    # index of the interval and the fraction inside it; a NaN coordinate lands in some interval
    # and comes back out through the fraction
    n = points.shape[0]
    if n == 1:
        index = xp.zeros(xp.shape(x), dtype=int)
        return index, x - points[0], x == points[0]
    index = xp.clip(xp.searchsorted(points, x, side="right") - 1, 0, n - 2)
    low = points[index]
    fraction = (x - low) / (points[index + 1] - low)
    return index, fraction, (x >= points[0]) & (x <= points[n - 1])


def _outside(xp: ModuleType, value: Array, inside: Array, x: Array, fill: float | None) -> Array:
    if fill is None:
        return value
    return xp.where(inside | xp.isnan(x), value, xp.asarray(fill, dtype=value.dtype))


def interpolate1d(points: Array, values: Array, x: Array, fill: float | None = None) -> Array:
    """Interpolate linearly in a table.

    Parameters
    ----------
    points : array, shape (n,)
        Strictly ascending.
    values : array, shape (n,)
    x : array
        Array shape; NaN gives NaN.
    fill : float, optional
        Value outside the table; None extrapolates the first and last interval.

    Returns
    -------
    array
        Of the shape of `x`; differentiable in `values` and, piecewise, in `x` and `points`.
    """
    xp = array_namespace(points, values, x)
    index, t, inside = _locate(xp, points, x)
    last = values.shape[0] - 1
    upper = values[xp.minimum(index + 1, last)]
    value = values[index] * (1.0 - t) + upper * t
    return _outside(xp, value, inside, x, fill)


def nearest1d(points: Array, values: Array, x: Array, fill: float | None = None) -> Array:
    """Return the value of the nearest point (the lower one half way); arguments as above."""
    xp = array_namespace(points, values, x)
    index, t, inside = _locate(xp, points, x)
    value = values[xp.where(t <= 0.5, index, xp.minimum(index + 1, values.shape[0] - 1))]
    return _outside(xp, value + 0.0 * t, inside, x, fill)


def interpolate2d(
    points: tuple[Array, Array], values: Array, x: Array, y: Array, fill: float | None = None
) -> Array:
    """Interpolate bilinearly.

    Parameters
    ----------
    points : tuple of two arrays, shapes (n,) and (m,)
        Strictly ascending.
    values : array, shape (n, m)
    x, y : array
        Coordinates along the first and second axis; they broadcast against each other.
    fill : float, optional
        Value outside the table; None extrapolates.
    """
    xp = array_namespace(*points, values, x, y)
    i, s, inside_x = _locate(xp, points[0], x)
    j, t, inside_y = _locate(xp, points[1], y)
    value = (
        values[i, j] * (1.0 - s) * (1.0 - t)
        + values[i, j + 1] * (1.0 - s) * t
        + values[i + 1, j] * s * (1.0 - t)
        + values[i + 1, j + 1] * s * t
    )
    return _outside(xp, value, inside_x & inside_y, x + y, fill)


def bridge_rows(values: Array, good: Array, place: Array) -> Array:
    """Interpolate linearly between the good values of every column.

    Parameters
    ----------
    values : array, shape (..., y, x)
        What stands where they are not good does not matter.
    good : array of bool, shape (..., y, x)
    place : array, shape (..., row)
        Rows at which they are wanted, in rows of `values`; leading axes may be left out.

    Returns
    -------
    array, shape (..., row, x)
        The first and the last good value hold beyond them; NaN in columns without any.
    """
    xp = array_namespace(values, good, place)
    n = values.shape[-2]
    known = xp.where(good, values, xp.zeros((), dtype=values.dtype))
    row = xp.arange(n)[:, None]
    before = _running(xp, xp.where(good, row, -1), reverse=False)
    after = _running(xp, xp.where(good, row, n), reverse=True)
    at = xp.asarray(place, dtype=float)[..., None]
    at = at.reshape((1,) * (values.ndim - at.ndim) + at.shape)
    low, high = xp.floor(at).astype(int), xp.ceil(at).astype(int)
    a = xp.take_along_axis(before, xp.clip(low, 0, n - 1), axis=-2)
    b = xp.take_along_axis(after, xp.clip(high, 0, n - 1), axis=-2)
    a, b = xp.where(low < 0, -1, a), xp.where(high >= n, n, b)
    a, b = xp.where(a < 0, b, a), xp.where(b >= n, a, b)
    some = (a >= 0) & (a < n)
    a, b = xp.clip(a, 0, n - 1), xp.clip(b, 0, n - 1)
    t = (at - a.astype(float)) / xp.maximum(b - a, 1).astype(float)
    first, second = (xp.take_along_axis(known, k, axis=-2).astype(float) for k in (a, b))
    value = xp.where(a == b, first, first * (1.0 - t) + second * t)
    return xp.where(some, value, xp.asarray(xp.nan, dtype=value.dtype)).astype(values.dtype)


def _running(xp: ModuleType, rows: Array, *, reverse: bool) -> Array:
    """The largest row up to each row of a column; the smallest from it on if `reverse`."""
    if xp is np:
        if reverse:
            return np.minimum.accumulate(rows[..., ::-1, :], axis=-2)[..., ::-1, :]
        return np.maximum.accumulate(rows, axis=-2)
    from jax.lax import cummax, cummin

    axis = rows.ndim - 2
    return cummin(rows, axis=axis, reverse=True) if reverse else cummax(rows, axis=axis)

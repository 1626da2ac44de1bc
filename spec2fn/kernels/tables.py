"""Looking up many pixels in many small tables, piecewise linearly.

Tables stand one behind the other in a *bank*: one array of knots and one of values. A planned
cell (the position of its lower knot in the bank) says where a pixel stands; the place inside the
cell is computed here, so that results can be differentiated with respect to the place as well as
to the values.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from spec2fn.kernels.bands import by_rows
from spec2fn.kernels.namespace import array_namespace, safe_divide

__all__ = ["average_across", "chords", "follow", "indices", "spread"]

GAUSS_3 = (
    (-math.sqrt(0.6) / 2.0, 5.0 / 18.0),
    (0.0, 8.0 / 18.0),
    (math.sqrt(0.6) / 2.0, 5.0 / 18.0),
)
"""Gauss-Legendre abscissas and weights with three points, on an interval of length one."""


def indices(stored: Any) -> Any:
    """Return indices in the type in which NumPy gathers fastest; JAX's are left as they are.

    Plans store them in less, because there are many.
    """
    return stored.astype(np.intp) if isinstance(stored, np.ndarray) else stored


def chords(knots: Any, values: Any) -> tuple[Any, Any]:
    """Return intercept and slope of the straight line of every cell.

    Parameters
    ----------
    knots : array, shape (m,)
        Increasing within each table; where a table ends the cell between two tables is never
        looked at and its line is arbitrary.
    values : array, shape (m,)

        NaN where unknown; the line of a cell that touches such a value is zero.

    Returns
    -------
    intercept, slope : array, shape (m - 1,)
        The line is ``intercept + slope * x``, in the dtype of `knots`.
    """
    xp = array_namespace(knots, values)
    knots = xp.asarray(knots)
    values = xp.asarray(values).astype(knots.dtype)
    zero = xp.zeros((), dtype=knots.dtype)
    known = ~xp.isnan(values)
    values = xp.where(known, values, zero)
    step = knots[1:] - knots[:-1]
    both = known[1:] & known[:-1]
    slope = safe_divide(values[1:] - values[:-1], step, both & (step > 0), fill=0.0)
    return xp.where(both, values[:-1] - slope * knots[:-1], zero), slope


def follow(lines: tuple[Any, Any], cell: Any, x: Any) -> Any:
    """Interpolate: the line of each pixel's cell at its place.

    Parameters
    ----------
    lines : (array, array)
        From :func:`chords`.
    cell : array of int, shape (n,)
    x : array, shape (n,)

    Returns
    -------
    array, shape (n,)
    """
    intercept, slope = lines
    cell = indices(cell)
    return intercept[cell] + slope[cell] * x


def average_across(lines: tuple[Any, Any], cells: Any, x: Any, width: Any) -> Any:
    """Average a table over an interval around each place, with three Gaussian points.

    Parameters
    ----------
    lines : (array, array)
        From :func:`chords`.
    cells : array of int, shape (3, n)
        Cell of every point of :data:`GAUSS_3`.
    x, width : array, shape (n,)
        Centre and length of the intervals.

    Returns
    -------
    array, shape (n,)

    Notes
    -----
    The average of the tables of fast variation over a pixel: JWST pipeline documentation,
    flat_field step ("NIRSpec spectroscopic data").
    """
    total = None
    for cell, (offset, weight) in zip(cells, GAUSS_3, strict=True):
        term = weight * follow(lines, cell, x + offset * width if offset else x)
        total = term if total is None else total + term
    return total


def spread(listed: Any, back: Any, *others: float | bool) -> Any:
    """Put the values of a list of pixels back into an array.

    Parameters
    ----------
    listed : array, shape (n,)
    back : array of int, any shape
        Position in the list; ``n + i`` for the value ``others[i]``.
    *others : float or bool
        Values of pixels that are not in the list.

    Returns
    -------
    array
        Of the shape of `back` and the dtype of `listed`.
    """
    xp = array_namespace(listed, back)
    table = xp.concatenate([listed, xp.asarray(others, dtype=listed.dtype)])
    return table[back] if xp is not np else _looked_up(table, back)


def _looked_up(table: Any, back: Any) -> Any:
    # in the cache, indices need not be written in the type in which NumPy gathers
    return by_rows(lambda index: table[indices(index)])(back)

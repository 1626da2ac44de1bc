"""Looking up many pixels in many small tables, piecewise linearly.

Tables stand one behind the other in a *bank*: one array of knots and one of values. A planned
cell (the position of its lower knot in the bank) says where a pixel stands; the place inside the
cell is computed here, so that results can be differentiated with respect to the place as well as
to the values.
"""

from __future__ import annotations

import math

import numpy as np

from spec2fn.kernels.bands import by_rows
from spec2fn.kernels.namespace import array_namespace, safe_divide
from spec2fn.typing import Array

__all__ = ["average_across", "between_images", "cell_lines", "indices", "on_lines", "onto_image"]

_HALF = math.sqrt(0.6) / 2.0
GAUSS_3 = ((-_HALF, 5.0 / 18.0), (0.0, 8.0 / 18.0), (_HALF, 5.0 / 18.0))
"""Gauss-Legendre abscissas and weights with three points, on an interval of length one."""


def indices(stored: Array) -> Array:
    """Return indices, of which plans store many, as NumPy gathers fastest; JAX's are left."""
    return stored.astype(np.intp) if isinstance(stored, np.ndarray) else stored


def cell_lines(knots: Array, values: Array) -> tuple[Array, Array]:
    """Return intercept and slope of the line ``intercept + slope * x`` of every cell.

    They have shape (m - 1,) and the dtype of `knots`.

    Parameters
    ----------
    knots : array, shape (m,)
        Increasing within each table; where a table ends the cell between two tables is never
        looked at and its line is arbitrary.
    values : array, shape (m,)
        NaN where unknown; the line of a cell that touches such a value is zero.
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


def on_lines(lines: tuple[Array, Array], cell: Array, x: Array) -> Array:
    """Interpolate: the :func:`cell_lines` of each pixel's cell at its place, shape (n,)."""
    intercept, slope = lines
    cell = indices(cell)
    return intercept[cell] + slope[cell] * x


def average_across(lines: tuple[Array, Array], cells: Array, x: Array, width: Array) -> Array:
    """Average a table over an interval around each place, with three Gaussian points.

    Parameters
    ----------
    lines : (array, array)
        Of :func:`cell_lines`.
    cells : array of int, shape (3, n)
        Cell of every point of :data:`GAUSS_3`.
    x, width : array, shape (n,)
        Centre and length of the intervals.

    Notes
    -----
    The average of the tables of fast variation over a pixel: JWST pipeline documentation,
    flat_field step ("NIRSpec spectroscopic data").
    """
    xp = array_namespace(*lines, cells, x, width)
    if xp is not np:  # one look-up takes a third of the time to compile
        offsets, weights = (xp.asarray(g, dtype=x.dtype) for g in zip(*GAUSS_3, strict=True))
        return weights @ on_lines(lines, cells, x + offsets[:, None] * width)
    total = None
    for cell, (offset, weight) in zip(cells, GAUSS_3, strict=True):
        term = weight * on_lines(lines, cell, x + offset * width if offset else x)
        total = term if total is None else total + term
    return total


def onto_image(listed: Array, entry: Array, *others: float | bool) -> Array:
    """Put the values of a list of pixels back into an image, of the shape of `entry`.

    Parameters
    ----------
    listed : array, shape (n,)
    entry : array of int, any shape
        Of each pixel: its place in the list; ``n + i`` for the value ``others[i]``.
    *others : float or bool
        Values of pixels that are not in the list.
    """
    xp = array_namespace(listed, entry)
    table = xp.concatenate([listed, xp.asarray(others, dtype=listed.dtype)])
    if xp is not np:
        return table[entry]
    # in the cache, indices need not be written in the type in which NumPy gathers
    return by_rows(lambda index: table[indices(index)])(entry)


def between_images(below: Array, above: Array, lower: Array, knots: Array, x: Array) -> Array:
    """Interpolate linearly between the images of a cube, each pixel at its own wavelength.

    Parameters
    ----------
    below, above : array, shape (n,)
        Values of the images around each pixel.
    lower : array of int, shape (n,)
        Number of the image below, from 0 to z - 2.
    knots, x : array of float64, shape (z,) and (n,)
        Wavelengths of the images, and of the pixels.
    """
    xp = array_namespace(below, above, lower, knots, x)
    knots = xp.asarray(knots)
    rise = above - below
    # the place in the cell as a straight line of wavelength
    step = knots[1:] - knots[:-1]
    slope = safe_divide(xp.ones_like(step), step, step != 0, fill=0.0)
    fraction = on_lines((-slope * knots[:-1], slope), lower, x)
    return below.astype(knots.dtype) + fraction * rise.astype(knots.dtype)

"""Where the orders of a slitless spectrum fall when the pupil wheel turns the grism (NIRISS SOSS).

Trace and wavelengths are functions of the angle of the wheel and of a shift, and can be
differentiated in them. The model is that of PASTASOSS (Baines et al. 2023, JWST-STScI-008571;
https://github.com/spacetelescope/pastasoss): the trace of the commanded angle turns about a pivot,
and the wavelength is a polynomial of column and angle.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from spec2fn.kernels.interpolation_linear import interpolate1d
from spec2fn.kernels.namespace import array_namespace
from spec2fn.kernels.polynomials import polynomial2d
from spec2fn.kernels.splines import cubic_spline
from spec2fn.plan_base import Plan, array
from spec2fn.typing import Array, HostArray, Number

__all__ = ["OrderTrace", "PlacedTrace", "box_weights", "place_trace"]


class OrderTrace(Plan):
    """The model of the trace of an order.

    Attributes
    ----------
    x, y : array of float64, shape (point,)
        Trace at the commanded angle [pixel of the subarray, from 0], ascending in `x`.
    pivot : array of float64, shape (2,)
        Point (x, y) about which it turns.
    coefficients : array of float64, shape (n + 1, n + 1)
        Of the wavelength [um]: ``sum_ij c[i, j] u**i v**j`` with `u` the column and `v` the offset
        of the angle, both scaled to `extents`.
    extents : array of float64, shape (2, 2)
        Column and offset [deg] that become 0, and that become 1.
    commanded : float
        Angle of the wheel [deg] to which the trace belongs.
    kept : tuple of int
        Points of the trace that are on the detector, once turned.
    order : int
    columns : int
        So many of them, from 0, hold the order.
    """

    x: Array = array("point")
    y: Array = array("point")
    pivot: Array = array("2")
    coefficients: Array = array("i j")
    extents: Array = array("2 2")
    commanded: Array = array("")
    kept: tuple[int, ...]
    order: int
    columns: int


class PlacedTrace(NamedTuple):
    """An order on the detector.

    Attributes
    ----------
    wave : array, shape (x,)
        Wavelength of the centre of every column of the detector [um]; NaN beyond the wavelengths
        of the model.
    wavelength, center : array, shape (columns,)
        Wavelength [um] and row of the trace in the columns that hold the order.
    """

    wave: Array
    wavelength: Array
    center: Array


def place_trace(
    trace: OrderTrace,
    position: Number,
    grid: HostArray,
    columns: int,
    shift: tuple[Number, Number] = (0.0, 0.0),
) -> PlacedTrace:
    """Return where an order falls.

    Parameters
    ----------
    trace : OrderTrace
    position : float
        Angle of the pupil wheel [deg].
    grid : array of float64, shape (n,)
        Ascending wavelengths [um] on which the trace is tabulated.
    columns : int
        Of the detector.
    shift : (float, float)
        By which the trace is moved besides, along x and y [pixel].

    Returns
    -------
    PlacedTrace
        Of float64; linear between the points of the model, beyond them the outer ones go on.
    """
    xp = array_namespace(trace.x, trace.pivot, trace.coefficients, position, *shift)
    x, y = (xp.asarray(v) for v in turned_trace(trace, position))
    wavelength = xp.asarray(_wavelengths(trace, x, position))
    # wavelengths fall along x
    ascending, x, y = wavelength[::-1], x[::-1] + shift[0], y[::-1] + shift[1]
    x_of = interpolate1d(ascending, x, xp.asarray(grid))[::-1]
    y_of = interpolate1d(ascending, y, xp.asarray(grid))[::-1]
    tabulated = xp.asarray(grid)[::-1]
    every = np.arange(float(columns))
    wave = interpolate1d(x_of, tabulated, xp.asarray(every), fill=np.nan)
    both = xp.stack([y_of, tabulated], axis=1)
    center, own = cubic_spline(x_of, both, xp.asarray(every[: trace.columns])).T
    return PlacedTrace(wave, own, center)


def turned_trace(trace: OrderTrace, position: Number) -> tuple[Array, Array]:
    """Return columns and rows of the points of a trace that are on the detector."""
    xp = array_namespace(trace.x, trace.pivot, position)
    x, y = xp.asarray(trace.x), xp.asarray(trace.y)
    angle = xp.deg2rad(xp.asarray(position) - trace.commanded)
    cosine, sine = xp.cos(angle), xp.sin(angle)
    dx, dy = x - trace.pivot[0], y - trace.pivot[1]
    new_x = cosine * dx - sine * dy + trace.pivot[0]
    new_y = sine * dx + cosine * dy + trace.pivot[1]
    kept = np.asarray(trace.kept)
    return x[kept], interpolate1d(new_x, new_y, x)[kept]


def _wavelengths(trace: OrderTrace, x: Array, position: Number) -> Array:
    xp = array_namespace(x, trace.coefficients, position)
    low, high = trace.extents[0], trace.extents[1]
    u = (x - low[0]) / (high[0] - low[0])
    v = (xp.asarray(position) - trace.commanded - low[1]) / (high[1] - low[1])
    return polynomial2d(xp.asarray(trace.coefficients), u, v * xp.ones_like(u))


def box_weights(center: Array, width: Number, rows: int) -> Array:
    """Return the share of every pixel that lies in a box about a trace.

    Parameters
    ----------
    center : array, shape (x,)
        Row of the trace.
    width : float
        Of the box across the trace [pixel].
    rows : int
        Of the detector.

    Returns
    -------
    array of float64, shape (rows, x)
        From 0 to 1; differentiable in `center` and `width`.
    """
    xp = array_namespace(center, width)
    row = xp.asarray(np.arange(float(rows)))[:, None]
    top = xp.minimum(row + 0.5, (center + width / 2)[None, :])
    bottom = xp.maximum(row - 0.5, (center - width / 2)[None, :])
    return xp.maximum(top - bottom, xp.zeros_like(top))

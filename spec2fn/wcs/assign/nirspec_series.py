"""Smooth functions of the position along a slit as short polynomials, one set per slit.

Seen from the detector, light comes from the middle of a slit's width, so that the angles before
the grating wheel depend on the position along the slit alone, and the sky on that and, slightly,
on wavelength. A slit is a few arcseconds long: over it, optics that are polynomials of fifth
order over the whole field are polynomials of low order to rounding accuracy. They are determined
at Chebyshev nodes, compared with the optics in between, and not used where they differ.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from spec2fn.typing import HostArray

__all__ = ["Series", "fit_series"]


@dataclass(frozen=True, eq=False)
class Series:
    """Polynomials of one or two variables, scaled to -1 … 1, for each of n slits.

    Attributes
    ----------
    coefficients : tuple of float array, shape (n, i, j)
        One array per quantity; ``i`` counts powers of the first variable, ``j`` of the second.
    middle, half : float array, shape (n, 2)
        Middle and half width of the interval of each variable.
    """

    coefficients: tuple[HostArray, ...]
    middle: HostArray
    half: HostArray

    def __call__(
        self, slit: int | HostArray, first: HostArray, second: HostArray | float = 0.0
    ) -> list[HostArray]:
        """Evaluate all quantities; `slit` broadcasts against the variables."""
        u = (first - self.middle[slit, 0]) / self.half[slit, 0]
        v = (second - self.middle[slit, 1]) / self.half[slit, 1]
        return [_horner(c[slit], u, v) for c in self.coefficients]


def _horner(c: HostArray, u: HostArray, v: HostArray) -> HostArray:
    out = _inner(c[..., -1, :], v)
    for i in range(c.shape[-2] - 2, -1, -1):
        out = out * u
        out += _inner(c[..., i, :], v)
    return out


def _inner(c: HostArray, v: HostArray) -> HostArray:
    out = c[..., -1]
    for j in range(c.shape[-1] - 2, -1, -1):
        out = out * v
        out += c[..., j]
    return out


def _to_powers(nodes: HostArray) -> HostArray:
    # values at Chebyshev nodes -> Chebyshev coefficients -> coefficients of powers, which loses
    # fewer digits than solving for the powers
    size = len(nodes)
    if size == 1:
        return np.ones((1, 1))
    chebyshev = np.polynomial.chebyshev.chebvander(nodes, size - 1).T * (2.0 / size)
    chebyshev[0] *= 0.5
    out = np.zeros((size, size))
    for k, row in enumerate(chebyshev):
        powers = np.polynomial.chebyshev.cheb2poly(np.eye(size)[k])
        out[: len(powers)] += powers[:, None] * row
    return out


def fit_series(
    function: Callable[[HostArray, HostArray, HostArray], tuple[HostArray, ...]],
    low: HostArray,
    high: HostArray,
    sizes: tuple[int, int],
    tolerance: float,
) -> Series | None:
    """Represent a function by polynomials.

    Parameters
    ----------
    function : callable
        ``function(slit, first, second)`` returns the quantities; arrays broadcast.
    low, high : float array, shape (n, 2)
        Intervals of the variables, by slit.
    sizes : (int, int)
        Number of coefficients for each variable; 1 for a variable that does not matter.
    tolerance : float
        Largest difference that is accepted, in the units of the quantities.

    Returns
    -------
    Series or None
        None if the polynomials are not that accurate, or the function is not finite.
    """
    middle, half = 0.5 * (high + low), 0.5 * (high - low)
    slit = np.arange(len(low))[:, None, None]
    nodes = [np.cos(np.pi * (np.arange(size) + 0.5) / size) for size in sizes]
    inverse = [_to_powers(u) for u in nodes]

    def at(u: HostArray, v: HostArray) -> tuple[tuple[HostArray, ...], HostArray, HostArray]:
        first = middle[:, 0, None, None] + half[:, 0, None, None] * u[:, None]
        second = middle[:, 1, None, None] + half[:, 1, None, None] * v
        shape = np.broadcast_shapes(first.shape, second.shape)
        values = function(slit, first, second)
        return tuple(np.broadcast_to(x, shape) for x in values), first, second

    values, _, _ = at(*nodes)
    series = Series(tuple(inverse[0] @ x @ inverse[1].T for x in values), middle, half)
    values, first, second = at(_BETWEEN, _BETWEEN)
    for value, expected in zip(series(slit, first, second), values, strict=True):
        if not np.max(np.abs(value - expected), initial=0.0) <= tolerance:
            return None
    return series


# the ends of the interval, and irregular places inside
_BETWEEN = np.array([-1.0, -0.87, -0.43, 0.11, 0.59, 0.93, 1.0])

"""Traces of slitless spectra: where a grism sends the light of a source, and back.

The light of a source at pixel (x0, y0) of the undispersed image falls on (x0 + dx, y0 + dy), and
dx, dy and the wavelength are polynomials in a parameter t that runs from 0 to 1 along the trace;
their coefficients are polynomials in (x0, y0) (Kümmel et al. 2009, PASP 121, 59; Pirzkal & Ryan
2017, GRISMCONF). All are arrays of coefficients ``c[power, i, j]`` of ``t**power x0**i y0**j``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spec2fn.kernels.namespace import array_namespace
from spec2fn.kernels.polynomials import polynomial2d
from spec2fn.typing import Array, Number

__all__ = [
    "evaluate",
    "field_coefficients",
    "from_samples",
    "rotated",
    "solve",
    "to_nearest_sample",
]

_ITERATIONS = 12
_TOLERANCE = 1e-10  # of the length of the trace
_LAST_MOVE = 1e-6  # the moves after it are its square, and one follows


def field_coefficients(c: Array, x0: Array, y0: Array) -> list[Array]:
    """Evaluate the coefficients of the powers of t at places of the field.

    Parameters
    ----------
    c : array, shape (power, n + 1, n + 1)
    x0, y0 : array
        Pixels of the undispersed image; shapes that broadcast against each other.

    Returns
    -------
    list of arrays
        Lowest power first.
    """
    return [polynomial2d(one, x0, y0) for one in c]


def evaluate(coefficients: Sequence[Array], t: Number) -> Array:
    """Evaluate ``sum_k coefficients[k] t**k``; shapes broadcast."""
    out = coefficients[-1]
    if len(coefficients) == 1:
        return out + 0 * t
    for one in reversed(coefficients[:-1]):
        out = out * t + one
    return out


def rotated(
    dx: Sequence[Array], dy: Sequence[Array], angle: Array
) -> tuple[list[Array], list[Array]]:
    """Turn a trace about its source, counter-clockwise by `angle` [deg]."""
    xp = array_namespace(angle)
    cosine, sine = xp.cos(xp.deg2rad(angle)), xp.sin(xp.deg2rad(angle))
    return (
        [cosine * a - sine * b for a, b in zip(dx, dy, strict=True)],
        [sine * a + cosine * b for a, b in zip(dx, dy, strict=True)],
    )


def solve(coefficients: Sequence[Array], value: Array, *, turned_back: bool = False) -> Array:
    """Return the t at which a polynomial has a value.

    By the formula up to the second power; above, Newton's method from the straight line through
    t = 0 and t = 1, then from either end. A trace that turns back, as those of order 0 do, has
    two such t: one on the longer branch, on which the polynomial goes the way from its value at
    t = 0 to that at t = 1, and one on the other.

    Parameters
    ----------
    coefficients : sequence of arrays
        Lowest power first; they broadcast against `value`.
    value : array
    turned_back : bool
        Return the t on the shorter branch.

    Returns
    -------
    array
        NaN where there is no solution on the branch. The derivatives are those of the exact
        inverse.
    """
    xp = array_namespace(value, *coefficients)
    length = sum(coefficients[1:])
    first = (value - coefficients[0]) / length
    if len(coefficients) == 2:
        return xp.nan * first if turned_back else first
    if len(coefficients) == 3:
        return _quadratic_root(coefficients, value, xp.sign(length) * (-1 if turned_back else 1))
    slopes = [k * c for k, c in enumerate(coefficients)][1:]
    root = xp.nan * first
    for start in (first, 1.0 + 0 * first, 0 * first):
        t = start
        for _ in range(_ITERATIONS):
            t, move = _step(coefficients, slopes, t, value)
            if xp is np and not (abs(move) > _LAST_MOVE).any():
                break
        found = abs(evaluate(coefficients, t) - value) <= _TOLERANCE * abs(length)
        forward = evaluate(slopes, t) * length
        good = found & (forward < 0 if turned_back else forward > 0)
        root = xp.where(xp.isnan(root) & good, t, root)
        if xp is np and good.all():
            break
    there = xp.isfinite(root)
    root = xp.where(there, root, 0.5)
    if xp is not np:
        import jax

        # the derivative of one step from the root is that of the inverse
        root = jax.lax.stop_gradient(root)
    return xp.where(there, _step(coefficients, slopes, root, value)[0], xp.nan)


def _quadratic_root(coefficients: Sequence[Array], value: Array, sign: Array) -> Array:
    """Return the t at which the slope of the polynomial has a sign."""
    xp = array_namespace(value, *coefficients)
    constant, slope, curvature = coefficients[0] - value, coefficients[1], coefficients[2]
    square = slope**2 - 4 * curvature * constant
    there = (square > 0) & (sign != 0)
    at_root = sign * xp.sqrt(xp.where(there, square, 1.0))
    # of the two forms, the one in which nothing cancels
    alike = slope * at_root >= 0
    numerator = xp.where(alike, -2 * constant, at_root - slope)
    denominator = xp.where(alike, slope + at_root, 2 * curvature)
    there = there & (denominator != 0)
    return xp.where(there, numerator / xp.where(there, denominator, 1.0), xp.nan)


def _step(
    coefficients: Sequence[Array], slopes: Sequence[Array], t: Array, value: Array
) -> tuple[Array, Array]:
    xp = array_namespace(t, value)
    slope = evaluate(slopes, t)
    # far from the trace a move may lead to where the polynomial is flat
    move = (evaluate(coefficients, t) - value) / xp.where(slope == 0, 1.0, slope)
    return t - move, move


def from_samples(
    coefficients: Sequence[Array], value: Array, count: int, *, extrapolate: bool
) -> Array:
    """Return t by linear interpolation between `count` samples of a polynomial.

    An approximation to :func:`solve`, as the JWST pipeline has it.

    Parameters
    ----------
    coefficients : sequence of arrays
    value : array
    count : int
        Number of samples from t = 0 to t = 1.
    extrapolate : bool
        Whether t goes on beyond the ends, or stays at 0 and 1.
    """
    xp = array_namespace(value, *coefficients)
    at = [evaluate(coefficients, k / (count - 1)) for k in range(count)]
    upwards = at[-1] > at[0]
    # the interval in which the value lies, or the first or last one
    first, low, high = 0 * value, at[0] + 0 * value, at[1] + 0 * value
    for k in range(1, count - 1):
        beyond = xp.where(upwards, value >= at[k], value <= at[k])
        first = xp.where(beyond, k, first)
        low, high = xp.where(beyond, at[k], low), xp.where(beyond, at[k + 1], high)
    t = (first + (value - low) / (high - low)) / (count - 1)
    return t if extrapolate else xp.clip(t, 0.0, 1.0)


def to_nearest_sample(coefficients: Sequence[Array], value: Array, count: int) -> Array:
    """Return t where the square of the distance from a value is least, from samples.

    The gradient of the square at the nearest of `count` samples, and at the one beside it on the
    side from which the distance falls, is continued to zero; at the first and last sample, t is 0
    and 1. An approximation to :func:`solve`, as the JWST pipeline has it. The polynomial must not
    turn back, as no wavelength along a trace does.
    """
    xp = array_namespace(value, *coefficients)
    last = count - 1
    upwards = evaluate(coefficients, 1.0) > evaluate(coefficients, 0.0)
    # the last sample before the value, by bisection
    nearest, step = 0 * value, 1 << (last - 1).bit_length()
    while step > 1:
        step //= 2
        sample = xp.minimum(nearest + step, last)
        short = evaluate(coefficients, sample / last) < value
        nearest = xp.where(short == upwards, sample, nearest)
    after = xp.minimum(nearest + 1, last)
    distances = [abs(evaluate(coefficients, k / last) - value) for k in (nearest, after)]
    nearest = xp.where(distances[1] < distances[0], after, nearest)

    inside = xp.clip(nearest, 1, last - 1)
    around = [xp.clip(inside + k, 0, last) for k in range(-2, 3)]
    at = [evaluate(coefficients, k / last) - value for k in around]

    def slope(k: int) -> Array:
        # of the square, by central differences that are one-sided at the ends
        return (at[k + 1] ** 2 - at[k - 1] ** 2) / (around[k + 1] - around[k - 1])

    here = slope(2)
    passed = here > 0
    left, right = xp.where(passed, here, slope(1)), xp.where(passed, slope(3), here)
    rise = right - left
    found = inside + xp.where(passed, 1, 0) - right / xp.where(rise == 0, 1.0, rise)
    found = xp.where(here == 0, inside, found)
    return xp.where((nearest == 0) | (nearest == last), nearest, found) / last

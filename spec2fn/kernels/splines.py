"""Interpolating cubic splines, for NumPy and JAX alike."""

from __future__ import annotations

from spec2fn.kernels.namespace import array_namespace
from spec2fn.typing import Array

__all__ = ["cubic_spline"]


def cubic_spline(points: Array, values: Array, x: Array) -> Array:
    """Interpolate by the cubic spline whose third derivative is continuous at the second knots.

    Parameters
    ----------
    points : array, shape (n,)
        Strictly ascending, n at least 4.
    values : array, shape (n, k)
    x : array, shape (m,)
        Beyond the points the outer cubics go on.

    Returns
    -------
    array, shape (m, k)
        Differentiable in all three.

    Notes
    -----
    de Boor, A Practical Guide to Splines, chapter IV ("not-a-knot").
    """
    xp = array_namespace(points, values, x)
    step = points[1:] - points[:-1]
    secant = (values[1:] - values[:-1]) / step[:, None]
    before, after = step[:-1, None], step[1:, None]
    inner = 3.0 * (after * secant[:-1] + before * secant[1:])
    first, last = points[2] - points[0], points[-1] - points[-3]
    start = ((step[0] + 2.0 * first) * step[1] * secant[0] + step[0] ** 2 * secant[1]) / first
    end = (step[-1] ** 2 * secant[-2] + (2.0 * last + step[-1]) * step[-2] * secant[-1]) / last
    slope = _tridiagonal(
        xp.concatenate([step[1:], last[None]]),
        xp.concatenate([step[1:2], 2.0 * (step[:-1] + step[1:]), step[-2:-1]]),
        xp.concatenate([first[None], step[:-1]]),
        xp.concatenate([start[None], inner, end[None]]),
    )
    index = xp.clip(xp.searchsorted(points, x, side="right") - 1, 0, points.shape[0] - 2)
    width, at = step[index][:, None], (x - points[index])[:, None]
    low, high, rise = slope[index], slope[index + 1], secant[index]
    bend = (low + high - 2.0 * rise) / width
    square = (rise - low) / width - bend
    return values[index] + at * (low + at * (square + at * (bend / width)))


def _tridiagonal(below: Array, diagonal: Array, above: Array, right: Array) -> Array:
    """Solve a tridiagonal system; `below` and `above` are one shorter than `diagonal`."""
    xp = array_namespace(below, diagonal, above, right)
    zero = xp.zeros_like(below[:1])
    if xp.__name__.startswith("jax"):
        from jax.lax import linalg

        solution: Array = linalg.tridiagonal_solve(
            xp.concatenate([zero, below]), diagonal, xp.concatenate([above, zero]), right
        )
        return solution
    from scipy.linalg import solve_banded

    bands = xp.stack([xp.concatenate([zero, above]), diagonal, xp.concatenate([below, zero])])
    return solve_banded((1, 1), bands, right, check_finite=False)

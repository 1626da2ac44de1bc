"""Newton's method for transforms without an inverse, or with an inaccurate one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType

import numpy as np

from spec2fn.kernels.namespace import array_namespace
from spec2fn.typing import Array, Number
from spec2fn.wcs.lowered import Coordinates, Values

__all__ = ["invert", "jacobian"]


def jacobian(
    f: Callable[..., Values],
    coordinates: Sequence[Array],
    step: float = 1e-3,
    periods: Sequence[float | None] = (),
) -> tuple[Coordinates, list[list[Array]]]:
    """Value and Jacobian of a pointwise transform.

    Parameters
    ----------
    f : callable
        Maps n coordinate arrays of one shape to an array or a tuple of arrays of that shape.
    coordinates : sequence of arrays
    step : float
        Half width of the central difference used with NumPy (one-sided where a neighbour is not
        finite); with JAX the derivative is exact.
    periods : sequence of float or None
        Period of each output that is an angle (360 for a right ascension in degrees).

    Returns
    -------
    value : tuple of arrays
    matrix : list of lists
        ``matrix[i][k]`` is the derivative of output i with respect to input k.
    """
    xp = array_namespace(*coordinates)
    coordinates = tuple(coordinates)

    def whole(*c: Array) -> Coordinates:
        out = f(*c)
        return tuple(out) if isinstance(out, tuple) else (out,)

    value = whole(*coordinates)
    columns = []
    for k, c in enumerate(coordinates):
        if xp is not np:
            import jax

            tangents = tuple(
                xp.ones_like(d) if i == k else xp.zeros_like(d) for i, d in enumerate(coordinates)
            )
            columns.append(jax.jvp(whole, coordinates, tangents)[1])
            continue
        up = whole(*coordinates[:k], c + step, *coordinates[k + 1 :])
        down = whole(*coordinates[:k], c - step, *coordinates[k + 1 :])
        columns.append(
            tuple(
                _difference(_wrap(u - v, p), _wrap(v - d, p), step)
                for u, d, v, p in zip(up, down, value, _periods(periods, value), strict=True)
            )
        )
    return value, [[column[i] for column in columns] for i in range(len(value))]


def _periods(periods: Sequence[float | None], outputs: Coordinates) -> Sequence[float | None]:
    return periods or [None] * len(outputs)


def _wrap(angle: Array, period: float | None) -> Array:
    if period is None:
        return angle
    xp = array_namespace(angle)
    return angle - period * xp.round(angle / period)


def _difference(forward: Array, backward: Array, step: float) -> Array:
    forward, backward = forward / step, backward / step
    one_sided = np.where(np.isfinite(forward), forward, backward)
    central = 0.5 * (forward + backward)
    return np.where(np.isfinite(central), central, one_sided)


def invert(
    f: Callable[..., Values],
    target: Sequence[Number],
    start: Sequence[Number],
    *,
    iterations: int = 10,
    tolerance: float = 1e-12,
    step: float = 1e-3,
    periods: Sequence[float | None] = (),
    bounds: Sequence[tuple[float, float]] = (),
) -> Coordinates:
    """Find the coordinates that a pointwise transform maps to `target`.

    Gauss-Newton iterations, each point by itself; with more outputs than inputs (a detector
    pixel has two sky angles and a wavelength) the outputs are fitted by least squares, each
    scaled by its gradient.

    Parameters
    ----------
    f : callable
        Maps n coordinates to an array or tuple of m >= n arrays, for instance a
        :class:`~spec2fn.wcs.lower.Lowered`.
    target : sequence of m arrays
    start : sequence of n arrays
        First guess, of the shape of the targets.
    iterations : int
        Number of iterations; always that many inside a JAX trace.
    tolerance : float
        With NumPy, stop when no coordinate moves by more than this.
    step, periods
        See :func:`jacobian`.
    bounds : sequence of (float, float)
        Range of each coordinate; iterates are clipped to it.

    Returns
    -------
    tuple of n arrays
        NaN where the transform is not finite or its Jacobian is singular.
    """
    xp = array_namespace(*target, *start)
    shape = np.broadcast_shapes(*(xp.shape(a) for a in (*target, *start)))
    goals = [xp.broadcast_to(xp.asarray(t, dtype=float), shape) for t in target]
    guess = tuple(xp.broadcast_to(xp.asarray(c, dtype=float), shape) for c in start)
    if xp is not np:
        import jax

        def iterate(_: Array, c: Coordinates) -> Coordinates:
            return _clip(xp, _newton(xp, f, goals, c, step, periods)[0], bounds)

        return tuple(jax.lax.fori_loop(0, iterations, iterate, _clip(xp, guess, bounds)))
    guess = _clip(xp, guess, bounds)
    for _ in range(iterations):
        guess, moved = _newton(xp, f, goals, guess, step, periods)
        guess = _clip(xp, guess, bounds)
        if not np.any(moved > tolerance):
            break
    return guess


def _clip(xp: ModuleType, guess: Coordinates, bounds: Sequence[tuple[float, float]]) -> Coordinates:
    if not bounds:
        return guess
    return tuple(xp.clip(c, low, high) for c, (low, high) in zip(guess, bounds, strict=True))


def _newton(  # noqa: PLR0917 - internal, called in two places
    xp: ModuleType,
    f: Callable[..., Values],
    goals: list[Array],
    guess: Coordinates,
    step: float,
    periods: Sequence[float | None],
) -> tuple[Coordinates, Array]:
    value, matrix = jacobian(f, guess, step, periods)
    n = len(guess)
    normal = [[0.0 * guess[0]] * n for _ in range(n)]
    right = [0.0 * guess[0]] * n
    for row, goal, reached, period in zip(
        matrix, goals, value, _periods(periods, value), strict=True
    ):
        square = sum(d * d for d in row)
        flat = ~(square > 0)
        weight = xp.where(flat, 0.0 * square, 1.0 / xp.where(flat, xp.ones_like(square), square))
        for i in range(n):
            right[i] = right[i] + weight * row[i] * _wrap(goal - reached, period)
            normal[i] = [normal[i][k] + weight * row[i] * row[k] for k in range(n)]
    a = xp.stack([xp.stack(r, axis=-1) for r in normal], axis=-2)
    b = xp.stack(right, axis=-1)
    unit = xp.broadcast_to(xp.eye(n), a.shape)
    bad = ~xp.all(xp.isfinite(a), axis=(-2, -1))
    a = xp.where(bad[..., None, None], unit, a)
    # every row was scaled to unit length, so that the determinant has no unit
    singular = ~(xp.abs(xp.linalg.det(a)) > 1e-24)
    bad = bad | singular
    a = xp.where(singular[..., None, None], unit, a)
    move = xp.linalg.solve(a, b[..., None])[..., 0]
    move = xp.where(bad[..., None], xp.asarray(np.nan, dtype=move.dtype), move)
    moved = xp.max(xp.where(xp.isnan(move), xp.zeros_like(move), xp.abs(move)), initial=0.0)
    return tuple(c + move[..., k] for k, c in enumerate(guess)), moved

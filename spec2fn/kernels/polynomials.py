"""Polynomials by Horner's scheme and orthogonal series by their recurrences."""

from __future__ import annotations

from spec2fn.kernels.namespace import array_namespace
from spec2fn.typing import Array

__all__ = [
    "chebyshev_basis",
    "legendre_basis",
    "map_domain",
    "polynomial1d",
    "polynomial2d",
    "series2d",
]


def polynomial1d(c: Array, x: Array) -> Array:
    """Evaluate ``sum_i c[i] x**i`` with coefficients `c` (degree + 1,), lowest order first."""
    xp = array_namespace(c, x)
    out = c[-1] * xp.ones_like(x)
    for i in range(c.shape[0] - 2, -1, -1):
        out = out * x + c[i]
    return out


def polynomial2d(c: Array, x: Array, y: Array) -> Array:
    """Evaluate ``sum_{i + j <= n} c[i, j] x**i y**j``.

    The inner polynomials depend on `x` only, so that with ``x`` of shape (1, nx) and ``y`` of
    shape (ny, 1) only the outer Horner recurrence runs over the whole grid.

    Parameters
    ----------
    c : array, shape (n + 1, n + 1)
        Coefficients; those with ``i + j > n`` are not used.
    x, y : array
        Shapes that broadcast against each other.
    """
    n = c.shape[0] - 1
    out = polynomial1d(c[:1, n], x)
    for j in range(n - 1, -1, -1):
        out = out * y + polynomial1d(c[: n - j + 1, j], x)
    return out


def map_domain(x: Array, domain: tuple[float, float], window: tuple[float, float]) -> Array:
    """Map `x` linearly so that `domain` becomes `window`."""
    if tuple(domain) == tuple(window):
        return x
    scale = (window[1] - window[0]) / (domain[1] - domain[0])
    return (window[0] * domain[1] - window[1] * domain[0]) / (domain[1] - domain[0]) + scale * x


def chebyshev_basis(x: Array, degree: int) -> list[Array]:
    """Return the Chebyshev polynomials of the first kind T_0 … T_degree at `x`."""
    xp = array_namespace(x)
    basis = [xp.ones_like(x), x]
    for _ in range(degree - 1):
        basis.append(2.0 * x * basis[-1] - basis[-2])
    return basis[: degree + 1]


def legendre_basis(x: Array, degree: int) -> list[Array]:
    """Return the Legendre polynomials P_0 … P_degree at `x` (Bonnet's recurrence)."""
    xp = array_namespace(x)
    basis = [xp.ones_like(x), x]
    for n in range(1, degree):
        basis.append(((2 * n + 1) * x * basis[n] - n * basis[n - 1]) / (n + 1))
    return basis[: degree + 1]


def series2d(c: Array, left: list[Array], right: list[Array]) -> Array:
    """Evaluate ``sum_ij c[i, j] left[i] right[j]`` from two lists of basis functions."""
    out = None
    for i, basis in enumerate(left):
        inner = c[i, 0] * right[0]
        for j in range(1, len(right)):
            inner = inner + c[i, j] * right[j]
        out = basis * inner if out is None else out + basis * inner
    return out

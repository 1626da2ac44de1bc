"""Symmetric positive definite systems whose matrix is a band.

LAPACK factorises them on the host, in a JAX trace as well (as a callback). The derivative of a
solution is that of the equation it solves, so that neither the factor nor the matrix is ever
differentiated.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import numpy as np

from spec2fn.kernels.namespace import array_namespace
from spec2fn.typing import Array, HostArray

__all__ = ["factorise", "inverse_band", "is_positive", "log_determinant", "solve", "solve_with"]

_LIFTS = (0.0, 1e-14, 1e-13, 1e-12, 1e-11, 1e-10)
_BLOCK = 64  # rows that are worth a call of LAPACK


def factorise(band: HostArray) -> HostArray:
    """Cholesky factor of a band matrix.

    Parameters
    ----------
    band : ndarray, (half width + 1, n)
        The diagonal and those below it, ``band[i - j, j] = matrix[i, j]``.

    Returns
    -------
    ndarray, (half width + 1, n)
        Lower factor, stored alike. Of a matrix that is singular to working precision with a
        diagonal that is larger by as little as makes it positive definite.

    Raises
    ------
    numpy.linalg.LinAlgError
        If the matrix is not positive definite by far.
    """
    for more in _LIFTS:
        found = _cholesky(band, more)
        if found is not None:
            return found
    msg = f"a matrix must be positive definite, found one that is not by {_LIFTS[-1]}"
    raise np.linalg.LinAlgError(msg)


def is_positive(band: HostArray) -> bool:
    """Whether a band matrix is positive definite to working precision."""
    return _cholesky(band, 0.0) is not None


def _cholesky(band: HostArray, more: float) -> HostArray | None:
    from scipy.linalg import cholesky_banded

    lifted = band.copy()
    lifted[0] *= 1.0 + more
    try:
        return cholesky_banded(lifted, overwrite_ab=True, lower=True, check_finite=False)
    except np.linalg.LinAlgError:
        return None


def solve(factor: HostArray, right: HostArray) -> HostArray:
    """Solve for right sides (..., n) with a factor of :func:`factorise`."""
    from scipy.linalg import cho_solve_banded

    columns = np.ascontiguousarray(right.reshape(-1, right.shape[-1])).T
    found = cho_solve_banded((factor, True), columns, check_finite=False)
    return found.T.reshape(right.shape)


def inverse_band(factor: HostArray) -> HostArray:
    """Elements of the inverse of the matrix within its band, stored as the band is.

    Parameters
    ----------
    factor : ndarray, (half width + 1, n)
        Of :func:`factorise`.

    Returns
    -------
    ndarray, (half width + 1, n)

    Notes
    -----
    The others of the inverse are not needed for these: K. Takahashi, J. Fagan & M. Chin 1973, 8th
    PICA Conference, in blocks.
    """
    from scipy.linalg import solve_triangular

    width, n = factor.shape[0] - 1, factor.shape[1]
    size = max(width, _BLOCK)
    many = -(-n // size)
    padded = np.zeros((width + 1, many * size))
    padded[:, :n] = factor
    padded[0, n:] = 1.0
    row, column = np.indices((size, size))

    def block(i: int, below: int) -> HostArray:
        depth = below * size + row - column
        inside = (depth >= 0) & (depth <= width)
        return np.where(inside, padded[np.clip(depth, 0, width), i * size + column], 0.0)

    out = np.zeros((width + 1, many * size))
    depth, place = np.indices((width + 1, size))
    after = np.zeros((size, size))
    for i in reversed(range(many)):
        root = solve_triangular(block(i, 0), np.eye(size), lower=True, check_finite=False)
        step = block(i, 1) @ root if i + 1 < many else np.zeros((size, size))
        cross = -after @ step
        own = root.T @ root - step.T @ cross
        both = np.concatenate([own, cross])
        out[:, i * size : (i + 1) * size] = both[np.minimum(place + depth, 2 * size - 1), place]
        after = own
    return out[:, :n]


def log_determinant(factor: HostArray) -> float:
    """Logarithm of the determinant of the matrix."""
    return float(2.0 * np.log(factor[0]).sum())


def solve_with(factor: Array, multiply: Callable[[Array], Array], right: Array) -> Array:
    """Solve for right sides (..., n), differentiable in what `multiply` and `right` depend on.

    Parameters
    ----------
    factor : array, (half width + 1, n)
        Of the matrix in its place; constant for derivatives.
    multiply : callable
        The matrix times (..., n), from which derivatives are taken.
    right : array, (..., n)

    Returns
    -------
    array, (..., n)
    """
    if array_namespace(factor, right) is np:
        return solve(factor, right)
    import jax

    factor = jax.lax.stop_gradient(factor)

    def solver(_: object, b: Array) -> Array:
        shape = jax.ShapeDtypeStruct(b.shape, b.dtype)
        return jax.pure_callback(_solve_each, shape, factor, b, vmap_method="expand_dims")

    return cast("Array", jax.lax.custom_linear_solve(multiply, right, solver, symmetric=True))


def _solve_each(factor: Array, right: Array) -> HostArray:
    """Solve as :func:`solve`, for one factor or one for each of the leading right sides."""
    factors, sides = np.asarray(factor), np.asarray(right)
    lead = factors.shape[:-2]
    if np.prod(lead, dtype=int) == 1:
        return solve(factors.reshape(factors.shape[-2:]), sides)
    out = np.empty(np.broadcast_shapes(lead + (1,) * (sides.ndim - len(lead)), sides.shape))
    sides = np.broadcast_to(sides, out.shape)
    for i in np.ndindex(lead):
        # an axis of length one is shared along that of the right sides
        chosen = tuple(
            slice(None) if n == 1 else slice(j, j + 1) for j, n in zip(i, lead, strict=True)
        )
        out[chosen] = solve(factors[i], sides[chosen])
    return out

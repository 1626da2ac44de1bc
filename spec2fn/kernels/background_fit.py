"""Background under a spectrum: boxcar smoothing, polynomial fits and medians across the trace.

All arrays are oriented ``(..., dispersion, cross-dispersion)``, float64. A fit is returned with
its *weights*: the background summed over an aperture is ``sum(weights * data)``, which is what
propagates variances and covariances. The fits are those described in the JWST pipeline
documentation of ``extract_1d`` (https://jwst-pipeline.readthedocs.io, "Extraction for 2D slit
data", background subtraction): unweighted least squares over the background pixels of every
dispersion element.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spec2fn.kernels.namespace import array_namespace, is_jax, safe_divide
from spec2fn.typing import Array

__all__ = [
    "MEDIAN_NOISE",
    "boxcar",
    "boxcar_variance",
    "fit_polynomial",
    "invert_normal_matrix",
    "median_across",
]

# Standard error of a median over that of a mean. Gaussian samples tend to sqrt(pi/2) = 1.25 with
# their number; for the few pixels of a background region it is nearer to 1.2.
MEDIAN_NOISE = 1.2

# Normal matrices worse conditioned than this are taken as singular.
MAX_CONDITION = 1e10


def _shifted(array: Array, half: int, mode: str) -> list[Array]:
    """Return the ``2 half + 1`` views of `array` shifted along the dispersion, ends padded."""
    xp = array_namespace(array)
    n = array.shape[-2]
    padded = xp.pad(array, [*[(0, 0)] * (array.ndim - 2), (half, half), (0, 0)], mode=mode)
    return [padded[..., shift : shift + n, :] for shift in range(2 * half + 1)]


def boxcar(data: Array, good: Array, length: int) -> tuple[Array, Array, Array]:
    """Smooth along the dispersion with a boxcar, bad pixels replaced by their neighbours' mean.

    Parameters
    ----------
    data : array of float64, (..., disp, cross)
        Finite everywhere (zero where not `good`).
    good : array of bool, (..., disp, cross)
        Pixels that count.
    length : int
        Odd number of dispersion elements; the first and last elements are repeated beyond
        the ends.

    Returns
    -------
    smooth : array of float64
        Mean of the good pixels in the box, 0 where there is none.
    defined : array of bool
        Where the box holds a good pixel.
    count : array of float64
        Number of good pixels in the box (at least 1).
    """
    half = length // 2
    xp = array_namespace(data, good)
    n_good = sum(_shifted(good.astype(data.dtype), half, "edge"))
    total = sum(_shifted(xp.where(good, data, xp.zeros_like(data)), half, "edge"))
    count = xp.maximum(n_good, xp.ones_like(n_good))
    return total / count, n_good > 0, count


def boxcar_variance(plane: Array, length: int) -> Array:
    """Sum of a (co)variance plane over the box, for the square of the boxcar's weights.

    Elements repeated beyond the ends carry their multiplicity squared.

    Parameters
    ----------
    plane : array of float64, (..., disp, cross)
        Variance or covariance, zero for pixels that do not count.
    length : int
        Odd number of dispersion elements.

    Returns
    -------
    array of float64, (..., disp, cross)
    """
    xp = array_namespace(plane)
    half = length // 2
    total = sum(_shifted(plane, half, "constant"))
    n = plane.shape[-2]
    rows = np.arange(n)
    for edge, distance in ((0, rows), (n - 1, n - 1 - rows)):
        multiplicity = np.maximum(half - distance + 1, 0)
        extra = np.where(multiplicity > 1, multiplicity**2 - 1, 0).astype(np.float64)
        factor = xp.asarray(extra.reshape((1,) * (plane.ndim - 2) + (n, 1)))
        total = total + factor * plane[..., edge : edge + 1, :]
    return total


def invert_normal_matrix(matrix: Array) -> Array:
    """Invert small symmetric matrices (..., p, p), float64; singular ones become zero.

    One is singular if its condition number is 1e10 or more.
    """
    xp = array_namespace(matrix)
    p = matrix.shape[-1]
    if p == 1:
        return safe_divide(xp.ones_like(matrix), matrix, matrix > 0, 0.0)
    size = xp.abs(xp.linalg.eigvalsh(_constant(matrix)))
    low, high = xp.min(size, axis=-1), xp.max(size, axis=-1)
    ok = (high < MAX_CONDITION * low)[..., None, None]
    eye = xp.broadcast_to(xp.eye(p, dtype=matrix.dtype), matrix.shape)
    inverse = xp.linalg.inv(xp.where(ok, matrix, eye))
    return xp.where(ok, inverse, xp.zeros_like(inverse))


def _constant(array: Array) -> Array:
    # the condition number only decides; its derivative (eigenvalues) is neither needed nor finite
    if not is_jax(array):
        return array
    import jax

    return jax.lax.stop_gradient(array)


def fit_polynomial(
    data: Array, used: Array, basis: Array, apertures: Sequence[Array]
) -> tuple[Array, tuple[Array, ...]]:
    """Least-squares polynomial across the trace, at every dispersion element.

    Parameters
    ----------
    data : array of float64, (..., disp, cross)
        Finite where `used`.
    used : array of bool, (..., disp, cross)
        Pixels that are fitted.
    basis : array of float64, (cross, order + 1)
        Polynomial terms at every cross-dispersion pixel.
    apertures : sequence of array of float64, (..., disp, cross)
        Weights with which the background will be summed.

    Returns
    -------
    background : array of float64, (..., disp, cross)
        The polynomial at every pixel; 0 where the fit is singular.
    weights : tuple of array of float64, (..., disp, cross)
        Linear weights of `data` in ``sum(aperture * background)``, for each aperture.
    """
    xp = array_namespace(data, used, basis, *apertures)
    mask = used.astype(data.dtype)
    n, p = basis.shape
    products = (basis[:, :, None] * basis[:, None, :]).reshape(n, p * p)
    inverse = invert_normal_matrix((mask @ products).reshape(*mask.shape[:-1], p, p))
    vector = xp.where(used, data, xp.zeros_like(data)) @ basis
    coefficients = xp.einsum("...pq,...q->...p", inverse, vector)
    background = coefficients @ basis.T

    def weights(aperture: Array) -> Array:
        leverage = xp.einsum("...p,...pq->...q", aperture @ basis, inverse)
        return mask * (leverage @ basis.T)

    return background, tuple(weights(aperture) for aperture in apertures)


def _middle_indices(data: np.ndarray, used: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices along the last axis of the two middle values among the used ones."""
    order = np.argsort(np.where(used, data, np.inf), axis=-1, kind="stable")
    n = used.sum(axis=-1, keepdims=True)
    low = np.take_along_axis(order, np.maximum(n - 1, 0) // 2, axis=-1)
    high = np.take_along_axis(order, np.minimum(n // 2, data.shape[-1] - 1), axis=-1)
    return low.astype(np.int32), high.astype(np.int32)


def median_across(data: Array, used: Array) -> tuple[Array, Array]:
    """Median across the trace of the used pixels.

    The sorting is done by NumPy, in a JAX trace too (as a callback); the values are gathered by
    index, so the gradient is that of the median: half for each of the two middle pixels.

    Parameters
    ----------
    data : array of float64, (..., disp, cross)
    used : array of bool, (..., disp, cross)

    Returns
    -------
    median : array of float64, (..., disp, 1)
        0 where nothing is used.
    defined : array of bool, (..., disp, 1)
    """
    xp = array_namespace(data, used)
    if is_jax(data) or is_jax(used):
        import jax

        shape = jax.ShapeDtypeStruct((*data.shape[:-1], 1), np.int32)
        low, high = jax.pure_callback(
            lambda d, u: _middle_indices(np.asarray(d), np.asarray(u)),
            (shape, shape),
            jax.lax.stop_gradient(data),
            used,
            vmap_method="broadcast_all",
        )
    else:
        low, high = _middle_indices(data, used)
    middle = 0.5 * (
        xp.take_along_axis(data, low, axis=-1) + xp.take_along_axis(data, high, axis=-1)
    )
    defined = xp.any(used, axis=-1, keepdims=True)
    return xp.where(defined, middle, xp.zeros_like(middle)), defined

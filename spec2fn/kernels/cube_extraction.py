"""Sums over apertures in the planes of a spectral cube.

Every plane has its own circular aperture and annulus; all planes are handled at once. Given which
spaxels are usable and which the clipping keeps, the spectrum is a linear function of the cube.
The algorithm is that of the JWST pipeline documentation (https://jwst-pipeline.readthedocs.io,
"Extraction for 3D IFU data").
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from spec2fn.kernels.namespace import array_namespace, positive_root, safe_divide
from spec2fn.typing import Array

__all__ = ["CubeSums", "Spaxels", "clipping_limits", "extract_aperture", "extract_whole"]


class Spaxels(NamedTuple):
    """A cube, each array (…, wave, y, x), zero where it holds no data.

    Attributes
    ----------
    data : array
    variances : tuple of array
        Components of the variance.
    cover : array
        Fraction of a spaxel that holds data, from 0 to 1.
    joint : array, optional
        Sum of the covariances with the other spaxels of the plane; by default there are none.
    kernel : array, (wave, lag_y, lag_x), optional
        Share of these with the spaxel so many rows and columns away.
    """

    data: Array
    variances: tuple[Array, ...]
    cover: Array
    joint: Array | None = None
    kernel: Array | None = None


class CubeSums(NamedTuple):
    """Sums of one cube by plane, each (…, wave), in data units times spaxels.

    Attributes
    ----------
    flux : array
        Sum over the aperture, less the background scaled to its area.
    background : array
        Sum over the annulus (or, of an extended source, the aperture) without clipped spaxels.
    npixels, npixels_background : array
        Areas covered by data.
    variances, background_variances : tuple of array
        Sums of the variances of single spaxels, as if a spaxel that is covered by half had half
        the variance; those of `flux` contain those of the background.
    variance_cov : array
        Variance of `flux` as the linear function of spaxels that it is.
    empty : bool array
        No data in the aperture.
    """

    flux: Array
    background: Array
    npixels: Array
    npixels_background: Array
    variances: tuple[Array, ...]
    background_variances: tuple[Array, ...]
    variance_cov: Array
    empty: Array


def clipping_limits(
    values: Array, valid: Array, sigma: float, maxiters: int = 5
) -> tuple[Array, Array]:
    """Limits about the clipped mean of every plane, outside of which values are outliers.

    Values farther than `sigma` population standard deviations from the median of those that
    remain are left out, up to `maxiters` times; the limits are the mean of what remains and
    `sigma` of its standard deviations on either side. Values that were left out and lie within
    the last limits count again.

    Parameters
    ----------
    values : array, (…, n)
        Finite where `valid`.
    valid : bool array, (…, n)
    sigma : float
    maxiters : int

    Returns
    -------
    low, high : array of float64, (…)
        Minus and plus infinity for a plane without a valid value.
    """
    xp = array_namespace(values, valid)
    if xp is not np:  # limits decide, they do not vary
        import jax

        values = jax.lax.stop_gradient(values)
    n = values.shape[-1]
    infinity = xp.asarray(np.inf, dtype=values.dtype)
    # sorted, what remains is always a contiguous run [first, last)
    ordered = xp.sort(xp.where(valid, values, infinity), axis=-1)
    last = xp.sum(valid, axis=-1)
    first = xp.zeros_like(last)
    occupied = last > 0
    shift = _pick(ordered, xp.maximum(last - 1, 0) // 2)[..., None]
    shift = xp.where(occupied[..., None], shift, xp.zeros_like(shift))
    within = np.arange(n) < last[..., None]
    x = xp.where(within, ordered, shift).astype(np.float64)
    shift = shift.astype(np.float64)
    x = x - shift
    sums, squares = xp.cumsum(x, axis=-1), xp.cumsum(x * x, axis=-1)

    def moments(a: Array, b: Array) -> tuple[Array, Array]:
        count = xp.maximum(b - a, 1).astype(np.float64)
        mean = (_before(sums, b) - _before(sums, a)) / count
        variance = (_before(squares, b) - _before(squares, a)) / count - mean * mean
        return mean, xp.sqrt(xp.maximum(variance, 0.0))

    total = last
    for _ in range(maxiters):
        _, deviation = moments(first, last)
        lower, upper = xp.maximum(first + last - 1, 0) // 2, xp.maximum(first + last, 1) // 2
        median = 0.5 * (_pick(x, lower) + _pick(x, xp.minimum(upper, n - 1)))
        reach = sigma * deviation
        above = _rank(x, total, median - reach, strict=True)
        below = _rank(x, total, median + reach, strict=False)
        # the middle itself is never clipped, but rounding could lose a lone value
        some = below > above
        lowest, highest = xp.where(some, above, first), xp.where(some, below, last)
        first, last = xp.maximum(first, lowest), xp.minimum(last, highest)
    if maxiters > 0:
        # the last limits hold for all values, those that went before included
        first, last = lowest, highest
    mean, deviation = moments(first, last)
    middle = mean + shift[..., 0]
    endless = xp.full_like(middle, np.inf)
    return (
        xp.where(occupied, middle - sigma * deviation, -endless),
        xp.where(occupied, middle + sigma * deviation, endless),
    )


def _pick(array: Array, index: Array) -> Array:
    xp = array_namespace(array, index)
    return xp.take_along_axis(array, index[..., None], axis=-1)[..., 0]


def _before(cumulative: Array, index: Array) -> Array:
    """Sum of the elements before an index."""
    xp = array_namespace(cumulative, index)
    return xp.where(index > 0, _pick(cumulative, xp.maximum(index - 1, 0)), 0.0)


def _rank(ordered: Array, count: Array, limit: Array, *, strict: bool) -> Array:
    """How many of the first `count` are below (`strict`) or not above the limit."""
    xp = array_namespace(ordered, limit)
    n = ordered.shape[-1]
    if xp is not np:  # counting compiles much faster than it would take to bisect
        within = np.arange(n) < count[..., None]
        edge = limit[..., None]
        return xp.sum(within & (ordered < edge if strict else ordered <= edge), axis=-1)
    low, high = xp.zeros_like(count), count
    for _ in range(int(n).bit_length()):
        middle = (low + high) // 2
        value = _pick(ordered, xp.minimum(middle, n - 1))
        below = (value < limit if strict else value <= limit) & (middle < high)
        low, high = xp.where(below, middle + 1, low), xp.where(below, high, middle)
    return low


def _total(weights: Array, values: Array) -> Array:
    xp = array_namespace(weights, values)
    return xp.sum(weights * values, axis=(-2, -1))


def extract_aperture(
    spaxels: Spaxels,
    aperture: Array,
    *,
    annulus: Array | None = None,
    kept: Array | None = None,
    areas: tuple[Array, Array],
) -> CubeSums:
    """Sum over the aperture of a point source in every plane, and subtract the annulus.

    Parameters
    ----------
    spaxels : Spaxels
    aperture, annulus : array of float64, (wave, y, x)
        Overlaps; without an annulus nothing is subtracted.
    kept : bool array, (…, wave, y, x), optional
        Spaxels that the clipping of the background keeps.
    areas : tuple of array, (wave,)
        Nominal areas of aperture and annulus, used where no spaxel holds data.
    """
    data, variances, cover, joint, kernel = spaxels
    xp = array_namespace(data, aperture)
    own = _total(aperture, cover)
    empty = own == 0
    npixels = xp.where(empty, areas[0], own)
    flux = _total(aperture, data)
    sums = tuple(_total(aperture, v) for v in variances)
    if annulus is None:
        zero = xp.zeros_like(flux)
        operator = aperture
        background, area, below = zero, zero, tuple(zero for _ in variances)
    else:
        area = _total(annulus, cover)
        area = xp.where(area == 0, areas[1], area)
        scale = safe_divide(npixels, area, area > 0, fill=0.0)
        clipped = annulus if kept is None else xp.where(kept, annulus, xp.zeros_like(annulus))
        background = _total(clipped, data)
        below = tuple(_total(annulus, v) for v in variances)
        flux = flux - scale * background
        sums = tuple(s + scale * scale * b for s, b in zip(sums, below, strict=True))
        operator = aperture - scale[..., None, None] * clipped
    exact = _total(operator * operator, sum(variances))
    if joint is not None and kernel is not None:
        # times the mean weight of the neighbours, by their noise
        sigma = positive_root(sum(variances))
        near, share = _around(operator * sigma, kernel), _around(sigma, kernel)
        exact = exact + _total(operator * joint, safe_divide(near, share, share > 0, fill=0.0))
    return CubeSums(flux, background, npixels, area, sums, below, exact, empty)


def _around(values: Array, kernel: Array) -> Array:
    """Sums over the neighbours of each spaxel, with the shares of these."""
    reach = [(n // 2, n // 2) for n in kernel.shape[-2:]]
    ny, nx = values.shape[-2:]
    padded = array_namespace(values).pad(values, [(0, 0)] * (values.ndim - 2) + reach)
    lags = np.ndindex(*kernel.shape[-2:])
    return sum(kernel[..., j, i, None, None] * padded[..., j : j + ny, i : i + nx] for j, i in lags)


def extract_whole(spaxels: Spaxels, kept: Array) -> CubeSums:
    """Sum over all spaxels of every plane, for an extended source; nothing is subtracted.

    The background is the same sum without the spaxels that the clipping rejects (not `kept`).
    """
    data, variances, cover, joint, _ = spaxels
    xp = array_namespace(data, cover)

    def total(value: Array, where: Array | bool = True) -> Array:
        return xp.sum(value, axis=(-2, -1), dtype=np.float64, where=where)

    own = total(cover)
    empty = own == 0
    return CubeSums(
        total(data),
        total(data, kept),
        xp.where(empty, float(data.shape[-2] * data.shape[-1]), own),
        total(cover, kept),
        tuple(total(v) for v in variances),
        tuple(total(v, kept) for v in variances),
        total(sum(variances, start=0.0 if joint is None else joint)),
        empty,
    )

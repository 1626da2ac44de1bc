"""Cubes of an integral-field unit as weighted means over detector pixels.

One :class:`CubeOperator` (from :mod:`spec2fn.host.cube_overlap`) serves data, variances, the number
of pixels that contribute, and the way back. With NumPy the sums are sparse matrix products, with
JAX sorted segment sums.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType

import numpy as np

from spec2fn.kernels.namespace import array_namespace, safe_divide
from spec2fn.kernels.sums import as_rows, sum_by
from spec2fn.plan_base import Plan, array
from spec2fn.threads import in_threads
from spec2fn.typing import Array, Number

__all__ = [
    "CubeOperator",
    "apply",
    "apply_adjoint",
    "by_plane",
    "combine",
    "covariance",
    "low_coverage",
    "to_cube",
]

# planes are low if less of them is covered than this share of the quantile of those with data
_TOO_LITTLE, _MEASURE = 0.75, 0.03


class CubeOperator(Plan):
    """Sparse operator from detector pixels to voxels, entries sorted by voxel.

    A pixel contributes to the planes ``d = 0, 1, …`` after its first. Element ``(voxel, pixel)``
    of the operator, for the voxel ``rows[r] + d * ny * nx`` and entry ``e`` of row ``r``, is
    ``spatial[e] * spectral[d, cols[e]]``, or, with `power` > 0,
    ``1 / max((spatial[e] + spectral[d, cols[e]]) ** (power / 2), softening)``. A negative
    `spectral` means that the pixel does not reach the plane.

    Attributes
    ----------
    pixels : (p,) int32
        Flat index of each pixel that contributes, in the order of its first plane. In cubes along
        the slicer a pixel is listed once for every plane.
    first : (p,) int32
        First plane of each pixel.
    rows : (m,) int32
        Flat index of the voxels in which entries start, ascending.
    starts : (m + 1,) int32
        First entry of each row, and the number of entries.
    cols : (n,) int32
        Position in `pixels` of each entry.
    spatial : (n,) float32
        Share of the spaxel, weight, or squared distance [spaxels^2].
    spectral : (d, p) float32
        Share of the plane [um], weight, or squared distance [planes^2]; -1 outside.
    voxels : (v,) int32
        Flat index of all voxels that may be reached, ascending.
    position : (d, m) int32
        Where in `voxels` the voxel of each row is, in the planes after its first; v beyond the
        last plane.
    shape : tuple of int
        (wave, y, x) of the cube.
    power, softening : (p,) float32, optional
        Of the modified Shepard weights.
    """

    pixels: Array = array("pixel")
    first: Array = array("pixel")
    rows: Array = array("row")
    starts: Array = array("_")
    cols: Array = array("entry")
    spatial: Array = array("entry")
    spectral: Array = array("plane pixel")
    voxels: Array = array("voxel")
    position: Array = array("plane row")
    shape: tuple[int, int, int]
    power: Array | None = array("pixel", default=None)
    softening: Array | None = array("pixel", default=None)

    @property
    def n_out(self) -> int:
        """Number of voxels."""
        return self.shape[0] * self.shape[1] * self.shape[2]

    @property
    def plane(self) -> int:
        """Number of spaxels in a plane."""
        return self.shape[1] * self.shape[2]


def _spectral(op: CubeOperator, d: int, power: int, xp: ModuleType) -> Array:
    """Factor of each pixel in the plane `d` planes after its first, to a power (0: reached)."""
    part = xp.asarray(op.spectral[d])
    zero, one = (xp.asarray(v, dtype=part.dtype) for v in (0, 1))
    if op.power is not None or power == 0:
        return xp.where(part >= 0, one, zero)
    return xp.maximum(part, zero) ** power


def _entries(op: CubeOperator, d: int, power: int, xp: ModuleType) -> Array:
    """Factor of each entry in that plane, to a power."""
    spatial = xp.asarray(op.spatial)
    if power == 0:
        return xp.ones_like(spatial)
    if op.power is None:
        return spatial**power
    # the square of the distance from the pixel to the centre of the voxel
    away = spatial + xp.maximum(xp.asarray(op.spectral[d])[op.cols], 0)
    half = xp.asarray(op.power) / 2
    # the usual power is that of the square itself
    if xp is not np or (half != 1).any():
        away = away ** half[op.cols]
    return xp.maximum(away, xp.asarray(op.softening)[op.cols]) ** (-power)


def _row_of_entry(op: CubeOperator, xp: ModuleType) -> Array:
    starts = xp.asarray(op.starts)
    rows = xp.arange(op.rows.shape[0])
    if xp is np:
        return np.repeat(rows, np.diff(starts))
    return xp.repeat(rows, xp.diff(starts), total_repeat_length=op.cols.shape[0])


def _matrix(op: CubeOperator, entries: Array) -> Array:
    from scipy.sparse import csr_array

    # the index arrays are those of the plan, which is read-only: nothing is copied
    return csr_array(
        (entries, np.asarray(op.cols), np.asarray(op.starts)),
        shape=(op.rows.shape[0], op.pixels.shape[0]),
    )


def apply(op: CubeOperator, values: Array, power: int = 1) -> Array:
    """Return weighted sums of pixels, ``out[voxel] = sum(weight**power * value)``.

    Only for the voxels that any pixel reaches, ``op.voxels``; :func:`to_cube` makes a cube of it.

    Parameters
    ----------
    op : CubeOperator
    values : (..., p) float
        Of the pixels ``op.pixels``; finite.
    power : int
        1 for data, 2 for variances, 0 to count what contributes.

    Returns
    -------
    (..., v) float
    """
    return _sums(op, [values] * op.spectral.shape[0], power)


def _sums(op: CubeOperator, by_depth: Sequence[Array], power: int = 1) -> Array:
    """Weighted sums by voxel, of values that pixels have in their first plane and those after."""
    xp, values = array_namespace(*by_depth), by_depth[0]
    # what lies beyond the last plane is collected behind the others
    out = xp.zeros((*values.shape[:-1], op.voxels.shape[0] + 1), dtype=values.dtype)
    if xp is np:
        flat = as_rows(out)
        matrix = None
        for d, one_plane in enumerate(by_depth):
            if matrix is None or op.power is not None:
                matrix = _matrix(op, _entries(op, d, power, np).astype(values.dtype, copy=False))
            factor = _spectral(op, d, power, np)
            for target, one in zip(flat, as_rows(one_plane), strict=True):
                target[op.position[d]] += matrix @ (factor * one)
        return out[..., :-1]
    of_entry = _row_of_entry(op, xp)
    for d, one_plane in enumerate(by_depth):
        weight = _entries(op, d, power, xp) * _spectral(op, d, power, xp)[op.cols]
        parts = weight.astype(values.dtype) * one_plane[..., op.cols]
        summed = sum_by(parts, of_entry, op.rows.shape[0], ascending=True)
        out = out.at[..., xp.asarray(op.position[d])].add(summed, indices_are_sorted=True)
    return out[..., :-1]


def to_cube(op: CubeOperator, values: Array, fill: Number = 0) -> Array:
    """Put values of the voxels ``op.voxels`` (..., v) into a cube (..., wave, y, x)."""
    xp = array_namespace(values)
    lead = values.shape[:-1]
    out = xp.full((*lead, op.n_out), xp.asarray(fill, dtype=values.dtype))
    if xp is np:
        out[..., op.voxels] = values
    else:
        out = out.at[..., xp.asarray(op.voxels)].set(values)
    return out.reshape(*lead, *op.shape)


def apply_adjoint(op: CubeOperator, values: Array, power: int = 1) -> Array:
    """Return the adjoint of :func:`apply`: ``out[pixel] = sum(weight**power * value[voxel])``.

    Takes values (..., v) of the voxels ``op.voxels``, and gives those of the pixels (..., p).
    """
    xp = array_namespace(values)
    none = xp.zeros((*values.shape[:-1], op.pixels.shape[0]), dtype=values.dtype)
    depth = op.spectral.shape[0]
    return sum((_from_planes(op, values, d, power) for d in range(depth)), start=none)


def _from_planes(op: CubeOperator, values: Array, d: int, power: int = 1) -> Array:
    """Weighted sums, by pixel, of the voxels in the plane `d` planes after the pixel's first."""
    xp = array_namespace(values)
    entries = _entries(op, d, power, xp).astype(values.dtype)
    factor = _spectral(op, d, power, xp).astype(values.dtype)
    beyond = xp.zeros((*values.shape[:-1], 1), dtype=values.dtype)
    picked = xp.concatenate([values, beyond], axis=-1)[..., xp.asarray(op.position[d])]
    if xp is np:
        summed = (_matrix(op, entries).T @ as_rows(picked).T).T
        return factor * summed.reshape(*values.shape[:-1], op.pixels.shape[0])
    shares = entries * picked[..., _row_of_entry(op, xp)]
    return factor * sum_by(shares, op.cols, op.pixels.shape[0])


def combine(op: CubeOperator, sci: Array, err: Array, good: Array) -> dict[str, Array]:
    """Return the weighted means of good pixels, their error, and their number.

    Parameters
    ----------
    op : CubeOperator
    sci, err : (..., p) float32
        Values and standard errors of the pixels ``op.pixels``.
    good : (..., p) bool
        Pixels to be used; the others may hold anything.

    Returns
    -------
    dict
        ``weight``, ``sci``, ``var``, ``covariance_sum`` (with the other voxels of the plane) and
        ``wmap``, each (..., v) float32, for the voxels ``op.voxels``. Means and variances are 0
        where no pixel contributes.
    """
    xp = array_namespace(sci, err)
    zero, one = (xp.asarray(v, dtype=sci.dtype) for v in (0, 1))
    used = good.astype(sci.dtype)
    variance = xp.where(good, err, zero) ** 2
    weight = apply(op, used)
    safe = xp.where(weight > 0, weight, one)
    share = xp.where(weight > 0, one / safe, zero)
    depth = range(op.spectral.shape[0])
    sums: list[Callable[[], Array]] = [
        # covariance of pixels with the sum of each plane that they reach, by voxel
        lambda: _sums(op, [variance * _from_planes(op, share, d) for d in depth]),
        lambda: apply(op, xp.where(good, sci, zero)),
        lambda: apply(op, variance, 2),
        lambda: apply(op, used, 0),
    ]
    together = in_threads if xp is np else map
    shared, flux, noise, number = together(lambda s: s(), sums)
    var = noise / (safe * safe)
    return {
        "weight": weight,
        "sci": flux / safe,
        "var": var,
        "covariance_sum": xp.maximum(shared * share - var, zero),
        "wmap": number,
    }


def by_plane(op: CubeOperator, values: Array) -> Array:
    """Return the sums of the planes (..., wave) of values (..., v) of the voxels ``op.voxels``."""
    xp = array_namespace(values)
    if xp is np:
        edges = np.searchsorted(op.voxels, np.arange(op.shape[0] + 1) * op.plane)
        total = np.zeros((*values.shape[:-1], values.shape[-1] + 1))
        np.cumsum(values, axis=-1, out=total[..., 1:])
        return np.diff(total[..., edges], axis=-1).astype(np.float32)
    plane = xp.asarray(op.voxels) // op.plane
    return sum_by(values.astype("float32"), plane, op.shape[0], ascending=True)


def low_coverage(covered: Array) -> Array:
    """Return planes (..., w) of which much less is covered than of the others.

    Parameters
    ----------
    covered : (..., w) integer or float
        Number of voxels with data in each plane; planes without any are no measure, and not low.
    """
    xp = array_namespace(covered)
    counts = covered.astype("float32")
    ordered = xp.sort(counts, axis=-1)
    empty = (counts == 0).astype(counts.dtype).sum(axis=-1, keepdims=True)
    last = counts.shape[-1] - 1
    position = empty + (last - empty) * _MEASURE
    below = xp.floor(position)
    low = xp.clip(below.astype(int), 0, last)
    fraction = (position - below).astype(counts.dtype)
    first, second = (xp.take_along_axis(ordered, i, -1) for i in (low, xp.minimum(low + 1, last)))
    limit = first + fraction * (second - first)
    return (counts > 0) & (counts < _TOO_LITTLE * limit)


def covariance(
    op: CubeOperator,
    pairs: CubeOperator,
    weight: Array,
    variance: Array,
    offset: tuple[int, int, int],
) -> Array:
    """Return the covariance of each voxel with the one `offset` further.

    Parameters
    ----------
    op : CubeOperator
        Of which the weights are products (`power` is None).
    pairs : CubeOperator
        The same for pairs of spaxels that far apart
        (:func:`spec2fn.host.cube_overlap.paired`).
    weight : (..., v) float
        Sum of the weights of each voxel of ``op.voxels``.
    variance : (..., p) float
        Of the pixels used, 0 for the others.
    offset : tuple of int
        (planes, rows, columns), each at least 0.

    Returns
    -------
    (..., wave, y, x) float
        0 where the two share no pixel.
    """
    xp = array_namespace(weight, variance)
    shared = to_cube(pairs, apply(pairs, variance))
    whole = to_cube(op, weight)
    ahead = offset[0] * op.plane + offset[1] * op.shape[2] + offset[2]
    flat = whole.reshape(*whole.shape[:-3], op.n_out)
    there = xp.concatenate([flat[..., ahead:], xp.zeros_like(flat[..., :ahead])], axis=-1)
    product = whole * there.reshape(whole.shape)
    return safe_divide(shared, product, product > 0, fill=0.0)

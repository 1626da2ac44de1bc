"""Drizzle as a linear operator: weighted means over overlapping pixels, and their covariance.

Data have their pixels flattened into the last axis; leading axes (integrations) are carried along.
"""

from __future__ import annotations

import functools
import math

import numpy as np

from spec2fn.kernels.namespace import (
    array_namespace,
    is_jax,
    positive_root,
    safe_divide,
    usable,
)
from spec2fn.kernels.sums import sum_by
from spec2fn.plan_base import Plan, array, labels
from spec2fn.typing import Array, HostArray

__all__ = [
    "Overlap",
    "Pairs",
    "apply",
    "apply_adjoint",
    "coefficients",
    "drizzle_weight",
    "pair_covariance",
    "propagate_flags",
    "resample_variance",
]


class Overlap(Plan):
    """Sparse operator from input to output pixels, entries sorted by output pixel.

    The images of several slits stand on top of each other.

    Attributes
    ----------
    rows, cols : (n,) int32
        Flat index of the output pixel and of the input pixel (within its cutout) of each entry.
    area : (n,) float64
        Fraction of the (shrunken) input pixel that falls on the output pixel.
    shape_in, shape_out : tuple of int
        (y, x) of the input cutout and of the output image, of one slit.
    by_slit : tuple of int
        Number of entries of each slit.
    """

    rows: Array = array("(slit entry) -> shape_out")
    cols: Array = array("(slit entry) -> shape_in")
    area: Array = array("(slit entry)", padding=0.0)
    shape_in: tuple[int, int]
    shape_out: tuple[int, int]
    by_slit: tuple[int, ...] = labels("slit -> (slit entry)")

    @property
    def n_in(self) -> int:
        """Number of input pixels, of all slits."""
        return len(self.by_slit) * math.prod(self.shape_in)

    @property
    def n_out(self) -> int:
        """Number of output pixels, of all slits."""
        return len(self.by_slit) * math.prod(self.shape_out)

    @functools.cached_property
    def runs(self) -> tuple[HostArray, HostArray]:
        """First entry of each output pixel that has any, and these pixels."""
        return _runs(self.rows)


class Pairs(Plan):
    """Pairs of entries of an :class:`Overlap` that share their input pixel.

    Attributes
    ----------
    first, second : (n,) int32
        Indices of the two entries; the second lies ``lag`` output pixels further.
    slots : (n,) int32
        ``(lag - 1) * n_out + row`` of the first entry, ascending.
    lags : int
        Largest lag (at least 1).
    shape_out : tuple of int
        (y, x) of the output image of one slit.
    by_slit : tuple of tuple of int
        Number of pairs of each slit, by lag.
    """

    first: Array = array("(slit pair) -> (slit entry)")
    second: Array = array("(slit pair) -> (slit entry)")
    slots: Array = array("(slit pair) -> shape_out")
    lags: int
    shape_out: tuple[int, int]
    by_slit: tuple[tuple[int, ...], ...] = labels("slit -> (slit pair)")

    @functools.cached_property
    def runs(self) -> tuple[HostArray, HostArray]:
        """First pair of each slot that has any, and these slots."""
        return _runs(self.slots)


def _runs(ascending: HostArray) -> tuple[HostArray, HostArray]:
    starts = np.flatnonzero(np.diff(ascending, prepend=-1))
    return starts, ascending[starts]


def _by_run(
    function: np.ufunc, values: HostArray, runs: tuple[HostArray, HostArray], size: int
) -> HostArray:
    """Reduce the values (..., n) of each run to one number (..., size); 0 where there is none."""
    starts, occupied = runs
    out = np.zeros((*values.shape[:-1], size), dtype=values.dtype)
    if values.shape[-1]:
        out[..., occupied] = function.reduceat(values, starts, axis=-1)
    return out


def drizzle_weight(
    dq: Array,
    planes: tuple[Array, ...],
    *,
    weight_type: str | None = "ivm",
    var_rnoise: Array | None = None,
    exposure_time: Array | None = None,
) -> Array:
    """Return the weight of each input pixel.

    Parameters
    ----------
    dq : (...) uint32
        Data quality; pixels with a flag of :data:`spec2fn.dq.UNUSABLE` weigh nothing.
    planes : tuple of (...) float32
        Data, errors and variances; a pixel that is not finite in any of them weighs nothing.
    weight_type : {"ivm", "exptime", None}
        Inverse variance of the read noise, exposure time, or 1.
    var_rnoise : (...) float32, optional
        Variance of the read noise; without it "ivm" weighs all pixels alike.
    exposure_time : scalar, optional
        Exposure time [s] for "exptime".

    Returns
    -------
    (...) float32
        Weights in the dtype of the first plane; 0 where the variance is 0, so that the weight
        would not be finite.
    """
    xp = array_namespace(dq, *planes)
    dtype = planes[0].dtype
    good = usable(dq, *planes)
    one = xp.ones((), dtype=dtype)
    zero = xp.zeros((), dtype=dtype)
    if weight_type == "ivm" and var_rnoise is not None:
        # reciprocals beyond the largest float would turn into infinite weights
        known = good & (var_rnoise > xp.asarray(1 / np.finfo(dtype).max, dtype=dtype))
        if xp is np:
            return safe_divide(one, var_rnoise, known, fill=0.0)
        # the derivative of 1 / x is beyond the largest float for variances in MJy2; that of the
        # square of 1 / sqrt(x) takes its factors one by one
        root = safe_divide(one, xp.sqrt(xp.where(known, var_rnoise, one)), known, fill=0.0)
        return root * root
    if weight_type == "exptime":
        return xp.where(good, xp.asarray(exposure_time).astype(dtype), zero)
    return xp.where(good, one, zero)


def coefficients(overlap: Overlap, weight: Array) -> tuple[Array, Array]:
    """Return the normalised coefficient of each overlap and the total weight.

    Parameters
    ----------
    overlap : Overlap
    weight : (..., n_in) float
        Weight of the input pixels.

    Returns
    -------
    coefficient : (..., n) float
        ``a w / sum(a w)``: they add up to 1 over the entries of a sampled output pixel.
    total : (..., n_out) float
        ``sum(a w)``, the drizzle weight (eq. 4 of Fruchter & Hook 2002).
    """
    xp = array_namespace(weight, overlap.area)
    weighted = xp.asarray(overlap.area).astype(weight.dtype) * weight[..., overlap.cols]
    total = _to_output(overlap, weighted)
    gathered = total[..., overlap.rows]
    positive = gathered > 0
    if xp is not np:
        # for the derivative, which holds the square of the denominator: nothing else changes by
        # powers of two
        import jax

        _, exponent = xp.frexp(jax.lax.stop_gradient(xp.where(positive, gathered, 1)))
        size = xp.ldexp(xp.ones((), weight.dtype), -xp.clip(exponent, -125, 125))
        weighted, gathered = weighted * size, gathered * size
    return safe_divide(weighted, gathered, positive, fill=0.0), total


def _to_output(overlap: Overlap, values: Array) -> Array:
    if is_jax(values):
        return sum_by(values, overlap.rows, overlap.n_out, ascending=True)
    return _by_run(np.add, values, overlap.runs, overlap.n_out)


def apply(overlap: Overlap, coefficient: Array, data: Array) -> Array:
    """Return the resampled data, ``out[row] = sum(coefficient * data[col])``.

    Parameters
    ----------
    overlap : Overlap
    coefficient : (..., n) float
        From :func:`coefficients`.
    data : (..., n_in) float
        Finite wherever a coefficient is not zero; NaN elsewhere does not spread.

    Returns
    -------
    (..., n_out) float
        0 where no input pixel contributes.
    """
    xp = array_namespace(coefficient, data)
    gathered = data[..., overlap.cols]
    gathered = xp.where(coefficient != 0, gathered, xp.zeros((), dtype=data.dtype))
    return _to_output(overlap, coefficient * gathered)


def apply_adjoint(overlap: Overlap, coefficient: Array, image: Array) -> Array:
    """Return the adjoint of :func:`apply`, ``out[col] = sum(coefficient * image[row])``.

    Takes an output image (..., n_out), and gives (..., n_in).
    """
    return sum_by(coefficient * image[..., overlap.rows], overlap.cols, overlap.n_in)


def resample_variance(overlap: Overlap, coefficient: Array, variance: Array) -> Array:
    """Return the variance plane of a JWST ``_s2d`` product.

    The square of the resampled standard deviation: correct for errors that neighbours share
    fully, an upper limit for independent ones (for these see :func:`pair_covariance`). Arguments
    and result are those of :func:`apply`.
    """
    return apply(overlap, coefficient, positive_root(variance)) ** 2


def pair_covariance(overlap: Overlap, pairs: Pairs, coefficient: Array, variance: Array) -> Array:
    """Return covariances of output pixels, ``A diag(v) A^T``, for listed pairs of entries.

    Parameters
    ----------
    overlap : Overlap
    pairs : Pairs
        Entries that share an input pixel.
    coefficient : (..., n) float
    variance : (..., n_in) float
        Variance of the input pixels, taken as independent.

    Returns
    -------
    (..., pairs.lags * overlap.n_out) float
    """
    xp = array_namespace(coefficient, variance)
    product = coefficient[..., pairs.first] * coefficient[..., pairs.second]
    shared = variance[..., overlap.cols[pairs.first]]
    shared = xp.where(product != 0, shared, xp.zeros((), dtype=variance.dtype))
    size = pairs.lags * overlap.n_out
    if is_jax(product):
        return sum_by(product * shared, pairs.slots, size, ascending=True)
    return _by_run(np.add, product * shared, pairs.runs, size)


def propagate_flags(overlap: Overlap, coefficient: Array, dq: Array) -> Array:
    """Return the bitwise OR of the flags of all input pixels that contribute.

    Parameters
    ----------
    overlap, coefficient
        See :func:`apply`.
    dq : (..., n_in) uint32
    """
    xp = array_namespace(dq, coefficient)
    size = overlap.n_out
    gathered = xp.where(coefficient != 0, dq[..., overlap.cols], xp.zeros((), dtype=dq.dtype))
    if not is_jax(gathered):
        return _by_run(np.bitwise_or, gathered, overlap.runs, size)
    import jax

    moved = xp.moveaxis(gathered, -1, 0)
    out = xp.zeros((size, *moved.shape[1:]), dtype=dq.dtype)
    for bit in range(32):
        mask = xp.asarray(1 << bit, dtype=dq.dtype)
        found = jax.ops.segment_max(moved & mask, overlap.rows, size, indices_are_sorted=True)
        out = out | found
    return xp.moveaxis(out, 0, -1)

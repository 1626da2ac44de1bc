"""Drizzle as a linear operator: weighted means over overlapping pixels, and their covariance.

Data have their pixels flattened into the last axis; leading axes (integrations) are carried along.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from spec2fn.kernels.namespace import array_namespace, is_jax, safe_divide

__all__ = [
    "Operator",
    "PairList",
    "apply",
    "apply_adjoint",
    "coefficients",
    "drizzle_weight",
    "common_error",
    "pair_covariance",
    "propagate_flags",
    "resample_variance",
    "segment_sum",
]


class Operator(Protocol):
    """Sparse overlap of input and output pixels (:class:`spec2fn.host.drizzle.Overlap`).

    Entries are sorted by output pixel: ``rows``, ``cols`` and ``area`` (n,) hold output pixel,
    input pixel, and the fraction of the input pixel on the output pixel; ``starts`` and
    ``occupied`` (m,) the first entry of each output pixel that has any, and those pixels.
    """

    @property
    def rows(self) -> Any:
        """Output pixel of each entry."""

    @property
    def cols(self) -> Any:
        """Input pixel of each entry."""

    @property
    def area(self) -> Any:
        """Fraction of the input pixel on the output pixel."""

    @property
    def starts(self) -> Any:
        """First entry of each occupied output pixel."""

    @property
    def occupied(self) -> Any:
        """Output pixels with entries."""

    @property
    def n_in(self) -> int:
        """Number of input pixels."""

    @property
    def n_out(self) -> int:
        """Number of output pixels."""


class PairList(Protocol):
    """Pairs of entries that share an input pixel (:class:`spec2fn.host.drizzle.Pairs`).

    ``first`` and ``second`` (p,) are entries of an :class:`Operator`; the product of the two is
    added to the slot in ``slots`` (p,), ascending.
    """

    @property
    def first(self) -> Any:
        """One entry of each pair."""

    @property
    def second(self) -> Any:
        """The other entry."""

    @property
    def slots(self) -> Any:
        """Where the pair is added."""

    @property
    def starts(self) -> Any:
        """First pair of each occupied slot."""

    @property
    def occupied(self) -> Any:
        """Slots with pairs."""

    @property
    def size(self) -> int:
        """Number of slots."""


def segment_sum(values: Any, segments: Any, starts: Any, occupied: Any, size: int) -> Any:
    """Sum values of equal segment, for segments in ascending order.

    Parameters
    ----------
    values : (..., n) array
    segments : (n,) int
        Segment of each value, ascending.
    starts, occupied : (m,) int
        First value of each segment that has any, and those segments (used with NumPy).
    size : int
        Number of segments.

    Returns
    -------
    (..., size) array
        Sums in the dtype of `values`; 0 for empty segments.
    """
    if is_jax(values):
        import jax

        xp = array_namespace(values)
        moved = xp.moveaxis(values, -1, 0)
        summed = jax.ops.segment_sum(moved, segments, size, indices_are_sorted=True)
        return xp.moveaxis(summed, 0, -1)
    out = np.zeros((*values.shape[:-1], size), dtype=values.dtype)
    if values.shape[-1]:
        out[..., occupied] = np.add.reduceat(values, starts, axis=-1)
    return out


def drizzle_weight(
    dq: Any,
    planes: tuple[Any, ...],
    bad_bits: int,
    *,
    weight_type: str | None = "ivm",
    var_rnoise: Any = None,
    exposure_time: Any = None,
) -> Any:
    """Return the weight of each input pixel.

    Parameters
    ----------
    dq : (...) uint32
        Data quality; pixels with any of `bad_bits` weigh nothing.
    planes : tuple of (...) float32
        Data, errors and variances; a pixel that is not finite in any of them weighs nothing.
    bad_bits : int
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
    good = (dq & xp.asarray(bad_bits, dtype=dq.dtype)) == 0
    for plane in planes:
        good = good & xp.isfinite(plane)
    one = xp.ones((), dtype=dtype)
    zero = xp.zeros((), dtype=dtype)
    if weight_type == "ivm" and var_rnoise is not None:
        # reciprocals beyond the largest float would turn into infinite weights
        usable = good & (var_rnoise > xp.asarray(1 / np.finfo(dtype).max, dtype=dtype))
        if xp is np:
            return safe_divide(one, var_rnoise, usable, fill=0.0)
        # the derivative of 1 / x is beyond the largest float for variances in MJy2; that of the
        # square of 1 / sqrt(x) takes its factors one by one
        root = safe_divide(one, xp.sqrt(xp.where(usable, var_rnoise, one)), usable, fill=0.0)
        return root * root
    if weight_type == "exptime":
        return xp.where(good, xp.asarray(exposure_time).astype(dtype), zero)
    return xp.where(good, one, zero)


def coefficients(operator: Operator, weight: Any) -> tuple[Any, Any]:
    """Return the normalised coefficient of each overlap and the total weight.

    Parameters
    ----------
    operator : Operator
    weight : (..., n_in) float
        Weight of the input pixels.

    Returns
    -------
    coefficient : (..., n) float
        ``a w / sum(a w)``: they add up to 1 over the entries of a sampled output pixel.
    total : (..., n_out) float
        ``sum(a w)``, the drizzle weight (eq. 4 of Fruchter & Hook 2002).
    """
    xp = array_namespace(weight, operator.area)
    weighted = xp.asarray(operator.area).astype(weight.dtype) * weight[..., operator.cols]
    total = _to_output(operator, weighted)
    gathered = total[..., operator.rows]
    positive = gathered > 0
    if xp is not np:
        # for the derivative, which holds the square of the denominator: nothing else changes by
        # powers of two
        import jax

        _, exponent = xp.frexp(jax.lax.stop_gradient(xp.where(positive, gathered, 1)))
        size = xp.ldexp(xp.ones((), weight.dtype), -xp.clip(exponent, -125, 125))
        weighted, gathered = weighted * size, gathered * size
    return safe_divide(weighted, gathered, positive, fill=0.0), total


def _to_output(operator: Operator, values: Any) -> Any:
    return segment_sum(values, operator.rows, operator.starts, operator.occupied, operator.n_out)


def apply(operator: Operator, coefficient: Any, data: Any) -> Any:
    """Return the resampled data, ``out[row] = sum(coefficient * data[col])``.

    Parameters
    ----------
    operator : Operator
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
    gathered = data[..., operator.cols]
    gathered = xp.where(coefficient != 0, gathered, xp.zeros((), dtype=data.dtype))
    return _to_output(operator, coefficient * gathered)


def apply_adjoint(operator: Operator, coefficient: Any, image: Any) -> Any:
    """Return the adjoint of :func:`apply`, ``out[col] = sum(coefficient * image[row])``.

    Parameters
    ----------
    operator : Operator
    coefficient : (..., n) float
    image : (..., n_out) float
        Output image.

    Returns
    -------
    (..., n_in) float
    """
    cols, size = operator.cols, operator.n_in
    values = coefficient * image[..., operator.rows]
    if is_jax(values):
        import jax

        xp = array_namespace(values)
        summed = jax.ops.segment_sum(xp.moveaxis(values, -1, 0), cols, size)
        return xp.moveaxis(summed, 0, -1)
    flat = values.reshape(-1, values.shape[-1])
    out = np.stack([np.bincount(cols, weights=v, minlength=size) for v in flat])
    return out.reshape(*values.shape[:-1], size).astype(values.dtype)


def resample_variance(operator: Operator, coefficient: Any, variance: Any) -> Any:
    """Return the variance plane of a JWST ``_s2d`` product.

    The square of the resampled standard deviation: correct for errors that neighbours share
    fully, an upper limit for independent ones (for these see :func:`pair_covariance`).

    Parameters
    ----------
    operator, coefficient
        See :func:`apply`.
    variance : (..., n_in) float

    Returns
    -------
    (..., n_out) float
    """
    xp = array_namespace(variance, coefficient)
    positive = variance > 0
    zero = xp.zeros((), dtype=variance.dtype)
    sigma = xp.where(
        positive, xp.sqrt(xp.where(positive, variance, xp.ones((), dtype=variance.dtype))), zero
    )
    return apply(operator, coefficient, sigma) ** 2


def common_error(share: Any, variance: Any) -> Any:
    """Return the standard error that is a share of a variance; 0 where either is unknown."""
    xp = array_namespace(share, variance)
    part = share * variance
    positive = part > 0
    one = xp.ones((), dtype=part.dtype)
    return xp.where(positive, xp.sqrt(xp.where(positive, part, one)), xp.zeros((), part.dtype))


def pair_covariance(operator: Operator, pairs: PairList, coefficient: Any, variance: Any) -> Any:
    """Return covariances of output pixels, ``A diag(v) A^T``, for listed pairs of entries.

    Parameters
    ----------
    operator : Operator
    pairs : PairList
        Entries that share an input pixel.
    coefficient : (..., n) float
    variance : (..., n_in) float
        Variance of the input pixels, taken as independent.

    Returns
    -------
    (..., pairs.size) float
    """
    xp = array_namespace(coefficient, variance)
    product = coefficient[..., pairs.first] * coefficient[..., pairs.second]
    shared = variance[..., operator.cols[pairs.first]]
    shared = xp.where(product != 0, shared, xp.zeros((), dtype=variance.dtype))
    return segment_sum(product * shared, pairs.slots, pairs.starts, pairs.occupied, pairs.size)


def propagate_flags(operator: Operator, coefficient: Any, dq: Any) -> Any:
    """Return the bitwise OR of the flags of all input pixels that contribute.

    Parameters
    ----------
    operator, coefficient
        See :func:`apply`.
    dq : (..., n_in) uint32

    Returns
    -------
    (..., n_out) uint32
    """
    xp = array_namespace(dq, coefficient)
    size = operator.n_out
    gathered = xp.where(coefficient != 0, dq[..., operator.cols], xp.zeros((), dtype=dq.dtype))
    if not is_jax(gathered):
        out = np.zeros((*gathered.shape[:-1], size), dtype=dq.dtype)
        if gathered.shape[-1]:
            out[..., operator.occupied] = np.bitwise_or.reduceat(gathered, operator.starts, axis=-1)
        return out
    import jax

    moved = xp.moveaxis(gathered, -1, 0)
    out = xp.zeros((size, *moved.shape[1:]), dtype=dq.dtype)
    for bit in range(32):
        mask = xp.asarray(1 << bit, dtype=dq.dtype)
        found = jax.ops.segment_max(moved & mask, operator.rows, size, indices_are_sorted=True)
        out = out | found
    return xp.moveaxis(out, 0, -1)

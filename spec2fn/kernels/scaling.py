"""Scaling of pixels with their errors and flags: flat fields, aperture losses, flux factors.

All kernels take plain arrays whose last two axes are detector rows and columns; planes of the
data may have leading axes (integrations), planes of a calibration have none and are broadcast.
Invalid pixels are masked before the arithmetic as well as after it, so that gradients stay
finite there whatever values they hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import add, or_

from spec2fn.kernels.bands import by_rows
from spec2fn.kernels.namespace import array_namespace, safe_sqrt
from spec2fn.typing import Array, Arrays

__all__ = ["agree_on_invalid", "expand_to", "multiply_factors", "rescale"]


def expand_to(plane: Array, like: Array) -> Array:
    """Return `plane` with leading axes of length one added until it has as many as `like`."""
    xp = array_namespace(plane, like)
    missing = len(like.shape) - len(plane.shape)
    return xp.reshape(plane, (1,) * missing + tuple(plane.shape)) if missing > 0 else plane


@by_rows
def agree_on_invalid(planes: Arrays, dq: Array, do_not_use: int) -> tuple[dict[str, Array], Array]:
    """Make NaN and a flag mark the same pixels: return `planes` and `dq` in agreement.

    A pixel that is NaN in any plane, or flagged, becomes NaN in every plane and is flagged.

    Parameters
    ----------
    planes : mapping of str to array, shape (..., y, x), float
        Values, errors and variances.
    dq : array of uint32, shape (..., y, x)
    do_not_use : int
        The bit that marks a pixel as unusable.
    """
    xp = array_namespace(dq, *planes.values())
    bit = xp.asarray(do_not_use, dtype=dq.dtype)
    invalid = reduce(or_, map(xp.isnan, planes.values())) | ((dq & bit) != 0)
    out = {
        name: xp.where(invalid, xp.asarray(xp.nan, dtype=plane.dtype), plane)
        for name, plane in planes.items()
    }
    return out, xp.where(invalid, dq | bit, dq)


@by_rows
def rescale(
    values: Arrays,
    variances: Arrays,
    dq: Array,
    factor: Array,
    usable: Array | None,
    *,
    do_not_use: int,
    inverse: bool = False,
    error: Array | None = None,
    flags: Array | None = None,
) -> tuple[dict[str, Array], Array]:
    """Multiply values by a factor and variances by its square; return planes and flags.

    Parameters
    ----------
    values, variances : mapping of str to array, shape (..., y, x), float32
    dq : array of uint32, shape (..., y, x)
    factor : array, shape (y, x), or as many axes as the planes
        Only looked at where `usable`; cast to the dtype of the planes.
    usable : array of bool, of the shape of `factor`, optional
        Where the factor is defined; elsewhere pixels become NaN and are flagged. None if `flags`
        say it by `do_not_use`.
    do_not_use : int
        The bit that marks a pixel as unusable.
    inverse : bool
        Divide instead.
    error : array, of the shape of `factor`, optional
        Standard error of the factor. ``sci`` gets another variance by it,
        ``var_flat = ((sci / f) / f σ_f)²`` (zero unless it is divided), and ``err²`` is the sum of
        the variances. In this order no intermediate result overflows before the result does, be
        the factor many orders from one.
    flags : array of uint32, of the shape of `factor`, optional
        Flags to be added.

    Notes
    -----
    Algorithm of the error: JWST pipeline documentation, flat_field step ("Imaging and non-NIRSpec
    spectroscopic data").
    """
    xp = array_namespace(dq, factor, *values.values(), *variances.values())
    bit = xp.asarray(do_not_use, dtype=dq.dtype)
    planes = {**values, **variances}
    usable = (flags & bit) == 0 if usable is None else usable
    usable = usable if error is None else usable & ~xp.isnan(error)
    dq = dq if flags is None else dq | expand_to(flags, dq)
    flagged = ((dq & bit) != 0) | ~expand_to(usable, dq)
    invalid = reduce(or_, map(xp.isnan, planes.values()), flagged)
    filled = xp.where(usable, factor, xp.ones((), dtype=factor.dtype))
    scales: dict[tuple[object, bool], Array] = {}
    out = {}
    for name, plane in planes.items():
        key = (plane.dtype, name in variances)
        if key not in scales:
            scale = expand_to(filled.astype(plane.dtype), plane)
            scales[key] = scale * scale if name in variances else scale
        safe = xp.where(invalid, xp.zeros((), dtype=plane.dtype), plane)
        out[name] = safe / scales[key] if inverse else safe * scales[key]
    if error is not None:
        sci, zero = out["sci"], xp.zeros((), dtype=out["sci"].dtype)
        noise = expand_to(xp.where(usable, error.astype(sci.dtype), zero), sci)
        noise = sci / scales[sci.dtype, False] * noise if inverse else xp.zeros_like(sci)
        out["var_flat"] = noise * noise
        out["err"] = safe_sqrt(reduce(add, (out[n] for n in (*variances, "var_flat"))))
    return agree_on_invalid(out, xp.where(invalid, dq | bit, dq), do_not_use)


def multiply_factors(
    factors: Sequence[tuple[Array, Array]], usable: Array
) -> tuple[Array, Array, Array]:
    """Multiply the factors of a flat and combine their relative errors.

    Parameters
    ----------
    factors : sequence of (array or None, array), shape (n,)
        Values and errors; a value of None stands for one. An error of NaN counts as none.
    usable : array of bool, shape (n,)
        Where the flat is defined as far as is known beforehand.

    Returns
    -------
    flat, error, usable : array, shape (n,)
        Not usable are also pixels where a factor is NaN or zero; there they are 1 and 0.
    """
    xp = array_namespace(usable, *(v for pair in factors for v in pair))
    dtype = factors[0][1].dtype
    one, zero = xp.ones((), dtype=dtype), xp.zeros((), dtype=dtype)
    for value, _ in factors:
        if value is not None:
            usable = usable & (xp.abs(value) > 0)
    flat, variance = one, zero
    for value, error in factors:
        safe = one if value is None else xp.where(usable, value, one)
        ratio = xp.where(usable & (error == error), error, zero) / safe  # noqa: PLR0124 - not NaN
        flat = flat * safe
        variance = variance + ratio * ratio
    return flat, xp.abs(flat) * safe_sqrt(variance), usable

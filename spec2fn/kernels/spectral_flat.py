"""Flat fields that depend on wavelength: images between which pixels interpolate.

Factors of a flat are given as a list of pixels, with their relative variances; their product is
applied to planes of shape ``(slit, [integration,] y, x)``.
"""

from __future__ import annotations

from typing import Any

from spec2fn.kernels.namespace import array_namespace, safe_divide
from spec2fn.kernels.photometry import agree_on_invalid
from spec2fn.kernels.statistics import safe_sqrt

__all__ = ["between_images", "divide_by_spectral_flat", "multiply_factors", "relative_variance"]


def between_images(cube: Any, pixel: Any, lower: Any, knots: Any, x: Any) -> Any:
    """Interpolate linearly between the images of a cube, each pixel at its own wavelength.

    Parameters
    ----------
    cube : array, shape (z, y, x)
    pixel : array of int, shape (n,)
        Position in a flattened image.
    lower : array of int, shape (n,)
        Image below, from 0 to z - 2.
    knots : array of float64, shape (z,)
        Wavelength of each image.
    x : array of float64, shape (n,)
        Wavelength of each pixel.

    Returns
    -------
    array, shape (n,)
        In the dtype of `knots`.
    """
    xp = array_namespace(cube, pixel, lower, knots, x)
    knots = xp.asarray(knots)
    flat = xp.asarray(cube).reshape(-1)
    first = lower * (cube.shape[-2] * cube.shape[-1]) + pixel
    below = flat[first].astype(knots.dtype)
    above = flat[first + cube.shape[-2] * cube.shape[-1]].astype(knots.dtype)
    step = knots[1:] - knots[:-1]
    inverse = safe_divide(xp.ones_like(step), step, step != 0, fill=0.0)
    return below + (x - knots[lower]) * inverse[lower] * (above - below)


def relative_variance(error: Any, value: Any) -> Any:
    """Return ``(error / value)²``, zero where the error is unknown or the value is zero."""
    xp = array_namespace(error, value)
    known = ~xp.isnan(error) & ~xp.isnan(value) & (value != 0)
    ratio = safe_divide(
        xp.where(known, error, xp.zeros((), dtype=error.dtype)), value, known, fill=0.0
    )
    return ratio * ratio


def multiply_factors(factors: list[tuple[Any, Any]], usable: Any) -> tuple[Any, Any, Any]:
    """Multiply the factors of a flat and combine their errors.

    Parameters
    ----------
    factors : list of (array, array), shape (n,)
        Values and errors.
    usable : array of bool, shape (n,)
        Where the flat is defined as far as is known beforehand.

    Returns
    -------
    flat, error : array, shape (n,)
        1 and 0 where not usable.
    usable : array of bool, shape (n,)
        Without the pixels where a factor is NaN or zero.
    """
    xp = array_namespace(usable, *(v for pair in factors for v in pair))
    one = xp.ones((), dtype=factors[0][0].dtype)
    for value, _ in factors:
        usable = usable & ~xp.isnan(value) & (value != 0)
    flat, variance = one, xp.zeros_like(one)
    for value, error in factors:
        safe = xp.where(usable, value, one)
        flat = flat * safe
        variance = variance + relative_variance(xp.where(usable, error, 0 * one), safe)
    return flat, xp.abs(flat) * safe_sqrt(variance), usable


def divide_by_spectral_flat(
    sci: Any,
    var_poisson: Any,
    var_rnoise: Any,
    dq: Any,
    *,
    flat: Any,
    flat_err: Any,
    flat_dq: Any,
    do_not_use: int,
    inverse: bool = False,
) -> tuple[dict[str, Any], Any]:
    """Divide by a flat whose values may be many orders of magnitude from one.

    The same as :func:`spec2fn.kernels.photometry.flat_field`, but ``var_flat`` is formed as
    ``((sci / f) / f * σ_f)²``, in which no intermediate result overflows before the result does.

    Parameters
    ----------
    sci, var_poisson, var_rnoise : array, shape (..., y, x), float32
    dq : array of uint32, shape (..., y, x)
    flat, flat_err, flat_dq : array
        With as many axes as `sci`, broadcast against it. Pixels where the flat is NaN must be
        flagged.
    do_not_use : int
        The bit that marks a pixel as unusable.
    inverse : bool
        Multiply instead; ``var_flat`` is zero then.

    Returns
    -------
    planes : dict of str to array
        ``sci``, ``err``, ``var_poisson``, ``var_rnoise``, ``var_flat``.
    dq : array of uint32
        Input flags with those of the flat.
    """
    xp = array_namespace(sci, var_poisson, var_rnoise, dq, flat, flat_err, flat_dq)
    dtype = sci.dtype
    zero, one = xp.zeros((), dtype=dtype), xp.ones((), dtype=dtype)
    bit = xp.asarray(do_not_use, dtype=dq.dtype)
    dq = dq | flat_dq
    unusable = (flat_dq & bit) != 0
    f = xp.where(unusable, one, flat.astype(dtype))
    f_err = xp.where(unusable, zero, flat_err.astype(dtype))
    inputs = (sci, var_poisson, var_rnoise)
    invalid = (dq & bit) != 0
    for plane in inputs:
        invalid = invalid | xp.isnan(plane)
    sci, var_poisson, var_rnoise = (xp.where(invalid, zero, v) for v in inputs)

    square = f * f
    if inverse:
        sci, var_poisson, var_rnoise = sci * f, var_poisson * square, var_rnoise * square
        var_flat = xp.zeros_like(sci)
    else:
        sci, var_poisson, var_rnoise = sci / f, var_poisson / square, var_rnoise / square
        noise = sci / f * f_err
        var_flat = noise * noise
    planes = {
        "sci": sci,
        "err": safe_sqrt(var_poisson + var_rnoise + var_flat),
        "var_poisson": var_poisson,
        "var_rnoise": var_rnoise,
        "var_flat": var_flat,
    }
    return agree_on_invalid(planes, xp.where(invalid, dq | bit, dq), do_not_use)

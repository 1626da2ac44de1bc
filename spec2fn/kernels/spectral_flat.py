"""Flat fields that depend on wavelength: images between which pixels interpolate.

Factors of a flat are given as a list of pixels, with their relative variances.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from spec2fn.kernels.namespace import array_namespace, safe_divide, safe_sqrt
from spec2fn.kernels.tables import on_lines
from spec2fn.typing import Array

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["between_images", "multiply_factors"]


def between_images(below: Array, above: Array, lower: Array, knots: Array, x: Array) -> Array:
    """Interpolate linearly between the images of a cube, each pixel at its own wavelength.

    Parameters
    ----------
    below, above : array, shape (n,)
        Values of the images around each pixel.
    lower : array of int, shape (n,)
        Number of the image below, from 0 to z - 2.
    knots : array of float64, shape (z,)
        Wavelength of each image.
    x : array of float64, shape (n,)
        Wavelength of each pixel.

    Returns
    -------
    array, shape (n,)
        In the dtype of `knots`.
    """
    xp = array_namespace(below, above, lower, knots, x)
    knots = xp.asarray(knots)
    rise = above - below
    # the place in the cell as a straight line of wavelength
    step = knots[1:] - knots[:-1]
    slope = safe_divide(xp.ones_like(step), step, step != 0, fill=0.0)
    fraction = on_lines((-slope * knots[:-1], slope), lower, x)
    return below.astype(knots.dtype) + fraction * rise.astype(knots.dtype)


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
    flat, error : array, shape (n,)
        1 and 0 where not usable.
    usable : array of bool, shape (n,)
        Without the pixels where a factor is NaN or zero.
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

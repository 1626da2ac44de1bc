"""Subtraction of a background image from one or many integrations."""

from __future__ import annotations

import numpy as np

from spec2fn.kernels.bands import by_rows
from spec2fn.kernels.namespace import array_namespace, safe_sqrt
from spec2fn.typing import Array

__all__ = ["add_in_quadrature", "per_plane"]


def per_plane(image: Array, like: Array) -> Array:
    """Return `image` with leading axes of length one, so that it broadcasts over `like`.

    Spelled out because implicit rank promotion hides mistakes (and is an error in our tests).
    """
    return image.reshape((1,) * (like.ndim - image.ndim) + tuple(image.shape))


@by_rows
@np.errstate(over="ignore")
def add_in_quadrature(err: Array, variance: Array) -> Array:
    """Return ``sqrt(err**2 + variance)`` with a finite gradient where both are zero.

    Parameters
    ----------
    err : array, (…, y, x), float32
        Standard errors.
    variance : array, (y, x), float32
        Variance to add, in squared units of `err`; `err` is unchanged where it is zero.
    """
    xp = array_namespace(err, variance)
    added = per_plane(variance, err)
    # the square root of a square is not the identity in float32
    return xp.where(added == 0, err, safe_sqrt(err * err + added))

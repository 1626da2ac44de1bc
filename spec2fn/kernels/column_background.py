"""The background of every column of an image, beside the traces that cross it."""

from __future__ import annotations

import numpy as np

from spec2fn.kernels.namespace import array_namespace
from spec2fn.typing import Array

__all__ = ["column_background"]

_SIGMA = 3.0
_MOST = 30  # rounds of clipping in a trace, which cannot see whether anything is left to clip


def column_background(image: Array, masked: Array, share: float) -> Array:
    """Return the clipped mean of the faint pixels of every column.

    Parameters
    ----------
    image : array of float64, shape (..., y, x)
        Finite or NaN.
    masked : bool array, of the same shape
        Pixels that do not count.
    share : float
        Of the pixels of an image, how many of the brightest hold light of the source, from 0 to 1.

    Returns
    -------
    array, shape (..., x)
        0 where no pixel of a column counts.

    Notes
    -----
    Values farther than three standard deviations from the mean are left out until none is
    (JWST pipeline documentation, extract_1d step for NIRISS SOSS).
    """
    xp = array_namespace(image, masked)
    limit = xp.nanpercentile(image, 100.0 * (1.0 - share), axis=(-2, -1), keepdims=True)
    used = xp.isfinite(image) & (image <= limit) & ~masked
    values = xp.where(used, image, xp.zeros_like(image))
    mean = xp.zeros_like(image[..., :1, :])
    for _ in range(_MOST) if xp is not np else iter(int, 1):
        count = xp.maximum(xp.sum(used, axis=-2, keepdims=True), 1).astype(image.dtype)
        mean = xp.sum(xp.where(used, values, 0.0), axis=-2, keepdims=True) / count
        apart = xp.where(used, values - mean, 0.0)
        square = xp.sum(apart * apart, axis=-2, keepdims=True) / count
        kept = used & (apart * apart <= _SIGMA**2 * square)
        if xp is np and np.array_equal(kept, used):
            break
        used = kept
    return mean[..., 0, :]

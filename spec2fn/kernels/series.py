"""Values that are missing in some images of a series."""

from __future__ import annotations

import numpy as np

from spec2fn.kernels.namespace import array_namespace
from spec2fn.typing import Array

__all__ = ["from_neighbours"]


def from_neighbours(images: Array, typical: Array, window: int) -> Array:
    """Return a series in which missing values are running medians.

    Parameters
    ----------
    images : array, shape (integration, y, x)
        NaN where a value is missing.
    typical : array, shape (y, x)
        What stands for values that are missing among the neighbours themselves.
    window : int
        Integrations of which the median is taken, all of them if there are fewer; of an even number
        it is the upper one of the middle. At its ends the series goes on as in a mirror.
    """
    xp = array_namespace(images, typical)
    count = images.shape[0]
    size = min(count, window)
    missing = ~xp.isfinite(images)
    flat, fill = images.reshape(count, -1), typical.reshape(-1)
    chosen = np.arange(flat.shape[1])
    if xp is np:
        chosen = np.flatnonzero(missing.reshape(count, -1).any(axis=0))
        if not chosen.size:
            return images
    gaps = missing.reshape(count, -1)[:, chosen]
    values = xp.where(gaps, fill[chosen][None, :], flat[:, chosen])
    mirrored = np.pad(np.arange(count), (size // 2, size - size // 2 - 1), mode="symmetric")
    near = mirrored[np.arange(count)[:, None] + np.arange(size)]
    median = xp.sort(values[near], axis=1)[:, size // 2]
    filled = xp.where(gaps, median, values)
    if xp is not np:
        return filled.reshape(images.shape)
    out = flat.copy()
    out[:, chosen] = filled
    return out.reshape(images.shape)

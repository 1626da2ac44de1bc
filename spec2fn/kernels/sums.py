"""Sums of values that belong together."""

from __future__ import annotations

import math

import numpy as np

from spec2fn.kernels.namespace import array_namespace
from spec2fn.typing import Array

__all__ = ["as_rows", "sum_by"]


def as_rows(values: Array) -> Array:
    """Return values (..., n) as (m, n), also where there are none."""
    return values.reshape(math.prod(values.shape[:-1]), values.shape[-1])


def sum_by(values: Array, index: Array, size: int, *, ascending: bool = False) -> Array:
    """Return the sums (..., size) of the values (..., n) that have the same index (n,).

    Values of an index beyond `size` are left out; `ascending` says that the indices are sorted.
    """
    xp = array_namespace(values)
    if xp is np:
        summed = np.stack([np.bincount(index, v, size)[:size] for v in as_rows(values)])
        return summed.reshape(*values.shape[:-1], size).astype(values.dtype)
    import jax

    moved = xp.moveaxis(values, -1, 0)
    summed = jax.ops.segment_sum(moved, xp.asarray(index), size, indices_are_sorted=ascending)
    return xp.moveaxis(summed, 0, -1)

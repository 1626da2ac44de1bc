"""Where pixels stand on a wavelength table."""

from __future__ import annotations

import numpy as np

from spec2fn.kernels.bands import by_rows
from spec2fn.typing import HostArray

__all__ = ["locate"]


@by_rows
def locate(
    wavelength: HostArray, table: HostArray, *, include_first: bool = True
) -> tuple[HostArray, HostArray, HostArray]:
    """Find every pixel's cell in an increasing table, for linear interpolation.

    Parameters
    ----------
    wavelength : array of float, shape (y, x)
        NaN where there is no wavelength. Compared with the table in the table's own precision,
        so that rounding cannot decide whether a pixel at the very end is covered.
    table : array of float, shape (n,)
        Strictly increasing, n at least 2.
    include_first : bool
        Whether a pixel exactly at ``table[0]`` is covered.

    Returns
    -------
    index : array of int32, shape (y, x)
        Lower end of the cell; 0 where not covered.
    fraction : array of float64, shape (y, x)
        Position inside the cell, 0 to 1; 0 where not covered.
    covered : array of bool, shape (y, x)
    """
    table = np.asarray(table)
    wave = np.asarray(wavelength).astype(table.dtype, copy=False)
    finite = np.isfinite(wave)
    index = np.zeros(wave.shape, dtype=np.int32)
    fraction = np.zeros(wave.shape, dtype=np.float64)
    covered = np.zeros(wave.shape, dtype=bool)

    some = wave[finite]
    inside = (some >= table[0] if include_first else some > table[0]) & (some <= table[-1])
    low = np.clip(np.searchsorted(table, some, side="left") - 1, 0, len(table) - 2)
    knots = table.astype(np.float64)
    t = (some.astype(np.float64) - knots[low]) / (knots[low + 1] - knots[low])
    index[finite] = np.where(inside, low, 0)
    fraction[finite] = np.where(inside, t, 0.0)
    covered[finite] = inside
    return index, fraction, covered

"""Profiles across the dispersion, moved by fractions of a pixel."""

from __future__ import annotations

import numpy as np

from spec2fn.kernels.namespace import array_namespace
from spec2fn.typing import Array

__all__ = ["moved_profile"]


def moved_profile(coefficients: Array, displacement: Array, *, derivative: bool = False) -> Array:
    """Evaluate profiles after a move across the dispersion.

    Parameters
    ----------
    coefficients : array, shape (..., cross, disp)
        Of the cubic B-splines through the profile of each column
        (:func:`spec2fn.host.trace_position.profile_coefficients`).
    displacement : array, shape (..., disp)
        How far each column is moved towards larger rows [pixel].
    derivative : bool
        Return the derivative with respect to the row instead.

    Returns
    -------
    array, shape (..., cross, disp)
        Mirrored at the first and the last row.
    """
    xp = array_namespace(coefficients, displacement)
    rows = coefficients.shape[-2]
    below = xp.floor(-displacement)
    t = (-displacement - below)[..., None, :]
    if derivative:
        taps = (
            -0.5 * (1 - t) ** 2,
            1.5 * t**2 - 2.0 * t,
            -1.5 * t**2 + t + 0.5,
            0.5 * t**2,
        )
    else:
        taps = (
            (1 - t) ** 3 / 6,
            (3 * t**3 - 6 * t**2 + 4) / 6,
            (-3 * t**3 + 3 * t**2 + 3 * t + 1) / 6,
            t**3 / 6,
        )
    first = below.astype(int)[..., None, :] + np.arange(rows)[:, None] - 1
    last = rows - 1
    out = xp.zeros_like(coefficients)
    for k, tap in enumerate(taps):
        mirrored = last - xp.abs(last - xp.abs(first + k))
        out = out + tap * xp.take_along_axis(coefficients, xp.clip(mirrored, 0, last), axis=-2)
    return out

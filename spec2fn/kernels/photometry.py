"""Flux factors: tables of the response by wavelength, and how the throughput changes with time."""

from __future__ import annotations

from spec2fn.kernels.namespace import array_namespace
from spec2fn.typing import Array

__all__ = ["exponential_change", "interpolate_planned", "linear_change", "power_law_change"]

DAYS_PER_YEAR = 365.0
"""Length of the year of the JWST time-dependence coefficients."""


def interpolate_planned(table: Array, index: Array, fraction: Array) -> Array:
    """Interpolate linearly at planned places: ``(1 - t) table[i] + t table[i + 1]``.

    Parameters
    ----------
    table : array, shape (n,)
    index : array of int, any shape
        From 0 to n - 2.
    fraction : array of float, shape of `index`
        The dtype in which to compute.

    Returns
    -------
    array
        Of the shape of `index`.
    """
    xp = array_namespace(table, index, fraction)
    fraction = xp.asarray(fraction)
    table = xp.asarray(table).astype(fraction.dtype)
    low = table[index]
    return low + fraction * (table[index + 1] - low)


def linear_change(time: Array, t0: Array, loss_per_year: Array) -> Array:
    """Relative throughput falling linearly: ``1 - loss (t - t0) / 365 d``.

    Parameters
    ----------
    time, t0 : scalar or array
        Modified Julian dates [d].
    loss_per_year : scalar or array
        Fraction of the throughput lost per year.

    Notes
    -----
    Forms of the time dependence: JWST pipeline documentation, photom step and PHOTOM reference
    file, "Time-dependent correction".
    """
    return 1.0 - loss_per_year * (time - t0) / DAYS_PER_YEAR


def exponential_change(time: Array, t0: Array, amplitude: Array, tau: Array, const: Array) -> Array:
    """Relative throughput decaying exponentially: ``amplitude exp(-(t - t0) / tau) + const``.

    Times and `tau` are in days; see :func:`linear_change`.
    """
    xp = array_namespace(time, t0, amplitude, tau, const)
    return amplitude * xp.exp(-(time - t0) / tau) + const


def power_law_change(
    time: Array, t0: Array, year1_value: Array, t_soft: Array, alpha: Array
) -> Array:
    """Relative throughput changing as a power of time, `year1_value` one year after `t0`.

    ``year1_value ((t - t0 + t_soft) / (365 d + t_soft))^alpha``; see :func:`linear_change`.
    """
    return year1_value * ((time - t0 + t_soft) / (DAYS_PER_YEAR + t_soft)) ** alpha

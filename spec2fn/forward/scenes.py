"""What is on the sky: spectra and light curves of known shape."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["GRID", "dusty_star", "light_curve", "planet_host", "transit_depth"]

GRID = np.linspace(3.5, 14.6, 2221)
"""Wavelengths [um] at which true spectra are tabulated (linear in between)."""


def _bell(wave: Any, center: float, width: float) -> Any:
    return np.exp(-0.5 * ((wave - center) / width) ** 2)


def dusty_star(wave: Any, flux: float = 1.2e-4) -> Any:
    """Flux density [Jy] of a star with silicate absorption and emission lines.

    Parameters
    ----------
    wave : array
        Wavelength [um].
    flux : float
        Continuum at 8 um [Jy].
    """
    continuum = flux * (wave / 8.0) ** -0.5
    silicate = 1.0 - 0.35 * _bell(wave, 9.7, 0.8)
    lines = (
        0.5 * _bell(wave, 6.99, 0.06)
        + 0.7 * _bell(wave, 10.51, 0.05)
        + 0.6 * _bell(wave, 12.81, 0.05)
    )
    return continuum * (silicate + lines)


def planet_host(wave: Any, flux: float = 4.0e-3) -> Any:
    """Flux density [Jy] of a star of constant brightness; `flux` as in :func:`dusty_star`."""
    return flux * (wave / 8.0) ** -1.9


def transit_depth(wave: Any) -> Any:
    """Fraction of the star's light a transiting planet covers."""
    return 0.02 + 0.004 * _bell(wave, 7.7, 0.5) - 0.002 * _bell(wave, 11.0, 1.0)


def light_curve(phase: Any, duration: float = 0.4, ingress: float = 0.08) -> Any:
    """Depth of a transit relative to its maximum: a trapezoid centred on phase 0.

    Parameters
    ----------
    phase : array
        Time in units of the length of the exposure, -0.5 to 0.5.
    duration : float
        From half depth to half depth.
    ingress : float
        Length of ingress and of egress.
    """
    return np.clip((duration / 2 - np.abs(phase)) / ingress + 0.5, 0.0, 1.0)

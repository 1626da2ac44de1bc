"""What is on the sky: spectra and light curves of known shape."""

from __future__ import annotations

import numpy as np

from spec2fn.typing import HostArray

__all__ = [
    "GRID",
    "MID_GRID",
    "NEAR_GRID",
    "dusty_star",
    "embedded_star",
    "galaxy",
    "light_curve",
    "near_transit_depth",
    "planet_host",
    "quasar",
    "star",
    "transit",
    "transit_depth",
]

GRID = np.linspace(3.5, 14.6, 2221)
"""Wavelengths [um] at which true spectra are tabulated (linear in between)."""

NEAR_GRID = np.linspace(0.5, 5.6, 5101)
"""The same for the near infrared."""

MID_GRID = np.linspace(4.6, 9.2, 9201)
"""The same for channels 1 and 2 of the medium-resolution spectrometer."""


def _bell(wave: HostArray, center: float, width: float) -> HostArray:
    return np.exp(-0.5 * ((wave - center) / width) ** 2)


def dusty_star(wave: HostArray, flux: float = 1.2e-4) -> HostArray:
    """Flux density [Jy] of a star with silicate absorption and emission lines.

    At wavelengths [um]; `flux` is the continuum at 8 um [Jy].
    """
    continuum = flux * (wave / 8.0) ** -0.5
    silicate = 1.0 - 0.35 * _bell(wave, 9.7, 0.8)
    lines = (
        0.5 * _bell(wave, 6.99, 0.06)
        + 0.7 * _bell(wave, 10.51, 0.05)
        + 0.6 * _bell(wave, 12.81, 0.05)
    )
    return continuum * (silicate + lines)


def embedded_star(wave: HostArray, flux: float = 1.0e-4) -> HostArray:
    """Flux density [Jy] of a young star with lines of ionized and molecular gas, and ices.

    At wavelengths [um]; `flux` is the continuum at 6 um [Jy].
    """
    continuum = flux * (wave / 6.0) ** 0.6
    lines = sum(
        strength * _bell(wave, center, 0.0012 * center)
        for center, strength in ((5.053, 0.5), (5.34, 1.2), (5.511, 0.6), (8.025, 0.8), (8.4, 0.4))
    )
    return continuum * (1.0 - 0.25 * _bell(wave, 7.67, 0.04) + lines)


def planet_host(wave: HostArray, flux: float = 4.0e-3) -> HostArray:
    """Flux density [Jy] of a star of constant brightness; `flux` as in :func:`dusty_star`."""
    return flux * (wave / 8.0) ** -1.9


def transit_depth(wave: HostArray) -> HostArray:
    """Fraction of the star's light a transiting planet covers."""
    return 0.02 + 0.004 * _bell(wave, 7.7, 0.5) - 0.002 * _bell(wave, 11.0, 1.0)


def light_curve(phase: HostArray, duration: float = 0.4, ingress: float = 0.08) -> HostArray:
    """Depth of a transit relative to its maximum: a trapezoid centred on phase 0.

    Times are in units of the length of the exposure, -0.5 to 0.5: `duration` from half depth to
    half depth, and the length of `ingress` and egress.
    """
    return np.clip((duration / 2 - np.abs(phase)) / ingress + 0.5, 0.0, 1.0)


def transit(star: HostArray, depth: HostArray, integrations: int) -> HostArray:
    """Spectra (integration, n) of a star of which a planet covers `depth` in the middle."""
    phase = (np.arange(integrations) + 0.5) / integrations - 0.5
    return star * (1.0 - light_curve(phase)[:, None] * depth)


def near_transit_depth(wave: HostArray) -> HostArray:
    """Fraction of the star's light a transiting planet covers in the near infrared."""
    water = _bell(wave, 1.4, 0.12) + _bell(wave, 1.9, 0.14) + _bell(wave, 2.7, 0.25)
    return 0.02 + 0.0015 * water + 0.003 * _bell(wave, 4.4, 0.2)


def star(wave: HostArray, flux: float, depth: float = 0.35) -> HostArray:
    """Spectrum of a cool star at wavelengths [um]: level at 2 um, and depth of the water bands."""
    peak = (wave / 1.3) ** -4 / (np.exp(3.92 * 1.3 / wave) - 1.0)
    water = _bell(wave, 1.4, 0.12) + _bell(wave, 1.9, 0.14) + _bell(wave, 2.8, 0.3)
    peak_at_2 = (2.0 / 1.3) ** -4 / (np.exp(3.92 * 0.65) - 1.0)
    return flux * wave / 2.0 * peak / peak_at_2 * (1.0 - depth * water)


def galaxy(wave: HostArray, flux: float, redshift: float = 2.0, width: float = 0.1) -> HostArray:
    """Spectrum of a galaxy at wavelengths [um], with emission lines of standard deviation `width`.

    `flux` is the continuum at 2 um.
    """
    rest = wave / (1.0 + redshift)
    balmer_break = 0.6 + 0.4 * np.tanh((rest - 0.38) / 0.04)
    lines = sum(
        strength * _bell(wave, line * (1.0 + redshift), width)
        for line, strength in ((0.3728, 0.8), (0.5007, 2.0), (0.6563, 1.6), (1.083, 0.9))
    )
    return flux * (wave / 2.0) ** 0.3 * (balmer_break + lines)


def quasar(wave: HostArray, flux: float, redshift: float = 4.0) -> HostArray:
    """Spectrum of a quasar, a power law with broad lines; as :func:`galaxy`."""
    lines = sum(
        strength * _bell(wave, line * (1.0 + redshift), 0.06 * line * (1.0 + redshift))
        for line, strength in ((0.2798, 0.5), (0.4861, 0.4), (0.6563, 1.5))
    )
    return flux * (wave / 2.0) ** -0.4 * (1.0 + lines)

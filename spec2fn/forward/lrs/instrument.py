"""The low-resolution spectrometer that synthetic exposures are taken with.

Close to the MIRI LRS in scale, dispersion, image size and background, but made of closed
formulas, so that what the reference files say and what the detector records are the same thing.
Numbers follow Kendrew et al. (2015, PASP 127, 623) and the public instrument handbook; the linear
distortion is a simplification.
"""

from __future__ import annotations

import numpy as np

from spec2fn.forward.exposures import Detector
from spec2fn.forward.gaussian import enclosed
from spec2fn.typing import HostArray
from spec2fn.units import ARCSEC2_TO_SR

__all__ = [
    "DETECTOR",
    "FILTER_OFFSET",
    "PHOTMJSR",
    "PIXEL_AREA_ARCSEC2",
    "PIXEL_AREA_SR",
    "PIXEL_SCALE",
    "ROWS",
    "SLITLESS_CORNER",
    "SLIT_ROWS",
    "V3_ANGLE",
    "aperture",
    "background",
    "fwhm",
    "relative_response",
    "slit_transmission",
    "throughput",
    "to_v2v3",
    "trace",
    "wavelength",
]

PIXEL_SCALE = 0.11
"""Size of a pixel [arcsec]."""
PIXEL_AREA_ARCSEC2 = PIXEL_SCALE**2
PIXEL_AREA_SR = PIXEL_AREA_ARCSEC2 * ARCSEC2_TO_SR
V3_ANGLE = 4.835
"""Angle from V3 to the detector columns [deg]."""
PHOTMJSR = 12.5
"""Conversion at unit relative response on the reference day [MJy/sr per DN/s]."""
DETECTOR = Detector(gain=5.5, read_noise=0.03, pattern="FASTR1", fast=1, slow=2)
FILTER_OFFSET = {"F560W": (-0.08, -0.06), "F770W": (0.0, 0.0), "P750L": (0.0, 0.0)}
"""Column and row offset of each filter [pixel]."""

SLIT_ROWS = 4.64
"""Height of the slit along the dispersion [pixel] (0.51 arcsec)."""
SLIT_COLUMNS = 43.0
"""Length of the slit [pixel] (4.7 arcsec)."""
SLITLESS_CORNER = (1, 529)
"""Detector column and row of the first pixel of the slitless subarray (counted from 1)."""
ROWS = (94, -293)
"""Rows of the first and last wavelength, relative to the reference pixel."""

# Reference pixel of each aperture on the full detector, counted from 1.
_APERTURES = {"MIR_LRS-FIXEDSLIT": (326.13, 300.70), "MIR_LRS-SLITLESS": (38.50, 829.00)}
_SLIT_V2V3 = (-414.85, -400.43)
_WAVELENGTHS = (4.2, 14.0)

REFERENCE_DAY = 59700.0
LOSS_PER_YEAR = 0.01
EXPONENTIAL = (0.02, 150.0, 1.0)
"""Amplitude, e-folding time [d] and asymptote of the second loss of throughput."""


def aperture(exp_type: str) -> tuple[float, float]:
    """Reference pixel (x, y) of a mode on the full detector, counted from 0."""
    x, y = _APERTURES[exp_type]
    return x - 1.0, y - 1.0


def to_v2v3(x: float, y: float) -> tuple[float, float]:
    """Telescope coordinates [arcsec] of detector pixels counted from 0 (linear distortion)."""
    (v2, v3), matrix = _SLIT_V2V3, v2v3_matrix()
    dx, dy = x - aperture("MIR_LRS-FIXEDSLIT")[0], y - aperture("MIR_LRS-FIXEDSLIT")[1]
    return (
        v2 + matrix[0, 0] * dx + matrix[0, 1] * dy,
        v3 + matrix[1, 0] * dx + matrix[1, 1] * dy,
    )


def v2v3_matrix() -> HostArray:
    """Derivative of (V2, V3) [arcsec] with respect to (x, y) [pixel]."""
    c, s = np.cos(np.deg2rad(V3_ANGLE)), np.sin(np.deg2rad(V3_ANGLE))
    return PIXEL_SCALE * np.array([[-c, s], [s, c]])


def wavelength(row: HostArray) -> HostArray:
    """Wavelength [um] at a detector row counted from the reference pixel; λ² is linear in it."""
    first, last = _WAVELENGTHS
    t = (ROWS[0] - row) / (ROWS[0] - ROWS[1])
    return np.sqrt(first**2 + t * (last**2 - first**2))


def trace(row: HostArray) -> HostArray:
    """Column offset [pixel] of the spectrum at a row counted from the reference pixel."""
    t = row / 293.0
    return 0.45 * t - 0.12 * t**2


def fwhm(wave: HostArray) -> HostArray:
    """Full width at half maximum [pixel] of the Gaussian image of a star."""
    return 0.5 + 0.26 * wave


def sigma(wave: HostArray) -> HostArray:
    """Standard deviation [pixel] of the Gaussian image of a star."""
    return fwhm(wave) / np.sqrt(8 * np.log(2))


def relative_response(wave: HostArray) -> HostArray:
    """Relative response: conversion to surface brightness relative to PHOTMJSR."""
    return 1.0 + 0.05 * (wave - 8.0) + 0.8 * np.exp(-(wave - 3.5) / 1.2) + 0.02 * np.sin(3.0 * wave)


def throughput(mjd: float) -> float:
    """Fraction of the throughput of the reference day that is left at a time [MJD]."""
    linear = 1.0 - LOSS_PER_YEAR * (mjd - REFERENCE_DAY) / 365.0
    amplitude, tau, const = EXPONENTIAL
    return linear * (amplitude * np.exp(-(mjd - REFERENCE_DAY) / tau) + const)


def slit_transmission(wave: HostArray, offset: HostArray) -> HostArray:
    """Fraction of a star's light that passes the slit, `offset` pixels from its centre line."""
    half = SLIT_ROWS / 2
    return enclosed(offset - half, offset + half, sigma(wave))


def background(wave: HostArray) -> HostArray:
    """Surface brightness [MJy/sr] of the thermal background."""
    return 15.0 * (wave / 8.0) ** 3

"""The NIRSpec that synthetic exposures are taken with: response, losses and image size.

As :mod:`spec2fn.forward.lrs.instrument`, made of closed formulas, so that what the reference files
say and what the detector records are the same thing. Wavelengths are in micrometres, positions in
a slit in units of its width and height (of the open area of a shutter), from its centre.
"""

from __future__ import annotations

import numpy as np

from spec2fn.forward.exposures import Detector
from spec2fn.forward.gaussian import enclosed
from spec2fn.typing import HostArray

__all__ = [
    "APERTURES",
    "BARSHADOW_DARK",
    "DETECTOR",
    "LOSS_PER_YEAR",
    "PHOTMJ",
    "PIXEL_SCALE",
    "REFERENCE_DAY",
    "V3_ANGLE",
    "WAVES",
    "background",
    "bar_shadow",
    "detector_response",
    "fore_response",
    "pixel_area",
    "point_transmission",
    "relative_response",
    "sigma",
    "slitlet",
    "spectrograph_response",
    "throughput",
    "uniform_transmission",
    "zero_point_offset",
]

WAVES = (0.5, 5.6)
"""Range of the reference tables [um]."""
PIXEL_SCALE = 0.105
"""Size of a pixel along the slits [arcsec]."""
V3_ANGLE = 138.5
"""Angle from V3 to the detector rows [deg]."""
PHOTMJ = 1.0e-13
"""Conversion at unit relative response on the reference day [MJy per DN/s]."""
DETECTOR = Detector(gain=1.0, read_noise=0.05, pattern="NRSRAPID", fast=2, slow=1)
REFERENCE_DAY = 59700.0
LOSS_PER_YEAR = 0.01

SHUTTER = (0.20, 0.46)
"""Width and height of the open area of a shutter [arcsec]."""
APERTURES = {
    "S200A1": (0.20, 3.27),
    "S200A2": (0.20, 3.27),
    "S400A1": (0.40, 3.76),
    "S1600A1": (1.60, 1.60),
    "S200B1": (0.20, 3.30),
}
"""Width and height of the fixed slits [arcsec]."""

BARSHADOW_DARK = 0.02
"""Light that gets past a closed shutter, in units of that through an open one."""
_OPEN = 178.0 / 203.54 / 2  # half of the open height of a shutter, in units of the pitch
_BLUR = 0.12  # of the edges of a shutter, in units of the pitch


def sigma(wave: HostArray) -> HostArray:
    """Standard deviation [pixel] of the Gaussian image of a star."""
    return 0.55 + 0.09 * wave


def relative_response(wave: HostArray) -> HostArray:
    """Relative response: conversion to flux density relative to PHOTMJ."""
    return 0.7 + 0.5 * np.exp(-(wave - 0.5) / 0.6) + 0.02 * (wave - 3.0) ** 2


def throughput(mjd: float) -> float:
    """Fraction of the throughput of the reference day that is left at a time [MJD]."""
    return 1.0 - LOSS_PER_YEAR * (mjd - REFERENCE_DAY) / 365.0


def fore_response(wave: HostArray, part: int = 0) -> HostArray:
    """Response of the fore optics at a fixed slit, or in a quadrant of the MSA."""
    return 0.92 + 0.04 * np.cos(1.3 * wave + 0.4 * part)


def spectrograph_response(wave: HostArray) -> HostArray:
    """Response of the spectrograph."""
    return 1.0 + 0.03 * np.sin(2.1 * wave)


def detector_response(wave: HostArray) -> HostArray:
    """Response of the detectors relative to that of single pixels."""
    return 1.0 + 0.01 * np.cos(3.7 * wave)


def pixel_area(name: str) -> float:
    """Area of the sky that a pixel sees through a slit or shutter (`MOS`) [arcsec2]."""
    return PIXEL_SCALE * (SHUTTER if name == "MOS" else APERTURES[name])[0]


def point_transmission(
    wave: HostArray, x: HostArray, y: HostArray, aperture: tuple[float, float]
) -> HostArray:
    """Fraction of a star's light that passes an aperture of a width and height [arcsec]."""
    width = PIXEL_SCALE * sigma(wave)
    across, along = (
        enclosed(-s / 2 - p * s, s / 2 - p * s, width)
        for p, s in zip((x, y), aperture, strict=True)
    )
    return across * along


def uniform_transmission(wave: HostArray) -> HostArray:
    """Share of the light of a uniform source that is not lost by diffraction at the slit."""
    return 0.99 - 0.006 * wave


def bar_shadow(y: HostArray, shutters: int) -> HostArray:
    """Transmission along the middle of open shutters, `y` in units of the pitch."""
    number = np.arange(-(shutters // 2), shutters // 2 + 1)
    total = np.sum([enclosed(y - k - _OPEN, y - k + _OPEN, _BLUR) for k in number], axis=0)
    return BARSHADOW_DARK + (1.0 - BARSHADOW_DARK) * total


def slitlet(shutters: int) -> tuple[float, float]:
    """Width and height [arcsec] of a slitlet of neighbouring shutters."""
    width, height = SHUTTER
    return width, height + (shutters - 1) * height / (2 * _OPEN)


def zero_point_offset(wave: HostArray, x: HostArray) -> HostArray:
    """Shift of the spectrum [pixel] of a star at `x` across a slit of the width of a shutter."""
    return 1.4 * x * (0.8 + 0.1 * wave)


def background(wave: HostArray) -> HostArray:
    """Surface brightness [MJy/sr] of zodiacal and thermal light."""
    return 0.25 * (wave / 1.0) ** -0.6 + 0.6 * np.exp((wave - 5.3) / 0.7)

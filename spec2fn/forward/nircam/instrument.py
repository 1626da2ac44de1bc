"""The long-wavelength grism of NIRCam that synthetic time series are taken with.

Close to NIRCam GRISMR with F444W in scale, dispersion and image size (public instrument handbook),
but made of closed formulas, so that what the reference files say and what the detector records
are the same thing.
"""

from __future__ import annotations

import numpy as np

from spec2fn.forward.exposures import Detector
from spec2fn.typing import HostArray
from spec2fn.units import ARCSEC2_TO_SR

__all__ = [
    "APERTURE",
    "DETECTOR",
    "ORDER",
    "PHOTMJSR",
    "PIXEL_AREA_ARCSEC2",
    "PIXEL_AREA_SR",
    "PIXEL_SCALE",
    "SHAPE",
    "SIGMA",
    "SKY",
    "TRACE_X",
    "TRACE_Y",
    "V3_ANGLE",
    "WAVE",
    "WAVELENGTHS",
    "relative_response",
    "to_v2v3",
    "v2v3_matrix",
]

SHAPE = (64, 2048)
"""Rows and columns of the subarray."""
PIXEL_SCALE = 0.063
"""Size of a pixel [arcsec]."""
PIXEL_AREA_ARCSEC2 = PIXEL_SCALE**2
PIXEL_AREA_SR = PIXEL_AREA_ARCSEC2 * ARCSEC2_TO_SR
V3_ANGLE = -0.063
"""Angle from V3 to the detector columns [deg]."""
PHOTMJSR = 6.0e-4
"""Conversion at unit relative response on the reference day [MJy um s/(DN sr)]."""
DETECTOR = Detector(gain=1.8, read_noise=0.05, pattern="RAPID", fast=-1, slow=2)
SKY = 0.4
"""Count rate of the sky [DN/s]."""
SIGMA = 0.75
"""Standard deviation [pixel] of the Gaussian image of a star."""
ORDER = 1
APERTURE = (1424.0, 34.0)
"""Pixel (x, y) of the source in the undispersed image, counted from 0."""

WAVE = (3.6, 1.6)
TRACE_X = (-1180.0, 1580.0, 12.0)
TRACE_Y = (-1.0, 2.0)
"""Wavelength [um], and the offsets from the source [pixel], as polynomials in the place t along
the trace, lowest power first."""
WAVELENGTHS = (3.88, 5.0)
"""Of the filter [um]."""

REFERENCE_DAY = 59700.0
LOSS_PER_YEAR = 0.01

_V2V3 = (60.66, -556.61)


def v2v3_matrix() -> HostArray:
    """Derivative of (V2, V3) [arcsec] with respect to (x, y) [pixel]."""
    c, s = np.cos(np.deg2rad(V3_ANGLE)), np.sin(np.deg2rad(V3_ANGLE))
    return PIXEL_SCALE * np.array([[-c, s], [s, c]])


def to_v2v3(x: float, y: float) -> tuple[float, float]:
    """Telescope coordinates [arcsec] of detector pixels counted from 0 (linear distortion)."""
    v2, v3 = np.array(_V2V3) + v2v3_matrix() @ np.subtract((x, y), APERTURE)
    return float(v2), float(v3)


def relative_response(wave: HostArray) -> HostArray:
    """Relative response: conversion to surface brightness relative to PHOTMJSR."""
    return 1.0 + 0.8 * ((wave - 4.4) / 0.6) ** 2 + 0.02 * np.sin(9.0 * wave)

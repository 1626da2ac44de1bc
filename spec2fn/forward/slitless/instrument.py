"""The slitless spectrographs that synthetic exposures are taken with.

Close to NIRISS (Willott et al. 2022, PASP 134, 025002) and NIRCam (Greene et al. 2017, JATIS 3,
035001) in scale, dispersion, image size and response, but made of low polynomials and a detector
with fewer rows, so that what the reference files say and what the detector records are the same
thing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from spec2fn.forward.exposures import Aperture, Detector
from spec2fn.typing import HostArray
from spec2fn.units import ARCSEC2_TO_SR

__all__ = ["GRISMS", "Grism", "OrderTrace"]

Field = tuple[float, float, float]
"""Coefficients of 1, x, y; x and y are the pixel of the undispersed source."""


@dataclass(frozen=True)
class OrderTrace:
    """Where an order falls, as polynomials of a parameter that runs from 0 to 1.

    Attributes
    ----------
    dx, dy : tuple of Field
        Offset from the source [pixel] by power of the parameter.
    wave : (float, float)
        Wavelength [um] at 0, and its change to 1.
    conversion : float
        MJy/sr for one DN/s per um at the peak of the response.
    """

    dx: tuple[Field, ...]
    dy: tuple[Field, ...]
    wave: tuple[float, float]
    conversion: float


@dataclass(frozen=True)
class Grism:
    """An instrument with a grism and a filter.

    Attributes
    ----------
    exp_type, instrument : str
    keywords : mapping of str to str
        DETECTOR, FILTER, PUPIL, MODULE, …
    band : str
        The filter, by which references name the wavelengths.
    ends : (float, float)
        Wavelengths [um] at which the response is half its peak.
    edge : float
        How fast it falls [um].
    shape : (int, int)
        Rows and columns.
    aperture : Aperture
    detector : Detector
    orders : mapping of int to OrderTrace
    extracted : tuple of int
        Orders to be extracted.
    wheel : (float, float), optional
        Angle of the filter wheel [deg], and that for which the traces hold.
    width : float
        Standard deviation of the image of a star [pixel].
    sky : float
        Count rate of the background [DN/s].
    curvature : float
        Of the distortion [1/pixel].
    magnitude : float
        Of a typical source (AB).
    """

    exp_type: str
    instrument: str
    keywords: Mapping[str, str]
    band: str
    ends: tuple[float, float]
    edge: float
    shape: tuple[int, int]
    aperture: Aperture
    detector: Detector
    orders: Mapping[int, OrderTrace]
    extracted: tuple[int, ...]
    wheel: tuple[float, float] | None = None
    width: float = 0.9
    sky: float = 0.35
    curvature: float = 6.0e-6
    magnitude: float = 23.4

    @property
    def pixel_area(self) -> float:
        """Solid angle of a pixel [sr]."""
        return self.aperture.scale**2 * ARCSEC2_TO_SR

    def response(self, wave: HostArray) -> HostArray:
        """Response relative to its peak."""
        low, high = ((wave - end) / self.edge for end in self.ends)
        return 1 / (1 + np.exp(-low)) / (1 + np.exp(high))

    def to_v2v3(self, x: HostArray, y: HostArray) -> tuple[HostArray, HostArray]:
        """Telescope coordinates [arcsec] of pixels counted from 0, with a little distortion."""
        (a, b), matrix = self.center, self.matrix()
        u, v = x - a, y - b
        u, v = u + self.curvature * u * v, v + self.curvature * u * u
        at = self.aperture
        return (
            at.v2 + matrix[0, 0] * u + matrix[0, 1] * v,
            at.v3 + matrix[1, 0] * u + matrix[1, 1] * v,
        )

    @property
    def center(self) -> tuple[float, float]:
        """Pixel (x, y) that looks at the reference point of the aperture."""
        return (self.shape[1] - 1) / 2, (self.shape[0] - 1) / 2

    def matrix(self) -> HostArray:
        """Derivative of (V2, V3) [arcsec] with respect to (x, y) [pixel] at the center."""
        angle = np.deg2rad(self.aperture.angle)
        c, s = np.cos(angle), np.sin(angle)
        return self.aperture.scale * np.array([[-c, s], [s, c]])


def _niriss() -> Grism:
    wave = (0.95, 0.40)
    return Grism(
        "NIS_WFSS",
        "NIRISS",
        {"DETECTOR": "NIS", "FILTER": "GR150C", "PUPIL": "F115W"},
        band="F115W",
        ends=(1.013, 1.283),
        edge=0.004,
        shape=(700, 1100),
        aperture=Aperture("NIS_CEN", -290.1, -697.5, -0.57, 1, 0.0656),
        detector=Detector(1.62, 0.012, "NIS", -2, -1),
        orders={
            -1: OrderTrace(
                ((420.0, 2e-4, 0.0), (78.0, 1e-3, 0.0)),
                ((-2.5, 0.0, 2e-4), (0.6, 0.0, 0.0)),
                wave,
                0.30,
            ),
            0: OrderTrace(
                ((215.0, 4e-4, -1e-4), (3.0, 0.0, 0.0)),
                ((-1.4, 1e-4, 1e-4), (0.1, 0.0, 0.0)),
                wave,
                0.48,
            ),
            1: OrderTrace(
                ((18.0, 3e-4, -2e-4), (-84.0, -1.5e-3, 8e-4), (-0.6, 0.0, 0.0)),
                ((0.8, 2e-4, 4e-4), (0.9, -3e-4, 0.0), (0.2, 0.0, 0.0)),
                wave,
                0.0038,
            ),
            2: OrderTrace(
                ((-184.0, 3e-4, 2e-4), (-168.0, -2e-3, 1e-3)),
                ((2.2, -1e-4, 3e-4), (1.5, 2e-4, 0.0)),
                wave,
                0.029,
            ),
        },
        extracted=(1, 2),
        wheel=(222.31, 222.05),
    )


def _nircam() -> Grism:
    wave = (3.75, 1.40)
    return Grism(
        "NRC_WFSS",
        "NIRCAM",
        {
            "DETECTOR": "NRCALONG",
            "FILTER": "F444W",
            "PUPIL": "GRISMR",
            "MODULE": "A",
            "CHANNEL": "LONG",
        },
        band="F444W",
        ends=(3.88, 4.985),
        edge=0.008,
        shape=(500, 2048),
        aperture=Aperture("NRCA5_FULL", 86.1, -493.2, -0.1, 1, 0.063),
        detector=Detector(1.8, 0.012, "DEEP8", -1, 2),
        orders={
            1: OrderTrace(
                ((-200.0, 2e-3, -4e-4), (1390.0, -6e-3, 2e-3), (4.0, 0.0, 0.0)),
                ((-0.6, 4e-4, -3e-4), (1.4, 1e-3, 6e-4), (-0.4, 0.0, 0.0)),
                wave,
                0.00058,
            ),
            2: OrderTrace(
                ((1630.0, 1e-3, 0.0), (2770.0, -1e-2, 3e-3)),
                ((1.1, 0.0, -4e-4), (2.0, 0.0, 0.0)),
                wave,
                0.01,
            ),
        },
        extracted=(1,),
        magnitude=23.9,
    )


GRISMS: Mapping[str, Grism] = {g.exp_type: g for g in (_niriss(), _nircam())}
"""Instruments by exposure type."""

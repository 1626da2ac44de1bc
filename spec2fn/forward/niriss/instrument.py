"""The single-object slitless spectrograph (SOSS) that synthetic exposures are taken with.

Close to NIRISS with GR700XD (Albert et al. 2023, PASP 135, 075001) in traces, dispersion, image
and response, but made of closed formulas, so that what the reference files say and what the
detector records are the same thing. Columns and rows are counted from 0 in the frame of
SUBSTRIP256; wavelengths fall with the column.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from spec2fn.forward.exposures import Detector
from spec2fn.forward.gaussian import enclosed
from spec2fn.typing import HostArray

__all__ = [
    "BOX",
    "DETECTOR",
    "ORDERS",
    "PHOTMJ",
    "STRIPS",
    "WHEEL",
    "Order",
    "Strip",
    "background_templates",
    "kernel",
    "kernel_sigma",
    "lit",
    "pathloss",
    "profile",
    "throughput",
    "throughput_left",
    "trace",
    "wavelength",
]

DETECTOR = Detector(gain=1.6, read_noise=0.05, pattern="NISRAPID", fast=-2, slow=-1)
V2V3 = (-290.0, -697.0)
"""Where the strip looks [arcsec]."""
V3_ANGLE = 0.57
PIXEL_SCALE = 0.0656
"""Size of a pixel [arcsec]."""

WHEEL_COMMANDED = 245.76
"""Angle of the pupil wheel [deg] for which the tabulated traces hold."""
WHEEL = 245.79
"""Where it stands."""
WHEEL_BOUNDS = (245.54, 246.04)
"""Angles for which the references know the traces."""
WHEEL_DISPERSION = -0.006
"""Change of the wavelength of a column with the angle of the wheel [um/deg]."""

COLLECTING = 2.0e8
"""Count rate [DN/s] of a source of 1 Jy at 1 um in 1 um of spectrum at unit throughput."""
PHOTMJ = 1.0e-5
"""Conversion at unit relative response on the reference day [Jy per DN/s]."""
REFERENCE_DAY = 59700.0
LOSS_PER_YEAR = 0.01
BOX = 40
"""Width [pixel] of the extraction box that the conversion holds for."""

SEPARATION = (0.77, 0.95)
"""Wavelengths [um] of order 2 from which on it is extracted with order 1, and up to which alone."""
KERNEL_HALF = 12
"""Half width of the tabulated kernels [pixel]."""
KERNEL_SAMPLES = 10
"""Samples of them per pixel."""
SHORTEST, LONGEST = 0.5, 5.5
"""Wavelengths [um] of the tables."""
_FULL = 2048
_CORE, _WING, _WING_LENGTH = 11.0, 3e-4, 15.0
_CUTOFF = (0.57, 0.006)
_STRAY = 2e-3
_PATHLOSS = (0.97, -0.02, 0.1)


class Order(NamedTuple):
    """A spectral order.

    Attributes
    ----------
    row : tuple of float
        Polynomial of the row of the trace in the column, as a share of all columns; lowest power
        first.
    wave : tuple of float
        The same of the wavelength [um].
    pivot : (float, float)
        Column, as a share, and row about which the trace turns with the wheel.
    throughput : (float, float, float)
        Peak, wavelength of the peak, and width [um].
    cutoff : float
        Column, as a share, up to which the order is extracted.
    shortest : float or None
        Wavelength [um] down to which it is.
    """

    row: tuple[float, ...]
    wave: tuple[float, ...]
    pivot: tuple[float, float]
    throughput: tuple[float, float, float]
    cutoff: float
    shortest: float | None


_PIVOT = (1677.0 / _FULL, 200.0)
ORDERS = {
    1: Order(
        (85.0, -98.5, 129.2, -542.7, 1268.4, -1359.0, 593.4),
        (2.8351, -2.0749, 0.0763),
        (1887.0 / _FULL, 54.0),
        (0.45, 1.35, 0.50),
        1.0,
        None,
    ),
    2: Order(
        (104.4, -46.1, -91.8, 818.3, -1404.7, 1025.9),
        (1.4111, -0.9546, -0.0021),
        _PIVOT,
        (0.28, 0.72, 0.16),
        1783.0 / _FULL,
        0.58,
    ),
    3: Order(
        (139.2, 23.8, 110.6, 291.0),
        (0.9544, -0.6379),
        _PIVOT,
        (0.06, 0.62, 0.09),
        1134.0 / _FULL,
        0.58,
    ),
}


@dataclass(frozen=True)
class Strip:
    """The part of the detector that is read.

    Attributes
    ----------
    subarray : str
    rows : int
    first : int
        First row, in the frame of SUBSTRIP256.
    columns : int
        With fewer than there are, all traces are as many times shorter: for tests. The background
        needs 725.
    """

    subarray: str
    rows: int
    first: int = 0
    columns: int = _FULL

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.rows, self.columns

    @property
    def corner(self) -> tuple[int, int]:
        """First column and row on the detector, counted from 1."""
        return 1, 1793 + self.first


STRIPS = {s.subarray: s for s in (Strip("SUBSTRIP256", 256), Strip("SUBSTRIP96", 96, 10))}
"""By SUBARRAY."""


def _polynomial(coefficients: tuple[float, ...], place: HostArray) -> HostArray:
    return np.asarray(np.polynomial.polynomial.polyval(place, coefficients))


def trace(order: int, column: HostArray, columns: int = _FULL, angle: float = 0.0) -> HostArray:
    """Row of the middle of an order; `angle` is how far the wheel is from where it should be."""
    one = ORDERS[order]
    if angle == 0.0:
        return _polynomial(one.row, column / columns)
    x = np.arange(-16.0, columns + 16.0)
    dx, dy = x - one.pivot[0] * columns, _polynomial(one.row, x / columns) - one.pivot[1]
    c, s = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    turned = c * dx - s * dy + one.pivot[0] * columns, s * dx + c * dy + one.pivot[1]
    return np.asarray(np.interp(column, *turned))


def wavelength(
    order: int, column: HostArray, columns: int = _FULL, angle: float = 0.0
) -> HostArray:
    """Wavelength [um] at a column; `angle` as of :func:`trace`."""
    return _polynomial(ORDERS[order].wave, column / columns) + WHEEL_DISPERSION * angle


def throughput(order: int, wave: HostArray) -> HostArray:
    """Share of the light that an order gets; none below the cut-off of the optics."""
    peak, center, width = ORDERS[order].throughput
    edge, scale = _CUTOFF
    passed = 1.0 / (1.0 + np.exp(-(wave - edge) / scale))
    return passed * (peak * np.exp(-0.5 * ((wave - center) / width) ** 2) + _STRAY)


def lit(order: int, wave: HostArray, share: float = 0.05) -> HostArray:
    """Where the throughput of an order is above a share of its peak, and it is extracted."""
    one = ORDERS[order]
    last = wavelength(order, np.array(one.cutoff), 1)
    return (throughput(order, wave) > share * one.throughput[0]) & (wave > last)


def throughput_left(mjd: float) -> float:
    """Fraction of the throughput of the reference day that is left at a time [MJD]."""
    return 1.0 - LOSS_PER_YEAR * (mjd - REFERENCE_DAY) / 365.0


def _light(distance: HostArray) -> HostArray:
    d = np.abs(distance)
    core = np.exp(-((d / _CORE) ** 6)) * (0.6 + 0.4 * (d / _CORE) ** 2)
    return core + _WING * np.exp(-d / _WING_LENGTH)


_ALL = float(_light(np.arange(-400.0, 400.5, 0.05)).sum() * 0.05)
IN_BOX = float(_light(np.arange(-BOX / 2, BOX / 2, 0.05) + 0.025).sum() * 0.05) / _ALL
"""Share of the light in the box."""


def profile(distance: HostArray) -> HostArray:
    """Share of the light of a column in a pixel, by its distance from the trace [pixel].

    Two horns, as the defocused image of GR700XD has, and wings.
    """
    return _light(distance) / _ALL


def kernel_sigma(wave: HostArray) -> HostArray:
    """Standard deviation [pixel] of the image of a line along the dispersion."""
    return 0.85 + 0.12 * wave


def kernel(offset: HostArray, wave: HostArray) -> HostArray:
    """Image of a line, normalized, by the distance from it [pixel]."""
    sigma = kernel_sigma(wave)
    return np.exp(-0.5 * (offset / sigma) ** 2) / (np.sqrt(2 * np.pi) * sigma)


def background_templates(columns: int = _FULL) -> HostArray:
    """Zodiacal light on all 256 rows, relative, of several models: (model, row, column).

    The edge of the field stop of the pick-off mirror makes a step near column 700, whatever the
    number of columns.
    """
    x, y = np.arange(columns), np.arange(256.0)[:, None]
    steps = ((696, 0.75, 0.10), (700, 0.60, 0.05), (705, 0.45, 0.02))
    return np.stack(
        [
            (1.0 + height * enclosed(-1e3 + 0 * x, x - column, 3.0)) * (1.0 + slope * y / 256)
            for column, height, slope in steps
        ]
    )


def pathloss(column: HostArray, wheel: HostArray, columns: int = _FULL) -> HostArray:
    """Share of the light that reaches a column at an angle of the wheel [deg]."""
    level, along, turned = _PATHLOSS
    return level + along * column / columns + turned * (wheel - WHEEL_COMMANDED)

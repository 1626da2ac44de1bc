"""The medium-resolution spectrometer of MIRI that synthetic exposures are taken with.

As :mod:`spec2fn.forward.lrs.instrument`, made of closed formulas: the short-wavelength detector in
band SHORT, channels 1 and 2. Sizes of slices and of the image follow Argyriou et al. (2023, A&A
675, A111); slices are straight, and positions and wavelengths linear in row and column, so that
both directions of the WCS are exact.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.forward.exposures import Aperture
from spec2fn.typing import HostArray

if TYPE_CHECKING:
    from astropy.modeling import Model

__all__ = [
    "APERTURE",
    "BAND",
    "CHANNELS",
    "EXP_TYPE",
    "PHOTMJSR",
    "SHAPE",
    "Channel",
    "background",
    "fringes",
    "optics_trees",
    "regions",
    "relative_response",
    "sigma",
    "time_dependence",
    "wavelengths",
]

EXP_TYPE, BAND = "MIR_MRS", "SHORT"
SHAPE = (1024, 1032)
"""Rows and columns of the detector."""
PHOTMJSR = 50.0
"""Conversion at unit relative response on the reference day [MJy/sr per DN/s]."""
REFERENCE_DAY = 59700.0

_MIDDLE_ROW = 512.0
_BEND = 0.004  # columns a slice moves by per row
_TILT = 0.02  # rows by which wavelengths shift per column
_STAIRS = 0.3  # rows by which they shift from slice to slice
_PLANES = 9
_MARGINS = 1.06 - 0.01 * np.arange(_PLANES)  # of the maps of regions, in units of a slice's length


@dataclass(frozen=True)
class Channel:
    """Slices of a channel.

    Attributes
    ----------
    number, slices : int
    first, pitch : float
        Column of the middle of the first slice in the middle row, and columns between slices.
    scale : float
        Size of a pixel along the slice [arcsec].
    half_length, width : float
        Of a slice [arcsec].
    blue, step : float
        Wavelength in row 0 and its step per row [um].
    offset : (float, float)
        V2 and V3 of the field of view relative to channel 1 [arcsec].
    spaxel, planes : float, (float, float, float)
        Of cubes: size of a spaxel [arcsec]; first and last wavelength, and step [um].
    """

    number: int
    slices: int
    first: float
    pitch: float
    scale: float
    half_length: float
    width: float
    blue: float
    step: float
    offset: tuple[float, float]
    spaxel: float
    planes: tuple[float, float, float]

    @property
    def name(self) -> str:
        """Channel and band, as in the references."""
        return f"{self.number}{BAND}"

    @property
    def labels(self) -> range:
        """Numbers of the slices."""
        return range(100 * self.number + 1, 100 * self.number + self.slices + 1)

    @property
    def betas(self) -> HostArray:
        """Position of the slices [arcsec]."""
        return (np.arange(self.slices) - (self.slices - 1) / 2) * self.width


CHANNELS: tuple[Channel, ...] = (
    Channel(
        1, 21, 17.0, 23.3, 0.18, 1.66, 0.177, 4.88, 8.4e-4, (0.0, 0.0), 0.13, (4.90, 5.72, 8e-4)
    ),
    Channel(
        2,
        17,
        535.0,
        28.6,
        0.19,
        2.06,
        0.28,
        7.48,
        1.27e-3,
        (0.07, -0.05),
        0.17,
        (7.51, 8.75, 13e-4),
    ),
)

APERTURE = Aperture("MIRIFU_CHANNEL1S", -503.34, -318.86, 8.4, 2, CHANNELS[0].scale)
"""The middle of the field of view of channel 1; the angle is that from V3 to the slices."""


def sigma(wave: HostArray) -> HostArray:
    """Standard deviation [arcsec] of the Gaussian image of a star."""
    return (0.033 * wave + 0.106) / np.sqrt(8 * np.log(2))


def relative_response(wave: HostArray) -> HostArray:
    """Relative response: conversion to surface brightness relative to PHOTMJSR."""
    return 1.0 + 0.2 * np.sin(1.7 * wave) + 0.05 * (wave - 6.0)


def fringes(wave: HostArray) -> HostArray:
    """Throughput of the layers of the detector relative to its mean."""
    number = 1e4 / wave  # [1/cm]; layers with an optical path of 2.9 and 3.6 mm
    return (
        1.0
        + 0.10 * np.cos(2 * np.pi * 0.29 * number)
        + 0.03 * np.cos(2 * np.pi * 0.36 * number + 1)
    )


def time_dependence(wave: HostArray) -> dict[str, HostArray]:
    """Coefficients of the loss of throughput with time."""
    one = np.ones_like(wave)
    return {
        "alpha": -(0.01 + 0.001 * wave),
        "year1value": 1.0 - 0.0005 * wave,
        "tsoft": 50.0 * one,
        "t0": REFERENCE_DAY * one,
    }


def background(wave: HostArray) -> HostArray:
    """Surface brightness [MJy/sr] of zodiacal and thermal light."""
    return 6.0 * (wave / 6.0) ** 2


def _slices(channel: Channel) -> list[tuple[int, float, float, float]]:
    """Number, middle column, beta and offset of wavelength [row] of each slice."""
    middle = (channel.slices - 1) / 2
    return [
        (label, channel.first + k * channel.pitch, float(beta), _STAIRS * (k - middle))
        for k, (label, beta) in enumerate(zip(channel.labels, channel.betas, strict=True))
    ]


def _alpha(channel: Channel, middle: float, row: HostArray, column: HostArray) -> HostArray:
    return channel.scale * (column - middle - _BEND * (row - _MIDDLE_ROW))


def regions() -> HostArray:
    """Return the maps of slices at nine levels of throughput, uint16 (9, y, x)."""
    row, column = np.arange(SHAPE[0])[:, None], np.arange(SHAPE[1])
    out = np.zeros((_PLANES, *SHAPE), np.uint16)
    for channel in CHANNELS:
        for label, middle, _, _ in _slices(channel):
            distance = np.abs(_alpha(channel, middle, row, column))
            for plane, margin in zip(out, _MARGINS, strict=True):
                plane[distance <= margin * channel.half_length] = label
    return out


def wavelengths() -> HostArray:
    """Return the wavelength [um] of every pixel, (y, x), as in the nearest slice."""
    row, column = np.arange(SHAPE[0])[:, None], np.arange(SHAPE[1])
    out = np.full(SHAPE, np.inf)
    best = np.full(SHAPE, np.inf)
    for channel in CHANNELS:
        for _, middle, _, stairs in _slices(channel):
            wave = channel.blue + channel.step * (row + _TILT * (column - middle) + stairs)
            distance = np.abs(_alpha(channel, middle, row, column))
            nearer = distance < best
            out[nearer], best[nearer] = wave[nearer], distance[nearer]
    return out


def optics_trees() -> Mapping[str, Mapping[str, Any]]:
    """Return the content of what assign_wcs needs, by reference type."""
    from astropy.modeling.models import AffineTransformation2D, Const1D, Polynomial2D

    def plane(origin: float, first: float, second: float) -> Model:
        return Polynomial2D(1, c0_0=origin, c1_0=first, c0_1=second)

    angle = np.deg2rad(APERTURE.angle)
    cosine, sine = np.cos(angle), np.sin(angle)
    models: dict[str, list[Model]] = {n: [] for n in ("alpha", "beta", "wavelength", "x", "y")}
    for c in CHANNELS:
        for _, middle, beta, stairs in _slices(c):
            # of row and column, and back of wavelength and alpha
            origin = -middle + _BEND * _MIDDLE_ROW
            models["alpha"].append(plane(c.scale * origin, -c.scale * _BEND, c.scale))
            models["beta"].append(Const1D(beta))
            start = c.blue + c.step * (stairs - _TILT * middle)
            models["wavelength"].append(plane(start, c.step, c.step * _TILT))
            norm = 1 + _TILT * _BEND
            zero = (-c.blue / c.step - stairs + _TILT * _BEND * _MIDDLE_ROW) / norm
            first, second = 1 / (c.step * norm), -_TILT / (c.scale * norm)
            models["y"].append(plane(zero, first, second))
            column = middle + _BEND * (zero - _MIDDLE_ROW)
            models["x"].append(plane(column, _BEND * first, 1 / c.scale + _BEND * second))
    names = [c.name for c in CHANNELS]
    v2v3 = [
        AffineTransformation2D(
            [[cosine, -sine], [-sine, -cosine]],
            [APERTURE.v2 + c.offset[0], APERTURE.v3 + c.offset[1]],
        )
        for c in CHANNELS
    ]
    slices = [label for c in CHANNELS for label in c.labels]
    return {
        "distortion": {
            "abv2v3_model": {"model": v2v3, "channel_band": names},
            "bzero": {"beta_zero": [float(c.betas[0]) for c in CHANNELS], "channel_band": names},
            "bdel": {"delta_beta": [c.width for c in CHANNELS], "channel_band": names},
            "slices": slices,
            **{f"{n}_model": models[n] for n in ("alpha", "beta", "x", "y")},
        },
        "specwcs": {"model": models["wavelength"], "slices": slices},
        "wavelengthrange": {
            "waverange_selector": names,
            "wavelengthrange": [[c.planes[0] - 0.2, c.planes[1] + 0.2] for c in CHANNELS],
        },
        "regions": {"regions": regions()},
    }

"""Optics of a NIRSpec of straight lines, as the references that assign_wcs reads.

Layout, dispersion and plate scale are those of the instrument to a few percent, and both
directions of every transform are exact, which the polynomials of real references are not.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.schema import SHUTTERS_ACROSS, SHUTTERS_ALONG

if TYPE_CHECKING:
    from astropy.modeling import Model

__all__ = ["CONFIGURATIONS", "GWA_TILT", "optics_trees"]

CONFIGURATIONS: Mapping[str, tuple[str, float, float, tuple[float, float]]] = {
    "G140M": ("F100LP", 95700.0, -4.02, (0.9e-6, 1.9e-6)),
    "G235M": ("F170LP", 57200.0, -4.12, (1.6e-6, 3.2e-6)),
    "G395M": ("F290LP", 35600.0, -4.55, (2.8e-6, 5.3e-6)),
    "G235H": ("F170LP", 163300.0, -9.9, (1.6e-6, 3.2e-6)),
    "G395H": ("F290LP", 95400.0, -9.5, (2.8e-6, 5.3e-6)),
    "PRISM": ("CLEAR", 0.0, 24.22, (0.6e-6, 5.3e-6)),
}
"""Filter, lines per m, tilt [deg] and range of wavelengths [m] by grating."""

GWA_TILT = (0.34, 0.2)
"""Readings of the sensors of the grating wheel, GWA_XTIL and GWA_YTIL, of every exposure."""

_PIXEL = 18e-6  # m
_CORNERS = {"NRS1": (-0.038283, -0.018423, 1.0), "NRS2": (0.038059, 0.018421, -1.0)}
_QUADRANTS = {
    1: (-0.0427, -0.0418),
    2: (-0.0429, 0.0073),
    3: (0.0045, -0.0418),
    4: (0.0046, 0.0072),
}
_PITCH = (105.26e-6, 203.54e-6)
_OPEN = (78e-6, 178e-6)
_FIXED = [
    (0.02697, -0.00272, 75.5e-6, 1.2607e-3),
    (0.03466, -0.00126, 76.0e-6, 1.2724e-3),
    (0.02967, 0.00029, 154.7e-6, 1.4492e-3),
    (0.02867, 0.00155, 626.9e-6, 0.6184e-3),
    (-0.03468, 0.00276, 78.8e-6, 1.2737e-3),
]
_GLASS: Mapping[str, Any] = {
    "angle": -16.5,
    "kcoef": [0.58339748, 0.46037445, 3.8915394],
    "lcoef": [0.00252643, 0.010078333, 1200.556],
    "tcoef": [-2.66e-05, 0.0, 0.0, 0.0, 0.0, 0.0],
    "tref": 35.0,
    "pref": 0.0,
    "wbound": [0.4e-6, 6e-6],
}


@functools.cache
def optics_trees(grating: str) -> Mapping[str, tuple[Mapping[str, Any], Mapping[str, str]]]:
    """Return content and mode of what assign_wcs needs, by reference type."""
    from astropy.modeling.models import AffineTransformation2D, Polynomial1D, Scale, Shift

    name, density, tilt, waverange = CONFIGURATIONS[grating]

    def sensor(tilt_model: Model, zero: float) -> dict[str, Any]:
        reading = {"temperatures": [37.5], "unit": "arcsec", "zeroreadings": [zero]}
        return {**reading, "tilt_model": tilt_model}

    disperser = {
        "gwa_tiltx": sensor(Polynomial1D(1, c0=3033.4, c1=-8916.4), GWA_TILT[0]),
        "gwa_tilty": sensor(Polynomial1D(1, c0=0.0, c1=0.0), GWA_TILT[1]),
        "theta_x": 0.02,
        "theta_y": tilt,
        "theta_z": 0.02,
        "tilt_x": 0.0,
        "tilt_y": 0.0,
    }
    disperser |= _GLASS if grating == "PRISM" else {"groovedensity": density}
    fpa = {
        f"{detector.lower()}_model": AffineTransformation2D(
            [[sign * _PIXEL, 0], [0, sign * _PIXEL]]
        )
        | Shift(x) & Shift(y)
        for detector, (x, y, sign) in _CORNERS.items()
    }
    collimator = Shift(0.0) & Shift(0.2945) | Scale(1 / 1.571) & Scale(1 / 1.646)
    camera = Scale(3.52) & Scale(3.70) | Shift(0.0) & Shift(0.294)
    ranges = {
        "waverange_selector": [f"{name}_{grating}"],
        "wavelengthrange": [list(waverange)],
        "order": [-1],
    }
    return {
        "camera": ({"model": camera}, {}),
        "collimator": ({"model": collimator}, {}),
        "disperser": (disperser, {"grating": grating}),
        "fore": ({"model": _fore()}, {"filter": name}),
        "fpa": (fpa, {}),
        "msa": (_msa(), {}),
        "ote": ({"model": _ote()}, {}),
        "wavelengthrange": (ranges, {}),
    }


def _fore() -> Model:
    from astropy.modeling.models import Mapping as Map
    from astropy.modeling.models import Polynomial1D

    # degrees per metre, which depends a little on wavelength
    scale = Map((2,), n_inputs=3) | Polynomial1D(1, c0=0.715, c1=3.0)
    x, y = Map((0,), n_inputs=3), Map((1,), n_inputs=3)
    both = Map((0, 1, 2, 0, 1, 2))
    model = both | (x * scale) & (y * scale)
    model.inverse = both | (x / scale) & (y / scale)
    return model


def _ote() -> Model:
    from astropy.modeling.models import Rotation2D, Scale, Shift

    return Rotation2D(138.5) | Shift(0.10539) & Shift(-0.11913) | Scale(3600) & Scale(3600)


@functools.cache
def _msa() -> Mapping[str, Any]:
    from astropy.modeling.models import Rotation2D, Shift

    kind = [("NO", "i4"), ("XC", "f8"), ("YC", "f8"), ("SIZEX", "f8"), ("SIZEY", "f8")]
    row, column = np.divmod(np.arange(SHUTTERS_ALONG * SHUTTERS_ACROSS), SHUTTERS_ALONG)
    shutters = np.zeros(row.size, dtype=kind)
    shutters["NO"] = np.arange(row.size) + 1
    shutters["XC"], shutters["YC"] = column * _PITCH[0], row * _PITCH[1]
    shutters["SIZEX"], shutters["SIZEY"] = _OPEN
    fixed = np.array([(i, *slit) for i, slit in enumerate(_FIXED)], dtype=kind)
    tree = {
        f"Q{q}": {"data": shutters, "model": Rotation2D(0.01 * q) | Shift(x) & Shift(y)}
        for q, (x, y) in _QUADRANTS.items()
    }
    tree["Q5"] = {"data": fixed, "model": Rotation2D(0.0) | Shift(0.0) & Shift(0.0)}
    return tree

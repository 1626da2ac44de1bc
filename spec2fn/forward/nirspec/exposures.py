"""How synthetic exposures of NIRSpec are taken: keywords, pointing, shutters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from spec2fn.forward.exposures import Setup
from spec2fn.forward.nirspec import instrument as nrs
from spec2fn.forward.nirspec.optics import GWA_TILT
from spec2fn.typing import HostArray

__all__ = ["MSA_APERTURE", "NirspecSetup", "to_ideal"]

MSA_APERTURE = (378.56, -428.40)
"""V2 and V3 of the centre of the micro-shutter array [arcsec]."""
_PARITY = -1
_APERTURE_NAMES = {
    "NRS_MSASPEC": "NRS_FULL_MSA",
    "NRS_BRIGHTOBJ": "NRS_S1600A1_SLIT",
    "NRS_IFU": "NRS_FULL_IFU",
}


def _rotation() -> HostArray:
    """Derivative of (V2, V3) with respect to the ideal frame of the apertures."""
    c, s = np.cos(np.deg2rad(nrs.V3_ANGLE)), np.sin(np.deg2rad(nrs.V3_ANGLE))
    return np.array([[_PARITY * c, s], [-_PARITY * s, c]])


def to_ideal(v2: float, v3: float) -> tuple[float, float]:
    """Return an offset in V2, V3 in the ideal frame of the apertures [arcsec]."""
    x, y = np.linalg.solve(_rotation(), (v2, v3))
    return float(x), float(y)


@dataclass(frozen=True)
class NirspecSetup(Setup):
    """How an exposure of NIRSpec is taken.

    Attributes
    ----------
    grating : str
    aperture : (float, float)
        V2 and V3 of the reference point [arcsec].
    dither : (float, float)
        Position of the target relative to it, in the ideal frame [arcsec].
    positions : int
        Of the dither pattern.
    fixed_slit : str
        The slit the target is in, NONE for the MSA.
    """

    grating: str = "PRISM"
    aperture: tuple[float, float] = MSA_APERTURE
    dither: tuple[float, float] = (0.0, 0.0)
    positions: int = 1
    fixed_slit: str = "NONE"

    gain: ClassVar[float] = nrs.GAIN
    read_noise: ClassVar[float] = nrs.READ_NOISE

    def _configuration(self) -> dict[str, Any]:
        slit = self.fixed_slit
        return {
            "INSTRUME": "NIRSPEC",
            "DETECTOR": "NRS1",
            "GRATING": self.grating,
            "FXD_SLIT": slit,
            "GWA_XTIL": GWA_TILT[0],
            "GWA_YTIL": GWA_TILT[1],
            "GWA_TILT": 38.0,
            "READPATT": "NRSRAPID",
            "FASTAXIS": 2,
            "SLOWAXIS": 1,
            "PATTTYPE": "2-POINT-NOD" if self.positions > 1 else "NONE",
            "NUMDTHPT": self.positions,
            "XOFFSET": self.dither[0],
            "YOFFSET": self.dither[1],
            "APERNAME": _APERTURE_NAMES.get(self.exp_type, f"NRS_{slit}_SLIT"),
        }

    def _aperture(self) -> tuple[float, float, float, int, float]:
        return *self.aperture, nrs.V3_ANGLE, 1, nrs.PIXEL_SCALE

    def _offset(self) -> tuple[float, float]:
        v2, v3 = _rotation() @ self.dither
        return float(v2), float(v3)

"""How synthetic exposures of NIRSpec are taken: keywords, pointing, shutters."""

from __future__ import annotations

from typing import Any

from spec2fn.forward.exposures import Aperture, Setup
from spec2fn.forward.nirspec import instrument as nrs
from spec2fn.forward.nirspec.optics import CONFIGURATIONS, GWA_TILT

__all__ = ["nirspec_setup"]

_MSA = (378.56, -428.40)  # V2, V3 of the centre of the micro-shutter array [arcsec]
_APERTURE_NAMES = {
    "NRS_MSASPEC": "NRS_FULL_MSA",
    "NRS_BRIGHTOBJ": "NRS_S1600A1_SLIT",
    "NRS_IFU": "NRS_FULL_IFU",
}


def nirspec_setup(
    exp_type: str,
    *,
    grating: str = "PRISM",
    detector: str = "NRS1",
    fixed_slit: str = "NONE",
    at: tuple[float, float] = _MSA,
    positions: int = 1,
    **how: Any,  # noqa: ANN401 - fields of Setup
) -> Setup:
    """Return how an exposure of NIRSpec is taken.

    Parameters
    ----------
    exp_type, grating, detector : str
    fixed_slit : str
        The slit the target is in, NONE for the MSA.
    at : (float, float)
        V2 and V3 of the reference point [arcsec].
    positions : int
        Of the dither pattern.
    **how
        Other fields of :class:`~spec2fn.forward.exposures.Setup`.
    """
    name = _APERTURE_NAMES.get(exp_type, f"NRS_{fixed_slit}_SLIT")
    optics = {
        "INSTRUME": "NIRSPEC",
        "DETECTOR": detector,
        "GRATING": grating,
        "FXD_SLIT": fixed_slit,
        "GWA_XTIL": GWA_TILT[0],
        "GWA_YTIL": GWA_TILT[1],
        "GWA_TILT": 38.0,
    }
    return Setup(
        exp_type=exp_type,
        filter=CONFIGURATIONS[grating][0],
        detector=nrs.DETECTOR,
        aperture=Aperture(name, *at, nrs.V3_ANGLE, 1, nrs.PIXEL_SCALE),
        optics=optics,
        pattern=("2-POINT-NOD" if positions > 1 else "NONE", positions),
        **how,
    )

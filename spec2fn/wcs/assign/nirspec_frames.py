"""Coordinate frames of NIRSpec, from the detector to the sky."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING

from spec2fn.wcs.frames import plane, spectral, within_slit, world

if TYPE_CHECKING:
    from astropy.units import Unit
    from gwcs.coordinate_frames import CompositeFrame, CoordinateFrame

__all__ = ["frames"]


@functools.cache
def frames() -> Mapping[str, CoordinateFrame]:
    """Return the frames by name.

    ``slit_frame`` counts in units of the slit's (shutter's, slice's) size; ``coordinates`` are
    pixels before it is known which slice of the IFU they belong to, ``slicer`` is the plane of
    the IFU's image slicer.
    """
    from astropy import units
    from gwcs.coordinate_frames import CompositeFrame

    wavelength = spectral()

    def spectrum(name: str, unit: Unit, axes: tuple[str, str], part: str = "") -> CompositeFrame:
        return CompositeFrame([plane(part or f"{name}_spatial", unit, axes), wavelength], name=name)

    listed = (
        plane("coordinates"),
        plane("detector"),
        plane("sca"),
        plane("gwa", units.rad, ("alpha_in", "beta_in")),
        within_slit("slit_frame", wavelength),
        spectrum("slicer", "", ("x_slicer", "y_slicer")),
        spectrum("msa_frame", units.m, ("x_msa", "y_msa"), "msa_spatial"),
        spectrum("oteip", units.deg, ("X_OTEIP", "Y_OTEIP"), "oteip"),
        spectrum("oteip_chromcorr", units.deg, ("X_OTEIP", "Y_OTEIP"), "oteip"),
        spectrum("v2v3", units.arcsec, ("v2", "v3")),
        spectrum("v2v3vacorr", units.arcsec, ("v2", "v3")),
        world(wavelength),
    )
    return {frame.name: frame for frame in listed}

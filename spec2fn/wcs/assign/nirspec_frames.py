"""Coordinate frames of NIRSpec, from the detector to the sky."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from astropy.units import Unit
    from gwcs.coordinate_frames import CompositeFrame, CoordinateFrame, Frame2D

__all__ = ["frames"]


@functools.cache
def frames() -> Mapping[str, CoordinateFrame]:
    """Return the frames by name.

    ``slit_frame`` counts in units of the slit's (shutter's, slice's) size; ``coordinates`` are
    pixels before it is known which slice of the IFU they belong to, ``slicer`` is the plane of
    the IFU's image slicer.
    """
    from astropy import coordinates, units
    from gwcs.coordinate_frames import CelestialFrame, CompositeFrame, Frame2D, SpectralFrame

    spectral = SpectralFrame(
        name="spectral", axes_order=(2,), unit=(units.micron,), axes_names=("wavelength",)
    )

    def plane(name: str, unit: Unit, axes: tuple[str, str]) -> Frame2D:
        return Frame2D(name=name, axes_order=(0, 1), unit=(unit, unit), axes_names=axes)

    def spectrum(name: str, unit: Unit, axes: tuple[str, str], part: str = "") -> CompositeFrame:
        return CompositeFrame([plane(part or f"{name}_spatial", unit, axes), spectral], name=name)

    sky = CelestialFrame(name="sky", axes_order=(0, 1), reference_frame=coordinates.ICRS())
    made = (
        Frame2D(name="coordinates", axes_order=(0, 1)),
        Frame2D(name="detector", axes_order=(0, 1)),
        Frame2D(name="sca", axes_order=(0, 1)),
        plane("gwa", units.rad, ("alpha_in", "beta_in")),
        spectrum("slit_frame", "", ("x_slit", "y_slit"), "slit_spatial"),
        spectrum("slicer", "", ("x_slicer", "y_slicer")),
        spectrum("msa_frame", units.m, ("x_msa", "y_msa"), "msa_spatial"),
        spectrum("oteip", units.deg, ("X_OTEIP", "Y_OTEIP"), "oteip"),
        spectrum("oteip_chromcorr", units.deg, ("X_OTEIP", "Y_OTEIP"), "oteip"),
        spectrum("v2v3", units.arcsec, ("v2", "v3")),
        spectrum("v2v3vacorr", units.arcsec, ("v2", "v3")),
        CompositeFrame([sky, spectral], name="world"),
    )
    return {frame.name: frame for frame in made}

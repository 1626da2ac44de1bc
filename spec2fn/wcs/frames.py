"""Coordinate frames that the gwcs of images, spectra and cubes share."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from astropy.units import Unit
    from gwcs.coordinate_frames import CelestialFrame, CompositeFrame, Frame2D, SpectralFrame

__all__ = ["plane", "sky", "spectral", "within_slit", "world"]

RA_DEC = ("RA", "DEC")
"""Names of the axes of the sky, where they are written in capitals."""


def plane(name: str, unit: Unit | str = "pix", axes: tuple[str, str] = ("x", "y")) -> Frame2D:
    """Return the frame of two coordinates in one unit."""
    from gwcs.coordinate_frames import Frame2D

    return Frame2D(name=name, axes_order=(0, 1), unit=(unit, unit), axes_names=axes)


def sky(name: str = "sky", axes: tuple[str, str] | None = None) -> CelestialFrame:
    """Return the frame of right ascension and declination (ICRS) [deg]."""
    from astropy.coordinates import ICRS
    from gwcs.coordinate_frames import CelestialFrame

    return CelestialFrame(name=name, axes_order=(0, 1), reference_frame=ICRS(), axes_names=axes)


def spectral(name: str = "spectral", axis: str = "wavelength") -> SpectralFrame:
    """Return the frame of the wavelength [um] that follows two other coordinates."""
    from astropy import units
    from gwcs.coordinate_frames import SpectralFrame

    return SpectralFrame(name=name, axes_order=(2,), unit=(units.micron,), axes_names=(axis,))


def within_slit(name: str, wavelength: SpectralFrame) -> CompositeFrame:
    """Return the frame of a position in a slit, in units of its size, and wavelength."""
    from gwcs.coordinate_frames import CompositeFrame

    return CompositeFrame([plane("slit_spatial", "", ("x_slit", "y_slit")), wavelength], name=name)


def world(
    wavelength: SpectralFrame, place: CelestialFrame | Frame2D | None = None
) -> CompositeFrame:
    """Return the frame of a place, by default right ascension and declination, and wavelength."""
    from gwcs.coordinate_frames import CompositeFrame

    return CompositeFrame([sky() if place is None else place, wavelength], name="world")

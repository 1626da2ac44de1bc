"""Coordinate frames that the gwcs of images and spectra share."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from astropy.units import Unit
    from gwcs.coordinate_frames import CompositeFrame, Frame2D, SpectralFrame

__all__ = ["plane", "spectral", "world"]


def plane(name: str, unit: Unit | str, axes: tuple[str, str] = ("x", "y")) -> Frame2D:
    """Return the frame of two coordinates in one unit."""
    from gwcs.coordinate_frames import Frame2D

    return Frame2D(name=name, axes_order=(0, 1), unit=(unit, unit), axes_names=axes)


def spectral(name: str = "spectral", axis: str = "wavelength") -> SpectralFrame:
    """Return the frame of the wavelength [um] that follows two other coordinates."""
    from astropy import units
    from gwcs.coordinate_frames import SpectralFrame

    return SpectralFrame(name=name, axes_order=(2,), unit=(units.micron,), axes_names=(axis,))


def world(wavelength: SpectralFrame) -> CompositeFrame:
    """Return the frame of right ascension, declination (ICRS) [deg] and wavelength."""
    from astropy.coordinates import ICRS
    from gwcs.coordinate_frames import CelestialFrame, CompositeFrame

    sky = CelestialFrame(name="sky", axes_order=(0, 1), reference_frame=ICRS())
    return CompositeFrame([sky, wavelength], name="world")

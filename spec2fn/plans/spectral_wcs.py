"""The WCS of an extracted spectrum: element number to sky position and wavelength."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["spectral_wcs"]


def spectral_wcs(ra: float, dec: float, wavelength: np.ndarray) -> Any:
    """Build a gwcs with a fixed sky position and a table of wavelengths.

    Parameters
    ----------
    ra, dec : float
        Centre of the extraction aperture (ICRS) [deg].
    wavelength : array of float64, (wave,)
        [um]

    Returns
    -------
    gwcs.WCS
        From the element (counted from 0) to (ra, dec, wavelength); with an inverse if the
        wavelengths are monotonic. Beyond the ends the table is extrapolated.
    """
    from astropy import coordinates, units
    from astropy.modeling.models import Const1D, Mapping, Tabular1D
    from gwcs import coordinate_frames as frames
    from gwcs.wcs import WCS

    pixel = frames.CoordinateFrame(
        naxes=1, axes_type=("SPATIAL",), axes_order=(0,), unit=(units.pix,), name="pixel_frame"
    )
    sky = frames.CelestialFrame(name="sky", axes_order=(0, 1), reference_frame=coordinates.ICRS())
    spectral = frames.SpectralFrame(
        name="spectral", axes_order=(2,), unit=(units.micron,), axes_names=("wavelength",)
    )
    world = frames.CompositeFrame([sky, spectral], name="world")
    elements = np.arange(len(wavelength), dtype=float)
    table = Tabular1D(points=elements, lookup_table=wavelength, bounds_error=False, fill_value=None)
    transform = Mapping((0, 0, 0)) | Const1D(ra) & Const1D(dec) & table
    transform.name = "pixel_to_world"
    steps = np.diff(wavelength)
    if len(steps) and (np.all(steps > 0) or np.all(steps < 0)):
        forward = slice(None) if steps[0] > 0 else slice(None, None, -1)
        transform.inverse = Mapping((2,)) | Tabular1D(
            points=wavelength[forward], lookup_table=elements[forward], bounds_error=False
        )
    return WCS([(pixel, transform), (world, None)])

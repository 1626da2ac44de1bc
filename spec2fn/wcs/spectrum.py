"""The WCS of an extracted spectrum: element number to sky position and wavelength."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from spec2fn.deferred import DeferredWcs
from spec2fn.typing import HostArray
from spec2fn.wcs.frames import spectral, world

if TYPE_CHECKING:
    from gwcs import WCS

__all__ = ["SpectralWcs", "spectral_wcs"]


class SpectralWcs(Mapping[str, "WCS"]):
    """The WCSs of many spectra by the names of their slits, built when they are asked for.

    Parameters
    ----------
    names : iterable of str
    position : array of float64, (spectrum, 2)
        Right ascension and declination of the centres of the apertures [deg].
    wavelength : array of float64, (spectrum, wave)
        [um], NaN beyond the end of each spectrum.
    """

    def __init__(self, names: Iterable[object], position: HostArray, wavelength: HostArray) -> None:
        rows = zip(map(str, names), position, wavelength, strict=True)
        self._made = {n: _deferred(float(ra), float(dec), w) for n, (ra, dec), w in rows}

    def __getitem__(self, name: str) -> WCS:
        return self._made[name].load()

    def deferred(self, name: str) -> DeferredWcs:
        """Return what stands for the WCS of a spectrum until it is made."""
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._made)

    def __len__(self) -> int:
        return len(self._made)


def _deferred(ra: float, dec: float, wavelength: HostArray) -> DeferredWcs:
    wavelength = wavelength[np.isfinite(wavelength)]
    steps = np.diff(wavelength)
    known = np.isfinite((ra, dec)).all() and len(steps) > 0 and steps.all()
    monotonic = known and np.all(np.sign(steps) == np.sign(steps[0]))
    kind = ("spectrum", bool(steps[0] > 0)) if monotonic else None
    numbers = ra, dec, wavelength, np.arange(len(wavelength), dtype=float)
    return DeferredWcs(spectral_wcs, numbers, kind)


def spectral_wcs(
    ra: float, dec: float, wavelength: HostArray, elements: HostArray | None = None
) -> WCS:
    """Build a gwcs with a fixed sky position and a table of wavelengths.

    Parameters
    ----------
    ra, dec : float
        Centre of the extraction aperture (ICRS) [deg].
    wavelength : array of float64, (wave,)
        [um]
    elements : array of float64, (wave,), optional
        Numbers of the elements, by default from 0.

    Returns
    -------
    gwcs.WCS
        From the element to (ra, dec, wavelength); with an inverse if the
        wavelengths are monotonic. Beyond the ends the table is extrapolated.
    """
    from astropy import units
    from astropy.modeling.models import Const1D, Mapping, Tabular1D
    from gwcs.coordinate_frames import CoordinateFrame
    from gwcs.wcs import WCS

    if elements is None:
        elements = np.arange(len(wavelength), dtype=float)
    pixel = CoordinateFrame(
        naxes=1, axes_type=("SPATIAL",), axes_order=(0,), unit=(units.pix,), name="pixel_frame"
    )
    table = Tabular1D(points=elements, lookup_table=wavelength, bounds_error=False, fill_value=None)
    transform = Mapping((0, 0, 0)) | Const1D(ra) & Const1D(dec) & table
    transform.name = "pixel_to_world"
    steps = np.diff(wavelength)
    if len(steps) and (np.all(steps > 0) or np.all(steps < 0)):
        forward = slice(None) if steps[0] > 0 else slice(None, None, -1)
        transform.inverse = Mapping((2,)) | Tabular1D(
            points=wavelength[forward], lookup_table=elements[forward], bounds_error=False
        )
    return WCS([(pixel, transform), (world(spectral()), None)])

"""Which pixels become a spectrum, at which wavelengths: an aperture put on an image."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from dataclasses import replace as _replace

import numpy as np

from spec2fn.plans.extraction.aperture import (
    Aperture,
    aperture_weights,
    bounding_slices,
    center_at,
    mean_wavelength,
    weighted_center,
)
from spec2fn.plans.extraction.source_location import Geometry
from spec2fn.typing import HostArray

__all__ = ["SpectrumDefinition", "define_spectrum"]


@dataclass(frozen=True, eq=False)
class SpectrumDefinition:
    """A spectrum that can be extracted: pixels, wavelengths, and where it is.

    Attributes
    ----------
    aperture : Aperture
        Centred on the source.
    profiles : tuple of array of float64, (y, x)
        Weights of the aperture, or profiles of the source and of its negative companion.
    region : array of bool, (y, x) or None
        Background pixels.
    mean : array of float64, (disp,)
        Wavelength of every dispersion element [um], NaN where there is none.
    limits : array of float64, (4,)
        Inclusive limits in x and y (start, stop, start, stop), pixels counted from 1.
    position : array of float64, (2,)
        Right ascension and declination of the centre [deg]; NaN if unknown.
    """

    aperture: Aperture
    profiles: tuple[HostArray, ...]
    region: HostArray | None
    mean: HostArray
    limits: HostArray
    position: HostArray

    @functools.cached_property
    def elements(self) -> HostArray:
        """Dispersion elements that have a wavelength."""
        return np.flatnonzero(np.isfinite(self.mean))

    def window(self) -> tuple[int, int, int, int]:
        """Row start, row stop, column start, column stop of the part that holds all that counts."""
        masks = [p != 0 for p in self.profiles] + ([] if self.region is None else [self.region])
        y0, y1, x0, x1 = bounding_slices(masks)
        # smoothing looks at the neighbours of the elements that are extracted
        halo = self.aperture.smoothing_length // 2
        n = len(self.mean)
        start = max(int(self.elements[0]) - halo, 0)
        stop = min(int(self.elements[-1]) + halo + 1, n)
        return (y0, y1, start, stop) if self.aperture.dispaxis == 1 else (start, stop, x0, x1)


def define_spectrum(
    aperture: Aperture,
    wavelength: HostArray,
    geometry: Geometry,
    model: Callable[[HostArray | None], tuple[tuple[HostArray, ...], float, float]],
) -> SpectrumDefinition | str:
    """Turn an aperture into the weights of pixels and the wavelengths of a spectrum.

    Parameters
    ----------
    aperture : Aperture
        As the reference and the user define it.
    wavelength : array of float64, (y, x)
        [um], NaN where there is none.
    geometry : Geometry
        From x, y to right ascension, declination, wavelength, and where the source is.
    model : callable
        Takes the trace of the source, or None, and returns the profiles of an optimal extraction
        and their limits across the trace.

    Returns
    -------
    SpectrumDefinition or str
        Why there is no spectrum.
    """
    dispaxis = aperture.dispaxis
    aperture = _centred(aperture, wavelength, geometry)
    profiles: tuple[HostArray, ...]
    if aperture.extraction_type == "optimal":
        profiles, lower, upper = model(aperture.trace)
    else:
        weights, lower, upper = aperture_weights(aperture, wavelength)
        profiles = (weights,)
    profiles = tuple(np.where(np.isfinite(wavelength), p, 0.0) for p in profiles)
    region = None
    if aperture.subtract_background and aperture.bkg_coeff is not None:
        region = aperture_weights(aperture, wavelength, background=True)[0] != 0
    mean = mean_wavelength(profiles[0], wavelength, dispaxis)
    if not np.isfinite(mean).any():
        axis, n = "yx"[dispaxis - 1], wavelength.shape[dispaxis - 1]
        return (
            f"no pixel of the extraction aperture has a wavelength: it spans {axis} = {lower:.1f}"
            f" to {upper:.1f} of an image with {axis} = 0 to {n - 1}; correct the extract1d"
            " reference or extract_1d.position_offset, or set extract_1d.use_source_posn=true"
        )
    along = np.flatnonzero(profiles[0].sum(axis=dispaxis - 1) > 0)
    edges = (along[0], along[-1]) if len(along) else (np.nan, np.nan)
    limits = (*edges, lower, upper) if dispaxis == 1 else (lower, upper, *edges)
    return SpectrumDefinition(
        aperture,
        profiles,
        region,
        mean,
        limits=np.array(limits, dtype=np.float64) + 1.0,
        position=_sky_center(geometry, profiles[0]),
    )


def _centred(aperture: Aperture, wavelength: HostArray, geometry: Geometry) -> Aperture:
    """Move the aperture to the source and by the user's offset."""
    source = geometry.locate() if aperture.use_source_posn else None
    if source is not None:
        nominal, _, _ = aperture_weights(aperture, wavelength)
        offset = source.across - center_at(nominal, aperture.dispaxis, source.element)
        aperture = _replace(aperture.shifted(offset), trace=source.trace)
    if aperture.position_offset:
        aperture = aperture.shifted(aperture.position_offset)
    return aperture


def _sky_center(geometry: Geometry, weights: HostArray) -> HostArray:
    """Sky position of the centre of the aperture [deg]."""
    y, x = weighted_center(weights)
    if geometry.wcs is None:
        return np.full(2, np.nan)
    position = np.array([float(v) for v in geometry(x, y)])
    return position[:2] if np.isfinite(position).all() else np.full(2, np.nan)

"""Reference files of integral-field units: cubes, apertures, aperture corrections.

The image of a star in a cube is wider than that on the sky: a pixel averages the light over the
piece of a slice that it sees, and cube building spreads it evenly over that piece; a spaxel
averages over its area, and the aperture, in the middle of the spaxel that is nearest to the star,
cuts it as if it were uniform. Averaged over where the star stands on the grid, that is a
convolution with each of the three shapes twice, and with that of a spaxel once more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.forward.reference_files import table_hdu
from spec2fn.typing import HostArray

if TYPE_CHECKING:
    from astropy.io.fits.hdu.base import ExtensionHDU

__all__ = ["EXTRACTION", "CubeImage", "apcorr_table", "apertures", "cube_tables"]

EXTRACTION: Mapping[str, Any] = {
    "region_type": "target",
    "subtract_background": True,
    "method": "exact",
    "subpixels": 10,
}
"""Metadata of an extract1d reference."""
_RADIUS = 3.5  # of the aperture, in units of the standard deviation of the image
_ANNULUS = (4.6, 6.6)
_SIZES = np.linspace(1.0, 4.4, 35)
_GRID, _EXTENT = 256, 16.0  # samples of the image, over so many standard deviations


@dataclass(frozen=True)
class CubeImage:
    """Image of a star in a cube.

    Attributes
    ----------
    pixel, slice_width, spaxel : float
        Sizes [arcsec].
    """

    pixel: float
    slice_width: float
    spaxel: float

    def sigma(self, sigma: HostArray) -> HostArray:
        """Standard deviation [arcsec], mean of both directions, given that on the sky."""
        sampling = (self.pixel**2 + self.slice_width**2 + 3 * self.spaxel**2) / 12
        return np.asarray(np.sqrt(sigma**2 + sampling))

    def enclosed(self, sigma: float, radii: HostArray) -> HostArray:
        """Share of the light within `radii` [arcsec], for a Gaussian on the sky."""
        width = float(self.sigma(np.array(sigma)))
        step = _EXTENT * width / _GRID
        frequency = np.fft.rfftfreq(_GRID, step)
        profiles = []
        for box in (self.pixel, self.slice_width):
            transform = np.exp(-2 * (np.pi * sigma * frequency) ** 2)
            transform *= np.sinc(box * frequency) ** 2 * np.sinc(self.spaxel * frequency) ** 3
            profiles.append(np.fft.fftshift(np.fft.irfft(transform, _GRID)))
        place = (np.arange(_GRID) - _GRID // 2) * step
        distance = np.hypot(place[:, None], place)
        # a sample at the rim counts by how far it lies within
        inside = np.clip((radii[:, None, None] - distance) / step + 0.5, 0.0, 1.0)
        return np.asarray(np.einsum("kij,i,j->k", inside, *profiles, optimize=True))


def apertures(wave: HostArray, sigma: HostArray) -> dict[str, Any]:
    """Return radii by wavelength [um], given the standard deviation of the image [arcsec]."""
    one = np.ones((1, len(wave)), np.float32)

    def row(values: HostArray) -> HostArray:
        return np.asarray(values[None] * one, np.float32)

    return {
        "wavelength": row(wave),
        "wavelength_units": "micron",
        "radius": row(_RADIUS * sigma),
        "radius_units": "arcsec",
        "inner_bkg": row(_ANNULUS[0] * sigma),
        "inner_bkg_units": "arcsec",
        "outer_bkg": row(_ANNULUS[1] * sigma),
        "outer_bkg_units": "arcsec",
        "axis_ratio": one,
        "axis_pa": 0 * one,
        "axis_pa_units": "degrees",
    }


def apcorr_table(
    wave: HostArray, sigma: HostArray, images: Sequence[CubeImage], **mode: str
) -> dict[str, Any]:
    """Return aperture corrections by radius and wavelength, for a `mode`.

    Of wavelengths [um] and standard deviations of the image on the sky [arcsec], (n,), and of its
    images in the cube.
    """
    radii = np.array([_SIZES * i.sigma(s) for i, s in zip(images, sigma, strict=True)]).T
    enclosed = [i.enclosed(s, r) for i, s, r in zip(images, sigma, radii.T, strict=True)]
    corrections = 1 / np.array(enclosed, np.float32).T
    return {
        **mode,
        "wavelength": np.asarray(wave[None], np.float32),
        "wavelength_units": "micron",
        "radius": radii.astype(np.float32),
        "radius_units": "arcsec",
        "apcorr": corrections,
        "apcorr_err": 0 * corrections,
    }


def cube_tables(
    who: Mapping[str, Any],
    planes: HostArray,
    spaxels: HostArray,
    tables: Mapping[str, HostArray],
    *,
    drizzle: str,
) -> list[ExtensionHDU]:
    """Return the tables of a CUBEPAR reference.

    Parameters
    ----------
    who : mapping of str to array
        Columns that name the bands.
    planes : array, shape (n, 3)
        First and last wavelength and step of each band [um].
    spaxels : array, shape (n,)
        Size of a spaxel [arcsec].
    tables : mapping of str to array
        Wavelengths [um] of cubes of several bands, by extension without its method.
    drizzle : str
        What the extensions for drizzle end with.
    """

    def columns(**values: HostArray) -> dict[str, HostArray]:
        return {k: np.asarray(v, np.float32) for k, v in values.items()}

    low, high, step = np.asarray(planes).T
    cubes = {"spaxelsize": spaxels, "spectralstep": step, "wavemin": low, "wavemax": high}
    radii = {"roispatial": 2 * spaxels, "roispectral": 2 * step}
    msm = {"power": 2.0 + 0 * step, "softrad": 0.01 + 0 * step}
    emsm = {"scalerad": 0.8 * spaxels}
    hdus = [
        table_hdu("CUBEPAR", {**who, **columns(**cubes)}),
        table_hdu("CUBEPAR_MSM", {**who, **columns(**radii, **msm)}),
        table_hdu("CUBEPAR_EMSM", {**who, **columns(**radii, **emsm)}),
    ]
    for name, wave in tables.items():
        near = np.interp(wave, low, spaxels)
        thick = np.gradient(wave)
        about = {"wavelength": wave, "roispatial": 2 * near, "roispectral": 2 * thick}
        one = np.ones(len(wave))
        hdus += [
            table_hdu(f"{name}_MSM", columns(**about, power=2 * one, softrad=0.01 * one)),
            table_hdu(f"{name}_EMSM", columns(**about, scalerad=0.8 * near)),
            table_hdu(f"{name}_{drizzle}", columns(wavelength=wave)),
        ]
    return hdus

"""Where on the detector the source's spectrum should be, according to the WCS.

MIRI LRS fixed slit: the dithered pointing (``DITH_RA``, ``DITH_DEC``, or the position measured
on the target-acquisition image) is projected through the WCS at every wavelength.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from spec2fn.modes import mode_of
from spec2fn.schema import meta_of
from spec2fn.typing import HostArray
from spec2fn.wcs.lower import box_of

if TYPE_CHECKING:
    import xarray as xr
    from gwcs import WCS

__all__ = [
    "BoundingBox",
    "Geometry",
    "ImageGeometry",
    "Location",
    "Middle",
    "aperture_angle",
    "image_geometry",
    "whole_box",
]

BoundingBox = tuple[tuple[float, float], tuple[float, float]]
Position = tuple[float, float]


class Middle(NamedTuple):
    """Middle of the spectral region: pixel indices and wavelength [um]."""

    along: float
    across: float
    wavelength: float


class Location(NamedTuple):
    """Position of the source across the trace [pixel]."""

    element: int  # of the dispersion, at which `across` holds
    across: float
    trace: HostArray  # at every element; NaN outside the bounding box


def aperture_angle(ds: xr.Dataset) -> HostArray | None:
    """Position angle of the instrument's aperture [deg], (1,), if the header says."""
    angle = meta_of(ds).get("PA_APER")
    return None if angle is None else np.array([float(angle)])


def whole_box(shape: tuple[int, int]) -> BoundingBox:
    """Return ``((x0, x1), (y0, y1))`` of the edges of an image."""
    return (-0.5, shape[1] - 0.5), (-0.5, shape[0] - 0.5)


@dataclass(frozen=True, eq=False)
class Geometry(ABC):
    """Where the only spectrum of an image, or that of a slit, and its source are.

    Positions are right ascension and declination, or those in the slit.

    Attributes
    ----------
    wcs : gwcs.WCS or None
    box : ((x0, x1), (y0, y1))
        Bounding box [pixel].
    shape : (int, int)
        Rows and columns of the image.
    source : (float, float) or None
        Position of the source; None or NaN if unknown.
    dispaxis : int
        1 along x, 2 along y.
    """

    wcs: WCS
    box: BoundingBox
    shape: tuple[int, int]
    source: Position | None
    dispaxis: int

    @abstractmethod
    def __call__(self, x: HostArray | float, y: HostArray | float) -> tuple[HostArray, ...]:
        """World coordinates of pixels, NaN outside the bounding box."""

    @abstractmethod
    def across(self, position: Position, wavelength: float) -> float:
        """Pixel across the trace at which a position is seen at a wavelength [um], or NaN."""

    @abstractmethod
    def trace(self, position: Position) -> HostArray:
        """The same at every dispersion element, NaN outside the bounding box."""

    @abstractmethod
    def position(self, along: float, across: float) -> Position | None:
        """Position that is seen at a pixel, if there are any."""

    @abstractmethod
    def mirrored(self) -> Position | None:
        """Position of the negative source of a two-point nod, or None if it cannot be known."""

    @property
    def limits(self) -> BoundingBox:
        """Bounding box along and across the dispersion."""
        return self.box if self.dispaxis == 1 else self.box[::-1]

    def placed(self, along: HostArray, across: HostArray) -> HostArray:
        """Interpolate points of a trace to the dispersion elements, NaN outside the box."""
        from scipy.interpolate import interp1d

        low, high = self.limits[0]
        start = int(np.ceil(low))
        elements = np.arange(start, start + int(high - low))
        trace = np.full(self.shape[1] if self.dispaxis == 1 else self.shape[0], np.nan)
        line = interp1d(along, across, fill_value="extrapolate")
        inside = (elements >= 0) & (elements < len(trace))
        # The peer counts the elements from the start of the bounding box when it evaluates the
        # line, and from the start of the image when it places it: on unresampled LRS images (box
        # from row 7) the trace is up to 0.06 pixel off. Kept, as spectra are compared with the
        # peer's.
        trace[elements[inside]] = line(elements[inside] - start)
        return trace

    def middle(self) -> Middle:
        """Find the middle of the bounding box, along and across the dispersion.

        The wavelength is the mean along the middle dispersion element; `across` is where the
        wavelength there equals the mean (for a tilted slit not the geometric middle).
        """
        limits, cross = self.limits
        along = (limits[0] + limits[1]) / 2.0
        across = np.arange(round(cross[1]), dtype=float)
        fixed = np.full(len(across), along)
        waves = np.asarray(self(*((fixed, across) if self.dispaxis == 1 else (across, fixed)))[2])
        good = np.isfinite(waves)
        if not good.any():
            return Middle(along, float(across.mean()), float("nan"))
        waves, across = waves[good], across[good]
        mean = float(waves.mean())
        if np.allclose(waves, mean):
            # lines of constant wavelength along the pixels: no interpolation of rounding errors
            return Middle(along, float(across.mean()), mean)
        order = np.argsort(waves)
        return Middle(along, float(np.interp(mean, waves[order], across[order])), mean)

    def locate(self) -> Location | None:
        """Project the source onto the image.

        None if its position is unknown, cannot be projected, or is outside the image.
        """
        if self.source is None:
            return None
        middle = self.middle()
        across = self.across(self.source, middle.wavelength)
        low, high = self.limits[1]
        if not low <= across <= high:
            return None
        return Location(int(np.round(middle.along)), across, self.trace(self.source))

    def middle_trace(self, middle: Middle) -> HostArray:
        """Trace of a source in the middle of the slit."""
        position = self.position(middle.along, middle.across)
        if position is None:
            return self.placed(np.arange(2.0), np.full(2, middle.across))
        return self.trace(position)

    def nod(self, wavelength: float) -> float:
        """Pixel across the trace of the negative source of a two-point nod; NaN if unknown."""
        position = self.mirrored()
        return float("nan") if position is None else self.across(position, wavelength)


@dataclass(frozen=True, eq=False)
class ImageGeometry(Geometry):
    """By the gwcs of an image and its keywords, from which sources can only be told in a slit."""

    ds: xr.Dataset

    def __call__(self, x: HostArray | float, y: HostArray | float) -> tuple[HostArray, ...]:
        """World coordinates of pixels."""
        world: tuple[HostArray, ...] = self.wcs(x, y)
        return world

    def across(self, position: Position, wavelength: float) -> float:
        """Pixel across the trace at which a position on the sky is seen at a wavelength."""
        return float(self._pixels(position, wavelength)[1])

    def trace(self, position: Position) -> HostArray:
        """The same at every dispersion element."""
        from gwcs.wcstools import grid_from_bounding_box

        waves = np.asarray(self.wcs(*grid_from_bounding_box(self.box))[2])
        low, high = self.limits[0]
        samples = np.linspace(np.nanmin(waves), np.nanmax(waves), int(high - low))
        return self.placed(*self._pixels([np.full(len(samples), p) for p in position], samples))

    def _pixels(
        self, position: Sequence[HostArray | float], wavelength: HostArray | float
    ) -> tuple[HostArray, HostArray]:
        x, y = self.wcs.backward_transform(*position, wavelength)[:2]
        return (x, y) if self.dispaxis == 1 else (y, x)

    def position(self, along: float, across: float) -> Position | None:
        """Right ascension and declination of a pixel."""
        if not mode_of(self.ds).slit:
            return None
        ra, dec = self(*((along, across) if self.dispaxis == 1 else (across, along)))[:2]
        return float(ra), float(dec)

    def mirrored(self) -> Position | None:
        """Right ascension and declination of the negative source.

        The nod mirrors the dither offset; it is projected from the ideal frame of the aperture
        through V2, V3 (JWST-STScI-001550) to the sky. None if the WCS has no ``v2v3`` frame
        (resampled data).

        Raises
        ------
        InputError
            If a keyword is missing.
        """
        meta = meta_of(self.ds)
        if not mode_of(self.ds).slit or "v2v3" not in meta.wcs.available_frames:
            return None
        keys = ("XOFFSET", "YOFFSET", "V3I_YANG", "V2_REF", "V3_REF", "VPARITY")
        dx, dy, angle, v2_ref, v3_ref, parity = (meta.number(k, "extract_1d") for k in keys)
        dx, dy = (dx, -dy) if self.dispaxis == 1 else (-dx, dy)
        cos, sin = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
        v2 = v2_ref + parity * dx * cos + dy * sin
        v3 = v3_ref - parity * dx * sin + dy * cos
        ra, dec = meta.wcs.get_transform("v2v3", "world")(v2, v3, 0.0)[:2]
        return ra, dec


def image_geometry(ds: xr.Dataset, dispaxis: int) -> ImageGeometry:
    """Return where the spectrum of an image is, and the source of a slit.

    That is at ``dithered_ra`` and ``dithered_dec`` [deg], variables or keywords.
    """
    wcs, shape = meta_of(ds).wcs, (ds.sizes["y"], ds.sizes["x"])
    box = whole_box(shape) if wcs is None else box_of(wcs) or whole_box(shape)
    source = None
    if mode_of(ds).slit and wcs is not None:
        ra, dec = (
            ds[name].values.item() if name in ds else meta_of(ds).get(keyword)
            for name, keyword in (("dithered_ra", "DITH_RA"), ("dithered_dec", "DITH_DEC"))
        )
        if ra is not None and dec is not None and np.isfinite(ra) and np.isfinite(dec):
            source = float(ra), float(dec)
    return ImageGeometry(wcs, box, shape, source, dispaxis, ds)

"""Where a NIRSpec slit and its source are on the detector, or on the resampled image.

The frame ``slit_frame`` of a slit's WCS holds positions in units of the slit's size, and the
wavelength: in metres behind the optics, in micrometres on a resampled image.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from spec2fn.plans.extraction.source_location import BoundingBox, Location, middle_of, placed_trace
from spec2fn.typing import HostArray
from spec2fn.wcs.slit_grid import SlitGrid

if TYPE_CHECKING:
    from gwcs import WCS

__all__ = ["GridGeometry", "SlitGeometry", "grid_geometry", "locate_in_slit", "slit_geometry"]

METRES = 1.0e-6
SLIT = "slit_frame"

Transform = Callable[..., tuple[HostArray, ...]]


@dataclass(frozen=True, eq=False)
class SlitGeometry:
    """The transforms of a slit, made when they are first used.

    Attributes
    ----------
    wcs : gwcs.WCS
    box : ((x0, x1), (y0, y1))
        Bounding box [pixel].
    source : (float, float)
        Position of the source in the slit, NaN if unknown.
    """

    wcs: WCS
    box: BoundingBox
    source: tuple[float, float]

    @functools.cached_property
    def world(self) -> Transform:
        """From x, y to right ascension, declination, wavelength."""
        frames = self.wcs.available_frames
        return _between(self.wcs, frames[0], frames[-1])

    @functools.cached_property
    def slit(self) -> Transform | None:
        """From x, y to the position in the slit and the wavelength there, if the WCS knows."""
        frames = self.wcs.available_frames
        return _between(self.wcs, frames[0], SLIT) if SLIT in frames else None

    @functools.cached_property
    def detector(self) -> Transform | None:
        """The inverse of :attr:`slit`."""
        frames = self.wcs.available_frames
        return _between(self.wcs, SLIT, frames[0]) if SLIT in frames else None

    @property
    def unit(self) -> float:
        """One micrometre in the wavelength unit of the slit frame."""
        # what comes from the grating equation is in metres
        return METRES if "gwa" in self.wcs.available_frames else 1.0

    def __call__(self, x: HostArray, y: HostArray) -> tuple[HostArray, ...]:
        """World coordinates of pixels, NaN outside the bounding box."""
        x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
        (x0, x1), (y0, y1) = self.box
        inside = (x >= x0) & (x <= x1) & (y >= y0) & (y <= y1)
        with np.errstate(invalid="ignore", divide="ignore"):
            values = self.world(x, y)
        return tuple(np.where(inside, v, np.nan) for v in values)

    def across(self, position: tuple[float, float], wavelength: float) -> float:
        """Row at which a position in the slit is seen at a wavelength [um]."""
        if self.detector is None:
            return float("nan")
        with np.errstate(invalid="ignore", divide="ignore"):
            return float(self.detector(*position, wavelength * self.unit)[1])

    def trace(self, shape: tuple[int, int], position: tuple[float, float]) -> HostArray:
        """Row at which a position in the slit is seen, at every column of an image.

        NaN outside the bounding box. Dispersion along x, as all of NIRSpec.
        """
        limits = self.box[0]
        count = int(limits[1] - limits[0])
        empty = np.full(shape[1], np.nan)
        if self.slit is None or self.detector is None or count < 2:
            return empty
        x, y = (np.arange(np.floor(a + 0.5), np.ceil(b - 0.5) + 1.0) for a, b in self.box)
        with np.errstate(invalid="ignore", divide="ignore"):
            waves = np.asarray(self.slit(x[None, :], y[:, None])[2])
            finite = waves[np.isfinite(waves)]
            if not finite.size:
                return empty
            samples = np.linspace(finite.min(), finite.max(), count)
            full = (np.full(count, p) for p in position)
            along, across = (np.asarray(v) for v in self.detector(*full, samples))
        return placed_trace(along, across, limits, shape[1])


@dataclass(frozen=True, eq=False)
class GridGeometry(SlitGeometry):
    """The transforms of a resampled slit, whose gwcs need not be made for them.

    Attributes
    ----------
    grid : SlitGrid
    """

    grid: SlitGrid

    @functools.cached_property
    def world(self) -> Transform:
        """From x, y to right ascension, declination, wavelength."""
        return self.grid.world

    @functools.cached_property
    def slit(self) -> Transform | None:
        """From x, y to the position in the slit and the wavelength there."""
        return self.grid.slit

    @functools.cached_property
    def detector(self) -> Transform | None:
        """The inverse of :attr:`slit`."""
        return self.grid.detector

    @property
    def unit(self) -> float:
        """One micrometre in the wavelength unit of the slit frame."""
        return 1.0


def grid_geometry(wcs: WCS, grid: SlitGrid, source: tuple[float, float]) -> SlitGeometry:
    """Prepare the transforms of a resampled slit.

    Parameters
    ----------
    wcs : gwcs.WCS or DeferredWcs
    grid : SlitGrid
        What `wcs` is made of.
    source : (float, float)
        Position of the source in the slit.
    """
    ny, nx = grid.shape
    return GridGeometry(wcs, ((-0.5, nx - 0.5), (-0.5, ny - 0.5)), source, grid)


def slit_geometry(wcs: WCS, shape: tuple[int, int], source: tuple[float, float]) -> SlitGeometry:
    """Prepare the transforms of a slit.

    Parameters
    ----------
    wcs : gwcs.WCS
    shape : (int, int)
        Rows and columns of the image.
    source : (float, float)
        Position of the source in the slit.
    """
    from spec2fn.wcs.lower import box_of

    box = box_of(wcs) or ((-0.5, shape[1] - 0.5), (-0.5, shape[0] - 0.5))
    return SlitGeometry(wcs, box, source)


def _between(wcs: WCS, start: str, stop: str) -> Transform:
    from spec2fn.errors import UnsupportedModelError
    from spec2fn.wcs.lower import evaluate_host, lower

    try:
        return lower(wcs, start, stop)
    except UnsupportedModelError:
        return functools.partial(evaluate_host, wcs.get_transform(start, stop))


def locate_in_slit(geometry: SlitGeometry, shape: tuple[int, int]) -> Location | None:
    """Project the source of a slit onto its image.

    Returns
    -------
    Location or None
        None if the position is unknown, cannot be projected, or is outside the image of the slit.
    """
    middle = middle_of(geometry, geometry.box, 1)
    row = geometry.across(geometry.source, middle.wavelength)
    low, high = geometry.box[1]
    if not low <= row <= high:
        return None
    trace = geometry.trace(shape, geometry.source)
    return Location(int(np.round(middle.along)), row, trace)

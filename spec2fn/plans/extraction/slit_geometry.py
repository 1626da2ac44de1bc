"""Where a NIRSpec slit and its source are on the detector, or on the resampled image.

The frame ``slit_frame`` of a slit's WCS holds positions in units of the slit's size, and the
wavelength: in metres behind the optics, in micrometres on a resampled image and of a lamp.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from spec2fn.deferred import as_deferred
from spec2fn.plans.extraction.source_location import (
    Geometry,
    Position,
    whole_box,
)
from spec2fn.schema import meta_of
from spec2fn.typing import HostArray
from spec2fn.wcs.lower import box_of

if TYPE_CHECKING:
    import xarray as xr

    from spec2fn.wcs.slit_grid import SlitGrid

__all__ = ["SlitGeometry", "slit_geometry"]

METRES = 1.0e-6
SLIT = "slit_frame"

Transform = Callable[..., Any]


@dataclass(frozen=True, eq=False)
class SlitGeometry(Geometry):
    """By the transforms of a slit, made when they are first used; or, resampled, by its grid."""

    grid: SlitGrid | None = None

    def _between(self, start: str, stop: str) -> Transform | None:
        from spec2fn.errors import UnsupportedModelError
        from spec2fn.wcs.lower import evaluate_host, lower

        if SLIT in (start, stop) and SLIT not in self.wcs.available_frames:
            return None
        try:
            return lower(self.wcs, start, stop)
        except UnsupportedModelError:
            return functools.partial(evaluate_host, self.wcs.get_transform(start, stop))

    @functools.cached_property
    def world(self) -> Transform:
        """From x, y to right ascension, declination, wavelength."""
        if self.grid is not None:
            return self.grid.world
        frames = self.wcs.available_frames
        return cast("Transform", self._between(frames[0], frames[-1]))

    @functools.cached_property
    def slit(self) -> Transform | None:
        """From x, y to the position in the slit and the wavelength there, if the WCS knows."""
        if self.grid is not None:
            return self.grid.slit
        return self._between(self.wcs.available_frames[0], SLIT)

    @functools.cached_property
    def detector(self) -> Transform | None:
        """The inverse of :attr:`slit`."""
        if self.grid is not None:
            return self.grid.detector
        return self._between(SLIT, self.wcs.available_frames[0])

    def __call__(self, x: HostArray | float, y: HostArray | float) -> tuple[HostArray, ...]:
        """World coordinates of pixels, NaN outside the bounding box."""
        x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
        (x0, x1), (y0, y1) = self.box
        inside = (x >= x0) & (x <= x1) & (y >= y0) & (y <= y1)
        with np.errstate(invalid="ignore", divide="ignore"):
            values = self.world(x, y)
        return tuple(np.where(inside, v, np.nan) for v in values)

    def across(self, position: Position, wavelength: float) -> float:
        """Row at which a position in the slit is seen at a wavelength [um]."""
        if self.detector is None:
            return float("nan")
        # what comes from the grating equation is in metres, on its way to the sky
        metres = self.grid is None and {"gwa", "world"} <= set(self.wcs.available_frames)
        with np.errstate(invalid="ignore", divide="ignore"):
            return float(self.detector(*position, wavelength * (METRES if metres else 1.0))[1])

    def trace(self, position: Position) -> HostArray:
        """The same at every column, NaN outside the bounding box."""
        count = int(self.box[0][1] - self.box[0][0])
        empty = np.full(self.shape[1], np.nan)
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
        return self.placed(along, across)

    def position(self, along: float, across: float) -> Position | None:
        """Position in the slit that is seen at a pixel."""
        if self.slit is None:
            return None
        x, y = self.slit(along, across)[:2]
        return float(x), float(y)

    def mirrored(self) -> Position | None:
        """The mirror image of the source in the slit."""
        return None if self.source is None else (self.source[0], -self.source[1])


def slit_geometry(bucket: xr.Dataset, i: int) -> SlitGeometry:
    """Prepare the transforms of slit `i` of a bucket."""

    def value(name: str) -> float:
        return float(bucket.variables[name].values[i]) if name in bucket else float("nan")

    shape = int(bucket.variables["ysize"].values[i]), int(bucket.variables["xsize"].values[i])
    source = value("source_xpos"), value("source_ypos")
    slit, known = int(bucket.variables["slit"].values[i]), meta_of(bucket).wcs
    grid = known.grid(slit) if hasattr(known, "grid") else None
    if grid is not None and grid.invertible and grid.shape == shape:
        return SlitGeometry(as_deferred(known, slit), whole_box(shape), shape, source, 1, grid)
    wcs = known[slit]
    return SlitGeometry(wcs, box_of(wcs) or whole_box(shape), shape, source, 1)

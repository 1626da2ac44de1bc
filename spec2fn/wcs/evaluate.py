"""Evaluating the gwcs of a spectrum, and what follows from it alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from spec2fn.errors import InputError, UnsupportedModelError
from spec2fn.typing import HostArray
from spec2fn.wcs.lower import box_of, lower

if TYPE_CHECKING:
    from gwcs import WCS
    from numpy.typing import ArrayLike

__all__ = [
    "SlitSamples",
    "evaluate",
    "evaluate_between",
    "is_celestial",
    "pixel_size_deg",
    "sample_slit",
    "size_of_pixel",
]


@dataclass(frozen=True)
class SlitSamples:
    """World coordinates of the pixels that touch the bounding box of a slit.

    Attributes
    ----------
    origin : tuple of int
        (y, x) of the first pixel.
    box : tuple
        Bounding box ((x0, x1), (y0, y1)).
    ra, dec, wavelength : (y, x) float64
        World coordinates; NaN outside the bounding box. For a WCS that does not reach the sky
        the first two are whatever its first two world axes are.
    """

    origin: tuple[int, int]
    box: tuple[tuple[float, float], tuple[float, float]]
    ra: HostArray
    dec: HostArray
    wavelength: HostArray

    def window(self, shape: tuple[int, int]) -> tuple[int, int, int, int]:
        """Return the samples within an image of this shape, and a pixel around: y0, y1, x0, x1."""
        limits = []
        for first, count, length in zip(self.origin, self.ra.shape, shape, strict=True):
            low = max(0, first - 1)
            limits += [low, max(low, min(length, first + count + 1))]
        return limits[0], limits[1], limits[2], limits[3]

    def cut(self, window: tuple[int, int, int, int]) -> HostArray:
        """Return the three coordinates of the pixels y0 to y1, x0 to x1; NaN beyond the samples."""
        (oy, ox), (ny, nx) = self.origin, self.ra.shape
        y0, y1, x0, x1 = window
        top, left = max(y0, oy), max(x0, ox)
        bottom, right = max(top, min(y1, oy + ny)), max(left, min(x1, ox + nx))
        out = np.full((3, y1 - y0, x1 - x0), np.nan)
        for plane, values in zip(out, (self.ra, self.dec, self.wavelength), strict=True):
            shared = values[top - oy : bottom - oy, left - ox : right - ox]
            plane[top - y0 : bottom - y0, left - x0 : right - x0] = shared
        return out


def evaluate(wcs: WCS, *coordinates: ArrayLike, inverse: bool = False) -> tuple[HostArray, ...]:
    """Evaluate a gwcs, or its inverse, without its bounding box.

    The lowered form is used where there is one; it agrees with gwcs to round-off.
    """
    if not inverse:
        return evaluate_between(wcs, None, None, *coordinates)
    values = np.broadcast_arrays(*(np.asarray(c, dtype=float) for c in coordinates))
    names = _names(wcs)
    with np.errstate(invalid="ignore"):
        try:
            return evaluate_between(wcs, names[-1], names[0], *values)
        except NotImplementedError:  # gwcs may still find an inverse in iterations
            out = wcs.invert(*values, with_bounding_box=False)
    return tuple(np.asarray(v, dtype=float) for v in out)


def _names(wcs: WCS) -> list[str]:
    return [getattr(f, "name", f) for f in wcs.available_frames]


def evaluate_between(
    wcs: WCS, from_frame: str | None, to_frame: str | None, *coordinates: ArrayLike
) -> tuple[HostArray, ...]:
    """Evaluate a gwcs between two of its frames (None: the first, the last).

    The lowered form is used where there is one; bounding boxes play no part.
    """
    names = _names(wcs)
    ends = (from_frame or names[0], to_frame or names[-1])
    values = tuple(np.asarray(c, dtype=float) for c in coordinates)
    with np.errstate(invalid="ignore"):
        try:
            out = lower(wcs, *ends)(*values)
        except UnsupportedModelError:
            out = wcs.get_transform(*ends)(*np.broadcast_arrays(*values))
    shape = np.broadcast_shapes(*(v.shape for v in values))
    arrays = (np.asarray(v, dtype=float) for v in out)
    return tuple(v if v.shape == shape else np.broadcast_to(v, shape) for v in arrays)


def bounds(wcs: WCS) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return the bounding box of a gwcs as ((x0, x1), (y0, y1)), or else the extent of its array.

    Raises
    ------
    InputError
        If the WCS has neither.
    """
    box = box_of(wcs)
    if box is not None:
        return box
    if wcs.array_shape is None:
        msg = "resample_spec: the WCS has no bounding_box; assign_wcs sets one"
        raise InputError(msg)
    ny, nx = wcs.array_shape
    return (-0.5, nx - 0.5), (-0.5, ny - 0.5)


def sample_slit(wcs: WCS) -> SlitSamples:
    """Evaluate a gwcs at all pixels that touch its bounding box."""
    box = bounds(wcs)
    # a limit on the border between two pixels belongs to the inner one
    x, y = (
        np.arange(math.floor(low + 0.5), max(math.floor(low + 0.5), math.ceil(high - 0.5)) + 1.0)
        for low, high in box
    )
    world = evaluate(wcs, x[None, :], y[:, None])
    (x0, x1), (y0, y1) = box
    inside = ((x >= x0) & (x <= x1))[None, :] & ((y >= y0) & (y <= y1))[:, None]
    ra, dec, wavelength = (np.where(inside, w, np.nan) for w in world)
    return SlitSamples((int(y[0]), int(x[0])), box, ra, dec, wavelength)


def is_celestial(wcs: WCS) -> bool:
    """Whether the world coordinates of a spectral WCS include a position on the sky."""
    from gwcs.coordinate_frames import CelestialFrame

    frame = wcs.output_frame
    return any(isinstance(f, CelestialFrame) for f in getattr(frame, "frames", [frame]))


def pixel_size_deg(wcs: WCS, dispaxis: int) -> float:
    """Return the size of a pixel along the slit at the centre of the bounding box [deg].

    Parameters
    ----------
    wcs : gwcs.WCS
    dispaxis : {1, 2}
        Dispersion along x or y.

    Returns
    -------
    float
        NaN if the centre has no position.
    """
    from astropy.coordinates import angular_separation

    (x0, x1), (y0, y1) = bounds(wcs)
    cx, cy = (x0 + x1) / 2, (y0 + y1) / 2
    step = (0.0, 1.0) if dispaxis == 1 else (1.0, 0.0)
    ra, dec, _ = evaluate(wcs, [cx, cx + step[0]], [cy, cy + step[1]])
    ra, dec = np.deg2rad(ra), np.deg2rad(dec)
    return float(np.rad2deg(angular_separation(ra[0], dec[0], ra[1], dec[1])))


def size_of_pixel(wcs: WCS, pixel: tuple[float, float], dispaxis: int) -> float:
    """Return the size of a pixel across the dispersion [arcsec].

    Parameters
    ----------
    wcs : gwcs.WCS
        Pixel to right ascension, declination [deg] and wavelength.
    pixel : tuple of float
        Zero-based x and y at which to measure.
    dispaxis : int
        1 for dispersion along x, 2 along y.
    """
    x, y = pixel
    step = (0.0, 1.0) if dispaxis == 1 else (1.0, 0.0)
    ra, dec = (
        np.radians(np.asarray(v, dtype=np.float64))
        for v in wcs(
            np.array([x, x + step[0]]), np.array([y, y + step[1]]), with_bounding_box=False
        )[:2]
    )
    # haversine: exact for separations as small as a pixel
    chord = (
        np.sin((dec[1] - dec[0]) / 2) ** 2
        + np.cos(dec[0]) * np.cos(dec[1]) * np.sin((ra[1] - ra[0]) / 2) ** 2
    )
    return float(np.degrees(2 * np.arcsin(np.sqrt(chord))) * 3600.0)

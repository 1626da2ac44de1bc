"""Where on the detector the source's spectrum should be, according to the WCS.

MIRI LRS fixed slit: the dithered pointing (``DITH_RA``, ``DITH_DEC``, or the position measured
on the target-acquisition image) is projected through the WCS at every wavelength.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

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
    "ImageGeometry",
    "Location",
    "Middle",
    "aperture_angle",
    "flat_trace",
    "middle_of",
    "placed_trace",
    "sky_trace",
    "whole_box",
]

BoundingBox = tuple[tuple[float, float], tuple[float, float]]


@dataclass(frozen=True)
class Middle:
    """Middle of the spectral region: pixel indices and wavelength [um]."""

    along: float
    across: float
    wavelength: float


@dataclass(frozen=True, eq=False)
class Location:
    """Position of the source.

    Attributes
    ----------
    element : int
        Dispersion element at which `across` holds.
    across : float
        Position across the trace [pixel].
    trace : array of float64, (disp,)
        Position across the trace at every dispersion element; NaN outside the bounding box.
    """

    element: int
    across: float
    trace: HostArray


def aperture_angle(ds: xr.Dataset) -> HostArray | None:
    """Position angle of the instrument's aperture [deg], (1,), if the header says."""
    angle = meta_of(ds).get("PA_APER")
    return None if angle is None else np.array([float(angle)])


def whole_box(shape: tuple[int, int]) -> BoundingBox:
    """Return ``((x0, x1), (y0, y1))`` of the edges of an image."""
    return (-0.5, shape[1] - 0.5), (-0.5, shape[0] - 0.5)


def middle_of(
    wcs: Callable[[HostArray, HostArray], tuple[HostArray, ...]], box: BoundingBox, dispaxis: int
) -> Middle:
    """Find the middle of a bounding box, along and across the dispersion.

    The wavelength is the mean along the middle dispersion element; `across` is where the
    wavelength there equals the mean (for a tilted slit not the geometric middle).
    """
    limits, cross = (box[0], box[1]) if dispaxis == 1 else (box[1], box[0])
    along = (limits[0] + limits[1]) / 2.0
    across = np.arange(round(cross[1]), dtype=float)
    fixed = np.full(len(across), along)
    waves = np.asarray(wcs(fixed, across)[2] if dispaxis == 1 else wcs(across, fixed)[2])
    good = np.isfinite(waves)
    if not good.any():
        return Middle(along, float(across.mean()), float("nan"))
    waves, across = waves[good], across[good]
    mean = float(waves.mean())
    if np.allclose(waves, mean):
        # lines of constant wavelength along the pixels: interpolation would follow rounding errors
        return Middle(along, float(across.mean()), mean)
    order = np.argsort(waves)
    return Middle(along, float(np.interp(mean, waves[order], across[order])), mean)


def _backward(
    wcs: WCS, ra: HostArray | float, dec: HostArray | float, wavelength: HostArray | float
) -> tuple[HostArray, HostArray]:
    x, y = wcs.backward_transform(ra, dec, wavelength)[:2]
    return x, y


def sky_trace(
    wcs: WCS, box: BoundingBox, shape: tuple[int, int], sky: tuple[float, float], dispaxis: int
) -> HostArray:
    """Position across the trace of a sky position, at every dispersion element."""
    from gwcs.wcstools import grid_from_bounding_box

    x, y = grid_from_bounding_box(box)
    waves = np.asarray(wcs(x, y)[2])
    limits = box[0] if dispaxis == 1 else box[1]
    n = int(limits[1] - limits[0])
    samples = np.linspace(np.nanmin(waves), np.nanmax(waves), n)
    px, py = _backward(wcs, np.full(n, sky[0]), np.full(n, sky[1]), samples)
    along, across = (px, py) if dispaxis == 1 else (py, px)
    return placed_trace(along, across, limits, shape[1] if dispaxis == 1 else shape[0])


def placed_trace(
    along: HostArray, across: HostArray, limits: tuple[float, float], length: int
) -> HostArray:
    """Interpolate points of a trace to the dispersion elements of an image.

    `limits` are those of the bounding box along the dispersion, outside of which the trace is NaN.
    """
    from scipy.interpolate import interp1d

    start = int(np.ceil(limits[0]))
    elements = np.arange(start, start + int(limits[1] - limits[0]))
    trace = np.full(length, np.nan)
    line = interp1d(along, across, fill_value="extrapolate")
    inside = (elements >= 0) & (elements < len(trace))
    # The peer counts the elements from the start of the bounding box when it evaluates the line,
    # and from the start of the image when it places it: on unresampled LRS images (box from row
    # 7) the trace is up to 0.06 pixel off. Kept, because spectra are compared with the peer's.
    trace[elements[inside]] = line(elements[inside] - start)
    return trace


def flat_trace(box: BoundingBox, shape: tuple[int, int], across: float, dispaxis: int) -> HostArray:
    """Trace at a constant position inside the bounding box, NaN outside."""
    limits, length = (box[0], shape[1]) if dispaxis == 1 else (box[1], shape[0])
    return placed_trace(np.arange(2.0), np.full(2, across), limits, length)


@dataclass(frozen=True, eq=False)
class ImageGeometry:
    """Where the only spectrum of an image and its source are, by its gwcs and its keywords.

    Attributes
    ----------
    ds : xarray.Dataset
        With ``dithered_ra`` and ``dithered_dec`` [deg], as variables or keywords.
    dispaxis : int
        1 along x, 2 along y.
    """

    ds: xr.Dataset
    dispaxis: int

    @property
    def wcs(self) -> WCS | None:
        """From x, y to right ascension, declination, wavelength."""
        return meta_of(self.ds).wcs

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.ds.sizes["y"], self.ds.sizes["x"]

    @property
    def box(self) -> BoundingBox:
        """Bounding box [pixel]."""
        return box_of(self.wcs) or whole_box(self.shape)

    def __call__(self, x: HostArray | float, y: HostArray | float) -> tuple[HostArray, ...]:
        """World coordinates of pixels."""
        world: tuple[HostArray, ...] = self.wcs(x, y)  # type: ignore[misc]
        return world

    def _dithered(self, axis: str) -> float | None:
        """Right ascension or declination of the dithered pointing."""
        name, keyword = f"dithered_{axis}", f"DITH_{axis.upper()}"
        ds = self.ds
        value = ds[name].values.item() if name in ds else meta_of(ds).get(keyword)
        return None if value is None or not np.isfinite(value) else float(value)

    def locate(self) -> Location | None:
        """Project the source onto the detector.

        Returns
        -------
        Location or None
            None if the position is unknown, cannot be projected, or is outside the slit.
        """
        ra, dec = self._dithered("ra"), self._dithered("dec")
        if not mode_of(self.ds).slit or self.wcs is None or ra is None or dec is None:
            return None
        box = self.box
        middle = middle_of(self, box, self.dispaxis)
        x, y = _backward(self.wcs, ra, dec, middle.wavelength)
        across = float(y if self.dispaxis == 1 else x)
        low, high = box[1] if self.dispaxis == 1 else box[0]
        if not low <= across <= high:
            return None
        trace = sky_trace(self.wcs, box, self.shape, (ra, dec), self.dispaxis)
        return Location(int(np.round(middle.along)), across, trace)

    def middle_trace(self, middle: Middle) -> HostArray:
        """Trace of a source in the middle of the slit."""
        if not mode_of(self.ds).slit:
            return flat_trace(self.box, self.shape, middle.across, self.dispaxis)
        x, y = middle.across, middle.along
        if self.dispaxis == 1:
            x, y = y, x
        ra, dec = (float(v) for v in self(x, y)[:2])
        return sky_trace(self.wcs, self.box, self.shape, (ra, dec), self.dispaxis)

    def nod(self, wavelength: float) -> float:
        """Position across the trace of the negative source of a two-point nod.

        The nod mirrors the dither offset; it is projected from the ideal frame of the aperture
        through V2, V3 (JWST-STScI-001550) to the sky and back to the detector.

        Returns
        -------
        float
            NaN if the WCS has no ``v2v3`` frame (resampled data).

        Raises
        ------
        InputError
            If a keyword is missing.
        """
        meta = meta_of(self.ds)
        if not mode_of(self.ds).slit or "v2v3" not in meta.wcs.available_frames:
            return float("nan")
        keys = ("XOFFSET", "YOFFSET", "V3I_YANG", "V2_REF", "V3_REF", "VPARITY")
        dx, dy, angle, v2_ref, v3_ref, parity = (meta.number(k, "extract_1d") for k in keys)
        dx, dy = (dx, -dy) if self.dispaxis == 1 else (-dx, dy)
        cos, sin = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
        v2 = v2_ref + parity * dx * cos + dy * sin
        v3 = v3_ref - parity * dx * sin + dy * cos
        ra, dec = meta.wcs.get_transform("v2v3", "world")(v2, v3, 0.0)[:2]
        x, y = _backward(meta.wcs, ra, dec, wavelength)
        return float(y if self.dispaxis == 1 else x)

"""Where the pixels of an integral-field exposure lie in a cube.

A pixel of a slice covers, on the sky, the width of the slice times the pixel along the slice, and
in wavelength the pixel along the dispersion. Half a pixel away from the centres, positions follow
from those of the neighbours in the slice by parabolas, which for the smooth distortions of a slice
differs from evaluating the WCS there by less than a millionth of a pixel. The way across a slice
changes so slowly over the field that a few hundred evaluations of the WCS give it for all pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from spec2fn.errors import InputError
from spec2fn.modes import mode_of
from spec2fn.plans.cubes.sampling import Band
from spec2fn.schema import meta_of
from spec2fn.threads import in_threads
from spec2fn.typing import HostArray
from spec2fn.wcs.cube_grid import CubeGrid, project
from spec2fn.wcs.evaluate import evaluate_between
from spec2fn.wcs.finer import OVERSAMPLED, coarse_pixels
from spec2fn.wcs.slices import ifu_slices

if TYPE_CHECKING:
    import xarray as xr
    from gwcs import WCS

    from spec2fn.wcs.assign.nirspec_ifu import SliceBatch

__all__ = [
    "Layout",
    "PixelGeometry",
    "internal_outlines",
    "layout_of",
    "pixel_geometry",
    "pixel_labels",
    "position_angle",
    "seen_slices",
    "slice_frame",
]

_HALF = 0.4999  # inside the pixel, so that a position belongs to one slice
_SLICE_END = 0.55  # of NIRSpec slices, in units of their length from the middle
_DEGREE = 3
_POWERS = [
    (i, j, k)
    for i in range(_DEGREE + 1)
    for j in range(_DEGREE + 1 - i)
    for k in range(_DEGREE + 1 - i - j)
]
_SAMPLES = 1200
_GAP = 512  # column of the detector between the channels of the MRS
# Pixels worked on at once, in threads.
_PIECE = 1 << 16


@dataclass(frozen=True)
class Layout:
    """How the slices of an instrument lie on its detector.

    Attributes
    ----------
    along : {0, 1}
        Axis of the detector along the slices: 0 for y, 1 for x.
    frame : str
        Frame of the WCS in which slices are straight.
    half : float
        Distance from the centre of a pixel to its edges along the slice [pixel].
    """

    along: int
    frame: str
    half: float


_LAYOUTS = {"MIRI": Layout(1, "alpha_beta", _HALF), "NIRSPEC": Layout(0, "slicer", 0.49)}


@dataclass(frozen=True, eq=False)
class PixelGeometry:
    """Pixels of an exposure, and their outlines, in the coordinates of a cube.

    Attributes
    ----------
    pixel : (p,) int64
        Flat index on the detector, ascending.
    centre : (2, p) float64
        x and y [arcsec].
    wavelength, width : (p,) float64
        Centre and extent in wavelength [um]; `width` is NaN where it is not known.
    corners : (2, 4, p) float64
        Of the outline, x and y [arcsec]; NaN where not known.
    """

    pixel: HostArray
    centre: HostArray
    wavelength: HostArray
    width: HostArray
    corners: HostArray


def layout_of(ds: xr.Dataset) -> Layout:
    """Return the layout of the instrument.

    Raises
    ------
    InputError
        If it has no integral-field unit.
    """
    instrument = str(ds.attrs.get("instrument", ""))
    if instrument not in _LAYOUTS:
        msg = f"cube_build: needs MIRI MRS or NIRSpec IFU data, found {instrument or 'neither'}"
        raise InputError(msg)
    return _LAYOUTS[instrument]


def slice_frame(ds: xr.Dataset, wcs: WCS, pixel: HostArray) -> tuple[HostArray, ...]:
    """Return position along and across the slices of some pixels, and the third coordinate.

    MIRI: alpha and beta [arcsec], and the wavelength [um]. NIRSpec: y and x [m] in the slicer
    plane, and the wavelength [m].
    """
    layout = layout_of(ds)
    y, x = np.divmod(pixel, ds["sci"].shape[-1])
    batch = _slices(ds)
    if batch is not None:
        number = np.asarray(ds["slice_id"].data).reshape(-1)[pixel] - 1
        first, second, third = batch.slicer_frame(number, x.astype(float), y.astype(float))
    else:
        first, second, third = evaluate_between(wcs, None, layout.frame, x, y)
    return (first, second, third) if layout.along == 1 else (second, first, third)


def _slices(ds: xr.Dataset) -> SliceBatch | None:
    """What ``assign_wcs`` keeps of the slices of NIRSpec, which spares making a gwcs of them."""
    batch: SliceBatch | None = meta_of(ds).records.get("slices")
    return batch


def _world(
    ds: xr.Dataset, wcs: WCS, along: HostArray, across: HostArray, third: HostArray
) -> tuple[HostArray, HostArray]:
    layout, batch = layout_of(ds), _slices(ds)
    if batch is not None:
        ra, dec, _ = batch.optics.lowered.sky(across, along, third)
        return ra, dec
    position = (along, across) if layout.along == 1 else (across, along)
    ra, dec, _ = evaluate_between(wcs, layout.frame, None, *position, third)
    return ra, dec


def seen_slices(ds: xr.Dataset) -> HostArray:
    """Return the slice of each pixel; 0 where there is none, or no coordinates."""
    label = np.asarray(ds["slice_id"].data).astype(np.int32)
    for name in ("ra", "wavelength"):
        if name in ds:  # of a lamp there is no place on the sky
            label[~np.isfinite(np.asarray(ds[name].data))] = 0
    return label


def pixel_labels(ds: xr.Dataset, bands: Sequence[Band]) -> tuple[HostArray, HostArray]:
    """Return the slice of each pixel (0: none wanted) and the bands' positions by pixel."""
    label = seen_slices(ds)
    if ds.attrs.get("instrument") != "MIRI":
        return label, np.zeros(label.shape, np.int8)
    channel = label // 100
    band = np.full(label.shape, -1, np.int8)
    for i, one in enumerate(bands):
        band[channel == int(one.first)] = i
    label[band < 0] = 0
    # the gap between the channels, and the reference pixels at the end
    column = np.rint(coarse_pixels(label.shape[1], float(meta_of(ds).records.get(OVERSAMPLED, 1))))
    label[:, (column == _GAP) | (column == column[-1])] = 0
    return label, band


def pixel_geometry(
    ds: xr.Dataset, wcs: WCS, bands: Sequence[Band], grid: CubeGrid, *, outlines: bool = True
) -> PixelGeometry:
    """Return pixels and outlines of the exposure in the tangent plane of a cube.

    Parameters
    ----------
    ds : xarray.Dataset
        With ``ra``, ``dec`` [deg], ``wavelength`` [um] and ``slice_id``, dims (y, x).
    wcs : gwcs.WCS
    bands : sequence of Band
    grid : CubeGrid
    outlines : bool
        Whether corners and extent in wavelength are wanted.

    Raises
    ------
    InputError
        If no pixel belongs to the bands.
    """
    layout = layout_of(ds)
    label, band = pixel_labels(ds, bands)
    pixel = np.flatnonzero(label)
    if not pixel.size:
        msg = "cube_build: no pixel of the exposure belongs to a slice; check the WCS"
        raise InputError(msg)
    ra, dec = (np.asarray(ds[n].data).reshape(-1) for n in ("ra", "dec"))
    centre = np.empty((2, pixel.size))
    planes = np.zeros((2, label.size))  # only pixels of slices are looked up

    def onto_plane(part: slice) -> None:
        at = pixel[part]
        centre[:, part] = planes[:, at] = project(ra[at], dec[at], grid.crval, grid.angle)

    in_threads(onto_plane, [slice(k, k + _PIECE) for k in range(0, pixel.size, _PIECE)])
    wavelength = np.asarray(ds["wavelength"].data, dtype=np.float64).reshape(-1)
    number = band.reshape(-1)[pixel]
    # every pixel belongs to a band, which fills in its own
    width = np.empty(pixel.size) if outlines else np.full(pixel.size, np.nan)
    corners = np.empty((2, 4, pixel.size if outlines else 0))
    along, across = _Neighbours(label, layout.along), _Neighbours(label, 1 - layout.along)
    limit = _SLICE_END
    if outlines and "slit_y" in ds:
        limit = max(limit, float(np.nanmax(np.abs(ds["slit_y"].data))))
    for i in range(len(bands) if outlines else 0):
        mine = np.flatnonzero(number == i) if len(bands) > 1 else np.arange(pixel.size)
        if not mine.size:
            continue
        where = (*centre[:, mine], wavelength[pixel[mine]])
        aside = _across(ds, wcs, pixel[mine], where, grid, label=label)

        def place(part: HostArray, aside: Callable[..., HostArray] = aside) -> None:
            start, end = across.parabolas(pixel[part]).at(wavelength, -_HALF, _HALF)
            width[part] = np.abs(end - start)
            parabola = along.parabolas(pixel[part])
            # before and after the pixel along the slice
            edges = np.array([parabola.at(p, -layout.half, layout.half) for p in planes])
            edges[:, _without_position(ds, wcs, parabola, limit)] = np.nan
            for end, around in ((0, [0, 1]), (1, [3, 2])):
                edge = edges[:, end]
                beside = aside(edge[0], edge[1], wavelength[pixel[part]])  # (x, y), (down, up)
                for side, corner in enumerate(around):
                    corners[:, corner, part] = edge + beside[:, side]

        in_threads(place, np.split(mine, range(_PIECE, mine.size, _PIECE)))
    return PixelGeometry(pixel, centre, wavelength[pixel], width, corners)


def _without_position(ds: xr.Dataset, wcs: WCS, parabola: _Parabola, limit: float) -> HostArray:
    """Edges (before or after, pixel) of pixels that reach beyond the end of the slice."""
    layout = layout_of(ds)
    out = np.zeros((2, parabola.pixel.size), bool)
    if "slit_y" in ds:
        position = np.asarray(ds["slit_y"].data, dtype=np.float64).reshape(-1)
        reach = parabola.at(position, -layout.half, layout.half)
        out[:] = (np.abs(reach) > limit).any(axis=0)
    elif layout.along == 0:
        (last,) = np.nonzero(parabola.shift)
        y, x = np.divmod(parabola.pixel[last], ds["sci"].shape[-1])
        for step in (-layout.half, layout.half):
            # an edge without a position is one of the whole pixel
            out[:, last] |= ~np.isfinite(evaluate_between(wcs, None, layout.frame, x, y + step)[1])
    return out


def position_angle(ds: xr.Dataset, wcs: WCS, band: Band) -> float:
    """Return the angle of the axis across the slices, for cubes aligned with them [deg]."""
    layout = layout_of(ds)
    label, _ = pixel_labels(ds, [band])
    inside = label == 1 if layout.along == 0 else label > 0
    wavelength = float(np.median(np.asarray(ds["wavelength"].data)[inside]))
    if layout.along == 0:
        wavelength *= 1e-6
    step = 2.0 if layout.along == 1 else 0.005
    zero = np.zeros(2)
    ra, dec = _world(ds, wcs, np.array([0.0, step]), zero, zero + wavelength)
    east = (ra[1] - ra[0]) * math.cos(math.radians(dec[0]))
    return 90.0 + math.degrees(math.atan2(east, dec[1] - dec[0]))


def internal_outlines(
    ds: xr.Dataset, wcs: WCS, *, shifted: bool = False
) -> tuple[HostArray, HostArray, tuple[HostArray, HostArray], HostArray]:
    """Return NIRSpec pixels as quadrilaterals of position along the slice and wavelength.

    Parameters
    ----------
    ds : xarray.Dataset
    wcs : gwcs.WCS
    shifted : bool
        Take the centres of a pixel and of the next ones for its corners, as the JWST pipeline
        does: everything then lies half a pixel of the detector from where it belongs.

    Returns
    -------
    pixel, number : (p,) int
        Flat index on the detector, and slice, from 1.
    centres : tuple of (p,) float64
        Along and across the slices [m].
    corners : (2, 4, p) float64
        Along the slice [m] and in wavelength [um]; NaN outside the slice.
    """
    from scipy.ndimage import find_objects

    label, _ = pixel_labels(ds, ())
    pixel = np.flatnonzero(label)
    along, across, _ = slice_frame(ds, wcs, pixel)
    corners = np.full((2, 4, pixel.size), np.nan)
    # where a pixel stands in the list
    listed = np.cumsum(label.reshape(-1) > 0, dtype=np.int32).reshape(label.shape) - 1
    first = 0.0 if shifted else -0.5
    place = _slice_places(ds)

    def outline(item: tuple[int, tuple[slice, slice]]) -> None:
        number, (rows, columns) = item
        y, x = (np.arange(s.start, s.stop + 1.0) + first for s in (rows, columns))
        edges = place(number, x[None, :], y[:, None])
        inside = label[rows, columns] == number
        at = listed[rows, columns][inside]
        for k, (up, right) in enumerate(((0, 0), (0, 1), (1, 1), (1, 0))):
            for i, values in enumerate(edges):
                moved = values[up : values.shape[0] - 1 + up, right : values.shape[1] - 1 + right]
                corners[i, k, at] = moved[inside]

    found = enumerate(find_objects(label), start=1)
    in_threads(outline, [(k, window) for k, window in found if window is not None])
    return pixel, label.reshape(-1)[pixel], (along, across), corners


def _slice_places(ds: xr.Dataset) -> Callable[[int, HostArray, HostArray], tuple[HostArray, ...]]:
    """Return a function of slice and pixels: position along the slice [m] and wavelength [um]."""
    batch = _slices(ds)
    if batch is None:
        slices = ifu_slices(ds)
        unit = 1.0 if mode_of(ds).lamp else 1e6

        def read(number: int, x: HostArray, y: HostArray) -> tuple[HostArray, ...]:
            _, along, wavelength = slices.slicer(number, x, y)
            return along, wavelength * unit

        return read

    def place(number: int, x: HostArray, y: HostArray) -> tuple[HostArray, ...]:
        with np.errstate(invalid="ignore"):
            _, along, wavelength = batch.slicer_frame(np.array(number - 1), x, y)
        return along, wavelength * 1e6

    return place


class _Neighbours:
    """Which pixels have neighbours in their slice, along one axis of the detector."""

    def __init__(self, label: HostArray, axis: int) -> None:
        same = np.diff(label, axis=axis) == 0
        edge = np.zeros_like(same.take([0], axis))
        self.step = label.shape[1] if axis == 0 else 1
        self.after, self.before = (
            (np.concatenate(parts, axis) & (label > 0)).reshape(-1)
            for parts in ([same, edge], [edge, same])
        )

    def parabolas(self, pixel: HostArray) -> _Parabola:
        """Return the parabolas through these pixels and their neighbours."""
        # where a neighbour is missing the parabola is that of the next pixel inside
        forward = self.after[pixel] & ~self.before[pixel]
        backward = self.before[pixel] & ~self.after[pixel]
        shift = forward.astype(np.int8) - backward.astype(np.int8)
        middle = pixel + shift.astype(np.int64) * self.step
        unknown = ~(self.after[middle] & self.before[middle])
        middle[unknown] = self.step  # any that can be looked up
        return _Parabola(pixel, shift, middle, unknown, self.step)


@dataclass(frozen=True, eq=False)
class _Parabola:
    """Parabolas through pixels and their neighbours along one axis."""

    pixel: HostArray
    shift: HostArray
    middle: HostArray
    unknown: HostArray
    step: int

    def at(self, plane: HostArray, *offsets: float) -> HostArray:
        """Values of a flat image at these distances from the pixels [pixel]."""
        before, centre, after = (plane[self.middle + k * self.step] for k in (-1, 0, 1))
        slope = 0.5 * (after - before)
        bend = 0.5 * (after + before) - centre
        out = np.empty((len(offsets), centre.size))
        for i, offset in enumerate(offsets):
            away = offset - self.shift
            np.multiply(bend, away, out=out[i])
            out[i] += slope
            out[i] *= away
            out[i] += centre
        out[:, self.unknown] = np.nan
        return out


def _across(
    ds: xr.Dataset,
    wcs: WCS,
    pixel: HostArray,
    where: tuple[HostArray, HostArray, HostArray],
    grid: CubeGrid,
    *,
    label: HostArray,
) -> Callable[..., HostArray]:
    """Return a function of position and wavelength: how far the sides of the slice are.

    It gives (x or y, down or up, pixel), relative to the position in the middle of the slice.
    """
    # fractions of the golden section lie in all detector rows and columns alike
    golden = (np.arange(1, _SAMPLES + 1) * 0.6180339887498949) % 1.0
    chosen = np.unique((golden * pixel.size).astype(np.int64))
    along, across, third = slice_frame(ds, wcs, pixel[chosen])
    width = _slice_width(across, label.reshape(-1)[pixel[chosen]], str(ds.attrs.get("instrument")))
    found = []
    for offset in (0.0, -width / 2, width / 2):
        ra, dec = _world(ds, wcs, along, across + offset, third)
        found.append(project(ra, dec, grid.crval, grid.angle))
    sides = np.array(found[1:]) - np.array(found[0])
    good = np.isfinite(sides).all(axis=(0, 1))
    scale = [(float(np.mean(v)), float(np.ptp(v)) or 1.0) for v in where]
    sample = _terms([v[chosen][good] for v in where], scale)
    solved = np.linalg.lstsq(sample.T, sides[:, :, good].reshape(4, -1).T, rcond=None)[0].T

    def sides_at(*position: HostArray) -> HostArray:
        out = solved @ _terms(position, scale)
        return np.moveaxis(out.reshape(2, 2, -1), 0, 1)

    return sides_at


def _terms(variables: Sequence[HostArray], scale: Sequence[tuple[float, float]]) -> HostArray:
    scaled = [(v - m) / s for v, (m, s) in zip(variables, scale, strict=True)]
    out = np.empty((len(_POWERS), scaled[0].size))
    out[0] = 1.0
    for row, (i, j, k) in enumerate(_POWERS[1:], 1):
        # one variable times an earlier term
        if k:
            last, lower = 2, (i, j, k - 1)
        elif j:
            last, lower = 1, (i, j - 1, 0)
        else:
            last, lower = 0, (i - 1, 0, 0)
        np.multiply(out[_POWERS.index(lower)], scaled[last], out=out[row])
    return out


def _slice_width(across: HostArray, label: HostArray, instrument: str) -> float:
    """Distance between two neighbouring slices.

    Those in the middle of the NIRSpec slicer, which have the numbers 1 and 3, and the outermost
    of the MRS, where all are equal.
    """
    centres = {int(k): float(np.median(across[label == k])) for k in np.unique(label)}
    if len(centres) < 2:
        msg = "cube_build: the exposure shows fewer than 2 slices; their width is unknown"
        raise InputError(msg)
    middle = instrument == "NIRSPEC" and {1, 3} <= set(centres)
    pair = [centres[1], centres[3]] if middle else sorted(centres.values())[:2]
    return abs(pair[1] - pair[0])

"""The voxels of a cube: what bands it holds, its spaxels on the sky, its planes in wavelength.

Source: JWST pipeline documentation, "cube_build", and the CUBEPAR reference file.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from spec2fn.errors import InputError, ParameterError
from spec2fn.units import RAD_TO_ARCSEC

__all__ = [
    "Band",
    "CubeGrid",
    "CubeParameters",
    "Influence",
    "bands_of",
    "cube_name",
    "groups_of",
    "internal_grid",
    "project",
    "read_parameters",
    "sky_grid",
    "unwrap_ra",
]

# no field, and no spectrograph, has as many
_MOST_SPAXELS, _MOST_PLANES, _MOST_VOXELS = 4000, 100_000, 2**29
_FEW_EXPOSURES = (
    1.5  # the tabulated radii are made for four dithers; one exposure needs larger ones
)
_RESOLUTION = {"prism": "prism", "m": "med", "h": "high"}


@dataclass(frozen=True)
class Band:
    """What an exposure can be divided into: channel and band, or grating and filter."""

    first: str  # channel "1" to "4", or grating
    second: str  # band, such as "short", or filter


@dataclass(frozen=True, eq=False)
class Influence:
    """Parameters of the Shepard weights, one value or one for each plane.

    Attributes
    ----------
    spatial, spectral : array
        Radius of the region of influence [arcsec], and half its depth [um].
    power, softening : array, optional
        Of the modified Shepard weights.
    scale : array, optional
        Of the exponential weights [arcsec].
    """

    spatial: np.ndarray
    spectral: np.ndarray
    power: np.ndarray | None = None
    softening: np.ndarray | None = None
    scale: np.ndarray | None = None

    def at(self, nearest: np.ndarray | None) -> Influence:
        """Values for pixels, given their nearest plane (unused where there is one value)."""
        if self.spatial.ndim == 0 or nearest is None:
            return self
        values = (self.spatial, self.spectral, self.power, self.softening, self.scale)
        return Influence(*(None if v is None else v[nearest] for v in values))  # type: ignore[arg-type]


@dataclass(frozen=True, eq=False)
class CubeParameters:
    """Sampling of one cube, from the reference file and the user.

    Attributes
    ----------
    spaxel : float
        Size of a spaxel [arcsec].
    wavelength, lower, upper : (w,) float64
        Centre and edges of the planes [um].
    step : float, optional
        Spacing of linear planes [um]; None for a table of wavelengths.
    thickness : (w,) float64
        Distance to the next plane [um].
    influence : Influence, optional
        None for drizzle.
    """

    spaxel: float
    wavelength: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    thickness: np.ndarray
    step: float | None
    influence: Influence | None


@dataclass(frozen=True, eq=False)
class CubeGrid:
    """The spaxels of a cube in its tangent plane, or in the plane of the slicer.

    Attributes
    ----------
    crval, crpix, cdelt : tuple of float
        Of the two spatial axes [deg, 1-indexed pixel, arcsec]; of internal grids in the units of
        the slicer plane.
    angle : float
        Position angle of the y axis [deg, east of north].
    shape : tuple of int
        (y, x).
    start : tuple of float
        Centre of the first spaxel along x and y [arcsec].
    """

    crval: tuple[float, float]
    crpix: tuple[float, float]
    cdelt: tuple[float, float]
    angle: float
    shape: tuple[int, int]
    start: tuple[float, float]


def bands_of(ds: Any, wanted: dict[str, str]) -> list[Band]:
    """Return the bands of an exposure that are wanted, in the order of the cube.

    Parameters
    ----------
    ds : xarray.Dataset
        With the mode attributes.
    wanted : dict
        ``channel`` and ``band``, or ``grating`` and ``filter``; "all" for any. Several are
        separated by commas.

    Raises
    ------
    ParameterError
        If the exposure has none that is wanted, or a filter is given without a grating.
    """
    attrs = ds.attrs
    if attrs.get("instrument") == "MIRI":
        names = ("channel", "band")
        band = str(attrs.get("band", "")).lower()
        held = [Band(c, band) for c in sorted(str(attrs.get("channel", "")))]
    else:
        names = ("grating", "filter")
        held = [Band(*(str(attrs.get(n, "")).lower() for n in names))]
        given = [wanted[n] != "all" for n in names]
        if any(given) and not all(given):
            missing = names[given.index(False)]
            msg = f"cube_build: grating and filter select together; give {missing} too"
            raise ParameterError(msg)

    def has(value: str, name: str) -> bool:
        asked = wanted[name].lower()
        return asked == "all" or value in (a.strip() for a in asked.split(","))

    found = [b for b in held if has(b.first, names[0]) and has(b.second, names[1])]
    if not found:
        asked = ", ".join(f"{n}={wanted[n]}" for n in names)
        has_these = ", ".join(f"{b.first} {b.second}" for b in held)
        msg = f"cube_build: {asked} selects nothing; this exposure has {has_these}"
        raise ParameterError(msg)
    return found


def groups_of(bands: Sequence[Band], output_type: str, instrument: str) -> list[list[Band]]:
    """Return the bands of each cube to be made.

    Parameters
    ----------
    bands : sequence of Band
    output_type : {"band", "channel", "grating", "multi"}
    instrument : {"MIRI", "NIRSPEC"}

    Returns
    -------
    list of list of Band

    Raises
    ------
    ParameterError
        If the instrument has no such type of cube.
    """
    if output_type == "multi":
        return [list(bands)]
    if output_type == "channel" and instrument != "MIRI":
        msg = "cube_build: output_type='channel' is for MIRI; use 'band' or 'grating'"
        raise ParameterError(msg)
    if output_type == "grating" and instrument != "NIRSPEC":
        msg = "cube_build: output_type='grating' is for NIRSpec; use 'band' or 'channel'"
        raise ParameterError(msg)
    return [[b] for b in bands]


def cube_name(bands: Sequence[Band], instrument: str) -> str:
    """Return the name of a cube: ``ch1-short``, ``ch1-2-short``, ``g395h-f290lp``."""
    if instrument == "MIRI":
        channels = "-".join(dict.fromkeys(b.first for b in bands))
        return f"ch{channels}-" + "".join(sorted({b.second for b in bands}, reverse=True))
    return "-".join(f"{b.first}-{b.second}" for b in bands)


def _column(cubepar: Any, table: str, column: str) -> np.ndarray:
    name = f"{table}.{column}"
    if name not in cubepar:
        where = cubepar.attrs.get("filename", "the cubepar reference")
        held = ", ".join(sorted({str(n).split(".")[0] for n in cubepar.data_vars}))
        msg = f"cube_build: {where} has no {column!r} in table {table!r} (it holds {held})"
        raise InputError(msg)
    return np.asarray(cubepar[name].values)


def _row(cubepar: Any, table: str, band: Band, instrument: str) -> int:
    keys = ("channel", "band") if instrument == "MIRI" else ("disperser", "filter")
    text = [np.char.lower(np.char.strip(_column(cubepar, table, k).astype(str))) for k in keys]
    (rows,) = np.nonzero((text[0] == band.first) & (text[1] == band.second))
    if not rows.size:
        where = cubepar.attrs.get("filename", "the cubepar reference")
        msg = f"cube_build: table {table!r} of {where} has no row for {band.first} {band.second}"
        raise InputError(msg)
    return int(rows[-1])


def _multiband_table(bands: Sequence[Band], instrument: str, weighting: str) -> str:
    if instrument == "MIRI":
        return "multichannel_" + ("driz" if weighting == "drizzle" else weighting)
    grating = bands[-1].first
    resolution = _RESOLUTION[grating if grating == "prism" else grating[-1]]
    return f"multichan_{resolution}_{weighting}"


def read_parameters(
    cubepar: Any,
    bands: Sequence[Band],
    instrument: str,
    *,
    weighting: str,
    linear: bool,
    scalexy: float = 0.0,
    scalew: float = 0.0,
    rois: float = 0.0,
    roiw: float = 0.0,
    weight_power: float = 2.0,
    wavemin: float | None = None,
    wavemax: float | None = None,
    wavelengths: Sequence[float] | None = None,
    centred: bool = False,
) -> CubeParameters:
    """Return the sampling of a cube.

    Linear planes start at the lowest wavelength, or, if `centred`, go equally far beyond both
    ends of the range.

    Raises
    ------
    InputError
        If the reference file lacks a table, a row, or a value.
    ParameterError
        If `wavelengths` does not ascend.
    """
    rows = [_row(cubepar, "cubepar", b, instrument) for b in bands]

    def values(column: str, table: str = "cubepar") -> np.ndarray:
        where = rows if table == "cubepar" else [_row(cubepar, table, b, instrument) for b in bands]
        return _column(cubepar, table, column)[where].astype(np.float64)

    sizes = values("spaxelsize")
    smallest = int(np.argmin(sizes))
    spaxel = float(scalexy or sizes[smallest])
    low = values("wavemin").min() if wavemin is None else wavemin
    high = values("wavemax").max() if wavemax is None else wavemax
    steps = values("spectralstep")
    if not linear:
        table = _multiband_table(bands, instrument, weighting)
        chosen = _table_range(_column(cubepar, table, "wavelength").astype(np.float64), low, high)
    influence = None
    if weighting != "drizzle" and linear:
        table = f"cubepar_{weighting}"
        influence = _band_influence(
            weighting,
            lambda c: values(c, table),
            smallest,
            rois=rois,
            roiw=roiw,
            weight_power=weight_power,
        )
    elif weighting != "drizzle":
        influence = _table_influence(weighting, lambda c: _column(cubepar, table, c)[chosen])
    if wavelengths is not None:
        return _own_wavelengths(spaxel, wavelengths, influence)
    if linear:
        step = float(scalew or steps[0])
        if (high - low) / step > _MOST_PLANES:
            msg = (
                f"cube_build: {(high - low) / step:.3g} planes of {step:g} um between {low:g} and"
                f" {high:g} um; correct scalew, wavemin or wavemax"
            )
            raise ParameterError(msg)
        planes = math.ceil((high - low) / step)
        if centred:
            low = (low + high) / 2 - planes / 2 * step
        wavelength = low + step / 2 + np.arange(planes) * step
    else:
        step = None
        wavelength = _column(cubepar, table, "wavelength").astype(np.float64)[chosen]
    if wavelength.size < 2:
        msg = f"cube_build: {wavelength.size} planes between {low} and {high} um; widen the range"
        raise ParameterError(msg)
    thickness = np.diff(wavelength, append=2 * wavelength[-1] - wavelength[-2])
    thickness[-1] = thickness[-2]
    # planes of a table reach half way to the next, and as far the other way
    lower = np.maximum.accumulate(wavelength - thickness / 2)
    upper = wavelength + thickness / 2
    return CubeParameters(spaxel, wavelength, lower, upper, thickness, step, influence)


def _own_wavelengths(
    spaxel: float, wavelengths: Sequence[float], influence: Influence | None
) -> CubeParameters:
    own = np.asarray(wavelengths, dtype=np.float64)
    if own.ndim != 1 or own.size < 2 or not (np.diff(own) > 0).all():
        msg = "cube_build.wavelengths: needs at least 2 ascending wavelengths [um]"
        raise ParameterError(msg)
    middle = (own[1:] + own[:-1]) / 2
    lower = np.concatenate([[1.5 * own[0] - 0.5 * own[1]], middle])
    upper = np.concatenate([middle, [1.5 * own[-1] - 0.5 * own[-2]]])
    if influence is not None and influence.spatial.ndim:
        influence = influence.at(np.full(own.size, influence.spatial.size // 2))
    return CubeParameters(spaxel, own, lower, upper, upper - lower, None, influence)


def _table_range(table: np.ndarray, low: float, high: float) -> slice:
    first, last = (int(np.abs(table - limit).argmin()) for limit in (low, high))
    if first > 1 and table[first] > low:
        first -= 1
    if last < table.size - 1 and high > table[last]:
        last += 1
    return slice(first, last + 1)


def _checked(name: str, values: Any) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if not np.isfinite(array).any():
        msg = f"cube_build: the cubepar reference has no finite value of {name}"
        raise InputError(msg)
    return array


def _band_influence(
    weighting: str, column: Any, smallest: int, *, rois: float, roiw: float, weight_power: float
) -> Influence:
    spatial = rois or column("roispatial")[smallest]
    if weighting == "msm" and not rois:
        spatial = spatial * _FEW_EXPOSURES
    spatial = _checked("ROISPATIAL", spatial)
    spectral = _checked("ROISPECTRAL", roiw or column("roispectral").min())
    if weighting == "emsm":
        scale = _checked("SCALERAD", column("scalerad").min())
        return Influence(spatial, spectral, scale=scale)
    power = _checked("POWER", weight_power or column("power").min())
    softening = _checked("SOFTRAD", column("softrad").min())
    return Influence(spatial, spectral, power=power, softening=softening)


def _table_influence(weighting: str, column: Any) -> Influence:
    spatial = _checked("ROISPATIAL", column("roispatial")) * _FEW_EXPOSURES
    spectral = _checked("ROISPECTRAL", column("roispectral"))
    if weighting == "emsm":
        return Influence(spatial, spectral, scale=_checked("SCALERAD", column("scalerad")))
    power = _checked("POWER", column("power"))
    return Influence(
        spatial, spectral, power=power, softening=_checked("SOFTRAD", column("softrad"))
    )


def unwrap_ra(ra: np.ndarray) -> np.ndarray:
    """Put right ascensions on one side of 0/360 degrees."""
    middle = float(np.median(ra))
    far = np.abs(ra - middle) > 180.0
    return np.where(far, ra - 360.0 if middle < 180 else ra + 360.0, ra) if far.any() else ra


def project(
    ra: np.ndarray, dec: np.ndarray, crval: tuple[float, float], angle: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Return gnomonic coordinates, x to the west and y to the north if `angle` is 0.

    Parameters
    ----------
    ra, dec : array
        [deg].
    crval : tuple of float
        Tangent point [deg].
    angle : float
        Position angle of the y axis, turning the axes [deg].

    Returns
    -------
    x, y : array, float64
        [arcsec].
    """
    ra0, dec0 = np.deg2rad(crval)
    away, dec = np.deg2rad(ra) - ra0, np.deg2rad(dec)
    sin_dec, cos_dec = np.sin(dec), np.cos(dec)
    north = cos_dec * np.cos(away)
    depth = sin_dec * math.sin(dec0) + north * math.cos(dec0)
    x = -RAD_TO_ARCSEC * cos_dec * np.sin(away) / depth
    y = RAD_TO_ARCSEC * (sin_dec * math.cos(dec0) - north * math.sin(dec0)) / depth
    if angle:
        turn = math.radians(-angle)
        cos, sin = math.cos(turn), math.sin(turn)
        x, y = x * cos - y * sin, x * sin + y * cos
    return x, y


def sky_grid(
    ra: np.ndarray,
    dec: np.ndarray,
    spaxel: float,
    *,
    angle: float = 0.0,
    ra_center: float | None = None,
    dec_center: float | None = None,
    nspax_x: int | None = None,
    nspax_y: int | None = None,
) -> CubeGrid:
    """Return a tangent plane that holds all of the given positions, centred on the tangent point.

    Parameters
    ----------
    ra, dec : (n,) float64
        Positions to be covered, such as the corners of the field of view [deg].
    spaxel : float
        [arcsec].
    angle : float
        Position angle of the y axis [deg].
    ra_center, dec_center : float, optional
        Tangent point; default: the middle of the positions.
    nspax_x, nspax_y : int, optional
        Number of spaxels; an even one is raised by one, so that the tangent point is the centre
        of a spaxel.
    """
    ra = unwrap_ra(ra)
    ends = np.deg2rad([ra.min(), ra.max()])
    middle = math.degrees(math.atan2(np.sin(ends).sum(), np.cos(ends).sum())) % 360
    crval = (
        middle if ra_center is None else float(ra_center),
        (float(dec.min()) + float(dec.max())) / 2 if dec_center is None else float(dec_center),
    )
    x, y = project(ra, dec, crval, angle)
    half = [math.ceil(float(np.abs(v).max()) / spaxel) + 1 for v in (x, y)]
    for i, asked in enumerate((nspax_x, nspax_y)):
        if asked is not None:
            half[i] = asked // 2
    reach = max(float(np.abs(v).max()) for v in (x, y))
    if max(half) > _MOST_SPAXELS / 2 or (spaxel > 2 * reach and nspax_x is nspax_y is None):
        msg = (
            f"cube_build: {2 * half[0] + 1} x {2 * half[1] + 1} spaxels of {spaxel:g} arcsec for a"
            f" field that reaches {reach:.3g} arcsec from the centre of the cube; correct scalexy,"
            " nspax_x, nspax_y, ra_center or dec_center"
        )
        raise ParameterError(msg)
    return CubeGrid(
        crval=crval,
        crpix=(half[0] + 1.0, half[1] + 1.0),
        cdelt=(spaxel, spaxel),
        angle=angle,
        shape=(2 * half[1] + 1, 2 * half[0] + 1),
        start=(-half[0] * spaxel, -half[1] * spaxel),
    )


def check_size(grid: CubeGrid, planes: int) -> None:
    """Raise :class:`ParameterError` for a cube that no computer holds."""
    ny, nx = grid.shape
    if nx * ny * planes > _MOST_VOXELS:
        msg = (
            f"cube_build: a cube of {nx} x {ny} spaxels and {planes} planes takes"
            f" {nx * ny * planes * 16 / 2**30:.0f} GiB; correct scalexy, scalew, nspax_x"
            " or nspax_y, or cut the range with wavemin and wavemax"
        )
        raise ParameterError(msg)


def internal_grid(along: np.ndarray, across: np.ndarray, slices: int) -> CubeGrid:
    """Return a grid in the plane of the slicer: one column per slice, half as wide along them.

    Parameters
    ----------
    along, across : array
        Positions to be covered, in the units of the slicer plane.
    slices : int
        Number of slices.
    """
    width = (float(across.max()) - float(across.min())) / slices
    step = width / 2
    limit = math.ceil(max(abs(float(along.min())), abs(float(along.max()))) / step)
    low = -limit * step - step / 2
    left = float(across.min())
    return CubeGrid(
        crval=(left, low),
        crpix=(0.5, 0.5),
        cdelt=(width, step),
        angle=0.0,
        shape=(2 * limit + 1, slices),
        start=(left + width / 2, low + step / 2),
    )

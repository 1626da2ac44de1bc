"""The plan of ``cube_build``: grids, operators, and what the product says about them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from dataclasses import replace as _replace
from typing import Any

import numpy as np

from spec2fn.errors import InputError, ParameterError
from spec2fn.host.cube_overlap import (
    CubeOperator,
    assemble,
    assemble_voxels,
    paired,
    plane_overlaps,
    roi_entries,
    roi_planes,
)
from spec2fn.host.quadrilaterals import quad_entries
from spec2fn.parameters import user_path
from spec2fn.plan_base import Plan, array
from spec2fn.plans.cubes.cube_geometry import (
    PixelGeometry,
    internal_outlines,
    layout_of,
    pixel_geometry,
    pixel_labels,
    position_angle,
)
from spec2fn.plans.cubes.cube_grid import (
    Band,
    CubeGrid,
    CubeParameters,
    Influence,
    bands_of,
    check_size,
    cube_name,
    groups_of,
    internal_grid,
    read_parameters,
    sky_grid,
    unwrap_ra,
)
from spec2fn.plans.cubes.cube_wcs import STERADIAN, cube_gwcs, footprint, wcs_keywords
from spec2fn.schema import meta_of
from spec2fn.typing import Array, Number
from spec2fn.wcs.coordinates import with_coordinates

__all__ = ["COVARIANCE_OFFSETS", "CubeBuildPlan", "CubeOptions", "CubePlan", "make_plan"]

COVARIANCE_OFFSETS = ((0, 0, 1), (0, 1, 0), (1, 0, 0))
"""Neighbours (planes, rows, columns) whose covariance is computed."""

_SLICES = 30
# columns of an internal NIRSpec cube by slice, as the slices lie side by side
_COLUMNS = (15, 14, 16, 13, 17, 12, 18, 11, 19, 10, 20, 9, 21, 8, 22, 7, 23, 6, 24, 5, 25, 4, 26)
_SLICE_COLUMNS = np.array([*_COLUMNS, 3, 27, 2, 28, 1, 29, 0])


@dataclass(frozen=True)
class CubeOptions:
    """Parameters of :func:`spec2fn.steps.cube_build.cube_build`."""

    channel: str = "all"
    band: str = "all"
    grating: str = "all"
    filter: str = "all"
    output_type: str = "band"
    linear_wave: bool = True
    scalexy: float = 0.0
    scalew: float = 0.0
    weighting: str = "drizzle"
    coord_system: str = "skyalign"
    ra_center: float | None = None
    dec_center: float | None = None
    cube_pa: float | None = None
    nspax_x: int | None = None
    nspax_y: int | None = None
    rois: float = 0.0
    roiw: float = 0.0
    weight_power: float = 2.0
    wavemin: float | None = None
    wavemax: float | None = None
    wavelengths: tuple[float, ...] | None = None
    offset_file: str | None = None
    covariance: bool = False


@dataclass(frozen=True)
class CubeProvenance:
    """What describes a cube but takes no part in computing it; equal to any other one.

    Attributes
    ----------
    wcs : gwcs.WCS
    s_region : str
    science, primary : mapping
        Keywords by header; None removes one.
    """

    wcs: Any = field(default=None, compare=False, repr=False)
    s_region: str = field(default="", compare=False)
    science: Any = field(default=None, compare=False, repr=False)
    primary: Any = field(default=None, compare=False, repr=False)


class CubePlan(Plan):
    """One cube; valid for every integration of the exposure.

    Attributes
    ----------
    name : str
        Such as ``ch1-short``.
    bands : str
        Names of the bands in it, separated by commas.
    operator : CubeOperator
        Detector pixels to voxels.
    pairs : tuple of CubeOperator
        For :data:`COVARIANCE_OFFSETS`; empty unless asked for.
    wavelength : (w,) float64
        Of the planes [um].
    pixar_a2, pixar_sr : float
        Area of a spaxel [arcsec^2, sr].
    provenance : CubeProvenance
    """

    name: str
    bands: str
    operator: CubeOperator
    pairs: tuple[CubeOperator, ...]
    wavelength: Array = array("wave")
    pixar_a2: Number = array("")
    pixar_sr: Number = array("")
    provenance: CubeProvenance = field(default_factory=CubeProvenance)


class CubeBuildPlan(Plan):
    """The cubes that ``cube_build`` makes of an exposure."""

    parts: tuple[CubePlan, ...]


def make_plan(ds: Any, cubepar: Any, options: CubeOptions) -> CubeBuildPlan:
    """Plan all cubes of an exposure.

    Parameters
    ----------
    ds : xarray.Dataset
        After ``assign_wcs``.
    cubepar : xarray.Dataset
        CUBEPAR reference.
    options : CubeOptions

    Raises
    ------
    InputError, ParameterError
        See :func:`spec2fn.steps.cube_build.plan_cube_build`.
    """
    instrument = str(ds.attrs.get("instrument"))
    if options.coord_system == "world":
        options = _replace(options, coord_system="skyalign")
    internal = options.coord_system == "internal_cal"
    if internal:
        if instrument != "NIRSPEC":
            msg = (
                "cube_build: coord_system='internal_cal' is for NIRSpec, found"
                f" {instrument}; use 'ifualign'"
            )
            raise ParameterError(msg)
        options = _replace(options, output_type="band", linear_wave=True, weighting="emsm")
    wanted = {n: getattr(options, n) for n in ("channel", "band", "grating", "filter")}
    bands = bands_of(ds, wanted)
    meta = meta_of(ds)
    wcs = meta.wcs
    if hasattr(wcs, "load") and "slices" not in meta.records:
        wcs = wcs.load()
    if wcs is None:
        msg = "cube_build: the exposure has no WCS; run assign_wcs first"
        raise InputError(msg)
    layout_of(ds)
    ds = with_coordinates(ds, "cube_build")
    ds = _with_offset(ds, options.offset_file)
    make = _internal_cube if internal else _sky_cube
    groups = groups_of(bands, options.output_type, instrument)
    return CubeBuildPlan(tuple(make(ds, wcs, cubepar, group, options) for group in groups))


def _parameters(
    ds: Any, cubepar: Any, bands: Sequence[Band], options: CubeOptions, **more: Any
) -> CubeParameters:
    names = ("scalexy", "scalew", "rois", "roiw", "weight_power", "wavemin", "wavemax")
    values = {n: getattr(options, n) for n in (*names, "wavelengths")}
    return read_parameters(
        cubepar,
        bands,
        str(ds.attrs["instrument"]),
        linear=options.linear_wave and options.output_type != "multi",
        **{**values, "weighting": options.weighting, **more},
    )


def _sky_cube(
    ds: Any, wcs: Any, cubepar: Any, bands: Sequence[Band], options: CubeOptions
) -> CubePlan:
    sampling = _parameters(ds, cubepar, bands, options)
    angle = 0.0
    if options.coord_system == "ifualign":
        angle = position_angle(ds, wcs, bands[0])
    elif options.cube_pa is not None:
        angle = float(options.cube_pa)
    ra, dec = _extent(ds, bands, options)
    centres = {n: getattr(options, n) for n in ("ra_center", "dec_center", "nspax_x", "nspax_y")}
    grid = sky_grid(ra, dec, sampling.spaxel, angle=angle, **centres)
    check_size(grid, sampling.wavelength.size)
    drizzle = options.weighting == "drizzle"
    geometry = pixel_geometry(ds, wcs, bands, grid, outlines=drizzle)
    shape_in = ds["sci"].shape[-2:]
    if drizzle:
        operator = _drizzle(geometry, grid, sampling, shape_in)
    else:
        operator = _shepard(geometry, grid, sampling, shape_in)
    return _cube_plan(ds, bands, grid, sampling, operator, options=options)


def _extent(ds: Any, bands: Sequence[Band], options: CubeOptions) -> tuple[np.ndarray, np.ndarray]:
    """Corners of the field of view: those of S_REGION, or the outermost pixels of each band."""
    meta = meta_of(ds)
    region = str(ds.attrs.get("s_region") or meta.get("S_REGION", ""))
    whole = options.coord_system == "skyalign" and options.cube_pa is None
    # S_REGION is that of the larger channel
    small = ds.attrs["instrument"] == "MIRI" and options.output_type != "multi"
    small = small and any(b.first in ("1", "3") for b in bands)
    numbers = region.split()[2:10]
    if whole and not small and len(numbers) == 8 and meta.get("TARGTYPE") != "MOVING":
        corners = np.array(numbers, dtype=float).reshape(4, 2)
        return corners[:, 0], corners[:, 1]
    label, band = pixel_labels(ds, bands)
    ras, decs = [], []
    for i in range(len(bands)):
        mine = (label > 0) & (band == i)
        if not mine.any():
            continue
        ra, dec = (np.asarray(ds[n].data)[mine] for n in ("ra", "dec"))
        ra = unwrap_ra(ra)
        ends = [f(v) for v in (ra, dec) for f in (np.argmin, np.argmax)]
        ras.append(ra[ends] % 360)
        decs.append(dec[ends])
    if not ras:
        msg = "cube_build: no pixel of the exposure belongs to a slice; check the WCS"
        raise InputError(msg)
    return np.concatenate(ras), np.concatenate(decs)


def _drizzle(
    geometry: PixelGeometry,
    grid: CubeGrid,
    sampling: CubeParameters,
    shape_in: tuple[int, int],
) -> CubeOperator:
    first, spectral = plane_overlaps(
        geometry.wavelength, geometry.width, sampling.lower, sampling.upper
    )
    planes = sampling.wavelength.size
    known = np.isfinite(geometry.width) & np.isfinite(geometry.corners_x).all(axis=0)
    if sampling.step is None:
        # pixels centred a whole plane beyond the ends are left out
        low = sampling.wavelength[0] - sampling.thickness[0]
        high = sampling.wavelength[-1] + sampling.thickness[-1]
        known &= (geometry.wavelength >= low) & (geometry.wavelength <= high)
    first = np.where(known, first, planes)
    # cell (i, j) of the grid covers i to i + 1, j to j + 1

    def cells(which: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        outline = (geometry.corners_x, geometry.corners_y)
        scale = zip(outline, grid.start, grid.cdelt, strict=True)
        x, y = ((v.take(which, axis=1) - start) / step + 0.5 for v, start, step in scale)
        return x, y

    return assemble(
        first,
        spectral,
        geometry.pixel,
        lambda which: quad_entries(*cells(which), grid.shape),
        shape_in=shape_in,
        shape=(planes, *grid.shape),
    )


def _shepard(
    geometry: PixelGeometry,
    grid: CubeGrid,
    sampling: CubeParameters,
    shape_in: tuple[int, int],
) -> CubeOperator:
    centre = sampling.wavelength
    assert sampling.influence is not None
    nearest = np.searchsorted((centre[1:] + centre[:-1]) / 2, geometry.wavelength, side="right")
    held = sampling.influence.at(nearest)
    count = geometry.pixel.size

    def each(values: Any) -> np.ndarray:
        return np.broadcast_to(np.asarray(values, dtype=float), count)

    spatial, spectral_roi = each(held.spatial), each(held.spectral)
    x, y = (
        (v - s) / d
        for v, s, d in zip((geometry.x, geometry.y), grid.start, grid.cdelt, strict=True)
    )
    on_sky, in_wave, shape_of = _weights(held, each, grid.cdelt[0])
    first, spectral = roi_planes(
        geometry.wavelength, spectral_roi, centre, sampling.thickness, in_wave
    )
    return assemble(
        first,
        spectral,
        geometry.pixel,
        lambda which: roi_entries(
            x[which],
            y[which],
            spatial[which] / grid.cdelt[0],
            grid.shape,
            lambda away, who: on_sky(away, which[who]),
        ),
        shape_in=shape_in,
        shape=(centre.size, *grid.shape),
        **shape_of,
    )


def _weights(held: Influence, each: Any, spaxel: float) -> tuple[Any, Any, dict[str, Any]]:
    """Weights of squared distances on the sky and in wavelength, by pixel."""
    if held.scale is not None:
        scale = each(held.scale) / spaxel

        def decay(away: Any, pixel: Any) -> Any:
            return np.exp(-away / scale[pixel])

        return decay, decay, {}
    return (
        lambda away, _pixel: away,
        lambda away, _pixel: away,
        {"power": each(held.power), "softening": each(held.softening)},
    )


def _internal_cube(
    ds: Any, wcs: Any, cubepar: Any, bands: Sequence[Band], options: CubeOptions
) -> CubePlan:
    # no radius of influence is needed
    sampling = _parameters(ds, cubepar, bands, options, weighting="drizzle", centred=True)
    outlines = internal_outlines(ds, wcs)
    grid = internal_grid(outlines.along, outlines.across, _SLICES)
    if sampling.step is None:
        msg = "cube_build: coord_system='internal_cal' has linear planes; leave out wavelengths"
        raise ParameterError(msg)
    ny, nx = grid.shape
    planes = sampling.wavelength.size
    a = (outlines.corners_along - grid.start[1]) / grid.cdelt[1] + 0.5
    w = (outlines.corners_wave - sampling.lower[0]) / sampling.step
    known = np.flatnonzero(np.isfinite(a).all(axis=0) & np.isfinite(w).all(axis=0))
    a, w = a[:, known], w[:, known]
    who, cell, area = quad_entries(a, w, (planes, ny))
    full = 0.5 * np.abs((a[0] - a[2]) * (w[1] - w[3]) - (a[1] - a[3]) * (w[0] - w[2]))
    plane, along = np.divmod(cell, ny)
    column = _SLICE_COLUMNS[outlines.number[known] - 1]
    operator = assemble_voxels(
        outlines.pixel[known],
        who,
        (plane * ny + along) * nx + column[who],
        area / full[who],
        shape_in=ds["sci"].shape[-2:],
        shape=(planes, ny, nx),
    )
    return _cube_plan(ds, bands, grid, sampling, operator, options=options)


def _cube_plan(
    ds: Any,
    bands: Sequence[Band],
    grid: CubeGrid,
    sampling: CubeParameters,
    operator: CubeOperator,
    *,
    options: CubeOptions,
) -> CubePlan:
    instrument = str(ds.attrs["instrument"])
    internal = instrument if options.coord_system == "internal_cal" else ""
    if options.covariance and operator.power is not None:
        msg = "cube_build: covariance is for weighting 'drizzle' or 'emsm'; msm has too many pairs"
        raise ParameterError(msg)
    pairs = tuple(paired(operator, o) for o in COVARIANCE_OFFSETS) if options.covariance else ()
    area = grid.cdelt[0] * grid.cdelt[1]
    name = cube_name(bands, instrument) + ("_internal" if internal else "")
    primary = {
        "FLUXEXT": "SCI",
        "ERREXT": "ERR",
        "MASKEXT": "DQ",
        **_influence_keywords(sampling, options, internal),
    }
    if instrument == "MIRI":
        primary["CHANNEL"] = "".join(sorted({b.first for b in bands}))
    region = "" if internal else footprint(grid)
    return CubePlan(
        name=name,
        bands=",".join(cube_name([b], instrument) for b in bands),
        operator=operator,
        pairs=pairs,
        wavelength=sampling.wavelength,
        pixar_a2=np.float64(area),
        pixar_sr=np.float64(area * STERADIAN),
        provenance=CubeProvenance(
            wcs=cube_gwcs(grid, sampling, internal),
            s_region=region,
            science=wcs_keywords(grid, sampling, internal)
            | ({"S_REGION": None} if internal else {}),
            primary=primary,
        ),
    )


def _influence_keywords(
    sampling: CubeParameters, options: CubeOptions, internal: str
) -> Mapping[str, Any]:
    held = sampling.influence
    out: dict[str, Any] = {"ROIS": 0, "ROIW": 0, "WTYPE": options.weighting, "WPOWER": 0}
    if held is None or internal:
        return out
    out["ROIS"] = float(held.spatial) if held.spatial.ndim == 0 else None
    out["ROIW"] = float(np.mean(held.spectral))
    out["WPOWER"] = float(options.weight_power) if math.isfinite(options.weight_power) else 0
    return out


def _with_offset(ds: Any, path: str | None) -> Any:
    """Shift the sky coordinates by what an offset file says for this exposure."""
    if path is None:
        return ds
    import asdf
    import astropy.units as u
    from astropy.coordinates import SkyCoord

    name = meta_of(ds).filename
    try:
        with asdf.open(user_path(path)) as file:
            tree = {k: list(file[k]) for k in ("filename", "raoffset", "decoffset")}
    except (OSError, ValueError, KeyError) as error:
        msg = (
            f"cube_build: offset_file {path!r} cannot be used ({error}); it needs lists filename,"
            " raoffset and decoffset [arcsec] in an ASDF file"
        )
        raise InputError(msg) from error
    sizes = {k: len(v) for k, v in tree.items()}
    if len(set(sizes.values())) > 1:
        found = ", ".join(f"{n} {k}" for k, n in sizes.items())
        msg = f"cube_build: offset_file {path!r} has {found}; it needs as many of each"
        raise InputError(msg)
    if name not in tree["filename"]:
        msg = f"cube_build: offset_file {path!r} has no entry for {name}; add one"
        raise InputError(msg)
    i = tree["filename"].index(name)
    good = np.isfinite(ds["ra"].values)
    sky = SkyCoord(ds["ra"].values[good], ds["dec"].values[good], unit="deg")
    moved = sky.spherical_offsets_by(
        tree["raoffset"][i] * u.arcsec, tree["decoffset"][i] * u.arcsec
    )
    new = {}
    for axis, values in (("ra", moved.ra.deg), ("dec", moved.dec.deg)):
        plane = np.array(ds[axis].values)
        plane[good] = values
        new[axis] = (ds[axis].dims, plane)
    return ds.assign(new).assign_attrs(s_region=None)

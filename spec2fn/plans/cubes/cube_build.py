"""The plan of ``cube_build``: grids, operators, and what the product says about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.errors import InputError, ParameterError
from spec2fn.host.cube_overlap import (
    assemble,
    assemble_voxels,
    covariance_kernel,
    paired,
    plane_overlaps,
    roi_entries,
    roi_planes,
)
from spec2fn.host.quadrilaterals import Entries, quad_entries
from spec2fn.kernels.cubes import CubeOperator
from spec2fn.modes import mode_of
from spec2fn.parameters import Parameters, user_path
from spec2fn.plan_base import Plan, array
from spec2fn.plans.cubes.cube_geometry import (
    PixelGeometry,
    internal_outlines,
    layout_of,
    pixel_geometry,
    pixel_labels,
    position_angle,
)
from spec2fn.plans.cubes.sampling import (
    Band,
    CubeSampling,
    bands_of,
    cube_name,
    groups_of,
    read_sampling,
)
from spec2fn.plans.provenance import Provenance
from spec2fn.schema import meta_of
from spec2fn.typing import Array, HostArray, Number
from spec2fn.wcs.coordinates import with_coordinates
from spec2fn.wcs.cube_grid import CubeGrid, check_cube_size, internal_grid, sky_grid
from spec2fn.wcs.cube_wcs import STERADIAN, cube_gwcs, footprint, wcs_keywords
from spec2fn.wcs.s_region import unwrap_ra

if TYPE_CHECKING:
    import xarray as xr
    from gwcs import WCS

__all__ = ["COVARIANCE_OFFSETS", "CubeBuildPlan", "OneCubePlan", "make_plan"]

COVARIANCE_OFFSETS = ((0, 0, 1), (0, 1, 0), (1, 0, 0))
"""Neighbours (planes, rows, columns) whose covariance is computed."""

_SLICES = 30
# columns of an internal NIRSpec cube by slice, as the slices lie side by side: outwards from the
# middle, in turns to the left and to the right
_SLICE_COLUMNS = np.array([15 + (-1) ** k * ((k + 1) // 2) for k in range(_SLICES)])


class OneCubePlan(Plan):
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
    covariance_kernel : (w, y, x) float32
        Share of the covariances of a voxel with the one so many rows and columns away.
    wavelength : (w,) float64
        Of the planes [um].
    pixar_a2, pixar_sr : float
        Area of a spaxel [arcsec^2, sr].
    provenance : Provenance
    """

    name: str
    bands: str
    operator: CubeOperator
    pairs: tuple[CubeOperator, ...]
    covariance_kernel: Array = array("wave _ _")
    wavelength: Array = array("wave")
    pixar_a2: Number = array("")
    pixar_sr: Number = array("")
    provenance: Provenance


class CubeBuildPlan(Plan):
    """The cubes that ``cube_build`` makes of an exposure."""

    parts: tuple[OneCubePlan, ...]


def make_plan(ds: xr.Dataset, cubepar: xr.Dataset, params: Parameters) -> CubeBuildPlan:
    """Plan all cubes of an exposure.

    Parameters
    ----------
    ds : xarray.Dataset
        After ``assign_wcs``.
    cubepar : xarray.Dataset
        CUBEPAR reference.
    params : Parameters
        Of :func:`spec2fn.steps.cube_build.cube_build`.

    Raises
    ------
    InputError, ParameterError
        See :func:`spec2fn.steps.cube_build.plan_cube_build`.
    """
    instrument = str(ds.attrs.get("instrument"))
    internal = params.coord_system == "internal_cal"
    if internal and instrument != "NIRSPEC":
        msg = (
            "cube_build: coord_system='internal_cal' is for NIRSpec, found"
            f" {instrument}; use 'ifualign'"
        )
        raise ParameterError(msg)
    if mode_of(ds).lamp and not internal:
        msg = (
            f"cube_build: coord_system={params.coord_system!r} lies on the sky, where the light of"
            " a lamp has no place; use 'internal_cal'"
        )
        raise ParameterError(msg)
    bands = bands_of(ds, params)
    meta = meta_of(ds)
    wcs = meta.wcs
    if hasattr(wcs, "load") and "slices" not in meta.records:
        wcs = wcs.load()
    if wcs is None:
        msg = "cube_build: the exposure has no WCS; run assign_wcs first"
        raise InputError(msg)
    layout_of(ds)
    ds = with_coordinates(ds, "cube_build")
    ds = _with_offset(ds, params.offset_file)
    groups = groups_of(bands, "band" if internal else params.output_type, instrument)
    return CubeBuildPlan(tuple(_one_cube(ds, wcs, cubepar, group, params) for group in groups))


def _one_cube(
    ds: xr.Dataset, wcs: WCS, cubepar: xr.Dataset, bands: Sequence[Band], params: Parameters
) -> OneCubePlan:
    instrument = str(ds.attrs["instrument"])
    sampling = read_sampling(cubepar, bands, instrument, params)
    if params.coord_system == "internal_cal":
        grid, operator = _internal_cube(ds, wcs, sampling, params)
    else:
        grid, operator = _sky_cube(ds, wcs, bands, sampling, params)
    if not operator.voxels.size:
        msg = (
            f"cube_build: no pixel of the exposure reaches the cube {cube_name(bands, instrument)};"
            " correct ra_center, dec_center, wavemin, wavemax, wavelengths or offset_file"
        )
        raise ParameterError(msg)
    if params.covariance and operator.power is not None:
        msg = "cube_build: covariance is for weighting 'drizzle' or 'emsm'; msm has too many pairs"
        raise ParameterError(msg)
    pairs = tuple(paired(operator, o) for o in COVARIANCE_OFFSETS) if params.covariance else ()
    area = grid.cdelt[0] * grid.cdelt[1]
    primary = {
        "FLUXEXT": "SCI",
        "ERREXT": "ERR",
        "MASKEXT": "DQ",
        **_influence_keywords(sampling, params),
    }
    if instrument == "MIRI":
        primary["CHANNEL"] = "".join(sorted({b.first for b in bands}))
    return OneCubePlan(
        name=cube_name(bands, instrument) + ("_internal" if grid.internal else ""),
        bands=",".join(cube_name([b], instrument) for b in bands),
        operator=operator,
        pairs=pairs,
        covariance_kernel=covariance_kernel(operator),
        wavelength=sampling.wavelength,
        pixar_a2=np.float64(area),
        pixar_sr=np.float64(area * STERADIAN),
        provenance=Provenance(
            wcs=cube_gwcs(grid, sampling.wavelength, sampling.step),
            s_region="" if grid.internal else footprint(grid),
            science=wcs_keywords(grid, sampling.wavelength, sampling.step)
            | ({"S_REGION": None} if grid.internal else {}),
            primary=primary,
        ),
    )


def _sky_cube(
    ds: xr.Dataset, wcs: WCS, bands: Sequence[Band], sampling: CubeSampling, params: Parameters
) -> tuple[CubeGrid, CubeOperator]:
    aligned = params.coord_system == "ifualign"
    angle = position_angle(ds, wcs, bands[0]) if aligned else float(params.cube_pa or 0.0)
    ra, dec = _extent(ds, bands, params)
    centre = (params.ra_center, params.dec_center)
    size = (params.nspax_x, params.nspax_y)
    grid = sky_grid(ra, dec, sampling.spaxel, angle=angle, centre=centre, size=size)
    check_cube_size(grid, sampling.wavelength.size)
    drizzle = params.weighting == "drizzle"
    geometry = pixel_geometry(ds, wcs, bands, grid, outlines=drizzle)
    return grid, (_drizzle if drizzle else _shepard)(geometry, grid, sampling)


def _extent(
    ds: xr.Dataset, bands: Sequence[Band], params: Parameters
) -> tuple[HostArray, HostArray]:
    """Corners of the field of view: those of S_REGION, or the outermost pixels of each band."""
    meta = meta_of(ds)
    # None if an offset file moved the pixels away from it
    region = str(ds.attrs.get("s_region", meta.get("S_REGION")) or "")
    whole = params.coord_system in ("skyalign", "world") and params.cube_pa is None
    # S_REGION is that of the larger channel
    small = ds.attrs["instrument"] == "MIRI" and params.output_type != "multi"
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


def _drizzle(geometry: PixelGeometry, grid: CubeGrid, sampling: CubeSampling) -> CubeOperator:
    first, spectral = plane_overlaps(
        geometry.wavelength, geometry.width, sampling.lower, sampling.upper
    )
    planes = sampling.wavelength.size
    known = np.isfinite(geometry.width) & np.isfinite(geometry.corners[0]).all(axis=0)
    if sampling.step is None:
        # pixels centred a whole plane beyond the ends are left out
        low = sampling.wavelength[0] - sampling.thickness[0]
        high = sampling.wavelength[-1] + sampling.thickness[-1]
        known &= (geometry.wavelength >= low) & (geometry.wavelength <= high)
    first = np.where(known, first, planes)

    def entries(which: HostArray) -> Entries:
        x, y = _spaxels(geometry.corners.take(which, axis=2), grid)
        # cell (i, j) of the grid covers i to i + 1, j to j + 1
        return quad_entries(x + 0.5, y + 0.5, grid.shape)

    return assemble(first, spectral, geometry.pixel, entries, shape=(planes, *grid.shape))


def _spaxels(position: HostArray, grid: CubeGrid) -> tuple[HostArray, HostArray]:
    """Positions (2, ...) [arcsec] in spaxels, where spaxel i has its centre at i."""
    x, y = ((v - s) / d for v, s, d in zip(position, grid.start, grid.cdelt, strict=True))
    return x, y


def _shepard(geometry: PixelGeometry, grid: CubeGrid, sampling: CubeSampling) -> CubeOperator:
    centre, spaxel = sampling.wavelength, grid.cdelt[0]
    assert sampling.influence is not None
    nearest = np.searchsorted((centre[1:] + centre[:-1]) / 2, geometry.wavelength, side="right")
    influence = sampling.influence.at(nearest)
    scale = None if influence.scale is None else influence.scale / spaxel

    def weight(square: HostArray, pixel: HostArray) -> HostArray:
        # of a squared distance on the sky or in wavelength, if not of the sum of both
        return square if scale is None else np.exp(-square / scale[pixel])

    first, spectral = roi_planes(
        geometry.wavelength, influence.spectral, centre, sampling.thickness, weight
    )
    x, y = _spaxels(geometry.centre, grid)
    return assemble(
        first,
        spectral,
        geometry.pixel,
        lambda which: roi_entries(
            x[which],
            y[which],
            influence.spatial[which] / spaxel,
            grid.shape,
            lambda square, who: weight(square, which[who]),
        ),
        shape=(centre.size, *grid.shape),
        power=influence.power,
        softening=influence.softening,
    )


def _internal_cube(
    ds: xr.Dataset, wcs: WCS, sampling: CubeSampling, params: Parameters
) -> tuple[CubeGrid, CubeOperator]:
    # the lines of a lamp tell where they belong
    shifted = params.internal_outline == "shifted" and not mode_of(ds).lamp
    pixel, number, (along, across), corners = internal_outlines(ds, wcs, shifted=shifted)
    grid = internal_grid(along, across, _SLICES)
    if sampling.step is None:
        msg = "cube_build: coord_system='internal_cal' has linear planes; leave out wavelengths"
        raise ParameterError(msg)
    ny, nx = grid.shape
    planes = sampling.wavelength.size
    check_cube_size(grid, planes)
    known = np.flatnonzero(np.isfinite(corners).all(axis=(0, 1)))
    a, w = corners[:, :, known]
    # in rows and planes
    for values, start, step in (
        (a, grid.start[1] - 0.5 * grid.cdelt[1], grid.cdelt[1]),
        (w, sampling.lower[0], sampling.step),
    ):
        np.subtract(values, start, out=values)
        np.divide(values, step, out=values)
    full = 0.5 * np.abs((a[0] - a[2]) * (w[1] - w[3]) - (a[1] - a[3]) * (w[0] - w[2]))
    who, cell, area = quad_entries(a, w, (planes, ny))
    # the cells run over planes and rows, the voxels over columns as well, one for each slice
    cell *= nx
    cell += _SLICE_COLUMNS[number[known] - 1].astype(cell.dtype)[who]
    area /= full[who]
    shape = (planes, ny, nx)
    return grid, assemble_voxels(pixel[known], who, cell, area.astype(np.float32), shape=shape)


def _influence_keywords(sampling: CubeSampling, params: Parameters) -> Mapping[str, Any]:
    influence = sampling.influence
    if influence is None:
        # as the JWST pipeline says of cubes in the plane of the slicer
        weighting = "emsm" if params.coord_system == "internal_cal" else params.weighting
        return {"ROIS": 0, "ROIW": 0, "WTYPE": weighting, "WPOWER": 0}
    return {
        "ROIS": float(influence.spatial) if influence.spatial.ndim == 0 else None,
        "ROIW": float(np.mean(influence.spectral)),
        "WTYPE": params.weighting,
        "WPOWER": float(params.weight_power),
    }


def _with_offset(ds: xr.Dataset, path: str | None) -> xr.Dataset:
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

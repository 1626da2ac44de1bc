"""Spectral cubes from integral-field exposures."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, Literal

from spec2fn.cubes import Cubes
from spec2fn.dq import PIXEL, UNUSABLE
from spec2fn.engine.step import PLANNED, Skip, step
from spec2fn.kernels import cubes as kernel
from spec2fn.kernels.cubes import CubeOperator
from spec2fn.kernels.namespace import array_namespace, is_traced, positive_root, usable
from spec2fn.modes import mode_of
from spec2fn.parameters import Parameters, Range
from spec2fn.plans.cubes.contributions import report_voxel, voxel_of
from spec2fn.plans.cubes.cube_build import (
    COVARIANCE_OFFSETS,
    CubeBuildPlan,
    OneCubePlan,
    make_plan,
)
from spec2fn.schema import VARIANCES, meta_of, set_scalars, with_attrs, with_meta
from spec2fn.typing import Array
from spec2fn.wcs.cube_wcs import with_cards

if TYPE_CHECKING:
    import numpy as np
    import xarray as xr

__all__ = ["cube_build", "plan_cube_build"]

# what describes the pointing of the exposure says nothing about the cube
_GONE = ("V2_REF", "V3_REF", "RA_REF", "DEC_REF", "ROLL_REF", "V3I_YANG", "VPARITY")


def plan_cube_build(
    ds: xr.Dataset, cubepar: xr.Dataset | None = None, *, params: Parameters
) -> CubeBuildPlan | Skip:
    """Compute grids and weights of the cubes on the host; see :func:`cube_build`.

    Returns
    -------
    CubeBuildPlan or Skip
        Depends on the WCS, the keywords and the reference, not on pixel values.

    Raises
    ------
    InputError
        If there is no WCS, no pixel in a slice, or the reference lacks a band or a table.
    ParameterError
        If bands are asked for that the exposure does not have, or parameters that exclude each
        other.
    """
    mode = mode_of(ds)
    if not mode.sliced:
        return Skip(f"{mode.exp_type or 'the exposure'} is not of an integral-field unit")
    if cubepar is None:
        return Skip("no cubepar reference for this exposure")
    voxel = voxel_of(params.debug_spaxel)
    made = make_plan(ds, cubepar, params)
    if voxel is not None:
        for part in made.parts:
            report_voxel(ds, part.name, part.operator, voxel)
    return made


@step(
    refs=("cubepar",),
    reads=("sci", "err", "dq"),
    provides=("wmap",),
    traceable=True,
    planner=plan_cube_build,
    suffix="s3d",
    ordered=(("wavemin", "wavemax"), ("wavelengths", "wavelengths")),
)
def cube_build(
    ds: xr.Dataset,
    cubepar: xr.Dataset | None = None,
    *,
    plan: CubeBuildPlan = PLANNED,
    channel: str = "all",
    band: str = "all",
    grating: str = "all",
    filter: str = "all",  # noqa: A002 - the name of the official parameter
    output_type: Literal["band", "channel", "grating", "multi"] = "band",
    linear_wave: bool = True,
    scalexy: Annotated[float, Range(0.0)] = 0.0,
    scalew: Annotated[float, Range(0.0)] = 0.0,
    weighting: Literal["drizzle", "emsm", "msm"] = "drizzle",
    coord_system: Literal["skyalign", "world", "internal_cal", "ifualign"] = "skyalign",
    internal_outline: Literal["centred", "shifted"] = "centred",
    ra_center: Annotated[float, Range(0.0, 360.0)] | None = None,
    dec_center: Annotated[float, Range(-90.0, 90.0)] | None = None,
    cube_pa: Annotated[float, Range(-360.0, 360.0)] | None = None,
    nspax_x: Annotated[int, Range(1)] | None = None,
    nspax_y: Annotated[int, Range(1)] | None = None,
    rois: Annotated[float, Range(0.0)] = 0.0,
    roiw: Annotated[float, Range(0.0)] = 0.0,
    weight_power: Annotated[float, Range(0.0, 100.0)] = 2.0,
    wavemin: Annotated[float, Range(0.0, above=True)] | None = None,
    wavemax: Annotated[float, Range(0.0, above=True)] | None = None,
    wavelengths: tuple[Annotated[float, Range(0.0, above=True)], ...] | None = None,
    skip_dqflagging: bool = True,
    offset_file: str | None = None,
    debug_spaxel: str = "-1 -1 -1",
    covariance: bool = False,
) -> xr.Dataset | Cubes:
    """Put the pixels of an integral-field exposure into a cube of wavelength and position.

    Parameters
    ----------
    ds : xarray.Dataset
        ``sci``, ``err``, ``dq``, dims ([integration,] y, x), and from ``assign_wcs`` ``ra``,
        ``dec`` [deg], ``wavelength`` [um], ``slice_id`` (y, x) and the gwcs. Of a product
        without them, such as a ``_cal`` file, the gwcs is evaluated.
    cubepar : xarray.Dataset
        CUBEPAR reference: size of spaxels and planes, tables of wavelengths.
    plan : CubeBuildPlan
        Grids and weights, from :func:`plan_cube_build`.
    channel, band : str
        MIRI: channels ("1" to "4") and band ("short", …) to use, separated by commas, or "all".
    grating, filter : str
        NIRSpec: grating and filter to use, or "all".
    output_type : {"band", "channel", "grating", "multi"}
        "multi" puts all bands of the exposure (the two channels of the MRS) into one cube with
        tabulated wavelengths; otherwise each band has a cube of its own.
    linear_wave : bool
        Planes at even steps, instead of the wavelengths tabulated in `cubepar`.
    scalexy, scalew : float
        Size of a spaxel [arcsec] and step in wavelength [um]; 0 for those of `cubepar`.
    weighting : {"drizzle", "emsm", "msm"}
        Overlap of pixel and voxel, or a weight that falls with their distance: exponentially, or
        with a power of it (modified Shepard).
    coord_system : {"skyalign", "world", "internal_cal", "ifualign"}
        Axes along right ascension and declination ("world" means the same), along the slices but
        on the sky, or in the plane of the NIRSpec slicer, where alone the light of lamps has a
        place.
    internal_outline : {"centred", "shifted"}
        In the plane of the slicer: what a pixel covers is centred on it, or begins at its centre,
        as in the JWST pipeline, so that cubes are half a pixel of the detector off, along the
        slices and in wavelength. Cubes of lamps are always centred: their lines tell.
    ra_center, dec_center : float, optional
        Centre of the cube [deg]; default: of the field of view.
    cube_pa : float, optional
        Position angle of the y axis of a sky-aligned cube [deg, east of north].
    nspax_x, nspax_y : int, optional
        Number of spaxels; an even one is raised by one.
    rois, roiw : float
        Radius on the sky [arcsec], and half range of wavelength [um], within which pixels weigh
        with "emsm" or "msm"; 0 for those of `cubepar`.
    weight_power : float
        Power of the distance with "msm" and even steps; 0 for that of `cubepar`.
    wavemin, wavemax : float, optional
        Range of wavelengths [um].
    wavelengths : tuple of float, optional
        Centres of the planes [um], instead of any of the grids above; the edges are half way.
    skip_dqflagging : bool
        Whether all voxels without data have the same flags. Otherwise holes, which pixels would
        cover if they were good, lack NON_SCIENCE.
    offset_file : str, optional
        ASDF file with the lists ``filename``, ``raoffset`` and ``decoffset`` [arcsec].
    debug_spaxel : str
        Spaxel and plane, ``x y plane`` from 0: a warning lists the pixels that reach this voxel.
    covariance : bool
        Whether to compute the covariance of neighbouring voxels (not with "msm").

    Returns
    -------
    xarray.Dataset or Cubes
        One cube, or several with names such as ``ch1-short``. Dims ([integration,] wave, y, x):
        ``sci``, ``err``, ``dq``, ``wmap`` (number of pixels that contribute); ``wavelength``
        (wave) [um]; and

        ``covariance_sum`` ([integration,] wave, y, x) float32
            Sum of the covariances of a voxel with all others of its plane: by how much more the
            variance of a sum grows with it than by its own.
        ``covariance_kernel`` (wave, lag_y, lag_x) float32
            Share of these with the voxel so many rows and columns away, on average; sums to 1.
        ``covariance`` ([integration,] lag, wave, y, x) float32, if asked for
            Covariance of a voxel with the next one along x, y, and wave; 0 where they share
            no pixel.

    Raises
    ------
    InputError, ParameterError
        See :func:`plan_cube_build`.

    Notes
    -----
    Drizzle in three dimensions, Law et al. 2023 (AJ 166, 45); modified Shepard weights, Shepard
    1968. A voxel is the weighted mean of the good pixels, ``err`` is the standard error of that
    mean for independent pixels. Planes at the ends of an MRS band in which much less of the field
    is covered than elsewhere hold no data.
    """
    labels = {
        "cube_output_type": output_type,
        "cube_weighting": "area" if coord_system == "internal_cal" else weighting,
        "cube_coord_system": "skyalign" if coord_system == "world" else coord_system,
    }
    cubes = tuple(_cube(ds, part, labels, holes=not skip_dqflagging) for part in plan.parts)
    return cubes[0] if len(cubes) == 1 else Cubes(tuple(part.name for part in plan.parts), cubes)


def _cube(ds: xr.Dataset, part: OneCubePlan, labels: dict[str, str], *, holes: bool) -> xr.Dataset:
    op = part.operator
    sci, err, dq = (ds[n].data for n in ("sci", "err", "dq"))
    xp = array_namespace(sci, err)
    good = usable(dq, sci, err, *(ds[n].data for n in VARIANCES if n in ds))
    # gathering is what takes time
    sci, err, good = (p.reshape(*p.shape[:-2], -1)[..., op.pixels] for p in (sci, err, good))
    found = kernel.combine(op, sci, err, good)
    weight = found["weight"]
    reached = weight > 0
    keep = reached
    if ds.attrs.get("instrument") == "MIRI":
        low = kernel.low_coverage(kernel.by_plane(op, reached.astype(sci.dtype)))
        keep = reached & ~low[..., xp.asarray(op.voxels) // op.plane]
    zero, nan = (xp.asarray(v, dtype=sci.dtype) for v in (0, math.nan))
    planes = {
        "sci": kernel.to_cube(op, xp.where(keep, found["sci"], nan), nan),
        "err": kernel.to_cube(op, xp.where(keep, positive_root(found["var"]), nan), nan),
        "covariance_sum": kernel.to_cube(op, xp.where(keep, found["covariance_sum"], nan), nan),
        "dq": _flags(op, keep, reached, dq.dtype, holes=holes),
        "wmap": kernel.to_cube(op, xp.where(keep, found["wmap"], zero), zero),
    }
    lead = ds["sci"].dims[:-2]
    dims = (*lead, "wave", "y", "x")
    attrs = {n: dict(ds[n].attrs) for n in ("sci", "err", "dq")}
    new: dict[str, Any] = {n: (dims, v, attrs.get(n, {})) for n, v in planes.items()}
    new["wavelength"] = (("wave",), part.wavelength, {"units": "um"})
    new["covariance_kernel"] = (("wave", "lag_y", "lag_x"), part.covariance_kernel)
    if part.pairs:
        variance = xp.where(good, err, zero) ** 2
        shared = [
            kernel.covariance(op, pairs, weight, variance, offset)
            for pairs, offset in zip(part.pairs, COVARIANCE_OFFSETS, strict=True)
        ]
        new["covariance"] = ((*lead, "lag", "wave", "y", "x"), xp.stack(shared, axis=-4))
    return _assembled(ds, part, new, labels)


def _flags(
    op: CubeOperator, keep: Array, reached: Array, dtype: np.dtype[Any], *, holes: bool
) -> Array:
    xp = array_namespace(keep)
    outside, hole, none = (xp.asarray(v, dtype=dtype) for v in (UNUSABLE, PIXEL["DO_NOT_USE"], 0))
    flags = xp.where(keep, none, outside)
    if holes:
        every = xp.ones(op.pixels.shape[0], dtype="float32")
        covered = kernel.apply(op, every, 0) > 0
        flags = xp.where(covered & ~reached, hole, flags)
    return kernel.to_cube(op, flags, outside)


def _assembled(
    ds: xr.Dataset, part: OneCubePlan, new: dict[str, Any], labels: dict[str, str]
) -> xr.Dataset:
    out = ds.drop_dims(["y", "x"]).assign(new)
    out = set_scalars(out, pixar_sr=part.pixar_sr, pixar_a2=part.pixar_a2)
    # cubes by integration have no data model of their own; this one has arrays of four dimensions
    model = "QuadModel" if "integration" in ds["sci"].dims else "IFUCubeModel"
    out = with_attrs(out, model=model, cube_names=part.bands, **labels)
    if is_traced(new["sci"][1]):
        # what describes the output grid does not enter a trace
        return out
    told = part.provenance
    channel = told.primary.get("CHANNEL")
    out = with_attrs(
        out, s_region=told.s_region or None, **({"channel": channel} if channel else {})
    )
    meta = meta_of(out)
    primary = with_cards(meta.primary, "IFU cube parameters", told.primary)
    science = with_cards(meta.science, "WCS parameters", dict.fromkeys(_GONE) | told.science)
    return with_meta(out, wcs=told.wcs, primary=primary, science=science)

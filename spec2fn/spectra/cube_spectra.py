"""The spectrum of a cube as a Dataset, given its plan: sums, units, corrections, columns."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.dq import PIXEL
from spec2fn.kernels.circles import circle_overlap, circle_sampled
from spec2fn.kernels.cube_extraction import (
    CubeSums,
    Spaxels,
    clipping_limits,
    extract_aperture,
    extract_whole,
)
from spec2fn.kernels.namespace import array_namespace, is_traced, safe_sqrt
from spec2fn.modes import function_named, mode_of
from spec2fn.plans.extraction.extract_cube import CubeExtractionPlan
from spec2fn.schema import VARIANCES, with_warnings
from spec2fn.spectra.datasets import spectra_dataset, with_wcs
from spec2fn.typing import Array, Arrays, Number
from spec2fn.units import MJY_TO_JY

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["extract_cube"]

_BLOCK = 1 << 18  # voxels handled at a time in NumPy: they stay in the processor's cache

Box = tuple[slice, slice]


def extract_cube(ds: xr.Dataset, plan: CubeExtractionPlan) -> xr.Dataset:
    """Extract the spectrum of a cube, as a Dataset with one spectrum."""
    sums = _sums(ds, plan)
    columns = _columns(ds, plan, sums)
    out = with_wcs(_as_dataset(ds, plan, columns), ds)
    return out if is_traced(columns["flux"]) else with_warnings(out, *plan.warnings)


def _planes(ds: xr.Dataset) -> tuple[tuple[Array, ...], Array | None]:
    """Data, coverage, components of the variance (or the error alone), and what spaxels share.

    Without a kernel there are no covariances, otherwise they come last.
    """
    dims = ds["sci"].dims
    data = ds["sci"].data
    xp = array_namespace(data)
    cover = ds["wmap"].data if "wmap" in ds else xp.isfinite(data).astype(np.float32)
    if all(n in ds and ds[n].dims == dims for n in VARIANCES):
        errors = tuple(ds[n].data for n in VARIANCES)
    else:
        errors = (ds["err"].data,) if "err" in ds else ()
    if "covariance_sum" not in ds:
        return (data, cover, *errors), None
    return (data, cover, *errors, ds["covariance_sum"].data), ds["covariance_kernel"].data


def _sums(ds: xr.Dataset, plan: CubeExtractionPlan) -> CubeSums:
    held, kernel = _planes(ds)
    data = held[0]
    xp = array_namespace(*held, plan.centre)
    n = data.shape[-3]
    # NumPy goes through the cube in blocks of planes, JAX compiles the whole at once
    step = n if xp is not np else max(1, _BLOCK * n // max(data.size, 1))
    parts = [_block(plan, slice(k, min(k + step, n)), held, kernel) for k in range(0, n, step)]
    if len(parts) == 1:
        return parts[0]

    def join(*columns: Any) -> Any:  # noqa: ANN401 - arrays, or tuples of them
        if isinstance(columns[0], tuple):
            return tuple(map(join, *columns))
        return xp.concatenate(columns, axis=-1)

    return CubeSums(*map(join, *parts))


def _block(
    plan: CubeExtractionPlan, planes: slice, held: tuple[Array, ...], kernel: Array | None
) -> CubeSums:
    """Sums of some planes."""
    data, cover, *errors = held = tuple(a[..., planes, :, :] for a in held)
    kernel = None if kernel is None else kernel[planes].astype(np.float64)
    xp = array_namespace(*held, plan.centre)
    valid = (cover > 0) & xp.isfinite(data)
    for e in errors:
        valid = valid & xp.isfinite(e)
    if plan.radius is None:
        kept = _kept(data, valid, cover, plan.sigma_clip)
        return extract_whole(_masked(held, valid, kernel), kept)
    radius = plan.radius[planes]
    inner = None if plan.inner is None else plan.inner[planes]
    outer = None if plan.outer is None else plan.outer[planes]
    kept = None if outer is None else _kept(data, valid, cover, plan.sigma_clip)
    reach = radius if outer is None else xp.maximum(radius, outer)
    neighbours = 0 if kernel is None else max(kernel.shape[-2:]) // 2
    box = _box(plan.centre, reach + neighbours, data.shape)
    data, *others = (a[(..., *box)] for a in held)
    shape, origin = (data.shape[-2], data.shape[-1]), (box[0].start, box[1].start)

    def disc(r: Array) -> Array:
        if plan.subpixels:
            return circle_sampled(plan.centre, r, shape, plan.subpixels, origin)
        return circle_overlap(plan.centre, r, shape, origin)

    area = math.pi * radius * radius
    annulus, ring = None, xp.zeros_like(area)
    if inner is not None and outer is not None:
        annulus = disc(outer) - disc(inner)
        ring = math.pi * (outer * outer - inner * inner)
    return extract_aperture(
        _masked((data, *others), valid[(..., *box)], kernel),
        disc(radius),
        annulus=annulus,
        kept=None if kept is None else kept[(..., *box)],
        areas=(area, ring),
    )


def _masked(held: tuple[Array, ...], valid: Array, kernel: Array | None) -> Spaxels:
    """Planes in float64, zero where they are not valid, before anything is computed."""
    xp = array_namespace(valid, *held)
    data, cover, *errors = (xp.where(valid, a, xp.zeros_like(a)).astype(np.float64) for a in held)
    joint = None if kernel is None else errors.pop()
    # a single array is the error, three are the components of the variance
    variances = tuple(e**2 for e in errors) if len(errors) == 1 else tuple(errors)
    if not variances:  # an unknown error is not 0
        variances = (xp.full(data.shape, np.nan),)
    return Spaxels(data, variances, xp.minimum(cover, 1.0), joint, kernel)


def _kept(data: Array, valid: Array, cover: Array, sigma: float) -> Array:
    """Valid spaxels that are no outliers of their plane, the whole field of view considered."""
    xp = array_namespace(data, valid)
    full = valid & (cover >= 1)
    flat, known = data.reshape(*data.shape[:-2], -1), full.reshape(*full.shape[:-2], -1)
    if xp is np:  # leave out what no plane covers
        seen = known.any(axis=tuple(range(known.ndim - 1)))
        if not seen.any():
            return valid
        flat, known = flat[..., seen], known[..., seen]
    low, high = clipping_limits(xp.where(known, flat, xp.zeros_like(flat)), known, sigma)
    value = xp.where(valid, data, xp.zeros_like(data)).astype(np.float64)
    return valid & (value >= low[..., None, None]) & (value <= high[..., None, None])


def _box(centre: Array, reach: Array, shape: tuple[int, ...]) -> Box:
    """Rows and columns that the apertures touch; all of them where positions are traced."""
    xp = array_namespace(centre, reach)
    ny, nx = shape[-2:]
    if xp is not np:
        return slice(0, ny), slice(0, nx)
    r = float(np.max(reach, initial=0.0)) + 1.0
    edges = []
    for position, size in ((float(centre[1]), ny), (float(centre[0]), nx)):
        start = min(max(math.floor(position - r), 0), size - 1)
        edges.append(slice(start, max(min(math.ceil(position + r) + 1, size), start + 1)))
    return edges[0], edges[1]


def _columns(ds: xr.Dataset, plan: CubeExtractionPlan, sums: CubeSums) -> dict[str, Array]:
    """Columns in their final units."""
    xp = array_namespace(sums.flux)
    gain: Number = ds["pixar_sr"].data * MJY_TO_JY if plan.calibrated else 1.0
    correction: Number = 1.0 if plan.correction is None else plan.correction
    errors = plan.covar_scale**2
    independent = 1.0 if "covariance_sum" in ds else errors
    pixels = _divisor(sums.npixels)
    below = _divisor(sums.npixels_background)
    single = len(sums.variances) == 1
    bright, background = sums.flux / pixels, sums.background / below
    out = {
        "wavelength": plan.wavelength,
        "flux": sums.flux * gain * correction,
        "surf_bright": bright * correction,
        "background": background,
        "npixels": sums.npixels,
        "dq": xp.where(sums.empty, np.uint32(PIXEL["DO_NOT_USE"]), np.uint32(0)),
        "flux_error_cov": safe_sqrt(sums.variance_cov * independent) * gain * correction,
    }
    scales = {
        "flux": ("flux_error", sums.variances, (gain * correction) ** 2),
        "sb": ("sb_error", sums.variances, (correction / pixels) ** 2),
        "bkgd": ("bkgd_error", sums.background_variances, 1.0 / below**2),
    }
    zero = xp.zeros_like(sums.flux)
    for prefix, (error, variances, scale) in scales.items():
        scaled = [v * (scale * errors) for v in variances]
        out[error] = safe_sqrt(sum(scaled))
        # of a cube without components only the total is known
        parts = [zero] * 3 if single else scaled
        for name, value in zip(VARIANCES, parts, strict=True):
            out[f"{prefix}_{name}"] = value
    further = mode_of(ds).cube_columns
    if further:
        spectra = {
            "flux": (sums.flux, gain * correction),
            "surf_bright": (bright, correction),
            "background": (background, 1.0),
        }
        out |= function_named(further, "spec2fn.spectra")(plan, spectra)
    return out


def _divisor(area: Array) -> Array:
    xp = array_namespace(area)
    return xp.where(area > 0, area, xp.ones_like(area))


def _as_dataset(ds: xr.Dataset, plan: CubeExtractionPlan, columns: Arrays) -> xr.Dataset:
    """Put the columns, (…, wave), into a Dataset."""
    xp = array_namespace(columns["flux"])
    per_spectrum = {
        "n_wave": np.array([len(plan.wavelength)], dtype=np.int32),
        "sltname": np.array([plan.name]),
        "srctype": np.array([plan.source_type]),
        "extr_x": plan.centre[0:1],
        "extr_y": plan.centre[1:2],
        "slit_ra": plan.position[0:1],
        "slit_dec": plan.position[1:2],
    }
    return spectra_dataset(
        ds,
        {n: xp.expand_dims(c, -2) for n, c in columns.items()},
        per_spectrum,
        angle=plan.angle,
        calibrated=plan.calibrated,
    )

"""The spectrum of a cube as a Dataset, given its plan: sums, units, corrections, columns."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.dq import PIXEL
from spec2fn.host.fringes_1d import NO_FRINGES, correct_fringes_1d
from spec2fn.kernels.circles import circle_weights
from spec2fn.kernels.cube_extraction import (
    CubeSums,
    clipping_limits,
    extract_aperture,
    extract_whole,
)
from spec2fn.kernels.namespace import array_namespace, is_traced, safe_sqrt
from spec2fn.modes import mode_of
from spec2fn.plans.extraction.extract_cube import CubePlan
from spec2fn.schema import RESIDUAL_FRINGES, SPECTRUM_COLUMNS, VARIANCES, meta_of
from spec2fn.wcs.spectrum import spectral_wcs

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["extract_cube"]

_LOG = logging.getLogger("spec2fn.extract_1d")
MEGA = 1.0e6
_BLOCK = 1 << 18  # voxels handled at a time in NumPy: they stay in the processor's cache

Box = tuple[slice, slice]


def extract_cube(ds: xr.Dataset, plan: CubePlan) -> xr.Dataset:
    """Extract the spectrum of a cube.

    Parameters
    ----------
    ds : xarray.Dataset
        ``sci``, ``err`` and optionally ``wmap`` and the variances, dims
        ([integration,] wave, y, x).
    plan : CubePlan

    Returns
    -------
    xarray.Dataset
        dims ([integration,] spectrum, wave), with one spectrum.
    """
    sums = _sums(ds, plan)
    columns = _columns(ds, plan, sums)
    if mode_of(ds).etalon:
        # of values, not of a trace: the search for fringes decides by evidence
        columns |= _fringe_columns(ds, plan, sums)
    return _dataset(ds, plan, columns)


def _planes(ds: xr.Dataset) -> tuple[Any, tuple[Any, ...], Any]:
    """Data, components of the variance (or the square of the error alone) and coverage."""
    dims = ds["sci"].dims
    data = ds["sci"].data
    xp = array_namespace(data)
    if all(n in ds and ds[n].dims == dims for n in VARIANCES):
        errors = tuple(ds[n].data for n in VARIANCES)
    else:
        errors = (ds["err"].data,) if "err" in ds else ()
    cover = ds["wmap"].data if "wmap" in ds else xp.isfinite(data).astype(np.float32)
    return data, errors, cover


def _sums(ds: xr.Dataset, plan: CubePlan) -> CubeSums:
    data, errors, cover = _planes(ds)
    xp = array_namespace(data, plan.centre)
    n = data.shape[-3]
    # NumPy goes through the cube in blocks of planes, JAX compiles the whole at once
    step = n if xp is not np else max(1, _BLOCK * n // max(data.size, 1))
    parts = [
        _block(plan, slice(k, min(k + step, n)), data, errors, cover) for k in range(0, n, step)
    ]
    if len(parts) == 1:
        return parts[0]
    joined = [_join(xp, column) for column in zip(*parts, strict=True)]
    return CubeSums(*joined)


def _join(xp: Any, column: tuple[Any, ...]) -> Any:
    if isinstance(column[0], tuple):
        return tuple(_join(xp, c) for c in zip(*column, strict=True))
    return xp.concatenate(column, axis=-1)


def _block(
    plan: CubePlan, planes: slice, data: Any, errors: tuple[Any, ...], cover: Any
) -> CubeSums:
    """Sums of some planes."""
    at = (..., planes, slice(None), slice(None))
    data, cover, errors = data[at], cover[at], tuple(e[at] for e in errors)
    xp = array_namespace(data, plan.centre)
    valid = (cover > 0) & xp.isfinite(data)
    for e in errors:
        valid = valid & xp.isfinite(e)
    cover = xp.minimum(cover, xp.ones_like(cover))
    if plan.radius is None:
        kept = _kept(data, valid, cover, plan.sigma_clip)
        return extract_whole(*_masked(data, errors, cover, valid), valid, kept)
    radius = plan.radius[planes]
    inner = None if plan.inner is None else plan.inner[planes]
    outer = None if plan.outer is None else plan.outer[planes]
    kept = None if outer is None else _kept(data, valid, cover, plan.sigma_clip)
    box = _box(plan.centre, radius if outer is None else xp.maximum(radius, outer), data.shape)
    data, cover, valid = data[(..., *box)], cover[(..., *box)], valid[(..., *box)]
    errors = tuple(e[(..., *box)] for e in errors)

    def disc(r: Any) -> Any:
        return circle_weights(
            plan.centre,
            r,
            (data.shape[-2], data.shape[-1]),
            subpixels=plan.subpixels,
            origin=(box[0].start, box[1].start),
        )

    area = math.pi * radius * radius
    annulus, ring = None, xp.zeros_like(area)
    if inner is not None and outer is not None:
        annulus = disc(outer) - disc(inner)
        ring = math.pi * (outer * outer - inner * inner)
    return extract_aperture(
        *_masked(data, errors, cover, valid),
        valid,
        disc(radius),
        annulus=annulus,
        kept=None if kept is None else kept[(..., *box)],
        areas=(area, ring),
    )


def _masked(
    data: Any, errors: tuple[Any, ...], cover: Any, valid: Any
) -> tuple[Any, tuple[Any, ...], Any]:
    """Data and variances in float64, zero where there are none, before anything is computed."""
    xp = array_namespace(data)

    def plane(array: Any) -> Any:
        return xp.where(valid, array, xp.zeros_like(array)).astype(np.float64)

    # a single array is the error, three are the components of the variance
    single = len(errors) == 1
    variances = tuple(plane(e) ** 2 if single else plane(e) for e in errors)
    if not variances:  # an unknown error is not 0
        variances = (xp.full(data.shape, np.nan),)
    return plane(data), variances, cover.astype(np.float64)


def _kept(data: Any, valid: Any, cover: Any, sigma: float) -> Any:
    """Valid spaxels that are no outliers of their plane, the whole field of view considered."""
    xp = array_namespace(data, valid)
    full = valid & (cover == 1)
    flat, known = data.reshape(*data.shape[:-2], -1), full.reshape(*full.shape[:-2], -1)
    if xp is np:  # leave out what no plane covers
        seen = known.any(axis=tuple(range(known.ndim - 1)))
        if not seen.any():
            return valid
        flat, known = flat[..., seen], known[..., seen]
    low, high = clipping_limits(xp.where(known, flat, xp.zeros_like(flat)), known, sigma)
    value = xp.where(valid, data, xp.zeros_like(data)).astype(np.float64)
    return valid & (value >= low[..., None, None]) & (value <= high[..., None, None])


def _box(centre: Any, reach: Any, shape: tuple[int, ...]) -> Box:
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


def _columns(ds: xr.Dataset, plan: CubePlan, sums: CubeSums) -> dict[str, Any]:
    """Columns in their final units."""
    xp = array_namespace(sums.flux)
    gain: Any = 1.0
    if plan.calibrated:
        gain = ds["pixar_sr"].data * MEGA
    correction: Any = 1.0 if plan.correction is None else plan.correction
    errors = plan.covar_scale**2
    pixels = _divisor(sums.npixels)
    below = _divisor(sums.npixels_background)
    single = len(sums.variances) == 1
    out = {
        "wavelength": plan.wavelength,
        "flux": sums.flux * gain * correction,
        "surf_bright": sums.flux / pixels * correction,
        "background": sums.background / below,
        "npixels": sums.npixels,
        "dq": xp.where(sums.empty, np.uint32(PIXEL["DO_NOT_USE"]), np.uint32(0)),
        "flux_error_cov": safe_sqrt(sums.variance_cov * _inflation(ds, plan)) * gain * correction,
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
    return out


def _inflation(ds: xr.Dataset, plan: CubePlan) -> Any:
    """How much larger the variance of a sum is than that of independent spaxels."""
    if "variance_inflation" not in ds:
        return plan.covar_scale**2
    known = ds["variance_inflation"].data
    xp = array_namespace(known)
    known = xp.where(xp.isfinite(known), known, xp.ones_like(known))
    return known.astype(np.float64)


def _divisor(area: Any) -> Any:
    xp = array_namespace(area)
    return xp.where(area > 0, area, xp.ones_like(area))


def _fringe_columns(ds: xr.Dataset, plan: CubePlan, sums: CubeSums) -> dict[str, Any]:
    """Columns without residual fringes; NaN where none were sought (always inside a trace)."""
    xp = array_namespace(sums.flux)
    if not plan.fringes or is_traced(sums.flux):
        return {name: xp.full_like(sums.flux, np.nan) for name in RESIDUAL_FRINGES}
    gain: Any = ds["pixar_sr"].data * MEGA if plan.calibrated else 1.0
    correction: Any = 1.0 if plan.correction is None else plan.correction
    raw = {
        "rf_flux": (sums.flux, gain * correction),
        "rf_surf_bright": (sums.flux / _divisor(sums.npixels), correction),
        "rf_background": (sums.background / _divisor(sums.npixels_background), 1.0),
    }
    out = {}
    for name, (spectrum, scale) in raw.items():
        values = np.asarray(spectrum)
        rows = [_without_fringes(row, plan, name) for row in values.reshape(-1, values.shape[-1])]
        out[name] = np.reshape(rows, values.shape) * scale
    return out


def _without_fringes(spectrum: np.ndarray, plan: CubePlan, name: str) -> np.ndarray:
    found = correct_fringes_1d(plan.wavelength, spectrum, plan.fringes)
    if found.skipped and found.skipped != NO_FRINGES:
        _LOG.warning("extract_1d: %s is not known: %s", name, found.skipped)
        return np.full_like(spectrum, np.nan)
    return found.flux


def _dataset(ds: xr.Dataset, plan: CubePlan, columns: dict[str, Any]) -> xr.Dataset:
    import xarray as xr

    xp = array_namespace(columns["flux"])
    lead = ds["sci"].dims[:-3]
    values: dict[str, Any] = {}
    for name, (_, unit) in SPECTRUM_COLUMNS.items():
        if name not in columns:
            continue
        shown = _unit(name, unit, calibrated=plan.calibrated)
        attrs = {"units": shown} if shown else {}
        if name == "wavelength":
            values[name] = (("spectrum", "wave"), columns[name][None, :], attrs)
        else:
            values[name] = ((*lead, "spectrum", "wave"), xp.expand_dims(columns[name], -2), attrs)
    per_spectrum: dict[str, Any] = {
        "n_wave": np.array([len(plan.wavelength)], dtype=np.int32),
        "sltname": np.array([plan.name]),
        "srctype": np.array([plan.source_type]),
        "extr_x": plan.centre[0:1],
        "extr_y": plan.centre[1:2],
        "slit_ra": plan.position[0:1],
        "slit_dec": plan.position[1:2],
    }
    if ds.attrs.get("detector"):
        per_spectrum["detector"] = np.array([str(ds.attrs["detector"])])
    if plan.angle is not None:
        per_spectrum["pa_aper"] = plan.angle
    values |= {name: (("spectrum",), value) for name, value in per_spectrum.items()}
    used = {"wave", "y", "x"}
    kept = {n: v for n, v in ds.variables.items() if not used & set(v.dims) and n not in values}
    coords = {n: v for n, v in kept.items() if n in ds.coords}
    values |= {str(n): v for n, v in kept.items() if n not in coords}
    # a cube has no dispersion axis that a spectrum could inherit
    attrs = {k: v for k, v in ds.attrs.items() if k != "dispaxis"}
    model = "MultiSpecModel"
    if mode_of(ds).etalon:
        model = "MRSMultiSpecModel"
    if lead:
        model = "TSOMultiSpecModel"
    out = xr.Dataset(values, coords=coords, attrs={**attrs, "model": model})
    if is_traced(columns["flux"]):
        return out
    ra, dec = (float(v) for v in plan.position)
    wcs = {plan.name: spectral_wcs(ra, dec, np.asarray(plan.wavelength))}
    return out.assign_attrs(meta=meta_of(ds).replace(wcs=wcs))


def _unit(name: str, unit: str, *, calibrated: bool) -> str:
    if not calibrated and unit not in ("", "um"):
        return "DN^2 / s^2" if "var_" in name else "DN/s"
    # as the tables of cubes' spectra have it
    return "(MJy/sr)^2" if unit == "MJy^2 / sr^2" else unit

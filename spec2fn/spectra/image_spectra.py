"""The spectra of images, given their plan: sums, units, corrections, and a Dataset of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from spec2fn.dq import Pixel
from spec2fn.kernels.extraction import (
    Extraction,
    box_extract,
    common_variance,
    interpolate_correction,
    optimal_extract,
    subtracted_variance,
    weighted_variance,
)
from spec2fn.kernels.namespace import array_namespace, is_traced, positive_root
from spec2fn.pieces import Exposure, pieces_of
from spec2fn.plans.extraction.extract_images import (
    GroupPlan,
    ImagesPlan,
    bad_pixels,
    pixel_planes,
)
from spec2fn.schema import COMMON_ERROR, COMMON_SHARE, NOT_EXTRACTED, VARIANCES
from spec2fn.spectra.datasets import join_spectra, slit_metadata, spectra_dataset, with_wcs
from spec2fn.spectra.images import saved_images
from spec2fn.typing import Array, Arrays, Number
from spec2fn.units import MJY_TO_JY

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["extract_images"]

# what is known of the one source of an image, by its name in the table of spectra
_OF_SOURCE = {
    **{n: n for n in ("ta_xpos", "ta_ypos", "source_xpos", "source_ypos")},
    "sourceid": "source_id",
    "srcname": "source_name",
    "srcalias": "source_alias",
}


def extract_images(ds: Exposure, plan: ImagesPlan, saved: tuple[bool, bool, bool]) -> xr.Dataset:
    """Extract the spectrum of an image, or of every slit, sorted by id.

    `saved` says which images to keep in ``meta.records``: spatial profile, model, residual.
    """
    buckets = pieces_of(ds)
    single = "slit" not in buckets[0]["sci"].dims
    parts = []
    records: dict[str, Any] = {}
    for group in plan.groups:
        bucket = _as_bucket(buckets[group.bucket]) if single else buckets[group.bucket]
        if group.members != tuple(range(bucket.sizes["slit"])):
            bucket = bucket.isel(slit=list(group.members))
        spectrum, columns = _extract_group(bucket, group, scene=any(saved[1:]))
        parts.append(_as_dataset(bucket, group, columns, plan.angle))
        if any(saved) and not is_traced(bucket["sci"].data):
            records |= saved_images(bucket, group, spectrum, saved)
    # the only spectrum of an image has no slit to be sorted by
    out = parts[0] if single else join_spectra(parts)
    if plan.problems:
        records[NOT_EXTRACTED] = dict(plan.problems)
    return with_wcs(out, buckets[0], records)


def _as_bucket(ds: xr.Dataset) -> xr.Dataset:
    """The planes of an image as those of one slit; what is no plane stays as it is."""
    planes = {n: v for n, v in ds.variables.items() if v.dims[-2:] == ("y", "x")}
    return ds.assign({n: (("slit", *v.dims), v.data[None], v.attrs) for n, v in planes.items()})


def _as_dataset(
    bucket: xr.Dataset, plan: GroupPlan, columns: Arrays, angle: Array | None
) -> xr.Dataset:
    """Put the columns of slits, (slit, [integration,] wave), into a Dataset."""
    xp = array_namespace(columns["flux"])
    count = len(plan.members)
    per_spectrum = {
        "n_wave": plan.valid.sum(axis=1).astype(np.int32),
        "sltname": np.array(plan.names),
        "srctype": np.array(plan.source_types),
        "extrxstr": plan.limits[:, 0],
        "extrxstp": plan.limits[:, 1],
        "extrystr": plan.limits[:, 2],
        "extrystp": plan.limits[:, 3],
        "slit_ra": plan.position[:, 0],
        "slit_dec": plan.position[:, 1],
        "sporder": np.full(count, plan.spectral_order, dtype=np.int32),
        "dispaxis": np.full(count, plan.dispaxis, dtype=np.int32),
    }
    if "slit" in bucket.coords:
        per_spectrum |= {"slit": np.asarray(bucket["slit"].values), **slit_metadata(bucket)}
    else:
        held = {n: old for n, old in _OF_SOURCE.items() if old in bucket}
        per_spectrum |= {n: bucket[old].data.reshape(1) for n, old in held.items()}
    shown = {n: xp.moveaxis(c, 0, -2) for n, c in columns.items()}
    return spectra_dataset(
        bucket,
        {**shown, "wavelength": plan.wavelength},
        per_spectrum,
        angle=angle,
        calibrated=plan.calibrated,
    )


def _extract_group(
    ds: xr.Dataset, plan: GroupPlan, *, scene: bool
) -> tuple[Extraction, dict[str, Array]]:
    """The sums in the units of the data, and the columns (without wavelength) in their own."""
    data, good, variances = _inputs(ds, plan)
    total = sum(variances.values())
    spectrum = _extract(plan, data, good, scene=scene)
    true, covariance = _covariance(ds, plan, total)
    scale = _scale(ds, plan, spectrum.flux.ndim)
    columns = _columns(spectrum, variances, scale.bright)
    squared = subtracted_variance(spectrum.weights, spectrum.fitted, good, true, covariance)
    common = _common_error(ds, plan, data)
    if common is not None:
        squared = squared + common_variance(spectrum.weights, spectrum.fitted, common)
    columns["flux_error_cov"] = (squared, "variance")
    return spectrum, _calibrate(plan, columns, spectrum.npixels, scale)


def _oriented(array: Array, plan: GroupPlan) -> Array:
    """Cut the window and put the dispersion before the cross-dispersion."""
    y0, y1, x0, x1 = plan.window
    part = array[..., y0:y1, x0:x1]
    return array_namespace(part).swapaxes(part, -1, -2) if plan.dispaxis == 1 else part


def _inputs(ds: xr.Dataset, plan: GroupPlan) -> tuple[Array, Array, dict[str, Array]]:
    """Data, good pixels and variances in the window, float64 and finite where good."""
    planes = {n: _oriented(p, plan) for n, p in pixel_planes(ds).items()}
    bad = bad_pixels(planes)
    xp = array_namespace(bad)

    def plane(name: str) -> Array:
        value = planes[name]
        return xp.where(bad, xp.zeros_like(value), value).astype(np.float64)

    data = plane("sci")
    # one component may not have come up, but an error of which nothing is known is not 0
    absent = xp.full_like(data, 0.0 if any(n in planes for n in VARIANCES) else np.nan)
    variances = {n: plane(n) if n in planes else absent for n in VARIANCES}
    return data, ~bad, variances


def _aligned(array: Array, ndim: int) -> Array:
    """Give an array of a plan the dimensions of the data: 1 for integrations."""
    return array.reshape((array.shape[0], *(1,) * (ndim - array.ndim), *array.shape[1:]))


def _extract(plan: GroupPlan, data: Array, good: Array, *, scene: bool) -> Extraction:
    weights = _aligned(plan.weights, data.ndim)
    region = None if plan.region is None else _aligned(plan.region, data.ndim)
    if not plan.optimal:
        return box_extract(
            data,
            good,
            weights,
            region,
            basis=plan.basis,
            smoothing_length=plan.smoothing_length,
            scene=scene,
        )
    profiles = [weights]
    if plan.nod_weights is not None:
        profiles.append(_aligned(plan.nod_weights, data.ndim))
    return optimal_extract(data, good, profiles, plan.basis, region)


def _covariance(ds: xr.Dataset, plan: GroupPlan, total: Array) -> tuple[Array, list[Array]]:
    """True variance of each pixel and its covariance with the next ones across the trace."""
    if "variance_cov" not in ds or "covariance" not in ds:
        return total, []
    xp = array_namespace(total)
    lead = ds["sci"].dims[:-2]

    def plane(var: xr.DataArray) -> Array:
        value = _oriented(var.data, plan).astype(np.float64)
        # the planes may be the same for all integrations
        sizes = iter(value.shape[:-2])
        shape = tuple(next(sizes) if d in var.dims else 1 for d in lead)
        return value.reshape(shape + value.shape[-2:])

    true = plane(ds["variance_cov"])
    true = xp.where(xp.isfinite(true), true, xp.zeros_like(true))
    var = ds["covariance"]
    return true, [plane(var.isel(lag=k)) for k in range(var.sizes["lag"])]


def _common_error(ds: xr.Dataset, plan: GroupPlan, data: Array) -> Array | None:
    """Standard error that the pixels of a dispersion element have in common, or None."""
    xp = array_namespace(data)
    if COMMON_ERROR in ds:
        value = _oriented(ds[COMMON_ERROR].data, plan).astype(np.float64)
    elif COMMON_SHARE in ds and "var_poisson" in ds:
        share, variance = (_oriented(ds[n].data, plan) for n in (COMMON_SHARE, "var_poisson"))
        value = positive_root(share * variance).astype(np.float64)
    else:
        return None
    return xp.where(xp.isfinite(value), value, xp.zeros_like(value))


def _columns(
    spectrum: Extraction, variances: Arrays, bright: Array
) -> dict[str, tuple[Array, str]]:
    """Columns in data units, with the kind of scaling each needs."""
    xp = array_namespace(spectrum.flux)
    flux = spectrum.flux
    pixels = xp.where(spectrum.npixels > 0, spectrum.npixels, xp.ones_like(spectrum.npixels))
    columns: dict[str, tuple[Array, str]] = {"flux": (flux, "value")}
    zero = xp.zeros_like(flux)

    def where_bright(value: Array) -> Array:
        return xp.where(bright, value, zero)

    columns["surf_bright"] = (where_bright(flux / pixels), "sb")
    columns["background"] = (spectrum.background / pixels, "bkg")
    for name, variance in variances.items():
        kind = name.removeprefix("var_")
        below = sum((weighted_variance(w, variance) for w in spectrum.bkg_variance_weights), zero)
        own = sum((weighted_variance(w, variance) for w in spectrum.variance_weights), zero)
        if spectrum.bkg_less is not None:
            less = weighted_variance(spectrum.bkg_less, variance)
            below = xp.maximum(below - less, zero)
        columns[f"flux_var_{kind}"] = (own, "variance")
        squared = pixels * pixels
        columns[f"sb_var_{kind}"] = (where_bright(own / squared), "sb_variance")
        columns[f"bkgd_var_{kind}"] = (below / squared, "bkg_variance")
    return columns


class _Scale(NamedTuple):
    """From data units to those of the table, by slit."""

    gain: Array
    per_area: Array
    bright: Array


def _scale(ds: xr.Dataset, plan: GroupPlan, ndim: int) -> _Scale:
    area: Number = 1.0
    if plan.calibrated and "pixar_sr" in ds:
        area = ds["pixar_sr"].data
        xp = array_namespace(area)
        area = xp.where(xp.isfinite(area), area, xp.ones_like(area))
    xp = array_namespace(area, plan.integrated)
    integrated = xp.asarray(plan.integrated).reshape((-1,) + (1,) * (ndim - 1))
    area = xp.broadcast_to(xp.asarray(area), plan.integrated.shape).reshape(integrated.shape)
    unit = xp.ones_like(area)
    gain = xp.where(integrated, unit, area) * MJY_TO_JY if plan.calibrated else unit
    per_area = xp.where(integrated, 1.0 / area, unit)
    bright = xp.zeros_like(integrated) if plan.optimal else ~integrated
    return _Scale(gain, per_area, bright)


def _rows(value: Array, plan: GroupPlan) -> Array:
    """Dispersion elements that have a wavelength; 0 beyond the end of a spectrum."""
    xp = array_namespace(value, plan.rows)
    rows, valid = (_aligned(a, value.ndim) for a in (plan.rows, plan.valid))
    picked = xp.take_along_axis(value, xp.asarray(rows), axis=-1)
    return xp.where(valid, picked, xp.zeros_like(picked))


def _calibrate(
    plan: GroupPlan, columns: dict[str, tuple[Array, str]], npixels: Array, scale: _Scale
) -> dict[str, Array]:
    """Columns in their final units, aperture correction applied, rows with a wavelength only."""
    xp = array_namespace(npixels)
    count = _rows(npixels, plan)
    gain, per_area = scale.gain, scale.per_area
    correction: Number = 1.0
    if plan.apcorr_sizes is not None and plan.apcorr_table is not None:
        tables = (_aligned(a, count.ndim + 1) for a in (plan.apcorr_sizes, plan.apcorr_table))
        correction = interpolate_correction(count, *tables)
    factor = {
        "value": gain * correction,
        "variance": gain * gain * correction * correction,
        "sb": correction,
        "sb_variance": correction * correction,
        "bkg": per_area,
        "bkg_variance": per_area * per_area,
    }
    out = {name: _rows(value, plan) * factor[kind] for name, (value, kind) in columns.items()}
    out["flux_error_cov"] = positive_root(out["flux_error_cov"])
    for prefix, error in (("flux", "flux_error"), ("sb", "sb_error"), ("bkgd", "bkgd_error")):
        out[error] = positive_root(sum(out[f"{prefix}_{name}"] for name in VARIANCES))
    out["npixels"] = count
    # NaN comes last, after the units: NaN times a factor has no derivative
    empty = xp.full_like(count, xp.nan)
    lost = xp.isclose(count, xp.zeros_like(count))
    out["flux"] = xp.where(lost, empty, out["flux"])
    out["surf_bright"] = xp.where(lost & scale.bright, empty, out["surf_bright"])
    unusable = xp.asarray(int(Pixel.DO_NOT_USE), dtype=np.uint32)
    nothing = xp.isnan(out["flux"])
    # the official columns have errors of zero where no pixel is usable, and so have these, but
    # for a spectrum without any flux at all
    blank = xp.all(nothing, axis=-1, keepdims=True)
    out = {n: xp.where(blank & (n != "npixels"), empty, v) for n, v in out.items()}
    out["flux_error_cov"] = xp.where(lost, empty, out["flux_error_cov"])
    valid = _aligned(plan.valid, count.ndim)
    nothing = nothing & valid
    out = {n: xp.where(valid, v, empty) for n, v in out.items()}
    return {**out, "dq": xp.where(nothing, unusable, xp.zeros_like(unusable))}

"""The spectrum of an image, or of a group of slits, given its plan: sums, units, corrections."""

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
from spec2fn.kernels.namespace import array_namespace
from spec2fn.kernels.resampling import common_error
from spec2fn.plans.extraction.extract_1d import ExtractionPlan
from spec2fn.plans.extraction.extract_slits import GroupPlan
from spec2fn.schema import COMMON_ERROR, COMMON_SHARE, VARIANCES

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["bad_pixels", "extract_image"]

PLANES = ("sci", "err", *VARIANCES, "dq")
MEGA = 1.0e6


def extract_image(
    ds: xr.Dataset, plan: ExtractionPlan | GroupPlan, saved: tuple[bool, bool, bool]
) -> tuple[Extraction, dict[str, Any]]:
    """Extract the spectrum of an image, or of every slit of a group.

    Parameters
    ----------
    ds : xarray.Dataset
        ``sci`` and the other planes, dims ([slit,] [integration,] y, x).
    plan : ExtractionPlan or GroupPlan
        The latter for slits.
    saved : (bool, bool, bool)
        Which images will be kept; the last two need a model of the image.

    Returns
    -------
    spectrum : Extraction
        In the units of the data.
    columns : dict of str to array, ([slit,] [integration,] wave)
        Columns of :data:`spec2fn.schema.EXTRACTED` in their final units, without the wavelength.
    """
    data, good, variances = _inputs(ds, plan)
    total = sum(variances.values())
    spectrum = _extract(plan, data, good, scene=any(saved[1:]))
    true, covariance = _covariance(ds, plan, total)
    scale = _scale(ds, plan, spectrum.flux.ndim)
    columns = _columns(spectrum, variances, scale.bright)
    squared = subtracted_variance(spectrum.weights, spectrum.fitted, good, true, covariance)
    common = _common_error(ds, plan, data)
    if common is not None:
        squared = squared + common_variance(spectrum.weights, spectrum.fitted, common)
    columns["flux_error_cov"] = (squared, "error")
    return spectrum, _calibrate(plan, columns, spectrum.npixels, scale)


def bad_pixels(ds: xr.Dataset) -> Any:
    """Pixels that any plane or the data quality marks as unusable.

    Parameters
    ----------
    ds : xarray.Dataset
        With ``sci``, and optionally ``err``, ``var_*`` and ``dq`` of the same dims.

    Returns
    -------
    bool array
        Of the shape of ``sci``.
    """
    sci = ds["sci"]
    planes = {n: ds[n].data for n in PLANES if n in ds and ds[n].dims == sci.dims}
    xp = array_namespace(*planes.values())
    bad = ~xp.isfinite(planes.pop("sci"))
    dq = planes.pop("dq", None)
    for value in planes.values():
        bad = bad | ~xp.isfinite(value)
    if dq is not None:
        bad = bad | ((dq & xp.asarray(int(Pixel.DO_NOT_USE), dtype=dq.dtype)) != 0)
    return bad


def _oriented(array: Any, plan: ExtractionPlan | GroupPlan) -> Any:
    """Cut the window and put the dispersion before the cross-dispersion."""
    y0, y1, x0, x1 = plan.window
    part = array[..., y0:y1, x0:x1]
    return array_namespace(part).swapaxes(part, -1, -2) if plan.dispaxis == 1 else part


def _inputs(ds: xr.Dataset, plan: ExtractionPlan | GroupPlan) -> tuple[Any, Any, dict[str, Any]]:
    """Data, good pixels and variances in the window, float64 and finite where good."""
    dims = ds["sci"].dims
    y0, y1, x0, x1 = plan.window
    window = {"y": slice(y0, y1), "x": slice(x0, x1)}
    part = ds[[n for n in PLANES if n in ds and ds[n].dims == dims]].isel(window)
    bad = bad_pixels(part)
    xp = array_namespace(bad)
    flip = plan.dispaxis == 1

    def plane(name: str) -> Any:
        value = part[name].data
        value = xp.where(bad, xp.zeros_like(value), value).astype(np.float64)
        return xp.swapaxes(value, -1, -2) if flip else value

    good = ~(xp.swapaxes(bad, -1, -2) if flip else bad)
    data = plane("sci")
    # one component may not have come up, but an error of which nothing is known is not 0
    absent = xp.full_like(data, 0.0 if any(n in part for n in VARIANCES) else np.nan)
    variances = {n: plane(n) if n in part else absent for n in VARIANCES}
    return data, good, variances


def _aligned(array: Any, ndim: int, plan: ExtractionPlan | GroupPlan) -> Any:
    """Give an array of a plan the dimensions of the data: 1 for integrations."""
    if array is None:
        return None
    missing = (1,) * (ndim - array.ndim)
    if isinstance(plan, GroupPlan):
        return array.reshape((array.shape[0], *missing, *array.shape[1:]))
    return array.reshape((*missing, *array.shape))


def _extract(plan: ExtractionPlan | GroupPlan, data: Any, good: Any, *, scene: bool) -> Extraction:
    def like_data(array: Any) -> Any:
        return _aligned(array, data.ndim, plan)

    weights, region = like_data(plan.weights), like_data(plan.region)
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
    profiles = [weights] + ([] if plan.nod_weights is None else [like_data(plan.nod_weights)])
    return optimal_extract(data, good, profiles, plan.basis, region)


def _covariance(
    ds: xr.Dataset, plan: ExtractionPlan | GroupPlan, total: Any
) -> tuple[Any, list[Any]]:
    """True variance of each pixel and its covariance with the next ones across the trace."""
    if "variance_cov" not in ds or "covariance" not in ds:
        return total, []
    xp = array_namespace(total)
    lead = ds["sci"].dims[:-2]

    def plane(var: Any) -> Any:
        value = _oriented(var.data, plan).astype(np.float64)
        # the planes may be the same for all integrations
        sizes = iter(value.shape[:-2])
        shape = tuple(next(sizes) if d in var.dims else 1 for d in lead)
        return value.reshape(shape + value.shape[-2:])

    true = plane(ds["variance_cov"])
    true = xp.where(xp.isfinite(true), true, xp.zeros_like(true))
    var = ds["covariance"]
    return true, [plane(var.isel(lag=k)) for k in range(var.sizes["lag"])]


def _common_error(ds: xr.Dataset, plan: ExtractionPlan | GroupPlan, data: Any) -> Any:
    """Standard error that the pixels of a dispersion element have in common, or None."""
    xp = array_namespace(data)
    if COMMON_ERROR in ds:
        value = _oriented(ds[COMMON_ERROR].data, plan).astype(np.float64)
    elif COMMON_SHARE in ds and "var_poisson" in ds:
        planes = (_oriented(ds[n].data, plan) for n in (COMMON_SHARE, "var_poisson"))
        value = common_error(*planes).astype(np.float64)
    else:
        return None
    return xp.where(xp.isfinite(value), value, xp.zeros_like(value))


def _columns(
    spectrum: Extraction,
    variances: dict[str, Any],
    bright: Any,
) -> dict[str, tuple[Any, str]]:
    """Columns in data units, with the kind of scaling each needs."""
    xp = array_namespace(spectrum.flux)
    flux = spectrum.flux
    pixels = xp.where(spectrum.npixels > 0, spectrum.npixels, xp.ones_like(spectrum.npixels))
    columns: dict[str, tuple[Any, str]] = {"flux": (flux, "value")}
    zero = xp.zeros_like(flux)

    def where_bright(value: Any) -> Any:
        if isinstance(bright, bool):
            return value if bright else zero
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
    """From data units to those of the table; arrays by slit if slits differ."""

    gain: Any
    per_area: Any
    bright: Any


def _scale(ds: xr.Dataset, plan: ExtractionPlan | GroupPlan, ndim: int) -> _Scale:
    area: Any = 1.0
    if plan.calibrated and "pixar_sr" in ds:
        area = ds["pixar_sr"].data
        xp = array_namespace(area)
        area = xp.where(xp.isfinite(area), area, xp.ones_like(area))
    if isinstance(plan, ExtractionPlan):
        gain: Any = 1.0
        if plan.calibrated:
            gain = MEGA if plan.integrated else area * MEGA
        per_area = 1.0 / area if plan.integrated else 1.0
        return _Scale(gain, per_area, not (plan.optimal or plan.integrated))
    xp = array_namespace(area, plan.integrated)
    integrated = xp.asarray(plan.integrated).reshape((-1,) + (1,) * (ndim - 1))
    area = xp.broadcast_to(xp.asarray(area), plan.integrated.shape).reshape(integrated.shape)
    unit = xp.ones_like(area)
    gain = xp.where(integrated, unit, area) * MEGA if plan.calibrated else unit
    per_area = xp.where(integrated, 1.0 / area, unit)
    return _Scale(gain, per_area, False if plan.optimal else ~integrated)


def _rows(value: Any, plan: ExtractionPlan | GroupPlan) -> Any:
    """Dispersion elements that have a wavelength; 0 beyond the end of a spectrum."""
    if isinstance(plan, ExtractionPlan):
        return value[..., plan.rows]
    xp = array_namespace(value, plan.rows)
    rows, valid = (_aligned(a, value.ndim, plan) for a in (plan.rows, plan.valid))
    picked = xp.take_along_axis(value, xp.asarray(rows), axis=-1)
    return xp.where(valid, picked, xp.zeros_like(picked))


def _calibrate(
    plan: ExtractionPlan | GroupPlan,
    columns: dict[str, tuple[Any, str]],
    npixels: Any,
    scale: _Scale,
) -> dict[str, Any]:
    """Columns in their final units, aperture correction applied, rows with a wavelength only."""
    xp = array_namespace(npixels)
    count = _rows(npixels, plan)
    gain, per_area = scale.gain, scale.per_area
    correction: Any = 1.0
    if plan.apcorr_table is not None:
        sizes, table = plan.apcorr_sizes, plan.apcorr_table
        if isinstance(plan, GroupPlan):
            sizes, table = (_aligned(a, count.ndim + 1, plan) for a in (sizes, table))
        correction = interpolate_correction(count, sizes, table)
    factor = {
        "value": gain * correction,
        "variance": gain * gain * correction * correction,
        "error": gain * gain * correction * correction,
        "sb": correction,
        "sb_variance": correction * correction,
        "bkg": per_area,
        "bkg_variance": per_area * per_area,
    }
    out = {name: _rows(value, plan) * factor[kind] for name, (value, kind) in columns.items()}
    out["flux_error_cov"] = _root(out["flux_error_cov"])
    for prefix, error in (("flux", "flux_error"), ("sb", "sb_error"), ("bkgd", "bkgd_error")):
        out[error] = _root(sum(out[f"{prefix}_{name}"] for name in VARIANCES))
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
    out = {n: xp.where(blank & (n not in ("npixels",)), empty, v) for n, v in out.items()}
    out["flux_error_cov"] = xp.where(lost, empty, out["flux_error_cov"])
    if isinstance(plan, GroupPlan):
        valid = _aligned(plan.valid, count.ndim, plan)
        nothing = nothing & valid
        out = {n: xp.where(valid, v, empty) for n, v in out.items()}
    return {**out, "dq": xp.where(nothing, unusable, xp.zeros_like(unusable))}


def _root(variance: Any) -> Any:
    # the derivative of sqrt is infinite at zero, where the error is exactly zero
    xp = array_namespace(variance)
    positive = variance > 0
    return xp.where(
        positive,
        xp.sqrt(xp.where(positive, variance, xp.ones_like(variance))),
        xp.zeros_like(variance),
    )

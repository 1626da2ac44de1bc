"""A model of the trace of a compact source, from which its pixels can be divided or replaced."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from spec2fn.dq import PIXEL
from spec2fn.engine.step import PLANNED, Skip, step
from spec2fn.kernels.namespace import array_namespace, is_jax, safe_sqrt
from spec2fn.kernels.trace_model import column_scale
from spec2fn.parameters import Parameters, Range
from spec2fn.pieces import Exposure, pieces_of
from spec2fn.plans.extraction.trace_model import (
    TraceModelPlan,
    plan_trace_model,
    unsupported,
    with_model,
)
from spec2fn.schema import VARIANCES, set_scalars, with_meta
from spec2fn.slits import Slits
from spec2fn.typing import Array
from spec2fn.wcs.finer import OVERSAMPLED

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["adaptive_trace_model"]

# corrections of the pixels of the exposure, which say nothing of finer ones
_DROPPED = (
    "area", "barshadow", "flatfield_point", "flatfield_uniform", "pathloss_ps", "pathloss_un",
    "photom_point", "photom_uniform", "wavelength_uncorrected", "mask",
)  # fmt: skip
_SAVED = ("spline_full", "spline_used", "linear_interp", "spline_residual")


def _plan(ds: Exposure, *, params: Parameters) -> tuple[TraceModelPlan, ...] | Skip:
    parts = pieces_of(ds)
    reason = unsupported(parts[0])
    return Skip(reason) if reason else tuple(plan_trace_model(one, params) for one in parts)


@step(
    reads=("sci", "err", "dq"),
    provides=("trace_model",),
    traceable=True,
    skip=True,
    planner=_plan,
    scope="slits",
    chunkable=False,  # the median of all integrations is modelled
)
def adaptive_trace_model(
    ds: Exposure,
    *,
    plan: tuple[TraceModelPlan, ...] = PLANNED,
    fit_threshold: Annotated[float, Range(0.0)] = 10.0,
    oversample: Annotated[float, Range(0.0, above=True)] = 1.0,
    slope_limit: Annotated[float, Range(0.0)] = 0.1,
    psf_optimal: bool = False,
    robust_scale: bool = True,
    interpolate_profiles: bool = True,
    save_intermediate_results: bool = False,
) -> Exposure:
    """Model the trace of a compact source by splines across the dispersion.

    The profile of every column of a slit, or of a slice of an integral-field unit, is a cubic
    spline that is fitted to the pixels of the columns around it, each divided by its sum. The tilt
    of the trace makes these sample the profile finer than the pixels do.

    Parameters
    ----------
    ds : xarray.Dataset or Slits
        Calibrated spectrum, ([integration,] y, x), of slits or of an integral-field unit, with
        ``sci``, ``err``, ``dq`` and the gwcs; bad pixels are NaN.
    plan : tuple of TraceModelPlan
        By bucket of slits: everything that is decided or not linear in the data, namely the
        profiles, the pixels that say how bright a column is, and where there is a compact source.
        Gradients hold it fixed: with it the scale of every column follows the data.
    fit_threshold : float
        Slits and slices are modelled if the peak of their profile is so many standard deviations
        above the mean (integral-field units), or has this signal-to-noise ratio; 0 for all.
    oversample : float
        Pixels across the dispersion into which each pixel is divided. 1 adds the model alone.
    slope_limit : float
        Change of the profile from pixel to pixel, for a sum of 1, above which there is a compact
        source that the model describes; 0 for everywhere.
    psf_optimal : bool
        The target is one point source: use the model everywhere and without its residuals.
        `fit_threshold` and `slope_limit` do not count.
    robust_scale : bool
        What columns are divided by before splines are fitted to them is what their sum would be
        without missing and hot pixels, and a hot pixel among the few brightest of a column has no
        part in the scale of the model there. Without, a column that lacks bright pixels raises
        the shoulders of the profiles around it, and a hot pixel the model of its column.
    interpolate_profiles : bool
        Columns around which the trace is too little tilted to sample the profile have the mean of
        the profiles on both sides of them, by distance. Without, they have that of the last
        column before them that has one.
    save_intermediate_results : bool
        Keep the model of all pixels and that of compact sources, and with `oversample` the
        interpolated data and residuals, as ``spline_full``, ``spline_used``, ``linear_interp``
        and ``spline_residual`` in ``ds.attrs["meta"].records`` (not inside a JAX transformation).

    Returns
    -------
    xarray.Dataset or Slits
        With ``trace_model`` ([slit,] y, x) float32, in the units of ``sci``: the model of compact
        sources, NaN elsewhere. Of several integrations it is that of their median.

        With `oversample`, ``sci`` is the model plus its interpolated residuals where there is a
        compact source, and interpolated elsewhere. Errors are interpolated and raised by
        0.23 `oversample` + 0.77, which keeps the signal-to-noise ratio of cubes that are made of
        them; those of single pixels mean little. Flags are those of the nearest pixel; a bad pixel
        that the model replaces carries ``FLUX_ESTIMATED`` instead of ``DO_NOT_USE``. Coordinates,
        the gwcs, with a frame ``coordinates`` in front, and the area of pixels are those of the
        finer pixels. Corrections of the former pixels are left out.

    Raises
    ------
    DatasetError
        If the exposure has no WCS, or has not been cut into slits.
    ParameterError
        If an exposure of several integrations is to be oversampled.

    Notes
    -----
    Algorithm: adaptive trace model of the JWST calibration pipeline
    (https://jwst-pipeline.readthedocs.io), after Law et al. 2023, AJ 166, 45.
    """
    parts = pieces_of(ds)
    done = [_modelled(one, p, optimal=psf_optimal) for one, p in zip(parts, plan, strict=True)]
    out: Any = ds.with_pieces(tuple(d for d, _ in done)) if isinstance(ds, Slits) else done[0][0]
    if not save_intermediate_results or is_jax(parts[0]["sci"].data):
        return out
    records = {}
    for name in _SAVED:
        images = tuple(_as_image(one, held[name]) for one, held in done if name in held)
        if images:
            records[name] = Slits(images) if isinstance(ds, Slits) else images[0]
    return with_meta(out, records=records)


def _modelled(
    ds: xr.Dataset, plan: TraceModelPlan, *, optimal: bool
) -> tuple[xr.Dataset, dict[str, Array]]:
    """The exposure with its model, and what might be saved besides."""
    if plan.fine is not None:
        return _finer(ds, plan, optimal=optimal)
    full, used = plan.images(ds["sci"].data, stacked="integration" in ds.dims)
    return with_model(ds, used), {"spline_full": full, "spline_used": used}


def _finer(
    ds: xr.Dataset, plan: TraceModelPlan, *, optimal: bool
) -> tuple[xr.Dataset, dict[str, Array]]:
    fine, pixels = plan.fine, plan.pixels
    assert fine is not None
    assert pixels is not None
    stacked = "integration" in ds.dims
    flux = plan.flux(ds["sci"].data, stacked=stacked)
    scale = column_scale(flux, plan.weight)
    xp = array_namespace(flux, scale)
    nan = xp.asarray(xp.nan, dtype=flux.dtype)
    share = xp.asarray(fine.share)[..., None, None].astype(flux.dtype)
    level = xp.asarray(plan.level)[..., None, None].astype(flux.dtype)
    linear = fine.linear(flux)
    model = (xp.asarray(fine.profile) * scale).astype(flux.dtype)
    full, used = (xp.where(xp.asarray(where), model, nan) for where in (plan.full, plan.used))
    residual = fine.residual(flux, xp.asarray(plan.profile) * scale)
    more = xp.where(xp.isfinite(residual) & (not optimal), residual, xp.zeros_like(residual))
    values = xp.where(xp.isfinite(used), used + more, linear)

    def image(stack: Array) -> Array:
        shape = list(ds["sci"].shape[-2:])
        shape[pixels.axis] = pixels.nearest.shape[0]
        lead = stack.shape[:-2] if "slit" in ds.dims else ()
        return plan.image(xp.full((*lead, *shape), nan), stack)

    dq = ds["dq"].data[..., 0, :, :] if stacked else ds["dq"].data
    dq = xp.take(dq, xp.asarray(pixels.nearest), axis=pixels.axis)
    unusable = xp.asarray(PIXEL["DO_NOT_USE"], dtype=dq.dtype)
    sci = image((values + level) * share)
    saved = (dq & unusable) != 0
    estimated = xp.isfinite(sci) & saved
    flag = xp.asarray(PIXEL["FLUX_ESTIMATED"], dtype=dq.dtype)
    dq = xp.where(estimated, (dq ^ unusable) | flag, dq)
    new = {"sci": sci}
    replaced = fine.nearest(plan.stack(_unusable(ds, stacked=stacked), nan)) > 0
    replaced = replaced & xp.isfinite(values)
    for name in ("err", *VARIANCES):
        if name not in ds:
            continue
        plane = ds[name].data[..., 0, :, :] if stacked else ds[name].data
        error = plan.stack(plane, np.nan)
        error = error if name == "err" else safe_sqrt(error)
        grown = fine.errors(error, replaced) * share
        new[name] = image(grown if name == "err" else grown * grown)
    bad = (dq & unusable) != 0
    for plane in new.values():
        bad = bad | xp.isnan(plane)
    new = {name: xp.where(bad, nan, plane) for name, plane in new.items()}
    new["dq"] = xp.where(bad, dq | unusable, dq)
    kept = {
        "spline_full": image((full + level) * share),
        "spline_used": image((used + level) * share),
        "linear_interp": image((linear + level) * share),
        "spline_residual": image(residual * share),
    }
    return _on_grid(ds, plan, new, kept["spline_used"]), kept


def _unusable(ds: xr.Dataset, *, stacked: bool) -> Array:
    """1 for pixels with DO_NOT_USE."""
    dq = ds["dq"].data[..., 0, :, :] if stacked else ds["dq"].data
    return ((dq & PIXEL["DO_NOT_USE"]) != 0).astype("float32")


def _on_grid(
    ds: xr.Dataset, plan: TraceModelPlan, new: dict[str, Array], model: Array
) -> xr.Dataset:
    """Put planes on the finer grid, with its coordinates."""
    pixels = plan.pixels
    assert pixels is not None
    axis = ("y", "x")[pixels.axis]
    variables: dict[str, Any] = {}
    for name, plane in new.items():
        var = ds.variables[name]
        one = "integration" in var.dims
        variables[name] = (var.dims, plane[..., None, :, :] if one else plane, dict(var.attrs))
    dims = tuple(d for d in ds.variables["sci"].dims if d != "integration")
    for name, plane in pixels.planes.items():
        attrs = dict(ds.variables[name].attrs) if name in ds else {}
        variables[name] = (dims, plane, attrs)
    lost = [
        str(name)
        for name, var in ds.variables.items()
        if (axis in var.dims and name not in variables) or name in _DROPPED
    ]
    out = with_model(ds.drop_vars(lost).drop_dims(axis).assign(variables), model)
    area = {n: out[n].data / pixels.factor for n in ("pixar_sr", "pixar_a2") if n in out}
    if "slit" in ds.dims or "ysize" in ds:
        more: dict[str, Any] = {
            n: (ds[n].dims, values, dict(ds[n].attrs)) for n, values in area.items()
        }
        rows = np.ceil(np.asarray(ds["ysize"].data) * pixels.factor).astype(int)
        more["ysize"] = (ds["ysize"].dims, rows)
        out = out.assign(more)
    else:
        out = set_scalars(out, **area)
    if is_jax(out["sci"].data):
        return out
    # the transforms of slices that assign_wcs keeps are those of the former pixels
    records = {OVERSAMPLED: pixels.factor, "slices": None}
    return with_meta(out, wcs=pixels.told.wcs, records=records)


def _as_image(ds: xr.Dataset, data: Array) -> xr.Dataset:
    """An image of the exposure with other values, and nothing else."""
    dims = tuple(d for d in ds.variables["sci"].dims if d != "integration")
    keep = [n for n, var in ds.variables.items() if not {"y", "x", "integration"} & set(var.dims)]
    units = {k: v for k, v in ds.variables["sci"].attrs.items() if k == "units"}
    out = ds[[str(n) for n in keep]].assign(sci=(dims, np.asarray(data, dtype=np.float32), units))
    out.attrs = {k: v for k, v in ds.attrs.items() if not k.startswith("status_")}
    return out

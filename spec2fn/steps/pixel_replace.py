"""Estimates for the flux of flagged pixels, before spectra are resampled or extracted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np

from spec2fn.dq import UNUSABLE
from spec2fn.engine.step import PLANNED, step
from spec2fn.errors import DatasetError
from spec2fn.host.slice_stacks import SlicesPlan, make_slices_plan
from spec2fn.kernels.pixel_replace import (
    fit_profile,
    from_model,
    map_planes,
    minimum_gradient,
)
from spec2fn.modes import mode_of
from spec2fn.parameters import Parameters, Range
from spec2fn.plan_base import Plan
from spec2fn.plans.extraction.trace_model import (
    TraceModelPlan,
    plan_trace_model,
    unsupported,
    with_model,
)
from spec2fn.schema import VARIANCES, meta_of, replace_data, with_status, with_warnings
from spec2fn.steps.adaptive_trace_model import adaptive_trace_model
from spec2fn.typing import Array
from spec2fn.wcs.coordinates import slice_map

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["pixel_replace"]


class PixelReplacePlan(Plan):
    """What ``pixel_replace`` needs to know besides the pixels.

    Attributes
    ----------
    slices : SlicesPlan
        Where the slices of an integral-field unit are; ``fit_profile`` needs them.
    model : TraceModelPlan, optional
        Of an exposure without a trace model that ``trace_model`` needs.
    without : str
        Why there is no trace model.
    """

    slices: SlicesPlan
    model: TraceModelPlan | None = None
    without: str = ""


def _plan(ds: xr.Dataset, *, params: Parameters) -> PixelReplacePlan:
    if params.algorithm == "trace_model":
        reason = unsupported(ds)
        if reason or "trace_model" in ds:
            return PixelReplacePlan(SlicesPlan(), without=reason)
        shared = {n: getattr(params, n) for n in ("robust_scale", "interpolate_profiles")}
        values = {**adaptive_trace_model.defaults(), **shared}
        own = Parameters(adaptive_trace_model.name, values)
        return PixelReplacePlan(SlicesPlan(), plan_trace_model(ds, own))
    if params.algorithm != "fit_profile" or not (mode_of(ds).sliced or "slice_id" in ds):
        return PixelReplacePlan(SlicesPlan())
    if meta_of(ds).wcs is None and not {"regions", "slice_id"} & set(ds.variables):
        msg = (
            "pixel_replace: algorithm 'fit_profile' needs to know the slices of the"
            " integral-field unit, variable 'regions' or 'slice_id' (y, x), or the WCS; run"
            " assign_wcs first"
        )
        raise DatasetError(msg)
    return PixelReplacePlan(make_slices_plan(slice_map(ds, "pixel_replace")))


def _chunkable(params: Parameters) -> bool:
    return bool(params.algorithm != "trace_model")  # the median of all integrations is modelled


@step(
    reads=("sci", "err", "dq"),
    traceable=True,
    skip=True,
    planner=_plan,
    chunkable=_chunkable,
)
def pixel_replace(
    ds: xr.Dataset,
    *,
    plan: PixelReplacePlan = PLANNED,
    algorithm: Literal["fit_profile", "mingrad", "trace_model"] = "mingrad",
    n_adjacent_cols: Annotated[int, Range(1, 4095)] = 3,
    robust_scale: bool = True,
    interpolate_profiles: bool = True,
) -> xr.Dataset:
    """Replace flagged pixels by estimates from their neighbours.

    Each integration, each slit and (by ``fit_profile``) each slice of an integral-field unit is
    treated on its own. The estimate is a differentiable
    function of the pixels it is made from (piecewise: which of them are used depends on their
    values).

    Parameters
    ----------
    ds : xarray.Dataset
        Calibrated spectrum, (y, x) or (integration, y, x), with ``sci``, ``err``, ``dq`` and any
        variances; bad pixels are NaN. Or a bucket of slits, (slit, [integration,] y, x).
    plan : PixelReplacePlan
        Where the slices of an integral-field unit are, and the trace model if it has to be made.
    algorithm : {"mingrad", "fit_profile", "trace_model"}
        Mean of the two neighbours, along x or y, that differ less; or the median profile across
        the dispersion of the adjacent columns, scaled to the good pixels of the column; or the
        model of the trace of a compact source, ``trace_model``, and ``mingrad`` where there is
        none. Without ``adaptive_trace_model`` before it, the model is made with the parameters
        that this step has by default.
    n_adjacent_cols : int
        Columns on either side that make the profile of ``fit_profile``.
    robust_scale, interpolate_profiles : bool
        Of a model that is made here, as in ``adaptive_trace_model``.

    Returns
    -------
    xarray.Dataset
        Replaced pixels carry ``FLUX_ESTIMATED`` and no longer ``DO_NOT_USE``; their errors and
        variances are estimated from the same neighbours, or by ``trace_model`` interpolated along
        the dispersion. A model that was made is the variable ``trace_model``.

    Raises
    ------
    DatasetError
        If ``fit_profile`` does not know the dispersion axis, or the slices.

    Notes
    -----
    Algorithms: pixel replacement step of the JWST calibration pipeline
    (https://jwst-pipeline.readthedocs.io). The scale of ``fit_profile`` is the exact minimum of
    the squared differences.
    """
    planes = {n: ds[n].data for n in ("sci", "dq", "err", *VARIANCES) if n in ds}
    if algorithm == "fit_profile":
        dispaxis = _dispersion(ds, algorithm)

        def cut(image: Array) -> Array:
            # pixels of other slices are no part of the image of a slice
            return plan.slices.cut(image, np.nan if image.dtype.kind == "f" else UNUSABLE)

        fitted = fit_profile(map_planes(cut, planes), dispaxis, n_adjacent_cols)
        return replace_data(ds, None, **map_planes(plan.slices.paste, planes, fitted))
    if plan.model is not None:
        stacked = "integration" in ds.dims
        ds = with_model(ds, plan.model.images(ds["sci"].data, stacked=stacked)[1])
        ds = with_status(ds, adaptive_trace_model.name, "COMPLETE")
    elif algorithm == "trace_model" and plan.without:
        text = f"pixel_replace: {plan.without}; pixels are replaced by means of two neighbours"
        ds = with_warnings(ds, text)
    if algorithm == "trace_model" and "trace_model" in ds:
        model = ds["trace_model"]
        if "integration" in ds.dims:
            model = model.expand_dims("integration", axis=ds["sci"].dims.index("integration"))
        planes = dict(from_model(planes, model.data, _dispersion(ds, algorithm)))
    size = None
    if "slit" in ds.dims:  # of padded slits, shaped like the leading axes
        more = (1,) * (ds["sci"].ndim - 3)
        size = (ds["ysize"].data.reshape(-1, *more), ds["xsize"].data.reshape(-1, *more))
    return replace_data(ds, None, **minimum_gradient(planes, size))


def _dispersion(ds: xr.Dataset, algorithm: str) -> int:
    dispaxis = ds.attrs.get("dispaxis")
    if dispaxis in (1, 2):
        return int(dispaxis)
    msg = (
        f"pixel_replace: algorithm {algorithm!r} needs the dispersion axis, attribute"
        f" 'dispaxis' = 1 (along x) or 2 (along y), found {dispaxis!r}; set it or run"
        " assign_wcs first"
    )
    raise DatasetError(msg)

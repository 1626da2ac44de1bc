"""Subtraction of the background measured in separate exposures."""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING, Annotated, Any

from spec2fn.engine.step import PLANNED, Skip, as_reference, step
from spec2fn.errors import ParameterError
from spec2fn.kernels.namespace import is_traced
from spec2fn.modes import mode_of
from spec2fn.parameters import Parameters, Range
from spec2fn.plans.background.background import (
    BackgroundPlan,
    combine_backgrounds,
    grating_wheel_differs,
)
from spec2fn.plans.background.slitless import ScaledBackgroundPlan, plan_scaled_background
from spec2fn.plans.background.templates import TemplateBackgroundPlan, plan_template_background
from spec2fn.schema import replace_data, with_meta

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["background", "plan_background"]

AnyBackgroundPlan = BackgroundPlan | ScaledBackgroundPlan | TemplateBackgroundPlan
_Percentile = Annotated[float, Range(0.0, 100.0)]


def plan_background(
    ds: xr.Dataset,
    bkg: xr.Dataset | None = None,
    wavelengthrange: xr.Dataset | None = None,
    *,
    background: tuple[xr.Dataset, ...] = (),
    sourcecat: tuple[xr.Dataset, ...] = (),
    params: Parameters,
) -> AnyBackgroundPlan | Skip:
    """Combine the background exposures, or scale the reference; see :func:`background`."""
    mode = mode_of(ds)
    if mode.layout == "traces" and not mode.one_source:
        if bkg is None:
            return Skip("no bkg reference")
        given: Any = params.wfss_mask
        mask = as_reference(given, "mask") if isinstance(given, (str, PathLike)) else given
        return plan_scaled_background(ds, bkg, wavelengthrange, sourcecat, params, mask)
    if mode.layout == "orders":
        if bkg is None:
            return Skip("no bkg reference")
        template = plan_template_background(ds, bkg, params)
        return Skip(template) if isinstance(template, str) else template
    if params.bkg_list and not background:
        msg = (
            f"background: bkg_list names {', '.join(params.bkg_list)}, which only a run from files"
            " opens; pass the opened exposures as background=(dataset, ...)"
        )
        raise ParameterError(msg)
    if not background:
        return Skip("no background exposures")
    turned = grating_wheel_differs(ds, background)
    if turned:
        return Skip(turned)
    plan = combine_backgrounds(ds, background, params.sigma, params.maxiters)
    return Skip("no background exposure overlaps the subarray") if plan is None else plan


@step(
    refs=("bkg", "wavelengthrange"),
    members=("background", "sourcecat"),
    reads=("sci", "err", "dq"),
    provides=("mask",),
    traceable=True,
    planner=plan_background,
    aliases=("bkg_subtract",),
    suffix="bsub",
    needs_refs=("bkg",),
    needs_members=("background",),
    ordered=(("soss_bkg_percentile", "soss_bkg_percentile"),),
)
def background(
    ds: xr.Dataset,
    bkg: xr.Dataset | None = None,
    wavelengthrange: xr.Dataset | None = None,
    *,
    plan: AnyBackgroundPlan = PLANNED,
    background: tuple[xr.Dataset, ...] = (),
    sourcecat: tuple[xr.Dataset, ...] = (),
    bkg_list: tuple[str, ...] | None = None,
    save_combined_background: bool = False,
    sigma: Annotated[float, Range(0.0, above=True)] = 3.0,
    maxiters: Annotated[int, Range(1)] | None = None,
    propagate_variance: bool = True,
    wfss_mmag_extract: Annotated[float, Range(-50.0, 1000.0)] | None = None,
    wfss_mask: object = None,
    wfss_all_orders: bool = True,
    wfss_maxiter: Annotated[int, Range(0)] = 5,
    wfss_rms_stop: Annotated[float, Range(0.0, 100.0)] = 0.0,
    wfss_outlier_percent: Annotated[float, Range(0.0, 50.0)] = 1.0,
    soss_source_percentile: _Percentile = 35.0,
    soss_bkg_percentile: tuple[_Percentile, _Percentile] | None = None,
    soss_bkg_block: Annotated[int, Range(1, 64)] = 8,
) -> xr.Dataset:
    """Subtract the sigma-clipped average of background exposures, or a scaled reference.

    In wide-field slitless exposures every pixel sees the whole field: what is subtracted is a
    reference image, scaled to the pixels on which no source of the catalog falls. In SOSS exposures
    it is the one of a library of images that fits the faint pixels best, with a scale for either
    side of the step in the background.

    Linear in ``sci``. Every integration has the same image subtracted, so that with
    `propagate_variance` the part of the error added here is fully correlated between them.

    Parameters
    ----------
    ds : xarray.Dataset
        Exposure, (y, x) or (integration, y, x), with ``sci`` [DN/s], ``err``, ``dq``.
    bkg, wavelengthrange : xarray.Dataset, optional
        References of slitless exposures: the image (SOSS: images) of the background, and the
        wavelengths of the orders.
    plan : BackgroundPlan, ScaledBackgroundPlan or TemplateBackgroundPlan
        Combined background, or its scale, made by :func:`plan_background`.
    background : tuple of xarray.Dataset
        Background exposures (a nod partner or a dedicated field), of any number of integrations
        and on any subarray that overlaps.
    sourcecat : tuple of xarray.Dataset
        Slitless exposures: the catalog of the sources in the field, from
        :func:`spec2fn.io.catalogs.read_catalog`.
    bkg_list : tuple of str, optional
        Files to use as `background`; a run opens them.
    save_combined_background : bool
        Keep the combined image as a Dataset in ``ds.attrs["meta"].records`` under
        ``"combined_background"`` (not inside a JAX transformation).
    sigma : float
        Clipping threshold in standard deviations about the median, over the integrations of each
        exposure and then over exposures.
    maxiters : int, optional
        Maximum number of clipping iterations; until nothing is clipped if None.
    propagate_variance : bool
        Add the variance of the combined background to ``var_poisson``, ``var_rnoise`` and
        ``err``; if false they stay as they were. A scaled reference has none.
    wfss_mmag_extract : float, optional
        Slitless: sources that are not brighter than this AB magnitude count as background.
    wfss_mask : str, xarray.Dataset or array, optional
        Slitless: where there is background alone (not 0), instead of the catalog; a file, whose
        extension MASK it is, or its content.
    wfss_all_orders : bool
        Slitless: keep clear of all orders of the sources that `wavelengthrange` knows, not only of
        those that are extracted.
    wfss_maxiter : int
        Slitless: how often pixels are rejected before the scale is found.
    wfss_rms_stop : float
        Slitless: stop rejecting when the root mean square of the median profile of the residuals
        has become smaller by less than this [%].
    wfss_outlier_percent : float
        Slitless: how many pixels are rejected each time, at either end of the residuals [%].
    soss_source_percentile : float
        SOSS: pixels at this percentile or above hold light of the source.
    soss_bkg_percentile : (float, float), optional
        SOSS: a scale is the median of the ratios to the image between these percentiles; by
        default 25 and 50.
    soss_bkg_block : int
        SOSS: pixels along the side of squares that are compared by their mean over all
        integrations. With 1 it is single pixels, as in the official pipeline: the percentiles are
        then in part those of the noise, and the background comes out too low.

    Returns
    -------
    xarray.Dataset
        With the flags of the backgrounds added to ``dq``, and ``DO_NOT_USE`` where none of them
        has a valid value (nothing is subtracted there). Skipped without background exposures, and
        for NIRSpec if the grating wheel did not stand as in the science exposure (GWA_XTIL and
        GWA_YTIL), because the spectra then fall on other pixels. Slitless exposures have
        ``background_scale``, and ``mask`` (y, x), 1 where there is background alone; if too few
        such pixels are left (5 % of all; with `wfss_mask`, none), the step has failed, the scale
        is 0, and nothing is subtracted.

    Raises
    ------
    DatasetError
        If units, sizes or subarrays contradict each other.
    InputError
        If a NIRSpec exposure lacks GWA_XTIL or GWA_YTIL; if a slitless one has no catalog, or
        `wfss_mask` does not fit it.
    ParameterError
        If `bkg_list` is given but no exposure was opened.

    Notes
    -----
    Algorithm: background subtraction step of the JWST calibration pipeline
    (https://jwst-pipeline.readthedocs.io).
    """
    new = plan.subtract_from(ds, propagate_variance=propagate_variance)
    out = plan.recorded(replace_data(ds, None, **new))
    if save_combined_background and not any(map(is_traced, new.values())):
        out = with_meta(out, records={"combined_background": plan.subtracted(ds)})
    return out

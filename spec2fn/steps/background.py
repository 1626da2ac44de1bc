"""Subtraction of the background measured in separate exposures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from spec2fn.engine.step import PLANNED, Skip, step
from spec2fn.errors import ParameterError
from spec2fn.kernels.namespace import is_traced
from spec2fn.parameters import Parameters, Range
from spec2fn.plans.background.background import (
    BackgroundPlan,
    combine_backgrounds,
    describe,
    grating_wheel_differs,
)
from spec2fn.schema import replace_data, with_meta

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["background", "plan_background"]


def plan_background(
    ds: xr.Dataset,
    bkg: xr.Dataset | None = None,
    wavelengthrange: xr.Dataset | None = None,
    *,
    background: tuple[xr.Dataset, ...] = (),
    params: Parameters,
) -> BackgroundPlan | Skip:
    """Combine the background exposures; see :func:`background`."""
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
    members=("background",),
    reads=("sci", "err", "dq"),
    traceable=True,
    planner=plan_background,
    aliases=("bkg_subtract",),
    suffix="bsub",
    needs_members=("background",),
)
def background(
    ds: xr.Dataset,
    bkg: xr.Dataset | None = None,
    wavelengthrange: xr.Dataset | None = None,
    *,
    plan: BackgroundPlan = PLANNED,
    background: tuple[xr.Dataset, ...] = (),
    bkg_list: tuple[str, ...] | None = None,
    save_combined_background: bool = False,
    sigma: Annotated[float, Range(0.0, above=True)] = 3.0,
    maxiters: Annotated[int, Range(1)] | None = None,
    propagate_variance: bool = True,
) -> xr.Dataset:
    """Subtract the sigma-clipped average of background exposures.

    Linear in ``sci``. Every integration has the same image subtracted, so that with
    `propagate_variance` the part of the error added here is fully correlated between them.

    Parameters
    ----------
    ds : xarray.Dataset
        Exposure, (y, x) or (integration, y, x), with ``sci`` [DN/s], ``err``, ``dq``.
    bkg, wavelengthrange : xarray.Dataset, optional
        References of the slitless modes; exposures are not scaled by them.
    plan : BackgroundPlan
        Combined background, made by :func:`plan_background`.
    background : tuple of xarray.Dataset
        Background exposures (a nod partner or a dedicated field), of any number of integrations
        and on any subarray that overlaps.
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
        ``err``; if false they stay as they were.

    Returns
    -------
    xarray.Dataset
        With the flags of the backgrounds added to ``dq``, and ``DO_NOT_USE`` where none of them
        has a valid value (nothing is subtracted there). Skipped without background exposures, and
        for NIRSpec if the grating wheel did not stand as in the science exposure (GWA_XTIL and
        GWA_YTIL), because the spectra then fall on other pixels.

    Raises
    ------
    DatasetError
        If units, sizes or subarrays contradict each other.
    InputError
        If a NIRSpec exposure lacks GWA_XTIL or GWA_YTIL.
    ParameterError
        If `bkg_list` is given but no exposure was opened.

    Notes
    -----
    Algorithm: background subtraction step of the JWST calibration pipeline
    (https://jwst-pipeline.readthedocs.io).
    """
    new = plan.subtract_from(ds, propagate_variance=propagate_variance)
    out = replace_data(ds, None, **new)
    if save_combined_background and not is_traced(new["sci"]):
        out = with_meta(out, records={"combined_background": describe(plan, ds)})
    return out

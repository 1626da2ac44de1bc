"""Correction of extended sources for the shadows of the bars between open shutters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from spec2fn.engine.step import PLANNED, Skip, step
from spec2fn.modes import mode_of
from spec2fn.plans.flux.barshadow import BarshadowPlan, plan_barshadow
from spec2fn.plans.flux.factors import apply_factor
from spec2fn.plans.slits.slit_frame import require_slits
from spec2fn.schema import need

if TYPE_CHECKING:
    import xarray as xr

    from spec2fn.parameters import Parameters

__all__ = ["barshadow"]


def _plan(
    ds: xr.Dataset, barshadow: xr.Dataset | None, *, params: Parameters
) -> BarshadowPlan | Skip:
    mode = mode_of(ds)
    if not mode.shutters or mode.lamp:
        return Skip(f"no bars cast shadows in {mode.exp_type}")
    if barshadow is None:
        return Skip(f"no barshadow reference for {mode.exp_type}")
    require_slits(ds, "barshadow", ("wavelength", "shutter_state", "ysize", "xsize"))
    return plan_barshadow(ds, barshadow, params)


@step(
    refs=("barshadow",),
    reads=("sci", "err", "dq"),
    provides=("barshadow",),
    traceable=True,
    planner=_plan,
    needs_refs=("barshadow",),
)
def barshadow(
    ds: xr.Dataset,
    barshadow: xr.Dataset | None = None,
    *,
    plan: BarshadowPlan = PLANNED,
    inverse: bool = False,
    source_type: Literal["POINT", "EXTENDED"] | None = None,
) -> xr.Dataset:
    """Divide slitlets of extended sources by the shadows of the bars between their shutters.

    Parameters
    ----------
    ds : xarray.Dataset
        A bucket of slits, dims ``(slit, [integration,] y, x)``, with ``wavelength`` [um] (where
        there is ``wavelength_uncorrected``, that is used), ``source_type``, ``shutter_state`` and
        ``slit_yscale``.
    barshadow : xarray.Dataset
        Reference: ``data1x1`` and ``data1x3``, the transmission along a single open shutter and
        along the middle one of three. The result can be differentiated with respect to it.
    plan : BarshadowPlan
        From ``barshadow.plan(ds, reference, ...)``.
    inverse : bool
        Multiply instead.
    source_type : {"POINT", "EXTENDED"}, optional
        Treat the sources as of this type.

    Returns
    -------
    xarray.Dataset
        With the correction as ``barshadow`` (dims ``slit, y, x``; 1 in slitlets of point sources,
        which are left alone), and ``barshadow_corrected`` (bool on ``slit``). Pixels outside the
        slit become NaN and are flagged DO_NOT_USE.

    Raises
    ------
    DatasetError
        If the wavelength, the states of the shutters or the gwcs of the slits are missing.
    ReferenceError
        If the reference is no bar shadow.

    Notes
    -----
    Algorithm: JWST pipeline documentation, barshadow step.
    """
    return apply_factor(ds, plan.factor(ds, need(barshadow, (), "barshadow")), inverse=inverse)

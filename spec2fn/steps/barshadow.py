"""Correction of extended sources for the shadows of the bars between open shutters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from spec2fn.dq import PIXEL
from spec2fn.engine.step import PLANNED, Skip, step
from spec2fn.kernels.namespace import array_namespace
from spec2fn.kernels.slit_corrections import assemble_shadows, bilinear_clipped, rescale_slits
from spec2fn.modes import mode_of
from spec2fn.plans.flux.barshadow import BarshadowPlan, plan_barshadow
from spec2fn.plans.slits.slit_frame import require_slits
from spec2fn.schema import replace_data
from spec2fn.slits import with_problems

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["barshadow"]

_VARIANCES = ("var_poisson", "var_rnoise", "var_flat")


def _plan(
    ds: xr.Dataset,
    barshadow: xr.Dataset | None,
    *,
    source_type: Literal["POINT", "EXTENDED"] | None = None,
) -> BarshadowPlan | Skip:
    mode = mode_of(ds)
    if not mode.shutters or mode.lamp:
        return Skip(f"no bars cast shadows in {mode.exp_type}")
    if barshadow is None:
        return Skip(f"no barshadow reference for {mode.exp_type}")
    require_slits(ds, "barshadow", ("wavelength", "shutter_state", "ysize", "xsize"))
    return plan_barshadow(ds, barshadow, source_type)


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
    assert barshadow is not None
    single, triple = (barshadow.variables[n].data for n in ("data1x1", "data1x3"))
    name = "wavelength_uncorrected" if "wavelength_uncorrected" in ds else "wavelength"
    wavelength = ds.variables[name].data
    dtype = ds.variables["sci"].dtype
    xp = array_namespace(ds.variables["sci"].data, wavelength, single, triple)

    applies = xp.asarray(plan.applies)
    covered = xp.asarray(plan.covered) & xp.isfinite(wavelength)
    shadows = assemble_shadows(single, triple, plan.states or ("x",))
    column = (xp.where(covered, wavelength, plan.start) - plan.start) / plan.increment
    shadow = bilinear_clipped(shadows, plan.which, plan.row, column)
    factor = xp.where(covered, shadow, xp.nan).astype(dtype)
    factor = xp.where(applies[:, None, None], factor, xp.ones((), dtype=dtype))
    planes, dq = rescale_slits(
        {n: ds.variables[n].data for n in ("sci", "err")},
        {n: ds.variables[n].data for n in _VARIANCES if n in ds},
        ds.variables["dq"].data,
        factor,
        applies,
        do_not_use=PIXEL["DO_NOT_USE"],
        inverse=not inverse,
    )
    out = replace_data(ds, dq=dq, **planes).assign(
        barshadow=(("slit", "y", "x"), factor),
        barshadow_corrected=("slit", applies),
    )
    return with_problems(out, plan.problems)

"""Source type of an exposure: point or extended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from spec2fn.engine.step import PLANNED, Skip, step
from spec2fn.kernels.namespace import array_namespace
from spec2fn.modes import mode_of
from spec2fn.parameters import Parameters
from spec2fn.plans.slits.srctype import SourceTypePlan, decide_source_type, is_time_series
from spec2fn.schema import meta_of, with_attrs, with_warnings

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["srctype"]

_POINTLIKE = 0.75  # stellarity, from 0 (extended) to 1, above which a source counts as a point


def _plan(ds: xr.Dataset, *, params: Parameters) -> SourceTypePlan | Skip:
    mode = mode_of(ds)
    if mode.shutters and "stellarity" in ds:
        # a negative one stands for a place that was planned as a point
        stellarity = ds["stellarity"].values
        points = (stellarity < 0) | (stellarity > _POINTLIKE)
        types = tuple("POINT" if point else "EXTENDED" for point in points)
        return SourceTypePlan("", ds.attrs.get("source_type_apt"), types)
    if "is_extended" in ds:
        extended = ds["is_extended"].values
        types = tuple("EXTENDED" if e else "POINT" for e in extended)
        return SourceTypePlan("", ds.attrs.get("source_type_apt"), types)
    if mode.shutters or (mode.layout == "traces" and not mode.one_source):
        return Skip(f"sources of {mode.exp_type} have their types slit by slit")
    if not mode.one_source:
        decided = "POINT" if is_time_series(ds, mode) else "UNKNOWN"
        return SourceTypePlan(decided, ds.attrs.get("source_type_apt"))
    requested = ds.attrs.get("source_type_apt", ds.attrs.get("source_type"))
    decided, known = decide_source_type(ds, mode, params.source_type, requested)
    warnings = () if known else (_warning(ds, decided),)
    if "slit" not in ds.dims:
        return SourceTypePlan(decided, requested, warnings=warnings)
    names = [str(n) for n in ds["slit_name"].values]
    if not mode.several_slits:
        return SourceTypePlan(decided, requested, (decided,) * len(names), warnings=warnings)
    # the target is in the primary slit, the others see the sky; an extended one has no position
    primary = [name == ds.attrs.get("fixed_slit") for name in names]
    types = tuple(decided if target else "EXTENDED" for target in primary)
    centred = tuple(target and decided == "EXTENDED" for target in primary)
    return SourceTypePlan(decided, requested, types, centred, warnings)


def _warning(ds: xr.Dataset, decided: str) -> str:
    return (
        f"srctype: the source is taken to be {decided}, as is usual for {ds.attrs['exp_type']}:"
        f" {meta_of(ds).filename or 'the exposure'} has neither SRCTYAPT nor SRCTYPE nor a dither"
        " pattern; set srctype.source_type if it is not"
    )


@step(
    reads=("sci",),
    traceable=True,
    planner=_plan,
    aliases=("source_type",),
)
def srctype(
    ds: xr.Dataset,
    *,
    plan: SourceTypePlan = PLANNED,
    source_type: Literal["POINT", "EXTENDED"] | None = None,
) -> xr.Dataset:
    """Say whether an exposure is calibrated for a point or an extended source.

    The first of these that applies decides: `source_type`; a background target is EXTENDED; a
    time series is POINT; the type requested in the observing program (SRCTYAPT, or SRCTYPE in
    old files); nod patterns and patterns optimized for point sources are POINT; the default of
    the mode (EXTENDED for integral-field units, POINT otherwise).

    Of several fixed slits the one with the target has that type, the others are EXTENDED. MSA
    slitlets have the types that the stellarity of their sources implies, sources without slits
    those of their catalog.

    Parameters
    ----------
    ds : xarray.Dataset
        Exposure, or bucket of slits; attributes are read, and of slits ``slit_name``,
        ``stellarity`` and ``is_extended``.
    plan : SourceTypePlan
        From ``srctype.plan(ds, ...)``.
    source_type : {"POINT", "EXTENDED"}, optional
        Overrides every other rule.

    Returns
    -------
    xarray.Dataset
        With the attribute ``source_type`` (and ``source_type_apt``, where it was missing).
        LRS exposures count as one slit from here on (attribute ``model``). Slits have a variable
        ``source_type``; an extended target in its fixed slit has ``source_xpos`` and
        ``source_ypos`` zero. MSA exposures have no type of their own.

    Notes
    -----
    Algorithm: JWST pipeline documentation, srctype step ("Single-source observations", "Multi-
    source observations").
    """
    attrs: dict[str, Any] = {"source_type": plan.source_type or None}
    if plan.source_type_apt is not None:
        attrs["source_type_apt"] = plan.source_type_apt
    if mode_of(ds).layout == "image" and mode_of(ds).instrument:
        attrs["model"] = "SlitModel"
    out = with_attrs(ds, **attrs)
    if "meta" in ds.attrs:  # which no trace has
        out = with_warnings(out, *plan.warnings)
    if plan.slit_types is None:
        return out
    new: dict[str, Any] = {"source_type": ("slit", np.array(plan.slit_types))}
    if plan.centred is not None and any(plan.centred):
        centred = np.array(plan.centred)
        for name in ("source_xpos", "source_ypos"):
            if name in ds:
                old = ds.variables[name]
                xp = array_namespace(old.data)
                data = xp.where(centred, xp.zeros((), old.dtype), old.data)
                new[name] = (old.dims, data, dict(old.attrs))
    return out.assign(new)

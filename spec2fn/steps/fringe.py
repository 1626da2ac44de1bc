"""Division of MIRI MRS exposures by the fringe flat."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spec2fn.engine.step import PLANNED, Skip, step
from spec2fn.kernels.namespace import array_namespace
from spec2fn.kernels.scaling import expand_to
from spec2fn.modes import mode_of
from spec2fn.plans.flux.flat_field import ImagePlan
from spec2fn.schema import VARIANCES, replace_data
from spec2fn.subarray import subarray_slices

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["fringe"]


def _plan(ds: xr.Dataset, fringe: xr.Dataset | None) -> ImagePlan | Skip:
    mode = mode_of(ds)
    if not mode.etalon:
        return Skip(f"there are fringe flats of MIR_MRS, not of {mode.exp_type}")
    if fringe is None:
        return Skip("no fringe reference for this exposure")
    rows, columns = subarray_slices(fringe, ds, "fringe", "fringe")
    return ImagePlan((rows.start, rows.stop), (columns.start, columns.stop))


@step(
    refs=("fringe",),
    reads=("sci", "err"),
    traceable=True,
    planner=_plan,
    needs_refs=("fringe",),
)
def fringe(
    ds: xr.Dataset, fringe: xr.Dataset | None = None, *, plan: ImagePlan = PLANNED
) -> xr.Dataset:
    """Divide an MRS exposure by the fringes of extended light.

    Layers of the detector act as etalons: the throughput oscillates with wavelength. The fringe
    flat is its relative modulation, measured in extended sources.

    Parameters
    ----------
    ds : xarray.Dataset
        Exposure of type MIR_MRS, ``([integration,] y, x)``.
    fringe : xarray.Dataset
        Fringe flat with ``sci`` (y, x). It is read here, not in the plan, so that the result can
        be differentiated with respect to it.
    plan : ImagePlan
        From ``fringe.plan(ds, fringe)``.

    Returns
    -------
    xarray.Dataset
        ``sci`` and ``err`` divided by the fringe flat, variances by its square. Pixels where it
        is not finite, or zero, are left as they are. Flags of the reference tell of the quality
        of the fringe solution and not of the pixel: they are not taken over. Skipped without
        reference.

    Raises
    ------
    ReferenceError
        If the fringe flat does not cover the exposure.
    DatasetError
        If the plan is one for exposures of another size.

    Notes
    -----
    Algorithm: JWST pipeline documentation, fringe step; the fringes: Argyriou et al. (2020, A&A
    641, A150).
    """
    assert fringe is not None
    flat = plan.part(fringe["sci"].data)
    plan.check(flat, ds, "fringe.plan(ds, fringe)")
    values = {n: ds[n].data for n in ("sci", "err", *VARIANCES) if n in ds}
    xp = array_namespace(flat, *values.values())
    flat = xp.asarray(flat)
    usable = xp.isfinite(flat) & (flat != 0)
    flat = xp.where(usable, flat, xp.ones_like(flat))
    new = {}
    for name, plane in values.items():
        scale = expand_to(flat.astype(plane.dtype), plane)
        finite = xp.isfinite(plane)
        safe = xp.where(finite, plane, xp.zeros_like(plane))
        divided = safe / (scale * scale) if name in VARIANCES else safe / scale
        new[name] = xp.where(finite, divided, plane)
    return replace_data(ds, **new)

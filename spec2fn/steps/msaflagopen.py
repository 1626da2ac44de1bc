"""Flagging of pixels that shutters illuminate which do not close."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spec2fn.dq import PIXEL
from spec2fn.engine.step import PLANNED, Skip, step
from spec2fn.kernels.background import per_plane
from spec2fn.kernels.namespace import array_namespace
from spec2fn.modes import mode_of
from spec2fn.parameters import Parameters
from spec2fn.plans.slits.msaflagopen import (
    FailedOpenPlan,
    failed_open_shutters,
    illuminated_pixels,
    shutter_batch,
)
from spec2fn.schema import replace_data

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["msaflagopen", "plan_msaflagopen"]

_WCS_REFS = ("camera", "collimator", "disperser", "fore", "fpa", "msa", "ote", "wavelengthrange")


def plan_msaflagopen(
    ds: xr.Dataset,
    msaoper: xr.Dataset | None = None,
    *optics: xr.Dataset | None,
    params: Parameters,
) -> FailedOpenPlan | Skip:
    """Find the pixels to flag; see :func:`msaflagopen`."""
    mode = mode_of(ds)
    if not mode.through_array:
        return Skip(f"no light passes the micro-shutters in exposures of type {mode.exp_type}")
    if mode.fixed_slits and not params.beside_fixed_slits:
        return Skip("pixels beside fixed slits are not flagged")
    if msaoper is None:
        return Skip("no msaoper reference")
    shutters = failed_open_shutters(msaoper)
    shape = (ds["sci"].shape[-2], ds["sci"].shape[-1])
    batch = shutter_batch(ds, shutters, dict(zip(_WCS_REFS, optics, strict=False)))
    return FailedOpenPlan(illuminated_pixels(batch, shape))


@step(
    refs=("msaoper", *_WCS_REFS),
    needs_refs=("msaoper",),
    reads=("sci", "dq"),
    traceable=True,
    planner=plan_msaflagopen,
    aliases=("msa_flagging",),
)
def msaflagopen(
    ds: xr.Dataset,
    msaoper: xr.Dataset | None = None,
    *optics: xr.Dataset | None,
    plan: FailedOpenPlan = PLANNED,
    beside_fixed_slits: bool = False,
) -> xr.Dataset:
    """Flag the pixels that see light through micro-shutters that are stuck open.

    Parameters
    ----------
    ds : xarray.Dataset
        Exposure of the MSA or the IFU, (y, x) or (integration, y, x), with ``dq``.
    msaoper : xarray.Dataset, optional
        Operability of the shutters (JSON).
    *optics : xarray.Dataset or None
        ``camera collimator disperser fore fpa msa ote wavelengthrange``, as for `assign_wcs`; not
        needed for an exposure of which `assign_wcs` has built the slits.
    plan : FailedOpenPlan
        The pixels, made by :func:`plan_msaflagopen`.
    beside_fixed_slits : bool
        Lamps: flag exposures of fixed slits too, as the JWST pipeline does.

    Returns
    -------
    xarray.Dataset
        With ``MSA_FAILED_OPEN`` added to ``dq`` where the spectrum of such a shutter falls. Skipped
        for other exposures, and without reference.

    Raises
    ------
    InputError
        If keywords of the WCS are missing.
    ReferenceError
        If a reference is damaged, or one of the optics is missing.

    Notes
    -----
    Algorithm: MSA flagging step of the JWST calibration pipeline
    (https://jwst-pipeline.readthedocs.io).
    """
    dq = ds["dq"].data
    xp = array_namespace(dq, plan.failed)
    flag = xp.asarray(PIXEL["MSA_FAILED_OPEN"], dtype=dq.dtype)
    return replace_data(ds, dq=xp.where(per_plane(plan.failed, dq), dq | flag, dq))

"""Subtraction of the light that leaks through the closed micro-shutters."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from spec2fn.engine.step import PLANNED, Skip, step
from spec2fn.kernels.background import per_plane
from spec2fn.kernels.namespace import array_namespace
from spec2fn.modes import Mode, mode_of
from spec2fn.plans.background.imprint import ImprintPlan, match_imprint, plan_subtraction
from spec2fn.schema import meta_of, replace_data

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["imprint", "plan_imprint"]


def plan_imprint(ds: xr.Dataset, *, imprint: tuple[xr.Dataset, ...] = ()) -> ImprintPlan | Skip:
    """Choose the imprint exposure that belongs to an exposure; see :func:`imprint`."""
    mode = mode_of(ds)
    if not _takes_imprints(mode, ds):
        return Skip(f"imprints are not subtracted from {mode.exp_type}")
    if not imprint:
        return Skip("no imprint exposures")
    match = match_imprint(ds, imprint)
    if match is None:
        meta = meta_of(ds)
        return Skip(
            f"none of {len(imprint)} imprint exposures has the observation"
            f" ({meta.get('OBSERVTN')}) and dither position ({meta.get('PATT_NUM')}) of this one"
        )
    return plan_subtraction(ds, match)


def _takes_imprints(mode: Mode, ds: xr.Dataset) -> bool:
    """Whether light leaks through the closed array: not so where a line lamp shines."""
    if mode.lamp:
        return mode.sliced and str(ds.attrs.get("lamp_state", "")).upper().startswith("FLAT")
    return mode.through_array


@step(
    members=("imprint",),
    needs_members=("imprint",),
    reads=("sci", "err", "dq"),
    traceable=True,
    planner=plan_imprint,
    aliases=("imprint_subtract",),
)
def imprint(
    ds: xr.Dataset,
    *,
    plan: ImprintPlan = PLANNED,
    imprint: tuple[xr.Dataset, ...] = (),
    propagate_variance: bool = True,
) -> xr.Dataset:
    """Subtract the imprint exposure that belongs to this exposure.

    Linear in ``sci``. A single imprint exposure serves for all. Of several, the one with the same
    observation and dither position is taken (and the same BKGDTARG, which tells imprints of
    background targets); one that is left alone with its BKGDTARG serves for all positions. That
    holds for the IFU and the MSA alike, where the JWST pipeline cannot use more than one imprint
    exposure with the MSA. Rates are subtracted as they are: both are per second.

    Parameters
    ----------
    ds : xarray.Dataset
        Exposure, (y, x) or (integration, y, x), with ``sci`` [DN/s], ``err``, ``dq``.
    plan : ImprintPlan
        The imprint, made by :func:`plan_imprint`.
    imprint : tuple of xarray.Dataset
        Imprint exposures on the same subarray. The mean over the integrations of the one that
        belongs to the exposure is subtracted from all of the exposure's.
    propagate_variance : bool
        Add the variance of the imprint to ``var_poisson``, ``var_rnoise`` and ``err``; if false
        they stay as they were, as in the JWST pipeline. What the same imprint adds to an exposure
        and to its background is correlated: it cancels in their difference, but not in its error.

    Returns
    -------
    xarray.Dataset
        With the flags of the imprint added to ``dq``; NaN where the imprint has no value. Skipped
        without a matching imprint exposure, and for other modes.

    Raises
    ------
    DatasetError
        If units or sizes contradict each other.

    Notes
    -----
    Algorithm: imprint step of the JWST calibration pipeline
    (https://jwst-pipeline.readthedocs.io).
    """
    new = plan.subtract_from(ds, propagate_variance=propagate_variance)
    left = new["sci"]
    xp = array_namespace(left)
    nan = np.asarray(np.nan, dtype=left.dtype)
    new["sci"] = xp.where(per_plane(plan.lacking, left), nan, left)
    return replace_data(ds, None, **new)

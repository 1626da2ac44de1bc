"""Flagging of residual bad pixels found in the exposures themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import numpy as np

from spec2fn.dq import PIXEL
from spec2fn.engine.step import PLANNED, Skip, step
from spec2fn.kernels.background import per_plane
from spec2fn.kernels.namespace import array_namespace
from spec2fn.parameters import Parameters, Range
from spec2fn.plans.background.selfcal import SelfcalPlan, find_bad_pixels, minimum_image
from spec2fn.schema import VARIANCES, replace_data

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["badpix_selfcal", "plan_badpix_selfcal"]


def plan_badpix_selfcal(
    ds: xr.Dataset,
    *,
    selfcal: tuple[xr.Dataset, ...] = (),
    background: tuple[xr.Dataset, ...] = (),
    params: Parameters,
) -> SelfcalPlan | Skip:
    """Find the pixels to flag; see :func:`badpix_selfcal`."""
    others = (*selfcal, *background)
    if not others and not params.force_single:
        return Skip("no selfcal or background exposures (force_single=True uses the science alone)")
    image = minimum_image((ds, *others))
    fractions = (params.flagfrac_lower, params.flagfrac_upper)
    return find_bad_pixels(image, ds.attrs.get("dispaxis"), params.kernel_size, *fractions)


@step(
    members=("selfcal", "background"),
    reads=("sci", "err", "dq"),
    traceable=True,
    planner=plan_badpix_selfcal,
    skip=True,
    chunkable=False,
)
def badpix_selfcal(
    ds: xr.Dataset,
    *,
    plan: SelfcalPlan = PLANNED,
    selfcal: tuple[xr.Dataset, ...] = (),
    background: tuple[xr.Dataset, ...] = (),
    flagfrac_lower: Annotated[float, Range(0.0, 0.5)] = 0.001,
    flagfrac_upper: Annotated[float, Range(0.0, 0.5)] = 0.001,
    kernel_size: Annotated[int, Range(1, 4095)] = 15,
    force_single: bool = False,
    save_flagged_bkg: bool = False,
) -> xr.Dataset:
    """Flag pixels that stand out in the minimum image of all exposures.

    The plan is one image of bad pixels for the science exposure and its backgrounds alike: a
    pipeline applies it to the members too (``also_on("background", badpix_selfcal,
    share_plan=True)``). It depends on all integrations, so the step cannot work on pieces.

    Parameters
    ----------
    ds : xarray.Dataset
        Exposure, (y, x) or (integration, y, x), with ``sci``, ``err``, ``dq``.
    plan : SelfcalPlan
        The pixels to flag, made by :func:`plan_badpix_selfcal`.
    selfcal, background : tuple of xarray.Dataset
        Exposures that are searched together with the science exposure.
    flagfrac_lower, flagfrac_upper : float
        Fraction of the pixels to flag at the low and at the high end.
    kernel_size : int
        Length of the median window along the dispersion [pixel]; a square of this size if the
        dispersion axis is unknown.
    force_single : bool
        Search the science exposure alone if there is no other.
    save_flagged_bkg : bool
        Whether a run writes the flagged background exposures.

    Returns
    -------
    xarray.Dataset
        ``DO_NOT_USE`` and ``OTHER_BAD_PIXEL`` are set and all values, errors and variances are
        NaN at the pixels of the plan. Skipped without other exposures, unless `force_single`.

    Raises
    ------
    DatasetError
        If the exposures differ in size.

    Notes
    -----
    Algorithm: bad pixel self-calibration step of the JWST calibration pipeline
    (https://jwst-pipeline.readthedocs.io).
    """
    dq = ds["dq"].data
    xp = array_namespace(dq, ds["sci"].data, plan.bad)
    bits = xp.asarray(PIXEL["DO_NOT_USE"] | PIXEL["OTHER_BAD_PIXEL"], dtype=dq.dtype)
    bad = per_plane(plan.bad, dq)
    new = {"dq": xp.where(bad, dq | bits, dq)}
    for name in ("sci", "err", *VARIANCES):
        if name in ds:
            old = ds[name].data
            new[name] = xp.where(per_plane(plan.bad, old), np.asarray(np.nan, old.dtype), old)
    return replace_data(ds, **new)

"""Correction of the light that an aperture cuts off a source."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from spec2fn.engine.step import PLANNED, Skip, step
from spec2fn.modes import mode_of
from spec2fn.plans.flux.factors import apply_factor
from spec2fn.plans.flux.nirspec_pathloss import (
    SlitPathlossPlan,
    plan_nirspec_ifu,
    plan_nirspec_slits,
)
from spec2fn.plans.flux.pathloss import PathlossPlan, plan_lrs_slit
from spec2fn.plans.flux.wheel_pathloss import WheelPathlossPlan, plan_wheel_pathloss
from spec2fn.plans.slits.slit_frame import require_slits
from spec2fn.schema import need, require

if TYPE_CHECKING:
    import xarray as xr

    from spec2fn.parameters import Parameters

__all__ = ["pathloss"]

AnyPathlossPlan = PathlossPlan | SlitPathlossPlan | WheelPathlossPlan


def _plan(
    ds: xr.Dataset, pathloss: xr.Dataset | None, *, params: Parameters
) -> AnyPathlossPlan | Skip:
    mode = mode_of(ds)
    if pathloss is None:
        return Skip(f"no pathloss reference for {mode.exp_type}")
    if mode.layout == "slits":
        require_slits(ds, "pathloss", ("wavelength",))
        return plan_nirspec_slits(ds, pathloss, params)
    if mode.sliced and not mode.etalon:
        require(ds, ("wavelength",), "pathloss")
        return plan_nirspec_ifu(ds, pathloss, params)
    if mode.layout == "orders":
        wheel = plan_wheel_pathloss(ds, pathloss)
        return Skip(wheel) if isinstance(wheel, str) else wheel
    if not mode.slit:
        return Skip(f"no pathloss correction applies to {mode.exp_type}")
    kind = params.source_type or ds.attrs.get("source_type")
    if kind is None or str(kind).upper() != "POINT":
        return Skip(f"the source is {kind or 'of unknown type'}, the correction is for POINT")
    return plan_lrs_slit(ds, pathloss, params)


@step(
    refs=("pathloss",),
    reads=("sci", "err", "dq"),
    provides=("pathloss_ps", "pathloss_un"),
    traceable=True,
    planner=_plan,
    needs_refs=("pathloss",),
)
def pathloss(
    ds: xr.Dataset,
    pathloss: xr.Dataset | None = None,
    *,
    plan: AnyPathlossPlan = PLANNED,
    inverse: bool = False,
    source_type: Literal["POINT", "EXTENDED"] | None = None,
    user_slit_loc: float | None = None,
    extrapolate: bool | None = None,
) -> xr.Dataset:
    """Correct for the light that the aperture cuts off a source.

    A point source in the LRS slit is multiplied by the correction of the reference at the
    position of the source; slits of NIRSpec are divided by the transmission, point sources by
    that at their position, extended ones by that of a uniform source. A point source in the
    NIRSpec IFU is taken to be in the middle of the aperture. A SOSS exposure that is no time series
    is divided by the share of the light of the higher orders that falls on the subarray, which
    depends on the column and on the pupil wheel (PWCPOS).

    Parameters
    ----------
    ds : xarray.Dataset
        Exposure with ``wavelength``, dims ``([integration,] y, x)``, or a bucket of NIRSpec slits,
        dims ``(slit, [integration,] y, x)``, whose result can be differentiated with respect to
        ``source_xpos``, ``source_ypos`` and ``wavelength`` as well.
    pathloss : xarray.Dataset
        Reference: the correction by wavelength on a spatial grid. It is read here, not in the
        plan, so that the result can be differentiated with respect to it, as it can with respect
        to the position of the source (LRS: ``plan.x``, ``plan.y``).
    plan : PathlossPlan, SlitPathlossPlan or WheelPathlossPlan
        From ``pathloss.plan(ds, reference, ...)``.
    inverse : bool
        Undo the correction.
    source_type : {"POINT", "EXTENDED"}, optional
        Treat the source as of this type.
    user_slit_loc : float, optional
        LRS: offset of the source along the dispersion [arcsec]: 0 is where the pointing puts it,
        the slit is 0.51 arcsec wide.
    extrapolate : bool, optional
        NIRSpec: beyond the wavelengths of the reference, take the value at its end. By
        default this is done if ``assign_wcs.wavelength_range`` goes beyond the nominal range.

    Returns
    -------
    xarray.Dataset
        With the correction as ``pathloss_ps`` (dims ``[slit,] y, x``), for NIRSpec also that
        of a uniform source as ``pathloss_un``, and ``pathloss_correction_type`` (POINT, UNIFORM,
        or empty for a slit that is left alone, because the reference lacks its aperture or the
        source stands outside; its corrections are NaN). Pixels outside the wavelengths of the
        reference become NaN and are flagged DO_NOT_USE.

    Raises
    ------
    DatasetError
        If ``wavelength`` or the gwcs is missing.
    InputError
        If the exposure does not say where the target is.
    ReferenceError
        If the reference is no pathloss table (LRS) or holds no apertures (NIRSpec).

    Notes
    -----
    Algorithm: JWST pipeline documentation, pathloss step ("MIRI LRS", "NIRSpec MOS", "NIRSpec
    fixed slit", "NIRSpec IFU").
    """
    return apply_factor(ds, plan.factor(ds, need(pathloss, (), "pathloss")), inverse=inverse)

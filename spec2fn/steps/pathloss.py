"""Correction of the light that an aperture cuts off a source."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from spec2fn.compose import Skip, step
from spec2fn.dq import PIXEL
from spec2fn.kernels.namespace import array_namespace
from spec2fn.kernels.photometry import bilinear, interpolate_planned, rescale
from spec2fn.plans.pathloss import PathlossPlan, plan_lrs_slit
from spec2fn.schema import replace_data

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["pathloss"]

_VARIANCES = ("var_poisson", "var_rnoise", "var_flat")


def _plan(
    ds: xr.Dataset,
    pathloss: xr.Dataset | None,
    *,
    source_type: Literal["POINT", "EXTENDED"] | None = None,
    user_slit_loc: float | None = None,
) -> PathlossPlan | Skip:
    exp_type = str(ds.attrs.get("exp_type", "this exposure")).upper()
    if pathloss is None:
        return Skip(f"no pathloss reference for {exp_type}")
    if exp_type != "MIR_LRS-FIXEDSLIT":
        return Skip(f"no pathloss correction applies to {exp_type}")
    kind = source_type or ds.attrs.get("source_type")
    if kind is None or str(kind).upper() != "POINT":
        return Skip(f"the source is {kind or 'of unknown type'}, the correction is for POINT")
    return plan_lrs_slit(ds, pathloss, user_slit_loc)


@step(
    refs=("pathloss",),
    reads=("sci", "err", "dq"),
    provides=("pathloss_ps",),
    traceable=True,
    planner=_plan,
    needs_refs=("pathloss",),
)
def pathloss(
    ds: xr.Dataset,
    pathloss: xr.Dataset | None = None,
    *,
    plan: PathlossPlan,
    inverse: bool = False,
    source_type: Literal["POINT", "EXTENDED"] | None = None,
    user_slit_loc: float | None = None,
) -> xr.Dataset:
    """Correct a point source in the LRS slit for the light the slit cuts off.

    Parameters
    ----------
    ds : xarray.Dataset
        Exposure with ``wavelength``, dims ``([integration,] y, x)``.
    pathloss : xarray.Dataset
        Reference: the correction (a factor) by wavelength on a spatial grid. It is read here, not
        in the plan, so that the result can be differentiated with respect to it, as it can with
        respect to the position of the source (``plan.x``, ``plan.y``).
    plan : PathlossPlan
        From ``pathloss.plan(ds, reference, ...)``.
    inverse : bool
        Undo the correction.
    source_type : {"POINT", "EXTENDED"}, optional
        Treat the source as of this type.
    user_slit_loc : float, optional
        Offset of the source along the dispersion [arcsec]: 0 is where the pointing puts it, the
        slit is 0.51 arcsec wide.

    Returns
    -------
    xarray.Dataset
        With the correction as ``pathloss_ps`` (dims ``y, x``). Pixels outside the wavelengths of
        the reference become NaN and are flagged DO_NOT_USE.

    Raises
    ------
    DatasetError
        If ``wavelength`` or the gwcs is missing.
    InputError
        If the exposure does not say where the target is.
    ReferenceError
        If the reference is no pathloss table.

    Notes
    -----
    Algorithm: JWST pipeline documentation, pathloss step ("MIRI LRS").
    """
    assert pathloss is not None
    values = {n: ds.variables[n].data for n in ("sci", "err")}
    variances = {n: ds.variables[n].data for n in _VARIANCES if n in ds}
    cube = pathloss.variables["pathloss.pathloss"].data
    xp = array_namespace(*values.values(), *variances.values(), cube, plan.x, plan.index)

    column, row = (
        g[0] + (p - g[1]) / g[2] - 1 for p, g in ((plan.x, plan.grid_x), (plan.y, plan.grid_y))
    )
    vector = bilinear(xp.asarray(cube), xp.asarray(column), xp.asarray(row))
    if plan.flipped:
        vector = vector[::-1]
    dtype = values["sci"].dtype
    factor = interpolate_planned(vector, plan.index, plan.fraction).astype(dtype)
    planes, dq = rescale(
        values,
        variances,
        ds.variables["dq"].data,
        factor,
        plan.covered,
        do_not_use=PIXEL["DO_NOT_USE"],
        inverse=inverse,
    )
    applied = xp.where(plan.covered, factor, xp.asarray(np.nan, dtype=dtype))
    return replace_data(ds, dq=dq, **planes).assign(pathloss_ps=(("y", "x"), applied))

"""Light that leaves the subarray: it depends on the column, and on the angle of the pupil wheel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.errors import ReferenceError
from spec2fn.kernels.namespace import array_namespace
from spec2fn.plan_base import Plan, array
from spec2fn.plans.flux.factors import Factor
from spec2fn.plans.flux.pathloss import cell_on, grid_axis
from spec2fn.schema import described, meta_of
from spec2fn.typing import Array

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["WheelPathlossPlan", "plan_wheel_pathloss"]


class WheelPathlossPlan(Plan):
    """Where the wheel and the columns of an exposure stand on a reference.

    Attributes
    ----------
    position : float64 scalar array
        Of the pupil wheel [deg]; the correction can be differentiated in it.
    grid : array of float64, shape (3,)
        Reference pixel (one-based), its position, and the step of the positions of the reference.
    rows : array of int, shape (x,)
        Of the reference, for every column of the exposure.
    covered : array of bool, shape (x,)
        Columns that the reference knows; the others are left as they are.
    variable : str
        Of the reference.
    """

    position: Array = array("")
    grid: Array = array("3")
    rows: Array = array("x")
    covered: Array = array("x")
    variable: str = "ps"

    def factor(self, ds: xr.Dataset, reference: xr.Dataset) -> Factor:
        """Return the share of the light that falls on the subarray."""
        table = reference.variables[self.variable].data[0]
        sci = ds.variables["sci"].data
        xp = array_namespace(sci, table, self.position)
        cell = cell_on(xp.asarray(self.grid), xp.asarray(self.position))
        table = xp.asarray(table).astype(cell.dtype)
        # a position at the very end belongs to the last cell
        low = xp.clip(xp.floor(cell), 0, table.shape[1] - 2).astype(int)
        fraction = cell - low
        vector = (1.0 - fraction) * table[self.rows, low] + fraction * table[self.rows, low + 1]
        value = xp.where(self.covered, vector, xp.ones_like(vector)).astype(sci.dtype)
        value = xp.broadcast_to(value[None, :], sci.shape[-2:])
        return Factor(value, divides=True, variables={"pathloss_ps": (("y", "x"), value)})


def plan_wheel_pathloss(ds: xr.Dataset, reference: xr.Dataset) -> WheelPathlossPlan | str:
    """Place an exposure on a pathloss reference by column and angle of the pupil wheel.

    Parameters
    ----------
    ds : xarray.Dataset
        Its keyword TSOVISIT says whether it is of a time series, PWCPOS is the angle [deg].
    reference : xarray.Dataset
        For every subarray a table ``ps`` (1, column, angle) with the keywords of its grid.

    Returns
    -------
    WheelPathlossPlan or str
        Why there is no correction.

    Raises
    ------
    InputError
        If TSOVISIT is missing, or PWCPOS is missing or no number.
    ReferenceError
        If the reference holds no such table.
    """
    meta = meta_of(ds)
    series = ds.attrs.get("tso")
    if series is None:
        # whether there is a correction depends on it
        series = meta.require("TSOVISIT", "pathloss")
    if series:
        return "time series are not corrected for it"
    position = meta.number("PWCPOS", "pathloss")
    subarray = str(ds.attrs.get("subarray") or meta.require("SUBARRAY", "pathloss")).upper()
    headers = meta_of(reference).records.get("headers", {})
    found: dict[str, Any] = {
        str(header.get("APERTURE", "")).strip().upper(): (name, header)
        for name, header in headers.items()
        if str(name).partition("_")[0] == "ps" and name in reference
    }
    if not found:
        msg = (
            f"pathloss: {described(reference)} holds no apertures (extension PS); use the one for"
            " NIRISS SOSS"
        )
        raise ReferenceError(msg)
    if subarray not in found:
        return f"the pathloss reference has no aperture {subarray}"
    name, header = found[subarray]
    where = f"{described(reference)}, extension {name.upper()}"
    wheel, column = (np.array(grid_axis(header.get, axis, where)) for axis in (1, 2))
    rows, angles = reference[name].shape[-2:]
    cell = cell_on(wheel, position)
    if not 0 <= cell <= angles - 1:
        return f"the pupil wheel stands at {position:g} deg, beyond the pathloss reference"
    row = np.floor(cell_on(column, np.arange(1.0, ds.sizes["x"] + 1)) + 0.5).astype(int)
    covered = (row >= 0) & (row < rows)
    return WheelPathlossPlan(np.asarray(position), wheel, np.where(covered, row, 0), covered, name)

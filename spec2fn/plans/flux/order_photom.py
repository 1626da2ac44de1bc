"""Flux calibration of spectra of overlapping orders, which are extracted in count rates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.errors import InputError
from spec2fn.host.interpolation import locate
from spec2fn.kernels.namespace import array_namespace
from spec2fn.plan_base import Plan, array
from spec2fn.plans.flux.photom import find_row, response_row, throughput, time_tables
from spec2fn.plans.flux.spectra_photom import scaled, with_lost_elements
from spec2fn.schema import SPECTRUM_COLUMNS, meta_of, need, with_warnings
from spec2fn.typing import Array

if TYPE_CHECKING:
    import xarray as xr

    from spec2fn.parameters import Parameters

__all__ = ["OrderPhotomPlan", "plan_order_photom"]


class OrderPhotomPlan(Plan):
    """Where the elements of spectra stand on the response of their order.

    Attributes
    ----------
    rows : array of int, shape (spectrum,)
        Of the table ``photom``.
    low, high : array of int, shape (spectrum, wave)
        Positions in the flattened column ``relresponse`` between which an element stands.
    fraction : array, shape (spectrum, wave)
        How far from the one to the other.
    covered : array of bool, shape (spectrum, wave)
    time_tables : tuple of str
        Tables of :data:`spec2fn.plans.flux.photom.TIME_TABLES` to apply.
    time_rows : tuple of array of int, shape (spectrum,)
        Rows of each of them.
    unit : str
        Of the fluxes.
    zero_beyond : bool
        Whether elements beyond the response become 0, not NaN.
    warnings : tuple of str
    """

    rows: Array = array("spectrum")
    low: Array = array("spectrum wave")
    high: Array = array("spectrum wave")
    fraction: Array = array("spectrum wave")
    covered: Array = array("spectrum wave")
    time_tables: tuple[str, ...]
    time_rows: tuple[Array, ...] = array("spectrum")
    unit: str
    zero_beyond: bool
    warnings: tuple[str, ...] = ()

    def calibrated(
        self, ds: xr.Dataset, photom: xr.Dataset, area: xr.Dataset | None, *, inverse: bool
    ) -> xr.Dataset:
        """Return spectra as flux densities, or back in count rates."""
        del area
        columns = [photom.variables[f"photom.{n}"].data for n in ("photmj", "relresponse")]
        xp = array_namespace(ds.variables["flux"].data, *columns, self.fraction)
        dtype = xp.asarray(self.fraction).dtype
        conversion = xp.asarray(columns[0]).astype(dtype)[self.rows]
        conversion = throughput(conversion, ds, photom, self.time_tables, self.time_rows)
        response = xp.asarray(columns[1]).astype(dtype).reshape(-1)
        below = response[self.low]
        factor = conversion[:, None] * (below + self.fraction * (response[self.high] - below))
        known = xp.asarray(self.covered)
        factor = xp.where(known, factor, xp.ones_like(factor))
        beyond = 0.0 if self.zero_beyond else np.nan
        new: dict[str, Any] = {}
        for name in SPECTRUM_COLUMNS:
            if name not in ds or not name.startswith(("flux", "background", "bkgd")):
                continue
            old, squared = ds.variables[name], "_var_" in name
            scale = factor * factor if squared else factor
            values = scaled(old.data, scale, inverse=inverse)
            unit = self.unit
            if inverse:
                unit = "DN/s"
            if squared:
                unit = f"({unit})^2" if "/" in unit else f"{unit}^2"
            # a column without pixels has no value at any wavelength
            lost = xp.where(xp.isfinite(old.data), xp.asarray(beyond, values.dtype), np.nan)
            values = xp.where(known, values, lost.astype(values.dtype))
            new[name] = (old.dims, values, {**old.attrs, "units": unit})
        out = ds.assign(new)
        if "meta" in ds.attrs:  # which no trace has
            out = with_warnings(out, *self.warnings)
        return out if self.zero_beyond else with_lost_elements(out, known)


def plan_order_photom(
    ds: xr.Dataset, photom: xr.Dataset, params: Parameters
) -> OrderPhotomPlan | str:
    """Place the elements of extracted spectra on the response of their order.

    Parameters
    ----------
    ds : xarray.Dataset
        Spectra in count rates, dims ([integration,] spectrum, wave), with ``wavelength`` [um],
        ``n_wave`` and ``sporder``.
    photom : xarray.Dataset
        PHOTOM reference with the columns ``filter``, ``pupil``, ``order``, ``photmj``,
        ``wavelength`` and ``relresponse``.
    params : Parameters
        Of :func:`spec2fn.steps.photom.photom`.

    Returns
    -------
    OrderPhotomPlan or str
        Why nothing can be calibrated.

    Raises
    ------
    InputError
        If the spectra are calibrated already, or there is no mid time and the time dependence
        needs one.
    ReferenceError
        If the reference lacks a column, or has several rows for an order.
    """
    if not params.inverse and "Jy" in str(ds["flux"].attrs.get("units", "")):
        msg = (
            f"photom: the spectra of {meta_of(ds).filename or 'the exposure'} are in"
            f" {ds['flux'].attrs['units']} already; leave photom out"
        )
        raise InputError(msg)
    need(photom, [f"photom.{n}" for n in ("photmj", "wavelength", "relresponse")], "photom")
    orders = [int(o) for o in ds["sporder"].values]
    element = {n: ds.attrs.get(n) for n in ("filter", "pupil")}
    rows = [find_row(photom, **element, order=str(o)) for o in orders]
    missing = [str(o) for o, row in zip(orders, rows, strict=True) if row is None]
    what = " and ".join(f"{n} {v}" for n, v in element.items())
    no_row = f"the photom reference has no row for {what} and order {', '.join(missing)}"
    if len(missing) == len(orders):
        return no_row
    waves = np.asarray(ds["wavelength"].values, dtype=np.float64)
    low, high = (np.zeros(waves.shape, np.int32) for _ in range(2))
    fraction, covered = np.zeros(waves.shape), np.zeros(waves.shape, bool)
    width = photom["photom.relresponse"].shape[-1]
    for k, row in enumerate(rows):
        if row is not None:
            order, table = response_row(photom, row)
            index, fraction[k], covered[k] = locate(waves[k], table)
            low[k], high[k] = (row * width + order[index + i] for i in (0, 1))
    response = np.asarray(photom["photom.relresponse"].values).reshape(-1)
    covered &= np.isfinite(response[low]) & np.isfinite(response[high])
    tables, time_rows = time_tables(ds, photom, rows, params)
    return OrderPhotomPlan(
        np.array([row or 0 for row in rows]),
        low,
        high,
        fraction,
        covered,
        tables,
        time_rows,
        params.orders_unit,
        params.orders_beyond == "zero",
        (f"photom: {no_row}; it has no flux",) if missing else (),
    )

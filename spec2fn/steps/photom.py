"""Flux calibration: from count rates to surface brightness."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

from spec2fn.compose import Skip, step
from spec2fn.dq import PIXEL
from spec2fn.errors import InputError
from spec2fn.kernels.namespace import array_namespace
from spec2fn.kernels.photometry import (
    exponential_change,
    interpolate_planned,
    linear_change,
    power_law_change,
    rescale,
)
from spec2fn.plans.photom import TIME_TABLES, PhotomPlan, find_row, plan_spectral_response
from spec2fn.schema import meta_of, replace_data, set_scalars

if TYPE_CHECKING:
    from collections.abc import Callable

    import xarray as xr

__all__ = ["photom"]

_VARIANCES = ("var_poisson", "var_rnoise", "var_flat")
_SPECTRAL = ("MIR_LRS-FIXEDSLIT", "MIR_LRS-SLITLESS")

MJSR_TO_UJA2 = 1.0e12 * (math.pi / (180.0 * 3600.0)) ** 2
"""Microjansky per square arcsecond in one megajansky per steradian."""

_CHANGES: dict[str, Callable[..., Any]] = {
    "timecoeff_linear": linear_change,
    "timecoeff_exponential": exponential_change,
    "timecoeff_powerlaw": power_law_change,
}


def _plan(
    ds: xr.Dataset,
    photom: xr.Dataset | None,
    area: xr.Dataset | None = None,
    *,
    apply_time_correction: bool = True,
) -> PhotomPlan | Skip:
    exp_type = str(ds.attrs.get("exp_type", "this exposure")).upper()
    if photom is None:
        return Skip(f"no photom reference for {exp_type}")
    if exp_type not in _SPECTRAL:
        msg = f"photom: cannot calibrate {exp_type}; it knows {', '.join(_SPECTRAL)}"
        raise InputError(msg)
    keys = {"filter": ds.attrs.get("filter"), "subarray": ds.attrs.get("subarray")}
    row = find_row(photom, "photom", **keys)
    if row is None:
        row = find_row(photom, "photom", **{**keys, "subarray": "GENERIC"})
    if row is None:
        return Skip(
            f"the photom reference has no row for filter {keys['filter']}"
            f" and subarray {keys['subarray']}"
        )
    return plan_spectral_response(ds, photom, row, apply_time_correction=apply_time_correction)


@step(
    refs=("photom", "area"),
    reads=("sci", "err", "dq"),
    traceable=True,
    planner=_plan,
    needs_refs=("photom",),
)
def photom(
    ds: xr.Dataset,
    photom: xr.Dataset | None = None,
    area: xr.Dataset | None = None,
    *,
    plan: PhotomPlan,
    inverse: bool = False,
    source_type: Literal["POINT", "EXTENDED"] | None = None,
    apply_time_correction: bool = True,
) -> xr.Dataset:
    """Convert count rates into surface brightness.

    The factor of a pixel is ``photmjsr * relresponse(wavelength)``, divided by the relative
    throughput of the instrument at the time of the exposure.

    Parameters
    ----------
    ds : xarray.Dataset
        Exposure with ``wavelength`` and, for the time dependence, the scalar ``mid_time``
        [MJD]; dims ``([integration,] y, x)``.
    photom : xarray.Dataset
        PHOTOM reference: table ``photom`` (filter, subarray, photmjsr [(MJy/sr)/(DN/s)],
        wavelength [um], relresponse), tables ``timecoeff_*``, scalars ``pixar_sr``,
        ``pixar_a2``. Factors are read here, not in the plan, so that the result can be
        differentiated with respect to them.
    area : xarray.Dataset, optional
        AREA reference; its nominal pixel areas precede those of `photom`.
    plan : PhotomPlan
        From ``photom.plan(ds, photom, area, ...)``.
    inverse : bool
        Convert surface brightness back into count rates.
    source_type : {"POINT", "EXTENDED"}, optional
        Without effect where factors are per steradian, as they are for MIRI.
    apply_time_correction : bool
        Whether to correct for the change of the throughput with time.

    Returns
    -------
    xarray.Dataset
        In MJy/sr (DN/s if `inverse`), with the scalars ``photmjsr``, ``photuja2``, ``pixar_sr``,
        ``pixar_a2``. Pixels outside the wavelengths of the reference become NaN and are flagged
        DO_NOT_USE.

    Raises
    ------
    InputError
        For an exposure type without a flux calibration here, or a missing mid time.
    DatasetError
        If ``wavelength`` is missing.
    ReferenceError
        If the reference lacks a column, has several rows for the exposure, or tables that
        disagree.

    Notes
    -----
    Algorithm: JWST pipeline documentation, photom step ("Photometric conversion", "Time-dependent
    correction", "Pixel area data").
    """
    assert photom is not None
    values = {n: ds.variables[n].data for n in ("sci", "err")}
    variances = {n: ds.variables[n].data for n in _VARIANCES if n in ds}
    table = {n: photom.variables[f"photom.{n}"].data for n in ("photmjsr", "relresponse")}
    xp = array_namespace(*values.values(), *variances.values(), *table.values(), plan.fraction)
    exact = xp.asarray(plan.fraction).dtype

    conversion = xp.asarray(table["photmjsr"])[plan.row].astype(exact)
    throughput = _throughput(ds, photom, plan, xp, exact)
    if throughput is not None:
        conversion = conversion / throughput
    response = interpolate_planned(
        xp.asarray(table["relresponse"])[plan.row][plan.order], plan.index, plan.fraction
    )
    planes, dq = rescale(
        values,
        variances,
        ds.variables["dq"].data,
        (conversion * response).astype(values["sci"].dtype),
        plan.covered,
        do_not_use=PIXEL["DO_NOT_USE"],
        inverse=inverse,
    )
    out = replace_data(ds, units="DN/s" if inverse else "MJy/sr", dq=dq, **planes)
    return set_scalars(
        out,
        photmjsr=conversion,
        photuja2=conversion * MJSR_TO_UJA2,
        pixar_sr=_pixel_area("pixar_sr", area, photom),
        pixar_a2=_pixel_area("pixar_a2", area, photom),
    )


def _throughput(ds: xr.Dataset, photom: xr.Dataset, plan: PhotomPlan, xp: Any, dtype: Any) -> Any:
    """Relative throughput at the time of the exposure, or None if it is constant."""
    product = None
    for table in plan.time_tables:
        time = xp.asarray(ds.variables["mid_time"].data).astype(dtype)
        coefficients = (
            xp.asarray(photom.variables[f"{table}.{column}"].data)[plan.row].astype(dtype)
            for column in TIME_TABLES[table]
        )
        change = _CHANGES[table](time, *coefficients)
        product = change if product is None else product * change
    return product


def _pixel_area(name: str, area: xr.Dataset | None, photom: xr.Dataset) -> Any:
    for reference in (area, photom):
        if reference is None:
            continue
        if name in reference.variables:
            return reference.variables[name].data
        recorded = meta_of(reference).get(name.upper())
        if recorded is not None:
            return float(recorded)
    return None

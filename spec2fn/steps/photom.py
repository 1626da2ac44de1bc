"""Flux calibration: from count rates to surface brightness or flux density."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from spec2fn.dq import PIXEL
from spec2fn.engine.step import PLANNED, Skip, step
from spec2fn.errors import InputError
from spec2fn.kernels.bands import by_rows
from spec2fn.kernels.namespace import array_namespace
from spec2fn.kernels.photometry import (
    exponential_change,
    interpolate_planned,
    linear_change,
    power_law_change,
    rescale,
)
from spec2fn.kernels.tables import chords, follow, spread
from spec2fn.modes import mode_of
from spec2fn.plans.flux.mrs_photom import TIME_COLUMNS, MrsPhotomPlan, plan_mrs_photom
from spec2fn.plans.flux.nirspec_photom import (
    A2_TO_SR,
    IfuPhotomPlan,
    ResponsePlan,
    SlitPhotomPlan,
    plan_ifu_photom,
    plan_slit_photom,
)
from spec2fn.plans.flux.photom import TIME_TABLES, PhotomPlan, find_row, plan_spectral_response
from spec2fn.schema import SCALARS, meta_of, replace_data, set_scalars
from spec2fn.slits import with_problems

if TYPE_CHECKING:
    from collections.abc import Callable

    import xarray as xr

__all__ = ["photom"]

_VARIANCES = ("var_poisson", "var_rnoise", "var_flat")

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
    source_type: str | None = None,
    apply_time_correction: bool = True,
    extrapolate: bool | None = None,
) -> PhotomPlan | SlitPhotomPlan | IfuPhotomPlan | MrsPhotomPlan | Skip:
    mode = mode_of(ds)
    if photom is None:
        return Skip(f"no photom reference for {mode.exp_type or 'this exposure'}")
    if mode.layout == "slits":
        plan = plan_slit_photom(
            ds,
            photom,
            area,
            source_type=source_type,
            apply_time_correction=apply_time_correction,
            extrapolate=extrapolate,
        )
        if plan is not None:
            return plan
        found = f"filter {ds.attrs.get('filter')} and grating {ds.attrs.get('grating')}"
        return Skip(f"the photom reference has no row for {found}")
    if mode.etalon:
        return plan_mrs_photom(ds, photom, apply_time_correction=apply_time_correction)
    if mode.sliced:
        keys = {"filter": ds.attrs.get("filter"), "grating": ds.attrs.get("grating")}
        row = find_row(photom, "photom", **keys)
        if row is None:
            return Skip(
                f"the photom reference has no row for filter {keys['filter']}"
                f" and grating {keys['grating']}"
            )
        return plan_ifu_photom(ds, photom, area, row, extrapolate)
    if mode.layout != "image" or not mode.instrument:
        msg = f"photom: cannot calibrate {mode.exp_type or 'exposures of no type'}"
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


def _without(ds: Any, _: Mapping[str, Any]) -> Mapping[str, str]:
    if mode_of(ds).layout != "slits":
        return {}
    return {"area": "pixels have the nominal area that the photom reference states"}


@step(
    refs=("photom", "area"),
    without=_without,
    reads=("sci", "err", "dq"),
    provides=("photom_point", "photom_uniform"),
    traceable=True,
    planner=_plan,
    needs_refs=("photom",),
)
def photom(
    ds: xr.Dataset,
    photom: xr.Dataset | None = None,
    area: xr.Dataset | None = None,
    *,
    plan: PhotomPlan | SlitPhotomPlan | IfuPhotomPlan | MrsPhotomPlan = PLANNED,
    inverse: bool = False,
    source_type: Literal["POINT", "EXTENDED"] | None = None,
    apply_time_correction: bool = True,
    extrapolate: bool | None = None,
) -> xr.Dataset:
    """Convert count rates into surface brightness, or flux density.

    The factor of a pixel is ``photmjsr * relresponse(wavelength)``, divided by the relative
    throughput of the instrument at the time of the exposure. For NIRSpec slits it is ``photmj``
    [MJy/(DN/s)] instead of ``photmjsr`` for a point source, and ``photmj`` per area of a pixel
    for any other; for the NIRSpec IFU it is always ``photmj`` per area of a pixel of the slice,
    beyond the wavelengths of the response that at its ends, and does not depend on time. For the
    MIRI MRS the factors are an image, and the throughput is tabulated by wavelength for every
    channel.

    Parameters
    ----------
    ds : xarray.Dataset
        Exposure with ``wavelength`` and, for the time dependence, the scalar ``mid_time``
        [MJD]; dims ``([integration,] y, x)``. NIRSpec: a bucket of slits, dims
        ``(slit, [integration,] y, x)``.
    photom : xarray.Dataset
        PHOTOM reference: table ``photom`` (filter, subarray, photmjsr [(MJy/sr)/(DN/s)],
        wavelength [um], relresponse), tables ``timecoeff_*``, scalars ``pixar_sr``,
        ``pixar_a2``. Factors are read here, not in the plan, so that the result can be
        differentiated with respect to them.
    area : xarray.Dataset, optional
        AREA reference; its nominal pixel areas precede those of `photom`. NIRSpec: areas by
        slit (``area.slit_id``), shutter (``area.quadrant``, ``shutter_x``, ``shutter_y``) or slice
        (``area.slice_id``, from 0).
    plan : PhotomPlan, SlitPhotomPlan, IfuPhotomPlan or MrsPhotomPlan
        From ``photom.plan(ds, photom, area, ...)``.
    inverse : bool
        Convert surface brightness back into count rates.
    source_type : {"POINT", "EXTENDED"}, optional
        Overrules the type of the source. Without effect where factors are per steradian, as
        they are for MIRI.
    apply_time_correction : bool
        Whether to correct for the change of the throughput with time.
    extrapolate : bool, optional
        NIRSpec slits: beyond the wavelengths of the reference, take the value at its end and
        flag FLUX_ESTIMATED instead of NaN. By default this is done if
        ``assign_wcs.wavelength_range`` goes beyond the nominal range.

    Returns
    -------
    xarray.Dataset
        In MJy/sr (DN/s if `inverse`), with the scalars ``photmjsr``, ``photuja2``, ``pixar_sr``,
        ``pixar_a2``. Pixels outside the wavelengths of the reference become NaN and are flagged
        DO_NOT_USE. Of slits, these are variables on ``slit``, as is ``bunit``: ``"MJy"`` for
        point sources, ``"MJy/sr"`` for others. Fixed slits also have ``photom_point`` and
        ``photom_uniform``: the factors of a slit that holds a point source, and those that would
        apply to a uniform one (as in the JWST pipeline, without the time dependence); NaN for
        other slits. A slit without a row in the reference is NaN, and the variable
        ``slit_problem`` says why.

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
    if isinstance(plan, SlitPhotomPlan):
        return _calibrate_slits(ds, photom, plan, inverse=inverse)
    if isinstance(plan, MrsPhotomPlan):
        return _calibrate_mrs(ds, photom, area, plan, inverse=inverse)
    if isinstance(plan, IfuPhotomPlan):
        return _calibrate_ifu(ds, photom, area, plan, inverse=inverse)
    values = {n: ds.variables[n].data for n in ("sci", "err")}
    variances = {n: ds.variables[n].data for n in _VARIANCES if n in ds}
    table = {n: photom.variables[f"photom.{n}"].data for n in ("photmjsr", "relresponse")}
    xp = array_namespace(*values.values(), *variances.values(), *table.values(), plan.fraction)
    exact = xp.asarray(plan.fraction).dtype

    conversion = xp.asarray(table["photmjsr"])[plan.row].astype(exact)
    throughput = _throughput(ds, photom, plan, conversion)
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
    sizes = tuple(_pixel_area(n, area, photom) for n in ("pixar_sr", "pixar_a2"))
    return _converted(ds, planes, dq, conversion, sizes, inverse=inverse)


def _calibrate_mrs(
    ds: xr.Dataset,
    photom: xr.Dataset,
    area: xr.Dataset | None,
    plan: MrsPhotomPlan,
    *,
    inverse: bool,
) -> xr.Dataset:
    """Convert an exposure whose factors are an image."""
    values = {n: ds.variables[n].data for n in ("sci", "err")}
    variances = {n: ds.variables[n].data for n in _VARIANCES if n in ds}
    image = photom.variables["sci"].data
    columns = {
        c: [photom.variables[f"{table}.{c}"].data for table in plan.tables] for c in TIME_COLUMNS
    }
    used = (image, *(column for found in columns.values() for column in found))
    xp = array_namespace(*values.values(), *variances.values(), *used)
    exact = xp.asarray(0.0).dtype
    factor = xp.asarray(image).astype(exact)
    usable = xp.isfinite(factor)
    factor = xp.where(usable, factor, xp.ones_like(factor))
    if inverse:
        usable = usable & (factor != 0)
    if plan.tables:
        time = xp.asarray(ds.variables["mid_time"].data).astype(exact)
        joined = (
            xp.concatenate([xp.asarray(c).astype(exact) for c in columns[name]])
            for name in TIME_COLUMNS
        )
        # the throughput does not grow beyond that of the beginning
        change = xp.minimum(power_law_change(time, *joined), xp.ones((), dtype=exact))
        throughput = interpolate_planned(change, plan.index, xp.asarray(plan.fraction))
        factor = factor / xp.where(plan.timed, throughput, xp.ones_like(throughput))
    dq = ds.variables["dq"].data
    if "dq" in photom:
        dq = dq | xp.asarray(photom.variables["dq"].data).astype(dq.dtype)
    planes, dq = rescale(
        values,
        variances,
        dq,
        factor.astype(values["sci"].dtype),
        usable,
        do_not_use=PIXEL["DO_NOT_USE"],
        inverse=inverse,
    )
    sizes = tuple(_pixel_area(n, area, photom) for n in ("pixar_sr", "pixar_a2"))
    return _converted(ds, planes, dq, plan.nominal, sizes, inverse=inverse)


def _calibrate_ifu(
    ds: xr.Dataset,
    photom: xr.Dataset,
    area: xr.Dataset | None,
    plan: IfuPhotomPlan,
    *,
    inverse: bool,
) -> xr.Dataset:
    """Convert the slices of the NIRSpec IFU, each with its own area of a pixel."""
    assert area is not None
    values = {n: ds.variables[n].data for n in ("sci", "err")}
    variances = {n: ds.variables[n].data for n in _VARIANCES if n in ds}
    table = {n: photom.variables[f"photom.{n}"].data for n in ("photmj", "relresponse")}
    sizes = area.variables["area.pixarea"].data
    xp = array_namespace(*values.values(), *variances.values(), *table.values(), sizes)
    exact = xp.asarray(plan.fraction).dtype

    flux = xp.asarray(table["photmj"])[plan.row].astype(exact)
    response = xp.asarray(table["relresponse"])[plan.row][plan.order]
    sizes = xp.asarray(sizes).astype(exact)
    size = sizes[plan.slices]

    def conversion_of(index: Any, fraction: Any, slice_index: Any) -> Any:
        relative = interpolate_planned(response, index, fraction)
        return (flux * relative / (size[slice_index] * A2_TO_SR)).astype(values["sci"].dtype)

    planes, dq = rescale(
        values,
        variances,
        ds.variables["dq"].data,
        by_rows(conversion_of, flux, response, size)(plan.index, plan.fraction, plan.slice_index),
        plan.covered,
        do_not_use=PIXEL["DO_NOT_USE"],
        inverse=inverse,
    )
    dq = xp.where(xp.asarray(plan.covered), dq, dq | np.uint32(PIXEL["NON_SCIENCE"]))
    if plan.held is not None:
        dq = xp.where(xp.asarray(plan.held), dq | np.uint32(PIXEL["FLUX_ESTIMATED"]), dq)
    mean = xp.nanmean(sizes)
    conversion = flux / (mean * A2_TO_SR)
    return _converted(ds, planes, dq, conversion, (mean * A2_TO_SR, mean), inverse=inverse)


def _calibrate_slits(
    ds: xr.Dataset, photom: xr.Dataset, plan: SlitPhotomPlan, *, inverse: bool
) -> xr.Dataset:
    """Convert the slits of a bucket, each into its own units."""
    values = {n: ds.variables[n].data for n in ("sci", "err")}
    variances = {n: ds.variables[n].data for n in _VARIANCES if n in ds}
    photmj = photom.variables["photom.photmj"].data
    xp = array_namespace(*values.values(), *variances.values(), photmj, plan.pixar_sr)
    area = xp.asarray(plan.pixar_sr)
    one = xp.ones((), dtype=area.dtype)

    flux = xp.asarray(photmj)[plan.rows].astype(area.dtype)
    throughput = _throughput(ds, photom, plan, flux)
    conversion = flux / xp.where(plan.point, one, area)
    if throughput is not None:
        conversion = conversion / throughput
    response, covered = _responses(ds, photom, plan.response, "wavelength")
    dtype = values["sci"].dtype
    factor = (conversion[:, None, None] * response).astype(dtype)
    insert = (slice(None), None) if "integration" in ds["sci"].dims else slice(None)
    planes, dq = rescale(
        values,
        variances,
        ds.variables["dq"].data,
        factor[insert],
        covered[insert],
        do_not_use=PIXEL["DO_NOT_USE"],
        inverse=inverse,
    )
    if plan.response.held is not None:
        held = spread(xp.asarray(plan.response.held), plan.response.pixels.back, False, False)
        estimated = np.uint32(PIXEL["FLUX_ESTIMATED"])
        dq = xp.where(held[insert], dq | estimated, dq)
    units = ["DN/s"] * len(plan.units) if inverse else list(plan.units)
    # one attribute cannot say it where units differ from slit to slit
    common = units[0] if len(set(units)) == 1 else "see bunit"
    out = replace_data(ds, units=common, dq=dq, **planes)
    scalars = {
        "photmjsr": conversion,
        "photuja2": conversion * MJSR_TO_UJA2,
        "pixar_sr": area,
        "pixar_a2": xp.asarray(plan.pixar_a2),
    }
    out = out.assign({n: ("slit", v, {"units": SCALARS[n].unit}) for n, v in scalars.items()})
    out = out.assign(bunit=("slit", np.array(units, dtype=str)))
    if mode_of(ds).several_slits:
        kept = list(plan.kept)
        uniform = response[np.array(kept, dtype=int)]
        if plan.uniform is not None:
            some = ds.isel(slit=kept)
            uniform, _ = _responses(some, photom, plan.uniform, "wavelength_uncorrected")
        uniform = ((flux / area)[np.array(kept, dtype=int), None, None] * uniform).astype(dtype)
        kinds = _both_kinds(plan.kept, factor, uniform)
        out = out.assign({n: (("slit", "y", "x"), p) for n, p in kinds.items()})
    return with_problems(with_problems(out, plan.problems), plan.warnings, lost=False)


def _responses(
    ds: xr.Dataset, photom: xr.Dataset, plan: ResponsePlan, name: str
) -> tuple[Any, Any]:
    """Relative response of every pixel of a bucket (0 where unknown), and where it is known."""
    bank, back = plan.bank, plan.pixels.back
    column = photom.variables["photom.relresponse"].data
    wave = ds.variables[name].data
    xp = array_namespace(column, wave, bank.knots)
    x = xp.asarray(wave).reshape(-1)[plan.pixels.where]
    response = x
    if bank.names:
        lines = chords(bank.knots, xp.asarray(column).reshape(-1)[bank.elements[0]])
        response = follow(lines, bank.cells[0], x)
    return spread(response, back, 0.0, 0.0), back < response.shape[0]


def _both_kinds(kept: tuple[int, ...], factor: Any, uniform: Any) -> dict[str, Any]:
    """Factors of point and uniform sources, NaN in slits that hold no point source."""
    xp = array_namespace(factor, uniform)
    nothing = xp.full((1, *factor.shape[1:]), np.nan, dtype=factor.dtype)
    back = np.full(factor.shape[0], len(kept))
    back[list(kept)] = np.arange(len(kept))
    return {
        "photom_point": xp.where((back < len(kept))[:, None, None], factor, nothing),
        "photom_uniform": xp.concatenate([uniform, nothing])[back],
    }


def _throughput(
    ds: xr.Dataset, photom: xr.Dataset, plan: PhotomPlan | SlitPhotomPlan, like: Any
) -> Any:
    """Relative throughput at the time of the exposure, or None if it is constant."""
    xp, dtype = array_namespace(like), like.dtype
    product = None
    for table, rows in zip(plan.time_tables, plan.time_rows, strict=True):
        time = xp.asarray(ds.variables["mid_time"].data).astype(dtype)
        coefficients = (
            xp.asarray(photom.variables[f"{table}.{column}"].data)[rows].astype(dtype)
            for column in TIME_TABLES[table]
        )
        change = _CHANGES[table](time, *coefficients)
        product = change if product is None else product * change
    return product


def _converted(
    ds: xr.Dataset,
    planes: Mapping[str, Any],
    dq: Any,
    conversion: Any,
    sizes: tuple[Any, Any],
    *,
    inverse: bool,
) -> xr.Dataset:
    """The exposure with its new planes, the factor [MJy/sr per DN/s] and the size of a pixel.

    `sizes` are in sr and in arcsec²; like `conversion` they may be None, if unknown.
    """
    out = replace_data(ds, units="DN/s" if inverse else "MJy/sr", dq=dq, **planes)
    return set_scalars(
        out,
        photmjsr=conversion,
        photuja2=None if conversion is None else conversion * MJSR_TO_UJA2,
        pixar_sr=sizes[0],
        pixar_a2=sizes[1],
    )


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

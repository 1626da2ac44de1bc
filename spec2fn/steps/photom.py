"""Flux calibration: from count rates to surface brightness or flux density."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from spec2fn.engine.step import PLANNED, Skip, step
from spec2fn.errors import InputError
from spec2fn.modes import mode_of
from spec2fn.plans.flux.factors import apply_factor
from spec2fn.plans.flux.grism_photom import GrismPhotomPlan, plan_grism_photom
from spec2fn.plans.flux.mrs_photom import MrsPhotomPlan, plan_mrs_photom
from spec2fn.plans.flux.nirspec_photom import (
    IfuPhotomPlan,
    SlitPhotomPlan,
    plan_ifu_photom,
    plan_slit_photom,
)
from spec2fn.plans.flux.order_photom import OrderPhotomPlan, plan_order_photom
from spec2fn.plans.flux.photom import PhotomPlan, find_row, plan_spectral_response
from spec2fn.plans.flux.spectra_photom import SpectraPhotomPlan, plan_spectra_photom
from spec2fn.schema import need, require

if TYPE_CHECKING:
    import xarray as xr

    from spec2fn.parameters import Parameters

__all__ = ["photom"]

AnyPhotomPlan = (
    PhotomPlan
    | SlitPhotomPlan
    | IfuPhotomPlan
    | MrsPhotomPlan
    | GrismPhotomPlan
    | SpectraPhotomPlan
    | OrderPhotomPlan
)


def _plan(
    ds: xr.Dataset, photom: xr.Dataset | None, area: xr.Dataset | None, *, params: Parameters
) -> AnyPhotomPlan | Skip:
    mode = mode_of(ds)
    extracted = "flux" in ds
    require(ds, ("flux",) if extracted else ("sci", "err"), "photom")
    if photom is None:
        return Skip(f"no photom reference for {mode.exp_type or 'this exposure'}")
    if mode.layout == "orders":
        if not extracted:
            return Skip("there are no spectra, and light of overlapping orders has no flux")
        orders = plan_order_photom(ds, photom, params)
        return Skip(orders) if isinstance(orders, str) else orders
    if mode.etalon:
        return plan_mrs_photom(ds, photom, params)
    second = "grating" if mode.layout == "slits" or mode.sliced else "subarray"
    keys = {name: ds.attrs.get(name) for name in ("filter", second)}
    no_row = " and ".join(f"{name} {value}" for name, value in keys.items())
    no_row = f"the photom reference has no row for {no_row}"
    if mode.layout == "slits":
        return plan_slit_photom(ds, photom, area, params) or Skip(no_row)
    if mode.sliced:
        row = find_row(photom, **keys)
        return Skip(no_row) if row is None else plan_ifu_photom(ds, photom, area, row, params)
    if mode.layout == "traces":
        plan_traces = plan_spectra_photom if extracted else plan_grism_photom
        traces: GrismPhotomPlan | SpectraPhotomPlan | str = plan_traces(ds, photom, params)
        return Skip(traces) if isinstance(traces, str) else traces
    if mode.layout != "image" or not mode.instrument:
        msg = f"photom: cannot calibrate {mode.exp_type or 'exposures of no type'}"
        raise InputError(msg)
    row = find_row(photom, **keys)
    if row is None:
        row = find_row(photom, **{**keys, "subarray": "GENERIC"})
    return Skip(no_row) if row is None else plan_spectral_response(ds, photom, row, params)


def _without(ds: xr.Dataset, _: Parameters) -> Mapping[str, str]:
    if mode_of(ds).layout != "slits":
        return {}
    return {"area": "pixels have the nominal area that the photom reference states"}


@step(
    refs=("photom", "area"),
    without=_without,
    reads=("dq",),
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
    plan: AnyPhotomPlan = PLANNED,
    inverse: bool = False,
    source_type: Literal["POINT", "EXTENDED"] | None = None,
    apply_time_correction: bool = True,
    extrapolate: bool | None = None,
    round_wavelengths: bool = False,
    uncalibrated: Literal["lost", "kept"] = "lost",
    orders_unit: Literal["Jy", "MJy"] = "Jy",
    orders_beyond: Literal["lost", "zero"] = "lost",
) -> xr.Dataset:
    """Convert count rates into surface brightness, or flux density.

    The factor of a pixel is ``photmjsr * relresponse(wavelength)``, divided by the relative
    throughput of the instrument at the time of the exposure. For NIRSpec slits it is ``photmj``
    [MJy/(DN/s)] instead of ``photmjsr`` for a point source, and ``photmj`` per area of a pixel
    for any other; for the NIRSpec IFU it is always ``photmj`` per area of a pixel of the slice,
    beyond the wavelengths of the response that at its ends, and does not depend on time. For the
    MIRI MRS the factors are an image, and the throughput is tabulated by wavelength for every
    channel. Slitless spectra are divided by the wavelength that a pixel spans, besides.

    Parameters
    ----------
    ds : xarray.Dataset
        Exposure with ``wavelength`` and, for the time dependence, the scalar ``mid_time``
        [MJD]; dims ``([integration,] y, x)``. NIRSpec: a bucket of slits, dims
        ``(slit, [integration,] y, x)``. Slitless: also spectra that were extracted in count rates.
    photom : xarray.Dataset
        PHOTOM reference: table ``photom`` (filter, subarray, photmjsr [(MJy/sr)/(DN/s)],
        wavelength [um], relresponse; for slitless spectra filter, pupil, order, and photmjsr
        [MJy um s/(DN sr)]), tables ``timecoeff_*``, scalars ``pixar_sr``, ``pixar_a2``. Factors
        are read here, not in the plan, so that the result can be differentiated with respect to
        them.
    area : xarray.Dataset, optional
        AREA reference; its nominal pixel areas precede those of `photom`. NIRSpec: areas by
        slit (``area.slit_id``), shutter (``area.quadrant``, ``shutter_x``, ``shutter_y``) or slice
        (``area.slice_id``, from 0).
    plan : PhotomPlan, SlitPhotomPlan, IfuPhotomPlan, MrsPhotomPlan or GrismPhotomPlan
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
    round_wavelengths : bool
        Slitless spectra: take the wavelength that a pixel spans from wavelengths rounded to
        float32, as the JWST pipeline does, which adds noise of 1e-4.
    uncalibrated : {"lost", "kept"}
        Slitless spectra: what becomes of those of an order that the reference does not have.
        "lost" makes them NaN, and says why; "kept" leaves them in DN/s, as the JWST pipeline does.
    orders_unit : {"Jy", "MJy"}
        SOSS: what fluxes are said to be in. The column ``photmj`` of the reference is in Jy/(DN/s);
        the JWST pipeline gives the same numbers and calls them MJy.
    orders_beyond : {"lost", "zero"}
        SOSS: elements beyond the wavelengths of the response become NaN and are flagged
        DO_NOT_USE, or zero without a flag, as the JWST pipeline has them.

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
        ``slit_problem`` says why. Cut-outs of sources without slits have, with `area`, also
        ``area`` (area_y, area_x), that of the whole detector.

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
    reference = need(photom, (), "photom")
    chosen: Any = plan  # of spectra or of images, as the Dataset is
    if "flux" in ds:
        out: xr.Dataset = chosen.calibrated(ds, reference, area, inverse=inverse)
        return out
    return apply_factor(ds, chosen.factor(ds, reference, area, inverse=inverse), inverse=inverse)

"""Correction of the response of single pixels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from os import PathLike
from typing import TYPE_CHECKING, Any

from spec2fn.engine.step import PLANNED, Skip, as_reference, step
from spec2fn.kernels.namespace import is_traced
from spec2fn.modes import mode_of
from spec2fn.plans.flux.factors import Factor, apply_factor
from spec2fn.plans.flux.flat_field import FlatFieldPlan, plan_image_flat
from spec2fn.plans.flux.nirspec_flat import plan_ifu_flat, plan_spectral_flat
from spec2fn.plans.flux.spectral_flat import SpectralFlatPlan
from spec2fn.plans.flux.supplied_flat import SuppliedFlatPlan, plan_supplied_flat
from spec2fn.schema import with_meta

if TYPE_CHECKING:
    import xarray as xr

    from spec2fn.parameters import Parameters

__all__ = ["flat_field"]

FlatPlan = FlatFieldPlan | SpectralFlatPlan | SuppliedFlatPlan


def _plan(
    ds: xr.Dataset,
    flat: xr.Dataset | None,
    fflat: xr.Dataset | None,
    sflat: xr.Dataset | None,
    dflat: xr.Dataset | None,
    *,
    params: Parameters,
) -> FlatPlan | Skip:
    mode = mode_of(ds)
    exp_type = mode.exp_type or "this exposure"
    given = params.user_supplied_flat
    slits, slices = mode.layout == "slits", mode.sliced and not mode.etalon
    if given is None and (slits or slices):
        parts = {"fflat": fflat, "sflat": sflat, "dflat": dflat}
        if all(part is None for part in parts.values()):
            return Skip(f"no fflat, sflat or dflat reference for {exp_type}")
        return (plan_spectral_flat if slits else plan_ifu_flat)(ds, parts, params)
    if given is None:
        if flat is None:
            return Skip(f"no flat reference for {exp_type}")
        return plan_image_flat(flat, ds)
    if slits:
        return plan_supplied_flat(ds, as_reference(given, "flat", ds.attrs))
    if not isinstance(given, (str, PathLike)):
        return plan_image_flat(given, ds, "user_supplied_flat")
    opened = as_reference(given, "flat", ds.attrs)
    plan = plan_image_flat(opened, ds, "user_supplied_flat")
    return replace(plan, opened=plan.planes(opened))


def _without(ds: xr.Dataset, params: Parameters) -> Mapping[str, str]:
    mode = mode_of(ds)
    if mode.instrument != "NIRSPEC" or params.user_supplied_flat is not None:
        return {}
    # light of lamps does not pass the fore optics, and of flat lamps the flats are made
    parts = ("dflat",) if mode.light == "FLAT" else ("sflat", "dflat")
    parts = parts if mode.lamp else ("fflat", *parts)
    return dict.fromkeys(parts, "this part of the flat is taken as 1")


@step(
    refs=("flat", "fflat", "sflat", "dflat"),
    without=_without,
    reads=("sci", "err", "dq", "var_poisson", "var_rnoise"),
    provides=("var_flat", "flatfield_point", "flatfield_uniform"),
    traceable=True,
    planner=_plan,
    needs_refs=("flat", "fflat", "sflat", "dflat"),
)
def flat_field(
    ds: xr.Dataset,
    flat: xr.Dataset | None = None,
    fflat: xr.Dataset | None = None,
    sflat: xr.Dataset | None = None,
    dflat: xr.Dataset | None = None,
    *,
    plan: FlatPlan = PLANNED,
    save_interpolated_flat: bool = False,
    user_supplied_flat: object = None,
    inverse: bool = False,
    extrapolate: bool | None = None,
) -> xr.Dataset:
    """Divide an exposure by its flat field.

    Most exposures have a two-dimensional flat, of which the part that belongs to the subarray is
    used. The flat of a NIRSpec spectrum is composed, pixel by pixel at its wavelength, of parts
    for fore optics, spectrograph and detector: images interpolated in wavelength times tables
    averaged over the pixel (for the IFU, the first row of the tables). Pixels whose flat is NaN,
    zero, or flagged NO_FLAT_FIELD or DO_NOT_USE, or (NIRSpec) outside the wavelengths of a part,
    become NaN and are flagged DO_NOT_USE; every flag of the flat is added to the exposure's.

    Parameters
    ----------
    ds : xarray.Dataset
        Exposure with ``sci``, ``dq`` and variances, dims ``([integration,] y, x)``; of the
        NIRSpec IFU also ``wavelength`` [um] and ``slice_id``, dims ``(y, x)``. NIRSpec slits: a
        bucket with ``wavelength`` [um], dims ``(slit, [integration,] y, x)``.
    flat : xarray.Dataset, optional
        Flat with ``sci`` and, if known, ``err`` and ``dq``, dims ``(y, x)``. As the others it is
        read here, not in the plan: the result can be differentiated with respect to it.
    fflat, sflat, dflat : xarray.Dataset, optional
        Parts of the flats of NIRSpec spectra: images ``sci``, ``err``, ``dq`` (for MOS fore
        optics by quadrant: ``sci``, ``sci_2``, …), tables ``wavelength`` and ``fast_variation``.
    plan : FlatFieldPlan, SpectralFlatPlan or SuppliedFlatPlan
        From ``flat_field.plan(ds, flat, ...)``.
    save_interpolated_flat : bool
        Keep the flat that was applied, cut to the exposure, as the record ``interpolatedflat``
        (a Dataset) of the result's :class:`~spec2fn.schema.Meta`. Ignored inside a JAX
        transformation.
    user_supplied_flat : str, xarray.Dataset or array, optional
        Used instead of the references: a file, or its content; for slits, see
        :func:`spec2fn.plans.flux.supplied_flat.plan_supplied_flat`.
    inverse : bool
        Multiply by the flat instead.
    extrapolate : bool, optional
        NIRSpec spectra: beyond the wavelengths of a part, take the value at its end and flag
        UNRELIABLE_FLAT instead of NaN; where the image of the spectrograph is undefined outside
        the nominal range, it counts as one. By default this is done if
        ``assign_wcs.wavelength_range`` goes beyond the nominal range.

    Returns
    -------
    xarray.Dataset
        With ``var_flat`` (zero if `inverse`) and ``err`` the root of the sum of the variances.
        Fixed slits also have ``flatfield_point`` and ``flatfield_uniform``: the flats of a slit
        that holds a point source, with wavelengths corrected for its place (these are applied)
        and without; NaN for other slits. A slit without flat is NaN, and the variable
        ``slit_problem`` says why.

    Raises
    ------
    ReferenceError
        If the flat does not cover the exposure, or lacks an image, a table or a column.
    DatasetError
        If the exposure does not say where its subarray stands, or has not been cut into slits.

    Notes
    -----
    Algorithm: JWST pipeline documentation, flat_field step ("Imaging and non-NIRSpec
    spectroscopic data", "NIRSpec spectroscopic data").
    """
    given: Any = flat if user_supplied_flat is None else user_supplied_flat
    factor = plan.factor(ds, given, fflat, sflat, dflat)
    out = apply_factor(ds, factor, inverse=inverse)
    if save_interpolated_flat and not is_traced(ds.variables["sci"].data):
        out = with_meta(out, records={"interpolatedflat": _record(ds, factor)})
    return out


def _record(ds: xr.Dataset, factor: Factor) -> xr.Dataset:
    import xarray as xr

    dims = ("slit", "y", "x") if "slit" in ds.dims else ("y", "x")
    planes = {"sci": factor.value, "err": factor.error, "dq": factor.flags}
    flat = xr.Dataset({n: (dims, p) for n, p in planes.items()}, attrs={"reftype": "flat"})
    if "slit" not in ds.dims:
        return flat
    kept = ("wavelength", "slit_name", "xstart", "ystart", "xsize", "ysize")
    return flat.assign({n: ds[n].variable for n in kept if n in ds}).assign_coords(slit=ds["slit"])

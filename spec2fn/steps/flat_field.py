"""Correction of the response of single pixels."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.compose import Skip, as_reference, step
from spec2fn.dq import PIXEL
from spec2fn.errors import DatasetError
from spec2fn.kernels.namespace import array_namespace, is_traced
from spec2fn.kernels.photometry import flat_field as divide_by_flat
from spec2fn.plans.flat_field import FlatFieldPlan, is_path, plan_image_flat
from spec2fn.schema import replace_data, with_meta

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["flat_field"]

# their flats are composed of three references, wavelength by wavelength
_COMPOSED = frozenset(
    {
        "NRS_AUTOWAVE",
        "NRS_BRIGHTOBJ",
        "NRS_FIXEDSLIT",
        "NRS_IFU",
        "NRS_LAMP",
        "NRS_MSASPEC",
    }
)


def _plan(
    ds: xr.Dataset,
    flat: Any,
    fflat: Any = None,
    sflat: Any = None,
    dflat: Any = None,
    *,
    user_supplied_flat: Any = None,
) -> FlatFieldPlan | Skip:
    exp_type = str(ds.attrs.get("exp_type", "this exposure")).upper()
    if exp_type in _COMPOSED and ds.attrs.get("lamp_mode") != "IMAGE":
        return Skip(f"no two-dimensional flat applies to {exp_type}")
    if user_supplied_flat is None:
        if flat is None:
            return Skip(f"no flat reference for {exp_type}")
        return plan_image_flat(flat, ds)
    if not is_path(user_supplied_flat):
        return plan_image_flat(user_supplied_flat, ds, "user_supplied_flat")
    opened = as_reference(user_supplied_flat, "flat")
    plan = plan_image_flat(opened, ds, "user_supplied_flat")
    return replace(plan, opened=_planes(opened, plan))


@step(
    refs=("flat", "fflat", "sflat", "dflat"),
    reads=("sci", "err", "dq", "var_poisson", "var_rnoise"),
    provides=("var_flat",),
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
    plan: FlatFieldPlan,
    save_interpolated_flat: bool = False,
    user_supplied_flat: Any = None,
    inverse: bool = False,
) -> xr.Dataset:
    """Divide an exposure by a two-dimensional flat field.

    A reference of a larger frame is cut to the subarray of the exposure. Pixels whose flat is
    NaN, zero, or flagged NO_FLAT_FIELD or DO_NOT_USE become NaN and are flagged DO_NOT_USE;
    every flag of the flat is added to the exposure's.

    Parameters
    ----------
    ds : xarray.Dataset
        Exposure with ``sci``, ``dq`` and variances, dims ``([integration,] y, x)``.
    flat : xarray.Dataset, optional
        Flat with ``sci`` and, if known, ``err`` and ``dq``, dims ``(y, x)``. It is read here, not
        in the plan, so that the result can be differentiated with respect to it.
    fflat, sflat, dflat : xarray.Dataset, optional
        Parts of the flats of NIRSpec spectra; not used with a two-dimensional flat.
    plan : FlatFieldPlan
        From ``flat_field.plan(ds, flat, ...)``.
    save_interpolated_flat : bool
        Keep the flat that was applied, cut to the exposure, as the record ``interpolatedflat``
        (a Dataset) of the result's :class:`~spec2fn.schema.Meta`. Ignored inside a JAX
        transformation.
    user_supplied_flat : str, xarray.Dataset or array, optional
        Used instead of the reference: a file, or its content.
    inverse : bool
        Multiply by the flat instead.

    Returns
    -------
    xarray.Dataset
        With ``var_flat`` (zero if `inverse`) and ``err`` the root of the sum of the variances.

    Raises
    ------
    ReferenceError
        If the flat does not cover the exposure.
    DatasetError
        If the exposure does not say where its subarray stands.

    Notes
    -----
    Algorithm: JWST pipeline documentation, flat_field step ("Imaging and non-NIRSpec
    spectroscopic data").
    """
    if plan.opened is not None:
        image, error, flags = plan.opened
    else:
        given = flat if user_supplied_flat is None else user_supplied_flat
        image, error, flags = _planes(given, plan)
    names = ("sci", "var_poisson", "var_rnoise", "dq")
    sci, var_poisson, var_rnoise, dq = (ds.variables[n].data for n in names)
    if image.shape != sci.shape[-2:]:
        msg = (
            f"flat_field: the plan is for planes of {image.shape} but 'sci' is {sci.shape[-2:]};"
            " make it with flat_field.plan(ds, flat) for this exposure"
        )
        raise DatasetError(msg)
    flags = _complete(image, flags)
    planes, dq = divide_by_flat(
        sci,
        var_poisson,
        var_rnoise,
        dq,
        flat=image,
        flat_err=error,
        flat_dq=flags,
        do_not_use=PIXEL["DO_NOT_USE"],
        inverse=inverse,
    )
    var_flat = planes.pop("var_flat")
    out = replace_data(ds, dq=dq, **planes)
    out = out.assign(var_flat=(ds["sci"].dims, var_flat))
    if save_interpolated_flat and not is_traced(planes["sci"]):
        out = with_meta(out, records={"interpolatedflat": _as_dataset(image, error, flags)})
    return out


def _planes(flat: Any, plan: FlatFieldPlan) -> tuple[Any, Any, Any]:
    part = (slice(*plan.rows), slice(*plan.columns))
    if not hasattr(flat, "data_vars"):
        flat = {"sci": flat}
        get = flat.get
    else:

        def get(name: str) -> Any:
            return flat.variables[name].data if name in flat.variables else None

    image = get("sci")[part]
    xp = array_namespace(image)
    error, flags = get("err"), get("dq")
    error = xp.zeros_like(image) if error is None else error[part]
    flags = xp.zeros(image.shape, dtype=np.uint32) if flags is None else flags[part]
    return image, error, flags.astype(np.uint32)


def _complete(image: Any, flags: Any) -> Any:
    """Flag DO_NOT_USE every pixel whose flat cannot be used."""
    xp = array_namespace(image, flags)
    no_flat = np.uint32(PIXEL["NO_FLAT_FIELD"])
    bad = np.uint32(PIXEL["DO_NOT_USE"])
    flags = xp.where(xp.isnan(image) | (image == 0), flags | (no_flat | bad), flags)
    return xp.where((flags & no_flat) != 0, flags | bad, flags)


def _as_dataset(image: Any, error: Any, flags: Any) -> xr.Dataset:
    import xarray as xr

    return xr.Dataset(
        {"sci": (("y", "x"), image), "err": (("y", "x"), error), "dq": (("y", "x"), flags)},
        attrs={"reftype": "flat"},
    )

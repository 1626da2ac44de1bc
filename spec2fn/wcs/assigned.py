"""The world coordinates of an exposure as a plan, applied to its pixels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from spec2fn.errors import InputError
from spec2fn.modes import mode_named
from spec2fn.parameters import Parameters
from spec2fn.plan_base import Plan, array, outside
from spec2fn.schema import meta_of, set_scalars, with_attrs, with_meta, with_warnings
from spec2fn.typing import Array
from spec2fn.wcs.assign import References, builder_for
from spec2fn.wcs.assign.pointing import uncorrected
from spec2fn.wcs.coordinates import with_planes
from spec2fn.wcs.lower import box_of, evaluate_on_box, lower
from spec2fn.wcs.sip import SipOptions

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["WcsPlan", "plan_wcs"]


class WcsPlan(Plan):
    """What assign_wcs gives to an exposure.

    Attributes
    ----------
    planes : mapping of str to array, shape (y, x)
        Coordinates of every pixel by the names of :data:`spec2fn.schema.PLANES`.
    scalars : mapping of str to float
        Of :func:`spec2fn.schema.set_scalars`.
    specsys, dispaxis, s_region, nominal_range
        Attributes of the exposure; None leaves one as it was.
    warnings : tuple of str
    wcs : gwcs.WCS, or mapping of int to gwcs.WCS
    records : mapping
        What goes to ``meta.records``.
    """

    planes: dict[str, Array] = array("y x")
    scalars: Mapping[str, float]
    specsys: str
    dispaxis: int | None = None
    s_region: str | None = None
    nominal_range: tuple[float, float] | None = None
    warnings: tuple[str, ...] = ()
    wcs: Any = outside(default=None)
    records: Mapping[str, Any] | None = outside(default=None)

    def given_to(self, ds: xr.Dataset) -> xr.Dataset:
        """Return an exposure with its world coordinates."""
        out = set_scalars(with_planes(ds, self.planes), **self.scalars)
        names = ("specsys", "dispaxis", "s_region", "nominal_range")
        attrs = {name: getattr(self, name) for name in names}
        out = with_attrs(out, **{k: v for k, v in attrs.items() if v is not None})
        if self.wcs is None:  # inside a trace, which has no headers
            return out
        out = with_meta(out, wcs=self.wcs, records=self.records or {})
        return with_warnings(out, *self.warnings)


def plan_wcs(ds: xr.Dataset, refs: References, params: Parameters) -> WcsPlan:
    """Build the WCS of an exposure and evaluate it at every pixel.

    Parameters
    ----------
    ds : xarray.Dataset
    refs : mapping of str to xarray.Dataset or None
        By type, and ``msa_metadata``.
    params : Parameters
        Of :func:`spec2fn.steps.assign_wcs.assign_wcs`.

    Raises
    ------
    InputError, ReferenceError
        See :func:`spec2fn.steps.assign_wcs.assign_wcs`.
    """
    meta = meta_of(ds)
    exp_type = ds.attrs.get("exp_type") or meta.require("EXP_TYPE", "assign_wcs")
    if not isinstance(exp_type, str):
        msg = f"assign_wcs: keyword EXP_TYPE is {exp_type!r}, needs the name of a mode"
        raise InputError(msg)
    mode = mode_named(exp_type, str(ds.attrs.get("lamp_mode", "")))
    build = builder_for(mode)
    built = build(ds, refs, Parameters("assign_wcs", {**params, "sip": _sip_options(params)}))
    planes = dict(built.planes)
    if not planes and built.of_pixels and not isinstance(built.wcs, Mapping):
        shape = ds["sci"].shape[-2:]
        planes["ra"], planes["dec"], planes["wavelength"] = evaluate_on_box(
            lower(built.wcs), (shape[0], shape[1]), box_of(built.wcs)
        )
    at_rest = bool(mode.lamp) and not params.lamp_velocity
    return WcsPlan(
        planes,
        dict(built.scalars),
        "TOPOCENT" if at_rest or meta.get("VELOSYS") is None else "BARYCENT",
        built.dispaxis,
        built.s_region,
        built.nominal_range,
        () if mode.lamp else uncorrected(meta, "VELOSYS", "VA_SCALE"),
        built.wcs,
        built.records,
    )


def _sip_options(params: Parameters) -> SipOptions | None:
    """How headers approximate the world coordinates by polynomials; None if they do not."""
    if not params.sip_approx:
        return None
    return SipOptions(
        params.sip_max_pix_error,
        params.sip_degree,
        params.sip_max_inv_pix_error,
        params.sip_inv_degree,
        params.sip_npoints,
    )

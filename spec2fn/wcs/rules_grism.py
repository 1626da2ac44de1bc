"""Lowering rules of the dispersion of grisms.

They give what the transforms of stdatamodels give, approximate inverses included; exposures are
calibrated with :class:`spec2fn.wcs.grism.GrismGeometry` itself.
"""

# ruff: noqa: PLR0917 - every kernel has the same signature, used or not

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.typing import Array, Arrays, HostArray
from spec2fn.wcs.grism import MIRI, NIRCAM, NIRISS, Approximation, GrismGeometry
from spec2fn.wcs.lowered import Coordinates, Ruled, register
from spec2fn.wcs.trace_models import alike, models_of, stacked, trace_coefficients

if TYPE_CHECKING:
    from astropy.modeling import Model

_JWST = "stdatamodels.jwst.transforms.models."
_ARRAYS = ("dx", "dy", "wave", "angle", "inverse_wave", "inverse_along")


def _each(models: Iterable[Any]) -> HostArray:
    return stacked([trace_coefficients(one) for one in models])


def _traces(
    model: Model,
    axis: int,
    how: Approximation,
    *,
    wave: HostArray | None = None,
    along: HostArray | None = None,
) -> tuple[GrismGeometry, dict[str, Array]]:
    dx, dy = alike(_each(model.xmodels), _each(model.ymodels))
    orders = tuple(int(o) for o in model.orders)
    angle = float(getattr(model, "theta", None) or 0.0)
    geometry = GrismGeometry(
        dx,
        dy,
        _each(model.lmodels),
        np.array(angle),
        np.array(1.0),
        orders,
        (False,) * len(orders),
        axis,
        (0.0, 0.0),
        None,
        turned=angle != 0,
        approximation=how,
        inverse_wave=wave,
        inverse_along=along,
    )
    held = {n: getattr(geometry, n) for n in _ARRAYS}
    return geometry, {n: v for n, v in held.items() if v is not None}


def _with(geometry: GrismGeometry, params: Arrays) -> GrismGeometry:
    changes: Mapping[str, Any] = params
    return replace(geometry, **changes)


def _plain(models: Iterable[Any]) -> bool:
    """Whether the models of all orders are polynomials in t alone, as old references have them."""
    return all(models_of(one)[0].n_inputs == 1 for one in models)


def _forward(model: Model, axis: int, how: Approximation) -> Ruled:
    name = "xmodels" if axis == 1 else "ymodels"
    inverse = getattr(model, f"inv_{name}", None)
    along = _each(inverse) if inverse else None
    if along is None and how == NIRCAM and _plain(getattr(model, name)):
        # the line through the first two coefficients
        first = [trace_coefficients(one)[:2, 0, 0] for one in getattr(model, name)]
        along = np.array([[-c0 / c1, 1.0 / c1] for c0, c1 in first])[..., None, None]
    geometry, params = _traces(model, axis, how, along=along)

    def kernel(
        xp: ModuleType, p: Arrays, x: Array, y: Array, x0: Array, y0: Array, order: Array
    ) -> Coordinates:
        traces = _with(geometry, p)
        wave = xp.nan * (x + y + x0 + y0 + order)
        for one in traces.orders:
            wave = xp.where(order == one, traces.wavelength(x, y, x0, y0, one), wave)
        return x0, y0, wave, order

    return kernel, params


def _backward(model: Model, how: Approximation) -> Ruled:
    inverse = getattr(model, "inv_lmodels", None) if how == NIRCAM else model.lmodels
    if how == NIRCAM and not inverse and _plain(model.lmodels):
        how = replace(how, between=True)
    geometry, params = _traces(model, 1, how, wave=_each(inverse) if inverse else None)

    def kernel(
        xp: ModuleType, p: Arrays, x: Array, y: Array, wavelength: Array, order: Array
    ) -> Coordinates:
        traces = _with(geometry, p)
        out = (xp.nan * (x + y + wavelength + order),) * 2
        for one in traces.orders:
            found = traces.disperse(x, y, wavelength, one)
            out = tuple(xp.where(order == one, f, o) for f, o in zip(found, out, strict=True))
        return (*out, x, y, order)

    return kernel, params


for _name, _how in (("NIRISS", NIRISS), ("NIRCAM", NIRCAM)):
    for _axis, _side in ((1, "Row"), (2, "Column")):
        register(f"{_JWST}{_name}Forward{_side}GrismDispersion")(
            partial(_forward, axis=_axis, how=_how)
        )
    register(f"{_JWST}{_name}BackwardGrismDispersion")(partial(_backward, how=_how))
register(_JWST + "MIRIWFSSForwardDispersion")(partial(_forward, axis=2, how=MIRI))
register(_JWST + "MIRIWFSSBackwardDispersion")(partial(_backward, how=MIRI))

"""The angle of the pupil wheel from the exposure itself, instead of from its header."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from spec2fn.errors import InputError
from spec2fn.host.trace_position import (
    Position,
    fit_position,
    profile_coefficients,
    profile_position,
)
from spec2fn.kernels.namespace import array_namespace
from spec2fn.kernels.profile_shift import moved_profile
from spec2fn.kernels.soss_trace import box_weights, place_trace
from spec2fn.plans.extraction.soss_references import TraceModel
from spec2fn.schema import meta_of
from spec2fn.typing import HostArray, Number

if TYPE_CHECKING:
    import xarray as xr

    from spec2fn.plans.extraction.extract_orders import OrdersPlan

__all__ = ["fit_traces", "moved_plan", "trace_rows"]

_REACH = 3  # rows by which an aperture may be moved


def trace_rows(model: TraceModel, position: float, columns: int) -> HostArray:
    """Return the rows of orders at an angle of the wheel, (order, column); NaN beyond the ends."""
    rows = np.full((len(model.orders), columns), np.nan)
    turned = model.at(position)
    for k, trace in enumerate(turned.orders):
        rows[k, : trace.columns] = place_trace(trace, position, model.grid, columns).center
    return rows


def fit_traces(
    ds: xr.Dataset, model: TraceModel, profile: HostArray, image: HostArray, error: HostArray
) -> tuple[TraceModel, HostArray, Position]:
    """Fit the angle of the wheel and a shift across the dispersion.

    Parameters
    ----------
    ds : xarray.Dataset
        The exposure, to be named.
    model : TraceModel
    profile : array, (order, cross, disp)
        Of the reference.
    image, error : array, (cross, disp)
        Of all integrations.

    Returns
    -------
    model : TraceModel
        With the angle and the shift.
    profile : array, (order, cross, disp)
        Where the traces are.
    found : Position

    Raises
    ------
    InputError
        If no angle fits, or one for which the traces are not known.
    """
    columns = image.shape[1]

    def rows(position: float) -> HostArray:
        return trace_rows(model, position, columns)

    found = fit_position(image, error, profile, rows, model.position)
    low, high = model.bounds
    if not (found.converged and low <= found.angle <= high):
        name = meta_of(ds).filename or "the exposure"
        msg = (
            f"extract_1d: soss_fit_pwcpos finds no angle of the pupil wheel from {low:g} to"
            f" {high:g} deg at which the traces fit to {name} (it came to {found.angle:g});"
            " switch it off"
        )
        raise InputError(msg)
    origin = rows(profile_position(profile, rows, model.position)[0])
    move = np.nan_to_num(rows(found.angle) - origin + found.shift)
    moved = np.maximum(moved_profile(profile_coefficients(profile), move), 0.0)
    return model.at(found.angle, found.shift), moved, found


def moved_plan(
    plan: OrdersPlan, model: TraceModel, position: Number, shift: Number = 0.0
) -> OrdersPlan:
    """Return a plan of extraction for another angle of the wheel.

    Parameters
    ----------
    plan : OrdersPlan
        Made at the angle of `model`.
    model : TraceModel
        Its orders are those of the plan.
    position : float
        Angle of the wheel [deg].
    shift : float
        By which the traces move besides, across the dispersion [pixel].

    Returns
    -------
    OrdersPlan
        Apertures, wavelengths and profiles, those of the models too, are differentiable in
        `position` and `shift`, for moves of up to three rows. Resolution and throughput of a
        column stay what they are.
    """
    rows, columns = plan.masked.shape
    xp = array_namespace(plan.weights, position, shift)
    weights, wavelength, moves = [], [], []
    for trace in model.orders:
        placed = place_trace(trace, position, model.grid, columns, shift=(0.0, model.shift + shift))
        origin = place_trace(trace, model.position, model.grid, columns, shift=(0.0, model.shift))
        beyond = [(0, columns - trace.columns)]
        box = box_weights(placed.center, plan.width, rows)
        weights.append(xp.pad(box, [(0, 0), *beyond]))
        wavelength.append(xp.pad(placed.wavelength, beyond, constant_values=np.nan))
        moves.append(xp.pad(placed.center - xp.asarray(origin.center), beyond))
    coefficients = profile_coefficients(np.asarray(plan.profile))
    profile = moved_profile(xp.asarray(coefficients), xp.stack(moves))
    models = plan.models if plan.models is None else replace(plan.models, profile=profile)
    count = min(plan.rows.shape[1] + 2 * _REACH, rows)
    first = np.clip(np.asarray(plan.rows)[:, :1] - _REACH, 0, rows - count)
    return replace(
        plan,
        rows=first + np.arange(count, dtype=np.int32)[:, None],
        weights=xp.stack(weights),
        wavelength=xp.stack(wavelength),
        profile=profile,
        models=models,
    )

"""The spectra of overlapping orders, given their plan."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.dq import Pixel
from spec2fn.kernels.atoca import decontaminate, order_amplitudes, order_models
from spec2fn.kernels.column_background import column_background
from spec2fn.kernels.namespace import array_namespace, is_traced, positive_root, safe_divide
from spec2fn.kernels.series import from_neighbours
from spec2fn.plans.extraction.extract_orders import NEIGHBOURS, OrdersPlan
from spec2fn.schema import VARIANCES, meta_of, set_scalars, with_attrs, with_meta
from spec2fn.spectra.datasets import spectra_dataset
from spec2fn.typing import Array

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["extract_orders"]

_DOUBTFUL = 10.0  # by how much larger than usual the error of a value from elsewhere is


def extract_orders(
    ds: xr.Dataset, plan: OrdersPlan, *, save_models: bool = False, save_grid: bool = False
) -> xr.Dataset:
    """Extract the spectrum of every order.

    Parameters
    ----------
    ds : xarray.Dataset
        Dims ([integration,] y, x); an image counts as one integration.
    plan : OrdersPlan
    save_models, save_grid : bool
        Keep the images of the models, and the wavelengths of the fit, in ``meta.records``.

    Returns
    -------
    xarray.Dataset
        Dims (integration, spectrum, wave), in count rates.
    """
    sci, err = (_series(ds.variables[n].data) for n in ("sci", "err"))
    xp = array_namespace(sci, err, plan.weights)
    missing = ~(xp.isfinite(sci) & xp.isfinite(err))
    typical = xp.asarray(plan.typical).astype(sci.dtype)
    if plan.rescaled:
        data = xp.where(xp.isfinite(sci), sci, typical)
    else:
        data = from_neighbours(sci, typical, NEIGHBOURS)
    data = data.astype(np.float64)
    error = xp.where(missing, _DOUBTFUL * xp.asarray(plan.error), err.astype(np.float64))
    masked = xp.asarray(plan.masked) | ~(error > 0) | ~xp.isfinite(error)
    if plan.rescaled:
        masked = masked | missing
    background = xp.zeros_like(data[:, 0])
    if plan.column_background:
        background = column_background(data, masked, plan.column_background)
        data = data - background[:, None]
    amplitudes = xp.full((data.shape[0], len(plan.orders), data.shape[-1]), np.nan)
    if plan.models is not None:
        own = error if plan.own_errors else None
        amplitudes = order_amplitudes(plan.models, data, own)
    columns = _each(lambda *one: _of_one(plan, *one), data, error, masked, amplitudes)
    columns["background"] = xp.broadcast_to(background[:, None], columns["flux"].shape)
    out = _as_dataset(ds, plan, _within(columns, plan))
    if plan.models is None or is_traced(amplitudes):
        return out
    kept: dict[str, Any] = {}
    if save_models:
        kept["SossExtractModel"] = _images(out, plan, amplitudes)
    if save_grid:
        grid = {"wavegrid": ("wave", np.asarray(plan.models.joint.wave), {"units": "um"})}
        kept["grid"] = _beside(out, "SossWaveGridModel", grid)
    return with_meta(out, records=kept) if kept else out


def _series(image: Array) -> Array:
    return image if image.ndim == 3 else image[None]


def _each(function: Callable[..., dict[str, Array]], *series: Array) -> dict[str, Array]:
    """Apply a function to the images of series, one after the other or all at once."""
    xp = array_namespace(*series)
    if xp is not np:
        import jax

        out: dict[str, Array] = jax.vmap(function)(*series)
        return out
    done = [function(*images) for images in zip(*series, strict=True)]
    return {name: np.stack([one[name] for one in done]) for name in done[0]}


def _of_one(
    plan: OrdersPlan, data: Array, error: Array, masked: Array, amplitude: Array
) -> dict[str, Array]:
    """Columns of the orders of one image, (order, disp)."""
    xp = array_namespace(data, error, plan.weights, amplitude)
    weights, profile = xp.asarray(plan.weights), xp.asarray(plan.profile)
    zero = xp.zeros_like(data)
    good = ~masked
    data, variance = xp.where(good, data, zero), xp.where(good, error * error, zero)
    known = xp.where(xp.isfinite(amplitude), amplitude, 0.0)
    counted = used = xp.where(good, weights, 0.0)
    if plan.optimal:
        used = _by_profile(plan, used)
    # light of all orders in the apertures of all
    shared = xp.einsum("oyx,qyx->oqx", used, profile)
    others = 1.0 - np.eye(len(plan.orders))[:, :, None]
    flux = xp.einsum("oyx,yx->ox", used, data) - (others * shared * known).sum(axis=1)
    squared = xp.einsum("oyx,yx->ox", used * used if plan.optimal else used, variance)
    whole = xp.einsum("oyx,oyx->ox", used, used * variance)
    if plan.replaced:
        put_in, doubt = _of_models(plan, (data, variance, good), amplitude)
        flux = flux + xp.einsum("oyx,oyx->ox", put_in, profile) * known
        squared = squared + xp.einsum("oyx,oyx->ox", put_in, doubt)
        counted = counted + put_in
    if plan.rescaled and not plan.optimal:
        seen = xp.einsum("oyx,oyx->ox", counted, profile)
        scale = safe_divide(xp.einsum("oyx,oyx->ox", weights, profile), seen, seen > 0)
        flux, squared, whole = flux * scale, squared * scale * scale, whole * scale * scale
    if plan.contamination is not None:
        whole = whole + plan.contamination
    return {
        "flux": flux,
        "flux_error": positive_root(squared),
        "flux_error_cov": positive_root(whole),
        "npixels": counted.sum(axis=1),
    }


def _by_profile(plan: OrdersPlan, used: Array) -> Array:
    """Weights of least noise for pixels that are `used`; they sum up what the box would."""
    xp = array_namespace(used, plan.error)
    profile, error = xp.asarray(plan.profile), xp.asarray(plan.error)
    fine = (error > 0) & xp.isfinite(error)
    precision = xp.where(fine, 1.0 / xp.where(fine, error * error, 1.0), 0.0)
    weight = xp.where(used > 0, profile * precision, 0.0)
    norm = xp.einsum("oyx,oyx->ox", weight, profile)
    light = xp.einsum("oyx,oyx->ox", xp.asarray(plan.weights), profile)
    return weight * safe_divide(light, norm, norm > 0, fill=0.0)[:, None]


def _of_models(
    plan: OrdersPlan, image: tuple[Array, Array, Array], amplitude: Array
) -> tuple[Array, Array]:
    """Weights of pixels that the models replace, and their variances, (order, cross, disp)."""
    assert plan.models is not None
    data, variance, good = image
    xp = array_namespace(data, amplitude, plan.weights)
    modelled = plan.models.modelled & xp.isfinite(amplitude)[:, None]
    put_in = xp.where(~good & modelled, plan.weights, 0.0)
    own = order_models(plan.models, amplitude)
    clean = decontaminate(plan.models, data, amplitude)
    doubt = [
        _of_the_nearest(xp.where(good, d, m), v, good & (w > 0), p > 0)
        for d, m, v, w, p in zip(
            clean, own, [variance] * len(own), xp.asarray(plan.weights), put_in, strict=True
        )
    ]
    return put_in, xp.stack(doubt)


def _of_the_nearest(values: Array, variance: Array, known: Array, wanted: Array) -> Array:
    """Variances of the `known` pixels whose value is nearest to that of the `wanted` ones."""
    xp = array_namespace(values, variance)
    value, spread = xp.where(known, values, np.inf).ravel(), variance.ravel()
    at, target = np.arange(value.shape[0]), xp.where(wanted, values, 0.0).ravel()
    if xp is np:
        value, spread = value[known.ravel()], spread[known.ravel()]
        at = np.flatnonzero(wanted)
        target = target[at]
        if not value.size:
            return np.zeros_like(values)
    rank = xp.argsort(value)
    value, spread = value[rank], spread[rank]
    last = xp.maximum(known.sum() - 1, 0)
    above = xp.clip(xp.searchsorted(value, target), 0, last)
    below = xp.clip(above - 1, 0, last)
    nearer = xp.abs(value[above] - target) < xp.abs(value[below] - target)
    found = spread[xp.where(nearer, above, below)]
    if xp is not np:
        return xp.where(wanted, found.reshape(values.shape), 0.0)
    out = np.zeros(values.size)
    out[at] = found
    return out.reshape(values.shape)


def _within(columns: dict[str, Array], plan: OrdersPlan) -> dict[str, Array]:
    """All columns of the table; NaN where no pixel is used, 0 beyond the end of an order."""
    xp = array_namespace(*columns.values())
    within = xp.isfinite(xp.asarray(plan.wavelength))
    nothing = ~(columns["npixels"] > 0)
    out = {
        name: xp.where(nothing, np.nan, value) if name.startswith("flux") else value
        for name, value in columns.items()
    }
    lost = np.uint32(int(Pixel.DO_NOT_USE))
    # officially, flags say nothing of spectra
    flagged = nothing & within & plan.rescaled
    out["dq"] = xp.where(flagged, lost, np.uint32(0))
    zero = xp.zeros_like(columns["flux"])
    for name in _EMPTY:
        out[name] = zero
    return out


_EMPTY = (
    *("flux_" + n for n in VARIANCES),
    *("surf_bright", "sb_error"),
    *("sb_" + n for n in VARIANCES),
    "bkgd_error",
    *("bkgd_" + n for n in VARIANCES),
)


def _as_dataset(ds: xr.Dataset, plan: OrdersPlan, columns: dict[str, Array]) -> xr.Dataset:
    per_spectrum: dict[str, Any] = {
        "n_wave": np.array(plan.lengths, np.int32),
        "sporder": np.array(plan.orders, np.int32),
    }
    out = spectra_dataset(
        ds, {**columns, "wavelength": plan.wavelength}, per_spectrum, angle=None, calibrated=False
    )
    plain = {n: out[n].assign_attrs(units="") for n in _EMPTY if n.startswith(("surf", "sb"))}
    out = set_scalars(
        with_attrs(
            out.assign(plain).drop_vars("detector", errors="ignore"), model="TSOMultiSpecModel"
        ),
        aperture_width=plan.width,
        oversampling=plan.oversampling,
        threshold=plan.threshold,
        tikhonov_factor=None if plan.models is None else plan.models.joint.factor,
        pupil_wheel_angle=None if plan.fitted is None else plan.fitted.angle,
        trace_shift=None if plan.fitted is None else plan.fitted.shift,
    )
    if is_traced(columns["flux"]):
        return out
    return out.assign_attrs(meta=meta_of(ds).replace(wcs=None))


def _images(out: xr.Dataset, plan: OrdersPlan, amplitudes: Array) -> xr.Dataset:
    """Models and apertures of the orders, (integration, y, x)."""
    assert plan.models is not None
    count = amplitudes.shape[0]
    models = [np.asarray(order_models(plan.models, a)).astype(np.float32) for a in amplitudes]
    planes: dict[str, Any] = {}
    for k, order in enumerate(plan.orders):
        image = np.stack([np.nan_to_num(m[k], nan=0.0) for m in models])
        planes[f"order{order}"] = (("integration", "y", "x"), image)
    for k, order in enumerate(plan.orders):
        aperture = np.asarray(plan.weights[k], np.float32)
        everywhere = np.broadcast_to(aperture, (count, *aperture.shape))
        planes[f"aperture{order}"] = (("integration", "y", "x"), everywhere)
    return _beside(out, "SossExtractModel", planes)


def _beside(out: xr.Dataset, model: str, variables: dict[str, Any]) -> xr.Dataset:
    """A product with the headers of the spectra."""
    import xarray as xr

    return xr.Dataset(variables, attrs={**out.attrs, "model": model})

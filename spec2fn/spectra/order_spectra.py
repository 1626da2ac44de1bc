"""The spectra of overlapping orders, given their plan."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.dq import Pixel
from spec2fn.kernels.atoca import (
    column_pulls,
    order_amplitudes,
    order_models,
    pulled_amplitudes,
)
from spec2fn.kernels.atoca_nuisances import without_nuisances
from spec2fn.kernels.column_background import column_background
from spec2fn.kernels.namespace import array_namespace, is_traced, positive_root, safe_divide
from spec2fn.kernels.series import from_neighbours
from spec2fn.kernels.spectrum_fit import (
    ColumnSums,
    fit_spectrum,
)
from spec2fn.plans.extraction.extract_orders import NEIGHBOURS, Apertures, OrdersPlan
from spec2fn.schema import EXTRACTED, VARIANCES, meta_of, set_scalars, with_attrs, with_meta
from spec2fn.spectra.datasets import spectra_dataset
from spec2fn.typing import Array, HostArray

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["extract_orders"]

_BLOCK = 8  # integrations
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
    data = sci = xp.asarray(sci)
    if not plan.rescaled:
        data = from_neighbours(sci, xp.asarray(plan.typical).astype(sci.dtype), NEIGHBOURS)
    # those of all integrations would take eight times the memory of the exposure
    step = _BLOCK if xp is np else len(sci)
    apertures = plan.apertures
    parts = [
        _of_some(plan, apertures, *(a[k : k + step] for a in (sci, data, xp.asarray(err))))
        for k in range(0, len(sci), step)
    ]
    columns = {name: xp.concatenate([part[name] for part in parts]) for name in parts[0]}
    amplitudes, strength = columns.pop("amplitude"), columns.pop("strength", None)
    out = _as_dataset(ds, plan, _within(columns, plan))
    if strength is not None:
        out = out.assign(
            contaminant_strength=(("integration", "contaminant"), strength),
            contaminant_error=("contaminant", plan.strength_error),
        )
    if plan.models is None or is_traced(amplitudes):
        return out
    kept: dict[str, Any] = {}
    if save_models:
        kept["SossExtractModel"] = _images(out, plan, amplitudes)
        kept["AtocaSpectra"] = _fitted_spectra(out, plan, data)
    if save_grid:
        grid = {"wavegrid": ("wave", np.asarray(plan.models.joint.wave), {"units": "um"})}
        kept["grid"] = _beside(out, "SossWaveGridModel", grid)
    return with_meta(out, records=kept) if kept else out


def _series(image: Array) -> Array:
    return image if image.ndim == 3 else image[None]


def _of_some(
    plan: OrdersPlan, apertures: Apertures, sci: Array, data: Array, err: Array
) -> dict[str, Array]:
    """Columns of the orders of images, (integration, order, disp), and their amplitudes."""
    sums = _each(lambda *images: _of_one(plan, apertures, images), sci, data, err)
    shape = (sci.shape[0], len(plan.orders), sci.shape[-1])
    if "pulls" in sums:
        assert plan.models is not None
        # one solution for all of them
        sums["amplitude"] = pulled_amplitudes(plan.models, sums.pop("pulls"))
    elif "amplitude" not in sums:
        sums["amplitude"] = array_namespace(sci).full(shape, np.nan)
    return _completed(plan, apertures, sums)


def _each(function: Callable[..., dict[str, Array]], *series: Array) -> dict[str, Array]:
    """Apply a function to the images of series, one after the other or all at once."""
    xp = array_namespace(*series)
    if xp is not np:
        import jax

        out: dict[str, Array] = jax.vmap(function)(*series)
        return out
    done = [function(*images) for images in zip(*series, strict=True)]
    return {name: np.stack([one[name] for one in done]) for name in done[0]}


def _of_one(plan: OrdersPlan, of: Apertures, image: tuple[Array, ...]) -> dict[str, Array]:
    """Sums over columns of one image, (order, disp), and what is needed to tell orders apart."""
    xp = array_namespace(*image, of.weights)
    sci, data, err = image
    data = xp.where(xp.isfinite(data), data, xp.asarray(plan.typical).astype(data.dtype))
    data = data.astype(np.float64)
    error, masked = _errors(plan, sci, err)
    out: dict[str, Array] = {"background": xp.zeros_like(data[0])}
    if plan.column_background:
        out["background"] = column_background(data, masked, plan.column_background)
        data = data - out["background"]
    if plan.models is not None and plan.models.nuisances is not None:
        cleaned = without_nuisances(plan.models, data)
        data, out["background"] = cleaned.data, out["background"] + cleaned.level
        if plan.strength_error is not None:
            out["strength"] = cleaned.strength
    if plan.models is not None and (plan.own_errors or plan.replaced):
        own = error if plan.own_errors else None
        out["amplitude"] = order_amplitudes(plan.models, data, own)
    elif plan.models is not None:
        out["pulls"] = column_pulls(plan.models, data)
    good = ~masked.ravel()[of.at]
    data = xp.where(good, data.ravel()[of.at], 0.0)
    variance = xp.where(good, error.ravel()[of.at], 0.0).astype(np.float64) ** 2
    used = xp.where(good, of.weights, 0.0)
    counted = used.sum(axis=1)
    if plan.optimal:
        used = _by_profile(plan, of, used)
    noise = used * variance
    # light of all orders in the apertures of all
    shared = xp.einsum("okx,oqkx->oqx", used, of.profiles)
    seen = xp.einsum("oox->ox", shared)
    flux = xp.einsum("okx,okx->ox", used, data)
    whole = xp.einsum("okx,okx->ox", used, noise)
    squared = whole if plan.optimal else noise.sum(axis=1)
    if plan.replaced and not plan.optimal:
        amplitude = out["amplitude"]
        found = xp.isfinite(amplitude)
        known = xp.where(found, amplitude, 0.0)
        put_in, doubt = _of_models(of, (data, variance, good), known, found)
        light = (put_in * of.own).sum(axis=1)
        flux, seen = flux + light * known, seen + light
        squared = squared + (put_in * doubt).sum(axis=1)
        counted = counted + put_in.sum(axis=1)
    sums = {"flux": flux, "squared": squared, "whole": whole, "npixels": counted}
    return {**out, **sums, "shared": shared, "seen": seen}


def _errors(plan: OrdersPlan, sci: Array, err: Array) -> tuple[Array, Array]:
    """Errors of the pixels of an image, and which of them do not count."""
    xp = array_namespace(sci, err)
    masked = xp.asarray(plan.masked)
    known = xp.isfinite(sci) & xp.isfinite(err)
    if plan.rescaled and not plan.own_errors:
        return err, masked | ~(known & (err > 0))
    error = xp.where(known, err.astype(np.float64), _DOUBTFUL * xp.asarray(plan.error))
    masked = masked | ~((error > 0) & xp.isfinite(error))
    return error, masked | ~known if plan.rescaled else masked


def _completed(plan: OrdersPlan, of: Apertures, sums: dict[str, Array]) -> dict[str, Array]:
    """Columns (integration, order, disp) without the light of the other orders."""
    amplitude, shared, seen = (sums[n] for n in ("amplitude", "shared", "seen"))
    flux, squared, whole, counted = (sums[n] for n in ("flux", "squared", "whole", "npixels"))
    xp = array_namespace(amplitude, shared, of.weights)
    known = xp.where(xp.isfinite(amplitude), amplitude, 0.0)
    others = 1.0 - np.eye(len(plan.orders))[:, :, None]
    flux = flux - (others * shared * known[:, None]).sum(axis=-2)
    if plan.rescaled and not plan.optimal:
        scale = safe_divide((of.weights * of.own).sum(axis=1), seen, seen > 0, fill=0.0)
        counted = xp.where(seen > 0, counted, 0.0)
        flux, squared, whole = flux * scale, squared * scale * scale, whole * scale * scale
    if plan.contamination is not None:
        whole = whole + plan.contamination
    found = {"strength": sums["strength"]} if "strength" in sums else {}
    return {
        **found,
        "flux": flux,
        "flux_error": positive_root(squared),
        "flux_error_cov": positive_root(whole),
        "npixels": counted,
        "background": xp.broadcast_to(sums["background"][:, None], flux.shape),
        "amplitude": amplitude,
    }


def _by_profile(plan: OrdersPlan, of: Apertures, used: Array) -> Array:
    """Weights of least noise for pixels that are `used`; they sum up what the box would."""
    xp = array_namespace(used, plan.error)
    error = xp.asarray(plan.error).ravel()[of.at]
    fine = (error > 0) & xp.isfinite(error)
    precision = xp.where(fine, 1.0 / xp.where(fine, error * error, 1.0), 0.0)
    weight = xp.where(used > 0, of.own * precision, 0.0)
    norm = (weight * of.own).sum(axis=1)
    light = (of.weights * of.own).sum(axis=1)
    return weight * safe_divide(light, norm, norm > 0, fill=0.0)[:, None]


def _of_models(
    of: Apertures, image: tuple[Array, Array, Array], known: Array, found: Array
) -> tuple[Array, Array]:
    """Weights of pixels that the models replace, and their variances, (order, pixel, disp)."""
    data, variance, good = image
    xp = array_namespace(data, known)
    put_in = xp.where(~good & of.modelled & found[:, None], of.weights, 0.0)
    own = of.own * known[:, None]
    light = xp.einsum("oqkx,qx->okx", of.profiles, known)
    values = xp.where(good, data - xp.where(of.modelled, light - own, 0.0), own)
    inside = good & (of.weights > 0)
    doubt = [
        _of_the_nearest(v, u, i, p > 0)
        for v, u, i, p in zip(values, variance, inside, put_in, strict=True)
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


_OFFICIAL = tuple(name for name in EXTRACTED if name != "flux_error_cov")


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


def _fitted_spectra(out: xr.Dataset, plan: OrdersPlan, data: Array) -> xr.Dataset:
    """What the fits make of the light of columns, a spectrum for each integration and fit."""
    models = plan.models
    assert models is not None
    found: list[tuple[int, int, HostArray, HostArray]] = []
    data = np.where(np.isfinite(data), data, np.asarray(plan.typical, data.dtype))
    numbers = out.get("integration_number")
    for i, image in enumerate(np.asarray(data, np.float64)):
        number = i + 1 if numbers is None else int(numbers.values[i])
        light = image
        if plan.column_background:
            share = plan.column_background
            light = image - column_background(image[None], plan.masked[None], share)[0]
        light = without_nuisances(models, light).data
        pulls = column_pulls(models, light)
        for fit, (precision, solved) in zip(models.fits, models.solved, strict=True):
            pull, pulls = np.split(pulls, [len(fit.orders)])
            amplitude = fit_spectrum(fit, ColumnSums(precision, pull), solved)[1]
            for place, values, covered in zip(fit.orders, amplitude, fit.covered, strict=True):
                wave = np.asarray(plan.wavelength)[place]
                fine = np.flatnonzero(np.asarray(covered) & np.isfinite(wave))
                rising = fine[np.argsort(wave[fine])]
                found.append((number, plan.orders[place], wave[rising], values[rising]))
    columns = {"wavelength": [f[2] for f in found], "flux": [f[3] for f in found]}
    length = max(len(wave) for wave in columns["wavelength"])
    dims = ("spectrum", "wave")
    nothing = np.zeros((len(found), length))
    variables: dict[str, Any] = {
        name: (dims, nothing.astype(np.uint32) if name == "dq" else nothing, {"units": ""})
        for name in _OFFICIAL
    }
    for name, unit in (("wavelength", "um"), ("flux", "DN/s")):
        padded = [
            np.pad(one, (0, length - len(one)), constant_values=np.nan) for one in columns[name]
        ]
        variables[name] = (dims, np.stack(padded), {"units": unit})
    for name in ("flux_error", "background"):
        variables[name][2]["units"] = "DN/s"
    per_spectrum = {
        "n_wave": [len(f[2]) for f in found],
        "sporder": [f[1] for f in found],
        "int_num": [f[0] for f in found],
    }
    variables |= {n: ("spectrum", np.array(v, np.int32)) for n, v in per_spectrum.items()}
    return _beside(out, "MultiSpecModel", variables).assign_attrs(grows_along="spectrum")


def _beside(out: xr.Dataset, model: str, variables: dict[str, Any]) -> xr.Dataset:
    """A product with the headers of the spectra."""
    import xarray as xr

    return xr.Dataset(variables, attrs={**out.attrs, "model": model})

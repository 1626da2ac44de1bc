"""The spectra of overlapping orders, given their plan."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.dq import Pixel
from spec2fn.kernels.column_background import column_background
from spec2fn.kernels.namespace import array_namespace, is_traced, positive_root, safe_divide
from spec2fn.kernels.series import from_neighbours
from spec2fn.plans.extraction.extract_orders import NEIGHBOURS, OrdersPlan
from spec2fn.schema import VARIANCES, meta_of, set_scalars, with_attrs
from spec2fn.spectra.datasets import spectra_dataset
from spec2fn.typing import Array

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["extract_orders"]

_DOUBTFUL = 10.0  # by how much larger than usual the error of a value from elsewhere is


def extract_orders(ds: xr.Dataset, plan: OrdersPlan) -> xr.Dataset:
    """Extract the spectrum of every order.

    Parameters
    ----------
    ds : xarray.Dataset
        Dims ([integration,] y, x); an image counts as one integration.
    plan : OrdersPlan

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
    columns = _each(lambda *planes: _of_one(plan, *planes), data, error, masked)
    columns["background"] = xp.broadcast_to(background[:, None], columns["flux"].shape)
    return _as_dataset(ds, plan, _within(columns, plan))


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


def _of_one(plan: OrdersPlan, data: Array, error: Array, masked: Array) -> dict[str, Array]:
    """Columns of the orders of one image, (order, disp)."""
    xp = array_namespace(data, error, plan.weights)
    weights, zero = xp.asarray(plan.weights), xp.zeros_like(data)
    good = ~masked
    data, variance = xp.where(good, data, zero), xp.where(good, error * error, zero)
    used = xp.where(good, weights, 0.0)
    flux = xp.einsum("oyx,yx->ox", used, data)
    squared = xp.einsum("oyx,yx->ox", used, variance)
    whole = xp.einsum("oyx,oyx->ox", used, used * variance)
    columns = {"npixels": used.sum(axis=1)}
    if plan.rescaled:
        seen = xp.einsum("oyx,oyx->ox", used, plan.profile)
        scale = safe_divide(xp.einsum("oyx,oyx->ox", weights, plan.profile), seen, seen > 0)
        flux, squared, whole = flux * scale, squared * scale * scale, whole * scale * scale
    return {
        "flux": flux,
        "flux_error": positive_root(squared),
        "flux_error_cov": positive_root(whole),
        **columns,
    }


def _within(columns: dict[str, Array], plan: OrdersPlan) -> dict[str, Array]:
    """All columns of the table; NaN where no pixel is used, 0 beyond the end of an order."""
    xp = array_namespace(*columns.values())
    within = np.isfinite(plan.wavelength)
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
        with_attrs(out.assign(plain).drop_vars("detector", errors="ignore"), model="TSOMultiSpecModel"),
        aperture_width=plan.width,
        oversampling=plan.oversampling,
        threshold=plan.threshold,
    )
    if is_traced(columns["flux"]):
        return out
    return out.assign_attrs(meta=meta_of(ds).replace(wcs=None))

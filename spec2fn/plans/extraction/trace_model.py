"""Host-side half of the trace model: profiles across the dispersion, and where they hold.

Algorithm: adaptive trace model of the JWST calibration pipeline
(https://jwst-pipeline.readthedocs.io), after Law et al. 2023, AJ 166, 45. Slits, and the slices
of an integral-field unit, are looked at as a stack of images with the dispersion along the last
axis.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from spec2fn.errors import DatasetError, ParameterError
from spec2fn.host.slice_stacks import SlicesPlan, make_slices_plan
from spec2fn.host.trace_sources import (
    clipped_moments,
    column_scales,
    compact_pixels,
    cross_profile,
    steep_positions,
    trimmed,
)
from spec2fn.host.trace_splines import (
    ColumnSplines,
    SplineSettings,
    fit_columns,
    fit_some_columns,
    native_spacing,
)
from spec2fn.kernels.namespace import array_namespace
from spec2fn.kernels.trace_model import FineGrid, column_scale, median_image
from spec2fn.modes import mode_of
from spec2fn.parameters import Parameters
from spec2fn.plan_base import Plan, array
from spec2fn.plans.cubes.cube_geometry import slice_frame
from spec2fn.plans.extraction.trace_grid import FinePixels, FinePositions, fine_pixels
from spec2fn.plans.slits.slit_planes import slit_planes
from spec2fn.schema import meta_of
from spec2fn.slits import strings
from spec2fn.typing import Array, HostArray
from spec2fn.units import FLUX_DENSITIES
from spec2fn.wcs.coordinates import slice_map, with_coordinates
from spec2fn.wcs.lower import box_of, evaluate_on_box, lower

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["TraceModelPlan", "plan_trace_model", "unsupported", "with_model"]

_WHO = "adaptive_trace_model"
_NEGATIVE = -5.0  # signal-to-noise ratio of the traces that nods leave
_FEWEST = 3  # good pixels of a column of which no more are interpolated


class TraceModelPlan(Plan):
    """The trace model of the slits of a bucket, or of the slices of an exposure.

    Attributes
    ----------
    slices : SlicesPlan
        Where slices (or the one spectrum) lie in the image.
    dispaxis : int
        Axis of the dispersion in the image, 1 for x, 2 for y.
    profile : array of float64
        The model before it is scaled, on the pixels of the exposure; NaN where there is none.
    weight : array of float64
        Of the pixels in the scale of their column.
    level : array of float64
        What is subtracted from the flux before anything else (a negative mean), and added again.
    full, used : array of bool
        Pixels of the result that the model describes, and those of compact sources among them.
    fine : FineGrid, optional
        The finer grid of the result; None for the pixels of the exposure.
    pixels : FinePixels, optional
        What else there is to say about its pixels.
    """

    slices: SlicesPlan
    dispaxis: int
    profile: Array = array("[slit] y x")
    weight: Array = array("[slit] y x")
    level: Array = array("[slit]")
    full: Array = array("[slit] row x")
    used: Array = array("[slit] row x")
    fine: FineGrid | None = None
    pixels: FinePixels | None = None

    def stack(self, image: Array, fill: float) -> Array:
        """Return the slits or slices of an image, with the dispersion along the last axis."""
        return self._turned(self.slices.cut(image, fill))

    def image(self, blank: Array, stack: Array) -> Array:
        """Return an image of the result with slits or slices put in."""
        slices = self.slices if self.pixels is None else self.pixels.slices
        return slices.paste(blank, self._turned(stack))

    def flux(self, sci: Array, *, stacked: bool) -> Array:
        """Return what is scaled: the slits or slices of an image, above the level."""
        flux = self.stack(median_image(sci, stacked=stacked), np.nan)
        xp = array_namespace(flux, self.level)
        return flux - xp.asarray(self.level)[..., None, None].astype(flux.dtype)

    def images(self, sci: Array, *, stacked: bool) -> tuple[Array, Array]:
        """Return the model on the pixels of the exposure: all of it, and that of compact sources.

        Parameters
        ----------
        sci : array, (..., [integration,] y, x)
        stacked : bool
            Whether there are integrations.
        """
        flux = self.flux(sci, stacked=stacked)
        xp = array_namespace(flux, self.profile)
        scale = column_scale(flux, self.weight)
        level = xp.asarray(self.level)[..., None, None]
        model = (xp.asarray(self.profile) * scale + level).astype(sci.dtype)
        nan = xp.asarray(xp.nan, dtype=sci.dtype)
        shape = (*sci.shape[:-3], *sci.shape[-2:]) if stacked else sci.shape
        full, used = (
            self.image(xp.full(shape, nan), xp.where(xp.asarray(m), model, nan))
            for m in (self.full, self.used)
        )
        return full, used

    def _turned(self, stack: Array) -> Array:
        return stack.swapaxes(-1, -2) if self.dispaxis == 2 else stack


def with_model(ds: xr.Dataset, model: Array) -> xr.Dataset:
    """Return an exposure with its trace model, ([slit,] y, x)."""
    var = ds.variables["sci"]
    dims = tuple(d for d in var.dims if d != "integration")
    units = {k: v for k, v in var.attrs.items() if k == "units"}
    return ds.assign(trace_model=(dims, model, units))


@dataclass(frozen=True)
class _Manner:
    """How the spectra of an instrument mode are modelled.

    Attributes
    ----------
    settings : SplineSettings
    order : {"up", "down", "inward"}
        In which columns lend their splines: from the first, from the last, or from both ends;
        away from where the dispersion is tilted most.
    pad : int
        Pixels around a compact source for which the model is used.
    trim : bool
        Whether the ends of the model are left out of the finer grid.
    """

    settings: SplineSettings
    order: str
    pad: int
    trim: bool


def unsupported(ds: xr.Dataset) -> str:
    """Return why there is no trace model for an exposure, or an empty string."""
    mode = mode_of(ds)
    known = mode.instrument in ("MIRI", "NIRSPEC") and mode.layout in ("image", "slits", "slices")
    return "" if known else f"trace models are made for slits and slices, not {mode.exp_type}"


def _manner(ds: xr.Dataset) -> _Manner:
    mode, attrs = mode_of(ds), ds.attrs
    if mode.instrument == "NIRSPEC":
        order = "up" if attrs.get("detector") == "NRS1" else "down"
        settings = SplineSettings(reach=50, spacing=1.6)
        if attrs.get("grating") == "PRISM":  # its profile changes fast with wavelength
            settings = replace(settings, reach=10, knots_per_pixel=1.0, fewest_per_pixel=0.25)
        return _Manner(settings, order, pad=2 if mode.sliced else 1, trim=True)
    settings = SplineSettings(reach=50, spacing=1.2, knots=36, fewest=8)
    if mode.sliced:
        return _Manner(settings, "inward", pad=3, trim=False)
    settings = replace(settings, reach=5, sigma=3.0)
    one = {"knots": 40} if mode.slit else {"knots": 60, "iterations": 2}
    return _Manner(replace(settings, **one), "down", pad=3, trim=False)


def _order(width: int, name: str) -> HostArray:
    """Columns in the order in which they lend splines."""
    columns = np.arange(width)
    if name == "up":
        return columns
    if name == "down":
        return columns[::-1]
    return np.concatenate([columns[: width // 2 + 1], columns[: width // 2 : -1]])


@dataclass(frozen=True, eq=False)
class _Stack:
    """Slits or slices with the dispersion along the last axis, (slit, y, x)."""

    slices: SlicesPlan
    dispaxis: int
    along: HostArray
    inside: HostArray
    numbers: HostArray  # labels, or the positions of slits
    sliced: bool
    separate: bool  # slits, of which none knows of the others

    def cut(self, image: HostArray) -> HostArray:
        stack = np.asarray(self.slices.cut(image, np.nan))
        return stack.swapaxes(-1, -2) if self.dispaxis == 2 else stack


def _stack(ds: xr.Dataset) -> _Stack:
    mode, meta = mode_of(ds), meta_of(ds)
    dispaxis = ds.attrs.get("dispaxis")
    if dispaxis not in (1, 2):
        msg = f"{_WHO} needs the dispersion axis, attribute 'dispaxis' = 1 or 2, found {dispaxis!r}"
        raise DatasetError(f"{msg}; set it or run assign_wcs first")
    if "slit" in ds.dims:
        count = ds.sizes["slit"]
        position, _, _ = slit_planes(ds, np.ones(count, dtype=bool), _WHO)
        inside = np.isfinite(position)
        number = np.arange(count)
        return _Stack(SlicesPlan(), 1, -position, inside, number, sliced=False, separate=True)
    if mode.layout == "slits":
        msg = f"{_WHO} needs the slits of the exposure, found none; run extract_2d first"
        raise DatasetError(msg)
    wcs = meta.wcs
    if wcs is None:
        msg = f"{_WHO} needs the WCS of the exposure, found none; run assign_wcs first"
        raise DatasetError(msg)
    shape = (ds.sizes["y"], ds.sizes["x"])
    if mode.sliced:
        ds = with_coordinates(ds, _WHO)
        label = np.asarray(ds["regions"].data).astype(np.int32) if "regions" in ds else None
        label = slice_map(ds, _WHO) if label is None else label
        if "alpha" in ds:
            along = np.asarray(ds["alpha"].data)
        else:
            wcs = wcs.load() if hasattr(wcs, "load") and "slices" not in meta.records else wcs
            seen = np.asarray(ds["slice_id"].data) * np.isfinite(ds["wavelength"].data)
            pixel = np.flatnonzero(seen)
            along = np.full(shape, np.nan)
            along.reshape(-1)[pixel] = -slice_frame(ds, wcs, pixel)[0]
    else:
        along, _, _ = evaluate_on_box(lower(wcs, None, "alpha_beta"), shape, box_of(wcs))
        label = np.isfinite(along).astype(np.int32)
    slices = make_slices_plan(label)
    numbers = np.unique(label[label > 0])
    made = _Stack(slices, dispaxis, along, along, numbers, sliced=mode.sliced, separate=False)
    inside = np.asarray(slices.inside)
    inside = inside.swapaxes(-1, -2) if dispaxis == 2 else inside
    return replace(made, along=made.cut(along), inside=inside)


def plan_trace_model(ds: xr.Dataset, params: Parameters) -> TraceModelPlan:
    """Fit the profiles of the slits of a bucket, or of the slices of an exposure.

    Parameters
    ----------
    ds : xarray.Dataset
        Calibrated, with ``sci``, ``err`` and the gwcs. Of several integrations the median is
        modelled.
    params : Parameters
        Of :func:`spec2fn.steps.adaptive_trace_model.adaptive_trace_model`.

    Raises
    ------
    DatasetError
        Without a WCS.
    ParameterError
        If several integrations are to be oversampled.
    """
    factor, stacked = float(params.oversample), "integration" in ds.dims
    if factor != 1.0 and stacked and ds.sizes["integration"] > 1:
        msg = f"{_WHO}.oversample needs 1 for several integrations, found {factor:g}; leave it out"
        raise ParameterError(msg)
    manner, stack = _manner(ds), _stack(ds)
    flux, error = (
        stack.cut(np.asarray(median_image(np.asarray(ds[n].data), stacked=stacked)))
        for n in ("sci", "err")
    )
    flux = np.where(stack.inside, flux, np.float32(np.nan))
    level = _levels(flux, stack)
    flux -= level[:, None, None].astype(np.float32)
    chosen = float(params.fit_threshold)
    limit = None if params.psf_optimal or chosen <= 0 else chosen
    along = stack.along.astype(np.float32)
    # by slit: its splines, and the fluxes that they were fitted to
    fitted = [
        _splines(flux[k], error[k], along[k], limits, manner, params=params)
        for k, limits in enumerate(_limits(flux, stack, limit))
    ]
    where: FinePositions | None = None
    if factor != 1.0:
        where = fine_pixels(ds, stack.slices, stack.inside, factor)
    profile, weight = np.full(flux.shape, np.nan), np.zeros(flux.shape)
    shape = flux.shape if where is None else where.region.shape
    full, used = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
    fine = np.full(shape, np.nan)
    # the published order of the pixels of MIRI, of which each is compared with the one before
    turn = slice(None, None, -1 if stack.dispaxis == 2 else 1)
    knots = 0
    slope = 0.0 if params.psf_optimal else float(params.slope_limit)
    for k, one in enumerate(fitted):
        if one is None:
            continue
        splines, kept = one
        profile[k] = splines(along[k])
        weight[k] = column_scales(kept, profile[k], robust=params.robust_scale)[1]
        if not knots or stack.separate:
            # the first spline says how far from the middle sources are looked for
            knots = int(splines.last[splines.known][0]) + 1 if splines.known.any() else 0
        native = native_spacing(along[k])
        if where is None:
            full[k] = _without_ends(np.isfinite(profile[k]), 1)
            steep = steep_positions(profile[k, turn], along[k, turn], slope, (2, 1))
            place = along[k]
        else:
            end = int(factor)
            enough = np.count_nonzero(np.isfinite(flux[k]), axis=0) > _FEWEST
            profile[k, :, ~enough] = np.nan
            there = where.region[k] & enough & splines.holds(where.along[k])
            fine[k] = np.where(there, splines(where.along[k]), np.nan)
            full[k] = _without_ends(there, end) if manner.trim else there
            steep = steep_positions(profile[k, turn], along[k, turn], slope, (end, end))
            place = np.where(there, where.along[k], np.nan)
        used[k] = full[k]
        if slope > 0:
            used[k] &= compact_pixels(place, steep, native, knots, manner.pad)
    grid, pixels = None, None
    if where is not None:
        pixels = where.pixels
        grid = FineGrid(
            factor=factor,
            place=where.place,
            inside=stack.inside,
            region=where.region,
            core=_without_ends(where.region, int(factor)),
            profile=fine,
            share=_shares(ds, factor, len(flux)),
        )
    return TraceModelPlan(
        stack.slices, stack.dispaxis, profile, weight, level, full, used, grid, pixels
    )


def _levels(flux: HostArray, stack: _Stack) -> HostArray:
    """Means that are negative, which the profiles of what is left could not be divided by."""
    level = np.zeros(len(flux))
    groups = np.arange(len(flux))[:, None] if stack.separate else np.arange(len(flux))[None]
    for group in groups:
        mean = float(clipped_moments(flux[group][stack.inside[group]])[0])
        if mean < 0:
            level[group] = mean
    return level


def _limits(
    flux: HostArray, stack: _Stack, limit: float | None
) -> list[tuple[float | None, float | None]]:
    """By slit, the least peak of its profile and signal-to-noise ratio, of which one counts."""
    if limit is None or not stack.sliced:
        return [(None, limit)] * len(flux)
    out: list[tuple[float | None, float | None]] = [(None, None)] * len(flux)
    channel = stack.numbers // 100  # those of the MRS see different skies
    for one in np.unique(channel):
        mine = np.flatnonzero(channel == one)
        mean, rms = clipped_moments(flux[mine][stack.inside[mine]])
        for k in mine:
            out[k] = float(mean + limit * rms), None
    return out


def _splines(
    flux: HostArray,
    error: HostArray,
    along: HostArray,
    limits: tuple[float | None, float | None],
    manner: _Manner,
    *,
    params: Parameters,
) -> tuple[ColumnSplines, HostArray] | None:
    """The splines of a slit, and its fluxes without bad ends; None if it holds no source."""
    profile = cross_profile(flux, error, along)
    if profile is None or not profile.exceeds(*limits):
        return None
    flux = trimmed(flux, along, profile)
    profile = cross_profile(flux, error, along)
    if profile is None or not profile.exceeds(*limits):
        return None
    # traces that nods leave would make the sum of a column small
    positive = np.nanmin(profile.snr) < _NEGATIVE
    total = np.sum(flux, axis=0, where=flux > 0 if positive else np.isfinite(flux))
    if params.robust_scale:
        total = _without_gaps(flux, along, total, manner.settings)
    order = _order(flux.shape[1], manner.order)
    between = bool(params.interpolate_profiles)
    return fit_columns(flux, along, total, manner.settings, order, interpolate=between), flux


def _without_gaps(
    flux: HostArray, along: HostArray, total: HostArray, settings: SplineSettings
) -> HostArray:
    """Sums of columns as if no pixel were missing and none hot, by profiles fitted beforehand.

    The sum of a column whose peak is missing is low, and so raises all of its other pixels. Their
    fit would leave out the bright ones alone: the shoulders of the profile would be too high.
    """
    profile = fit_some_columns(flux, along, total, settings)(along)
    scale = column_scales(flux, profile, robust=True)[0]
    return np.where(np.isfinite(scale) & (scale > 0), scale, total)


def _without_ends(region: HostArray, width: int) -> HostArray:
    """Leave out the first and last pixels of each column of a region (…, y, column)."""
    count = np.cumsum(region, axis=-2)
    inner: HostArray = region & (count > width) & (count <= count[..., -1:, :] - width)
    return inner


def _shares(ds: xr.Dataset, factor: float, number: int) -> HostArray:
    units = strings(ds, "bunit") if "bunit" in ds else []
    units = units or [str(ds["sci"].attrs.get("units", ""))] * number
    return np.array([1.0 / factor if u in FLUX_DENSITIES else 1.0 for u in units])

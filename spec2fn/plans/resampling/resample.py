"""Host-side half of ``resample_spec``: output grids, and one drizzle operator for all slits.

The one spectrum of an image is a bucket with a single slit: the pixels around its bounding box.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.deferred import as_deferred
from spec2fn.errors import DatasetError, InputError, ParameterError
from spec2fn.host.drizzle import drizzle_overlap, neighbour_pairs, stack_overlaps, stack_pairs
from spec2fn.kernels.resampling import Overlap, Pairs
from spec2fn.modes import mode_of
from spec2fn.parameters import Parameters
from spec2fn.plan_base import Plan, array, labels
from spec2fn.plans.provenance import Provenance
from spec2fn.schema import meta_of
from spec2fn.slits import strings
from spec2fn.typing import Array, HostArray, Number
from spec2fn.units import FLUX_DENSITIES, SR_TO_ARCSEC2
from spec2fn.wcs.custom_grid import custom_grid, load_custom_wcs
from spec2fn.wcs.evaluate import SlitSamples, evaluate, is_celestial, pixel_size_deg, sample_slit
from spec2fn.wcs.msa_grid import MsaGrid, build_msa_grid
from spec2fn.wcs.s_region import box_region, slit_region
from spec2fn.wcs.slit_grid import (
    LazyWcs,
    Locator,
    SlitGrid,
    build_slit_grid,
    nirspec_grid,
    source_weights,
)
from spec2fn.wcs.tangent_grid import GwcsGrid, build_tangent_plane, check_size

if TYPE_CHECKING:
    import xarray as xr
    from gwcs import WCS

__all__ = ["ResamplePlan", "make_plan"]

_WORLD = ("ra", "dec", "wavelength")
_NO_PIXELS = "no pixel of the exposure has a wavelength and a position"


class ResamplePlan(Plan):
    """Geometry of resampled slits; valid for every integration.

    Attributes
    ----------
    overlap : Overlap
        The drizzle operator, for the slits on top of each other.
    pairs : Pairs
        Neighbours along the slit that share input pixels.
    wavelength : (slit, y, x) float64
        Wavelength of the output pixels [um]; NaN in the padding.
    xsize, ysize : (slit,) int
        True size of the output.
    pixar_sr, pixar_a2 : (slit,) float64, optional
        Pixel area of the output [sr] and [arcsec2]; NaN if that of the input is unknown, None if
        it is that of an image.
    ratio : (slit,) float64
        Input over output pixel size along the slit.
    scale : (slit,) float64
        By which values change with the size of the pixel (flux density per pixel does).
    exposure_time : () float64
        Exposure time [s], for weights; NaN if unknown.
    window : tuple of int
        The pixels of the input that are used (y0, y1, x0, x1).
    problems : tuple of str
        By slit: why it could not be resampled, or an empty string.
    provenance : Provenance
    source_xpos, source_ypos : (slit,) float64, optional
        Position in the output of a source whose position is known in pixels.
    """

    overlap: Overlap
    pairs: Pairs
    wavelength: Array = array("slit y x")
    xsize: Array = array("slit")
    ysize: Array = array("slit")
    pixar_sr: Array | None = array("slit")
    pixar_a2: Array | None = array("slit")
    ratio: Array = array("slit")
    scale: Array = array("slit")
    exposure_time: Number = array("")
    window: tuple[int, int, int, int]
    problems: tuple[str, ...] = labels("slit")
    provenance: Provenance
    source_xpos: Array | None = array("slit", default=None)
    source_ypos: Array | None = array("slit", default=None)


@dataclass(frozen=True, eq=False)
class _Exposure:
    """What the slits of an exposure share."""

    params: Parameters
    dispaxis: int
    instrument: str
    s_region: str | None
    on_sky: bool
    time: float
    custom: Mapping[str, Any] | None
    locate: Locator


@dataclass(frozen=True, eq=False)
class _Slit:
    """A slit of a bucket, or the part of an image around its one spectrum."""

    wcs: WCS
    world: Sequence[HostArray]  # ra, dec [deg] (of lamps x, y [m]), wavelength [um]; NaN outside
    image: HostArray
    area: float | None  # of a pixel [sr]
    shape_in: tuple[int, int]
    to_slit: Callable[..., Any] | None = None  # from the world, where it is known beforehand
    samples: SlitSamples | None = None  # of an image, also beyond its edges


@dataclass(frozen=True, eq=False)
class _Resampled:
    """A slit that can be resampled."""

    overlap: Overlap
    pairs: Pairs
    wavelength: HostArray
    wcs: WCS | SlitGrid | MsaGrid
    region: str | None
    ratio: float
    area: float | None


def make_plan(ds: xr.Dataset, params: Parameters) -> ResamplePlan | str:
    """Return the plan for a bucket of slits or the one spectrum of an image.

    Parameters
    ----------
    ds : xarray.Dataset
        With ``sci`` and the gwcs (of each slit); planes ``ra``, ``dec``, ``wavelength`` of slits
        spare their evaluation. The pixels (of the first integration) decide where the tangent
        plane of a NIRSpec slit touches the sky, which the result hardly depends on.
    params : Parameters
        Of :func:`spec2fn.steps.resample_spec.resample_spec`.

    Returns
    -------
    ResamplePlan or str
        Why there is none for an image; of slits the plan holds the problems.

    Raises
    ------
    DatasetError, InputError
        If there is no WCS (of slits), no dispersion direction, or `output_wcs` cannot be used.
    ParameterError
        If a pixel scale is not positive, or the size of the output cannot be found.
    """
    meta = meta_of(ds)
    dispaxis = ds.attrs.get("dispaxis", meta.get("DISPAXIS"))
    if dispaxis not in (1, 2):
        msg = (
            "resample_spec: needs the dispersion direction (DISPAXIS 1 or 2), found"
            f" {dispaxis!r}; run assign_wcs first"
        )
        raise InputError(msg)
    time = _exposure_time(ds)
    if params.weight_type == "exptime" and not time > 0:
        msg = (
            "resample_spec: weight_type='exptime' needs a positive exposure time (TMEASURE,"
            f" EFFEXPTM or XPOSURE), found {time}; use weight_type='ivm'"
        )
        raise InputError(msg)
    wanted, slits = params.output_wcs, "slit" in ds.dims
    exposure = _Exposure(
        params=params,
        dispaxis=dispaxis,
        # the slits of no other instrument are resampled
        instrument="NIRSPEC" if slits else str(ds.attrs.get("instrument", "")),
        s_region=ds.attrs.get("s_region", meta.get("S_REGION")),
        on_sky=not mode_of(ds).lamp,
        time=time,
        custom=None if wanted == "" else load_custom_wcs(wanted, params.output_shape),
        locate=Locator(),
    )
    return _plan_slits(ds, exposure) if slits else _plan_image(ds, exposure)


def _exposure_time(ds: xr.Dataset) -> float:
    told = (meta_of(ds).get(keyword) for keyword in ("TMEASURE", "EFFEXPTM"))
    known = next((float(value) for value in told if isinstance(value, (int, float))), None)
    return (_number(ds, "exposure_time") or math.nan) if known is None else known


def _number(ds: xr.Dataset, name: str, default: float | None = None, i: int = 0) -> float | None:
    """Return a number of the exposure or of slit `i`, None if it is not known."""
    value = default
    if name in ds:
        known = ds.variables[name].values
        value = float(known[i] if known.ndim else known)
    return None if value is None or not math.isfinite(value) else float(value)


def _plan_image(ds: xr.Dataset, exposure: _Exposure) -> ResamplePlan | str:
    meta = meta_of(ds)
    wcs = meta.wcs
    if not hasattr(wcs, "pipeline"):
        msg = "resample_spec: the exposure has no WCS; run assign_wcs first"
        raise InputError(msg)
    samples = sample_slit(wcs)
    ny, nx = ds["sci"].shape[-2:]
    y0, y1, x0, x1 = window = samples.window((ny, nx))
    image = _first_image(ds["sci"].data)[y0:y1, x0:x1]
    if not image.size:
        return _NO_PIXELS
    area = _number(ds, "pixar_sr", meta.get("PIXAR_SR"))
    slit = _Slit(wcs, list(samples.cut(window)), image, area, (ny, nx), samples=samples)
    one = _resampled(slit, exposure)
    if isinstance(one, str):
        return one
    plan = _joined(ds, exposure, [0], [one], image.shape)
    if one.area is None:
        plan = replace(plan, pixar_sr=None, pixar_a2=None)
    x, y = (_number(ds, f"source_{axis}pos") for axis in "xy")
    # of all others the position is given in units of the slit
    if mode_of(ds).slit and x is not None and y is not None:
        world = evaluate(wcs, x, y)
        moved = np.array(evaluate(plan.provenance.wcs[0], *world, inverse=True))
        if np.isfinite(moved).all():
            plan = replace(plan, source_xpos=moved[:1], source_ypos=moved[1:])
    return replace(plan, window=window)


def _plan_slits(ds: xr.Dataset, exposure: _Exposure) -> ResamplePlan:
    wcs = meta_of(ds).wcs
    if not isinstance(wcs, Mapping):
        msg = (
            "resample_spec: the Dataset holds no WCS of slits (meta.wcs by slit id);"
            " run extract_2d first"
        )
        raise DatasetError(msg)
    ids = [int(i) for i in ds["slit"].values]
    slits = [_resampled_or_why(ds, i, wcs, exposure) for i in range(len(ids))]
    return _joined(ds, exposure, ids, slits, (ds.sizes["y"], ds.sizes["x"]))


def _resampled_or_why(
    ds: xr.Dataset, i: int, wcs: Mapping[int, WCS], exposure: _Exposure
) -> _Resampled | str:
    """Return a slit of a bucket, or what is wrong with it: it must not stop the others."""
    key = int(ds["slit"].values[i])
    locator = getattr(wcs, "locator", None)
    try:
        known = as_deferred(wcs, key)
        one: _Resampled | str = "the slit has no WCS"
        if known is not None:
            to_slit = locator(key) if locator else None
            one = _resampled(_slit(ds, i, known, to_slit, wcs), exposure)
    except ParameterError:
        raise  # says nothing of this slit
    except Exception as error:
        one = " ".join(str(error).split()) or type(error).__name__
    return f"resample_spec: {one}" if isinstance(one, str) else one


def _slit(
    ds: xr.Dataset,
    i: int,
    wcs: WCS,
    to_slit: Callable[..., Any] | None,
    together: Any,  # noqa: ANN401 - a mapping of gwcs, which may know more
) -> _Slit:
    ny, nx = (int(ds.variables[n].values[i]) for n in ("ysize", "xsize"))
    key = int(ds["slit"].values[i])
    if all(name in ds for name in _WORLD):
        world = [np.asarray(ds.variables[name].data)[i, :ny, :nx] for name in _WORLD]
    elif hasattr(together, "on_pixels") and key not in together.changes:
        planes = together.on_pixels(together.world, np.array([key]), (ny, nx))
        world = [plane[0] for plane in planes]
    else:
        world = list(sample_slit(wcs).cut((0, ny, 0, nx)))
    image = _first_image(ds.variables["sci"].data[i, ..., :ny, :nx])
    area = _number(ds, "pixar_sr", meta_of(ds).get("PIXAR_SR"), i)
    return _Slit(wcs, world, image, area, (ny, nx), to_slit=to_slit)


def _first_image(data: Array) -> HostArray:
    """Return the first of all leading axes: a plan does not depend on how many are in work."""
    data = np.asarray(data)
    return data.reshape(-1, *data.shape[-2:])[0]


def _resampled(slit: _Slit, exposure: _Exposure) -> _Resampled | str:
    """Return the overlap of a slit with its output grid, or why there is none."""
    params = exposure.params
    if not slit.image.size:
        return "the slit has no pixels"
    grid: GwcsGrid | SlitGrid | MsaGrid | str
    if exposure.custom is not None:
        size_deg = pixel_size_deg(slit.wcs, exposure.dispaxis)
        grid, ratio, area = custom_grid(exposure.custom, exposure.dispaxis, size_deg, slit.area)
    else:
        ratio = _pixel_ratio(slit.wcs, exposure)
        grid, area = _rectified(slit, exposure, ratio), slit.area / ratio if slit.area else None
    if isinstance(grid, str):
        return grid
    shape = grid.shape if params.output_shape is None else params.output_shape[::-1]
    if params.output_shape is not None or exposure.custom is not None:
        check_size(shape, slit.shape_in)
    overlap = drizzle_overlap(grid.pixels(*slit.world), shape, params.kernel, params.pixfrac)
    if not overlap.rows.size:
        return "the output grid covers no pixel of the slit"
    ra, dec, wavelength = grid.world(
        np.arange(shape[1], dtype=np.float64)[None, :],
        np.arange(shape[0], dtype=np.float64)[:, None],
    )
    wcs = grid.sized(params.output_shape if exposure.custom is None else None)
    region = None
    if exposure.on_sky and exposure.instrument == "NIRSPEC":
        region = box_region(ra, dec)
    elif exposure.on_sky and exposure.s_region:
        region = slit_region(exposure.s_region, wcs)
    return _Resampled(
        overlap=overlap,
        pairs=neighbour_pairs(overlap, axis=exposure.dispaxis - 1),
        wavelength=np.broadcast_to(wavelength, shape),
        wcs=wcs,
        region=region,
        ratio=ratio,
        area=area,
    )


def _pixel_ratio(wcs: WCS, exposure: _Exposure) -> float:
    params = exposure.params
    if params.pixel_scale is None:
        return float(params.pixel_scale_ratio)
    size = pixel_size_deg(wcs, exposure.dispaxis) if exposure.on_sky else math.nan
    ratio = 3600.0 * size / params.pixel_scale
    if not math.isfinite(ratio):
        msg = (
            "resample_spec.pixel_scale: needs a slit whose centre lies on the sky; use"
            " pixel_scale_ratio instead"
        )
        raise ParameterError(msg)
    return ratio


def _rectified(
    slit: _Slit, exposure: _Exposure, ratio: float
) -> GwcsGrid | SlitGrid | MsaGrid | str:
    """Return the grid on which a spectrum is straight, or why there is none."""
    if not exposure.on_sky:
        return build_msa_grid(slit.world, ratio)
    if slit.to_slit is not None:
        return build_slit_grid(slit.world, source_weights(slit.image), slit.to_slit, ratio)
    who = exposure.instrument
    if who == "NIRSPEC":
        return nirspec_grid(slit.wcs, slit.world, slit.image, ratio, exposure.locate)
    if not is_celestial(slit.wcs):
        who = who or "an unknown instrument"
        return f"no rule makes an output grid for {who} without a sky; give output_wcs"
    assert slit.samples is not None
    descending = who == "MIRI"
    out = build_tangent_plane(slit.samples, exposure.dispaxis, ratio, descending=descending)
    return _NO_PIXELS if out is None else GwcsGrid(out)


def _joined(
    ds: xr.Dataset,
    exposure: _Exposure,
    ids: Sequence[int],
    slits: Sequence[_Resampled | str],
    shape_in: tuple[int, int],
) -> ResamplePlan:
    """Return the plan of slits that stand on top of each other, padded to one size."""
    good = {i: s for i, s in enumerate(slits) if not isinstance(s, str)}
    units = [str(ds["sci"].attrs.get("units", "")).strip()] * len(ids)
    sizes = np.zeros((len(ids), 2), np.int64)
    if "slit" in ds.dims:
        units = strings(ds, "bunit") if "bunit" in ds else units
        # a slit that failed keeps its size, so that it has a place in the product
        sizes = np.stack([ds["ysize"].values, ds["xsize"].values], axis=1).astype(np.int64)
    for i, one in good.items():
        sizes[i] = one.overlap.shape_out
    height, width = (int(n) for n in sizes.max(axis=0, initial=1))
    wavelength = np.full((len(ids), height, width), np.nan)
    ratio, area = np.ones(len(ids)), np.full(len(ids), np.nan)
    for i, one in good.items():
        ny, nx = one.overlap.shape_out
        wavelength[i, :ny, :nx] = one.wavelength
        ratio[i], area[i] = one.ratio, math.nan if one.area is None else one.area
    # flux density per pixel follows the size of the pixel, surface brightness does not
    per_pixel = np.array([u in FLUX_DENSITIES for u in units]) & np.isfinite(area)
    overlaps = {i: s.overlap for i, s in good.items()}
    pairs = {i: s.pairs for i, s in good.items()}
    return ResamplePlan(
        overlap=stack_overlaps(overlaps, len(ids), shape_in, (height, width)),
        pairs=stack_pairs(pairs, overlaps, len(ids), (height, width)),
        wavelength=wavelength,
        xsize=sizes[:, 1],
        ysize=sizes[:, 0],
        pixar_sr=area,
        pixar_a2=area * SR_TO_ARCSEC2,
        ratio=ratio,
        scale=np.where(per_pixel, 1.0 / ratio, 1.0),
        exposure_time=np.float64(exposure.time),
        window=(0, shape_in[0], 0, shape_in[1]),
        problems=tuple(s if isinstance(s, str) else "" for s in slits),
        provenance=Provenance(
            wcs=LazyWcs({ids[i]: s.wcs for i, s in good.items()}),
            s_region=tuple(good[i].region if i in good else None for i in range(len(ids))),
        ),
    )

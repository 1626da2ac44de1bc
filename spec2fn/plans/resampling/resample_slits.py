"""Host-side half of ``resample_spec`` for a bucket of slits: one drizzle operator for all."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.deferred import as_deferred
from spec2fn.errors import DatasetError, ParameterError
from spec2fn.host.drizzle import (
    Overlap,
    Pairs,
    drizzle_overlap,
    neighbour_pairs,
    stack_overlaps,
    stack_pairs,
)
from spec2fn.plan_base import Plan, array, labels
from spec2fn.plans.resampling.resample import Provenance, pixel_map
from spec2fn.plans.slits.slit_frame import strings
from spec2fn.schema import meta_of
from spec2fn.typing import Array, Number
from spec2fn.units import SR_TO_ARCSEC2
from spec2fn.wcs.slit_grid import (
    LazyWcs,
    Locator,
    build_slit_grid,
    first_image,
    nirspec_grid,
    source_weights,
)
from spec2fn.wcs.tangent_grid import (
    SlitSamples,
    box_region,
    check_size,
    custom_grid,
    evaluate,
    load_custom_wcs,
    sample_slit,
    spatial_scale,
    with_shape,
)

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["ResampleSlitsPlan", "plan_slits"]

_PER_PIXEL = ("Jy", "mJy", "uJy", "nJy", "MJy")
_WORLD = ("ra", "dec", "wavelength")
_NO_WCS = "the slit has no WCS"


class ResampleSlitsPlan(Plan):
    """Geometry of the resampled slits of a bucket; valid for every integration.

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
    pixar_sr, pixar_a2 : (slit,) float64
        Pixel area of the output [sr] and [arcsec2]; NaN if that of the input is unknown.
    ratio : (slit,) float64
        Input over output pixel size along the slit.
    scale : (slit,) float64
        By which values change with the size of the pixel (flux density per pixel does).
    exposure_time : () float64
        Exposure time [s], for weights; NaN if unknown.
    shape : tuple of int
        (y, x) of the padded output.
    problems : tuple of str
        By slit: why it could not be resampled, or an empty string.
    provenance : Provenance
        Mapping of slit id to output WCS, and the S_REGION by slit.
    """

    overlap: Overlap
    pairs: Pairs
    wavelength: Array = array("slit y x")
    xsize: Array = array("slit")
    ysize: Array = array("slit")
    pixar_sr: Array = array("slit")
    pixar_a2: Array = array("slit")
    ratio: Array = array("slit")
    scale: Array = array("slit")
    exposure_time: Number = array("")
    shape: tuple[int, int]
    problems: tuple[str, ...] = labels("slit")
    provenance: Provenance = field(default_factory=Provenance)


@dataclass(frozen=True, eq=False)
class _Options:
    """Parameters of the step, and what its slits share."""

    pixfrac: float
    kernel: str
    output_shape: tuple[int, int] | None
    ratio: float
    scale: float | None
    custom: dict[str, Any] | None
    locate: Locator


@dataclass(frozen=True, eq=False)
class _One:
    """A slit that can be resampled."""

    overlap: Overlap
    pairs: Pairs
    wavelength: np.ndarray
    wcs: Any
    region: str | None
    ratio: float
    area: float | None


def plan_slits(
    ds: xr.Dataset,
    *,
    exposure_time: float = math.nan,
    pixfrac: float = 1.0,
    kernel: str = "square",
    output_shape: tuple[int, int] | None = None,
    pixel_scale_ratio: float = 1.0,
    pixel_scale: float | None = None,
    output_wcs: Any = "",
) -> ResampleSlitsPlan:
    """Return the plan for a bucket of slits.

    Parameters
    ----------
    ds : xarray.Dataset
        A bucket with ``sci`` and the gwcs of each slit; planes ``ra``, ``dec``, ``wavelength``
        spare their evaluation. The pixels (of the first integration) decide where the
        tangent plane touches the sky, which the result hardly depends on.
    exposure_time : float
        [s]
    pixfrac, kernel, output_shape, pixel_scale_ratio, pixel_scale, output_wcs
        Parameters of :func:`spec2fn.steps.resample_spec.resample_spec`.

    Raises
    ------
    DatasetError
        If there are no WCSs of slits.
    ParameterError
        If a pixel scale is not positive, or the size of the output cannot be found.
    InputError
        If `output_wcs` cannot be used.
    """
    wcs = meta_of(ds).wcs
    if not isinstance(wcs, Mapping):
        msg = (
            "resample_spec: the Dataset holds no WCS of slits (meta.wcs by slit id);"
            " run extract_2d first"
        )
        raise DatasetError(msg)
    is_custom = not (isinstance(output_wcs, str) and not output_wcs)
    options = _Options(
        pixfrac,
        kernel,
        output_shape,
        pixel_scale_ratio,
        pixel_scale,
        load_custom_wcs(output_wcs, output_shape) if is_custom else None,
        Locator(),
    )
    locator = getattr(wcs, "locator", None)
    made: list[_One | str] = []
    for i, slit in enumerate(ds["slit"].values):
        try:
            known = as_deferred(wcs, int(slit))
            to_slit = locator(int(slit)) if locator is not None and known is not None else None
            one = _NO_WCS if known is None else _resampled(ds, i, known, to_slit, options)
        except ParameterError:
            raise  # says nothing of this slit
        except Exception as error:  # a broken slit must not stop the others
            one = " ".join(str(error).split()) or type(error).__name__
        if isinstance(one, str):
            one = f"resample_spec: {one}"
        made.append(one)
    return _joined(ds, made, exposure_time)


def _joined(ds: xr.Dataset, made: list[_One | str], exposure_time: float) -> ResampleSlitsPlan:
    good = [None if isinstance(m, str) else m for m in made]
    # a slit that failed keeps its size, so that it has a place in the product
    sizes = np.stack([ds["ysize"].values, ds["xsize"].values], axis=1).astype(np.int64)
    for i, one in enumerate(good):
        if one is not None:
            sizes[i] = one.overlap.shape_out
    height, width = (int(n) for n in sizes.max(axis=0, initial=1))
    overlaps = [None if m is None else m.overlap for m in good]
    shape_in = (ds.sizes["y"], ds.sizes["x"])
    wavelength = np.full((len(made), height, width), np.nan)
    ratio, area = np.ones(len(made)), np.full(len(made), np.nan)
    for i, one in enumerate(good):
        if one is None:
            continue
        ny, nx = one.overlap.shape_out
        wavelength[i, :ny, :nx] = one.wavelength
        ratio[i], area[i] = one.ratio, math.nan if one.area is None else one.area
    per_pixel = np.array([u in _PER_PIXEL for u in _units(ds)]) & np.isfinite(area)
    found = {
        int(s): one.wcs for s, one in zip(ds["slit"].values, good, strict=True) if one is not None
    }
    regions = tuple(None if m is None else m.region for m in good)
    return ResampleSlitsPlan(
        overlap=stack_overlaps(overlaps, shape_in, (height, width)),
        pairs=stack_pairs(
            [None if m is None else m.pairs for m in good], overlaps, (height, width)
        ),
        wavelength=wavelength,
        xsize=sizes[:, 1],
        ysize=sizes[:, 0],
        pixar_sr=area,
        pixar_a2=area * SR_TO_ARCSEC2,
        ratio=ratio,
        scale=np.where(per_pixel, 1.0 / ratio, 1.0),
        exposure_time=np.float64(exposure_time),
        shape=(height, width),
        problems=tuple(m if isinstance(m, str) else "" for m in made),
        provenance=Provenance(wcs=LazyWcs(found), s_region=regions),
    )


def _units(ds: xr.Dataset) -> list[str]:
    if "bunit" in ds:
        return strings(ds, "bunit")
    return [str(ds["sci"].attrs.get("units", "")).strip()] * ds.sizes["slit"]


def _resampled(
    ds: xr.Dataset, i: int, wcs: Any, to_slit: Callable[..., Any] | None, options: _Options
) -> _One | str:
    ny, nx = int(ds.variables["ysize"].values[i]), int(ds.variables["xsize"].values[i])
    if not (ny and nx):
        return "the slit has no pixels"
    world = _world(ds, i, wcs, (ny, nx))
    area = _area(ds, i)
    dispaxis = int(ds.attrs.get("dispaxis", 1))
    if options.custom is not None:
        given = custom_grid(
            options.custom,
            options.output_shape,
            dispaxis=dispaxis,
            scale_in=spatial_scale(wcs, dispaxis),
            area_in=area,
        )
        shape, ratio, area, grid = given.shape, given.ratio, given.area, given.wcs
        check_size(shape, (ny, nx))
        box = ((-0.5, nx - 0.5), (-0.5, ny - 0.5))
        positions, _ = pixel_map(SlitSamples((0, 0), box, *world), grid, (ny, nx))
        seen = evaluate(grid, np.arange(shape[1])[None, :], np.arange(shape[0])[:, None])
        wavelength, region = seen[2], box_region(seen[0], seen[1])
    else:
        ratio = _ratio(wcs, dispaxis, options)
        image = first_image(ds.variables["sci"].data[i, ..., :ny, :nx])
        made = (
            nirspec_grid(wcs, world, image, ratio, options.locate)
            if to_slit is None
            else build_slit_grid(world, source_weights(image), to_slit, ratio)
        )
        if isinstance(made, str):
            return made
        grid, shape = made, made.shape
        if options.output_shape is not None:
            shape = options.output_shape[::-1]
            check_size(shape, (ny, nx))
        positions = grid.pixels(*world)
        column = np.interp(np.arange(shape[1]), *grid.table(), left=np.nan, right=np.nan)
        wavelength = np.broadcast_to(column, shape)
        region = box_region(*grid.sky(np.arange(shape[0])))
        area = None if area is None else area / ratio
        if options.output_shape is not None:
            grid = with_shape(made.gwcs(), shape)
    edges = (True, True, True, True)
    overlap = drizzle_overlap(positions, shape, options.kernel, options.pixfrac, edges)
    if not overlap.rows.size:
        return "the output grid covers no pixel of the slit"
    pairs = neighbour_pairs(overlap, axis=dispaxis - 1)
    return _One(overlap, pairs, wavelength, grid, region, ratio, area)


def _ratio(wcs: Any, dispaxis: int, options: _Options) -> float:
    if options.scale is None:
        return float(options.ratio)
    ratio = 3600.0 * spatial_scale(wcs, dispaxis) / options.scale
    if not math.isfinite(ratio):
        msg = "pixel_scale needs a slit whose centre lies on the sky; use pixel_scale_ratio instead"
        raise ParameterError(msg)
    return ratio


def _area(ds: xr.Dataset, i: int) -> float | None:
    value: Any = meta_of(ds).get("PIXAR_SR")
    if "pixar_sr" in ds:
        known = np.asarray(ds.variables["pixar_sr"].values, dtype=np.float64)
        value = known if known.ndim == 0 else known[i]
    return None if value is None or not math.isfinite(value) else float(value)


def _world(
    ds: xr.Dataset, i: int, wcs: Any, shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    ny, nx = shape
    if all(name in ds for name in _WORLD):
        ra, dec, wavelength = (np.asarray(ds.variables[name].data)[i, :ny, :nx] for name in _WORLD)
        return ra, dec, wavelength
    samples = sample_slit(wcs)
    (oy, ox), (height, width) = samples.origin, samples.ra.shape
    y0, x0, y1, x1 = max(0, oy), max(0, ox), min(ny, oy + height), min(nx, ox + width)
    out = []
    for values in (samples.ra, samples.dec, samples.wavelength):
        plane = np.full(shape, np.nan)
        plane[y0:y1, x0:x1] = values[y0 - oy : y1 - oy, x0 - ox : x1 - ox]
        out.append(plane)
    return out[0], out[1], out[2]

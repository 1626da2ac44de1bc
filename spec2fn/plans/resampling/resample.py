"""Host-side half of ``resample_spec``: output grid, pixel map, overlap of pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from spec2fn.errors import InputError, ParameterError
from spec2fn.host.drizzle import Overlap, Pairs, drizzle_overlap, neighbour_pairs
from spec2fn.plan_base import Plan, array
from spec2fn.typing import Array, Number
from spec2fn.units import SR_TO_ARCSEC2
from spec2fn.wcs.slit_grid import nirspec_grid
from spec2fn.wcs.tangent_grid import (
    OutputGrid,
    SlitSamples,
    box_region,
    build_tangent_plane,
    check_size,
    custom_grid,
    evaluate,
    is_celestial,
    sample_slit,
    slit_region,
    spatial_scale,
    with_shape,
)

__all__ = ["Provenance", "ResampleSpecPlan", "Slit", "make_plan", "pixel_map", "require_wcs"]

_NO_PIXELS = "no pixel of the exposure has a wavelength and a position"


@dataclass(frozen=True)
class Provenance:
    """What describes the output but takes no part in computing it; equal to any other one.

    Attributes
    ----------
    wcs : gwcs.WCS
        Output WCS.
        Or mapping of slit id to WCS.
    s_region : str or tuple of str, optional
        Of the slits of a bucket in their order.
    """

    wcs: Any = field(default=None, compare=False, repr=False)
    s_region: Any = field(default=None, compare=False)


class ResampleSpecPlan(Plan):
    """Geometry of a resampled slit; valid for every integration of the exposure.

    Attributes
    ----------
    overlap : Overlap
        The drizzle operator, from the pixels in the window to those of the output.
    pairs : Pairs
        Neighbours along the slit that share input pixels.
    wavelength : (y, x) float64
        Wavelength of the output pixels [um].
    pixar_sr, pixar_a2 : () float64, optional
        Pixel area of the output [sr] and [arcsec2]; None if that of the input is unknown.
    source_xpos, source_ypos : () float64, optional
        Position of the source in the output.
    exposure_time : () float64
        Exposure time [s], for weights; NaN if unknown.
    ratio : () float64
        Input over output pixel size along the slit.
    window : tuple of int
        Cutout of the input (y0, y1, x0, x1).
    provenance : Provenance
        Output WCS and S_REGION.
    """

    overlap: Overlap
    pairs: Pairs
    wavelength: Array = array("y x")
    pixar_sr: Number | None = array("")
    pixar_a2: Number | None = array("")
    source_xpos: Number | None = array("")
    source_ypos: Number | None = array("")
    exposure_time: Number = array("")
    ratio: Number = array("")
    window: tuple[int, int, int, int]
    provenance: Provenance = field(default_factory=Provenance)


@dataclass(frozen=True)
class Slit:
    """What is known of one slit of an exposure.

    Attributes
    ----------
    wcs : gwcs.WCS
    shape : tuple of int
        (y, x) of the exposure.
    dispaxis : {1, 2}
        Dispersion along x or y.
    instrument : str
        MIRI spectra run towards shorter wavelengths, and so do their resampled images.
    pixel_area : float, optional
        Nominal area of a pixel [sr].
    source : tuple of float, optional
        Position of the source (x, y) in the exposure.
    s_region : str, optional
        S_REGION of the exposure.
    exposure_time : float
        Time that weights by exposure time use [s].
    image : (y, x) float, optional
        Pixels of a NIRSpec slit: where its light is.
    """

    wcs: Any
    shape: tuple[int, int]
    dispaxis: int
    instrument: str = ""
    pixel_area: float | None = None
    source: tuple[float, float] | None = None
    s_region: str | None = None
    exposure_time: float = math.nan
    image: Any = None


def pixel_map(
    samples: SlitSamples, wcs_out: Any, shape: tuple[int, int]
) -> tuple[np.ndarray, tuple[int, int, int, int]]:
    """Return where the pixels of an exposure fall in the output image.

    Parameters
    ----------
    samples : SlitSamples
        World coordinates of the pixels.
    wcs_out : gwcs.WCS
        With the same world axes.
    shape : tuple of int
        (y, x) of the exposure.

    Returns
    -------
    map : (2, y, x) float64
        x and y in the output, for the pixels in the window; NaN outside the bounding box and
        where a pixel has no world coordinates.
    window : tuple of int
        (y0, y1, x0, x1), upper limits excluded: the bounding box within the exposure.
    """
    ny, nx = samples.ra.shape
    oy, ox = samples.origin
    y0, x0 = max(0, oy), max(0, ox)
    y1, x1 = max(y0, min(shape[0], oy + ny)), max(x0, min(shape[1], ox + nx))
    cut = (slice(y0 - oy, y1 - oy), slice(x0 - ox, x1 - ox))
    world = [w[cut] for w in (samples.ra, samples.dec, samples.wavelength)]
    known = np.logical_and.reduce([np.isfinite(w) for w in world])
    out = np.full((2, *known.shape), np.nan)
    if known.any():
        out[:, known] = evaluate(wcs_out, *(w[known] for w in world), inverse=True)
    return out, (y0, y1, x0, x1)


def make_plan(
    slit: Slit,
    *,
    pixfrac: float = 1.0,
    kernel: str = "square",
    output_shape: tuple[int, int] | None = None,
    pixel_scale_ratio: float = 1.0,
    pixel_scale: float | None = None,
    output_wcs: Any = "",
) -> ResampleSpecPlan | str:
    """Return the plan for one slit, or why it cannot be resampled.

    Parameters
    ----------
    slit : Slit
    pixfrac, kernel, output_shape, pixel_scale_ratio, pixel_scale, output_wcs
        Parameters of :func:`spec2fn.steps.resample_spec.resample_spec`.

    Returns
    -------
    ResampleSpecPlan or str

    Raises
    ------
    ParameterError
        If a pixel scale is not positive, or the size of the output cannot be found.
    InputError
        If `output_wcs` cannot be used.
    """
    samples = sample_slit(slit.wcs)
    if isinstance(output_wcs, str) and not output_wcs:
        ratio = _pixel_ratio(slit, pixel_scale_ratio, pixel_scale)
        grid = _built_grid(slit, samples, ratio, output_shape)
    else:
        grid = custom_grid(
            output_wcs,
            output_shape,
            dispaxis=slit.dispaxis,
            scale_in=spatial_scale(slit.wcs, slit.dispaxis),
            area_in=slit.pixel_area,
        )
    if isinstance(grid, str):
        return grid
    check_size(grid.shape, slit.shape)
    positions, window = pixel_map(samples, grid.wcs, slit.shape)
    if not np.isfinite(positions).any():
        return _NO_PIXELS
    y0, y1, x0, x1 = window
    at_edge = (y0 == 0, y1 == slit.shape[0], x0 == 0, x1 == slit.shape[1])
    overlap = drizzle_overlap(positions, grid.shape, kernel, pixfrac, at_edge)
    if not overlap.rows.size:
        return "the output grid covers no pixel of the exposure"
    pairs = neighbour_pairs(overlap, axis=0 if slit.dispaxis == 1 else 1)
    x, y = _moved_source(slit, grid.wcs)
    ny, nx = grid.shape
    world = evaluate(grid.wcs, np.arange(nx)[None, :], np.arange(ny)[:, None])
    region = None
    if slit.instrument == "NIRSPEC":
        region = box_region(world[0], world[1])
    elif slit.s_region:
        region = slit_region(slit.s_region, grid.wcs)
    return ResampleSpecPlan(
        overlap=overlap,
        pairs=pairs,
        wavelength=np.array(world[2]),
        pixar_sr=None if grid.area is None else np.float64(grid.area),
        pixar_a2=None if grid.area is None else np.float64(grid.area * SR_TO_ARCSEC2),
        source_xpos=x,
        source_ypos=y,
        exposure_time=np.float64(slit.exposure_time),
        ratio=np.float64(grid.ratio),
        window=window,
        provenance=Provenance(wcs=grid.wcs, s_region=region),
    )


def _pixel_ratio(slit: Slit, ratio: float, scale: float | None) -> float:
    if scale is not None:
        ratio = math.nan
        if scale > 0:
            ratio = 3600.0 * spatial_scale(slit.wcs, slit.dispaxis) / scale
        if not math.isfinite(ratio):
            msg = (
                "resample_spec.pixel_scale: needs a positive size in arcsec and an exposure whose"
                f" centre lies on the sky, got {scale!r}; use pixel_scale_ratio instead"
            )
            raise ParameterError(msg)
    return float(ratio)


def _built_grid(
    slit: Slit, samples: SlitSamples, ratio: float, output_shape: tuple[int, int] | None
) -> OutputGrid | str:
    # lamps (no sky) need a grid of their own kind
    if not is_celestial(slit.wcs):
        who = slit.instrument or "an unknown instrument"
        return f"no rule makes an output grid for {who} without a sky; give output_wcs"
    if slit.instrument == "NIRSPEC":
        made = nirspec_grid(
            slit.wcs, (samples.ra, samples.dec, samples.wavelength), _within(slit, samples), ratio
        )
        if isinstance(made, str):
            return made
        out = made.gwcs()
    else:
        descending = slit.instrument == "MIRI"
        out = build_tangent_plane(samples, slit.dispaxis, ratio, descending=descending)
        if out is None:
            return _NO_PIXELS
    if output_shape is not None:
        out = with_shape(out, (output_shape[1], output_shape[0]))
    area = slit.pixel_area / ratio if slit.pixel_area else None
    return OutputGrid(out, tuple(out.array_shape), ratio, area)


def _within(slit: Slit, samples: SlitSamples) -> np.ndarray:
    # the pixels of the exposure that the samples are of
    out = np.full(samples.ra.shape, np.nan)
    if slit.image is None:
        return out
    ny, nx = samples.ra.shape
    y = np.arange(ny) + samples.origin[0]
    x = np.arange(nx) + samples.origin[1]
    rows, columns = (y >= 0) & (y < slit.shape[0]), (x >= 0) & (x < slit.shape[1])
    out[np.ix_(rows, columns)] = np.asarray(slit.image)[np.ix_(y[rows], x[columns])]
    return out


def _moved_source(slit: Slit, wcs_out: Any) -> tuple[Any, Any]:
    if slit.source is None:
        return None, None
    x, y = evaluate(wcs_out, *evaluate(slit.wcs, *slit.source), inverse=True)
    if not (np.isfinite(x) and np.isfinite(y)):
        return None, None
    return np.float64(x), np.float64(y)


def require_wcs(wcs: Any) -> Any:
    """Return the gwcs of one slit; :class:`InputError` if there is none."""
    if not hasattr(wcs, "pipeline"):
        msg = "resample_spec: the exposure has no WCS; run assign_wcs first"
        raise InputError(msg)
    return wcs

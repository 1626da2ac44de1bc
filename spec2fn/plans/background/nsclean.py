"""Host-side half of the 1/f-noise correction: which pixels show background, and the fit.

The plan holds what does not depend on pixel values (regions of the slits, flat, a user's mask), so
that it serves every piece of an exposure. :func:`flicker_noise` searches, sorts and fits, and is
therefore host-only.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.dq import PIXEL
from spec2fn.errors import DatasetError
from spec2fn.host.background_mesh import background_mesh
from spec2fn.host.line_noise import (
    fit_full_frame,
    fit_subarray,
    median_stripes,
    transposed,
)
from spec2fn.host.pixel_clipping import SortedPixels
from spec2fn.modes import mode_of
from spec2fn.parameters import Parameters
from spec2fn.plan_base import Plan, array
from spec2fn.schema import FIXED_SLIT_QUADRANT, meta_of
from spec2fn.typing import Array

if TYPE_CHECKING:
    import xarray as xr

__all__ = [
    "NscleanPlan",
    "dark_pixels",
    "filled_flat",
    "flicker_noise",
    "make_plan",
    "mask_boxes",
    "scene_masks",
    "slit_boxes",
]

Box = tuple[float, float, float, float]

FIXED_SLIT_ROWS = (922, 1116)
"""Rows (first, end) of a full frame that the fixed slits illuminate."""

_CUTOFFS = (1061.0, 1211.0, 49943.0, 49957.0)
_CUTOFFS_ALLSLITS = (150.0, 200.0, 49943.0, 49957.0)
_FULL_FRAME = (2048, 2048)
_CHANNELS = 4
_CLIP = 3.0


class NscleanPlan(Plan):
    """What the correction of one exposure needs besides its pixel values.

    Attributes
    ----------
    dark : bool ndarray, (y, x)
        False where a slit, a failed-open shutter or the fixed-slit region may show light.
    bright : bool ndarray, (y, x)
        True where a slit shows its spectrum, for the brightness of each integration.
    reversed_lines : bool
        Whether the detector reads its lines from high to low columns (NRS2).
    slow_axis : int
        FITS axis of the slow readout direction, 1 (x) or 2 (y).
    cutoffs : tuple of four float
        Filter of the subarray fit [Hz].
    fit_method, fit_by_channel, background_method, background_box_size, n_sigma, fit_histogram, \
    single_mask, centred_kernels
        Parameters of the step.
    flat : ndarray, (y, x), float32, optional
        By which the image is divided before the fit; without zeros or NaN.
    given : bool ndarray, ([integration,] y, x), optional
        Mask given by the user, used as it is.
    """

    dark: Array = array("y x")
    bright: Array = array("y x")
    reversed_lines: bool
    slow_axis: int
    cutoffs: tuple[float, float, float, float]
    fit_method: str
    fit_by_channel: bool
    background_method: str | None
    background_box_size: tuple[int, int] | None
    n_sigma: float
    fit_histogram: bool
    single_mask: bool
    centred_kernels: bool
    flat: Array | None = array("y x", default=None)
    given: Array | None = array("[integration] y x", default=None)


def make_plan(
    ds: xr.Dataset, flat: Array | None, given: Array | None, params: Parameters
) -> NscleanPlan:
    """Return the plan of an exposure; see :func:`spec2fn.steps.nsclean.nsclean`.

    Parameters
    ----------
    ds : xarray.Dataset
    flat, given : ndarray, optional
        See :class:`NscleanPlan`.
    params : Parameters
        Of the step.

    Raises
    ------
    DatasetError
        If the slits are not known, unless they do not matter.
    """
    subarray = str(ds.attrs.get("subarray", "")).upper()
    shape = (ds["sci"].shape[-2], ds["sci"].shape[-1])
    newer = params.mask_science_regions
    regions = params.mask_spectral_regions if newer is None else newer
    boxes = slit_boxes(ds)
    dark = np.ones(shape, dtype=bool)
    if regions and given is None:
        if ("wavelength" not in ds) if mode_of(ds).sliced else (boxes is None):
            msg = (
                "nsclean: mask_spectral_regions needs to know where the slits are; run assign_wcs"
                " on this exposure first, or set mask_spectral_regions=False"
            )
            raise DatasetError(msg)
        dark = dark_pixels(ds, boxes or ())
    return NscleanPlan(
        dark=dark,
        bright=mask_boxes(shape, (box for box, _ in boxes or ())),
        reversed_lines=str(ds.attrs.get("detector", "")).upper() != "NRS1",
        slow_axis=abs(int(meta_of(ds).get("SLOWAXIS", 1))),
        cutoffs=_CUTOFFS_ALLSLITS if subarray == "ALLSLITS" else _CUTOFFS,
        fit_method=params.fit_method,
        fit_by_channel=params.fit_by_channel and subarray in ("", "FULL"),
        background_method=params.background_method,
        background_box_size=params.background_box_size,
        n_sigma=params.n_sigma,
        fit_histogram=params.fit_histogram,
        single_mask=params.single_mask and params.background_method != "median_image",
        centred_kernels=params.centred_kernels,
        flat=flat,
        given=given,
    )


def slit_boxes(ds: xr.Dataset) -> tuple[tuple[Box, int], ...] | None:
    """Return the bounding boxes (x0, x1, y0, y1) of the open slits, with their quadrants.

    ``assign_wcs`` keeps the slits in ``meta.records["slits"]``, and a mapping of their position
    there to their gwcs in ``meta.wcs``; None if it has not been run.
    """
    meta = meta_of(ds)
    slits, wcs = meta.records.get("slits"), meta.wcs
    if slits is not None and not slits:
        return ()
    if slits is None or wcs is None:
        return None
    boxes = getattr(wcs, "boxes", None)
    if boxes is None:
        boxes = [tuple(wcs[i].bounding_box) for i in range(len(slits))]
    numbers = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    return tuple(
        ((float(x0), float(x1), float(y0), float(y1)), int(slit.quadrant))
        for slit, (x0, x1, y0, y1) in zip(slits, numbers, strict=True)
        if np.isfinite((x0, x1, y0, y1)).all()
    )


def mask_boxes(shape: tuple[int, int], boxes: Iterable[Box]) -> Array:
    """Return where an image lies in any of some bounding boxes.

    Boxes (x0, x1, y0, y1) are in zero-based pixels; a pixel belongs to the box if its centre does.
    """
    inside = np.zeros(shape, dtype=bool)
    for x0, x1, y0, y1 in boxes:
        low_x, high_x, low_y, high_y = (max(0, int(np.floor(v + 0.5))) for v in (x0, x1, y0, y1))
        inside[low_y:high_y, low_x:high_x] = True
    return inside


def dark_pixels(ds: xr.Dataset, boxes: Sequence[tuple[Box, int]]) -> Array:
    """Return the pixels that no slit, slice or failed-open shutter illuminates.

    Parameters
    ----------
    ds : xarray.Dataset
        Exposure with ``dq``, and ``wavelength`` (finite in the slices) for the IFU.
    boxes : sequence of (box, quadrant)
        From :func:`slit_boxes`; not used for the IFU.

    Notes
    -----
    MOS exposures without an open fixed slit, and IFU exposures, lose the whole region of the
    fixed slits.
    """
    mode = mode_of(ds)
    dq = np.asarray(ds["dq"].values)
    failed = (dq & np.uint32(PIXEL["MSA_FAILED_OPEN"])) != 0
    shape = (dq.shape[-2], dq.shape[-1])
    light = failed.reshape(-1, *shape).any(axis=0)
    if mode.sliced:
        light |= np.isfinite(ds["wavelength"].values)
    else:
        light |= mask_boxes(shape, (box for box, _ in boxes))
    fixed = any(quadrant == FIXED_SLIT_QUADRANT for _, quadrant in boxes)
    if mode.sliced or (mode.shutters and not fixed):
        light[slice(*FIXED_SLIT_ROWS)] = True
    dark: Array = ~light
    return dark


def filled_flat(flat: Array) -> Array:
    """Return a flat with zeros and what is not finite replaced by a smooth background."""
    flat = np.asarray(flat, dtype=np.float32)
    fine = np.isfinite(flat) & (flat != 0)
    if fine.all() or not fine.any():
        return np.where(fine, flat, np.float32(1.0))
    image = np.where(fine, flat, np.float32(0.0))
    level, _ = _background(image, fine, "model", None)
    return np.where(fine, flat, np.broadcast_to(level, flat.shape))


def _background(
    image: Array, mask: Array, method: str, box: tuple[int, int] | None
) -> tuple[Any, SortedPixels]:
    """Level, and the pixels it was measured on."""
    pixels = SortedPixels(image[mask])
    pixels.clip(_CLIP, _CLIP, lower_half=True)
    level = None
    if method == "model":
        level = background_mesh(image, pixels.keep(image, mask), box)
    return pixels.median() if level is None else level, pixels


def scene_masks(sci: Array, plan: NscleanPlan) -> Array:
    """Return the pixels that show background, after clipping of each integration.

    The mask is shaped as `sci`, ([integration,] y, x); (y, x) with ``single_mask``.
    """
    if plan.given is not None:
        return plan.given
    cube = sci.reshape(-1, *sci.shape[-2:])
    masks = np.empty(cube.shape, dtype=bool)
    for image, mask in zip(cube, masks, strict=True):
        values = image if plan.flat is None else image / plan.flat
        mask[:] = plan.dark & np.isfinite(values) & (values != 0)
        if plan.n_sigma > 0 and mask.any():
            pixels = SortedPixels(values[mask])
            pixels.clip(_CLIP, plan.n_sigma, fit_histogram=plan.fit_histogram)
            mask[:] = pixels.keep(values, mask)
    return masks.all(axis=0) if plan.single_mask else masks.reshape(sci.shape)


def flicker_noise(sci: Array, plan: NscleanPlan) -> tuple[Array, Array, Array]:
    """Fit the 1/f noise of every integration.

    Parameters
    ----------
    sci : ndarray, ([integration,] y, x), float32
    plan : NscleanPlan

    Returns
    -------
    noise : ndarray, same shape, float32
        Zero for an integration without usable pixels.
    background : ndarray, same shape, float32
        Removed before the fit, and put back.
    mask : bool ndarray, ([integration,] y, x)
        Background pixels, before the outliers about the background were left out.
    """
    masks = scene_masks(sci, plan)
    cube = sci.reshape(-1, *sci.shape[-2:])
    median = None
    if plan.background_method == "median_image":
        median = _median_images(cube, plan)
    noise, background = np.empty_like(cube), np.empty_like(cube)
    for i, (image, mask) in enumerate(zip(cube, np.broadcast_to(masks, cube.shape), strict=True)):
        below = None if median is None else median[i]
        noise[i], background[i] = _clean(image, mask, plan, below)
    return noise.reshape(sci.shape), background.reshape(sci.shape), masks


def _clean(image: Array, mask: Array, plan: NscleanPlan, below: Array | None) -> tuple[Any, Any]:
    values = image if below is None else image - below
    if plan.flat is not None:
        values = values / plan.flat
    finite = np.isfinite(values)
    values = np.where(finite, values, np.float32(0.0))
    mask = mask & finite
    if not mask.any():
        return 0.0, 0.0
    level: Any = np.float32(0.0)
    if below is None and plan.background_method is not None:
        box = plan.background_box_size
        level, pixels = _background(values, mask, plan.background_method, box)
        mask = pixels.keep(values, mask)
        raw, values = values, values - level
        if plan.n_sigma > 0:
            if np.ndim(level):
                raw, pixels = values, SortedPixels(values[mask])
            # a constant level changes neither the order of the pixels nor their distances
            pixels.clip(plan.n_sigma, plan.n_sigma, lower_half=True)
            mask = pixels.keep(raw, mask)
    fitted = _fit(values, mask, plan)
    if plan.flat is not None:
        fitted = fitted * plan.flat
    return fitted, level if below is None else below


def _fit(values: Array, mask: Array, plan: NscleanPlan) -> Array:
    if not mask.any():
        return np.zeros_like(values)
    if plan.fit_method == "median":
        across = plan.slow_axis == 1
        lines, used = (transposed(values), transposed(mask)) if across else (values, mask)
        full = lines.shape[1] == _FULL_FRAME[0]
        channels = _CHANNELS if plan.fit_by_channel and full else 1
        noise = median_stripes(lines, used, channels)
        return noise.T if across else noise
    turn = -1 if plan.reversed_lines else 1
    lines, used = transposed(values[:, ::turn]), transposed(mask[:, ::turn])
    if values.shape == _FULL_FRAME:
        model: Any = fit_full_frame(lines, used, centred=plan.centred_kernels)
    else:
        model = fit_subarray(lines, used, plan.cutoffs)
        if model is None:
            return np.zeros_like(values)
    return np.asarray(model[::turn].T, dtype=np.float32)


def _median_images(cube: Array, plan: NscleanPlan) -> Array:
    """The median over integrations, scaled by the brightness of each."""
    median = np.empty(cube.shape[1:], dtype=cube.dtype)
    with warnings.catch_warnings():
        # pixels without any value stay NaN
        warnings.simplefilter("ignore", RuntimeWarning)
        for row in range(cube.shape[1]):
            median[row] = np.nanmedian(cube[:, row], axis=0)
    bright = plan.bright & np.isfinite(cube).all(axis=0)
    if bright.any():
        # the factor that fits the spectrum best: pixels count as much as they have light
        light = np.clip(median[bright].astype(np.float64), 0.0, None)
        flux = np.array([np.dot(image[bright], light) for image in cube])
    else:
        flux = np.array([np.median(image[np.isfinite(image)]) for image in cube], dtype=np.float64)
    middle = np.median(flux)
    if not np.isfinite(middle) or middle == 0:
        msg = "nsclean: background_method='median_image' found no light to scale the median with"
        raise DatasetError(msg)
    scale = np.where(np.isfinite(flux), flux / middle, 1.0)
    return np.asarray(scale[:, None, None] * median, dtype=cube.dtype)

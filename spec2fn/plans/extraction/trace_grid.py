"""The pixels of an image that is finer across the dispersion, and their coordinates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.host.slice_stacks import SlicesPlan, make_slices_plan
from spec2fn.modes import mode_of
from spec2fn.plan_base import Plan, array
from spec2fn.plans.provenance import Provenance
from spec2fn.schema import meta_of
from spec2fn.typing import Array, Arrays, HostArray
from spec2fn.wcs.coordinates import mrs_planes, with_coordinates
from spec2fn.wcs.evaluate import evaluate
from spec2fn.wcs.finer import coarse_pixels, fine_size, finer_wcs
from spec2fn.wcs.lower import box_of, evaluate_on_box, lower
from spec2fn.wcs.slices import ifu_slices

if TYPE_CHECKING:
    import xarray as xr
    from gwcs import WCS

__all__ = ["FinePixels", "FinePositions", "fine_pixels"]


class FinePixels(Plan):
    """What is known of the pixels before any flux is.

    Attributes
    ----------
    factor : float
        Pixels for each of the exposure.
    axis : int
        Axis of the image that is divided, -1 for x or -2 for y.
    slices : SlicesPlan
        Where slices (or the one spectrum) lie in the finer image.
    nearest : array of int
        Pixel of the exposure, along that axis.
    planes : mapping of str to array
        Coordinates by variable.
    told : Provenance
        The gwcs.
    """

    factor: float
    axis: int
    slices: SlicesPlan
    nearest: Array = array("fine")
    planes: Arrays = array("...")
    told: Provenance


@dataclass(frozen=True, eq=False)
class FinePositions:
    """Positions of the finer pixels of slits and slices, with the dispersion along the last axis.

    Attributes
    ----------
    pixels : FinePixels
    place : array, (slit, row)
        Rows among those of the exposure.
    region : array of bool, (slit, row, x)
        Pixels that belong to the slit.
    along : array, (slit, row, x)
        Positions along the slit; NaN outside.
    """

    pixels: FinePixels
    place: HostArray
    region: HostArray
    along: HostArray


def fine_pixels(
    ds: xr.Dataset, slices: SlicesPlan, inside: HostArray, factor: float
) -> FinePositions:
    """Return the pixels of an exposure divided across the dispersion.

    Parameters
    ----------
    ds : xarray.Dataset
        With the gwcs.
    slices : SlicesPlan
        Of its pixels.
    inside : array of bool, (slit, y, x)
        Which of them belong to slits; with the dispersion along the last axis.
    factor : float
        Pixels for each.
    """
    if "slit" in ds.dims:
        return _of_slits(ds, inside, factor)
    dispaxis = ds.attrs["dispaxis"]
    axis = -2 if dispaxis == 1 else -1
    wcs = meta_of(ds).wcs
    wcs = wcs.load() if hasattr(wcs, "load") else wcs
    fine = finer_wcs(wcs, factor, 0 if axis == -1 else 1)
    size = ds["sci"].shape[axis]
    nearest = _nearest(fine_size(size, factor), size, factor)
    if mode_of(ds).sliced:
        ds = with_coordinates(ds, "adaptive_trace_model")
        planes = {
            name: np.asarray(ds[name].data).take(nearest, axis=axis)
            for name in ("regions", "slice_id")
            if name in ds
        }
        if "alpha" in ds:
            planes |= mrs_planes(fine, planes["slice_id"])
            along = planes["alpha"]
        else:
            found, along = _nirspec(ds, planes["slice_id"], factor)
            planes |= found
        label = planes.get("regions", planes["slice_id"])
    else:
        shape = [*ds["sci"].shape[-2:]]
        shape[axis] = nearest.size
        box = box_of(fine)
        names = ("ra", "dec", "wavelength")
        planes = dict(
            zip(names, evaluate_on_box(lower(fine), (shape[0], shape[1]), box), strict=True)
        )
        along = evaluate_on_box(lower(fine, None, "alpha_beta"), (shape[0], shape[1]), box)[0]
        rows, columns = ds["sci"].shape[-2:]
        coarse = np.isfinite(
            evaluate_on_box(lower(wcs, None, "alpha_beta"), (rows, columns), box_of(wcs))[0]
        )
        label = coarse.take(nearest, axis=axis).astype(np.int32)
    finer = make_slices_plan(np.asarray(label).astype(np.int32))
    pixels = FinePixels(factor, axis, finer, nearest, planes, Provenance(wcs=fine, s_region=""))
    width = ds.sizes["x"]
    starts = []
    for plan, columns in ((slices, width), (finer, np.shape(label)[1])):
        corner = np.asarray(plan.index)[:, 0, 0]
        starts.append(corner // columns if axis == -2 else corner % columns)
    rows = np.asarray(finer.index).shape[axis]
    place = coarse_pixels(nearest.size, factor)[starts[1][:, None] + np.arange(rows)]
    region, cut = np.asarray(finer.inside), np.asarray(finer.cut(along, np.nan))
    if axis == -1:
        region, cut = region.swapaxes(-1, -2), cut.swapaxes(-1, -2)
    return FinePositions(pixels, place - starts[0][:, None], region, cut)


def _nearest(count: int, size: int, factor: float) -> HostArray:
    return np.clip(np.rint(coarse_pixels(count, factor)), 0, size - 1).astype(np.int32)


def _of_slits(ds: xr.Dataset, inside: HostArray, factor: float) -> FinePositions:
    number, rows, columns = inside.shape
    count = fine_size(rows, factor)
    nearest = _nearest(count, rows, factor)
    wcs: Any = meta_of(ds).wcs
    made: dict[int, WCS] = {}
    along = np.full((number, count, columns), np.nan)
    wavelength = along.copy()
    y, x = np.arange(count)[:, None], np.arange(columns)[None]
    for k, slit in enumerate(map(int, ds["slit"].values)):
        one = made[slit] = finer_wcs(wcs[slit], factor, 1)
        along[k] = -lower(one, None, "slit_frame")(x, y)[1]
        wavelength[k] = evaluate(one, x, y)[2]
        beyond = y >= fine_size(int(ds["ysize"].values[k]), factor)
        for plane in (along, wavelength):
            plane[k][
                np.broadcast_to(beyond | (x >= int(ds["xsize"].values[k])), plane[k].shape)
            ] = np.nan
    place = np.tile(coarse_pixels(count, factor), (number, 1))
    pixels = FinePixels(
        factor,
        -2,
        SlicesPlan(),
        nearest,
        {"wavelength": wavelength},
        Provenance(wcs=made, s_region=""),
    )
    return FinePositions(pixels, place, inside.take(nearest, axis=-2), along)


def _nirspec(
    ds: xr.Dataset, label: HostArray, factor: float
) -> tuple[dict[str, HostArray], HostArray]:
    """Coordinates of the pixels of the slices of NIRSpec, and positions along them."""
    slices = ifu_slices(ds)
    names = ("slit_y", "ra", "dec", "wavelength")
    planes = {n: np.full(label.shape, np.nan) for n in names}
    along = np.full(label.shape, np.nan)
    rows = coarse_pixels(label.shape[0], factor)
    for number in slices.numbers:
        y, x = np.nonzero(label == number)
        position, place = slices.located(number, x.astype(float), rows[y])
        planes["slit_y"][y, x] = position
        along[y, x] = -place[1]
        for name, values in zip(names[1:], slices.world(*place), strict=True):
            planes[name][y, x] = values
    return planes, along

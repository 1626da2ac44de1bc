"""Cut-outs of slitless spectra: what is known of each source, and the wavelengths of its pixels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.buckets import group_shapes
from spec2fn.errors import DatasetError, InputError, NoDataOnDetectorError
from spec2fn.plans.slits.extract_2d import Extract2dPlan
from spec2fn.plans.slits.grism_boxes import (
    SourceBoxes,
    chosen_sources,
    need_catalog,
    source_boxes,
)
from spec2fn.plans.slits.grism_objects import boxes_of_objects
from spec2fn.plans.slits.spectral_orders import extracted_orders
from spec2fn.schema import meta_of
from spec2fn.typing import HostArray

if TYPE_CHECKING:
    import xarray as xr

    from spec2fn.parameters import Parameters
    from spec2fn.wcs.grism import GrismGeometry

__all__ = ["cut_to_image", "grism_geometry", "plan_grism_cutouts"]

_CHUNK = 1 << 18  # pixels evaluated in one go


def grism_geometry(ds: xr.Dataset, who: str) -> GrismGeometry:
    """Return the geometry of a slitless exposure.

    Raises
    ------
    DatasetError
        If assign_wcs has not run.
    """
    found: GrismGeometry | None = getattr(meta_of(ds).wcs, "geometry", None)
    if found is None:
        msg = f"{who}: the exposure has no WCS of a grism; run assign_wcs first"
        raise DatasetError(msg)
    return found


def plan_grism_cutouts(
    ds: xr.Dataset,
    wavelengthrange: xr.Dataset | None,
    sourcecat: tuple[xr.Dataset, ...],
    params: Parameters,
) -> Extract2dPlan:
    """Plan the cut-outs of the sources of a catalog.

    Parameters
    ----------
    ds : xarray.Dataset
        Slitless exposure after assign_wcs.
    wavelengthrange : xarray.Dataset
    sourcecat : tuple of xarray.Dataset
        The catalog.
    params : Parameters
        Of :func:`spec2fn.steps.extract_2d.extract_2d`.

    Returns
    -------
    Extract2dPlan
        The slits are named after the labels of the sources, of which the brightest comes first
        (those of `grism_objects` stay in their order); the id of a slit is its position.

    Raises
    ------
    InputError
        If there is no catalog, or a source or order that is asked for does not exist.
    NoDataOnDetectorError
        If no spectrum falls on the image.
    ReferenceError
        If the reference does not know the filter.
    """
    from spec2fn.wcs.grism import GrismSlits

    who = "extract_2d"
    geometry = grism_geometry(ds, who)
    shape = ds.sizes["y"], ds.sizes["x"]
    warnings: tuple[str, ...] = ()
    if params.grism_objects is not None:
        catalog, boxes = boxes_of_objects(params.grism_objects, geometry)
        _check_orders(geometry, boxes.order.tolist(), who)
        boxes = cut_to_image(boxes, shape)
        said = (
            f"no rectangle of the {catalog.sizes['source']} grism_objects has pixels of the image"
        )
    else:
        catalog = need_catalog(sourcecat, ds, who)
        ranges = extracted_orders(ds, wavelengthrange, params.extract_orders, who)
        _check_orders(geometry, ranges, who)
        boxes, warnings = _boxes_of_catalog(geometry, catalog, ranges, shape, params)
        said = _nothing(catalog, params, ranges)
    if not len(boxes):
        raise NoDataOnDetectorError(f"{who}: {said}")
    buckets = _buckets(ds, geometry, catalog, boxes)
    size = boxes.high - boxes.low + 1
    wcs = GrismSlits(meta_of(ds).wcs, range(len(boxes)), boxes.low, size, boxes.centre, boxes.order)
    return Extract2dPlan(buckets, wcs, warnings)


def _check_orders(geometry: GrismGeometry, orders: Iterable[int], who: str) -> None:
    unknown = [order for order in orders if order not in geometry.orders]
    if unknown:
        there = ", ".join(map(str, sorted(geometry.orders)))
        msg = f"{who}: the specwcs reference knows no order {unknown[0]}; it has {there}"
        raise InputError(msg)


def _boxes_of_catalog(
    geometry: GrismGeometry,
    catalog: xr.Dataset,
    ranges: Mapping[int, tuple[float, float]],
    shape: tuple[int, int],
    params: Parameters,
) -> tuple[SourceBoxes, tuple[str, ...]]:
    """Rectangles on the image, and what there is to say of those that were asked for."""
    chosen, warnings = chosen_sources(
        catalog, _labels(params), params.source_ra, params.source_dec, params.source_max_sep
    )
    boxes = source_boxes(
        geometry,
        catalog,
        ranges,
        shape,
        magnitude_limit=params.wfss_mmag_extract,
        brightest=params.wfss_nbright,
        half_height=params.wfss_extract_half_height,
        chosen=chosen,
    )
    boxes = cut_to_image(boxes, shape)
    if chosen is None:
        return boxes, warnings
    label = catalog["label"].values
    off = tuple(
        f"extract_2d: order {order} of source {label[row]} does not fall on the image"
        for row, order in boxes.off
    )
    # nothing at all is said in one line
    return boxes, (*warnings, *off) if len(boxes) else warnings


def _labels(params: Parameters) -> list[int] | None:
    """Labels of the sources asked for: slits are named after them."""
    if params.source_ids is None and params.slit_names is None:
        return None
    labels = [int(i) for i in params.source_ids or ()]
    for name in params.slit_names or ():
        if not str(name).strip().isdecimal():
            msg = f"extract_2d: no slit {str(name)!r}; slits have the labels of their sources"
            raise InputError(msg)
        labels.append(int(name))
    return labels


def _nothing(catalog: xr.Dataset, params: Parameters, ranges: Any) -> str:  # noqa: ANN401 - a mapping
    count = catalog.sizes["source"]
    name = meta_of(catalog).filename or "the catalog"
    orders = ", ".join(map(str, ranges))
    limit = params.wfss_mmag_extract
    bright = "" if limit is None else f" brighter than {limit:g} mag"
    return (
        f"no spectrum (order {orders}) of the {count} sources of {name}{bright} falls on the image;"
        " check that the catalog is one of this field, and extract_orders and wfss_mmag_extract"
    )


def cut_to_image(boxes: SourceBoxes, shape: tuple[int, int]) -> SourceBoxes:
    """Return the parts of rectangles inside an image, without those that have none.

    Parameters
    ----------
    boxes : SourceBoxes
    shape : (int, int)
        Rows and columns.
    """
    size = np.array([shape[1], shape[0]])
    low, high = np.clip(boxes.low, 0, size), np.clip(boxes.high, 0, size)
    kept = (high > low).all(axis=1)
    low, high = low[kept], np.minimum(high[kept], size - 1)
    off = tuple(zip(boxes.source[~kept].tolist(), boxes.order[~kept].tolist(), strict=True))
    return SourceBoxes(
        boxes.source[kept],
        boxes.order[kept],
        low,
        high,
        boxes.centre[kept],
        (*boxes.off, *off),
    )


def _buckets(
    ds: xr.Dataset,
    geometry: GrismGeometry,
    catalog: xr.Dataset,
    boxes: SourceBoxes,
) -> tuple[xr.Dataset, ...]:
    import xarray as xr

    size = boxes.high - boxes.low + 1
    columns = _columns(ds, catalog, boxes, size)
    buckets = []
    for group in group_shapes([(int(h), int(w)) for w, h in size]):
        which = np.array(group)
        data: dict[str, Any] = {n: ("slit", v[which]) for n, v in columns.items()}
        plane = _wavelengths(geometry, boxes, which, size)
        data["wavelength"] = (("slit", "y", "x"), plane, {"units": "um"})
        buckets.append(xr.Dataset(data, coords={"slit": which}))
    return tuple(buckets)


def _columns(
    ds: xr.Dataset, catalog: xr.Dataset, boxes: SourceBoxes, size: HostArray
) -> dict[str, HostArray]:
    count = len(boxes)
    label = catalog["label"].values[boxes.source]
    footprint = str(ds.attrs.get("s_region") or meta_of(ds).get("S_REGION") or "")
    return {
        "slit_name": label.astype(str),
        "source_id": label,
        "source_ra": catalog["ra"].values[boxes.source],
        "source_dec": catalog["dec"].values[boxes.source],
        "source_xpos": boxes.centre[:, 0].copy(),
        "source_ypos": boxes.centre[:, 1].copy(),
        "spectral_order": boxes.order,
        "is_extended": catalog["is_extended"].values[boxes.source],
        "xstart": boxes.low[:, 0] + 1,
        "ystart": boxes.low[:, 1] + 1,
        "xsize": size[:, 0].copy(),
        "ysize": size[:, 1].copy(),
        # a footprint is that of the whole exposure, which the first slit tells
        "s_region": np.array([footprint, *[""] * (count - 1)]),
        "source_type": np.full(count, "UNKNOWN"),
        "slit_problem": np.full(count, ""),
    }


def _wavelengths(
    geometry: GrismGeometry,
    boxes: SourceBoxes,
    which: HostArray,
    size: HostArray,
) -> HostArray:
    """Wavelength [um] of the pixels of some cut-outs, NaN in the padding: (slit, y, x)."""
    width, height = size[which].max(axis=0)
    out = np.full((len(which), height, width), np.nan)
    x, y = np.arange(width, dtype=float), np.arange(height, dtype=float)[:, None]
    step = max(1, _CHUNK // int(width * height))
    for order in np.unique(boxes.order[which]):
        (members,) = np.nonzero(boxes.order[which] == order)
        for part in (members[i : i + step] for i in range(0, len(members), step)):
            ids = which[part]
            low, centre, ends = (
                a[ids].astype(float)[..., None, None] for a in (boxes.low, boxes.centre, size)
            )
            values = geometry.wavelength(
                x + low[:, 0], y + low[:, 1], centre[:, 0], centre[:, 1], int(order)
            )
            inside = (x < ends[:, 0]) & (y < ends[:, 1])
            out[part] = np.where(inside, values, np.nan)
    return out

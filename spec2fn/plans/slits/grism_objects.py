"""Slitless sources that the user gives with their rectangles, instead of a catalog."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.errors import ParameterError
from spec2fn.plans.slits.grism_boxes import SourceBoxes

if TYPE_CHECKING:
    import xarray as xr

    from spec2fn.wcs.grism import GrismGeometry

__all__ = ["boxes_of_objects"]

_WHO = "extract_2d.grism_objects"


def boxes_of_objects(objects: object, geometry: GrismGeometry) -> tuple[xr.Dataset, SourceBoxes]:
    """Return sources and the rectangles around their spectra, as the user gives them.

    Parameters
    ----------
    objects : sequence
        Of mappings, or of objects with attributes (such as ``GrismObject`` of stdatamodels):
        ``sid``, the label; ``order_bounding``, by order ``((ymin, ymax), (xmin, xmax))`` [pixel,
        from 0, both included]; ``sky_centroid``, a pair (ra, dec) [deg] or a ``SkyCoord``;
        optionally ``xcentroid``, ``ycentroid``, the place without dispersion [pixel, from 0],
        otherwise that of the WCS; ``is_extended``, by default no; ``isophotal_abmag``.
    geometry : GrismGeometry

    Returns
    -------
    catalog : xarray.Dataset
        As of :func:`spec2fn.io.catalogs.read_catalog`, with the columns that cut-outs need.
    boxes : SourceBoxes
        In the order in which they are given.

    Raises
    ------
    ParameterError
        If there is none, or one lacks something.
    """
    import xarray as xr

    if not isinstance(objects, Sequence) or isinstance(objects, str) or not len(objects):
        found = f"{len(objects)} of them" if isinstance(objects, Sequence) else f"{objects!r}"
        msg = (
            f"{_WHO}: needs a list of sources with sid, order_bounding and sky_centroid,"
            f" got {found}"
        )
        raise ParameterError(msg)
    labels = [_label(one) for one in objects]
    sky = np.array([_sky(one) for one in objects])
    place = np.stack(geometry.world_to_detector(sky[:, 0], sky[:, 1]), axis=-1)
    for i, one in enumerate(objects):
        for axis, name in enumerate(("xcentroid", "ycentroid")):
            given = _get(one, name)
            place[i, axis] = place[i, axis] if given is None else float(given)
    source, order, low, high = [], [], [], []
    for i, one in enumerate(objects):
        for number, (rows, columns) in _bounds(one).items():
            source.append(i)
            order.append(number)
            low.append((columns[0], rows[0]))
            high.append((columns[1], rows[1]))
    magnitudes = [_get(one, "isophotal_abmag", np.nan) for one in objects]
    catalog = xr.Dataset(
        {
            "label": ("source", np.array(labels)),
            "ra": ("source", sky[:, 0]),
            "dec": ("source", sky[:, 1]),
            "is_extended": ("source", [bool(_get(one, "is_extended", False)) for one in objects]),
            "isophotal_abmag": ("source", np.array(magnitudes, dtype=float)),
        },
        attrs={"filename": "grism_objects"},
    )
    first, last = (np.floor(np.array(e, dtype=float) + 0.5).astype(np.int64) for e in (low, high))
    at = np.array(source)
    return catalog, SourceBoxes(at, np.array(order), first, last, place[at])


def _get(one: object, name: str, default: object = None) -> Any:  # noqa: ANN401 - a column
    value = one.get(name) if isinstance(one, Mapping) else getattr(one, name, None)
    return default if value is None else value


def _label(one: object) -> int:
    label = _get(one, "sid")
    try:
        return int(label)
    except (TypeError, ValueError):
        msg = f"{_WHO}: every source needs a whole number as sid, found {label!r}"
        raise ParameterError(msg) from None


def _sky(one: object) -> tuple[float, float]:
    place = _get(one, "sky_centroid")
    try:
        ra, dec = (place.ra.deg, place.dec.deg) if hasattr(place, "ra") else place
        position = float(ra), float(dec)
    except (TypeError, ValueError):
        position = np.nan, np.nan
    if not np.isfinite(position).all():
        msg = (
            f"{_WHO}: source {_label(one)} has sky_centroid {place!r}; give a pair (ra, dec) [deg]"
            " or a SkyCoord"
        )
        raise ParameterError(msg)
    return position


def _bounds(one: object) -> dict[int, tuple[tuple[float, float], tuple[float, float]]]:
    given = _get(one, "order_bounding")
    out = {}
    try:
        for order, ((bottom, top), (left, right)) in given.items():
            edges = np.array([bottom, top, left, right], dtype=float)
            out[int(order)] = (edges[0], edges[1]), (edges[2], edges[3])
    except (AttributeError, TypeError, ValueError):
        out = {}
    if not out or not np.isfinite(list(out.values())).all():
        msg = (
            f"{_WHO}: source {_label(one)} has order_bounding {given!r}; give by order"
            " ((ymin, ymax), (xmin, xmax)) [pixel]"
        )
        raise ParameterError(msg)
    return out

"""Pixels that shutters of the micro-shutter array (MSA) illuminate which do not close."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.errors import ReferenceError
from spec2fn.plan_base import Plan, array
from spec2fn.schema import SHUTTERS_ACROSS, SHUTTERS_ALONG, meta_of
from spec2fn.typing import Array, HostArray
from spec2fn.wcs.open_slits import Slit, shutter_id

if TYPE_CHECKING:
    import xarray as xr

    from spec2fn.wcs.assign.nirspec_batch import SlitBatch

__all__ = ["FailedOpenPlan", "failed_open_shutters", "illuminated_pixels", "shutter_batch"]

_STATES = ("Internal state", "TA state", "state")


class FailedOpenPlan(Plan):
    """The pixels to flag.

    Attributes
    ----------
    failed : bool ndarray, (y, x)
    """

    failed: Array = array("y x")


def failed_open_shutters(msaoper: xr.Dataset) -> tuple[Slit, ...]:
    """Return the shutters that do not close, as slits of one shutter.

    Parameters
    ----------
    msaoper : xarray.Dataset
        Operability reference (JSON): a shutter counts if any of its states (internal, during
        target acquisition, or overall) is ``open``.

    Returns
    -------
    tuple of Slit
        Named by their number in this list, from 1.

    Raises
    ------
    ReferenceError
        If the reference does not list shutters.
    """
    tree = msaoper.attrs.get("tree")
    name = msaoper.attrs.get("filename") or "in memory"
    if not isinstance(tree, Mapping) or not isinstance(tree.get("msaoper"), (list, tuple)):
        msg = (
            f"msaflagopen: reference 'msaoper' ({name}) has no list of shutters 'msaoper';"
            " give the JSON file of that type"
        )
        raise ReferenceError(msg)
    failed: list[Slit] = []
    for entry in tree["msaoper"]:
        try:
            quadrant, x, y = (int(entry[key]) for key in ("Q", "x", "y"))
            states = [str(entry[key]) for key in _STATES]
        except (KeyError, TypeError, ValueError):
            needed = ", ".join(("Q", "x", "y", *_STATES))
            msg = f"msaflagopen: reference 'msaoper' ({name}): a shutter needs {needed}: {entry}"
            raise ReferenceError(msg) from None
        if not (1 <= quadrant <= 4 and 1 <= x <= SHUTTERS_ALONG and 1 <= y <= SHUTTERS_ACROSS):
            msg = (
                f"msaflagopen: reference 'msaoper' ({name}): there is no shutter Q={quadrant},"
                f" x={x}, y={y}; Q is 1 to 4, x 1 to {SHUTTERS_ALONG}, y 1 to {SHUTTERS_ACROSS}"
            )
            raise ReferenceError(msg)
        if "open" in states:
            failed.append(
                Slit(
                    name=str(len(failed) + 1),
                    shutter_id=shutter_id(x, y),
                    ymin=-0.5,
                    ymax=0.5,
                    quadrant=quadrant,
                    xcen=x,
                    ycen=y,
                    shutter_state="x",
                    slitlet_id=len(failed) + 1,
                )
            )
    return tuple(failed)


def shutter_batch(ds: xr.Dataset, shutters: Sequence[Slit], refs: Mapping[str, Any]) -> SlitBatch:
    """Return the transforms of shutters in an exposure.

    The optics that ``assign_wcs`` has put together are used, with the quadrants of the MSA if the
    exposure is one of the IFU; otherwise they are built from the references.

    Raises
    ------
    InputError, ReferenceError
        As ``assign_wcs`` if the optics have to be built.
    """
    from spec2fn.wcs.assign.nirspec_batch import SlitBatch
    from spec2fn.wcs.assign.nirspec_optics import optics, quadrants

    meta = meta_of(ds)
    slices = meta.records.get("slices")
    if slices is not None:
        known = replace(slices.optics, quadrants=quadrants(ds, refs))
    else:
        known = getattr(getattr(meta.wcs, "batch", None), "optics", None)
    return SlitBatch(known or optics(ds, refs), tuple(shutters))


def illuminated_pixels(batch: SlitBatch, shape: tuple[int, int]) -> HostArray:
    """Return which pixels (y, x) see wavelengths of interest through any of some slits."""
    from spec2fn.wcs.assign.nirspec_boxes import bounding_boxes, lit_pixels

    lit = np.zeros(shape, dtype=bool)
    if batch.slits:
        for _, window, along, wavelength in lit_pixels(batch, bounding_boxes(batch), shape):
            lit[window] |= np.isfinite(along) & np.isfinite(wavelength)
    return lit

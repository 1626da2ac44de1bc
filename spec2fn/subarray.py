"""Cutting a full-frame reference to the subarray of an exposure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.errors import DatasetError, InputError, ReferenceError
from spec2fn.pieces import pieces_of
from spec2fn.schema import meta_of
from spec2fn.typing import HostArray

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["subarray_origin", "subarray_slices"]


def subarray_slices(
    ref: xr.Dataset | HostArray, ds: xr.Dataset, who: str, reftype: str
) -> tuple[slice, slice]:
    """Return the rows and columns of a reference that belong to an exposure.

    The corners come from the attributes ``xstart``, ``ystart`` (SUBSTRT1, SUBSTRT2) of both. A
    reference without corners must be a full frame, or have the shape of the exposure: it is then
    taken to be the exposure's own subarray.

    Parameters
    ----------
    ref : xarray.Dataset or array
        Reference with a ``sci`` plane, or that plane.
    ds : xarray.Dataset
        Exposure; only the shape of ``sci`` and the attributes count.
    who : str
        Name of the step, for the message.
    reftype : str
        CRDS type of the reference, for the message.

    Returns
    -------
    rows, columns : slice
        Of the reference, zero-based.

    Raises
    ------
    ReferenceError
        If the reference does not cover the exposure.
    DatasetError
        If the exposure does not say where its subarray stands, and that matters.
    """
    shape = tuple(ds["sci"].shape[-2:])
    image: Any = ref
    corner = None
    for one in pieces_of(ref):
        if "sci" not in one:
            listed = ", ".join(sorted(map(str, one.data_vars))) or "nothing"
            msg = f"{who}: reference {reftype!r} needs a 'sci' image, but holds {listed}"
            raise ReferenceError(msg)
        image, corner = one["sci"], _corner(one.attrs)
    ref_shape = tuple(np.shape(image)[-2:])
    if corner is None:
        if ref_shape == shape:
            return slice(0, shape[0]), slice(0, shape[1])
        if ref_shape != _full_frame(ds):
            raise _mismatch(who, reftype, ref_shape, shape, "its corners are not known")
        corner = (1, 1)
    own = _corner(ds.attrs)
    if own is None:
        msg = (
            f"{who}: 'sci' does not say where its subarray stands; set the attributes xstart and"
            " ystart (SUBSTRT1, SUBSTRT2: one-based detector column and row of its first pixel)"
        )
        raise DatasetError(msg)
    column, row = own[0] - corner[0], own[1] - corner[1]
    rows, columns = slice(row, row + shape[0]), slice(column, column + shape[1])
    if row < 0 or column < 0 or rows.stop > ref_shape[0] or columns.stop > ref_shape[1]:
        where = f"their first pixels are {corner} and {own}"
        raise _mismatch(who, reftype, ref_shape, shape, where)
    return rows, columns


def subarray_origin(ds: xr.Dataset, who: str = "assign_wcs") -> tuple[int, int]:
    """Return the zero-indexed full-frame pixel (x, y) of the first pixel of an exposure.

    Raises
    ------
    InputError
        If the exposure is no full frame and does not say where it lies (SUBSTRT1, SUBSTRT2), or
        lies beyond the detector.
    """
    rows, columns = _full_frame(ds)
    origin = []
    for axis, keyword, full in (("x", "SUBSTRT1", columns), ("y", "SUBSTRT2", rows)):
        count = ds["sci"].shape[-1 if axis == "x" else -2]
        first = ds.attrs.get(f"{axis}start", 1 if count == full else None)
        if first is None or not 1 <= first <= full + 1 - count:
            found = "missing" if first is None else first
            msg = (
                f"{who}: keyword {keyword} (attribute {axis}start) of"
                f" {meta_of(ds).filename or 'the exposure'} is {found}, needs the first of its"
                f" {count} pixels among the {full} of the detector, from 1; correct it"
            )
            raise InputError(msg)
        origin.append(int(first) - 1)
    return origin[0], origin[1]


def _full_frame(ds: xr.Dataset) -> tuple[int, int]:
    """Rows and columns of a full frame of the detector."""
    return (1024, 1032) if str(ds.attrs.get("instrument")).upper() == "MIRI" else (2048, 2048)


def _corner(attrs: Mapping[str, Any]) -> tuple[int, int] | None:
    if attrs.get("xstart") is None or attrs.get("ystart") is None:
        return None
    return int(attrs["xstart"]), int(attrs["ystart"])


def _mismatch(
    who: str, reftype: str, found: tuple[int, ...], needed: tuple[int, ...], why: str
) -> ReferenceError:
    return ReferenceError(
        f"{who}: reference {reftype!r} is {found} but 'sci' is {needed}; {why}: give a reference"
        " that covers the exposure, with SUBSTRT1 and SUBSTRT2, or cut it to the exposure's shape"
    )

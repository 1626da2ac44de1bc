"""Host-side half of flat-fielding: which flat, and which part of it."""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING, Any

from spec2fn.contents import need
from spec2fn.plan_base import Plan, array
from spec2fn.subarray import subarray_slices
from spec2fn.typing import Array

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["FlatFieldPlan", "is_path", "plan_image_flat"]


class FlatFieldPlan(Plan):
    """Where an exposure stands on its two-dimensional flat.

    Attributes
    ----------
    rows, columns : tuple of int
        First pixel and end, zero-based, of the part of the flat that belongs to the exposure.
    opened : tuple of array, optional
        ``sci``, ``err``, ``dq`` of a flat given as a path, already cut; None where the flat is
        given as a Dataset or array, which the step reads itself (so that it can be
        differentiated).
    """

    rows: tuple[int, int]
    columns: tuple[int, int]
    opened: tuple[Array, ...] | None = array("y x", default=None)


def is_path(value: Any) -> bool:
    """Whether `value` names a file."""
    return isinstance(value, (str, PathLike))


def plan_image_flat(flat: Any, ds: xr.Dataset, reftype: str = "flat") -> FlatFieldPlan:
    """Find the part of a two-dimensional flat that belongs to an exposure.

    Parameters
    ----------
    flat : xarray.Dataset or array
        Flat field.
    ds : xarray.Dataset
        Exposure.
    reftype : str
        What the flat is called in messages.

    Raises
    ------
    ReferenceError, DatasetError
        If a reference file has no ``err``; see also :func:`spec2fn.subarray.subarray_slices`.
    """
    if reftype == "flat" and hasattr(flat, "data_vars") and "path" in flat.attrs:
        # a flat of one's own may have no errors; what a reference lacks the variances would lack
        need(flat, ("sci", "err"), "flat_field")
    rows, columns = subarray_slices(flat, ds, "flat_field", reftype)
    return FlatFieldPlan((rows.start, rows.stop), (columns.start, columns.stop))

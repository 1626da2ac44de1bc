"""Two-dimensional flats: which one, and which part of it belongs to an exposure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from spec2fn.dq import PIXEL
from spec2fn.errors import DatasetError
from spec2fn.kernels.namespace import array_namespace
from spec2fn.pieces import pieces_of
from spec2fn.plan_base import Plan, array
from spec2fn.plans.flux.factors import Factor
from spec2fn.schema import need
from spec2fn.subarray import subarray_slices
from spec2fn.typing import Array, HostArray

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["FlatFieldPlan", "ImagePlan", "plan_image_flat"]


class ImagePlan(Plan):
    """Where an exposure stands on an image.

    Attributes
    ----------
    rows, columns : tuple of int
        First pixel and end, zero-based, of the part of the image that belongs to the exposure.
    """

    rows: tuple[int, int]
    columns: tuple[int, int]

    def part(self, image: Array) -> Array:
        """Cut an image."""
        return image[slice(*self.rows), slice(*self.columns)]

    def check(self, image: Array, ds: xr.Dataset, call: str) -> None:
        """Raise :class:`DatasetError` if the plan was made by `call` for another exposure."""
        shape = ds["sci"].shape[-2:]
        if image.shape != shape:
            msg = (
                f"{call.partition('.')[0]}: the plan is for planes of {image.shape} but 'sci' is"
                f" {shape}; make it with {call} for this exposure"
            )
            raise DatasetError(msg)


class FlatFieldPlan(ImagePlan):
    """Where an exposure stands on its two-dimensional flat.

    Attributes
    ----------
    opened : tuple of array, optional
        ``sci``, ``err``, ``dq`` of a flat given as a path, already cut; None where the flat is
        given as a Dataset or array, which is read when the plan is applied (so that it can be
        differentiated).
    """

    opened: tuple[Array, ...] | None = array("y x", default=None)

    def factor(self, ds: xr.Dataset, flat: xr.Dataset | None, *_: object) -> Factor:
        """Return the flat of an exposure; DO_NOT_USE is where it cannot be used."""
        image, error, flags = self.opened or self.planes(need(flat, (), "flat_field"))
        self.check(image, ds, "flat_field.plan(ds, flat)")
        xp = array_namespace(image, flags)
        no_flat, bad = np.uint32(PIXEL["NO_FLAT_FIELD"]), np.uint32(PIXEL["DO_NOT_USE"])
        flags = xp.where(xp.isnan(image) | (image == 0), flags | (no_flat | bad), flags)
        flags = xp.where((flags & no_flat) != 0, flags | bad, flags)
        return Factor(image, divides=True, error=error, flags=flags)

    def planes(self, flat: xr.Dataset | Array) -> tuple[Array, Array, Array]:
        """Return ``sci``, ``err`` and ``dq`` of the part of a flat; what it lacks is zero."""
        names = ("sci", "err", "dq")
        data = {n: p.variables[n].data for p in pieces_of(flat) for n in names if n in p.variables}
        image, error, flags = (self.part(data[n]) if n in data else None for n in names)
        image = self.part(flat) if image is None else image
        zero = array_namespace(image).zeros_like(image)
        flags = zero if flags is None else flags
        return image, zero if error is None else error, flags.astype(np.uint32)


def plan_image_flat(
    flat: xr.Dataset | HostArray, ds: xr.Dataset, reftype: str = "flat"
) -> FlatFieldPlan:
    """Find the part of a two-dimensional flat, called `reftype`, that belongs to an exposure.

    Raises
    ------
    ReferenceError, DatasetError
        If a reference file has no ``err``; see also :func:`spec2fn.subarray.subarray_slices`.
    """
    for ref in pieces_of(flat):
        # a flat of one's own may have no errors; what a reference lacks the variances would lack
        if reftype == "flat" and "path" in ref.attrs:
            need(ref, ("sci", "err"), "flat_field")
    rows, columns = subarray_slices(flat, ds, "flat_field", reftype)
    return FlatFieldPlan((rows.start, rows.stop), (columns.start, columns.stop))

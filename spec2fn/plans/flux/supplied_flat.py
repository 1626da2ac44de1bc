"""Flats of slits that the user gives."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

from spec2fn.dq import PIXEL
from spec2fn.errors import ReferenceError
from spec2fn.plan_base import Plan, array
from spec2fn.plans.flux.factors import Factor
from spec2fn.schema import meta_of
from spec2fn.typing import Array, HostArray

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["SuppliedFlatPlan", "plan_supplied_flat"]

_PLANES = ("sci", "err", "dq")
_BAD = np.uint32(PIXEL["NO_FLAT_FIELD"] | PIXEL["DO_NOT_USE"] | PIXEL["UNRELIABLE_FLAT"])


class SuppliedFlatPlan(Plan):
    """A flat given by the user, padded like the bucket; NaN and flagged if not positive."""

    sci: Array = array("slit y x")
    err: Array = array("slit y x")
    dq: Array = array("slit y x")

    def factor(self, *_: object) -> Factor:
        """Return the flat of an exposure."""
        return Factor(self.sci, divides=True, error=self.err, flags=self.dq)


def plan_supplied_flat(ds: xr.Dataset, flat: xr.Dataset) -> SuppliedFlatPlan:
    """Bring a flat given by the user into the shape of a bucket of slits.

    Parameters
    ----------
    ds : xarray.Dataset
        The bucket, dims ``(slit, [integration,] y, x)``.
    flat : xarray.Dataset
        Either with dims ``(slit, y, x)`` and ``slit_name`` (what ``save_interpolated_flat``
        keeps), or as read from a file with one image by slit (``sci``, ``sci_2``, …, in the order
        of the product, or named by SLTNAME), or a single image for a single slit.

    Raises
    ------
    ReferenceError
        If there is no flat for a slit, or its size differs.
    """
    names = np.asarray(ds["slit_name"].data).astype(str)
    shape = (ds.sizes["slit"], ds.sizes["y"], ds.sizes["x"])
    planes: dict[str, HostArray] = {
        n: np.zeros(shape, np.uint32 if n == "dq" else np.float32) for n in _PLANES
    }
    planes["sci"] += 1  # around the slits
    images = _supplied_images(flat)
    for i, (name, number) in enumerate(zip(names, ds["slit"].values, strict=True)):
        one = images.get(name, images.get(int(number) + 1))
        size = (int(ds["ysize"].data[i]), int(ds["xsize"].data[i]))
        if one is None or one["sci"].shape[-2:] != size:
            found = "none" if one is None else f"one of {one['sci'].shape}"
            msg = f"flat_field: the user-supplied flat needs an image of {size} for slit {name}"
            raise ReferenceError(f"{msg}, but has {found}")
        for key, plane in planes.items():
            if key in one:
                plane[i, : size[0], : size[1]] = one[key][: size[0], : size[1]]
    wrong = ~(planes["sci"] > 0)
    planes["sci"][wrong] = np.nan
    planes["dq"][wrong] |= _BAD
    return SuppliedFlatPlan(**planes)


def _supplied_images(flat: xr.Dataset) -> dict[str | int, dict[str, HostArray]]:
    """Images by name of the slit, or by number counted from one."""
    images: dict[str | int, dict[str, HostArray]] = {}
    if "slit" in flat.dims:
        names = np.asarray(flat["slit_name"].data).astype(str)
        for i, name in enumerate(names):
            rows, columns = (flat[n].data[i] if n in flat else None for n in ("ysize", "xsize"))
            held = {n: np.asarray(flat[n].data)[i] for n in _PLANES if n in flat}
            images[name] = {n: plane[:rows, :columns] for n, plane in held.items()}
        return images
    headers = meta_of(flat).records.get("headers", {})
    for number in itertools.count(1):
        suffix = "" if number == 1 else f"_{number}"
        if f"sci{suffix}" not in flat:
            break
        name = headers.get(f"sci{suffix}", {}).get("SLTNAME")
        stored = {n: f"{n}{suffix}" for n in _PLANES}
        images[number if name is None else str(name)] = {
            n: np.asarray(flat[k].data) for n, k in stored.items() if k in flat
        }
    return images

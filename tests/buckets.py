"""Slits that tests make of single images."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from spec2fn.buckets import FREE_PADDING, MAX_BUCKETS, group_shapes
from spec2fn.slits import Slits, padding

__all__ = ["FREE_PADDING", "bucketize"]


def bucketize(slits: Sequence[xr.Dataset], most: int = MAX_BUCKETS) -> Slits:
    """Put slits into padded buckets.

    Parameters
    ----------
    slits : sequence of xarray.Dataset
        Each with dims ``([integration,] y, x)``, a zero-dimensional ``slit_name``, and the same
        variables as the others; a zero-dimensional ``slit`` is kept as the id, otherwise the
        position is the id. Zero-dimensional variables become variables on ``slit``.
    most : int
        Largest number of buckets.

    Returns
    -------
    Slits
    """
    shapes = [(s.sizes["y"], s.sizes["x"]) for s in slits]
    buckets = []
    for members in group_shapes(shapes, most):
        height = max(shapes[i][0] for i in members)
        width = max(shapes[i][1] for i in members)
        first = slits[members[0]]
        data: dict[str, Any] = {}
        for name, var in first.data_vars.items():
            if name == "slit":
                continue
            parts = [_padded(slits[i][name], height, width) for i in members]
            data[str(name)] = (("slit", *var.dims), np.stack(parts), dict(var.attrs))
        data["ysize"] = ("slit", np.array([shapes[i][0] for i in members]))
        data["xsize"] = ("slit", np.array([shapes[i][1] for i in members]))
        ids = [int(slits[i]["slit"]) if "slit" in slits[i] else i for i in members]
        buckets.append(xr.Dataset(data, coords={"slit": ids}, attrs=first.attrs))
    return Slits(tuple(buckets))


def _padded(var: xr.DataArray, height: int, width: int) -> np.ndarray:
    data = np.asarray(var.data)
    if var.dims[-2:] != ("y", "x"):
        return data
    missing = (height - data.shape[-2], width - data.shape[-1])
    if missing == (0, 0):
        return data
    edges = [(0, 0)] * (data.ndim - 2) + [(0, missing[0]), (0, missing[1])]
    return np.pad(data, edges, constant_values=padding(str(var.name), data.dtype))

"""The map of the slices of the MRS, from the reference ``regions``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.errors import ReferenceError
from spec2fn.typing import HostArray

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["HIGH_TRANSMISSION", "region_map"]

HIGH_TRANSMISSION = 7
"""Map of the pixels with at least 80 % of a slice's throughput, which say what is in a slice."""


def region_map(regions: xr.Dataset, plane: int, shape: tuple[int, ...], who: str) -> HostArray:
    """Return one of the maps of a ``regions`` reference.

    Parameters
    ----------
    regions : xarray.Dataset
        With the tree of the file as attribute.
    plane : int
        Which map, by throughput, from 0.
    shape : (int, int)
        Of the exposure.
    who : str
        The step, and the parameter that says `plane`, for messages.

    Returns
    -------
    ndarray, shape (y, x)
        Number of the slice at every pixel, 0 between slices.

    Raises
    ------
    ReferenceError
        If there is no such map, or it has another shape.
    """
    maps: Any = np.asarray(regions.attrs.get("tree", {}).get("regions", ()))
    if maps.ndim != 3 or maps.shape[1:] != shape or not 0 <= plane < len(maps):
        msg = (
            f"{who} needs a reference 'regions' with maps of shape ({plane + 1} or more,"
            f" {shape[0]}, {shape[1]}), found {maps.shape}; pass that of this exposure"
        )
        raise ReferenceError(msg)
    found: HostArray = maps[plane]
    return found

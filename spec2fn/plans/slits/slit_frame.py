"""Slits of a bucket: their labels, and an image taken for one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from spec2fn.errors import DatasetError
from spec2fn.schema import require
from spec2fn.slits import strings
from spec2fn.typing import HostArray

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["chosen_types", "is_point", "require_slits"]


def require_slits(ds: xr.Dataset, who: str, names: tuple[str, ...] = ()) -> None:
    """Raise :class:`DatasetError` unless `ds` is a bucket of slits with these variables."""
    if "slit" not in ds.dims:
        msg = f"{who}: needs slits (a dimension 'slit'); run extract_2d first"
        raise DatasetError(msg)
    require(ds, names, who)


def chosen_types(ds: xr.Dataset, source_type: str | None) -> list[str]:
    """Return the source type of every slit in capitals.

    The parameter `source_type`, else the slit's own type, else that of the exposure.
    """
    if source_type is None and "source_type" not in ds:
        source_type = str(ds.attrs.get("source_type", ""))
    if source_type is not None:
        return [source_type.upper()] * ds.sizes["slit"]
    return [t.upper() for t in strings(ds, "source_type")]


def is_point(types: list[str]) -> HostArray:
    """Return which of the source types are POINT, as an array of bool."""
    return np.array([t == "POINT" for t in types], dtype=bool)

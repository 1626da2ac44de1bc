"""Host-side half of the stray-light correction: where on the detector what is done."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spec2fn.errors import DatasetError, ReferenceError
from spec2fn.plan_base import Plan, array
from spec2fn.plans.regions import region_map
from spec2fn.typing import Array, HostArray

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["COLUMNS", "StraylightPlan", "plan_straylight"]

COLUMNS = ("lor_fwhm", "lor_scale", "gau_fwhm", "gau_xoff", "gau_scale1", "gau_scale2")
"""Columns of the tables of a MRSXARTCORR reference: the profile of the artifact by row."""

_WIDTH = 1032
_MIDDLE = 516  # column between the channels
_SOURCES = 1024  # columns from here on hold no sources
_GAPS = {"12": (503, 516), "34": (474, 507)}  # columns between the channels, which see no light
_MARGIN = 50  # rows at both ends of the gap that are left out
_HALVES = {"12": ("1", "2"), "34": ("4", "3")}  # channels on the left and on the right
_LETTERS = {"SHORT": "a", "MEDIUM": "b", "LONG": "c"}


class StraylightPlan(Plan):
    """Where the stray light of an exposure comes from and is measured.

    Attributes
    ----------
    halves : tuple of (str, int, int)
        Table of the reference, first column and end, for each half of the detector that has one.
    gap : ((int, int), (int, int))
        Rows and columns (first, end) between the channels.
    between : ndarray (y, x) of bool or None
        Pixels outside the slices, for cosmic-ray showers.
    """

    halves: tuple[tuple[str, int, int], ...]
    gap: tuple[tuple[int, int], tuple[int, int]]
    between: Array | None = array("y x", default=None)


def plan_straylight(
    ds: xr.Dataset,
    mrsxartcorr: xr.Dataset,
    regions: xr.Dataset | None = None,
    shower_plane: int | None = None,
) -> StraylightPlan:
    """Choose tables and pixels for :func:`spec2fn.steps.straylight.straylight`.

    With a `shower_plane`, the map of `regions` that says what lies between slices, the plan
    serves to correct for cosmic-ray showers.

    Raises
    ------
    DatasetError
        If the exposure does not have all columns of the MRS.
    ReferenceError
        If a table lacks a column or a row, or there is no map of the slices for showers.
    """
    shape = ds["sci"].shape[-2:]
    channel = str(ds.attrs.get("channel", "")).strip()
    if shape[1] != _WIDTH or channel not in _HALVES:
        msg = (
            f"straylight: 'sci' is {shape} and channel {channel!r}; all {_WIDTH} columns of channel"
            " '12' or '34' are needed"
        )
        raise DatasetError(msg)
    halves = []
    letter = _LETTERS.get(str(ds.attrs.get("band", "")).strip().upper())
    # there are no profiles for bands of which each channel sees another one
    if letter is not None:
        ranges = ((0, _MIDDLE), (_MIDDLE, _SOURCES))
        for number, (first, stop) in zip(_HALVES[channel], ranges, strict=True):
            table = f"ch{number}{letter}"
            if _has_table(mrsxartcorr, table, shape[0]):
                halves.append((table, first, stop))
    between = None if shower_plane is None else _between(regions, shower_plane, shape)
    margin = _MARGIN if shape[0] > 4 * _MARGIN else 0
    gap = ((margin, shape[0] - margin), _GAPS[channel])
    return StraylightPlan(tuple(halves), gap, between)


def _has_table(ref: xr.Dataset, table: str, rows: int) -> bool:
    names = [f"{table}.{c}" for c in COLUMNS]
    present = [n for n in names if n in ref]
    if not present:
        return False
    if len(present) < len(names) or any(ref[n].shape != (rows,) for n in names):
        msg = (
            f"straylight: table {table!r} of reference 'mrsxartcorr' needs the columns"
            f" {', '.join(COLUMNS)} and {rows} rows, as many as 'sci'; fetch the file again"
        )
        raise ReferenceError(msg)
    return True


def _between(regions: xr.Dataset | None, plane: int, shape: tuple[int, ...]) -> HostArray:
    if regions is None:
        msg = (
            "straylight: clean_showers needs the reference 'regions', the map of the slices; pass"
            " regions=…, or set clean_showers=false"
        )
        raise ReferenceError(msg)
    between: HostArray = region_map(regions, plane, shape, f"straylight.shower_plane={plane}") == 0
    return between

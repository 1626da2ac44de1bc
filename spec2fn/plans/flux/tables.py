"""Where the pixels of many slits stand in small tables of wavelength.

Only pixels that see light need a table: they are collected in one list over all slits, so that
neither padding nor dark corners of the cut-outs cost anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.kernels.namespace import array_namespace
from spec2fn.kernels.tables import cell_lines
from spec2fn.plan_base import Plan, array, labels
from spec2fn.typing import Array, HostArray

if TYPE_CHECKING:
    from collections.abc import Sequence

    import xarray as xr

__all__ = [
    "PixelList",
    "Segment",
    "TableBank",
    "in_memory",
    "list_pixels",
    "make_bank",
    "take",
    "wavelengths_of",
]


_FAR = 1e3  # um


class PixelList(Plan):
    """Some pixels of a bucket as a flat list.

    Attributes
    ----------
    position : array of int, shape (n,)
        In the flattened ``(slit, y, x)`` array.
    entry : array of int32, shape (slit, y, x)
        Place in the list; ``n`` for a pixel of a slit that is not in the list, ``n + 1`` for
        padding.
    by_slit : tuple of int
        How many of them each slit has.
    """

    position: Array = array("(slit pixel) -> entry")
    entry: Array = array("slit y x -> (slit pixel)")
    by_slit: tuple[int, ...] = labels("slit -> (slit pixel)")


class TableBank(Plan):
    """Tables one behind the other, with the cell of every pixel.

    Attributes
    ----------
    names : tuple of str
        Prefixes of the variables that hold the tables, such as ``fast_variation``.
    elements : tuple of array of int
        By name: positions in the flattened column of the rows of the bank.
    knots : array of float64, shape (m,)
        Wavelengths [um].
    cells : array of int32, shape (points, n)
    extra : tuple of tuple of array
        By name: whatever else is planned by row of the table.
    """

    names: tuple[str, ...]
    elements: tuple[Array, ...] = array("_")
    knots: Array = array("knot")
    cells: Array = array("point (slit pixel)")
    extra: tuple[tuple[Array, ...], ...] = array("_", default=())

    def values(self, ref: xr.Dataset, column: str = "") -> Array:
        """Return a column of the tables (without a name: the images) at the knots."""
        suffix = f".{column}" if column else ""
        columns = [ref.variables[f"{n}{suffix}"].data for n in self.names]
        xp = array_namespace(*columns, self.knots)
        picked = [xp.asarray(c).reshape(-1)[e] for c, e in zip(columns, self.elements, strict=True)]
        return xp.concatenate(picked).astype(xp.asarray(self.knots).dtype)

    def lines(self, ref: xr.Dataset, column: str = "") -> tuple[Array, Array]:
        """Return the straight lines between the knots of a column, or of the images."""
        return cell_lines(self.knots, self.values(ref, column))


@dataclass(frozen=True, eq=False)
class Segment:
    """One table of a bank: which rows of which column, and their wavelengths.

    Attributes
    ----------
    name : str
        Prefix of the variables of the table.
    elements, knots : array, shape (m,)
        Positions in the flattened columns, and wavelengths: at least two, strictly increasing.
    known : array of bool, shape (m,), optional
        Where the values can be used; everywhere if None.
    extra : tuple of array, shape (m,)
        Whatever else is planned by row of the table.
    """

    name: str
    elements: HostArray
    knots: HostArray
    known: HostArray | None = None
    extra: tuple[HostArray, ...] = ()


def in_memory(variable: xr.Variable) -> Array | None:
    """Return the data of a variable, or None if they have not been read."""
    data: Array | None = variable.data if variable._in_memory else None  # noqa: SLF001 - nothing else tells
    return data


def take(variable: xr.Variable, positions: Array) -> Array:
    """Return elements of a variable of a reference, without reading the rest of a large one.

    `positions` are those in the flattened variable, of the shape of the result.
    """
    data = in_memory(variable)
    # where the data have been read, or replaced by others, they count
    if data is None and "plane" in variable.encoding:
        return variable.encoding["plane"].take(positions)
    data = variable.data if data is None else data
    return array_namespace(data, positions).asarray(data).reshape(-1)[positions]


def wavelengths_of(ds: xr.Dataset, name: str) -> tuple[HostArray, HostArray]:
    """Return wavelengths of a bucket, and which pixels are no padding, shape (slit, y, x).

    They are NaN where not positive, and rounded to float32: whether a pixel is covered by a table
    must not depend on digits that the product drops.
    """
    rows, columns = np.arange(ds.sizes["y"]), np.arange(ds.sizes["x"])
    ysize, xsize = (np.asarray(ds[n].data).reshape(-1, 1, 1) for n in ("ysize", "xsize"))
    true = np.asarray((rows[:, None] < ysize) & (columns < xsize))
    wave = np.asarray(ds[name].data).astype(np.float32).astype(np.float64)
    return np.where(true & (wave > 0), wave, np.nan), true


def list_pixels(listed: HostArray, true: HostArray) -> PixelList:
    """Collect the pixels `listed` of a bucket, those in `true` being no padding."""
    position = np.flatnonzero(listed)
    count = len(position)
    entry = np.where(true, np.int32(count), np.int32(count + 1))
    entry.reshape(-1)[position] = np.arange(count, dtype=np.int32)
    return PixelList(position, entry, tuple(np.count_nonzero(listed, axis=(1, 2)).tolist()))


def _with_constant_ends(one: Segment) -> Segment:
    """A table that keeps the values at its ends for all wavelengths beyond."""
    ends = np.concatenate([[0], np.arange(len(one.knots)), [len(one.knots) - 1]])
    knots = np.concatenate([[0.0], one.knots, [_FAR]])
    known = None if one.known is None else one.known[ends]
    return Segment(one.name, one.elements[ends], knots, known, tuple(e[ends] for e in one.extra))


def _search(table: HostArray, x: HostArray) -> tuple[HostArray, HostArray]:
    cell = np.searchsorted(table, x, side="right")
    cell -= 1
    np.clip(cell, 0, len(table) - 2, out=cell)
    covered = np.minimum.reduce(x) >= table[0]
    covered &= np.maximum.reduce(x) <= table[-1]
    return cell.astype(np.int32), covered


def make_bank(
    segments: Sequence[Segment | None],
    slit: HostArray,
    points: HostArray,
    searched: dict[tuple[object, ...], tuple[HostArray, HostArray]] | None = None,
    *,
    extend: bool = False,
) -> tuple[TableBank, HostArray, HostArray | None]:
    """Put the tables of all slits into a bank and find the cell of every pixel.

    Parameters
    ----------
    segments : sequence of Segment or None
        By slit; slits may share one. A slit without one must not be in the list of pixels.
    slit, points : array, shape (n,) and (points, n)
        Slit of each pixel, and wavelengths to look up [um]; NaN is not covered.
    searched : dict, optional
        Results of searches for the same points, shared between banks.
    extend : bool
        Tables keep the values at their ends for all wavelengths beyond.

    Returns
    -------
    bank : TableBank
    covered, beyond : array of bool, shape (n,)
        Whether all points of a pixel are within its table and between usable values; with
        `extend` (otherwise None), whether they are not within the table as it is.
    """
    searched = {} if searched is None else searched
    # every table once, those of a name together
    once = sorted({id(s): s for s in segments if s is not None}.values(), key=lambda s: s.name)
    place = {id(s): i for i, s in enumerate(once)}
    beyond = None
    if extend:
        low, high = (
            np.array([np.inf if s is None else s.knots[end] for s in segments]) for end in (0, -1)
        )
        beyond = (np.minimum.reduce(points) < low[slit]) | (np.maximum.reduce(points) > high[slit])
        once = [_with_constant_ends(s) for s in once]
    starts = np.cumsum([0, *(len(s.knots) for s in once)], dtype=np.int32)
    names = tuple(dict.fromkeys(s.name for s in once))
    named = [[s for s in once if s.name == n] for n in names]
    knots = np.concatenate([s.knots for s in once]) if once else np.zeros(0)

    cells = np.zeros(points.shape, dtype=np.int32)
    covered = np.zeros(points.shape[1:], dtype=bool)
    groups: dict[bytes, list[int]] = {}
    for i, one in enumerate(segments):
        if one is not None:
            groups.setdefault(once[place[id(one)]].knots.tobytes(), []).append(i)
    for key, members in groups.items():
        # one search serves all slits, and all parts, whose tables have the same wavelengths
        part: Any = slice(None) if len(groups) == 1 else np.flatnonzero(np.isin(slit, members))
        what = (key, tuple(members))
        if what not in searched:
            searched[what] = _search(np.frombuffer(key), points[:, part])
        cells[:, part], covered[part] = searched[what]
    offset = starts[[place.get(id(s), 0) for s in segments]]
    if offset.any():
        cells += offset[slit]
    if any(s.known is not None for s in once):
        known = np.concatenate(
            [np.ones(len(s.knots), bool) if s.known is None else s.known for s in once]
        )
        covered &= (known[cells] & known[np.minimum(cells + 1, len(known) - 1)]).all(axis=0)
    bank = TableBank(
        names,
        elements=tuple(np.concatenate([s.elements for s in same]) for same in named),
        knots=knots,
        cells=cells,
        extra=tuple(
            tuple(map(np.concatenate, zip(*(s.extra for s in same), strict=True))) for same in named
        ),
    )
    return bank, covered, beyond

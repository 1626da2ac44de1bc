"""Slitlets from the MSA metadata file: neighbouring open shutters that hold one source.

The file (FITS keyword MSAMETFL of the exposure) is described in the JWST documentation of
assign_wcs, "MSA metadata file". ``SHUTTER_INFO`` has a row for every open shutter, configuration
(``msa_metadata_id``) and position of the dither pattern; ``SOURCE_INFO`` a row for every source.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.errors import InputError
from spec2fn.schema import FIXED_SLIT_QUADRANT, MSA_TABLES, SHUTTERS_ACROSS, SHUTTERS_ALONG
from spec2fn.wcs.open_slits import (
    FIXED_SLITS,
    Slit,
    fixed_slit,
    shutter_id,
)

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["open_slitlets"]

_PITCH = 1.15  # of shutters along a slitlet, in units of the open area's height
_MARGIN = 0.5  # beyond the outermost shutters of a slitlet
_SCALES = (1.35, 1.15)  # where the MSA reference has none (fixed slits)
_UNPLANNED = 0.5  # the centre of the shutter, in the coordinates of the planning tool

# Values that columns of SHUTTER_INFO can have in a row of a shutter; positions count from a corner
# of the shutter and may lie in the bars, or in the next one.
_RANGES: Mapping[str, tuple[int, int]] = {
    "slitlet_id": (1, 2**31),
    "shutter_quadrant": (1, 4),
    "shutter_row": (1, SHUTTERS_ALONG),
    "shutter_column": (1, SHUTTERS_ACROSS),
}
_WHOLE = (*_RANGES, "msa_metadata_id", "source_id", "dither_point_index")
_CHOICES: Mapping[str, tuple[str, ...]] = {
    "background": ("Y", "N"),
    "primary_source": ("Y", "N"),
    "fixed_slit": ("", "NONE", *FIXED_SLITS),
}
_PLACES = (-1.0, 2.0)


@dataclass(frozen=True, eq=False)
class _Tables:
    """The rows of one configuration, grouped by slitlet."""

    file: str
    rows: Mapping[str, np.ndarray]
    sources: Mapping[str, np.ndarray]
    program: str
    dither: int
    y_range: tuple[float, float]
    scales: Mapping[int, tuple[float, float]]


def open_slitlets(
    msa: xr.Dataset,
    metadata_id: int,
    dither: int,
    *,
    program: str = "",
    y_range: tuple[float, float] = (-0.55, 0.55),
    scales: Mapping[int, tuple[float, float]] | None = None,
) -> tuple[Slit, ...]:
    """Return the open slitlets (and fixed slits) of a configuration of the MSA.

    Parameters
    ----------
    msa : xarray.Dataset
        MSA metadata, from :func:`spec2fn.io.read_msa_metadata`.
    metadata_id, dither : int
        Configuration, and index into the dither pattern.
    program : str
        Program number, for the names of background and virtual sources.
    y_range : (float, float)
        Edges of the open area of a shutter, in units of its height.
    scales : mapping of int to (float, float), optional
        Pitch over open size of the shutters (x, y) by quadrant.

    Returns
    -------
    tuple of Slit
        In the order in which the file names them.

    Raises
    ------
    InputError
        If a column is missing or holds what it cannot hold, there is no such configuration or
        dither index, or a slitlet has several main shutters, mixes shutters with fixed slits or
        spreads over rows of shutters.
    """
    file = str(msa.attrs.get("filename", "the MSA metadata"))
    rows = _table(msa, "shutter_info", file)
    older = "fixed_slit" not in rows
    fixed = np.full(len(rows["slitlet_id"]), "") if older else np.char.strip(rows["fixed_slit"])
    rows["fixed_slit"] = fixed
    chosen = _choose(rows, metadata_id, dither, file)
    rows = {name: values[chosen] for name, values in rows.items()}
    _check_rows(rows, chosen, file, " (there is no column fixed_slit)" if older else "")
    rows["fixed_slit"] = np.where(np.isin(rows["fixed_slit"], list(FIXED_SLITS)), fixed[chosen], "")
    tables = _Tables(
        file,
        rows,
        _table(msa, "source_info", file),
        program.lstrip("0"),
        dither,
        y_range,
        scales or {},
    )
    groups: dict[str, list[int]] = {}
    for i, name in enumerate(tables.rows["fixed_slit"]):
        groups.setdefault(str(name) or str(tables.rows["slitlet_id"][i]), []).append(i)
    slits = (_slitlet(tables, name, members) for name, members in groups.items())
    return tuple(s for s in slits if s is not None)


def _table(msa: xr.Dataset, table: str, file: str) -> dict[str, np.ndarray]:
    """Columns of a table, numbers or text as they must be."""
    out = {}
    for column in (*MSA_TABLES[table], *(["fixed_slit"] if table == "shutter_info" else [])):
        if f"{table}.{column}" not in msa:
            if column == "fixed_slit":
                continue  # files of before 2024 have none
            msg = f"assign_wcs: {file}: table {table.upper()} has no column {column}; add it"
            raise InputError(msg)
        values = np.asarray(msa[f"{table}.{column}"].values)
        number = values.dtype.kind in "iuf"
        if number == (column in _CHOICES or column in ("source_name", "alias")):
            needs = "text" if number else "numbers"
            raise _wrong(file, table, column, f"is {values.dtype}, needs {needs}")
        if column in _WHOLE:
            bad = np.flatnonzero(~(np.isfinite(values) & (values == np.rint(values))))
            if bad.size:
                found = f"is {values[bad[0]]} in row {bad[0] + 1}, needs a whole number"
                raise _wrong(file, table, column, found)
            values = values.astype(np.int64)
        out[column] = values
    return out


def _wrong(file: str, table: str, column: str, what: str) -> InputError:
    return InputError(f"assign_wcs: {file}: table {table.upper()}, column {column} {what}")


def _check_rows(rows: Mapping[str, np.ndarray], numbers: np.ndarray, file: str, note: str) -> None:
    """Raise :class:`InputError` where a row of the configuration holds what it cannot hold."""
    for column, allowed in _CHOICES.items():
        for i in np.flatnonzero(~np.isin(rows[column], allowed))[:1]:
            needs = " or ".join(filter(None, allowed))
            found = f"is {str(rows[column][i])!r} in row {numbers[i] + 1}, needs {needs}"
            raise _wrong(file, "shutter_info", column, found)
    shutters = ~np.isin(rows["fixed_slit"], list(FIXED_SLITS))
    for column, (low, high) in _RANGES.items():
        values = rows[column]
        for i in np.flatnonzero(shutters & ((values < low) | (values > high)))[:1]:
            found = f"is {values[i]} in row {numbers[i] + 1}, needs {low} to {high}{note}"
            raise _wrong(file, "shutter_info", column, found)


def _choose(rows: Mapping[str, np.ndarray], metadata_id: int, dither: int, file: str) -> np.ndarray:
    chosen = np.ones(len(rows["msa_metadata_id"]), dtype=bool)
    for column, keyword, value, what, given in (
        ("msa_metadata_id", "MSAMETID", metadata_id, "configuration", ""),
        ("dither_point_index", "PATT_NUM", dither, "dither index", f" for MSAMETID={metadata_id}"),
    ):
        known = sorted({int(i) for i in rows[column][chosen]})
        chosen &= rows[column] == value
        if not chosen.any():
            msg = (
                f"assign_wcs: {file} has no {what} {keyword}={value}{given}; column {column} of"
                f" SHUTTER_INFO has {', '.join(map(str, known)) or 'none'}: correct {keyword} or"
                " MSAMETFL"
            )
            raise InputError(msg)
    return np.flatnonzero(chosen)


def _slitlet(t: _Tables, name: str, members: list[int]) -> Slit | None:
    primary = [i for i in members if t.rows["primary_source"][i] == "Y"]
    if t.rows["fixed_slit"][members[0]]:
        if len(members) > 1:
            msg = (
                f"assign_wcs: {t.file} lists fixed slit {name} {len(members)} times (column"
                " fixed_slit of SHUTTER_INFO); keep one"
            )
            raise InputError(msg)
        # a fixed slit without a source of its own is not part of the observation
        return _fixed(t, name, primary[0]) if primary else None
    if len(primary) > 1:
        msg = (
            f"assign_wcs: {t.file}: slitlet {name} (column slitlet_id of SHUTTER_INFO) has"
            f" {len(primary)} shutters with a source (primary_source is Y); one is allowed"
        )
        raise InputError(msg)
    for column in ("shutter_quadrant", "shutter_row"):
        values = np.unique(t.rows[column][members])
        if len(values) > 1:
            listed = " and ".join(map(str, values))
            what = f"is {listed} in slitlet {name} (slitlet_id), whose shutters must lie in a line"
            raise _wrong(t.file, "shutter_info", column, what)
    return _shutters(t, name, members, primary)


def _source(t: _Tables, source_id: int, slitlet: str) -> dict[str, Any]:
    (rows,) = np.nonzero(t.sources["source_id"] == source_id)
    alone = np.sum((t.rows["source_id"] == source_id) & (t.rows["primary_source"] == "Y")) == 1
    if not rows.size and source_id < 0 and alone:
        return _nameless(t, "VRT", slitlet)  # a place that was planned without a source
    if rows.size != 1:
        what = (
            f"is {source_id} for slit {slitlet}, which stands in SOURCE_INFO {rows.size} times,"
            " needs to stand there once"
        )
        raise _wrong(t.file, "shutter_info", "source_id", what)
    s, i = t.sources, int(rows[0])
    for column, (low, high) in {"ra": (0, 360), "dec": (-90, 90), "stellarity": (-1, 1)}.items():
        value = s[column][i]
        if not low <= value <= high:
            found_here = f"is {value} for source {source_id}, needs {low} to {high}"
            raise _wrong(t.file, "source_info", column, found_here)
    return {
        "source_name": str(s["source_name"][i]),
        "source_alias": str(s["alias"][i]),
        "stellarity": float(s["stellarity"][i]),
        "source_ra": float(s["ra"][i]),
        "source_dec": float(s["dec"][i]),
    }


def _nameless(t: _Tables, kind: str, slitlet: str) -> dict[str, Any]:
    alias = f"{kind}{slitlet}"
    return {"source_name": f"{t.program}_{alias}", "source_alias": alias}


def _position(t: _Tables, row: int, source_id: int) -> dict[str, Any]:
    # the planning tool counts from a corner of the shutter; in the precision of the file
    out = {}
    for axis in "xy":
        column = f"estimated_source_in_shutter_{axis}"
        value = t.rows[column][row]
        centre = value.dtype.type(_UNPLANNED)
        planned = _PLACES[0] <= value <= _PLACES[1]
        if not planned and (source_id >= 0 or not np.isnan(value)):
            what = (
                f"is {value} for source {source_id}, needs its place in the shutter"
                f" ({_PLACES[0]} to {_PLACES[1]})"
            )
            raise _wrong(t.file, "shutter_info", column, what)
        out[f"source_{axis}pos"] = float(value - centre) if planned else 0.0
    return out


def _scales(t: _Tables, quadrant: int) -> dict[str, Any]:
    x, y = t.scales.get(quadrant, _SCALES)
    return {"slit_xscale": float(x), "slit_yscale": float(y)}


def _fixed(t: _Tables, name: str, row: int) -> Slit:
    source_id = int(t.rows["source_id"][row])
    return replace(
        fixed_slit(name, name, t.y_range),
        source_id=source_id,
        shutter_state="x",
        dither_position=t.dither,
        **_source(t, source_id, name),
        **_position(t, row, source_id),
        **_scales(t, FIXED_SLIT_QUADRANT),
    )


def _shutters(t: _Tables, name: str, members: list[int], primary: list[int]) -> Slit:
    columns = [int(t.rows["shutter_column"][i]) for i in members]
    first, last = min(columns), max(columns)
    if primary:
        centred = [i for i in members if t.rows["background"][i] == "N"] or primary
        main = centred[0]
        ycen = int(t.rows["shutter_column"][main])
        source_id = int(t.rows["source_id"][primary[0]])
        source = _source(t, source_id, name) | _position(t, main, source_id)
    else:
        # shutters that see background alone have no source id of their own
        main, ycen, source_id = members[0], first + (last - first) // 2, int(name)
        source = _nameless(t, "BKG", name)
    xcen, quadrant = int(t.rows["shutter_row"][main]), int(t.rows["shutter_quadrant"][main])
    low, high = t.y_range
    return Slit(
        name,
        shutter_id(xcen, ycen),
        low - _MARGIN + (first - ycen) * _PITCH,
        high + _MARGIN + (last - ycen) * _PITCH,
        quadrant,
        xcen,
        ycen,
        source_id=source_id,
        shutter_state=_state(columns, ycen),
        dither_position=t.dither,
        slitlet_id=int(name),
        **source,
        **_scales(t, quadrant),
    )


def _state(columns: Sequence[int], main: int) -> str:
    def one(column: int) -> str:
        return "x" if column == main else str(int(column in columns))

    return "".join(one(c) for c in range(min(columns), max(columns) + 1))

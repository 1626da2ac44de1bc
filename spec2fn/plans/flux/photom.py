"""Host-side half of the flux calibration: which row of the table, and where pixels stand on it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.errors import InputError, ReferenceError
from spec2fn.host.interpolation import locate
from spec2fn.plan_base import Plan, array
from spec2fn.schema import described, require
from spec2fn.typing import Array

if TYPE_CHECKING:
    import xarray as xr

__all__ = [
    "TIME_TABLES",
    "PhotomPlan",
    "find_row",
    "plan_spectral_response",
    "response_row",
    "time_tables",
]

_METRES_BELOW = 1.0e-4  # a longest wavelength below this is in metres, not micrometres

TIME_TABLES = {
    "timecoeff_linear": ("t0", "lossperyear"),
    "timecoeff_exponential": ("t0", "amplitude", "tau", "const"),
    "timecoeff_powerlaw": ("t0", "year1value", "tsoft", "alpha"),
}
"""Tables of the time dependence in a PHOTOM reference, with their columns."""

_KEYS = ("filter", "pupil", "grating", "slit", "subarray", "order")
_NO_KEY = ("", "N/A")


class PhotomPlan(Plan):
    """The row of a PHOTOM table that applies, and where pixels stand on its wavelengths.

    Attributes
    ----------
    row : int
        Of the table.
    order : array of int, shape (n,)
        Elements of the row in increasing wavelength.
    index, fraction, covered : array, shape (y, x)
        See :func:`spec2fn.host.interpolation.locate`.
    time_tables : tuple of str
        Tables of :data:`TIME_TABLES` to apply.
    time_rows : tuple of int
        The row of each of them.
    """

    row: int
    order: Array = array("knot")
    index: Array = array("y x")
    fraction: Array = array("y x")
    covered: Array = array("y x")
    time_tables: tuple[str, ...]
    time_rows: tuple[Any, ...] = ()


def find_row(table: xr.Dataset, prefix: str, **wanted: str | None) -> int | None:
    """Return the row of a reference table in which all columns have the wanted values.

    Parameters
    ----------
    table : xarray.Dataset
        Reference with columns as variables ``<prefix>.<column>``.
    prefix : str
        Name of the table.
    **wanted
        Value by column; text is compared without regard to case.

    Returns
    -------
    int or None
        None if no row matches.

    Raises
    ------
    ReferenceError
        If a column is missing, or several rows match.
    """
    match: Any = True
    for column, value in wanted.items():
        name = f"{prefix}.{column}"
        if name not in table:
            msg = f"photom: reference {prefix!r} has no column {column!r}; it needs one"
            raise ReferenceError(msg)
        found = np.char.upper(np.char.strip(np.asarray(table[name].data).astype(str)))
        match = match & (found == str(value or "").strip().upper())
    rows = np.flatnonzero(match)
    if len(rows) > 1:
        what = ", ".join(f"{k}={v}" for k, v in wanted.items())
        msg = f"photom: reference {prefix!r} has {len(rows)} rows for {what}; one is needed"
        raise ReferenceError(msg)
    return int(rows[0]) if len(rows) else None


def plan_spectral_response(
    ds: xr.Dataset, photom: xr.Dataset, row: int, *, apply_time_correction: bool
) -> PhotomPlan:
    """Place the pixels of an exposure on the relative response of a row.

    Parameters
    ----------
    ds : xarray.Dataset
        Exposure with ``wavelength`` [um], dims ``(y, x)``.
    photom : xarray.Dataset
        PHOTOM reference with the columns ``wavelength`` and ``relresponse``.
    row : int
        Row that applies.
    apply_time_correction : bool
        Whether to apply the tables of the time dependence.

    Raises
    ------
    DatasetError
        If ``wavelength`` is missing.
    InputError
        If the exposure has no mid time and the time dependence needs one.
    ReferenceError
        If the reference lacks a column, or the row has none in the tables of the time dependence.
    """
    require(ds, ("wavelength",), "photom")
    names = ("photom.photmjsr", "photom.wavelength", "photom.relresponse")
    missing = [n for n in names if n not in photom]
    if missing:
        msg = f"photom: reference 'photom' has no {', '.join(map(repr, missing))}"
        raise ReferenceError(f"{msg}; {ds.attrs.get('exp_type')} needs a response by wavelength")
    order, waves = response_row(photom, row)
    index, fraction, covered = locate(ds["wavelength"].data, waves)
    tables, rows = time_tables(ds, photom, [row]) if apply_time_correction else ((), ())
    return PhotomPlan(row, order, index, fraction, covered, tables, tuple(int(r[0]) for r in rows))


def response_row(photom: xr.Dataset, row: int) -> tuple[Any, Any]:
    """Return which elements of a row of the relative response count, and their wavelengths.

    Returns
    -------
    order : array of int, shape (n,)
        Elements of the row in increasing wavelength.
    waves : array, shape (n,)
        Wavelengths [um].

    Raises
    ------
    ReferenceError
        If there are fewer than two.
    """
    waves = np.asarray(photom["photom.wavelength"].data)[row]
    count = len(waves)
    if "photom.nelem" in photom:
        count = min(count, int(np.asarray(photom["photom.nelem"].data)[row]))
    waves = waves[:count]
    # equal wavelengths carry no response between them
    order = np.argsort(waves, kind="stable")
    order = order[np.concatenate([[True], np.diff(waves[order]) > 0])] if count else order
    if len(order) < 2:
        msg = f"photom: row {row} of reference 'photom' has fewer than two wavelengths"
        raise ReferenceError(msg)
    waves = waves[order]
    if 0 < waves[-1] < _METRES_BELOW:
        waves = waves * waves.dtype.type(1.0e6)
    return order, waves


def time_tables(
    ds: xr.Dataset, photom: xr.Dataset, rows: Sequence[int | None]
) -> tuple[tuple[str, ...], tuple[Any, ...]]:
    """Return the tables of the time dependence that a reference holds, and the rows that apply.

    Parameters
    ----------
    ds : xarray.Dataset
        Exposure, for its mid time.
    photom : xarray.Dataset
        PHOTOM reference.
    rows : sequence of int or None
        Of the table ``photom``.

    Returns
    -------
    tables : tuple of str
    rows : tuple of array of int
        By table: for each of `rows` the row with the same keys (filter, grating, slit, …; 0 for
        None). A table without keys has the rows of ``photom``.

    Raises
    ------
    InputError
        If the exposure has no mid time and there is a time dependence.
    ReferenceError
        If a table lacks a column, or has not exactly one row for one of `rows`.
    """
    found, places = [], []
    for table, columns in TIME_TABLES.items():
        names = [f"{table}.{c}" for c in columns]
        present = [n for n in names if n in photom]
        if not present:
            continue
        if len(present) < len(names):
            msg = (
                f"photom: table {table!r} of {described(photom)} needs the columns"
                f" {', '.join(columns)}, and has no {', '.join(set(names) - set(present))}"
            )
            raise ReferenceError(msg)
        found.append(table)
        places.append(_time_rows(photom, table, rows))
    if found and "mid_time" not in ds:
        msg = (
            "photom: the time-dependent correction needs the mid time of the exposure (EXPMID);"
            " add the keyword, or set apply_time_correction=false"
        )
        raise InputError(msg)
    return tuple(found), tuple(places)


def _time_rows(photom: xr.Dataset, table: str, rows: Sequence[int | None]) -> Any:
    keys = {}
    for column in _KEYS:
        names = (f"{table}.{column}", f"photom.{column}")
        if all(n in photom for n in names):
            pair = [np.char.upper(np.char.strip(photom[n].values.astype(str))) for n in names]
            if not np.isin(pair[0], _NO_KEY).all():
                keys[column] = pair
    at = []
    for row in rows:
        if row is None:
            at.append(0)
            continue
        count = photom[f"{table}.{TIME_TABLES[table][0]}"].shape[0]
        hit = np.arange(count) == row
        if keys:
            hit = np.logical_and.reduce([own == key[row] for own, key in keys.values()])
        elif count != photom["photom.wavelength"].shape[0]:
            hit[:] = False
        if hit.sum() != 1:
            wanted = ", ".join(f"{c} {key[row]}" for c, (_, key) in keys.items()) or f"row {row}"
            msg = (
                f"photom: table {table!r} of {described(photom)} has {hit.sum()} rows for {wanted},"
                " needs one; use another reference, or set apply_time_correction=false"
            )
            raise ReferenceError(msg)
        at.append(int(np.flatnonzero(hit)[0]))
    return np.array(at, dtype=int)

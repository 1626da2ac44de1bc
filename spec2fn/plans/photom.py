"""Host-side half of the flux calibration: which row of the table, and where pixels stand on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.errors import InputError, ReferenceError
from spec2fn.plans.base import Plan, array
from spec2fn.plans.interpolation import locate
from spec2fn.schema import require
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


class PhotomPlan(Plan):
    """The row of a PHOTOM table that applies, and where pixels stand on its wavelengths.

    Attributes
    ----------
    row : int
        Of the table (and of the tables of the time dependence).
    order : array of int, shape (n,)
        Elements of the row in increasing wavelength.
    index, fraction, covered : array, shape (y, x)
        See :func:`spec2fn.plans.interpolation.locate`.
    time_tables : tuple of str
        Tables of :data:`TIME_TABLES` to apply.
    """

    row: int
    order: Array = array("knot")
    index: Array = array("y x")
    fraction: Array = array("y x")
    covered: Array = array("y x")
    time_tables: tuple[str, ...]


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
        If the reference lacks a column, or its tables disagree in length.
    """
    require(ds, ("wavelength",), "photom")
    names = ("photom.photmjsr", "photom.wavelength", "photom.relresponse")
    missing = [n for n in names if n not in photom]
    if missing:
        msg = f"photom: reference 'photom' has no {', '.join(map(repr, missing))}"
        raise ReferenceError(f"{msg}; {ds.attrs.get('exp_type')} needs a response by wavelength")
    order, waves = response_row(photom, row)
    index, fraction, covered = locate(ds["wavelength"].data, waves)
    tables = time_tables(ds, photom) if apply_time_correction else ()
    return PhotomPlan(row, order, index, fraction, covered, tables)


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


def time_tables(ds: xr.Dataset, photom: xr.Dataset) -> tuple[str, ...]:
    """Return the tables of the time dependence that a reference holds.

    Raises
    ------
    InputError
        If the exposure has no mid time and there is a time dependence.
    ReferenceError
        If a table lacks a column, or has not as many rows as the table ``photom``.
    """
    rows = photom["photom.wavelength"].shape[0]
    found = []
    for table, columns in TIME_TABLES.items():
        names = [f"{table}.{c}" for c in columns]
        present = [n for n in names if n in photom]
        if not present:
            continue
        if len(present) < len(names) or any(photom[n].shape[0] != rows for n in names):
            msg = (
                f"photom: table {table!r} of reference 'photom' needs the columns"
                f" {', '.join(columns)} and {rows} rows, as many as 'photom' has"
            )
            raise ReferenceError(msg)
        found.append(table)
    if found and "mid_time" not in ds:
        msg = (
            "photom: the time-dependent correction needs the mid time of the exposure (EXPMID);"
            " add the keyword, or set apply_time_correction=false"
        )
        raise InputError(msg)
    return tuple(found)

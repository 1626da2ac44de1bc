"""Flux calibration by a response that depends on wavelength, and what all kinds of it share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from spec2fn.errors import InputError, ReferenceError
from spec2fn.host.interpolation import locate
from spec2fn.kernels.namespace import array_namespace
from spec2fn.kernels.photometry import (
    exponential_change,
    interpolate_planned,
    linear_change,
    power_law_change,
)
from spec2fn.plan_base import Plan, array
from spec2fn.plans.flux.factors import Factor
from spec2fn.schema import described, meta_of, need, require
from spec2fn.typing import Array, HostArray, Number
from spec2fn.units import MJSR_TO_UJA2

if TYPE_CHECKING:
    import xarray as xr

    from spec2fn.parameters import Parameters

__all__ = [
    "PhotomPlan",
    "RowPlan",
    "find_row",
    "find_rows",
    "need_mid_time",
    "photom_scalars",
    "pixel_area",
    "plan_spectral_response",
    "response_row",
    "throughput",
    "time_tables",
]

_METRES_BELOW = 1.0e-4  # a longest wavelength below this is in metres, not micrometres

TIME_TABLES: dict[str, tuple[Callable[..., Array], tuple[str, ...]]] = {
    "timecoeff_linear": (linear_change, ("t0", "lossperyear")),
    "timecoeff_exponential": (exponential_change, ("t0", "amplitude", "tau", "const")),
    "timecoeff_powerlaw": (power_law_change, ("t0", "year1value", "tsoft", "alpha")),
}
"""Tables of the time dependence in a PHOTOM reference: their form, and their columns."""

_KEYS = ("filter", "pupil", "grating", "slit", "subarray", "order")
_NO_KEY = ("", "N/A")


class RowPlan(Plan):
    """The row of a PHOTOM table that applies, and where pixels stand on its wavelengths.

    Attributes
    ----------
    row : int
        Of the table.
    order : array of int, shape (n,)
        Elements of the row in increasing wavelength.
    index, fraction, covered : array, shape (y, x)
        See :func:`spec2fn.host.interpolation.locate`.
    """

    row: int
    order: Array = array("knot")
    index: Array = array("y x")
    fraction: Array = array("y x")
    covered: Array = array("y x")


class PhotomPlan(RowPlan):
    """Flux calibration by the relative response of a row.

    Attributes
    ----------
    time_tables : tuple of str
        Tables of :data:`TIME_TABLES` to apply.
    time_rows : tuple of int
        The row of each of them.
    """

    time_tables: tuple[str, ...]
    time_rows: tuple[int, ...] = ()

    def factor(
        self, ds: xr.Dataset, photom: xr.Dataset, area: xr.Dataset | None, *, inverse: bool
    ) -> Factor:
        """Return surface brightness per count rate."""
        columns = [photom.variables[f"photom.{n}"].data for n in ("photmjsr", "relresponse")]
        dtype = ds.variables["sci"].dtype
        xp = array_namespace(ds.variables["sci"].data, *columns, self.fraction)
        exact = xp.asarray(self.fraction).dtype

        photmjsr, relresponse = (xp.asarray(c)[self.row] for c in columns)
        conversion = photmjsr.astype(exact)
        conversion = throughput(conversion, ds, photom, self.time_tables, self.time_rows)
        response = interpolate_planned(relresponse[self.order], self.index, self.fraction)
        sizes = (pixel_area("pixar_sr", area, photom), pixel_area("pixar_a2", area, photom))
        return Factor(
            (conversion * response).astype(dtype),
            self.covered,
            units="DN/s" if inverse else "MJy/sr",
            scalars=photom_scalars(conversion, *sizes),
        )


def throughput(
    conversion: Array,
    ds: xr.Dataset,
    photom: xr.Dataset,
    tables: tuple[str, ...],
    rows: tuple[int | Array, ...],
) -> Array:
    """Return a factor divided by the relative throughput at the time of the exposure.

    Parameters
    ----------
    conversion : array
    ds, photom : xarray.Dataset
        The exposure, and the reference.
    tables, rows
        See :func:`time_tables`.
    """
    xp, dtype = array_namespace(conversion), conversion.dtype
    product = None
    for table, row in zip(tables, rows, strict=True):
        form, columns = TIME_TABLES[table]
        time = xp.asarray(ds.variables["mid_time"].data).astype(dtype)
        coefficients = (
            xp.asarray(photom.variables[f"{table}.{column}"].data)[row].astype(dtype)
            for column in columns
        )
        change = form(time, *coefficients)
        product = change if product is None else product * change
    return conversion if product is None else conversion / product


def photom_scalars(
    conversion: Number | None, pixar_sr: Number | None, pixar_a2: Number | None
) -> dict[str, Number | None]:
    """Return the numbers that photom records, from the factor and the area of a pixel."""
    return {
        "photmjsr": conversion,
        "photuja2": None if conversion is None else conversion * MJSR_TO_UJA2,
        "pixar_sr": pixar_sr,
        "pixar_a2": pixar_a2,
    }


def pixel_area(name: str, area: xr.Dataset | None, photom: xr.Dataset) -> Number | None:
    """Return ``pixar_sr`` or ``pixar_a2`` of the first reference that knows it."""
    for reference in (area, photom):
        if reference is None:
            continue
        if name in reference.variables:
            value: Array = reference.variables[name].data
            return value
        recorded = meta_of(reference).get(name.upper())
        if recorded is not None:
            return float(recorded)
    return None


def _texts(photom: xr.Dataset, name: str) -> HostArray:
    return np.char.upper(np.char.strip(np.asarray(photom[name].data).astype(str)))


def find_rows(photom: xr.Dataset, **wanted: str | None) -> HostArray:
    """Return the rows of the table ``photom`` in which all columns have the wanted values.

    Text is compared without regard to case; :class:`ReferenceError` if a column is missing.
    """
    need(photom, [f"photom.{column}" for column in wanted], "photom")
    matches = [
        _texts(photom, f"photom.{k}") == str(v or "").strip().upper() for k, v in wanted.items()
    ]
    return np.flatnonzero(np.logical_and.reduce(matches))


def find_row(photom: xr.Dataset, **wanted: str | None) -> int | None:
    """Return the one of :func:`find_rows`, None if there is none.

    Raises
    ------
    ReferenceError
        If a column is missing, or several rows match.
    """
    rows = find_rows(photom, **wanted)
    if len(rows) > 1:
        what = ", ".join(f"{k}={v}" for k, v in wanted.items())
        msg = f"photom: reference 'photom' has {len(rows)} rows for {what}; one is needed"
        raise ReferenceError(msg)
    return int(rows[0]) if len(rows) else None


def plan_spectral_response(
    ds: xr.Dataset, photom: xr.Dataset, row: int, params: Parameters
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
    params : Parameters
        Of :func:`spec2fn.steps.photom.photom`.

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
    need(photom, [f"photom.{c}" for c in ("photmjsr", "wavelength", "relresponse")], "photom")
    order, waves = response_row(photom, row)
    index, fraction, covered = locate(ds["wavelength"].data, waves)
    tables, rows = time_tables(ds, photom, [row], params)
    return PhotomPlan(row, order, index, fraction, covered, tables, tuple(int(r[0]) for r in rows))


def response_row(photom: xr.Dataset, row: int) -> tuple[HostArray, HostArray]:
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
    ds: xr.Dataset, photom: xr.Dataset, rows: Sequence[int | None], params: Parameters
) -> tuple[tuple[str, ...], tuple[HostArray, ...]]:
    """Return the tables of the time dependence that a reference holds, and the rows that apply.

    Parameters
    ----------
    ds : xarray.Dataset
        Exposure, for its mid time.
    photom : xarray.Dataset
        PHOTOM reference.
    rows : sequence of int or None
        Of the table ``photom``.
    params : Parameters
        Of the step; there are no tables without ``apply_time_correction``.

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
    tables: list[str] = []
    at: list[HostArray] = []
    for table, (_, columns) in TIME_TABLES.items() if params.apply_time_correction else ():
        names = [f"{table}.{c}" for c in columns]
        if any(n in photom for n in names):
            need(photom, names, "photom")
            tables.append(table)
            at.append(_time_rows(photom, table, rows))
    if tables:
        need_mid_time(ds)
    return tuple(tables), tuple(at)


def need_mid_time(ds: xr.Dataset) -> None:
    """Raise :class:`InputError` unless an exposure has a mid time."""
    if "mid_time" not in ds:
        msg = (
            "photom: the time-dependent correction needs the mid time of the exposure (EXPMID);"
            " add the keyword, or set apply_time_correction=false"
        )
        raise InputError(msg)


def _time_rows(photom: xr.Dataset, table: str, rows: Sequence[int | None]) -> HostArray:
    keys = {}
    for column in _KEYS:
        names = (f"{table}.{column}", f"photom.{column}")
        if all(n in photom for n in names):
            pair = [_texts(photom, n) for n in names]
            if not np.isin(pair[0], _NO_KEY).all():
                keys[column] = pair
    at = []
    for row in rows:
        if row is None:
            at.append(0)
            continue
        count = photom[f"{table}.{TIME_TABLES[table][1][0]}"].shape[0]
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

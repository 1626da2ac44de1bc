"""Host-side half of the flux calibration of NIRSpec slits: rows, areas, units by slit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.errors import DatasetError, ReferenceError
from spec2fn.host.interpolation import locate
from spec2fn.modes import mode_of
from spec2fn.plan_base import Plan, array, labels, positions
from spec2fn.plans.flux.photom import find_row, response_row, time_tables
from spec2fn.plans.flux.tables import (
    PixelList,
    Segment,
    TableBank,
    beyond,
    clean_wavelength,
    extrapolates,
    held_beyond,
    list_pixels,
    make_bank,
    true_pixels,
)
from spec2fn.schema import require
from spec2fn.typing import Array

if TYPE_CHECKING:
    import xarray as xr

__all__ = [
    "A2_TO_SR",
    "IfuPhotomPlan",
    "ResponsePlan",
    "SlitPhotomPlan",
    "plan_ifu_photom",
    "plan_slit_photom",
]

A2_TO_SR = (np.pi / (180.0 * 3600.0)) ** 2
"""Steradians in a square arcsecond."""


class ResponsePlan(Plan):
    """Where the pixels of a bucket stand on the relative response.

    Attributes
    ----------
    pixels : PixelList
        Pixels within the response.
    bank : TableBank
        Cells of shape (1, n) in the responses of the rows that are used.
    held : array of bool, shape (n,), optional
        With extrapolation: pixels beyond the response, where its end is used.
    """

    pixels: PixelList
    bank: TableBank
    held: Array | None = array("(slit pixel)", default=None)


class SlitPhotomPlan(Plan):
    """What converts the slits of a bucket into physical units.

    Attributes
    ----------
    rows : array of int, shape (slit,)
        Of the table ``photom``.
    point : array of bool, shape (slit,)
        Slits calibrated in flux density; the others are in surface brightness.
    pixar_sr, pixar_a2 : array of float64, shape (slit,)
        Area of a pixel [sr], [arcsec2].
    response : ResponsePlan
    time_tables : tuple of str
        Tables of :data:`spec2fn.plans.flux.photom.TIME_TABLES` to apply.
    problems : tuple of str
        By slit: why it has no calibration, or an empty string.
    units : tuple of str
        By slit.
    kept : tuple of int
        Slits for which the factors for point and uniform sources are kept.
    time_rows : tuple of array of int, shape (slit,)
        Rows of each of the `time_tables`.
    uniform : ResponsePlan, optional
        Of these slits with wavelengths for uniform sources; None if these are the same.
    warnings : tuple of str
        By slit: what is to be known of its calibration, or an empty string.
    """

    rows: Array = array("slit")
    point: Array = array("slit")
    pixar_sr: Array = array("slit")
    pixar_a2: Array = array("slit")
    response: ResponsePlan
    time_tables: tuple[str, ...]
    problems: tuple[str, ...] = labels("slit")
    units: tuple[str, ...] = labels("slit")
    kept: tuple[int, ...] = positions("slit", default=())
    time_rows: tuple[Array, ...] = array("slit", default=())
    uniform: ResponsePlan | None = None
    warnings: tuple[str, ...] = ()


class IfuPhotomPlan(Plan):
    """What converts the slices of an IFU exposure into surface brightness.

    Attributes
    ----------
    row : int
        Of the table ``photom``.
    order : array of int, shape (n,)
        Elements of the row in increasing wavelength.
    index, fraction : array, shape (y, x)
        See :func:`spec2fn.host.interpolation.locate`.
    covered : array of bool, shape (y, x)
        Pixels of the slices.
    slices : array of int, shape (30,)
        Row of the table ``area`` of each slice.
    slice_index : array of int8, shape (y, x)
        Slice of each pixel, from 0; 0 where not covered.
    held : array of bool, shape (y, x), optional
        With extrapolation: pixels beyond the response, where its end is used (as it is without).
    """

    row: int
    order: Array = array("knot")
    index: Array = array("y x")
    fraction: Array = array("y x")
    covered: Array = array("y x")
    slices: Array = array("slice")
    slice_index: Array = array("y x")
    held: Array | None = array("y x", default=None)


def plan_ifu_photom(
    ds: xr.Dataset,
    photom: xr.Dataset,
    area: xr.Dataset | None,
    row: int,
    extrapolate: bool | None = None,
) -> IfuPhotomPlan:
    """Place the pixels of an IFU exposure on the relative response and on the areas of slices.

    Parameters
    ----------
    ds : xarray.Dataset
        Exposure with ``wavelength`` [um] and ``slice_id`` (from 1), dims ``(y, x)``.
    photom : xarray.Dataset
        PHOTOM reference with the columns ``photmj``, ``wavelength``, ``relresponse``.
    area : xarray.Dataset
        AREA reference with the columns ``slice_id`` (from 0) and ``pixarea`` [arcsec2].
    row : int
        Row of the PHOTOM reference that applies.
    extrapolate : bool, optional
        See :func:`spec2fn.steps.photom.photom`.

    Raises
    ------
    DatasetError
        If a variable is missing.
    ReferenceError
        If the AREA reference is missing, a column is, or a slice.
    """
    require(ds, ("wavelength", "slice_id"), "photom")
    exp_type = ds.attrs.get("exp_type")
    _need_columns(photom, "photom", ("photmj", "wavelength", "relresponse"), exp_type)
    if area is None:
        msg = (
            "photom: reference 'area' is missing; the areas of the slices are needed: pass"
            " area=… or set CRDS up so that it selects one"
        )
        raise ReferenceError(msg)
    _need_columns(area, "area", ("slice_id", "pixarea"), exp_type)
    listed = np.asarray(area["area.slice_id"].data).astype(int).tolist()
    number = np.asarray(ds["slice_id"].data)
    seen = np.flatnonzero(np.bincount(number.reshape(-1))[1:])  # from 0, as they are listed
    missing = sorted(set(seen.tolist()) - set(listed))
    if missing:
        msg = f"photom: reference 'area' has no row for slice {', '.join(map(str, missing))}"
        raise ReferenceError(f"{msg} (of 0 to 29); fetch it again from CRDS")
    order, waves = response_row(photom, row)
    wave = np.asarray(ds["wavelength"].data).astype(np.float32).astype(waves.dtype)
    index, fraction, inside = locate(np.clip(wave, waves[0], waves[-1]), waves)
    return IfuPhotomPlan(
        row=row,
        order=order,
        index=index,
        fraction=fraction,
        covered=inside & (number > 0),
        slices=np.array([listed.index(i) if i in listed else 0 for i in range(30)]),
        slice_index=np.maximum(number - 1, 0).astype(np.int8),
        held=(wave < waves[0]) | (wave > waves[-1]) if extrapolates(ds, extrapolate) else None,
    )


def _need_columns(
    ref: xr.Dataset, reftype: str, columns: tuple[str, ...], exp_type: str | None
) -> None:
    missing = [c for c in columns if f"{reftype}.{c}" not in ref]
    if missing:
        msg = f"photom: reference {reftype!r} has no column {', '.join(map(repr, missing))}"
        raise ReferenceError(f"{msg}; {exp_type} needs them")


def plan_slit_photom(
    ds: xr.Dataset,
    photom: xr.Dataset,
    area: xr.Dataset | None,
    *,
    source_type: str | None,
    apply_time_correction: bool,
    extrapolate: bool | None = None,
) -> SlitPhotomPlan | None:
    """Find rows, areas and units of the slits of a bucket, and where its pixels stand.

    Parameters
    ----------
    ds : xarray.Dataset
        Bucket with dims ``(slit, [integration,] y, x)``, ``wavelength`` [um] and the variables
        of extract_2d and srctype; for NRS_MSASPEC also ``quadrant``, ``xcen``, ``ycen``.
    photom : xarray.Dataset
        PHOTOM reference with the columns ``filter``, ``grating``, ``photmj``, ``wavelength``,
        ``relresponse`` and, for fixed slits, ``slit``.
    area : xarray.Dataset, optional
        AREA reference; without it every pixel has the nominal area of the PHOTOM reference.
    source_type : {"POINT", "EXTENDED"}, optional
        Overrules the type of every slit.
    apply_time_correction : bool
    extrapolate : bool, optional
        See :func:`spec2fn.steps.photom.photom`.

    Returns
    -------
    SlitPhotomPlan or None
        None if the reference has no row for this filter and grating.

    Raises
    ------
    DatasetError
        If the exposure has not been cut into slits, or lacks a variable.
    InputError, ReferenceError
        See :func:`spec2fn.plans.flux.photom.time_tables` and
        :func:`spec2fn.plans.flux.photom.find_row`.
    """
    if "slit" not in ds.dims:
        msg = "photom: NIRSpec spectra must be cut into slits first; run extract_2d"
        raise DatasetError(msg)
    mos = mode_of(ds).shutters
    needed = ("wavelength", "slit_name", "source_type", "xsize", "ysize")
    require(ds, (*needed, "quadrant", "xcen", "ycen") if mos else needed, "photom")
    exp_type = ds.attrs.get("exp_type")
    _need_columns(photom, "photom", ("photmj", "wavelength", "relresponse"), exp_type)

    names = np.asarray(ds["slit_name"].data).astype(str)
    rows = _rows(ds, photom, names)
    if rows and all(r is None for r in rows) and (mos or not _has_mode(ds, photom)):
        return None
    problems = [
        f"photom: no row for slit {n}" if r is None else ""
        for n, r in zip(names, rows, strict=True)
    ]
    own = np.char.upper(np.asarray(ds["source_type"].data).astype(str))
    types = own if source_type is None else np.full(len(own), source_type.upper())
    point = types == "POINT"
    areas, unknown = _areas(ds, photom, area, names)
    warnings = [""] * len(names)
    for i in np.flatnonzero(unknown & ~point):
        warnings[i] = f"photom: no pixel area for slit {names[i]}, taken as 1 sr"

    segments = _segments(photom, rows)
    extend = extrapolates(ds, extrapolate)
    kept: tuple[int, ...] = ()
    uniform = None
    if mode_of(ds).several_slits:
        kept = tuple(int(i) for i in np.flatnonzero(own == "POINT") if segments[i] is not None)
        if kept and "wavelength_uncorrected" in ds:
            some = ds.isel(slit=list(kept))
            some_segments = [segments[i] for i in kept]
            uniform = _response(some, "wavelength_uncorrected", some_segments, extend)
    tables, time_rows = time_tables(ds, photom, rows) if apply_time_correction else ((), ())
    return SlitPhotomPlan(
        rows=np.array([0 if r is None else r for r in rows], dtype=int),
        point=point,
        pixar_sr=np.where(unknown, 1.0, areas * A2_TO_SR),
        pixar_a2=np.where(unknown, 1.0, areas),
        response=_response(ds, "wavelength", segments, extend),
        time_tables=tables,
        problems=tuple(problems),
        warnings=tuple(warnings),
        units=tuple("MJy" if p else "MJy/sr" for p in point),
        kept=kept,
        time_rows=time_rows,
        uniform=uniform,
    )


def _has_mode(ds: xr.Dataset, photom: xr.Dataset) -> bool:
    found: Any = True
    for key in ("filter", "grating"):
        column = np.asarray(photom[f"photom.{key}"].data).astype(str)
        found = found & (np.char.upper(np.char.strip(column)) == str(ds.attrs.get(key)).upper())
    return bool(np.any(found))


def _rows(ds: xr.Dataset, photom: xr.Dataset, names: Any) -> list[int | None]:
    keys = {"filter": ds.attrs.get("filter"), "grating": ds.attrs.get("grating")}
    if mode_of(ds).shutters:
        return [find_row(photom, "photom", **keys)] * len(names)
    return [find_row(photom, "photom", **keys, slit=str(name)) for name in names]


def _areas(
    ds: xr.Dataset, photom: xr.Dataset, area: xr.Dataset | None, names: Any
) -> tuple[Any, Any]:
    """Area of a pixel of each slit [arcsec2], and whether it is unknown."""
    if area is None:
        nominal = float(photom["pixar_a2"].data) if "pixar_a2" in photom else np.nan
        return np.full(len(names), nominal), np.full(len(names), np.isnan(nominal))
    mos = mode_of(ds).shutters
    columns = ("quadrant", "shutter_x", "shutter_y") if mos else ("slit_id",)
    _need_columns(area, "area", (*columns, "pixarea"), ds.attrs.get("exp_type"))
    values = np.asarray(area["area.pixarea"].data).astype(np.float64)
    if mos:
        table = _shutter_number(*(np.asarray(area[f"area.{c}"].data) for c in columns))
        wanted = _shutter_number(*(np.asarray(ds[n].data) for n in ("quadrant", "xcen", "ycen")))
        listed = np.flatnonzero(np.isin(table, wanted))
        found = [listed[table[listed] == number] for number in wanted]
        # a shutter that is listed twice has no area that could be trusted
        place = [int(f[0]) if len(f) == 1 else -1 for f in found]
    else:
        slits = np.char.strip(np.asarray(area["area.slit_id"].data).astype(str)).tolist()
        place = [slits.index(n) if n in slits else -1 for n in names]
    at = np.array(place, dtype=int)
    return np.where(at < 0, np.nan, values[at]), at < 0


def _shutter_number(quadrant: Any, x: Any, y: Any) -> Any:
    """One number for each shutter."""
    return (quadrant.astype(np.int64) << 40) + (x.astype(np.int64) << 20) + y


def _segments(photom: xr.Dataset, rows: list[int | None]) -> list[Segment | None]:
    length = photom["photom.wavelength"].shape[-1]
    read: dict[int | None, Segment | None] = {None: None}
    for row in rows:
        if row is not None and row not in read:
            order, waves = response_row(photom, row)
            read[row] = Segment("photom", order + row * length, waves.astype(np.float64))
    return [read[row] for row in rows]


def _response(
    ds: xr.Dataset, name: str, segments: list[Segment | None], extend: bool
) -> ResponsePlan:
    true = true_pixels(ds)
    wave = np.where(true, clean_wavelength(ds[name].data), np.nan)
    have = np.array([s is not None for s in segments], dtype=bool).reshape(-1, 1, 1)
    listed = np.flatnonzero(have & ~np.isnan(wave))
    slit = listed // int(np.prod(wave.shape[1:]))
    points = wave.reshape(-1)[listed][None]
    held = None
    if extend:
        held = beyond(segments, slit, points)
        segments = held_beyond(segments)
    bank, covered = make_bank(segments, slit, points)
    if not covered.all():
        listed = listed[covered]
        bank = TableBank(bank.names, bank.elements, bank.knots, bank.cells[:, covered])
    mask = np.zeros(wave.size, dtype=bool)
    mask[listed] = True
    return ResponsePlan(list_pixels(mask.reshape(wave.shape), true), bank, held)

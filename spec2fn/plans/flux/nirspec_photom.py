"""Flux calibration of NIRSpec: rows, areas and units by slit, areas by slice."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.dq import PIXEL
from spec2fn.errors import ReferenceError
from spec2fn.host.interpolation import locate
from spec2fn.kernels.bands import by_rows
from spec2fn.kernels.namespace import array_namespace
from spec2fn.kernels.photometry import interpolate_planned
from spec2fn.kernels.tables import on_lines, onto_image
from spec2fn.modes import mode_of
from spec2fn.plan_base import Plan, array, labels, positions
from spec2fn.plans.flux.factors import Factor, by_source_type, extrapolates
from spec2fn.plans.flux.photom import (
    RowPlan,
    find_row,
    find_rows,
    photom_scalars,
    response_row,
    throughput,
    time_tables,
)
from spec2fn.plans.flux.tables import (
    PixelList,
    Segment,
    TableBank,
    list_pixels,
    make_bank,
    wavelengths_of,
)
from spec2fn.plans.slits.slit_frame import chosen_types, is_point, require_slits
from spec2fn.schema import SCALARS, need, require
from spec2fn.typing import Array, HostArray
from spec2fn.units import ARCSEC2_TO_SR

if TYPE_CHECKING:
    import xarray as xr

    from spec2fn.parameters import Parameters

__all__ = [
    "IfuPhotomPlan",
    "ResponsePlan",
    "SlitPhotomPlan",
    "plan_ifu_photom",
    "plan_slit_photom",
]

_COLUMNS = ("photom.photmj", "photom.wavelength", "photom.relresponse")


class ResponsePlan(Plan):
    """Where the pixels of a bucket stand on the relative response.

    Attributes
    ----------
    pixels : PixelList
        Pixels within the response.
    bank : TableBank
        Cells of shape (1, n) in the responses of the rows that are used.
    extrapolated : array of bool, shape (n,), optional
        With extrapolation: pixels beyond the response, where its end is used.
    """

    pixels: PixelList
    bank: TableBank
    extrapolated: Array | None = array("(slit pixel)", default=None)

    def evaluated(self, ds: xr.Dataset, photom: xr.Dataset, name: str) -> tuple[Array, Array]:
        """Return the response of every pixel (0 where unknown), and where it is known.

        `name` is that of the variable with the wavelengths for which the plan was made.
        """
        wave = ds.variables[name].data
        xp = array_namespace(photom.variables["photom.relresponse"].data, wave, self.bank.knots)
        response = x = xp.asarray(wave).reshape(-1)[self.pixels.position]
        if self.bank.names:
            response = on_lines(self.bank.lines(photom, "relresponse"), self.bank.cells[0], x)
        entry = self.pixels.entry
        return onto_image(response, entry, 0.0, 0.0), entry < response.shape[0]


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
    unit : str
        That of all slits; "see bunit" if they differ: one attribute cannot say it then.
    kept : tuple of int
        Slits for which the factors for point and uniform sources are kept.
    time_rows : tuple of array of int, shape (slit,)
        Rows of each of the `time_tables`.
    uniform : ResponsePlan, optional
        Of these slits with wavelengths for uniform sources; None if these are the same.
    warnings : tuple of str, optional
        By slit: what is to be known of its calibration, or an empty string; None if nothing is.
    """

    rows: Array = array("slit")
    point: Array = array("slit")
    pixar_sr: Array = array("slit")
    pixar_a2: Array = array("slit")
    response: ResponsePlan
    time_tables: tuple[str, ...]
    problems: tuple[str, ...] = labels("slit")
    units: tuple[str, ...] = labels("slit")
    unit: str
    kept: tuple[int, ...] = positions("slit -> uniform", default=())
    time_rows: tuple[Array, ...] = array("slit", default=())
    uniform: ResponsePlan | None = None
    warnings: tuple[str, ...] | None = labels("slit", default=None)

    def factor(self, ds: xr.Dataset, photom: xr.Dataset, _: object, *, inverse: bool) -> Factor:
        """Return flux density or surface brightness per count rate, slit by slit."""
        photmj = photom.variables["photom.photmj"].data
        xp = array_namespace(ds.variables["sci"].data, photmj, self.pixar_sr)
        area = xp.asarray(self.pixar_sr)
        one = xp.ones((), dtype=area.dtype)

        flux = xp.asarray(photmj)[self.rows].astype(area.dtype)
        conversion = flux / xp.where(self.point, one, area)
        conversion = throughput(conversion, ds, photom, self.time_tables, self.time_rows)
        response, covered = self.response.evaluated(ds, photom, "wavelength")
        dtype = ds.variables["sci"].dtype
        value = (conversion[:, None, None] * response).astype(dtype)
        flags = None
        if self.response.extrapolated is not None:
            beyond = xp.asarray(self.response.extrapolated)
            beyond = onto_image(beyond, self.response.pixels.entry, False, False)
            flags = xp.where(beyond, np.uint32(PIXEL["FLUX_ESTIMATED"]), np.uint32(0))
        units = ["DN/s"] * len(self.units) if inverse else list(self.units)
        scalars = photom_scalars(conversion, area, xp.asarray(self.pixar_a2))
        variables: dict[str, Any] = {
            n: ("slit", v, {"units": SCALARS[n].unit}) for n, v in scalars.items()
        }
        variables["bunit"] = ("slit", np.array(units, dtype=str))
        if mode_of(ds).several_slits:
            kept = np.array(self.kept, dtype=int)
            uniform = response[kept]
            if self.uniform is not None:
                some = ds.isel(slit=list(self.kept))
                uniform, _ = self.uniform.evaluated(some, photom, "wavelength_uncorrected")
            uniform = ((flux / area)[kept, None, None] * uniform).astype(dtype)
            variables |= by_source_type("photom", self.kept, value, uniform)
        return Factor(
            value,
            covered,
            flags=flags,
            units="DN/s" if inverse else self.unit,
            variables=variables,
            problems=self.problems,
            warnings=self.warnings or (),
        )


class IfuPhotomPlan(RowPlan):
    """What converts the slices of an IFU exposure into surface brightness.

    Attributes
    ----------
    slices : array of int, shape (30,)
        Row of the table ``area`` of each slice.
    slice_index : array of int8, shape (y, x)
        Slice of each pixel, from 0; 0 where not covered.
    extrapolated : array of bool, shape (y, x), optional
        With extrapolation: pixels beyond the response, where its end is used (as it is without).
    """

    slices: Array = array("slice")
    slice_index: Array = array("y x")
    extrapolated: Array | None = array("y x", default=None)

    def factor(
        self, ds: xr.Dataset, photom: xr.Dataset, area: xr.Dataset | None, *, inverse: bool
    ) -> Factor:
        """Return surface brightness per count rate, each slice with its own area of a pixel."""
        area = need(area, (), "photom")
        columns = [photom.variables[f"photom.{n}"].data for n in ("photmj", "relresponse")]
        areas = area.variables["area.pixarea"].data
        xp = array_namespace(ds.variables["sci"].data, *columns, areas)
        dtype, exact = ds.variables["sci"].dtype, xp.asarray(self.fraction).dtype

        flux, response = (xp.asarray(c)[self.row] for c in columns)
        flux, response = flux.astype(exact), response[self.order]
        areas = xp.asarray(areas).astype(exact)
        size = areas[self.slices]

        def conversion_of(index: Array, fraction: Array, slice_index: Array) -> Array:
            relative = interpolate_planned(response, index, fraction)
            value: Array = flux * relative / (size[slice_index] * ARCSEC2_TO_SR)
            return value.astype(dtype)

        value = by_rows(conversion_of, flux, response, size)(
            self.index, self.fraction, self.slice_index
        )
        flags = xp.where(xp.asarray(self.covered), np.uint32(0), np.uint32(PIXEL["NON_SCIENCE"]))
        if self.extrapolated is not None:
            estimated = np.uint32(PIXEL["FLUX_ESTIMATED"])
            flags = xp.where(xp.asarray(self.extrapolated), flags | estimated, flags)
        mean = xp.nanmean(areas)
        in_sr = mean * ARCSEC2_TO_SR
        return Factor(
            value,
            self.covered,
            flags=flags,
            units="DN/s" if inverse else "MJy/sr",
            scalars=photom_scalars(flux / in_sr, in_sr, mean),
        )


def plan_ifu_photom(
    ds: xr.Dataset, photom: xr.Dataset, area: xr.Dataset | None, row: int, params: Parameters
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
    params : Parameters
        Of :func:`spec2fn.steps.photom.photom`.

    Raises
    ------
    DatasetError
        If a variable is missing.
    ReferenceError
        If the AREA reference is missing, a column is, or a slice.
    """
    require(ds, ("wavelength", "slice_id"), "photom")
    need(photom, _COLUMNS, "photom")
    if area is None:
        msg = (
            "photom: reference 'area' is missing; the areas of the slices are needed: pass"
            " area=… or set CRDS up so that it selects one"
        )
        raise ReferenceError(msg)
    need(area, ("area.slice_id", "area.pixarea"), "photom")
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
        extrapolated=(wave < waves[0]) | (wave > waves[-1])
        if extrapolates(ds, params.extrapolate)
        else None,
    )


def plan_slit_photom(
    ds: xr.Dataset, photom: xr.Dataset, area: xr.Dataset | None, params: Parameters
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
    params : Parameters
        Of :func:`spec2fn.steps.photom.photom`.

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
    mos = mode_of(ds).shutters
    shutters = ("quadrant", "xcen", "ycen") if mos else ()
    needed = ("wavelength", "slit_name", "source_type", "xsize", "ysize", *shutters)
    require_slits(ds, "photom", needed)
    need(photom, _COLUMNS, "photom")

    names = np.asarray(ds["slit_name"].data).astype(str)
    keys = {"filter": ds.attrs.get("filter"), "grating": ds.attrs.get("grating")}
    if mos:
        rows = [find_row(photom, **keys)] * len(names)
    else:
        rows = [find_row(photom, **keys, slit=str(name)) for name in names]
    if rows and all(r is None for r in rows) and not find_rows(photom, **keys).size:
        return None
    problems = [
        f"photom: no row for slit {n}" if r is None else ""
        for n, r in zip(names, rows, strict=True)
    ]
    point = is_point(chosen_types(ds, params.source_type))
    areas, unknown = _areas(ds, photom, area, names)
    warnings = [""] * len(names)
    for i in np.flatnonzero(unknown & ~point):
        warnings[i] = f"photom: no pixel area for slit {names[i]}, taken as 1 sr"

    length = photom["photom.wavelength"].shape[-1]

    @functools.cache
    def response(row: int | None) -> Segment | None:
        if row is None:
            return None
        order, waves = response_row(photom, row)
        return Segment("photom", order + row * length, waves.astype(np.float64))

    segments = [response(row) for row in rows]
    extend = extrapolates(ds, params.extrapolate)
    kept: tuple[int, ...] = ()
    uniform = None
    if mode_of(ds).several_slits:
        own = np.flatnonzero(is_point(chosen_types(ds, None)))
        kept = tuple(int(i) for i in own if segments[i] is not None)
        if kept and "wavelength_uncorrected" in ds:
            some = ds.isel(slit=list(kept))
            some_segments = [segments[i] for i in kept]
            uniform = _response(some, "wavelength_uncorrected", some_segments, extend)
    tables, time_rows = time_tables(ds, photom, rows, params)
    units = tuple("MJy" if p else "MJy/sr" for p in point)
    return SlitPhotomPlan(
        rows=np.array([0 if r is None else r for r in rows], dtype=int),
        point=point,
        pixar_sr=np.where(unknown, 1.0, areas * ARCSEC2_TO_SR),
        pixar_a2=np.where(unknown, 1.0, areas),
        response=_response(ds, "wavelength", segments, extend),
        time_tables=tables,
        problems=tuple(problems),
        warnings=tuple(warnings) if any(warnings) else None,
        units=units,
        unit=units[0] if len(set(units)) == 1 else "see bunit",
        kept=kept,
        time_rows=time_rows,
        uniform=uniform,
    )


def _areas(
    ds: xr.Dataset, photom: xr.Dataset, area: xr.Dataset | None, names: HostArray
) -> tuple[HostArray, HostArray]:
    """Area of a pixel of each slit [arcsec2], and whether it is unknown."""
    if area is None:
        nominal = float(photom["pixar_a2"].data) if "pixar_a2" in photom else np.nan
        return np.full(len(names), nominal), np.full(len(names), np.isnan(nominal))
    mos = mode_of(ds).shutters
    columns = ("quadrant", "shutter_x", "shutter_y") if mos else ("slit_id",)
    need(area, [f"area.{c}" for c in (*columns, "pixarea")], "photom")
    values = np.asarray(area["area.pixarea"].data).astype(np.float64)
    if mos:
        table = _shutter_number(*(np.asarray(area[f"area.{c}"].data) for c in columns))
        wanted = _shutter_number(*(np.asarray(ds[n].data) for n in ("quadrant", "xcen", "ycen")))
        listed = np.flatnonzero(np.isin(table, wanted))
        rows = [listed[table[listed] == number] for number in wanted]
        # a shutter that is listed twice has no area that could be trusted
        place = [int(r[0]) if len(r) == 1 else -1 for r in rows]
    else:
        slits = np.char.strip(np.asarray(area["area.slit_id"].data).astype(str)).tolist()
        place = [slits.index(n) if n in slits else -1 for n in names]
    at = np.array(place, dtype=int)
    return np.where(at < 0, np.nan, values[at]), at < 0


def _shutter_number(quadrant: HostArray, x: HostArray, y: HostArray) -> HostArray:
    """One number for each shutter."""
    return (quadrant.astype(np.int64) << 40) + (x.astype(np.int64) << 20) + y


def _response(
    ds: xr.Dataset, name: str, segments: list[Segment | None], extend: bool
) -> ResponsePlan:
    wave, true = wavelengths_of(ds, name)
    have = np.array([s is not None for s in segments], dtype=bool).reshape(-1, 1, 1)
    listed = have & ~np.isnan(wave)
    slit = np.flatnonzero(listed) // int(np.prod(wave.shape[1:]))
    bank, covered, beyond = make_bank(segments, slit, wave[listed][None], extend=extend)
    if not covered.all():
        listed[listed] = covered
        bank = replace(bank, cells=bank.cells[:, covered])
    return ResponsePlan(list_pixels(listed, true), bank, beyond)

"""Flux calibration of spectra without slits: a response for each order, and the dispersion.

A pixel gathers the light of an interval of wavelengths, so that its count rate is divided by the
wavelengths that it spans (JWST pipeline documentation, photom step, "WFSS").
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.errors import DatasetError, ReferenceError
from spec2fn.host.interpolation import locate
from spec2fn.kernels.namespace import array_namespace
from spec2fn.plan_base import Plan, array, labels
from spec2fn.plans.flux.factors import Factor
from spec2fn.plans.flux.photom import (
    find_row,
    need_columns,
    photom_scalars,
    pixel_area,
    response_row,
    throughput,
    time_tables,
)
from spec2fn.schema import AREA, SCALARS, described, meta_of, require
from spec2fn.typing import Array, HostArray

if TYPE_CHECKING:
    import xarray as xr

    from spec2fn.parameters import Parameters

__all__ = [
    "SlitlessPhotomPlan",
    "WindowPhotomPlan",
    "dispersion_by_differences",
    "plan_slitless_photom",
    "plan_window_photom",
]

_UNIT = "MJy micron s / (DN sr)"  # of the response of a grism


class SlitlessPhotomPlan(Plan):
    """What converts the cut-outs of a bucket into surface brightness.

    Attributes
    ----------
    rows : array of int, shape (slit,)
        Of the table ``photom``; 0 where there is none.
    knots : array of int, shape (slit, knot)
        Elements of the row in increasing wavelength; the last is repeated.
    index, fraction, covered : array, shape (slit, y, x)
        See :func:`spec2fn.host.interpolation.locate`.
    dispersion : array, shape (slit, y, x)
        Wavelengths that a pixel spans [um]; 1 where not `covered`.
    applies : array of bool, shape (slit,)
        The others are left in count rates.
    unit : float
        From the unit of the reference to that of the dispersion.
    time_tables : tuple of str
        Tables of :data:`spec2fn.plans.flux.photom.TIME_TABLES` to apply.
    time_rows : tuple of array of int, shape (slit,)
        Rows of each of them.
    problems : tuple of str
        By slit: why it has no calibration, or an empty string.
    left_alone : tuple of str
        By slit: why it is left in count rates, or an empty string.
    """

    rows: Array = array("slit")
    knots: Array = array("slit knot")
    index: Array = array("slit y x")
    fraction: Array = array("slit y x")
    covered: Array = array("slit y x")
    dispersion: Array = array("slit y x")
    applies: Array = array("slit")
    unit: float
    time_tables: tuple[str, ...]
    time_rows: tuple[Array, ...] = array("slit", default=())
    problems: tuple[str, ...] = labels("slit", default=())
    left_alone: tuple[str, ...] = labels("slit", default=())

    def factor(
        self, ds: xr.Dataset, photom: xr.Dataset, area: xr.Dataset | None, *, inverse: bool
    ) -> Factor:
        """Return surface brightness per count rate, each slit with the response of its order."""
        columns = [photom.variables[f"photom.{n}"].data for n in ("photmjsr", "relresponse")]
        xp = array_namespace(ds.variables["sci"].data, *columns, self.dispersion)
        dtype, exact = ds.variables["sci"].dtype, xp.asarray(self.dispersion).dtype
        scale, response = (xp.asarray(c)[self.rows] for c in columns)
        conversion = scale.astype(exact)
        conversion = throughput(conversion, ds, photom, self.time_tables, self.time_rows)
        response = xp.take_along_axis(response, xp.asarray(self.knots), axis=1).astype(exact)
        slit = np.arange(len(self.rows))[:, None, None]
        low, high = response[slit, self.index], response[slit, self.index + 1]
        relative = low + xp.asarray(self.fraction).astype(exact) * (high - low)
        value = (self.unit * conversion)[:, None, None] * relative / self.dispersion
        applies = np.asarray(self.applies)
        nothing = xp.full_like(conversion, np.nan)
        known = xp.where(applies & ~np.array([bool(p) for p in self.problems]), conversion, nothing)
        sizes = (pixel_area(n, area, photom) for n in ("pixar_sr", "pixar_a2"))
        scalars = photom_scalars(known, *sizes)
        variables: dict[str, Any] = {}
        for name, number in scalars.items():
            if number is not None:
                wide = xp.broadcast_to(xp.asarray(number).astype(exact), conversion.shape)
                variables[name] = ("slit", wide, {"units": SCALARS[name].unit})
        units = np.where(applies & (not inverse), "MJy/sr", "DN/s")
        variables["bunit"] = ("slit", units)
        if area is not None and "sci" in area and not inverse:
            variables[AREA] = (("area_y", "area_x"), area["sci"].data)
        return Factor(
            value.astype(dtype),
            self.covered,
            applies=None if applies.all() else applies,
            units=str(units[0]) if len(set(units)) == 1 else "see bunit",
            variables=variables,
            problems=self.problems,
        )


class WindowPhotomPlan(Plan):
    """What converts the only spectrum of a time series: that of a bucket with one cut-out.

    Attributes
    ----------
    one : SlitlessPhotomPlan
    """

    one: SlitlessPhotomPlan

    def factor(
        self, ds: xr.Dataset, photom: xr.Dataset, area: xr.Dataset | None, *, inverse: bool
    ) -> Factor:
        """Return surface brightness per count rate, dims (y, x)."""
        factor = self.one.factor(ds, photom, area, inverse=inverse)
        assert factor.usable is not None
        numbers = {n: v[1][0] for n, v in factor.variables.items() if n in SCALARS}
        kept = {AREA: factor.variables[AREA]} if AREA in factor.variables else {}
        return Factor(
            factor.value[0],
            factor.usable[0],
            units=factor.units,
            scalars=numbers,
            variables=kept,
        )


def plan_window_photom(
    ds: xr.Dataset, photom: xr.Dataset, params: Parameters
) -> WindowPhotomPlan | str:
    """Find the row of the order of a time series, and where its pixels stand on it.

    Parameters
    ----------
    ds : xarray.Dataset
        With ``wavelength`` (y, x) [um], the record (or keyword) of its spectral order, and the
        zero-dimensional variables of :class:`spec2fn.plans.slits.trace_window.WindowPlan`.
    photom, params
        See :func:`plan_slitless_photom`.

    Returns
    -------
    WindowPhotomPlan or str
        Why nothing can be calibrated: the reference has no row.

    Raises
    ------
    DatasetError, InputError, ReferenceError
        See :func:`plan_slitless_photom`.
    """
    require(ds, ("wavelength",), "photom")
    meta = meta_of(ds)
    order = int(meta.records.get("spectral_order", meta.get("SPORDER", 1)))
    height, width = ds["wavelength"].shape
    numbers = {"spectral_order": order, "xsize": width, "ysize": height}
    held = ("xstart", "ystart", "source_xpos", "source_ypos")
    numbers |= {n: ds[n].values[()] for n in held if n in ds}
    if "source_ypos" in numbers:  # of the exposure, as the wavelengths are
        numbers["source_ypos"] += numbers["ystart"] - 1
    columns = {n: ("slit", np.array([v])) for n, v in numbers.items()}
    plane = (("slit", "y", "x"), np.asarray(ds["wavelength"].values)[None])
    kept = {"mid_time": ds["mid_time"]} if "mid_time" in ds else {}
    bucket = ds.drop_vars(list(ds.variables)).assign({"wavelength": plane, **columns, **kept})
    plan = plan_slitless_photom(bucket, photom, params)
    why = [*plan.problems, *plan.left_alone]
    return next((w.removeprefix("photom: ") for w in why if w), "") or WindowPhotomPlan(plan)


def plan_slitless_photom(
    ds: xr.Dataset, photom: xr.Dataset, params: Parameters
) -> SlitlessPhotomPlan:
    """Find the rows of the orders of a bucket, and where its pixels stand on them.

    Parameters
    ----------
    ds : xarray.Dataset
        Bucket with dims ``(slit, y, x)``, ``wavelength`` [um] and ``spectral_order``.
    photom : xarray.Dataset
        PHOTOM reference with the columns ``filter``, ``photmjsr``, ``wavelength``,
        ``relresponse``, and ``pupil`` and ``order``, or ``subarray``.
    params : Parameters
        Of :func:`spec2fn.steps.photom.photom`.

    Raises
    ------
    DatasetError
        If the exposure has not been cut into the spectra of its sources.
    InputError, ReferenceError
        See :func:`spec2fn.plans.flux.photom.time_tables` and
        :func:`spec2fn.plans.flux.photom.find_row`; or if the unit of the reference is another.
    """
    if "slit" not in ds.dims or "spectral_order" not in ds:
        msg = "photom: the spectra of the sources must be cut out first; run extract_2d"
        raise DatasetError(msg)
    require(ds, ("wavelength",), "photom")
    need_columns(photom, "photom", ("filter", "photmjsr", "wavelength", "relresponse"), ds)
    orders = [int(order) for order in ds["spectral_order"].values]
    found = {order: _row(ds, photom, order) for order in dict.fromkeys(orders)}
    rows = [found[order] for order in orders]
    problems = tuple(
        "" if r is not None else _no_row(ds, o) for r, o in zip(rows, orders, strict=True)
    )
    tables, time_rows = time_tables(ds, photom, rows, params)
    wave = np.asarray(ds["wavelength"].values)
    along = int(ds.attrs.get("dispaxis", 1))
    if params.dispersion == "differences":
        wave = wave.astype(np.float32)
        filled = np.where(np.isnan(wave), np.float32(-1), wave)
        span = _padded_gradient(ds, filled, along)
    else:
        span = _exact_dispersion(ds, wave, along)
    responses = {row: response_row(photom, row) for row in found.values() if row is not None}
    longest = max((len(order) for order, _ in responses.values()), default=2)
    knots = np.zeros((len(rows), longest), dtype=np.int64)
    index = np.zeros(wave.shape, dtype=np.int64)
    fraction = np.zeros(wave.shape)
    covered = np.zeros(wave.shape, dtype=bool)
    for k, row in enumerate(rows):
        if row is not None:
            order, waves = responses[row]
            knots[k] = np.pad(order, (0, longest - len(order)), mode="edge")
            index[k], fraction[k], covered[k] = locate(wave[k], waves)
    covered &= np.isfinite(span) & (span > 0)
    index = np.where(covered, index, 0)
    kept = params.uncalibrated == "kept"
    lost = np.array([bool(p) for p in problems])
    return SlitlessPhotomPlan(
        rows=np.array([0 if row is None else row for row in rows]),
        knots=knots,
        index=index,
        fraction=np.where(covered, fraction, 0.0),
        covered=covered,
        dispersion=np.where(covered, span, 1.0),
        applies=~lost if kept else np.ones(len(rows), bool),
        unit=_unit_of(photom),
        time_tables=tables,
        time_rows=time_rows,
        problems=("",) * len(rows) if kept else problems,
        left_alone=problems if kept else ("",) * len(rows),
    )


def _keys(ds: xr.Dataset, photom: xr.Dataset, order: int) -> dict[str, str]:
    keys = {"filter": str(ds.attrs.get("filter", ""))}
    if "photom.pupil" in photom:
        return {**keys, "pupil": str(ds.attrs.get("pupil", "")), "order": str(order)}
    return {**keys, "subarray": str(ds.attrs.get("subarray", ""))}


def _row(ds: xr.Dataset, photom: xr.Dataset, order: int) -> int | None:
    keys = _keys(ds, photom, order)
    row = find_row(photom, "photom", **keys)
    if row is None and "subarray" in keys:
        row = find_row(photom, "photom", **{**keys, "subarray": "GENERIC"})
    return row


def _no_row(ds: xr.Dataset, order: int) -> str:
    names = ((n, ds.attrs.get(n)) for n in ("filter", "pupil", "subarray"))
    listed = ", ".join(f"{name} {value}" for name, value in names if value)
    return f"photom: the photom reference has no row for {listed} and order {order}"


def _unit_of(photom: xr.Dataset) -> float:
    """Factor from the unit of the response to that which a dispersion in um needs."""
    text = str(meta_of(photom).get("PHOTUNIT") or _UNIT).strip()
    if text == _UNIT:
        return 1.0
    from astropy import units

    try:
        return float(units.Unit(text).to(units.Unit(_UNIT)))
    except (ValueError, TypeError):
        msg = (
            f"photom: {described(photom)} has the unit (PHOTUNIT) {text!r}, needs one of surface"
            f" brightness and wavelength per count rate, such as {_UNIT!r}; use another"
        )
        raise ReferenceError(msg) from None


def dispersion_by_differences(wave: HostArray, disp_axis: int) -> HostArray:
    """Return the wavelengths that pixels span, from those of their neighbours.

    Parameters
    ----------
    wave : array, (…, y, x)
        [um], NaN where there is none.
    disp_axis : int
        1 along x, 2 along y.

    Returns
    -------
    array, (…, y, x)
        Half the difference of both neighbours; beside a pixel without wavelength, or the edge, the
        difference to the other neighbour. NaN where neither has one.
    """
    axis = -1 if disp_axis == 1 else -2
    line = np.moveaxis(np.asarray(wave, float), axis, -1)
    step = np.diff(line, axis=-1)
    gap = np.full((*line.shape[:-1], 1), np.nan)
    before, after = (np.concatenate(p, axis=-1) for p in ((gap, step), (step, gap)))
    known = np.isfinite(before).astype(int) + np.isfinite(after)
    total = np.where(np.isfinite(before), before, 0) + np.where(np.isfinite(after), after, 0)
    span = np.where(known > 0, total / np.maximum(known, 1), np.nan)
    span = np.where(np.isfinite(line), np.abs(span), np.nan)
    return np.moveaxis(span, -1, axis)


def _padded_gradient(ds: xr.Dataset, wave: HostArray, disp_axis: int) -> HostArray:
    """Differences inside each cut-out, whatever their wavelengths are."""
    name, axis = ("xsize", -1) if disp_axis == 1 else ("ysize", -2)
    out = np.full(wave.shape, np.nan)
    for k, size in enumerate(np.asarray(ds[name].values)):
        part = (slice(None), slice(int(size))) if axis == -1 else (slice(int(size)), slice(None))
        if size > 1:
            out[k][part] = np.abs(np.gradient(wave[k][part], axis=axis))
    return out


def _exact_dispersion(ds: xr.Dataset, wave: HostArray, disp_axis: int) -> HostArray:
    """From one edge of a pixel to the other; where that is not known, from its neighbours."""
    near = dispersion_by_differences(wave, disp_axis)
    geometry = getattr(meta_of(ds).wcs, "geometry", None)
    if geometry is None:
        return near
    y, x = np.indices(wave.shape[-2:], float)
    start, source = (
        np.stack([ds[n.format(a)].values for a in "xy"], axis=1).astype(float)[..., None, None]
        for n in ("{}start", "source_{}pos")
    )
    x, y = x + start[:, 0] - 1, y + start[:, 1] - 1
    half = (0.5, 0.0) if disp_axis == 1 else (0.0, 0.5)
    span = np.full(wave.shape, np.nan)
    orders = ds["spectral_order"].values
    for order in dict.fromkeys(orders.tolist()):
        (k,) = np.nonzero(orders == order)
        ends: Sequence[Any] = [
            geometry.wavelength(
                x[k] + s * half[0], y[k] + s * half[1], source[k, 0], source[k, 1], int(order)
            )
            for s in (1, -1)
        ]
        span[k] = np.abs(ends[0] - ends[1])
    return np.where(np.isfinite(wave) & np.isfinite(span), span, near)

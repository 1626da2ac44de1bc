"""Flux calibration of slitless spectra: by the response at a wavelength, and by the dispersion."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.errors import ReferenceError
from spec2fn.host.interpolation import locate
from spec2fn.kernels.namespace import array_namespace
from spec2fn.plan_base import Plan, array, labels
from spec2fn.plans.flux.factors import Factor
from spec2fn.plans.flux.photom import (
    find_row,
    photom_scalars,
    pixel_area,
    response_row,
    throughput,
    time_tables,
)
from spec2fn.schema import AREA, SCALARS, described, meta_of, need, require
from spec2fn.typing import Array, HostArray

if TYPE_CHECKING:
    import xarray as xr

    from spec2fn.parameters import Parameters

__all__ = ["GrismPhotomPlan", "dispersion", "plan_grism_photom", "unit_of"]

_COLUMNS = ("filter", "photmjsr", "wavelength", "relresponse")
_UNIT = "MJy micron s / (DN sr)"


class GrismPhotomPlan(Plan):
    """What converts slitless spectra into surface brightness.

    Attributes
    ----------
    rows : array of int, shape ([slit])
        Of the table ``photom``; 0 for a slit without one.
    low, high : array of int, shape ([slit,] y, x)
        Positions in the flattened column ``relresponse`` between which a pixel stands.
    fraction : array, shape ([slit,] y, x)
        How far from the one to the other.
    covered : array of bool, shape ([slit,] y, x)
        Pixels within the response that have a dispersion.
    dispersion : array, shape ([slit,] y, x)
        Wavelength per pixel [um]; 1 where not covered.
    unit : float
        By which the column ``photmjsr`` is to be multiplied for MJy um s / (DN sr).
    time_tables : tuple of str
        Tables of :data:`spec2fn.plans.flux.photom.TIME_TABLES` to apply.
    time_rows : tuple of array of int, shape ([slit])
        Rows of each of them.
    problems : tuple of str
        By slit: why it has no calibration, or an empty string; empty for an image.
    left_alone : tuple of str
        By slit: why it is left in count rates, or an empty string; empty for an image.
    mixed : bool
        Whether some of the slits are left in count rates: one attribute cannot say the unit then.
    """

    rows: Array = array("[slit]")
    low: Array = array("[slit] y x")
    high: Array = array("[slit] y x")
    fraction: Array = array("[slit] y x")
    covered: Array = array("[slit] y x")
    dispersion: Array = array("[slit] y x")
    unit: float
    time_tables: tuple[str, ...]
    time_rows: tuple[Array, ...] = array("[slit]", default=())
    problems: tuple[str, ...] | None = labels("slit", default=None)
    left_alone: tuple[str, ...] = labels("slit", default=())
    mixed: bool = False

    def factor(
        self, ds: xr.Dataset, photom: xr.Dataset, area: xr.Dataset | None, *, inverse: bool
    ) -> Factor:
        """Return surface brightness per count rate."""
        columns = [photom.variables[f"photom.{n}"].data for n in ("photmjsr", "relresponse")]
        dtype = ds.variables["sci"].dtype
        xp = array_namespace(ds.variables["sci"].data, *columns, self.fraction)
        exact = xp.asarray(self.fraction).dtype
        conversion = xp.asarray(columns[0]).astype(exact)[self.rows]
        conversion = throughput(conversion, ds, photom, self.time_tables, self.time_rows)
        response = xp.asarray(columns[1]).astype(exact).reshape(-1)
        below = response[self.low]
        response = below + self.fraction * (response[self.high] - below)
        value = conversion[..., None, None] * self.unit * response / self.dispersion
        units = "DN/s" if inverse else "MJy/sr"
        sizes = (pixel_area("pixar_sr", area, photom), pixel_area("pixar_a2", area, photom))
        scalars = photom_scalars(conversion, *sizes)
        map_of_area = None if area is None or "sci" not in area else area["sci"].data
        if self.problems is None:
            kept = {} if map_of_area is None else {AREA: _part_of(map_of_area, ds)}
            return Factor(
                value.astype(dtype), self.covered, units=units, scalars=scalars, variables=kept
            )
        applies = np.array([not why for why in self.left_alone])
        known = applies & np.array([not why for why in self.problems])
        by_slit = np.where(applies, units, "DN/s")
        variables: dict[str, Any] = {"bunit": ("slit", by_slit)}
        for name, number in scalars.items():
            if number is not None:
                # the size of a pixel is known whatever else is not
                shown = known if name.startswith("phot") else np.ones(known.shape, bool)
                spread = xp.where(shown, xp.asarray(number), xp.nan)
                variables[name] = ("slit", spread, {"units": SCALARS[name].unit})
        if map_of_area is not None:
            variables[AREA] = (("area_y", "area_x"), map_of_area)
        return Factor(
            value.astype(dtype),
            self.covered,
            applies=None if applies.all() else applies,
            units=str(by_slit[0]) if by_slit.size and (inverse or not self.mixed) else "see bunit",
            variables=variables,
            problems=self.problems,
        )


def _part_of(map_of_area: Array, ds: xr.Dataset) -> tuple[tuple[str, str], Array]:
    """Cut the areas of the pixels of the detector to the subarray that an exposure was read in."""
    first, count = (
        [int(ds.attrs.get(f"{axis}{what}", default)) for axis in "yx"]
        for what, default in (("start", 1), ("size", 2048))
    )
    rows, columns = (slice(f - 1, f - 1 + n) for f, n in zip(first, count, strict=True))
    return ("area_y", "area_x"), map_of_area[rows, columns]


def plan_grism_photom(
    ds: xr.Dataset, photom: xr.Dataset, params: Parameters
) -> GrismPhotomPlan | str:
    """Place the pixels of slitless spectra on the response of their order.

    Parameters
    ----------
    ds : xarray.Dataset
        An image with ``wavelength`` (y, x) [um], whose order is the record ``spectral_order`` of
        its ``meta``; or a bucket of cut-outs with ``wavelength`` (slit, y, x) and
        ``spectral_order``, ``ysize``, ``xsize`` on ``slit``.
    photom : xarray.Dataset
        PHOTOM reference with the columns ``filter``, ``pupil`` and ``order``, or ``filter`` and
        ``subarray``, and with ``photmjsr``, ``wavelength`` and ``relresponse``.
    params : Parameters
        Of :func:`spec2fn.steps.photom.photom`.

    Returns
    -------
    GrismPhotomPlan or str
        Why nothing can be calibrated.

    Raises
    ------
    DatasetError
        If ``wavelength`` is missing.
    InputError
        If the exposure has no mid time and the time dependence needs one.
    ReferenceError
        If the reference lacks a column, has several rows for the exposure, or a unit that is no
        such one.

    Notes
    -----
    The factor is ``photmjsr * relresponse(wavelength)`` over the wavelength that a pixel spans
    (JWST pipeline documentation, photom step, "Wide-field slitless").
    """
    require(ds, ("wavelength",), "photom")
    need(photom, [f"photom.{n}" for n in _COLUMNS], "photom")
    single = "slit" not in ds["wavelength"].dims
    waves = np.asarray(ds["wavelength"].data, dtype=np.float64)
    waves = waves[None] if single else waves
    if single:
        meta = meta_of(ds)
        orders = [int(meta.records.get("spectral_order", meta.get("SPORDER", 1)))]
        sizes = [waves.shape[1:]]
    else:
        orders = [int(o) for o in ds["spectral_order"].values]
        sizes = list(zip(ds["ysize"].values, ds["xsize"].values, strict=True))
    rows = {order: _row(ds, photom, order) for order in set(orders)}
    found = [rows[order] for order in orders]
    problems = tuple(
        _missing(ds, photom, order) if row is None else ""
        for order, row in zip(orders, found, strict=True)
    )
    if all(problems) and (single or not _any_order(ds, photom)):
        return problems[0]
    step = dispersion(waves, ds.attrs["dispaxis"], sizes, rounded=params.round_wavelengths)
    low, high = (np.zeros(waves.shape, dtype=np.int32) for _ in range(2))
    fraction, covered = np.zeros(waves.shape), np.zeros(waves.shape, dtype=bool)
    width = photom["photom.relresponse"].shape[-1]
    for row in sorted({r for r in found if r is not None}):
        own = np.array([r == row for r in found])
        order, table = response_row(photom, row)
        # one image of all cut-outs, one above the other
        index, part, within = locate(waves[own].reshape(-1, waves.shape[-1]), table)
        places = (row * width + order).astype(np.int32)
        low[own], high[own], fraction[own], covered[own] = (
            v.reshape(-1, *waves.shape[1:])
            for v in (places[index], places[index + 1], part, within)
        )
    covered &= step > 0
    kept = params.uncalibrated == "kept" and not single
    tables, time_rows = time_tables(ds, photom, found, params)
    planes = (low, high, fraction, covered, np.where(covered, step, 1.0))
    numbers = (np.array([row or 0 for row in found]), *time_rows)
    if single:
        planes, numbers = tuple(p[0] for p in planes), tuple(n[0] for n in numbers)
    return GrismPhotomPlan(
        np.asarray(numbers[0]),
        *planes,
        unit=unit_of(photom),
        time_tables=tables,
        time_rows=tuple(map(np.asarray, numbers[1:])),
        problems=None if single else (("",) * len(found) if kept else problems),
        left_alone=problems if kept else ("",) * (0 if single else len(found)),
        mixed=kept and any(problems) and not all(problems),
    )


def _keys(ds: xr.Dataset, photom: xr.Dataset, order: int) -> dict[str, str]:
    names = ("filter", "pupil") if "photom.order" in photom else ("filter", "subarray")
    keys = {n: str(ds.attrs.get(n, "")) for n in names}
    return keys | ({"order": str(order)} if "photom.order" in photom else {})


def _row(ds: xr.Dataset, photom: xr.Dataset, order: int) -> int | None:
    keys = _keys(ds, photom, order)
    row = find_row(photom, **keys)
    if row is None and "subarray" in keys:
        row = find_row(photom, **{**keys, "subarray": "GENERIC"})
    return row


def _any_order(ds: xr.Dataset, photom: xr.Dataset) -> bool:
    """Whether the reference has a row for the elements, of whatever order."""
    orders = np.unique(photom["photom.order"].values) if "photom.order" in photom else (1,)
    return any(_row(ds, photom, int(order)) is not None for order in orders)


def _missing(ds: xr.Dataset, photom: xr.Dataset, order: int) -> str:
    wanted = ", ".join(f"{k} {v}" for k, v in _keys(ds, photom, order).items())
    return f"the photom reference has no row for {wanted}"


def unit_of(photom: xr.Dataset) -> float:
    """Return the unit of the column ``photmjsr`` in the one that we want."""
    said = str(meta_of(photom).get("PHOTUNIT") or _UNIT)
    if said == _UNIT:
        return 1.0
    from astropy import units

    try:
        return float(units.Unit(said).to(units.Unit(_UNIT)))
    except (ValueError, TypeError, units.UnitsError):
        msg = (
            f"photom: {described(photom)} has PHOTUNIT {said!r}, needs one such as {_UNIT!r};"
            " correct it or use another"
        )
        raise ReferenceError(msg) from None


def dispersion(
    wavelength: HostArray,
    dispaxis: int,
    sizes: list[tuple[int, int]],
    *,
    rounded: bool = False,
) -> HostArray:
    """Return the wavelength that each pixel spans.

    Central differences, and one-sided ones at an edge or beside a pixel without wavelength.

    Parameters
    ----------
    wavelength : array of float64, shape (slit, y, x)
        [um], NaN where there is none.
    dispaxis : int
        1 along x, 2 along y.
    sizes : list of (int, int)
        Rows and columns of each slit, within the padding.
    rounded : bool
        Differences of wavelengths rounded to float32, where a pixel without wavelength has -1, as
        the JWST pipeline takes them.

    Returns
    -------
    array of float64, shape (slit, y, x)
        Positive [um]; NaN where it is not known.
    """
    axis = 2 if dispaxis == 1 else 1
    if rounded:
        out = np.full(wavelength.shape, np.nan)
        for plane, one, (height, width) in zip(out, wavelength, sizes, strict=True):
            cut = one[:height, :width].astype(np.float32)
            if cut.shape[axis - 1] > 1:
                known = np.where(np.isnan(cut), np.float32(-1), cut)
                plane[:height, :width] = abs(np.gradient(known, axis=axis - 1))
        return out
    steps = np.diff(wavelength, axis=axis)
    edge = [(0, 0)] * 3
    edge[axis] = (0, 1)
    after = np.pad(steps, edge, constant_values=np.nan)
    edge[axis] = (1, 0)
    before = np.pad(steps, edge, constant_values=np.nan)
    both = 0.5 * (before + after)
    one = np.where(np.isnan(after), before, after)
    return np.abs(np.where(np.isnan(both), one, both))

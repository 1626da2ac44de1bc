"""Aperture correction: the row of an ``apcorr`` reference that applies, as a table in pixels.

The correction is tabulated in wavelength and aperture size. It is bilinear in both and constant
beyond the table (JWST pipeline documentation, "Aperture correction" of ``extract_1d``). The plan
interpolates it to the wavelength of every dispersion element; the size, which depends on the
pixels that are good in each integration, is left to the kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from spec2fn.contents import number, numbers
from spec2fn.errors import ReferenceError
from spec2fn.schema import described, meta_of, need
from spec2fn.typing import HostArray

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["correction_table", "match_row"]

# Where in a pixel the source is assumed to be: its middle.
PIXEL_PHASE = 0.5

_COLUMNS = ("wavelength", "nelem_wl", "size", "nelem_size", "apcorr")


def match_row(apcorr: xr.Dataset, criteria: Mapping[str, str]) -> int:
    """Return the row of the reference table whose columns equal `criteria` (case ignored).

    Raises
    ------
    ReferenceError
        If a column is missing, or not exactly one row matches.
    """
    need(apcorr, [f"apcorr.{c}" for c in (*criteria, *_COLUMNS)], "extract_1d")
    keep = np.ones(apcorr["apcorr.apcorr"].shape[0], dtype=bool)
    for column, wanted in criteria.items():
        values = np.char.upper(np.char.strip(apcorr[f"apcorr.{column}"].values.astype(str)))
        keep &= values == str(wanted).upper()
    rows = np.flatnonzero(keep)
    if len(rows) != 1:
        wanted_text = ", ".join(f"{k}={v!r}" for k, v in criteria.items())
        msg = (
            f"extract_1d: {described(apcorr)} has {len(rows)} rows for {wanted_text}; needs"
            " exactly one: use another reference or apply_apcorr=false"
        )
        raise ReferenceError(msg)
    return int(rows[0])


def correction_table(
    apcorr: xr.Dataset,
    row: int,
    wavelength: HostArray,
    pixel_scale: Callable[[], float],
    *,
    phased: bool = False,
) -> tuple[HostArray, HostArray]:
    """Correction at every wavelength for the tabulated aperture sizes.

    Parameters
    ----------
    apcorr : xarray.Dataset
        ``apcorr`` reference with table columns ``apcorr.wavelength`` [um], ``apcorr.size``,
        ``apcorr.apcorr`` (wavelength, size) and the number of valid elements of each.
    row : int
    wavelength : array of float64, (wave,)
        Wavelengths to interpolate to [um].
    pixel_scale : callable
        Returns the size of a pixel across the trace [arcsec]; called if sizes are in arcsec.
    phased : bool
        Of NIRSpec: the correction depends on the phase of the pixel besides, and sizes on
        wavelength: ``apcorr.size`` (size, wavelength), ``apcorr.pixphase``, ``apcorr.apcorr``
        (size, wavelength, phase).

    Returns
    -------
    sizes : array of float64, (wave, n)
        Aperture sizes [pixel], increasing.
    table : array of float64, (wave, n)
        If `phased`, 1 outside the wavelengths of the reference.

    Raises
    ------
    ReferenceError
        If wavelengths or sizes of the table are not distinct, increasing numbers.
    """
    if not phased:
        waves, sizes, values = _row(apcorr, row, pixel_scale, ("wave", "size"))
        table = np.stack([np.interp(wavelength, waves, v) for v in values.T], axis=1)
        return np.broadcast_to(sizes, table.shape), table
    waves, sizes, values = _row(apcorr, row, pixel_scale, ("size", "wave", "phase"))
    phases = numbers(
        apcorr["apcorr.pixphase"].values[row], f"extract_1d: {described(apcorr)}: 'pixphase'"
    )
    order = np.argsort(phases)
    unit = np.eye(len(phases))[order]
    values = values @ np.array([np.interp(PIXEL_PHASE, phases[order], u) for u in unit.T])
    n_wave = len(waves)
    cell = np.clip(np.searchsorted(waves, wavelength, side="right") - 1, 0, max(n_wave - 2, 0))
    after = np.minimum(cell + 1, n_wave - 1)
    span = np.where(after > cell, waves[after] - waves[cell], 1.0)
    fraction = np.clip((wavelength - waves[cell]) / span, 0.0, 1.0)

    def at(image: HostArray) -> HostArray:
        return (image[:, cell] * (1.0 - fraction) + image[:, after] * fraction).T

    covered = (wavelength >= waves[0]) & (wavelength <= waves[-1])
    return at(sizes), np.where(covered[:, None], at(values), 1.0)


def _row(
    apcorr: xr.Dataset, row: int, pixel_scale: Callable[[], float], axes: tuple[str, ...]
) -> tuple[HostArray, HostArray, HostArray]:
    """Wavelengths, in order, sizes [pixel] and corrections (on `axes`) of a row, without padding.

    Sizes may depend on wavelength: (size, wave).
    """
    label = f"extract_1d: {described(apcorr)}"
    if "phase" in axes:
        need(apcorr, ["apcorr.pixphase"], "extract_1d")
    of_size = ("size", "wave") if "phase" in axes else ("size",)
    count: dict[str, int] = {}
    for axis, name in (("wave", "nelem_wl"), ("size", "nelem_size")):
        value = number(
            apcorr[f"apcorr.{name}"].values[row],
            f"{label}: {name!r} of row {row}",
            low=1,
            whole=True,
        )
        count[axis] = int(value)
    for name, on in {"wavelength": ("wave",), "size": of_size, "apcorr": axes}.items():
        shape = apcorr[f"apcorr.{name}"].shape[1:]
        wanted = tuple(count.get(axis, 1) for axis in on)
        if len(shape) != len(wanted) or any(n < m for n, m in zip(shape, wanted, strict=True)):
            msg = (
                f"{label}: {name!r} has shape {shape} in each row, needs ({', '.join(on)}) with"
                f" {' and '.join(f'{n} {axis}s' for axis, n in count.items())}; use a reference of"
                " another version, or apply_apcorr=false"
            )
            raise ReferenceError(msg)

    def column(name: str, *axes: str) -> HostArray:
        part = tuple(slice(count.get(axis)) for axis in axes)
        values = apcorr[f"apcorr.{name}"].values[row][part]
        return numbers(values, f"{label}: {name!r} of row {row}")

    waves = column("wavelength", "wave")
    order = np.argsort(waves)
    sizes = column("size", *of_size)
    waves, sizes = waves[order], sizes[:, order] if sizes.ndim > 1 else sizes
    values = np.take(column("apcorr", *axes), order, axis=axes.index("wave"))
    if not (np.all(np.diff(waves) > 0) and np.all(np.diff(sizes, axis=0) > 0)):
        msg = (
            f"{label}: row {row} needs distinct wavelengths and increasing aperture sizes; use"
            " another reference or apply_apcorr=false"
        )
        raise ReferenceError(msg)
    unit = meta_of(apcorr).get("SIZEUNIT")
    if unit is None:
        msg = (
            f"{label} does not say in which unit sizes are; set SIZEUNIT to pixels or arcsec in"
            " its APCORR header, or apply_apcorr=false"
        )
        raise ReferenceError(msg)
    if str(unit).strip().lower().startswith("arcsec"):
        sizes = sizes / pixel_scale()
    return waves, sizes, values

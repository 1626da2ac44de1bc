"""Which extensions a product has, and the bytes of each.

The layout (a list of :class:`~spec2fn.io.fits.extents.Extent`) depends on the Dataset's shapes
and metadata only, so that a product can be written chunk by chunk.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np

from spec2fn.io.fits.cube_layout import cube_extents
from spec2fn.io.fits.extents import (
    EXTRA_PLANES,
    SIGN,
    Extent,
    big_endian,
    image_extent,
    int_times,
    table_type,
)
from spec2fn.io.fits.fitsfile import BLOCK
from spec2fn.io.fits.headers import Field, card, encode_header, table_cards, value_at
from spec2fn.io.fits.keywords import SPECTRUM_KEYWORDS
from spec2fn.io.fits.source_tables import source_extents
from spec2fn.modes import mode_of
from spec2fn.schema import AREA, FIXED_SLIT_QUADRANT, PLANES, SPECTRUM_COLUMNS, meta_of
from spec2fn.typing import HostArray

if TYPE_CHECKING:
    import xarray as xr
    from astropy.io.fits import Card

__all__ = [
    "RECORD_HDU",
    "TIME_COLUMNS",
    "extents",
    "tail",
]

RECORD_HDU = "SPEC2FN"
"""Name of the table that holds the run record."""

TIME_COLUMNS = {
    "int_start_mjd_utc": "MJD-BEG",
    "int_mid_mjd_utc": "MJD-AVG",
    "int_end_mjd_utc": "MJD-END",
    "int_start_bjd_tdb": "TDB-BEG",
    "int_mid_bjd_tdb": "TDB-MID",
    "int_end_bjd_tdb": "TDB-END",
}
"""Times of an integration: variable to column of a multi-integration table."""


def extents(ds: xr.Dataset, integrations: int | None) -> list[Extent]:
    """Lay out the product `ds` with so many integrations (None: it has no such dimension).

    PRIMARY comes before, RECORD and ASDF (:func:`tail`) behind.
    """
    if ds.attrs.get("model") == "WFSSMultiSpecModel" and "flux" in ds:
        return source_extents(ds)
    if "flux" in ds and "spectrum" in ds.dims:
        times = int_times(ds, integrations)
        return [*([times] if times else []), *_spectra(ds, integrations)]
    if "sci" in ds and "wave" in ds["sci"].dims:
        return cube_extents(ds, integrations)
    return _images(ds, integrations)


def _images(ds: xr.Dataset, integrations: int | None) -> list[Extent]:
    slit = ds.attrs.get("model") not in ("CubeModel", "ImageModel")
    unwritten = mode_of(ds).unwritten
    out = []
    times = int_times(ds, integrations)
    for name in _in_order(ds):
        plane = PLANES[name]
        if name.startswith("var_poisson") and times is not None and not slit:
            out.append(times)
            times = None
        if plane.hdu and name in ds and name not in unwritten:
            out.append(image_extent(ds, name, plane.hdu, integrations))
        if name == "wavelength" and AREA in ds:
            out.append(image_extent(ds, AREA, "AREA", None))
    if times is not None:
        out.append(times)
    out += [image_extent(ds, n, hdu, integrations) for n, hdu in EXTRA_PLANES.items() if n in ds]
    return out


def _in_order(ds: xr.Dataset) -> list[str]:
    names = list(PLANES)
    if ds.attrs.get("model") == "IFUImageModel":
        names.remove("wavelength")
        names.insert(names.index("var_flat") + 1, "wavelength")
    return names


def _spectra(ds: xr.Dataset, integrations: int | None) -> list[Extent]:
    lengths = _lengths(ds)
    make = _table if integrations is None else _table_of_integrations
    return [make(ds, k, n, integrations) for k, n in enumerate(lengths)]


def _lengths(ds: xr.Dataset) -> list[int]:
    if "n_wave" in ds:
        values = np.asarray(ds.variables["n_wave"].values)
        return [int(n) for n in (values if values.ndim == 1 else values.max(axis=0))]
    return [int(ds.sizes["wave"])] * int(ds.sizes["spectrum"])


def _columns(ds: xr.Dataset, shape: tuple[int, ...] = ()) -> dict[str, Field]:
    """The columns present, by variable."""
    out: dict[str, Field] = {}
    for name, (column, unit) in SPECTRUM_COLUMNS.items():
        if name in ds:
            said = ds.variables[name].attrs.get("units", unit)
            out[name] = (column, ">u4" if name == "dq" else ">f8", str(said or ""), shape)
    return out


def _values(ds: xr.Dataset, name: str, spectrum: int, length: int) -> xr.Variable:
    var = ds.variables[name]
    if "spectrum" in var.dims:
        var = var.isel(spectrum=spectrum)
    return var.isel(wave=slice(0, length))


def _table(ds: xr.Dataset, k: int, length: int, _integrations: int | None) -> Extent:
    columns = _columns(ds)
    dtype = table_type(columns.values())

    def data(part: xr.Dataset, _rows: slice) -> HostArray:
        table = np.empty(length, dtype)
        for name, (column, code, _, _) in columns.items():
            table[column] = big_endian(_values(part, name, k, length).values, code)
        return table

    fields = list(columns.values())
    cards = table_cards("EXTRACT1D", fields, length, k + 1, _spectrum_cards(ds, k))
    return Extent(encode_header(cards), dtype.itemsize * length, 1, False, data)


def _table_of_integrations(ds: xr.Dataset, k: int, length: int, integrations: int | None) -> Extent:
    assert integrations is not None
    columns = _columns(ds, (length,))
    fields: list[Field] = [
        ("INT_NUM", ">i4", "", ()),
        *(field for name, field in columns.items() if name != "flux_error_cov"),
        ("N_ALONGDISP", ">u4", "", ()),
        ("SEGMENT", ">i4", "", ()),
        *((column, ">f8", "d", ()) for column in TIME_COLUMNS.values()),
        *(field for name, field in columns.items() if name == "flux_error_cov"),
    ]
    dtype = table_type(fields)
    segment = int(meta_of(ds).get("EXSEGNUM", 1) or 1)

    def data(part: xr.Dataset, rows: slice) -> HostArray:
        numbers = np.arange(part.sizes["integration"])[rows]
        table = np.zeros(len(numbers), dtype)
        first = int(part.attrs.get("_first_integration", 0))
        number = part.variables.get("integration_number")
        table["INT_NUM"] = numbers + first + 1 if number is None else number[rows].values
        table["N_ALONGDISP"] = np.uint32(length) ^ SIGN
        table["SEGMENT"] = segment
        for name, column in TIME_COLUMNS.items():
            table[column] = part.variables[name][rows].values if name in part else np.nan
        for name, (column, code, _, _) in columns.items():
            values = _values(part, name, k, length)
            if "integration" in values.dims:
                values = values[rows]
            table[column] = big_endian(values.values, code)
        return table

    cards = table_cards("EXTRACT1D", fields, integrations, k + 1, _spectrum_cards(ds, k))
    return Extent(encode_header(cards), dtype.itemsize, integrations, True, data)


_SAME = {"SRCXPOS": "source_xpos", "SRCYPOS": "source_ypos"}


def _spectrum_cards(ds: xr.Dataset, k: int) -> list[Card]:
    meta = meta_of(ds)
    whole = {"DETECTOR": ds.attrs.get("detector"), "PA_APER": meta.get("PA_APER")}
    whole |= {"DISPAXIS": ds.attrs.get("dispaxis"), "SRCTYPE": ds.attrs.get("source_type")}
    # there are no bars across a fixed slit
    fixed = "msaquad" in ds and int(ds.variables["msaquad"].values[k]) == FIXED_SLIT_QUADRANT
    out = []
    for keyword, comment in SPECTRUM_KEYWORDS.items():
        if fixed and keyword == "BARSHDW":
            continue
        value = whole.get(keyword)
        for name in (keyword.lower(), _SAME.get(keyword, "")):
            if name in ds and not {"integration", "wave"} & set(ds.variables[name].dims):
                value = value_at(ds, name, k)
                break
        if keyword == "MSAQUAD" and value == 0:
            continue  # of a product that does not say which
        if value is not None and value != "":
            out.append(card(keyword, value, comment))
    return out


def tail(record: object, asdf: bytes) -> bytes:
    """Return the last extensions: the run record (if any) and the ASDF extension."""
    out = b""
    if record is not None:
        text = json.dumps(record, sort_keys=True, separators=(",", ":"), default=str)
        out += _one_cell(RECORD_HDU, "RECORD", "S1", text.encode("ascii"))
    return out + _one_cell("ASDF", "ASDF_METADATA", "u1", asdf)


def _one_cell(hdu: str, column: str, code: str, content: bytes) -> bytes:
    cards = table_cards(hdu, [(column, code, "", (len(content),))], 1)[:-1]
    padded = content.ljust(-(-len(content) // BLOCK) * BLOCK, b"\0")
    return encode_header(cards) + padded

"""Which extensions a product has, and the bytes of each.

The layout (a list of :class:`~spec2fn.io.fits.extents.Extent`) depends on the Dataset's shapes
and metadata only, so that a product can be written chunk by chunk.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from spec2fn.io.fits.cube_layout import CUBE_PLANES, wavelength_table
from spec2fn.io.fits.extents import (
    EXTRA_PLANES,
    HDUS,
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
from spec2fn.io.fits.model_layout import holds_models, model_extents
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
    if holds_models(ds):
        return model_extents(ds, integrations)
    found = int_times(ds, integrations)
    times = [] if found is None else [found]
    unwritten = mode_of(ds).unwritten

    def images(names: Iterable[str]) -> list[Extent]:
        out = []
        for name in names:
            if name in ds and name in HDUS and name not in unwritten:
                out.append(image_extent(ds, name, HDUS[name], integrations))
            if name == "wavelength" and AREA in ds:
                out.append(image_extent(ds, AREA, "AREA", None))
        return out

    extra = images(EXTRA_PLANES)
    if "flux" in ds and "spectrum" in ds.dims:
        return [*times, *_spectra(ds, integrations), *extra]
    if "sci" in ds and "wave" in ds["sci"].dims:
        return [*images(CUBE_PLANES), *times, wavelength_table(ds), *extra]
    names = list(PLANES)
    if ds.attrs.get("model") == "IFUImageModel":
        names.remove("wavelength")
        names.insert(names.index("var_flat") + 1, "wavelength")
    # the times of images, but not of slits, stand before the variances
    plain = ds.attrs.get("model") in ("CubeModel", "ImageModel")
    behind = names.index("var_poisson") if plain else len(names)
    return [*images(names[:behind]), *times, *images(names[behind:]), *extra]


def _spectra(ds: xr.Dataset, integrations: int | None) -> list[Extent]:
    lengths = np.full(ds.sizes["spectrum"], ds.sizes["wave"])
    if "n_wave" in ds:
        lengths = np.atleast_2d(ds.variables["n_wave"].values).max(axis=0)
    return [_spectrum(ds, k, int(n), integrations) for k, n in enumerate(lengths)]


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


def _spectrum(ds: xr.Dataset, k: int, length: int, integrations: int | None) -> Extent:
    """Lay out the table of a spectrum; of several integrations each has a row."""
    columns = _columns(ds, () if integrations is None else (length,))
    ours = [columns[n] for n in ("flux_error_cov",) if n in columns]
    fields = [field for field in columns.values() if field not in ours]
    if integrations is not None:
        fields = [
            ("INT_NUM", ">i4", "", ()),
            *fields,
            ("N_ALONGDISP", ">u4", "", ()),
            ("SEGMENT", ">i4", "", ()),
            *((column, ">f8", "d", ()) for column in TIME_COLUMNS.values()),
        ]
    fields += ours
    dtype = table_type(fields)
    segment = int(meta_of(ds).get("EXSEGNUM", 1) or 1)

    def data(part: xr.Dataset, rows: slice) -> HostArray:
        if integrations is None:
            table = np.empty(length, dtype)
        else:
            numbers = np.arange(part.sizes["integration"])[rows]
            table = np.empty(len(numbers), dtype)
            first = int(part.attrs.get("_first_integration", 0))
            number = part.variables.get("integration_number")
            table["INT_NUM"] = numbers + first + 1 if number is None else number[rows].values
            table["N_ALONGDISP"] = np.uint32(length) ^ SIGN
            table["SEGMENT"] = segment
            for name, column in TIME_COLUMNS.items():
                table[column] = part.variables[name][rows].values if name in part else np.nan
        for name, (column, code, _, _) in columns.items():
            values = _values(part, name, k, length)
            values = values[rows] if "integration" in values.dims else values
            table[column] = big_endian(values.values, code)
        return table

    count = length if integrations is None else integrations
    cards = table_cards("EXTRACT1D", fields, count, k + 1, _spectrum_cards(ds, k))
    header = encode_header(cards)
    if integrations is None:
        return Extent(header, dtype.itemsize * length, 1, False, data)
    return Extent(header, dtype.itemsize, integrations, True, data)


_SAME = {"SRCXPOS": "source_xpos", "SRCYPOS": "source_ypos"}


def _spectrum_cards(ds: xr.Dataset, k: int) -> list[Card]:
    meta = meta_of(ds)
    whole = {"DETECTOR": ds.attrs.get("detector"), "PA_APER": meta.get("PA_APER")}
    whole |= {"DISPAXIS": ds.attrs.get("dispaxis"), "SRCTYPE": ds.attrs.get("source_type")}
    if mode_of(ds).layout == "orders":
        whole = {}
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

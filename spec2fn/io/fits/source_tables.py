"""Tables of the spectra of many sources: one for each order, with a row for each source.

The layout is that of the JWST pipeline for wide-field slitless spectra (WFSSMultiSpecModel,
https://jwst-pipeline.readthedocs.io, "x1d"): vectors are padded to the longest of the order, and a
source without a spectrum in an order has a row without values there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.dq import PIXEL
from spec2fn.io.fits.extents import SIGN, Extent, big_endian, table_type
from spec2fn.io.fits.fitsfile import Hdu, Table
from spec2fn.io.fits.headers import Field, card, encode_header, table_cards
from spec2fn.schema import SPECTRUM_COLUMNS, meta_of
from spec2fn.typing import HostArray

if TYPE_CHECKING:
    import xarray as xr
    from astropy.io.fits import Card

__all__ = ["holds_sources", "source_extents", "source_variables"]

# what a row says of its source: column, type, unit, variable on ``spectrum``
_OF_SOURCE = (
    ("SOURCE_TYPE", "S20", "", "srctype"),
    ("SOURCE_XPOS", ">f8", "pix", "srcxpos"),
    ("SOURCE_YPOS", ">f8", "pix", "srcypos"),
    ("SOURCE_RA", ">f8", "deg", "srcra"),
    ("SOURCE_DEC", ">f8", "deg", "srcdec"),
)
_CORNERS = (
    ("XSTART", "x", False),
    ("YSTART", "y", False),
    ("XSTOP", "x", True),
    ("YSTOP", "y", True),
)
_IDENTITY = ("PROGRAM", "OBSERVTN", "VISIT", "VISITGRP", "SEQ_ID", "ACT_ID", "EXPOSURE")


def source_extents(ds: xr.Dataset) -> list[Extent]:
    """Lay out the tables of a product, by order as they come.

    Parameters
    ----------
    ds : xarray.Dataset
        dims (spectrum, wave), with ``sporder`` and ``sourceid`` on ``spectrum``.
    """
    orders = np.asarray(ds.variables["sporder"].values)
    sources = np.unique(np.asarray(ds.variables["sourceid"].values))
    return [
        _table(ds, int(order), sources, version)
        for version, order in enumerate(dict.fromkeys(orders.tolist()), 1)
    ]


def _table(ds: xr.Dataset, order: int, sources: HostArray, version: int) -> Extent:
    (members,) = np.nonzero(np.asarray(ds.variables["sporder"].values) == order)
    lengths = np.asarray(ds.variables["n_wave"].values)[members].astype(int)
    length = int(lengths.max())
    rows = np.searchsorted(sources, np.asarray(ds.variables["sourceid"].values)[members])
    fields: list[Field] = [("SOURCE_ID", ">i4", "", ())]
    vectors: dict[str, tuple[str, str]] = {}
    own: list[Field] = []
    for name, (column, unit) in SPECTRUM_COLUMNS.items():
        if name in ds:
            said = str(ds.variables[name].attrs.get("units", unit) or "")
            vectors[name] = column, ">u4" if name == "dq" else ">f8"
            (own if name == "flux_error_cov" else fields).append((*vectors[name], said, (length,)))
    fields.append(("N_ALONGDISP", ">u4", "", ()))
    for column, code, unit, _ in _OF_SOURCE:
        text = code == "S20"
        fields.append((column, "S1" if text else code, unit, (20,) if text else ()))
    fields += [(f"EXTRACT2D_{name}", ">u4", "pix", ()) for name, _, _ in _CORNERS]
    fields += own
    dtype = table_type(fields)

    def data(part: xr.Dataset, _rows: slice) -> HostArray:
        table = np.zeros(len(sources), dtype)
        table["SOURCE_ID"] = sources
        table["N_ALONGDISP"] = SIGN
        for name, (column, code) in vectors.items():
            given = np.asarray(part.variables[name].values)[members, :length]
            if name == "dq":
                values = np.full((len(sources), length), PIXEL["DO_NOT_USE"], np.uint32)
                beyond = np.arange(length) >= lengths[:, None]
                given = np.where(beyond, np.uint32(PIXEL["DO_NOT_USE"]), given)
            else:
                values = np.full((len(sources), length), np.nan)
            values[rows] = given
            table[column] = big_endian(values, code)
        for name, _, _ in _CORNERS:
            table[f"EXTRACT2D_{name}"] = SIGN
        table["N_ALONGDISP"][rows] = lengths.astype(np.uint32) ^ SIGN
        for column, code, _, name in _OF_SOURCE:
            text = code == "S20"
            column_of = np.full(len(sources), b"", code) if text else np.full(len(sources), np.nan)
            if name in part:
                column_of[rows] = np.asarray(part.variables[name].values)[members].astype(code)
            table[column] = column_of.view("S1").reshape(-1, 20) if text else column_of
        for name, axis, stop in _CORNERS:
            if f"extract2d_{axis}start" in part:
                value = np.asarray(part.variables[f"extract2d_{axis}start"].values)[members]
                if stop:
                    value = value + part.variables[f"extract2d_{axis}size"].values[members]
                table[f"EXTRACT2D_{name}"][rows] = value.astype(np.uint32) ^ SIGN
        return table

    header = table_cards("EXTRACT1D", fields, len(sources), version, _cards(ds, order))
    return Extent(encode_header(header), dtype.itemsize * len(sources), 1, False, data)


def _cards(ds: xr.Dataset, order: int) -> list[Card]:
    meta = meta_of(ds)
    names = [str(meta.get(k) or "") for k in _IDENTITY]
    group = "_".join(["jw" + "".join(names[:3]), "".join(names[3:6]), names[6], str(order)])
    values = {
        "FILENAME": meta.filename or None,
        "EXPGRPID": group if all(names) else None,
        "DISPAXIS": ds.attrs.get("dispaxis"),
        "SPORDER": order,
        "EFFEXPTM": meta.get("EFFEXPTM"),
        "EFFINTTM": meta.get("EFFINTTM"),
    }
    return [card(k, v) for k, v in values.items() if v is not None]


def holds_sources(tables: Sequence[Table]) -> bool:
    """Whether tables of spectra have a row for each source."""
    return bool(tables) and {"SOURCE_ID", "N_ALONGDISP"} <= set(tables[0].names)


def source_variables(tables: Sequence[Table], hdus: Sequence[Hdu]) -> dict[str, Any]:
    """Return the spectra of all sources and orders as variables.

    Parameters
    ----------
    tables : sequence of Table
        One for each order.
    hdus : sequence of Hdu
        Theirs.

    Returns
    -------
    dict
        Dims (spectrum, wave): those of :data:`spec2fn.schema.SPECTRUM_COLUMNS`, and on
        ``spectrum`` ``n_wave``, ``sourceid``, ``sporder``, and what is known of the source. Rows
        without values are left out.
    """
    picked = [np.flatnonzero(np.asarray(t["N_ALONGDISP"]) > 0) for t in tables]
    lengths = [
        np.asarray(t["N_ALONGDISP"])[k].astype(np.int32)
        for t, k in zip(tables, picked, strict=True)
    ]
    width = max((int(n.max()) for n in lengths if n.size), default=0)
    out: dict[str, Any] = {}
    for name, (column, _) in SPECTRUM_COLUMNS.items():
        if column not in tables[0].names:
            continue
        parts = []
        for table, rows in zip(tables, picked, strict=True):
            values = np.asarray(table[column])[rows][:, :width]
            fill: Any = 0 if name == "dq" else np.nan
            edge = ((0, 0), (0, width - values.shape[1]))
            kind = np.uint32 if name == "dq" else np.float64
            parts.append(np.pad(values.astype(kind), edge, constant_values=fill))
        unit = _unit(hdus[0], column)
        out[name] = (("spectrum", "wave"), np.concatenate(parts), {"units": unit} if unit else {})

    def joined(column: str) -> HostArray:
        pairs = zip(tables, picked, strict=True)
        return np.concatenate([np.asarray(t[column])[rows] for t, rows in pairs])

    out["n_wave"] = ("spectrum", np.concatenate(lengths))
    out["sourceid"] = ("spectrum", joined("SOURCE_ID").astype(np.int64))
    out["sltname"] = ("spectrum", out["sourceid"][1].astype(str))
    orders = [int(h.get("SPORDER") or 1) for h in hdus]
    counts = [len(rows) for rows in picked]
    out["sporder"] = ("spectrum", np.repeat(np.array(orders, np.int32), counts))
    for column, code, _, name in _OF_SOURCE:
        if column in tables[0].names:
            values = joined(column)
            out[name] = ("spectrum", values.astype(str) if code == "S20" else values)
    for axis in "xy":
        start, stop = (f"EXTRACT2D_{axis.upper()}{end}" for end in ("START", "STOP"))
        if {start, stop} <= set(tables[0].names):
            first, last = (joined(n).astype(np.int64) for n in (start, stop))
            out[f"extract2d_{axis}start"] = ("spectrum", first)
            out[f"extract2d_{axis}size"] = ("spectrum", last - first)
    return out


def _unit(hdu: Hdu, column: str) -> str:
    header = hdu.header
    for i in range(1, int(header["TFIELDS"]) + 1):
        if str(header[f"TTYPE{i}"]).strip() == column:
            return str(header.get(f"TUNIT{i}", ""))
    return ""

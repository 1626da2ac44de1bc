"""Extensions of products: what each holds, and its bytes.

An *extent* is one extension: a header, an array type, and a function that gives the rows a
Dataset (or a chunk of its integrations) contributes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.io.fits.fitsfile import BLOCK
from spec2fn.io.fits.headers import (
    card,
    encode_header,
    image_cards,
    science_cards,
    table_cards,
)
from spec2fn.schema import INT_TIMES, meta_of

if TYPE_CHECKING:
    import xarray as xr

__all__ = [
    "EXTRA_PLANES",
    "SIGN",
    "Extent",
    "big_endian",
    "image_extent",
    "int_times",
    "stored_type",
]

EXTRA_PLANES = {
    "covariance": "COVAR",
    "variance_cov": "VAR_COV",
    "variance_inflation": "VAR_INFL",
    "common_error": "COM_ERR",
    "common_share": "COM_SHARE",
}
"""Variables of ours that the JWST layout does not know, written behind everything it knows."""

_PIECE = 8 * 2**20
SIGN = np.uint32(2**31)
"""Bit by which unsigned integers and the signed ones that FITS stores differ."""

Rows = Callable[[Any, slice], "np.ndarray[Any, Any]"]


@dataclass(frozen=True, eq=False)
class Extent:
    """One extension of a product.

    Attributes
    ----------
    header : bytes
        Padded.
    row : int
        Bytes of one integration if `streamed`, else of the whole array.
    rows : int
        Number of integrations if `streamed`, else 1.
    streamed : bool
    data : callable
        ``data(ds, rows)`` gives those integrations of `ds` (all, if not streamed) as a big-endian
        array.
    """

    header: bytes
    row: int
    rows: int
    streamed: bool
    data: Rows

    @property
    def size(self) -> int:
        """Bytes of header and padded data."""
        return len(self.header) + -(-self.row * self.rows // BLOCK) * BLOCK

    def pieces(self, ds: Any, count: int) -> Iterator[np.ndarray[Any, Any]]:
        """Give the data of `ds`, which holds `count` integrations, in pieces of bounded size."""
        if not self.streamed:
            yield self.data(ds, slice(None))
            return
        step = max(_PIECE // max(self.row, 1), 1)
        for first in range(0, count, step):
            yield self.data(ds, slice(first, min(first + step, count)))


def big_endian(values: Any, stored: str) -> np.ndarray[Any, Any]:
    """Return `values` as they are stored: big-endian, the sign bit of unsigned integers flipped."""
    array = np.asarray(values)
    if stored == ">u4":
        array = array.astype(np.uint32, copy=False) ^ SIGN
    return np.ascontiguousarray(array, dtype=np.dtype(stored))


def image_extent(ds: xr.Dataset, name: str, hdu: str, integrations: int | None) -> Extent:
    """Lay out one image extension, streamed along ``integration`` if the variable has it."""
    var = ds.variables[name]
    streamed = "integration" in var.dims
    shape = tuple(int(ds.sizes[d]) for d in var.dims)
    if streamed:
        assert integrations is not None
        shape = (integrations, *shape[1:])
    stored = stored_type(var.dtype, name)
    full = (1, *shape) if name == "con" and len(shape) == 2 else shape
    bitpix = {">f4": -32, ">f8": -64, ">u4": 32, ">i4": 32}[stored]
    if name == "sci":
        cards = science_cards(ds, bitpix, full)
    else:
        unit = ""
        if name == "err":
            unit = str(var.attrs.get("units") or ds.variables["sci"].attrs.get("units", ""))
        cards = image_cards(hdu, bitpix, full, unsigned=stored == ">u4", unit=unit)
        if name == "err" and "wave" in var.dims:
            cards.insert(-1, card("ERRTYPE", "ERR", "Type of errors stored here"))
        if name in EXTRA_PLANES:
            cards.append(card("DIMS", ",".join(map(str, var.dims)), "dimensions, slowest first"))
            if var.attrs.get("units"):
                cards.append(card("BUNIT", str(var.attrs["units"])))

    def data(part: xr.Dataset, rows: slice) -> np.ndarray[Any, Any]:
        found = part.variables[name]
        return big_endian((found[rows] if streamed else found).values, stored)

    width = np.dtype(stored).itemsize * math.prod(shape[1:] if streamed else shape)
    return Extent(encode_header(cards), width, shape[0] if streamed else 1, streamed, data)


def stored_type(dtype: Any, name: str) -> str:
    """Return the type that a plane of type `dtype` is stored as."""
    if name in EXTRA_PLANES:
        return ">f8" if np.dtype(dtype).itemsize == 8 else ">f4"
    return {"u": ">u4", "i": ">i4", "b": ">i4"}.get(np.dtype(dtype).kind, ">f4")


def int_times(ds: xr.Dataset, integrations: int | None) -> Extent | None:
    """INT_TIMES from the variables on ``integration``, or the table as it was read."""
    raw = meta_of(ds).records.get("int_times")
    if integrations is None or not any(n in ds for n in INT_TIMES):
        if raw is None:
            return None
        dtype = raw.dtype.newbyteorder(">")
        columns = [(n, "J" if dtype[n].kind == "i" else "D", "", ()) for n in dtype.names]
        header = encode_header(table_cards("INT_TIMES", columns, len(raw)))
        return Extent(header, raw.nbytes, 1, False, lambda _ds, _rows: raw.astype(dtype))
    kinds = {"int32": (">i4", "J"), "float64": (">f8", "D")}
    fields = [(n, column, *kinds[kind]) for n, (column, kind) in INT_TIMES.items()]
    dtype = np.dtype([(column, code) for _, column, code, _ in fields])

    def data(part: xr.Dataset, rows: slice) -> np.ndarray[Any, Any]:
        size = len(range(part.sizes["integration"])[rows])
        table = np.zeros(size, dtype)
        for name, column, code, _ in fields:
            if name in part:
                table[column] = part.variables[name][rows].values
            elif code == ">f8":
                table[column] = np.nan
        return table

    columns = [(column, letter, "", ()) for _, column, _, letter in fields]
    header = encode_header(table_cards("INT_TIMES", columns, integrations))
    return Extent(header, dtype.itemsize, integrations, True, data)

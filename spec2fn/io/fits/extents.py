"""Extensions of products: what each holds, and its bytes.

An *extent* is one extension: a header, an array type, and a function that gives the rows a
Dataset (or a chunk of its integrations) contributes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from spec2fn.io.fits.fitsfile import BLOCK
from spec2fn.io.fits.headers import (
    Field,
    card,
    encode_header,
    image_cards,
    science_cards,
    table_cards,
)
from spec2fn.pieces import Exposure
from spec2fn.schema import INT_TIMES, PLANES, meta_of
from spec2fn.typing import HostArray

if TYPE_CHECKING:
    import xarray as xr
    from astropy.io.fits import Card

__all__ = [
    "EXTRA_PLANES",
    "HDUS",
    "SIGN",
    "Extent",
    "big_endian",
    "extra_cards",
    "image_extent",
    "int_times",
    "plane_extent",
    "table_type",
]

EXTRA_PLANES = {
    "covariance": "COVAR",
    "variance_cov": "VAR_COV",
    "covariance_sum": "COV_SUM",
    "covariance_kernel": "COV_KERN",
    "common_error": "COM_ERR",
    "common_share": "COM_SHARE",
    "contaminant_strength": "STRENGTH",
    "contaminant_error": "STR_ERR",
}
"""Variables of ours that the JWST layout does not know, written behind everything it knows."""

HDUS = {name: plane.hdu for name, plane in PLANES.items() if plane.hdu} | EXTRA_PLANES
"""Extension of every variable that is written as an image, in the order of a product."""

_PIECE = 8 * 2**20
SIGN = np.uint32(2**31)
"""Bit by which unsigned integers and the signed ones that FITS stores differ."""

Rows: TypeAlias = Callable[[Any, slice], HostArray]


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

    def pieces(self, ds: Exposure, count: int) -> Iterator[HostArray]:
        """Give the data of `ds`, which holds `count` integrations, in pieces of bounded size."""
        if not self.streamed:
            yield self.data(ds, slice(None))
            return
        step = max(_PIECE // max(self.row, 1), 1)
        for first in range(0, count, step):
            yield self.data(ds, slice(first, min(first + step, count)))


def big_endian(values: HostArray, stored: str) -> HostArray:
    """Return `values` as they are stored: big-endian, the sign bit of unsigned integers flipped."""
    array = np.asarray(values)
    if stored == ">u4":
        array = array.astype(np.uint32, copy=False) ^ SIGN
    return np.ascontiguousarray(array, dtype=np.dtype(stored))


def image_extent(ds: xr.Dataset, name: str, hdu: str, integrations: int | None) -> Extent:
    """Lay out one image extension, streamed along ``integration`` if the variable has it."""
    var = ds.variables[name]

    def header(stored: str, shape: tuple[int, ...]) -> list[Card]:
        if name == "sci":
            return science_cards(ds, stored, shape)
        unit = ""
        if name == "err":
            unit = str(var.attrs.get("units") or ds.variables["sci"].attrs.get("units", ""))
        cards = image_cards(hdu, stored, shape, unit)
        if name == "err" and "wave" in var.dims:
            cards.insert(-1, card("ERRTYPE", "ERR", "Type of errors stored here"))
        return [*cards, *extra_cards(var.dims, var.attrs)] if name in EXTRA_PLANES else cards

    def values(part: xr.Dataset, rows: slice) -> HostArray:
        return np.asarray(part.variables[name][rows].values)

    return plane_extent(
        name, var.dims, var.shape, var.dtype, integrations, header=header, values=values
    )


def plane_extent(
    name: str,
    dims: Container[Hashable],
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    integrations: int | None,
    *,
    header: Callable[[str, tuple[int, ...]], Iterable[Card | str]],
    values: Rows,
) -> Extent:
    """Lay out a plane, from the functions that give its header by type and shape, and its rows."""
    streamed = "integration" in dims
    if streamed:
        assert integrations is not None
        shape = (integrations, *shape[1:])
    elif name == "con" and len(shape) == 2:
        shape = (1, *shape)
    stored = _stored_type(dtype, name)
    width = np.dtype(stored).itemsize * math.prod(shape[1:] if streamed else shape)
    return Extent(
        encode_header(header(stored, shape)),
        width,
        shape[0] if streamed else 1,
        streamed,
        lambda part, rows: big_endian(values(part, rows), stored),
    )


def extra_cards(dims: Iterable[Hashable], attrs: Mapping[str, Any]) -> list[Card]:
    """Cards of a plane that the JWST layout does not know."""
    cards = [card("DIMS", ",".join(map(str, dims)), "dimensions, slowest first")]
    if attrs.get("units"):
        cards.append(card("BUNIT", str(attrs["units"])))
    return cards


def _stored_type(dtype: np.dtype[Any], name: str) -> str:
    if name in EXTRA_PLANES:
        return ">f8" if np.dtype(dtype).itemsize == 8 else ">f4"
    return {"u": ">u4", "i": ">i4", "b": ">i4"}.get(np.dtype(dtype).kind, ">f4")


def table_type(columns: Iterable[Field]) -> np.dtype[Any]:
    """Return the type of a row of a table."""
    return np.dtype([(column, code, shape) for column, code, _, shape in columns])


def int_times(ds: xr.Dataset, integrations: int | None) -> Extent | None:
    """INT_TIMES from the variables on ``integration``, or the table as it was read."""
    raw = meta_of(ds).records.get("int_times")
    columns: list[Field]
    if integrations is None or not any(n in ds for n in INT_TIMES):
        if raw is None:
            return None
        dtype = raw.dtype.newbyteorder(">")
        columns = [(n, ">i4" if dtype[n].kind == "i" else ">f8", "", ()) for n in dtype.names]
        header = encode_header(table_cards("INT_TIMES", columns, len(raw)))
        return Extent(header, raw.nbytes, 1, False, lambda _ds, _rows: raw.astype(dtype))
    codes = {"int32": ">i4", "float64": ">f8"}
    columns = [(column, codes[kind], "", ()) for column, kind in INT_TIMES.values()]
    dtype = table_type(columns)

    def data(part: xr.Dataset, rows: slice) -> HostArray:
        size = len(range(part.sizes["integration"])[rows])
        table = np.zeros(size, dtype)
        for name, (column, code, _, _) in zip(INT_TIMES, columns, strict=True):
            if name in part:
                table[column] = part.variables[name][rows].values
            elif code == ">f8":
                table[column] = np.nan
        return table

    header = encode_header(table_cards("INT_TIMES", columns, integrations))
    return Extent(header, dtype.itemsize, integrations, True, data)

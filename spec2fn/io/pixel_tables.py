"""Pixel tables as files: FITS, netCDF, or Parquet."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.errors import InputError
from spec2fn.io.atomic import replacing
from spec2fn.io.fits.extents import big_endian, table_type
from spec2fn.io.fits.fitsfile import BLOCK
from spec2fn.io.fits.headers import Field, encode_header, primary_cards, table_cards
from spec2fn.parameters import user_path

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["save_pixel_table"]


def save_pixel_table(table: xr.Dataset, path: str | os.PathLike[str]) -> Path:
    """Write a pixel table in the format that the suffix of `path` says.

    Parameters
    ----------
    table : xarray.Dataset
        From :func:`spec2fn.pixel_table`.
    path : path
        ``.fits``: a binary table PIXELS, in which flux, error and flags of several integrations
        are vectors; ``.nc``: netCDF; ``.parquet``: a table with one row per pixel and
        integration (needs pyarrow).

    Returns
    -------
    pathlib.Path

    Raises
    ------
    InputError
        For another suffix, without pyarrow, or if the file cannot be written.
    """
    target = user_path(path)
    suffix = target.suffix.lower()
    if suffix == ".fits":
        return _fits(table, target)
    if suffix in (".nc", ".nc4"):
        from spec2fn.io.netcdf import write_netcdf

        return write_netcdf(table, target)
    if suffix == ".parquet":
        return _parquet(table, target)
    msg = f"{target}: the suffix {suffix!r} is none of .fits, .nc and .parquet; give one of them"
    raise InputError(msg)


def _fits(table: xr.Dataset, target: Path) -> Path:
    rows = int(table.sizes["pixel"])
    names = [str(n) for n in table.data_vars if "pixel" in table[n].dims]
    columns: list[Field] = []
    for name in names:
        var = table[name]
        unit = str(var.attrs.get("units", ""))
        columns.append((name, f">{var.dtype.str[1:]}", unit, var.shape[:-1]))
    content = np.empty(rows, table_type(columns))
    for name, code, _, _ in columns:
        content[name] = big_endian(np.moveaxis(np.asarray(table[name].values), -1, 0), code)
    head = encode_header(primary_cards(table, target.name))
    head += encode_header(table_cards("PIXELS", columns, rows))
    size = len(head) + content.nbytes + BLOCK
    with replacing(target, size) as temporary, Path(temporary).open("wb") as file:
        file.write(head)
        file.write(content.data)
        file.write(b"\0" * (-content.nbytes % BLOCK))
    return target


def _parquet(table: xr.Dataset, target: Path) -> Path:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        msg = f"{target}: Parquet needs pyarrow; install it, or write .fits or .nc"
        raise InputError(msg) from None
    many = int(table.sizes.get("integration", 0))
    repeat = max(many, 1)
    columns: dict[str, Any] = {}
    if many:
        columns["integration"] = np.repeat(np.arange(many, dtype=np.int32), table.sizes["pixel"])
    for name in table.data_vars:
        if "pixel" not in table[name].dims:
            continue
        values = np.asarray(table[name].values)
        columns[str(name)] = np.tile(values, repeat) if values.ndim == 1 else values.reshape(-1)
    made = pa.table(columns)
    with replacing(target, made.nbytes) as temporary:
        pq.write_table(made, temporary)
    return target

"""The MSA metadata file: which shutters of NIRSpec were open, and for which sources."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.errors import InputError
from spec2fn.io.fits.fitsfile import scan
from spec2fn.parameters import user_path
from spec2fn.schema import MSA_TABLES, Meta
from spec2fn.typing import HostArray

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["find_msa_metadata", "read_msa_metadata"]

_OPTIONAL = {"shutter_info": ("fixed_slit", "shutter_state")}


def find_msa_metadata(meta: Meta, folders: Iterable[str]) -> xr.Dataset | None:
    """Read the MSA metadata file that the keyword MSAMETFL of an exposure names.

    Parameters
    ----------
    meta : Meta
        Headers of the exposure.
    folders : iterable of str
        Where to look: the folder of the exposure, that of its association.

    Returns
    -------
    xarray.Dataset or None
        None if the exposure names no file (no keyword, or N/A), or `folders` is empty.

    Raises
    ------
    InputError
        If none of the folders holds the file, and as :func:`read_msa_metadata`.
    """
    name = str(meta.get("MSAMETFL") or "").strip()
    places = list(dict.fromkeys(Path(folder) / user_path(name) for folder in folders))
    if name.upper() in ("", "N/A", "NONE") or not places:
        return None
    for path in places:
        if path.exists():
            return read_msa_metadata(path)
    msg = (
        f"{meta.filename}: its MSA metadata file {name} (MSAMETFL) is not in"
        f" {' or '.join(str(p.parent.absolute()) for p in places)}; put it beside the exposure or"
        " the association"
    )
    raise InputError(msg)


def read_msa_metadata(path: str | os.PathLike[str]) -> xr.Dataset:
    """Read an MSA metadata file (``*_msa.fits``, FITS keyword MSAMETFL of the exposure).

    Parameters
    ----------
    path : path
        FITS file, or ``.fits.gz``.

    Returns
    -------
    xarray.Dataset
        ``shutter_info.<column>`` on ``shutter_info_row`` and ``source_info.<column>`` on
        ``source_info_row``; attributes ``filename`` and ``meta``.

    Raises
    ------
    InputError
        If the file is missing or damaged, or lacks a table or a column.
    """
    import xarray as xr

    file = scan(path)
    variables: dict[str, Any] = {}
    for name, columns in MSA_TABLES.items():
        hdu = file.find(name.upper())
        if hdu is None or not hdu.is_table:
            msg = (
                f"{path}: has no table {name.upper()} (it holds {file.listed});"
                " give the MSA metadata file that MSAMETFL names (*_msa.fits)"
            )
            raise InputError(msg)
        table = file.table(hdu)
        held_columns = {column.lower(): column for column in table.names}
        missing = [c for c in columns if c not in held_columns]
        if missing:
            msg = (
                f"{path}: table {name.upper()} has no column {', '.join(missing)}, as MSA metadata"
                " files of before 2019 and on-ground tests; give a newer one (*_msa.fits)"
            )
            raise InputError(msg)
        for column in (*columns, *_OPTIONAL.get(name, ())):
            if column in held_columns:
                values = _stripped(table[held_columns[column]])
                variables[f"{name}.{column}"] = ((f"{name}_row",), values)
    meta = Meta(file.hdus[0].header, None, file.path.name, path=str(file.path))
    return xr.Dataset(variables, attrs={"filename": file.path.name, "meta": meta})


def _stripped(values: HostArray) -> HostArray:
    if values.dtype.kind != "U":
        return values.reshape(len(values))
    return np.char.strip(np.char.rstrip(values, "\0"))

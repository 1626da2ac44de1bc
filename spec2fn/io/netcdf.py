"""Datasets as netCDF-4 files, through xarray and h5netcdf, without loss.

netCDF attributes hold neither booleans nor None nor nested values, and HDF5 attributes are short;
so all attributes are kept, besides the plain ones a reader can use as they are, in one JSON text,
and headers, gwcs and records in byte variables. Of many slits every bucket is a group
(``bucket0``, ``bucket1``, …), and what the exposure has in common stands in the root group.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.errors import InputError
from spec2fn.io.atomic import replacing
from spec2fn.io.fits.asdf_wcs import asdf_bytes, deferred_list, deferred_wcs
from spec2fn.io.fits.slit_layout import ordered_wcs
from spec2fn.parameters import user_path
from spec2fn.schema import Meta, meta_of
from spec2fn.slits import Slits

if TYPE_CHECKING:
    import xarray as xr

    from spec2fn.io.fits.asdf_wcs import Wcs

__all__ = ["read_netcdf", "write_netcdf"]

_PREFIX = "spec2fn_"
_FORMAT = 1


def write_netcdf(ds: xr.Dataset | Slits, path: str | os.PathLike[str]) -> Path:
    """Write a Dataset, or slits, as netCDF-4.

    Parameters
    ----------
    ds : xarray.Dataset or Slits
        Any Dataset of spec2fn, with its ``meta``. Records that are no plain data (such as
        Datasets kept for a later product) are left out.
    path : path

    Returns
    -------
    pathlib.Path
        `path`.

    Raises
    ------
    InputError
        If the file cannot be written; nothing is left under its name then.

    Notes
    -----
    The same Dataset gives the same bytes.
    """
    import xarray as xr

    groups: dict[str | None, xr.Dataset] = {}
    if isinstance(ds, Slits):
        common = _meta_texts(ds.buckets[0], _wcs_of(ds)) if ds.buckets else {}
        root = xr.Dataset(attrs={_PREFIX + "buckets": len(ds.buckets)})
        groups[None] = root.assign(_byte_variables(common))
        groups |= {f"bucket{i}": _encoded(b, {}) for i, b in enumerate(ds.buckets)}
    else:
        groups[None] = _encoded(ds, _meta_texts(ds, meta_of(ds).wcs))
    groups[None].attrs |= {"Conventions": "spec2fn", _PREFIX + "format": _FORMAT}
    target = user_path(path)
    held = [v for group in groups.values() for v in group.variables.values()]
    size = sum(v.nbytes for v in held) + 2**16 * (len(held) + len(groups))
    with replacing(target, size) as temporary:
        for i, (name, group) in enumerate(groups.items()):
            how: Any = {"mode": "a" if i else "w", "group": name}
            group.to_netcdf(temporary, engine="h5netcdf", format="NETCDF4", **how)
    return target


def _wcs_of(slits: Slits) -> dict[int, Any] | None:
    held = {i: w for i, w in zip(slits.ids, ordered_wcs(slits), strict=True) if w is not None}
    return held or None


def _encoded(ds: xr.Dataset, texts: dict[str, bytes]) -> xr.Dataset:
    """Return a Dataset that netCDF can hold."""
    import xarray as xr

    variables: dict[str, Any] = {}
    described: list[list[Any]] = []
    for name, var in ds.variables.items():
        described.append([str(name), var.dtype.str, encode(var.attrs)])
        plain = var.copy(deep=False)
        plain.attrs = _plain(var.attrs)
        if var.dtype.kind == "b":
            plain = plain.astype(np.uint8)
        plain.encoding = {} if plain.dtype.kind in "UOT" else {"_FillValue": None}
        variables[str(name)] = plain
    said = _json({"attrs": encode(_no_meta(ds.attrs)), "variables": described})
    variables |= _byte_variables({**texts, "description": said})
    coords = {str(n): variables.pop(str(n)) for n in ds.coords}
    return xr.Dataset(variables, coords=coords, attrs=_plain(_no_meta(ds.attrs)))


def _byte_variables(texts: dict[str, bytes]) -> dict[str, Any]:
    return {
        _PREFIX + name: ((f"{_PREFIX}{name}_bytes",), np.frombuffer(content, np.uint8))
        for name, content in texts.items()
    }


def _no_meta(attrs: Mapping[Any, Any]) -> dict[str, Any]:
    return {str(k): v for k, v in attrs.items() if k != "meta"}


def _plain(attrs: Mapping[Any, Any]) -> dict[str, Any]:
    """Return the attributes netCDF can hold as they are."""
    kinds = (str, int, float, np.integer, np.floating)
    return {
        str(k): v
        for k, v in attrs.items()
        if isinstance(v, kinds) and not isinstance(v, bool) and len(str(v)) < 8000
    }


def _meta_texts(ds: xr.Dataset, wcs: Wcs | Mapping[Any, Wcs]) -> dict[str, bytes]:
    meta = meta_of(ds)
    out = {"filename": os.fsencode(meta.filename)}
    for name, header in (("primary", meta.primary), ("science", meta.science)):
        if header is not None:
            out[name] = header.tostring().encode("ascii")
    kept = {}
    for name, record in meta.records.items():
        with contextlib.suppress(TypeError):  # of what is no plain data
            kept[name] = encode(record)
    out["records"] = _json(kept)
    if wcs is not None:
        out["wcs"] = asdf_bytes(str(ds.attrs.get("model", "")), wcs)
        if isinstance(wcs, Mapping):
            names = [n if isinstance(n, str) else int(n) for n in wcs]
            out["wcs_names"] = _json(names)
    return out


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode("ascii")


def encode(value: object) -> object:
    """Turn a value into JSON-able data from which :func:`decode` makes it again.

    Raises
    ------
    TypeError
        For a value that is no plain data.
    """
    if value is None or isinstance(value, (bool, str)) or type(value) in (int, float):
        return value
    if isinstance(value, np.generic):
        return {"numpy": [value.dtype.str, value.item()]}
    if isinstance(value, np.ndarray):
        if value.dtype.names:
            fields = [[n, value.dtype[n].str] for n in value.dtype.names]
            return {"table": [fields, [encode(value[n]) for n in value.dtype.names]]}
        if value.dtype.kind not in "biufU":
            raise TypeError(value.dtype)
        return {"array": [value.dtype.str, list(value.shape), value.reshape(-1).tolist()]}
    if isinstance(value, tuple):
        return {"tuple": [encode(v) for v in value]}
    if isinstance(value, list):
        return [encode(v) for v in value]
    if isinstance(value, dict):
        return {"dict": [[encode(k), encode(v)] for k, v in value.items()]}
    raise TypeError(type(value))


def decode(value: Any) -> Any:  # noqa: ANN401 - any value of JSON
    """Return the value that :func:`encode` made `value` of."""
    if isinstance(value, list):
        return [decode(v) for v in value]
    if not isinstance(value, dict):
        return value
    (kind, data), *_ = value.items()
    if kind == "numpy":
        return np.dtype(data[0]).type(data[1])
    if kind == "array":
        return np.array(data[2], dtype=np.dtype(data[0])).reshape(data[1])
    if kind == "tuple":
        return tuple(decode(v) for v in data)
    if kind == "dict":
        return {decode(k): decode(v) for k, v in data}
    columns = [decode(c) for c in data[1]]
    out = np.empty(len(columns[0]), dtype=[tuple(f) for f in data[0]])
    for (name, _), column in zip(data[0], columns, strict=True):
        out[name] = column
    return out


def read_netcdf(path: str | os.PathLike[str]) -> xr.Dataset | Slits:
    """Read a Dataset, or slits, written by :func:`write_netcdf`.

    Parameters
    ----------
    path : path

    Returns
    -------
    xarray.Dataset or Slits
        In memory, except ``meta.wcs``, which is made when it is used.

    Raises
    ------
    InputError
        Naming the file, if it is missing, damaged, or was not written by spec2fn.
    """
    where = user_path(path)
    if not where.is_file():
        raise InputError(f"{where}: no such file; check the path")
    root = _group(where, None)
    count = root.attrs.get(_PREFIX + "buckets")
    if count is None and _PREFIX + "description" not in root:
        msg = f"{where}: was not written by spec2fn; open it with xarray.open_dataset"
        raise InputError(msg)
    if count is None:
        return _decoded(root, _meta(_texts(root), where))
    meta = _meta(_texts(root), where) if int(count) else None
    return Slits(tuple(_decoded(_group(where, f"bucket{i}"), meta) for i in range(int(count))))


def _group(where: Path, name: str | None) -> xr.Dataset:
    import xarray as xr

    try:
        with xr.open_dataset(where, engine="h5netcdf", decode_cf=False, group=name) as opened:
            return opened.load()
    except (OSError, ValueError, KeyError, RuntimeError) as err:
        msg = f"{where}: cannot be read as netCDF-4 ({err}); make it again"
        raise InputError(msg) from err


def _texts(raw: xr.Dataset) -> dict[str, bytes]:
    return {
        str(n).removeprefix(_PREFIX): np.asarray(v.values, np.uint8).tobytes()
        for n, v in raw.data_vars.items()
        if str(n).startswith(_PREFIX)
    }


def _decoded(raw: xr.Dataset, meta: Meta | None) -> xr.Dataset:
    """Return the Dataset that :func:`_encoded` made `raw` of."""
    import xarray as xr

    texts = _texts(raw)
    description = json.loads(texts["description"])
    held = raw.drop_vars([_PREFIX + n for n in texts])
    variables = {}
    for name, dtype, said in description["variables"]:
        var = held.variables[name]
        data = np.asarray(var.values).astype(np.dtype(dtype), copy=False)
        variables[name] = xr.Variable(var.dims, data, decode(said))
    coords = {str(n): variables.pop(str(n)) for n in held.coords}
    attrs = decode(description["attrs"])
    out = xr.Dataset(variables, coords=coords, attrs={**attrs, "meta": meta})
    # the order of the original, which HDF5 need not keep
    return out[[name for name, *_ in description["variables"] if name in out.data_vars]]


def _meta(texts: dict[str, bytes], where: Path) -> Meta:
    from astropy.io.fits import Header

    headers = {
        name: Header.fromstring(texts[name].decode("ascii")) if name in texts else None
        for name in ("primary", "science")
    }
    records = {k: decode(v) for k, v in json.loads(texts["records"]).items()}
    wcs: Any = None
    if "wcs_names" in texts:
        names = json.loads(texts["wcs_names"])
        wcs = deferred_list(lambda: texts["wcs"], str(where), "spec", names)
    elif "wcs" in texts:
        wcs = deferred_wcs(lambda: texts["wcs"], str(where))
    name = os.fsdecode(texts["filename"])
    return Meta(headers["primary"], headers["science"], name, wcs, records, path=str(where))

"""Read a reference file into a Dataset.

FITS extensions become variables, ASDF and JSON trees travel as the attribute ``tree``. Files are
read with astropy and asdf alone: building data-model objects of them costs more than the reading.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from spec2fn.dq import PIXEL
from spec2fn.errors import ReferenceError
from spec2fn.parameters import user_path
from spec2fn.refs.keywords import KEYWORDS
from spec2fn.refs.matching import check_contents, check_exposure, made_for
from spec2fn.refs.planes import plane_in_file
from spec2fn.schema import MODE_ATTRS, Meta
from spec2fn.typing import HostArray

if TYPE_CHECKING:
    import xarray as xr
    from astropy.io import fits

__all__ = [
    "LazyReference",
    "clear_cache",
    "coerce_reference",
    "open_reference",
    "standard_dq",
]

_LOG = logging.getLogger("spec2fn.refs")

# other names under which files of a type may present themselves (CRDS renamed the type)
_SYNONYMS: Mapping[str, frozenset[str]] = {"bkg": frozenset({"wfssbkg"})}

# numbers that steps need inside a trace
_HEADER_SCALARS = {"pixar_sr": "PIXAR_SR", "pixar_a2": "PIXAR_A2"}

_CACHE_BYTES = 256 * 2**20
_cache: OrderedDict[tuple[str, int, int], xr.Dataset] = OrderedDict()
_lock = threading.Lock()


def open_reference(path: str | os.PathLike[str], reftype: str | None = None) -> xr.Dataset:
    """Read a reference file.

    Parameters
    ----------
    path : path-like
        A FITS, ASDF or JSON file.
    reftype : str, optional
        The CRDS type the file must be of; not checked if None, or if the file does not say.

    Returns
    -------
    xarray.Dataset
        FITS: each image extension as variable ``<extname>`` with dims ``(y, x)`` (2-D; a second
        size of image in the same file gets dims of its own) or ``(<extname>_d0, …, y, x)``; each
        table column as ``<extname>.<column>`` with dims ``(<extname>_row, …)``; ``pixar_sr`` [sr]
        and ``pixar_a2`` [arcsec2] where the header has them. An extension with EXTVER above 1 is
        called ``<extname>_<extver>``. ``dq`` (uint32) has the standard bits of
        :mod:`spec2fn.dq`. ASDF and JSON: no variables, ``attrs["tree"]`` is the content; do not
        modify it. ``attrs`` also holds ``reftype``, ``filename``, ``path``, mode attributes
        (:data:`spec2fn.schema.MODE_ATTRS`), ``made_for`` (the exposures that the file is for, see
        :func:`spec2fn.refs.matching.made_for`) and ``meta``. Arrays are read-only and in native
        byte order. A file that has not changed is read once in a process; its large planes are read
        when they are used, and must not change before.

    Raises
    ------
    spec2fn.errors.ReferenceError
        If the file does not exist, cannot be read, is truncated, or is of another type.
    """
    where = user_path(path)
    label = f"reference {reftype!r}" if reftype else "reference"
    try:
        stat = where.stat()
    except OSError as error:
        reason = "does not exist" if isinstance(error, FileNotFoundError) else error.strerror
        msg = f"{label}: {where} {reason}; give the path of a FITS, ASDF or JSON reference file"
        raise ReferenceError(msg) from None
    key = (str(where.resolve()), stat.st_mtime_ns, stat.st_size)
    with _lock:
        ds = _cache.get(key)
        if ds is not None:
            _cache.move_to_end(key)
    if ds is None:
        ds = _read(where, label, plain=(reftype or "").startswith("pars-"))
        if _held(ds) <= _CACHE_BYTES:
            with _lock:
                _cache[key] = ds
                while sum(map(_held, _cache.values())) > _CACHE_BYTES:
                    _cache.popitem(last=False)
    ds = ds.copy(deep=False)
    found = ds.attrs["reftype"]
    if reftype is not None:
        wanted = reftype.lower()
        if found and found not in {wanted, *_SYNONYMS.get(wanted, ())}:
            msg = (
                f"{label}: {where} is a reference of type {found!r}; a file whose REFTYPE is"
                f" {reftype.upper()} is needed"
            )
            raise ReferenceError(msg)
        ds.attrs["reftype"] = reftype
    return ds


def clear_cache() -> None:
    """Forget the references read so far in this process."""
    with _lock:
        _cache.clear()


@dataclass(eq=False)
class LazyReference:
    """A reference file that is read when it is needed, once.

    Attributes
    ----------
    path : pathlib.Path
    reftype : str
    selected : bool
        Whether CRDS selected the file for the exposure: what the file says it was made for
        (``made_for``) is then left out, because the rules of CRDS know better.
    """

    path: Path
    reftype: str
    selected: bool = False

    def __post_init__(self) -> None:
        self.path = user_path(self.path)
        self._loaded: xr.Dataset | None = None

    @property
    def name(self) -> str:
        """File name without its folder."""
        return self.path.name

    def load(self) -> xr.Dataset:
        """Return the Dataset of :func:`open_reference`."""
        if self._loaded is None:
            self._loaded = open_reference(self.path, self.reftype)
            if self.selected:
                del self._loaded.attrs["made_for"]
        return self._loaded


def coerce_reference(
    value: object, reftype: str, exposure: Mapping[str, Any] | None = None, who: str = ""
) -> xr.Dataset | None:
    """Return what a user gave for a reference as a Dataset.

    Parameters
    ----------
    value : xarray.Dataset, LazyReference, path-like, mapping, array or None
        A mapping is the content of an ASDF or JSON reference; an array becomes the variable
        ``sci`` with dims ``(y, x)`` (``(sci_d0, y, x)`` for 3-D). The path ``"N/A"`` means None.
    reftype : str
        CRDS type, for checks and messages.
    exposure : mapping, optional
        Mode attributes of the exposure that the reference is wanted for, which must be one of
        those it says it was made for.
    who : str
        Step that wants the reference, for the message.

    Returns
    -------
    xarray.Dataset or None

    Raises
    ------
    spec2fn.errors.ReferenceError
        If the value cannot be a reference, the file cannot be read, is for another exposure, or
        holds nothing but NaN.
    """
    ref = _coerce(value, reftype)
    if ref is not None and exposure is not None:
        check_exposure(ref, exposure, reftype, who)
        check_contents(ref, who)
    return ref


def _coerce(value: Any, reftype: str) -> xr.Dataset | None:  # noqa: ANN401 - whatever a user gives
    if value is None:
        return None
    if hasattr(value, "data_vars"):
        named: xr.Dataset = (
            value if "reftype" in value.attrs else value.assign_attrs(reftype=reftype)
        )
        return named
    if isinstance(value, LazyReference):
        return value.load()
    if isinstance(value, (str, os.PathLike)):
        if os.fspath(value) == "N/A":
            return None
        return open_reference(value, reftype)
    import xarray as xr

    attrs: dict[str, Any] = {"reftype": reftype, "filename": ""}
    if isinstance(value, Mapping):
        attrs["made_for"] = made_for(_keywords_of(value).get, value)
        return xr.Dataset(attrs=attrs | {"tree": dict(value), "meta": Meta()})
    data = getattr(value, "data", value) if hasattr(value, "dims") else value
    if not hasattr(data, "dtype"):
        data = np.asarray(data)
    if data.ndim < 2 or data.dtype.kind not in "fiub":
        msg = (
            f"reference {reftype!r}: needs a Dataset, a path or a numeric array with at least 2"
            f" dimensions, got an array of {data.dtype} with shape {tuple(data.shape)}"
        )
        raise ReferenceError(msg)
    attrs["meta"] = Meta()
    return xr.Dataset({"sci": (_image_dims("sci", data.ndim), data)}, attrs=attrs)


def standard_dq(
    dq: HostArray, values: HostArray, names: HostArray
) -> tuple[HostArray, tuple[str, ...]]:
    """Translate the bits of a reference file to the standard ones.

    Parameters
    ----------
    dq : ndarray
        Integer flags, whose bits the table defines.
    values : ndarray, shape (n,)
        Value of each flag in this file (column VALUE of the DQ_DEF table).
    names : ndarray of str, shape (n,)
        Standard name of each flag (column NAME).

    Returns
    -------
    dq : ndarray of uint32
        Flags with the standard bits; a bit the table does not define is dropped.
    unknown : tuple of str
        Names that are no JWST flags; their bits are dropped as well.

    Notes
    -----
    JWST reference files carry a DQ_DEF extension (JWST documentation, "Data Quality Flags").
    """
    dq = np.asarray(dq).astype(np.uint32, copy=False)
    out = np.zeros(dq.shape, np.uint32)
    if not len(values):
        return dq, ()
    present = int(np.bitwise_or.reduce(dq, axis=None)) if dq.size else 0
    unchanged = 0
    unknown = []
    for value, raw in zip(values, names, strict=True):
        name = str(raw).strip()
        bits = int(value) & 0xFFFFFFFF
        if name not in PIXEL:
            unknown.append(name)
        elif bits == PIXEL[name]:
            unchanged |= bits
        elif bits & present:
            out |= np.where(dq & np.uint32(bits), np.uint32(PIXEL[name]), np.uint32(0))
    out |= dq & np.uint32(unchanged)
    return out, tuple(unknown)


def _read(path: Path, label: str, *, plain: bool) -> xr.Dataset:
    try:
        with path.open("rb") as stream:
            start = stream.read(8)
    except OSError as error:
        msg = f"{label}: {path} cannot be read ({error.strerror}); check its permissions"
        raise ReferenceError(msg) from None
    try:
        if start.startswith(b"SIMPLE"):
            ds = _read_fits(path)
        elif start.startswith(b"#ASDF"):
            # parameters are text and numbers: no plugin is needed to read them
            ds = _read_asdf(path, plain=plain)
        elif path.suffix.lower() == ".json" or start.lstrip()[:1] == b"{":
            ds = _read_json(path)
        else:
            packed = start.startswith(b"\x1f\x8b")
            msg = "it is compressed, gunzip it" if packed else "it is no FITS, ASDF or JSON file"
            raise ValueError(msg)  # noqa: TRY301 - one message for every kind of broken file
    except Exception as error:
        # whatever a broken file makes the readers stumble on, the user needs the same answer
        reason = " ".join(str(error).split()) or type(error).__name__
        msg = f"{label}: {path} cannot be read as a reference ({reason[:200]}); fetch it again"
        raise ReferenceError(msg) from error
    for var in ds.variables.values():
        data = var._data  # noqa: SLF001 - `.data` would read what stays in the file
        if isinstance(data, np.ndarray):
            data.setflags(write=False)
    ds.attrs["path"] = str(path)
    return ds


def _read_fits(path: Path) -> xr.Dataset:
    import warnings

    import xarray as xr
    from astropy.io import fits

    with warnings.catch_warnings(), fits.open(path, memmap=False) as hdus:
        warnings.simplefilter("ignore")
        _check_complete(path, hdus)
        primary = hdus[0].header
        science = fits.Header()
        headers: dict[str, Any] = {"primary": primary}
        variables: dict[str, Any] = {}
        image_shape: tuple[int, ...] | None = None
        for hdu in hdus:
            name = _variable_name(hdu)
            if hdu.name == "ASDF":
                continue
            if hdu is not hdus[0]:
                headers[name] = hdu.header
                science.update({k: v for k, v in hdu.header.items() if k and k not in science})
            if isinstance(hdu, (fits.BinTableHDU, fits.TableHDU)):
                if hdu.data is not None:
                    variables.update(_columns(name, hdu))
                continue
            shape = hdu.shape
            if not shape:
                continue
            if len(shape) >= 2 and image_shape is None:
                image_shape = shape[-2:]
            dims = _image_dims(name, len(shape), own=shape[-2:] != (image_shape or shape[-2:]))
            variables[name] = plane_in_file(path, hdu, dims, flags=_is_dq(name))
            if variables[name] is None:
                data = _native(hdu.data)
                variables[name] = (
                    dims,
                    data.astype(np.uint32, copy=False) if _is_dq(name) else data,
                )
    if not variables:
        msg = "it holds no image and no table"
        raise ValueError(msg)
    _map_dq(variables, path.name)
    for scalar, keyword in _HEADER_SCALARS.items():
        value = primary.get(keyword, science.get(keyword))
        if isinstance(value, (int, float)):
            variables[scalar] = ((), np.float64(value))
    meta = Meta(primary=primary, science=science, filename=path.name, records={"headers": headers})
    return xr.Dataset(variables, attrs=_attrs(meta))


def _check_complete(path: Path, hdus: fits.HDUList) -> None:
    # the last extension tells where the file ends; astropy drops an incomplete header after it
    info = hdus[len(hdus) - 1].fileinfo()
    needed = info["datLoc"] + info["datSpan"]
    size = path.stat().st_size
    if size < needed:
        msg = f"it is truncated: {size} bytes of {needed}"
        raise OSError(msg)
    with path.open("rb") as stream:
        stream.seek(needed)
        if stream.read(8) == b"XTENSION":
            msg = "it is truncated: its last header is incomplete"
            raise OSError(msg)


def _is_dq(name: str) -> bool:
    return name == "dq" or (name.startswith("dq_") and name[3:].isdigit())


def _variable_name(hdu: fits.ImageHDU | fits.BinTableHDU) -> str:
    name = (hdu.name or "primary").lower()
    return name if getattr(hdu, "ver", 1) == 1 else f"{name}_{hdu.ver}"


def _image_dims(name: str, ndim: int, *, own: bool = False) -> tuple[str, ...]:
    if ndim < 2:
        return tuple(f"{name}_d{i}" for i in range(ndim))
    last = (f"{name}_y", f"{name}_x") if own else ("y", "x")
    return (*(f"{name}_d{i}" for i in range(ndim - 2)), *last)


def _columns(name: str, hdu: fits.BinTableHDU) -> Iterator[tuple[str, Any]]:
    for column in hdu.columns.names:
        key = f"{name}.{column.lower()}"
        data = _native(_regular(hdu.data[column]))
        dims = (f"{name}_row", *(f"{key}_d{i}" for i in range(1, data.ndim)))
        yield key, (dims, data)


def _regular(data: HostArray) -> HostArray:
    # variable-length columns come as objects; short rows are padded
    if data.dtype.kind != "O":
        return data
    rows = [np.atleast_1d(row) for row in data]
    length = max((len(row) for row in rows), default=0)
    kind = np.result_type(*rows) if rows else np.dtype(np.float64)
    out = np.full((len(rows), length), np.nan if kind.kind == "f" else 0, kind)
    for i, row in enumerate(rows):
        out[i, : len(row)] = row
    return out


def _native(data: HostArray) -> HostArray:
    array = np.asarray(data)
    if array.dtype.kind in "SU":
        return np.char.strip(array.astype(str))
    # always a copy: the buffer belongs to the file
    return np.array(array, dtype=array.dtype.newbyteorder("="))


def _map_dq(variables: dict[str, Any], filename: str) -> None:
    for name in [n for n in variables if _is_dq(n)]:
        table = name.replace("dq", "dq_def")
        if f"{table}.value" not in variables:
            table = "dq_def"
        if f"{table}.value" not in variables or f"{table}.name" not in variables:
            continue
        values, names = (variables[f"{table}.{column}"][1] for column in ("value", "name"))
        if isinstance(variables[name], tuple):
            dims, data = variables[name]
            data, unknown = standard_dq(data, values, names)
            variables[name] = (dims, data)
        else:
            _, unknown = standard_dq(np.zeros(0, np.uint32), values, names)
            plane = variables[name].encoding["plane"]
            plane.translate = functools.partial(standard_dq, values=values, names=names)
        if unknown:
            _LOG.warning("%s: flags %s are no JWST flags, ignored", filename, ", ".join(unknown))


def _read_asdf(path: Path, *, plain: bool) -> xr.Dataset:
    import warnings

    import asdf
    import xarray as xr
    from asdf.util import load_yaml

    from spec2fn.refs.plugins import light_asdf

    with warnings.catch_warnings():
        # newer or older writers than ours are no news to the user
        warnings.simplefilter("ignore")
        if plain:
            tree = load_yaml(path)
        else:
            with light_asdf(), asdf.config_context() as config:
                # the schemas of a large tree take longer than the tree
                config.validate_on_read = False
                with asdf.open(path, lazy_load=False, memmap=False) as file:
                    tree = dict(file.tree)
    keywords = _keywords_of(tree)
    # Meta only ever asks `keyword in header` and header[keyword]
    meta = Meta(primary=cast("Any", keywords), filename=path.name)
    return xr.Dataset(attrs=_attrs(meta, tree) | {"tree": tree})


def _keywords_of(tree: Mapping[str, Any]) -> dict[str, Any]:
    out = {}
    for name, keyword in KEYWORDS.items():
        value: Any = tree
        for part in name.lower().split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if isinstance(value, (str, bool, int, float)):
            out[keyword] = value
    return out


def _read_json(path: Path) -> xr.Dataset:
    import xarray as xr

    with path.open(encoding="utf-8") as stream:
        tree = json.load(stream)
    if not isinstance(tree, dict):
        msg = "its content is no JSON object"
        raise TypeError(msg)
    keywords = {k.upper(): v for k, v in tree.items() if isinstance(v, (str, bool, int, float))}
    if "INSTRUMENT" in keywords:
        keywords["INSTRUME"] = keywords.pop("INSTRUMENT")
    meta = Meta(primary=cast("Any", keywords), filename=path.name)
    return xr.Dataset(attrs=_attrs(meta) | {"tree": tree})


def _attrs(meta: Meta, tree: Mapping[str, Any] | None = None) -> dict[str, Any]:
    attrs: dict[str, Any] = {}
    for name, (keyword, kind) in MODE_ATTRS.items():
        value = meta.raw(keyword)  # also N/A, ANY, …
        if isinstance(value, (str, bool, int, float)):
            attrs[name] = kind(value)
    attrs["reftype"] = str(meta.get("REFTYPE", "")).strip().lower()
    attrs["filename"] = meta.filename
    attrs["made_for"] = made_for(meta.get, tree)
    attrs["meta"] = meta
    return attrs


def _held(ds: xr.Dataset) -> int:
    # planes that stay in their file are read by copies of the Dataset only
    return sum(v.nbytes for v in ds.variables.values() if "plane" not in v.encoding)

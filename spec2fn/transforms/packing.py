"""Datasets, slits, cubes and plans as pytrees, and back."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Hashable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np

from spec2fn.cubes import Cubes
from spec2fn.kernels.namespace import is_traced
from spec2fn.pieces import Exposure, Pieces, pieces_of
from spec2fn.plan_base import Plan
from spec2fn.schema import Meta
from spec2fn.transforms.labels import Label

if TYPE_CHECKING:
    import xarray as xr

__all__ = [
    "Packed",
    "PyTree",
    "Static",
    "content_key",
    "inherit_meta",
    "pack",
    "unpack",
]

PyTree: TypeAlias = Any
"""What JAX takes apart: :class:`Packed`, :class:`Static` and arrays, in tuples and mappings."""

_Result = TypeVar("_Result")
_DATA = "data"


class Static:
    """A value that is part of the structure, compared by content."""

    __slots__ = ("key", "value")

    def __init__(self, value: object) -> None:
        self.value: Any = value
        self.key = content_key(value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Static) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


def content_key(value: object) -> Hashable:
    """Return what is the same for values of the same content."""
    if isinstance(value, Label):
        return ("label", id(value))
    if isinstance(value, np.ndarray):
        return ("array", value.dtype.str, value.shape, value.tobytes())
    if isinstance(value, Mapping):
        return ("map", tuple((k, content_key(v)) for k, v in value.items()))
    if isinstance(value, (list, tuple)):
        return (type(value).__name__, tuple(content_key(v) for v in value))
    try:
        hash(value)
    except TypeError:
        return ("id", id(value))
    return value


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class Packed:
    """A Dataset, a collection of them or a plan taken apart: `arrays` are traced, `template` not.

    The first element of the template's value says which of them it is.
    """

    arrays: dict[str, PyTree]
    template: Static

    @property
    def kind(self) -> str:
        """``dataset``, ``variable``, ``pieces`` or ``plan``."""
        return str(self.template.value[0])


@functools.cache
def _register() -> None:
    import jax

    jax.tree_util.register_pytree_with_keys(
        Packed,
        lambda p: (
            tuple((jax.tree_util.DictKey(k), v) for k, v in p.arrays.items()),
            (tuple(p.arrays), p.template),
        ),
        lambda aux, children: Packed(dict(zip(aux[0], children, strict=True)), aux[1]),
        lambda p: (tuple(p.arrays.values()), (tuple(p.arrays), p.template)),
    )
    jax.tree_util.register_pytree_node(Static, lambda s: ((), s), lambda aux, _: aux)


def pack(value: Any) -> PyTree:  # noqa: ANN401 - any value in any nesting
    """Return `value` as a pytree: Datasets, slits, cubes and plans become :class:`Packed`."""
    _register()
    if hasattr(value, "data_vars"):
        return _pack_dataset(value)
    if isinstance(value, Plan):
        return _pack_plan(value)
    if isinstance(value, Pieces):
        several = value.pieces
        names = value.names if isinstance(value, Cubes) else map(str, range(len(several)))
        packed = dict(zip(names, map(_pack_dataset, several), strict=True))
        return Packed(packed, Static(("pieces", type(value))))
    if hasattr(value, "to_dataset"):
        packed = {_DATA: _pack_dataset(value.to_dataset(name=_DATA))}
        return Packed(packed, Static(("variable", value.name)))
    if isinstance(value, Mapping):
        return {k: pack(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return tuple(pack(v) for v in value)
    if _is_number(value) or isinstance(value, float):
        return value
    if hasattr(value, "load") and not hasattr(value, "dtype"):
        return pack(value.load())
    return Static(value)


def unpack(value: PyTree) -> Any:  # noqa: ANN401 - any value in any nesting
    """Invert :func:`pack`."""
    if isinstance(value, Packed):
        return _UNPACKED[value.kind](value)
    if isinstance(value, Static):
        return value.value
    if isinstance(value, Mapping):
        return {k: unpack(v) for k, v in value.items()}
    if isinstance(value, tuple):
        return tuple(unpack(v) for v in value)
    return value


def _is_number(data: object) -> bool:
    dtype = getattr(data, "dtype", None)
    return dtype is not None and np.dtype(dtype).kind in "fiubc"


def _pack_dataset(ds: xr.Dataset) -> Packed:
    arrays, static, layout = {}, {}, []
    for key, var in ds.variables.items():
        name = str(key)
        layout.append((name, var.dims, tuple(var.attrs.items()), name in ds.coords))
        data = var.data
        if var.dims == ("slit",) and np.dtype(data.dtype).kind in "iub" and not is_traced(data):
            static[name] = np.asarray(data)
        elif _is_number(data) and name not in ds.indexes:
            arrays[name] = data
        else:
            static[name] = data
    attrs = {k: v for k, v in ds.attrs.items() if not isinstance(v, Meta) and k != "tree"}
    return Packed(arrays, Static(("dataset", tuple(layout), static, attrs)))


def _unpack_dataset(packed: Packed) -> xr.Dataset:
    import xarray as xr

    _, layout, static, attrs = packed.template.value
    data_vars: dict[str, xr.Variable] = {}
    coords: dict[str, xr.Variable] = {}
    for name, dims, var_attrs, is_coord in layout:
        data = packed.arrays[name] if name in packed.arrays else static[name]
        (coords if is_coord else data_vars)[name] = xr.Variable(dims, data, dict(var_attrs))
    return xr.Dataset(data_vars, coords=coords, attrs=dict(attrs))


def _unpack_variable(packed: Packed) -> xr.DataArray:
    return _unpack_dataset(packed.arrays[_DATA])[_DATA].rename(packed.template.value[1])


def _unpack_pieces(packed: Packed) -> Pieces:
    several = tuple(map(_unpack_dataset, packed.arrays.values()))
    kind = packed.template.value[1]
    unpacked: Pieces = kind(tuple(packed.arrays), several) if kind is Cubes else kind(several)
    return unpacked


def _pack_plan(plan: Plan) -> Packed:
    arrays, static = {}, {}
    for f in dataclasses.fields(plan):
        if f.name in plan.declared and plan.declared[f.name].kind == "outside":
            continue
        value = getattr(plan, f.name)
        packed = pack(value)
        plain = f.name not in plan.declared and _plain_numbers(value)
        if isinstance(packed, Static) or plain:
            static[f.name] = value
        else:
            arrays[f.name] = packed
    return Packed(arrays, Static(("plan", type(plan), static)))


def _plain_numbers(value: object) -> bool:
    if isinstance(value, tuple):
        return all(map(_plain_numbers, value))
    return isinstance(value, (int, float))


def _unpack_plan(packed: Packed) -> Plan:
    _, cls, static = packed.template.value
    plan: Plan = object.__new__(cls)  # checked when it was made; in a map it lacks a dim
    plan.__dict__.update(dict.fromkeys(cls.declared))  # what stays outside is None
    plan.__dict__.update({k: unpack(v) for k, v in packed.arrays.items()}, **static)
    return plan


_UNPACKED = {
    "dataset": _unpack_dataset,
    "variable": _unpack_variable,
    "pieces": _unpack_pieces,
    "plan": _unpack_plan,
}


def inherit_meta(value: _Result, args: Iterable[object]) -> _Result:
    """Return a result with the headers of the first exposure among the arguments."""
    source = _first_exposure(args)
    if source is not None:
        value = _with_meta_of(source, value)
    return value


def _first_exposure(args: Iterable[object]) -> Exposure | None:
    stack = list(args)
    while stack:
        value: Any = stack.pop(0)
        if pieces_of(value):
            exposure: Exposure = value
            return exposure
        if isinstance(value, Mapping):
            stack.extend(value.values())
        elif isinstance(value, (list, tuple)):
            stack.extend(value)
    return None


def _with_meta_of(source: Exposure, value: Any) -> Any:  # noqa: ANN401 - any value in any nesting
    sources = pieces_of(source)
    if isinstance(value, Pieces):
        if len(sources) != len(value.pieces):
            sources = sources[:1] * len(value.pieces)
        return value.with_pieces(tuple(map(_with_meta_of, sources, value.pieces)))
    if hasattr(value, "data_vars"):
        meta = sources[0].attrs.get("meta")
        if not isinstance(meta, Meta):
            return value
        if any(value.sizes.get(d) != sources[0].sizes.get(d) for d in ("y", "x")):
            # on another grid; what describes it does not come out of a trace
            meta = meta.replace(wcs=None)
        return value.assign_attrs(meta=meta)
    if isinstance(value, dict):
        return {k: _with_meta_of(source, v) for k, v in value.items()}
    if isinstance(value, tuple):
        return tuple(_with_meta_of(source, v) for v in value)
    return value

"""What one element of a mapped dimension sees of the arguments, and the results joined again."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

import numpy as np

from spec2fn.errors import ContractError, PlanError
from spec2fn.kernels.namespace import array_namespace
from spec2fn.plan_base import Dims
from spec2fn.transforms.labels import Label, LabelRead
from spec2fn.transforms.lists import Parts, local_positions, referring
from spec2fn.transforms.packing import Packed, PyTree, Static, content_key, unpack
from spec2fn.typing import Array, HostArray

if TYPE_CHECKING:
    import jax

__all__ = ["Along", "COMPUTED", "FIXED", "Leaf", "MAPPED", "Out"]

MAPPED, COMPUTED, FIXED = -3, -2, -1

# dims that stand before one of an exposure, wherever they have it
_BEFORE = {"integration": ("slit",)}

Target: TypeAlias = "Parts | int | None"
"""A list, or how long what each element has of something is, in which numbers are positions."""


@dataclasses.dataclass(frozen=True, eq=False)
class Leaf:
    """An array of the arguments, and the axis to map; -1 if it is broadcast.

    Elements that keep the dim have the axis with length 1, unless it counts the elements of a list
    (`listed`), of which they have their own.
    """

    data: Array
    axis: int
    listed: bool = False

    def stacked(self, keep: bool) -> Array:
        """Return what the elements have, one behind the other; what all have is not repeated."""
        if self.axis < 0:
            return self.data
        xp = array_namespace(self.data)
        first = xp.moveaxis(self.data, self.axis, 0)
        stacked: Array = xp.expand_dims(first, self.axis + 1) if self._kept(keep) else first
        return stacked

    def of_one(self, keep: bool) -> Array | jax.ShapeDtypeStruct:
        """Return what one element has, or its shape and type."""
        import jax

        if self.axis < 0:
            return self.data
        shape = list(self.data.shape)
        shape[self.axis : self.axis + 1] = [1] if self._kept(keep) else []
        return jax.ShapeDtypeStruct(tuple(shape), self.data.dtype)

    def _kept(self, keep: bool) -> bool:
        return keep and not self.listed


@dataclasses.dataclass(frozen=True, eq=False)
class Out:
    """A leaf that a mapped function returns.

    `origin` is ``MAPPED`` (along the first axis), ``COMPUTED`` from what is not mapped,
    ``FIXED`` if it is no array of JAX, else the number of the leaf among the arguments that it is.
    """

    data: Array
    origin: int = FIXED

    def same(self, other: Out) -> bool:
        """Whether both are one value that all elements have in common."""
        if self is other:
            return self.origin != MAPPED and not self.labelled
        if self.origin != FIXED:
            return self.origin == other.origin >= 0
        return not self.labelled and content_key(self.data) == content_key(other.data)

    @property
    def labelled(self) -> bool:
        """Whether it differs from element to element, untraced."""
        values = np.asarray(self.data).flat if self.origin == FIXED else ()
        return any(isinstance(v, Label) for v in values)


def _stacked(parts: list[Out], groups: list[HostArray]) -> Array:
    """Stack the elements of groups, (n, …), in the order of the arguments."""
    stacks: list[Array] = []
    for part, group in zip(parts, groups, strict=True):
        data, n = part.data, len(group)
        if part.origin == MAPPED:
            stacks.append(data)
        elif part.labelled:
            values = np.asarray(data)
            each = [v.of_each if isinstance(v, Label) else [v] * n for v in values.flat]
            stacks.append(np.array(each).T.reshape(n, *values.shape))
        else:
            xp = array_namespace(data)
            stacks.append(xp.broadcast_to(xp.asarray(data)[None], (n, *np.shape(data))))
    if len(stacks) == 1:
        return stacks[0]
    order = np.argsort(np.concatenate(groups))
    joined: Array = array_namespace(*stacks).concatenate(stacks)[order]
    return joined


class Along:
    """Arguments of a mapped function as one element sees them, and back.

    It is for the elements `index` among `size`, which have a trace in common. Without an index
    arguments are only measured.
    """

    def __init__(
        self, dim: str, index: HostArray | None = None, size: int = 0, *, keep: bool
    ) -> None:
        self.dim = dim
        self.keep = keep
        self.index = index
        self.size = size
        self.lists: Mapping[str, Parts | None] = {}
        self.sizes: dict[int, str] = {}
        self.before: tuple[str, ...] = ()
        self.coordinate: Any = None
        self.labels: list[Label] = []

    def split(
        self, value: PyTree, where: str = "", dims: Dims | None = None, target: Target = None
    ) -> PyTree:
        """Return `value` with the template of an element, its arrays as :class:`Leaf`.

        `where` names a field of a plan, in which arrays must be declared, and `target` is what its
        numbers are positions in.
        """
        if isinstance(value, Packed):
            if value.kind == "plan":
                return self._plan(value)
            if value.kind == "dataset":
                return self._dataset(value)
            return Packed(self.split(value.arrays, where, dims, target), value.template)
        if isinstance(value, Mapping):
            return {k: self.split(v, where, dims, target) for k, v in value.items()}
        if isinstance(value, tuple):
            return tuple(self.split(v, where, dims, target) for v in value)
        if isinstance(value, Static):
            return value
        return self._field(value, where, dims, target)

    def _field(self, leaf: Array, where: str, dims: Dims | None, target: Target) -> Leaf:
        shape = np.shape(leaf)
        if not where or not shape:
            return Leaf(leaf, -1)
        names = dims.of(len(shape)) if dims is not None else None
        if dims is None or names is None or "..." in dims.names:
            msg = (
                f"vmap: {where} is an array of shape {shape} of which it is not known whether"
                f" {self.dim!r} is among its dims; declare the field with"
                ' array("…") of spec2fn.plan_base'
            )
            raise PlanError(msg)
        if self.dim in names:
            axis = names.index(self.dim)
            self.sizes.setdefault(shape[axis], where)
            if self.index is None:
                return Leaf(leaf, axis)
            return Leaf(self._local(self._chosen(leaf, axis), where, dims, target), axis)
        several = next((n for n in names if self._runs_along(n)), None)
        if several is None or not np.size(leaf):
            return Leaf(leaf, -1)
        if several not in self.lists:
            self._refuse(where, f"has an axis {several} that runs over all of them")
        parts, axis = self.lists[several], names.index(several)
        if parts is None:
            return Leaf(leaf, -1)
        if len(parts.rank) != shape[axis]:
            self._refuse(
                where, f"has {shape[axis]} elements along {several}, which lists {len(parts.rank)}"
            )
        cut = self._local(parts.cut(leaf, axis), where, dims, target)
        padding = target.length - 1 if isinstance(target, Parts) else dims.padding
        return Leaf(cut if padding is None else parts.padded(cut, axis, padding), axis, listed=True)

    def _chosen(self, data: Array, axis: int) -> Array:
        """Return an array along the dim for the elements that are chosen."""
        if axis < 0 or self.index is None or len(self.index) == self.size:
            return data
        chosen: Array = array_namespace(data).take(data, self.index, axis=axis)
        return chosen

    def _local(self, numbers: Array, where: str, dims: Dims, target: Target) -> Array:
        """Return the numbers of a field as positions in what an element has."""
        into = referring(dims)[1]
        if isinstance(target, Parts):
            return target.local(numbers)
        if target is None and into:
            self._refuse(where, f"holds positions in {into}, of which is not known whose they are,")
        return numbers if target is None else local_positions(numbers, self.size, target)

    def _runs_along(self, name: str) -> bool:
        """Whether this is an axis that runs over several dims, of which one is the mapped one."""
        return name.startswith("(") and self.dim in name.strip("()").split()

    def _refuse(self, where: str, why: str) -> NoReturn:
        msg = (
            f"vmap: {where} {why}, and cannot be mapped along {self.dim!r}; call the function"
            " with all of them at once"
        )
        raise PlanError(msg)

    def _plan(self, packed: Packed) -> Packed:
        _, cls, static = packed.template.value
        arrays: dict[str, PyTree] = {}
        fixed = dict(static)
        outer, self.lists = self.lists, {**self.lists, **self._lists(packed)}
        members = self._members(packed)
        for name, value in packed.arrays.items():
            where, dims = f"{cls.__name__}.{name}", cls.declared.get(name)
            along, into = ("", "") if dims is None else referring(dims)
            if name in members:
                one = self._of_some(value, members[name])
                (fixed if one is None else arrays)[name] = one
            elif dims is None or dims.kind == "array":
                arrays[name] = self.split(value, where, dims, self._target(packed, into))
            elif along != self.dim:
                arrays[name] = self.split(value)
            elif into in self.lists:
                parts = self.lists[into]
                fixed[name] = (0 if parts is None else parts.length,)
            else:
                fixed[name] = self._of_element(unpack(value), where, dims)
        self.lists = outer
        return Packed(arrays, Static(("plan", cls, fixed)))

    def _lists(self, packed: Packed) -> dict[str, Parts | None]:
        """Lists of which a plan, or one of its members, says what each element of the dim has."""
        found: dict[str, Parts | None] = {}
        of_some = self._members(packed)
        members = (value for name, value in packed.arrays.items() if name not in of_some)
        for plan in (packed, *members):
            if not isinstance(plan, Packed) or plan.kind != "plan":
                continue
            cls = plan.template.value[1]
            for name, dims in cls.declared.items():
                along, into = referring(dims)
                if dims.kind == "labels" and along == self.dim and into and name in plan.arrays:
                    counts = np.array(unpack(plan.arrays[name]), dtype=int)
                    self.sizes.setdefault(len(counts), f"{cls.__name__}.{name}")
                    found[into] = self._parts(counts.reshape(len(counts), -1))
        return found

    def _parts(self, counts: HostArray) -> Parts | None:
        if self.index is None:
            return None
        parts = Parts.of(counts, self.index)
        self._same(parts.count > 0)
        return parts

    def _target(self, packed: Packed, into: str) -> Target:
        """What numbers of a field that refer to another one, or to a list, are positions in."""
        if into in self.lists:
            return self.lists[into]
        if into in packed.arrays:
            return math.prod(np.shape(packed.arrays[into])[1:])
        shape = packed.template.value[2].get(into)
        return None if shape is None else math.prod(shape)

    def _members(self, packed: Packed) -> dict[str, tuple[int, ...]]:
        """Members of a plan that are for some elements of the dim only, and for which."""
        found = {}
        for name, dims in packed.template.value[1].declared.items():
            along, into = referring(dims)
            if dims.kind == "positions" and along == self.dim and into in packed.arrays:
                found[into] = unpack(packed.arrays[name])
        return found

    def _of_some(self, value: Packed, positions: tuple[int, ...]) -> PyTree:
        """A member of a plan that is for some elements of the dim, or None if not for these."""
        if self.index is None or not self._same(np.isin(self.index, positions)):
            return None
        places = np.array([positions.index(int(i)) for i in self.index])
        among = Along(self.dim, places, len(positions), keep=self.keep)
        among.labels = self.labels
        return among.split(value)

    def _of_element(self, values: tuple[Any, ...], where: str, dims: Dims) -> object:
        """What one element has of a tuple along the dim."""
        if dims.kind == "positions":
            if not values:
                return values
            if self.keep and referring(dims)[1]:
                inside = self.index is not None and self._same(np.isin(self.index, values))
                return (0,) if inside else ()
            if not self.keep or values != tuple(range(len(values))):
                self._refuse(where, f"holds positions {values}")
            self.sizes.setdefault(len(values), where)
            return (0,)
        self.sizes.setdefault(len(values), where)
        objects = np.empty(len(values), dtype=object)
        for i, value in enumerate(values):
            objects[i] = value
        one = self._one(objects)
        return (one,) if self.keep else one

    def _one(self, values: HostArray, *, identity: bool = False) -> object:
        """One value if all are the same, else what stands for them."""
        if self.index is not None:
            values = values[self.index]
        first = content_key(values[0])
        if all(content_key(v) == first for v in values):
            return values[0]
        self.labels.append(Label(values, identity=identity))
        return self.labels[-1]

    def _same(self, values: HostArray) -> bool:
        """Return what is true of all elements; they part ways where it is true of some."""
        if values.any() != values.all():
            self.labels.append(Label(values))
            raise LabelRead(self.labels[-1])
        return bool(values.all())

    def _dataset(self, packed: Packed) -> Packed:
        _, layout, static, attrs = packed.template.value
        arrays: dict[str, PyTree] = {}
        fixed, new = {}, []
        for name, dims, var_attrs, is_coord in layout:
            data = packed.arrays[name] if name in packed.arrays else static[name]
            axis = dims.index(self.dim) if self.dim in dims else -1
            if axis >= 0:
                self.sizes.setdefault(data.shape[axis], name)
                if axis >= len(self.before):
                    self.before = dims[:axis]
            index = dims == (name,)
            if name in packed.arrays or (axis >= 0 and not index and data.dtype.kind in "iub"):
                arrays[name] = Leaf(self._chosen(data, axis), axis)
            elif axis < 0:
                fixed[name] = data
            elif index and not self.keep:
                self.coordinate = self.coordinate or ((name, dims, var_attrs, is_coord), data)
                continue
            else:
                fixed[name] = self._labelled(np.moveaxis(data, axis, 0), axis, identity=index)
            kept = dims if self.keep else tuple(d for d in dims if d != self.dim)
            new.append((name, kept, var_attrs, is_coord))
        return Packed(arrays, Static(("dataset", tuple(new), fixed, attrs)))

    def _labelled(self, values: HostArray, axis: int, *, identity: bool) -> HostArray:
        out = np.empty(values.shape[1:], dtype=object)
        for i in np.ndindex(out.shape):
            out[i] = self._one(values[(slice(None), *i)], identity=identity)
        if not any(isinstance(v, Label) for v in out.flat):
            out = out.astype(values.dtype)
        return np.expand_dims(out, axis) if self.keep else out

    def join(self, parts: list[PyTree], groups: list[HostArray]) -> PyTree:
        """Put the results of groups of elements together; their leaves are :class:`Out`."""
        first = parts[0]
        if isinstance(first, Packed):
            if first.kind == "dataset":
                return self._join_datasets(parts, groups)
            if first.kind == "plan":
                msg = "vmap: a mapped function cannot return a plan; return its arrays"
                raise ContractError(msg)
            items = self.join([p.arrays for p in parts], groups)
            return Packed(items, first.template)
        if isinstance(first, Mapping):
            return {k: self.join([p[k] for p in parts], groups) for k in first}
        if isinstance(first, tuple):
            return tuple(self.join(list(p), groups) for p in zip(*parts, strict=True))
        if isinstance(first, Out):
            return _stacked(parts, groups)
        if any(isinstance(p.value, Label) for p in parts):
            each = [Out(np.array(p.value, dtype=object)) for p in parts]
            return Static(_stacked(each, groups))
        return first

    def _join_datasets(self, parts: list[Packed], groups: list[HostArray]) -> Packed:
        _, layout, _, attrs = parts[0].template.value
        dims_of = {name: dims for name, dims, _, _ in layout}
        # what was done to one of them was done
        done = {
            k: v
            for p in parts
            for k, v in p.template.value[3].items()
            if k.startswith("status_") and v == "COMPLETE"
        }
        forms = []
        for part in parts:
            _, part_layout, _, part_attrs = part.template.value
            others = {k: v for k, v in part_attrs.items() if k not in done}
            form = {entry[0]: content_key(entry[1:]) for entry in part_layout}
            forms.append((form, content_key(others)))
        if any(f != forms[0] for f in forms) or any(isinstance(a, Label) for a in attrs.values()):
            msg = (
                f"vmap: the function returns other variables, units or attributes for some"
                f" {self.dim}s than for others; map these on their own"
            )
            raise ContractError(msg)
        # spectra of slits stand along a dim of their own
        along = dims_of.get(self.dim, (self.dim,))[0] if self.keep else self.dim
        # also of dims that the function has made
        before = (*self.before, *_BEFORE.get(self.dim, ()))
        new: list[Any] = []
        arrays: dict[str, Array] = {}
        static: dict[str, Array] = {}
        for name, dims, var_attrs, is_coord in layout:
            each = [p.arrays.get(name) or Out(p.template.value[2][name]) for p in parts]
            data: Array = each[0].data
            new_dims = dims
            if along in dims:
                axis = dims.index(along)
                data = _stacked(each, groups)
                data = array_namespace(data).moveaxis(data, 0, axis)
                data = data.reshape((*data.shape[:axis], -1, *data.shape[axis + 2 :]))
            elif not all(one.same(each[0]) for one in each):
                axis = 1 + max((i for i, d in enumerate(dims) if d in before), default=-1)
                data = _stacked(each, groups)
                data = array_namespace(data).moveaxis(data, 0, axis)
                new_dims = (*dims[:axis], self.dim, *dims[axis:])
            (arrays if name in parts[0].arrays else static)[name] = data
            new.append((name, new_dims, var_attrs, is_coord))
        if self.coordinate is not None and any(self.dim in entry[1] for entry in new):
            entry, static[self.dim] = self.coordinate
            new.append(entry)
        return Packed(arrays, Static(("dataset", tuple(new), static, attrs | done)))

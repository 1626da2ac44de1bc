"""JAX transformations that speak Dataset: ``jit``, ``value_and_grad``, ``jvp``, ``vmap``, ``lift``.

Datasets are not registered as pytrees (attributes would vanish from the structure, and a second
library registering the type would collide). They cross into JAX through :func:`pack`: numeric
variables become traced arguments; names, dims, attributes that steps branch on, and variables
that are no numbers become a hashable template; :class:`~spec2fn.schema.Meta` (headers, gwcs)
stays outside, so that a new file name does not cause a new trace and a new ``exp_type`` does.
Labels of slits (texts, integers and booleans on ``slit`` alone) are static as well.

Functions may take and return Datasets, mappings, tuples, :class:`~spec2fn.plan_base.Plan`
objects, arrays and plain Python values, in any nesting.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from spec2fn.errors import ContractError, PlanError
from spec2fn.kernels.namespace import array_namespace, is_traced
from spec2fn.pieces import Pieces, pieces_of
from spec2fn.plan_base import Dims, Plan
from spec2fn.schema import Meta

__all__ = ["jit", "jvp", "lift", "pack", "unpack", "value_and_grad", "vmap"]


class _Static:
    """A value that is part of the structure, compared by content."""

    __slots__ = ("key", "value")

    def __init__(self, value: Any) -> None:
        self.value = value
        self.key = _key(value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Static) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


def _key(value: Any) -> Any:
    if isinstance(value, _Label):
        return ("label", id(value))
    if isinstance(value, np.ndarray):
        return ("array", value.dtype.str, value.shape, value.tobytes())
    if isinstance(value, Mapping):
        return ("map", tuple((k, _key(v)) for k, v in value.items()))
    if isinstance(value, (list, tuple)):
        return (type(value).__name__, tuple(_key(v) for v in value))
    try:
        hash(value)
    except TypeError:
        return ("id", id(value))
    return value


def _is_number(data: Any) -> bool:
    return getattr(data, "dtype", None) is not None and np.dtype(data.dtype).kind in "fiubc"


class Packed:
    """A Dataset, slits or a plan taken apart: `arrays` are traced, `template` is static."""

    __slots__ = ("arrays", "template")

    def __init__(self, arrays: dict[str, Any], template: _Static) -> None:
        self.arrays = arrays
        self.template = template


@functools.cache
def _register() -> None:
    import jax

    jax.tree_util.register_pytree_node(
        Packed,
        lambda p: (tuple(p.arrays.values()), (tuple(p.arrays), p.template)),
        lambda aux, children: Packed(dict(zip(aux[0], children, strict=True)), aux[1]),
    )
    jax.tree_util.register_pytree_node(_Static, lambda s: ((), s), lambda aux, _: aux)


def pack(value: Any) -> Any:
    """Return `value` as a pytree: Datasets, slits and plans become :class:`Packed`."""
    _register()
    if hasattr(value, "data_vars"):
        return _pack_dataset(value)
    if isinstance(value, Plan):
        return _pack_plan(value)
    if hasattr(value, "buckets"):
        buckets = {str(i): _pack_dataset(b) for i, b in enumerate(value.buckets)}
        return Packed(buckets, _Static(("slits", type(value))))
    if hasattr(value, "cubes"):
        cubes = {str(name): _pack_dataset(c) for name, c in value.items()}
        return Packed(cubes, _Static(("cubes", type(value))))
    if isinstance(value, Mapping):
        return {k: pack(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return tuple(pack(v) for v in value)
    if _is_number(value) or (isinstance(value, float) and not isinstance(value, bool)):
        return value
    if hasattr(value, "load") and not hasattr(value, "dtype"):
        return pack(value.load())
    return _Static(value)


def unpack(value: Any) -> Any:
    """Invert :func:`pack`."""
    if isinstance(value, Packed):
        kind = value.template.value[0]
        if kind == "slits":
            return value.template.value[1](tuple(unpack(b) for b in value.arrays.values()))
        if kind == "cubes":
            cubes = tuple(unpack(c) for c in value.arrays.values())
            return value.template.value[1](tuple(value.arrays), cubes)
        return _unpack_dataset(value) if kind == "dataset" else _unpack_plan(value)
    if isinstance(value, _Static):
        return value.value
    if isinstance(value, Mapping):
        return {k: unpack(v) for k, v in value.items()}
    if isinstance(value, tuple):
        return tuple(unpack(v) for v in value)
    return value


def _pack_dataset(ds: Any) -> Packed:
    arrays, static = {}, {}
    layout = []
    for name, var in ds.variables.items():
        layout.append((name, var.dims, tuple(var.attrs.items()), name in ds.coords))
        data = var.data
        if var.dims == ("slit",) and np.dtype(data.dtype).kind in "iub" and not is_traced(data):
            static[name] = np.asarray(data)
        elif _is_number(data) and name not in ds.indexes:
            arrays[name] = data
        else:
            static[name] = data
    attrs = {k: v for k, v in ds.attrs.items() if not isinstance(v, Meta) and k != "tree"}
    return Packed(arrays, _Static(("dataset", tuple(layout), static, attrs)))


def _unpack_dataset(packed: Packed) -> Any:
    import xarray as xr

    _, layout, static, attrs = packed.template.value
    data_vars: dict[str, Any] = {}
    coords: dict[str, Any] = {}
    for name, dims, var_attrs, is_coord in layout:
        data = packed.arrays[name] if name in packed.arrays else static[name]
        (coords if is_coord else data_vars)[name] = xr.Variable(dims, data, dict(var_attrs))
    return xr.Dataset(data_vars, coords=coords, attrs=dict(attrs))


def _pack_plan(plan: Plan) -> Packed:
    arrays, static = {}, {}
    for f in dataclasses.fields(plan):
        value = getattr(plan, f.name)
        packed = pack(value)
        plain = f.name not in plan.declared and _plain_numbers(value)
        if isinstance(packed, _Static) or value is None or plain:
            static[f.name] = value
        else:
            arrays[f.name] = packed
    return Packed(arrays, _Static(("plan", type(plan), static)))


def _plain_numbers(value: object) -> bool:
    if isinstance(value, tuple):
        return all(map(_plain_numbers, value))
    return isinstance(value, (int, float))


def _unpack_plan(packed: Packed) -> Plan:
    _, cls, static = packed.template.value
    plan: Plan = object.__new__(cls)  # checked when it was made; in a map it lacks a dim
    plan.__dict__.update({k: unpack(v) for k, v in packed.arrays.items()}, **static)
    return plan


def _provenance(args: Any) -> Any:
    """The first Dataset (or slits) among the arguments, whose headers the results inherit."""
    stack = list(args)
    while stack:
        value = stack.pop(0)
        if pieces_of(value):
            return value
        if isinstance(value, Mapping):
            stack.extend(value.values())
        elif isinstance(value, (list, tuple)):
            stack.extend(value)
    return None


def _attach(value: Any, source: Any) -> Any:
    if source is None:
        return value
    sources = pieces_of(source)
    if isinstance(value, Pieces):
        if len(sources) != len(value.pieces):
            sources = sources[:1] * len(value.pieces)
        pairs = zip(value.pieces, sources, strict=True)
        return value.with_pieces(tuple(_attach(p, s) for p, s in pairs))
    if hasattr(value, "data_vars"):
        meta = sources[0].attrs.get("meta")
        if not isinstance(meta, Meta):
            return value
        if any(value.sizes.get(d) != sources[0].sizes.get(d) for d in ("y", "x")):
            # on another grid; what describes it does not come out of a trace
            meta = meta.replace(wcs=None)
        return value.assign_attrs(meta=meta)
    if isinstance(value, dict):
        return {k: _attach(v, source) for k, v in value.items()}
    if isinstance(value, tuple):
        return tuple(_attach(v, source) for v in value)
    return value


def _inside(function: Callable[..., Any]) -> Callable[[Any, Any], Any]:
    def packed_function(args: Any, kwargs: Any) -> Any:
        return pack(function(*unpack(args), **unpack(kwargs)))

    return packed_function


def jit(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function of Datasets with :func:`jax.jit`.

    Two calls share a compiled program if their Datasets agree in names, dims, shapes, dtypes and
    mode attributes; headers and file names do not matter.
    """
    import jax

    _register()
    compiled = jax.jit(_inside(function))

    @functools.wraps(function, updated=())
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        out = unpack(compiled(pack(args), pack(kwargs)))
        return _attach(out, _provenance((*args, *kwargs.values())))

    return wrapper


def value_and_grad(
    function: Callable[..., Any], wrt: Mapping[int, Sequence[str]] | Sequence[str] = ("sci",)
) -> Callable[..., tuple[Any, Any]]:
    """Return ``f(*args) -> (value, gradients)`` for a scalar function of Datasets.

    Parameters
    ----------
    function : callable
        Returns a scalar array.
    wrt : sequence of str, or mapping of int to sequence of str
        Variables of the first argument, or of several arguments by position. In an argument that
        is a mapping of Datasets (references) or plans a variable is named ``"flat/sci"``, in
        slits by bucket: ``"0/sci"``, in cubes by name: ``"ch1-short/sci"``. Where there is a plan
        for each of several cubes, they are numbered: ``"extract_1d/0/centre"``.

    Returns
    -------
    callable
        The gradients come as a mapping of variable name to array, or, with a mapping `wrt`, as a
        mapping of argument position to such a mapping.
    """
    import jax

    _register()
    wanted = wrt if isinstance(wrt, Mapping) else {0: tuple(wrt)}

    def wrapper(*args: Any, **kwargs: Any) -> tuple[Any, Any]:
        packed, rest = pack(args), pack(kwargs)
        leaves = {
            i: {name: _leaf(packed[i], name) for name in names} for i, names in wanted.items()
        }

        def scalar(chosen: Any) -> Any:
            put = tuple(_put(p, chosen.get(i, {})) for i, p in enumerate(packed))
            out = function(*unpack(put), **unpack(rest))
            return out.data if hasattr(out, "dims") else out

        value, grads = jax.value_and_grad(scalar)(leaves)
        return value, (grads if isinstance(wrt, Mapping) else grads[0])

    return wrapper


def jvp(
    function: Callable[..., Any], args: Sequence[Any], tangents: Mapping[int, Mapping[str, Any]]
) -> tuple[Any, Any]:
    """Push tangents forward: return ``(function(*args), directional derivative)``.

    `tangents` maps argument position to ``{variable name: array}``; every other variable is held
    fixed. The derivative has the structure of the result (integer variables: zeros of float0).
    """
    import jax

    _register()
    packed = pack(tuple(args))
    primal = {i: {n: _leaf(packed[i], n) for n in names} for i, names in tangents.items()}
    tangent = {
        i: {n: jax.numpy.asarray(t, dtype=primal[i][n].dtype) for n, t in names.items()}
        for i, names in tangents.items()
    }

    def chosen_only(chosen: Any) -> Any:
        put = tuple(_put(p, chosen.get(i, {})) for i, p in enumerate(packed))
        return pack(function(*unpack(put)))

    value, derivative = jax.jvp(chosen_only, (primal,), (tangent,))
    return _attach(unpack(value), _provenance(args)), unpack(derivative)


def vmap(
    function: Callable[..., Any], dim: str = "integration", *, keep: bool | None = None
) -> Callable[..., Any]:
    """Map a function of Datasets over a named dimension.

    Variables that have `dim`, and fields of plans that are declared with it
    (:mod:`spec2fn.plan_base`), are mapped along it wherever it stands among their dims;
    everything else is broadcast.

    The function is traced once. What cannot be traced and differs along `dim`, such as the name
    or the source type of a slit, is carried along; if the function looks at it, elements with the
    same value are mapped together, with a trace for each value.

    Parameters
    ----------
    function : callable
        Of Datasets, plans, arrays, and whatever else; a step, for example.
    dim : str
    keep : bool, optional
        Whether the function sees `dim` with length 1 (otherwise it does not see it). By default
        it does if `dim` is ``slit``: what steps expect is a bucket, here of one slit.

    Returns
    -------
    callable
        Of the same arguments. :class:`~spec2fn.slits.Slits` (with the plans of their buckets) are
        mapped over ``slit`` bucket by bucket. In Datasets that it returns, variables that depend
        on what is mapped have `dim` where the arguments have it among their dims, or else first;
        the others do not have it. Arrays have it first. Spectra of slits are joined along
        ``spectrum``.

    Raises
    ------
    PlanError
        If a field of a plan would have to be mapped and is not declared, or cannot be: it names
        class and field.
    ContractError
        If nothing has `dim`, or its length is not the same everywhere.
    """
    keep = dim == "slit" if keep is None else keep

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        slits = [a for a in (*args, *kwargs.values()) if _is_slits(a)]
        if keep and slits:
            return _by_bucket(wrapper, slits[0], args, kwargs)
        out = _mapped(function, pack((args, kwargs)), dim, keep=keep)
        return _attach(unpack(out), _provenance((*args, *kwargs.values())))

    return wrapper


def lift(
    kernel: Callable[..., Any],
    inputs: Sequence[str],
    outputs: Sequence[str],
    core: Sequence[str] = ("y", "x"),
) -> Callable[..., Any]:
    """Turn an array function of core dimensions into a function of Datasets.

    ``lift(kernel, ("sci", "err"), ("sci", "err"))`` calls ``kernel(sci, err)`` with arrays of
    dims `core`, maps it over every other dimension by name (a Python loop for NumPy data,
    :func:`jax.vmap` for JAX), and returns the Dataset with the outputs replaced.
    """
    core = tuple(core)

    def wrapper(ds: Any, **kwargs: Any) -> Any:
        extra = [d for d in ds[inputs[0]].dims if d not in core]
        arrays = [ds[name].transpose(..., *core).data for name in inputs]
        has = [[d for d in ds[name].dims if d not in core] for name in inputs]
        run: Callable[..., Any] = functools.partial(kernel, **kwargs)
        for dim in reversed(extra):
            run = _map_axis(run, [0 if dim in h else None for h in has])
        out = run(*arrays)
        out = out if isinstance(out, tuple) else (out,)
        return ds.assign({name: ((*extra, *core), o) for name, o in zip(outputs, out, strict=True)})

    return wrapper


def _map_axis(function: Callable[..., Any], axes: list[int | None]) -> Callable[..., Any]:
    def mapped(*arrays: Any) -> Any:
        from spec2fn.kernels.namespace import is_jax

        if any(is_jax(a) for a in arrays):
            import jax

            return jax.vmap(function, in_axes=axes)(*arrays)
        n = next(a.shape[0] for a, ax in zip(arrays, axes, strict=True) if ax == 0)
        results = [
            function(*(a[i] if ax == 0 else a for a, ax in zip(arrays, axes, strict=True)))
            for i in range(n)
        ]
        if isinstance(results[0], tuple):
            return tuple(np.stack(parts) for parts in zip(*results, strict=True))
        return np.stack(results)

    return mapped


def _leaf(packed: Any, path: str) -> Any:
    import jax.numpy as jnp

    head, _, tail = path.partition("/")
    if isinstance(packed, tuple):
        return _leaf(packed[int(head)], tail)
    if not isinstance(packed, Packed):
        return _leaf(packed[head], tail)
    if tail and isinstance(packed.arrays.get(head), Packed):
        return _leaf(packed.arrays[head], tail)
    if path not in packed.arrays:
        msg = f"no numeric variable {path!r} to differentiate; there is {list(packed.arrays)}"
        raise ContractError(msg)
    return jnp.asarray(packed.arrays[path])


def _put(packed: Any, leaves: Mapping[str, Any]) -> Any:
    if not leaves:
        return packed
    if isinstance(packed, tuple):
        each: list[dict[str, Any]] = [{} for _ in packed]
        for path, leaf in leaves.items():
            head, _, tail = path.partition("/")
            each[int(head)][tail] = leaf
        return tuple(_put(p, held) for p, held in zip(packed, each, strict=True))
    out = dict(packed.arrays if isinstance(packed, Packed) else packed)
    for path, leaf in leaves.items():
        head, _, tail = path.partition("/")
        out[head if tail and head in out else path] = (
            _put(out[head], {tail: leaf}) if tail and head in out else leaf
        )
    return Packed(out, packed.template) if isinstance(packed, Packed) else out


def _is_slits(value: Any) -> bool:
    return hasattr(value, "buckets") and not isinstance(value, Plan)


def _by_bucket(function: Callable[..., Any], slits: Any, args: Any, kwargs: Any) -> Any:
    """Call a function with every bucket of slits, and with the plan of each."""

    def part(value: Any, i: int) -> Any:
        if _is_slits(value):
            return value.buckets[i]
        plans = isinstance(value, tuple) and any(isinstance(p, Plan) for p in value)
        return value[i] if plans and len(value) == len(slits.buckets) else value

    out = tuple(
        function(*(part(a, i) for a in args), **{k: part(v, i) for k, v in kwargs.items()})
        for i in range(len(slits.buckets))
    )
    buckets = all("slit" in getattr(o, "sizes", ()) for o in out)
    return type(slits)(out) if buckets else out


class _LabelRead(BaseException):
    def __init__(self, label: _Label) -> None:
        self.label = label


class _Label:
    """Stands, in the trace of one element, for a value that differs from element to element."""

    __slots__ = ("identity", "values")

    def __init__(self, values: Any, *, identity: bool = False) -> None:
        self.values = values
        self.identity = identity  # of an index, whose values are looked up

    def _read(self, *_: Any) -> Any:
        raise _LabelRead(self)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise _LabelRead(self)

    def __eq__(self, other: object) -> bool:
        return True if other is self else bool(self._read())

    def __hash__(self) -> int:
        return id(self) if self.identity else int(self._read())

    __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __add__ = __radd__ = __iter__ = _read
    __bool__ = __str__ = __int__ = __float__ = __index__ = __format__ = _read
    __len__ = __contains__ = _read


class _Along:
    """Arguments of a mapped function as one element sees them, and back."""

    def __init__(self, dim: str, index: Any, *, keep: bool) -> None:
        self.dim = dim
        self.keep = keep
        self.index = index
        self.sizes: dict[int, str] = {}
        self.before: tuple[str, ...] = ()
        self.coordinate: Any = None
        self.labels: list[_Label] = []

    def split(self, value: Any, where: str = "", dims: Dims | None = None) -> tuple[Any, Any]:
        """Return `value` with the template of an element, and the axis to map of each leaf.

        An axis of -1 means that the leaf is broadcast. `where` names a field of a plan, in which
        arrays must be declared.
        """
        if isinstance(value, Packed):
            kind = value.template.value[0]
            if kind == "plan":
                return self._plan(value)
            if kind == "dataset":
                return self._dataset(value)
            return self._items(value, value.arrays, where, dims)
        if isinstance(value, Mapping):
            return self._items(value, value, where, dims)
        if isinstance(value, tuple):
            pairs = [self.split(v, where, dims) for v in value]
            return tuple(p[0] for p in pairs), tuple(p[1] for p in pairs)
        if isinstance(value, _Static):
            return value, value
        return value, self._axis(value, where, dims)

    def _items(self, value: Any, items: Mapping[Any, Any], where: str, dims: Any) -> Any:
        pairs = {k: self.split(v, where, dims) for k, v in items.items()}
        out = tuple({k: p[i] for k, p in pairs.items()} for i in (0, 1))
        if isinstance(value, Packed):
            return tuple(Packed(o, value.template) for o in out)
        return out

    def _axis(self, leaf: Any, where: str, dims: Dims | None) -> int:
        shape = np.shape(leaf)
        if not where or not shape:
            return -1
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
            return axis
        together = [n for n in names if self.dim in n.strip("()").split() and n[0] == "("]
        if together and np.size(leaf):
            self._refuse(where, f"has an axis {together[0]} that runs over all of them")
        return -1

    def _refuse(self, where: str, why: str) -> None:
        msg = (
            f"vmap: {where} {why}, and cannot be mapped along {self.dim!r}; call the function"
            " with all of them at once"
        )
        raise PlanError(msg)

    def _plan(self, packed: Packed) -> tuple[Packed, Packed]:
        _, cls, static = packed.template.value
        arrays, axes, fixed = {}, {}, dict(static)
        for name, value in packed.arrays.items():
            where, dims = f"{cls.__name__}.{name}", cls.declared.get(name)
            if dims is None or dims.kind == "array":
                arrays[name], axes[name] = self.split(value, where, dims)
            elif dims.names != self.dim:
                arrays[name], axes[name] = self.split(value)
            else:
                fixed[name] = self._each(unpack(value), where, dims.kind)
        template = _Static(("plan", cls, fixed))
        return Packed(arrays, template), Packed(axes, template)

    def _each(self, values: tuple[Any, ...], where: str, kind: str) -> Any:
        """What one element has of a tuple along the dim."""
        if kind == "positions":
            if not values:
                return values
            if not self.keep or values != tuple(range(len(values))):
                self._refuse(where, f"holds positions {values}")
            self.sizes.setdefault(len(values), where)
            return (0,)
        self.sizes.setdefault(len(values), where)
        held = np.empty(len(values), dtype=object)
        for i, value in enumerate(values):
            held[i] = value
        one = self._one(held)
        return (one,) if self.keep else one

    def _one(self, values: Any, *, identity: bool = False) -> Any:
        """One value if all are the same, else what stands for them."""
        if self.index is not None and len(self.index) < len(values):
            values = values[self.index]
        first = _key(values[0])
        if all(_key(v) == first for v in values):
            return values[0]
        self.labels.append(_Label(values, identity=identity))
        return self.labels[-1]

    def _dataset(self, packed: Packed) -> tuple[Packed, Packed]:
        _, layout, static, attrs = packed.template.value
        arrays, axes, fixed, new = {}, {}, {}, []
        for name, dims, var_attrs, is_coord in layout:
            data = packed.arrays[name] if name in packed.arrays else static[name]
            axis = dims.index(self.dim) if self.dim in dims else -1
            if axis >= 0:
                self.sizes.setdefault(data.shape[axis], name)
                if axis >= len(self.before):
                    self.before = dims[:axis]
            index = dims == (name,)
            if name in packed.arrays or (axis >= 0 and not index and data.dtype.kind in "iub"):
                arrays[name], axes[name] = data, axis
            elif axis < 0:
                fixed[name] = data
            elif index and not self.keep:
                self.coordinate = self.coordinate or ((name, dims, var_attrs, is_coord), data)
                continue
            else:
                fixed[name] = self._labelled(np.moveaxis(data, axis, 0), axis, identity=index)
            kept = dims if self.keep else tuple(d for d in dims if d != self.dim)
            new.append((name, kept, var_attrs, is_coord))
        template = _Static(("dataset", tuple(new), fixed, attrs))
        return Packed(arrays, template), Packed(axes, template)

    def _labelled(self, values: Any, axis: int, *, identity: bool) -> Any:
        out = np.empty(values.shape[1:], dtype=object)
        for i in np.ndindex(out.shape):
            out[i] = self._one(values[(slice(None), *i)], identity=identity)
        if not any(isinstance(v, _Label) for v in out.flat):
            out = out.astype(values.dtype)
        return np.expand_dims(out, axis) if self.keep else out

    def join(self, parts: list[Any], counts: list[int], order: Any) -> Any:
        """Put the results of groups of elements together.

        Parameters
        ----------
        parts : list
            Of each group, packed; leaves are :class:`_Out`.
        counts : list of int
            Elements of each group.
        order : array of int
            Where each element stands in the groups, one after the other.
        """
        first = parts[0]
        if isinstance(first, Packed):
            if first.template.value[0] == "dataset":
                return self._join_datasets(parts, counts, order)
            if first.template.value[0] == "plan":
                msg = "vmap: a mapped function cannot return a plan; return its arrays"
                raise ContractError(msg)
            items = self.join([p.arrays for p in parts], counts, order)
            return Packed(items, first.template)
        if isinstance(first, Mapping):
            return {k: self.join([p[k] for p in parts], counts, order) for k in first}
        if isinstance(first, tuple):
            return tuple(self.join(list(p), counts, order) for p in zip(*parts, strict=True))
        if isinstance(first, _Out):
            return _together(parts, counts, order)
        if any(isinstance(p.value, _Label) for p in parts):
            held = [_Out(np.array(p.value, dtype=object)) for p in parts]
            return _Static(_together(held, counts, order))
        return first

    def _join_datasets(self, parts: list[Packed], counts: list[int], order: Any) -> Packed:
        _, layout, _, attrs = parts[0].template.value
        dims_of = {name: dims for name, dims, _, _ in layout}
        # what was done to one of them was done
        done = {
            k: v
            for p in parts
            for k, v in p.template.value[3].items()
            if k.startswith("status_") and v == "COMPLETE"
        }
        told = [{k: v for k, v in p.template.value[3].items() if k not in done} for p in parts]
        forms = [
            ({e[0]: _key(e[1:]) for e in p.template.value[1]}, _key(kept))
            for p, kept in zip(parts, told, strict=True)
        ]
        if any(f != forms[0] for f in forms) or any(isinstance(a, _Label) for a in attrs.values()):
            msg = (
                f"vmap: the function returns other variables, units or attributes for some"
                f" {self.dim}s than for others; map these on their own"
            )
            raise ContractError(msg)
        # spectra of slits stand along a dim of their own
        along = dims_of.get(self.dim, (self.dim,))[0] if self.keep else self.dim
        new: list[Any] = []
        arrays: dict[str, Any] = {}
        static: dict[str, Any] = {}
        for name, dims, var_attrs, is_coord in layout:
            held = [p.arrays.get(name) or _Out(p.template.value[2][name]) for p in parts]
            data: Any = held[0].data
            stands = dims
            if along in dims:
                axis = dims.index(along)
                data = _together(held, counts, order)
                xp = array_namespace(data)
                data = xp.moveaxis(data, 0, axis)
                shape = (*data.shape[:axis], -1, *data.shape[axis + 2 :])
                data = data.reshape(shape)
            elif not all(h.same(held[0]) for h in held):
                axis = 1 + max((i for i, d in enumerate(dims) if d in self.before), default=-1)
                data = _together(held, counts, order)
                data = array_namespace(data).moveaxis(data, 0, axis)
                stands = (*dims[:axis], self.dim, *dims[axis:])
            (arrays if name in parts[0].arrays else static)[name] = data
            new.append((name, stands, var_attrs, is_coord))
        if self.coordinate is not None and any(self.dim in entry[1] for entry in new):
            entry, static[self.dim] = self.coordinate
            new.append(entry)
        return Packed(arrays, _Static(("dataset", tuple(new), static, attrs | done)))


_MAPPED, _COMPUTED, _FIXED = -3, -2, -1


@dataclasses.dataclass(frozen=True, eq=False)
class _Out:
    """A leaf that a mapped function returns.

    `origin` is ``_MAPPED`` (along the first axis), ``_COMPUTED`` from what is not mapped,
    ``_FIXED`` if it is no array of JAX, else the number of the leaf among the arguments that it is.
    """

    data: Any
    origin: int = _FIXED

    def same(self, other: _Out) -> bool:
        """Whether both are one value that all elements have in common."""
        if self is other:
            return self.origin != _MAPPED and not self.labelled
        if self.origin != _FIXED:
            return self.origin == other.origin >= 0
        return not self.labelled and _key(self.data) == _key(other.data)

    @property
    def labelled(self) -> bool:
        held = self.data.flat if self.origin == _FIXED else ()
        return any(isinstance(v, _Label) for v in held)


def _together(parts: list[_Out], counts: list[int], order: Any) -> Any:
    """Stack the elements of groups, (n, …), in the order of the arguments."""
    pieces = []
    for part, n in zip(parts, counts, strict=True):
        data = part.data
        if part.origin == _MAPPED:
            pieces.append(data)
        elif part.labelled:
            each = [v.values if isinstance(v, _Label) else [v] * n for v in data.flat]
            pieces.append(np.array(each).T.reshape(n, *data.shape))
        else:
            xp = array_namespace(data)
            pieces.append(xp.broadcast_to(xp.asarray(data)[None], (n, *np.shape(data))))
    if len(pieces) == 1:
        return pieces[0]
    return array_namespace(*pieces).concatenate(pieces)[order]


def _mapped(function: Callable[..., Any], packed: Any, dim: str, *, keep: bool) -> Any:
    """Map a function of packed arguments along a dim."""
    whole = _Along(dim, None, keep=keep)
    whole.split(packed)
    if len(whole.sizes) != 1:
        lengths = ", ".join(f"{n} ({w})" for n, w in whole.sizes.items()) or "none"
        msg = (
            f"vmap: one argument at least must have dimension {dim!r}, all of the same length;"
            f" found {lengths}"
        )
        raise ContractError(msg)
    (n,) = whole.sizes

    def groups(index: Any) -> list[tuple[Any, Any]]:
        along = _Along(dim, index, keep=keep)
        try:
            return [(index, _run(function, *along.split(packed), index, n, keep=keep))]
        except _LabelRead as read:
            if not any(label is read.label for label in along.labels):
                raise  # of a map around this one
            by_value: dict[Any, list[int]] = {}
            for i, value in zip(index, read.label.values, strict=True):
                by_value.setdefault(_key(value), []).append(i)
        return [g for part in by_value.values() for g in groups(np.array(part))]

    found = groups(np.arange(n))
    counts = [len(index) for index, _ in found]
    order = np.argsort(np.concatenate([index for index, _ in found]))
    return whole.join([out for _, out in found], counts, order)


def _run(
    function: Callable[..., Any], element: Any, axes: Any, index: Any, n: int, *, keep: bool
) -> Any:
    """Map a function over some elements with one trace; leaves of the result are :class:`_Out`."""
    import jax
    from jax.extend.core import Literal, jaxpr_as_fun

    leaves, tree = jax.tree_util.tree_flatten(element)
    where = jax.tree_util.tree_leaves(axes)

    def one(*cut: Any) -> Any:
        if keep:
            cut = tuple(
                c if a < 0 else jax.numpy.expand_dims(c, a) for c, a in zip(cut, where, strict=True)
            )
        args, kwargs = unpack(jax.tree_util.tree_unflatten(tree, cut))
        return pack(function(*args, **kwargs))

    if len(index) < n:
        leaves = [
            leaf if a < 0 else array_namespace(leaf).take(leaf, index, axis=a)
            for leaf, a in zip(leaves, where, strict=True)
        ]
    cut = [
        leaf if a < 0 else jax.ShapeDtypeStruct((*leaf.shape[:a], *leaf.shape[a + 1 :]), leaf.dtype)
        for leaf, a in zip(leaves, where, strict=True)
    ]
    traced, shapes = jax.make_jaxpr(one, return_shape=True)(*cut)
    # what depends on a mapped argument is mapped itself
    inner = traced.jaxpr
    mapped = {v for v, a in zip(inner.invars, where, strict=True) if a >= 0}
    for equation in inner.eqns:
        if any(not isinstance(v, Literal) and v in mapped for v in equation.invars):
            mapped.update(equation.outvars)
    number = {v: i for i, v in enumerate(inner.invars)}
    origins = [
        _COMPUTED
        if isinstance(v, Literal)
        else _MAPPED
        if v in mapped
        else number.get(v, _COMPUTED)
        for v in inner.outvars
    ]
    out = jax.vmap(
        jaxpr_as_fun(traced),
        in_axes=[None if a < 0 else a for a in where],
        out_axes=[0 if o == _MAPPED else None for o in origins],
    )(*leaves)
    returned = [_Out(data, origin) for data, origin in zip(out, origins, strict=True)]
    return jax.tree_util.tree_unflatten(jax.tree_util.tree_structure(shapes), returned)

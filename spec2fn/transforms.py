"""JAX transformations that speak Dataset: ``jit``, ``value_and_grad``, ``jvp``, ``vmap``, ``lift``.

Datasets are not registered as pytrees (attributes would vanish from the structure, and a second
library registering the type would collide). They cross into JAX through :func:`pack`: numeric
variables become traced arguments; names, dims, attributes that steps branch on, and variables
that are no numbers become a hashable template; :class:`~spec2fn.schema.Meta` (headers, gwcs)
stays outside, so that a new file name does not cause a new trace and a new ``exp_type`` does.

Functions may take and return Datasets, mappings, tuples, :class:`~spec2fn.plans.base.Plan`
objects, arrays and plain Python values, in any nesting.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from spec2fn.errors import ContractError
from spec2fn.plans.base import Plan
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
        if _is_number(data) and name not in ds.indexes:
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
        if isinstance(packed, _Static) or value is None:
            static[f.name] = value
        else:
            arrays[f.name] = packed
    return Packed(arrays, _Static(("plan", type(plan), static)))


def _unpack_plan(packed: Packed) -> Plan:
    _, cls, static = packed.template.value
    return cls(**{k: unpack(v) for k, v in packed.arrays.items()}, **static)


def _provenance(args: Any) -> Any:
    """The first Dataset (or slits) among the arguments, whose headers the results inherit."""
    stack = list(args)
    while stack:
        value = stack.pop(0)
        if hasattr(value, "data_vars") or getattr(value, "buckets", None):
            return value
        if getattr(value, "cubes", None):
            return value
        if isinstance(value, Mapping):
            stack.extend(value.values())
        elif isinstance(value, (list, tuple)):
            stack.extend(value)
    return None


def _attach(value: Any, source: Any) -> Any:
    if source is None:
        return value
    if hasattr(value, "buckets"):
        sources = getattr(source, "buckets", (source,))
        if len(sources) != len(value.buckets):
            sources = sources[:1] * len(value.buckets)
        pairs = zip(value.buckets, sources, strict=True)
        return type(value)(tuple(_attach(b, s) for b, s in pairs))
    if hasattr(value, "cubes"):
        sources = getattr(source, "cubes", (source,))
        if len(sources) != len(value.cubes):
            sources = sources[:1] * len(value.cubes)
        pairs = zip(value.cubes, sources, strict=True)
        return type(value)(value.names, tuple(_attach(c, s) for c, s in pairs))
    if hasattr(source, "buckets"):
        source = source.buckets[0]
    if hasattr(source, "cubes"):
        source = source.cubes[0]
    if hasattr(value, "data_vars"):
        meta = source.attrs.get("meta")
        if not isinstance(meta, Meta):
            return value
        if any(value.sizes.get(d) != source.sizes.get(d) for d in ("y", "x")):
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


def vmap(function: Callable[..., Any], dim: str = "integration") -> Callable[..., Any]:
    """Map a function of Datasets over a named dimension.

    Variables that have `dim` are mapped along it wherever it stands among their dims, everything
    else is broadcast; results get `dim` as their first dimension.
    """
    import jax

    _register()

    def wrapper(*args: Any) -> Any:
        packed = pack(args)
        sizes = {a.sizes[dim] for a in args if hasattr(a, "sizes") and dim in a.sizes}
        if len(sizes) != 1:
            msg = f"vmap: one argument at least must have dimension {dim!r}; found sizes {sizes}"
            raise ContractError(msg)
        moved, axes = [], []
        for p in packed:
            q, ax = _split_dim(p, dim)
            moved.append(q)
            axes.append(ax)
        flat, tree = jax.tree_util.tree_flatten(tuple(moved))
        flat_axes = [a for ax in axes for a in ax]

        def one(*leaves: Any) -> Any:
            return pack(function(*unpack(jax.tree_util.tree_unflatten(tree, leaves))))

        out = jax.vmap(one, in_axes=flat_axes)(*flat)
        return _attach(unpack(_add_dim(out, dim)), _provenance(args))

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


def _split_dim(packed: Any, dim: str) -> tuple[Any, list[int | None]]:
    """Remove `dim` from the template of a packed argument; return it and the axis of each leaf."""
    import jax

    if isinstance(packed, Packed) and packed.template.value[0] == "dataset":
        _, layout, static, attrs = packed.template.value
        new_layout = []
        dims_of = {name: dims for name, dims, _, _ in layout}
        axes: list[int | None] = [
            dims_of[name].index(dim) if dim in dims_of[name] else None for name in packed.arrays
        ]
        for name, dims, var_attrs, is_coord in layout:
            if name in packed.arrays:
                new_layout.append((name, tuple(d for d in dims if d != dim), var_attrs, is_coord))
            elif dim not in dims:
                new_layout.append((name, dims, var_attrs, is_coord))
        static = {k: v for k, v in static.items() if dim not in dims_of[k]}
        template = _Static(("dataset", tuple(new_layout), static, attrs))
        return Packed(packed.arrays, template), axes
    return packed, [None] * len(jax.tree_util.tree_leaves(packed))


def _add_dim(packed: Any, dim: str) -> Any:
    if isinstance(packed, Packed):
        if packed.template.value[0] != "dataset":
            return packed
        _, layout, static, attrs = packed.template.value
        new = tuple(
            (name, (dim, *dims) if name in packed.arrays else dims, var_attrs, is_coord)
            for name, dims, var_attrs, is_coord in layout
        )
        return Packed(packed.arrays, _Static(("dataset", new, static, attrs)))
    if isinstance(packed, dict):
        return {k: _add_dim(v, dim) for k, v in packed.items()}
    if isinstance(packed, tuple):
        return tuple(_add_dim(v, dim) for v in packed)
    return packed

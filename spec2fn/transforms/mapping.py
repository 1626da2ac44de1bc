"""Mapping a function of Datasets over a named dimension."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import numpy as np

from spec2fn.errors import ContractError
from spec2fn.plan_base import Plan
from spec2fn.slits import Slits
from spec2fn.transforms.elements import COMPUTED, MAPPED, Along, Leaf, Out
from spec2fn.transforms.labels import LabelRead
from spec2fn.transforms.packing import PyTree, content_key, inherit_meta, pack, unpack
from spec2fn.typing import Array, HostArray

if TYPE_CHECKING:
    from jax.extend.core import Jaxpr, Literal, Var

__all__ = ["map_arrays", "vmap"]

_Args = ParamSpec("_Args")
_Result = TypeVar("_Result")


def vmap(
    function: Callable[_Args, _Result], dim: str = "integration", *, keep: bool | None = None
) -> Callable[_Args, _Result]:
    """Map a function of Datasets over a named dimension.

    Variables that have `dim`, and fields of plans that are declared with it
    (:mod:`spec2fn.plan_base`), are mapped along it wherever it stands among their dims. Lists of
    what all slits have are cut into the part of each (:mod:`spec2fn.transforms.lists`).
    Everything else is broadcast.

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
        on what is mapped have `dim` where the arguments have it among their dims, or else first
        (``integration`` after ``slit``); the others do not have it. Arrays have it first. Spectra
        of slits are joined along ``spectrum``.

    Raises
    ------
    PlanError
        If a field of a plan would have to be mapped and is not declared, or cannot be: it names
        class and field.
    ContractError
        If nothing has `dim`, or its length is not the same everywhere.
    """
    keep = dim == "slit" if keep is None else keep

    def wrapper(*args: _Args.args, **kwargs: _Args.kwargs) -> _Result:
        given = (*args, *kwargs.values())
        slits = next((a for a in given if isinstance(a, Slits)), None)
        out: _Result
        if keep and slits is not None:
            out = _by_bucket(wrapper, slits, args, kwargs)
            return out
        out = unpack(_mapped(function, pack((args, kwargs)), dim, keep=keep))
        return inherit_meta(out, given)

    return wrapper


def map_arrays(
    function: Callable[[Mapping[str, Array]], Any],
    arrays: Mapping[str, Array],
    mapped: Collection[str],
    dim: str,
) -> PyTree:
    """Map a function of named arrays over the first axis of some of them.

    Parameters
    ----------
    function : callable
        Returns anything that can be packed, of arrays without that axis.
    arrays : mapping of str to array
    mapped : collection of str
        Names of those that have the axis.
    dim : str
        Its name in the results, where it comes first in what depends on the mapped arrays.

    Returns
    -------
    pytree
        Of :func:`~spec2fn.transforms.packing.pack`.
    """
    leaves = {name: Leaf(data, 0 if name in mapped else -1) for name, data in arrays.items()}
    out = _run(function, ((leaves,), {}), keep=False)
    n = len(arrays[next(iter(mapped))])
    return Along(dim, keep=False).join([out], [np.arange(n)])


def _by_bucket(
    function: Callable[..., Any], slits: Slits, args: tuple[object, ...], kwargs: dict[str, object]
) -> Any:  # noqa: ANN401 - what the function returns
    """Call a function with every bucket of slits, and with the plan of each."""

    def of_bucket(value: object, i: int) -> object:
        if isinstance(value, Slits):
            return value.buckets[i]
        if not isinstance(value, tuple) or not any(isinstance(p, Plan) for p in value):
            return value
        return value[i] if len(value) == len(slits.buckets) else value

    out = tuple(
        function(
            *(of_bucket(a, i) for a in args), **{k: of_bucket(v, i) for k, v in kwargs.items()}
        )
        for i in range(len(slits.buckets))
    )
    return Slits(out) if all("slit" in getattr(o, "sizes", ()) for o in out) else out


def _mapped(function: Callable[..., Any], packed: PyTree, dim: str, *, keep: bool) -> PyTree:
    """Map a function of packed arguments along a dim."""
    whole = Along(dim, keep=keep)
    whole.split(packed)
    if len(whole.sizes) != 1:
        lengths = ", ".join(f"{n} ({w})" for n, w in whole.sizes.items()) or "none"
        msg = (
            f"vmap: one argument at least must have dimension {dim!r}, all of the same length;"
            f" found {lengths}"
        )
        raise ContractError(msg)
    (n,) = whole.sizes

    def by_group(index: HostArray) -> list[tuple[HostArray, PyTree]]:
        along = Along(dim, index, n, keep=keep)
        try:
            return [(index, _run(function, along.split(packed), keep=keep))]
        except LabelRead as read:
            if not any(label is read.label for label in along.labels):
                raise  # of a map around this one
            by_value: dict[Hashable, list[int]] = {}
            for i, value in zip(index, read.label.values, strict=True):
                by_value.setdefault(content_key(value), []).append(i)
        return [group for same in by_value.values() for group in by_group(np.array(same))]

    groups = by_group(np.arange(n))
    return whole.join([out for _, out in groups], [index for index, _ in groups])


def _run(function: Callable[..., Any], element: PyTree, *, keep: bool) -> PyTree:
    """Map a function over elements with one trace.

    Leaves of the argument are :class:`Leaf`, those of the result :class:`Out`.
    """
    import jax
    from jax.extend.core import jaxpr_as_fun

    held, tree = jax.tree_util.tree_flatten(element)

    def one(*cut: jax.Array) -> PyTree:
        args, kwargs = unpack(jax.tree_util.tree_unflatten(tree, cut))
        return pack(function(*args, **kwargs))

    traced, shapes = jax.make_jaxpr(one, return_shape=True)(*(leaf.of_one(keep) for leaf in held))
    axes = [leaf.axis for leaf in held]
    origins = _origins(traced.jaxpr, axes)
    leaves = [leaf.stacked(keep) for leaf in held]
    out = jax.vmap(
        jaxpr_as_fun(traced),
        in_axes=[None if a < 0 else 0 for a in axes],
        out_axes=[0 if o == MAPPED else None for o in origins],
    )(*leaves)
    # what the function passes on stays what it was, also if it cannot be traced
    number = {v: i for i, v in enumerate(traced.jaxpr.invars)}
    passed = (None if hasattr(v, "val") else number.get(v) for v in traced.jaxpr.outvars)
    returned = [
        Out(data if i is None else leaves[i], origin)
        for data, origin, i in zip(out, origins, passed, strict=True)
    ]
    return jax.tree_util.tree_unflatten(jax.tree_util.tree_structure(shapes), returned)


def _origins(traced: Jaxpr, axes: list[int]) -> list[int]:
    """Of each output: MAPPED, COMPUTED, or the number of the input that it is."""
    from jax.extend.core import Literal

    # what depends on a mapped argument is mapped itself
    mapped = {v for v, a in zip(traced.invars, axes, strict=True) if a >= 0}
    for equation in traced.eqns:
        if any(not isinstance(v, Literal) and v in mapped for v in equation.invars):
            mapped.update(equation.outvars)
    number = {v: i for i, v in enumerate(traced.invars)}

    def origin(v: Var | Literal) -> int:
        if isinstance(v, Literal):
            return COMPUTED
        return MAPPED if v in mapped else number.get(v, COMPUTED)

    return [origin(v) for v in traced.outvars]

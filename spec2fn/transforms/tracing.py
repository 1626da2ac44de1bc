"""Compiling and differentiating functions of Datasets."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from spec2fn.errors import ContractError
from spec2fn.transforms.packing import PyTree, inherit_meta, pack, unpack
from spec2fn.typing import Array

if TYPE_CHECKING:
    import jax

__all__ = ["jit", "jvp", "named_leaves", "value_and_grad"]

_Args = ParamSpec("_Args")
_Result = TypeVar("_Result")


def jit(function: Callable[_Args, _Result]) -> Callable[_Args, _Result]:
    """Compile a function of Datasets with :func:`jax.jit`.

    Two calls share a compiled program if their Datasets agree in names, dims, shapes, dtypes and
    mode attributes; headers and file names do not matter.
    """
    import jax

    def packed_function(args: PyTree, kwargs: PyTree) -> PyTree:
        return pack(function(*unpack(args), **unpack(kwargs)))

    compiled = jax.jit(packed_function)

    @functools.wraps(function, updated=())
    def wrapper(*args: _Args.args, **kwargs: _Args.kwargs) -> _Result:
        out: _Result = inherit_meta(
            unpack(compiled(pack(args), pack(kwargs))), (*args, *kwargs.values())
        )
        return out

    return wrapper


def value_and_grad(
    function: Callable[_Args, Any], wrt: Mapping[int, Sequence[str]] | Sequence[str] = ("sci",)
) -> Callable[_Args, tuple[jax.Array, Any]]:
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

    wanted = wrt if isinstance(wrt, Mapping) else {0: tuple(wrt)}

    def wrapper(*args: _Args.args, **kwargs: _Args.kwargs) -> tuple[jax.Array, Any]:
        packed, rest = pack(args), pack(kwargs)

        def scalar(leaves: PyTree) -> Array:
            out = function(*unpack(_put(packed, leaves)), **unpack(rest))
            value: Array = out.data if hasattr(out, "dims") else out
            return value

        value, grads = jax.value_and_grad(scalar)(_leaves(packed, wanted))
        return value, (grads if isinstance(wrt, Mapping) else grads[0])

    return wrapper


def jvp(
    function: Callable[..., _Result],
    args: Sequence[object],
    tangents: Mapping[int, Mapping[str, Array]],
) -> tuple[_Result, _Result]:
    """Push tangents forward: return ``(function(*args), directional derivative)``.

    `tangents` maps argument position to ``{variable name: array}``; every other variable is held
    fixed. The derivative has the structure of the result (integer variables: zeros of float0).
    """
    import jax

    packed = pack(tuple(args))
    primal = _leaves(packed, tangents)
    tangent = {
        i: {n: jax.numpy.asarray(t, dtype=primal[i][n].dtype) for n, t in names.items()}
        for i, names in tangents.items()
    }

    def packed_function(leaves: PyTree) -> PyTree:
        return pack(function(*unpack(_put(packed, leaves))))

    value, derivative = jax.jvp(packed_function, (primal,), (tangent,))
    return inherit_meta(unpack(value), args), unpack(derivative)


def named_leaves(packed: PyTree) -> tuple[dict[str, Array], PyTree]:
    """Return the arrays of packed values by path (``0/sci``), and the structure without them."""
    import jax

    leaves, structure = jax.tree_util.tree_flatten_with_path(packed)
    name = functools.partial(jax.tree_util.keystr, simple=True, separator="/")
    return {name(path): leaf for path, leaf in leaves}, structure


def _leaves(packed: PyTree, wanted: Mapping[int, Iterable[str]]) -> dict[int, dict[str, jax.Array]]:
    """Arrays of the arguments that are wanted, by position and name."""
    import jax.numpy as jnp

    named, _ = named_leaves(packed)
    for i, name in ((i, name) for i, names in wanted.items() for name in names):
        if f"{i}/{name}" not in named:
            held = [n.removeprefix(f"{i}/") for n in named if n.startswith(f"{i}/")]
            msg = f"no numeric variable {name!r} to differentiate; there is {held}"
            raise ContractError(msg)
    return {i: {n: jnp.asarray(named[f"{i}/{n}"]) for n in names} for i, names in wanted.items()}


def _put(packed: PyTree, leaves: Mapping[int, Mapping[str, Array]]) -> PyTree:
    """Return the arguments with other arrays, by position and name."""
    import jax

    named, structure = named_leaves(packed)
    named |= {f"{i}/{name}": leaf for i, new in leaves.items() for name, leaf in new.items()}
    return jax.tree_util.tree_unflatten(structure, named.values())

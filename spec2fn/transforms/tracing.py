"""Compiling and differentiating functions of Datasets."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from spec2fn.errors import ContractError
from spec2fn.transforms.packing import Packed, PyTree, inherit_meta, pack, unpack
from spec2fn.typing import Array

if TYPE_CHECKING:
    import jax

__all__ = ["jit", "jvp", "value_and_grad"]

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


def _leaves(
    packed: PyTree, wanted: Mapping[int, Sequence[str] | Mapping[str, Array]]
) -> dict[int, dict[str, jax.Array]]:
    """Arrays of the arguments by position and name."""
    return {i: {name: _leaf(packed[i], name) for name in names} for i, names in wanted.items()}


def _leaf(packed: PyTree, path: str) -> jax.Array:
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


def _put(packed: PyTree, leaves: Mapping[int, Mapping[str, Array]]) -> PyTree:
    """Return the arguments with other arrays, by position and name."""
    return tuple(_replaced(p, leaves.get(i, {})) for i, p in enumerate(packed))


def _replaced(packed: PyTree, leaves: Mapping[str, Array]) -> PyTree:
    if not leaves:
        return packed
    if isinstance(packed, tuple):
        by_position: dict[int, dict[str, Array]] = {}
        for path, leaf in leaves.items():
            head, _, tail = path.partition("/")
            by_position.setdefault(int(head), {})[tail] = leaf
        return _put(packed, by_position)
    out = dict(packed.arrays if isinstance(packed, Packed) else packed)
    for path, leaf in leaves.items():
        head, _, tail = path.partition("/")
        if tail and head in out:
            out[head] = _replaced(out[head], {tail: leaf})
        else:
            out[path] = leaf
    return Packed(out, packed.template) if isinstance(packed, Packed) else out

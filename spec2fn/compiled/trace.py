"""A function of named arrays, traced once, without what has no influence on its result."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from spec2fn.transforms.packing import PyTree
from spec2fn.typing import Array

if TYPE_CHECKING:
    from jax.extend.core import ClosedJaxpr, Jaxpr

__all__ = ["Traced", "trace"]


@dataclass(frozen=True, eq=False)
class Traced:
    """What :func:`trace` returns.

    Compiling, differentiating and mapping start from its equations: the function itself is not
    called again, which for a pipeline takes longer than JAX does.

    Attributes
    ----------
    paths : tuple of str
        Names of the arrays that the result depends on.
    jaxpr : jax.extend.core.ClosedJaxpr
        Function of these, in this order.
    structure : jax.tree_util.PyTreeDef
        Of the result.
    """

    paths: tuple[str, ...]
    jaxpr: ClosedJaxpr
    structure: Any

    def __call__(self, arrays: Mapping[str, Array]) -> PyTree:
        """Apply the equations to arrays by name; others than those needed are not looked at."""
        import jax
        from jax.extend.core import jaxpr_as_fun

        out = jaxpr_as_fun(self.jaxpr)(*(arrays[path] for path in self.paths))
        return jax.tree_util.tree_unflatten(self.structure, out)

    @functools.cached_property
    def program(self) -> Callable[[Mapping[str, Array]], PyTree]:
        """The compiled function, of exactly the arrays that are needed."""
        import jax

        return jax.jit(self)

    @functools.cached_property
    def equations(self) -> int:
        """Number of equations, with those inside of loops and functions."""
        return _count(self.jaxpr.jaxpr)


def trace(function: Callable[[Mapping[str, Array]], PyTree], arrays: Mapping[str, Any]) -> Traced:
    """Trace a function of named arrays.

    Parameters
    ----------
    function : callable
        Of a mapping of arrays by name; returns a pytree.
    arrays : mapping of str to array
        Only shape and dtype count.
    """
    import jax

    paths = sorted(arrays)  # the order of a mapping that JAX has taken apart
    shapes = {p: jax.ShapeDtypeStruct(arrays[p].shape, arrays[p].dtype) for p in paths}
    closed, out = jax.make_jaxpr(function, return_shape=True)(shapes)
    structure = jax.tree_util.tree_structure(out)
    jaxpr = closed.jaxpr
    needed = {v for v in jaxpr.outvars if not hasattr(v, "val")}
    kept = []
    for equation in reversed(jaxpr.eqns):
        if equation.effects or any(v in needed for v in equation.outvars):
            kept.append(equation)
            needed.update(v for v in equation.invars if not hasattr(v, "val"))
    used = [(p, v) for p, v in zip(paths, jaxpr.invars, strict=True) if v in needed]
    reduced = jaxpr.replace(
        invars=[v for _, v in used],
        eqns=kept[::-1],
        debug_info=jaxpr.debug_info._replace(arg_names=tuple(p for p, _ in used)),
    )
    constants = [(v, c) for v, c in zip(jaxpr.constvars, closed.consts, strict=True) if v in needed]
    reduced = reduced.replace(constvars=[v for v, _ in constants])
    return Traced(
        tuple(p for p, _ in used),
        closed.replace(jaxpr=reduced, consts=[c for _, c in constants]),
        structure,
    )


def _count(jaxpr: Jaxpr) -> int:
    total = 0
    for equation in jaxpr.eqns:
        total += 1
        for value in equation.params.values():
            for one in value if isinstance(value, (tuple, list)) else (value,):
                inner = getattr(one, "jaxpr", one)
                if hasattr(inner, "eqns"):
                    total += _count(inner)
    return total

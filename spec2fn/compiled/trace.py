"""A function of named arrays, traced once, without what has no influence on its result."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
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

    def parted(self, varied: Collection[str], *, finite: bool = False) -> tuple[Traced, Traced]:
        """Part what has to be computed for every value of some arrays from what is the same.

        Parameters
        ----------
        varied : collection of str
            Names of arrays; those the result does not depend on are passed over.
        finite : bool
            Whether all values are finite where those are that the first part is given: what is
            masked is then the same for all.

        Returns
        -------
        fixed, rest : Traced
            The first gives a mapping of arrays by names of its own, which the second takes
            together with those that vary.
        """
        import jax

        jaxpr, known = self.jaxpr.jaxpr, dict(zip(self.paths, self.jaxpr.jaxpr.invars, strict=True))
        moving = {v for path, v in known.items() if path in varied}
        after = []
        for equation in jaxpr.eqns:
            if finite and _is_mask(equation):
                continue
            if equation.effects or any(v in moving for v in _variables(equation.invars)):
                after.append(equation)
                moving.update(equation.outvars)
        used = [v for e in after for v in _variables(e.invars)] + list(_variables(jaxpr.outvars))
        own = set(known.values())
        between = [v for v in dict.fromkeys(used) if v not in moving and v not in own]
        # in the order in which JAX sorts them
        held = {f"@{i:06d}": v for i, v in enumerate(between)}
        names = jax.tree_util.tree_structure(dict.fromkeys(held, 0))
        fixed = Traced(*_part(self.jaxpr, jaxpr.eqns, known, between), names)
        rest = Traced(*_part(self.jaxpr, after, known | held, jaxpr.outvars), self.structure)
        return fixed, rest

    @functools.cached_property
    def program(self) -> Callable[[Mapping[str, Array]], PyTree]:
        """The compiled function, of exactly the arrays that are needed."""
        import jax

        return jax.jit(self)

    @functools.cached_property
    def equations(self) -> int:
        """Number of equations, with those inside of loops and functions."""
        return _count(self.jaxpr.jaxpr)


def _variables(atoms: Iterable[Any]) -> Iterator[Any]:
    return (v for v in atoms if not hasattr(v, "val"))


def _is_mask(equation: Any) -> bool:  # noqa: ANN401 - of JAX
    """Whether an equation asks which elements are finite, or NaN."""
    name, inputs = equation.primitive.name, equation.invars
    return bool(name == "is_finite" or (name == "ne" and inputs[0] is inputs[1]))


def _part(
    closed: ClosedJaxpr, equations: list[Any], given: Mapping[str, Any], outvars: list[Any]
) -> tuple[tuple[str, ...], ClosedJaxpr]:
    """Some of the equations, and of the arguments, as far as some variables depend on them."""
    jaxpr = closed.jaxpr
    needed = set(_variables(outvars))
    kept = []
    for equation in reversed(equations):
        if equation.effects or any(v in needed for v in equation.outvars):
            kept.append(equation)
            needed.update(_variables(equation.invars))
    used = {v: name for name, v in given.items() if v in needed}
    constants = {
        v: c
        for v, c in zip(jaxpr.constvars, closed.consts, strict=True)
        if v in needed and v not in used
    }
    names = tuple(used.values())
    results = tuple(f"result[{i}]" for i in range(len(outvars)))
    part = jaxpr.replace(
        constvars=list(constants),
        invars=list(used),
        outvars=outvars,
        eqns=kept[::-1],
        debug_info=jaxpr.debug_info._replace(arg_names=names, result_paths=results),
    )
    return names, closed.replace(jaxpr=part, consts=list(constants.values()))


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
    given = dict(zip(paths, closed.jaxpr.invars, strict=True))
    return Traced(*_part(closed, closed.jaxpr.eqns, given, closed.jaxpr.outvars), structure)


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

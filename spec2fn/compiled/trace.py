"""A function of named arrays, traced once, without what has no influence on its result.

JAX keeps no programs on disk that ask the host for something (``jax.pure_callback``). A function
that does is compiled as several programs, between which the host is asked.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.kernels.namespace import is_traced
from spec2fn.transforms.packing import PyTree
from spec2fn.typing import Array

if TYPE_CHECKING:
    from jax.extend.core import ClosedJaxpr, Jaxpr

__all__ = ["Traced", "jit", "outside_of_traces", "trace"]


@dataclass(frozen=True, eq=False, repr=False)  # JAX asks for it, and equations are long
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
            together with those that vary. Neither can be parted once more.
        """
        jaxpr, known = self.jaxpr.jaxpr, dict(zip(self.paths, self.jaxpr.jaxpr.invars, strict=True))
        moving = {v for path, v in known.items() if path in varied}
        late = set()
        for equation in jaxpr.eqns:
            if finite and _is_mask(equation):
                continue
            if equation.effects or any(v in moving for v in _variables(equation.invars)):
                late.add(id(equation))
                moving.update(equation.outvars)
        used = dict.fromkeys(v for e in jaxpr.eqns if id(e) in late for v in _variables(e.invars))
        used |= dict.fromkeys(_variables(jaxpr.outvars))
        for equation in reversed(jaxpr.eqns):
            # what is only spread out need not be held: its input is, which is smaller
            if id(equation) not in late and _is_spread(equation) and equation.outvars[0] in used:
                late.add(id(equation))
                moving.update(equation.outvars)
                used |= dict.fromkeys(_variables(equation.invars))
        held = _named((v for v in used if v not in moving and v not in known.values()), "@")
        fixed = self._some([e for e in jaxpr.eqns if not e.effects], known, held)
        after = [e for e in jaxpr.eqns if id(e) in late]
        rest = Traced(*_part(self.jaxpr, after, known | held, jaxpr.outvars), self.structure)
        return fixed, rest

    @functools.cached_property
    def program(self) -> Callable[[Mapping[str, Array]], PyTree]:
        """The compiled function, of exactly the arrays that are needed."""
        import jax

        if not self.asks_host:
            return jax.jit(self)
        stages, last = self.stages()
        needed = set(last.paths)
        programs: list[tuple[Any, ...]] = []
        for part, host in reversed(stages):
            programs.insert(
                0, (part.asked if host else part.program, part.paths, frozenset(needed))
            )
            needed.update(part.paths)

        def in_stages(arrays: Mapping[str, Array]) -> PyTree:
            held = dict(arrays)
            for program, paths, later in programs:
                held |= program({path: held[path] for path in paths})
                held = {path: array for path, array in held.items() if path in later}
            return last(held)

        return in_stages

    def asked(self, arrays: Mapping[str, Array]) -> PyTree:
        """Apply the equations one by one, and wait until that is done.

        A process must not end while the host is still being asked.
        """
        import jax

        return jax.block_until_ready(self(arrays))

    @property
    def asks_host(self) -> bool:
        """Whether something is computed outside of JAX."""
        return any(map(_asks_host, self.jaxpr.jaxpr.eqns))

    def stages(self) -> tuple[list[tuple[Traced, bool]], Traced]:
        """Part what JAX computes from what the host is asked for.

        Returns
        -------
        stages : list of (Traced, bool)
            One after the other, and whether it is for the host. Each gives a mapping of arrays by
            names of its own, which those after it take together with the arguments.
        result : Traced
            Puts the result together, without equations.
        """
        jaxpr = self.jaxpr.jaxpr
        asked: dict[Any, int] = {}  # how often the host has been asked before a variable is known
        groups: dict[tuple[int, bool], list[Any]] = {}
        for equation in jaxpr.eqns:
            host = _asks_host(equation)
            before = max((asked.get(v, 0) for v in _variables(equation.invars)), default=0)
            groups.setdefault((before, host), []).append(equation)
            asked.update(dict.fromkeys(equation.outvars, before + host))
        given, stages = dict(zip(self.paths, jaxpr.invars, strict=True)), []
        order = sorted(groups)
        for i, key in enumerate(order):
            used = {v for k in order[i + 1 :] for e in groups[k] for v in _variables(e.invars)}
            used.update(_variables(jaxpr.outvars))
            made = (v for equation in groups[key] for v in equation.outvars if v in used)
            held = _named(made, f"#{i:03d}-")
            stages.append((self._some(groups[key], given, held), key[1]))
            given |= held
        return stages, Traced(*_part(self.jaxpr, [], given, jaxpr.outvars), self.structure)

    def _some(
        self, equations: list[Any], given: Mapping[str, Any], made: Mapping[str, Any]
    ) -> Traced:
        """What computes some of the variables, by name."""
        import jax

        names = jax.tree_util.tree_structure(dict.fromkeys(made, 0))
        return Traced(*_part(self.jaxpr, equations, given, list(made.values())), names)

    @functools.cached_property
    def equations(self) -> int:
        """Number of equations, with those inside of loops and functions."""
        return _count(self.jaxpr.jaxpr)


def _is_spread(equation: Any) -> bool:  # noqa: ANN401 - of JAX
    """Whether an equation gives elements of something that is smaller, in another shape or type."""
    if equation.primitive.name not in ("broadcast_in_dim", "reshape", "convert_element_type"):
        return False
    sizes = [v.aval.size * v.aval.dtype.itemsize for v in (equation.invars[0], equation.outvars[0])]
    return bool(sizes[0] <= sizes[1])


def _named(variables: Iterable[Any], prefix: str) -> dict[str, Any]:
    """Variables by name, in the order in which JAX sorts them."""
    return {f"{prefix}{i:06d}": v for i, v in enumerate(variables)}


def _asks_host(equation: Any) -> bool:  # noqa: ANN401 - of JAX
    inner = (one for value in equation.params.values() for one in _jaxprs(value))
    name = equation.primitive.name
    return name == "pure_callback" or any(_asks_host(e) for one in inner for e in one.eqns)


def _jaxprs(value: Any) -> Iterator[Jaxpr]:  # noqa: ANN401 - a parameter of an equation
    """Equations inside of an equation."""
    for one in value if isinstance(value, (tuple, list)) else (value,):
        inner = getattr(one, "jaxpr", one)
        if hasattr(inner, "eqns"):
            yield inner


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


def jit(function: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """Compile a function of arrays in pytrees by :func:`jax.jit`; in stages if it asks the host."""
    import jax

    whole = jax.jit(function)
    staged: dict[Any, Callable[[Mapping[str, Array]], PyTree] | None] = {}

    def call(*args: PyTree) -> PyTree:
        leaves, structure = jax.tree_util.tree_flatten(args)
        arrays = _named(leaves, "")
        key = (structure, tuple((np.shape(a), jax.numpy.result_type(a)) for a in leaves))
        if key not in staged:
            traced = whole.trace(*args)
            out = jax.tree_util.tree_structure(traced.out_info)
            one = Traced(tuple(arrays), traced.jaxpr, out)
            staged[key] = one.program if one.asks_host else None
        program = staged[key]
        return whole(*args) if program is None else program(arrays)

    return call


def outside_of_traces(
    function: Callable[[dict[str, Array]], dict[str, Array]], arrays: dict[str, Array]
) -> dict[str, Array]:
    """Apply a function to known arrays, so that the result outlives a trace in which it is made."""
    import jax

    made = function(arrays)
    if any(map(is_traced, made.values())):
        with jax.ensure_compile_time_eval():  # which takes longer to compile
            made = function(arrays)
    return made


def _count(jaxpr: Jaxpr) -> int:
    inner = (one for e in jaxpr.eqns for value in e.params.values() for one in _jaxprs(value))
    return len(jaxpr.eqns) + sum(map(_count, inner))

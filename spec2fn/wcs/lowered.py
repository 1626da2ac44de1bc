"""What an astropy model becomes when it is lowered, and the rules by which that happens.

A rule turns one leaf model (a shift, a polynomial, a rotation …) into a pure function of the
array namespace, its parameters and its coordinates. Compound models are walked here. Rules are
found by the qualified name of a class, so that none of the packages that define transforms needs
to be imported before a WCS of theirs is met.
"""

from __future__ import annotations

import importlib
import operator
from collections.abc import Callable
from dataclasses import dataclass
from dataclasses import replace as _replace
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from spec2fn.errors import UnsupportedModelError
from spec2fn.kernels.namespace import array_namespace
from spec2fn.typing import Array, HostArray, Number

if TYPE_CHECKING:
    from astropy.modeling import Model

__all__ = [
    "Coordinates",
    "Kernel",
    "Lowered",
    "Params",
    "Ruled",
    "Values",
    "chain",
    "formula",
    "identity",
    "lower_model",
    "plain_parameters",
    "register",
]

Coordinates: TypeAlias = tuple[Array, ...]
"""One array for each coordinate; they broadcast against each other."""

Params: TypeAlias = Any
"""Parameters of a model, nested as the model is: tuples and dicts of float64 arrays."""

Kernel: TypeAlias = Callable[..., Coordinates]
"""``kernel(xp, params, *coordinates) -> coordinates``."""

Values: TypeAlias = Any
"""What a model gives: an array, or a tuple of arrays if it has several outputs."""

Ruled: TypeAlias = tuple[Kernel, Params]
"""What a rule makes of a model."""

Rule: TypeAlias = "Callable[[Model], Ruled]"

_RULES: dict[str, Rule] = {}
# modules whose rules most exposures have no use for, by how the names of the classes end
_LATER = {"Dispersion": "spec2fn.wcs.rules_grism"}


@dataclass(frozen=True, eq=False)
class Lowered:
    """A transform as a pure function of its parameters and coordinates.

    Attributes
    ----------
    kernel : callable
        ``kernel(xp, params, *coordinates)``, returning a tuple.
    params : pytree
        Nested tuples and dicts of float64 arrays: the parameters of the models, in the structure
        of the compound model.
    n_inputs, n_outputs : int
    """

    kernel: Kernel
    params: Params
    n_inputs: int
    n_outputs: int

    def function(self, params: Params, *coordinates: Number) -> Values:
        """Evaluate with other parameters: the function to differentiate.

        Parameters
        ----------
        params : pytree
            Of the structure of :attr:`params`; NumPy or JAX arrays.
        *coordinates : array or float
            As many as :attr:`n_inputs`; they broadcast against each other.

        Returns
        -------
        array or tuple of arrays
            JAX arrays if any argument is one, else NumPy arrays, float64.
        """
        if len(coordinates) != self.n_inputs:
            msg = f"the transform takes {self.n_inputs} coordinates, got {len(coordinates)}"
            raise TypeError(msg)
        xp = array_namespace(*coordinates, *_leaves(params))
        out = self.kernel(xp, params, *(xp.asarray(c, dtype=float) for c in coordinates))
        return out[0] if self.n_outputs == 1 else tuple(out)

    def __call__(self, *coordinates: Number) -> Values:
        """Evaluate with the transform's own parameters."""
        return self.function(self.params, *coordinates)

    def with_params(self, params: Params) -> Lowered:
        """Return the same transform with other parameters."""
        return _replace(self, params=params)


def _leaves(tree: Params) -> list[Array]:
    if isinstance(tree, dict):
        return [leaf for value in tree.values() for leaf in _leaves(value)]
    if isinstance(tree, (tuple, list)):
        return [leaf for value in tree for leaf in _leaves(value)]
    return [tree]


def _qualified(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def register(model: str | type) -> Callable[[Rule], Rule]:
    """Register a lowering rule for a model class.

    Parameters
    ----------
    model : type or str
        The class or its qualified name; subclasses without a rule of their own use it as well.

    Examples
    --------
    >>> @register("my_package.models.Cube")                          # doctest: +SKIP
    ... def _cube(model):
    ...     def kernel(xp, params, x):
    ...         return (params["factor"] * x**3,)
    ...     return kernel, {"factor": np.asarray(model.factor.value)}
    """
    name = model if isinstance(model, str) else _qualified(model)

    def decorate(rule: Rule) -> Rule:
        _RULES[name] = rule
        return rule

    return decorate


def formula(model: str) -> Callable[[Kernel], Kernel]:
    """Register a kernel as the rule of a model class whose parameters are all that it needs."""

    def decorate(kernel: Kernel) -> Kernel:
        register(model)(lambda one: (kernel, plain_parameters(one)))
        return kernel

    return decorate


def _rule(name: str) -> Rule | None:
    for end, module in _LATER.items():
        if name not in _RULES and name.endswith(end):
            importlib.import_module(module)
    return _RULES.get(name)


def lower_model(model: Model) -> Lowered:
    """Lower one astropy model; see :func:`spec2fn.wcs.lower.lower`."""
    if hasattr(model, "op") and hasattr(model, "left"):
        return _compound(model)
    for cls in type(model).__mro__:
        rule = _rule(_qualified(cls))
        if rule is not None:
            break
    else:
        msg = (
            f"no lowering rule for {_qualified(type(model))}; add one with"
            " spec2fn.wcs.lower.register, or evaluate with spec2fn.wcs.lower.evaluate_host"
        )
        raise UnsupportedModelError(msg)
    if len(model) != 1:
        msg = f"{_qualified(type(model))} holds {len(model)} parameter sets; lower them one by one"
        raise UnsupportedModelError(msg)
    kernel, params = rule(model)
    return Lowered(kernel, params, model.n_inputs, model.n_outputs)


def plain_parameters(model: Model, names: tuple[str, ...] = ()) -> dict[str, HostArray]:
    """Return parameters of a model as float64 arrays by name (scalars without a dimension).

    Raises
    ------
    UnsupportedModelError
        If one carries a unit: JWST transforms are made of plain numbers.
    """
    out = {}
    for name in names or model.param_names:
        parameter = getattr(model, name)
        if parameter.unit is not None:
            msg = (
                f"parameter {name!r} of {_qualified(type(model))} has unit {parameter.unit};"
                " only models of plain numbers are lowered (Model.without_units_for_data)"
            )
            raise UnsupportedModelError(msg)
        value = np.array(parameter.value, dtype=np.float64)
        out[name] = value.reshape(()) if value.size == 1 else value
    return out


def identity(n: int) -> Lowered:
    """Return the transform that leaves `n` coordinates as they are."""
    return Lowered(lambda _xp, _params, *c: c, {}, n, n)


def chain(first: Lowered, second: Lowered) -> Lowered:
    """Return `second` after `first`; parameters are the pair of theirs."""

    def kernel(xp: ModuleType, params: Params, *c: Array) -> Coordinates:
        return second.kernel(xp, params[1], *first.kernel(xp, params[0], *c))

    return Lowered(kernel, (first.params, second.params), first.n_inputs, second.n_outputs)


_ARITHMETIC: dict[str, Callable[[Array, Array], Array]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "**": operator.pow,
}


def _compound(model: Model) -> Lowered:
    left = lower_model(model.left)
    if model.op == "fix_inputs":
        return _fixed(model, left)
    right = lower_model(model.right)
    if model.op == "|":
        return chain(left, right)
    if model.op == "&":
        n = left.n_inputs

        def kernel(xp: ModuleType, params: Params, *c: Array) -> Coordinates:
            return (*left.kernel(xp, params[0], *c[:n]), *right.kernel(xp, params[1], *c[n:]))

    elif model.op in _ARITHMETIC:
        operate = _ARITHMETIC[model.op]

        def kernel(xp: ModuleType, params: Params, *c: Array) -> Coordinates:
            a = left.kernel(xp, params[0], *c)
            b = right.kernel(xp, params[1], *c)
            return tuple(operate(p, q) for p, q in zip(a, b, strict=True))

    else:
        msg = f"no lowering rule for the model operator {model.op!r}"
        raise UnsupportedModelError(msg)
    return Lowered(kernel, (left.params, right.params), model.n_inputs, model.n_outputs)


def _fixed(model: Model, left: Lowered) -> Lowered:
    # inputs are fixed by name or by position
    names = list(model.left.inputs)
    fixed = {k if isinstance(k, int) else names.index(k): v for k, v in model.right.items()}
    values = {f"input{i}": np.asarray(v, dtype=np.float64) for i, v in fixed.items()}

    def kernel(xp: ModuleType, params: Params, *c: Array) -> Coordinates:
        free = iter(c)
        full = [
            xp.asarray(params[1][f"input{i}"]) if i in fixed else next(free)
            for i in range(left.n_inputs)
        ]
        return left.kernel(xp, params[0], *full)

    return Lowered(kernel, (left.params, values), model.n_inputs, model.n_outputs)

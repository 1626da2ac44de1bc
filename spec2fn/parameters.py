"""Typed, validated step parameters.

The parameters of a step are the keyword-only arguments of its function. Their type hints carry
everything needed to check a value, from Python and from the command line alike::

    kernel_size: Annotated[int, Range(1)] = 15
    algorithm: Literal["mingrad", "fit_profile"] = "mingrad"
    bkg_order: Annotated[int, Range(0)] | None = None
    output_shape: tuple[int, int] | None = None
"""

from __future__ import annotations

import functools
import inspect
import math
import os
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from spec2fn.errors import ContractError, InputError, ParameterError, nearest

__all__ = ["Parameter", "Parameters", "Range", "check_order", "parameters_of", "user_path"]

_NOTHING = inspect.Parameter.empty
_LARGEST_INT = 2**31 - 1


def user_path(path: str | os.PathLike[str]) -> Path:
    """Return a path that a user gave: ``~`` at its start is a home folder, as in a shell.

    Shells do not expand it in ``--override flat=~/flat.fits``, nor does anybody in Python.

    Raises
    ------
    InputError
        If there is no such user.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise InputError(f"{path}: {error}; give the folder in full") from None


@dataclass(frozen=True)
class Range:
    """Bounds of a number, both included (or the lower one not: `above`); None is no bound."""

    minimum: float | None = None
    maximum: float | None = None
    above: bool = False

    def __contains__(self, value: float) -> bool:
        if self.minimum is not None and (
            value < self.minimum or (self.above and value == self.minimum)
        ):
            return False
        return self.maximum is None or value <= self.maximum

    def __str__(self) -> str:
        if self.minimum is None:
            return f"at most {self.maximum}"
        low = f"above {self.minimum}" if self.above else f"at least {self.minimum}"
        if self.maximum is None:
            return low
        if self.above:
            return f"{low}, at most {self.maximum}"
        return f"from {self.minimum} to {self.maximum}"


@dataclass(frozen=True)
class Parameter:
    """One parameter of a step."""

    name: str
    hint: Any
    default: Any

    @property
    def type_name(self) -> str:
        """The type as shown to a user."""
        return _describe(self.hint)

    def coerce(self, value: object, who: str) -> Any:  # noqa: ANN401 - of the type that the hint says
        """Return `value` as the declared type; text (command line, CRDS) is parsed.

        Raises
        ------
        ParameterError
            Naming step and parameter, what was found and what is needed.
        """
        try:
            return _coerce(self.hint, value)
        except (TypeError, ValueError, OverflowError) as error:
            detail = f" ({error})" if str(error) else ""
            msg = f"{who}.{self.name}: needs {self.type_name}, got {value!r}{detail}"
            raise ParameterError(msg) from None


class Parameters(Mapping[str, Any]):
    """The parameters of one call of a step, every one of them, coerced: what a planner gets.

    They are read as attributes: ``params.inverse``.

    Parameters
    ----------
    step : str
        Its name, for messages.
    values : mapping
        By name.

    Raises
    ------
    ParameterError
        When a parameter is read that the step does not have.
    """

    __slots__ = ("_step", "_values")

    def __init__(self, step: str, values: Mapping[str, Any]) -> None:
        object.__setattr__(self, "_step", step)
        object.__setattr__(self, "_values", types.MappingProxyType(dict(values)))

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - of the type that the hint says
        if name.startswith("__"):  # what copy and pickle look for
            raise AttributeError(name)
        if name not in self._values:
            raise unknown_parameter(self._step, name, self._values)
        return self._values[name]

    def __setattr__(self, name: str, value: object) -> None:
        raise ContractError(f"the parameters of {self._step} are frozen: no {name} = {value!r}")

    def __getitem__(self, name: str) -> Any:  # noqa: ANN401 - of the type that the hint says
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Parameters({self._step!r}, {dict(self._values)!r})"


@functools.cache
def parameters_of(
    function: Callable[..., Any], exclude: tuple[str, ...] = ()
) -> Mapping[str, Parameter]:
    """Return the parameters of `function`: its keyword-only arguments but those in `exclude`."""
    found = {
        p.name: p
        for p in inspect.signature(function).parameters.values()
        if p.kind is inspect.Parameter.KEYWORD_ONLY and p.name not in exclude
    }
    # only these hints: those of Datasets name xarray, which steps import for type checkers alone
    written = types.SimpleNamespace(
        __annotations__={n: p.annotation for n, p in found.items() if p.annotation is not _NOTHING}
    )
    names = getattr(inspect.unwrap(function), "__globals__", {})
    hints = typing.get_type_hints(written, globalns=names, include_extras=True)
    return {n: Parameter(n, hints.get(n, Any), p.default) for n, p in found.items()}


def check_order(who: str, values: Mapping[str, Any], pairs: tuple[tuple[str, str], ...]) -> None:
    """Check parameters that are the lower and the upper end of something.

    Parameters
    ----------
    who : str
        The step.
    values : mapping
        Parameters by name; ends that are None are open.
    pairs : tuple of (str, str)
        Names of the lower and the upper end: numbers, or lists of as many numbers. A list that
        is paired with itself has to ascend.

    Raises
    ------
    ParameterError
        Naming both.
    """
    for low, high in pairs:
        first, second = values[low], values[high]
        if low == high:
            first, second = (first or ())[:-1], (second or ())[1:]
        elif isinstance(first or second, tuple):
            first, second = first or (), second or ()
            if len(first) != len(second):
                msg = (
                    f"{who} needs as many {low} as {high}, found {len(first)} and {len(second)};"
                    " give both ends of every region"
                )
                raise ParameterError(msg)
        else:
            first, second = (first,), (second,)
        for a, b in zip(first, second, strict=True):
            if a is not None and b is not None and not a < b:
                what = f"{low}={values[low]} must ascend"
                if low != high:
                    what = f"{low}={a} must be less than {high}={b}"
                msg = f"{who}: {what}"
                raise ParameterError(msg)


def unknown_parameter(step: str, name: str, known: Mapping[str, Any]) -> ParameterError:
    """The error for a parameter that `step` does not have."""
    listed = ", ".join(known) or "none"
    return ParameterError(
        f"{step} has no parameter {name!r}{nearest(name, known)} (its parameters: {listed})"
    )


def _is_union(hint: object) -> bool:
    return get_origin(hint) in (Union, types.UnionType)


def _describe(hint: object) -> str:
    origin = get_origin(hint)
    if origin is Annotated:
        base, *notes = get_args(hint)
        return " ".join([_describe(base), *(str(n) for n in notes if isinstance(n, Range))])
    if origin is Literal:
        return " or ".join(repr(v) for v in get_args(hint))
    if _is_union(hint):
        return " or ".join(_describe(h) for h in get_args(hint))
    if origin is tuple:
        items = get_args(hint)
        if len(items) == 2 and items[1] is Ellipsis:
            return f"list of {_describe(items[0])}"
        return f"({', '.join(_describe(h) for h in items)})"
    if hint is type(None):
        return "none"
    return getattr(hint, "__name__", str(hint))


def _coerce(hint: object, value: Any) -> Any:  # noqa: ANN401, C901 - one case per kind of type
    origin = get_origin(hint)
    text = value.strip().lower() if isinstance(value, str) else None
    if hint is Any or hint is object:
        return value
    if origin is Annotated:
        base, *notes = get_args(hint)
        out = _coerce(base, value)
        for note in notes:
            if isinstance(note, Range) and out not in note:
                raise ValueError(f"out of range, allowed is {note}")
        return out
    if _is_union(hint):
        if (value is None or text == "none") and type(None) in get_args(hint):
            return None
        problem: Exception = ValueError("")
        for option in get_args(hint):
            if option is type(None):
                continue
            try:
                return _coerce(option, value)
            except (TypeError, ValueError, OverflowError) as error:
                problem = error
        raise problem
    if origin is Literal:
        for option in get_args(hint):
            if value == option or text == str(option).lower():
                return option
        raise ValueError
    if origin is tuple:
        return _coerce_tuple(get_args(hint), value)
    if hint is bool:
        if text in ("true", "false"):
            return text == "true"
        if isinstance(value, bool) or (isinstance(value, int) and value in (0, 1)):
            return bool(value)
        raise ValueError
    if hint is int:
        if isinstance(value, bool) or (isinstance(value, float) and value != int(value)):
            raise ValueError
        whole = int(value)
        if abs(whole) > _LARGEST_INT:
            raise ValueError(f"too large, allowed are {_LARGEST_INT} and less")
        return whole
    if hint is float:
        if isinstance(value, bool):
            raise ValueError
        number = float(value)
        if not math.isfinite(number):
            raise ValueError("not a finite number")
        return number
    if hint is str:
        if isinstance(value, str):
            return value
        raise ValueError
    if isinstance(hint, type) and isinstance(value, hint):
        return value
    raise ValueError


def _coerce_tuple(items: tuple[Any, ...], value: object) -> tuple[Any, ...]:
    values = value if isinstance(value, (list, tuple)) else [value]
    if isinstance(value, str):
        values = [v.strip() for v in value.strip().strip("[]()").split(",") if v.strip()]
    if len(items) == 2 and items[1] is Ellipsis:
        return tuple(_coerce(items[0], v) for v in values)
    if len(values) != len(items):
        raise ValueError(f"needs {len(items)} values, got {len(values)}")
    return tuple(_coerce(h, v) for h, v in zip(items, values, strict=True))

"""The base class of plans, and how their fields say along which dims they run.

A field of arrays is declared with :func:`array`, which names its axes::

    class Extraction(Plan):
        weights: Array = array("slit disp cross")
        region: Array | None = array("slit disp cross", default=None)
        names: tuple[str, ...] = labels("slit")
        window: tuple[int, int, int, int]

Names are separated by blanks. ``""`` is a number; ``4`` is an axis of that length, ``_`` one of
any length; ``[integration]`` may be missing; ``...`` stands for any axes (that nothing is mapped
along); ``(slit pixel)`` is one axis that runs over several dims at once. An arrow says what values
refer to, so that lists can be cut into those of each slit (:mod:`spec2fn.transforms.lists`). A
tuple or mapping of arrays has the dims of each. A dim has the same length in all fields of a plan.
What describes the exposure (a gwcs, headers) is declared with :func:`outside`.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, dataclass_transform

from spec2fn.errors import PlanError

__all__ = ["Dims", "Plan", "array", "labels", "outside", "positions"]


class Dims(NamedTuple):
    """What a field declares: the kind of its values, and the names of their axes."""

    kind: str
    names: str
    padding: object = None

    @functools.cache  # noqa: B019 - there are few
    def of(self, ndim: int) -> tuple[str, ...] | None:
        """Return the name of each axis of an array of `ndim` axes; None if it has others."""
        found = re.findall(r"\([^)]*\)|\S+", self.names.partition(" -> ")[0])
        if "..." in found:
            more = ndim - len(found) + 1
            i = found.index("...")
            return None if more < 0 else (*found[:i], *["_"] * more, *found[i + 1 :])
        needed = [n for n in found if n[0] != "["]
        if ndim == len(needed):
            return tuple(needed)
        return tuple(n.strip("[]") for n in found) if ndim == len(found) else None


def array(dims: str, *, default: object = dataclasses.MISSING, padding: object = None) -> Any:  # noqa: ANN401 - takes the type of the field
    """Declare a field of arrays, with the dims of their axes (see :mod:`spec2fn.plan_base`).

    With a `default` it may be left out; a list of weights has a `padding` of 0.
    """
    return field(default=default, metadata={"dims": Dims("array", dims, padding)})


def labels(dim: str, *, default: object = dataclasses.MISSING) -> Any:  # noqa: ANN401 - takes the type of the field
    """Declare a tuple that holds something else than an array for each position along `dim`."""
    return field(default=default, metadata={"dims": Dims("labels", dim)})


def positions(dim: str, *, default: object = dataclasses.MISSING) -> Any:  # noqa: ANN401 - takes the type of the field
    """Declare a tuple of positions along `dim`, such as the slits that a plan is for."""
    return field(default=default, metadata={"dims": Dims("positions", dim)})


def outside(*, default: object = dataclasses.MISSING) -> Any:  # noqa: ANN401 - takes the type of the field
    """Declare a field that never enters a trace, such as a gwcs: it is None there."""
    return field(default=default, metadata={"dims": Dims("outside", "")})


@dataclass_transform(
    frozen_default=True,
    eq_default=False,
    field_specifiers=(array, labels, outside, positions, field),
)
class Plan:
    """What a two-phase step computes on the host before its kernels run.

    Subclasses are frozen dataclasses without a decorator. Fields of arrays are declared with
    :func:`array` and traced; every other field must be hashable and is static.

    Raises
    ------
    PlanError
        When a plan is made whose arrays have other dims than declared, or a dim of two lengths.
    """

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]
    declared: ClassVar[Mapping[str, Dims]] = {}

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        own = {n: f for n, f in vars(cls).items() if isinstance(f, dataclasses.Field)}
        dims = {n: f.metadata["dims"] for n, f in own.items() if "dims" in f.metadata}
        cls.declared = {**cls.declared, **dims}
        dataclass(frozen=True, eq=False)(cls)
        # a decorator besides, which would set them again, does no harm
        del cls.__setattr__, cls.__delattr__

    def __setattr__(self, name: str, value: object) -> None:
        msg = f"{type(self).__name__} is frozen: make another with dataclasses.replace"
        raise dataclasses.FrozenInstanceError(msg)

    def __delattr__(self, name: str) -> None:
        self.__setattr__(name, None)

    def __post_init__(self) -> None:
        sizes: dict[str, int] = {}
        for name, dims in self.declared.items():
            value = getattr(self, name)
            if dims.kind == "labels":
                if value is not None:
                    self._check(name, dims, (len(value),), sizes)
            elif dims.kind == "array":
                self._measure(name, dims, value, sizes)

    def _measure(self, name: str, dims: Dims, value: object, sizes: dict[str, int]) -> None:
        if isinstance(value, (tuple, list, Mapping)):
            for one in value.values() if isinstance(value, Mapping) else value:
                self._measure(name, dims, one, sizes)
        elif value is not None:
            self._check(name, dims, getattr(value, "shape", ()), sizes)

    def _check(self, name: str, dims: Dims, shape: tuple[int, ...], sizes: dict[str, int]) -> None:
        axes = dims.of(len(shape))
        why = "it has another number of axes" if axes is None else ""
        for axis, length in zip(axes or (), shape, strict=False):
            known = int(axis) if axis.isdigit() else sizes.setdefault(axis, length)
            if known != length and axis != "_":
                why = why or f"the length of {axis!r} is {known}"
        if not why:
            return
        msg = (
            f"{type(self).__name__}.{name} needs dims ({dims.names}), found shape {tuple(shape)}:"
            f" {why}; make all arrays of a plan for the same exposure, or declare other dims"
        )
        raise PlanError(msg)

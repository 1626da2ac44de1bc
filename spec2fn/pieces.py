"""What travels through a pipeline: one Dataset, or several that belong together.

:class:`~spec2fn.slits.Slits` and :class:`~spec2fn.cubes.Cubes` are :class:`Pieces`; what asks
nothing but their Datasets takes :func:`pieces_of` anything.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeAlias, TypeVar, Union, cast

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Exposure", "Pieces", "freeze", "pieces_of", "variables_of"]

_T = TypeVar("_T")


class Pieces(ABC):
    """An immutable collection of Datasets with the attributes of one exposure."""

    of_slits: ClassVar[bool] = False
    """Whether they are slits, which some steps want all at once."""

    @property
    @abstractmethod
    def pieces(self) -> tuple[xr.Dataset, ...]:
        """The Datasets."""

    @abstractmethod
    def with_pieces(self, pieces: tuple[xr.Dataset, ...]) -> Self:
        """Return such a collection of other Datasets, as many and in the same order."""

    @property
    def attrs(self) -> Mapping[str, Any]:
        """Attributes of the exposure (empty without Datasets)."""
        return self.pieces[0].attrs if self.pieces else {}

    def map(self, function: Callable[[xr.Dataset], xr.Dataset]) -> Self:
        """Apply a function to every Dataset."""
        return self.with_pieces(tuple(map(function, self.pieces)))

    def assign_attrs(self, attrs: Mapping[str, Any] | None = None, **more: object) -> Self:
        """Return the collection with attributes set on every Dataset."""
        return self.map(lambda ds: ds.assign_attrs({**(attrs or {}), **more}))


Exposure: TypeAlias = Union["xr.Dataset", Pieces]
"""What a step takes and returns."""


def pieces_of(value: object) -> tuple[xr.Dataset, ...]:
    """Return the Datasets that make up an exposure; nothing else has any."""
    if isinstance(value, Pieces):
        return value.pieces
    return (cast("xr.Dataset", value),) if hasattr(value, "data_vars") else ()


def variables_of(value: object) -> Iterator[xr.Variable]:
    """Iterate over the variables of all Datasets of an exposure."""
    for ds in pieces_of(value):
        yield from ds.variables.values()


def freeze(after: _T, before: object) -> _T:
    """Make read-only what was made of an exposure (not what was taken): buffers are shared."""
    kept = {id(v._data) for v in variables_of(before)}  # noqa: SLF001 - `.data` loads lazy data
    for var in variables_of(after):
        data = var._data  # noqa: SLF001
        if hasattr(data, "setflags") and id(data) not in kept:
            data.setflags(write=False)
    return after

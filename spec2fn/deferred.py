"""What is made when somebody needs it: a gwcs, and the array of a variable."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from spec2fn.typing import Array, HostArray, Number

if TYPE_CHECKING:
    from gwcs import WCS
    from xarray import Variable

__all__ = ["DeferredWcs", "Key", "as_deferred", "deferred_array"]

Key: TypeAlias = tuple[Any, ...]
"""Integers and slices, one for each axis."""


class DeferredWcs:
    """Stands for a gwcs until it is used: called, or asked for an attribute.

    Putting the gwcs of thirty slices together takes longer than to evaluate them, and many
    exposures (backgrounds, imprints) are never asked for theirs. Neither is that of most slits:
    where the gwcs of many slits differ in numbers only, they are written without being made.

    Parameters
    ----------
    make : callable
        Returns the gwcs, from `numbers` if there are any.
    numbers : sequence of float, int and array of shape (n,)
        Distinct numbers, all of which stand in the gwcs as they are; arrays are strictly
        monotonic, and may also stand there in reverse order.
    kind : hashable, optional
        Two gwcs of one kind differ in nothing but their numbers.
    """

    def __init__(
        self, make: Callable[..., Any], numbers: tuple[Any, ...] = (), kind: Hashable | None = None
    ) -> None:
        self._make = make
        self.numbers = numbers
        self.kind = kind
        self._wcs: Any = None

    def marked(self) -> tuple[Any, tuple[Any, ...]]:
        """Return a gwcs of the same kind in which every number is unique, and these numbers."""
        marks = tuple(_marked(n, k + 1) for k, n in enumerate(self.numbers))
        return self._make(*marks), marks

    def load(self) -> WCS:
        """Return the gwcs itself."""
        if self._wcs is None:
            self._wcs = self._make(*self.numbers)
        return self._wcs

    def __call__(self, *args: Number, **kwargs: bool) -> Array | tuple[Array, ...]:
        """Evaluate the gwcs."""
        return self.load()(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever a gwcs has
        if name.startswith("__") or name in ("_make", "numbers", "kind", "_wcs"):
            raise AttributeError(name)
        return getattr(self.load(), name)

    def __repr__(self) -> str:
        return "<gwcs, not put together yet>" if self._wcs is None else repr(self._wcs)


def as_deferred(wcs: Mapping[Any, Any], key: Hashable) -> DeferredWcs | WCS | None:
    """Return an element of a mapping of gwcs, unmade if the mapping can tell what it would be.

    Parameters
    ----------
    wcs : mapping of any key to gwcs.WCS
        With a method ``deferred`` of a key, or any other.
    key : hashable

    Returns
    -------
    DeferredWcs, gwcs.WCS or None
        None if there is no such element.
    """
    if key in wcs and hasattr(wcs, "deferred"):
        return wcs.deferred(key)
    return wcs.get(key)


def _marked(number: HostArray | float, k: int) -> HostArray | float:
    # in the order and of the size of the number itself, lest what is made of it be refused
    if isinstance(number, np.ndarray):
        return number + number.dtype.type(100_003 * k if number.dtype.kind == "i" else k * 1.37e-5)
    if isinstance(number, int):
        return number + 100_003 * k
    return number + k * 1.3871234e-5


@functools.cache
def _backend() -> type:
    """Make the array class; its base needs xarray, which is loaded on use only."""
    from xarray.backends import BackendArray
    from xarray.core import indexing

    class DeferredArray(BackendArray):
        def __init__(
            self, shape: tuple[int, ...], dtype: np.dtype[Any], read: Callable[[Key], HostArray]
        ) -> None:
            self.shape = shape
            self.dtype = dtype
            self.read = read

        def __getitem__(self, key: indexing.ExplicitIndexer) -> HostArray:
            part: HostArray = indexing.explicit_indexing_adapter(
                key, self.shape, indexing.IndexingSupport.BASIC, self.read
            )
            return part

    return DeferredArray


def deferred_array(
    dims: tuple[str, ...],
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    read: Callable[[Key], HostArray],
    attrs: Mapping[str, Any] | None = None,
    *,
    writable: bool = True,
) -> Variable:
    """Return a variable whose elements are read when they are used; all of them are then kept.

    Parameters
    ----------
    dims, shape, dtype
        Of the variable.
    read : callable
        Returns the part that a key selects.
    attrs : mapping, optional
    writable : bool
        Whether elements can be replaced, which makes a copy of the array.
    """
    from xarray import Variable
    from xarray.core import indexing

    array: Any = indexing.LazilyIndexedArray(_backend()(shape, dtype, read))
    if writable:
        array = indexing.CopyOnWriteArray(array)
    return Variable(dims, indexing.MemoryCachedArray(array), attrs)

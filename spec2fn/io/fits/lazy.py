"""Arrays of a FITS file that are read when they are looked at."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.io.fits.fitsfile import FitsFile, Hdu

if TYPE_CHECKING:
    from xarray import Variable

__all__ = ["lazy_stack", "lazy_variable"]


@functools.cache
def _backend() -> type:
    """Make the array class; its base needs xarray, which is loaded on use only."""
    from xarray.backends import BackendArray
    from xarray.core import indexing

    class LazyPlane(BackendArray):
        """One image of a FITS file, read by slices of its first axis."""

        def __init__(self, file: FitsFile, hdu: Hdu, dtype: Any) -> None:
            self.file = file
            self.hdu = hdu
            self.dtype = np.dtype(hdu.dtype if dtype is None else dtype)
            self.shape = hdu.shape

        def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
            return indexing.explicit_indexing_adapter(
                key, self.shape, indexing.IndexingSupport.BASIC, self._read
            )

        def _read(self, key: tuple[Any, ...]) -> Any:
            first, rest = key[0], key[1:]
            if isinstance(first, slice):
                backwards = None if first.step in (None, 1) else first.step
                data = self.file.array(self.hdu, _ascending(first, self.shape[0]))
                part = data[(slice(None, None, backwards), *rest)]
            else:
                index = range(self.shape[0])[first]
                part = self.file.array(self.hdu, slice(index, index + 1))[(0, *rest)]
            # a small window must not keep the buffer of whole rows alive
            whole = isinstance(part, np.ndarray) and part.flags.c_contiguous
            return part.astype(self.dtype, copy=not whole)

    return LazyPlane


@functools.cache
def _stack_backend() -> type:
    from xarray.backends import BackendArray
    from xarray.core import indexing

    class LazyStack(BackendArray):
        """Images of different sizes as one padded array, of which only some are read."""

        def __init__(
            self, file: FitsFile, hdus: tuple[Hdu | None, ...], shape: tuple[int, ...], fill: Any
        ) -> None:
            self.file = file
            self.hdus = hdus
            self.shape = (len(hdus), *shape)
            self.fill = fill
            self.dtype = np.dtype(fill.dtype)

        def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
            return indexing.explicit_indexing_adapter(
                key, self.shape, indexing.IndexingSupport.BASIC, self._read
            )

        def _read(self, key: tuple[Any, ...]) -> Any:
            if not isinstance(key[0], slice):
                return self._one(self.hdus[int(key[0])], key[1:])
            parts = [self._one(hdu, key[1:]) for hdu in self.hdus[key[0]]]
            if parts:
                return np.stack(parts)
            return np.empty(self.shape, self.dtype)[(slice(0), *key[1:])]

        def _one(self, hdu: Hdu | None, key: tuple[Any, ...]) -> Any:
            out = np.full(self.shape[1:], self.fill)
            if hdu is not None:
                out[tuple(slice(n) for n in hdu.shape)] = self.file.array(hdu)
            return out[key]

    return LazyStack


def lazy_stack(
    dims: tuple[str, ...],
    file: FitsFile,
    hdus: tuple[Hdu | None, ...],
    shape: tuple[int, ...],
    *,
    fill: Any,
    attrs: dict[str, Any] | None = None,
) -> Variable:
    """Return a variable on ``slit`` and `dims` of images, padded at their upper ends.

    Parameters
    ----------
    dims : tuple of str
        Dimensions of an image.
    file : FitsFile
    hdus : tuple of Hdu or None
        None for a slit that has no such image.
    shape : tuple of int
        Shape that the images are padded to.
    fill : numpy scalar
        Value of the padding; its type is the type of the variable.
    attrs : dict, optional

    Returns
    -------
    xarray.Variable
    """
    from xarray import Variable
    from xarray.core import indexing

    lazy: Any = indexing.LazilyIndexedArray(_stack_backend()(file, hdus, shape, fill))
    cached = indexing.MemoryCachedArray(indexing.CopyOnWriteArray(lazy))
    return Variable(("slit", *dims), cached, attrs)


def _ascending(rows: slice, length: int) -> slice:
    if rows.step in (None, 1):
        return rows
    hit = range(length)[rows]
    return slice(min(hit, default=0), max(hit, default=-1) + 1)


def lazy_variable(
    dims: tuple[str, ...],
    file: FitsFile,
    hdu: Hdu,
    dtype: Any = None,
    attrs: dict[str, Any] | None = None,
) -> Variable:
    """Return a variable on `dims` that reads (and then keeps) the image of `hdu` when used.

    Parameters
    ----------
    dims : tuple of str
    file : FitsFile
    hdu : Hdu
    dtype : numpy dtype, optional
        Convert to this type after reading.
    attrs : dict, optional

    Returns
    -------
    xarray.Variable
    """
    from xarray import Variable
    from xarray.core import indexing

    lazy: Any = indexing.LazilyIndexedArray(_backend()(file, hdu, dtype))
    return Variable(dims, indexing.MemoryCachedArray(indexing.CopyOnWriteArray(lazy)), attrs)

"""Arrays of a FITS file that are read when they are looked at."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.io.fitsfile import FitsFile, Hdu

if TYPE_CHECKING:
    from xarray import Variable

__all__ = ["lazy_variable"]


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

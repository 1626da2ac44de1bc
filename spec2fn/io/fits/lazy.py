"""Images of a FITS file that are read when they are looked at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.deferred import Key, deferred_array
from spec2fn.io.fits.fitsfile import FitsFile, Hdu
from spec2fn.typing import HostArray

if TYPE_CHECKING:
    from xarray import Variable

__all__ = ["lazy_columns", "lazy_stack", "lazy_variable"]


def lazy_variable(
    dims: tuple[str, ...],
    file: FitsFile,
    hdu: Hdu,
    dtype: str | None = None,
    attrs: Mapping[str, Any] | None = None,
) -> Variable:
    """Return a variable on `dims` that reads (and then keeps) the image of `hdu` when used."""
    shape = hdu.shape
    kind = np.dtype(hdu.dtype if dtype is None else dtype)

    def read(key: Key) -> HostArray:
        first, rest = key[0], key[1:]
        if isinstance(first, slice):
            part = file.array(hdu, first)[(slice(None), *rest)]
        else:
            index = range(shape[0])[first]
            part = file.array(hdu, slice(index, index + 1))[(0, *rest)]
        # a small window must not keep the buffer of whole rows alive
        whole = isinstance(part, np.ndarray) and part.flags.c_contiguous
        return part.astype(kind, copy=not whole)

    return deferred_array(dims, shape, kind, read, attrs)


def lazy_stack(
    dims: tuple[str, ...],
    file: FitsFile,
    hdus: tuple[Hdu | None, ...],
    shape: tuple[int, ...],
    *,
    fill: np.generic,
    attrs: Mapping[str, Any] | None = None,
) -> Variable:
    """Return a variable on ``slit`` and `dims` of images, padded at their upper ends to `shape`.

    The type of `fill`, the padding, is that of the variable; None stands for a slit without image.
    """

    def image(hdu: Hdu | None, key: Key) -> HostArray:
        out = np.full(shape, fill)
        if hdu is not None:
            out[tuple(slice(n) for n in hdu.shape)] = file.array(hdu)
        return np.asarray(out[key])

    def read(key: Key) -> HostArray:
        if not isinstance(key[0], slice):
            return image(hdus[int(key[0])], key[1:])
        parts = [image(hdu, key[1:]) for hdu in hdus[key[0]]]
        if parts:
            return np.stack(parts)
        return np.empty((len(hdus), *shape), fill.dtype)[(slice(0), *key[1:])]

    return deferred_array(("slit", *dims), (len(hdus), *shape), fill.dtype, read, attrs)


def lazy_columns(
    file: FitsFile,
    hdus: list[Hdu],
    column: str,
    shape: tuple[int, int, int],
    *,
    fill: np.generic,
    attrs: Mapping[str, Any] | None = None,
) -> Variable:
    """Return a variable (integration, spectrum, wave) that a table for each spectrum holds.

    Rows of the tables are integrations; shorter spectra are padded with `fill`, whose type is that
    of the variable. Those of thousands of integrations take gigabytes.
    """

    def read(key: Key) -> HostArray:
        first, rest = key[0], key[1:]
        rows = first if isinstance(first, slice) else slice(*_one(range(shape[0])[first]))
        parts = [file.column(hdu, column, rows) for hdu in hdus]
        out = np.full((len(parts[0]), *shape[1:]), fill)
        for k, part in enumerate(parts):
            out[:, k, : part.shape[1]] = part
        return np.asarray(out[(slice(None) if isinstance(first, slice) else 0, *rest)])

    return deferred_array(("integration", "spectrum", "wave"), shape, fill.dtype, read, attrs)


def _one(index: int) -> tuple[int, int]:
    return index, index + 1

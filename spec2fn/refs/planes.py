"""Large planes of reference files that stay in the file.

The slits of an exposure need a few percent of the planes of a detector. A plane of this module is
a variable like any other, which is read when its data are asked for; positions can also be taken
from the file directly (see :func:`spec2fn.plans.flux.tables.take`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.errors import ReferenceError

if TYPE_CHECKING:
    from xarray import Variable

__all__ = ["LARGE", "plane_in_file"]

LARGE = 8 * 2**20
"""Size above which a plane stays in its file [bytes]."""

_STORED = {16: ">i2", 32: ">i4", -32: ">f4", -64: ">f8"}
_UNSIGNED = {16: 2**15, 32: 2**31}


@functools.cache
def _backend() -> type:
    """Make the array class; its base needs xarray, which is loaded on use only."""
    from xarray.backends import BackendArray
    from xarray.core import indexing

    class PlaneInFile(BackendArray):
        """An image extension, mapped into memory while something is read from it."""

        def __init__(self, path: Path, hdu: Any, shape: tuple[int, ...], *, flags: bool) -> None:
            self.path = path
            self.start = hdu.fileinfo()["datLoc"]
            self.stored = np.dtype(_STORED[int(hdu.header["BITPIX"])])
            self.shape = shape
            self.zero = int(hdu.header.get("BZERO", 0))
            self.translate: Callable[[Any], Any] | None = None
            self.dtype = np.dtype(np.uint32) if flags else self.stored.newbyteorder("=")
            self.flags = flags
            self.version = _version(path)
            self._has_numbers: bool | None = None

        def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
            return indexing.explicit_indexing_adapter(
                key, self.shape, indexing.IndexingSupport.BASIC, self._read
            )

        def _read(self, key: tuple[Any, ...]) -> Any:
            found = np.asarray(self._converted(self._mapped()[key]))
            found.setflags(write=False)
            return found

        def take(self, positions: Any) -> Any:
            """Return the elements at these positions of the flattened plane."""
            return self._converted(self._mapped().reshape(-1)[positions])

        def has_numbers(self) -> bool:
            """Return whether any element is finite; looked up once, most often in one row."""
            if self._has_numbers is None:
                flat = self._mapped().reshape(-1)
                middle = flat[flat.size // 2 :][: self.shape[-1]]
                self._has_numbers = any(
                    bool(np.isfinite(part).any()) for part in (middle, flat[:: 2**12], flat)
                )
            return self._has_numbers

        def _converted(self, data: Any) -> Any:
            if not self.flags:
                return _native(data)
            flags = _flags(data, self.zero)
            return flags if self.translate is None else self.translate(flags)

        def _mapped(self) -> Any:
            if _version(self.path) != self.version:
                msg = f"reference {self.path} has changed while it was in use; start again"
                raise ReferenceError(msg)
            mapped = np.memmap(self.path, self.stored, "r", self.start, self.shape)
            return mapped.view(np.ndarray)

    return PlaneInFile


def _version(path: Path) -> tuple[int, int]:
    try:
        stat = path.stat()
    except OSError as error:
        msg = f"reference {path} cannot be read any more ({error.strerror}); restore it"
        raise ReferenceError(msg) from None
    return stat.st_mtime_ns, stat.st_size


def _native(data: Any) -> Any:
    return np.array(data, dtype=data.dtype.newbyteorder("="))


def _flags(data: Any, zero: int) -> Any:
    flags = _native(data)
    unsigned = flags.view(f"u{flags.dtype.itemsize}")
    return (unsigned ^ unsigned.dtype.type(zero) if zero else unsigned).astype(
        np.uint32, copy=False
    )


def plane_in_file(
    path: Path, hdu: Any, dims: tuple[str, ...], *, flags: bool = False
) -> Variable | None:
    """Return an image extension as a variable that is read when it is used.

    Parameters
    ----------
    path : path
    hdu : astropy.io.fits.ImageHDU
        Whose data have not been read yet.
    dims : tuple of str
    flags : bool
        Whether the plane holds flags, which become uint32.

    Returns
    -------
    xarray.Variable or None
        None if the extension is small, scaled or compressed, and should be read at once.
        ``encoding["plane"]`` holds the plane: its method ``take`` reads single elements, and its
        attribute ``translate`` is a function that flags go through when they are read.
    """
    from xarray import Variable
    from xarray.core import indexing

    header = hdu.header
    bits, zero = int(header["BITPIX"]), header.get("BZERO", 0)
    size = abs(bits) // 8 * int(np.prod(hdu.shape, dtype=np.int64)) if hdu.shape else 0
    scaled = header.get("BSCALE", 1) != 1 or "BLANK" in header
    scaled |= zero not in ((0, _UNSIGNED.get(bits)) if flags else (0,))
    is_image = str(header.get("XTENSION", "")).strip() == "IMAGE"
    if size < LARGE or scaled or not is_image or bits not in (_UNSIGNED if flags else _STORED):
        return None
    plane = _backend()(path, hdu, hdu.shape, flags=flags)
    lazy: Any = indexing.LazilyIndexedArray(plane)
    variable = Variable(dims, indexing.MemoryCachedArray(lazy))
    variable.encoding["plane"] = plane
    return variable

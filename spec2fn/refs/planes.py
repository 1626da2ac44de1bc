"""Large planes of reference files that stay in the file.

The slits of an exposure need a few percent of the planes of a detector. A plane of this module is
a variable like any other, which is read when its data are asked for; positions can also be taken
from the file directly (see :func:`spec2fn.plans.flux.tables.take`).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.deferred import Key, deferred_array
from spec2fn.errors import ReferenceError
from spec2fn.typing import HostArray

if TYPE_CHECKING:
    from astropy.io.fits import ImageHDU
    from xarray import Variable

__all__ = ["LARGE", "PlaneInFile", "plane_in_file"]

LARGE = 8 * 2**20
"""Size above which a plane stays in its file [bytes]."""

_STORED = {16: ">i2", 32: ">i4", -32: ">f4", -64: ">f8"}
_UNSIGNED = {16: 2**15, 32: 2**31}


class PlaneInFile:
    """An image extension, mapped into memory while something is read from it.

    Attributes
    ----------
    translate : callable, optional
        Function that flags go through when they are read; its first result counts.
    """

    def __init__(self, path: Path, hdu: ImageHDU, *, flags: bool) -> None:
        self.path = path
        self.start = hdu.fileinfo()["datLoc"]
        self.stored = np.dtype(_STORED[int(hdu.header["BITPIX"])])
        self.shape: tuple[int, ...] = hdu.shape
        self.zero = int(hdu.header.get("BZERO", 0))
        self.translate: Callable[[HostArray], tuple[HostArray, Any]] | None = None
        self.dtype = np.dtype(np.uint32) if flags else self.stored.newbyteorder("=")
        self.flags = flags
        self.version = _version(path)
        self._has_numbers: bool | None = None

    def read(self, key: Key) -> HostArray:
        """Return a part as a read-only array."""
        part = np.asarray(self._converted(self._mapped()[key]))
        part.setflags(write=False)
        return part

    def take(self, positions: HostArray) -> HostArray:
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

    def _converted(self, data: HostArray) -> HostArray:
        native = np.array(data, dtype=data.dtype.newbyteorder("="))
        if not self.flags:
            return native
        unsigned = native.view(f"u{native.dtype.itemsize}")
        if self.zero:
            unsigned = unsigned ^ unsigned.dtype.type(self.zero)
        flags = unsigned.astype(np.uint32, copy=False)
        return flags if self.translate is None else self.translate(flags)[0]

    def _mapped(self) -> HostArray:
        if _version(self.path) != self.version:
            msg = f"reference {self.path} has changed while it was in use; start again"
            raise ReferenceError(msg)
        mapped = np.memmap(self.path, self.stored, "r", self.start, self.shape)
        return mapped.view(np.ndarray)


def _version(path: Path) -> tuple[int, int]:
    try:
        stat = path.stat()
    except OSError as error:
        msg = f"reference {path} cannot be read any more ({error.strerror}); restore it"
        raise ReferenceError(msg) from None
    return stat.st_mtime_ns, stat.st_size


def plane_in_file(
    path: Path, hdu: ImageHDU, dims: tuple[str, ...], *, flags: bool = False
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
        ``encoding["plane"]`` holds the :class:`PlaneInFile`.
    """
    header = hdu.header
    bits, zero = int(header["BITPIX"]), header.get("BZERO", 0)
    size = abs(bits) // 8 * int(np.prod(hdu.shape, dtype=np.int64)) if hdu.shape else 0
    scaled = header.get("BSCALE", 1) != 1 or "BLANK" in header
    scaled |= zero not in ((0, _UNSIGNED.get(bits)) if flags else (0,))
    is_image = str(header.get("XTENSION", "")).strip() == "IMAGE"
    if size < LARGE or scaled or not is_image or bits not in (_UNSIGNED if flags else _STORED):
        return None
    plane = PlaneInFile(path, hdu, flags=flags)
    variable = deferred_array(dims, plane.shape, plane.dtype, plane.read, writable=False)
    variable.encoding["plane"] = plane
    return variable

"""Checksums of references, by which a run can be told from another."""

from __future__ import annotations

import functools
import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from spec2fn.errors import ReferenceError

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["data_sha256", "file_sha256"]


def file_sha256(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file as hex; computed once for a file that does not change."""
    where = Path(path)
    try:
        stat = where.stat()
        return _file_sha256(str(where.resolve()), stat.st_mtime_ns, stat.st_size)
    except OSError as error:
        msg = f"reference file {where} cannot be read ({error.strerror}); fetch it again"
        raise ReferenceError(msg) from None


@functools.lru_cache(maxsize=1024)
def _file_sha256(path: str, mtime: int, size: int) -> str:  # noqa: ARG001 - they key the cache
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def data_sha256(value: xr.Dataset) -> str:
    """SHA-256 of the variables of a Dataset as hex."""
    import numpy as np

    digest = hashlib.sha256()
    for name, var in sorted(value.variables.items(), key=lambda item: str(item[0])):
        array = np.ascontiguousarray(var.values)
        digest.update(f"{name} {array.dtype.str} {array.shape} ".encode())
        digest.update(str(array.tolist()).encode() if array.dtype.kind in "OU" else array.tobytes())
    return digest.hexdigest()

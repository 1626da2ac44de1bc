"""Files that appear under their name only when they are complete."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from spec2fn.errors import InputError
from spec2fn.parameters import user_path

__all__ = ["PendingFile", "replacing", "unwritable"]


def unwritable(path: str | os.PathLike[str], err: OSError) -> InputError:
    """Return the error that says why `path` could not be written."""
    why = (err.strerror or str(err)).splitlines()[0].split("(file write failed")[0].strip()
    return InputError(f"{path}: cannot be written ({why}); nothing is left half-written")


class PendingFile:
    """A file written under a temporary name beside its final one.

    :meth:`commit` flushes it to disk and gives it its name; until then, or after :meth:`discard`,
    nothing exists (or an older file still exists) under the final name.

    Parameters
    ----------
    path : path
        Final name; the folder must exist.

    Raises
    ------
    InputError
        If the folder does not exist or cannot be written to.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = user_path(path)
        self.temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.{id(self):x}.part")
        if self.path.is_dir():
            raise InputError(f"{self.path}: is a folder; give the name of a file")
        try:
            self.fd = os.open(self.temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        except OSError as err:
            raise unwritable(self.path, err) from err
        self.open = True

    def write(self, data: bytes | memoryview, at: int) -> None:
        """Write `data` at offset `at`."""
        view = memoryview(data).cast("B")
        while view:
            n = os.pwrite(self.fd, view, at)
            view, at = view[n:], at + n

    @contextlib.contextmanager
    def flushing(self) -> Iterator[None]:
        """Bring to disk what has been written so far, while the block computes what comes next."""
        with ThreadPoolExecutor(1, thread_name_prefix="spec2fn") as pool:
            done = pool.submit(os.fsync, self.fd)
            yield
            done.result()

    def reserve(self, size: int) -> None:
        """Raise OSError unless there is room for `size` bytes."""
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(self.fd, 0, size)
            os.ftruncate(self.fd, 0)
        elif shutil.disk_usage(self.path.parent).free < size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def commit(self) -> None:
        """Flush to disk and take the final name; whoever sees this fail has to discard."""
        if self.open:
            os.fsync(self.fd)
            os.close(self.fd)
            self.open = False
            self.temporary.replace(self.path)

    def discard(self) -> None:
        """Remove what has been written."""
        if self.open:
            self.open = False
            with contextlib.suppress(OSError):
                os.close(self.fd)
        self.temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str], size: int) -> Iterator[Path]:
    """Give a temporary name for a library to write to; rename it to `path` on success.

    Parameters
    ----------
    path : path
    size : int
        Bytes the file may take; room for them is made sure of first, since HDF5 does not survive
        a full disk.

    Raises
    ------
    InputError
        Naming `path`, for any OSError inside.
    """
    pending = PendingFile(path)
    try:
        pending.reserve(size)
        yield pending.temporary
        pending.commit()
    except BaseException as error:
        pending.discard()
        if isinstance(error, OSError):
            raise unwritable(pending.path, error) from error
        raise

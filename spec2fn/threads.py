"""Work on large arrays shared among the processors of the machine."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from spec2fn.errors import ParameterError

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController

__all__ = ["in_threads", "one_blas_thread", "thread_count"]

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

_VARIABLE = "SPEC2FN_THREADS"


def thread_count() -> int:
    """Return how many threads to use: ``SPEC2FN_THREADS``, or the processors of this process.

    Raises
    ------
    ParameterError
        If the environment variable is not a positive whole number.
    """
    given = os.environ.get(_VARIABLE, "").strip()
    if not given:
        available = getattr(os, "sched_getaffinity", None)
        return len(available(0)) if available else os.cpu_count() or 1
    if not given.isdecimal() or int(given) < 1:
        msg = f"environment variable {_VARIABLE}: needs a number of threads, got {given!r}"
        raise ParameterError(msg)
    return int(given)


def in_threads(
    function: Callable[[_Item], _Result], items: Iterable[_Item], count: int | None = None
) -> list[_Result]:
    """Apply a function to items, each in a thread; NumPy lets them run side by side.

    Parameters
    ----------
    function : callable
        Should spend its time in operations on arrays of more than some ten thousand elements.
    items : iterable
    count : int, optional
        Threads; default :func:`thread_count`.

    Returns
    -------
    list
        Results in the order of the items, whatever the number of threads.
    """
    listed = list(items)
    count = min(count or thread_count(), len(listed))
    if count <= 1:
        return [function(item) for item in listed]
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(count, thread_name_prefix="spec2fn") as pool:
        return list(pool.map(function, listed))


_BLAS_LOCK = threading.Lock()
_BLAS_LIMITS: list[Any] = []
_BLAS_USERS = [0]


@contextlib.contextmanager
def one_blas_thread() -> Iterator[None]:
    """Keep BLAS and LAPACK to one thread, in the whole process, while any thread is inside.

    Steps solve thousands of small systems: the threads of OpenBLAS, as many as processors, wait
    for each other much longer than they work (residual fringes of an exposure: 70 s instead of 5
    on two processors). Large arrays are shared among processors by :func:`in_threads`.
    """
    with _BLAS_LOCK:
        _BLAS_USERS[0] += 1
        # once more inside: a library that has been loaded meanwhile is limited too
        _BLAS_LIMITS.append(_blas("scipy.linalg" in sys.modules).limit(limits=1, user_api="blas"))
    try:
        yield
    finally:
        with _BLAS_LOCK:
            _BLAS_USERS[0] -= 1
            while not _BLAS_USERS[0] and _BLAS_LIMITS:
                _BLAS_LIMITS.pop().restore_original_limits()


@functools.cache
def _blas(scipy: bool) -> ThreadpoolController:  # noqa: ARG001 - SciPy brings a library of its own
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()

"""Work on large arrays shared among the processors of the machine."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from spec2fn.errors import ParameterError

__all__ = ["in_threads", "thread_count"]

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
    with ThreadPoolExecutor(count, thread_name_prefix="spec2fn") as pool:
        return list(pool.map(function, listed))

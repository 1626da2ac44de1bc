"""Reading what references hold: values that are there, numbers, finite, and in range.

A reference is made by people, too: what it lacks, or holds instead of a number, is said in one
line with the name of the file and of the entry.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from spec2fn.errors import ReferenceError

__all__ = ["number", "numbers", "truth"]


def number(
    value: object, where: str, *, low: float = -np.inf, high: float = np.inf, whole: bool = False
) -> float:
    """Return a number of a reference.

    Parameters
    ----------
    value : object
    where : str
        Step, file and entry, for the message.
    low, high : float
        Limits, inclusive.
    whole : bool
        Whether it must have no fraction.

    Raises
    ------
    ReferenceError
        If it is no finite number within the limits; text is none.
    """
    if (
        isinstance(value, (int, float, np.integer, np.floating))
        and not isinstance(value, bool)
        and low <= value <= high  # which NaN is not
        and np.isfinite(value)
        and not (whole and value != int(value))
    ):
        return float(value)
    kind = "a whole number" if whole else "a finite number"
    limits = f", {low:g} or more" if np.isfinite(low) else ""
    limits += f", at most {high:g}" if np.isfinite(high) else ""
    msg = f"{where} is {value!r}, needs {kind}{limits}; correct the file or use another"
    raise ReferenceError(msg)


def numbers(value: object, where: str, ndim: int | None = None) -> np.ndarray[Any, Any]:
    """Return an array of finite numbers of a reference, as float64.

    Parameters
    ----------
    value : array-like
    where : str
        Step, file and entry, for the message.
    ndim : int, optional
        Number of dimensions it must have.

    Raises
    ------
    ReferenceError
        If it is none, or not all are finite.
    """
    try:
        found = np.asarray(value)
    except ValueError:
        found = np.asarray(None)  # rows of different length
    problem = ""
    if found.dtype.kind not in "iuf":
        problem = "is not an array of numbers"
    elif not found.size:
        problem = "is empty"
    elif ndim is not None and found.ndim != ndim:
        problem = f"has {found.ndim} dimensions, needs {ndim}"
    elif not np.isfinite(found).all():
        problem = f"has {int((~np.isfinite(found)).sum())} of {found.size} numbers not finite"
    if problem:
        msg = f"{where} {problem}; correct the file or use another"
        raise ReferenceError(msg)
    return found.astype(np.float64)


def truth(value: object, where: str) -> bool:
    """Return a truth value of a reference; None is False.

    Raises
    ------
    ReferenceError
        If it is neither true nor false (or 0, 1); text is not.
    """
    if value not in (None, True, False) or isinstance(value, float):
        msg = f"{where} is {value!r}, needs true or false; correct the file or use another"
        raise ReferenceError(msg)
    return bool(value)

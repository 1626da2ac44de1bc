"""What a step did to an exposure: its status, told from the values before and after."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.dq import PIXEL
from spec2fn.errors import ReferenceError
from spec2fn.kernels.namespace import is_traced
from spec2fn.pieces import Exposure, pieces_of, variables_of
from spec2fn.schema import described, has_value

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["blank_pieces", "blank_status", "check_references", "common_status"]

_BLANK_PIECES: ContextVar[bool] = ContextVar("_BLANK_PIECES", default=False)


@contextlib.contextmanager
def blank_pieces() -> Iterator[None]:
    """Let steps be COMPLETE inside that leave no value: they get pieces of a longer exposure."""
    token = _BLANK_PIECES.set(True)
    try:
        yield
    finally:
        _BLANK_PIECES.reset(token)


def common_status(outcomes: Sequence[tuple[str, tuple[str, ...]]]) -> str:
    """Return what a step did to an exposure, from what it did to its pieces.

    The `outcomes` of each are the status, and why slits were left alone (empty for others).
    """
    complete = [idle for status, idle in outcomes if status == "COMPLETE"]
    if not all(idle and all(idle) for idle in complete):
        return "COMPLETE"
    if complete:
        count = Counter(why for idle in complete for why in idle)
        listed = (f"{why} ({n} slits)" if n > 1 else why for why, n in count.items())
        return f"SKIPPED: no slit is corrected: {'; '.join(listed)}"
    statuses = list(dict(outcomes)) or ["SKIPPED: there are no slits"]
    first, *others = [s for s in statuses if s.startswith("FAILED")] or statuses
    return "; ".join([first, *(s.partition(": ")[2] for s in others)])


def blank_status(before: object, after: object, problems: Sequence[object]) -> str:
    """Return the status of a step after which nothing has a value, or nothing.

    The `problems` of its plan are texts about slits that have none.
    """
    name = next((n for n in ("flux", "sci") if n in getattr(after, "variables", ())), "")
    # lazy data stay lazy: who has not read them has not changed them
    held = (getattr(ds, "variables", {}) for ds in (after, before))
    new, old = (getattr(variables.get(name), "_data", None) for variables in held)
    if new is None or not hasattr(new, "__array__") or new is old or is_traced(new):
        return ""
    if has_value(new) or not new.size or _BLANK_PIECES.get():
        return ""
    if hasattr(old, "__array__") and not has_value(old):
        return "SKIPPED: no pixel of the exposure has a value"
    what = "element of the spectrum" if name == "flux" else "pixel"
    reasons = dict.fromkeys(p for p in problems if p and isinstance(p, str))
    return "; ".join([f"FAILED: no {what} has a value after it", *reasons])


def check_references(
    who: str, before: Exposure, after: Exposure, references: Sequence[Any]
) -> None:
    """Raise :class:`ReferenceError` if they left nothing of an image or cube that had values.

    Slits may be lost one by one, and say so themselves.
    """
    used = [r for r in references if r is not None]
    if not used or _BLANK_PIECES.get() or any("slit" in p.dims for p in pieces_of(before)):
        return
    kept = {id(v._data) for v in variables_of(before)}  # noqa: SLF001 - `.data` loads lazy data
    for name in ("sci", "wavelength", "flux"):
        # what was blank before is not the fault of these references
        if not _valueless(after, name, kept) or _valueless(before, name):
            continue
        if not any(map(_good_somewhere, pieces_of(before))):
            return
        listed = " or ".join(map(described, used))
        msg = f"{who}: no {name!r} is left with a value; {listed} does not fit: use another"
        raise ReferenceError(msg)


def _valueless(exposure: Exposure, name: str, known: Collection[int] = ()) -> bool:
    """Whether a variable is there, with other data than `known`, and without a finite number."""
    changed = [p.variables[name] for p in pieces_of(exposure) if name in p.variables]
    changed = [v for v in changed if id(v._data) not in known]  # noqa: SLF001
    if not changed or any(is_traced(v.data) or v.dtype.kind != "f" for v in changed):
        return False
    return not any(has_value(v.data) for v in changed)


def _good_somewhere(ds: xr.Dataset) -> bool:
    """Whether any pixel is finite and not flagged as bad."""
    if "sci" not in ds or "dq" not in ds:
        return False
    good = (ds["dq"].values & PIXEL["DO_NOT_USE"]) == 0
    return bool((np.isfinite(ds["sci"].values) & good).any())

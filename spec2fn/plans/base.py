"""The base class of plans."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Plan"]


@dataclass(frozen=True, eq=False)
class Plan:
    """What a two-phase step computes on the host before its kernels run.

    Subclasses are frozen dataclasses. Fields that hold arrays are traced by
    :mod:`spec2fn.transforms`; every other field must be hashable and is static.
    """

"""The steps of the library, found by name."""

from __future__ import annotations

import functools
from collections.abc import Mapping

from spec2fn.engine.step import Step

__all__ = ["registered_steps", "steps_of_library"]


def steps_of_library(name: str) -> tuple[Step[...], ...]:
    """Return the steps of the library with this name: several if modes differ in what it does."""
    return tuple(s for s in registered_steps().values() if s.name == name)


@functools.cache
def registered_steps() -> Mapping[str, Step[...]]:
    """Every step of the library by the name of its function (imports all of them)."""
    import importlib
    import pkgutil

    import spec2fn.steps

    names = sorted(module.name for module in pkgutil.iter_modules(spec2fn.steps.__path__))
    return {n: getattr(importlib.import_module(f"spec2fn.steps.{n}"), n) for n in names}

"""Reference files: selection by CRDS, overrides, lock files, and reading them into Datasets.

Importing this package imports neither crds, asdf, astropy nor xarray.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spec2fn.refs.cache import CacheEntry, cache_environment, use_cache, write_cache
    from spec2fn.refs.lock import Lock, read_lock, write_lock
    from spec2fn.refs.pars import (
        ParameterFile,
        ParameterReferences,
        parameter_files,
        parameter_references,
    )
    from spec2fn.refs.plugins import light_asdf
    from spec2fn.refs.reference import LazyReference, clear_cache, coerce_reference, open_reference
    from spec2fn.refs.resolution import References, references
    from spec2fn.refs.selection import MissingReferencesError, resolve_context, select

__all__ = [
    "CacheEntry", "LazyReference", "Lock", "MissingReferencesError", "ParameterFile",
    "ParameterReferences", "References", "cache_environment", "clear_cache", "coerce_reference",
    "light_asdf", "open_reference", "parameter_files", "parameter_references", "read_lock",
    "references", "resolve_context", "select", "use_cache", "write_cache", "write_lock",
]  # fmt: skip
_HOMES = ("reference", "resolution", "selection", "cache", "lock", "pars", "plugins")


def __getattr__(name: str) -> object:
    for home in _HOMES if name in __all__ else ():
        module = import_module(f"{__name__}.{home}")
        if name in module.__all__:
            return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

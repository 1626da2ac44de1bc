"""Reference files: selection by CRDS, overrides, lock files, and reading them into Datasets.

Importing this package imports neither crds, asdf, astropy nor xarray.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spec2fn.refs.cache import CacheEntry as CacheEntry
    from spec2fn.refs.cache import cache_environment as cache_environment
    from spec2fn.refs.cache import use_cache as use_cache
    from spec2fn.refs.cache import write_cache as write_cache
    from spec2fn.refs.lock import Lock as Lock
    from spec2fn.refs.lock import read_lock as read_lock
    from spec2fn.refs.lock import write_lock as write_lock
    from spec2fn.refs.pars import ParameterReferences as ParameterReferences
    from spec2fn.refs.pars import parameter_references as parameter_references
    from spec2fn.refs.plugins import light_asdf as light_asdf
    from spec2fn.refs.reference import LazyReference as LazyReference
    from spec2fn.refs.reference import clear_cache as clear_cache
    from spec2fn.refs.reference import coerce_reference as coerce_reference
    from spec2fn.refs.reference import open_reference as open_reference
    from spec2fn.refs.resolution import References as References
    from spec2fn.refs.resolution import references as references
    from spec2fn.refs.selection import MissingReferencesError as MissingReferencesError
    from spec2fn.refs.selection import resolve_context as resolve_context
    from spec2fn.refs.selection import select as select

_HOMES = {
    "CacheEntry": "cache",
    "LazyReference": "reference",
    "Lock": "lock",
    "MissingReferencesError": "selection",
    "ParameterReferences": "pars",
    "References": "resolution",
    "cache_environment": "cache",
    "clear_cache": "reference",
    "coerce_reference": "reference",
    "light_asdf": "plugins",
    "open_reference": "reference",
    "parameter_references": "pars",
    "read_lock": "lock",
    "references": "resolution",
    "resolve_context": "selection",
    "select": "selection",
    "use_cache": "cache",
    "write_cache": "cache",
    "write_lock": "lock",
}

__all__ = sorted(_HOMES)  # noqa: PLE0605 - the names are those of _HOMES, kept in one place


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)

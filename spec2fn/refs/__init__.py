"""Reference files: selection by CRDS, overrides, lock files, and reading them into Datasets.

Importing this package imports neither crds, asdf, astropy nor xarray.
"""

from spec2fn.refs.cache import CacheEntry, cache_environment, use_cache, write_cache
from spec2fn.refs.lock import Lock, read_lock, write_lock
from spec2fn.refs.pars import ParameterReferences, parameter_references
from spec2fn.refs.plugins import light_asdf
from spec2fn.refs.reference import LazyReference, clear_cache, coerce_reference, open_reference
from spec2fn.refs.resolution import References, references
from spec2fn.refs.selection import MissingReferencesError, resolve_context, select

__all__ = [
    "CacheEntry",
    "LazyReference",
    "Lock",
    "MissingReferencesError",
    "ParameterReferences",
    "References",
    "cache_environment",
    "clear_cache",
    "coerce_reference",
    "light_asdf",
    "open_reference",
    "parameter_references",
    "read_lock",
    "references",
    "resolve_context",
    "select",
    "use_cache",
    "write_cache",
    "write_lock",
]

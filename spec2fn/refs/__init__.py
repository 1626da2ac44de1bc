"""Reference files: selection by CRDS, overrides, lock files, and reading them into Datasets.

Importing this package imports neither crds, asdf, astropy nor xarray.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__all__ = [
    "LazyReference",
    "clear_cache",
    "coerce_reference",
    "open_reference",
]

_HOMES = {
    "LazyReference": "reference",
    "clear_cache": "reference",
    "coerce_reference": "reference",
    "open_reference": "reference",
}

if TYPE_CHECKING:
    from spec2fn.refs.reference import (
        LazyReference,
        clear_cache,
        coerce_reference,
        open_reference,
    )


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)

"""Files in and out: exposures, associations, products, netCDF, comparison of products.

Importing this package is light; the FITS, ASDF, netCDF and xarray machinery is loaded on use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spec2fn.io.exposures import SPECTROSCOPIC as SPECTROSCOPIC
    from spec2fn.io.exposures import open_exposure as open_exposure

_HOME = {
    "SPECTROSCOPIC": "exposures",
    "open_exposure": "exposures",
}

__all__ = sorted(_HOME)  # noqa: PLE0605 - the names are those of _HOME, kept in one place


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"spec2fn.io.{_HOME[name]}"), name)
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})

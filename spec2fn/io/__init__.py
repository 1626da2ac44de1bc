"""Files in and out: exposures, associations, products, netCDF, comparison of products.

Importing this package is light; the FITS, ASDF, netCDF and xarray machinery is loaded on use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spec2fn.io.associations import Association as Association
    from spec2fn.io.associations import is_association as is_association
    from spec2fn.io.associations import open_association as open_association
    from spec2fn.io.associations import open_observation as open_observation
    from spec2fn.io.associations import products_of as products_of
    from spec2fn.io.diff import Report as Report
    from spec2fn.io.diff import diff as diff
    from spec2fn.io.fits.products import ProductStream as ProductStream
    from spec2fn.io.fits.products import save as save
    from spec2fn.io.fits.products import write_product as write_product
    from spec2fn.io.naming import base_name as base_name
    from spec2fn.io.naming import product_name as product_name
    from spec2fn.io.naming import product_name_of_cube as product_name_of_cube
    from spec2fn.io.netcdf import read_netcdf as read_netcdf
    from spec2fn.io.netcdf import write_netcdf as write_netcdf
    from spec2fn.io.open import open_exposure as open_exposure
    from spec2fn.io.open import open_product as open_product
    from spec2fn.io.open import read_product as read_product
    from spec2fn.io.pixel_tables import save_pixel_table as save_pixel_table

_HOME = {
    name: module
    for module, names in {
        "associations": "Association is_association open_association open_observation products_of",
        "diff": "Report diff",
        "fits.products": "ProductStream save write_product",
        "naming": "base_name product_name product_name_of_cube",
        "netcdf": "read_netcdf write_netcdf",
        "open": "open_exposure open_product read_product",
        "pixel_tables": "save_pixel_table",
    }.items()
    for name in names.split()
}

__all__ = sorted(_HOME)  # noqa: PLE0605 - the names are those of _HOME, kept in one place


def __getattr__(name: str) -> object:
    if name in _HOME:
        found = getattr(importlib.import_module(f"spec2fn.io.{_HOME[name]}"), name)
        # importing spec2fn.io.diff binds the module to the name of its function
        globals()[name] = found
        return found
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})

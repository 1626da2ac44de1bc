"""Products of the fit of overlapping orders: models of the traces, and the wavelength grid.

The layout is that of the JWST data models SossExtractModel and SossWaveGridModel.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from spec2fn.io.fits.extents import Extent, big_endian, plane_extent
from spec2fn.io.fits.headers import encode_header, image_cards
from spec2fn.typing import HostArray

if TYPE_CHECKING:
    import xarray as xr
    from astropy.io.fits import Card

__all__ = ["WAVE_GRID", "holds_models", "model_extents"]

WAVE_GRID = "wavegrid"
"""Variable: wavelengths of the fit [um]."""

_ORDERS = (1, 2, 3)
_PLANES: Mapping[str, str] = {
    **{f"order{o}": f"ORDER{o}" for o in _ORDERS},
    **{f"aperture{o}": f"APER{o}" for o in _ORDERS},
}


def holds_models(ds: xr.Dataset) -> str:
    """Return the first variable of such a product, or an empty string for others."""
    return next((name for name in (*_PLANES, WAVE_GRID) if name in ds), "")


def model_extents(ds: xr.Dataset, integrations: int | None) -> list[Extent]:
    """Lay out the extensions of a product.

    Parameters
    ----------
    ds : xarray.Dataset
        ``order1``, … and ``aperture1``, … (integration, y, x), or :data:`WAVE_GRID` (wave).
    integrations : int, optional
        Of the whole product.
    """
    if WAVE_GRID in ds:
        return [_grid(ds)]
    return [_plane(ds, name, hdu, integrations) for name, hdu in _PLANES.items() if name in ds]


def _plane(ds: xr.Dataset, name: str, hdu: str, integrations: int | None) -> Extent:
    var = ds.variables[name]

    def header(stored: str, shape: tuple[int, ...]) -> list[Card]:
        return image_cards(hdu, stored, shape)

    def values(part: xr.Dataset, rows: slice) -> HostArray:
        return np.asarray(part.variables[name][rows].values)

    return plane_extent(
        name, var.dims, var.shape, var.dtype, integrations, header=header, values=values
    )


def _grid(ds: xr.Dataset) -> Extent:
    count = ds.sizes["wave"]
    header = encode_header(image_cards("WAVEGRID", ">f8", (count,)))
    return Extent(
        header, 8 * count, 1, False, lambda part, _: big_endian(part[WAVE_GRID].values, ">f8")
    )

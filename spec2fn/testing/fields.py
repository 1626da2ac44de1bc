"""Small synthetic fields of slitless exposures: catalogs of sources."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.typing import HostArray

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["catalog_dataset", "catalog_table"]

_SIGNS = {"ll": (-1, -1), "lr": (1, -1), "ul": (-1, 1), "ur": (1, 1)}


def _defaults(ra: HostArray, columns: dict[str, Any]) -> dict[str, HostArray]:
    number = np.arange(len(ra))
    defaults = {
        "label": number + 1,
        "xcentroid": number * 1.0,
        "ycentroid": number * 1.0,
        "isophotal_abmag": 20.0 + number,
        "is_extended": number % 2 == 1,
    }
    return {name: np.asarray(columns.get(name, value)) for name, value in defaults.items()}


def catalog_table(
    ra: Sequence[float],
    dec: Sequence[float],
    half_width: float = 1e-4,
    **columns: Any,  # noqa: ANN401 - columns of any type
) -> Any:  # noqa: ANN401 - a table of astropy, which has no types
    """Return a catalog as the image pipeline writes it.

    Parameters
    ----------
    ra, dec : sequence of float
        Positions of the sources [deg].
    half_width : float
        Of the rectangle around each source [deg].
    **columns
        ``label``, ``xcentroid``, ``ycentroid``, ``isophotal_abmag``, ``is_extended``; what is not
        given counts the sources, every other of which is extended.

    Returns
    -------
    astropy.table.QTable
    """
    from astropy import units
    from astropy.coordinates import SkyCoord
    from astropy.table import QTable

    place = np.asarray(ra, float), np.asarray(dec, float)
    table = QTable(_defaults(place[0], columns))
    table["isophotal_abmag_err"] = 0.01
    table["sky_centroid"] = SkyCoord(*place, unit=units.deg)
    for name, signs in _SIGNS.items():
        corner = [p + s * half_width for p, s in zip(place, signs, strict=True)]
        table[f"sky_bbox_{name}"] = SkyCoord(*corner, unit=units.deg)
    return table


def catalog_dataset(
    ra: Sequence[float],
    dec: Sequence[float],
    half_width: float = 1e-4,
    **columns: Any,  # noqa: ANN401 - columns of any type
) -> xr.Dataset:
    """Return a catalog as :func:`spec2fn.io.catalogs.read_catalog` does; see `catalog_table`."""
    import xarray as xr

    place = np.asarray(ra, float), np.asarray(dec, float)
    data: dict[str, Any] = {n: ("source", v) for n, v in _defaults(place[0], columns).items()}
    for k, name in enumerate(("ra", "dec")):
        data[name] = ("source", place[k])
        corners = np.stack([place[k] + s[k] * half_width for s in _SIGNS.values()], axis=1)
        data[f"corner_{name}"] = (("source", "corner"), corners)
    return xr.Dataset(data, attrs={"filename": "catalog"})

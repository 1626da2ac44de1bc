"""Small synthetic fields of slitless exposures: catalogs of sources, and straight traces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.schema import Meta
from spec2fn.typing import HostArray

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["StraightTraces", "catalog_dataset", "catalog_table"]

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
    meta = Meta(filename="direct_cat.ecsv")
    return xr.Dataset(data, attrs={"filename": meta.filename, "meta": meta})


@dataclass(frozen=True)
class StraightTraces:
    """A geometry with the methods of :class:`spec2fn.wcs.grism.GrismGeometry`, all of them linear.

    Attributes
    ----------
    orders : tuple of int
    disp_axis : int
        1 if spectra run along x, 2 along y.
    scale : float
        Of the undispersed image [deg / pixel]; x falls with right ascension.
    centre : (float, float)
        Right ascension and declination [deg] of pixel (0, 0).
    step : float
        Dispersion of the first order [pixel / um]; that of others is as many times larger.
    tilt : float
        Pixels across for each pixel along the dispersion.
    """

    orders: tuple[int, ...] = (1, 2)
    disp_axis: int = 1
    scale: float = 1e-4
    centre: tuple[float, float] = (53.1, -27.8)
    step: float = 40.0
    tilt: float = 0.02

    def world_to_detector(self, ra: HostArray, dec: HostArray) -> tuple[HostArray, HostArray]:
        """Return x, y of places on the sky."""
        return (self.centre[0] - ra) / self.scale, (dec - self.centre[1]) / self.scale

    def detector_to_world(self, x: HostArray, y: HostArray) -> tuple[HostArray, HostArray]:
        """Return right ascension and declination of pixels."""
        return self.centre[0] - x * self.scale, self.centre[1] + y * self.scale

    def disperse(
        self, x0: HostArray, y0: HostArray, wavelength: HostArray | float, order: int
    ) -> tuple[HostArray, HostArray]:
        """Return x, y to which an order sends light."""
        along = order * self.step * (np.asarray(wavelength) - 1.0)
        across = self.tilt * along
        if self.disp_axis == 1:
            return x0 + along, y0 + across
        return x0 + across, y0 + along

    def wavelength(
        self, x: HostArray, y: HostArray, x0: HostArray, y0: HostArray, order: int
    ) -> HostArray:
        """Return the wavelength of the light of a source at pixels."""
        along = x - x0 if self.disp_axis == 1 else y - y0
        shape = np.broadcast_shapes(np.shape(x), np.shape(y), np.shape(x0), np.shape(y0))
        return np.broadcast_to(1.0 + along / (order * self.step), shape)

"""S_REGION: the part of the sky that an exposure, a slit or a cube shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from spec2fn.typing import HostArray
from spec2fn.wcs.evaluate import sample_slit

if TYPE_CHECKING:
    from astropy.units import Quantity
    from gwcs import WCS
    from numpy.typing import ArrayLike

__all__ = ["box_region", "polygon", "slit_region", "unwrap_ra"]


def slit_region(region_in: str, wcs: WCS) -> str | None:
    """Return the S_REGION of a resampled slit: its axis in the output, as wide as the slit was.

    Parameters
    ----------
    region_in : str
        S_REGION of the exposure, ``POLYGON ICRS ra1 dec1 … ra4 dec4`` [deg]; its shortest side
        is the width of the slit.
    wcs : gwcs.WCS
        Output WCS.

    Returns
    -------
    str or None
        None if there is no such polygon.
    """
    from astropy.coordinates import angular_separation, offset_by, position_angle

    numbers = [float(v) for v in region_in.split()[2:]]
    if len(numbers) < 8:
        return None
    ra, dec = np.deg2rad(np.reshape(numbers[:8], (4, 2))).T
    width = angular_separation(ra, dec, np.roll(ra, -1), np.roll(dec, -1)).min()
    slit = sample_slit(wcs)
    ends = [np.array([w[0, 0], w[-1, -1]]) for w in (slit.ra, slit.dec)]
    lon, lat = np.deg2rad(ends[0]), np.deg2rad(ends[1])
    across = _radians(position_angle(lon[0], lat[0], lon[1], lat[1])) - np.pi / 2
    corners = [(0, 1), (1, 1), (1, -1), (0, -1)]
    found = [offset_by(lon[i], lat[i], across, side * width / 2) for i, side in corners]
    # offset_by returns Quantities: plain degrees are wanted, right ascension from 0 to 360
    lon, lat = np.rad2deg([[_radians(a), _radians(b)] for a, b in found]).T
    return polygon(lon % 360, lat)


def box_region(ra: HostArray, dec: HostArray, *, clockwise: bool = False) -> str | None:
    """Return the S_REGION of the box in right ascension and declination around positions [deg].

    Parameters
    ----------
    ra, dec : array
        NaN where there is none; None is returned if they all are.
    clockwise : bool
        Whether north-west follows on south-west, instead of south-east.
    """
    ra, dec = ra[np.isfinite(ra)], dec[np.isfinite(dec)]
    if not (ra.size and dec.size):
        return None
    ra = unwrap_ra(ra)
    corners = np.array([(0, 0), (1, 0), (1, 1), (0, 1)])
    east, north = corners.T[::-1] if clockwise else corners.T
    ends = (ra.min() % 360, ra.max() % 360), (dec.min(), dec.max())
    return polygon(np.take(ends[0], east), np.take(ends[1], north))


def polygon(ra: ArrayLike, dec: ArrayLike) -> str | None:
    """Return the S_REGION of corners [deg], or None if one is not finite."""
    corners = np.stack([ra, dec], axis=-1).ravel()
    if not np.isfinite(corners).all():
        return None
    return "POLYGON ICRS  " + " ".join(f"{v:.9f}" for v in corners)


def unwrap_ra(ra: HostArray) -> HostArray:
    """Put right ascensions on one side of 0/360 degrees, that of the first."""
    return ra - 360.0 * np.round((ra - ra.flat[0]) / 360.0)


def _radians(angle: Quantity | float) -> float:
    return float(angle.to_value("rad") if hasattr(angle, "to_value") else angle)

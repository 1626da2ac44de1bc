"""The spaxels of a cube, on the sky or in the plane of the slicer.

Source: JWST pipeline documentation, "cube_build".
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from spec2fn.errors import ParameterError
from spec2fn.typing import HostArray
from spec2fn.units import RAD_TO_ARCSEC
from spec2fn.wcs.s_region import unwrap_ra

__all__ = ["CubeGrid", "check_cube_size", "internal_grid", "project", "sky_grid"]

# no field has as many
_MOST_SPAXELS, _MOST_VOXELS = 4000, 2**29


@dataclass(frozen=True, eq=False)
class CubeGrid:
    """The spaxels of a cube in its tangent plane, or in the plane of the slicer.

    Attributes
    ----------
    crval, crpix, cdelt : tuple of float
        Of the two spatial axes [deg, 1-indexed pixel, arcsec]; of internal grids in the units of
        the slicer plane.
    angle : float
        Position angle of the y axis [deg, east of north].
    shape : tuple of int
        (y, x).
    start : tuple of float
        Centre of the first spaxel along x and y [arcsec].
    internal : bool
        Whether it lies in the plane of the NIRSpec slicer, instead of on the sky.
    """

    crval: tuple[float, float]
    crpix: tuple[float, float]
    cdelt: tuple[float, float]
    angle: float
    shape: tuple[int, int]
    start: tuple[float, float]
    internal: bool = False


def project(
    ra: HostArray, dec: HostArray, crval: tuple[float, float], angle: float = 0.0
) -> tuple[HostArray, HostArray]:
    """Return gnomonic coordinates, x to the west and y to the north if `angle` is 0.

    Parameters
    ----------
    ra, dec : array
        [deg].
    crval : tuple of float
        Tangent point [deg].
    angle : float
        Position angle of the y axis, turning the axes [deg].

    Returns
    -------
    x, y : array, float64
        [arcsec].
    """
    ra0, dec0 = np.deg2rad(crval)
    away, dec = np.deg2rad(ra) - ra0, np.deg2rad(dec)
    sin_dec, cos_dec = np.sin(dec), np.cos(dec)
    north = cos_dec * np.cos(away)
    depth = sin_dec * math.sin(dec0) + north * math.cos(dec0)
    x = -RAD_TO_ARCSEC * cos_dec * np.sin(away) / depth
    y = RAD_TO_ARCSEC * (sin_dec * math.cos(dec0) - north * math.sin(dec0)) / depth
    if angle:
        turn = math.radians(-angle)
        cos, sin = math.cos(turn), math.sin(turn)
        x, y = x * cos - y * sin, x * sin + y * cos
    return x, y


def sky_grid(
    ra: HostArray,
    dec: HostArray,
    spaxel: float,
    *,
    angle: float = 0.0,
    centre: tuple[float | None, float | None] = (None, None),
    size: tuple[int | None, int | None] = (None, None),
) -> CubeGrid:
    """Return a tangent plane that holds all of the given positions, centred on the tangent point.

    Parameters
    ----------
    ra, dec : (n,) float64
        Positions to be covered, such as the corners of the field of view [deg].
    spaxel : float
        [arcsec].
    angle : float
        Position angle of the y axis [deg].
    centre : tuple of (float or None)
        Tangent point; None: the middle of the positions.
    size : tuple of (int or None)
        Number of spaxels (x, y); an even one is raised by one, so that the tangent point is the
        centre of a spaxel.
    """
    ra = unwrap_ra(ra)
    ends = np.deg2rad([ra.min(), ra.max()])
    middle = math.degrees(math.atan2(np.sin(ends).sum(), np.cos(ends).sum())) % 360
    crval = (
        middle if centre[0] is None else centre[0],
        (float(dec.min()) + float(dec.max())) / 2 if centre[1] is None else centre[1],
    )
    x, y = project(ra, dec, crval, angle)
    half = [math.ceil(float(np.abs(v).max()) / spaxel) + 1 for v in (x, y)]
    for i, asked in enumerate(size):
        if asked is not None:
            half[i] = asked // 2
    reach = max(float(np.abs(v).max()) for v in (x, y))
    if max(half) > _MOST_SPAXELS / 2 or (spaxel > 2 * reach and size == (None, None)):
        msg = (
            f"cube_build: {2 * half[0] + 1} x {2 * half[1] + 1} spaxels of {spaxel:g} arcsec for a"
            f" field that reaches {reach:.3g} arcsec from the centre of the cube; correct scalexy,"
            " nspax_x, nspax_y, ra_center or dec_center"
        )
        raise ParameterError(msg)
    return CubeGrid(
        crval=crval,
        crpix=(half[0] + 1.0, half[1] + 1.0),
        cdelt=(spaxel, spaxel),
        angle=angle,
        shape=(2 * half[1] + 1, 2 * half[0] + 1),
        start=(-half[0] * spaxel, -half[1] * spaxel),
    )


def check_cube_size(grid: CubeGrid, planes: int) -> None:
    """Raise :class:`ParameterError` for a cube that no computer holds."""
    ny, nx = grid.shape
    if nx * ny * planes > _MOST_VOXELS:
        msg = (
            f"cube_build: a cube of {nx} x {ny} spaxels and {planes} planes takes"
            f" {nx * ny * planes * 16 / 2**30:.0f} GiB; correct scalexy, scalew, nspax_x"
            " or nspax_y, or cut the range with wavemin and wavemax"
        )
        raise ParameterError(msg)


def internal_grid(along: HostArray, across: HostArray, slices: int) -> CubeGrid:
    """Return a grid in the plane of the slicer: one column per slice, half as wide along them.

    Parameters
    ----------
    along, across : array
        Positions to be covered, in the units of the slicer plane.
    slices : int
        Number of slices.
    """
    width = (float(across.max()) - float(across.min())) / slices
    step = width / 2
    limit = math.ceil(max(abs(float(along.min())), abs(float(along.max()))) / step)
    low = -limit * step - step / 2
    left = float(across.min())
    return CubeGrid(
        crval=(left, low),
        crpix=(0.5, 0.5),
        cdelt=(width, step),
        angle=0.0,
        shape=(2 * limit + 1, slices),
        start=(left + width / 2, low + step / 2),
        internal=True,
    )

"""Which pixels make up a voxel of a cube."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from spec2fn.errors import ParameterError
from spec2fn.host.cube_overlap import entries_between
from spec2fn.kernels.cubes import CubeOperator
from spec2fn.typing import HostArray

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["contributions", "report_voxel", "voxel_of"]

_LOG = logging.getLogger("spec2fn.cube_build")


def voxel_of(text: str) -> tuple[int, int, int] | None:
    """Return the position (x, y, plane) of a voxel, from 0, or None for ``-1 -1 -1``.

    Raises
    ------
    ParameterError
        If the text is no position.
    """
    parts = text.replace(",", " ").split()
    try:
        x, y, plane = map(int, parts)
    except ValueError:
        x = y = plane = -2
    if (x, y, plane) == (-1, -1, -1):
        return None
    if min(x, y, plane) < 0:
        msg = f"cube_build.debug_spaxel: needs 'x y plane', each from 0, got {text!r}"
        raise ParameterError(msg)
    return x, y, plane


def contributions(op: CubeOperator, voxel: int) -> tuple[HostArray, HostArray]:
    """Return the pixels that contribute to a voxel, and their weights.

    Parameters
    ----------
    op : CubeOperator
    voxel : int
        Flat index (wave, y, x).

    Returns
    -------
    pixels : (n,) int
        Flat index on the detector, good pixels and bad ones.
    weights : (n,) float32
    """
    _, pixels, weights = entries_between(op, voxel, voxel + 1)
    return op.pixels[pixels], weights


def report_voxel(
    ds: xr.Dataset, name: str, op: CubeOperator, position: tuple[int, int, int]
) -> None:
    """Log which pixels of an exposure make up a voxel.

    Parameters
    ----------
    ds : xarray.Dataset
        With ``sci`` ([integration,] y, x), of which the first integration is shown.
    name : str
        Of the cube.
    op : CubeOperator
    position : (x, y, plane)

    Raises
    ------
    ParameterError
        If the cube has no such voxel.
    """
    (x, y, plane), (planes, ny, nx) = position, op.shape
    if plane >= planes or y >= ny or x >= nx:
        msg = (
            f"cube_build.debug_spaxel: the cube {name} has {nx} x {ny} spaxels and {planes} planes,"
            f" found {x} {y} {plane}; they count from 0"
        )
        raise ParameterError(msg)
    pixels, weights = contributions(op, (plane * ny + y) * nx + x)
    sci = ds["sci"].values.reshape(-1, ds.sizes["y"] * ds.sizes["x"])[0]
    listed = "; ".join(
        f"{p % ds.sizes['x']} {p // ds.sizes['x']} {w:.4g} {sci[p]:.6g}"
        for p, w in zip(pixels, weights, strict=True)
    )
    _LOG.warning(
        "cube_build.debug_spaxel: %d pixels reach spaxel %d %d in plane %d of %s"
        " (x y weight value): %s",
        pixels.size, x, y, plane, name, listed or "none",
    )  # fmt: skip

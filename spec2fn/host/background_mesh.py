"""A smooth background from medians of boxes: the mesh of SExtractor.

E. Bertin & S. Arnouts 1996, A&AS 117, 393: the image is cut into boxes, each is sigma-clipped
and its median taken, the mesh of medians is median-filtered and interpolated by bicubic splines.
Boxes with more than a tenth of their pixels masked or clipped take the mean of their neighbours,
weighted with the inverse distance.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from spec2fn.kernels.statistics import clip_bounds, running_median

__all__ = ["background_mesh", "box_size_for"]

Array = np.ndarray[Any, Any]

_SIGMA, _MAXITERS = 3.0, 5
_MASKED_LIMIT = 0.1
_FILTER = (5, 5)
_NEIGHBOURS = 10
_LARGEST_BOX = 32


def box_size_for(shape: tuple[int, int]) -> tuple[int, int]:
    """Return the largest box of at most 32 x 32 pixels that divides an image evenly."""

    def largest(n: int) -> int:
        return max(k for k in range(1, min(n, _LARGEST_BOX) + 1) if n % k == 0)

    return largest(shape[0]), largest(shape[1])


def background_mesh(image: Array, mask: Array, box: tuple[int, int] | None = None) -> Array | None:
    """Fit a background that varies slowly over an image.

    Parameters
    ----------
    image : ndarray, (y, x), float32
    mask : bool ndarray, (y, x)
        True where a pixel shows background.
    box : (int, int), optional
        Rows and columns of a box (default: :func:`box_size_for`).

    Returns
    -------
    ndarray, (y, x), float32, or None
        None if no box has enough pixels.
    """
    ny, nx = image.shape
    by, bx = box_size_for((ny, nx)) if box is None else (min(box[0], ny), min(box[1], nx))
    mesh = _medians(np.where(mask, image, np.float32(np.nan)), by, bx)
    if np.isnan(mesh).all():
        return None
    mesh = _filled(mesh)
    pad = [(k // 2, k // 2) for k in _FILTER]
    padded = np.pad(mesh, pad, constant_values=np.nan)
    mesh = running_median(padded, _FILTER)[pad[0][0] : -pad[0][1], pad[1][0] : -pad[1][1]]
    if np.ptp(mesh) == 0:
        return np.full((ny, nx), mesh.flat[0], dtype=np.float32)
    rows, columns = (_spline(n, b) for n, b in zip(mesh.shape, (by, bx), strict=True))
    full = rows[:ny] @ mesh.astype(np.float64) @ columns[:nx].T
    return np.clip(full, mesh.min(), mesh.max()).astype(np.float32)


def _spline(n: int, factor: int) -> Array:
    # cubic spline through the centres of n boxes as a matrix: the interpolation is separable
    from scipy.ndimage import zoom

    unit = np.eye(n)
    return np.stack(
        [zoom(row, factor, order=3, mode="reflect", grid_mode=True) for row in unit], axis=1
    )


def _medians(values: Array, by: int, bx: int) -> Array:
    ny, nx = values.shape
    rows, columns = -(-ny // by), -(-nx // bx)
    if (rows * by, columns * bx) != (ny, nx):
        # pixels beyond the edge count as masked
        padded = np.full((rows * by, columns * bx), np.nan, dtype=values.dtype)
        padded[:ny, :nx] = values
        values = padded
    stack = values.reshape(rows, by, columns, bx).transpose(1, 3, 0, 2).reshape(by * bx, -1)
    low, high = clip_bounds(stack, _SIGMA, _MAXITERS)
    kept = (stack >= low) & (stack <= high)
    count = np.count_nonzero(kept, axis=0)
    # one box per row: sorted many times faster
    ordered = np.ascontiguousarray(np.where(kept, stack, np.float32(np.inf)).T)
    ordered.sort(axis=1)
    lane = np.arange(count.size)
    at = np.maximum(count, 1)
    median = np.float32(0.5) * (ordered[lane, (at - 1) // 2] + ordered[lane, at // 2])
    enough = count > (1.0 - _MASKED_LIMIT) * by * bx
    return np.where(enough, median, np.float32(np.nan)).reshape(rows, columns)


def _filled(mesh: Array) -> Array:
    lacking = np.isnan(mesh)
    if not lacking.any():
        return mesh
    from scipy.spatial import cKDTree

    known = np.argwhere(~lacking)
    k = min(_NEIGHBOURS, len(known))
    # the size of a leaf decides which of equally distant neighbours count: as photutils
    distance, index = cKDTree(known, leafsize=10).query(
        np.argwhere(lacking), k=list(range(1, k + 1))
    )
    weight = 1.0 / distance
    out = mesh.copy()
    values = mesh[~lacking].astype(np.float64)[index]
    out[lacking] = np.sum(weight * values, axis=1) / np.sum(weight, axis=1)
    return out

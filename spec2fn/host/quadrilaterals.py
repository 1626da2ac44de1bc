"""Which cells of a grid quadrilaterals cover, and by how much."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

__all__ = ["Entries", "clip_quads", "joined", "quad_entries"]

# Overlaps smaller than this fraction of a cell are round-off of the clipping.
_NEGLIGIBLE = 1e-11
# Quadrilaterals clipped at once, which bounds the memory.
_CHUNK = 65536
# Larger than any number of rows.
_ROWS = 2.0**26

Entries = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Position of the pixel in its list, flat index of the cell, value."""


def clip_quads(x: np.ndarray, y: np.ndarray, columns: int, rows: int) -> np.ndarray:
    """Return the areas that quadrilaterals share with the unit squares of a grid.

    Parameters
    ----------
    x, y : (4, n) float64
        Corners in order around the outline, relative to the lower left corner of the grid, inside
        which the quadrilateral lies.
    columns, rows : int
        Size of the grid.

    Returns
    -------
    (columns, rows, n) float64
        Signed areas: positive for clockwise outlines.

    Notes
    -----
    By Green's theorem the area in a cell is the sum over the edges of the integral of the height
    above the floor of the cell, less that above its ceiling, over the part of the edge in the
    column of the cell; no outline of the intersection is needed.
    """
    n = x.shape[1]
    x2, y2 = np.roll(x, -1, axis=0), np.roll(y, -1, axis=0)
    run = x2 - x
    run[run == 0] = 1.0
    slope = (y2 - y) / run
    # all of the outline is above the floor of the lowest row, and none above the highest ceiling
    floors = np.arange(1, rows, dtype=float)[:, None, None]
    out = np.empty((columns, rows, n))
    for i in range(columns):
        left = np.clip(x, i, i + 1)
        right = np.clip(x2, i, i + 1)
        ya = y + slope * (left - x)
        yb = y + slope * (right - x)
        right -= left
        above = ((ya + yb) * right).sum(axis=0)
        if rows > 1:
            partly = _mean_above(ya - floors, yb - floors)
            partly *= right
            higher = partly.sum(axis=1)
            np.subtract(above, higher[0], out=out[i, 0])
            np.subtract(higher[:-1], higher[1:], out=out[i, 1:-1])
            out[i, -1] = higher[-1]
        else:
            out[i, 0] = above
    out *= 0.5
    return out


def _mean_above(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Twice the mean of ``max(h, 0)`` where h goes linearly from `a` to `b` (overwritten)."""
    fall = a - b
    np.maximum(a, 0.0, out=a)
    np.maximum(b, 0.0, out=b)
    part = a - b
    level = fall == 0
    # where neither is cut off the two differences are the same number: their ratio is exactly 1
    fall[level] = 1.0
    part /= fall
    part[level] = 1.0
    a += b
    a *= part
    return a


def quad_entries(x: np.ndarray, y: np.ndarray, shape: tuple[int, int]) -> Entries:
    """Return the overlaps of quadrilaterals with the unit cells of an image.

    Parameters
    ----------
    x, y : (4, n) float64
        Corners, where cell (i, j) covers ``i <= x < i + 1``, ``j <= y < j + 1``.
    shape : tuple of int
        (y, x) of the image.

    Returns
    -------
    Entries
        Values are areas.
    """
    pieces = (slice(k, k + _CHUNK) for k in range(0, x.shape[1], _CHUNK))
    found = [e for piece in pieces for e in _quads(x[:, piece], y[:, piece], shape, piece.start)]
    return joined(found)


def _quads(x: np.ndarray, y: np.ndarray, shape: tuple[int, int], start: int) -> Iterator[Entries]:
    ny, nx = shape
    low_x, low_y = np.floor(x.min(axis=0)), np.floor(y.min(axis=0))
    high_x, high_y = np.ceil(x.max(axis=0)), np.ceil(y.max(axis=0))
    # what lies outside the image altogether is not clipped at all
    inside = (high_x > 0) & (high_y > 0) & (low_x < nx) & (low_y < ny)
    spans = np.maximum(high_x - low_x, 1) * _ROWS + np.maximum(high_y - low_y, 1)
    spans[~inside] = 0
    # outlines of the same extent are clipped together
    for span in np.unique(spans[inside]):
        columns, rows = (int(n) for n in divmod(span, _ROWS))
        (same,) = np.nonzero(spans == span)
        step = max(1, 64 * _CHUNK // (columns * rows))
        for one in (same[k : k + step] for k in range(0, same.size, step)):
            left, bottom = low_x[one], low_y[one]
            # take keeps the corners in rows, where an index would turn the memory round
            area = clip_quads(
                x.take(one, axis=1) - left, y.take(one, axis=1) - bottom, columns, rows
            )
            np.abs(area, out=area)
            ix = left.astype(np.int32) + np.arange(columns, dtype=np.int32)[:, None]
            iy = bottom.astype(np.int32) + np.arange(rows, dtype=np.int32)[:, None]
            if left.min() < 0 or bottom.min() < 0 or ix.max() >= nx or iy.max() >= ny:
                area *= ((ix >= 0) & (ix < nx))[:, None] & ((iy >= 0) & (iy < ny))[None]
            flat = np.flatnonzero(area > _NEGLIGIBLE)
            cell = ((iy * nx)[None] + ix[:, None]).reshape(-1)[flat]
            who = np.broadcast_to((one + start).astype(np.int32), area.shape).reshape(-1)[flat]
            yield who, cell, area.reshape(-1)[flat]


def joined(found: list[Entries]) -> Entries:
    """Return the entries of all parts, one after the other."""
    if not found:
        return np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0)
    who, cell, value = (np.concatenate(part) for part in zip(*found, strict=True))
    return who, cell, value

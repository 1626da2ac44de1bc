"""Which voxels of a cube a detector pixel contributes to, and with what weight.

The weight of a pixel in a voxel is the product of what they share on the sky and of what they
share in wavelength (drizzle, and the exponential Shepard weights), or a function of their distance
on the sky and in wavelength (the modified Shepard weights). Either way it is kept in two parts: a
sparse matrix from pixels to spaxels, placed at the first plane a pixel reaches, and a few numbers
per pixel for that plane and the ones after it. That is some three times smaller than the matrix
from pixels to voxels, and no larger for fine wavelength grids.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from spec2fn.host.quadrilaterals import Entries, joined
from spec2fn.kernels.cubes import CubeOperator
from spec2fn.threads import in_threads
from spec2fn.typing import HostArray

if TYPE_CHECKING:
    from scipy.sparse import csr_array

__all__ = [
    "assemble",
    "assemble_voxels",
    "covariance_kernel",
    "entries_between",
    "paired",
    "plane_overlaps",
    "roi_entries",
    "roi_planes",
]

# Pixels worked on at once, in threads.
_CHUNK = 65536

# Planes in which correlations are computed, and the smallest that count, over the largest.
_PLANES, _LEAST = 16, 0.01

Weight: TypeAlias = Callable[[HostArray, HostArray], HostArray]
"""A value by plane (or squared distance) and pixel."""


def plane_overlaps(
    wavelength: HostArray, width: HostArray, lower: HostArray, upper: HostArray
) -> tuple[HostArray, HostArray]:
    """Return how far pixels and planes overlap in wavelength.

    Parameters
    ----------
    wavelength, width : (p,) float64
        Centre and extent of the pixels [um].
    lower, upper : (w,) float64
        Edges of the planes [um]; they ascend, but planes need not join.

    Returns
    -------
    first : (p,) int64
        First plane of each pixel; the number of planes if it has none.
    overlap : (d, p) float32
        Overlap with that plane and those after it [um]; -1 where there is none.
    """
    low, high = wavelength - width / 2, wavelength + width / 2
    first = np.searchsorted(upper, low, side="right")

    def value(plane: HostArray, pixel: HostArray) -> HostArray:
        shared = np.minimum(high[pixel], upper[plane]) - np.maximum(low[pixel], lower[plane])
        return np.where(shared > 0, shared, -1.0)

    return _planes(first, np.searchsorted(lower, high, side="left"), value, lower.size)


def _planes(
    first: HostArray, end: HostArray, value: Weight, planes: int
) -> tuple[HostArray, HostArray]:
    """Evaluate ``value(plane, pixel)`` in the planes of each pixel, from `first` to `end`."""
    depth = max(0, int((end - first).max(initial=0)))
    spectral = np.full((depth, first.size), -1.0, np.float32)
    for d, row in enumerate(spectral):
        (pixel,) = np.nonzero(first + d < end)
        row[pixel] = value(first[pixel] + d, pixel)
    empty = (spectral < 0).all(axis=0)
    return np.where(empty, planes, first), spectral


def roi_planes(
    wavelength: HostArray,
    roi: HostArray,
    centre: HostArray,
    thickness: HostArray,
    weight: Weight,
) -> tuple[HostArray, HostArray]:
    """Return what pixels give to the planes within a region of influence.

    Parameters
    ----------
    wavelength, roi : (p,) float64
        Of the pixels [um].
    centre, thickness : (w,) float64
        Of the planes [um].
    weight : callable
        ``weight(squared distance [planes^2], pixel)``.

    Returns
    -------
    first, value
        As :func:`plane_overlaps`.
    """
    first = np.searchsorted(centre, wavelength - roi, side="left")

    def value(plane: HostArray, pixel: HostArray) -> HostArray:
        away = (wavelength[pixel] - centre[plane]) / thickness[plane]
        return weight(away * away, pixel)

    end = np.searchsorted(centre, wavelength + roi, side="right")
    return _planes(first, end, value, centre.size)


def roi_entries(
    x: HostArray,
    y: HostArray,
    roi: HostArray,
    shape: tuple[int, int],
    weight: Weight,
) -> Entries:
    """Return what pixels give to the spaxels within a circle.

    Parameters
    ----------
    x, y : (p,) float64
        Pixel centres [spaxels], where spaxel i has its centre at i.
    roi : (p,) float64
        Radius [spaxels].
    shape : tuple of int
        (y, x) of the image.
    weight : callable
        ``weight(squared distance [spaxels^2], position of the pixel)``.
    """
    ny, nx = shape
    ix0 = np.maximum(np.ceil(x - roi), 0).astype(np.int32)
    iy0 = np.maximum(np.ceil(y - roi), 0).astype(np.int32)
    ix1 = np.minimum(np.floor(x + roi), nx - 1).astype(np.int32)
    iy1 = np.minimum(np.floor(y + roi), ny - 1).astype(np.int32)
    wide, tall = int((ix1 - ix0).max(initial=-1)) + 1, int((iy1 - iy0).max(initial=-1)) + 1
    limit = roi * roi
    found: list[Entries] = []
    for dy in range(tall):
        iy = iy0 + dy
        away_y = (iy - y) ** 2
        for dx in range(wide):
            ix = ix0 + dx
            away = (ix - x) ** 2 + away_y
            (who,) = np.nonzero((away <= limit) & (ix <= ix1) & (iy <= iy1))
            cell = iy[who] * nx + ix[who]
            found.append((who.astype(np.int32), cell, weight(away[who], who)))
    return joined(found)


def _blocks(first: HostArray) -> Iterator[slice]:
    """Cut pixels, sorted by their first plane, into blocks of whole planes."""
    ends = np.append(np.flatnonzero(np.diff(first)) + 1, first.size)
    start = 0
    while start < first.size:
        at = min(int(np.searchsorted(ends, start + _CHUNK)), ends.size - 1)
        yield slice(start, int(ends[at]))
        start = int(ends[at])


def assemble(
    first: HostArray,
    spectral: HostArray,
    pixels: HostArray,
    entries: Callable[[HostArray], Entries],
    *,
    shape: tuple[int, int, int],
    power: HostArray | None = None,
    softening: HostArray | None = None,
) -> CubeOperator:
    """Put the operator together, plane after plane.

    Parameters
    ----------
    first, spectral
        First plane of each pixel, and its part in the planes from there.
    pixels : (p,) integer
        Flat detector index of each pixel, ascending.
    entries : callable
        ``entries(which)`` gives the :data:`Entries` of these pixels.
    shape : tuple of int
        (wave, y, x) of the cube.
    power, softening : (p,) float, optional
    """
    planes, plane = shape[0], shape[1] * shape[2]
    # 16 bits are sorted by radix
    key = first.astype(np.uint16 if planes < 2**16 else np.int32)
    order = np.argsort(key, kind="stable")
    order = order[: int((first < planes).sum())]
    sorted_first = first[order]

    def part(block: slice) -> tuple[HostArray, ...]:
        base = int(sorted_first[block.start])
        who, cell, value = entries(order[block])
        local = (sorted_first[block][who] - base).astype(np.int32) * np.int32(plane) + cell
        size = (int(sorted_first[block.stop - 1]) - base + 1) * plane
        row, count, cols, values = _by_row(local, who, value, (size, block.stop - block.start))
        return row + base * plane, count, cols + np.int32(block.start), values

    none = np.zeros(0, np.int32)
    empty = (none, none, none, none.astype(np.float32))
    parts = zip(empty, *in_threads(part, _blocks(sorted_first)), strict=True)
    return _operator(
        *map(np.concatenate, parts),
        pixels=pixels[order].astype(np.int32),
        first=sorted_first.astype(np.int32),
        spectral=np.ascontiguousarray(spectral[:, order]),
        shape=shape,
        power=None if power is None else power[order].astype(np.float32),
        softening=None if softening is None else softening[order].astype(np.float32),
    )


def _by_row(
    row: HostArray, col: HostArray, value: HostArray, shape: tuple[int, int]
) -> tuple[HostArray, HostArray, HostArray, HostArray]:
    """Sort entries, each given once, by row: rows that have any, how many, columns, values."""
    from scipy.sparse import coo_array

    matrix = coo_array((value.astype(np.float32), (row, col)), shape)
    matrix.has_canonical_format = True
    return _rows_of(matrix.tocsr())


def _rows_of(matrix: csr_array) -> tuple[HostArray, HostArray, HostArray, HostArray]:
    count = np.diff(matrix.indptr)
    (rows,) = np.nonzero(count)
    return rows, count[rows], matrix.indices.astype(np.int32), matrix.data


def paired(op: CubeOperator, offset: tuple[int, int, int]) -> CubeOperator:
    """Return the operator of pairs of voxels that share pixels, placed at the first of the two.

    Its weights are the products of the weights of a pixel in the two voxels.

    Parameters
    ----------
    op : CubeOperator
        Of which the weights are products.
    offset : tuple of int
        How much further the second voxel is: (planes, rows, columns), each at least 0.
    """
    from scipy.sparse import csr_array

    planes, dy, dx = offset
    ny, nx = op.shape[1:]
    size = (op.rows.size, op.pixels.size)
    matrix = csr_array((op.spatial, op.cols, op.starts), size)
    row = op.rows.astype(np.int64)
    fits = (row // nx % ny + dy < ny) & (row % nx + dx < nx)
    at = np.searchsorted(op.rows, row + dy * nx + dx)
    at[at == row.size] = 0
    fits &= op.rows[at] == row + dy * nx + dx
    both = matrix[np.flatnonzero(fits)].multiply(matrix[at[fits]]).tocsr()
    held, *entries = _rows_of(both)
    spectral = np.maximum(op.spectral, 0)
    depth = spectral.shape[0] - planes
    return _operator(
        op.rows[fits][held],
        *entries,
        pixels=op.pixels,
        first=op.first,
        spectral=spectral[: max(depth, 0)] * spectral[planes:],
        shape=op.shape,
    )


def entries_between(
    op: CubeOperator, first: int, last: int
) -> tuple[HostArray, HostArray, HostArray]:
    """Return what makes up the voxels from `first` on and before `last`.

    Returns
    -------
    voxels, pixels, weights : (n,)
        Flat index of the voxel, position in ``op.pixels``, and weight of each entry.
    """
    found = []
    for d, spectral in enumerate(op.spectral):
        a, b = np.searchsorted(op.rows, np.array((first, last), op.rows.dtype) - d * op.plane)
        entries = slice(int(op.starts[a]), int(op.starts[b]))
        pixel, spatial = op.cols[entries], op.spatial[entries]
        part, voxel = spectral[pixel], np.repeat(op.rows[a:b], np.diff(op.starts[a : b + 1]))
        if op.power is None or op.softening is None:
            weight = spatial * part
        else:
            away = np.maximum(spatial + part, 0.0) ** (op.power[pixel] / 2)
            weight = 1 / np.maximum(away, op.softening[pixel])
        reached = part >= 0
        found.append((voxel[reached] + d * op.plane, pixel[reached], weight[reached]))
    voxels, pixels, weights = map(np.concatenate, zip(*found, strict=True))
    return voxels, pixels, weights


def covariance_kernel(op: CubeOperator) -> HostArray:
    """Return how the covariances of a voxel are spread over the others of its plane.

    The mean of each plane, for pixels of one variance. It varies little with wavelength: a few
    planes are computed, those between are interpolated.

    Returns
    -------
    (wave, lag_y, lag_x) float32
        Sums to 1 in each plane (0 if voxels share no pixels); the middle, of the voxel itself, is
        0.
    """
    planes, _, nx = op.shape
    at, made = [], []
    (held,) = np.nonzero(np.diff(np.searchsorted(op.voxels, np.arange(planes + 1) * op.plane)))
    for k in held[np.unique(np.linspace(0, held.size - 1, _PLANES).round().astype(int))]:
        voxel, pixel, weight = entries_between(op, k * op.plane, (k + 1) * op.plane)
        if voxel.size:
            at.append(k)
            made.append(_autocorrelation(voxel - k * op.plane, pixel, weight, nx))
    if not made:
        at, made = [0], [np.zeros((1, 1))]
    ry, rx = (max(m.shape[i] // 2 for m in made) for i in (0, 1))
    whole = np.zeros((len(made), 2 * ry + 1, 2 * rx + 1))
    for one, m in zip(whole, made, strict=True):
        cy, cx = m.shape[0] // 2, m.shape[1] // 2
        one[ry - cy : ry + cy + 1, rx - cx : rx + cx + 1] = m
    whole[:, ry, rx] = 0
    y, x = np.nonzero((whole >= _LEAST * whole.max()).any(axis=0))
    cy, cx = abs(y - ry).max(initial=0), abs(x - rx).max(initial=0)
    whole = whole[:, ry - cy : ry + cy + 1, rx - cx : rx + cx + 1]
    total = whole.sum(axis=(1, 2), keepdims=True)
    whole /= np.where(total > 0, total, 1)
    place = np.interp(np.arange(planes), at, np.arange(len(at)))
    low = np.minimum(place.astype(int), max(len(at) - 2, 0))
    high = np.minimum(low + 1, len(at) - 1)
    part = (place - low)[:, None, None]
    return ((1 - part) * whole[low] + part * whole[high]).astype(np.float32)


def _autocorrelation(spaxel: HostArray, pixel: HostArray, weight: HostArray, nx: int) -> HostArray:
    """Products of the shares of a pixel in two spaxels, summed by how far apart these are."""
    total = np.bincount(spaxel, weight)[spaxel]
    weight = np.divide(weight, total, out=np.zeros(total.shape), where=total > 0)
    _, who = np.unique(pixel, return_inverse=True)

    def within(place: HostArray) -> HostArray:
        lowest = np.full(who.max() + 1, place.max())
        np.minimum.at(lowest, who, place)
        return place - lowest[who]

    y, x = map(within, np.divmod(spaxel, nx))
    height, width = int(y.max()) + 1, int(x.max()) + 1
    patch = np.zeros((who.max() + 1, height, width))
    patch[who, y, x] = weight
    pairs = np.tensordot(patch, patch, (0, 0))
    lag_y = np.arange(height)[:, None] - np.arange(height) + height - 1
    lag_x = np.arange(width)[:, None] - np.arange(width) + width - 1
    out = np.zeros((2 * height - 1, 2 * width - 1))
    np.add.at(out, (lag_y[:, None, :, None], lag_x[:, None, :]), pairs)
    return out


def _operator(
    row: HostArray,
    count: HostArray,
    cols: HostArray,
    spatial: HostArray,
    *,
    spectral: HostArray,
    shape: tuple[int, int, int],
    **pixels: HostArray | None,
) -> CubeOperator:
    """Return the operator of entries sorted by row: `count` of them in each."""
    plane, depth = shape[1] * shape[2], spectral.shape[0]
    size = shape[0] * plane
    row = row.astype(_integer(size + depth * plane))
    # voxels of the rows and of the planes after them, and the position of each among these
    mask = np.zeros(size + 1, bool)
    for d in range(depth):
        mask[np.minimum(row + d * plane, size)] = True
    mask[size] = False
    voxels = np.flatnonzero(mask).astype(row.dtype)
    position = np.empty((depth, row.size), np.int32)
    rank = np.cumsum(mask, dtype=np.int32) - 1
    rank[size] = voxels.size
    for d in range(depth):
        position[d] = rank[np.minimum(row + d * plane, size)]
    return CubeOperator(
        rows=row,
        starts=np.concatenate([[0], np.cumsum(count)]).astype(_integer(cols.size)),
        cols=cols,
        spatial=spatial,
        spectral=spectral,
        voxels=voxels,
        position=position,
        shape=shape,
        **pixels,
    )


def _integer(largest: int) -> type[np.int32 | np.int64]:
    return np.int32 if largest < 2**31 else np.int64


def assemble_voxels(
    pixels: HostArray,
    who: HostArray,
    voxel: HostArray,
    value: HostArray,
    *,
    shape: tuple[int, int, int],
) -> CubeOperator:
    """Put an operator together whose entries are given voxel by voxel.

    Parameters
    ----------
    pixels : (p,) integer
        Flat detector index of each pixel.
    who, voxel, value : (n,)
        Position of the pixel, flat index of the voxel, and weight of each entry.
    shape : tuple of int
        (wave, y, x) of the cube.
    """
    plane = (voxel // (shape[1] * shape[2])).astype(np.int32)
    # a pixel reaches few planes after its first
    lowest = np.full(pixels.size, shape[0], np.int32)
    np.minimum.at(lowest, who, plane)
    after = plane - lowest[who]
    reached = np.zeros((int(after.max(initial=-1)) + 1, pixels.size), bool)
    reached[after, who] = True
    later, one = np.nonzero(reached)
    first = lowest[one] + later
    order = np.argsort(first, kind="stable")
    place = np.zeros(reached.shape, np.int32)
    place[later[order], one[order]] = np.arange(order.size, dtype=np.int32)
    who, first, pixels = place[after, who], first[order], pixels[one[order]]
    n_out = shape[0] * shape[1] * shape[2]
    return _operator(
        *_by_row(voxel, who, value, (n_out, pixels.size)),
        pixels=pixels.astype(np.int32),
        first=first.astype(np.int32),
        spectral=np.ones((1, pixels.size), np.float32),
        shape=shape,
    )

"""Drizzle geometry: which input pixel covers which output pixel, and by how much.

Drizzling (Fruchter & Hook 2002, PASP 114, 144, https://doi.org/10.1086/338393) is a weighted mean
over the input pixels that overlap an output pixel. The overlap depends on geometry alone, so it is
computed once, in float64, as a sparse operator; :mod:`spec2fn.kernels.resampling` applies it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from spec2fn.host.quadrilaterals import Entries, joined, quad_entries
from spec2fn.kernels.resampling import Overlap, Pairs
from spec2fn.typing import HostArray

__all__ = ["corners", "drizzle_overlap", "neighbour_pairs", "stack_overlaps", "stack_pairs"]

# Below this pixfrac a shrunken pixel is a point: dividing by its area would amplify round-off.
_POINT_PIXFRAC = 1e-3


def corners(pixel_map: HostArray, half: float) -> tuple[HostArray, HostArray]:
    """Return where the corners of shrunken input pixels fall in the output image.

    Parameters
    ----------
    pixel_map : (2, y, x) float64
        x and y in the output image of the centre of each input pixel; NaN where unknown. It is
        extrapolated linearly: where its edge is not that of the detector, a border of NaN belongs
        to it.
    half : float
        Half of the width of the shrunken pixel [input pixels], at most 0.5.

    Returns
    -------
    x, y : (4, y, x) float64
        Corners in clockwise order of the input grid, NaN where any neighbour is unknown.

    Notes
    -----
    Corners are interpolated bilinearly between pixel centres, as in the drizzle algorithm; they
    are not evaluated with the WCS.
    """
    padded = np.pad(pixel_map, ((0, 0), (1, 1), (1, 1)), constant_values=np.nan)
    padded[:, :, 0] = 2 * padded[:, :, 1] - padded[:, :, 2]
    padded[:, :, -1] = 2 * padded[:, :, -2] - padded[:, :, -3]
    padded[:, 0] = 2 * padded[:, 1] - padded[:, 2]
    padded[:, -1] = 2 * padded[:, -2] - padded[:, -3]
    centre = padded[:, :, 1:-1] * (1.0 - half)
    to_left = centre + half * padded[:, :, :-2]
    to_right = centre + half * padded[:, :, 2:]

    def up(columns: HostArray) -> HostArray:
        return columns[:, 1:-1] * (1.0 - half) + half * columns[:, 2:]

    def down(columns: HostArray) -> HostArray:
        return columns[:, 1:-1] * (1.0 - half) + half * columns[:, :-2]

    found = np.stack([up(to_left), up(to_right), down(to_right), down(to_left)])
    # a pixel without a position on any side has no outline at all
    found[:, :, ~np.isfinite(found).all(axis=(0, 1))] = np.nan
    return found[:, 0], found[:, 1]


def _round(x: HostArray) -> HostArray:
    """Nearest integer, halves away from zero: -0.5 belongs to no pixel, 0.5 to pixel 1."""
    return np.trunc(x + np.copysign(0.5, x)).astype(np.int64)


def _square_entries(x: HostArray, y: HostArray, shape: tuple[int, int]) -> Entries:
    """Return input index, output index and overlap fraction for quadrilaterals (4, n)."""
    jacobian = 0.5 * ((x[1] - x[3]) * (y[0] - y[2]) - (x[0] - x[2]) * (y[1] - y[3]))
    (known,) = np.nonzero(np.isfinite(jacobian) & (jacobian != 0))
    # cell i of an image has its centre at i
    who, cell, area = quad_entries(x.take(known, axis=1) + 0.5, y.take(known, axis=1) + 0.5, shape)
    col = known[who]
    return col, cell, area / np.abs(jacobian[col])


def _point_entries(pixel_map: HostArray, shape: tuple[int, int]) -> Entries:
    ny, nx = shape
    x, y = pixel_map.reshape(2, -1)
    col = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
    ix, iy = _round(x[col]), _round(y[col])
    inside = (ix >= 0) & (ix < nx) & (iy >= 0) & (iy < ny)
    return col[inside], (iy * nx + ix)[inside], np.ones(int(inside.sum()))


def drizzle_overlap(
    pixel_map: HostArray,
    shape_out: tuple[int, int],
    kernel: str = "square",
    pixfrac: float = 1.0,
) -> Overlap:
    """Return the overlap of input pixels with output pixels.

    Parameters
    ----------
    pixel_map : (2, y, x) float64
        See :func:`corners`.
    shape_out : tuple of int
        (y, x) of the output image.
    kernel : {"square", "point"}
        "square" spreads a pixel evenly over its shrunken outline, "point" puts it all into the
        output pixel that holds its centre.
    pixfrac : float
        Linear size of the shrunken pixel; at most 0.001 means "point".
    """
    if kernel == "point" or pixfrac <= _POINT_PIXFRAC:
        cols, rows, area = _point_entries(pixel_map, shape_out)
    else:
        x, y = corners(pixel_map, 0.5 * pixfrac)
        cols, rows, area = _square_entries(x.reshape(4, -1), y.reshape(4, -1), shape_out)
    shape_in = (pixel_map.shape[1], pixel_map.shape[2])
    order = np.argsort(rows.astype(np.int64) * (shape_in[0] * shape_in[1]) + cols)
    return Overlap(
        rows=rows[order].astype(np.int32),
        cols=cols[order].astype(np.int32),
        area=area[order],
        shape_in=shape_in,
        shape_out=(int(shape_out[0]), int(shape_out[1])),
        by_slit=(len(order),),
    )


def neighbour_pairs(overlap: Overlap, axis: int) -> Pairs:
    """Return the pairs of output pixels along `axis` that share an input pixel.

    They are what the covariance between neighbours is summed over. `axis` is 0 for pairs along y,
    1 along x.
    """
    nx = overlap.shape_out[1]
    by_input = np.lexsort((overlap.rows, overlap.cols))
    cols = overlap.cols[by_input].astype(np.int64)
    iy, ix = np.divmod(overlap.rows[by_input].astype(np.int64), nx)
    along, across = (iy, ix) if axis == 0 else (ix, iy)
    found: list[tuple[HostArray, HostArray, HostArray]] = []
    step = lags = 1
    while step < cols.size:
        same = cols[step:] == cols[:-step]
        if not same.any():
            break
        lag = along[step:] - along[:-step]
        n = np.flatnonzero(same & (across[step:] == across[:-step]) & (lag > 0))
        if n.size:
            lags = max(lags, int(lag[n].max()))
            slots = (lag[n] - 1) * overlap.n_out + overlap.rows[by_input[n]]
            found.append((by_input[n], by_input[n + step], slots))
        step += 1
    parts = joined(found)
    order = np.argsort(parts[2], kind="stable")
    first, second, slots = (part[order].astype(np.int32) for part in parts)
    by_lag = np.bincount(slots // overlap.n_out, minlength=lags)
    return Pairs(first, second, slots, lags, overlap.shape_out, (tuple(by_lag.tolist()),))


def _moved(flat: HostArray, width: int, target: tuple[int, int], position: int) -> HostArray:
    """Flat indices of an image inside the image at `position` of a stack of padded ones."""
    y, x = np.divmod(flat.astype(np.int64), width)
    return y * target[1] + x + position * (target[0] * target[1])


def stack_overlaps(
    overlaps: Mapping[int, Overlap],
    images: int,
    shape_in: tuple[int, int],
    shape_out: tuple[int, int],
) -> Overlap:
    """Return one operator for images that stand on top of each other, padded to one size.

    Parameters
    ----------
    overlaps : mapping of int to Overlap
        By position in the stack, ascending; of the other images nothing is known.
    images : int
        How many there are.
    shape_in, shape_out : tuple of int
        (y, x) of the padded images.
    """
    by_slit = tuple(overlaps[i].rows.size if i in overlaps else 0 for i in range(images))
    n = sum(by_slit)
    # filled in place: there may be millions of entries
    rows, cols, area = np.empty(n, np.int32), np.empty(n, np.int32), np.empty(n)
    end = 0
    for i, one in overlaps.items():
        here = slice(end, end := end + one.rows.size)
        rows[here] = _moved(one.rows, one.shape_out[1], shape_out, i)
        cols[here] = _moved(one.cols, one.shape_in[1], shape_in, i)
        area[here] = one.area
    return Overlap(
        rows=rows,
        cols=cols,
        area=area,
        shape_in=shape_in,
        shape_out=shape_out,
        by_slit=by_slit,
    )


def stack_pairs(
    pairs: Mapping[int, Pairs],
    overlaps: Mapping[int, Overlap],
    images: int,
    shape_out: tuple[int, int],
) -> Pairs:
    """Return the pairs of a stack of images; see :func:`stack_overlaps`."""
    lags = max((p.lags for p in pairs.values()), default=1)
    n_out = images * shape_out[0] * shape_out[1]
    n = sum(p.first.size for p in pairs.values())
    by_slit = np.zeros((images, lags), dtype=int)
    first, second, slots = (np.empty(n, np.int32) for _ in range(3))
    end = 0
    for lag in range(lags):
        before = 0  # entries of the images below
        for i, one in pairs.items():
            pixels = overlaps[i].n_out
            low, high = np.searchsorted(one.slots, [lag * pixels, (lag + 1) * pixels])
            rows = one.slots[low:high].astype(np.int64) - lag * pixels
            here = slice(end, end := end + rows.size)
            by_slit[i, lag] = rows.size
            slots[here] = lag * n_out + _moved(rows, overlaps[i].shape_out[1], shape_out, i)
            first[here] = one.first[low:high] + before
            second[here] = one.second[low:high] + before
            before += overlaps[i].rows.size
    return Pairs(first, second, slots, lags, shape_out, tuple(map(tuple, by_slit.tolist())))

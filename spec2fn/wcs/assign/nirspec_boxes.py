"""Bounding boxes of NIRSpec slits: where the spectrum of a slit falls on a detector.

The algorithm is that of the JWST documentation of assign_wcs: both edges of a slit are projected
at closely spaced wavelengths, which gives the columns; the rows are then narrowed to those with
a pixel that looks into the slit. Here only the extremes of a coarse grid of wavelengths are
looked at closely, and only the outer rows, for all slits at once.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from spec2fn.typing import HostArray
from spec2fn.wcs.assign.nirspec_batch import SlitBatch
from spec2fn.wcs.assign.nirspec_optics import DETECTOR_SIZE

__all__ = ["bounding_boxes", "lit_pixels", "on_detector", "trace_boxes"]

_LAST_PIXEL = DETECTOR_SIZE - 1
_MARGIN_X, _MARGIN_Y = 10, 2  # pixels
_STEP = 1e-10  # m
_COARSE = 257  # wavelengths of the first look
_ROWS = 4  # of the boxes looked at in one go
_CHUNK = 1 << 16  # pixels evaluated in one go


def trace_boxes(batch: SlitBatch) -> HostArray:
    """Project the edges of slits onto the detector, at all wavelengths of interest.

    Returns
    -------
    array, shape (slit, 2, 2), float64
        ``[[x_low, x_high], [y_low, y_high]]`` with margins, clipped to the detector.
    """
    low, high = batch.optics.waverange
    # at least the two ends, however narrow a range a user sets
    count = max(int((high - low) / _STEP), 2)
    grid = np.linspace(low, high, count)
    coarse = np.unique(np.linspace(0, count - 1, min(_COARSE, count)).astype(int))
    slit = np.arange(len(batch.slits))[:, None, None]
    pixels = batch.detector(slit, 0.0, batch.edges[:, :, None], grid[coarse])
    boxes = np.empty((len(batch.slits), 2, 2))
    for axis, values in enumerate(pixels):
        for side, pick in enumerate((np.argmin, np.argmax)):
            # NaN is the extreme of all: then nothing is known, and the whole detector is taken
            flat = pick(values.reshape(len(values), -1), axis=1)
            edge, position = np.unravel_index(flat, values.shape[1:])
            near = _between(coarse, position)
            close = batch.detector(
                slit[..., 0],
                0.0,
                np.take_along_axis(batch.edges, edge[:, None], 1),
                grid[near],
            )[axis]
            boxes[:, axis, side] = (close.min if side == 0 else close.max)(axis=1)
    return _padded(boxes)


def _between(coarse: HostArray, position: HostArray) -> HostArray:
    # all grid points between the neighbours of a point of the coarse grid
    first = coarse[np.maximum(position - 1, 0)]
    last = coarse[np.minimum(position + 1, coarse.size - 1)]
    steps = np.arange(int((last - first).max(initial=0)) + 1)
    return np.minimum(first[:, None] + steps, last[:, None])


def _padded(extent: HostArray) -> HostArray:
    # pixels of the optical model are counted from 1, those of the detector from 0
    margin = np.array([_MARGIN_X, _MARGIN_Y], dtype=np.float64)
    low = np.fmax(0, extent[:, :, 0] - 1 - margin) - 0.5
    high = np.fmin(_LAST_PIXEL, extent[:, :, 1] - 1 + margin) + 0.5
    return np.stack([low, high], axis=2)


def on_detector(boxes: HostArray) -> HostArray:
    """Say which slits have light on the detector, from :func:`trace_boxes`.

    Returns
    -------
    bool array, shape (slit,)
    """
    low, high = boxes[:, :, 0], boxes[:, :, 1]
    inside = (low < _LAST_PIXEL + 1) & (high > 0)
    size = high - low
    return inside.all(axis=1) & (size[:, 0] >= 2) & (size[:, 1] >= 1)


def bounding_boxes(batch: SlitBatch) -> HostArray:
    """Bounding boxes of slits.

    Returns
    -------
    array, shape (slit, 2, 2), float64
        As :func:`trace_boxes`, with the rows narrowed to those in which a pixel sees light of
        the slit, and a margin.
    """
    boxes = trace_boxes(batch)
    ordered = (boxes[:, :, 0] <= boxes[:, :, 1]).all(axis=1)
    (slits,) = np.nonzero(ordered)
    if slits.size:
        first, last = _lit_rows(batch, slits, boxes)
        lit = first <= last
        rows = np.stack([first, last], axis=1)[lit].astype(np.float64)
        extent = np.stack([np.zeros_like(rows), rows], axis=1)
        boxes[slits[lit], 1] = _padded(extent)[:, 1]
    return boxes


def lit_pixels(
    batch: SlitBatch, boxes: HostArray, shape: tuple[int, int]
) -> Iterator[tuple[int, tuple[slice, slice], HostArray, HostArray]]:
    """Evaluate slits at the pixels of an image whose centres are in their bounding boxes.

    Yields
    ------
    number : int
        Of each slit with such pixels.
    window : (slice, slice)
        Their rows and columns.
    along, wavelength : array
        From :meth:`SlitBatch.slit_frame`; NaN outside the slit.
    """
    first = np.maximum(np.ceil(boxes[:, :, 0]), 0).astype(int)
    stop = np.minimum(np.floor(boxes[:, :, 1]), [shape[1] - 1, shape[0] - 1]).astype(int) + 1
    for i in np.flatnonzero((first < stop).all(axis=1)).tolist():
        columns, rows = (slice(a, b) for a, b in zip(first[i], stop[i], strict=True))
        y, x = np.ogrid[rows, columns]
        seen = batch.slit_frame(np.array(i), x.astype(float), y.astype(float))
        yield i, (rows, columns), *seen


def _lit_rows(batch: SlitBatch, slits: HostArray, boxes: HostArray) -> tuple[HostArray, ...]:
    # first and last row of each box with a finite wavelength, going inwards from its edges
    low = np.floor(boxes[slits, :, 0] + 0.5).astype(int)
    high = np.ceil(boxes[slits, :, 1] - 0.5).astype(int)
    outermost = []
    for start, stop, step in ((low[:, 1], high[:, 1], 1), (high[:, 1], low[:, 1], -1)):
        row = np.where(step > 0, stop + 1, stop - 1)
        looking = np.arange(slits.size)
        offset = 0
        while looking.size:
            rows = start[looking, None] + step * np.arange(offset, offset + _ROWS)
            lit = _any_light(batch, slits[looking], rows, low[looking, 0], high[looking, 0])
            lit &= (rows - stop[looking, None]) * step <= 0
            hit = lit.any(axis=1)
            row[looking[hit]] = rows[hit, lit[hit].argmax(axis=1)]
            offset += _ROWS
            passed = (start[looking] + step * offset - stop[looking]) * step > 0
            looking = looking[~(hit | passed)]
        outermost.append(row)
    return tuple(outermost)


def _any_light(
    batch: SlitBatch, slits: HostArray, rows: HostArray, first: HostArray, last: HostArray
) -> HostArray:
    out = np.zeros(rows.shape, dtype=bool)
    width = int((last - first).max()) + 1
    columns = np.arange(width)
    n = max(1, _CHUNK // (width * rows.shape[1]))
    for i in range(0, slits.size, n):
        part = slice(i, i + n)
        x = first[part, None] + columns
        along, wavelength = batch.slit_frame(
            slits[part, None, None], x[:, None, :].astype(float), rows[part, :, None].astype(float)
        )
        inside = (x <= last[part, None])[:, None, :]
        out[part] = (np.isfinite(along) & np.isfinite(wavelength) & inside).any(axis=2)
    return out

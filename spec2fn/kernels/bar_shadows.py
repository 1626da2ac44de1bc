"""Shadows of the bars between the open shutters of slitlets."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from spec2fn.kernels.namespace import array_namespace
from spec2fn.kernels.slit_corrections import bilinear
from spec2fn.typing import Array, HostArray

__all__ = ["assemble_shadows", "bilinear_clipped"]


def bilinear_clipped(images: Array, which: Array, row: Array, column: Array) -> Array:
    """Interpolate images at many places, each slit in its own image.

    Parameters
    ----------
    images : array, shape (k, r, c)
    which : array of int, shape (slit,)
        The image of each slit.
    row, column : array of float, shape (slit, y, x)
        Zero-based, finite; the dtype in which to compute. Places outside take the value of the
        nearest edge.

    Returns
    -------
    array, shape (slit, y, x)
    """
    xp = array_namespace(images, which, row, column)
    row, column = xp.asarray(row), xp.asarray(column)
    images = xp.asarray(images).astype(row.dtype)
    n_rows, n_columns = images.shape[-2:]
    row, column = xp.clip(row, 0, n_rows - 1), xp.clip(column, 0, n_columns - 1)
    k = xp.asarray(which)[:, None, None]
    return bilinear(lambda y, x: images[k, y, x], column, row, images.shape[-2:])


def assemble_shadows(single: Array, triple: Array, states: tuple[str, ...]) -> Array:
    """Build the bar shadows of slitlets from those of one and of three open shutters.

    Parameters
    ----------
    single, triple : array, shape (2 h + 1, c)
        Transmission from the centre of the shutter below to the centre of the one above, of a
        single open shutter and of the middle one of three.
    states : tuple of str
        State of each shutter of a slitlet: ``"0"`` closed, anything else open. Not empty.

    Returns
    -------
    array, shape (k, h (n_max + 1), c)
        From one shutter below the first to one above the last; shorter slitlets repeat their
        last row.

    Notes
    -----
    Where two pieces meet, the mean of both is taken. Algorithm: JWST pipeline documentation,
    barshadow step.
    """
    xp = array_namespace(single, triple)
    single, triple = xp.asarray(single), xp.asarray(triple)
    count = single.shape[0]
    half = (count - 1) // 2
    dark = xp.broadcast_to(xp.nanmin(single), (1, single.shape[1]))
    rows = xp.concatenate([single, triple[: half + 1], dark])
    first, second = _rows_of(states, count)
    # where nothing meets both are the same row, whose mean is exact
    shadows: Array = 0.5 * (rows[first] + rows[second])
    return shadows


def _rows_of(states: tuple[str, ...], count: int) -> tuple[HostArray, HostArray]:
    """Rows whose means make up the shadows, (k, row): of `single`, `triple` and a dark one."""
    half = (count - 1) // 2
    piece = np.arange(half + 1)
    between = {
        (True, True): count + piece,
        (True, False): np.arange(half, count),
        (False, True): piece,
        (False, False): np.full(half + 1, count + half + 1),
    }
    length = half * (max(map(len, states)) + 1)
    found = []
    for state in states:
        # the first piece leads up to an open shutter, whatever the state says of it
        is_open = [True, *(s != "0" for s in state[1:])]
        pieces = [piece, *(between[pair] for pair in pairwise(is_open))]
        pieces.append(np.arange(half + 1, count))
        # one row of each pair of neighbours where two pieces meet
        first = np.concatenate([p[: len(p) - 1] for p in pieces] + [pieces[-1][-1:]])
        second = first.copy()
        ends = np.cumsum([len(p) - 1 for p in pieces])[:-1]
        first[ends], second[ends] = [p[-1] for p in pieces[:-1]], [p[0] for p in pieces[1:]]
        missing = length - len(first)
        found.append(np.pad(np.stack([first, second]), ((0, 0), (0, missing)), mode="edge"))
    both = np.stack(found, axis=1)
    return both[0], both[1]

"""Shadows of the bars between the open shutters of slitlets."""

from __future__ import annotations

from itertools import pairwise

from spec2fn.kernels.namespace import array_namespace
from spec2fn.kernels.slit_corrections import bilinear
from spec2fn.typing import Array

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
    half = (single.shape[0] - 1) // 2
    dark = xp.broadcast_to(xp.nanmin(single), (half + 1, single.shape[1]))
    between = {
        (True, True): triple[: half + 1],
        (True, False): single[half:],
        (False, True): single[: half + 1],
        (False, False): dark,
    }
    length = half * (max(map(len, states)) + 1)
    out = []
    for state in states:
        # the first piece leads up to an open shutter, whatever the state says of it
        is_open = [True, *(s != "0" for s in state[1:])]
        pieces = [single[: half + 1]]
        pieces += [between[pair] for pair in pairwise(is_open)]
        pieces.append(single[half + 1 :])
        rows = [pieces[0][:-1]]
        for before, after in pairwise(pieces):
            rows += [0.5 * (before[-1:] + after[:1]), after[1:-1]]
        rows.append(pieces[-1][-1:])
        image = xp.concatenate(rows)
        missing = length - image.shape[0]
        out.append(xp.concatenate([image, xp.repeat(image[-1:], missing, axis=0)]))
    return xp.stack(out)

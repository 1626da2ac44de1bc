"""Areas that circles cover of the pixels of an image.

The area of a disc inside a pixel is the second difference of one function of the pixel's corners,
the (signed) area of the disc inside the rectangle between its centre and a corner. That function
is a sum of terms in x alone and in y alone wherever the corner lies outside of the disc, so that
whole images of overlaps for many radii cost one arcsine per row and column edge. It has a
continuous first derivative in position and radius.
"""

from __future__ import annotations

import math

import numpy as np

from spec2fn.kernels.namespace import array_namespace
from spec2fn.typing import Array

__all__ = ["circle_overlap", "circle_sampled"]


def circle_overlap(
    centre: Array, radius: Array, shape: tuple[int, int], origin: tuple[int, int] = (0, 0)
) -> Array:
    """Return the exact area that a circle covers of every pixel.

    Parameters
    ----------
    centre : array of float64, (2,)
        Position x, y of the centre in an image whose first pixel is centred at 0 [pixel].
    radius : array of float64, (…)
        [pixel]; circles without a positive radius cover nothing.
    shape : (int, int)
        Rows and columns of the part of the image that is wanted.
    origin : (int, int), optional
        Row and column of its first pixel.

    Returns
    -------
    array of float64, (…, y, x)
        From 0 to 1. Differentiable once with respect to centre and radius.
    """
    xp = array_namespace(centre, radius)
    radius = xp.asarray(radius, dtype=np.float64)
    positive = radius > 0
    r = xp.where(positive, radius, xp.ones_like(radius))[..., None]
    ny, nx = shape
    y = np.arange(ny + 1) + (origin[0] - 0.5) - centre[1]
    x = np.arange(nx + 1) + (origin[1] - 0.5) - centre[0]
    (sign_x, x, part_x), (sign_y, y, part_y) = _edges(x, r), _edges(y, r)
    inside = x[..., None, :] ** 2 + y[..., :, None] ** 2 <= (r * r)[..., None]
    beyond = part_x[..., None, :] + part_y[..., :, None] - (math.pi / 4) * (r * r)[..., None]
    corner = xp.where(inside, x[..., None, :] * y[..., :, None], beyond)
    corner = corner * (sign_x[..., None, :] * sign_y[..., :, None])
    rows = corner[..., 1:, :] - corner[..., :-1, :]
    area = rows[..., 1:] - rows[..., :-1]
    # rounding leaves 1e-14 outside of the circle
    area = xp.where(area > 1e-12, area, xp.zeros_like(area))
    return xp.where(positive[..., None, None], area, xp.zeros_like(area))


def _edges(distance: Array, r: Array) -> tuple[Array, Array, Array]:
    """Sign of the distances, their size up to the radius, and the area they contribute."""
    xp = array_namespace(distance, r)
    size = xp.minimum(xp.abs(distance), r)
    # at the rim the area has derivative zero, but the root and the arcsine have none
    inside = size < (1.0 - 1e-12) * r
    s = xp.where(inside, size, xp.zeros_like(size))
    area = 0.5 * (s * xp.sqrt(r * r - s * s) + r * r * xp.arcsin(s / r))
    area = xp.where(inside, area, (math.pi / 4) * r * r)
    return xp.sign(distance), size, area


def circle_sampled(
    centre: Array,
    radius: Array,
    shape: tuple[int, int],
    subpixels: int,
    origin: tuple[int, int] = (0, 0),
) -> Array:
    """Return the fraction of the subpixels of every pixel whose centre lies in a circle.

    Parameters
    ----------
    centre, radius, shape, origin
        As for :func:`circle_overlap`.
    subpixels : int
        Subpixels along each side of a pixel; 1 asks whether the centre of the pixel is inside.

    Returns
    -------
    array of float64, (…, y, x)
    """
    xp = array_namespace(centre, radius)
    radius = xp.asarray(radius, dtype=np.float64)[..., None, None]
    ny, nx = shape
    y = (np.arange(ny) + origin[0] - centre[1])[:, None]
    x = np.arange(nx) + origin[1] - centre[0]
    square = xp.where(radius > 0, radius * radius, xp.zeros_like(radius))
    offsets = (np.arange(subpixels) + 0.5) / subpixels - 0.5
    count = xp.zeros((*radius.shape[:-2], ny, nx))
    for dy in offsets:
        for dx in offsets:
            count = count + ((x + dx) ** 2 + (y + dy) ** 2 < square)
    return count / subpixels**2

"""The slices of an integral-field unit as a stack of equal cutouts, and back.

Slices lie beside each other on the detector, tilted and curved, so that no line across the
dispersion belongs to one of them. The cutout of a slice is its bounding box; what belongs to a
neighbour there is marked.
"""

from __future__ import annotations

import numpy as np

from spec2fn.kernels.namespace import array_namespace
from spec2fn.plan_base import Plan, array
from spec2fn.typing import Array, HostArray, Number

__all__ = ["SlicesPlan", "make_slices_plan"]


class SlicesPlan(Plan):
    """Where the pixels of slices are; without arrays, the whole image is one slice.

    Attributes
    ----------
    index : array of int32, (slice, h, w)
        Position in the flattened image of every pixel of the cutouts.
    inside : bool array, (slice, h, w)
        Whether the pixel belongs to the slice.
    place : array of int32, (y, x)
        Position in the flattened cutouts of every pixel of the image; -1 outside of all slices.
    """

    index: Array | None = array("slice h w", default=None)
    inside: Array | None = array("slice h w", default=None)
    place: Array | None = array("y x", default=None)

    def cut(self, image: Array, fill: Number) -> Array:
        """Return the cutouts of an image, (…, y, x) to (…, slice, h, w); `fill` beyond a slice."""
        if self.index is None:
            return image
        xp = array_namespace(image)
        flat = image.reshape(*image.shape[:-2], -1)
        return xp.where(self.inside, flat[..., self.index], xp.asarray(fill, dtype=image.dtype))

    def paste(self, image: Array, cutouts: Array) -> Array:
        """Return the image with the pixels of the slices replaced by those of the cutouts."""
        if self.place is None:
            return cutouts
        xp = array_namespace(image, cutouts)
        flat = cutouts.reshape(*cutouts.shape[:-3], -1)
        if not flat.size:
            return image
        return xp.where(self.place >= 0, flat[..., xp.maximum(self.place, 0)], image)


def make_slices_plan(slices: HostArray) -> SlicesPlan:
    """Find the slices in a map of their numbers.

    Parameters
    ----------
    slices : array of int, (y, x)
        0 outside of the slices.
    """
    from scipy.ndimage import find_objects

    shape = slices.shape
    y, x = np.nonzero(slices > 0)
    _, number = np.unique(slices[y, x], return_inverse=True)
    boxes = [box for box in find_objects(slices) if box is not None]
    count = len(boxes)
    h, w = (max((b[axis].stop - b[axis].start for b in boxes), default=1) for axis in (0, 1))
    # a cutout that would reach beyond the image begins earlier
    start_y = np.array([min(rows.start, shape[0] - h) for rows, _ in boxes], dtype=int)
    start_x = np.array([min(columns.start, shape[1] - w) for _, columns in boxes], dtype=int)
    rows, columns = start_y[:, None] + np.arange(h), start_x[:, None] + np.arange(w)
    index = (rows[:, :, None] * shape[1] + columns[:, None, :]).astype(np.int32)
    label = np.full(shape, -1, dtype=np.int32)
    label[y, x] = number
    inside = label.reshape(-1)[index] == np.arange(count)[:, None, None]
    place = np.full(shape, -1, dtype=np.int32)
    place[y, x] = (number * h + y - start_y[number]) * w + x - start_x[number]
    return SlicesPlan(index=index, inside=inside, place=place)

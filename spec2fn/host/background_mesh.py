"""A smooth background from medians of boxes: the mesh of SExtractor, as photutils has it.

E. Bertin & S. Arnouts 1996, A&AS 117, 393: the image is cut into boxes, each is sigma-clipped
and its median taken, the mesh of medians is median-filtered and interpolated by bicubic splines.
Boxes with too many of their pixels masked or clipped take the mean of their neighbours.
"""

from __future__ import annotations

import numpy as np

from spec2fn.typing import HostArray

__all__ = ["background_mesh"]

_LARGEST_BOX = 32


def background_mesh(
    image: HostArray,
    mask: HostArray,
    box: tuple[int, int] | None = None,
    *,
    filter_size: int = 5,
    excluded: float = 10.0,
    at: tuple[HostArray, HostArray] | None = None,
) -> HostArray | None:
    """Fit a background that varies slowly over an image.

    Parameters
    ----------
    image : ndarray, (y, x), float32
        Finite.
    mask : bool ndarray, (y, x)
        True where a pixel shows background.
    box : (int, int), optional
        Rows and columns of a box; by default the largest of at most 32 x 32 pixels that divides
        the image evenly.
    filter_size : int
        Boxes along each side of the median filter.
    excluded : float
        Percentage of a box that may be masked or clipped.
    at : (int array, int array), optional
        Rows and columns of the pixels that are wanted.

    Returns
    -------
    ndarray, (y, x) or that of `at`, float32, or None
        None if no box has enough pixels.
    """
    from astropy.stats import SigmaClip
    from photutils.background import Background2D, MedianBackground

    divides = [[k for k in range(1, _LARGEST_BOX + 1) if n % k == 0] for n in image.shape]
    size = tuple(map(max, divides)) if box is None else tuple(map(min, box, image.shape))
    try:
        mesh = Background2D(
            image,
            size,
            mask=~mask,
            filter_size=filter_size,
            exclude_percentile=excluded,
            sigma_clip=SigmaClip(sigma=3.0, maxiters=5),
            bkg_estimator=MedianBackground(),
        )
    except ValueError:  # what it raises if it has to exclude every box
        return None
    if at is None:
        return mesh.background
    from scipy.ndimage import map_coordinates

    # what photutils does to the whole image
    boxes = mesh.background_mesh
    places = [(np.asarray(p) + 0.5) / n - 0.5 for p, n in zip(at, size, strict=True)]
    values = map_coordinates(boxes, places, order=3, mode="reflect")
    return np.clip(values, boxes.min(), boxes.max())

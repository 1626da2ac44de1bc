"""Which image of a library fits the background of an exposure, and by how much it is multiplied."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from spec2fn.typing import HostArray

__all__ = ["TemplateFit", "best_template", "step_columns"]

# where the background of a slitless exposure of NIRISS steps up, and how far right of it pixels
# see more background than wings of the source
_STEP = (685, 725)
_LAST = 950
_SMOOTHING = 3.0
_ENOUGH = 0.25  # of the pixels of a block


class TemplateFit(NamedTuple):
    """What fits a background best.

    Attributes
    ----------
    template : int
        Of the image in the library.
    scales : (float, float)
        Factors left and right of the step.
    spread : float
        Sum of the root mean squares of the residuals of both sides.
    """

    template: int
    scales: tuple[float, float]
    spread: float


def step_columns(image: HostArray) -> HostArray:
    """Return the first column, row by row, right of the step in a background.

    Parameters
    ----------
    image : array, shape (y, x)
        At least 725 columns.

    Returns
    -------
    array of int, shape (y,)
        Where the smoothed image rises most.
    """
    from scipy.ndimage import gaussian_filter

    rise = np.gradient(gaussian_filter(image, _SMOOTHING), axis=1)
    return np.argmax(rise[:, slice(*_STEP)], axis=1) + _STEP[0]


def best_template(
    data: HostArray,
    usable: HostArray,
    library: HostArray,
    *,
    source_percentile: float,
    background_percentiles: tuple[float, float],
    block: int = 1,
) -> TemplateFit | None:
    """Find the image of a library that fits a background best, and its scales.

    Each side of the step of an image has a scale of its own: the median of the ratios of data and
    image that lie between two of their percentiles. Pixels of all integrations count alike.

    Parameters
    ----------
    data : array, shape (integration, y, x)
    usable : bool array, shape of `data`
        Pixels that count, if they have a value.
    library : array, shape (n, y, x)
    source_percentile : float
        Pixels at this percentile of all usable ones or above hold light of the source; blocks at
        that of all on their side.
    background_percentiles : (float, float)
        Of the ratios.
    block : int
        Pixels along the side of squares that count by their mean over all integrations. The lowest
        of single pixels are those with the lowest noise, and their ratios below the background;
        squares are chosen by every other of their pixels, and count by the others.

    Returns
    -------
    TemplateFit or None
        None if no image has a scale on both sides.

    Notes
    -----
    Algorithm: background subtraction step of the JWST calibration pipeline, "SOSS Mode"
    (https://jwst-pipeline.readthedocs.io).
    """
    good = usable & np.isfinite(data)
    if block == 1 and good.any():
        good &= data < np.percentile(data[good], source_percentile)
    columns = slice(0, _LAST + 1)
    near, good = (np.ascontiguousarray(a[..., columns]) for a in (data, good))
    limits = (source_percentile, *background_percentiles)
    best: TemplateFit | None = None
    for index, image in enumerate(library):
        right = np.arange(near.shape[-1]) >= step_columns(image)[:, None]
        of_image = image[:, columns]
        sides = [
            _scale(near, good & side, of_image, background_percentiles)
            if block == 1
            else _scale_of_blocks(near, good & side, of_image, limits, block)
            for side in (~right, right)
        ]
        if any(side is None for side in sides):
            continue
        scales, spreads = zip(*(s for s in sides if s is not None), strict=True)
        fit = TemplateFit(index, (scales[0], scales[1]), sum(spreads))
        if best is None or fit.spread < best.spread:
            best = fit
    return best


def _scale(
    data: HostArray, good: HostArray, image: HostArray, percentiles: tuple[float, float]
) -> tuple[float, float] | None:
    """Scale of an image on one side, and the root mean square of what is left."""
    values, of_image = data[good], np.broadcast_to(image, data.shape)[good]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = values / of_image
    finite = np.isfinite(ratio)
    ratio, values, of_image = ratio[finite], values[finite], of_image[finite]
    if not ratio.size:
        return None
    low, high = np.percentile(ratio, percentiles)
    between = ratio[(ratio > low) & (ratio < high)]
    if not between.size:
        return None
    scale = float(np.median(between))
    return scale, float(np.sqrt(np.square(values - of_image * scale).mean()))


def _scale_of_blocks(
    data: HostArray,
    good: HostArray,
    image: HostArray,
    percentiles: tuple[float, float, float],
    block: int,
) -> tuple[float, float] | None:
    """The same from means of blocks; the first percentile is that of the source."""
    rows, columns = np.indices(image.shape)
    even = (rows + columns) % 2 == 0
    chosen, counted = (_means(block, good & half, data, image) for half in (even, ~even))
    with np.errstate(divide="ignore", invalid="ignore"):
        first, second = chosen[0] / chosen[1], counted[0] / counted[1]
    known = np.isfinite(first) & np.isfinite(second)
    if not known.any():
        return None
    faint = known & (chosen[0] < np.percentile(chosen[0][known], percentiles[0]))
    if not faint.any():
        return None
    low, high = np.percentile(first[faint], percentiles[1:])
    between = faint & (first > low) & (first < high)
    if not between.any():
        return None
    scale = float(np.median(second[between]))
    return scale, float(np.sqrt(np.square(counted[0] - counted[1] * scale)[faint].mean()))


def _means(
    block: int, good: HostArray, data: HostArray, image: HostArray
) -> tuple[HostArray, HostArray]:
    """Means over the good pixels of blocks, of data and image; NaN where there are few of them."""
    rows, columns = (np.arange(0, n, block) for n in image.shape)

    def total(values: HostArray) -> HostArray:
        return np.add.reduceat(np.add.reduceat(values, rows, 0), columns, 1)

    times = good.sum(axis=0, dtype=np.float64)
    number = total(times)
    few = number < _ENOUGH * len(good) * total(np.ones(image.shape))
    sums = np.where(good, data, 0.0).sum(axis=0, dtype=np.float64), times * image
    with np.errstate(divide="ignore", invalid="ignore"):
        found = [np.where(few, np.nan, total(v) / number) for v in sums]
    return found[0], found[1]

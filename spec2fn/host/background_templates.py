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


class TemplateFit(NamedTuple):
    """What fits a background best.

    Attributes
    ----------
    index : int
        Of the image in the library.
    scales : (float, float)
        Factors left and right of the step.
    spread : float
        Sum of the root mean squares of the residuals of both sides.
    """

    index: int
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
        Pixels at this percentile of all usable ones or above hold light of the source.
    background_percentiles : (float, float)
        Of the ratios.

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
    if not good.any():
        return None
    limit = np.percentile(data[good], source_percentile)
    columns = slice(0, _LAST + 1)
    near = np.ascontiguousarray(data[..., columns])
    good = good[..., columns] & (near < limit)
    best: TemplateFit | None = None
    for index, image in enumerate(library):
        right = np.arange(near.shape[-1]) >= step_columns(image)[:, None]
        sides = [
            _scale(near, good & side, image[:, columns], background_percentiles)
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

"""Search for residual bad pixels in the minimum image of several exposures."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from spec2fn.errors import DatasetError
from spec2fn.kernels.statistics import masked_median, running_median
from spec2fn.plan_base import Plan, array
from spec2fn.schema import meta_of, require
from spec2fn.typing import Array, HostArray

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["SelfcalPlan", "find_bad_pixels", "minimum_image"]

_GAPS = {"MIRIFUSHORT": slice(503, 516), "MIRIFULONG": slice(474, 507)}
"""Columns between the channels of the MIRI MRS, which see the dark pedestal but no light."""

_MARGIN = 50  # rows at both ends of the gap that are left out

_FEW = 32  # integrations for which a sorting network beats a sort


class SelfcalPlan(Plan):
    """The pixels to flag.

    Attributes
    ----------
    bad : ndarray, (y, x), bool
    """

    bad: Array = array("y x")


def minimum_image(exposures: Sequence[xr.Dataset]) -> HostArray:
    """Return the smallest value of each pixel over exposures, ignoring NaN.

    A source that moves between exposures disappears; a pixel that is hot in all of them stays.
    An exposure of several integrations counts once, through the median of each pixel over its
    integrations: that is what the exposure's mean rate is to the algorithm, without the outliers
    that a mean or a minimum over many integrations would pick up.

    Parameters
    ----------
    exposures : sequence of xarray.Dataset
        The first is the science exposure; all of one size.

    Returns
    -------
    ndarray, (y, x), float32

    Raises
    ------
    DatasetError
        If an exposure differs in size from the first.
    """
    shape = exposures[0]["sci"].shape[-2:]
    detector = str(exposures[0].attrs.get("detector", "")).upper()
    out = None
    for exposure in exposures:
        who = meta_of(exposure).filename or "an exposure in memory"
        require(exposure, ("sci",), f"badpix_selfcal: {who}")
        image = np.asarray(exposure["sci"].values)
        if image.shape[-2:] != shape:
            msg = (
                f"badpix_selfcal: {who} is {image.shape[-2:]} but the science exposure is {shape};"
                " all exposures must be of the same subarray"
            )
            raise DatasetError(msg)
        image = np.where(np.isfinite(image), image, np.asarray(np.nan, image.dtype))
        if image.ndim > 2:
            image = _median_integration(image)
        if detector in _GAPS:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "All-NaN", RuntimeWarning)
                rows = slice(_MARGIN, -_MARGIN) if len(image) > 4 * _MARGIN else slice(None)
                image = image - np.nanmedian(image[rows, _GAPS[detector]])
        out = image if out is None else np.fmin(out, image)
    assert out is not None
    return out


def _median_integration(cube: HostArray) -> HostArray:
    n, ny, nx = cube.shape
    out = np.empty((ny, nx), dtype=cube.dtype)
    rows = max(1, (1 << 20) // max(1, n * nx))
    for top in range(0, ny, rows):
        part = cube[:, top : top + rows]
        out[top : top + rows] = _median_few(part) if n <= _FEW else _median_many(part)
    return out


def _median_few(part: HostArray) -> HostArray:
    median, found = masked_median(list(part), list(~np.isnan(part)))
    return np.where(found, median, np.asarray(np.nan, part.dtype))


def _median_many(part: HostArray) -> HostArray:
    # NaN sorts to the end, so that the middle of what is left is found by counting
    values = np.array(np.moveaxis(part, 0, -1), order="C")
    values.sort(axis=-1)
    count = np.count_nonzero(~np.isnan(values), axis=-1)
    low = np.take_along_axis(values, np.maximum(count - 1, 0)[..., None] // 2, axis=-1)
    high = np.take_along_axis(
        values, np.minimum(count // 2, values.shape[-1] - 1)[..., None], axis=-1
    )
    return (low + high)[..., 0] / 2


def find_bad_pixels(
    image: HostArray,
    dispaxis: int | None,
    kernel_size: int = 15,
    flagfrac_lower: float = 0.001,
    flagfrac_upper: float = 0.001,
) -> SelfcalPlan:
    """Flag the pixels that stand out most from their neighbours along the dispersion.

    Parameters
    ----------
    image : ndarray, (y, x)
        As from :func:`minimum_image`.
    dispaxis : {1, 2} or None
        Dispersion along x, along y, or unknown: then the median window is a square.
    kernel_size : int
        Length of the median window [pixel].
    flagfrac_lower, flagfrac_upper : float
        Fraction of the finite pixels to flag at the low and at the high end.

    Returns
    -------
    SelfcalPlan
    """
    size = {1: (1, kernel_size), 2: (kernel_size, 1)}.get(dispaxis or 0, (kernel_size, kernel_size))
    residual = image - running_median(image, size)
    finite = residual[~np.isnan(residual)]
    if finite.size == 0:
        return SelfcalPlan(np.zeros(image.shape, dtype=bool))
    low, high = np.percentile(finite, [flagfrac_lower * 100, (1 - flagfrac_upper) * 100])
    return SelfcalPlan((residual > high) | (residual < low))

"""Where the target should fall on the detector, from the pointing and the dither pattern."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from spec2fn.plan_base import Plan, array
from spec2fn.schema import meta_of
from spec2fn.typing import Number
from spec2fn.wcs.assign.pointing import dithered_position

if TYPE_CHECKING:
    import xarray as xr
    from gwcs import WCS

__all__ = ["TargetPosition", "dither_on_detector"]

Point = tuple[float, float]


class TargetPosition(Plan):
    """Measured positions of a target; zero-dimensional float64 arrays, zero-indexed pixels.

    Attributes
    ----------
    ta_xpos, ta_ypos
        In the target acquisition image.
    source_xpos, source_ypos
        In the science exposure.
    """

    ta_xpos: Number = array("")
    ta_ypos: Number = array("")
    source_xpos: Number = array("")
    source_ypos: Number = array("")


def dither_on_detector(ds: xr.Dataset, wcs: WCS, who: str) -> tuple[Point, Point]:
    """Position on the detector at which the dither places the target, and its offset.

    Parameters
    ----------
    ds : xarray.Dataset
        Exposure; its keywords XOFFSET, YOFFSET (unless ``dithered_ra`` and ``dithered_dec`` are
        there), RA_REF, DEC_REF are used.
    wcs : gwcs.WCS
        With a wavelength axis, the position is taken at the middle of the spectrum.
    who : str
        Step named in errors.

    Returns
    -------
    position, offset : (float, float)
        Pixel (x, y), zero-indexed in the subarray, and its offset from the reference position.
        NaN if the WCS has no wavelength at the middle of its bounding box.

    Raises
    ------
    InputError
        For a missing keyword.
    """
    from spec2fn.wcs.lower import lower

    if "dithered_ra" in ds and "dithered_dec" in ds:
        sky = (float(ds["dithered_ra"].values), float(ds["dithered_dec"].values))
    else:
        sky = dithered_position(ds, wcs, who)
    meta = meta_of(ds)
    nominal = (meta.number("RA_REF", who), meta.number("DEC_REF", who))
    to_detector = lower(wcs, "world", "detector")
    extra = [np.full(2, _middle_wavelength(wcs))] if to_detector.n_inputs > 2 else []
    ra, dec = np.transpose([sky, nominal])
    x, y = to_detector(ra, dec, *extra)
    return (float(x[0]), float(y[0])), (float(x[0] - x[1]), float(y[0] - y[1]))


def _middle_wavelength(wcs: WCS) -> float:
    # MIRI LRS disperses along y; its wavelength hardly depends on x
    from spec2fn.wcs.lower import box_of, lower

    box = box_of(wcs)
    if box is None:
        return float("nan")
    (x_low, x_high), (y_low, y_high) = box
    x = np.arange(np.ceil(x_low), np.floor(x_high) + 1)
    wavelength = lower(wcs)(x, np.full_like(x, (y_low + y_high) / 2))[2]
    good = np.isfinite(wavelength)
    return float(wavelength[good].mean()) if good.any() else float("nan")

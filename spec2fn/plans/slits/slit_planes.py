"""Where the pixels of slits stand in their slits, and on wavelength."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from spec2fn.errors import DatasetError
from spec2fn.schema import meta_of
from spec2fn.typing import HostArray

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["slit_planes"]


def slit_planes(
    ds: xr.Dataset, wanted: HostArray, who: str, *, between_columns: bool = False
) -> tuple[HostArray, HostArray, list[str]]:
    """Evaluate the detector-to-slit transforms of the slits of a bucket.

    Parameters
    ----------
    ds : xarray.Dataset
        A bucket; ``meta.wcs`` is a mapping of slit id to gwcs with a frame ``slit_frame``.
    wanted : array of bool, shape (slit,)
        The slits to evaluate; the others stay NaN.
    who : str
        The step, for messages.
    between_columns : bool
        Evaluate at the edges of the columns instead of their centres.

    Returns
    -------
    y_slit : array of float64, shape (slit, y, x)
        Position along the slit, in units of its height; one more column with
        `between_columns`. NaN outside the slit and in the padding.
    wavelength : array of float64, shape (slit, y, x)
        [m]
    problems : list of str
        By slit: why it could not be evaluated, or an empty string. Such a slit stays NaN.

    Raises
    ------
    DatasetError
        If there are no WCSs of slits.
    """
    from spec2fn.wcs.assign.nirspec import SlitWcs
    from spec2fn.wcs.lower import lower

    wcs = meta_of(ds).wcs
    if not isinstance(wcs, Mapping):
        msg = f"{who}: the Dataset holds no WCS of slits (meta.wcs by slit id); run extract_2d"
        raise DatasetError(msg)
    extra = int(between_columns)
    shape = (ds.sizes["slit"], ds.sizes["y"], ds.sizes["x"] + extra)
    along, wavelength = np.full(shape, np.nan), np.full(shape, np.nan)
    problems = [""] * shape[0]
    heights, widths = ds["ysize"].values, ds["xsize"].values
    ids, rest = ds["slit"].values, np.array(wanted, dtype=bool)
    if isinstance(wcs, SlitWcs):  # the gwcs of slits that nothing has changed need not be made
        quick = rest & [int(i) in wcs and int(i) not in wcs.changes for i in ids]
        rest &= ~quick
        if quick.any():
            planes = wcs.on_pixels(wcs.slit_frame, ids[quick], shape[1:], -0.5 * extra)
            along[quick], wavelength[quick] = planes
    for i in np.flatnonzero(rest):
        slit, ny, nx = int(ids[i]), int(heights[i]), int(widths[i]) + extra
        try:
            transform = lower(wcs[slit], "detector", "slit_frame")
            x = np.arange(nx, dtype=np.float64) - 0.5 * extra
            with np.errstate(invalid="ignore", divide="ignore"):
                planes = transform(x[None, :], np.arange(ny, dtype=np.float64)[:, None])
        except Exception as error:  # a broken slit must not stop the others
            problems[i] = f"{who}: {' '.join(str(error).split()) or type(error).__name__}"
            continue
        along[i, :ny, :nx], wavelength[i, :ny, :nx] = planes[1], planes[2]
    return along, wavelength, problems

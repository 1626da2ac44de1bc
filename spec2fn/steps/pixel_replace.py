"""Estimates for the flux of flagged pixels, before spectra are resampled or extracted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np

from spec2fn.dq import UNUSABLE
from spec2fn.engine.step import PLANNED, step
from spec2fn.errors import DatasetError
from spec2fn.host.slice_stacks import SlicesPlan, make_slices_plan
from spec2fn.kernels.pixel_replace import fit_profile, map_planes, minimum_gradient
from spec2fn.modes import mode_of
from spec2fn.parameters import Parameters, Range
from spec2fn.schema import VARIANCES, meta_of, replace_data
from spec2fn.typing import Array
from spec2fn.wcs.coordinates import slice_map

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["pixel_replace"]


def _plan(ds: xr.Dataset, *, params: Parameters) -> SlicesPlan:
    if params.algorithm != "fit_profile" or not (mode_of(ds).sliced or "slice_id" in ds):
        return SlicesPlan()
    if meta_of(ds).wcs is None and not {"regions", "slice_id"} & set(ds.variables):
        msg = (
            "pixel_replace: algorithm 'fit_profile' needs to know the slices of the"
            " integral-field unit, variable 'regions' or 'slice_id' (y, x), or the WCS; run"
            " assign_wcs first"
        )
        raise DatasetError(msg)
    return make_slices_plan(slice_map(ds, "pixel_replace"))


@step(
    reads=("sci", "err", "dq"),
    traceable=True,
    skip=True,
    planner=_plan,
)
def pixel_replace(
    ds: xr.Dataset,
    *,
    plan: SlicesPlan = PLANNED,
    algorithm: Literal["fit_profile", "mingrad"] = "mingrad",
    n_adjacent_cols: Annotated[int, Range(1, 4095)] = 3,
) -> xr.Dataset:
    """Replace flagged pixels by estimates from their neighbours.

    Each integration, each slit and (by ``fit_profile``) each slice of an integral-field unit is
    treated on its own. The estimate is a differentiable
    function of the pixels it is made from (piecewise: which of them are used depends on their
    values).

    Parameters
    ----------
    ds : xarray.Dataset
        Calibrated spectrum, (y, x) or (integration, y, x), with ``sci``, ``err``, ``dq`` and any
        variances; bad pixels are NaN. Or a bucket of slits, (slit, [integration,] y, x).
    plan : SlicesPlan
        Where the slices of an integral-field unit are; ``fit_profile`` needs them.
    algorithm : {"mingrad", "fit_profile"}
        Mean of the two neighbours, along x or y, that differ less; or the median profile across
        the dispersion of the adjacent columns, scaled to the good pixels of the column.
    n_adjacent_cols : int
        Columns on either side that make the profile of ``fit_profile``.

    Returns
    -------
    xarray.Dataset
        Replaced pixels carry ``FLUX_ESTIMATED`` and no longer ``DO_NOT_USE``; their errors and
        variances are estimated from the same neighbours.

    Raises
    ------
    DatasetError
        If ``fit_profile`` does not know the dispersion axis, or the slices.

    Notes
    -----
    Algorithms: pixel replacement step of the JWST calibration pipeline
    (https://jwst-pipeline.readthedocs.io). The scale of ``fit_profile`` is the exact minimum of
    the squared differences.
    """
    planes = {n: ds[n].data for n in ("sci", "dq", "err", *VARIANCES) if n in ds}
    if algorithm == "mingrad":
        size = None
        if "slit" in ds.dims:  # of padded slits, shaped like the leading axes
            more = (1,) * (ds["sci"].ndim - 3)
            size = (ds["ysize"].data.reshape(-1, *more), ds["xsize"].data.reshape(-1, *more))
        out = minimum_gradient(planes, size)
    else:
        dispaxis = ds.attrs.get("dispaxis")
        if dispaxis not in (1, 2):
            msg = (
                "pixel_replace: algorithm 'fit_profile' needs the dispersion axis, attribute"
                f" 'dispaxis' = 1 (along x) or 2 (along y), found {dispaxis!r}; set it or run"
                " assign_wcs first"
            )
            raise DatasetError(msg)

        def cut(image: Array) -> Array:
            # pixels of other slices are no part of the image of a slice
            return plan.cut(image, np.nan if image.dtype.kind == "f" else UNUSABLE)

        fitted = fit_profile(map_planes(cut, planes), dispaxis, n_adjacent_cols)
        out = map_planes(plan.paste, planes, fitted)
    return replace_data(ds, None, **out)

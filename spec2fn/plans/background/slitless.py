"""The background of slitless exposures: a reference image, scaled to the pixels without sources.

The algorithm follows the description of the background subtraction step in the JWST pipeline
documentation ("WFSS Mode").
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.dq import PIXEL
from spec2fn.errors import InputError
from spec2fn.host.image_scaling import scale_to_fit
from spec2fn.kernels.background import per_plane
from spec2fn.kernels.namespace import array_namespace
from spec2fn.plan_base import Plan, array
from spec2fn.plans.slits.grism_boxes import SourceBoxes, need_catalog, source_boxes
from spec2fn.plans.slits.grism_cutouts import grism_geometry
from spec2fn.plans.slits.spectral_orders import extracted_orders, wavelength_ranges
from spec2fn.schema import meta_of, need, set_scalars
from spec2fn.subarray import subarray_slices
from spec2fn.typing import Array, HostArray

if TYPE_CHECKING:
    import xarray as xr

    from spec2fn.parameters import Parameters

__all__ = ["ScaledBackgroundPlan", "plan_scaled_background", "source_mask"]

_LEAST = 0.05  # of the pixels that have to be left by the sources


class ScaledBackgroundPlan(Plan):
    """The reference image of the background, and its scale.

    Attributes
    ----------
    scale : array, ()
        Factor; 0 if none was found.
    image : ndarray, (y, x), float32
    dq : ndarray, (y, x), uint32
        Flags of the reference.
    mask : ndarray, (y, x), uint32
        1 where there is no source.
    failure : str
        Why there is no factor; then nothing is subtracted.
    """

    scale: Array = array("")
    image: Array = array("y x")
    dq: Array = array("y x")
    mask: Array = array("y x")
    failure: str = ""

    def subtract_from(self, ds: xr.Dataset, *, propagate_variance: bool) -> dict[str, Array]:
        """Return the planes of an exposure less the scaled image, with its flags added.

        Its errors are those of a mean of many exposures, so that none is propagated.
        """
        del propagate_variance
        if self.failure:
            return {}
        sci, dq = ds["sci"].data, ds["dq"].data
        xp = array_namespace(sci, self.scale)
        scaled = xp.asarray(self.scale).astype(sci.dtype) * self.image
        return {"sci": sci - per_plane(scaled, sci), "dq": dq | per_plane(self.dq, dq)}

    def recorded(self, ds: xr.Dataset) -> xr.Dataset:
        """Return an exposure with what there is to record of its background."""
        return set_scalars(ds, background_scale=self.scale).assign(mask=(("y", "x"), self.mask))

    def subtracted(self, ds: xr.Dataset) -> xr.Dataset:
        """Return the image that is subtracted, with the headers of the science exposure."""
        sci = ds["sci"]
        image = (np.float64(self.scale) * self.image).astype(np.float32)
        planes = {"sci": (sci.dims, image, dict(sci.attrs)), "dq": (sci.dims, self.dq)}
        kept = {k: v for k, v in ds.attrs.items() if not k.startswith("status_")}
        return (
            ds.drop_vars(list(ds.variables)).assign(planes).assign_attrs(kept, model="ImageModel")
        )


def source_mask(boxes: SourceBoxes, shape: tuple[int, int]) -> HostArray:
    """Return where there is no source: true outside all rectangles.

    Parameters
    ----------
    boxes : SourceBoxes
    shape : (int, int)
        Rows and columns of the image.
    """
    free = np.ones(shape, bool)
    for (x0, y0), (x1, y1) in zip(np.maximum(boxes.low, 0), boxes.high + 1, strict=True):
        free[y0 : max(y1, 0), x0 : max(x1, 0)] = False
    return free


def plan_scaled_background(  # noqa: PLR0917 - what the step has
    ds: xr.Dataset,
    bkg: xr.Dataset,
    wavelengthrange: xr.Dataset | None,
    sourcecat: tuple[xr.Dataset, ...],
    params: Parameters,
    user_mask: xr.Dataset | HostArray | None = None,
) -> ScaledBackgroundPlan:
    """Scale the reference image of the background to an exposure.

    Parameters
    ----------
    ds : xarray.Dataset
        Slitless exposure after assign_wcs, (y, x).
    bkg : xarray.Dataset
        BKG: ``sci``, and if known ``dq``.
    wavelengthrange : xarray.Dataset
    sourcecat : tuple of xarray.Dataset
        The catalog.
    params : Parameters
        Of :func:`spec2fn.steps.background.background`.
    user_mask : xarray.Dataset or array, optional
        Where there is no source, instead of the catalog: ``mask`` (y, x).

    Raises
    ------
    InputError
        If there is no catalog, the mask does not fit, or the exposure has integrations.
    ReferenceError
        If a reference does not fit.
    """
    need(bkg, ("sci",), "background")
    rows, columns = subarray_slices(bkg, ds, "background", "bkg")
    shape = ds.sizes["y"], ds.sizes["x"]
    if ds["sci"].ndim != 2:
        msg = (
            f"background: the exposure has dims {ds['sci'].dims}, needs one image: a background is"
            " scaled to the mean of all integrations; give the _rate file"
        )
        raise InputError(msg)
    image = np.asarray(bkg["sci"].values)[rows, columns].astype(np.float32)
    dq = np.zeros(shape, np.uint32)
    if "dq" in bkg:
        dq = np.asarray(bkg["dq"].values)[rows, columns].astype(np.uint32)
    if user_mask is None:
        free = _from_catalog(ds, wavelengthrange, sourcecat, params)
        least, bright = int(_LEAST * free.size), image != 0
    else:
        free, least, bright = _given(user_mask, shape), 0, np.ones(shape, bool)
    mask = free.astype(np.uint32)

    def plan(scale: float, failure: str = "") -> ScaledBackgroundPlan:
        return ScaledBackgroundPlan(np.float64(scale), image, dq, mask, failure)

    good = (ds["dq"].values & np.uint32(PIXEL["DO_NOT_USE"])) == 0
    count = int(np.count_nonzero(good & free & bright))
    if count <= least:
        return plan(0.0, f"{count} good pixels see background alone, more than {least} are needed")
    sci, err = ds["sci"].values, ds["err"].values
    if not np.isfinite(err[good]).any():
        name = meta_of(ds).filename or "the exposure"
        msg = (
            f"background: no pixel of {name} has an ERR, by which those of the background are"
            " weighed; give an exposure with errors, or switch the step off"
        )
        raise InputError(msg)
    axis = ds.attrs.get("dispaxis")
    scaling = scale_to_fit(
        sci,
        err,
        image,
        free,
        percent=params.wfss_outlier_percent,
        max_iterations=params.wfss_maxiter,
        least_change=params.wfss_rms_stop / 100,
        profile_axis=None if axis is None else int(axis) - 1,
    )
    if not np.isfinite(scaling.factor):
        return plan(0.0, "no pixel of the background has a value and an error")
    return plan(scaling.factor)


def _from_catalog(
    ds: xr.Dataset,
    wavelengthrange: xr.Dataset | None,
    sourcecat: tuple[xr.Dataset, ...],
    params: Parameters,
) -> HostArray:
    who = "background"
    catalog, geometry = need_catalog(sourcecat, ds, who), grism_geometry(ds, who)
    ranges: Mapping[int, Any] = extracted_orders(ds, wavelengthrange, None, who)
    if params.wfss_all_orders:
        ranges = {**ranges, **wavelength_ranges(ds, wavelengthrange, who)}
    ranges = {order: limits for order, limits in ranges.items() if order in geometry.orders}
    shape = ds.sizes["y"], ds.sizes["x"]
    limit = params.wfss_mmag_extract
    boxes = source_boxes(geometry, catalog, ranges, shape, magnitude_limit=limit)
    return source_mask(boxes, shape)


def _given(user_mask: xr.Dataset | HostArray, shape: tuple[int, int]) -> HostArray:
    values: Any = user_mask
    if hasattr(values, "data_vars"):
        name = next((n for n in ("mask", "sci") if n in values), None)
        if name is None:
            held = ", ".join(sorted(map(str, values.data_vars))) or "nothing"
            msg = f"background: wfss_mask has no MASK (it holds {held}); give a file with one"
            raise InputError(msg)
        values = values[name].values
    values = np.asarray(values)
    if values.shape != shape:
        msg = (
            f"background: wfss_mask is {values.shape}, but the exposure is {shape}; give a mask of"
            " its pixels"
        )
        raise InputError(msg)
    return values != 0

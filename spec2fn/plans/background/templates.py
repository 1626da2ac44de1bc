"""The background of overlapping orders: an image of a library, scaled on both sides of its step.

The algorithm follows the description of the background subtraction step in the JWST pipeline
documentation ("SOSS Mode").
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from spec2fn.dq import PIXEL
from spec2fn.errors import ReferenceError
from spec2fn.host.background_templates import best_template, step_columns
from spec2fn.kernels.background import per_plane
from spec2fn.kernels.namespace import array_namespace
from spec2fn.plan_base import Plan, array
from spec2fn.schema import described, meta_of, need, with_meta
from spec2fn.typing import Array, HostArray

if TYPE_CHECKING:
    import xarray as xr

    from spec2fn.parameters import Parameters

__all__ = ["TemplateBackgroundPlan", "plan_template_background"]

_RATIOS = (25.0, 50.0)  # percentiles of the ratios that are kept
_ROWS = {(256, 96): 10}  # rows of library and exposure: the first of the library that counts


class TemplateBackgroundPlan(Plan):
    """An image of the background, and its scales.

    Attributes
    ----------
    image : array, (y, x), float32
    right : array, (y, x), bool
        Right of the step.
    scales : array, (2,)
        Factors left and right of the step, the same for all integrations.
    template : int
        Index of the image in the library.
    """

    image: Array = array("y x")
    right: Array = array("y x")
    scales: Array = array("2")
    template: int = 0

    def _scaled(self) -> Array:
        xp = array_namespace(self.image, self.scales)
        scales = xp.asarray(self.scales)
        return xp.where(self.right, scales[1], scales[0]) * xp.asarray(self.image).astype(
            scales.dtype
        )

    def subtract_from(self, ds: xr.Dataset, *, propagate_variance: bool) -> dict[str, Array]:
        """Return the values of an exposure less the scaled image.

        The scale is found with so many pixels that its error does not count.
        """
        del propagate_variance
        sci = ds["sci"].data
        return {"sci": sci - per_plane(self._scaled().astype(sci.dtype), sci)}

    def recorded(self, ds: xr.Dataset) -> xr.Dataset:
        """Return an exposure with what there is to record of its background."""
        if "meta" not in ds.attrs:  # inside a trace
            return ds
        scales = tuple(float(s) for s in np.asarray(self.scales))
        return with_meta(ds, records={"background_template": (self.template, *scales)})

    def subtracted(self, ds: xr.Dataset) -> xr.Dataset:
        """Return the image that is subtracted, with the headers of the science exposure."""
        sci = ds["sci"]
        planes = {"sci": (("y", "x"), np.asarray(self._scaled(), np.float32), dict(sci.attrs))}
        kept = {k: v for k, v in ds.attrs.items() if not k.startswith("status_")}
        return (
            ds.drop_vars(list(ds.variables)).assign(planes).assign_attrs(kept, model="ImageModel")
        )


def plan_template_background(
    ds: xr.Dataset, bkg: xr.Dataset, params: Parameters
) -> TemplateBackgroundPlan | str:
    """Choose the image of a library, and scale it to the faint pixels of an exposure.

    Parameters
    ----------
    ds : xarray.Dataset
        ``sci`` and ``dq``, ([integration,] y, x).
    bkg : xarray.Dataset
        Library ``sci`` (n, y, x).
    params : Parameters
        Of :func:`spec2fn.steps.background.background`: ``soss_source_percentile``,
        ``soss_bkg_percentile`` and ``soss_bkg_block``.

    Returns
    -------
    TemplateBackgroundPlan or str
        Why nothing can be subtracted.

    Raises
    ------
    ReferenceError
        If the reference is no library of images as wide as the exposure.
    """
    library = _library(ds, bkg)
    if isinstance(library, str):
        return library
    sci, dq = (ds[name].values for name in ("sci", "dq"))
    flags = np.uint32(PIXEL["DO_NOT_USE"] | PIXEL["REFERENCE_PIXEL"])
    shape = (-1, *sci.shape[-2:])
    fit = best_template(
        sci.reshape(shape),
        ((dq & flags) == 0).reshape(shape),
        library,
        source_percentile=params.soss_source_percentile,
        background_percentiles=params.soss_bkg_percentile or _RATIOS,
        block=params.soss_bkg_block,
    )
    if fit is None:
        name = meta_of(ds).filename or "the exposure"
        return f"no template fits the background of {name}: too few faint pixels have a value"
    image = library[fit.template]
    right = np.arange(image.shape[1]) >= step_columns(image)[:, None]
    return TemplateBackgroundPlan(image, right, np.array(fit.scales), fit.template)


def _library(ds: xr.Dataset, bkg: xr.Dataset) -> HostArray | str:
    images = need(bkg, ("sci",), "background")["sci"].values
    rows, columns = ds.sizes["y"], ds.sizes["x"]
    if images.ndim != 3 or images.shape[2] != columns:
        msg = (
            f"background: {described(bkg)} has shape {images.shape}, needs a library of images"
            f" (n, y, {columns}); use the one for this exposure type"
        )
        raise ReferenceError(msg)
    first = _ROWS.get((images.shape[1], rows), 0)
    if first == 0 and images.shape[1] != rows:
        return f"the templates of the background have {images.shape[1]} rows, the exposure {rows}"
    return np.asarray(images[:, first : first + rows], np.float32)

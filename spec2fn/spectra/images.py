"""Images that ``extract_1d`` can save besides the spectra: profile, model, residual."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING

import numpy as np

from spec2fn.kernels.extraction import Extraction
from spec2fn.plans.extraction.extract_images import GroupPlan, bad_pixels, pixel_planes
from spec2fn.typing import HostArray

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["saved_images"]


def saved_images(
    bucket: xr.Dataset, plan: GroupPlan, spectrum: Extraction, wanted: tuple[bool, bool, bool]
) -> dict[str, xr.Dataset]:
    """Return the images the user asked for, named by the slits of the group if there are any.

    They are ``profile`` (y, x), ``scene_model`` and ``residual``, ([integration,] y, x).
    """
    weights = np.array(plan.weights)
    if plan.nod_weights is not None:
        weights = weights + plan.nod_weights
    images: dict[str, xr.Dataset] = {}
    for k, (name, shape) in enumerate(zip(plan.names, plan.shapes, strict=True)):
        one = bucket.isel(slit=k, y=slice(shape[0]), x=slice(shape[1]))
        dims, units = one["sci"].dims, str(one["sci"].attrs.get("units", ""))
        prefix = ""
        if "slit" in bucket.coords:
            prefix = f"{name.lower()}_"
            units = str(one["bunit"].values) if "bunit" in one else units
        if wanted[0]:
            profile = _unfold(weights[k], plan, shape)
            images[f"{prefix}profile"] = _image(one, profile, dims[-2:], "")
        if not any(wanted[1:]):
            continue
        scene = _unfold(np.asarray(spectrum.scene)[k], plan, shape)
        if wanted[1]:
            images[f"{prefix}scene_model"] = _image(one, scene, dims, units)
        if wanted[2]:
            bad = np.asarray(bad_pixels(pixel_planes(one)))
            left = np.where(bad, np.nan, np.asarray(one["sci"].data, dtype=float)) - scene
            images[f"{prefix}residual"] = _image(one, left, dims, units)
    return images


def _unfold(image: HostArray, plan: GroupPlan, shape: tuple[int, int]) -> HostArray:
    """Put an oriented window back into an image of a slit, zero elsewhere.

    The window may reach beyond the image.
    """
    y0, y1, x0, x1 = plan.window
    full = np.zeros((*image.shape[:-2], max(y1, shape[0]), max(x1, shape[1])))
    full[..., y0:y1, x0:x1] = np.swapaxes(image, -1, -2) if plan.dispaxis == 1 else image
    return full[..., : shape[0], : shape[1]]


def _image(ds: xr.Dataset, data: HostArray, dims: tuple[Hashable, ...], units: str) -> xr.Dataset:
    import xarray as xr

    kind = "CubeModel" if len(dims) == 3 else "ImageModel"
    attrs = {"units": units} if units else {}
    out = xr.Dataset({"sci": (dims, data.astype(np.float32), attrs)}, attrs=ds.attrs)
    return out.assign_attrs(model=kind)

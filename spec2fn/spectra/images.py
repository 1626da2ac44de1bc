"""Images that ``extract_1d`` can save besides the spectra: profile, model, residual."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["SavedImages", "saved_images", "unfold"]


class SavedImages(NamedTuple):
    """Spatial profile (y, x) and model of the image (..., y, x), where they are wanted."""

    profile: np.ndarray | None
    scene: np.ndarray | None


def saved_images(
    ds: xr.Dataset,
    images: SavedImages,
    bad: np.ndarray,
    wanted: tuple[bool, bool, bool],
    prefix: str = "",
) -> dict[str, Any]:
    """Return the images the user asked for, of one exposure or slit.

    Parameters
    ----------
    ds : xarray.Dataset
        dims ([integration,] y, x)
    images : SavedImages
    bad : array of bool
        Unusable pixels, with the dims of ``sci``.
    wanted : (bool, bool, bool)
        Profile, model of the image, residual.
    prefix : str
        Before the names of the images.

    Returns
    -------
    dict of str to xarray.Dataset
        ``profile``, ``scene_model``, ``residual``.
    """
    records: dict[str, Any] = {}
    if images.profile is not None:
        records[f"{prefix}profile"] = _image(ds, images.profile, ("y", "x"), "")
    if images.scene is not None:
        dims = ds["sci"].dims
        units = str(ds["sci"].attrs.get("units", ""))
        if wanted[1]:
            records[f"{prefix}scene_model"] = _image(ds, images.scene, dims, units)
        if wanted[2]:
            left = np.where(bad, np.nan, np.asarray(ds["sci"].data, dtype=float)) - images.scene
            records[f"{prefix}residual"] = _image(ds, left, dims, units)
    return records


def unfold(
    image: np.ndarray, window: tuple[int, int, int, int], shape: tuple[int, int], dispaxis: int
) -> np.ndarray:
    """Put an oriented window back into an image, zero elsewhere.

    Parameters
    ----------
    image : array of float64, (..., disp, cross)
    window : tuple of int
        Row start, row stop, column start, column stop; it may reach beyond the image.
    shape : (int, int)
        Rows and columns of the image.
    dispaxis : int
        1 along x, 2 along y.
    """
    y0, y1, x0, x1 = window
    full = np.zeros((*image.shape[:-2], max(y1, shape[0]), max(x1, shape[1])))
    full[..., y0:y1, x0:x1] = np.swapaxes(image, -1, -2) if dispaxis == 1 else image
    return full[..., : shape[0], : shape[1]]


def _image(ds: xr.Dataset, data: np.ndarray, dims: tuple[Any, ...], units: str) -> xr.Dataset:
    import xarray as xr

    kind = "CubeModel" if len(dims) == 3 else "ImageModel"
    attrs = {"units": units} if units else {}
    out = xr.Dataset({"sci": (dims, data.astype(np.float32), attrs)}, attrs=ds.attrs)
    return out.assign_attrs(model=kind)

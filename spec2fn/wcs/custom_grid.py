"""The output grid of a resampled spectrum that the user gives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.errors import InputError, ParameterError
from spec2fn.parameters import user_path
from spec2fn.units import ARCSEC2_TO_SR
from spec2fn.wcs.evaluate import pixel_size_deg
from spec2fn.wcs.lower import box_of
from spec2fn.wcs.tangent_grid import GwcsGrid

if TYPE_CHECKING:
    from gwcs import WCS

__all__ = ["custom_grid", "load_custom_wcs"]


def load_custom_wcs(source: str | WCS, output_shape: tuple[int, int] | None) -> dict[str, Any]:
    """Return the output WCS given by the user, with a shape, and what is said of its pixels.

    Parameters
    ----------
    source : str or gwcs.WCS
        A gwcs, or the path of an ASDF file that holds one under the key ``wcs`` and, optionally,
        ``pixel_scale`` [arcsec], ``pixel_area`` [arcsec2], ``pixel_shape`` (x, y) or
        ``array_shape`` (y, x).
    output_shape : tuple of int, optional
        (x, y); default is that of the WCS or the file, else the bounding box.

    Returns
    -------
    dict
        ``wcs``, a copy, and the other entries of the file.

    Raises
    ------
    InputError
        If the file cannot be read, holds no gwcs, or the WCS is not spectral.
    ParameterError
        If the size of the output cannot be found.
    """
    from copy import deepcopy

    tree = {"wcs": source} if not isinstance(source, str) else _read_wcs_file(source)
    wcs = deepcopy(tree["wcs"])
    axes = getattr(getattr(wcs, "output_frame", None), "axes_type", ())
    if len(axes) != 3 or "SPECTRAL" not in axes:
        msg = (
            "resample_spec: output_wcs must have three world axes, two of them spatial and one"
            f" spectral, found {tuple(axes) or type(wcs).__name__}"
        )
        raise InputError(msg)
    if output_shape is not None:
        wcs.array_shape = output_shape[::-1]
    elif wcs.array_shape is None:
        wcs.array_shape = _shape_of(tree, wcs)
    return {**tree, "wcs": wcs}


def custom_grid(
    custom: Mapping[str, Any], dispaxis: int, size_in_deg: float, area_in: float | None
) -> tuple[GwcsGrid, float, float | None]:
    """Return the output grid given by the user.

    Parameters
    ----------
    custom : mapping
        From :func:`load_custom_wcs`.
    dispaxis : {1, 2}
        Dispersion along x or y.
    size_in_deg : float
        Size of an input pixel along the slit [deg].
    area_in : float, optional
        Nominal area of an input pixel [sr].

    Returns
    -------
    grid : GwcsGrid
    ratio : float
        Input over output pixel size along the slit.
    area : float, optional
        Of an output pixel [sr]; None if that of the input is unknown.
    """
    grid = GwcsGrid(custom["wcs"])
    area, scale = custom.get("pixel_area"), custom.get("pixel_scale")
    if area is not None:
        area = float(area) * ARCSEC2_TO_SR
        return grid, float(area_in / area if area_in else 1.0), area
    size_deg = float(scale) / 3600 if scale is not None else pixel_size_deg(grid.wcs, dispaxis)
    ratio = size_in_deg / size_deg
    if not np.isfinite(ratio):
        return grid, 1.0, None
    return grid, float(ratio), area_in / ratio if area_in else None


def _read_wcs_file(path: str) -> dict[str, Any]:
    import asdf

    if not user_path(path).is_file():
        msg = f"resample_spec: output_wcs {path!r} is not a file; give the path of an ASDF file"
        raise InputError(msg)
    try:
        with asdf.open(user_path(path), memmap=False, lazy_load=False) as file:
            tree = dict(file.tree)
    except (OSError, ValueError) as error:
        msg = f"resample_spec: output_wcs {path!r} is not a readable ASDF file ({error})"
        raise InputError(msg) from error
    if "wcs" not in tree:
        msg = f"resample_spec: output_wcs {path!r} holds no WCS; store a gwcs under the key 'wcs'"
        raise InputError(msg)
    return tree


def _shape_of(tree: Mapping[str, Any], wcs: WCS) -> tuple[int, int]:
    if tree.get("array_shape") is not None:
        ny, nx = tree["array_shape"]
    elif tree.get("pixel_shape") is not None:
        nx, ny = tree["pixel_shape"]
    else:
        box = box_of(wcs)
        if box is None:
            msg = (
                "resample_spec: the size of the output is unknown, because output_wcs has neither"
                " array_shape nor bounding_box; give output_shape=(x, y)"
            )
            raise ParameterError(msg)
        nx, ny = (int(high + 0.5) for _, high in box)
    return int(ny), int(nx)

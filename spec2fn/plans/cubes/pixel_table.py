"""The pixels of an integral-field exposure as a table, for work without resampling."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.errors import InputError
from spec2fn.modes import mode_of
from spec2fn.plans.cubes.cube_geometry import seen_slices
from spec2fn.schema import require
from spec2fn.wcs.coordinates import with_coordinates

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["COLUMNS", "pixel_table"]

COLUMNS = {
    "x": ("", "int32"),
    "y": ("", "int32"),
    "slice": ("", "int32"),
    "wavelength": ("um", "float64"),
    "ra": ("deg", "float64"),
    "dec": ("deg", "float64"),
    "flux": ("", "float32"),
    "err": ("", "float32"),
    "dq": ("", "uint32"),
}
"""Columns of a pixel table: unit (that of the exposure for the flux) and type."""


def pixel_table(ds: xr.Dataset) -> xr.Dataset:
    """Return the pixels in the slices of an integral-field exposure as a table.

    Parameters
    ----------
    ds : xarray.Dataset
        Exposure with a WCS, such as a ``_cal`` product; dims ([integration,] y, x).

    Returns
    -------
    xarray.Dataset
        Dim ``pixel``, in the order of the detector: ``x``, ``y`` (0-indexed pixel), ``slice``
        (MRS: channel times 100 plus the number of the slice), ``wavelength`` [um], ``ra``,
        ``dec`` [deg] (not of lamps), and ``flux``, ``err``, ``dq`` with dims ([integration,]
        pixel). Pixels that must not be used are there as well, with their flags.

    Raises
    ------
    InputError
        If the exposure is not of an integral-field unit, or has no WCS.
    """
    import xarray as xr

    single = hasattr(ds, "data_vars")
    if not single or not mode_of(ds).sliced:
        found = f"found EXP_TYPE {mode_of(ds).exp_type}" if single else f"got {type(ds).__name__}"
        msg = (
            f"pixel_table: needs an exposure of an integral-field unit, {found};"
            " pass a _cal product of MIR_MRS or NRS_IFU"
        )
        raise InputError(msg)
    require(ds, ("sci", "err", "dq"), "pixel_table")
    ds = with_coordinates(ds, "pixel_table")
    label = seen_slices(ds)
    pixel = np.flatnonzero(label)
    if not pixel.size:
        msg = "pixel_table: no pixel of the exposure belongs to a slice; check the WCS"
        raise InputError(msg)
    y, x = np.divmod(pixel, label.shape[1])
    data: dict[str, Any] = {"x": x, "y": y, "slice": label.reshape(-1)[pixel]}
    for name in (n for n in ("wavelength", "ra", "dec") if n in ds):
        data[name] = np.asarray(ds[name].data).reshape(-1)[pixel]
    for column, name in (("flux", "sci"), ("err", "err"), ("dq", "dq")):
        plane = np.asarray(ds[name].data)
        data[column] = plane.reshape(*plane.shape[:-2], -1)[..., pixel]
    dims = (*ds["sci"].dims[:-2], "pixel")
    brightness = str(ds["sci"].attrs.get("units", ""))
    variables = {}
    for name, (unit, kind) in COLUMNS.items():
        if name not in data:
            continue
        units = brightness if name in ("flux", "err") else unit
        values = data[name].astype(kind)
        variables[name] = (dims[-values.ndim :], values, {"units": units} if units else {})
    return xr.Dataset(variables, attrs=dict(ds.attrs))

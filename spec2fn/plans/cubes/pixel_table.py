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
        ``dec`` [deg], and ``flux``, ``err``, ``dq`` with dims ([integration,] pixel). Pixels that
        must not be used are there as well, with their flags.

    Raises
    ------
    InputError
        If the exposure is not of an integral-field unit, or has no WCS.
    """
    import xarray as xr

    if not hasattr(ds, "data_vars"):
        msg = (
            f"pixel_table: needs an exposure of an integral-field unit, got {type(ds).__name__};"
            " pass a _cal product of MIR_MRS or NRS_IFU"
        )
        raise InputError(msg)
    require(ds, ("sci", "err", "dq"), "pixel_table")
    mode = mode_of(ds)
    if not mode.sliced:
        msg = (
            f"pixel_table: needs an exposure of an integral-field unit, found EXP_TYPE"
            f" {mode.exp_type}; pass a _cal product of MIR_MRS or NRS_IFU"
        )
        raise InputError(msg)
    ds = with_coordinates(ds, "pixel_table")
    label = seen_slices(ds)
    pixel = np.flatnonzero(label)
    if not pixel.size:
        msg = "pixel_table: no pixel of the exposure belongs to a slice; check the WCS"
        raise InputError(msg)
    y, x = np.divmod(pixel, label.shape[1])
    data: dict[str, Any] = {"x": x, "y": y, "slice": label.reshape(-1)[pixel]}
    for name in ("wavelength", "ra", "dec"):
        data[name] = np.asarray(ds[name].data).reshape(-1)[pixel]
    lead = ds["sci"].dims[:-2]
    units = {n: u for n, (u, _) in COLUMNS.items() if u}
    for column, name in (("flux", "sci"), ("err", "err"), ("dq", "dq")):
        plane = np.asarray(ds[name].data)
        data[column] = plane.reshape(*plane.shape[:-2], -1)[..., pixel]
    for column in ("flux", "err"):
        units[column] = str(ds["sci"].attrs.get("units", ""))
    variables = {
        name: (
            (*lead, "pixel") if data[name].ndim > 1 else ("pixel",),
            data[name].astype(kind),
            {"units": units[name]} if units.get(name) else {},
        )
        for name, (_, kind) in COLUMNS.items()
    }
    return xr.Dataset(variables, attrs=dict(ds.attrs))

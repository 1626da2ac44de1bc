"""Cube products (``_s3d``): what they hold besides images, and the Dataset of one."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.errors import InputError
from spec2fn.io.fits.exposures import (
    data_unit,
    header_meta,
    image_planes,
    mode_attrs,
    scalar_variables,
    time_variables,
)
from spec2fn.io.fits.extents import Extent
from spec2fn.io.fits.fitsfile import FitsFile
from spec2fn.io.fits.headers import encode_header, table_cards
from spec2fn.schema import Meta

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["CUBE_PLANES", "cube_dataset", "holds_cube", "wavelength_table"]

CUBE_PLANES = ("sci", "err", "dq", "wmap")
_TABLE = "WCS-TABLE"
_MICRONS = {"um": 1.0, "m": 1e6}


def wavelength_table(ds: xr.Dataset) -> Extent:
    """Lay out the table of the wavelengths of a cube."""
    planes = int(ds.sizes["wave"])
    cards = table_cards(_TABLE, [("wavelength", ">f4", "", (planes, 1))], 1)

    def data(part: xr.Dataset, _rows: slice) -> np.ndarray[Any, Any]:
        return np.asarray(part["wavelength"].values).astype(">f4")

    return Extent(encode_header(cards), 4 * planes, 1, False, data)


def holds_cube(file: FitsFile) -> bool:
    """Whether a product holds a cube: linear ones are older than their table of wavelengths."""
    science = file.find("SCI")
    if science is None:
        return False
    model, axis = file.hdus[0].get("DATAMODL"), str(science.get("CTYPE3") or "")
    return model == "IFUCubeModel" or (len(science.shape) > 2 and axis.startswith("WAVE"))


def cube_dataset(file: FitsFile) -> xr.Dataset:
    """Return a cube as a Dataset, its planes read when they are used.

    Raises
    ------
    InputError
        If the extensions do not fit each other.
    """
    import xarray as xr

    science = file.find("SCI")
    assert science is not None
    if len(science.shape) not in (3, 4):
        msg = (
            f"{file.path}: SCI is {science.shape}; a cube has 3 dimensions, or 4 with integrations"
        )
        raise InputError(msg)
    dims = ("integration", "wave", "y", "x")[4 - len(science.shape) :]
    records: dict[str, Any] = {}
    meta = header_meta(file, science, records)
    unit = data_unit(file.path, meta, science.get("BUNIT"), None, records)
    variables = image_planes(file, science, dims, CUBE_PLANES, unit)
    planes = science.shape[-3]
    variables["wavelength"] = (("wave",), _wavelength(file, meta, planes), {"units": "um"})
    if len(dims) == 4:
        variables.update(time_variables(file, science.shape[0], meta, records))
    variables.update(scalar_variables(meta))
    attrs = {**mode_attrs(meta), "model": str(meta.get("DATAMODL", "IFUCubeModel"))}
    return xr.Dataset(variables, attrs={**attrs, **_cube_attrs(meta), "meta": meta})


def _wavelength(file: FitsFile, meta: Meta, planes: int) -> np.ndarray[Any, Any]:
    """Wavelength of each plane [um]; a linear one from the keywords, for the table is rounded."""
    if meta.get("CTYPE3") == "WAVE":
        start, step, pixel = (meta.get(k) for k in ("CRVAL3", "CDELT3", "CRPIX3"))
        unit = str(meta.get("CUNIT3", "um")).strip()
        numbers = all(isinstance(v, (int, float)) for v in (start, step, pixel))
        if not numbers or not math.isfinite(start + step + pixel) or unit not in _MICRONS:
            msg = (
                f"{file.path}: CRVAL3 is {start!r}, CDELT3 {step!r}, CRPIX3 {pixel!r}, CUNIT3"
                f" {unit!r}; the wavelengths need numbers in um or m"
            )
            raise InputError(msg)
        return (start + (np.arange(planes) + 1 - pixel) * step) * _MICRONS[unit]
    hdu = file.find(_TABLE)
    table = None if hdu is None else file.table(hdu)
    if table is None or "wavelength" not in table.names:
        msg = (
            f"{file.path}: CTYPE3 is {meta.get('CTYPE3')!r} and there is no {_TABLE} with a column"
            " 'wavelength'; it says the wavelengths of the planes: make the cube again"
        )
        raise InputError(msg)
    values = table["wavelength"].reshape(-1).astype(np.float64)
    if values.size != planes:
        msg = f"{file.path}: {_TABLE} has {values.size} wavelengths, but SCI has {planes} planes"
        raise InputError(msg)
    return np.asarray(values)


def _cube_attrs(meta: Meta) -> dict[str, Any]:
    if meta.get("CHANNEL") is not None:
        names = [f"ch{c}-{str(meta.get('BAND')).lower()}" for c in str(meta.get("CHANNEL"))]
    else:
        names = [f"{meta.get('GRATING')}-{meta.get('FILTER')}".lower()]
    internal = str(meta.get("CTYPE1", "")).startswith("NRSSLICER")
    tabulated = meta.get("CTYPE3") == "WAVE-TAB"
    slant = meta.get("PC1_2") or 0.0
    if not isinstance(slant, (int, float)):
        raise InputError(f"{meta.filename}: PC1_2 is {slant!r}, needs a number; correct it")
    aligned = "ifualign" if slant else "skyalign"
    return {
        "cube_names": ",".join(names),
        "cube_output_type": "multi" if tabulated else "band",
        "cube_weighting": "area" if internal else str(meta.get("WTYPE", "drizzle")),
        "cube_coord_system": "internal_cal" if internal else aligned,
    }

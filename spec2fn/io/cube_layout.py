"""The extensions of a cube product (``_s3d``), and the Dataset of one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.errors import InputError
from spec2fn.io.fitsfile import FitsFile
from spec2fn.io.headers import encode_header, table_cards
from spec2fn.schema import PLANES, SCALARS, Meta

if TYPE_CHECKING:
    import xarray as xr

    from spec2fn.io.layout import Extent

__all__ = ["CUBE_PLANES", "cube_dataset", "cube_extents", "holds_cube"]

CUBE_PLANES = ("sci", "err", "dq", "wmap")
_TABLE = "WCS-TABLE"


def cube_extents(ds: xr.Dataset, integrations: int | None) -> list[Extent]:
    """Lay out a cube behind its PRIMARY header.

    Parameters
    ----------
    ds : xarray.Dataset
        ``sci``, ``err``, ``dq``, ``wmap``, dims ([integration,] wave, y, x), and ``wavelength``.
    integrations : int, optional
        Their number; None if there is no such dimension.

    Returns
    -------
    list of Extent
        SCI, ERR, DQ, WMAP, [INT_TIMES,] WCS-TABLE, and what the JWST layout does not know.
    """
    from spec2fn.io.layout import EXTRA_PLANES, image_extent, int_times

    out = [image_extent(ds, n, PLANES[n].hdu, integrations) for n in CUBE_PLANES if n in ds]
    times = int_times(ds, integrations)
    out += [] if times is None else [times]
    out.append(_wavelengths(ds))
    extra = [(n, hdu) for n, hdu in EXTRA_PLANES.items() if n in ds]
    return [*out, *(image_extent(ds, n, hdu, integrations) for n, hdu in extra)]


def _wavelengths(ds: xr.Dataset) -> Extent:
    from spec2fn.io.layout import Extent

    planes = int(ds.sizes["wave"])
    cards = table_cards(_TABLE, [("wavelength", "E", "", (planes, 1))], 1)

    def data(part: xr.Dataset, _rows: slice) -> np.ndarray[Any, Any]:
        return np.asarray(part["wavelength"].values).astype(">f4")

    return Extent(encode_header(cards), 4 * planes, 1, False, data)


def holds_cube(file: FitsFile) -> bool:
    """Whether a product holds a cube."""
    return file.find(_TABLE) is not None and file.find("WMAP") is not None


def cube_dataset(file: FitsFile) -> xr.Dataset:
    """Return a cube as a Dataset, its planes read when they are used.

    Raises
    ------
    InputError
        If the extensions do not fit each other.
    """
    import xarray as xr

    from spec2fn.io.exposures import mode_attrs, time_variables
    from spec2fn.io.lazy import lazy_variable

    science, table = file.find("SCI"), file.find(_TABLE)
    assert science is not None
    assert table is not None
    dims = ("integration", "wave", "y", "x")[4 - len(science.shape) :]
    records: dict[str, Any] = {}
    name = file.path.name.removesuffix(".gz")
    meta = Meta(file.hdus[0].header, science.header, name, records=records)
    variables: dict[str, Any] = {}
    for variable in CUBE_PLANES:
        hdu = file.find(PLANES[variable].hdu)
        if hdu is None or hdu.shape != science.shape:
            found = "missing" if hdu is None else f"{hdu.shape}"
            msg = f"{file.path}: {PLANES[variable].hdu} is {found}, but SCI is {science.shape}"
            raise InputError(msg)
        unit = hdu.header.get("BUNIT") if PLANES[variable].kind == "value" else None
        attrs = {"units": str(unit).strip()} if unit else {}
        variables[variable] = lazy_variable(dims, file, hdu, PLANES[variable].dtype, attrs)
    variables["wavelength"] = (("wave",), _wavelength(file, meta), {"units": "um"})
    if len(dims) == 4:
        variables.update(time_variables(file, science.shape[0], meta, records))
    for scalar_name, scalar in SCALARS.items():
        value = meta.get(scalar.keyword) if scalar.read else None
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            variables[scalar_name] = xr.Variable((), np.float64(value), {"units": scalar.unit})
    attrs = {**mode_attrs(meta), "model": str(meta.get("DATAMODL", "IFUCubeModel"))}
    return xr.Dataset(variables, attrs={**attrs, **_cube_attrs(meta), "meta": meta})


def _wavelength(file: FitsFile, meta: Meta) -> np.ndarray[Any, Any]:
    table = file.find(_TABLE)
    assert table is not None
    values = file.table(table)["wavelength"].reshape(-1).astype(np.float64)
    step, start = meta.get("CDELT3"), meta.get("CRVAL3")
    if meta.get("CTYPE3") == "WAVE" and step is not None and start is not None:
        # the table is rounded
        return float(start) + np.arange(values.size) * float(step)
    return np.asarray(values)


def _cube_attrs(meta: Meta) -> dict[str, Any]:
    if meta.get("CHANNEL") is not None:
        names = [f"ch{c}-{str(meta.get('BAND')).lower()}" for c in str(meta.get("CHANNEL"))]
    else:
        names = [f"{meta.get('GRATING')}-{meta.get('FILTER')}".lower()]
    internal = str(meta.get("CTYPE1", "")).startswith("NRSSLICER")
    tabulated = meta.get("CTYPE3") == "WAVE-TAB"
    turned = abs(float(meta.get("PC1_2", 0.0) or 0.0)) > 0
    aligned = "ifualign" if turned else "skyalign"
    return {
        "cube_names": ",".join(names),
        "cube_output_type": "multi" if tabulated else "band",
        "cube_weighting": "area" if internal else str(meta.get("WTYPE", "drizzle")),
        "cube_coord_system": "internal_cal" if internal else aligned,
    }

"""Countrate exposures (``_rate``, ``_rateints``) as Datasets."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.errors import InputError, nearest
from spec2fn.io.fitsfile import FitsFile, Hdu, scan
from spec2fn.schema import (
    INT_TIMES,
    MODE_ATTRS,
    MODE_KEYWORDS,
    PLANES,
    SCALARS,
    SPECTROSCOPIC,
    Meta,
)

if TYPE_CHECKING:
    import xarray as xr

__all__ = [
    "SPECTROSCOPIC",
    "check_exp_type",
    "image_dataset",
    "mode_attrs",
    "open_exposure",
    "time_variables",
]


_TWO_DIMENSIONAL = ("regions", "wavelength", "pathloss_ps", "pathloss_un")
_RESAMPLED = ("wht", "con")
_IFU = ("MIR_MRS", "NRS_IFU")


def open_exposure(path: str | os.PathLike[str], *, any_exp_type: bool = False) -> Any:
    """Open a countrate exposure.

    Pixels are read when they are used; selecting integrations first
    (``ds.isel(integration=slice(0, 10))``) reads only those.

    Parameters
    ----------
    path : path
        ``_rate`` or ``_rateints`` (or later) FITS file of the JWST pipeline, or ``.fits.gz``.
    any_exp_type : bool
        Accept exposures that are not spectroscopic (target acquisition, direct images).

    Returns
    -------
    xarray.Dataset
        dims ``([integration,] y, x)``; variables ``sci err var_*`` float32 and ``dq`` uint32 as
        far as the file has them, the INT_TIMES columns on ``integration``, and the
        zero-dimensional float64 scalars of :data:`spec2fn.schema.SCALARS` that are read.
        Attributes: see :data:`spec2fn.schema.MODE_ATTRS`; ``model``; ``meta``. A file of many
        slits gives a :class:`~spec2fn.slits.Slits` (see :func:`spec2fn.io.open_product`).

    Raises
    ------
    InputError
        Naming the file: missing, truncated, not FITS, without SCI or EXP_TYPE, not
        spectroscopic, or with planes that do not fit each other.
    """
    file = scan(path)
    from spec2fn.io import reading

    if reading.holds_slits(file):
        return reading.open_slits(file, any_exp_type=any_exp_type)
    return image_dataset(file, any_exp_type=any_exp_type)


def image_dataset(
    file: FitsFile, *, any_exp_type: bool = False, product: bool = False
) -> xr.Dataset:
    """Return the SCI extension of `file` and the planes that go with it as a Dataset.

    Parameters
    ----------
    file : FitsFile
    any_exp_type : bool
        Accept exposures that are not spectroscopic.
    product : bool
        The file is a product: read the planes of resampled data as well.

    Raises
    ------
    InputError
        As :func:`open_exposure`.
    """
    import xarray as xr

    from spec2fn.io.lazy import lazy_variable

    science = file.find("SCI")
    if science is None or not science.shape:
        held = ", ".join(h.name for h in file.hdus[1:]) or "nothing besides PRIMARY"
        msg = f"{file.path}: has no SCI extension (it holds {held}); give a _rate or _rateints file"
        raise InputError(msg)
    records: dict[str, Any] = {}
    name = file.path.name.removesuffix(".gz")
    meta = Meta(file.hdus[0].header, science.header, name, records=records)
    check_exp_type(file.path, meta, any_exp_type=any_exp_type)
    if not product:
        _check_mode(file.path, meta)
    dims = _dims(file.path, science, meta)
    variables: dict[str, Any] = {}
    for name, plane in PLANES.items():
        hdu = file.find(plane.hdu) if plane.hdu else None
        if hdu is None or not hdu.shape or (name in _RESAMPLED and not product):
            continue
        _check_shape(file.path, hdu, science, name)
        on = dims if len(hdu.shape) >= len(dims) else dims[-2:]
        if len(hdu.shape) > len(dims):
            on = (*dims[:-2], "context", *dims[-2:])
        unit = hdu.header.get("BUNIT") if plane.kind == "value" else None
        attrs = {"units": str(unit).strip()} if unit else {}
        variables[name] = lazy_variable(on, file, hdu, plane.dtype, attrs)
    variables.update(
        time_variables(file, science.shape[0] if len(dims) == 3 else None, meta, records)
    )
    for name, scalar in SCALARS.items():
        value = meta.get(scalar.keyword) if scalar.read else None
        if value is not None:
            variables[name] = xr.Variable((), np.float64(value), {"units": scalar.unit})
    attrs = mode_attrs(meta)
    model = ("IFU" if attrs["exp_type"] in _IFU else "") + "ImageModel"
    attrs["model"] = str(meta.get("DATAMODL", model if len(dims) == 2 else "CubeModel"))
    return xr.Dataset(variables, attrs={**attrs, "meta": meta})


def check_exp_type(path: Path, meta: Meta, *, any_exp_type: bool = False) -> None:
    """Raise :class:`InputError` unless the exposure is spectroscopic (or any type will do)."""
    exp_type = meta.get("EXP_TYPE")
    if not isinstance(exp_type, str):
        found = "missing" if exp_type is None else repr(exp_type)
        msg = f"{path}: keyword EXP_TYPE is {found}; it says how the exposure was taken: add it"
        raise InputError(msg)
    if not any_exp_type and str(exp_type).strip() not in SPECTROSCOPIC:
        msg = (
            f"{path}: EXP_TYPE {exp_type!r} is not spectroscopic{nearest(exp_type, SPECTROSCOPIC)};"
            f" spectroscopic are {', '.join(SPECTROSCOPIC)}"
        )
        raise InputError(msg)


def _check_mode(path: Path, meta: Meta) -> None:
    """Raise :class:`InputError` unless detector, filter, … are such as the exposure type has."""
    exp_type = str(meta.get("EXP_TYPE")).strip()
    for keyword, known in MODE_KEYWORDS.get(exp_type, {}).items():
        value = meta.get(keyword)
        if str(value).strip().upper() in known:
            continue
        found = "missing" if value is None else repr(value)
        msg = f"{path}: keyword {keyword} is {found}, needs {', '.join(known)} for {exp_type}"
        raise InputError(f"{msg}{nearest(str(value), known)}; correct it")


def _dims(path: Path, science: Hdu, meta: Meta) -> tuple[str, ...]:
    shape = science.shape
    if len(shape) == 2:
        return ("y", "x")
    if len(shape) != 3:
        msg = (
            f"{path}: SCI has {len(shape)} dimensions {shape}; a countrate exposure has 2 (_rate)"
            " or 3 (_rateints): run stage 1 first"
        )
        raise InputError(msg)
    allowed = set()
    nints, first, last = (meta.get(k) for k in ("NINTS", "INTSTART", "INTEND"))
    if nints is not None:
        allowed.add(nints)
    if first is not None and last is not None:
        allowed.add(last - first + 1)
    if allowed and shape[0] not in allowed:
        says = " and ".join(
            f"{k}={v}" for k, v in (("NINTS", nints), ("INTSTART", first), ("INTEND", last)) if v
        )
        msg = f"{path}: SCI holds {shape[0]} integrations, but the header says {says}; correct it"
        raise InputError(msg)
    return ("integration", "y", "x")


def _check_shape(path: Path, hdu: Hdu, science: Hdu, name: str) -> None:
    if name == "con" and (*hdu.shape[:-3], *hdu.shape[-2:]) == science.shape:
        return
    fits = {science.shape}
    if name in _TWO_DIMENSIONAL:
        fits.add(science.shape[-2:])
    if hdu.shape not in fits:
        msg = f"{path}: {hdu.name} is {hdu.shape}, but SCI is {science.shape}; they must agree"
        raise InputError(msg)


def time_variables(
    file: FitsFile, integrations: int | None, meta: Meta, records: dict[str, Any]
) -> dict[str, Any]:
    """Return the columns of INT_TIMES as variables on ``integration``.

    A table that cannot be one (no rows, or no such dimension) is kept in `records` as it is; one
    that does not match is left out with a warning in `records`.
    """
    import xarray as xr

    hdu = file.find("INT_TIMES")
    if hdu is None:
        return {}
    table = file.table(hdu)
    if integrations is None or not len(table):
        records["int_times"] = table.structured()
        return {}
    chosen: Any = slice(None)
    count = len(table)
    first = meta.get("INTSTART")
    if count != integrations and first is not None and "integration_number" in table.names:
        # a segment of an exposure may carry the times of the whole exposure
        number = table["integration_number"]
        chosen = (number >= first) & (number < first + integrations)
        count = int(chosen.sum())
    if count != integrations:
        warning = (
            f"INT_TIMES has {hdu.shape[0]} rows, which do not match the {integrations} integrations"
            " of SCI; the times are left out"
        )
        records["warnings"] = (*records.get("warnings", ()), warning)
        return {}
    return {
        name: xr.Variable(("integration",), table[column][chosen].astype(dtype))
        for name, (column, dtype) in INT_TIMES.items()
        if column in table.names
    }


def mode_attrs(meta: Meta) -> dict[str, Any]:
    """Read the attributes that steps branch on from the headers.

    Parameters
    ----------
    meta : Meta

    Returns
    -------
    dict
        By the names of :data:`spec2fn.schema.MODE_ATTRS`; keywords that are absent are left out.

    Raises
    ------
    InputError
        If a keyword holds what it may not.
    """
    out: dict[str, Any] = {}
    for name, (keyword, kind) in MODE_ATTRS.items():
        value = meta.get(keyword)
        if value is None:
            continue
        out[name] = value.strip() if isinstance(value, str) else kind(value)
    return out

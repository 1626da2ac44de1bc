"""Countrate exposures (``_rate``, ``_rateints``) as Datasets."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.dq import PIXEL
from spec2fn.errors import InputError, nearest
from spec2fn.io.fits.fitsfile import FitsFile, Hdu
from spec2fn.io.fits.lazy import lazy_variable
from spec2fn.modes import known_exp_types, mode_named
from spec2fn.pieces import Exposure, Pieces
from spec2fn.schema import (
    INT_TIMES,
    MODE_ATTRS,
    PLANES,
    SCALARS,
    Meta,
    Plane,
    meta_of,
)

if TYPE_CHECKING:
    import xarray as xr

__all__ = [
    "check_exp_type",
    "check_type",
    "check_values",
    "data_unit",
    "header_meta",
    "image_dataset",
    "image_planes",
    "mode_attrs",
    "plane_dims",
    "scalar_variables",
    "time_variables",
]


_TWO_DIMENSIONAL = ("regions", "wavelength", "pathloss_ps", "pathloss_un")
_RESAMPLED = ("wht", "con")
_STAGE_1 = ("sci", "err", "dq", "var_poisson", "var_rnoise")


def image_dataset(
    file: FitsFile, *, any_exp_type: bool = False, product: bool = False
) -> xr.Dataset:
    """Return the SCI extension of `file` and the planes that go with it as a Dataset.

    Of a product the planes of resampled data are read as well. Errors are those of
    :func:`spec2fn.io.open_exposure`.
    """
    import xarray as xr

    science = file.find("SCI")
    if science is None or not science.shape:
        msg = (
            f"{file.path}: has no SCI extension (it holds {file.listed}); give a _rate or"
            " _rateints file"
        )
        raise InputError(msg)
    records: dict[str, Any] = {}
    meta = header_meta(file, science, records)
    check_exp_type(file.path, meta, any_exp_type=any_exp_type)
    if not product:
        _check_mode(file.path, meta)
    dims = _dims(file.path, science, meta)
    integrations = science.shape[0] if len(dims) == 3 else None
    times = time_variables(file, integrations, meta, records)
    if integrations is not None and not (times or product or "warnings" in records):
        what = "no INT_TIMES table" if file.find("INT_TIMES") is None else "an empty INT_TIMES"
        count = f"{integrations} integrations"
        warning = f"{file.path.name}: has {what}; products do not say when its {count} were taken"
        _warn(records, warning)
    unit = data_unit(file.path, meta, science.get("BUNIT"), meta.get("SRCTYPE"), records)
    names = [n for n in PLANES if product or n not in _RESAMPLED]
    variables = image_planes(file, science, dims, names, unit)
    variables |= {**times, **scalar_variables(meta)}
    attrs = mode_attrs(meta)
    model = (
        "IFU" if mode_named(attrs["exp_type"], attrs.get("lamp_mode", "")).sliced else ""
    ) + "ImageModel"
    attrs["model"] = str(meta.get("DATAMODL", model if len(dims) == 2 else "CubeModel"))
    return xr.Dataset(variables, attrs={**attrs, "meta": meta})


def check_exp_type(path: Path, meta: Meta, *, any_exp_type: bool = False) -> None:
    """Raise :class:`InputError` unless the exposure is spectroscopic (or any type will do)."""
    exp_type = meta.get("EXP_TYPE")
    if not isinstance(exp_type, str):
        found = "missing" if exp_type is None else repr(exp_type)
        msg = f"{path}: keyword EXP_TYPE is {found}; it says how the exposure was taken: add it"
        raise InputError(msg)
    known = known_exp_types()
    if not any_exp_type and str(exp_type).strip() not in known:
        msg = (
            f"{path}: EXP_TYPE {exp_type!r} is not spectroscopic{nearest(exp_type, known)};"
            f" spectroscopic are {', '.join(known)}"
        )
        raise InputError(msg)


def check_type(path: Path, hdu: Hdu, plane: Plane) -> None:
    """Raise :class:`InputError` if the flags of a plane are no integers."""
    if plane.kind == "flag" and hdu.dtype.kind not in "iu":
        msg = f"{path}: {hdu.name} is {hdu.dtype}, but its bits need integers; store it as uint32"
        raise InputError(msg)


def data_unit(
    path: Path, meta: Meta, bunit: object, source_type: object, records: dict[str, Any]
) -> str:
    """Return the unit of SCI: BUNIT, or that of calibrated data if ``S_PHOTOM`` says they are.

    Parameters
    ----------
    path : Path
        For messages.
    meta : Meta
    bunit, source_type
        Values of BUNIT and SRCTYPE of the image or slit.
    records : dict
        Receives a warning where the two contradict each other: resampled slits of jwst before 1.14
        have the BUNIT of the exposure.

    Raises
    ------
    InputError
        If the data are said to be calibrated and not to be, or have a unit that is not known here.
    """
    unit = "" if bunit is None else str(bunit).strip()
    status = str(meta.get("S_PHOTOM", "")).strip()
    if "Jy" in unit:
        if unit not in ("MJy/sr", "MJy"):
            msg = (
                f"{path}: BUNIT is {unit!r}; convert the data to MJy/sr (or MJy, of point sources)"
            )
            raise InputError(msg)
        if status and status != "COMPLETE":
            msg = (
                f"{path}: BUNIT is {unit!r} although S_PHOTOM is {status!r}; correct the wrong one"
            )
            raise InputError(msg)
        return unit
    if status != "COMPLETE":
        return unit
    point = str(meta.get("INSTRUME")).strip() == "NIRSPEC" and source_type == "POINT"
    known = "MJy" if point and meta.get("CTYPE3") is None else "MJy/sr"
    if unit:
        warning = (
            f"BUNIT is {unit!r} although S_PHOTOM is 'COMPLETE': the data are taken to be in"
            f" {known}; correct S_PHOTOM if they are not calibrated"
        )
        _warn(records, warning)
    return known


def _warn(records: dict[str, Any], warning: str) -> None:
    records["warnings"] = tuple(dict.fromkeys((*records.get("warnings", ()), warning)))


def check_values(ds: Exposure, needed: Container[str] = ()) -> None:
    """Refuse an exposure without planes that are needed, or without a good pixel in them.

    Parameters
    ----------
    ds : xarray.Dataset, Slits or Cubes
        Slits, and what is no image, are let pass. Integrations are read one after the other until
        nothing is missing, as a rule one.
    needed : container of str
        Variables; those count that stage 1 writes.

    Raises
    ------
    InputError
        Naming the file and the extensions.
    """
    if isinstance(ds, Pieces) or "sci" not in ds or "wave" in ds["sci"].dims:
        return
    where = meta_of(ds).filename or "the exposure"
    absent = [PLANES[n].hdu for n in _STAGE_1 if n in needed and n not in ds]
    if absent:
        msg = f"{where}: has no extension {', '.join(absent)}; give the file that stage 1 wrote"
        raise InputError(msg)
    many = range(ds.sizes.get("integration", 0))
    missing = {"sci", "var_poisson", "var_rnoise"} & {str(n) for n in ds.data_vars}
    for part in (ds.isel(integration=i) for i in many) if many else (ds,):
        good = np.isfinite(part["sci"].values)
        if "dq" in part:
            good &= (part["dq"].values & np.uint32(PIXEL["DO_NOT_USE"])) == 0
        missing = {n for n in missing if not np.isfinite(part[n].values[good]).any()}
        if not missing:
            return
    if "sci" in missing:
        msg = f"{where}: no pixel of SCI is finite without DO_NOT_USE in DQ; give another exposure"
    else:
        hdu = PLANES[min(missing)].hdu
        msg = f"{where}: {hdu} has no finite value at a good pixel; run stage 1 again"
    raise InputError(msg)


def _check_mode(path: Path, meta: Meta) -> None:
    """Raise :class:`InputError` unless detector, filter, … are such as the exposure type has."""
    exp_type = str(meta.get("EXP_TYPE")).strip()
    lamp = (str(meta.get(k) or "") for k in ("OPMODE", "LAMP"))
    for keyword, known in mode_named(exp_type, *lamp).keywords.items():
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


def image_planes(
    file: FitsFile, science: Hdu, dims: tuple[str, ...], names: Iterable[str], unit: str
) -> dict[str, Any]:
    """Return those of the planes that a file has, read when they are used.

    Raises
    ------
    InputError
        If one does not fit SCI, which is on `dims`.
    """
    variables: dict[str, Any] = {}
    for name, plane in ((n, PLANES[n]) for n in names):
        hdu = file.find(plane.hdu) if plane.hdu else None
        if hdu is None or not hdu.shape:
            continue
        fits = {science.shape, science.shape[-2:] if name in _TWO_DIMENSIONAL else science.shape}
        context = name == "con" and (*hdu.shape[:-3], *hdu.shape[-2:]) == science.shape
        if hdu.shape not in fits and not context:
            msg = f"{file.path}: {hdu.name} is {hdu.shape}, but SCI is {science.shape}"
            raise InputError(f"{msg}; they must agree")
        check_type(file.path, hdu, plane)
        attrs = {"units": unit} if unit and plane.kind == "value" else {}
        variables[name] = lazy_variable(plane_dims(name, hdu, dims), file, hdu, plane.dtype, attrs)
    return variables


def plane_dims(name: str, hdu: Hdu, dims: tuple[str, ...]) -> tuple[str, ...]:
    """Return the dims of a plane of an image on `dims`, of which it may have the last alone."""
    if name == "con" and len(hdu.shape) > len(dims):
        return (*dims[:-2], "context", *dims[-2:])
    return dims[-len(hdu.shape) :]


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
    problem = "" if len(table) == integrations else f"has {len(table)} rows"
    first = meta.get("INTSTART", 1)
    if "integration_number" in table.names and isinstance(first, int):
        # a segment of an exposure may carry the times of the whole exposure
        number = table["integration_number"]
        own = (number >= first) & (number < first + integrations)
        if int(own.sum()) == integrations:
            chosen, problem = own, ""
        elif meta.get("INTSTART") is not None or problem:
            last = first + integrations - 1
            problem = (
                f"has {len(table)} rows, of integrations {number.min()} to {number.max()}, not of"
                f" {first} to {last}"
            )
    if problem:
        warning = (
            f"{file.path.name}: INT_TIMES {problem}, which do not match the {integrations}"
            " integrations of SCI; the times are left out"
        )
        _warn(records, warning)
        return {}
    lacking = [column for column, _ in INT_TIMES.values() if column not in table.names]
    if lacking:
        warning = f"{file.path.name}: INT_TIMES has no column {', '.join(lacking)}"
        _warn(records, warning)
    return {
        name: xr.Variable(("integration",), table[column][chosen].astype(dtype))
        for name, (column, dtype) in INT_TIMES.items()
        if column in table.names
    }


def header_meta(file: FitsFile, science: Hdu | None, records: Mapping[str, Any]) -> Meta:
    """Return the headers of a file, and of one of its extensions, with these records."""
    name = file.path.name.removesuffix(".gz")
    header = None if science is None else science.header
    return Meta(file.hdus[0].header, header, name, records=records, path=str(file.path))


def scalar_variables(meta: Meta, names: Iterable[str] | None = None) -> dict[str, Any]:
    """Return numbers of the headers as variables; by default those that every exposure has."""
    if names is None:
        names = [n for n, scalar in SCALARS.items() if scalar.read]
    found = {n: meta.get(SCALARS[n].keyword) for n in names}
    return {
        n: ((), np.float64(value), {"units": SCALARS[n].unit})
        for n, value in found.items()
        if value is not None
    }


def mode_attrs(meta: Meta) -> dict[str, Any]:
    """Read the attributes that steps branch on (:data:`spec2fn.schema.MODE_ATTRS`) from headers.

    Keywords that are absent are left out; what they may not hold is an :class:`InputError`.
    """
    out: dict[str, Any] = {}
    for name, (keyword, kind) in MODE_ATTRS.items():
        value = meta.get(keyword)
        if value is None:
            continue
        out[name] = value.strip() if isinstance(value, str) else kind(value)
    return out

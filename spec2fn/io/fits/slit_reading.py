"""Products of many slits as :class:`~spec2fn.slits.Slits`, read when they are used."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.buckets import group_shapes
from spec2fn.errors import InputError
from spec2fn.io.fits.asdf_wcs import deferred_list, deferred_wcs
from spec2fn.io.fits.exposures import (
    check_exp_type,
    check_type,
    data_unit,
    header_meta,
    mode_attrs,
    plane_dims,
    scalar_variables,
    time_variables,
)
from spec2fn.io.fits.extents import EXTRA_PLANES, HDUS
from spec2fn.io.fits.fitsfile import FitsFile, Hdu
from spec2fn.io.fits.keywords import PHOTOMETRY, SLIT_KEYWORDS
from spec2fn.io.fits.lazy import lazy_stack, lazy_variable
from spec2fn.modes import mode_named
from spec2fn.schema import (
    AREA,
    COMMON_ERROR,
    COMMON_SHARE,
    FIXED_SLIT_QUADRANT,
    PLANES,
    SCALARS,
    SHUTTERS_ALONG,
    Meta,
)
from spec2fn.slits import Slits, padding
from spec2fn.typing import HostArray

if TYPE_CHECKING:
    import xarray as xr

    from spec2fn.deferred import DeferredWcs

__all__ = ["extra_dims", "holds_slits", "read_slits"]

_UNKNOWN: dict[str, Any] = {
    "source_type": "UNKNOWN",
    "slitlet_id": 0,
    "shutter_id": 0,
    "source_id": 0,
    "wavelength_corrected": False,
    "barshadow_corrected": False,
}
_TEXT = (
    "slit_name", "source_name", "source_alias", "source_type", "shutter_state",
    "pathloss_correction_type",
)  # fmt: skip
_ALWAYS = ("source_id", "source_type", "quadrant", "shutter_state")


def holds_slits(file: FitsFile) -> bool:
    """Whether a file holds slits that are handled as such, be it only one."""
    if sum(h.name == "SCI" for h in file.hdus) > 1:
        return True
    primary = file.hdus[0].header
    model, instrument = (str(primary.get(k, "")).strip() for k in ("DATAMODL", "INSTRUME"))
    if model in ("MultiSlitModel", "MultiProductModel"):
        return True
    # the stages after this one, and others, keep each slit in a file of its own; MIRI has a
    # SlitModel without a slit
    science = file.find("SCI")
    named = science is not None and science.get("SLTNAME") is not None
    return instrument == "NIRSPEC" and (model == "SlitModel" or named)


def read_slits(file: FitsFile, *, any_exp_type: bool = False) -> Slits:
    """Return the slits of a MultiSlitModel, or the one of a SlitModel of NIRSpec.

    Pixels are read, bucket by bucket, when they are used. The ids count the slits of the file.

    Raises
    ------
    InputError
        Naming the file, if its planes do not fit each other.
    """
    slits = _by_version(file)
    science = [planes["SCI"] for planes in slits]
    records: dict[str, Any] = {}
    meta = header_meta(file, science[0], records)
    check_exp_type(file.path, meta, any_exp_type=any_exp_type)
    dims = _dims(file.path, slits)
    common = _common(file, meta, slits, dims, records)
    attrs = _attrs(meta)
    attrs["model"] = str(meta.get("DATAMODL", "MultiSlitModel"))
    columns = _variables(file.path, science, slits)
    if mode_named(str(attrs["exp_type"])).layout == "traces":
        orders = [h.get("SPORDER") for h in science]
        _check_numbers(file.path, "SPORDER", orders)
        columns["spectral_order"] = np.array([1 if o is None else int(o) for o in orders])
    kinds = columns["source_type"]
    columns["bunit"] = np.array(
        [
            data_unit(file.path, meta, h.get("BUNIT"), kind, records)
            for h, kind in zip(science, kinds, strict=True)
        ]
    )
    wcs = _wcs(file, meta, len(slits))
    attrs["meta"] = meta.replace(wcs=wcs)
    height, width = columns["ysize"], columns["xsize"]
    groups = group_shapes([(int(h), int(w)) for h, w in zip(height, width, strict=True)])
    return Slits(
        tuple(_bucket(file, slits, np.array(g), dims, columns, common, attrs) for g in groups)
    )


def _by_version(file: FitsFile) -> list[dict[str, Hdu]]:
    found: dict[int, dict[str, Hdu]] = {}
    for hdu in file.hdus:
        if not hdu.is_table and hdu.shape and hdu.name:
            name, _, number = hdu.name.rpartition("_")
            ours = number.isdigit() and name in EXTRA_PLANES.values()
            version, name = (int(number), name) if ours else (hdu.version, hdu.name)
            found.setdefault(version, {})[name] = hdu
    slits = [planes for _, planes in sorted(found.items()) if "SCI" in planes]
    if not slits:
        msg = f"{file.path}: has no SCI extension with pixels; give a product with slits"
        raise InputError(msg)
    for planes in slits:
        shape = planes["SCI"].shape
        for name, hdu in ((n, planes[e]) for n, e in HDUS.items() if e in planes):
            if name in PLANES:
                check_type(file.path, hdu, PLANES[name])
            more = len(hdu.shape) > len(shape) and name not in ("con", *EXTRA_PLANES)
            if hdu.shape[-2:] != shape[-2:] or more:
                msg = (
                    f"{file.path}: {hdu.name} {hdu.version} is {hdu.shape}, but its SCI is"
                    f" {shape}; they must agree"
                )
                raise InputError(msg)
    return slits


def _dims(path: Path, slits: list[dict[str, Hdu]]) -> tuple[str, ...]:
    leads = {planes["SCI"].shape[:-2] for planes in slits}
    if len(leads) > 1 or len(min(leads)) > 1:
        msg = f"{path}: its slits have leading dimensions {sorted(leads)}; they must agree"
        raise InputError(msg)
    return ("integration", "y", "x") if len(leads.pop()) else ("y", "x")


def _attrs(meta: Meta) -> dict[str, Any]:
    attrs = mode_attrs(meta)
    assert meta.science is not None
    names = list(meta.science)
    # behind EXTVER the keyword is that of the first slit, not of the exposure
    if "SRCTYPE" in names and "EXTVER" in names:
        several = str(meta.get("DATAMODL")) != "SlitModel"
        if several and names.index("SRCTYPE") > names.index("EXTVER"):
            attrs.pop("source_type", None)
    return attrs


def _common(
    file: FitsFile,
    meta: Meta,
    slits: list[dict[str, Hdu]],
    dims: tuple[str, ...],
    records: dict[str, Any],
) -> dict[str, Any]:
    """Variables that every bucket has alike."""
    count = slits[0]["SCI"].shape[0] if len(dims) == 3 else None
    scalars = (n for n, s in SCALARS.items() if s.read or s.hdu == "PRIMARY")
    out = {**time_variables(file, count, meta, records), **scalar_variables(meta, scalars)}
    area = slits[0].get("AREA")
    if area is not None and len(area.shape) == 2:
        out[AREA] = lazy_variable(("area_y", "area_x"), file, area, "float32")
    return out


def _variables(path: Path, science: Sequence[Hdu], slits: list[dict[str, Hdu]]) -> dict[str, Any]:
    """Variables on ``slit``, of all slits."""
    out: dict[str, Any] = {}
    for keyword, (name, _) in SLIT_KEYWORDS.items():
        values = [h.get(keyword) for h in science]
        if name not in _TEXT:
            _check_numbers(path, keyword, values)
        if name in _ALWAYS or any(v is not None for v in values):
            missing = [_UNKNOWN.get(name, "" if name in _TEXT else np.nan)] * len(science)
            if name == "quadrant":  # of products older than MSAQUAD: 0 for that of a slitlet
                missing = [0 if h.get("SHUTSTA") else FIXED_SLIT_QUADRANT for h in science]
            known = zip(missing, values, strict=True)
            out[name] = np.array([m if v is None else v for m, v in known])
    size = np.array([planes["SCI"].shape[-2:] for planes in slits])
    for name, true in (("ysize", size[:, 0]), ("xsize", size[:, 1])):
        if name in out and not np.array_equal(out[name], true):
            out[f"cutout_{name}"] = out[name]
        out[name] = true
    out |= _shutters(out)
    out["slit_problem"] = np.full(len(science), "")
    if "slit_name" not in out:
        out["slit_name"] = np.array([str(k) for k in range(1, len(science) + 1)])
    for name in PHOTOMETRY:
        values = [h.get(SCALARS[name].keyword) for h in science]
        _check_numbers(path, SCALARS[name].keyword, values)
        if any(v is not None for v in values):
            out[name] = np.array([np.nan if v is None else float(v) for v in values])
    regions = [str(h.get("S_REGION") or "") for h in science]
    if any(regions):
        out["s_region"] = np.array(regions)
    return out


def _check_numbers(path: Path, keyword: str, values: list[Any]) -> None:
    for number, value in enumerate(values, 1):
        if value is not None and not isinstance(value, (bool, int, float)):
            msg = f"{path}: {keyword} of SCI {number} is {value!r}, needs a number; correct it"
            raise InputError(msg)


def _shutters(columns: dict[str, Any]) -> dict[str, Any]:
    """Row and column of the main shutter of each slitlet; no keyword has them."""
    if "shutter_id" not in columns:
        return {}
    number = np.nan_to_num(columns["shutter_id"].astype(float)).astype(int)
    msa = (columns["quadrant"] < FIXED_SLIT_QUADRANT) & (number > 0)
    row, column = (np.where(msa, n + 1, 0) for n in np.divmod(number - 1, SHUTTERS_ALONG))
    return {"xcen": column, "ycen": row}


def _wcs(file: FitsFile, meta: Meta, count: int) -> dict[int, DeferredWcs] | None:
    asdf = file.find("ASDF")
    if asdf is None:
        return None
    content = functools.partial(file.data, asdf)
    if str(meta.get("DATAMODL")) == "SlitModel":
        return {0: deferred_wcs(content, meta.filename)}
    return deferred_list(content, meta.filename, "slits", range(count))


def _bucket(  # noqa: PLR0917 - one call
    file: FitsFile,
    slits: list[dict[str, Hdu]],
    members: HostArray,
    dims: tuple[str, ...],
    columns: dict[str, Any],
    common: dict[str, Any],
    attrs: dict[str, Any],
) -> xr.Dataset:
    import xarray as xr

    here = [slits[int(i)] for i in members]
    padded = {d: int(columns[f"{d}size"][members].max()) for d in ("y", "x")}
    variables: dict[str, Any] = {}
    for name, hdu in HDUS.items():
        found = tuple(planes.get(hdu) for planes in here)
        one = next((h for h in found if h is not None), None)
        if one is None:
            continue
        on = extra_dims(file, one) if name in EXTRA_PLANES else plane_dims(name, one, dims)
        shape = tuple(padded.get(d, n) for d, n in zip(on, one.shape, strict=True))
        fill = padding(name, np.dtype(PLANES[name].dtype if name in PLANES else one.dtype))
        if name in (COMMON_ERROR, COMMON_SHARE):
            fill = fill.dtype.type(0)  # a slit without has nothing in common
        unit = one.get("BUNIT") if name in EXTRA_PLANES else None
        said = {"units": str(unit).strip()} if unit else {}
        variables[name] = lazy_stack(on, file, found, shape, fill=fill, attrs=said)
    alike = "photmjsr" not in columns and len(set(columns["bunit"])) == 1
    columns = {n: v[members] for n, v in columns.items()}
    units = set(columns["bunit"])
    unit = str(units.pop()) if len(units) == 1 else "see bunit"
    if alike:
        del columns["bunit"]
    for name in ("sci", "err"):
        if unit and name in variables:
            variables[name].attrs["units"] = unit
    data = {**variables, **{n: ("slit", v) for n, v in columns.items()}, **common}
    for name in PHOTOMETRY:
        if name in columns:
            data[name] = ("slit", columns[name], {"units": SCALARS[name].unit})
    return xr.Dataset(data, coords={"slit": members}, attrs=attrs)


def extra_dims(file: FitsFile, hdu: Hdu) -> tuple[str, ...]:
    """Dimensions of a plane that only products of spec2fn have."""
    dims = tuple(str(hdu.get("DIMS")).split(","))
    if len(dims) != len(hdu.shape):
        msg = f"{file.path}: DIMS of {hdu.name} is {hdu.get('DIMS')!r}, but it is {hdu.shape}"
        raise InputError(msg)
    return dims

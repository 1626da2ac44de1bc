"""Products as Datasets: FITS of spec2fn or of the peer, and netCDF."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.errors import InputError
from spec2fn.io.fits.asdf_wcs import deferred_list, deferred_wcs
from spec2fn.io.fits.cube_layout import cube_dataset, holds_cube
from spec2fn.io.fits.exposures import (
    header_meta,
    image_dataset,
    mode_attrs,
    scalar_variables,
    time_variables,
)
from spec2fn.io.fits.extents import EXTRA_PLANES
from spec2fn.io.fits.fitsfile import FitsFile, Hdu, Table, scan
from spec2fn.io.fits.keywords import (
    ASSOCIATION_KEYWORDS,
    CRDS_KEYWORDS,
    REFERENCE_KEYWORDS,
    REFERENCE_POINT,
    RESAMPLE_KEYWORDS,
    SLIT_KEYWORDS,
    SPECTRUM_KEYWORDS,
    STEP_KEYWORDS,
)
from spec2fn.io.fits.layout import RECORD_HDU, TIME_COLUMNS
from spec2fn.io.fits.lazy import lazy_columns, lazy_variable
from spec2fn.io.fits.slit_reading import extra_dims, holds_slits, read_slits
from spec2fn.io.fits.source_tables import holds_sources, source_variables
from spec2fn.schema import SCALARS, SPECTRUM_COLUMNS, Meta

if TYPE_CHECKING:
    import xarray as xr

    from spec2fn.deferred import DeferredWcs
    from spec2fn.slits import Slits

__all__ = [
    "open_exposure",
    "holds_slits",
    "later_product",
    "open_product",
    "read_product",
]


def open_exposure(
    path: str | os.PathLike[str], *, any_exp_type: bool = False
) -> xr.Dataset | Slits:
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
    if what := later_product(file):
        msg = f"{file.path}: is {what}"
        raise InputError(msg)
    if holds_slits(file):
        return _open_slits(file, any_exp_type=any_exp_type)
    return image_dataset(file, any_exp_type=any_exp_type)


def open_product(path: str | os.PathLike[str]) -> xr.Dataset | Slits:
    """Open a product: ``_cal``, ``_calints``, ``_s2d``, ``_x1d`` and so on.

    Parameters
    ----------
    path : path
        FITS file of spec2fn or of the JWST pipeline, or netCDF file of spec2fn (``.nc``).

    Returns
    -------
    xarray.Dataset or Slits
        dims ``([integration,] y, x)``, ``([integration,] wave, y, x)`` or ``([integration,]
        spectrum, wave)``; see
        ``docs/dataset.md``. Products of many slits (and of the slit of a NIRSpec time series) are
        :class:`~spec2fn.slits.Slits`, whose ids count the slits of the file. Images are read when
        they are used, and so is ``meta.wcs``. Step status, references, and the run record are in
        attributes and ``meta.records``.

    Raises
    ------
    InputError
        Naming the file, if it is missing, damaged, or no product.
    """
    if Path(path).suffix.lower() in (".nc", ".nc4", ".h5"):
        from spec2fn.io.netcdf import read_netcdf

        return read_netcdf(path)
    file = scan(path)
    if holds_slits(file):
        return _open_slits(file)
    if holds_cube(file):
        ds = cube_dataset(file)
    elif file.find("SCI") is not None:
        ds = image_dataset(file, product=True)
    elif file.find("EXTRACT1D") is not None:
        ds = _extracted(file)
    else:
        msg = (
            f"{file.path}: has neither SCI nor EXTRACT1D (it holds {file.listed}); give a product"
            " file"
        )
        raise InputError(msg)
    meta: Meta = ds.attrs["meta"]
    records = {**meta.records, **_records(file, meta)}
    wcs = None
    if asdf := file.find("ASDF"):
        wcs = _wcs(ds, partial(file.data, asdf), meta.filename)
    attrs = {**ds.attrs, **_attrs(meta), "meta": meta.replace(records=records, wcs=wcs)}
    extra: dict[str, Any] = {}
    for name, extension in EXTRA_PLANES.items():
        if hdu := file.find(extension):
            unit = hdu.get("BUNIT")
            said = {"units": unit} if unit else {}
            extra[name] = lazy_variable(extra_dims(file, hdu), file, hdu, attrs=said)
    if "sci" in ds:
        extra |= scalar_variables(meta, [n for n in SCALARS if n not in ds])
        extra |= _cut_out(meta)
    return ds.assign(extra).assign_attrs(attrs)


def _cut_out(meta: Meta) -> dict[str, Any]:
    """What the header says of the only cut-out of a time series, as variables."""
    if meta.get("SLTNAME") is None:
        return {}
    keywords = {name: keyword for keyword, (name, _) in SLIT_KEYWORDS.items()}
    keywords |= REFERENCE_POINT
    values = {n: meta.get(k) for n, k in keywords.items() if n not in (*SCALARS, "source_type")}
    return {n: ((), np.array(v)) for n, v in values.items() if v is not None}


read_product = open_product

_FORMER = {"FLUX_ERROR": "ERROR", "BKGD_ERROR": "BERROR"}
"""Columns of spectra by the name that products of jwst before 1.2 have."""


def later_product(file: FitsFile) -> str:
    """Say what a file is that holds no exposure any more, and what is needed; "" if it does."""
    names = {h.name for h in file.hdus}
    needed = "; calibration starts from a _rate or _rateints file"
    if "SCI" not in names:
        spectra = bool({"EXTRACT1D", "COMBINE1D"} & names)
        return f"a file of extracted spectra (_x1d){needed}" if spectra else ""
    needed += "; to go on on purpose: --from extract_1d, or start='extract_1d' in Python"
    if holds_cube(file):
        return f"a cube (_s3d){needed}"
    resampled = file.hdus[0].get(STEP_KEYWORDS["resample_spec"][0]) == "COMPLETE"
    return f"a resampled image (_s2d){needed}" if resampled or {"WHT", "CON"} <= names else ""


def _open_slits(file: FitsFile, *, any_exp_type: bool = False) -> Slits:
    """Return the slits of a product, with the status of the steps and the run record."""
    slits = read_slits(file, any_exp_type=any_exp_type)
    meta: Meta = slits.attrs["meta"]
    attrs = _attrs(meta)
    attrs.pop("s_region", None)  # that of the first slit
    records = {**meta.records, **_records(file, meta)}
    return slits.assign_attrs({**attrs, "meta": meta.replace(records=records)})


def _wcs(
    ds: xr.Dataset, content: Callable[[], bytes], where: str
) -> DeferredWcs | dict[str, DeferredWcs]:
    """Return what ``meta.wcs`` is: one gwcs of an image, or one for each spectrum by its name."""
    if "sci" in ds:
        return deferred_wcs(content, where)
    count = int(ds.sizes["spectrum"])
    names = [str(n) for n in ds["sltname"].values] if "sltname" in ds else []
    if len(set(names)) != count:
        names = [f"{n}" for n in range(count)]
    return deferred_list(content, where, "spec", names)


def _attrs(meta: Meta) -> dict[str, Any]:
    texts = {f"status_{name}": keyword for name, (keyword, _) in STEP_KEYWORDS.items()}
    out = _texts(meta, texts)
    for name, (keyword, _) in RESAMPLE_KEYWORDS.items():
        if meta.get(keyword) is not None:
            out[name] = meta.get(keyword)
    return out | _texts(meta, {"s_region": "S_REGION", "specsys": "SPECSYS"})


def _texts(meta: Meta, keywords: Mapping[str, str]) -> dict[str, Any]:
    """Values of keywords, of those that there are, by other names."""
    found = {name: meta.get(keyword) for name, keyword in keywords.items()}
    return {name: str(value) for name, value in found.items() if value is not None}


def _records(file: FitsFile, meta: Meta) -> dict[str, Any]:
    references = _texts(meta, {t: k for t, (k, _) in REFERENCE_KEYWORDS.items()})
    out: dict[str, Any] = {"references": references} if references else {}
    said = {**CRDS_KEYWORDS, **ASSOCIATION_KEYWORDS}
    out |= _texts(meta, {name: keyword for name, (keyword, _) in said.items()})
    hdu = file.find(RECORD_HDU)
    if hdu is not None:
        try:
            out["run"] = json.loads(file.data(hdu))
        except ValueError as err:
            msg = f"{file.path}: the run record is damaged ({err}); make the product again"
            raise InputError(msg) from err
    return out


def _extracted(file: FitsFile) -> xr.Dataset:
    """Read the EXTRACT1D tables: one per spectrum, rows are wavelengths or integrations."""
    import xarray as xr

    hdus = [h for h in file.hdus if h.name == "EXTRACT1D" and h.is_table]
    # tables of a long series are large
    tables = [file.table(h, slice(0, 0)) for h in hdus]
    names = tables[0].names if tables else ()
    if not {"WAVELENGTH", "FLUX"} <= set(names):
        held = ", ".join(names) or "no column"
        msg = f"{file.path}: EXTRACT1D holds {held}; a spectrum has WAVELENGTH and FLUX"
        raise InputError(msg)
    if holds_sources(tables):
        return _of_sources(file, [file.table(h) for h in hdus], hdus)
    if any(t.names != names for t in tables):
        msg = f"{file.path}: its EXTRACT1D tables have different columns; give one file of one kind"
        raise InputError(msg)
    meta = header_meta(file, None, {})
    many = "INT_NUM" in names and tables[0].width("WAVELENGTH") != ()
    if not many:
        tables = [file.table(h) for h in hdus]
    groups = _integrations(file, hdus)
    hdus, first = [hdus[k] for k in groups[0]], [tables[k] for k in groups[0]]
    lengths = [t.width("WAVELENGTH")[0] if many else len(t) for t in first]
    variables = _rows(file, first[0], hdus, lengths) if many else _columns(first, hdus[0], lengths)
    if len(groups) > 1:
        apart = [_columns([tables[k] for k in g], hdus[0], lengths) for g in groups]
        for name, (dims, _, attrs) in variables.items():
            together = np.stack([columns[name][1] for columns in apart])
            variables[name] = (("integration", *dims), together, attrs)
    variables["n_wave"] = (("spectrum",), np.array(lengths, np.int32))
    variables.update(_spectrum_variables(hdus))
    records: dict[str, Any] = {}
    if len(groups) > 1:
        variables.update(time_variables(file, len(groups), meta, records))
    elif many:
        times = time_variables(file, hdus[0].shape[0], meta, records)
        if not times:
            found = {n: file.column(hdus[0], c) for n, c in TIME_COLUMNS.items() if c in names}
            times = {n: (("integration",), t) for n, t in found.items() if np.isfinite(t).any()}
        variables.update(times)
    elif file.find("INT_TIMES") is not None:
        time_variables(file, None, meta, records)
    attrs = mode_attrs(meta)
    attrs["model"] = str(meta.get("DATAMODL", "MultiSpecModel"))
    meta = meta.replace(records=records)
    return xr.Dataset(variables, attrs={**attrs, "meta": meta})


def _of_sources(file: FitsFile, tables: list[Table], hdus: list[Hdu]) -> xr.Dataset:
    """Spectra of the sources of a slitless exposure."""
    import xarray as xr

    meta = header_meta(file, None, {})
    attrs = mode_attrs(meta)
    dispaxis = hdus[0].get("DISPAXIS")
    if dispaxis is not None:
        attrs["dispaxis"] = int(dispaxis)
    attrs["model"] = str(meta.get("DATAMODL", "WFSSMultiSpecModel"))
    return xr.Dataset(source_variables(tables, hdus), attrs={**attrs, "meta": meta})


def _integrations(file: FitsFile, hdus: list[Hdu]) -> list[list[int]]:
    """Positions of the spectra of each integration, which had tables of their own before jwst 1.18.

    One group where they have not.
    """
    groups: dict[Any, list[int]] = {}
    for k, hdu in enumerate(hdus):
        groups.setdefault(hdu.get("INT_NUM"), []).append(k)
    rows = {tuple(hdus[k].shape[0] for k in g) for g in groups.values()}
    if len(groups) == 1 or None in groups:
        return [list(range(len(hdus)))]
    if len(rows) > 1:
        msg = f"{file.path}: the spectra of its integrations (INT_NUM) differ in length or number"
        raise InputError(msg)
    return list(groups.values())


def _columns(tables: list[Table], hdu: Hdu, lengths: list[int]) -> dict[str, Any]:
    """Columns of tables whose rows are wavelengths."""
    out: dict[str, Any] = {}
    for name, column, fill, attrs in _held(tables[0], hdu):
        data = np.full((len(tables), max(lengths)), fill)
        for k, table in enumerate(tables):
            data[k, : lengths[k]] = table[column]
        out[name] = (("spectrum", "wave"), data, attrs)
    return out


def _rows(file: FitsFile, head: Table, hdus: list[Hdu], lengths: list[int]) -> dict[str, Any]:
    """Columns of tables whose rows are integrations; they are read when they are used."""
    shape = hdus[0].shape[0], len(hdus), max(lengths)
    return {
        name: lazy_columns(file, hdus, column, shape, fill=fill, attrs=attrs)
        for name, column, fill, attrs in _held(head, hdus[0])
    }


def _held(
    table: Table, hdu: Hdu
) -> Iterator[tuple[str, str, np.uint32 | np.float64, dict[str, Any]]]:
    """Variables that a table holds: name, column, value of nothing, attributes."""
    units = hdu.units
    for name, (current, _) in SPECTRUM_COLUMNS.items():
        column = current if current in table.names else _FORMER.get(current, "")
        if column in table.names:
            nothing = np.uint32(0) if name == "dq" else np.float64(np.nan)
            yield name, column, nothing, {} if units[column] is None else {"units": units[column]}


def _spectrum_variables(hdus: list[Hdu]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for keyword in SPECTRUM_KEYWORDS:
        values = [h.get(keyword) for h in hdus]
        if all(v is None for v in values):
            continue
        if any(isinstance(v, str) for v in values):
            array = np.array(["" if v is None else str(v) for v in values])
        elif all(isinstance(v, int) for v in values) and not keyword.startswith("EXTR"):
            array = np.array(values, bool if isinstance(values[0], bool) else np.int32)
        else:
            array = np.array([np.nan if v is None else float(v) for v in values])
        out[keyword.lower()] = (("spectrum",), array)
    return out

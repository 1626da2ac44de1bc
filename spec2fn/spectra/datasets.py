"""Extracted spectra as Datasets: columns, metadata and WCS, and joining those of buckets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.deferred import as_deferred
from spec2fn.errors import DatasetError
from spec2fn.kernels.namespace import array_namespace, is_traced
from spec2fn.modes import mode_of
from spec2fn.schema import (
    EXTRACTED,
    NOT_EXTRACTED,
    SPECTRUM_COLUMNS,
    meta_of,
    warnings_of,
)
from spec2fn.slits import strings
from spec2fn.typing import Array, Arrays
from spec2fn.wcs.spectrum import SpectralWcs

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["join_spectra", "slit_metadata", "spectra_dataset", "with_wcs"]


# variable on ``slit`` -> variable on ``spectrum``: the FITS keyword in lower case
_ALWAYS: Mapping[str, str] = {
    "source_id": "sourceid",
    "source_xpos": "srcxpos",
    "source_ypos": "srcypos",
    "wavelength_corrected": "wavecor",
    "pathloss_correction_type": "pthloss",
}
_MSA: Mapping[str, str] = {
    "slitlet_id": "slitid",
    "source_name": "srcname",
    "source_alias": "srcalias",
    "stellarity": "stlarity",
    "source_ra": "srcra",
    "source_dec": "srcdec",
    "shutter_state": "shutsta",
    "quadrant": "msaquad",
    "slit_xscale": "sltxscl",
    "slit_yscale": "sltyscl",
    "barshadow_corrected": "barshdw",
}
_TRACES: Mapping[str, str] = {
    "source_ra": "srcra",
    "source_dec": "srcdec",
    **{n: f"extract2d_{n}" for n in ("xstart", "ystart", "xsize", "ysize")},
}


def slit_metadata(bucket: xr.Dataset) -> dict[str, Array]:
    """Metadata of slits, (spectrum,), for the headers of their spectra.

    Shutters and planned sources only of slits that were planned with the MSA, whose
    ``shutter_state`` is known.
    """
    names = dict(_ALWAYS)
    if any(strings(bucket, "shutter_state")):
        names |= _MSA
    if "spectral_order" in bucket:
        names |= _TRACES
    return {
        new: bucket.variables[old].data
        for old, new in names.items()
        if old in bucket and bucket.variables[old].dims == ("slit",)
    }


def join_spectra(datasets: Sequence[xr.Dataset]) -> xr.Dataset:
    """Join extracted spectra into one Dataset, in the order of the slits.

    Parameters
    ----------
    datasets : sequence of xarray.Dataset
        dims ([integration,] spectrum, wave), with the variables of
        :data:`spec2fn.schema.EXTRACTED`, ``n_wave`` and ``slit`` (id) on ``spectrum``.

    Returns
    -------
    xarray.Dataset
        Sorted by slit id; the spectra are padded to the longest with NaN (0 in ``dq``). What
        does not depend on the spectrum, and the attributes, come from the first Dataset;
        ``meta.wcs`` and ``meta.records`` hold those of all.

    Raises
    ------
    DatasetError
        If there are none, or a slit occurs twice.
    """
    import xarray as xr

    if not datasets:
        msg = "join_spectra: there are no spectra to join"
        raise DatasetError(msg)
    ids = np.concatenate([np.asarray(d["slit"].values) for d in datasets])
    if len(set(ids.tolist())) != len(ids):
        msg = f"join_spectra: slits {sorted(ids.tolist())} occur more than once"
        raise DatasetError(msg)
    order = np.argsort(ids, kind="stable")
    n_wave = max(d.sizes["wave"] for d in datasets)
    first = datasets[0]
    joined: dict[str, Any] = {}
    # those of the table, then the others, in the order they come
    names = dict.fromkeys(n for n in EXTRACTED if n in first)
    for d in datasets:
        names |= dict.fromkeys(str(n) for n in d.variables)
    for name in names:
        like = next(d for d in datasets if name in d).variables[name]
        if "spectrum" not in like.dims:
            joined[name] = like
            continue
        axis = like.dims.index("spectrum")
        parts = [_padded(d, name, like, n_wave) for d in datasets]
        xp = array_namespace(*parts)
        data = parts[0] if len(parts) == 1 else xp.concatenate(parts, axis=axis)
        if np.any(np.diff(order) != 1):
            data = xp.take(data, order, axis=axis)
        joined[name] = (like.dims, data, dict(like.attrs))
    out = xr.Dataset(
        {n: v for n, v in joined.items() if n not in first.coords},
        coords={n: v for n, v in joined.items() if n in first.coords},
        attrs=first.attrs,
    )
    if len(datasets) == 1 or "meta" not in first.attrs:  # which no trace has
        return out
    wcs: dict[str, Any] = {}
    records: dict[str, Any] = {}
    lost: dict[str, str] = {}
    for d in datasets:
        meta = meta_of(d)
        wcs |= {k: as_deferred(meta.wcs, k) for k in meta.wcs or ()}
        records |= meta.records
        lost |= meta.records.get(NOT_EXTRACTED, {})
    if lost:
        records[NOT_EXTRACTED] = lost
    told = dict.fromkeys(w for d in datasets for w in warnings_of(d))
    if told:
        records["warnings"] = tuple(told)
    return out.assign_attrs(meta=meta_of(first).replace(wcs=wcs, records=records))


def _padded(ds: xr.Dataset, name: str, like: xr.Variable, n_wave: int) -> Array:
    """A variable with the length `n_wave`; empty values if this Dataset does not have it."""
    fill = np.nan if np.dtype(like.dtype).kind == "f" else np.zeros((), like.dtype)[()]
    if name not in ds:
        shape = tuple(n_wave if d == "wave" else ds.sizes[d] for d in like.dims)
        return np.full(shape, fill, dtype=like.dtype)
    data = ds.variables[name].data
    missing = n_wave - ds.sizes["wave"]
    if "wave" not in like.dims or missing == 0:
        return data
    edges = [(0, missing if d == "wave" else 0) for d in like.dims]
    return array_namespace(data).pad(data, edges, constant_values=fill)


def spectra_dataset(
    ds: xr.Dataset,
    columns: Arrays,
    per_spectrum: Mapping[str, Array],
    *,
    angle: Array | None,
    calibrated: bool,
) -> xr.Dataset:
    """Put columns into a Dataset, in the order of the table and with their units.

    Parameters
    ----------
    ds : xarray.Dataset
        Images or a cube; what does not depend on their pixels is kept.
    columns : dict of str to array, ([integration,] spectrum, wave)
        By their names in :data:`spec2fn.schema.SPECTRUM_COLUMNS`; ``wavelength`` has no
        integrations.
    per_spectrum : dict of str to array, (spectrum,)
        What else the header of each spectrum says.
    angle : array, (1,), optional
        Position angle of the aperture [deg].
    calibrated : bool
        Whether the columns are in their units, or in those of count rates.
    """
    import xarray as xr

    xp = array_namespace(columns["flux"])
    cube = "wave" in ds["sci"].dims
    lead = ("integration",) * (columns["flux"].ndim - 2)
    values: dict[str, Any] = {}
    for name, (_, unit) in SPECTRUM_COLUMNS.items():
        if name not in columns:
            continue
        units = unit if calibrated else _count_rate(unit, name)
        if cube and units == "MJy^2 / sr^2":
            units = "(MJy/sr)^2"  # as the tables of cubes' spectra have it
        dims = ("spectrum", "wave") if name == "wavelength" else (*lead, "spectrum", "wave")
        values[name] = (dims, columns[name], {"units": units} if units else {})
    count = len(per_spectrum["n_wave"])
    per_spectrum = dict(per_spectrum)
    if ds.attrs.get("detector"):
        per_spectrum["detector"] = np.array([str(ds.attrs["detector"])] * count)
    if angle is not None:
        per_spectrum["pa_aper"] = xp.broadcast_to(angle, (count,))
    values |= {name: (("spectrum",), value) for name, value in per_spectrum.items()}
    used = {"y", "x", "lag", "slit", "wave"}
    kept = {n: v for n, v in ds.variables.items() if not used & set(v.dims) and n not in values}
    coords = {n: v for n, v in kept.items() if n in ds.coords}
    values |= {str(n): v for n, v in kept.items() if n not in coords}
    model = "MRSMultiSpecModel" if mode_of(ds).etalon else "MultiSpecModel"
    model = "WFSSMultiSpecModel" if "extract2d_xstart" in per_spectrum else model
    attrs = {**ds.attrs, "model": "TSOMultiSpecModel" if lead else model}
    if cube:  # it has no dispersion axis that a spectrum could inherit
        attrs.pop("dispaxis", None)
    return xr.Dataset(values, coords=coords, attrs=attrs)


def _count_rate(unit: str, name: str) -> str:
    if unit in ("", "um"):
        return unit
    return "DN^2 / s^2" if "var_" in name else "DN/s"


def with_wcs(
    spectra: xr.Dataset, source: xr.Dataset, records: Mapping[str, Any] | None = None
) -> xr.Dataset:
    """Return spectra with the headers of their `source`, and a WCS for each, outside of a trace."""
    if is_traced(spectra["flux"].data):
        return spectra
    position = np.stack([spectra["slit_ra"].values, spectra["slit_dec"].values], axis=1)
    if spectra.attrs["model"] == "WFSSMultiSpecModel":  # whose tables have no WCS
        meta = meta_of(source).replace(wcs=None, records=records or {})
        return spectra.assign_attrs(meta=meta)
    names, wavelength = spectra["sltname"].values, np.asarray(spectra["wavelength"].data)
    wcs = SpectralWcs(names, position, wavelength)
    return spectra.assign_attrs(meta=meta_of(source).replace(wcs=wcs, records=records or {}))

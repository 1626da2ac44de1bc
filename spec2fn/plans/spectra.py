"""Extracted spectra as Datasets: metadata of their slits, and joining those of several buckets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.errors import DatasetError
from spec2fn.kernels.namespace import array_namespace
from spec2fn.plans.slit_frame import strings
from spec2fn.schema import EXTRACTED, NOT_EXTRACTED, meta_of

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["join_spectra", "slit_metadata"]

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


def slit_metadata(bucket: xr.Dataset, members: Sequence[int]) -> dict[str, Any]:
    """Metadata of slits for the headers of their spectra.

    Parameters
    ----------
    bucket : xarray.Dataset
    members : sequence of int
        Positions of the slits in the bucket.

    Returns
    -------
    dict of str to array, (spectrum,)
        Shutters and planned sources only of slits that were planned with the MSA, whose
        ``shutter_state`` is known.
    """
    names = dict(_ALWAYS)
    if any(strings(bucket, "shutter_state")):
        names |= _MSA
    index = list(members)
    return {
        new: bucket.variables[old].data[np.array(index)]
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
    for name in _names(datasets):
        found = next(d for d in datasets if name in d).variables[name]
        if "spectrum" not in found.dims:
            joined[name] = found
            continue
        axis = found.dims.index("spectrum")
        parts = [_padded(d, name, found, n_wave) for d in datasets]
        xp = array_namespace(*parts)
        data = parts[0] if len(parts) == 1 else xp.concatenate(parts, axis=axis)
        if np.any(np.diff(order) != 1):
            data = xp.take(data, order, axis=axis)
        joined[name] = (found.dims, data, dict(found.attrs))
    out = xr.Dataset(
        {n: v for n, v in joined.items() if n not in first.coords},
        coords={n: v for n, v in joined.items() if n in first.coords},
        attrs=first.attrs,
    )
    if len(datasets) == 1:
        return out
    if "meta" not in first.attrs:  # inside a trace
        return out
    wcs: dict[str, Any] = {}
    records: dict[str, Any] = {}
    lost: dict[str, str] = {}
    for d in datasets:
        meta = meta_of(d)
        wcs |= dict(meta.wcs or {})
        records |= meta.records
        lost |= meta.records.get(NOT_EXTRACTED, {})
    if lost:
        records[NOT_EXTRACTED] = lost
    return out.assign_attrs(meta=meta_of(first).replace(wcs=wcs, records=records))


def _names(datasets: Sequence[xr.Dataset]) -> list[str]:
    """Names of all variables: those of the table, then the others, in the order they come."""
    names = [n for n in EXTRACTED if n in datasets[0]]
    for d in datasets:
        names += [str(n) for n in d.variables if n not in names]
    return names


def _padded(ds: xr.Dataset, name: str, like: Any, n_wave: int) -> Any:
    """A variable with the length `n_wave`; empty values if this Dataset does not have it."""
    if name not in ds:
        shape = tuple(n_wave if d == "wave" else ds.sizes[d] for d in like.dims)
        if like.dtype.kind == "f":
            return np.full(shape, np.nan, dtype=like.dtype)
        return np.zeros(shape, dtype=like.dtype)
    data = ds.variables[name].data
    missing = n_wave - ds.sizes["wave"]
    if "wave" not in like.dims or missing == 0:
        return data
    xp = array_namespace(data)
    edges = [(0, missing if d == "wave" else 0) for d in like.dims]
    fill = np.nan if np.dtype(data.dtype).kind == "f" else 0
    return xp.pad(data, edges, constant_values=fill)

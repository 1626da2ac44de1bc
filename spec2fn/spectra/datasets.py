"""Extracted spectra as Datasets: columns, metadata and images, and joining those of buckets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.deferred import as_deferred
from spec2fn.errors import DatasetError
from spec2fn.kernels.extraction import Extraction
from spec2fn.kernels.namespace import array_namespace
from spec2fn.plans.extraction.extract_1d import ExtractionPlan
from spec2fn.plans.extraction.extract_slits import GroupPlan
from spec2fn.plans.slits.slit_frame import strings
from spec2fn.schema import EXTRACTED, NOT_EXTRACTED, meta_of, warnings_of
from spec2fn.spectra.image_spectra import bad_pixels
from spec2fn.spectra.images import SavedImages, saved_images, unfold
from spec2fn.wcs.spectrum import spectral_wcs

if TYPE_CHECKING:
    import xarray as xr

__all__ = [
    "image_spectrum",
    "join_spectra",
    "slit_images",
    "slit_metadata",
    "slit_spectra",
    "with_images",
]

# positions of the source that become columns of the table of spectra
_POSITIONS = ("ta_xpos", "ta_ypos", "source_xpos", "source_ypos")

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
        wcs |= {k: as_deferred(meta.wcs, k) for k in meta.wcs or ()}
        records |= meta.records
        lost |= meta.records.get(NOT_EXTRACTED, {})
    if lost:
        records[NOT_EXTRACTED] = lost
    told = dict.fromkeys(w for d in datasets for w in warnings_of(d))
    if told:
        records["warnings"] = tuple(told)
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


def image_spectrum(ds: xr.Dataset, plan: ExtractionPlan, columns: dict[str, Any]) -> xr.Dataset:
    """Put the columns of an image into a Dataset, in the order of the table, with their units.

    Parameters
    ----------
    ds : xarray.Dataset
        The image; what does not depend on its pixels is kept.
    plan : ExtractionPlan
    columns : dict of str to array, ([integration,] wave)
        From :func:`spec2fn.spectra.image_spectra.extract_image`.

    Returns
    -------
    xarray.Dataset
        dims ([integration,] spectrum, wave), with one spectrum.
    """
    import xarray as xr

    xp = array_namespace(columns["flux"])
    lead = ds["sci"].dims[:-2]
    dims = (*lead, "spectrum", "wave")
    values: dict[str, Any] = {}
    for name, (_, unit) in EXTRACTED.items():
        units = unit if plan.calibrated else _count_rate(unit, name)
        attrs = {"units": units} if units else {}
        if name == "wavelength":
            values[name] = (("spectrum", "wave"), plan.wavelength[None, :], attrs)
        else:
            values[name] = (dims, xp.expand_dims(columns[name], -2), attrs)
    limits = plan.limits
    per_spectrum = {
        "n_wave": np.array([len(plan.rows)], dtype=np.int32),
        "sltname": np.array([plan.slit_name]),
        "srctype": np.array([plan.source_type]),
        "extrxstr": limits[0:1],
        "extrxstp": limits[1:2],
        "extrystr": limits[2:3],
        "extrystp": limits[3:4],
        "slit_ra": plan.position[0:1],
        "slit_dec": plan.position[1:2],
        "sporder": np.array([plan.spectral_order], dtype=np.int32),
        "dispaxis": np.array([plan.dispaxis], dtype=np.int32),
    }
    if ds.attrs.get("detector"):
        per_spectrum["detector"] = np.array([str(ds.attrs["detector"])])
    if plan.angle is not None:
        per_spectrum["pa_aper"] = plan.angle
    for name in _POSITIONS:
        if name in ds:
            per_spectrum[name] = ds[name].data.reshape(1)
    values |= {name: (("spectrum",), value) for name, value in per_spectrum.items()}
    used = {"y", "x", "lag"}
    drop = [n for n, v in ds.variables.items() if used & set(v.dims) or n in values]
    kept = ds.drop_vars(drop)
    out = xr.Dataset(values, attrs=ds.attrs)
    out = out.assign({n: kept.variables[n] for n in kept.data_vars})
    out = out.assign_coords({n: kept.variables[n] for n in kept.coords})
    return out.assign_attrs(model="TSOMultiSpecModel" if lead else "MultiSpecModel")


def slit_spectra(
    ds: xr.Dataset, plan: GroupPlan, columns: dict[str, Any], angle: np.ndarray | None
) -> xr.Dataset:
    """Put the columns of slits into a Dataset.

    Parameters
    ----------
    ds : xarray.Dataset
        The slits of the group.
    plan : GroupPlan
    columns : dict of str to array, (slit, [integration,] wave)
        From :func:`spec2fn.spectra.image_spectra.extract_image`.
    angle : array, optional
        Position angle of the aperture [deg].

    Returns
    -------
    xarray.Dataset
        dims ([integration,] spectrum, wave), with a spectrum of each slit.
    """
    import xarray as xr

    xp = array_namespace(columns["flux"])
    lead = tuple(d for d in ds["sci"].dims[:-2] if d != "slit")
    dims = (*lead, "spectrum", "wave")
    values: dict[str, Any] = {}
    for name, (_, unit) in EXTRACTED.items():
        units = unit if plan.calibrated else _count_rate(unit, name)
        attrs = {"units": units} if units else {}
        if name == "wavelength":
            values[name] = (("spectrum", "wave"), plan.wavelength, attrs)
        else:
            values[name] = (dims, xp.moveaxis(columns[name], 0, -2), attrs)
    count = len(plan.members)
    per_spectrum = {
        "n_wave": plan.valid.sum(axis=1).astype(np.int32),
        "slit": np.asarray(ds["slit"].values),
        "sltname": np.array(plan.names),
        "srctype": np.array(plan.source_types),
        "extrxstr": plan.limits[:, 0],
        "extrxstp": plan.limits[:, 1],
        "extrystr": plan.limits[:, 2],
        "extrystp": plan.limits[:, 3],
        "slit_ra": plan.position[:, 0],
        "slit_dec": plan.position[:, 1],
        "sporder": np.full(count, plan.spectral_order, dtype=np.int32),
        "dispaxis": np.full(count, plan.dispaxis, dtype=np.int32),
        **slit_metadata(ds, range(count)),
    }
    if ds.attrs.get("detector"):
        per_spectrum["detector"] = np.array([str(ds.attrs["detector"])] * count)
    if angle is not None:
        per_spectrum["pa_aper"] = xp.broadcast_to(angle, (count,))
    values |= {name: (("spectrum",), value) for name, value in per_spectrum.items()}
    used = {"y", "x", "lag", "slit"}
    kept = {n: v for n, v in ds.variables.items() if not used & set(v.dims) and n not in values}
    coords = {n: v for n, v in kept.items() if n in ds.coords}
    values |= {str(n): v for n, v in kept.items() if n not in coords}
    out = xr.Dataset(values, coords=coords, attrs=ds.attrs)
    return out.assign_attrs(model="TSOMultiSpecModel" if lead else "MultiSpecModel")


def _count_rate(unit: str, name: str) -> str:
    if unit in ("", "um"):
        return unit
    return "DN^2 / s^2" if "var_" in name else "DN/s"


def with_images(
    ds: xr.Dataset,
    out: xr.Dataset,
    plan: ExtractionPlan,
    spectrum: Extraction,
    wanted: tuple[bool, bool, bool],
) -> xr.Dataset:
    """Attach the WCS of the spectrum of an image, and the images the user asked for.

    Parameters
    ----------
    ds, out : xarray.Dataset
        The image and its spectrum.
    plan : ExtractionPlan
    spectrum : Extraction
    wanted : (bool, bool, bool)
        Keep the spatial profile, the model of the image, the residual.

    Returns
    -------
    xarray.Dataset
        `out` with ``meta.wcs`` and ``meta.records``.
    """
    ra, dec = (float(v) for v in plan.position)
    weights = np.array(plan.weights)
    if plan.nod_weights is not None:
        weights = weights + plan.nod_weights
    images = SavedImages(
        unfold(weights, plan.window, plan.shape, plan.dispaxis) if wanted[0] else None,
        unfold(np.asarray(spectrum.scene), plan.window, plan.shape, plan.dispaxis)
        if any(wanted[1:])
        else None,
    )
    records = saved_images(ds, images, np.asarray(bad_pixels(ds)), wanted)
    wcs = spectral_wcs(ra, dec, np.asarray(plan.wavelength))
    return out.assign_attrs(meta=meta_of(ds).replace(wcs={plan.slit_name: wcs}, records=records))


def slit_images(
    ds: xr.Dataset, plan: GroupPlan, spectrum: Extraction, wanted: tuple[bool, bool, bool]
) -> dict[str, Any]:
    """The images the user asked for, named by the slits.

    Parameters
    ----------
    ds : xarray.Dataset
        The slits of the group.
    plan : GroupPlan
    spectrum : Extraction
    wanted : (bool, bool, bool)
        Make the spatial profile, the model of the image, the residual.

    Returns
    -------
    dict of str to xarray.Dataset
        Records, by name.
    """
    weights = np.array(plan.weights)
    if plan.nod_weights is not None:
        weights = weights + plan.nod_weights
    records: dict[str, Any] = {}
    for k, (name, (height, width)) in enumerate(zip(plan.names, plan.shapes, strict=True)):
        one = ds.isel(slit=k, y=slice(height), x=slice(width))
        if "bunit" in one:
            one["sci"].attrs["units"] = str(one["bunit"].values)
        profile = (
            unfold(weights[k], plan.window, (height, width), plan.dispaxis) if wanted[0] else None
        )
        scene = None
        if any(wanted[1:]):
            scene = unfold(
                np.asarray(spectrum.scene)[k], plan.window, (height, width), plan.dispaxis
            )
        records |= saved_images(
            one,
            SavedImages(profile, scene),
            np.asarray(bad_pixels(one)),
            wanted,
            f"{name.lower()}_",
        )
    return records

"""The sources of a slitless field, as references and the images of the field describe them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.errors import InputError, ReferenceError
from spec2fn.host.background_mesh import background_mesh
from spec2fn.host.contamination import Cutout, Dispersed
from spec2fn.parameters import Parameters
from spec2fn.plans.flux.grism_photom import unit_of
from spec2fn.plans.flux.photom import find_row, response_row, throughput, time_tables
from spec2fn.plans.slits.contamination import (
    ContaminationPlan,
    DirectImage,
    OrderResponse,
    Spectra,
    Spectrum,
    fitted,
    magnitude_limits,
    plan_contamination,
    simulate,
)
from spec2fn.plans.slits.grism_cutouts import grism_geometry
from spec2fn.plans.slits.spectral_orders import passband, wavelength_ranges
from spec2fn.schema import described, meta_of
from spec2fn.slits import Slits
from spec2fn.typing import HostArray
from spec2fn.wcs.lower import lower

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["direct_of", "order_responses", "plan_exposure", "read_seds", "seds_of_colours"]

_WHO = "wfss_contam"
_UNIT = "MJy/sr"
_BOXES = 5  # of the background of the direct image, along each side
_SAMPLES = 2000  # of the response, for the mean of a spectrum over the passband


def plan_exposure(
    slits: Slits,
    references: tuple[xr.Dataset | None, xr.Dataset | None],
    field: tuple[xr.Dataset, xr.Dataset, xr.Dataset | None],
    seds: Mapping[int, Any] | None,
    params: Parameters,
) -> ContaminationPlan | None:
    """Plan the contamination of the cut-outs of an exposure.

    Parameters
    ----------
    slits : Slits
    references : (xarray.Dataset, xarray.Dataset)
        PHOTOM and WAVELENGTHRANGE.
    field : (xarray.Dataset, xarray.Dataset, xarray.Dataset or None)
        Direct image, segmentation map, and catalog, which `magnitude_limit` alone needs.
    seds : mapping of int, optional
        Spectra by label; see :func:`read_seds`.
    params : Parameters
        Of :func:`spec2fn.steps.wfss_contam.wfss_contam`.

    Returns
    -------
    ContaminationPlan or None
        None if no source is as bright as `magnitude_limit` asks.

    Raises
    ------
    InputError, DatasetError, ReferenceError
        See :func:`spec2fn.steps.wfss_contam.wfss_contam`.
    """
    example = slits.buckets[0]
    geometry = grism_geometry(example, _WHO)
    direct_image, segmap, catalog = field
    responses = order_responses(example, references, geometry.orders, params.orders, params)
    labels = segmap["label"].values
    direct = direct_of(direct_image, segmap, official=params.official_model)
    limits, magnitudes = None, {}
    segmented = frozenset(np.unique(labels[labels != 0]).tolist())
    unknown = sorted(set(seds or ()) - segmented)
    if unknown:
        msg = f"{_WHO}: seds holds source {unknown[0]}, which the segmentation map does not have"
        raise InputError(f"{msg}; leave it out")
    if params.magnitude_limit is not None:
        magnitudes = _magnitudes(catalog)
        every = order_responses(example, references, geometry.orders, None, params)
        limits = magnitude_limits(
            responses, params.magnitude_limit, next((r for r in every if r.order == 1), None)
        )
        if not any(m < limit for m in magnitudes.values() for limit in limits.values()):
            return None
    spectra = _spectra(params, seds, responses)
    frame = _frame(example)
    simulated = simulate(
        direct,
        geometry,
        responses,
        spectra,
        frame,
        magnitudes=magnitudes,
        limits=limits,
        oversample=params.wl_oversample,
        chunk=params.max_pixels_per_chunk if params.official_model else None,
    )
    if not len(simulated):
        names = " and ".join(meta_of(ds).filename or "in memory" for ds in (direct_image, segmap))
        msg = (
            f"{_WHO}: no source of {names} falls on the exposure; give the images of its field, or"
            " other orders"
        )
        raise InputError(msg)
    return _plan(slits, simulated, spectra, segmented, params)


def _plan(
    slits: Slits,
    simulated: Dispersed,
    spectra: Spectra,
    segmented: frozenset[int],
    params: Parameters,
) -> ContaminationPlan:
    buckets = [_cutouts(b) for b in slits.buckets]
    # in the order of the product
    ids = np.concatenate([b["slit"].values for b in slits.buckets])
    flat = [c for bucket in buckets for c in bucket]
    coefficients, covariance, note = fitted(
        simulated,
        [flat[i] for i in np.argsort(ids, kind="stable")],
        spectra,
        alpha=params.l2_alpha,
        threshold=params.rejection_threshold,
        rounds=params.n_iterations,
        scatter=params.joint_scatter,
        official=params.official_model,
    )
    return plan_contamination(
        simulated,
        buckets,
        [(b.sizes["y"], b.sizes["x"]) for b in slits.buckets],
        coefficients,
        covariance,
        official=params.official_model,
        keep_models=params.save_simulated_image,
        note=note,
        segmented=segmented,
    )


def _frame(ds: xr.Dataset) -> tuple[int, int]:
    """Rows and columns of the exposure from which the spectra were cut."""
    rows, columns = (ds.attrs.get(name) for name in ("ysize", "xsize"))
    if not rows or not columns:
        msg = (
            f"{_WHO}: {meta_of(ds).filename or 'the exposure'} lacks SUBSIZE1 or SUBSIZE2; add them"
        )
        raise InputError(msg)
    return int(rows), int(columns)


def order_responses(
    ds: xr.Dataset,
    references: tuple[xr.Dataset | None, xr.Dataset | None],
    known: Sequence[int],
    asked: Sequence[int] | None,
    params: Parameters,
) -> list[OrderResponse]:
    """Return the response of the orders that the references know.

    Parameters
    ----------
    ds : xarray.Dataset
        Exposure, whose attributes choose rows of the tables.
    references : (xarray.Dataset or None, xarray.Dataset or None)
        PHOTOM and WAVELENGTHRANGE.
    known : sequence of int
        Orders of the world coordinates.
    asked : sequence of int, optional
        Those of them that are wanted.
    params : Parameters
        ``official_model`` leaves out the change of the response with time.

    Raises
    ------
    InputError
        If none of the orders asked for is known.
    ReferenceError
        If a reference is missing, or has nothing on an order.
    """
    photom, wavelengthrange = references
    if photom is None:
        msg = f"{_WHO}: reference 'photom' is missing; it has the response of every order"
        raise ReferenceError(msg)
    ranges = wavelength_ranges(ds, wavelengthrange, _WHO)
    there = [order for order in sorted(ranges) if order in known]
    chosen = there if asked is None else [order for order in there if order in asked]
    if not chosen:
        msg = (
            f"{_WHO}: orders={', '.join(map(str, asked or known))}: none of them is known for"
            f" {passband(ds)}; there are {', '.join(map(str, there))}"
        )
        raise InputError(msg)
    corrected = Parameters(_WHO, {"apply_time_correction": not params.official_model})
    out = []
    for order in chosen:
        keys = {n: ds.attrs.get(n) for n in ("filter", "pupil")}
        row = find_row(photom, **keys, order=str(order))
        if row is None:
            msg = (
                f"{_WHO}: {described(photom)} has no response of order {order} for"
                f" {' '.join(map(str, keys.values()))}; use another, or choose orders"
            )
            raise ReferenceError(msg)
        elements, wavelength = response_row(photom, row)
        scale = np.asarray(float(photom["photom.photmjsr"].values[row]) * unit_of(photom))
        tables, rows = time_tables(ds, photom, [row], corrected)
        scale = throughput(scale, ds, photom, tables, tuple(int(r[0]) for r in rows))
        relative = photom["photom.relresponse"].values[row][elements].astype(float)
        out.append(OrderResponse(order, ranges[order], wavelength.astype(float), scale * relative))
    return out


def direct_of(image: xr.Dataset, segmap: xr.Dataset, *, official: bool = False) -> DirectImage:
    """Return a direct image without its background, and its sources.

    Parameters
    ----------
    image, segmap : xarray.Dataset
    official : bool
        Let sources count in the background, as the official pipeline does.

    Raises
    ------
    InputError
        If the two differ in size, or the image has no WCS.
    """
    labels = segmap["label"].values
    names = [meta_of(ds).filename or "in memory" for ds in (image, segmap)]
    data = np.asarray(image["sci"].values)
    if data.shape != labels.shape:
        msg = (
            f"{_WHO}: direct image {names[0]} has {data.shape} pixels and segmentation map"
            f" {names[1]} {labels.shape}; give those of the same image"
        )
        raise InputError(msg)
    unit = str(image["sci"].attrs.get("units", "")).replace(" ", "")
    if unit != _UNIT:
        msg = (
            f"{_WHO}: direct image {names[0]} is in {unit or 'no unit'} (BUNIT), needs {_UNIT};"
            " give a calibrated one"
        )
        raise InputError(msg)
    if not labels.any():
        msg = f"{_WHO}: segmentation map {names[1]} holds no source; give one that does"
        raise InputError(msg)
    wcs = meta_of(image).wcs
    if wcs is None:
        msg = f"{_WHO}: direct image {names[0]} has no gwcs (extension ASDF); give one that has"
        raise InputError(msg)
    to_world = lower(getattr(wcs, "load", lambda: wcs)())

    def sky(x: HostArray, y: HostArray) -> tuple[HostArray, HostArray]:
        ra, dec, *_ = to_world(np.asarray(x, float), np.asarray(y, float))
        return ra, dec

    # of the pixels of sources alone
    pixels = np.nonzero(labels)
    bright = np.zeros(data.shape)
    bright[pixels] = data[pixels].astype(float) - _background(data, labels, official=official)
    return DirectImage(bright, labels, sky)


def _background(data: HostArray, labels: HostArray, *, official: bool) -> HostArray | float:
    """Smooth background of the direct image at the pixels of sources."""
    box = (max(data.shape[0] // _BOXES, 1), max(data.shape[1] // _BOXES, 1))
    mask = np.ones(data.shape, bool) if official else (labels == 0) & np.isfinite(data)
    excluded = 30.0 if official else 90.0
    rows, columns = np.nonzero(labels)
    at = rows, columns
    mesh = background_mesh(data, mask, box, filter_size=3, excluded=excluded, at=at)
    return 0.0 if mesh is None else mesh


def _magnitudes(catalog: xr.Dataset | None) -> dict[int, float]:
    if catalog is None:
        msg = (
            f"{_WHO}: magnitude_limit needs the catalog of the sources; name it in the association"
            " (sourcecat), or leave magnitude_limit out"
        )
        raise InputError(msg)
    values = zip(catalog["label"].values, catalog["isophotal_abmag"].values, strict=True)
    return {int(label): float(m) if np.isfinite(m) else np.inf for label, m in values}


def _cutouts(bucket: xr.Dataset) -> list[Cutout]:
    names = ("source_id", "spectral_order", "ystart", "xstart", "ysize", "xsize")
    columns = np.stack([bucket[n].values.astype(int) for n in names], axis=1)
    out = []
    for k, (source, order, y, x, height, width) in enumerate(columns.tolist()):
        sci, err, dq = (bucket[n].values[k, :height, :width] for n in ("sci", "err", "dq"))
        box = (y - 1, x - 1, height, width)
        out.append(Cutout(source, order, box, sci.astype(float), err, (dq & 1) == 0))
    return out


def _spectra(
    params: Parameters, seds: Mapping[int, Any] | None, responses: Sequence[OrderResponse]
) -> Spectra:
    if params.joint_knots is not None and params.polyfit_degree is not None:
        msg = (
            f"{_WHO}: polyfit_degree and joint_knots are two ways of fitting the spectra; give one"
        )
        raise InputError(msg)
    shapes = None
    if seds is not None:
        first = next((r for r in responses if r.order == 1), responses[0])
        shapes = {label: _relative(label, sed, first) for label, sed in seds.items()}
    if params.joint_knots is not None:
        low = min(r.ends[0] for r in responses)
        high = max(r.ends[1] for r in responses)
        knots = tuple(np.linspace(low, high, params.joint_knots).tolist())
        return Spectra(knots=knots, shapes=shapes)
    return Spectra(degree=params.polyfit_degree or 0, shapes=shapes)


def _relative(label: int, sed: Any, response: OrderResponse) -> Spectrum:  # noqa: ANN401 - whatever a user gives
    """A spectrum divided by what it is on the direct image, through the same filter."""
    if callable(sed):
        shape = sed
    else:
        wave, flux = (np.asarray(part, float) for part in sed)
        order = np.argsort(wave)

        def shape(wavelength: HostArray) -> HostArray:
            return np.interp(wavelength, wave[order], flux[order])

    grid = np.linspace(*response.ends, _SAMPLES)
    weight = response.gain(grid, 1.0)
    mean = float(np.sum(weight * np.asarray(shape(grid))) / np.sum(weight))
    if not np.isfinite(mean) or mean <= 0:
        msg = f"{_WHO}: the spectrum of source {label} (seds) has no positive mean in the passband"
        raise InputError(msg)
    return lambda wavelength: np.asarray(shape(wavelength)) / mean


def read_seds(given: Any) -> Mapping[int, Any]:  # noqa: ANN401 - whatever a user gives
    """Spectra by label from an opened table, or as they are.

    Parameters
    ----------
    given : mapping or xarray.Dataset
        Mapping of labels to callables or to pairs of arrays (wavelength [um], flux); or the
        columns ``label``, ``wavelength`` and ``flux`` of a table, one row for each wavelength or
        for each source.

    Raises
    ------
    InputError
        If columns are missing.
    """
    if not hasattr(given, "data_vars"):
        if not isinstance(given, Mapping):
            msg = f"{_WHO}: seds is {type(given).__name__}, needs a table or a mapping of labels"
            raise InputError(msg)
        return {int(label): sed for label, sed in given.items()}
    columns = {str(n).rpartition(".")[2]: given[n].values for n in given.variables}
    missing = [n for n in ("label", "wavelength", "flux") if n not in columns]
    if missing:
        msg = (
            f"{_WHO}: the table of seds has no column {', '.join(missing)} (it has"
            f" {', '.join(columns)}); it needs label, wavelength [um] and flux"
        )
        raise InputError(msg)
    label, wavelength, flux = (columns[n] for n in ("label", "wavelength", "flux"))
    if wavelength.ndim == 1:
        return {int(k): (wavelength[label == k], flux[label == k]) for k in np.unique(label)}
    return {int(k): (w, f) for k, w, f in zip(label, wavelength, flux, strict=True)}


def seds_of_colours(
    labels: Sequence[int], magnitudes: Mapping[float, HostArray]
) -> dict[int, tuple[HostArray, HostArray]]:
    """Spectra between the magnitudes of a catalog in several filters.

    Parameters
    ----------
    labels : sequence of int
    magnitudes : mapping of float to array, (source,)
        AB magnitudes by the pivot wavelength of the filter [um]; a source counts only where they
        are finite.

    Returns
    -------
    dict of int to (array, array)
        Wavelengths [um] and flux densities [Jy] by label, for ``wfss_contam(seds=...)``: linear
        in between, constant beyond. Sources without a magnitude are left out.
    """
    wavelength = np.array(sorted(magnitudes), dtype=float)
    table = np.array([np.asarray(magnitudes[w], dtype=float) for w in wavelength])
    out = {}
    for label, column in zip(labels, table.T, strict=True):
        known = np.isfinite(column)
        if known.any():
            out[int(label)] = wavelength[known], 10 ** (-0.4 * (column[known] - 8.90))
    return out

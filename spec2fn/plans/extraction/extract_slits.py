"""Host-side half of ``extract_1d`` for slits: the plans of many slits stacked into arrays.

Slits of a bucket that are extracted in the same manner (which nearly always is all of them) form
a group; the arrays of a group have a leading dimension ``slit``. A slit that cannot be extracted
does not stop the others: the reason is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from dataclasses import replace as _replace
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.deferred import as_deferred
from spec2fn.errors import Spec2fnError
from spec2fn.modes import mode_of
from spec2fn.plan_base import Plan, array, labels, positions
from spec2fn.plans.extraction.apcorr import (
    cross_dispersion_scale,
    match_row,
    phase_correction_table,
)
from spec2fn.plans.extraction.aperture import (
    Aperture,
    ApertureOptions,
    aperture_entries,
    polynomial_basis,
    select_aperture,
)
from spec2fn.plans.extraction.extract_1d import (
    NothingToExtract,
    SpectrumDefinition,
    define_spectrum,
    is_calibrated,
    is_prism,
    window_of,
)
from spec2fn.plans.extraction.psf_profile import PsfProfiles, psf_profiles
from spec2fn.plans.slits.slit_frame import chosen_types, strings
from spec2fn.plans.slits.slit_geometry import (
    SlitGeometry,
    grid_geometry,
    locate_in_slit,
    slit_geometry,
)
from spec2fn.schema import meta_of
from spec2fn.typing import Array

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["ExtractionOptions", "GroupPlan", "SlitsPlan", "make_slits_plan"]


Images = Callable[["xr.Dataset", int], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class ExtractionOptions:
    """What the user asked for, besides the aperture."""

    aperture: ApertureOptions
    apply_apcorr: bool = True
    model_nod_pair: bool = True
    optimize_psf_location: bool = True
    full_window: bool = False


class GroupPlan(Plan):
    """Arrays with which slits of one bucket become spectra.

    Arrays are oriented (slit, dispersion, cross-dispersion) and cover the `window` of the image.

    Attributes
    ----------
    weights : array of float64, (slit, disp, cross)
        Aperture weights, or the profile of the source.
    nod_weights : array of float64, (slit, disp, cross) or None
        Profile of the negative source.
    region : array of bool, (slit, disp, cross) or None
        Background pixels.
    basis : array of float64, (cross, order + 1) or None
        Polynomial terms of the background; a median without.
    rows : array of int, (slit, wave)
        Dispersion elements of the window that have a wavelength; 0 where not `valid`.
    valid : array of bool, (slit, wave)
    wavelength : array of float64, (slit, wave)
        [um], NaN where not `valid`.
    apcorr_sizes, apcorr_table : array of float64, (slit, wave, n) or None
        Aperture sizes [pixel] and corrections; 1 for sources that need none.
    integrated : array of bool, (slit,)
        Whether pixels hold flux [MJy], not surface brightness.
    limits : array of float64, (slit, 4)
        Extraction limits in x and y (start, stop, start, stop), pixels counted from 1.
    position : array of float64, (slit, 2)
        Right ascension and declination of the centre of the aperture [deg]; NaN if unknown.
    bucket : int
        Position of the bucket.
    members : tuple of int
        Positions of the slits in the bucket.
    window : tuple of int
        Row start, row stop, column start, column stop.
    shapes : tuple of (int, int)
        Rows and columns of each slit.
    names, source_types : tuple of str
    optimal, calibrated : bool
    smoothing_length, dispaxis, spectral_order : int
    """

    weights: Array = array("slit disp cross")
    nod_weights: Array | None = array("slit disp cross")
    region: Array | None = array("slit disp cross")
    basis: Array | None = array("cross order")
    rows: Array = array("slit wave")
    valid: Array = array("slit wave")
    wavelength: Array = array("slit wave")
    apcorr_sizes: Array | None = array("slit wave size")
    apcorr_table: Array | None = array("slit wave size")
    integrated: Array = array("slit")
    limits: Array = array("slit 4")
    position: Array = array("slit 2")
    bucket: int
    members: tuple[int, ...] = positions("slit")
    window: tuple[int, int, int, int]
    shapes: tuple[tuple[int, int], ...] = labels("slit")
    names: tuple[str, ...] = labels("slit")
    source_types: tuple[str, ...] = labels("slit")
    optimal: bool
    calibrated: bool
    smoothing_length: int
    dispaxis: int
    spectral_order: int


class SlitsPlan(Plan):
    """The extraction of several buckets of slits.

    Attributes
    ----------
    groups : tuple of GroupPlan
    problems : tuple of (str, str)
        Slits without a spectrum, and why.
    angle : array of float64, (1,) or None
        Position angle of the instrument's aperture [deg], if the header says.
    """

    groups: tuple[GroupPlan, ...]
    problems: tuple[tuple[str, str], ...]
    angle: Array | None = array("1")


@dataclass(frozen=True, eq=False)
class _Slit:
    """A slit of a bucket, cut to its true size."""

    index: int
    name: str
    source_type: str
    integrated: bool
    wavelength: np.ndarray
    geometry: SlitGeometry


@dataclass(frozen=True, eq=False)
class _Spectrum:
    """A slit whose spectrum is defined."""

    slit: _Slit
    defined: SpectrumDefinition
    sizes: np.ndarray | None
    table: np.ndarray | None

    @property
    def manner(self) -> tuple[Any, ...]:
        """What must agree within a group."""
        aperture, region = self.defined.aperture, self.defined.region
        smoothing = aperture.smoothing_length if region is not None else 0
        return (
            aperture.extraction_type,
            aperture.subtract_background,
            region is None,
            aperture.bkg_fit,
            aperture.bkg_order,
            smoothing,
            len(self.defined.profiles),
            # the boxcar repeats the last element, which must not be padding
            self.slit.wavelength.shape if smoothing else None,
        )


def make_slits_plan(
    buckets: Sequence[xr.Dataset],
    extract1d: xr.Dataset | None,
    apcorr: xr.Dataset | None,
    psf: xr.Dataset | None,
    *,
    options: ExtractionOptions,
    images: Images,
) -> SlitsPlan | NothingToExtract:
    """Define the spectra of all slits.

    Parameters
    ----------
    buckets : sequence of xarray.Dataset
        dims (slit, [integration,] y, x), with ``wavelength`` (slit, y, x) [um], ``slit_name``,
        ``source_type``, ``source_xpos``, ``source_ypos``, ``xsize``, ``ysize`` and
        ``meta.wcs``, a gwcs by slit id.
    extract1d, apcorr, psf : xarray.Dataset or None
        References.
    options : ExtractionOptions
    images : callable
        From a bucket and the position of a slit to data and read-noise variance of the first
        integration, NaN at bad pixels; called only if the position of a source is refined.

    Raises
    ------
    ReferenceError
        If a reference fits none of the slits.
    """
    groups: list[GroupPlan] = []
    problems: dict[str, str] = {}
    errors: list[Spec2fnError] = []
    for number, bucket in enumerate(buckets):
        found: dict[tuple[Any, ...], list[_Spectrum]] = {}
        names, types = strings(bucket, "slit_name"), chosen_types(bucket, None)
        integrated = _integrated(bucket, types)
        order = _spectral_order(bucket)
        if order == 0 and not is_prism(bucket):
            return NothingToExtract("spectral order 0 is a direct image")
        for i, name in enumerate(names):
            made: _Spectrum | NothingToExtract
            try:
                slit = _open_slit(bucket, i, name, types[i], integrated[i])
                made = _define(bucket, slit, (extract1d, apcorr, psf), options, images)
            except Spec2fnError as error:
                errors.append(error)
                made = NothingToExtract(str(error))
            except Exception as error:  # a broken slit must not stop the others
                text = " ".join(str(error).split()) or type(error).__name__
                made = NothingToExtract(text)
            if isinstance(made, NothingToExtract):
                problems[name] = made.reason
            else:
                found.setdefault(made.manner, []).append(made)
        groups += [_stack(bucket, number, order, g, options) for g in found.values()]
    if not groups:
        if errors:
            raise errors[0]
        listed = "; ".join(f"slit {k}: {v}" for k, v in problems.items())
        return NothingToExtract(listed or "there are no slits")
    angle = meta_of(buckets[0]).get("PA_APER")
    turned = None if angle is None else np.array([float(angle)])
    return SlitsPlan(tuple(groups), tuple(problems.items()), turned)


def _spectral_order(bucket: xr.Dataset) -> int:
    meta = meta_of(bucket)
    return int(meta.records.get("spectral_order", meta.get("SPORDER", 1)))


def _number(bucket: xr.Dataset, name: str, i: int) -> float:
    return float(bucket.variables[name].values[i]) if name in bucket else float("nan")


def _open_slit(bucket: xr.Dataset, i: int, name: str, source_type: str, integrated: bool) -> _Slit:
    height, width = (
        int(bucket.variables["ysize"].values[i]),
        int(bucket.variables["xsize"].values[i]),
    )
    source = (_number(bucket, "source_xpos", i), _number(bucket, "source_ypos", i))
    slit, known = int(bucket.variables["slit"].values[i]), meta_of(bucket).wcs
    grid = known.grid(slit) if hasattr(known, "grid") else None
    if grid is not None and grid.invertible and grid.shape == (height, width):
        geometry = grid_geometry(as_deferred(known, slit), grid, source)
    else:
        geometry = slit_geometry(known[slit], (height, width), source)
    values = np.zeros((height, width))
    if "wavelength" in bucket:
        values = np.asarray(bucket.variables["wavelength"].values[i, :height, :width], dtype=float)
    if not np.any(values != 0.0):  # a plane of zeros is one that was never filled
        y, x = np.indices((height, width), dtype=float)
        values = geometry(x, y)[2]
    return _Slit(i, name, source_type, integrated, values, geometry)


def _integrated(bucket: xr.Dataset, source_types: list[str]) -> list[bool]:
    """Whether the pixels of each slit hold flux: as its units say, else by the type of source."""
    by_type = calibrated(bucket) and str(bucket.attrs.get("instrument", "")).upper() == "NIRSPEC"
    units = strings(bucket, "bunit")
    return [
        unit == "MJy" if unit else by_type and kind == "POINT"
        for unit, kind in zip(units, source_types, strict=True)
    ]


def calibrated(bucket: xr.Dataset) -> bool:
    """Whether the slits of a bucket are flux calibrated."""
    units = strings(bucket, "bunit")
    return "Jy" in units[0] if any(units) else is_calibrated(bucket)


def _define(
    bucket: xr.Dataset,
    slit: _Slit,
    references: tuple[xr.Dataset | None, xr.Dataset | None, xr.Dataset | None],
    options: ExtractionOptions,
    images: Images,
) -> _Spectrum | NothingToExtract:
    extract1d, apcorr, psf = references
    shape = (slit.wavelength.shape[0], slit.wavelength.shape[1])
    if 0 in shape:
        return NothingToExtract("it has no pixels")
    dispaxis = int(bucket.attrs.get("dispaxis", 1))
    mode = mode_of(bucket)
    wanted = options.aperture
    if slit.source_type != "POINT" and wanted.use_source_posn is None:
        wanted = _replace(wanted, use_source_posn=False)
    tree, label = aperture_entries(extract1d)
    aperture = select_aperture(
        tree,
        shape,
        dispaxis,
        slit_name=slit.name,
        spectral_order=_spectral_order(bucket),
        mode=mode,
        options=wanted,
        label=label,
    )
    if isinstance(aperture, str):
        return NothingToExtract(aperture)
    geometry = slit.geometry

    def model(centred: Aperture) -> PsfProfiles:
        assert psf is not None
        return psf_profiles(
            bucket,
            psf,
            wcs=geometry,
            box=geometry.box,
            trace=centred.trace,
            wavelength=slit.wavelength,
            images=lambda: images(bucket, slit.index),
            slit_name=slit.name,
            mode=mode,
            dispaxis=dispaxis,
            model_nod_pair=options.model_nod_pair,
            optimize=options.optimize_psf_location,
        )

    defined = define_spectrum(
        aperture,
        slit.wavelength,
        geometry,
        lambda: locate_in_slit(geometry, shape),
        None if psf is None else model,
    )
    if isinstance(defined, NothingToExtract):
        return defined
    sizes = table = None
    corrected = options.apply_apcorr and slit.source_type == "POINT"
    if apcorr is not None and corrected and aperture.extraction_type != "optimal":
        sizes, table = _correction(bucket, apcorr, slit, defined)
    return _Spectrum(slit, defined, sizes, table)


def _correction(
    bucket: xr.Dataset,
    apcorr: xr.Dataset,
    slit: _Slit,
    defined: SpectrumDefinition,
) -> tuple[np.ndarray, np.ndarray]:
    criteria = {name: str(bucket.attrs.get(name, "")) for name in ("filter", "grating")}
    if mode_of(bucket).fixed_slits:
        criteria["slit"] = slit.name
    row = match_row(apcorr, criteria)
    wavelength = defined.mean[np.isfinite(defined.mean)]

    def scale() -> float:
        ra, dec = (float(v) for v in defined.position)
        world = (ra, dec, float(np.median(wavelength)))
        return cross_dispersion_scale(slit.geometry.wcs, world, defined.aperture.dispaxis)

    return phase_correction_table(apcorr, row, wavelength, scale)


def _stack(
    bucket: xr.Dataset,
    number: int,
    order: int,
    spectra: list[_Spectrum],
    options: ExtractionOptions,
) -> GroupPlan:
    """Put the spectra of a group into arrays."""
    aperture = spectra[0].defined.aperture
    dispaxis, optimal = aperture.dispaxis, aperture.extraction_type == "optimal"
    smoothing = aperture.smoothing_length if spectra[0].defined.region is not None else 0
    elements = [np.flatnonzero(np.isfinite(s.defined.mean)) for s in spectra]
    window = _common_window(bucket, spectra, elements, smoothing, full=options.full_window)
    y0, y1, x0, x1 = window

    def stacked(planes: list[Any]) -> np.ndarray:
        shape = (len(planes), y1 - y0, x1 - x0)
        out = np.zeros(shape, dtype=planes[0].dtype)
        for image, plane in zip(out, planes, strict=True):
            part = plane[y0:y1, x0:x1]
            image[: part.shape[0], : part.shape[1]] = part
        return np.ascontiguousarray(out.swapaxes(1, 2)) if dispaxis == 1 else out

    n_wave = max(len(e) for e in elements)
    rows = np.zeros((len(spectra), n_wave), dtype=np.int64)
    valid = np.zeros(rows.shape, dtype=bool)
    wavelength = np.full(rows.shape, np.nan)
    for k, (s, e) in enumerate(zip(spectra, elements, strict=True)):
        rows[k, : len(e)] = e - (x0 if dispaxis == 1 else y0)
        valid[k, : len(e)] = True
        wavelength[k, : len(e)] = s.defined.mean[e]
    basis = None
    fits_polynomial = spectra[0].defined.region is not None and aperture.bkg_fit == "poly"
    if fits_polynomial or (optimal and aperture.subtract_background):
        start, stop = (y0, y1) if dispaxis == 1 else (x0, x1)
        length = bucket.sizes["y" if dispaxis == 1 else "x"]
        basis = polynomial_basis(length, aperture.bkg_order)[start:stop]
    sizes, table = _stacked_correction(spectra, n_wave)
    has_region = spectra[0].defined.region is not None
    has_nod = len(spectra[0].defined.profiles) > 1
    return GroupPlan(
        weights=stacked([s.defined.profiles[0] for s in spectra]),
        nod_weights=stacked([s.defined.profiles[1] for s in spectra]) if has_nod else None,
        region=stacked([s.defined.region for s in spectra]) if has_region else None,
        basis=basis,
        rows=rows,
        valid=valid,
        wavelength=wavelength,
        apcorr_sizes=sizes,
        apcorr_table=table,
        integrated=np.array([s.slit.integrated for s in spectra]),
        limits=np.array([s.defined.header_limits() for s in spectra]),
        position=np.array([s.defined.position for s in spectra]),
        bucket=number,
        members=tuple(s.slit.index for s in spectra),
        window=window,
        shapes=tuple((s.slit.wavelength.shape[0], s.slit.wavelength.shape[1]) for s in spectra),
        names=tuple(s.slit.name for s in spectra),
        source_types=tuple(s.slit.source_type for s in spectra),
        optimal=optimal,
        calibrated=calibrated(bucket),
        smoothing_length=smoothing,
        dispaxis=dispaxis,
        spectral_order=order,
    )


def _common_window(
    bucket: xr.Dataset,
    spectra: list[_Spectrum],
    elements: list[np.ndarray],
    smoothing: int,
    *,
    full: bool,
) -> tuple[int, int, int, int]:
    """Part of the images that holds every pixel of a group that counts."""
    if full:
        if smoothing:  # all of one shape, see _Spectrum.manner
            height, width = spectra[0].slit.wavelength.shape
            return 0, height, 0, width
        return 0, bucket.sizes["y"], 0, bucket.sizes["x"]
    windows = []
    for s, valid in zip(spectra, elements, strict=True):
        region = s.defined.region
        masks = [p != 0 for p in s.defined.profiles] + ([] if region is None else [region])
        windows.append(window_of(masks, valid, s.defined.aperture, full=False))
    low, high = np.min(windows, axis=0), np.max(windows, axis=0)
    return int(low[0]), int(high[1]), int(low[2]), int(high[3])


def _stacked_correction(
    spectra: list[_Spectrum], n_wave: int
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Aperture corrections of a group, 1 where a source needs none."""
    widths = [s.sizes.shape[1] for s in spectra if s.sizes is not None]
    if not widths:
        return None, None
    n = max(widths)
    sizes = np.broadcast_to(np.arange(1.0, n + 1.0), (len(spectra), n_wave, n)).copy()
    table = np.ones(sizes.shape)
    for k, s in enumerate(spectra):
        if s.sizes is None or s.table is None:
            continue
        length, known = s.sizes.shape
        extra = np.arange(1.0, n - known + 1.0)
        sizes[k, :length, :known] = s.sizes
        sizes[k, :length, known:] = s.sizes[:, -1:] + extra
        table[k, :length, :known] = s.table
        table[k, :length, known:] = s.table[:, -1:]
    return sizes, table

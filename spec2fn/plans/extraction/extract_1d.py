"""Host-side half of ``extract_1d``: apertures, wavelengths and corrections as arrays.

Nothing in the plan depends on the pixel values of more than the first integration (which only
optimal extraction with a refined position looks at), so one plan serves every chunk of
integrations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from dataclasses import replace as _replace
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.modes import mode_of
from spec2fn.plan_base import Plan, array
from spec2fn.plans.extraction.apcorr import correction_table, cross_dispersion_scale, match_row
from spec2fn.plans.extraction.aperture import (
    Aperture,
    ApertureOptions,
    aperture_entries,
    aperture_weights,
    bounding_slices,
    center_at,
    mean_wavelength,
    polynomial_basis,
    select_aperture,
    weighted_center,
)
from spec2fn.plans.extraction.psf_profile import PsfProfiles, psf_profiles
from spec2fn.plans.extraction.source_location import Location, bounding_box, locate_source
from spec2fn.schema import meta_of, status_of
from spec2fn.typing import Array

if TYPE_CHECKING:
    import xarray as xr

__all__ = [
    "ExtractionPlan",
    "NothingToExtract",
    "SpectrumDefinition",
    "define_spectrum",
    "is_calibrated",
    "is_prism",
    "make_extraction_plan",
    "window_of",
]


@dataclass(frozen=True)
class NothingToExtract:
    """Why there is no spectrum."""

    reason: str


@dataclass(frozen=True, eq=False)
class SpectrumDefinition:
    """A spectrum that can be extracted: pixels, wavelengths, and where it is.

    Attributes
    ----------
    aperture : Aperture
        Centred on the source.
    profiles : tuple of array of float64, (y, x)
        Weights of the aperture, or profiles of the source and of its negative companion.
    region : array of bool, (y, x) or None
        Background pixels.
    mean : array of float64, (disp,)
        Wavelength of every dispersion element [um], NaN where there is none.
    limits : tuple of float
        Inclusive limits across and along the trace, counted from 0.
    position : array of float64, (2,)
        Right ascension and declination of the centre [deg]; NaN if unknown.
    """

    aperture: Aperture
    profiles: tuple[np.ndarray, ...]
    region: np.ndarray | None
    mean: np.ndarray
    limits: tuple[float, float, float, float]
    position: np.ndarray

    def header_limits(self) -> np.ndarray:
        """Limits in x and y (start, stop, start, stop), pixels counted from 1."""
        lower, upper, first, last = (value + 1.0 for value in self.limits)
        if self.aperture.dispaxis == 1:
            return np.array((first, last, lower, upper))
        return np.array((lower, upper, first, last))


class ExtractionPlan(Plan):
    """Arrays with which the pixels of an exposure become a spectrum.

    Arrays are oriented (dispersion, cross-dispersion) and cover the `window` of the image.

    Attributes
    ----------
    weights : array of float64, (disp, cross)
        Aperture weights, or the profile of the source.
    nod_weights : array of float64, (disp, cross) or None
        Profile of the negative source.
    region : array of bool, (disp, cross) or None
        Background pixels.
    basis : array of float64, (cross, order + 1) or None
        Polynomial terms of the background; a median without.
    rows : array of int, (wave,)
        Dispersion elements of the window that have a wavelength: the rows of the table.
    wavelength : array of float64, (wave,)
        [um]
    apcorr_sizes : array of float64, (n,) or None
        Aperture sizes [pixel].
    apcorr_table : array of float64, (wave, n) or None
    limits : array of float64, (4,)
        Extraction limits in x and y (start, stop, start, stop), pixels counted from 1.
    position : array of float64, (2,)
        Right ascension and declination of the centre of the aperture [deg]; NaN if unknown.
    angle : array of float64, (1,) or None
        Position angle of the instrument's aperture [deg], if the header says.
    window : tuple of int
        Row start, row stop, column start, column stop.
    shape : tuple of int
        Rows and columns of the image.
    dispaxis : int
        1 along x, 2 along y.
    optimal : bool
    smoothing_length : int
    calibrated : bool
        Whether the data are flux calibrated (Jy) or count rates.
    integrated : bool
        Whether pixels hold flux [MJy], not surface brightness.
    slit_name, source_type : str
    spectral_order : int
    """

    weights: Array = array("disp cross")
    nod_weights: Array | None = array("disp cross")
    region: Array | None = array("disp cross")
    basis: Array | None = array("cross order")
    rows: Array = array("wave")
    wavelength: Array = array("wave")
    apcorr_sizes: Array | None = array("size")
    apcorr_table: Array | None = array("wave size")
    limits: Array = array("4")
    position: Array = array("2")
    angle: Array | None = array("1")
    window: tuple[int, int, int, int]
    shape: tuple[int, int]
    dispaxis: int
    optimal: bool
    smoothing_length: int
    calibrated: bool
    integrated: bool
    slit_name: str
    source_type: str
    spectral_order: int


def make_extraction_plan(
    ds: xr.Dataset,
    extract1d: xr.Dataset | None,
    apcorr: xr.Dataset | None,
    psf: xr.Dataset | None,
    *,
    options: ApertureOptions,
    images: Callable[[], tuple[np.ndarray, np.ndarray]],
    apply_apcorr: bool = True,
    model_nod_pair: bool = True,
    optimize_psf_location: bool = True,
    full_window: bool = False,
) -> ExtractionPlan | NothingToExtract:
    """Define aperture, background, wavelengths and aperture correction of an exposure.

    Parameters
    ----------
    ds : xarray.Dataset
        Spectral image(s) with dims (..., y, x), ``wavelength`` (y, x) [um] and a gwcs.
    extract1d, apcorr, psf : xarray.Dataset or None
        References.
    options : ApertureOptions
    images : callable
        Returns data and read-noise variance of the first integration, NaN at bad pixels; called
        only if the position of the source is refined.
    apply_apcorr, model_nod_pair, optimize_psf_location : bool
    full_window : bool
        Keep the whole image in the plan (for a model of the scene).

    Raises
    ------
    ReferenceError
        If a reference does not fit the exposure.
    """
    shape = (ds.sizes["y"], ds.sizes["x"])
    mode = mode_of(ds)
    dispaxis = ds.attrs.get("dispaxis")
    if dispaxis not in (1, 2):
        return NothingToExtract("the dispersion direction (DISPAXIS) is not known")
    order = int(meta_of(ds).get("SPORDER", 1))
    if order == 0 and not is_prism(ds):
        return NothingToExtract("spectral order 0 is a direct image")
    source_type = str(ds.attrs.get("source_type") or "").upper()
    slit_name = _slit_name(ds)
    if source_type != "POINT" and options.use_source_posn is None:
        options = _replace(options, use_source_posn=False)
    tree, label = aperture_entries(extract1d)
    aperture = select_aperture(
        tree,
        shape,
        dispaxis,
        slit_name=slit_name,
        spectral_order=order,
        mode=mode,
        options=options,
        label=label,
    )
    if isinstance(aperture, str):
        return NothingToExtract(aperture)
    wcs = meta_of(ds).wcs
    wavelength = _wavelengths(ds, wcs, shape)

    def model(aperture: Aperture) -> PsfProfiles:
        assert psf is not None
        return psf_profiles(
            ds,
            psf,
            wcs=wcs,
            box=bounding_box(wcs, shape),
            trace=aperture.trace,
            wavelength=wavelength,
            images=images,
            slit_name=slit_name,
            mode=mode,
            dispaxis=dispaxis,
            model_nod_pair=model_nod_pair,
            optimize=optimize_psf_location,
        )

    defined = define_spectrum(
        aperture,
        wavelength,
        wcs,
        lambda: locate_source(ds, wcs, shape, mode, dispaxis),
        None if psf is None else model,
    )
    if isinstance(defined, NothingToExtract):
        return defined
    return _assemble(
        ds,
        defined,
        apcorr=apcorr if apply_apcorr and source_type == "POINT" else None,
        full_window=full_window,
        slit_name=slit_name,
        source_type=source_type,
        spectral_order=order,
    )


def define_spectrum(
    aperture: Aperture,
    wavelength: np.ndarray,
    wcs: Any,
    locate: Callable[[], Location | None],
    model: Callable[[Aperture], PsfProfiles] | None,
) -> SpectrumDefinition | NothingToExtract:
    """Turn an aperture into the weights of pixels and the wavelengths of a spectrum.

    Parameters
    ----------
    aperture : Aperture
        As the reference and the user define it.
    wavelength : array of float64, (y, x)
        [um], NaN where there is none.
    wcs : callable or None
        From x, y to right ascension, declination, wavelength.
    locate : callable
        Returns the position of the source; called if the aperture is to be centred on it.
    model : callable or None
        Returns the profiles of an optimal extraction.
    """
    shape = (wavelength.shape[0], wavelength.shape[1])
    dispaxis = aperture.dispaxis
    aperture = _centred(aperture, wavelength, locate)
    profiles: tuple[np.ndarray, ...]
    if aperture.extraction_type == "optimal" and model is not None:
        found = model(aperture)
        profiles, lower, upper = found.profiles, float(found.lower), float(found.upper)
    else:
        weights, lower, upper = aperture_weights(shape, aperture, wavelength)
        profiles = (weights,)
    profiles = tuple(np.where(np.isfinite(wavelength), p, 0.0) for p in profiles)
    region = None
    if aperture.subtract_background and aperture.bkg_coeff is not None:
        region = aperture_weights(shape, aperture, wavelength, background=True)[0] != 0
    mean = mean_wavelength(profiles[0], wavelength, dispaxis)
    if not np.isfinite(mean).any():
        axis, n = ("y", shape[0]) if dispaxis == 1 else ("x", shape[1])
        return NothingToExtract(
            f"no pixel of the extraction aperture has a wavelength: it spans {axis} = {lower:.1f}"
            f" to {upper:.1f} of an image with {axis} = 0 to {n - 1}; correct the extract1d"
            " reference or extract_1d.position_offset, or set extract_1d.use_source_posn=true"
        )
    along = np.flatnonzero(profiles[0].sum(axis=dispaxis - 1) > 0)
    edges = (float(along[0]), float(along[-1])) if len(along) else (float("nan"),) * 2
    return SpectrumDefinition(
        aperture,
        profiles,
        region,
        mean,
        limits=(lower, upper, *edges),
        position=_sky_center(wcs, profiles[0]),
    )


def is_prism(ds: xr.Dataset) -> bool:
    """Whether the disperser is a prism, for which spectral order 0 is no direct image."""
    instrument = str(ds.attrs.get("instrument", "")).upper()
    if instrument == "MIRI":
        return "P750L" in str(ds.attrs.get("filter", "")).upper()
    return instrument == "NIRSPEC" and "PRISM" in str(ds.attrs.get("grating", "")).upper()


def _slit_name(ds: xr.Dataset) -> str:
    mode = mode_of(ds)
    return str(ds.attrs.get("fixed_slit", mode.exp_type)) if mode.fixed_slits else mode.exp_type


def _wavelengths(ds: xr.Dataset, wcs: Any, shape: tuple[int, int]) -> np.ndarray:
    if "wavelength" in ds:
        values = np.asarray(ds["wavelength"].values, dtype=float)
        if np.any(values != 0.0):  # a plane of zeros is one that was never filled
            return values
    y, x = np.indices(shape, dtype=float)
    return np.asarray(wcs(x, y)[2], dtype=float)


def _centred(
    aperture: Aperture, wavelength: np.ndarray, locate: Callable[[], Location | None]
) -> Aperture:
    """Move the aperture to the source and by the user's offset."""
    shape = (wavelength.shape[0], wavelength.shape[1])
    found = locate() if aperture.use_source_posn else None
    if found is not None:
        nominal, _, _ = aperture_weights(shape, aperture, wavelength)
        offset = found.across - center_at(nominal, aperture.dispaxis, found.element)
        aperture = _replace(aperture.shifted(offset), trace=found.trace)
    if aperture.position_offset:
        aperture = aperture.shifted(aperture.position_offset)
    return aperture


def _sky_center(wcs: Any, weights: np.ndarray) -> np.ndarray:
    """Sky position of the centre of the aperture [deg]."""
    y, x = weighted_center(weights)
    if wcs is None:
        return np.full(2, np.nan)
    position = np.array([float(v) for v in wcs(x, y)])
    return position[:2] if np.isfinite(position).all() else np.full(2, np.nan)


def _assemble(
    ds: xr.Dataset,
    defined: SpectrumDefinition,
    *,
    apcorr: xr.Dataset | None,
    full_window: bool,
    slit_name: str,
    source_type: str,
    spectral_order: int,
) -> ExtractionPlan:
    aperture, profiles, region = defined.aperture, defined.profiles, defined.region
    dispaxis = aperture.dispaxis
    shape = (profiles[0].shape[0], profiles[0].shape[1])
    optimal = aperture.extraction_type == "optimal"
    valid = np.flatnonzero(np.isfinite(defined.mean))
    wavelength, position = defined.mean[valid], defined.position
    masks = [p != 0 for p in profiles] + ([] if region is None else [region])
    window = window_of(masks, valid, aperture, full=full_window)
    y0, y1, x0, x1 = window

    def cut(image: np.ndarray) -> np.ndarray:
        part = image[y0:y1, x0:x1]
        return np.ascontiguousarray(part.T if dispaxis == 1 else part)

    basis = None
    order = aperture.bkg_order
    fits_polynomial = region is not None and aperture.bkg_fit == "poly"
    if fits_polynomial or (optimal and aperture.subtract_background):
        start, stop = (y0, y1) if dispaxis == 1 else (x0, x1)
        basis = polynomial_basis(shape[0 if dispaxis == 1 else 1], order)[start:stop]
    sizes = table = None
    if apcorr is not None and not optimal:
        sizes, table = _correction(ds, apcorr, wavelength, position, dispaxis)
    instrument = str(ds.attrs.get("instrument", "")).upper()
    calibrated = is_calibrated(ds)
    angle = meta_of(ds).get("PA_APER")
    return ExtractionPlan(
        weights=cut(profiles[0]),
        nod_weights=cut(profiles[1]) if len(profiles) > 1 else None,
        region=None if region is None else cut(region),
        basis=basis,
        rows=valid - (x0 if dispaxis == 1 else y0),
        wavelength=wavelength,
        apcorr_sizes=sizes,
        apcorr_table=table,
        limits=defined.header_limits(),
        position=position,
        angle=None if angle is None else np.array([float(angle)]),
        window=window,
        shape=shape,
        dispaxis=dispaxis,
        optimal=optimal,
        smoothing_length=aperture.smoothing_length,
        calibrated=calibrated,
        integrated=calibrated and instrument == "NIRSPEC" and source_type == "POINT",
        slit_name=slit_name,
        source_type=source_type,
        spectral_order=spectral_order,
    )


def window_of(
    masks: list[np.ndarray],
    valid: np.ndarray,
    aperture: Aperture,
    *,
    full: bool,
) -> tuple[int, int, int, int]:
    """Part of the image that holds every pixel that counts."""
    shape, dispaxis = masks[0].shape, aperture.dispaxis
    if full:
        return 0, shape[0], 0, shape[1]
    y0, y1, x0, x1 = bounding_slices(masks)
    # smoothing looks at the neighbours of the elements that are extracted
    halo = aperture.smoothing_length // 2
    n = shape[1] if dispaxis == 1 else shape[0]
    start, stop = max(int(valid[0]) - halo, 0), min(int(valid[-1]) + halo + 1, n)
    return (y0, y1, start, stop) if dispaxis == 1 else (start, stop, x0, x1)


def is_calibrated(ds: xr.Dataset) -> bool:
    """Whether the data are flux calibrated, by their units or the status of ``photom``."""
    units = str(ds["sci"].attrs.get("units", ""))
    if units:
        return "Jy" in units
    status = status_of(ds, "photom") or str(meta_of(ds).get("S_PHOTOM", ""))
    return status.startswith("COMPLETE")


def _correction(
    ds: xr.Dataset,
    apcorr: xr.Dataset,
    wavelength: np.ndarray,
    position: np.ndarray,
    dispaxis: int,
) -> tuple[np.ndarray, np.ndarray]:
    ra, dec = (float(v) for v in position)
    row = match_row(apcorr, {"subarray": str(ds.attrs.get("subarray", ""))})

    def scale() -> float:
        return cross_dispersion_scale(meta_of(ds).wcs, (ra, dec, float(wavelength.min())), dispaxis)

    return correction_table(apcorr, row, wavelength, scale)

"""Host-side half of ``extract_1d`` for images: the extraction of many spectra as arrays.

An image that holds a single spectrum is extracted as a slit. Slits of a bucket that are extracted
in the same manner (which nearly always is all of them) form a group; the arrays of a group have a
leading dimension ``slit``. A slit that cannot be extracted does not stop the others: the reason is
kept.

Nothing in a plan depends on the pixel values of more than the first integration (which only
optimal extraction with a refined position looks at), so one plan serves every chunk of
integrations.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, TypeAlias, cast

import numpy as np

from spec2fn.dq import Pixel
from spec2fn.errors import Spec2fnError
from spec2fn.kernels.namespace import array_namespace
from spec2fn.modes import mode_of
from spec2fn.parameters import Parameters
from spec2fn.pieces import Exposure, Pieces, pieces_of
from spec2fn.plan_base import Plan, array, labels, positions
from spec2fn.plans.extraction.apcorr import correction_table, match_row
from spec2fn.plans.extraction.aperture import polynomial_basis, select_aperture
from spec2fn.plans.extraction.psf_profile import psf_profiles
from spec2fn.plans.extraction.slit_geometry import slit_geometry
from spec2fn.plans.extraction.source_location import Geometry, aperture_angle, image_geometry
from spec2fn.plans.extraction.source_trace import field_scale, trace_geometry
from spec2fn.plans.extraction.spectrum_definition import SpectrumDefinition, define_spectrum
from spec2fn.plans.slits.slit_frame import chosen_types
from spec2fn.schema import VARIANCES, is_calibrated, meta_of
from spec2fn.slits import strings
from spec2fn.typing import Array, Arrays, HostArray
from spec2fn.wcs.evaluate import size_of_pixel

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["GroupPlan", "ImagesPlan", "bad_pixels", "pixel_planes", "plan_images"]


_References: TypeAlias = "tuple[xr.Dataset | None, xr.Dataset | None, xr.Dataset | None]"


class GroupPlan(Plan):
    """Arrays with which slits of one bucket (or the only image) become spectra.

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


class ImagesPlan(Plan):
    """The extraction of an image, or of several buckets of slits.

    Attributes
    ----------
    groups : tuple of GroupPlan
    problems : tuple of (str, str)
        Slits without a spectrum, and why.
    angle : array of float64, (1,) or None
        Position angle of the instrument's aperture [deg], if the header says.
    """

    extracts_from: ClassVar[str] = "images"
    groups: tuple[GroupPlan, ...]
    problems: tuple[tuple[str, str], ...]
    angle: Array | None = array("1")


@dataclass(frozen=True, eq=False)
class _Slit:
    """A slit of a bucket, cut to its true size, or the only image."""

    index: int
    name: str
    source_type: str
    integrated: bool
    wavelength: HostArray
    geometry: Geometry
    order: int

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.wavelength.shape[0], self.wavelength.shape[1]


@dataclass(frozen=True, eq=False)
class _Spectrum:
    """A slit whose spectrum is defined."""

    slit: _Slit
    defined: SpectrumDefinition
    sizes: HostArray | None
    table: HostArray | None

    @property
    def smoothing(self) -> int:
        """Length of the boxcar along the dispersion, 0 if there is nothing to smooth."""
        return 0 if self.defined.region is None else self.defined.aperture.smoothing_length

    @property
    def manner(self) -> tuple[object, ...]:
        """What must agree within a group."""
        aperture = self.defined.aperture
        return (
            aperture.extraction_type,
            aperture.subtract_background,
            self.defined.region is None,
            aperture.bkg_fit,
            aperture.bkg_order,
            self.smoothing,
            len(self.defined.profiles),
            self.slit.order,
            # the boxcar repeats the last element, which must not be padding
            self.slit.shape if self.smoothing else None,
        )


def plan_images(
    ds: Exposure,
    extract1d: xr.Dataset | None,
    apcorr: xr.Dataset | None,
    psf: xr.Dataset | None,
    params: Parameters,
) -> ImagesPlan | str:
    """Define apertures, backgrounds, wavelengths and aperture corrections of all spectra.

    Parameters
    ----------
    ds : xarray.Dataset or Slits
        An image, dims ([integration,] y, x), with ``wavelength`` (y, x) [um] and a gwcs. Or slits,
        or a bucket of them, with ``wavelength`` (slit, y, x) [um], ``slit_name``, ``source_type``,
        ``source_xpos``, ``source_ypos``, ``xsize``, ``ysize`` and ``meta.wcs``, a gwcs by slit id.
    extract1d, apcorr, psf : xarray.Dataset, optional
    params : Parameters
        Of ``extract_1d``.

    Returns
    -------
    ImagesPlan or str
        Why nothing can be extracted.

    Raises
    ------
    ReferenceError
        If a reference does not fit the image, or any of the slits.
    """
    references = extract1d, apcorr, psf
    buckets = pieces_of(ds)
    single = not isinstance(ds, Pieces) and "slit" not in ds["sci"].dims
    if single and buckets[0].attrs.get("dispaxis") not in (1, 2):
        return "the dispersion direction (DISPAXIS) is not known"
    if not single:
        return _plan_slits(buckets, references, params)
    (image,) = buckets
    spectrum = _define(image, _open_image(image), references, params)
    if isinstance(spectrum, str):
        return spectrum
    return ImagesPlan((_stack(image, 0, [spectrum], params),), (), aperture_angle(image))


def _plan_slits(
    buckets: Sequence[xr.Dataset], references: _References, params: Parameters
) -> ImagesPlan | str:
    groups: list[GroupPlan] = []
    problems: dict[str, str] = {}
    errors: list[Spec2fnError] = []
    for number, bucket in enumerate(buckets):
        alike: dict[tuple[object, ...], list[_Spectrum]] = {}
        types = chosen_types(bucket, None)
        for i, name in enumerate(strings(bucket, "slit_name")):
            try:
                slit = _open_slit(bucket, i, name, types[i])
                spectrum = _define(bucket, slit, references, params)
            except Spec2fnError as error:
                errors.append(error)
                spectrum = str(error)
            except Exception as error:  # a broken slit must not stop the others
                spectrum = " ".join(str(error).split()) or type(error).__name__
            if isinstance(spectrum, str):
                problems[_label(bucket, i, name)] = spectrum
            else:
                alike.setdefault(spectrum.manner, []).append(spectrum)
        groups += [_stack(bucket, number, spectra, params) for spectra in alike.values()]
    if groups:
        return ImagesPlan(tuple(groups), tuple(problems.items()), aperture_angle(buckets[0]))
    if errors:
        raise errors[0]
    return "; ".join(f"slit {k}: {v}" for k, v in problems.items()) or "there are no slits"


def _label(bucket: xr.Dataset, i: int, name: str) -> str:
    """Name of a slit, with the order if orders of a source share the name."""
    if "spectral_order" not in bucket:
        return name
    return f"{name} (order {int(bucket.variables['spectral_order'].values[i])})"


def _spectral_order(ds: xr.Dataset) -> int:
    meta = meta_of(ds)
    return int(meta.records.get("spectral_order", meta.get("SPORDER", 1)))


def _is_prism(ds: xr.Dataset) -> bool:
    """Whether the disperser is a prism, for which spectral order 0 is no direct image."""
    elements = f"{ds.attrs.get('filter', '')} {ds.attrs.get('grating', '')}".upper()
    return "P750L" in elements or "PRISM" in elements


def _open_image(ds: xr.Dataset) -> _Slit:
    mode = mode_of(ds)
    name = str(ds.attrs.get("fixed_slit", mode.exp_type)) if mode.fixed_slits else mode.exp_type
    source_type = str(ds.attrs.get("source_type") or "").upper()
    plane = ds["wavelength"].values if "wavelength" in ds else None
    geometry = image_geometry(ds, ds.attrs["dispaxis"])
    integrated = _holds_flux(ds, source_type)
    waves = _wavelengths(plane, geometry)
    return _Slit(0, name, source_type, integrated, waves, geometry, _spectral_order(ds))


def _open_slit(bucket: xr.Dataset, i: int, name: str, source_type: str) -> _Slit:
    traces = "spectral_order" in bucket
    geometry = trace_geometry(bucket, i) if traces else slit_geometry(bucket, i)
    height, width = geometry.shape
    plane = None
    if "wavelength" in bucket:
        plane = bucket.variables["wavelength"].values[i, :height, :width]
    unit = str(bucket.variables["bunit"].values[i]).strip() if "bunit" in bucket else ""
    integrated = unit == "MJy" if unit else _holds_flux(bucket, source_type)
    order = _spectral_order(bucket)
    if traces:
        order = int(bucket.variables["spectral_order"].values[i])
    waves = _wavelengths(plane, geometry)
    return _Slit(i, name, source_type, integrated, waves, geometry, order)


def _wavelengths(plane: HostArray | None, geometry: Geometry) -> HostArray:
    """Wavelengths of the pixels [um]; a plane of zeros is one that was never filled."""
    if plane is not None and np.any(plane != 0.0):
        return np.asarray(plane, dtype=float)
    y, x = np.indices(geometry.shape, dtype=float)
    return np.asarray(geometry(x, y)[2], dtype=float)


def _holds_flux(ds: xr.Dataset, source_type: str) -> bool:
    """Whether the pixels of a source hold flux, not surface brightness, if no unit says so."""
    nirspec = str(ds.attrs.get("instrument", "")).upper() == "NIRSPEC"
    return nirspec and source_type == "POINT" and _calibrated(ds)


def _calibrated(ds: xr.Dataset) -> bool:
    """Whether an image, or the slits of a bucket, are flux calibrated."""
    units = strings(ds, "bunit") if "slit" in ds.dims else []
    return "Jy" in units[0] if any(units) else is_calibrated(ds)


def _define(
    ds: xr.Dataset, slit: _Slit, references: _References, params: Parameters
) -> _Spectrum | str:
    """Define one spectrum, or say why there is none."""
    if 0 in slit.shape:
        return "it has no pixels"
    if slit.order == 0 and not _is_prism(ds):
        return "spectral order 0 is a direct image"
    extract1d, apcorr, psf = references
    point, dispaxis = slit.source_type == "POINT", int(ds.attrs.get("dispaxis", 1))
    aperture = select_aperture(
        # sources without slits are cut out as they are to be summed
        None if "spectral_order" in ds else extract1d,
        slit.shape,
        dispaxis,
        params,
        slit_name=slit.name,
        spectral_order=slit.order,
        mode=mode_of(ds),
        point=point,
        has_psf=psf is not None,
    )
    if isinstance(aperture, str):
        return aperture

    model = functools.partial(
        psf_profiles,
        ds,
        cast("xr.Dataset", psf),  # there is one wherever the extraction is optimal
        slit.geometry,
        params,
        wavelength=slit.wavelength,
        images=lambda: _first_integration(ds, slit),
        slit_name=slit.name,
        dispaxis=dispaxis,
    )
    defined = define_spectrum(aperture, slit.wavelength, slit.geometry, model)
    if isinstance(defined, str):
        return defined
    sizes = table = None
    wanted = params.apply_apcorr and point and aperture.extraction_type != "optimal"
    if wanted and apcorr is not None:
        sizes, table = _correction(ds, apcorr, slit, defined)
    return _Spectrum(slit, defined, sizes, table)


def pixel_planes(ds: xr.Dataset) -> dict[str, Array]:
    """Return the data and whatever says how good they are, by name: errors, variances, flags."""
    names = ("sci", "err", *VARIANCES, "dq")
    return {n: ds[n].data for n in names if n in ds and ds[n].dims == ds["sci"].dims}


def bad_pixels(planes: Arrays) -> Array:
    """Pixels that any of the :func:`pixel_planes`, or the data quality, marks as unusable."""
    xp = array_namespace(*planes.values())
    bad = ~xp.isfinite(planes["sci"])
    for name, value in planes.items():
        if name == "dq":
            bad = bad | ((value & xp.asarray(int(Pixel.DO_NOT_USE), dtype=value.dtype)) != 0)
        else:
            bad = bad | ~xp.isfinite(value)
    return bad


def _first_integration(ds: xr.Dataset, slit: _Slit) -> tuple[HostArray, HostArray]:
    """Data and read-noise variance (y, x) of the first integration, NaN at bad pixels."""
    height, width = slit.shape
    one = ds.isel(slit=slit.index) if "slit" in ds["sci"].dims else ds
    one = one.isel(y=slice(height), x=slice(width))
    if "integration" in one["sci"].dims:
        one = one.isel(integration=0)
    bad = np.asarray(bad_pixels(pixel_planes(one)))
    noise = one["var_rnoise"].values if "var_rnoise" in one else np.zeros(bad.shape)
    sci, noise = (np.asarray(plane, dtype=float) for plane in (one["sci"].values, noise))
    return np.where(bad, np.nan, sci), np.where(bad, np.nan, noise)


def _correction(
    ds: xr.Dataset, apcorr: xr.Dataset, slit: _Slit, defined: SpectrumDefinition
) -> tuple[HostArray, HostArray]:
    """Aperture sizes, and the correction for each, at every wavelength."""
    by_slit = "slit" in ds["sci"].dims
    traces = "spectral_order" in ds
    names = ("filter", "grating") if by_slit else ("subarray",)
    if mode_of(ds).layout == "traces":
        names = ("filter", "pupil") if "apcorr.pupil" in apcorr else ("subarray",)
    criteria = {name: str(ds.attrs.get(name, "")) for name in names}
    if by_slit and mode_of(ds).fixed_slits:
        criteria["slit"] = slit.name
    row = match_row(apcorr, criteria)
    wavelength = defined.mean[defined.elements]

    def scale() -> float:
        if traces:
            return field_scale(ds, slit.index)
        ra, dec = (float(v) for v in defined.position)
        wave, wcs = float(np.median(wavelength) if by_slit else wavelength.min()), slit.geometry.wcs
        pixel = wcs.invert(ra, dec, wave, with_bounding_box=False)[:2]
        return size_of_pixel(wcs, pixel, defined.aperture.dispaxis)

    return correction_table(apcorr, row, wavelength, scale, phased=by_slit and not traces)


def _stack(
    bucket: xr.Dataset, number: int, spectra: list[_Spectrum], params: Parameters
) -> GroupPlan:
    """Put the spectra of a group into arrays."""
    first = spectra[0]
    aperture, fits_background = first.defined.aperture, first.defined.region is not None
    dispaxis, optimal = aperture.dispaxis, aperture.extraction_type == "optimal"
    if not (params.save_scene_model or params.save_residual_image):
        windows = [s.defined.window() for s in spectra]
        low, high = np.min(windows, axis=0), np.max(windows, axis=0)
        window = int(low[0]), int(high[1]), int(low[2]), int(high[3])
    else:  # the model is one of the whole image; if it is smoothed, all are of one shape
        height, width = first.slit.shape if first.smoothing else bucket["sci"].shape[-2:]
        window = 0, height, 0, width
    y0, y1, x0, x1 = window

    def stacked(planes: list[HostArray]) -> HostArray:
        out = np.zeros((len(planes), y1 - y0, x1 - x0), dtype=planes[0].dtype)
        for image, plane in zip(out, planes, strict=True):
            part = plane[y0:y1, x0:x1]
            image[: part.shape[0], : part.shape[1]] = part
        return np.ascontiguousarray(out.swapaxes(1, 2)) if dispaxis == 1 else out

    n_wave = max(len(s.defined.elements) for s in spectra)
    rows = np.zeros((len(spectra), n_wave), dtype=np.int64)
    valid = np.zeros(rows.shape, dtype=bool)
    wavelength = np.full(rows.shape, np.nan)
    for k, s in enumerate(spectra):
        elements = s.defined.elements
        rows[k, : len(elements)] = elements - (x0 if dispaxis == 1 else y0)
        valid[k, : len(elements)] = True
        wavelength[k, : len(elements)] = s.defined.mean[elements]
    basis = None
    if (fits_background and aperture.bkg_fit == "poly") or (
        optimal and aperture.subtract_background
    ):
        start, stop = (y0, y1) if dispaxis == 1 else (x0, x1)
        length = bucket.sizes["y" if dispaxis == 1 else "x"]
        basis = polynomial_basis(length, aperture.bkg_order)[start:stop]
    sizes, table = _stacked_correction(spectra, n_wave)
    nods = [s.defined.profiles[1] for s in spectra if len(s.defined.profiles) > 1]
    regions = [s.defined.region for s in spectra if s.defined.region is not None]
    return GroupPlan(
        weights=stacked([s.defined.profiles[0] for s in spectra]),
        nod_weights=stacked(nods) if nods else None,
        region=stacked(regions) if regions else None,
        basis=basis,
        rows=rows,
        valid=valid,
        wavelength=wavelength,
        apcorr_sizes=sizes,
        apcorr_table=table,
        integrated=np.array([s.slit.integrated for s in spectra]),
        limits=np.array([s.defined.limits for s in spectra]),
        position=np.array([s.defined.position for s in spectra]),
        bucket=number,
        members=tuple(s.slit.index for s in spectra),
        window=window,
        shapes=tuple(s.slit.shape for s in spectra),
        names=tuple(s.slit.name for s in spectra),
        source_types=tuple(s.slit.source_type for s in spectra),
        optimal=optimal,
        calibrated=_calibrated(bucket),
        smoothing_length=first.smoothing,
        dispaxis=dispaxis,
        spectral_order=first.slit.order,
    )


def _stacked_correction(
    spectra: list[_Spectrum], n_wave: int
) -> tuple[HostArray | None, HostArray | None]:
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

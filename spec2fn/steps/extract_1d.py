"""Extract a one-dimensional spectrum from a spectral image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np

from spec2fn.engine.step import PLANNED, Skip, step
from spec2fn.kernels.namespace import is_traced
from spec2fn.modes import mode_of
from spec2fn.parameters import Range
from spec2fn.plans.extraction.aperture import ApertureOptions
from spec2fn.plans.extraction.extract_1d import (
    ExtractionPlan,
    NothingToExtract,
    make_extraction_plan,
)
from spec2fn.plans.extraction.extract_cube import CubeOptions, CubePlan, make_cube_plan
from spec2fn.plans.extraction.extract_slits import ExtractionOptions, SlitsPlan, make_slits_plan
from spec2fn.schema import NOT_EXTRACTED, meta_of, with_warnings
from spec2fn.slits import Slits
from spec2fn.spectra.cube_spectra import extract_cube
from spec2fn.spectra.datasets import (
    image_spectrum,
    join_spectra,
    slit_images,
    slit_spectra,
    with_images,
)
from spec2fn.spectra.image_spectra import bad_pixels, extract_image
from spec2fn.wcs.spectrum import SpectralWcs

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["extract_1d"]


def _plan(
    ds: xr.Dataset | Slits,
    extract1d: xr.Dataset | None,
    apcorr: xr.Dataset | None,
    psf: xr.Dataset | None,
    *,
    subtract_background: bool | None,
    apply_apcorr: bool,
    extraction_type: str | None,
    use_source_posn: bool | None,
    position_offset: float,
    model_nod_pair: bool,
    optimize_psf_location: bool,
    smoothing_length: int | None,
    bkg_fit: str | None,
    bkg_order: int | None,
    save_scene_model: bool,
    save_residual_image: bool,
    center_xy: tuple[float, float] | None,
    ifu_autocen: bool,
    bkg_sigma_clip: float,
    ifu_rfcorr: bool,
    ifu_set_srctype: str | None,
    ifu_rscale: float | None,
    ifu_covar_scale: float,
) -> ExtractionPlan | SlitsPlan | CubePlan | Skip:
    if not isinstance(ds, Slits) and "wave" in ds["sci"].dims:
        cube_options = CubeOptions(
            subtract_background=subtract_background,
            apply_apcorr=apply_apcorr,
            center_xy=center_xy,
            ifu_autocen=ifu_autocen,
            bkg_sigma_clip=bkg_sigma_clip,
            ifu_rfcorr=ifu_rfcorr,
            ifu_set_srctype=ifu_set_srctype,
            ifu_rscale=ifu_rscale,
            ifu_covar_scale=ifu_covar_scale,
        )
        return make_cube_plan(ds, extract1d, apcorr, cube_options)
    if mode_of(ds).sliced:
        return Skip("no cube was built, and spectra are only extracted from cubes")
    options = ApertureOptions(
        subtract_background=subtract_background,
        use_source_posn=use_source_posn,
        position_offset=position_offset,
        smoothing_length=smoothing_length,
        bkg_fit=bkg_fit,
        bkg_order=bkg_order,
        extraction_type=extraction_type,
        has_psf=psf is not None,
    )
    full_window = save_scene_model or save_residual_image
    plan: ExtractionPlan | SlitsPlan | NothingToExtract
    buckets = _buckets(ds)
    if buckets is not None:
        plan = make_slits_plan(
            buckets,
            extract1d,
            apcorr,
            psf,
            options=ExtractionOptions(
                options, apply_apcorr, model_nod_pair, optimize_psf_location, full_window
            ),
            images=lambda bucket, i: _first_integration(
                bucket.isel(
                    slit=i, y=slice(int(bucket["ysize"][i])), x=slice(int(bucket["xsize"][i]))
                )
            ),
        )
        return Skip(plan.reason) if isinstance(plan, NothingToExtract) else plan
    assert not isinstance(ds, Slits)
    image = ds
    plan = make_extraction_plan(
        image,
        extract1d,
        apcorr,
        psf,
        options=options,
        images=lambda: _first_integration(image),
        apply_apcorr=apply_apcorr,
        model_nod_pair=model_nod_pair,
        optimize_psf_location=optimize_psf_location,
        full_window=full_window,
    )
    return Skip(plan.reason) if isinstance(plan, NothingToExtract) else plan


def _without(ds: Any, parameters: Mapping[str, Any]) -> Mapping[str, str]:
    buckets = _buckets(ds) if isinstance(ds, Slits) or "slit" in ds.dims else None
    if buckets is None:
        types = [ds.attrs.get("source_type")]
        if "wave" in ds.dims:
            return _UNCORRECTED if parameters["apply_apcorr"] and "POINT" in types else {}
    else:
        types = [t for b in buckets if "source_type" in b for t in b["source_type"].values]
    corrected = parameters["apply_apcorr"] and "POINT" in types
    return {"extract1d": "the whole image is summed"} | (_UNCORRECTED if corrected else {})


@step(
    refs=("extract1d", "apcorr", "psf"),
    without=_without,
    reads=("sci",),
    provides=("flux", "flux_error", "flux_error_cov"),
    traceable=True,
    planner=_plan,
    suffix="x1d",
    scope="slits",
)
def extract_1d(
    ds: xr.Dataset | Slits,
    extract1d: xr.Dataset | None = None,
    apcorr: xr.Dataset | None = None,
    psf: xr.Dataset | None = None,
    *,
    plan: ExtractionPlan | SlitsPlan | CubePlan = PLANNED,
    subtract_background: bool | None = None,
    apply_apcorr: bool = True,
    extraction_type: Literal["box", "optimal"] | None = "box",
    use_source_posn: bool | None = None,
    position_offset: float = 0.0,
    model_nod_pair: bool = True,
    optimize_psf_location: bool = True,
    smoothing_length: Annotated[int, Range(0)] | None = None,
    bkg_fit: Literal["poly", "mean", "median"] | None = None,
    bkg_order: Annotated[int, Range(0, 30)] | None = None,
    log_increment: int = 50,
    save_profile: bool = False,
    save_scene_model: bool = False,
    save_residual_image: bool = False,
    center_xy: tuple[float, float] | None = None,
    ifu_autocen: bool = False,
    bkg_sigma_clip: Annotated[float, Range(0, above=True)] = 3.0,
    ifu_rfcorr: bool = True,
    ifu_set_srctype: Literal["POINT", "EXTENDED"] | None = None,
    ifu_rscale: Annotated[float, Range(0.5, 3.0)] | None = None,
    ifu_covar_scale: Annotated[float, Range(0)] = 1.0,
) -> xr.Dataset:
    """Sum (or fit) the source's spectrum at every dispersion element, for every integration.

    The algorithm is that of the JWST pipeline documentation
    (https://jwst-pipeline.readthedocs.io, "Extraction for 2D slit data"): an aperture from the
    ``extract1d`` reference, moved to the source; a background fitted across the trace in regions
    the reference gives; box or profile-fitting extraction; an aperture correction.

    Parameters
    ----------
    ds : xarray.Dataset or Slits
        ``sci``, ``var_*`` and optionally ``err``, ``dq`` with dims ([integration,] y, x),
        ``wavelength`` (y, x) [um]; optionally ``variance_cov`` and ``covariance`` (lag, y, x)
        of a resampled image. Or a cube, ([integration,] wave, y, x), with ``wmap`` and
        ``wavelength`` (wave). NIRSpec: slits, or one bucket of them, with a leading dimension
        ``slit``; with ``source_type``, ``source_xpos``, ``source_ypos``, ``pixar_sr`` on it, and
        ``bunit`` if units differ (``"MJy"`` for point sources, ``"MJy/sr"`` for others).
    extract1d, apcorr, psf : xarray.Dataset, optional
        Apertures; aperture correction; PSF profile (needed for optimal extraction).
    plan : ExtractionPlan, SlitsPlan or CubePlan
        Aperture, wavelengths and corrections as arrays.
    subtract_background : bool, optional
        Subtract a background; by default if the reference defines background regions.
    apply_apcorr : bool
        Correct point sources for the light outside of the aperture.
    extraction_type : {"box", "optimal"}, optional
        None chooses "optimal" where the source position is used and a PSF is known.
    use_source_posn : bool, optional
        Centre the aperture on the source; by default as the reference says.
    position_offset : float
        Additional shift across the trace [pixel].
    model_nod_pair, optimize_psf_location : bool
        Optimal extraction: fit the negative source of a nod pair; refine the positions on the
        first integration.
    smoothing_length : int, optional
        Boxcar along the dispersion the background is smoothed with [pixel]; even values are
        lowered by one, values below 3 switch it off.
    bkg_fit : {"poly", "mean", "median"}, optional
    bkg_order : int, optional
        Order of the background polynomial.
    log_increment : int
        Accepted for compatibility: all integrations are extracted at once.
    save_profile, save_scene_model, save_residual_image : bool
        Keep the spatial profile, the model of the image, the residual in
        ``meta.records["profile" | "scene_model" | "residual"]``.
    center_xy : (float, float), optional
        Cubes: position x, y of a point source [pixel], counted from 0; by default the spaxel
        nearest to the target's coordinates.
    ifu_autocen : bool
        Cubes: find the brightest point source and centre on it.
    bkg_sigma_clip : float
        Cubes: leave spaxels out of the background that are farther from the mean of the field of
        view, in standard deviations.
    ifu_rfcorr : bool
        MRS cubes of a single band: add columns without residual fringes.
    ifu_set_srctype : {"POINT", "EXTENDED"}, optional
        MRS cubes: the source type, whatever the exposure says.
    ifu_rscale : float, optional
        MRS cubes: radius of the aperture in FWHM of the point spread function; the reference has
        2.
    ifu_covar_scale : float
        Cubes: factor on the errors for the covariance of neighbouring spaxels.

    Returns
    -------
    xarray.Dataset
        Variables of :data:`spec2fn.schema.EXTRACTED`, float64 (``dq`` uint32) with dims
        ([integration,] spectrum, wave), fluxes in Jy; ``wavelength`` and ``n_wave`` without
        the integration. Of slits, one spectrum for each that could be extracted, by slit id
        (``slit``); those shorter than others are padded with NaN beyond ``n_wave`` elements; why
        a slit has none is in ``meta.records["slits_not_extracted"]``.
        ``flux_error`` is the square root of the sum of the variance columns, in
        which a background enters as if it were measured on other pixels; ``flux_error_cov`` is
        the error of the whole linear operator on the image, correlations included (of cubes as
        far as ``variance_inflation`` (wave) says; without it, `ifu_covar_scale` stands for them).

    Raises
    ------
    ReferenceError
        If a reference has no (or no usable) entry for this slit or subarray.
    """
    saved = (save_profile, save_scene_model, save_residual_image)
    if isinstance(plan, SlitsPlan):
        return _extract_slits(_buckets(ds) or (), plan, saved)
    assert not isinstance(ds, Slits)
    if isinstance(plan, CubePlan):
        out = extract_cube(ds, plan)
        return out if is_traced(ds["sci"].data) else with_warnings(out, *plan.warnings)
    spectrum, columns = extract_image(ds, plan, saved)
    out = image_spectrum(ds, plan, columns)
    if not is_traced(ds["sci"].data):
        out = with_images(ds, out, plan, spectrum, saved)
    return out


_UNCORRECTED = {"apcorr": "light outside the apertures of point sources is not corrected for"}


def _buckets(ds: Any) -> tuple[xr.Dataset, ...] | None:
    """Buckets of slits, or None for an exposure that is a single image."""
    if isinstance(ds, Slits):
        return ds.buckets
    return (ds,) if "slit" in ds["sci"].dims else None


def _extract_slits(
    buckets: tuple[xr.Dataset, ...], plan: SlitsPlan, saved: tuple[bool, bool, bool]
) -> xr.Dataset:
    """Extract group by group, and join the spectra."""
    parts = []
    images: dict[str, Any] = {}
    for group in plan.groups:
        bucket = buckets[group.bucket]
        if group.members != tuple(range(bucket.sizes["slit"])):
            bucket = bucket.isel(slit=list(group.members))
        spectrum, columns = extract_image(bucket, group, saved)
        parts.append(slit_spectra(bucket, group, columns, plan.angle))
        if any(saved) and not is_traced(bucket["sci"].data):
            images |= slit_images(bucket, group, spectrum, saved)
    out = join_spectra(parts)
    if is_traced(out["flux"].data):
        return out
    position = np.stack([out["slit_ra"].values, out["slit_dec"].values], axis=1)
    wcs = SpectralWcs(out["sltname"].values, position, np.asarray(out["wavelength"].data))
    records = dict(images)
    if plan.problems:
        records[NOT_EXTRACTED] = dict(plan.problems)
    return out.assign_attrs(meta=meta_of(buckets[0]).replace(wcs=wcs, records=records))


def _first_integration(ds: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Data and read-noise variance (y, x) of the first integration, NaN at bad pixels."""
    first = ds.isel(integration=0) if "integration" in ds["sci"].dims else ds
    bad = np.asarray(bad_pixels(first))
    sci = np.where(bad, np.nan, np.asarray(first["sci"].values, dtype=float))
    noise = np.zeros_like(sci)
    if "var_rnoise" in first:
        noise = np.asarray(first["var_rnoise"].values, dtype=float)
    return sci, np.where(bad, np.nan, noise)

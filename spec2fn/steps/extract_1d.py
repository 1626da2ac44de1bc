"""Extract a one-dimensional spectrum from a spectral image or a cube."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Literal, TypeGuard

from spec2fn.engine.step import PLANNED, Skip, step
from spec2fn.errors import DatasetError
from spec2fn.modes import mode_of
from spec2fn.parameters import Parameters, Range
from spec2fn.pieces import Exposure, Pieces, pieces_of
from spec2fn.plans.extraction.extract_cube import CubeExtractionPlan, plan_cube
from spec2fn.plans.extraction.extract_images import ImagesPlan, plan_images
from spec2fn.slits import strings
from spec2fn.spectra.cube_spectra import extract_cube
from spec2fn.spectra.image_spectra import extract_images

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["extract_1d"]

AnyExtractionPlan = ImagesPlan | CubeExtractionPlan


def _plan(
    ds: Exposure,
    extract1d: xr.Dataset | None,
    apcorr: xr.Dataset | None,
    psf: xr.Dataset | None,
    *,
    params: Parameters,
) -> AnyExtractionPlan | Skip:
    if mode_of(ds).layout == "orders":
        msg = "extract_1d: the orders of this exposure overlap; use spec2fn.steps.extract_soss"
        raise DatasetError(msg)
    if _is_cube(ds):
        return plan_cube(ds, extract1d, apcorr, params)
    if mode_of(ds).sliced:
        return Skip("no cube was built, and spectra are only extracted from cubes")
    plan = plan_images(ds, extract1d, apcorr, psf, params)
    return Skip(plan) if isinstance(plan, str) else plan


def _is_cube(ds: Exposure) -> TypeGuard[xr.Dataset]:
    return not isinstance(ds, Pieces) and "wave" in ds["sci"].dims


def _without(ds: Exposure, params: Parameters) -> Mapping[str, str]:
    types: list[str] = []
    for part in pieces_of(ds):
        several = "slit" in part.dims
        types += strings(part, "source_type") if several else [part.attrs.get("source_type", "")]
    traces = mode_of(ds).layout == "traces" and not mode_of(ds).one_source
    effects = {} if _is_cube(ds) or traces else {"extract1d": "the whole image is summed"}
    if params.apply_apcorr and "POINT" in types:
        effects["apcorr"] = "light outside the apertures of point sources is not corrected for"
    return effects


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
    ds: Exposure,
    extract1d: xr.Dataset | None = None,
    apcorr: xr.Dataset | None = None,
    psf: xr.Dataset | None = None,
    *,
    plan: AnyExtractionPlan = PLANNED,
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
        ``bunit`` if units differ (``"MJy"`` for point sources, ``"MJy/sr"`` for others). Sources
        without slits: cut-outs, with ``spectral_order`` on ``slit``, which are summed as they are.
    extract1d, apcorr, psf : xarray.Dataset, optional
        Apertures; aperture correction; PSF profile (needed for optimal extraction).
    plan : ImagesPlan or CubeExtractionPlan
        Apertures, wavelengths and corrections as arrays.
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
        the error of the whole linear operator on the image, correlations included (of cubes by
        ``covariance_sum`` and ``covariance_kernel``, or else `ifu_covar_scale`).

    Raises
    ------
    DatasetError
        If the orders of the exposure overlap (:func:`spec2fn.steps.extract_soss.extract_soss`).
    ReferenceError
        If a reference has no (or no usable) entry for this slit or subarray.
    """
    saved = (save_profile, save_scene_model, save_residual_image)
    extract: Mapping[str, Callable[..., xr.Dataset]] = {
        "images": functools.partial(extract_images, saved=saved),
        "cube": extract_cube,
    }
    return extract[plan.extracts_from](ds, plan)

"""Extract a one-dimensional spectrum from a spectral image or a cube."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from os import PathLike
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeGuard

import numpy as np

from spec2fn.engine.step import PLANNED, Skip, as_reference, step
from spec2fn.errors import InputError
from spec2fn.modes import mode_of
from spec2fn.parameters import Parameters, Range
from spec2fn.pieces import Exposure, Pieces, pieces_of
from spec2fn.plans.extraction.extract_cube import CubeExtractionPlan, plan_cube
from spec2fn.plans.extraction.extract_images import ImagesPlan, plan_images
from spec2fn.plans.extraction.extract_orders import Given, OrdersPlan, plan_orders
from spec2fn.slits import strings
from spec2fn.spectra.cube_spectra import extract_cube
from spec2fn.spectra.image_spectra import extract_images
from spec2fn.spectra.order_spectra import extract_orders
from spec2fn.typing import HostArray

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["extract_1d"]

AnyExtractionPlan = ImagesPlan | CubeExtractionPlan | OrdersPlan


def _plan(  # noqa: PLR0917 - what the step has
    ds: Exposure,
    extract1d: xr.Dataset | None,
    apcorr: xr.Dataset | None,
    psf: xr.Dataset | None,
    pastasoss: xr.Dataset | None,
    specprofile: xr.Dataset | None,
    speckernel: xr.Dataset | None,
    *,
    params: Parameters,
) -> AnyExtractionPlan | Skip:
    if mode_of(ds).layout == "orders":
        assert not isinstance(ds, Pieces)
        references = pastasoss, specprofile, speckernel
        orders = plan_orders(ds, references, params, _given_by_user(params))
        return Skip(orders) if isinstance(orders, str) else orders
    if _is_cube(ds):
        return plan_cube(ds, extract1d, apcorr, params)
    if mode_of(ds).sliced:
        return Skip("no cube was built, and spectra are only extracted from cubes")
    plan = plan_images(ds, extract1d, apcorr, psf, params)
    return Skip(plan) if isinstance(plan, str) else plan


def _given_by_user(params: Parameters) -> Given:
    """The grid and the spectrum that the parameters name, or are."""
    return Given(
        _columns(params.soss_wave_grid_in, "soss_wave_grid_in", ("wavegrid",)),
        _columns(params.soss_estimate, "soss_estimate", ("extract1d.wavelength", "extract1d.flux")),
        _images(params.soss_contaminants, "soss_contaminants"),
    )


def _columns(value: Any, parameter: str, names: tuple[str, ...]) -> HostArray | None:  # noqa: ANN401 - whatever a user gives
    """One column of a file or Dataset, or two as rows; an array is taken as it is."""
    value = _opened(value, parameter)
    if value is None or not hasattr(value, "data_vars"):
        return None if value is None else np.asarray(value, dtype=np.float64)
    missing = [name.upper() for name in names if name not in value]
    if missing:
        held = ", ".join(sorted(map(str, value.data_vars))) or "nothing"
        msg = (
            f"extract_1d: {parameter} has no {', '.join(missing)} (it holds {held}); give a file"
            " that has it"
        )
        raise InputError(msg)
    found = [np.asarray(value[name].values, dtype=np.float64) for name in names]
    found = [v if v.ndim == 1 else v[0] for v in found]  # of the first integration
    return found[0] if len(names) == 1 else np.stack(found)


def _images(value: Any, parameter: str) -> HostArray | None:  # noqa: ANN401 - whatever a user gives
    """Images of a file or Dataset; an array is taken as it is."""
    value = _opened(value, parameter)
    if value is not None and hasattr(value, "data_vars"):
        if "sci" not in value:
            held = ", ".join(sorted(map(str, value.data_vars))) or "nothing"
            msg = f"extract_1d: {parameter} has no SCI (it holds {held}); give a file with one"
            raise InputError(msg)
        value = value["sci"].values
    return None if value is None else np.asarray(value, dtype=np.float64)


def _opened(value: Any, parameter: str) -> Any:  # noqa: ANN401 - whatever a user gives
    """Content of a file; anything else is taken as it is."""
    return as_reference(value, parameter) if isinstance(value, (str, PathLike)) else value


def _is_cube(ds: Exposure) -> TypeGuard[xr.Dataset]:
    return not isinstance(ds, Pieces) and "wave" in ds["sci"].dims


def _without(ds: Exposure, params: Parameters) -> Mapping[str, str]:
    if mode_of(ds).layout == "orders":
        return {}
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
    refs=("extract1d", "apcorr", "psf", "pastasoss", "specprofile", "speckernel"),
    without=_without,
    reads=("sci",),
    provides=("flux", "flux_error", "flux_error_cov"),
    traceable=True,
    planner=_plan,
    suffix="x1d",
    scope="slits",
)
def extract_1d(  # noqa: PLR0917 - three references for images, three for orders
    ds: Exposure,
    extract1d: xr.Dataset | None = None,
    apcorr: xr.Dataset | None = None,
    psf: xr.Dataset | None = None,
    pastasoss: xr.Dataset | None = None,
    specprofile: xr.Dataset | None = None,
    speckernel: xr.Dataset | None = None,
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
    soss_atoca: bool = True,
    soss_threshold: Annotated[float, Range(0.0, 1.0)] = 1e-2,
    soss_n_os: Annotated[int, Range(1, 100)] = 2,
    soss_wave_grid_in: object = None,
    soss_wave_grid_out: str | None = None,
    soss_estimate: object = None,
    soss_rtol: Annotated[float, Range(0.0, 1.0)] = 1e-4,
    soss_max_grid_size: Annotated[int, Range(1, 1_000_000)] = 20000,
    soss_tikfac: Annotated[float, Range(0.0)] | None = None,
    soss_width: Annotated[float, Range(0.0, 256.0, above=True)] = 40.0,
    soss_bad_pix: Literal["model", "masking"] = "masking",
    soss_modelname: str | None = None,
    soss_order_3: bool = True,
    soss_masked_pixels: Literal["rescaled", "dropped"] = "rescaled",
    soss_criterion: Literal["evidence", "gcv", "official"] = "evidence",
    soss_official_model: bool = False,
    soss_fit_pwcpos: bool = False,
    soss_contaminants: object = None,
    soss_flicker: Annotated[float, Range(0.0, above=True)] | None = None,
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
    pastasoss, specprofile, speckernel : xarray.Dataset, optional
        SOSS, which needs them: traces and wavelengths; spatial profiles; spectral resolution.
    plan : ImagesPlan, CubeExtractionPlan or OrdersPlan
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
    soss_atoca : bool
        SOSS: subtract from every order the models of the others, found by a fit of all orders to
        the image (ATOCA, Darveau-Bernier et al. 2022, PASP 134, 094502).
    soss_threshold : float
        SOSS: pixels of which an order has more light than this may not lie beyond the wavelengths
        of one order and within the other.
    soss_n_os : int
        SOSS: nodes of the wavelength grid per pixel, at least.
    soss_wave_grid_in : str, xarray.Dataset or array, optional
        SOSS: wavelengths [um] of the grid, instead of one that is made.
    soss_wave_grid_out : str, optional
        SOSS: file to which the grid is written.
    soss_estimate : str, xarray.Dataset or array, optional
        SOSS: spectrum (wavelength [um], flux) by which the grid is made, instead of one from the
        image.
    soss_rtol : float
        SOSS: relative error of the integrals over pixels that the grid is refined to reach.
    soss_max_grid_size : int
        SOSS: nodes of the grid, at most.
    soss_tikfac : float, optional
        SOSS: how smooth the spectrum of orders 1 and 2 is (Tikhonov factor), instead of one that is
        found.
    soss_width : float
        SOSS: width of the apertures [pixel].
    soss_bad_pix : {"model", "masking"}
        SOSS: pixels that are bad in all integrations are replaced by the model, or do not count.
    soss_modelname : str, optional
        SOSS: name of the files with the models of the traces and the spectra of the fit.
    soss_order_3 : bool
        SOSS: extract order 3.
    soss_masked_pixels : {"rescaled", "dropped"}
        SOSS: whether the light of pixels that do not count is made up for by the profile of the
        order. "dropped" lets the flux become less, and replaces values that are missing in single
        integrations by those of their neighbours, as the JWST pipeline does.
    soss_criterion : {"evidence", "gcv", "official"}
        SOSS: how the smoothness of a spectrum is found: by what is most probable, by generalised
        cross validation, or as the JWST pipeline does, by the first of a list of factors from which
        on the fit becomes worse.
    soss_official_model : bool
        SOSS: make models as the JWST pipeline does. Its grid may have more nodes than
        `soss_max_grid_size`, its integrals at the ends of pixels are rough, its spectra of orders
        that are fitted alone are zero beyond the last pixel, noise is added to the mean from which
        the smoothness is found, and order 2 of SUBSTRIP96 has an aperture of all rows.
    soss_fit_pwcpos : bool
        SOSS: find the angle of the pupil wheel, and a shift of the traces across the dispersion,
        from the exposure; apertures, wavelengths and profiles are moved there.
    soss_contaminants : str, xarray.Dataset or array, optional
        SOSS: what field stars look like, such as their zeroth orders: images (star, y, x), or one
        (y, x), finite, in any unit; a file, whose extension SCI it is, or its content. How bright
        each is in each integration is fitted together with the orders, and its light subtracted.
        The result has the strengths, in units of the images, as ``contaminant_strength``
        (integration, contaminant), and standard errors, ``contaminant_error`` (contaminant).
    soss_flicker : float, optional
        SOSS: fit a constant of each column of each integration together with orders 1 and 2, and
        subtract it: 1/f noise, whose standard deviation [DN/s] this is. By default there is none.

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
    InputError
        If an image of `soss_contaminants` does not fit the exposure, or cannot be told from the
        orders and the other images.
    ParameterError
        If `soss_contaminants` or `soss_flicker` are given without `soss_atoca`.
    ReferenceError
        If a reference has no (or no usable) entry for this slit or subarray.
    """
    saved = (save_profile, save_scene_model, save_residual_image)
    extract: Mapping[str, Callable[..., xr.Dataset]] = {
        "images": functools.partial(extract_images, saved=saved),
        "cube": extract_cube,
        "orders": functools.partial(
            extract_orders,
            save_models=soss_modelname is not None,
            save_grid=soss_wave_grid_out is not None,
        ),
    }
    return extract[plan.extracts_from](ds, plan)

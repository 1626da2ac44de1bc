"""Extract a one-dimensional spectrum from a spectral image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import numpy as np

from spec2fn.compose import Skip, step
from spec2fn.dq import Pixel
from spec2fn.kernels.extraction import (
    Extraction,
    box_extract,
    common_variance,
    interpolate_correction,
    optimal_extract,
    subtracted_variance,
    weighted_variance,
)
from spec2fn.kernels.namespace import array_namespace, is_traced
from spec2fn.kernels.resampling import common_error
from spec2fn.parameters import Range
from spec2fn.plans.aperture import ApertureOptions
from spec2fn.plans.cube_spectra import extract_cube
from spec2fn.plans.extract_1d import ExtractionPlan, NothingToExtract, make_extraction_plan
from spec2fn.plans.extract_cube import CubeOptions, CubePlan, make_cube_plan
from spec2fn.plans.extract_slits import (
    ExtractionOptions,
    GroupPlan,
    SlitsPlan,
    make_slits_plan,
)
from spec2fn.plans.extraction_images import SavedImages, saved_images, unfold
from spec2fn.plans.spectra import join_spectra, slit_metadata
from spec2fn.plans.spectral_wcs import SpectralWcs, spectral_wcs
from spec2fn.schema import COMMON_ERROR, COMMON_SHARE, EXTRACTED, NOT_EXTRACTED, meta_of
from spec2fn.slits import Slits

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["extract_1d"]

_INTEGRAL_FIELD = ("MIR_MRS", "NRS_IFU")

VARIANCES = ("var_poisson", "var_rnoise", "var_flat")
PLANES = ("sci", "err", *VARIANCES, "dq")
# positions of the source that become columns of the table of spectra
POSITIONS = ("ta_xpos", "ta_ypos", "source_xpos", "source_ypos")
MEGA = 1.0e6


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
    if getattr(ds, "attrs", {}).get("exp_type") in _INTEGRAL_FIELD:
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


@step(
    refs=("extract1d", "apcorr", "psf"),
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
    plan: ExtractionPlan | SlitsPlan | CubePlan,
    subtract_background: bool | None = None,
    apply_apcorr: bool = True,
    extraction_type: Literal["box", "optimal"] | None = "box",
    use_source_posn: bool | None = None,
    position_offset: float = 0.0,
    model_nod_pair: bool = True,
    optimize_psf_location: bool = True,
    smoothing_length: int | None = None,
    bkg_fit: Literal["poly", "mean", "median"] | None = None,
    bkg_order: Annotated[int, Range(0)] | None = None,
    log_increment: int = 50,
    save_profile: bool = False,
    save_scene_model: bool = False,
    save_residual_image: bool = False,
    center_xy: tuple[float, float] | None = None,
    ifu_autocen: bool = False,
    bkg_sigma_clip: Annotated[float, Range(0)] = 3.0,
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
        return extract_cube(ds, plan)
    spectrum, columns = _spectrum(ds, plan, saved)
    out = _dataset(ds, plan, columns)
    if not is_traced(ds["sci"].data):
        out = _with_records(ds, out, plan, spectrum, saved)
    return out


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
        spectrum, columns = _spectrum(bucket, group, saved)
        parts.append(_slits_dataset(bucket, group, columns, plan.angle))
        if any(saved) and not is_traced(bucket["sci"].data):
            images |= _slit_images(bucket, group, spectrum, saved)
    out = join_spectra(parts)
    if is_traced(out["flux"].data):
        return out
    position = np.stack([out["slit_ra"].values, out["slit_dec"].values], axis=1)
    wcs = SpectralWcs(out["sltname"].values, position, np.asarray(out["wavelength"].data))
    records = dict(images)
    if plan.problems:
        records[NOT_EXTRACTED] = dict(plan.problems)
    return out.assign_attrs(meta=meta_of(buckets[0]).replace(wcs=wcs, records=records))


def _spectrum(
    ds: xr.Dataset, plan: ExtractionPlan | GroupPlan, saved: tuple[bool, bool, bool]
) -> tuple[Extraction, dict[str, Any]]:
    """Extract; the spectrum in data units, and its columns in their final units."""
    data, good, variances = _inputs(ds, plan)
    total = sum(variances.values())
    spectrum = _extract(plan, data, good, scene=any(saved[1:]))
    true, covariance = _covariance(ds, plan, total)
    scale = _scale(ds, plan, spectrum.flux.ndim)
    columns = _columns(plan, spectrum, variances, scale.bright)
    squared = subtracted_variance(spectrum.weights, spectrum.fitted, good, true, covariance)
    common = _common_error(ds, plan, data)
    if common is not None:
        squared = squared + common_variance(spectrum.weights, spectrum.fitted, common)
    columns["flux_error_cov"] = (squared, "error")
    return spectrum, _calibrate(plan, columns, spectrum.npixels, scale)


def _bad_pixels(ds: xr.Dataset) -> Any:
    """Pixels that any plane or the data quality marks as unusable."""
    sci = ds["sci"]
    planes = {n: ds[n].data for n in PLANES if n in ds and ds[n].dims == sci.dims}
    xp = array_namespace(*planes.values())
    bad = ~xp.isfinite(planes.pop("sci"))
    dq = planes.pop("dq", None)
    for value in planes.values():
        bad = bad | ~xp.isfinite(value)
    if dq is not None:
        bad = bad | ((dq & xp.asarray(int(Pixel.DO_NOT_USE), dtype=dq.dtype)) != 0)
    return bad


def _first_integration(ds: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Data and read-noise variance (y, x) of the first integration, NaN at bad pixels."""
    first = ds.isel(integration=0) if "integration" in ds["sci"].dims else ds
    bad = np.asarray(_bad_pixels(first))
    sci = np.where(bad, np.nan, np.asarray(first["sci"].values, dtype=float))
    noise = np.zeros_like(sci)
    if "var_rnoise" in first:
        noise = np.asarray(first["var_rnoise"].values, dtype=float)
    return sci, np.where(bad, np.nan, noise)


def _oriented(array: Any, plan: ExtractionPlan | GroupPlan) -> Any:
    """Cut the window and put the dispersion before the cross-dispersion."""
    y0, y1, x0, x1 = plan.window
    part = array[..., y0:y1, x0:x1]
    return array_namespace(part).swapaxes(part, -1, -2) if plan.dispaxis == 1 else part


def _inputs(ds: xr.Dataset, plan: ExtractionPlan | GroupPlan) -> tuple[Any, Any, dict[str, Any]]:
    """Data, good pixels and variances in the window, float64 and finite where good."""
    dims = ds["sci"].dims
    y0, y1, x0, x1 = plan.window
    window = {"y": slice(y0, y1), "x": slice(x0, x1)}
    part = ds[[n for n in PLANES if n in ds and ds[n].dims == dims]].isel(window)
    bad = _bad_pixels(part)
    xp = array_namespace(bad)
    flip = plan.dispaxis == 1

    def plane(name: str) -> Any:
        value = part[name].data
        value = xp.where(bad, xp.zeros_like(value), value).astype(np.float64)
        return xp.swapaxes(value, -1, -2) if flip else value

    good = ~(xp.swapaxes(bad, -1, -2) if flip else bad)
    data = plane("sci")
    zero = xp.zeros_like(data)
    variances = {n: plane(n) if n in part else zero for n in VARIANCES}
    return data, good, variances


def _aligned(array: Any, ndim: int, plan: ExtractionPlan | GroupPlan) -> Any:
    """Give an array of a plan the dimensions of the data: 1 for integrations."""
    if array is None:
        return None
    missing = (1,) * (ndim - array.ndim)
    if isinstance(plan, GroupPlan):
        return array.reshape((array.shape[0], *missing, *array.shape[1:]))
    return array.reshape((*missing, *array.shape))


def _extract(plan: ExtractionPlan | GroupPlan, data: Any, good: Any, *, scene: bool) -> Extraction:
    def like_data(array: Any) -> Any:
        return _aligned(array, data.ndim, plan)

    weights, region = like_data(plan.weights), like_data(plan.region)
    if not plan.optimal:
        return box_extract(
            data,
            good,
            weights,
            region,
            basis=plan.basis,
            smoothing_length=plan.smoothing_length,
            scene=scene,
        )
    profiles = [weights] + ([] if plan.nod_weights is None else [like_data(plan.nod_weights)])
    return optimal_extract(data, good, profiles, plan.basis, region)


def _covariance(
    ds: xr.Dataset, plan: ExtractionPlan | GroupPlan, total: Any
) -> tuple[Any, list[Any]]:
    """True variance of each pixel and its covariance with the next ones across the trace."""
    if "variance_cov" not in ds or "covariance" not in ds:
        return total, []
    xp = array_namespace(total)
    lead = ds["sci"].dims[:-2]

    def plane(var: Any) -> Any:
        value = _oriented(var.data, plan).astype(np.float64)
        # the planes may be the same for all integrations
        sizes = iter(value.shape[:-2])
        shape = tuple(next(sizes) if d in var.dims else 1 for d in lead)
        return value.reshape(shape + value.shape[-2:])

    true = plane(ds["variance_cov"])
    true = xp.where(xp.isfinite(true), true, xp.zeros_like(true))
    var = ds["covariance"]
    return true, [plane(var.isel(lag=k)) for k in range(var.sizes["lag"])]


def _common_error(ds: xr.Dataset, plan: ExtractionPlan | GroupPlan, data: Any) -> Any:
    """Standard error that the pixels of a dispersion element have in common, or None."""
    xp = array_namespace(data)
    if COMMON_ERROR in ds:
        value = _oriented(ds[COMMON_ERROR].data, plan).astype(np.float64)
    elif COMMON_SHARE in ds and "var_poisson" in ds:
        planes = (_oriented(ds[n].data, plan) for n in (COMMON_SHARE, "var_poisson"))
        value = common_error(*planes).astype(np.float64)
    else:
        return None
    return xp.where(xp.isfinite(value), value, xp.zeros_like(value))


def _columns(
    plan: ExtractionPlan | GroupPlan,
    spectrum: Extraction,
    variances: dict[str, Any],
    bright: Any,
) -> dict[str, tuple[Any, str]]:
    """Columns in data units, with the kind of scaling each needs."""
    xp = array_namespace(spectrum.flux)
    flux = spectrum.flux
    pixels = xp.where(spectrum.npixels > 0, spectrum.npixels, xp.ones_like(spectrum.npixels))
    columns: dict[str, tuple[Any, str]] = {"flux": (flux, "value")}
    zero = xp.zeros_like(flux)

    def where_bright(value: Any) -> Any:
        if isinstance(bright, bool):
            return value if bright else zero
        return xp.where(bright, value, zero)

    columns["surf_bright"] = (where_bright(flux / pixels), "sb")
    columns["background"] = (spectrum.background / pixels, "bkg")
    for name, variance in variances.items():
        kind = name.removeprefix("var_")
        below = sum((weighted_variance(w, variance) for w in spectrum.bkg_variance_weights), zero)
        own = sum((weighted_variance(w, variance) for w in spectrum.variance_weights), zero)
        if spectrum.bkg_less is not None:
            less = weighted_variance(spectrum.bkg_less, variance)
            below = xp.maximum(below - less, zero)
        columns[f"flux_var_{kind}"] = (own, "variance")
        squared = pixels * pixels
        columns[f"sb_var_{kind}"] = (where_bright(own / squared), "sb_variance")
        columns[f"bkgd_var_{kind}"] = (below / squared, "bkg_variance")
    return columns


class _Scale(NamedTuple):
    """From data units to those of the table; arrays by slit if slits differ."""

    gain: Any
    per_area: Any
    bright: Any


def _scale(ds: xr.Dataset, plan: ExtractionPlan | GroupPlan, ndim: int) -> _Scale:
    area: Any = 1.0
    if plan.calibrated and "pixar_sr" in ds:
        area = ds["pixar_sr"].data
        xp = array_namespace(area)
        area = xp.where(xp.isfinite(area), area, xp.ones_like(area))
    if isinstance(plan, ExtractionPlan):
        gain: Any = 1.0
        if plan.calibrated:
            gain = MEGA if plan.integrated else area * MEGA
        per_area = 1.0 / area if plan.integrated else 1.0
        return _Scale(gain, per_area, not (plan.optimal or plan.integrated))
    xp = array_namespace(area, plan.integrated)
    integrated = xp.asarray(plan.integrated).reshape((-1,) + (1,) * (ndim - 1))
    area = xp.broadcast_to(xp.asarray(area), plan.integrated.shape).reshape(integrated.shape)
    unit = xp.ones_like(area)
    gain = xp.where(integrated, unit, area) * MEGA if plan.calibrated else unit
    per_area = xp.where(integrated, 1.0 / area, unit)
    return _Scale(gain, per_area, False if plan.optimal else ~integrated)


def _rows(value: Any, plan: ExtractionPlan | GroupPlan) -> Any:
    """Dispersion elements that have a wavelength; 0 beyond the end of a spectrum."""
    if isinstance(plan, ExtractionPlan):
        return value[..., plan.rows]
    xp = array_namespace(value, plan.rows)
    rows, valid = (_aligned(a, value.ndim, plan) for a in (plan.rows, plan.valid))
    picked = xp.take_along_axis(value, xp.asarray(rows), axis=-1)
    return xp.where(valid, picked, xp.zeros_like(picked))


def _calibrate(
    plan: ExtractionPlan | GroupPlan,
    columns: dict[str, tuple[Any, str]],
    npixels: Any,
    scale: _Scale,
) -> dict[str, Any]:
    """Columns in their final units, aperture correction applied, rows with a wavelength only."""
    xp = array_namespace(npixels)
    count = _rows(npixels, plan)
    gain, per_area = scale.gain, scale.per_area
    correction: Any = 1.0
    if plan.apcorr_table is not None:
        sizes, table = plan.apcorr_sizes, plan.apcorr_table
        if isinstance(plan, GroupPlan):
            sizes, table = (_aligned(a, count.ndim + 1, plan) for a in (sizes, table))
        correction = interpolate_correction(count, sizes, table)
    factor = {
        "value": gain * correction,
        "variance": gain * gain * correction * correction,
        "error": gain * gain * correction * correction,
        "sb": correction,
        "sb_variance": correction * correction,
        "bkg": per_area,
        "bkg_variance": per_area * per_area,
    }
    out = {name: _rows(value, plan) * factor[kind] for name, (value, kind) in columns.items()}
    out["flux_error_cov"] = _root(out["flux_error_cov"])
    for prefix, error in (("flux", "flux_error"), ("sb", "sb_error"), ("bkgd", "bkgd_error")):
        out[error] = _root(sum(out[f"{prefix}_{name}"] for name in VARIANCES))
    out["npixels"] = count
    # NaN comes last, after the units: NaN times a factor has no derivative
    empty = xp.full_like(count, xp.nan)
    lost = xp.isclose(count, xp.zeros_like(count))
    out["flux"] = xp.where(lost, empty, out["flux"])
    out["surf_bright"] = xp.where(lost & scale.bright, empty, out["surf_bright"])
    unusable = xp.asarray(int(Pixel.DO_NOT_USE), dtype=np.uint32)
    nothing = xp.isnan(out["flux"])
    if isinstance(plan, GroupPlan):
        valid = _aligned(plan.valid, count.ndim, plan)
        nothing = nothing & valid
        out = {n: xp.where(valid, v, empty) for n, v in out.items()}
    return {**out, "dq": xp.where(nothing, unusable, xp.zeros_like(unusable))}


def _root(variance: Any) -> Any:
    # the derivative of sqrt is infinite at zero, where the error is exactly zero
    xp = array_namespace(variance)
    positive = variance > 0
    return xp.where(
        positive,
        xp.sqrt(xp.where(positive, variance, xp.ones_like(variance))),
        xp.zeros_like(variance),
    )


def _dataset(ds: xr.Dataset, plan: ExtractionPlan, columns: dict[str, Any]) -> xr.Dataset:
    """Put the columns into a Dataset, in the order of the table, with their units."""
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
    for name in POSITIONS:
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


def _slits_dataset(
    ds: xr.Dataset, plan: GroupPlan, columns: dict[str, Any], angle: np.ndarray | None
) -> xr.Dataset:
    """Put the columns of slits into a Dataset: dims ([integration,] spectrum, wave)."""
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


def _with_records(
    ds: xr.Dataset,
    out: xr.Dataset,
    plan: ExtractionPlan,
    spectrum: Extraction,
    wanted: tuple[bool, bool, bool],
) -> xr.Dataset:
    """Attach the WCS of the spectrum and the images the user asked for."""
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
    records = saved_images(ds, images, np.asarray(_bad_pixels(ds)), wanted)
    wcs = spectral_wcs(ra, dec, np.asarray(plan.wavelength))
    return out.assign_attrs(meta=meta_of(ds).replace(wcs={plan.slit_name: wcs}, records=records))


def _slit_images(
    ds: xr.Dataset, plan: GroupPlan, spectrum: Extraction, wanted: tuple[bool, bool, bool]
) -> dict[str, Any]:
    """The images the user asked for, named by the slits."""
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
            np.asarray(_bad_pixels(one)),
            wanted,
            f"{name.lower()}_",
        )
    return records

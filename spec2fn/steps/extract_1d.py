"""Extract a one-dimensional spectrum from a spectral image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np

from spec2fn.compose import Skip, step
from spec2fn.dq import Pixel
from spec2fn.kernels.extraction import (
    Extraction,
    box_extract,
    interpolate_correction,
    optimal_extract,
    subtracted_variance,
    weighted_variance,
)
from spec2fn.kernels.namespace import array_namespace, is_traced
from spec2fn.parameters import Range
from spec2fn.plans.aperture import ApertureOptions
from spec2fn.plans.extract_1d import ExtractionPlan, NothingToExtract, make_extraction_plan
from spec2fn.plans.spectral_wcs import spectral_wcs
from spec2fn.schema import EXTRACTED, meta_of

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["extract_1d"]

VARIANCES = ("var_poisson", "var_rnoise", "var_flat")
PLANES = ("sci", "err", *VARIANCES, "dq")
# positions of the source that become columns of the table of spectra
POSITIONS = ("ta_xpos", "ta_ypos", "source_xpos", "source_ypos")
MEGA = 1.0e6


def _plan(
    ds: xr.Dataset,
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
) -> ExtractionPlan | Skip:
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
    plan = make_extraction_plan(
        ds,
        extract1d,
        apcorr,
        psf,
        options=options,
        images=lambda: _first_integration(ds),
        apply_apcorr=apply_apcorr,
        model_nod_pair=model_nod_pair,
        optimize_psf_location=optimize_psf_location,
        full_window=save_scene_model or save_residual_image,
    )
    return Skip(plan.reason) if isinstance(plan, NothingToExtract) else plan


@step(
    refs=("extract1d", "apcorr", "psf"),
    reads=("sci",),
    provides=("flux", "flux_error", "flux_error_cov"),
    traceable=True,
    planner=_plan,
    suffix="x1d",
)
def extract_1d(
    ds: xr.Dataset,
    extract1d: xr.Dataset | None = None,
    apcorr: xr.Dataset | None = None,
    psf: xr.Dataset | None = None,
    *,
    plan: ExtractionPlan,
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
) -> xr.Dataset:
    """Sum (or fit) the source's spectrum at every dispersion element, for every integration.

    The algorithm is that of the JWST pipeline documentation
    (https://jwst-pipeline.readthedocs.io, "Extraction for 2D slit data"): an aperture from the
    ``extract1d`` reference, moved to the source; a background fitted across the trace in regions
    the reference gives; box or profile-fitting extraction; an aperture correction.

    Parameters
    ----------
    ds : xarray.Dataset
        ``sci``, ``var_*`` and optionally ``err``, ``dq`` with dims ([integration,] y, x),
        ``wavelength`` (y, x) [um]; optionally ``variance_cov`` and ``covariance`` (lag, y, x)
        of a resampled image.
    extract1d, apcorr, psf : xarray.Dataset, optional
        Apertures; aperture correction; PSF profile (needed for optimal extraction).
    plan : ExtractionPlan
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

    Returns
    -------
    xarray.Dataset
        Variables of :data:`spec2fn.schema.EXTRACTED`, float64 (``dq`` uint32) with dims
        ([integration,] spectrum, wave), fluxes in Jy; ``wavelength`` and ``n_wave`` without
        the integration. ``flux_error`` is the square root of the sum of the variance columns, in
        which a background enters as if it were measured on other pixels; ``flux_error_cov`` is
        the error of the whole linear operator on the image, correlations included.

    Raises
    ------
    ReferenceError
        If a reference has no (or no usable) entry for this slit or subarray.
    """
    data, good, variances = _inputs(ds, plan)
    total = sum(variances.values())
    spectrum = _extract(plan, data, good, scene=save_scene_model or save_residual_image)
    true, covariance = _covariance(ds, plan, total)
    columns = _columns(ds, plan, spectrum, variances)
    columns["flux_error_cov"] = (
        subtracted_variance(spectrum.weights, spectrum.fitted, good, true, covariance),
        "error",
    )
    out = _dataset(ds, plan, _calibrate(ds, plan, columns, spectrum.npixels))
    if not is_traced(ds["sci"].data):
        out = _with_records(
            ds, out, plan, spectrum, (save_profile, save_scene_model, save_residual_image)
        )
    return out


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


def _oriented(array: Any, plan: ExtractionPlan) -> Any:
    """Cut the window and put the dispersion before the cross-dispersion."""
    y0, y1, x0, x1 = plan.window
    part = array[..., y0:y1, x0:x1]
    return array_namespace(part).swapaxes(part, -1, -2) if plan.dispaxis == 1 else part


def _inputs(ds: xr.Dataset, plan: ExtractionPlan) -> tuple[Any, Any, dict[str, Any]]:
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


def _extract(plan: ExtractionPlan, data: Any, good: Any, *, scene: bool) -> Extraction:
    def like_data(array: Any) -> Any:
        # same number of dimensions as the data, leading ones of length 1
        return None if array is None else array.reshape((1,) * (data.ndim - 2) + array.shape)

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


def _covariance(ds: xr.Dataset, plan: ExtractionPlan, total: Any) -> tuple[Any, list[Any]]:
    """True variance of each pixel and its covariance with the next ones across the trace."""
    if "variance_cov" not in ds or "covariance" not in ds:
        return total, []
    xp = array_namespace(total)
    true = _oriented(ds["variance_cov"].data, plan).astype(np.float64)
    var = ds["covariance"]
    lags = [
        _oriented(var.isel(lag=k).data, plan).astype(np.float64) for k in range(var.sizes["lag"])
    ]
    true = xp.where(xp.isfinite(true), true, xp.zeros_like(true))
    shape = (1,) * (total.ndim - true.ndim)
    return true.reshape(shape + true.shape), [
        plane.reshape((1,) * (total.ndim - plane.ndim) + plane.shape) for plane in lags
    ]


def _columns(
    ds: xr.Dataset, plan: ExtractionPlan, spectrum: Extraction, variances: dict[str, Any]
) -> dict[str, tuple[Any, str]]:
    """Columns in data units, with the kind of scaling each needs."""
    xp = array_namespace(spectrum.flux)
    missing = xp.isclose(spectrum.npixels, xp.zeros_like(spectrum.npixels))
    flux = xp.where(missing, xp.full_like(spectrum.flux, xp.nan), spectrum.flux)
    pixels = xp.where(spectrum.npixels > 0, spectrum.npixels, xp.ones_like(spectrum.npixels))
    columns: dict[str, tuple[Any, str]] = {"flux": (flux, "value")}
    zero = xp.zeros_like(flux)
    bright = not (plan.optimal or plan.integrated)
    columns["surf_bright"] = (flux / pixels if bright else zero, "sb")
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
        columns[f"sb_var_{kind}"] = (own / squared if bright else zero, "sb_variance")
        columns[f"bkgd_var_{kind}"] = (below / squared, "bkg_variance")
    return columns


def _calibrate(
    ds: xr.Dataset, plan: ExtractionPlan, columns: dict[str, tuple[Any, str]], npixels: Any
) -> dict[str, Any]:
    """Columns in their final units, aperture correction applied, rows with a wavelength only."""
    xp = array_namespace(npixels)
    rows = plan.rows
    count = npixels[..., rows]
    area: Any = 1.0
    if plan.calibrated and "pixar_sr" in ds:
        area = ds["pixar_sr"].data
        area = xp.where(xp.isfinite(area), area, xp.ones_like(area))
    gain: Any = 1.0
    if plan.calibrated:
        gain = MEGA if plan.integrated else area * MEGA
    per_area = 1.0 / area if plan.integrated else 1.0
    correction: Any = 1.0
    if plan.apcorr_table is not None:
        correction = interpolate_correction(count, plan.apcorr_sizes, plan.apcorr_table)
    scale = {
        "value": gain * correction,
        "variance": gain * gain * correction * correction,
        "error": gain * gain * correction * correction,
        "sb": correction,
        "sb_variance": correction * correction,
        "bkg": per_area,
        "bkg_variance": per_area * per_area,
    }
    out = {name: value[..., rows] * scale[kind] for name, (value, kind) in columns.items()}
    out["flux_error_cov"] = _root(out["flux_error_cov"])
    for prefix, error in (("flux", "flux_error"), ("sb", "sb_error"), ("bkgd", "bkgd_error")):
        out[error] = _root(sum(out[f"{prefix}_{name}"] for name in VARIANCES))
    out["npixels"] = count
    unusable = xp.asarray(int(Pixel.DO_NOT_USE), dtype=np.uint32)
    out["dq"] = xp.where(xp.isnan(out["flux"]), unusable, xp.zeros_like(unusable))
    return out


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
    meta = meta_of(ds)
    ra, dec = (float(v) for v in plan.position)
    records: dict[str, Any] = {}
    lead = ds["sci"].dims[:-2]
    profile, scene, residual = wanted
    if profile:
        weights = np.array(plan.weights)
        if plan.nod_weights is not None:
            weights = weights + plan.nod_weights
        records["profile"] = _image(ds, _whole(weights, plan), ("y", "x"), "")
    if scene or residual:
        model = _whole(np.asarray(spectrum.scene), plan)
        units = str(ds["sci"].attrs.get("units", ""))
        if scene:
            records["scene_model"] = _image(ds, model, (*lead, "y", "x"), units)
        if residual:
            bad = np.asarray(_bad_pixels(ds))
            left = np.where(bad, np.nan, np.asarray(ds["sci"].data, dtype=float)) - model
            records["residual"] = _image(ds, left, (*lead, "y", "x"), units)
    wcs = spectral_wcs(ra, dec, np.asarray(plan.wavelength))
    return out.assign_attrs(meta=meta.replace(wcs={plan.slit_name: wcs}, records=records))


def _whole(image: np.ndarray, plan: ExtractionPlan) -> np.ndarray:
    """Put an oriented window back into an image of the exposure's shape, zero elsewhere."""
    y0, y1, x0, x1 = plan.window
    full = np.zeros((*image.shape[:-2], *plan.shape))
    full[..., y0:y1, x0:x1] = np.swapaxes(image, -1, -2) if plan.dispaxis == 1 else image
    return full


def _image(ds: xr.Dataset, data: np.ndarray, dims: tuple[Any, ...], units: str) -> xr.Dataset:
    import xarray as xr

    kind = "CubeModel" if len(dims) == 3 else "ImageModel"
    attrs = {"units": units} if units else {}
    out = xr.Dataset({"sci": (dims, data.astype(np.float32), attrs)}, attrs=ds.attrs)
    return out.assign_attrs(model=kind)

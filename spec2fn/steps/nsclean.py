"""Subtraction of the 1/f noise of the NIRSpec detectors."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np

from spec2fn.engine.step import PLANNED, Skip, as_reference, step
from spec2fn.errors import DatasetError, ReferenceError
from spec2fn.kernels.namespace import is_jax
from spec2fn.modes import mode_of
from spec2fn.parameters import Parameters, Range
from spec2fn.plans.background.nsclean import NscleanPlan, filled_flat, flicker_noise, make_plan
from spec2fn.schema import replace_data, with_meta
from spec2fn.subarray import subarray_slices
from spec2fn.typing import Array, Arrays, HostArray

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["nsclean", "plan_nsclean"]


def plan_nsclean(
    ds: xr.Dataset, flat: xr.Dataset | None = None, *, params: Parameters
) -> NscleanPlan | Skip:
    """Find the pixels without light from the sky; see :func:`nsclean`."""
    mode = mode_of(ds)
    if mode.instrument != "NIRSPEC" or mode.lamp:
        return Skip(f"1/f noise is not corrected in exposures of type {mode.exp_type}")
    integrations = 1 if ds["sci"].ndim == 2 else ds["sci"].shape[0]
    if params.background_method == "median_image" and integrations < 2:
        return Skip("background_method='median_image' needs more than one integration")
    given = None if params.user_mask is None else _given_mask(ds, params.user_mask)
    divisor = _flat_image(ds, flat) if params.apply_flat_field else None
    return make_plan(ds, divisor, given, params)


def _given_mask(ds: xr.Dataset, user_mask: object) -> HostArray:
    opened = as_reference(user_mask, "mask")
    if opened is None or "sci" not in opened:
        msg = f"nsclean: user_mask needs an image 'sci', which {user_mask!s:.200} does not hold"
        raise DatasetError(msg)
    mask = np.asarray(opened["sci"].values) != 0
    shape = ds["sci"].shape
    if mask.shape not in (shape, shape[-2:]):
        msg = f"nsclean: user_mask is {mask.shape} but 'sci' is {shape}; the last two must agree"
        raise DatasetError(msg)
    return mask


def _flat_image(ds: xr.Dataset, flat: xr.Dataset | None) -> HostArray:
    if flat is None:
        msg = (
            "nsclean: apply_flat_field needs a two-dimensional flat, and CRDS has none for"
            f" {ds.attrs.get('exp_type')}; pass flat=…, or set apply_flat_field=False"
        )
        raise ReferenceError(msg)
    rows, columns = subarray_slices(flat, ds, "nsclean", "flat")
    return filled_flat(flat["sci"].values[rows, columns])


def _chunkable(params: Parameters) -> bool:
    # what is kept must be that of the whole exposure
    together = ("single_mask", "save_mask", "save_background", "save_noise")
    by_median = params.background_method == "median_image"
    return not (by_median or params.user_mask is not None or any(params[n] for n in together))


@step(
    refs=("flat",),
    reads=("sci", "dq"),
    traceable=True,
    planner=plan_nsclean,
    skip=True,
    chunkable=_chunkable,
    aliases=("clean_flicker_noise",),
)
def nsclean(
    ds: xr.Dataset,
    flat: xr.Dataset | None = None,
    *,
    plan: NscleanPlan = PLANNED,
    fit_method: Literal["fft", "median"] = "fft",
    fit_by_channel: bool = False,
    background_method: Literal["median", "model", "median_image"] | None = None,
    background_box_size: tuple[Annotated[int, Range(1)], Annotated[int, Range(1)]] | None = None,
    mask_spectral_regions: bool = True,
    mask_science_regions: bool | None = None,
    n_sigma: Annotated[float, Range(0.0)] = 5.0,
    fit_histogram: bool = False,
    single_mask: bool = False,
    user_mask: object = None,
    save_mask: bool = False,
    save_background: bool = False,
    save_noise: bool = False,
    apply_flat_field: bool = False,
    autoparam: bool = False,
    centred_kernels: bool = False,
) -> xr.Dataset:
    """Fit the 1/f noise of the detector to pixels without light, and subtract it everywhere.

    Inside a JAX transformation the noise is fitted on the host and taken as constant: the
    derivative of the result with respect to ``sci`` is one.

    Parameters
    ----------
    ds : xarray.Dataset
        Exposure, (y, x) or (integration, y, x), with ``sci`` [DN/s], ``dq``; after `assign_wcs`
        (and `msaflagopen` for the MSA) unless `mask_spectral_regions` is off.
    flat : xarray.Dataset, optional
        Flat for `apply_flat_field`; CRDS has none for NIRSpec spectra.
    plan : NscleanPlan
        Pixels without light, made by :func:`plan_nsclean`.
    fit_method : {"fft", "median"}
        ``fft``: the lowest harmonics of every detector line (full frame), or the lowest and
        highest frequencies in the order of the readout (subarrays), by weighted least squares;
        ``median``: the median of every line.
    fit_by_channel : bool
        Take the median for each of the four amplifiers; full frames and ``median`` only.
    background_method : {"median", "model", "median_image"}, optional
        What is subtracted for the fit and put back: nothing, the median of the background pixels,
        a smooth mesh of medians, or the median over integrations scaled by the brightness of
        each.
    background_box_size : (int, int), optional
        Rows and columns of a box of the mesh; by default at most 32 x 32 that divide the image.
    mask_spectral_regions : bool
        Leave out the bounding boxes of the slits (or the slices of the IFU), shutters that are
        stuck open, and the fixed slits in MOS (without fixed slits) and IFU exposures.
    mask_science_regions : bool, optional
        The same by its newer name; has precedence if given.
    n_sigma : float
        Pixels more than this many standard deviations above the background are left out, as are
        outliers about a fitted background; 0 keeps all.
    fit_histogram : bool
        Take centre and width of the background from a Gaussian fitted to the histogram.
    single_mask : bool
        Use only pixels that are background in every integration.
    user_mask : str, xarray.Dataset or array, optional
        Mask to use instead, (y, x) or (integration, y, x): background where it is not zero.
    save_mask, save_background, save_noise : bool
        Keep the mask, the background and the noise as Datasets in ``ds.attrs["meta"].records``
        under ``"nsclean_mask"``, ``"nsclean_background"``, ``"nsclean_noise"`` (not inside a JAX
        transformation).
    apply_flat_field : bool
        Divide by `flat` before the fit and multiply afterwards.
    autoparam : bool
        Accepted for compatibility: there are automatic parameters for images alone, so that
        nothing changes for spectra.
    centred_kernels : bool
        Full frames and ``fft``: centre the kernels of the published code, which correct each line
        with the noise of its predecessor. False reproduces it.

    Returns
    -------
    xarray.Dataset
        With ``sci`` replaced; its errors stay as they were. Integrations without usable pixels are
        not changed. Skipped for exposures other than NIRSpec spectra.

    Raises
    ------
    DatasetError
        If the slits are not known, or a mask does not have the shape of the exposure.
    ReferenceError
        If `apply_flat_field` is on without a flat.

    Notes
    -----
    Algorithm: B. J. Rauscher 2024, PASP 136, 015001 (NSClean), and the flicker noise step of the
    JWST calibration pipeline (https://jwst-pipeline.readthedocs.io). With ``median_image`` the
    brightness of an integration is the factor by which the median image fits it best in the
    bounding boxes of the slits (there: a white-light curve of extracted spectra).
    """
    sci = ds["sci"].data
    if is_jax(sci) or is_jax(plan.dark):  # the plan alone is traced if another exposure is
        return replace_data(ds, sci=sci - _constant_noise(sci, plan))
    noise, background, mask = flicker_noise(np.asarray(sci), plan)
    out = replace_data(ds, sci=sci - noise)
    kept = {
        "nsclean_mask": mask.astype(np.float32) if save_mask else None,
        "nsclean_background": background if save_background else None,
        # the sign of the difference between output and input
        "nsclean_noise": -noise if save_noise else None,
    }
    records = {name: _as_image(ds, data) for name, data in kept.items() if data is not None}
    return with_meta(out, records=records) if records else out


def _constant_noise(sci: Array, plan: NscleanPlan) -> Array:
    import jax

    def fit(image: Array, arrays: Arrays) -> Array:
        host: dict[str, Any] = {name: np.asarray(a) for name, a in arrays.items()}
        return flicker_noise(np.asarray(image), replace(plan, **host))[0]

    shape = jax.ShapeDtypeStruct(sci.shape, sci.dtype)
    constant = jax.lax.stop_gradient(jax.numpy.asarray(sci))
    arrays = {name: a for name in plan.declared if (a := getattr(plan, name)) is not None}
    return jax.pure_callback(fit, shape, constant, arrays, vmap_method="sequential")


def _as_image(ds: xr.Dataset, data: HostArray) -> xr.Dataset:
    import xarray as xr

    dims = ds["sci"].dims[-data.ndim :]
    keep = {k: v for k, v in ds.attrs.items() if not k.startswith("status_")}
    model = "ImageModel" if data.ndim == 2 else "CubeModel"
    return xr.Dataset({"sci": (dims, data, dict(ds["sci"].attrs))}, attrs={**keep, "model": model})

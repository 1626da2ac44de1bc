"""Extract the spectra of overlapping orders of one source: NIRISS SOSS."""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np

from spec2fn.engine.step import PLANNED, Skip, as_reference, step
from spec2fn.errors import DatasetError, InputError
from spec2fn.modes import mode_of
from spec2fn.parameters import Parameters, Range
from spec2fn.plans.extraction.extract_orders import Given, OrdersPlan, plan_orders
from spec2fn.spectra.order_spectra import extract_orders
from spec2fn.typing import HostArray

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["extract_soss"]


def _plan(
    ds: xr.Dataset,
    pastasoss: xr.Dataset | None,
    specprofile: xr.Dataset | None,
    speckernel: xr.Dataset | None,
    *,
    params: Parameters,
) -> OrdersPlan | Skip:
    mode = mode_of(ds)
    if mode.layout != "orders":
        msg = (
            f"extract_1d: EXP_TYPE {mode.exp_type or 'unknown'} has no overlapping orders; use"
            " spec2fn.steps.extract_1d"
        )
        raise DatasetError(msg)
    orders = plan_orders(ds, (pastasoss, specprofile, speckernel), params, _given_by_user(params))
    return Skip(orders) if isinstance(orders, str) else orders


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


@step(
    name="extract_1d",
    refs=("pastasoss", "specprofile", "speckernel"),
    reads=("sci",),
    provides=("flux", "flux_error", "flux_error_cov"),
    traceable=True,
    planner=_plan,
    suffix="x1d",
)
def extract_soss(
    ds: xr.Dataset,
    pastasoss: xr.Dataset | None = None,
    specprofile: xr.Dataset | None = None,
    speckernel: xr.Dataset | None = None,
    *,
    plan: OrdersPlan = PLANNED,
    subtract_background: bool | None = None,
    extraction_type: Literal["box", "optimal"] | None = "box",
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
    """Tell overlapping orders apart, and sum the spectrum of each, for every integration.

    In pipelines it is the step ``extract_1d`` of its mode.

    Parameters
    ----------
    ds : xarray.Dataset
        ``sci``, ``err``, ``var_*``, ``dq`` with dims ([integration,] y, x) [DN/s].
    pastasoss, specprofile, speckernel : xarray.Dataset
        Traces and wavelengths; spatial profiles; spectral resolution.
    plan : OrdersPlan
        Apertures, wavelengths and models as arrays.
    subtract_background : bool, optional
        Subtract the mean of each column outside of the traces; by default it is not.
    extraction_type : {"box", "optimal"}, optional
        Sum a box, or weigh pixels by the profile of the order; None stands for "box".
    soss_atoca : bool
        Subtract from every order the models of the others, found by a fit of all orders to
        the image (ATOCA, Darveau-Bernier et al. 2022, PASP 134, 094502).
    soss_threshold : float
        Pixels of which an order has more light than this may not lie beyond the wavelengths
        of one order and within the other.
    soss_n_os : int
        Nodes of the wavelength grid per pixel, at least.
    soss_wave_grid_in : str, xarray.Dataset or array, optional
        Wavelengths [um] of the grid, instead of one that is made.
    soss_wave_grid_out : str, optional
        File to which the grid is written.
    soss_estimate : str, xarray.Dataset or array, optional
        Spectrum (wavelength [um], flux) by which the grid is made, instead of one from the
        image.
    soss_rtol : float
        Relative error of the integrals over pixels that the grid is refined to reach.
    soss_max_grid_size : int
        Nodes of the grid, at most.
    soss_tikfac : float, optional
        How smooth the spectrum of orders 1 and 2 is (Tikhonov factor), instead of one that is
        found.
    soss_width : float
        Width of the apertures [pixel].
    soss_bad_pix : {"model", "masking"}
        Pixels that are bad in all integrations are replaced by the model, or do not count.
    soss_modelname : str, optional
        Name of the files with the models of the traces and the spectra of the fit.
    soss_order_3 : bool
        Extract order 3.
    soss_masked_pixels : {"rescaled", "dropped"}
        Whether the light of pixels that do not count is made up for by the profile of the
        order. "dropped" lets the flux become less, and replaces values that are missing in single
        integrations by those of their neighbours, as the JWST pipeline does.
    soss_criterion : {"evidence", "gcv", "official"}
        How the smoothness of a spectrum is found: by what is most probable, by generalised
        cross validation, or as the JWST pipeline does, by the first of a list of factors from which
        on the fit becomes worse.
    soss_official_model : bool
        Make models as the JWST pipeline does. Its grid may have more nodes than
        `soss_max_grid_size`, its integrals at the ends of pixels are rough, its spectra of orders
        that are fitted alone are zero beyond the last pixel, noise is added to the mean from which
        the smoothness is found, and order 2 of SUBSTRIP96 has an aperture of all rows.
    soss_fit_pwcpos : bool
        Find the angle of the pupil wheel, and a shift of the traces across the dispersion,
        from the exposure; apertures, wavelengths and profiles are moved there.
    soss_contaminants : str, xarray.Dataset or array, optional
        What field stars look like, such as their zeroth orders: images (star, y, x), or one
        (y, x), finite, in any unit; a file, whose extension SCI it is, or its content. How bright
        each is in each integration is fitted together with the orders, and its light subtracted.
        The result has the strengths, in units of the images, as ``contaminant_strength``
        (integration, contaminant), and standard errors, ``contaminant_error`` (contaminant).
    soss_flicker : float, optional
        Fit a constant of each column of each integration together with orders 1 and 2, and
        subtract it: 1/f noise, whose standard deviation [DN/s] this is. By default there is none.

    Returns
    -------
    xarray.Dataset
        Variables of :data:`spec2fn.schema.EXTRACTED`, float64 (``dq`` uint32) with dims
        ([integration,] spectrum, wave), one spectrum for each order, fluxes in DN/s;
        ``wavelength`` and ``n_wave`` without the integration. ``flux_error_cov`` is the error of
        the whole linear operator on the image, the models of the other orders included. Skipped
        through filters and for subarrays whose orders cannot be told apart.

    Raises
    ------
    DatasetError
        If the exposure has no overlapping orders.
    InputError
        If an image of `soss_contaminants` does not fit the exposure, or cannot be told from the
        orders and the other images.
    ParameterError
        If `soss_contaminants` or `soss_flicker` are given without `soss_atoca`.
    ReferenceError
        If a reference is missing, or has no usable entry for this subarray.

    Notes
    -----
    Algorithm: JWST pipeline documentation, extract_1d step ("Extraction for SOSS").
    """
    return extract_orders(
        ds,
        plan,
        save_models=soss_modelname is not None,
        save_grid=soss_wave_grid_out is not None,
    )

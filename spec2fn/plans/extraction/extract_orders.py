"""Host-side half of ``extract_1d`` for overlapping orders of one source: apertures and models.

What depends on pixel values (which pixels are bad in all integrations, the typical integration and
its errors) depends on all integrations: a plan is made for all of them, or for a survey of some
that are spread over a long series.
"""

from __future__ import annotations

import functools
import warnings
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np

from spec2fn.dq import PIXEL
from spec2fn.errors import InputError, ParameterError, ReferenceError
from spec2fn.host.atoca import AtocaSettings, DetectorOrder, plan_atoca, typical_integration
from spec2fn.host.trace_position import Position
from spec2fn.kernels.atoca import (
    Atoca,
    contamination_variance,
)
from spec2fn.kernels.atoca_nuisances import contaminant_variance, strength_covariance
from spec2fn.kernels.column_background import column_background
from spec2fn.kernels.namespace import array_namespace
from spec2fn.kernels.series import from_neighbours
from spec2fn.kernels.soss_trace import box_weights, place_trace
from spec2fn.plan_base import Plan, array, labels
from spec2fn.plans.extraction.soss_references import (
    TraceModel,
    order_profiles,
    spectral_kernel,
    trace_model,
)
from spec2fn.plans.extraction.trace_fit import fit_traces
from spec2fn.schema import meta_of
from spec2fn.typing import Array, HostArray

if TYPE_CHECKING:
    import xarray as xr

    from spec2fn.parameters import Parameters

__all__ = [
    "NEIGHBOURS",
    "Apertures",
    "Given",
    "OrdersPlan",
    "Series",
    "filled_series",
    "plan_orders",
]

_WHO = "extract_1d"
NEIGHBOURS = 9
"""Integrations whose median stands for a missing value."""
_SMALL, _LARGE = "SUBSTRIP96", "SUBSTRIP256"
_SMALL_ROWS = 96
_STRIPES = "STRIPE_SOSS"  # of multistripe readouts of the large one


class Apertures(NamedTuple):
    """The pixels of the apertures alone: (order, pixel, disp).

    Attributes
    ----------
    at : int array
        Index of the pixels of an image, one after the other.
    weights : array
    profiles : array, (order, order, pixel, disp)
        Light of the second order in the aperture of the first.
    own : array
        That of the order itself.
    modelled : array of bool
    """

    at: Array
    weights: Array
    profiles: Array
    own: Array
    modelled: Array


class OrdersPlan(Plan):
    """Arrays with which the images of a source become the spectra of its orders.

    Attributes
    ----------
    weights : array of float64, (order, cross, disp)
        Share of every pixel in the aperture.
    rows : array of int, (order, pixel, disp)
        Those that an aperture is in; as many in all columns.
    profile : array of float64, (order, cross, disp)
        Spatial profile.
    wavelength : array of float64, (order, disp)
        [um]; NaN in columns that do not hold the order.
    masked : array of bool, (cross, disp)
        Pixels that are bad in all integrations.
    error : array of float64, (cross, disp)
        Median error; infinite where there is none.
    typical : array of float64, (cross, disp)
        Median value; 0 where there is none.
    orders : tuple of int
    lengths : tuple of int
        Columns that hold them, from 0.
    width : float
        Of the apertures [pixel].
    rescaled : bool
        Whether the light of masked pixels is made up for, or lost.
    optimal : bool
        Whether pixels are weighed by profile and errors.
    models : Atoca, optional
        Of the traces; without, orders are extracted with the light of the others.
    contamination : array of float64, (order, disp), optional
        What their subtraction adds to the variance of the fluxes.
    replaced : bool
        Whether pixels that do not count are replaced by the models.
    own_errors : bool
        Whether orders that are fitted alone are weighed by the errors of each integration.
    column_background : float
        Share of the pixels that are brighter than any background, to subtract that of columns;
        0 to subtract none.
    oversampling : int
    threshold : float
        With which the model was made.
    fitted : Position, optional
        Where the traces are, if that was fitted.
    strength_error : array of float64, (contaminant,), optional
        Standard errors of the strengths of field stars, if these are fitted.
    """

    extracts_from: ClassVar[str] = "orders"
    weights: Array = array("order cross disp")
    rows: Array = array("order pixel disp")
    profile: Array = array("order cross disp")
    wavelength: Array = array("order disp")
    masked: Array = array("cross disp")
    error: Array = array("cross disp")
    typical: Array = array("cross disp")
    orders: tuple[int, ...] = labels("order")
    lengths: tuple[int, ...] = labels("order")
    width: float
    rescaled: bool
    optimal: bool
    models: Atoca | None = None
    contamination: Array | None = array("order disp", default=None)
    replaced: bool = False
    own_errors: bool = False
    column_background: float = 0.0
    oversampling: int = 2
    threshold: float = 1e-2
    fitted: Position | None = None
    strength_error: Array | None = array("contaminant", default=None)

    @functools.cached_property
    def apertures(self) -> Apertures:
        """The pixels of the apertures, which are the same for all pieces of a series."""
        xp = array_namespace(self.weights, self.profile, self.rows)
        rows = xp.asarray(self.rows)
        columns = xp.broadcast_to(xp.asarray(np.arange(rows.shape[-1])), rows.shape)
        order = np.arange(rows.shape[0])[:, None, None]
        weights, profile = xp.asarray(self.weights), xp.asarray(self.profile)
        profiles = xp.moveaxis(profile[:, rows, columns], 0, 1)
        modelled = np.zeros(rows.shape, bool)
        if self.models is not None:
            modelled = xp.asarray(self.models.modelled)[rows, columns]
        return Apertures(
            rows.astype(int) * weights.shape[-1] + columns,
            weights[order, rows, columns],
            profiles,
            profile[order, rows, columns],
            modelled,
        )


class Given(NamedTuple):
    """What a user gives for the models.

    Attributes
    ----------
    wave_grid : array, (wave,), optional
        Wavelengths [um] of the joint fit.
    estimate : array, (2, n), optional
        Wavelength [um] and flux density of the spectrum.
    contaminants : array, (contaminant, cross, disp) or (cross, disp), optional
        Images of field stars.
    """

    wave_grid: HostArray | None = None
    estimate: HostArray | None = None
    contaminants: HostArray | None = None


def plan_orders(
    ds: xr.Dataset,
    references: tuple[xr.Dataset | None, ...],
    params: Parameters,
    given: Given | None = None,
) -> OrdersPlan | str:
    """Plan the extraction of overlapping orders.

    Parameters
    ----------
    ds : xarray.Dataset
        ``sci``, ``err``, ``dq``, dims ([integration,] y, x), of all integrations or a survey.
    references : tuple of xarray.Dataset
        PASTASOSS, SPECPROFILE, SPECKERNEL.
    params : Parameters
        Of :func:`spec2fn.steps.extract_soss.extract_soss`.
    given : Given, optional

    Returns
    -------
    OrdersPlan or str
        Why there is no spectrum.

    Raises
    ------
    InputError, ReferenceError
        See :mod:`spec2fn.plans.extraction.soss_references`; also if a reference or SUBARRAY is
        missing, or images of field stars cannot be used.
    ParameterError
        If something is to be fitted with the orders, and these are not.
    """
    why = _cannot(ds)
    if why:
        return why
    pastasoss, specprofile, speckernel = _all(references)
    shape = ds.sizes["y"], ds.sizes["x"]
    small = shape[0] == _SMALL_ROWS
    wanted = (1, 2, 3) if params.soss_order_3 and not small else (1, 2)
    model = trace_model(ds, pastasoss, wanted)
    orders = tuple(trace.order for trace in model.orders)
    profile = order_profiles(specprofile, orders, shape)
    series = filled_series(ds)
    found = None
    if params.soss_fit_pwcpos:
        error = series.error / np.sqrt(series.count)
        model, profile, found = fit_traces(ds, model, profile, series.mean, error)
    weights, wave, wavelength = _placed(model, shape, params.soss_width)
    apertures = weights
    if small and 2 in orders:
        # order 2 leaves the subarray, and so does its aperture, but not its light in the other's
        apertures = weights.copy()
        apertures[orders.index(2)] = 1.0
    if params.soss_official_model:
        weights = apertures
    background = _bright_share(shape[0]) if params.subtract_background else 0.0
    replaced = params.soss_bad_pix == "model"
    models = contamination = strength_error = None
    if params.soss_atoca or replaced:
        kernel = spectral_kernel(speckernel)
        tables = zip(wave, wavelength, profile, apertures, model.throughputs, strict=True)
        detector = [DetectorOrder(*t, kernel) for t in tables]
        models = _models(detector, series, model.separation, params, given or Given())
        contamination = contamination_variance(models, weights)
        contamination += contaminant_variance(models, weights)
        if given is not None and given.contaminants is not None:
            strength_error = np.sqrt(np.diag(strength_covariance(models)))
    elif params.soss_flicker is not None or params.soss_contaminants is not None:
        msg = (
            f"{_WHO}: soss_contaminants and soss_flicker are fitted together with the orders, which"
            " soss_atoca=False does not fit; leave them out, or set soss_atoca=True"
        )
        raise ParameterError(msg)
    return OrdersPlan(
        weights,
        _rows_of(weights),
        profile,
        wavelength,
        series.masked,
        series.error,
        series.typical,
        orders,
        tuple(trace.columns for trace in model.orders),
        float(params.soss_width),
        params.soss_masked_pixels == "rescaled",
        params.extraction_type == "optimal",
        models,
        contamination,
        replaced,
        params.soss_official_model,
        background,
        params.soss_n_os,
        params.soss_threshold,
        found,
        strength_error,
    )


def _placed(
    model: TraceModel, shape: tuple[int, int], width: float
) -> tuple[HostArray, HostArray, HostArray]:
    """Apertures (order, y, x), wavelengths of columns and of traces (order, x)."""
    weights = np.zeros((len(model.orders), *shape))
    wave, wavelength = np.full((2, len(model.orders), shape[1]), np.nan)
    for k, trace in enumerate(model.orders):
        placed = place_trace(trace, model.position, model.grid, shape[1], shift=(0.0, model.shift))
        inside = slice(0, trace.columns)
        weights[k, :, inside] = box_weights(placed.center, width, shape[0])
        wave[k], wavelength[k, inside] = placed.wave, placed.wavelength
    return weights, wave, wavelength


def _rows_of(weights: HostArray) -> HostArray:
    """Rows of the apertures, (order, pixel, disp): as many in all columns."""
    inside = weights > 0
    first = np.argmax(inside, axis=1)
    last = weights.shape[1] - 1 - np.argmax(inside[:, ::-1], axis=1)
    count = int(np.where(inside.any(axis=1), last - first + 1, 1).max())
    first = np.minimum(first, weights.shape[1] - count)
    return (first[:, None] + np.arange(count)[:, None]).astype(np.int32)


def _models(
    detector: list[DetectorOrder],
    series: Series,
    separation: tuple[float, float],
    params: Parameters,
    given: Given,
) -> Atoca:
    """Plan how the orders are told apart."""
    official = params.soss_official_model
    error = series.error
    data = typical_integration(series.mean, error, series.count, noise=official)
    masked = series.masked | ~(np.isfinite(data) & np.isfinite(error) & (error > 0))
    rows = len(series.masked)
    if params.subtract_background:
        data = data - column_background(data, masked, _bright_share(rows))
    settings = AtocaSettings(
        threshold=params.soss_threshold,
        oversampling=params.soss_n_os,
        rtol=params.soss_rtol,
        grid_size=params.soss_max_grid_size,
        factor=params.soss_tikfac,
        search=params.soss_criterion,
        separation=separation,
        capped=not official,
        exact_ends=not official,
        free_ends=not official,
    )
    # orders that have light where no other has
    separate = () if rows == _SMALL_ROWS else range(1, len(detector))
    return plan_atoca(
        detector,
        data,
        error,
        masked,
        series.reference,
        settings=settings,
        wave_grid=given.wave_grid,
        estimate=given.estimate,
        separate=tuple(separate),
        contaminants=_contaminants(given.contaminants, series.masked.shape),
        flicker=params.soss_flicker,
    )


def _contaminants(images: HostArray | None, shape: tuple[int, ...]) -> HostArray | None:
    """Images of field stars, (contaminant, y, x)."""
    if images is None:
        return None
    if images.ndim not in (2, 3) or images.shape[-2:] != shape or not images.size:
        msg = (
            f"{_WHO}: soss_contaminants is {images.shape}, but the exposure is {shape}; give an"
            " image of its pixels for each star"
        )
        raise InputError(msg)
    if not np.isfinite(images).all():
        lost = np.count_nonzero(~np.isfinite(images))
        msg = f"{_WHO}: soss_contaminants needs finite values, found {lost} others; give zeros"
        raise InputError(msg)
    return images.reshape(-1, *shape)


def _cannot(ds: xr.Dataset) -> str:
    """Why nothing is extracted, or an empty string."""
    through = str(ds.attrs.get("filter", "")).upper()
    if through != "CLEAR":
        return (
            f"orders are told apart with FILTER CLEAR only, for which the references know the"
            f" throughput; this exposure is through {through or 'an unknown filter'}"
        )
    subarray = str(ds.attrs.get("subarray") or meta_of(ds).require("SUBARRAY", _WHO)).upper()
    if subarray not in (_SMALL, _LARGE) and not subarray.endswith(_STRIPES):
        return (
            f"spectra are extracted from the subarrays {_LARGE} and {_SMALL}; this exposure is of"
            f" {subarray}"
        )
    return ""


def _all(references: tuple[xr.Dataset | None, ...]) -> tuple[xr.Dataset, xr.Dataset, xr.Dataset]:
    names = ("pastasoss", "specprofile", "speckernel")
    for name, ref in zip(names, references, strict=True):
        if ref is None:
            msg = (
                f"{_WHO}: reference {name!r} is missing; pass {name}=… or set CRDS up so that it"
                " selects one"
            )
            raise ReferenceError(msg)
    first, second, third = references
    assert first is not None
    assert second is not None
    assert third is not None
    return first, second, third


def _bright_share(rows: int) -> float:
    """Share of the pixels in traces of 40 rows: one of them in the small subarray, else two."""
    return 40 * (1 if rows == _SMALL_ROWS else 2) / rows


class Series(Plan):
    """What there is to know of a series of images, as a whole.

    Attributes
    ----------
    masked : array of bool, (cross, disp)
        Pixels that are bad in all integrations.
    reference : array of bool, (cross, disp)
        Reference pixels, which see no light.
    error, typical : array of float64, (cross, disp)
        Medians; infinite and 0 where there is no value.
    mean : array of float64, (cross, disp)
        Mean in which missing values are those of neighbouring integrations.
    count : int
        Of the integrations.
    """

    masked: HostArray = array("cross disp")
    reference: HostArray = array("cross disp")
    error: HostArray = array("cross disp")
    typical: HostArray = array("cross disp")
    mean: HostArray = array("cross disp")
    count: int


def filled_series(ds: xr.Dataset) -> Series:
    """Return what a series of images has in common.

    Parameters
    ----------
    ds : xarray.Dataset
        ``sci``, ``err``, ``dq``, dims ([integration,] y, x).
    """
    sci, err, dq = (
        np.asarray(ds[n].values).reshape(-1, *ds["sci"].shape[-2:]) for n in ("sci", "err", "dq")
    )
    never = ~(np.isfinite(sci) & np.isfinite(err)).any(axis=0)
    reference = (dq[0] & np.uint32(PIXEL["REFERENCE_PIXEL"])) != 0
    error, typical = (_median(plane) for plane in (err, sci))
    error[never | reference] = np.inf
    typical[never] = 0.0
    filled = from_neighbours(sci, typical, NEIGHBOURS)
    return Series(
        ((dq & np.uint32(PIXEL["DO_NOT_USE"])) != 0).all(axis=0),
        reference,
        error.astype(np.float64),
        typical.astype(np.float64),
        filled.mean(axis=0).astype(np.float64),
        len(sci),
    )


def _median(values: HostArray) -> HostArray:
    """Median over integrations of what is finite; NaN where nothing is."""
    values = np.where(np.isfinite(values), values, np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # pixels that never have a value
        return np.nanmedian(values, axis=0)

"""Sum or fit a spectrum out of a spectral image, with its variances and covariances.

All arrays are oriented ``(..., dispersion, cross-dispersion)``; leading dimensions
(integrations) broadcast. Box extraction sums the pixels of an aperture, optimal extraction
(Horne 1986, PASP 98, 609, with uniform weights) fits the amplitude of a spatial profile. Both are
linear in the data: the result carries the weight of every pixel, so that any variance plane or
pixel-to-pixel covariance can be propagated exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from spec2fn.kernels.background_fit import (
    MEDIAN_NOISE,
    boxcar,
    boxcar_variance,
    fit_polynomial,
    invert_normal_matrix,
    median_across,
)
from spec2fn.kernels.namespace import array_namespace, safe_divide
from spec2fn.typing import Array

__all__ = [
    "Background",
    "Extraction",
    "box_extract",
    "interpolate_correction",
    "operator_variance",
    "optimal_extract",
    "weighted_variance",
]


class Background(NamedTuple):
    """How the background below an aperture was found.

    Attributes
    ----------
    image : array, (..., disp, cross)
        Background at every pixel.
    defined : array of bool, broadcastable to `image`
        Where it is known.
    weights : array, (..., disp, cross)
        Weights of the (smoothed) data in the background that is subtracted.
    weights_nominal : array, (..., disp, cross)
        The same for the aperture without bad pixels.
    noise : float
        Standard error relative to that of a weighted sum (1.2 for a median).
    smoothing : int
        Length of the boxcar, 0 for none.
    box_pixels : array or None
        Good pixels in each box.
    """

    image: Array
    defined: Array
    weights: Array
    weights_nominal: Array
    noise: float = 1.0
    smoothing: int = 0
    box_pixels: Array | None = None


class Extraction(NamedTuple):
    """An extracted spectrum; arrays are (..., disp) unless said otherwise.

    Attributes
    ----------
    flux : array
        Sum (or fitted amplitude) in data units; 0 without data.
    npixels : array
        Number of pixels that contribute.
    background : array
        Background below the aperture.
    weights : array, (..., disp, cross)
        Weight of each pixel in `flux`, before the background's weights are subtracted.
    variance_weights : tuple of array
        Squares of these sum to the quoted variance of `flux`.
    bkg_variance_weights : tuple of array
        The same for `background`; empty without background.
    bkg_less : array or None
        Weights whose squares are subtracted from the variance of `flux` to give that of the
        background (optimal extraction fits both at once).
    scene : array, (..., disp, cross) or None
        Model of the image.
    fitted : Background or None
        Background that was subtracted before summing.
    """

    flux: Array
    npixels: Array
    background: Array
    weights: Array
    variance_weights: tuple[Array, ...]
    bkg_variance_weights: tuple[Array, ...]
    bkg_less: Array
    scene: Array
    fitted: Background | None = None


def weighted_variance(weights: Array, variance: Array) -> Array:
    """Return ``sum(weights**2 * variance)`` across the trace, of finite float64."""
    xp = array_namespace(weights, variance)
    return xp.einsum("...c,...c,...c->...", weights, weights, variance)


def operator_variance(weights: Array, variance: Array, covariance: Sequence[Array] = ()) -> Array:
    """Return ``a C a`` across the trace for a banded covariance C.

    Parameters
    ----------
    weights : array of float64, (..., disp, cross)
        The linear operator a.
    variance : array of float64, (..., disp, cross)
        Diagonal of C.
    covariance : sequence of array of float64, (..., disp, cross)
        Element k - 1 holds the covariance of each pixel with the k-th next across the trace.

    Returns
    -------
    array of float64, (..., disp)
    """
    xp = array_namespace(weights, variance, *covariance)
    total = weighted_variance(weights, variance)
    for lag, plane in enumerate(covariance, start=1):
        if lag >= weights.shape[-1]:
            break
        product = weights[..., :-lag] * weights[..., lag:]
        value = plane[..., :-lag]
        used = xp.where((product != 0) & xp.isfinite(value), value, xp.zeros_like(value))
        total = total + 2.0 * xp.sum(product * used, axis=-1)
    return total


def subtracted_variance(
    weights: Array,
    background: Background | None,
    good: Array,
    variance: Array,
    covariance: Sequence[Array] = (),
) -> Array:
    """Variance of a background-subtracted sum, every correlation counted.

    The aperture and the background regions may share pixels, and a smoothed background takes in
    neighbouring dispersion elements: the sum is a linear operator on the image, whose variance
    this is (for a median background, that of a mean times 1.2 squared).

    Parameters
    ----------
    weights : array of float64, (..., disp, cross)
        Weights of the pixels in the sum.
    background : Background or None
    good : array of bool, (..., disp, cross)
    variance, covariance
        As in :func:`operator_variance`.

    Returns
    -------
    array of float64, (..., disp)
    """
    if background is None:
        return operator_variance(weights, variance, covariance)
    planes = (variance, covariance)
    total = _smoothed_variance(weights, background, good, planes)
    if background.noise != 1.0:
        nothing = array_namespace(weights).zeros_like(weights)
        alone = _smoothed_variance(nothing, background, good, planes)
        total = total + (background.noise**2 - 1.0) * alone
    return total


def common_variance(weights: Array, background: Background | None, error: Array) -> Array:
    """Variance that an error common to all pixels of a dispersion element adds to their sum.

    Parameters
    ----------
    weights : array of float64, (..., disp, cross)
    background : Background or None
        As in :func:`subtracted_variance`; that it may be smoothed is not taken into account.
    error : array of float64, (..., disp, cross)
        Standard error that the pixels have in common; their variances contain its square.

    Returns
    -------
    array of float64, (..., disp)
        What :func:`subtracted_variance` misses.
    """
    xp = array_namespace(weights, error)
    if background is not None:
        weights = weights - background.weights
    part = xp.where(weights != 0, weights * error, xp.zeros_like(error))
    missing = xp.sum(part, axis=-1) ** 2 - xp.sum(part * part, axis=-1)
    return xp.maximum(missing, xp.zeros_like(missing))


def _smoothed_variance(
    weights: Array, background: Background, good: Array, planes: tuple[Array, Sequence[Array]]
) -> Array:
    """Variance of a sum minus a background that is linear in the (smoothed) data."""
    variance, covariance = planes
    xp = array_namespace(weights, variance)
    if background.smoothing < 3:
        return operator_variance(weights - background.weights, variance, covariance)
    share = background.weights / background.box_pixels
    zero = xp.zeros_like(variance)
    counted = xp.where(good, variance, zero)
    boxed = boxcar_variance(counted, background.smoothing)
    lags, boxed_lags = [], []
    for lag, plane in enumerate(covariance, start=1):
        if lag >= weights.shape[-1]:
            break
        both = good[..., :-lag] & good[..., lag:]
        value = plane[..., :-lag]
        value = xp.where(both & xp.isfinite(value), value, xp.zeros_like(value))
        pad = [(0, 0)] * (value.ndim - 1) + [(0, lag)]
        lags.append(xp.pad(value, pad))
        boxed_lags.append(boxcar_variance(lags[-1], background.smoothing))
    n = share.shape[-2]
    repeats = np.ones((n, 1))
    repeats[[0, n - 1]] += background.smoothing // 2
    repeats = xp.asarray(repeats.reshape((1,) * (share.ndim - 2) + (n, 1)))
    own = xp.where(good, share * repeats, xp.zeros_like(share))
    centre = operator_variance(weights - own, counted, lags) - operator_variance(own, counted, lags)
    return centre + operator_variance(share, boxed, boxed_lags)


def _fit_background(
    data: Array,
    good: Array,
    region: Array,
    basis: Array | None,
    *,
    apertures: tuple[Array, Array],
    length: int,
) -> Background:
    """Background by a polynomial or (without a basis) a median, smoothed before."""
    xp = array_namespace(data, good)
    smoothed = length > 1
    smooth, seen, box_pixels = boxcar(data, good, length) if smoothed else (data, good, None)
    used = good & region
    noise = 1.0
    if basis is None:
        image, defined = median_across(smooth, seen & region)
        mask = used.astype(data.dtype)
        n = xp.sum(mask, axis=-1, keepdims=True)
        mean = safe_divide(mask, n, n > 0, 0.0)
        weights, nominal = (mean * xp.sum(a, axis=-1, keepdims=True) for a in apertures)
        noise = MEDIAN_NOISE
    else:
        image, (weights, nominal) = fit_polynomial(smooth, used, basis, apertures)
        defined = xp.ones_like(good)
    smoothing = length if smoothed else 0
    return Background(image, defined, weights, nominal, noise, smoothing, box_pixels)


def box_extract(
    data: Array,
    good: Array,
    weights: Array,
    region: Array | None = None,
    *,
    basis: Array | None = None,
    smoothing_length: int = 0,
    scene: bool = False,
) -> Extraction:
    """Sum the pixels of an aperture at every dispersion element.

    Parameters
    ----------
    data : array of float64, (..., disp, cross)
        Finite everywhere (anything, e.g. zero, where not `good`).
    good : array of bool, (..., disp, cross)
    weights : array of float64, (disp, cross)
        Fraction of each pixel inside the aperture.
    region : array of bool, (disp, cross), optional
        Background pixels; no background is subtracted without.
    basis : array of float64, (cross, order + 1), optional
        Polynomial terms of the background; its median is taken without.
    smoothing_length : int
        Length of the boxcar the background is smoothed with along the dispersion.
    scene : bool
        Make the model of the image too.

    Returns
    -------
    Extraction
    """
    xp = array_namespace(data, good, weights)
    aperture = xp.where(good, weights, xp.zeros_like(weights))
    background, below = None, None
    bkg_quoted: tuple[Array, ...] = ()
    signal = data
    if region is not None:
        apertures = aperture, weights
        background = _fit_background(
            data, good, region, basis, apertures=apertures, length=smoothing_length
        )
        bkg_quoted = (background.noise * background.weights_nominal,)
        aperture = xp.where(background.defined, aperture, xp.zeros_like(aperture))
        signal = data - background.image
        below = xp.sum(aperture * background.image, axis=-1)
    flux = xp.einsum("...c,...c->...", aperture, signal)
    npixels = xp.sum(aperture, axis=-1)
    model = None
    if scene:
        mean = safe_divide(flux, npixels, npixels > 0, 0.0)
        model = mean[..., None] * aperture
        if background is not None:
            unknown = xp.full_like(background.image, xp.nan)
            model = model + xp.where(background.defined, background.image, unknown)
    return Extraction(
        flux=flux,
        npixels=npixels,
        background=xp.zeros_like(flux) if below is None else below,
        weights=aperture,
        variance_weights=(aperture, *bkg_quoted),
        bkg_variance_weights=bkg_quoted,
        bkg_less=None,
        scene=model,
        fitted=background,
    )


def optimal_extract(
    data: Array,
    good: Array,
    profiles: Sequence[Array],
    basis: Array | None = None,
    region: Array | None = None,
) -> Extraction:
    """Fit the amplitudes of spatial profiles, and a background polynomial, across the trace.

    Parameters
    ----------
    data : array of float64, (..., disp, cross)
    good : array of bool, (..., disp, cross)
    profiles : sequence of array of float64, (disp, cross)
        Profile of the source, and of its negative companion after a nod subtraction.
    basis : array of float64, (cross, order + 1), optional
        Polynomial terms of the background that is fitted together with the source.
    region : array of bool, (disp, cross), optional
        Pixels that are fitted besides those of the profiles.

    Returns
    -------
    Extraction
        Of the first profile.
    """
    xp = array_namespace(data, good, *profiles)
    used = profiles[0] != 0
    for profile in profiles[1:]:
        used = used | (profile != 0)
    if region is not None:
        used = used | region
    mask = (good & used).astype(data.dtype)
    k = 0 if basis is None else basis.shape[-1]
    terms = [xp.stack(list(profiles), axis=-1)]
    if basis is not None:
        terms.insert(0, xp.broadcast_to(basis, (*profiles[0].shape, k)))
    design = xp.concatenate(terms, axis=-1)
    p = design.shape[-1]
    products = (design[..., :, None] * design[..., None, :]).reshape(*design.shape[:-1], p * p)
    matrix = xp.einsum("...dc,...dcr->...dr", mask, products)
    inverse = invert_normal_matrix(matrix.reshape(*matrix.shape[:-1], p, p))
    vector = xp.einsum("...dc,...dcp->...dp", mask * data, design)
    amplitudes = xp.einsum("...pq,...q->...p", inverse, vector)
    weights = mask * xp.einsum("...dq,...dcq->...dc", inverse[..., k, :], design)
    profile = profiles[0]
    power = xp.sum(profile * profile, axis=-1, keepdims=True)
    seen = xp.where(good, profile, xp.zeros_like(profile))
    npixels = xp.sum(safe_divide(seen, power, power > 0, 0.0), axis=-1)
    scene = xp.einsum("...dp,...dcp->...dc", amplitudes, design)
    flux = amplitudes[..., k]
    background = xp.zeros_like(flux)
    alone = None
    bkg_quoted: tuple[Array, ...] = ()
    if basis is not None:
        level = xp.einsum("...dp,cp->...dc", amplitudes[..., :k], basis)
        power = xp.sum(profile * seen, axis=-1, keepdims=True)
        alone = safe_divide(seen, power, power > 0, 0.0)
        background = xp.sum(alone * level, axis=-1)
        bkg_quoted = (weights,)
    return Extraction(
        flux=flux,
        npixels=npixels,
        background=background,
        weights=weights,
        variance_weights=(weights,),
        bkg_variance_weights=bkg_quoted,
        bkg_less=alone,
        scene=scene,
    )


def interpolate_correction(npixels: Array, sizes: Array, table: Array) -> Array:
    """Aperture correction for a number of pixels, linear in size and constant beyond its ends.

    Parameters
    ----------
    npixels : array of float64, (..., disp)
    sizes : array of float64, (..., disp, n)
        Increasing aperture sizes [pixel].
    table : array of float64, (..., disp, n)
        Correction at each dispersion element and size.

    Returns
    -------
    array of float64, (..., disp)
    """
    xp = array_namespace(npixels, sizes, table)
    shape = (*npixels.shape, sizes.shape[-1])
    sizes, table = (xp.broadcast_to(xp.asarray(a), shape) for a in (sizes, table))
    if shape[-1] == 1:
        return table[..., 0]
    # a handful of sizes: counting is cheaper than searching, and traceable
    cell = xp.sum(npixels[..., None] >= sizes[..., 1:-1], axis=-1)[..., None]

    def at(values: Array, index: Array) -> Array:
        return xp.take_along_axis(values, index, axis=-1)[..., 0]

    low, high = at(sizes, cell), at(sizes, cell + 1)
    fraction = xp.clip((npixels - low) / (high - low), 0.0, 1.0)
    return at(table, cell) * (1.0 - fraction) + at(table, cell + 1) * fraction

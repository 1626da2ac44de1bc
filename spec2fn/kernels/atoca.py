"""Overlapping spectral orders of an exposure told apart.

Orders 1 and 2 have one spectrum, and others, or the columns that those two do not share, spectra of
their own (:mod:`spec2fn.kernels.spectrum_fit`). What pixels say goes into sums over columns, from
which follow the amplitudes of all orders; the light of the others is taken off the data.

A. Darveau-Bernier et al. 2022, PASP 134, 094502.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import numpy as np

from spec2fn.kernels.namespace import array_namespace
from spec2fn.kernels.spectrum_fit import (
    ColumnSums,
    Solver,
    SpectrumFit,
    amplitude_covariance,
    column_sums,
    column_weights,
    fit_spectrum,
    pixel_integrals,
    responses,
    solver,
)
from spec2fn.plan_base import Plan, array
from spec2fn.typing import Array, HostArray, Number

if TYPE_CHECKING:
    from scipy.sparse import csr_array

__all__ = [
    "Atoca",
    "Nuisances",
    "OrderOptics",
    "column_pulls",
    "contamination_variance",
    "decontaminate",
    "order_amplitudes",
    "order_models",
    "pulled_amplitudes",
]


class OrderOptics(Plan):
    """What the response of one order to the joint grid is made of, to ask how it depends on it.

    Attributes
    ----------
    wave : array, (wave,)
        Piece of the grid that the order sees [um].
    lower, upper : array, (disp,)
        Wavelengths of the ends of the columns [um].
    seen : bool array, (disp,)
    gain : array, (wave,)
        Throughput times wavelength.
    kernel : array, (wave, node)
        Resolution around each point of the piece.
    kernel_first, node_first, first : int array, (wave,), (disp,), (disp,)
        First points of the grid in the kernel, of the piece in a column, of the grid in a response.
    nodes, taps : int
        Points of a column, and of a response.
    """

    wave: Array = array("wave")
    lower: Array = array("disp")
    upper: Array = array("disp")
    seen: Array = array("disp")
    gain: Array = array("wave")
    kernel: Array = array("wave node")
    kernel_first: Array = array("wave")
    node_first: Array = array("disp")
    first: Array = array("disp")
    nodes: int
    taps: int

    def response(self, *, gain: Array | None = None, shift: Number = 0.0) -> Array:
        """Response of the columns, (disp, tap), for another gain or shifted wavelengths [um].

        Put it into :attr:`SpectrumFit.response`; the resolution stays what it is.
        """
        xp = array_namespace(self.lower, self.gain, gain, shift)
        ends = (self.lower + shift, self.upper + shift)
        weights = pixel_integrals(self.wave, *ends, np.asarray(self.node_first), self.nodes)
        return responses(
            xp.where(self.seen[:, None], weights, 0.0),
            np.asarray(self.node_first),
            self.gain if gain is None else gain,
            self.kernel,
            kernel_first=np.asarray(self.kernel_first),
            first=np.asarray(self.first),
            taps=self.taps,
        )


class Nuisances(Plan):
    """Light of no order that is fitted along with them: :mod:`spec2fn.kernels.atoca_nuisances`.

    Attributes
    ----------
    images : array, (contaminant, cross, disp)
        What field stars would look like at a strength of one, such as their zeroth order.
    normal : array, (contaminant, contaminant)
        Weighted products of the images with what the orders cannot explain of them.
    levels : array, (contaminant, disp)
        Constants of columns that would be made of them.
    alone : tuple of str
        Fits of single orders that have pixels of the images, by position of the order.
    flicker : array, number, optional
        Prior standard deviation of a constant of each column [DN/s]; default: there is none.
    """

    images: Array = array("contaminant cross disp")
    normal: Array = array("contaminant contaminant")
    levels: Array = array("contaminant disp")
    alone: tuple[str, ...] = ()
    flicker: Array | None = array("", default=None)


class Atoca(Plan):
    """How the orders of an exposure are told apart.

    Attributes
    ----------
    joint : SpectrumFit
        Of orders 1 and 2, which overlap.
    alone : mapping of str to SpectrumFit
        By position of the order: of those that have columns outside the joint fit.
    profile : array, (order, cross, disp)
    modelled : bool array, (cross, disp)
        Pixels in any aperture, which have a model.
    optics : mapping of str to OrderOptics, optional
        By position of the order, if they were asked for.
    nuisances : Nuisances, optional
        What else is fitted; the data of all functions here are without it.
    """

    joint: SpectrumFit
    alone: Mapping[str, SpectrumFit]
    profile: Array = array("order cross disp")
    modelled: Array = array("cross disp")
    optics: Mapping[str, OrderOptics] | None = None
    nuisances: Nuisances | None = None

    @property
    def fits(self) -> tuple[SpectrumFit, ...]:
        """The joint fit, then those of orders alone."""
        return self.joint, *self.alone.values()

    @property
    def solved(self) -> tuple[tuple[Array, Solver], ...]:
        """Precision of the columns, and what solves for the spectrum, of each fit.

        On the host it is kept: integrations come in pieces.
        """
        own = (a for f in self.fits for a in (f.response, f.wave, f.factor, f.weight, f.flicker))
        return self._solved if array_namespace(self.profile, *own) is np else self._solve()

    @functools.cached_property
    def _solved(self) -> tuple[tuple[Array, Solver], ...]:
        return self._solve()

    def _solve(self) -> tuple[tuple[Array, Solver], ...]:
        xp = array_namespace(self.profile, *(f.weight for f in self.fits))
        found = []
        for fit in self.fits:
            own = self.profile[np.array(fit.orders)]
            weighted = column_weights(own, fit.weight, fit.flicker)
            precision = xp.einsum("oyx,pyx->opx", weighted, own)
            found.append((precision, solver(fit, precision)))
        return tuple(found)

    def weights(self) -> Array:
        """Weights with which :func:`column_pulls` sums pixels, (place, cross, disp)."""
        xp = array_namespace(self.profile, *(f.weight for f in self.fits))
        each = [
            column_weights(self.profile[np.array(f.orders)], f.weight, f.flicker) for f in self.fits
        ]
        return xp.concatenate(each)

    @functools.cached_property
    def summing(self) -> csr_array:
        """The weights as a sparse matrix, (place times disp, pixel); of the host alone."""
        from scipy.sparse import csr_array

        weights = self.weights()
        disp, (place, y, x) = weights.shape[-1], np.nonzero(weights)
        shape = (weights.shape[0] * disp, weights.shape[1] * disp)
        return csr_array((weights[place, y, x], (place * disp + x, y * disp + x)), shape=shape)


def order_amplitudes(plan: Atoca, data: Array, error: Array | None = None) -> Array:
    """Amplitudes of all orders.

    Parameters
    ----------
    plan : Atoca
    data : array, (..., cross, disp)
        [DN/s], finite; background subtracted.
    error : array, (..., cross, disp), optional
        Of the pixels, for the fits of single orders; default that of the plan.

    Returns
    -------
    array, (..., order, disp)
        A model is ``profile * amplitude`` [DN/s]. NaN in columns in which an order is not modelled.
        The joint fit comes first, then that of the order alone.
    """
    pulls = column_pulls(plan, data)
    if error is None:
        return pulled_amplitudes(plan, pulls)
    xp = array_namespace(plan.profile, data, error)
    errors = error.reshape(-1, *error.shape[-2:])
    images = xp.broadcast_to(data, error.shape).reshape(errors.shape)
    alone = {}
    for name, fit in plan.alone.items():
        profile = plan.profile[np.array(fit.orders)]
        each = []
        for image, one in zip(images, errors, strict=True):
            sums = column_sums(profile, _reweighted(fit.weight, one), image, fit.flicker)
            each.append(fit_spectrum(fit, sums)[1])
        alone[name] = xp.stack(each).reshape(*error.shape[:-2], *each[0].shape)
    return pulled_amplitudes(plan, pulls, alone)


def column_pulls(plan: Atoca, data: Array) -> Array:
    """Sums over columns that hold all that pixels say about the amplitudes, for all fits.

    Parameters
    ----------
    plan : Atoca
    data : array, (..., cross, disp)
        [DN/s], finite; background subtracted.

    Returns
    -------
    array, (..., place, disp)
        See :class:`ColumnSums`; of the orders of the joint fit, then of those fitted alone.
    """
    xp = array_namespace(plan.profile, data, *(fit.weight for fit in plan.fits))
    if xp is not np:
        # as a product of matrices it would be transposed first, which takes longer
        return (plan.weights() * data[..., None, :, :]).sum(axis=-2)
    flat = data.reshape(-1, data.shape[-2] * data.shape[-1])
    found = np.stack([plan.summing @ image for image in flat])
    return found.reshape(*data.shape[:-2], -1, data.shape[-1])


def pulled_amplitudes(plan: Atoca, pulls: Array, alone: Mapping[str, Array] | None = None) -> Array:
    """Amplitudes of all orders, as :func:`order_amplitudes` returns them.

    Parameters
    ----------
    plan : Atoca
    pulls : array, (..., place, disp)
        Of :func:`column_pulls`.
    alone : mapping of str to array, (..., 1, disp), optional
        Amplitudes of orders alone that are known already.
    """
    fits = plan.fits
    xp = array_namespace(plan.profile, pulls, *(a for f in fits for a in (f.response, f.factor)))
    shape = (*pulls.shape[:-2], plan.profile.shape[0], pulls.shape[-1])
    found: list[Array] = [xp.full((*shape[:-2], shape[-1]), np.nan)] * shape[-2]
    at = 0
    for name, fit, (precision, ready) in zip(("", *plan.alone), fits, plan.solved, strict=True):
        many = len(fit.orders)
        pull, at = pulls[..., at : at + many, :], at + many
        if alone is not None and name in alone:
            mine = alone[name]
        else:
            mine = fit_spectrum(fit, ColumnSums(precision, pull), ready)[1]
        mine = xp.where(fit.covered, mine, np.nan)
        for i, order in enumerate(fit.orders):
            before = found[order]
            found[order] = xp.where(xp.isfinite(before), before, mine[..., i, :])
    return xp.stack(found, axis=-2)


def _reweighted(weight: Array, error: Array) -> Array:
    xp = array_namespace(weight, error)
    good = (weight > 0) & xp.isfinite(error) & (error > 0)
    return xp.where(good, 1 / xp.where(good, error, 1.0) ** 2, 0.0)


def order_models(plan: Atoca, amplitudes: Array) -> Array:
    """Image of each order.

    Parameters
    ----------
    plan : Atoca
    amplitudes : array, (..., order, disp)

    Returns
    -------
    array, (..., order, cross, disp)
        [DN/s]; NaN where an order is not modelled.
    """
    xp = array_namespace(plan.profile, amplitudes)
    return xp.where(plan.modelled, plan.profile * amplitudes[..., :, None, :], np.nan)


def decontaminate(plan: Atoca, data: Array, amplitudes: Array) -> Array:
    """Subtract from each order what the others contribute.

    Parameters
    ----------
    plan : Atoca
    data : array, (..., cross, disp)
    amplitudes : array, (..., order, disp)

    Returns
    -------
    array, (..., order, cross, disp)
    """
    xp = array_namespace(plan.profile, data, amplitudes)
    known = xp.where(xp.isfinite(amplitudes), amplitudes, 0.0)
    light = xp.where(plan.modelled, plan.profile * known[..., :, None, :], 0.0)
    return cast("Array", data[..., None, :, :] - (light.sum(axis=-3, keepdims=True) - light))


def contamination_variance(plan: Atoca, weights: HostArray) -> HostArray:
    """What the decontamination adds to the variance of sums over columns.

    Parameters
    ----------
    plan : Atoca
        On the host; its weights stand for the errors of the pixels.
    weights : ndarray, (order, cross, disp)
        With which the decontaminated pixels of each order are summed.

    Returns
    -------
    ndarray, (order, disp)
        To be added to ``sum(weights**2 * error**2)``. Negative where the models follow the noise
        of the pixels that are summed.

    Notes
    -----
    Exact for orders of one fit; models from different fits count as independent of each other.
    With constants of columns, which are subtracted as well, but for the share that those of other
    columns have in the models.
    """
    profile = np.where(plan.modelled, plan.profile, 0.0)
    summed = np.einsum("oyx,qyx->oqx", weights, profile)
    out = np.zeros((weights.shape[0], weights.shape[2]))
    done = np.zeros(out.shape, bool)
    joint = plan.joint
    if plan.nuisances is not None:
        joint = replace(joint, flicker=plan.nuisances.flicker)
    for fit in (joint, *plan.alone.values()):
        places = list(fit.orders)
        own = np.asarray(plan.profile)[places]
        weight = np.asarray(fit.weight)
        flicker = None if fit.flicker is None else np.asarray(fit.flicker)
        precision = column_sums(own, weight, np.zeros(weight.shape), flicker).precision
        known = amplitude_covariance(fit, precision)
        ours = np.asarray(fit.covered) & ~done[places]
        done[places] |= np.asarray(fit.covered)
        # of the noise in the sums with what the models make of it
        shared = np.einsum("oyx,qyx->oqx", weights, np.where(weight > 0, own, 0.0))
        level = None if flicker is None else _Level(weights, weight, own, flicker)
        for o in range(len(weights)):
            other = ours * np.array([[p != o] for p in places])
            light = other * summed[o, places]
            common = shared[o]
            if level is not None:
                light = light - level.taken[o] * level.lit
                common = level.common(o, common)
                out[o] += level.variance(o, light, known.posterior)
            out[o] += np.einsum("px,pqx,qx->x", light, known.sampling, light)
            out[o] -= 2 * np.einsum("px,pqx,qx->x", light, known.posterior, common)
    return out


class _Level:
    """What the constants of columns, which follow from what a fit leaves, mean for sums.

    Attributes
    ----------
    taken : ndarray, (order, disp)
        By which what is left of a column, weighted and summed, enters a sum.
    lit : ndarray, (order of the fit, disp)
        Weighted sums of the profiles.
    """

    def __init__(
        self, weights: HostArray, weight: HostArray, own: HostArray, flicker: HostArray
    ) -> None:
        self.prior = 1 / flicker**2
        self.total = weight.sum(axis=0)
        known = self.total + self.prior
        self.share = np.where(known > 0, 1 / np.where(known > 0, known, 1.0), 0.0)
        self.whole = weights.sum(axis=1)
        self.seen = (weights * (weight > 0)).sum(axis=1)
        self.taken = self.whole * self.share
        self.lit = np.einsum("pyx,yx->px", own, weight)

    def common(self, order: int, shared: HostArray) -> HostArray:
        """Covariance of what the pixels say about amplitudes with a sum, (order of fit, disp)."""
        mean = self.share * self.lit
        kept = self.seen[order] - self.taken[order] * self.total
        return np.asarray(shared - self.taken[order] * self.lit - mean * kept)

    def variance(self, order: int, light: HostArray, posterior: HostArray) -> HostArray:
        """What noise in the constants, and the constants that are left, add."""
        noise = self.taken[order] * (self.taken[order] * self.total - 2 * self.seen[order])
        if not self.prior > 0:
            return np.asarray(noise)
        # of a constant the prior takes a share for noise
        left = self.share * self.prior
        models = np.einsum("px,pqx,qx->x", light, posterior, self.lit * left)
        response = self.whole[order] - self.taken[order] * self.total - models
        return np.asarray(noise + response**2 / self.prior)

"""Light of no order that is fitted along with the orders: field stars, and 1/f noise.

To the model of :mod:`spec2fn.kernels.atoca` come images of known shape and unknown strength, such
as the zeroth orders of field stars, and a constant of every column, such as the noise of the
amplifiers has. What they are follows from what the orders *cannot* explain. Without them, the data
have the models that a fit of everything at once would have found.

A pixel that several fits share tells the first of them of the images, the others not.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from spec2fn.kernels.atoca import (
    Atoca,
    Nuisances,
    decontaminate,
    order_amplitudes,
)
from spec2fn.kernels.namespace import array_namespace
from spec2fn.kernels.spectrum_fit import (
    ColumnSums,
    SpectrumFit,
    column_sums,
    fitted_amplitudes,
)
from spec2fn.typing import Array, HostArray

__all__ = [
    "Cleaned",
    "contaminant_products",
    "contaminant_variance",
    "strength_covariance",
    "without_nuisances",
]


_OWN = 1e-6  # of the weighted squares of an image, what must be of nothing else


class Cleaned(NamedTuple):
    """Images of the orders alone.

    Attributes
    ----------
    data : array, (..., cross, disp)
    level : array, (..., disp)
        The constants of columns that were subtracted.
    strength : array, (..., contaminant)
        Of the images that were subtracted.
    """

    data: Array
    level: Array
    strength: Array


def _joint(plan: Atoca) -> SpectrumFit:
    """Joint fit, with the constants of columns in it."""
    flicker = None if plan.nuisances is None else plan.nuisances.flicker
    return replace(plan.joint, flicker=flicker)


class _Rest(NamedTuple):
    """What a fit leaves of images: (..., cross, disp), where its weights are not zero."""

    weight: Array
    data: Array


def _beyond_joint(plan: Atoca, data: Array) -> tuple[Array, _Rest]:
    """Constants of columns, and what the joint fit and they leave."""
    fit = _joint(plan)
    xp = array_namespace(plan.profile, data, fit.response, fit.factor)
    profile = plan.profile[np.array(fit.orders)]
    amplitude = fitted_amplitudes(fit, column_sums(profile, fit.weight, data, fit.flicker))
    rest = data - xp.einsum("oyx,...ox->...yx", profile, amplitude)
    level = xp.einsum("yx,...yx->...x", fit.weight, rest) * _share(fit)
    return level, _Rest(fit.weight, rest - level[..., None, :])


def _share(fit: SpectrumFit) -> Array:
    """Constant of each column for a unit of its weighted sum."""
    xp = array_namespace(fit.weight, fit.flicker)
    total = fit.weight.sum(axis=0)
    if fit.flicker is None:
        return xp.zeros_like(total)
    known = total + 1 / fit.flicker**2
    return xp.where(known > 0, 1 / xp.where(known > 0, known, 1.0), 0.0)


def _beyond_others(plan: Atoca, data: Array, alone: tuple[str, ...]) -> list[_Rest]:
    """What fits of single orders leave of pixels that no fit before them has."""
    xp = array_namespace(plan.profile, data, plan.joint.response, plan.joint.factor)
    taken, out = plan.joint.weight > 0, []
    for key in alone:
        fit = plan.alone[key]
        weight = xp.where(taken, 0.0, fit.weight)
        taken = taken | (fit.weight > 0)
        profile = plan.profile[np.array(fit.orders)]
        amplitude = fitted_amplitudes(fit, column_sums(profile, weight, data))
        out.append(_Rest(weight, data - xp.einsum("oyx,...ox->...yx", profile, amplitude)))
    return out


def _unexplained(plan: Atoca, data: Array, alone: tuple[str, ...]) -> tuple[Array, list[_Rest]]:
    level, first = _beyond_joint(plan, data)
    return level, [first, *_beyond_others(plan, data - level[..., None, :], alone)]


def contaminant_products(
    plan: Atoca, images: HostArray, flicker: HostArray | None
) -> tuple[Nuisances, int | None]:
    """Plan the fit of images of field stars.

    Parameters
    ----------
    plan : Atoca
        Without them.
    images : ndarray, (contaminant, cross, disp)
        There may be none.
    flicker : ndarray, number, optional

    Returns
    -------
    Nuisances
    lost : int or None
        The first image that cannot be told from the orders and those before it.
    """
    joint = np.asarray(plan.joint.weight)
    reached = {
        key: (np.abs(images) * np.where(joint > 0, 0.0, np.asarray(fit.weight))).any()
        for key, fit in plan.alone.items()
    }
    alone = tuple(key for key, some in reached.items() if some)
    many = len(images)
    draft = Nuisances(
        images, np.zeros((many, many)), np.zeros((many, images.shape[-1])), alone, flicker
    )
    if not many:
        return draft, None
    levels, rest = _unexplained(replace(plan, nuisances=draft), images, alone)
    normal = np.zeros((many, many))
    size = np.zeros(many)
    for weight, left in rest:
        normal += np.einsum("kyx,yx,lyx->kl", images, weight, left, optimize=True)
        size += np.einsum("kyx,yx->k", images**2, weight)
    scale = np.sqrt(np.where(size > 0, size, 1.0))
    lost = _first_lost(normal / scale[:, None] / scale)
    return replace(draft, normal=normal, levels=levels), lost


def _first_lost(normal: HostArray) -> int | None:
    """First row of a matrix that next to nothing is left of without those before it."""
    for k in range(len(normal)):
        known = np.linalg.solve(normal[:k, :k], normal[:k, k])
        if not normal[k, k] - normal[k, :k] @ known > _OWN:
            return k
    return None


def without_nuisances(plan: Atoca, data: Array) -> Cleaned:
    """Subtract everything but the orders.

    Parameters
    ----------
    plan : Atoca
    data : array, (..., cross, disp)
        [DN/s], finite; background subtracted.

    Returns
    -------
    Cleaned
    """
    xp = array_namespace(plan.profile, data, plan.joint.response, plan.joint.factor)
    nuisances = plan.nuisances
    if nuisances is None:
        return Cleaned(data, xp.zeros_like(data[..., 0, :]), xp.zeros_like(data[..., 0, :0]))
    images = nuisances.images
    level, rest = _unexplained(plan, data, nuisances.alone)
    if not images.shape[0]:
        nothing = xp.zeros_like(data[..., 0, :0])
        return Cleaned(data - level[..., None, :], level, nothing)
    right = sum(xp.einsum("kyx,...yx->...k", images * weight, left) for weight, left in rest)
    strength = xp.linalg.solve(nuisances.normal, right[..., None])[..., 0]
    level = level - xp.einsum("...k,kx->...x", strength, nuisances.levels)
    stars = xp.einsum("...k,kyx->...yx", strength, images)
    return Cleaned(data - stars - level[..., None, :], level, strength)


def contaminant_variance(plan: Atoca, weights: HostArray) -> HostArray:
    """What the noise in the strengths of field stars adds to the variance of sums over columns.

    Parameters
    ----------
    plan : Atoca
        On the host; its weights stand for the errors of the pixels.
    weights : ndarray, (order, cross, disp)
        With which the decontaminated pixels of each order are summed.

    Returns
    -------
    ndarray, (order, disp)
        To be added to what :func:`~spec2fn.kernels.atoca.contamination_variance` says.
    """
    nuisances = plan.nuisances
    if nuisances is None or not len(nuisances.images):
        return np.zeros((weights.shape[0], weights.shape[2]))
    bare = replace(
        plan,
        nuisances=replace(
            nuisances,
            images=nuisances.images[:0],
            normal=nuisances.normal[:0, :0],
            levels=nuisances.levels[:0],
        ),
    )

    def sums(images: HostArray) -> HostArray:
        cleaned = without_nuisances(bare, images).data
        alone = decontaminate(bare, cleaned, order_amplitudes(bare, cleaned))
        return np.einsum("oyx,koyx->kox", weights, alone)

    inverse = np.linalg.inv(nuisances.normal)
    follows = np.zeros_like(nuisances.images)
    for weight, left in _followed(plan):
        follows += np.where(weight > 0, left, 0.0)
    seen = sums(nuisances.images)
    covariance = strength_covariance(plan)
    out = np.einsum("kox,kl,lox->ox", seen, covariance, seen)
    return np.asarray(out - 2 * np.einsum("kox,kl,lox->ox", seen, inverse, sums(follows)))


def strength_covariance(plan: Atoca) -> HostArray:
    """Return the covariance of the strengths of field stars in one integration.

    Parameters
    ----------
    plan : Atoca
        On the host, with :attr:`Atoca.nuisances`; its weights stand for the errors of the pixels.

    Returns
    -------
    ndarray, (contaminant, contaminant)
    """
    assert plan.nuisances is not None
    inverse = np.linalg.inv(plan.nuisances.normal)
    spread = np.zeros_like(inverse)
    for weight, left in _followed(plan):
        spread += np.einsum("kyx,yx,lyx->kl", left, weight, left, optimize=True)
    return np.asarray(inverse @ spread @ inverse.T)


def _followed(plan: Atoca) -> list[_Rest]:
    """How strengths, but for the normal matrix, follow pixels: divided by the weights of these."""
    nuisances = plan.nuisances
    assert nuisances is not None
    others = _beyond_others(plan, nuisances.images, nuisances.alone)
    first = _beyond_joint(plan, nuisances.images)[1]
    if nuisances.flicker is None or not others:
        return [first, *others]
    # single orders are fitted without the constants, which the pixels of the joint fit say
    fit = _joint(plan)
    profile = plan.profile[np.array(fit.orders)]
    wanted = sum(np.einsum("yx,kyx->kx", weight, left) for weight, left in others)
    share, lit = _share(fit), np.einsum("oyx,yx->ox", profile, fit.weight)
    precision = column_sums(profile, fit.weight, first.data[0], fit.flicker).precision
    amplitude = fitted_amplitudes(fit, ColumnSums(precision, -(share * lit) * wanted[:, None]))
    level = share * (wanted - np.einsum("ox,kox->kx", lit, amplitude))
    passed_on = np.einsum("oyx,kox->kyx", profile, amplitude) + level[:, None]
    return [_Rest(first.weight, first.data - passed_on), *others]

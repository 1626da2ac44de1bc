"""Division of spectra by fringes whose periods are known.

The continuum under the fringes is a given shape times a level, the fringes are a sum of given
waves. Level and amplitudes are linear in the data, so the correction of any exposure can be
differentiated, and carries over to other integrations.
"""

from __future__ import annotations

from spec2fn.kernels.namespace import array_namespace
from spec2fn.typing import Array

__all__ = ["fringe_model", "gather_columns", "scatter_columns"]


def gather_columns(image: Array, columns: Array, use: Array) -> tuple[Array, Array]:
    """Take columns out of images.

    Parameters
    ----------
    image : array, (…, y, x)
    columns : array of int, (column,)
    use : array of bool, (column, y)

    Returns
    -------
    values : array, (…, column, y)
        0 where not usable.
    good : array of bool, (…, column, y)
        Pixels that are asked for and finite.
    """
    xp = array_namespace(image, columns, use)
    values = xp.swapaxes(image, -1, -2)[..., columns, :]
    good = use & xp.isfinite(values)
    return xp.where(good, values, xp.zeros((), dtype=values.dtype)), good


def scatter_columns(values: Array, owner: Array) -> Array:
    """Put columns into an image.

    Parameters
    ----------
    values : array, (…, column, y)
    owner : array of int, (y, x)
        Column that a pixel takes its value from; negative: 1.

    Returns
    -------
    array, (…, y, x)
    """
    xp = array_namespace(values, owner)
    shape = (*values.shape[:-2], 1, owner.shape[0])
    values = xp.concatenate([xp.ones(shape, dtype=values.dtype), values], axis=-2)
    return values[..., owner + 1, xp.arange(owner.shape[0])[:, None]]


def fringe_model(
    values: Array, good: Array, continuum: Array, weight: Array, fit: tuple[Array, Array, Array]
) -> Array:
    """Fringes as a fraction of the continuum.

    Parameters
    ----------
    values : array, (…, column, y)
        Finite.
    good : array of bool, (…, column, y)
    continuum : array, (column, y)
        Shape of the continuum; not zero where `weight` is not.
    weight : array, (column, y)
        Of the fit.
    fit : tuple of three arrays
        Waves, (column, y, k), orthonormal with `weight`; offset, (column, y), what the fringes
        are besides the projection of the data on the waves; level, (column,), of the exposure for
        which the offset was made.

    Returns
    -------
    array, (…, column, y)
        0 for columns whose level is not positive.
    """
    waves, offset, level = fit
    xp = array_namespace(values, continuum)
    zero = xp.zeros((), dtype=values.dtype)
    w = xp.where(good, weight, zero)
    power = xp.sum(w * continuum * continuum, axis=-1)
    some = power > 0
    own = xp.sum(w * continuum * values, axis=-1) / xp.where(some, power, 1 + zero)
    own = own / level
    up = some & (own > 0)
    scaled = xp.where(up, own, 1 + zero)[..., None] * continuum
    usable = w > 0
    relative = xp.where(usable, values / xp.where(usable, scaled, 1 + zero) - 1, zero)
    amplitudes = xp.einsum("...jn,jnk->...jk", w * relative, waves)
    out = offset + xp.einsum("...jk,jnk->...jn", amplitudes, waves)
    return xp.where(up[..., None], out, zero)

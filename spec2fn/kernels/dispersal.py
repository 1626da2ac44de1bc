"""Light of direct-image pixels laid on the pixels of a grism image.

A pixel of the direct image is a unit square of light; shifted by the dispersion it covers four
pixels of the detector, in shares that are bilinear in its place. Laying light down and picking it
up are adjoint to each other, and differentiable in the light as well as in the places.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np

from spec2fn.kernels.namespace import array_namespace
from spec2fn.plan_base import Plan, array
from spec2fn.typing import Array

__all__ = ["Dispersal", "OrderGeometry", "gather", "shares", "splat"]

Shape = tuple[int, int]


def _corners(x: Array, y: Array, shape: Shape) -> tuple[Array, Array, Array, Array]:
    """Return where squares lie in a frame, for :func:`shares`.

    Parameters
    ----------
    x, y : array
        Centers of the squares [pixel].
    shape : (int, int)
        Rows and columns of the frame.

    Returns
    -------
    index : int array
        Flat index of the lower left pixel in the frame with a margin of one pixel before and two
        behind, on which falls what lies outside.
    u, v : array
        Shares of the right and the upper neighbours.
    inside : bool array
        Whether any light falls into the frame.
    """
    xp = array_namespace(x, y)
    left, below = xp.floor(x), xp.floor(y)
    inside = (left >= -1) & (left < shape[1]) & (below >= -1) & (below < shape[0])
    # what lies outside, or has no place, falls on the margin, which is cut off
    column, row = (xp.where(inside, first, -1).astype(int) for first in (left, below))
    u, v = (xp.where(inside, at, 0.0) for at in (x - left, y - below))
    return (row + 1) * (shape[1] + 3) + column + 1, u, v, inside


def shares(u: Array, v: Array, width: int) -> tuple[tuple[int, Array], ...]:
    """Return the steps in the index to the four pixels, in a margined frame, and their shares."""
    return (
        (0, (1 - u) * (1 - v)),
        (1, u * (1 - v)),
        (width, (1 - u) * v),
        (width + 1, u * v),
    )


def splat(x: Array, y: Array, light: Array, shape: Shape) -> Array:
    """Lay light on an image.

    Parameters
    ----------
    x, y : array, any shape
        Where the centers of the squares are [pixel, zero at the center of the first].
    light : array, that shape
    shape : (int, int)
        Rows and columns of the image. Light beside it is lost.

    Returns
    -------
    array, (y, x)
    """
    xp = array_namespace(x, y, light)
    index, u, v, inside = _corners(x, y, shape)
    light = xp.where(inside, light, 0.0)
    padded = (shape[0] + 3, shape[1] + 3)
    size = padded[0] * padded[1]
    if xp is np:
        flat = np.zeros(size)
        for step, share in shares(u, v, padded[1]):
            flat += np.bincount((index + step).ravel(), (light * share).ravel(), minlength=size)[
                :size
            ]
    else:
        flat = xp.zeros(size, dtype=light.dtype)
        for step, share in shares(u, v, padded[1]):
            flat = flat.at[index + step].add(light * share)
    return flat.reshape(padded)[1 : shape[0] + 1, 1 : shape[1] + 1]


def gather(x: Array, y: Array, image: Array) -> Array:
    """Pick light up again: the adjoint of :func:`splat`.

    Parameters
    ----------
    x, y : array, any shape
        Places [pixel].
    image : array, (y, x)

    Returns
    -------
    array, the shape of `x`
        The image interpolated bilinearly; zero outside.
    """
    xp = array_namespace(x, y, image)
    shape: Shape = image.shape
    index, u, v, inside = _corners(x, y, shape)
    flat = xp.pad(image, ((1, 2), (1, 2))).ravel()
    picked = sum(share * flat[index + step] for step, share in shares(u, v, shape[1] + 3))
    return xp.where(inside, picked, 0.0)


class OrderGeometry(Plan):
    """Where one order sends the pixels of a direct image.

    Attributes
    ----------
    x, y : array, (wave, pixel)
        Places on the grism image [pixel].
    wavelength : array, (wave,)
        [um]
    gain : array, (wave,)
        Count rate [DN/s] of a pixel of 1 MJy/sr in the interval of wavelength around each.
    """

    x: Array = array("wave pixel")
    y: Array = array("wave pixel")
    wavelength: Array = array("wave")
    gain: Array = array("wave")


class Dispersal(Plan):
    """The linear operator of a grism: direct image times spectra to grism image.

    Linear in the brightness of the pixels and in the spectra; all fields are arrays, so that JAX
    differentiates with respect to the trace and the response as well.

    Attributes
    ----------
    orders : mapping of str to OrderGeometry
        Geometry by order.
    source : int array, (pixel,)
        Position of the source of each pixel among the spectra.
    shape : (int, int)
        Of the grism image.
    x0, y0 : array, (pixel,), optional
        Undispersed places [pixel], from which other traces can be made.
    """

    orders: Mapping[str, OrderGeometry]
    source: Array = array("pixel")
    shape: Shape
    x0: Array | None = array("pixel", default=None)
    y0: Array | None = array("pixel", default=None)

    def __call__(self, brightness: Array, spectra: Mapping[str, Array]) -> Array:
        """Grism image.

        Parameters
        ----------
        brightness : array, (pixel,)
            Of the pixels of the direct image [MJy/sr].
        spectra : mapping of str to array, (source, wave)
            By order: relative to the brightness, at the wavelengths of the order.

        Returns
        -------
        array, (y, x)
            [DN/s]
        """
        total: Any = 0.0
        for name, order in self.orders.items():
            light = brightness * spectra[name].T[:, self.source] * order.gain[:, None]
            total = total + splat(order.x, order.y, light, self.shape)
        return cast("Array", total)

    def adjoint(self, image: Array, spectra: Mapping[str, Array]) -> Array:
        """The adjoint in the brightness for given spectra, shape (pixel,)."""
        total: Any = 0.0
        for name, order in self.orders.items():
            weight = spectra[name].T[:, self.source] * order.gain[:, None]
            total = total + (gather(order.x, order.y, image) * weight).sum(axis=0)
        return cast("Array", total)

    def adjoint_spectra(self, image: Array, brightness: Array) -> dict[str, Array]:
        """The adjoint in the spectra for given brightness, by order, shape (source, wave)."""
        xp = array_namespace(image, brightness, self.source)
        many = int(np.max(np.asarray(self.source), initial=-1)) + 1
        out = {}
        for name, order in self.orders.items():
            picked = gather(order.x, order.y, image) * brightness * order.gain[:, None]
            if xp is np:
                sums = [np.bincount(self.source, one, minlength=many) for one in picked]
                out[name] = np.stack(sums, axis=1)
            else:
                zero = xp.zeros((many, len(picked)), dtype=picked.dtype)
                out[name] = zero.at[self.source].add(picked.T)
        return out

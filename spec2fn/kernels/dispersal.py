"""Light of direct-image pixels laid on the pixels of a grism image.

A pixel of the direct image is a unit square of light; shifted by the dispersion it covers four
pixels of the detector, in shares that are bilinear in its place. So laid, images become wider:
shares of a fraction f add f (1 - f) to the square of the width, and the light has been gathered
from the area of a pixel twice. Where that area is known, shares on two more pixels along each axis
take it back; for pixels as large as those of the detector they are those of cubic convolution
(R. Keys 1981, IEEE TASSP 29, 1153). Laying light down and picking it up are adjoint to each other,
and differentiable in the light as well as in the places.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np

from spec2fn.kernels.namespace import array_namespace
from spec2fn.plan_base import Plan, array
from spec2fn.typing import Array

__all__ = ["Dispersal", "OrderGeometry", "gather", "shares", "splat", "widening"]

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
        Flat index of the lower left pixel in the frame with a margin of three pixels before and
        four behind, on which falls what lies outside.
    u, v : array
        Shares of the right and the upper neighbours.
    inside : bool array
        Whether any light falls into the frame.
    """
    xp = array_namespace(x, y)
    left, below = xp.floor(x), xp.floor(y)
    inside = (left >= -2) & (left <= shape[1]) & (below >= -2) & (below <= shape[0])
    # what lies outside, or has no place, falls on the margin, which is cut off
    column, row = (xp.where(inside, first, -2).astype(int) for first in (left, below))
    u, v = (xp.where(inside, at, 0.0) for at in (x - left, y - below))
    return (row + 3) * (shape[1] + 7) + column + 3, u, v, inside


def widening(part: Array, area: float) -> Array:
    """What shares of a fraction of a pixel add to the square of the width, less what is due."""
    return part * (1 - part) - (1 - area) / 12


def shares(
    u: Array, v: Array, width: int, area: float | None = None
) -> tuple[tuple[int, Array], ...]:
    """Return the steps in the index to the pixels, in a margined frame, and their shares.

    Parameters
    ----------
    u, v : array
        Shares of the right and the upper neighbours.
    width : int
        Of the frame.
    area : float, optional
        Of a pixel of the direct image, in those of the detector. Without it light falls on four
        pixels, with it on sixteen.
    """
    along, across = (_shares_along(part, area) for part in (u, v))
    return tuple((i * width + j, a * b) for i, b in across for j, a in along)


def _shares_along(part: Array, area: float | None) -> tuple[tuple[int, Array], ...]:
    if area is None:
        return (0, 1 - part), (1, part)
    half = widening(part, area) / 2
    return (
        (-1, -half * (1 - part)),
        (0, 1 - part - half * (3 * part - 2)),
        (1, part - half * (1 - 3 * part)),
        (2, -half * part),
    )


def splat(x: Array, y: Array, light: Array, shape: Shape, area: float | None = None) -> Array:
    """Lay light on an image.

    Parameters
    ----------
    x, y : array, any shape
        Where the centers of the squares are [pixel, zero at the center of the first].
    light : array, that shape
    shape : (int, int)
        Rows and columns of the image. Light beside it is lost.
    area : float, optional
        See :func:`shares`.

    Returns
    -------
    array, (y, x)
    """
    xp = array_namespace(x, y, light)
    index, u, v, inside = _corners(x, y, shape)
    light = xp.where(inside, light, 0.0)
    padded = (shape[0] + 7, shape[1] + 7)
    size = padded[0] * padded[1]
    if xp is np:
        flat = np.zeros(size)
        for step, share in shares(u, v, padded[1], area):
            flat += np.bincount((index + step).ravel(), (light * share).ravel(), minlength=size)[
                :size
            ]
    else:
        flat = xp.zeros(size, dtype=light.dtype)
        for step, share in shares(u, v, padded[1], area):
            flat = flat.at[index + step].add(light * share)
    return flat.reshape(padded)[3 : shape[0] + 3, 3 : shape[1] + 3]


def gather(x: Array, y: Array, image: Array, area: float | None = None) -> Array:
    """Pick light up again: the adjoint of :func:`splat`.

    Parameters
    ----------
    x, y : array, any shape
        Places [pixel].
    image : array, (y, x)
    area : float, optional
        See :func:`shares`.

    Returns
    -------
    array, the shape of `x`
        The image interpolated, bilinearly without `area`; zero outside.
    """
    xp = array_namespace(x, y, image)
    shape: Shape = image.shape
    index, u, v, inside = _corners(x, y, shape)
    flat = xp.pad(image, ((3, 4), (3, 4))).ravel()
    taken = shares(u, v, shape[1] + 7, area)
    picked = sum(share * flat[index + step] for step, share in taken)
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
    sources : int
        Number of spectra; some may have no pixel.
    shape : (int, int)
        Of the grism image.
    x0, y0 : array, (pixel,), optional
        Undispersed places [pixel], from which other traces can be made.
    area : float, optional
        Of a pixel of the direct image, in those of the detector; see :func:`shares`.
    """

    orders: Mapping[str, OrderGeometry]
    source: Array = array("pixel")
    sources: int
    shape: Shape
    x0: Array | None = array("pixel", default=None)
    y0: Array | None = array("pixel", default=None)
    area: float | None = None

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
            total = total + splat(order.x, order.y, light, self.shape, self.area)
        return cast("Array", total)

    def adjoint(self, image: Array, spectra: Mapping[str, Array]) -> Array:
        """The adjoint in the brightness for given spectra, shape (pixel,)."""
        total: Any = 0.0
        for name, order in self.orders.items():
            weight = spectra[name].T[:, self.source] * order.gain[:, None]
            total = total + (gather(order.x, order.y, image, self.area) * weight).sum(axis=0)
        return cast("Array", total)

    def adjoint_spectra(self, image: Array, brightness: Array) -> dict[str, Array]:
        """The adjoint in the spectra for given brightness, by order, shape (source, wave)."""
        xp = array_namespace(image, brightness, self.source)
        out = {}
        for name, order in self.orders.items():
            picked = gather(order.x, order.y, image, self.area) * brightness * order.gain[:, None]
            if xp is np:
                sums = [np.bincount(self.source, one, minlength=self.sources) for one in picked]
                out[name] = np.stack(sums, axis=1)
            else:
                zero = xp.zeros((self.sources, len(picked)), dtype=picked.dtype)
                out[name] = zero.at[self.source].add(picked.T)
        return out

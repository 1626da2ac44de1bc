"""The linear operator from a spectrum to the overlapping orders of NIRISS SOSS.

The model of Darveau-Bernier et al. (2022, PASP 134, 094502), as an integral over every pixel of
its own: the spectrum is convolved with the kernel of the order, multiplied by its throughput and
the energy of a photon, integrated over the column, and spread over the rows by the profile.
"""

from __future__ import annotations

import numpy as np

from spec2fn.forward.niriss import instrument as nis
from spec2fn.forward.niriss.instrument import Strip
from spec2fn.kernels.namespace import array_namespace, is_jax
from spec2fn.plan_base import Plan, array, labels
from spec2fn.typing import Array, HostArray

__all__ = ["OrdersOperator", "orders_operator", "profiles"]

_NODES = 4  # of Gauss and Legendre in a pixel
_STEP = 0.1  # pixels between samples of the kernel


class OrdersOperator(Plan):
    """Spectrum → count rate of the columns of each order, and of the detector.

    Linear in the spectrum, in the profiles and in the flat; for NumPy and JAX.

    Attributes
    ----------
    grid : array, shape (wave,)
        Wavelengths [um], ascending.
    first : integer array, shape (order, disp)
        First grid point whose light a column gets.
    weights : array, shape (order, disp, tap)
        Count rate [DN/s per Jy] of a column for the light at this point and those that follow.
    profile : array, shape (order, cross, disp)
        Share of each row.
    flat : array, shape (cross, disp)
        Response of the pixels.
    orders : tuple of int
    """

    grid: Array = array("wave")
    first: Array = array("order disp")
    weights: Array = array("order disp tap")
    profile: Array = array("order cross disp")
    flat: Array = array("cross disp")
    orders: tuple[int, ...] = labels("order")

    def __call__(self, spectrum: Array) -> Array:
        """Count rate [DN/s], shape (..., cross, disp), of spectra [Jy] (..., wave)."""
        return self.flat * self.images(spectrum).sum(-3)

    def columns(self, spectrum: Array) -> Array:
        """Count rate [DN/s] of each column, all rows together, shape (..., order, disp)."""
        spectrum = spectrum if is_jax(spectrum) else np.asarray(spectrum)
        place = self.first[..., None] + np.arange(self.weights.shape[-1])
        return (spectrum[..., place] * self.weights).sum(-1)

    def images(self, spectrum: Array) -> Array:
        """Count rate [DN/s] of each order before the flat, shape (..., order, cross, disp)."""
        return self.columns(spectrum)[..., None, :] * self.profile

    def T(self, image: Array) -> Array:  # noqa: N802 - the name arrays use for it
        """Apply the adjoint: image (cross, disp) → grid (wave,)."""
        if array_namespace(image) is not np:
            import jax

            zero = jax.ShapeDtypeStruct(self.grid.shape, image.dtype)
            return jax.linear_transpose(self, zero)(image)[0]
        seen = np.einsum("ocd,cd->od", self.profile, self.flat * image)
        place = self.first[..., None] + np.arange(self.weights.shape[-1])
        share = seen[..., None] * self.weights
        return np.bincount(place.ravel(), share.ravel(), len(self.grid))

    def embed(self, image: Array, shape: tuple[int, int]) -> Array:
        """Return the image: it is that of the whole detector `shape`."""
        assert image.shape[-2:] == shape
        return image


def profiles(strip: Strip, wheel: float = nis.WHEEL) -> HostArray:
    """Share of the light of each order and column in each row, (order, row, column)."""
    row, column = np.arange(strip.rows) + strip.first, np.arange(strip.columns)
    middle = [nis.trace(o, column, strip.columns, wheel - nis.WHEEL_COMMANDED) for o in nis.ORDERS]
    return nis.profile(row[:, None] - np.stack(middle)[:, None, :])


def orders_operator(
    strip: Strip,
    grid: HostArray,
    *,
    wheel: float = nis.WHEEL,
    flat: HostArray | None = None,
    beyond: int = 0,
) -> OrdersOperator:
    """Build the operator of a point source.

    Parameters
    ----------
    strip : Strip
        What is read of the detector.
    grid : array, shape (n,)
        Wavelengths [um] at which spectra are given, evenly spaced and ascending; linear in between
        and none beyond.
    wheel : float
        Angle of the pupil wheel [deg].
    flat : array, shape (cross, disp), optional
        Response of the pixels; default: one.
    beyond : int
        Columns to add on either side, for tables that reach farther than the detector. The
        profile is then that of the column at the edge.
    """
    angle = wheel - nis.WHEEL_COMMANDED
    column = np.arange(-beyond, strip.columns + beyond)
    first, weights = zip(
        *(_taps(o, column, strip.columns, angle, grid) for o in nis.ORDERS), strict=True
    )
    taps = max(w.shape[-1] for w in weights)
    start = np.minimum(np.stack(first), len(grid) - taps)
    padded = np.zeros((len(nis.ORDERS), len(column), taps))
    for k, (own, w) in enumerate(zip(first, weights, strict=True)):
        shift = own - start[k]
        for t in range(w.shape[-1]):
            padded[k, np.arange(len(column)), shift + t] = w[:, t]
    shares = profiles(strip, wheel)[..., np.clip(column, 0, strip.columns - 1)]
    return OrdersOperator(
        grid=np.asarray(grid, float),
        first=start,
        weights=padded,
        profile=shares,
        flat=np.ones(shares.shape[1:]) if flat is None else flat,
        orders=tuple(nis.ORDERS),
    )


def _taps(
    order: int, column: HostArray, columns: int, angle: float, grid: HostArray
) -> tuple[HostArray, HostArray]:
    """Return the first grid point and the weights of each column of an order."""
    node, share = np.polynomial.legendre.leggauss(_NODES)
    where = column[:, None] + node / 2
    wave = nis.wavelength(order, where, columns, angle)
    dispersion = np.abs(
        nis.wavelength(order, where + 0.5, columns, angle)
        - nis.wavelength(order, where - 0.5, columns, angle)
    )
    gain = nis.COLLECTING * nis.throughput(order, wave) * wave * dispersion * share / 2
    offset = np.arange(-nis.KERNEL_HALF, nis.KERNEL_HALF + _STEP / 2, _STEP)
    source = nis.wavelength(order, where[..., None] - offset, columns, angle)
    light = nis.kernel(offset, wave[..., None])
    # flux densities by frequency become those by wavelength
    light *= gain[..., None] / light.sum(-1, keepdims=True) / source**2
    place = (source - grid[0]) / (grid[1] - grid[0])
    below = np.floor(place).astype(int)
    inside = (below >= 0) & (below < len(grid) - 1)
    light, fraction = np.where(inside, light, 0.0), place - below
    below = np.clip(below, 0, len(grid) - 2)
    first = below.reshape(len(column), -1).min(1)
    taps = int((below.reshape(len(column), -1).max(1) - first).max()) + 2
    index = below - first[:, None, None] + taps * np.arange(len(column))[:, None, None]
    size = taps * len(column)
    weights = np.bincount(index.ravel(), (light * (1 - fraction)).ravel(), size)
    weights += np.bincount(index.ravel() + 1, (light * fraction).ravel(), size)
    return first, weights.reshape(len(column), taps)

"""Applying profiles across the dispersion to the columns of a spectrum.

Arrays are stacks of slits with the dispersion along the last axis, (…, y, x); those with dim
``row`` belong to a grid that is finer across the dispersion.
"""

from __future__ import annotations

from spec2fn.kernels.interpolation_linear import bridge_rows
from spec2fn.kernels.namespace import array_namespace
from spec2fn.plan_base import Plan, array
from spec2fn.typing import Array

__all__ = ["FineGrid", "column_scale", "median_image"]

_FEWEST = 3  # a column with no more good pixels is not interpolated
# Errors grow with the number of pixels that they are interpolated to by what keeps the
# signal-to-noise ratio of the cubes made of them (empirical, from spectra of standard stars).
_GROWTH = 0.23


def median_image(planes: Array, *, stacked: bool) -> Array:
    """Return the median of the good values of all integrations, axis -3 if `stacked`."""
    if not stacked or planes.shape[-3] == 1:
        return planes[..., 0, :, :] if stacked else planes
    xp = array_namespace(planes)
    known = ~xp.isnan(planes).all(axis=-3)
    zero, nan = (xp.asarray(v, dtype=planes.dtype) for v in (0.0, xp.nan))
    median = xp.nanmedian(xp.where(known[..., None, :, :], planes, zero), axis=-3)
    return xp.where(known, median, nan)


def column_scale(flux: Array, weight: Array) -> Array:
    """Return the sum of weighted fluxes of every column, (…, 1, x) float64.

    Where the weight is 0 the flux may be NaN.
    """
    xp = array_namespace(flux, weight)
    weight = xp.asarray(weight)
    used = xp.where(weight != 0, flux, xp.zeros((), dtype=flux.dtype))
    return xp.sum(used.astype(weight.dtype) * weight, axis=-2, keepdims=True)


class FineGrid(Plan):
    """A grid with more pixels across the dispersion, and what is interpolated to it.

    Attributes
    ----------
    factor : float
        Pixels of the grid for each of the exposure.
    place : array of float64
        Rows of the grid, in rows of the exposure.
    inside : array of bool
        Pixels of the exposure that belong to the slit.
    region, core : array of bool
        Pixels of the grid that do, and these without the ends of the slit.
    profile : array of float64
        Sum of a column about one; NaN where there is no model.
    share : array of float64
        Share of the flux of a pixel that each of its parts gets: 1 for surface brightness.
    """

    factor: float
    place: Array = array("[slit] row")
    inside: Array = array("[slit] y x")
    region: Array = array("[slit] row x")
    core: Array = array("[slit] row x")
    profile: Array = array("[slit] row x")
    share: Array = array("[slit]")

    def nearest(self, values: Array) -> Array:
        """Return the values of the nearest pixels of the exposure; what is beyond it has any."""
        xp = array_namespace(values)
        row = xp.clip(xp.round(self.place), 0, values.shape[-2] - 1).astype(int)
        return xp.take_along_axis(values, xp.asarray(row)[..., None], axis=-2)

    def interpolate(self, values: Array) -> Array:
        """Interpolate linearly between the finite values of each column of a slit.

        Beyond the first and the last one these hold. NaN outside of the slit, and in columns
        with too few finite values.
        """
        xp = array_namespace(values)
        good = xp.isfinite(values) & xp.asarray(self.inside)
        between = bridge_rows(values, good, self.place)
        enough = xp.sum(good, axis=-2, keepdims=True) > _FEWEST
        nan = xp.asarray(xp.nan, dtype=values.dtype)
        return xp.where(enough & xp.asarray(self.region), between, nan)

    def linear(self, flux: Array) -> Array:
        """Return interpolated fluxes, without the ends of the slit and next to bad pixels."""
        xp = array_namespace(flux)
        good = xp.isfinite(self.nearest(flux)) & xp.asarray(self.core)
        return xp.where(good, self.interpolate(flux), xp.asarray(xp.nan, dtype=flux.dtype))

    def residual(self, flux: Array, model: Array) -> Array:
        """Return interpolated differences from the model, without the ends of the slit."""
        xp = array_namespace(flux, model)
        between = self.interpolate((flux.astype(model.dtype) - model).astype(flux.dtype))
        return xp.where(xp.asarray(self.core), between, xp.asarray(xp.nan, dtype=flux.dtype))

    def errors(self, error: Array, estimated: Array) -> Array:
        """Return interpolated standard errors, larger for the covariance of the parts of a pixel.

        A bad pixel has none but where its flux is `estimated`.
        """
        xp = array_namespace(error)
        good = estimated | xp.isfinite(self.nearest(error))
        growth = _GROWTH * self.factor + 1.0 - _GROWTH
        grown = self.interpolate(error) * xp.asarray(growth, dtype=error.dtype)
        return xp.where(good, grown, xp.asarray(xp.nan, dtype=error.dtype))

"""Linear operators from spectra to detector count rates of integral-field exposures.

As in :mod:`spec2fn.forward.operators`, the calibration is read backwards: where a pixel looks
comes from ``assign_wcs``, the conversion from flux to counts from the very steps that calibrate,
applied to ones. A pixel sees the part of the image of a star that falls on the piece of its slice
that it covers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.forward.gaussian import enclosed
from spec2fn.forward.operators import (
    Sampled,
    SurfaceOperator,
    cut,
    illuminated,
    ones_like,
    through,
    wavelength_cells,
)
from spec2fn.plan_base import array
from spec2fn.plans.cubes.cube_geometry import layout_of, slice_frame
from spec2fn.schema import meta_of
from spec2fn.typing import Array, HostArray
from spec2fn.units import ARCSEC2_TO_SR, MJY_TO_JY
from spec2fn.wcs.cube_grid import project
from spec2fn.wcs.evaluate import evaluate_between

if TYPE_CHECKING:
    import xarray as xr

    from spec2fn.engine.step import Step

__all__ = ["IfuOperator", "ifu_operators"]


class IfuOperator(Sampled):
    """A point source in an integral-field unit.

    Attributes
    ----------
    lower, upper, near, far : array, shape (y, x)
        Ends of the pixel along the slice and edges of the slice, relative to the source [arcsec].
    sigma : array, shape (y, x)
        Standard deviation of the image of a point source [arcsec].
    grid, index, fraction, gain, flat, window
        See :class:`~spec2fn.forward.operators.Sampled`; `gain` [DN/s per Jy] is the count rate if
        all the light fell in the pixel.
    """

    lower: Array = array("y x")
    upper: Array = array("y x")
    near: Array = array("y x")
    far: Array = array("y x")
    sigma: Array = array("y x")

    def image(self, place: Array | None = None) -> Array:
        """Share of the light; `place` moves the source along and across the slices [arcsec]."""
        along, across = (0.0, 0.0) if place is None else (place[0], place[1])
        image = enclosed(self.lower - along, self.upper - along, self.sigma)
        return image * enclosed(self.near - across, self.far - across, self.sigma)


def ifu_operators(
    ds: xr.Dataset,
    references: Mapping[str, xr.Dataset],
    grid: HostArray,
    *,
    target: tuple[float, float],
    sigma: Callable[[HostArray], HostArray],
) -> tuple[SurfaceOperator, IfuOperator]:
    """Build the operators of uniform light and of a point source.

    Parameters
    ----------
    ds : xarray.Dataset
        Exposure after ``assign_wcs`` (its pixel values do not matter).
    references : mapping
        Datasets by type: those of the flats, ``fringe``, ``pathloss``, ``photom``, ``area``. The
        flats are those that the detector has, not those that were measured.
    grid : array, shape (n,)
        Wavelengths [um], ascending, which cover those of the exposure.
    target : (float, float)
        Right ascension and declination of the source [deg].
    sigma : callable
        Standard deviation of its image [arcsec] by wavelength [um].

    Returns
    -------
    sky : SurfaceOperator
    point : IfuOperator

    Raises
    ------
    spec2fn.errors.DatasetError
        If the grid does not cover the wavelengths of the exposure.
    """
    from spec2fn.steps.flat_field import flat_field

    ends = _outlines(ds, target)
    gains = {}
    for kind in ("EXTENDED", "POINT"):
        ones = ones_like(ds.assign_attrs(source_type=kind))
        gains[kind] = np.asarray(through(ones, _steps(ds), references)["sci"].data, np.float64)
    divided = np.asarray(through(ones, (flat_field,), references)["sci"].data, np.float64)
    wave = np.asarray(ds["wavelength"].data, dtype=np.float64)
    lit = np.isfinite(wave) & np.isfinite(divided) & (divided > 0) & np.isfinite(ends).all(0)
    for value in gains.values():
        lit &= np.isfinite(value) & (value > 0)
    window = illuminated(lit)
    seen = cut(window)
    lit = lit[seen]
    wave, cells = wavelength_cells(grid, wave[seen], lit)
    lower, upper, near, far = (np.where(lit, e[seen], 0.0) for e in ends)
    area = (upper - lower) * (far - near) * ARCSEC2_TO_SR * MJY_TO_JY
    gain = {k: 1.0 / np.where(lit, v[seen], np.inf) for k, v in gains.items()}
    flat = 1.0 / np.where(lit, divided[seen], 1.0)
    shared: dict[str, Any] = {**cells, "flat": flat, "window": window}
    sky = SurfaceOperator(**shared, gain=gain["EXTENDED"], profile=np.ones(wave.shape))
    point = IfuOperator(
        **shared,
        gain=gain["POINT"] / np.where(lit, area, 1.0),
        lower=lower,
        upper=upper,
        near=near,
        far=far,
        sigma=sigma(wave),
    )
    return sky, point


def _steps(ds: xr.Dataset) -> tuple[Step, ...]:
    """Steps after the flat that convert to surface brightness."""
    from spec2fn.steps.fringe import fringe
    from spec2fn.steps.pathloss import pathloss
    from spec2fn.steps.photom import photom

    return (fringe, photom) if ds.attrs.get("instrument") == "MIRI" else (pathloss, photom)


def _outlines(ds: xr.Dataset, target: tuple[float, float]) -> HostArray:
    """Ends of the pixels along the slices and edges of the slices, (4, y, x) [arcsec].

    Relative to the target; NaN outside the slices. A pixel counts as a rectangle.
    """
    layout = layout_of(ds)
    wcs = meta_of(ds).wcs
    label = np.asarray(ds["slice_id"].data)
    place = np.stack(project(ds["ra"].data, ds["dec"].data, target))
    step = _steps_along(place, label, layout.along)
    length = np.hypot(*step)
    numbers = np.unique(label[(label > 0) & np.isfinite(length)])
    pixels = np.array([_median_pixel(label, length, n) for n in numbers])
    along, across, third = slice_frame(ds, wcs, pixels)
    group = numbers // 100 if ds.attrs.get("instrument") == "MIRI" else 0 * numbers
    beside = []
    for side in (-0.5, 0.5):
        moved = across + side * _widths(across, group)
        position = (along, moved) if layout.along == 1 else (moved, along)
        ra, dec, _ = evaluate_between(wcs, layout.frame, None, *position, third)
        beside.append(project(ra, dec, target))
    width_of = np.full((2, int(label.max()) + 1), np.nan)
    width_of[:, numbers] = np.array(beside[1]) - np.array(beside[0])
    with np.errstate(invalid="ignore", divide="ignore"):
        unit = step / length
    normal = np.stack([-unit[1], unit[0]])
    width = (width_of[:, label] * normal).sum(0)
    middle, offset = (place * unit).sum(0), (place * normal).sum(0)
    half = np.abs(width) / 2
    return np.stack([middle - length / 2, middle + length / 2, offset - half, offset + half])


def _steps_along(place: HostArray, label: HostArray, axis: int) -> HostArray:
    """Mean step on the sky to the next pixels of the slice, (2, y, x)."""
    front, back = (slice(1, None), slice(None)), (slice(None, -1), slice(None))
    if axis == 1:
        front, back = front[::-1], back[::-1]
    step = place[(slice(None), *front)] - place[(slice(None), *back)]
    known = (label[front] == label[back]) & (label[back] > 0) & np.isfinite(step).all(0)
    step = np.where(known, step, 0.0)
    total, count = np.zeros(place.shape), np.zeros(label.shape)
    for part in (front, back):
        total[(slice(None), *part)] += step
        count[part] += known
    return np.where(count > 0, total, np.nan) / np.maximum(count, 1)


def _median_pixel(label: HostArray, length: HostArray, number: int) -> int:
    (own,) = np.nonzero(((label == number) & np.isfinite(length)).reshape(-1))
    return int(own[own.size // 2])


def _widths(across: HostArray, group: HostArray) -> HostArray:
    """Distance to the next slice of the same channel."""
    out = np.empty(across.shape)
    for number in np.unique(group):
        own = np.sort(across[group == number])
        out[group == number] = np.median(np.diff(own))
    return out

"""Linear operators from spectra to detector count rates of integral-field exposures.

As in :mod:`spec2fn.forward.operators`, the calibration is read backwards: where a pixel looks
comes from ``assign_wcs``, the conversion from flux to counts from the very steps that calibrate,
applied to ones. A pixel sees the part of the image of a star that falls on the piece of its slice
that it covers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.forward.operators import (
    Sampled,
    SceneOperator,
    SurfaceOperator,
    gaussian_fractions,
    wavelength_cells,
)
from spec2fn.kernels.namespace import array_namespace
from spec2fn.kernels.straylight import cross_artifact, row_profiles
from spec2fn.plan_base import array
from spec2fn.plans.background.straylight import COLUMNS, plan_straylight
from spec2fn.plans.cubes.cube_geometry import layout_of, slice_frame
from spec2fn.plans.cubes.cube_grid import project
from spec2fn.schema import meta_of, replace_data
from spec2fn.typing import Array
from spec2fn.units import ARCSEC2_TO_SR
from spec2fn.wcs.tangent_grid import evaluate_between

if TYPE_CHECKING:
    import xarray as xr

    from spec2fn.engine.step import Step

__all__ = ["IfuOperator", "Scattered", "StrayLight", "ifu_operators", "stray_light"]

_MEGA = 1e6
_EDGE = 4  # reference columns, which see no light


class IfuOperator(Sampled):
    """Flux density of a point source on a wavelength grid → count rate of the pixels of a window.

    Attributes
    ----------
    grid, index, fraction, gain, flat, window
        As of :class:`~spec2fn.forward.operators.SpectralOperator`; `gain` is the count rate if
        all the light fell in the pixel.
    lower, upper, near, far : array, shape (y, x)
        Ends of the pixel along the slice and edges of the slice, relative to the source [arcsec].
    sigma : array, shape (y, x)
        Standard deviation of the image of a point source [arcsec].
    """

    lower: Array = array("y x")
    upper: Array = array("y x")
    near: Array = array("y x")
    far: Array = array("y x")
    sigma: Array = array("y x")

    def __call__(self, flux: Array, shift: Array | None = None, flat: Array | None = None) -> Array:
        """Count rate [DN/s] of a point source.

        Parameters
        ----------
        flux : array, shape (..., n)
            Flux density [Jy] on the grid, linear in between.
        shift : (float, float), optional
            Moves the source along and across the slices [arcsec].
        flat : optional
            Replaces that of the operator.

        Returns
        -------
        array, shape (..., y, x)
        """
        return self._apply(flux, shift, flat)

    def weights(self, shift: Array | None = None, flat: Array | None = None) -> Array:
        """Count rate per flux density at each pixel's wavelength [DN/s per Jy], shape (y, x)."""
        along, across = (0.0, 0.0) if shift is None else (shift[0], shift[1])
        image = gaussian_fractions(self.lower, self.upper, along, self.sigma)
        image = image * gaussian_fractions(self.near, self.far, across, self.sigma)
        return (self.flat if flat is None else flat) * self.gain * image


@dataclass(frozen=True, eq=False)
class StrayLight:
    """Light of an image that the MRS detector scatters along its rows, added to it.

    The inverse of what ``straylight`` subtracts, to the order of the series.

    Attributes
    ----------
    halves : tuple of (slice, array)
        Columns of the sources of a channel, and the transform of their profile.
    order : int
        Times that light is scattered.
    """

    halves: tuple[tuple[slice, Array], ...]
    order: int = 4

    def __call__(self, image: Array) -> Array:
        """Add the scattered light, image (..., y, x) [DN/s]."""
        total = image
        for _ in range(self.order):
            total = image + self._once(total)
        return total

    @property
    def T(self) -> Callable[[Array], Array]:  # noqa: N802 - the name arrays use for it
        """The adjoint: image → image."""
        return self._adjoint

    def _adjoint(self, image: Array) -> Array:
        total = image
        for _ in range(self.order):
            total = image + self._back(total)
        return total

    def _once(self, image: Array) -> Array:
        return self._inner(image) * cross_artifact(image, self.halves)

    def _back(self, image: Array) -> Array:
        # profiles are even, so that only the order of the masks changes
        seen = self._inner(image) * image
        whole = slice(0, image.shape[-1])
        out = 0.0 * image
        for columns, profile in self.halves:
            part = cross_artifact(seen, [(whole, profile)])
            out = out + self._mask(image, columns) * part
        return out

    @staticmethod
    def _mask(image: Array, columns: slice) -> Array:
        xp = array_namespace(image)
        place = np.arange(image.shape[-1])
        inside = (place >= columns.start) & (place < columns.stop)
        return xp.asarray(inside, dtype=image.dtype)

    def _inner(self, image: Array) -> Array:
        return self._mask(image, slice(_EDGE, image.shape[-1] - _EDGE))


@dataclass(frozen=True, eq=False)
class Scattered:
    """Spectra of the sources → count rates of an MRS exposure, with the light it scatters.

    Attributes
    ----------
    scene : SceneOperator
    stray : StrayLight
    """

    scene: SceneOperator
    stray: StrayLight

    @property
    def parts(self) -> tuple[Any, ...]:
        """Operators of the sources."""
        return self.scene.parts

    def __call__(self, spectra: Sequence[Array]) -> Array:
        """Count rate [DN/s], shape (..., y, x), of the spectra of the parts."""
        return self.stray(self.scene(spectra))

    @property
    def T(self) -> Callable[[Array], list[Array]]:  # noqa: N802 - the name arrays use for it
        """The adjoint: image of the exposure (y, x) → spectra of the parts."""
        return self._adjoint

    def _adjoint(self, image: Array) -> list[Array]:
        return self.scene.T(self.stray.T(image))


def stray_light(ds: xr.Dataset, mrsxartcorr: xr.Dataset) -> StrayLight:
    """Build the operator of the scattered light of an MRS exposure.

    Parameters
    ----------
    ds : xarray.Dataset
        Its pixel values do not matter.
    mrsxartcorr : xarray.Dataset
    """
    plan = plan_straylight(ds, mrsxartcorr)
    width = ds["sci"].shape[-1]
    halves = []
    for table, first, stop in plan.halves:
        columns = {
            c: np.asarray(mrsxartcorr[f"{table}.{c}"].data).astype(np.float64) for c in COLUMNS
        }
        halves.append((slice(first, stop), row_profiles(**columns, width=width)))
    return StrayLight(tuple(halves))


def ifu_operators(
    ds: xr.Dataset,
    references: Mapping[str, Any],
    grid: Array,
    *,
    target: tuple[float, float],
    sigma: Callable[[Array], Array],
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
        ones = _of_ones(ds.assign_attrs(source_type=kind))
        gains[kind] = np.asarray(_through(ones, _steps(ds), references)["sci"].data, np.float64)
    divided = np.asarray(_through(ones, (flat_field,), references)["sci"].data, np.float64)
    wave = np.asarray(ds["wavelength"].data, dtype=np.float64)
    lit = np.isfinite(wave) & np.isfinite(divided) & (divided > 0) & np.isfinite(ends).all(0)
    for value in gains.values():
        lit &= np.isfinite(value) & (value > 0)
    rows, columns = np.nonzero(lit.any(1))[0], np.nonzero(lit.any(0))[0]
    window = ((int(rows[0]), int(rows[-1]) + 1), (int(columns[0]), int(columns[-1]) + 1))
    cut = tuple(slice(*w) for w in window)
    lit = lit[cut]
    wave, index, fraction = wavelength_cells(np.asarray(grid, np.float64), wave[cut], lit)
    lower, upper, near, far = (np.where(lit, e[cut], 0.0) for e in ends)
    area = (upper - lower) * (far - near) * ARCSEC2_TO_SR * _MEGA
    gain = {k: 1.0 / np.where(lit, v[cut], np.inf) for k, v in gains.items()}
    shared: dict[str, Any] = {
        "grid": np.asarray(grid, np.float64),
        "index": index,
        "fraction": fraction,
        "flat": 1.0 / np.where(lit, divided[cut], 1.0),
        "window": window,
    }
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


def _of_ones(ds: xr.Dataset) -> xr.Dataset:
    one = np.ones(ds["sci"].shape, np.float32)
    planes: dict[str, Any] = dict.fromkeys(("sci", "err", "var_poisson", "var_rnoise"), one)
    return replace_data(ds, None, **planes, dq=np.zeros(one.shape, np.uint32))


def _through(ds: xr.Dataset, steps: Sequence[Step], references: Mapping[str, Any]) -> xr.Dataset:
    for step in steps:
        ds = step(ds, *(references.get(r) for r in step.refs))
    return ds


def _outlines(ds: xr.Dataset, target: tuple[float, float]) -> Array:
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


def _steps_along(place: Array, label: Array, axis: int) -> Array:
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


def _median_pixel(label: Array, length: Array, number: int) -> int:
    (own,) = np.nonzero(((label == number) & np.isfinite(length)).reshape(-1))
    return int(own[own.size // 2])


def _widths(across: Array, group: Array) -> Array:
    """Distance to the next slice of the same channel."""
    out = np.empty(across.shape)
    for number in np.unique(group):
        own = np.sort(across[group == number])
        out[group == number] = np.median(np.diff(own))
    return out

"""The linear operator from a spectrum to detector count rates.

It is the calibration read backwards: wavelength and position along the slit of every pixel come
from the gwcs of ``assign_wcs``; the conversion from counts to flux from the ``photom`` and
``pathloss`` steps applied to ones; only the image of a point source across the dispersion is
added. Everything is planned once on the host; application is array work for NumPy and JAX.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import numpy as np

from spec2fn.errors import DatasetError
from spec2fn.forward.gaussian import enclosed
from spec2fn.forward.lrs.instrument import sigma as lrs_sigma
from spec2fn.kernels.namespace import array_namespace, is_jax
from spec2fn.plan_base import Plan, array
from spec2fn.schema import meta_of, replace_data, require, set_scalars
from spec2fn.typing import Array, HostArray

if TYPE_CHECKING:
    import gwcs
    import xarray as xr
    from astropy.modeling import Model

    from spec2fn.engine.step import Step
    from spec2fn.forward.mrs.stray_light import StrayLight
    from spec2fn.pieces import Exposure

__all__ = [
    "Sampled",
    "SceneOperator",
    "SpectralOperator",
    "SurfaceOperator",
    "cut",
    "illuminated",
    "ones_like",
    "operator",
    "through",
    "wavelength_cells",
]

Window: TypeAlias = tuple[tuple[int, int], tuple[int, int]]
"""First and last (exclusive) row, and column."""
E = TypeVar("E", bound="Exposure")


class Sampled(Plan, abc.ABC):
    """Spectrum on a wavelength grid → count rate of the pixels of a window of the detector.

    Linear in the spectrum and in the flat. Kinds of sources differ in :meth:`image`.

    Attributes
    ----------
    grid : array, shape (n,)
        Wavelengths [um], ascending.
    index : integer array, shape (y, x)
        Grid point below the wavelength of each pixel.
    fraction : array, shape (y, x)
        Distance to it, in units of the grid spacing.
    gain : array, shape (y, x)
        Count rate per unit of the spectrum; zero where the detector is not illuminated.
    flat : array, shape (y, x)
        Response of the pixel.
    window : tuple of (int, int)
        First and last (exclusive) row and column on the detector.
    """

    grid: Array = array("wave")
    index: Array = array("y x")
    fraction: Array = array("y x")
    gain: Array = array("y x")
    flat: Array = array("y x")
    window: Window

    def __call__(
        self, spectrum: Array, place: Array | None = None, flat: Array | None = None
    ) -> Array:
        """Count rate [DN/s].

        Parameters
        ----------
        spectrum : array, shape (..., n)
            On the grid, linear in between: flux density [Jy] of a point source, surface
            brightness [MJy/sr] of an extended one.
        place : optional
            Of the source, in place of that of the operator; see :meth:`image`.
        flat : optional
            In place of that of the operator.

        Returns
        -------
        array, shape (..., y, x)
        """
        spectrum = spectrum if is_jax(spectrum) else np.asarray(spectrum)
        below = spectrum[..., self.index]
        above = spectrum[..., self.index + 1]
        return self.weights(place, flat) * (below + self.fraction * (above - below))

    @property
    def shape(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shapes of the result and of the argument."""
        return tuple(self.gain.shape), tuple(self.grid.shape)

    @abc.abstractmethod
    def image(self, place: Array | None = None) -> Array:
        """Light of the source that each pixel gets, shape (y, x)."""

    def weights(self, place: Array | None = None, flat: Array | None = None) -> Array:
        """Count rate per unit of the spectrum at each pixel's wavelength, shape (y, x)."""
        return (self.flat if flat is None else flat) * self.gain * self.image(place)

    def T(self, image: Array, place: Array | None = None, flat: Array | None = None) -> Array:  # noqa: N802 - the name arrays use for it
        """Apply the adjoint: image (y, x) → grid (n,); otherwise as the operator."""
        weighted = self.weights(place, flat) * image
        if array_namespace(weighted) is not np:
            import jax

            zero = jax.ShapeDtypeStruct(self.grid.shape, weighted.dtype)
            return jax.linear_transpose(lambda f: self(f, place, flat), zero)(
                jax.numpy.asarray(image, dtype=weighted.dtype)
            )[0]
        n = len(self.grid)
        index = np.asarray(self.index).ravel()
        share = np.ravel(weighted * self.fraction)
        out = np.bincount(index, np.ravel(weighted) - share, n)
        return out + np.bincount(index + 1, share, n)

    def dense(self) -> Array:
        """Matrix of shape (y * x, n); for small windows."""
        pixels = np.arange(self.gain.size)
        weights = np.ravel(self.weights())
        index, fraction = np.ravel(self.index), np.ravel(self.fraction)
        out = np.zeros((self.gain.size, len(self.grid)))
        out[pixels, index] = weights * (1 - fraction)
        out[pixels, index + 1] += weights * fraction
        return out

    def embed(self, image: Array, shape: tuple[int, int]) -> Array:
        """Put an image of the window (..., y, x) into zeros of the whole detector `shape`."""
        (y0, y1), (x0, x1) = self.window
        out = np.zeros((*image.shape[:-2], *shape), dtype=image.dtype)
        out[..., y0:y1, x0:x1] = image
        return out


class SpectralOperator(Sampled):
    """A point source in a slit; differentiable in flux, source position and flat.

    Attributes
    ----------
    lower, upper : array, shape (y, x)
        Ends of the pixel along the slit [pixel], in the units of `position`.
    sigma : array, shape (y, x)
        Standard deviation of the image of a point source [pixel].
    position : float
        Position of the source along the slit [pixel].
    grid, index, fraction, gain, flat, window
        See :class:`Sampled`; `gain` [DN/s per Jy] is the count rate if all the light of a row (or
        column, across the dispersion) fell in the pixel.
    """

    lower: Array = array("y x")
    upper: Array = array("y x")
    sigma: Array = array("y x")
    position: float

    def image(self, place: Array | None = None) -> Array:
        """Share of the light that each pixel gets; `place` is a position along the slit."""
        position = self.position if place is None else place
        return enclosed(self.lower - position, self.upper - position, self.sigma)


class SurfaceOperator(Sampled):
    """An extended source.

    Attributes
    ----------
    profile : array, shape (y, x)
        Surface brightness of the source at the pixel relative to the spectrum.
    grid, index, fraction, gain, flat, window
        See :class:`Sampled`; `gain` in DN/s per MJy/sr.
    """

    profile: Array = array("y x")

    def image(self, place: Array | None = None) -> Array:
        """Relative surface brightness at each pixel; `place` is another profile."""
        return self.profile if place is None else place


@dataclass(frozen=True, eq=False)
class SceneOperator:
    """Spectra of many sources → count rates of a whole exposure: the sum of its parts.

    Attributes
    ----------
    parts : tuple of Sampled
        Their windows may overlap.
    detector : tuple of int
        Rows and columns of the exposure.
    stray : StrayLight, optional
        Light that the detector scatters.
    """

    parts: tuple[Sampled, ...]
    detector: tuple[int, int]
    stray: StrayLight | None = None

    def __call__(self, spectra: Sequence[Array]) -> Array:
        """Count rate [DN/s], shape (..., y, x).

        Parameters
        ----------
        spectra : sequence of array, shape (..., n)
            Of each part, in its units, on its grid.
        """
        rates = [op(s) for op, s in zip(self.parts, spectra, strict=True)]
        xp = array_namespace(*rates)
        lead = np.broadcast_shapes(*(r.shape[:-2] for r in rates))
        out = xp.zeros((*lead, *self.detector), dtype=rates[0].dtype)
        for op, rate in zip(self.parts, rates, strict=True):
            (y0, y1), (x0, x1) = op.window
            if xp is np:
                out[..., y0:y1, x0:x1] += rate
            else:
                out = out.at[..., y0:y1, x0:x1].add(rate)
        return out if self.stray is None else self.stray(out)

    def T(self, image: Array) -> list[Array]:  # noqa: N802 - the name arrays use for it
        """Apply the adjoint: image of the exposure (y, x) → spectra of the parts."""
        if self.stray is not None:
            image = self.stray.T(image)
        return [op.T(image[cut(op.window)]) for op in self.parts]


def ones_like(ds: xr.Dataset) -> xr.Dataset:
    """Return an exposure, or a bucket of slits, of ones, to read the gain of steps from."""
    shape = ds["sci"].shape
    names = [n for n in ("sci", "err", "var_poisson", "var_rnoise") if n in ds]
    planes = dict.fromkeys(names, np.ones(shape, np.float32))
    return replace_data(ds, None, **planes, dq=np.zeros(shape, np.uint32))


def through(exposure: E, steps: Sequence[Step], references: Mapping[str, xr.Dataset]) -> E:
    """Apply steps with the references they take."""
    for step in steps:
        exposure = step(exposure, *(references.get(r) for r in step.refs))
    return exposure


def illuminated(lit: HostArray) -> Window:
    """Return the smallest window that holds all illuminated pixels."""
    rows, columns = np.nonzero(lit.any(1))[0], np.nonzero(lit.any(0))[0]
    return ((int(rows[0]), int(rows[-1]) + 1), (int(columns[0]), int(columns[-1]) + 1))


def cut(window: Window) -> tuple[slice, slice]:
    """Return the slices of a window."""
    return slice(*window[0]), slice(*window[1])


def wavelength_cells(
    grid: HostArray, wave: HostArray, lit: HostArray
) -> tuple[HostArray, dict[str, HostArray]]:
    """Place the wavelengths [um] (y, x) of illuminated pixels on an ascending grid.

    Returns
    -------
    wave : array, shape (y, x)
        With the shortest wavelength where a pixel is not illuminated.
    cells : dict of str to array
        ``grid``, ``index`` and ``fraction`` of :class:`Sampled`.

    Raises
    ------
    DatasetError
        If the grid does not cover the wavelengths.
    """
    grid = np.asarray(grid, dtype=np.float64)
    low, high = wave[lit].min(), wave[lit].max()
    if low < grid[0] or high > grid[-1]:
        msg = (
            f"forward.operator: the exposure covers {low:.3f} to {high:.3f} um, the grid"
            f" {grid[0]:.3f} to {grid[-1]:.3f} um; extend the grid"
        )
        raise DatasetError(msg)
    wave = np.where(lit, wave, low)
    index = np.clip(np.searchsorted(grid, wave, side="right") - 1, 0, len(grid) - 2)
    fraction = (wave - grid[index]) / (grid[index + 1] - grid[index])
    return wave, {"grid": grid, "index": index, "fraction": fraction}


def operator(
    ds: xr.Dataset,
    references: Mapping[str, xr.Dataset],
    grid: HostArray,
    *,
    position: tuple[float, float],
    sigma: Callable[[HostArray], HostArray] = lrs_sigma,
    flat: HostArray | None = None,
) -> SpectralOperator:
    """Build the operator of a point source in a long-slit or slitless exposure.

    Parameters
    ----------
    ds : xarray.Dataset
        Exposure after ``assign_wcs`` (its pixel values do not matter).
    references : mapping
        Datasets by type: ``photom``; ``pathloss`` and ``flat`` where they apply.
    grid : array, shape (n,)
        Wavelengths [um], ascending, which cover those of the exposure.
    position : (float, float)
        Detector column and row [pixel, from 0] where the source's undispersed image falls, as
        ``source_xpos`` and ``source_ypos``.
    sigma : callable
        Standard deviation of the image [pixel] by wavelength [um].
    flat : array, shape (y, x), optional
        Response of the pixels; default: the ``flat`` reference, or one.

    Returns
    -------
    SpectralOperator
        On the window of the detector that is illuminated.

    Raises
    ------
    spec2fn.errors.DatasetError
        If there is no WCS, or the grid does not cover the wavelengths of the exposure.
    """
    require(ds, ("wavelength",), "forward.operator")
    wcs = meta_of(ds).wcs
    if wcs is None:
        msg = "forward.operator: the exposure has no WCS; run assign_wcs first"
        raise DatasetError(msg)
    if "integration" in ds.dims:
        ds = ds.isel(integration=0)
    gain_all = _gain(ds, references, position)
    wave = np.asarray(ds["wavelength"].data)
    lit = np.isfinite(gain_all) & np.isfinite(wave)
    if not lit.any():
        msg = "forward.operator: no pixel has a wavelength and a flux conversion"
        raise DatasetError(msg)
    window = illuminated(lit)
    seen = cut(window)
    lit, wave, gain = lit[seen], wave[seen], np.where(lit, gain_all, 0.0)[seen]
    wave, cells = wavelength_cells(grid, wave, lit)
    lower, upper = _pixel_ends(wcs, window)
    if flat is None:
        reference = references.get("flat")
        flat = np.ones(ds["sci"].shape) if reference is None else reference["sci"].data
    response = np.asarray(flat, dtype=np.float64)[seen]
    return SpectralOperator(
        **cells,
        gain=gain,
        lower=np.where(lit, lower, 0.0),
        upper=np.where(lit, upper, 0.0),
        sigma=sigma(wave),
        flat=np.where(np.isfinite(response), response, 1.0),
        position=float(position[0]),
        window=window,
    )


def _gain(
    ds: xr.Dataset, references: Mapping[str, xr.Dataset], position: tuple[float, float]
) -> HostArray:
    """Count rate per flux density [DN/s per Jy], NaN where there is none, shape (y, x)."""
    from spec2fn.steps.pathloss import pathloss
    from spec2fn.steps.photom import photom

    unit = set_scalars(ones_like(ds), source_xpos=position[0], source_ypos=position[1])
    steps = (photom,) if references.get("pathloss") is None else (pathloss, photom)
    unit = through(unit, steps, references)
    per_pixel = np.asarray(unit["sci"].data, dtype=np.float64)
    area = float(unit["pixar_sr"])
    with np.errstate(divide="ignore", invalid="ignore"):
        gain = 1.0 / (per_pixel * area * 1e6)
    return np.where(np.isfinite(gain), gain, np.nan)


def _pixel_ends(wcs: gwcs.WCS, window: Window) -> tuple[HostArray, HostArray]:
    """Coordinates along the slit [pixel] of the left and right ends of every pixel."""
    (y0, y1), (x0, x1) = window
    to_slit = wcs.get_transform("detector", "alpha_beta")
    y, x = np.mgrid[y0:y1, x0 : x1 + 1].astype(np.float64)
    alpha = to_slit(x - 0.5, y, with_bounding_box=False)[0]
    # alpha is an angle; the column it would have without distortion is what positions are in
    scale = np.nanmedian(np.diff(alpha, axis=1))
    origin = -_first_shift(to_slit)
    column = alpha / scale + origin
    return column[:, :-1], column[:, 1:]


def _first_shift(model: Model) -> float:
    from astropy.modeling.models import Shift

    for part in model.traverse_postorder():
        if isinstance(part, Shift):
            return float(part.offset.value)
    msg = "forward.operator: the WCS does not name the reference pixel of the aperture"
    raise DatasetError(msg)

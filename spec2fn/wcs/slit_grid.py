"""The rectified grid of a NIRSpec slit: wavelength along x, position along the slit along y.

A grid is a few numbers and two tables; pixels are found with it directly, and its gwcs is built
when somebody asks for it. Besides the sky, the WCS of a rectified slit keeps the coordinates
within the slit, by which the extraction finds the planned position of the source.

Source of the algorithm: JWST pipeline documentation, "resample_spec".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.deferred import DeferredWcs
from spec2fn.kernels.interpolation_linear import interpolate1d
from spec2fn.kernels.sphere import to_cartesian, to_spherical
from spec2fn.kernels.statistics import clip_bounds
from spec2fn.typing import Array, HostArray
from spec2fn.wcs.assign.nirspec_frames import frames
from spec2fn.wcs.evaluate import is_celestial
from spec2fn.wcs.lower import lower
from spec2fn.wcs.lowered import Lowered, chain
from spec2fn.wcs.msa_grid import MsaGrid
from spec2fn.wcs.tangent_grid import (
    column_wavelengths,
    line,
    middle_column,
    rows_along,
    with_shape,
)

if TYPE_CHECKING:
    from astropy.modeling import Model
    from gwcs import WCS
    from numpy.typing import ArrayLike

__all__ = [
    "LazyWcs",
    "Locator",
    "SlitGrid",
    "build_slit_grid",
    "nirspec_grid",
    "source_weights",
]

_OUTLIER = 100.0  # standard deviations; only pixels that are plainly wrong
_CLIPPINGS = 5


@dataclass(frozen=True, eq=False)
class SlitGrid:
    """A grid that is linear along the slit and tabulated in wavelength.

    Attributes
    ----------
    centre : tuple of float
        Right ascension and declination where the tangent plane touches the sky [deg].
    slope, intercept : tuple of float
        Of the two coordinates in the tangent plane [deg], per output row.
    main : {0, 1}
        The coordinate that varies more along the slit.
    wavelength : (x,) float64
        Ascending wavelengths of the columns [um].
    along : (y,) float64
        Position within the slit of the rows, in units of the height of the slit (shutter).
    """

    centre: tuple[float, float]
    slope: tuple[float, float]
    intercept: tuple[float, float]
    main: int
    wavelength: HostArray
    along: HostArray

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.along.size, self.wavelength.size

    def table(self) -> tuple[HostArray, HostArray]:
        """Columns and their wavelengths [um], with the outer edges of the first and last."""
        wave, column = self.wavelength, np.arange(self.wavelength.size, dtype=np.float64)
        if wave.size == 1:
            return np.array([-0.5, 0.0, 0.5]), np.repeat(wave, 3)
        low = wave[0] - 0.5 * (wave[1] - wave[0])
        high = wave[-1] + 0.5 * (wave[-1] - wave[-2])
        column = np.concatenate([[-0.5], column, [wave.size - 0.5]])
        return column, np.concatenate([[low], wave, [high]])

    def pixels(self, ra: HostArray, dec: HostArray, wavelength: HostArray) -> HostArray:
        """Return x and y (stacked in front) of world coordinates [deg, deg, um].

        NaN where the wavelength lies beyond the grid; rows are extrapolated.
        """
        column, wave = self.table()
        x = np.interp(wavelength, wave, column, left=np.nan, right=np.nan)
        plane = _to_plane(self.centre, ra, dec)[self.main]
        return np.stack([x, (plane - self.intercept[self.main]) / self.slope[self.main]])

    def sky(self, rows: ArrayLike) -> tuple[HostArray, HostArray]:
        """Return right ascension and declination [deg] of rows."""
        rows = np.asarray(rows, dtype=np.float64)
        x, y = (a + b * rows for a, b in zip(self.intercept, self.slope, strict=True))
        return _from_plane(self.centre, x, y)

    @property
    def invertible(self) -> bool:
        """Whether there is more than one row and one column."""
        return min(self.shape) > 1

    def world(self, x: Array, y: Array) -> tuple[Array, Array, Array]:
        """Return right ascension, declination [deg] and wavelength [um] of pixels."""
        column, wave = self.table()
        return (*self.sky(y), interpolate1d(column, wave, x, np.nan))

    def slit(self, x: Array, y: Array) -> tuple[Array, Array, Array]:
        """Return the position in the slit, across and along it, and wavelength [um] of pixels."""
        column, wave = self.table()
        along = interpolate1d(np.arange(self.along.size, dtype=np.float64), self.along, y)
        return np.zeros_like(along), along, interpolate1d(column, wave, x, np.nan)

    def detector(self, _across: Array, along: Array, wavelength: Array) -> tuple[Array, Array]:
        """Return the pixels of positions in the slit; the grid must be invertible."""
        column, wave = self.table()
        rows = np.arange(self.along.size, dtype=np.float64)
        turn = slice(None, None, 1 if self.along[-1] > self.along[0] else -1)
        return (
            interpolate1d(wave, column, np.asarray(wavelength), np.nan),
            interpolate1d(self.along[turn], rows[turn], np.asarray(along)),
        )

    def sized(self, output_shape: tuple[int, int] | None) -> SlitGrid | WCS:
        """Return this grid, or the gwcs for an output of (x, y) pixels if this is not None."""
        return self if output_shape is None else with_shape(self.gwcs(), output_shape[::-1])

    def gwcs(self) -> WCS:
        """Build the gwcs: frames ``detector``, ``slit_frame`` and ``world``."""
        return self.deferred().load()

    def deferred(self) -> DeferredWcs:
        """Return what stands for the gwcs until it is made."""
        (ny, nx), main = self.shape, self.main
        column, wave = self.table()
        numbers = (
            *self.centre, *self.slope, *self.intercept, column, wave,
            np.arange(ny, dtype=np.float64), self.along, ny, nx, ny - 0.5, nx - 0.5,
        )  # fmt: skip
        # tables of one element, or of one value, have no inverse that could be written
        upwards = bool(self.along[-1] > self.along[0])
        kind = ("grid", main, upwards) if self.invertible else None
        return DeferredWcs(lambda *n: _build_gwcs(main, *n), numbers, kind)


class LazyWcs(Mapping[int, "WCS"]):
    """The gwcs of slits by id, built when they are looked up.

    Parameters
    ----------
    grids : mapping of int to SlitGrid, MsaGrid or gwcs.WCS
    """

    def __init__(self, grids: Mapping[int, SlitGrid | MsaGrid | WCS]) -> None:
        self._grids = dict(grids)
        self._made = {
            key: grid.deferred() if isinstance(grid, (SlitGrid, MsaGrid)) else grid
            for key, grid in grids.items()
        }

    def __getitem__(self, key: int) -> WCS:
        wcs = self._made[key]
        return wcs.load() if isinstance(wcs, DeferredWcs) else wcs

    def grid(self, key: int) -> SlitGrid | None:
        """Return the grid of a slit, or None where only the gwcs is known."""
        grid = self._grids[key]
        return grid if isinstance(grid, SlitGrid) else None

    def deferred(self, key: int) -> DeferredWcs | WCS:
        """Return the gwcs of a slit, or what stands for it until it is made."""
        return self._made[key]

    def __iter__(self) -> Iterator[int]:
        return iter(self._grids)

    def __len__(self) -> int:
        return len(self._grids)


def source_weights(image: HostArray) -> HostArray:
    """Return the weight of every pixel in the mean position of the light.

    Parameters
    ----------
    image : (y, x) float
        NaN where a pixel is not usable.

    Returns
    -------
    (y, x) float64
        The image above its minimum; 0 where it is NaN or a gross outlier.
    """
    known = np.isfinite(image)
    if not known.any():
        return np.zeros(image.shape)
    values = np.where(known, image, np.nan).astype(np.float64)
    values -= np.nanmin(values)
    low, high = clip_bounds(values.reshape(-1), _OUTLIER, _CLIPPINGS)
    with np.errstate(invalid="ignore"):
        return np.where(known & (values >= low) & (values <= high), values, 0.0)


def build_slit_grid(
    world: Sequence[HostArray],
    weight: HostArray,
    to_slit: Callable[..., Any],
    ratio: float = 1.0,
) -> SlitGrid | str:
    """Return the rectified grid of a slit, or why there is none.

    Parameters
    ----------
    world : tuple of (y, x) float64
        Right ascension, declination [deg] and wavelength [um] of the pixels; NaN outside.
    weight : (y, x) float64
        Weights of the pixels in the mean position, at which the tangent plane touches the sky.
    to_slit : callable
        From world coordinates to (x, y, wavelength) within the slit.
    ratio : float
        Input over output pixel size along the slit.

    Returns
    -------
    SlitGrid or str

    Notes
    -----
    The columns have the median wavelengths of the columns of the exposure. Direction and size of
    the rows are those of a straight line through the positions of the column in the middle; there
    is one row more than the spectrum needs, so that all of it is inside.
    """
    ra, dec, wavelength = world
    known = np.isfinite(wavelength)
    on_sky = np.isfinite(ra) & np.isfinite(dec)
    if not (known & on_sky).any():
        return "no pixel has a wavelength and a position"
    middle = middle_column(on_sky, (on_sky.shape[1] - 1) // 2)
    if middle is None:
        return "no column has positions from which a direction could be found"
    centre = _mean_direction(ra, dec, np.where(known & on_sky, weight, 0.0), known & on_sky)
    plane = np.full((2, *ra.shape), np.nan)
    plane[:, on_sky] = _to_plane(centre, ra[on_sky], dec[on_sky])
    here = on_sky[:, middle]
    slope = np.array([line(p[here, middle], ratio)[0] for p in plane])
    if not slope.any():
        return "all pixels look at the same position"
    main = int(abs(slope[0]) < abs(slope[1]))
    low, high = np.nanmin(plane, axis=(1, 2)), np.nanmax(plane, axis=(1, 2))
    rows = rows_along((high - low)[main], slope[main], ratio, extra=1)
    margin = rows / 2 * np.abs(slope) - (high - low) / 2
    intercept = np.where(slope > 0, low, high) - np.sign(slope) * margin
    grid = SlitGrid(
        centre=centre,
        slope=(float(slope[0]), float(slope[1])),
        intercept=(float(intercept[0]), float(intercept[1])),
        main=main,
        wavelength=column_wavelengths(wavelength, known),
        along=np.zeros(rows),
    )
    return _with_positions(grid, to_slit)


class Locator:
    """Finds positions within slits; transforms that slits share are lowered once."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Model, Lowered]] = {}

    def __call__(self, wcs: WCS) -> Lowered | None:
        """Return the transform from the world to the slit, or None if the gwcs has no slit."""
        frames = [getattr(f, "name", f) for f in wcs.available_frames]
        if "slit_frame" not in frames[:-1]:
            return None
        found: Lowered | None = None
        for part in reversed(wcs.pipeline[frames.index("slit_frame") : -1]):
            one = self._inverse(part.transform)
            found = one if found is None else chain(found, one)
        return found

    def _inverse(self, transform: Model) -> Lowered:
        # the transform is kept, so that no other one gets its identity
        if id(transform) not in self._known:
            self._known[id(transform)] = transform, lower(transform.inverse)
        return self._known[id(transform)][1]


def nirspec_grid(
    wcs: WCS,
    world: Sequence[HostArray],
    image: HostArray,
    ratio: float,
    locate: Locator | None = None,
) -> SlitGrid | str:
    """Return the rectified grid of a NIRSpec slit, or why there is none.

    As :func:`build_slit_grid`, from the gwcs of the slit (with a frame ``slit_frame``), and the
    pixels (y, x) themselves; slits of an exposure share a `locate`.
    """
    to_slit = (locate or Locator())(wcs) if is_celestial(wcs) else None
    if to_slit is None:
        frames = ", ".join(str(getattr(f, "name", f)) for f in wcs.available_frames)
        return f"no rule makes an output grid for frames {frames}; give output_wcs"
    return build_slit_grid(world, source_weights(image), to_slit, ratio)


def _with_positions(grid: SlitGrid, to_slit: Callable[..., Any]) -> SlitGrid | str:
    ra, dec = grid.sky(np.arange(grid.shape[0]))
    column = grid.wavelength[grid.shape[1] // 2]
    along = np.asarray(to_slit(ra, dec, np.full(ra.shape, column))[1], dtype=np.float64)
    if not np.isfinite(along).all() or (along.size > 1 and not _monotonic(along)):
        return "positions on the sky have no position within the slit"
    return replace(grid, along=along)


def _monotonic(values: HostArray) -> bool:
    step = np.diff(values)
    return bool((step > 0).all() or (step < 0).all())


def _mean_direction(
    ra: HostArray, dec: HostArray, weight: HostArray, known: HostArray
) -> tuple[float, float]:
    w = weight[known] if weight.any() else np.ones(int(known.sum()))
    vector = to_cartesian(np.deg2rad(ra[known]), np.deg2rad(dec[known]))
    lon, lat = to_spherical(*(np.average(v, weights=w) for v in vector))
    return float(np.rad2deg(lon) % 360.0), float(np.rad2deg(lat))


def _to_plane(centre: tuple[float, float], ra: ArrayLike, dec: ArrayLike) -> HostArray:
    # gnomonic projection [deg], x towards east and y towards north
    dec0, a, d = (np.deg2rad(v) for v in (centre[1], np.asarray(ra) - centre[0], dec))
    sin, cos = np.sin(d), np.cos(d)
    depth = np.sin(dec0) * sin + np.cos(dec0) * cos * np.cos(a)
    north = np.cos(dec0) * sin - np.sin(dec0) * cos * np.cos(a)
    return np.rad2deg(np.stack([cos * np.sin(a) / depth, north / depth]))


def _from_plane(
    centre: tuple[float, float], x: HostArray, y: HostArray
) -> tuple[HostArray, HostArray]:
    x, y, dec0 = (np.deg2rad(v) for v in (x, y, centre[1]))
    lon, lat = to_spherical(np.cos(dec0) - y * np.sin(dec0), x, np.sin(dec0) + y * np.cos(dec0))
    return (np.rad2deg(lon) + centre[0]) % 360.0, np.rad2deg(lat)


def _build_gwcs(main: int, *numbers: float | HostArray) -> WCS:
    from astropy.modeling.models import (
        Const1D,
        Linear1D,
        Mapping,
        Pix2Sky_TAN,
        RotateNative2Celestial,
        Tabular1D,
    )
    from gwcs import WCS

    ra, dec, *lines, column, wave, rows, positions, ny, nx, top, right = numbers
    dispersion = Tabular1D(points=column, lookup_table=wave, bounds_error=False, fill_value=np.nan)
    x, y = (Linear1D(slope=lines[k], intercept=lines[k + 2]) for k in (0, 1))
    to_sky = Pix2Sky_TAN() | RotateNative2Celestial(ra, dec, 180)
    pick = Mapping((1, 1, 0))
    # the inverse takes the coordinate that varies more: the other may not vary at all
    pick.inverse = Mapping((2, 1) if main else (2, 0))
    to_world = pick | (x & y | to_sky) & dispersion

    along = Tabular1D(points=rows, lookup_table=positions, bounds_error=False, fill_value=None)
    split, join = Mapping((0, 1, 0)), Mapping((2, 1), n_inputs=3)
    split.inverse, join.inverse = join, split
    across = Const1D(0)
    across.inverse = across  # light is taken to come from the middle of the slit's width
    to_slit = split | across & along & dispersion
    named = frames()
    wcs = WCS(
        [
            (named["detector"], to_slit),
            (named["slit_frame"], to_slit.inverse | to_world),
            (named["world"], None),
        ]
    )
    wcs.array_shape = (ny, nx)
    wcs.bounding_box = ((-0.5, right), (-0.5, top))
    return wcs

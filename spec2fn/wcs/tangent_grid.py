"""The output grid of resampled spectra: rectified in wavelength and along the slit.

:func:`build_tangent_plane` serves long slits whose WCS goes straight to the sky (MIRI LRS). The
grid depends on the WCS and its bounding box only, never on pixel values.

Source of the algorithm: JWST pipeline documentation, "resample_spec".
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.errors import ParameterError
from spec2fn.typing import HostArray
from spec2fn.wcs.evaluate import SlitSamples, evaluate
from spec2fn.wcs.frames import plane, spectral, world
from spec2fn.wcs.s_region import unwrap_ra

if TYPE_CHECKING:
    from astropy.modeling import Model
    from gwcs import WCS

# An output nobody can want: fewer pixels along the slit, or more than so many to one of the input
# (or of a small image)
_FEWEST, _FINEST, _SMALL = 3, 64, 64
_SAME = 0.1  # of the smallest step: wavelengths closer than this are one
_ROUND_OFF = 100 * np.finfo(np.float64).eps

__all__ = [
    "GwcsGrid",
    "build_tangent_plane",
    "check_size",
    "column_wavelengths",
    "line",
    "middle_column",
    "rows_along",
    "with_shape",
]


@dataclass(frozen=True)
class GwcsGrid:
    """An output grid that is known by its gwcs: pixel (x, y) to (ra, dec, wavelength)."""

    wcs: WCS

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return tuple(self.wcs.array_shape)

    def sized(self, output_shape: tuple[int, int] | None) -> WCS:
        """Return the gwcs, for an output of (x, y) pixels if this is not None."""
        return self.wcs if output_shape is None else with_shape(self.wcs, output_shape[::-1])

    def pixels(self, ra: HostArray, dec: HostArray, wavelength: HostArray) -> HostArray:
        """Return x and y (stacked in front) of world coordinates [deg, deg, um]; NaN of NaN."""
        known = np.isfinite(ra) & np.isfinite(dec) & np.isfinite(wavelength)
        out = np.full((2, *known.shape), np.nan)
        if known.any():
            world = (ra[known], dec[known], wavelength[known])
            out[:, known] = evaluate(self.wcs, *world, inverse=True)
        return out

    def world(self, x: HostArray, y: HostArray) -> tuple[HostArray, ...]:
        """Return right ascension, declination [deg] and wavelength [um] of pixels."""
        return evaluate(self.wcs, x, y)


def line(values: HostArray, ratio: float) -> tuple[float, float]:
    """Slope and intercept of the least-squares line through values sampled every `ratio` pixels."""
    index = np.arange(values.size) * ratio
    slope, intercept = np.polyfit(index - index.mean(), values, 1)
    return float(slope), float(intercept - slope * index.mean())


def _wavelength_table(values: HostArray) -> Model:
    from astropy.modeling.models import Tabular1D

    pixels = np.arange(values.size)
    options: dict[str, Any] = {"bounds_error": False, "fill_value": None}
    table = Tabular1D(points=pixels, lookup_table=values, name="pix2wavelength", **options)
    # interpolation needs ascending points
    up = slice(None) if values[-1] > values[0] else slice(None, None, -1)
    table.inverse = Tabular1D(
        points=values[up], lookup_table=pixels[up], name="wavelength2pix", **options
    )
    return table


def build_tangent_plane(
    slit: SlitSamples, dispaxis: int, ratio: float, *, descending: bool
) -> WCS | None:
    """Return a gwcs that is linear along the slit and tabulates the wavelength of each row.

    Parameters
    ----------
    slit : SlitSamples
        Of the exposure: right ascension, declination [deg] and wavelength [um].
    dispaxis : {1, 2}
        Dispersion along x or y.
    ratio : float
        Input over output pixel size along the slit.
    descending : bool
        Whether wavelength falls with pixel number (as on the MIRI detector).

    Returns
    -------
    gwcs.WCS or None
        With bounding box and shape; None if no pixel has a wavelength.

    Notes
    -----
    The wavelength of an output row is the median over the input row. Positions on the sky are
    projected to the plane that touches the sky at the centre of the slit in the middle of the
    spectrum; a straight line through them there gives direction and pixel size.
    """
    from astropy.modeling.models import Linear1D, Mapping, Pix2Sky_TAN, RotateNative2Celestial
    from gwcs import WCS

    ra, dec, wavelength = slit.ra, slit.dec, slit.wavelength
    if dispaxis == 1:
        ra, dec, wavelength = ra.T, dec.T, wavelength.T
    has_wavelength = np.isfinite(wavelength).any(axis=1)
    on_sky = np.isfinite(ra) & np.isfinite(dec)
    low, high = slit.box[dispaxis - 1]
    middle = int((high - low) / 2)
    if not has_wavelength.any() or on_sky[middle].sum() < 2:
        return None
    waves = np.unique(np.nanmedian(wavelength[has_wavelength], axis=1))
    if waves.size < 2:
        return None
    if descending:
        waves = waves[::-1]

    row = on_sky[middle]
    centre = float(unwrap_ra(ra[middle, row]).mean()), float(dec[middle, row].mean())
    to_sky = Pix2Sky_TAN() | RotateNative2Celestial(*centre, 180)
    tangent = np.full((2, *ra.shape), np.nan)
    tangent[:, on_sky] = to_sky.inverse(ra[on_sky], dec[on_sky])
    lines = [line(t[middle, row], ratio) for t in tangent]
    slopes = np.array([slope for slope, _ in lines])
    # the axis with the larger slope carries the inverse: the other may not vary at all
    main = int(abs(slopes[0]) < abs(slopes[1]))
    extent = np.nanmax(tangent[main]) - np.nanmin(tangent[main])
    n = rows_along(extent, slopes[main], ratio)
    along = Linear1D(slope=slopes[0], intercept=-0.5 * (n - 1) * slopes[0]) & Linear1D(
        slope=slopes[1], intercept=-0.5 * (n - 1) * slopes[1]
    )
    across = 1 if dispaxis == 1 else 0  # pixel axis along the slit: y or x
    mapping = Mapping((across, across, 1 - across))
    mapping.inverse = Mapping((main, 2) if across == 0 else (2, main))
    transform = mapping | (along | to_sky) & _wavelength_table(waves)
    out = WCS([(plane("detector"), transform), (world(spectral()), None)])
    return with_shape(out, (n, waves.size) if dispaxis == 1 else (waves.size, n))


def rows_along(extent: float, slope: float, ratio: float, extra: int = 0) -> int:
    """Number of output pixels along a slit.

    Parameters
    ----------
    extent, slope : float
        Of the slit and of a pixel, in the same units.
    ratio : float
        Input over output pixel size, at which the pixels of the input are counted.
    extra : int
        Pixels to be added.

    Raises
    ------
    ParameterError
        If nobody can want as few, or as many.
    """
    exact = extent / abs(slope)
    before = exact / ratio
    if not min(_FEWEST, before) <= exact <= _FINEST * max(before, _SMALL):
        msg = (
            f"resample_spec: output pixels of 1/{ratio:g} of an input pixel make {exact:.3g} pixels"
            f" along a slit of {before:.3g}; correct pixel_scale_ratio or pixel_scale"
        )
        raise ParameterError(msg)
    return math.ceil(exact) + extra


def check_size(shape: tuple[int, int], shape_in: tuple[int, int]) -> None:
    """Raise :class:`ParameterError` for an output that is much larger than the input."""
    if math.prod(shape) > _FINEST * max(math.prod(shape_in), _SMALL**2):
        msg = (
            f"resample_spec: an output of {shape[1]} x {shape[0]} pixels for an input of"
            f" {shape_in[1]} x {shape_in[0]}; correct output_shape or output_wcs"
        )
        raise ParameterError(msg)


def with_shape(wcs: WCS, shape: tuple[int, int]) -> WCS:
    """Set shape (y, x) and bounding box of a new gwcs; return it."""
    ny, nx = shape
    wcs.array_shape = (int(ny), int(nx))
    wcs.bounding_box = ((-0.5, nx - 0.5), (-0.5, ny - 0.5))
    return wcs


def middle_column(known: HostArray, middle: int) -> int | None:
    """Return the column nearest to `middle` with two pixels (y, x) whose place is known."""
    usable = np.flatnonzero(known.sum(axis=0) >= 2)
    if not usable.size:
        return None
    return int(usable[np.argmin(np.abs(usable - middle))])


def column_wavelengths(wavelength: HostArray, known: HostArray) -> HostArray:
    """Return the median wavelengths of the columns with pixels that are `known`, ascending."""
    values = np.sort(np.nanmedian(wavelength[:, known.any(axis=0)], axis=0))
    step = np.diff(values)
    if not step.size:
        return values
    keep = step >= max(_SAME * step.min(), _ROUND_OFF)
    return values[np.concatenate([keep, [True]])]

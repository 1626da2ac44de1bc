"""What an order does to a spectrum before it reaches the pixels: throughput and resolution.

The kernel of the spectral resolution is tabulated in pixels, for a number of wavelengths. It is
interpolated by a bicubic spline, and the wavelengths of the trace say how long a pixel is.

A. Darveau-Bernier et al. 2022, PASP 134, 094502.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from spec2fn.errors import ReferenceError
from spec2fn.threads import in_threads
from spec2fn.typing import HostArray

__all__ = ["Rows", "SpectralKernel", "kernel_rows", "throughput_at"]

_ROWS = 256  # that are worked on at once, to stay in the cache


class Rows(NamedTuple):
    """A matrix whose rows are short pieces, each from a first column on.

    Attributes
    ----------
    first : int ndarray, (row,)
    values : ndarray, (row, tap)
        Zero behind the end of shorter ones; ``first + tap`` never lies beyond the last column.
    """

    first: HostArray
    values: HostArray


@dataclass(frozen=True)
class SpectralKernel:
    """The table of a speckernel reference.

    Attributes
    ----------
    pixels : int
        How many pixels of the detector the table covers (odd).
    wavelength : ndarray, (tap, centre)
        Central wavelengths [um], the same in all rows.
    values : ndarray, (tap, centre)
        Kernel at places that are evenly spaced from the first to the last pixel.
    """

    pixels: int
    wavelength: HostArray
    values: HostArray


def throughput_at(table: HostArray, wave: HostArray) -> HostArray:
    """Throughput by a cubic spline that ends flat, at zero.

    Parameters
    ----------
    table : ndarray, (2, n)
        Wavelength [um], ascending, and throughput. The first and the last value count as zero.
    wave : ndarray
        [um]; beyond the table the throughput is zero.

    Returns
    -------
    ndarray
        Of the shape of `wave`.
    """
    from scipy.interpolate import make_interp_spline

    x, y = table[0], table[1].copy()
    if x.size < 4 or not (np.diff(x) > 0).all():
        msg = f"a throughput needs four ascending wavelengths at least, found {x}"
        raise ReferenceError(msg)
    y[[0, -1]] = 0.0
    spline = make_interp_spline(x, y, k=3, bc_type=("clamped", "clamped"))
    return spline(np.clip(wave, x[0], x[-1]))


class _Resolution:
    """The kernel of one order as a function of wavelength and central wavelength."""

    def __init__(self, kernel: SpectralKernel, trace: HostArray) -> None:
        from scipy.interpolate import RectBivariateSpline

        self.reach = kernel.pixels // 2
        trace = np.where(np.isfinite(trace), trace, np.nan).astype(float)
        if np.nanmean(np.diff(trace)) < 0:
            trace = trace[::-1]
        places = np.linspace(-self.reach, self.reach, len(kernel.values))
        centre = kernel.wavelength[0].astype(float)
        start = int(np.searchsorted(centre, np.nanmin(trace)))
        stop = int(np.searchsorted(centre, np.nanmax(trace)))
        if stop - start < 4:
            msg = (
                "the speckernel reference needs four wavelengths at least between "
                f"{np.nanmin(trace):.3f} and {np.nanmax(trace):.3f} um, found"
                f" {max(stop - start, 0)}"
            )
            raise ReferenceError(msg)
        ends = centre[max(start - 1, 0)], centre[min(stop, len(centre) - 1)]
        values = kernel.values[:, start:stop].astype(float)
        self.smallest = float(values[values > 0].min())
        # kernels stand at the centre of the pixel that is nearest to their wavelength
        nearest = [int(np.nanargmin(np.abs(trace - c))) for c in centre[start:stop]]
        self.centre = trace[nearest]
        self.line = np.array([_line(trace, i, self.reach) for i in nearest])
        spline = RectBivariateSpline(places, self.centre, values, bbox=(None, None, *ends))
        tx, self.knots, coefficients = spline.tck
        self.coefficients = coefficients.reshape(len(tx) - 4, len(self.knots) - 4)
        self._pieces(tx, places)

    def _pieces(self, knots: HostArray, places: HostArray) -> None:
        """Prepare the polynomials between the knots along the pixels."""
        from scipy.interpolate import BSpline

        self.breaks = np.unique(knots)
        one = BSpline(knots, np.eye(len(knots) - 4), 3)
        factorial = (1.0, 1.0, 2.0, 6.0)
        self.taylor = [
            one.derivative(n)(self.breaks[:-1]) / factorial[n] if n else one(self.breaks[:-1])
            for n in range(4)
        ]
        # the places are even, so that a piece is found without a search
        self.step = float(places[1] - places[0])
        middle = 0.5 * (places[:-1] + places[1:])
        self.cell = np.searchsorted(self.breaks, middle, side="right") - 1

    def lines(self, centre: HostArray) -> tuple[HostArray, HostArray]:
        """Wavelength at the central pixel and per pixel, for central wavelengths."""
        i = np.clip(np.searchsorted(self.centre, centre) - 1, 0, len(self.centre) - 2)
        share = (centre - self.centre[i]) / (self.centre[i + 1] - self.centre[i])
        both = (1 - share)[:, None] * self.line[i] + share[:, None] * self.line[i + 1]
        return both[:, 0], both[:, 1]

    def __call__(self, pixel: HostArray, centre: HostArray) -> HostArray:
        """Kernel at pixels (row, tap) from the central wavelengths (row,)."""
        from scipy.interpolate import BSpline

        inside = np.clip(centre, self.knots[3], self.knots[-4])
        basis = BSpline.design_matrix(inside, self.knots, 3)
        along = (basis @ self.coefficients.T).T
        at = np.clip(((pixel + self.reach) / self.step).astype(int), 0, len(self.cell) - 1)
        piece = self.cell[at]
        away = np.clip(pixel, -self.reach, self.reach) - self.breaks[piece]
        out = np.zeros(pixel.shape)
        for taylor in reversed(self.taylor):
            out *= away
            out += np.take_along_axis((taylor @ along).T, piece, axis=1)
        return np.maximum(out, self.smallest)


def _line(trace: HostArray, pixel: int, reach: int) -> tuple[float, float]:
    """Straight line through the wavelengths around a pixel: value there, and slope."""
    place = np.arange(max(pixel - reach, 0), min(pixel + reach + 1, len(trace)))
    place = place[np.isfinite(trace[place])]
    x, y = place - pixel, trace[place]
    slope = ((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum()
    return float(y.mean() - slope * x.mean()), float(slope)


def kernel_rows(
    kernel: SpectralKernel, trace: HostArray, grid: HostArray, start: int, stop: int
) -> Rows:
    """Matrix that convolves a spectrum with the resolution of an order.

    Each row is the kernel around one wavelength times the trapezoidal weights, normalised.

    Parameters
    ----------
    kernel : SpectralKernel
    trace : ndarray, (disp,)
        Wavelength along the trace [um], NaN where there is none.
    grid : ndarray, (wave,)
        [um], ascending.
    start, stop : int
        Wavelengths of the grid at which the convolved spectrum is wanted.

    Returns
    -------
    Rows
        Of ``stop - start`` rows, columns are the wavelengths of the grid.

    Raises
    ------
    ReferenceError
        If the table has not four wavelengths within the trace.
    """
    resolution = _Resolution(kernel, trace)
    centre = grid[start:stop]
    value, slope = resolution.lines(centre)
    own = np.arange(start, stop)
    first = np.searchsorted(grid, value - resolution.reach * slope, side="left")
    last = np.searchsorted(grid, value + resolution.reach * slope, side="right") - 1
    first, last = np.minimum(first, own), np.maximum(last, own)
    taps = int((last - first).max()) + 1
    # the trapezoids end where the longest of the kernels does
    longest = int(max((own - first).max(), (last - own).max()))
    begin = np.minimum(first, len(grid) - taps)
    half = np.concatenate([[0.0], 0.5 * np.diff(grid), [0.0]])
    values = np.empty((len(own), taps))

    def fill(low: int) -> None:
        rows = slice(low, low + _ROWS)
        k = begin[rows, None] + np.arange(taps)
        pixel = (grid[k] - value[rows, None]) / slope[rows, None]
        from_own = k - own[rows, None]
        weight = half[k] * (from_own > -longest) + half[k + 1] * (from_own < longest)
        weight[(k < first[rows, None]) | (k > last[rows, None])] = 0.0
        weight *= resolution(pixel, centre[rows])
        values[rows] = weight / weight.sum(axis=1, keepdims=True)

    in_threads(fill, range(0, len(own), _ROWS))
    return Rows(begin, values)

"""Cross-dispersion profiles of a spectrum as cubic splines, one for every detector column.

The spline of a column is fitted by least squares to all pixels of the columns around it, each
divided by the sum of its column, so that the tilt and the curvature of the trace sample the
profile finer than the pixels do. Algorithm: adaptive trace model of the JWST calibration pipeline
(https://jwst-pipeline.readthedocs.io), after Law et al. 2023, AJ 166, 45.

Knots are evenly spaced, so that all columns share the same few polynomials between knots, and the
normal equations follow from sums of powers of the position within an interval. Many columns are
fitted at once: their pixels, sorted by position, follow each other in flat arrays, in which the
pixels of an interval are neighbours.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from spec2fn.typing import HostArray

__all__ = ["ColumnSplines", "SplineSettings", "fit_columns", "fit_some_columns", "native_spacing"]

DEGREE = 3
# Polynomials of the four B-splines of an interval: coefficients of powers of the position in it.
_BASIS = np.array([[1, -3, 3, -1], [4, 0, -6, 3], [1, 3, 3, -3], [0, 0, 0, 1]]) / 6.0
_FEWEST = 10  # pixels with which a fit is tried
_GAP = 5.0  # standard deviations of the distances of pixels: what is beyond ends a cluster
_CLIPPINGS = 5
_LEAST_KEPT = 0.8  # share of the pixels that rejection must leave
_RIDGE = 1e-12  # relative; keeps the factorisation of what nothing determines going
_LOST = 1e-8  # relative pivot that has lost half of its digits
_PAIRS = 1 << 16  # pixels of all windows worked on at once, which stay in the cache


@dataclass(frozen=True)
class SplineSettings:
    """How the profiles are fitted.

    Attributes
    ----------
    reach : int
        Columns that take part on either side.
    spacing : float
        Largest distance between pixels, in intervals between knots, with which a fit is tried
        (of the distances the tenth largest counts).
    sigma : float
        Pixels farther from the fit, in standard deviations, are left out of the next one.
    iterations : int
        Number of fits.
    knots : int, optional
        Number of intervals between knots; by default from the number of pixels along the slit.
    fewest : int, optional
        Columns must have more good pixels than these; by default from the same number.
    knots_per_pixel, fewest_per_pixel : float
        For these defaults.
    """

    reach: int
    spacing: float
    sigma: float = 2.5
    iterations: int = 3
    knots: int | None = None
    fewest: int | None = None
    knots_per_pixel: float = 2.0
    fewest_per_pixel: float = 0.5

    def counts(self, along: HostArray) -> tuple[int, int]:
        """Return the number of intervals and the fewest pixels, for positions (y, column)."""
        if self.knots is not None and self.fewest is not None:
            return self.knots, self.fewest
        pixels = (np.nanmax(along) - np.nanmin(along)) / native_spacing(along)
        return (
            int(self.knots_per_pixel * pixels) if self.knots is None else self.knots,
            int(self.fewest_per_pixel * pixels) if self.fewest is None else self.fewest,
        )


@dataclass(eq=False)
class ColumnSplines:
    """Splines of the columns of a slit; every array is (column,) but the coefficients.

    Attributes
    ----------
    known : array of bool
        Columns that have a spline.
    start, step : array of float64
        Where the first interval begins, and the length of all.
    last : array of int
        The last interval, which has no end, as the first has no beginning.
    low, high : array of float64
        Positions between which the spline holds.
    coefficients : array of float64, (column, last + DEGREE + 1)
    other : (ColumnSplines, array of float64), optional
        Further splines, and their share by column: 0 for columns that have one spline alone.
    """

    known: HostArray
    start: HostArray
    step: HostArray
    last: HostArray
    low: HostArray
    high: HostArray
    coefficients: HostArray
    other: tuple[ColumnSplines, HostArray] | None = None

    @classmethod
    def blank(cls, columns: int, size: int) -> ColumnSplines:
        """Make splines of which none is known yet."""
        zero = [np.zeros(columns) for _ in range(4)]
        return cls(
            np.zeros(columns, dtype=bool),
            zero[0],
            np.ones(columns),
            np.zeros(columns, dtype=np.intp),
            zero[1],
            zero[2],
            np.zeros((columns, size)),
        )

    def set(self, columns: HostArray, other: ColumnSplines, at: HostArray) -> None:
        """Take the splines `at` of others for some columns."""
        size = other.coefficients.shape[1]
        for name in ("known", "start", "step", "last", "low", "high"):
            getattr(self, name)[columns] = getattr(other, name)[at]
        self.coefficients[columns, :size] = other.coefficients[at]
        self.coefficients[columns, size:] = 0.0

    def holds(self, along: HostArray) -> HostArray:
        """Whether there is a spline at positions (y, column)."""
        with np.errstate(invalid="ignore"):
            inside: HostArray = (along >= self.low) & (along <= self.high) & self.known
        if self.other is not None:
            other, share = self.other
            inside &= other.holds(along) | (share == 0)
        return inside

    def __call__(self, along: HostArray) -> HostArray:
        """Return the profiles at positions (y, column); NaN where there is no spline."""
        row, column = np.nonzero(self.holds(along))
        u = (along[row, column] - self.start[column]) / self.step[column]
        interval = np.clip(u.astype(np.intp), 0, self.last[column])
        flat = self.coefficients.reshape(-1)
        first = interval + column * self.coefficients.shape[1]
        terms = _BASIS.T @ np.stack([flat[first + k] for k in range(DEGREE + 1)])
        out = np.full(along.shape, np.nan)
        out[row, column] = _horner(terms, u - interval)
        if self.other is not None:
            other, share = self.other
            out = np.where(share == 0, out, (1.0 - share) * out + share * other(along))
        return out


def _horner(terms: HostArray, t: HostArray) -> HostArray:
    value = terms[-1] * t
    for term in terms[-2:0:-1]:
        value += term
        value *= t
    value += terms[0]
    return value


def native_spacing(along: HostArray) -> float:
    """Return the distance of two pixels of a column, the median over positions (y, column)."""
    step = np.diff(along, axis=0)
    known = step[np.isfinite(step)]
    return float(np.abs(np.median(known))) if known.size else float("nan")


def fit_columns(
    flux: HostArray,
    along: HostArray,
    total: HostArray,
    settings: SplineSettings,
    order: HostArray,
    *,
    interpolate: bool = False,
) -> ColumnSplines:
    """Fit the profiles of the columns of a slit.

    Parameters
    ----------
    flux : array of float32, (y, column)
        NaN where a pixel is not usable.
    along : array of float32, (y, column)
        Positions along the slit; NaN outside of it.
    total : array, (column,)
        What the columns are divided by.
    settings : SplineSettings
    order : array of int, (column,)
        In which order columns lend their splines: one whose fit fails takes that of the one before.
    interpolate : bool
        It takes the mean of those on both sides instead, by distance, where there are two.

    Returns
    -------
    ColumnSplines
        Of profiles with a sum of about one.
    """
    scaled, wanted, knots = _start(flux, along, total, settings)
    out = _fit(scaled, along, np.flatnonzero(wanted), settings, knots)
    sequence = order[wanted[order]]
    done = out.known[sequence]
    begin = int(np.argmax(done)) if done.any() else len(sequence)
    if begin and knots > DEGREE:
        # as long as there is none to borrow, slightly fewer knots get over numerical trouble
        early = sequence[:begin]
        again = _fit(scaled, along, np.sort(early), settings, knots - DEGREE)
        first = np.flatnonzero(again.known[early])[:1]
        out.set(early[first], again, early[first])
    done = out.known[sequence]
    lender = np.maximum.accumulate(np.where(done, np.arange(len(sequence)), -1))
    borrows = ~done & (lender >= 0)
    fitted = np.flatnonzero(out.known)
    out.set(sequence[borrows], out, sequence[lender[borrows]])
    if interpolate and fitted.size:
        _interpolate(out, np.sort(sequence[borrows]), fitted)
    return out


def _interpolate(splines: ColumnSplines, columns: HostArray, fitted: HostArray) -> None:
    """Let columns between fitted ones have the mean of the splines on both sides."""
    columns = columns[(columns > fitted[0]) & (columns < fitted[-1])]
    place = np.searchsorted(fitted, columns)
    left, right = fitted[place - 1], fitted[place]
    other = ColumnSplines.blank(splines.known.size, splines.coefficients.shape[1])
    other.set(columns, splines, right)
    splines.set(columns, splines, left)
    share = np.zeros(splines.known.size)
    share[columns] = (columns - left) / (right - left)
    splines.other = other, share


def fit_some_columns(
    flux: HostArray, along: HostArray, total: HostArray, settings: SplineSettings
) -> ColumnSplines:
    """Fit the profiles of as few columns as reach all others, which take that of the nearest one.

    Parameters
    ----------
    flux, along, total, settings
        See :func:`fit_columns`.
    """
    scaled, wanted, knots = _start(flux, along, total, settings)
    columns = np.flatnonzero(wanted)
    out = _fit(scaled, along, columns[:: settings.reach], settings, knots)
    done = np.flatnonzero(out.known)
    if done.size:
        place = np.searchsorted((done[:-1] + done[1:]) / 2.0, columns)
        out.set(columns, out, done[place])
    return out


def _start(
    flux: HostArray, along: HostArray, total: HostArray, settings: SplineSettings
) -> tuple[HostArray, HostArray, int]:
    """Divided columns, which of them have enough pixels, and the number of intervals."""
    knots, fewest = settings.counts(along)
    with np.errstate(invalid="ignore", divide="ignore"):
        scaled = flux / total
    wanted = np.count_nonzero(np.isfinite(flux) & np.isfinite(along), axis=0) > fewest
    return scaled, wanted, knots


def _fit(
    scaled: HostArray, along: HostArray, columns: HostArray, settings: SplineSettings, knots: int
) -> ColumnSplines:
    out = ColumnSplines.blank(along.shape[1], knots + 1 + DEGREE)
    for part in _windows(scaled, along, columns, settings.reach):
        part.fit(settings, knots, out)
    return out


def _windows(
    scaled: HostArray, along: HostArray, columns: HostArray, reach: int
) -> Iterator[_Windows]:
    """The pixels that take part in the fit of each column, of some columns at a time."""
    usable = np.isfinite(scaled) & np.isfinite(along)
    before = np.concatenate([[0], np.cumsum(usable.sum(axis=0))])
    width = along.shape[1]
    first, end = np.maximum(columns - reach, 0), np.minimum(columns + reach, width)
    count = before[end] - before[first]
    batch = np.cumsum(count) // _PAIRS
    for number in np.unique(batch):
        mine = np.flatnonzero((batch == number) & (count >= _FEWEST))
        if not mine.size:
            continue
        left, right = first[mine].min(), end[mine].max()
        row, column = np.nonzero(usable[:, left:right])
        x, y = along[row, column + left], scaled[row, column + left]
        by_position = np.argsort(x)
        x, y, column = x[by_position], y[by_position], column[by_position].astype(np.int16)
        lower = (first[mine] - left).astype(np.int16)[:, None]
        upper = (end[mine] - left).astype(np.int16)[:, None]
        pixel = np.flatnonzero((column >= lower) & (column < upper))
        pixel -= np.repeat(np.arange(mine.size) * x.size, count[mine])
        yield _Windows(columns[mine], count[mine], x[pixel].astype(float), y[pixel].astype(float))


@dataclass(eq=False)
class _Windows:
    """Pixels of the windows of some columns, one window after the other, sorted by position."""

    columns: HostArray
    count: HostArray
    x: HostArray
    y: HostArray

    @property
    def first(self) -> HostArray:
        """Where the windows begin."""
        return np.concatenate([[0], np.cumsum(self.count[:-1])])

    def kept(self, pixels: HostArray) -> HostArray:
        """Number of the pixels of each window that are marked: nearly all are."""
        window = np.searchsorted(self.first, np.flatnonzero(~pixels), side="right") - 1
        return self.count - np.bincount(window, minlength=self.count.size)

    def take(self, windows: HostArray, pixels: HostArray, count: HostArray) -> _Windows:
        """Keep some windows (bool), and the pixels of these that are marked."""
        keep = pixels if windows.all() else pixels & np.repeat(windows, self.count)
        return _Windows(self.columns[windows], count[windows], self.x[keep], self.y[keep])

    def fit(self, settings: SplineSettings, knots: int, out: ColumnSplines) -> None:
        """Fit splines, leaving outliers out, and set them in `out`."""
        first = self.first
        low, high = self.x[first], self.x[first + self.count - 1]
        distance = np.abs(np.diff(self.x, prepend=0.0))
        distance[first] = np.abs(low)  # published so: to the origin
        limit, tenth = _typical(distance, self.count)
        near = distance <= np.repeat(limit, self.count)
        count = self.kept(near)
        part = self.take(count > 0, near, count)
        first = part.first
        spread = (part.x[first + part.count - 1] - part.x[first]).astype(np.float32)
        step = np.float32(settings.spacing) * (spread / np.float32(knots))
        tried = (tenth[count > 0] <= step) & (spread > 0)
        part = part.take(tried, np.ones(part.x.size, dtype=bool), part.count)
        bounds = {int(c): (a, b) for c, a, b in zip(self.columns, low, high, strict=True)}
        least = _LEAST_KEPT * part.count
        for iteration in range(settings.iterations):
            if not part.columns.size:
                return
            splines, terms, interval, runs = part.solve(knots)
            for name, k in (("low", 0), ("high", 1)):
                setattr(splines, name, np.array([bounds[int(c)][k] for c in part.columns]))
            solved = np.flatnonzero(splines.known)
            out.set(part.columns[solved], splines, solved)
            if iteration == settings.iterations - 1:
                return
            residual = part.y - _horner(np.repeat(terms, runs, axis=1), interval)
            first = part.first
            mean = np.add.reduceat(residual, first) / part.count
            square = np.add.reduceat(residual * residual, first) / part.count
            rms = np.sqrt(np.maximum(square - mean * mean, 0.0))
            keep = np.abs(residual) <= np.repeat(settings.sigma * rms, part.count)
            count = part.kept(keep)
            on = splines.known & (count >= least) & (count < part.count)
            part = part.take(on, keep, count)
            least = least[on]

    def solve(self, knots: int) -> tuple[ColumnSplines, HostArray, HostArray, HostArray]:
        """Fit a spline to each window.

        Returns
        -------
        splines : ColumnSplines
            By window.
        terms : array, (DEGREE + 1, run)
            Polynomials in the intervals that have pixels.
        t : array, (pixel,)
            Positions within the intervals.
        runs : array of int, (run,)
            Pixels of each of these intervals.
        """
        from scipy.linalg import cho_solve_banded, cholesky_banded

        number, first = self.count.size, self.first
        splines = ColumnSplines.blank(number, knots + 1 + DEGREE)
        self._place(splines, knots)
        size = splines.coefficients.shape[1]
        t = (self.x - np.repeat(splines.start, self.count)) / np.repeat(splines.step, self.count)
        interval = np.minimum(t.astype(np.intp), np.repeat(splines.last, self.count))
        t -= interval
        interval += np.repeat(np.arange(number) * size, self.count)
        begin = np.concatenate([[0], np.flatnonzero(np.diff(interval)) + 1])
        at = interval[begin]
        # sums of powers of the position, and of these times the values
        powers = np.empty((2 * DEGREE + 1, at.size))
        products = np.empty((DEGREE + 1, at.size))
        runs = np.diff(begin, append=t.size)
        powers[0] = runs
        power, weighted = t.copy(), self.y.copy()
        products[0] = np.add.reduceat(weighted, begin)
        for k in range(1, 2 * DEGREE + 1):
            powers[k] = np.add.reduceat(power, begin)
            power *= t
            if k <= DEGREE:
                weighted *= t
                products[k] = np.add.reduceat(weighted, begin)
        bands = np.zeros((DEGREE + 1, number * size))
        vector = np.zeros(number * size)
        right = _BASIS @ products
        for a in range(DEGREE + 1):
            vector[at + a] += right[a]
            for b in range(a, DEGREE + 1):
                bands[b - a, at + a] += np.convolve(_BASIS[a], _BASIS[b]) @ powers
        used = np.arange(size) <= splines.last[:, None] + DEGREE
        diagonal = bands[0].copy()
        bands[0] = np.where(diagonal > 0, diagonal * (1.0 + _RIDGE), 1.0)
        factor = cholesky_banded(bands, lower=True, check_finite=False)
        solution = cho_solve_banded((factor, True), vector, check_finite=False)
        pivot = np.square(factor[0])
        lost = (used & (pivot < _LOST * diagonal).reshape(number, size)).any(axis=1)
        splines.known[:] = ~(used & (diagonal <= 0).reshape(number, size)).any(axis=1)
        splines.coefficients[:] = np.where(used, solution.reshape(number, size), 0.0)
        for one in np.flatnonzero(lost & splines.known):
            k = int(one)
            mine = slice(first[k], first[k] + self.count[k])
            self._orthogonal(splines, int(k), t[mine], interval[mine] - k * size, self.y[mine])
        flat = splines.coefficients.reshape(-1)
        terms = _BASIS.T @ np.stack([flat[at + k] for k in range(DEGREE + 1)])
        return splines, terms, t, runs

    def _place(self, splines: ColumnSplines, knots: int) -> None:
        """Put the knots half an interval inside of the outermost pixels.

        In single precision, which decides whether one more knot fits in at the end.
        """
        first = self.first
        low = self.x[first].astype(np.float32)
        high = self.x[first + self.count - 1].astype(np.float32)
        step = (high - low) / np.float32(knots)
        begin = low + step / np.float32(2)
        inner = np.ceil(((high - step / np.float32(2)) - begin) / step).astype(np.intp)
        step = (begin + step) - begin
        splines.step[:] = step
        splines.start[:] = begin.astype(float) - splines.step
        splines.last[:] = inner

    def _orthogonal(
        self, splines: ColumnSplines, k: int, t: HostArray, interval: HostArray, y: HostArray
    ) -> None:
        """Fit one window by orthogonal reduction, which does not square the condition."""
        used = splines.last[k] + DEGREE + 1
        matrix = np.zeros((t.size, used))
        values = _BASIS @ t ** np.arange(DEGREE + 1)[:, None]
        for a in range(DEGREE + 1):
            matrix[np.arange(t.size), interval + a] = values[a]
        solution, _, rank, _ = np.linalg.lstsq(matrix, y, rcond=None)
        splines.coefficients[k, :used] = solution
        splines.known[k] = rank == used


def _typical(distance: HostArray, count: HostArray) -> tuple[HostArray, HostArray]:
    """Return by window the largest usual distance of neighbours, and the tenth largest of all."""
    number, most = count.size, int(count.max())
    ordered = np.full((number, most), np.inf)
    ordered[np.arange(most) < count[:, None]] = distance
    ordered.sort(axis=1)
    lane = np.arange(number)
    tenth = ordered[lane, count - _FEWEST]
    known = np.where(np.isfinite(ordered), ordered, 0.0)
    sums, squares = (
        np.concatenate([np.zeros((number, 1)), np.cumsum(a, axis=1)], axis=1)
        for a in (known, known * known)
    )
    first, last = np.zeros(number, dtype=np.intp), count.copy()

    def moments() -> tuple[HostArray, HostArray]:
        n = last - first
        mean = (sums[lane, last] - sums[lane, first]) / n
        square = (squares[lane, last] - squares[lane, first]) / n
        return mean, np.sqrt(np.maximum(square - mean * mean, 0.0))

    for _ in range(_CLIPPINGS):
        n = last - first
        middle = ordered[lane, first + (n - 1) // 2] + ordered[lane, first + n // 2]
        reach = 3.0 * moments()[1][:, None]
        below = np.count_nonzero(ordered < 0.5 * middle[:, None] - reach, axis=1)
        within = np.count_nonzero(ordered <= 0.5 * middle[:, None] + reach, axis=1)
        new_first, new_last = np.maximum(below, first), np.minimum(within, last)
        if (new_first == first).all() and (new_last == last).all():
            break
        first, last = new_first, new_last
    mean, rms = moments()
    return mean + _GAP * rms, tenth

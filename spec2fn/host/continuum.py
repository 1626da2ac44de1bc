"""Continuum and spectral lines of spectra with fringes, many spectra at once.

Every function works on float64 arrays (spectrum, pixel). The algorithms are those of the
residual fringe correction of the JWST calibration pipeline
(https://jwst-pipeline.readthedocs.io): envelopes are monotone cubic interpolations (F. N. Fritsch
and J. Butland 1984, SIAM J. Sci. Stat. Comput. 5, 300) between local extrema, lines are features
that stick out of the lower envelope, and the continuum is a spline with about one knot per fringe
period, fitted by least squares with iterated biweights.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spec2fn.typing import HostArray

__all__ = [
    "Spline",
    "bridge",
    "envelope",
    "extrema",
    "find_knots",
    "fit_baseline",
    "flag_lines",
    "reject_runaways",
    "unclipped",
]

DOMAIN = 10.0  # of the biweight [standard deviations]
TOLERANCE = 1e-4
USABLE_WEIGHT = 1e-5
FEWEST_PERIODS = 5


def extrema(signal: HostArray, reach: int = 1) -> tuple[HostArray, HostArray]:
    """Local minima and maxima: pixels strictly below or above their `reach` neighbours.

    Returns
    -------
    minima, maxima : array of bool, (spectrum, pixel)
        False within `reach` of the ends.
    """
    n = signal.shape[1]
    middle = signal[:, reach : n - reach]
    minima = np.zeros(signal.shape, dtype=bool)
    maxima = np.zeros(signal.shape, dtype=bool)
    low = np.ones(middle.shape, dtype=bool)
    high = low.copy()
    for k in range(1, reach + 1):
        for other in (signal[:, reach - k : n - reach - k], signal[:, reach + k : n - reach + k]):
            low &= middle < other
            high &= middle > other
    minima[:, reach : n - reach], maxima[:, reach : n - reach] = low, high
    return minima, maxima


def envelope(signal: HostArray, nodes: HostArray) -> HostArray:
    """Monotone cubic interpolation of `signal` between `nodes` and the ends.

    Parameters
    ----------
    signal : array, (spectrum, pixel)
    nodes : array of bool, (spectrum, pixel)

    Returns
    -------
    array, (spectrum, pixel)
    """
    n = signal.shape[1]
    at = nodes.copy()
    at[:, 0] = at[:, -1] = True
    rows, x = np.nonzero(at)
    y = signal[rows, x]
    first = np.flatnonzero(np.diff(rows, prepend=-1))
    last = np.append(first[1:], len(rows)) - 1
    h = np.diff(x).astype(float)  # of the interval that begins at a node; wrong at `last`
    slope = np.append(np.diff(y) / np.where(h > 0, h, 1.0), 0.0)
    h = np.append(np.where(h > 0, h, 1.0), 1.0)
    d = np.zeros(len(rows))
    inner = np.ones(len(rows), dtype=bool)
    inner[first] = inner[last] = False
    k = np.flatnonzero(inner)
    before, after = slope[k - 1], slope[k]
    w1, w2 = 2.0 * h[k] + h[k - 1], h[k] + 2.0 * h[k - 1]
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = (w1 + w2) / (w1 / before + w2 / after)
    d[k] = np.where(before * after > 0, mean, 0.0)
    many = last - first > 1
    for end, side, other in ((first, 0, 1), (last - 1, 0, -1)):
        node = first if other == 1 else last
        one, two = slope[end + side], slope[np.where(many, end + other, end)]
        h1, h2 = h[end], h[np.where(many, end + other, end)]
        edge = ((2.0 * h1 + h2) * one - h1 * two) / (h1 + h2)
        edge = np.where(np.sign(edge) != np.sign(one), 0.0, edge)
        steep = (np.sign(one) != np.sign(two)) & (np.abs(edge) > 3.0 * np.abs(one))
        edge = np.where(steep, 3.0 * one, edge)
        d[node] = np.where(many, edge, one)
    interval = np.cumsum(at, axis=1) - 1
    interval[:, -1] -= 1
    j = interval + first[:, None]
    t = (np.arange(n) - x[j]) / h[j]
    bend = h[j] * t * (1.0 - t)
    out: HostArray = y[j] + (y[j + 1] - y[j]) * t * t * (3.0 - 2.0 * t)
    out += bend * (d[j] * (1.0 - t) - d[j + 1] * t)
    return out


def flag_lines(excess: HostArray, limit: HostArray) -> HostArray:
    """Weights 0 at spectral lines and 1 elsewhere.

    A peak higher than `limit` is a line, from the trough before it to that after it; so is every
    pixel left that is twice as high.

    Parameters
    ----------
    excess : array, (spectrum, pixel)
        Relative distance from the lower envelope.
    limit : array, (spectrum, pixel)
    """
    troughs, peaks = extrema(excess)
    flat = np.abs(excess) <= 1e-8
    alone = ~(flat[:, :-2] & flat[:, 1:-1] & flat[:, 2:])
    troughs[:, 1:-1] &= alone
    peaks[:, 1:-1] &= alone
    left = excess.copy()
    weights = np.ones(excess.shape)
    for row, peak in zip(*np.nonzero(peaks & (excess > limit)), strict=True):
        low = np.flatnonzero(troughs[row])
        if not low.size:
            continue
        for x in (peak - 1, peak, peak + 1):
            nearest = low[np.argsort(np.abs(low - x))[:2]]
            left[row, nearest.min() : nearest.max()] = 0.0
            weights[row, nearest.min() : nearest.max()] = 0.0
    with np.errstate(invalid="ignore"):
        weights[left > 2.0 * limit] = 0.0
    return weights


def unclipped(excess: HostArray, sigma: float) -> HostArray:
    """Whether values of one spectrum survive one-sided sigma clipping about their median."""
    kept = excess[np.isfinite(excess)]
    for _ in range(5):
        inside = kept[kept <= np.median(kept) + sigma * np.std(kept)]
        if inside.size == kept.size:
            break
        kept = inside
    if not kept.size:
        return np.zeros(excess.shape, dtype=bool)
    out: HostArray = excess < np.median(kept) + sigma * np.std(kept)
    return out


def find_knots(flux: HostArray, weights: HostArray, number: int) -> HostArray:
    """Pixels with a knot: `number` regular ones, and one at every edge of unusable pixels.

    Returns
    -------
    array of bool, (spectrum, pixel)
        Without the ends.
    """
    n = flux.shape[1]
    width = n / number
    last = n - 1 - round((number - 1) * width)
    regular = np.arange(number) * width + 0.5 * last
    usable = np.maximum(np.nan_to_num(weights, posinf=1e-8, neginf=1e-8), 0.0)
    usable = np.where(np.nan_to_num(flux, posinf=1e-8, neginf=1e-8) > 1e-3, usable, 0.0)
    before, after = usable[:, :-1], usable[:, 1:]
    larger, jump = np.maximum(before, after), np.abs(after - before)
    edge = (larger > 1e-3) & (larger - jump <= 0.1 * np.maximum(larger, jump))
    position = np.arange(n - 1) + (after > before)
    whole = np.append(regular, (0.0, n - 1.0))
    edge &= ~(np.isin(position - 1, whole) | np.isin(position + 1, whole))
    knots = np.zeros(flux.shape, dtype=bool)
    knots[:, regular.astype(int)] = True
    rows, pixel = np.nonzero(edge)
    knots[rows, position[rows, pixel]] = True
    knots[:, 0] = knots[:, -1] = False
    return knots


@dataclass(frozen=True, eq=False)
class Spline:
    """Splines with knots at pixels, as coefficients times local basis functions.

    Attributes
    ----------
    basis : array of float64, (degree + 1, spectrum, pixel)
        Values of the B-splines that are not zero at a pixel.
    index : array of int, (spectrum, pixel)
        Of the first of them.
    size : int
        Number of coefficients of the spectrum that has the most.
    x : array of float64, (spectrum, pixel)
        Abscissae.
    """

    basis: HostArray
    index: HostArray
    size: int
    x: HostArray

    @classmethod
    def of(cls, x: HostArray, knots: HostArray, degree: int) -> Spline:
        """Make the basis for increasing abscissae `x`; `degree` is 1 or 2."""
        index = np.cumsum(knots, axis=1)
        size = int(index[:, -1].max()) + 1 + degree
        rows, pixel = np.nonzero(knots)
        t = np.repeat(x[:, -1:], size + degree + 1, axis=1)
        t[:, : degree + 1] = x[:, :1]
        t[rows, index[rows, pixel] + degree] = x[rows, pixel]

        def knot(k: int) -> HostArray:
            return np.take_along_axis(t, index + k, axis=1)

        lower, upper = knot(degree), knot(degree + 1)
        right = (upper - x) / (upper - lower)
        left = 1.0 - right
        if degree == 1:
            return cls(np.stack([right, left]), index, size, x)
        first = right * (upper - x) / (upper - knot(1))
        third = left * (x - lower) / (knot(4) - lower)
        return cls(np.stack([first, 1.0 - first - third, third]), index, size, x)

    def take(self, rows: HostArray) -> Spline:
        """Keep spectra `rows`."""
        return Spline(self.basis[:, rows], self.index[rows], self.size, self.x[rows])

    def fit(self, y: HostArray, power: HostArray) -> HostArray:
        """Least-squares splines at every pixel, with squared weights `power`.

        A coefficient that no pixel determines, and all below it, are NaN.
        """
        degree = len(self.basis) - 1
        spectra, n = y.shape
        starts = np.flatnonzero(np.diff(self.index, axis=1, prepend=-1).ravel())
        rows, slot = starts // n, self.index.ravel()[starts]
        bands = np.zeros((degree + 1, self.size + degree, spectra))
        vector = np.zeros((self.size + degree, spectra))
        for a in range(degree + 1):
            weighted = power * self.basis[a]
            vector[slot + a, rows] += np.add.reduceat((weighted * y).ravel(), starts)
            for b in range(a, degree + 1):
                product = (weighted * self.basis[b]).ravel()
                bands[b - a, slot + a, rows] += np.add.reduceat(product, starts)
        sizes = self.index[:, -1] + degree + 1
        coefficients, lost = _solve_banded(bands[:, : self.size], vector[: self.size], sizes)
        lines = np.arange(spectra)[:, None]
        out = np.zeros(y.shape)
        for a in range(degree + 1):
            out += self.basis[a] * coefficients[self.index + a, lines]
        for k in np.flatnonzero(lost):
            out[k] = self._reduced(int(k), y[k], power[k])
        return out

    def _reduced(self, k: int, y: HostArray, power: HostArray) -> HostArray:
        # by orthogonal reduction, which does not square the condition
        from scipy.interpolate import LSQUnivariateSpline

        x, degree = self.x[k], len(self.basis) - 1
        inner = np.flatnonzero(np.diff(self.index[k])) + 1
        try:
            spline = LSQUnivariateSpline(x, y, x[inner], w=np.sqrt(power), k=degree)
        except ValueError:  # knots without data between them
            return np.full(y.shape, np.nan)
        out: HostArray = spline(x)
        return np.where(np.isfinite(out), out, np.nan)


def _solve_banded(
    bands: HostArray, vector: HostArray, sizes: HostArray
) -> tuple[HostArray, HostArray]:
    """Solve symmetric systems, (coefficient, spectrum), of given sizes, from their diagonals.

    Returns also in which systems a pivot lost half of its digits to rounding.
    """
    width, n, spectra = bands.shape
    used = np.arange(n)[:, None] < sizes
    dead = np.cumsum((~(bands[0] > 0) & used)[::-1], axis=0)[::-1] > 0  # and all below
    # the place of a pivot that is lost to rounding is taken by a tiny one
    floor = np.where(bands[0] > 0, 1e-15 * bands[0], 1e-20)
    pivot = np.where(bands[0] > 0, bands[0], 1.0)
    factor = np.zeros((width, n, spectra))
    lost = np.zeros(spectra, dtype=bool)
    z = vector.copy()
    for j in range(n):
        lost |= pivot[j] < 1e7 * floor[j]
        p = pivot[j] = np.maximum(pivot[j], floor[j])
        for k in range(1, min(width, n - j)):
            f = bands[k, j] / p
            factor[k, j] = f
            pivot[j + k] -= f * bands[k, j]
            z[j + k] -= f * z[j]
            for m in range(k + 1, min(width, n - j)):
                bands[m - k, j + k] -= f * bands[m, j]
    z /= pivot
    for j in range(n - 2, -1, -1):
        for k in range(1, min(width, n - j)):
            z[j] -= factor[k, j] * z[j + k]
    z[dead] = np.nan
    return z, lost


def bridge(values: HostArray, weights: HostArray) -> HostArray:
    """Replace `values` where there is no weight by linear interpolation between pixels."""
    good = ~(weights < USABLE_WEIGHT)
    n = values.shape[1]
    pixel = np.arange(n)
    before = np.maximum.accumulate(np.where(good, pixel, -1), axis=1)
    after = np.minimum.accumulate(np.where(good, pixel, n)[:, ::-1], axis=1)[:, ::-1]
    left = np.where(before < 0, after, before)
    right = np.where(after >= n, before, after)
    any_good = good.any(axis=1, keepdims=True)
    left, right = np.where(any_good, left, 0), np.where(any_good, right, 0)
    a, b = np.take_along_axis(values, left, axis=1), np.take_along_axis(values, right, axis=1)
    t = (pixel - left) / np.maximum(right - left, 1)
    return np.where(good | ~any_good, values, a + t * (b - a))


def fit_baseline(
    flux: HostArray, weights: HostArray, wavenumber: HostArray, knots: HostArray, *, robust: bool
) -> tuple[HostArray, HostArray]:
    """Fit the continuum.

    Parameters
    ----------
    flux, weights : array of float64, (spectrum, pixel)
    wavenumber : array of float64, (spectrum, pixel)
        Monotonic, in either direction; scaled to about 1.
    knots : array of bool, (spectrum, pixel)
    robust : bool
        Fit quadratic splines, with iterated biweights, instead of linear ones.

    Returns
    -------
    continuum : array, (spectrum, pixel)
        NaN where the weights do not suffice, interpolated where they are below 1e-5.
    possible : array of bool, (spectrum,)
        Whether the wavenumbers are monotonic.
    """
    turn = slice(None, None, -1) if wavenumber[0, 0] > wavenumber[0, -1] else slice(None)
    x, y, w, at = (a[:, turn] for a in (wavenumber, flux, weights, knots))
    possible = np.all(np.diff(x, axis=1) >= 0, axis=1)
    edges = at.copy()
    edges[:, [0, -1]] = True
    rows, pixel = np.nonzero(edges)
    same = (np.diff(rows) == 0) & ~(np.diff(x[rows, pixel]) > 0)  # knots in one place
    possible[rows[1:][same]] = False
    continuum = np.full(y.shape, np.nan)
    ok = np.flatnonzero(possible)
    if ok.size and robust:
        spline = Spline.of(x[ok], at[ok], 2)
        continuum[ok] = _iterate(spline, y[ok], w[ok], at[ok].sum(axis=1) + 6)
    elif ok.size:
        continuum[ok] = Spline.of(x[ok], at[ok], 1).fit(y[ok], w[ok] * w[ok])
    continuum = continuum * np.where(w > 1e-7, 1.0, 1e-8)
    return bridge(continuum, w)[:, turn], possible


def _iterate(spline: Spline, y: HostArray, w: HostArray, parameters: HostArray) -> HostArray:
    """Fit with iterated biweights; spectra that do not settle are NaN."""
    fitted = spline.fit(y, w * w)
    chi = np.nansum((y - fitted) ** 2 * w, axis=1)
    dof = w.sum(axis=1) - parameters
    active = np.arange(len(y))
    part = spline
    for _ in range(1000):
        with np.errstate(invalid="ignore", divide="ignore"):
            scale = DOMAIN * np.sqrt(chi[active] / dof[active])
            deviation = np.square((y[active] - fitted[active]) / scale[:, None])
        inside = np.where(deviation <= 1.0, 1.0 - deviation, 0.0)
        new_w = inside * inside * w[active]
        fit = part.fit(y[active], new_w * new_w)
        new = np.nansum((y[active] - fit) ** 2 * new_w, axis=1)
        done = np.abs(chi[active] - new) < np.where(new < 1.0, TOLERANCE, TOLERANCE * new)
        fitted[active], chi[active] = fit, new
        if done.any():
            active, part = active[~done], part.take(~done)
        if not active.size:
            break
    fitted[active] = np.nan
    return fitted


def reject_runaways(fringes: HostArray, limit: HostArray) -> HostArray:
    """Pixels of beats in which the fringes are higher than `limit`.

    A beat reaches from one minimum of the upper envelope to the next.

    Returns
    -------
    array of bool, (spectrum, pixel)
    """
    minima, maxima = extrema(fringes)
    upper = envelope(fringes, maxima)
    with np.errstate(invalid="ignore"):
        runaway = np.abs(envelope(fringes, minima)) + np.abs(upper) > limit
    nodes = extrema(upper)[0]
    nodes[:, 0] = nodes[:, -1] = True
    beat = np.cumsum(nodes, axis=1)  # from a node to the pixel before the next one
    bad = np.zeros((len(fringes), int(beat.max()) + 1), dtype=bool)
    rows, pixel = np.nonzero(runaway[:, 1:])
    bad[rows, beat[rows, pixel]] = True  # a node belongs to the beat before it
    out: HostArray = np.take_along_axis(bad, beat, axis=1)
    out[:, -1] = False
    return out

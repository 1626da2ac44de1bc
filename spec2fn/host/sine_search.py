"""How many fringes a spectrum has, and which: sums of sines fitted to many spectra at once.

Fringes are searched one by one: the highest peak of a Lomb-Scargle periodogram of what the
fringes found so far leave over gives the next frequency, all fringes are fitted anew, and the
new one is kept if the evidence for it is strong (algorithm: Kavanagh et al., residual fringe
correction of the JWST calibration pipeline, https://jwst-pipeline.readthedocs.io; evidence in the
Gaussian approximation of D. Kester and M. Mueller 2021, Astronomy and Computing 37, 100503; Bayes
factors after R. Kass and A. Raftery 1995, JASA 90, 773).

A decision can only agree with that of other software if the optimisation stops at the same
place. So the fit is the published one: Levenberg-Marquardt in half steps, stopped by a tolerance
in chi squared, inside iterated biweight reweighting, first with the frequencies of the
periodogram and then with free ones. Every function works on an array (spectrum, pixel).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np

from spec2fn.host.continuum import DOMAIN, TOLERANCE, USABLE_WEIGHT
from spec2fn.typing import HostArray

__all__ = ["Evidence", "FringeSearch", "Sines", "find_fringes", "log10_evidence", "sincos_turns"]

STRONG_EVIDENCE = 1.0
ROUNDS = 100  # of reweighting at most; what settles does so within some 20
BATCH = 32  # spectra that are fitted at once: what is computed of them stays in the cache
_TERMS = 7


class Evidence(NamedTuple):
    """Ranges of the flat priors."""

    parameters: float  # width of the range of every parameter
    noise: tuple[float, float]  # ends of the range of its scale


class FringeSearch(NamedTuple):
    """Which fringes to look for."""

    period: float  # central one [1/cm]
    half_range: float  # distance to the ends of the search [1/cm]
    most: int  # number of fringes
    step: float  # of the periods tried [1/cm]
    robust: bool  # whether outliers lose weight
    evidence: Evidence

    @property
    def periods(self) -> HostArray:
        """Periods tried [1/cm]."""
        n = int(np.around(2.0 * self.half_range / self.step))
        return np.linspace(self.period - self.half_range, self.period + self.half_range, n)


@dataclass(frozen=True, eq=False)
class Sines:
    """Fringes found in spectra.

    Attributes
    ----------
    number : array of int, (spectrum,)
        Of fringes; 0 if there is no evidence for any.
    periods : array of float64, (spectrum, most)
        As the periodogram gave them [1/cm]; NaN beyond `number`.
    parameters : array of float64, (spectrum, 3, most)
        Frequencies [cycles per smallest wavenumber of the spectrum] and amplitudes of cosine and
        sine; zero beyond `number`.
    weights : array of float64, (spectrum, pixel)
        Of the last fit, after reweighting.
    model : array of float64, (spectrum, pixel)
        Sum of the fringes.
    """

    number: HostArray
    periods: HostArray
    parameters: HostArray
    weights: HostArray
    model: HostArray

    def take(self, rows: HostArray) -> Sines:
        """Keep spectra `rows`."""
        return Sines(*(getattr(self, f.name)[rows] for f in fields(self)))


def _near_minimax(function: Callable[[HostArray], HostArray]) -> list[float]:
    """Coefficients of a polynomial in the square of the argument, which is at most 1/2."""
    nodes = 0.125 * (1.0 + np.cos(math.pi * (np.arange(_TERMS) + 0.5) / _TERMS))
    powers = nodes[:, None] ** np.arange(_TERMS)
    out: list[float] = np.linalg.solve(powers, function(np.sqrt(nodes))).tolist()
    return out


_SIN = _near_minimax(lambda x: np.sin(math.pi * x) / x)
_COS = _near_minimax(lambda x: np.cos(math.pi * x))


def _horner(coefficients: list[float], x: HostArray) -> HostArray:
    out = x * coefficients[-1]
    for c in coefficients[-2:0:-1]:
        out += c
        out *= x
    out += coefficients[0]
    return out


def sincos_turns(turns: HostArray) -> tuple[HostArray, HostArray]:
    """Return sine and cosine of angles in turns, to 2e-12.

    Several times faster than ``numpy.sin`` of float64: polynomials of the half angle, whose
    terms NumPy evaluates with vector instructions.
    """
    phase = np.rint(turns)
    np.subtract(turns, phase, out=phase)
    square = phase * phase
    half_sine = _horner(_SIN, square)
    half_sine *= phase
    sine = _horner(_COS, square)
    sine *= half_sine
    sine *= 2.0
    half_sine *= half_sine
    half_sine *= -2.0
    half_sine += 1.0
    return sine, half_sine


class _Grid:
    """Fourier sums at frequencies of any spacing, from sums on a regular grid.

    The sums on a regular grid take one matrix product per spectrum. A sum over points within a
    range T is band limited, so that on a grid of step 1 / (2 T) a windowed sinc interpolates it
    to 1e-7.
    """

    REACH = 10
    SHAPE = 15.7

    def __init__(self, frequencies: HostArray, half_range: float) -> None:
        from scipy.sparse import csr_array

        reach = self.REACH
        self.step = 0.25 / half_range
        self.first = frequencies.min() - reach * self.step
        position = (frequencies - self.first) / self.step
        n = int(position.max()) + reach + 1
        self.fine = math.isqrt(n) + 1
        self.coarse = -(-n // self.fine)
        near = np.floor(position).astype(int)[:, None] + np.arange(1 - reach, reach + 1)
        u = position[:, None] - near
        kaiser = np.i0(self.SHAPE * np.sqrt(np.clip(1.0 - (u / reach) ** 2, 0.0, None)))
        weight = np.sinc(u) * kaiser / np.i0(self.SHAPE)
        starts = np.arange(len(frequencies) + 1) * (2 * reach)
        shape = (len(frequencies), self.coarse * self.fine)
        self.interpolation = csr_array((weight.ravel(), near.ravel(), starts), shape=shape)

    def waves(self, x: HostArray) -> tuple[HostArray, HostArray]:
        """Waves, (spectrum, k, pixel), whose products are those of the grid."""
        coarse = _powers(x * self.first, x * (self.fine * self.step), self.coarse)
        return coarse, _powers(np.zeros_like(x), x * self.step, self.fine)

    def sums(
        self, values: HostArray, coarse: HostArray, fine: HostArray
    ) -> tuple[HostArray, HostArray]:
        """Sums of `values` times sines and cosines, (spectrum, frequency)."""
        sums = (coarse * values[:, None]) @ fine.swapaxes(1, 2)
        sums = sums.reshape(len(values), -1).T
        return (self.interpolation @ sums.imag).T, (self.interpolation @ sums.real).T


class _Periodogram:
    """Lomb-Scargle periodograms with floating mean at periods common to many spectra."""

    def __init__(self, wavenumber: HostArray, periods: HostArray) -> None:
        middle = 0.5 * (wavenumber.max(axis=1) + wavenumber.min(axis=1))
        self.x = wavenumber - middle[:, None]
        half_range = float(np.abs(self.x).max())
        self.once = _Grid(1.0 / periods, half_range)
        self.twice = _Grid(2.0 / periods, half_range)

    def of(self, rows: HostArray, good: HostArray) -> Callable[[HostArray, HostArray], HostArray]:
        """Return a function that finds the index of the highest period.

        Its arguments are which of `rows`, and their values; where no power is positive it is 0.
        """
        count = np.maximum(good.sum(axis=1), 1)[:, None]
        x, window = self.x[rows], good / count
        waves = self.once.waves(x)
        s, c = self.once.sums(window, *waves)
        s2, c2 = self.twice.sums(window, *self.twice.waves(x))
        cc, ss, cs = 0.5 * (1.0 + c2) - c * c, 0.5 * (1.0 - c2) - s * s, 0.5 * s2 - c * s
        determinant = cc * ss - cs**2

        def highest(k: HostArray, values: HostArray) -> HostArray:
            mean = (window[k] * values).sum(axis=1, keepdims=True)
            kept = window[k] * (values - mean)
            s, c = self.once.sums(kept, waves[0][k], waves[1][k])
            power = c * c * ss[k] + s * s * cc[k] - 2.0 * c * s * cs[k]
            with np.errstate(invalid="ignore", divide="ignore"):
                power = power / determinant[k]
            power = np.where(np.any(kept != 0.0, axis=1)[:, None], power, 0.0)
            return np.argmax(power, axis=1)

        return highest


def _powers(start: HostArray, step: HostArray, n: int) -> HostArray:
    # exp(2 pi i (start + k step)), k = 0 … n - 1
    out = np.empty((len(start), n, start.shape[1]), dtype=complex)
    for first, turns in ((0, start), (1, step)):
        if first < n:
            out.imag[:, first], out.real[:, first] = sincos_turns(turns)
    if n > 1:
        ratio = out[:, 1].copy()
        for k in range(1, n):
            np.multiply(out[:, k - 1], ratio, out=out[:, k])
    return out


def log10_evidence(
    chisq: HostArray, sum_weights: HostArray, parameters: int, logdet: HostArray, prior: Evidence
) -> HostArray:
    """Evidence of a fit with unknown noise, in the Gaussian approximation.

    Parameters
    ----------
    chisq : array, (spectrum,)
        Weighted sum of squared residuals.
    sum_weights : array, (spectrum,)
        Takes the place of the number of data.
    parameters : int
        Number of fitted parameters.
    logdet : array, (spectrum,)
        Natural logarithm of the determinant of the Hessian, NaN if that is not positive.
    prior : Evidence

    Returns
    -------
    array, (spectrum,)
        Decimal logarithm; -1e9 where there is none.
    """
    dof = sum_weights - parameters
    with np.errstate(invalid="ignore", divide="ignore"):
        log_variance = np.log(2.0 * math.pi * chisq / dof)
        noise_range = math.log(prior.noise[1] / prior.noise[0])
        log_z = -0.5 * (sum_weights * log_variance + dof)
        log_z += 0.5 * np.log(math.pi * dof) - noise_range
        if parameters:
            log_z -= math.log(noise_range) + parameters * math.log(prior.parameters)
            log_z += 0.5 * (parameters * log_variance - logdet)
    return np.where(np.isnan(log_z) | (dof <= 0), -1e9, log_z / math.log(10.0))


def _solve(matrix: HostArray, vector: HostArray) -> HostArray:
    # singular ones give NaN
    try:
        return np.linalg.solve(matrix, vector[..., None])[..., 0]
    except np.linalg.LinAlgError:
        out = np.full_like(vector, np.nan)
        for k in range(len(matrix)):
            try:
                out[k] = np.linalg.solve(matrix[k], vector[k])
            except np.linalg.LinAlgError:
                continue
        return out


def _amplitudes(parameters: HostArray) -> HostArray:
    # of the cosines, then of the sines, as a row
    return parameters[:, 1:].reshape(len(parameters), 1, 2 * parameters.shape[2])


def _sum_of_sines(parameters: HostArray, sine: HostArray, cosine: HostArray) -> HostArray:
    out = np.matmul(parameters[:, 1:2], cosine)
    out += np.matmul(parameters[:, 2:3], sine)
    return out[:, 0]


_ChiSquared = tuple[HostArray, tuple[HostArray, ...]]


def _levenberg_marquardt(
    start: HostArray,
    data: tuple[HostArray, ...],
    chisq: Callable[..., _ChiSquared],
    normal: Callable[..., tuple[HostArray, HostArray]],
) -> tuple[HostArray, HostArray, HostArray]:
    """Fit many spectra at once, each until it settles.

    Parameters
    ----------
    start : array, (spectrum, parameter)
    data : tuple of array, (spectrum, ...)
    chisq : callable
        ``chisq(parameters, *data)`` gives chi squared, and arrays (spectrum, ...) for `normal`.
    normal : callable
        ``normal(parameters, data, arrays)`` gives Hessian and gradient.

    Returns
    -------
    parameters, chisq, hessian : array
        Chi squared is NaN where the fit fails; the last Hessian with its damping.
    """
    n, fitted = start.shape
    best, final = start.copy(), np.full(n, np.nan)
    last = np.full((n, fitted, fitted), np.nan)
    q = start.copy()
    chi, waves = chisq(q, *data)
    chi = chi + 1.0
    lam = np.full(n, 1e-3)
    hessian, vector = np.empty_like(last), np.empty_like(start)
    fresh = np.ones(n, dtype=bool)
    at = np.arange(n)
    diagonal = np.arange(fitted)
    for _ in range(1000 * fitted):
        if fresh.all():
            hessian, vector = normal(q, data, waves)
        elif fresh.any():
            some = (tuple(a[fresh] for a in arrays) for arrays in (data, waves))
            hessian[fresh], vector[fresh] = normal(q[fresh], *some)
        hessian[:, diagonal, diagonal] *= (1.0 + lam)[:, None]
        trial = q + 0.5 * _solve(hessian, vector)
        new, moved = chisq(trial, *data)
        alive = new > 0.0
        better = alive & (new <= chi)
        with np.errstate(invalid="ignore"):
            done = better & (np.abs(chi - new) < np.where(chi < 1.0, TOLERANCE, TOLERANCE * chi))
        if done.any():
            best[at[done]], final[at[done]], last[at[done]] = trial[done], new[done], hessian[done]
        stay = alive & ~done
        if not stay.any():
            break
        if better.all():
            q, chi, waves = trial, new, moved
        else:
            for old, got in ((q, trial), (chi, new), *zip(waves, moved, strict=True)):
                old[better] = got[better]
        factor = np.where(better, 0.1, np.where(lam < 1e20, 10.0, 1.0))
        lam = lam * np.where(better & (lam <= 1e-100), 1.0, factor)
        fresh = better
        if not stay.all():
            data, waves = (tuple(a[stay] for a in arrays) for arrays in (data, waves))
            q, chi, lam, fresh, at = (a[stay] for a in (q, chi, lam, fresh, at))
            hessian, vector = hessian[stay], vector[stay]
    return best, final, last


class _FixedFrequencies:
    """Amplitudes of cosines and sines of given frequencies."""

    def __init__(self, x: HostArray, y: HostArray, frequencies: HostArray) -> None:
        sine, cosine = sincos_turns(frequencies[:, :, None] * x[:, None, :])
        self.waves = np.concatenate([cosine, sine], axis=1)
        self.y = y
        self.fitted = self.waves.shape[1]

    def fit(
        self, rows: HostArray, weights: HostArray, start: HostArray
    ) -> tuple[HostArray, HostArray]:
        """Return parameters (spectrum, 3, n) and chi squared, NaN where the fit fails."""
        waves, y = self.waves[rows], self.y[rows]
        weighted = waves * weights[:, None]
        hessian = weighted @ waves.swapaxes(1, 2)
        projected = np.matmul(weighted, y[:, :, None])[..., 0]
        constant = np.einsum("ij,ij->i", weights * y, y)

        # a quadratic form, minimised as by the iteration for curved ones
        def chisq(q: HostArray, h: HostArray, b: HostArray, c: HostArray) -> _ChiSquared:
            curved = np.einsum("ij,ijk,ik->i", q, h, q)
            return c - 2.0 * np.einsum("ij,ij->i", q, b) + curved, ()

        def normal(
            q: HostArray, data: tuple[HostArray, ...], _: tuple[()]
        ) -> tuple[HostArray, HostArray]:
            h, b, _c = data
            return h.copy(), b - np.einsum("ijk,ik->ij", h, q)

        amplitudes = _amplitudes(start)[:, 0]
        p, chi, _ = _levenberg_marquardt(amplitudes, (hessian, projected, constant), chisq, normal)
        out = start.copy()
        out[:, 1:] = p.reshape(out[:, 1:].shape)
        return out, chi

    def model(self, rows: HostArray, parameters: HostArray) -> HostArray:
        out: HostArray = np.matmul(_amplitudes(parameters), self.waves[rows])[:, 0]
        return out


class _FreeFrequencies:
    """Frequencies and amplitudes; `hessian` is that of the last fit, with its damping."""

    def __init__(self, x: HostArray, y: HostArray, n: int) -> None:
        self.x, self.y = x, y
        self.fitted = 3 * n
        self.hessian = np.full((len(x), 3 * n, 3 * n), np.nan)

    def fit(
        self, rows: HostArray, weights: HostArray, start: HostArray
    ) -> tuple[HostArray, HostArray]:
        """Return parameters (spectrum, 3, n) and chi squared, NaN where the fit fails."""
        data = (self.x[rows], self.y[rows], weights)
        flat = start.reshape(len(rows), self.fitted)
        p, chi, self.hessian = _levenberg_marquardt(flat, data, self._chisq, self._normal)
        return p.reshape(start.shape), chi

    def _by_kind(self, p: HostArray) -> HostArray:
        return p.reshape(len(p), 3, self.fitted // 3)

    def _waves(self, p: HostArray, x: HostArray) -> tuple[HostArray, HostArray, HostArray]:
        p = self._by_kind(p)
        return p, *sincos_turns(p[:, 0, :, None] * x[:, None])

    def _chisq(self, p: HostArray, x: HostArray, y: HostArray, w: HostArray) -> _ChiSquared:
        p, sine, cosine = self._waves(p, x)
        residual = y - _sum_of_sines(p, sine, cosine)
        return np.einsum("ij,ij->i", w * residual, residual), (sine, cosine, residual)

    def _normal(
        self, p: HostArray, data: tuple[HostArray, ...], arrays: tuple[HostArray, ...]
    ) -> tuple[HostArray, HostArray]:
        x, _, w = data
        *waves, residual = arrays
        design = self._design(x, self._by_kind(p), *waves)
        weighted = design * w[:, None]
        vector = np.matmul(weighted, residual[:, :, None])[..., 0]
        return weighted @ design.swapaxes(1, 2), vector

    def _design(self, x: HostArray, p: HostArray, sine: HostArray, cosine: HostArray) -> HostArray:
        n = p.shape[2]
        out = np.empty((len(x), 3 * n, x.shape[1]))
        out[:, n : 2 * n], out[:, 2 * n :] = cosine, sine
        slope = out[:, :n]
        np.multiply(p[:, 2, :, None], cosine, out=slope)
        slope -= p[:, 1, :, None] * sine
        slope *= (2.0 * math.pi) * x[:, None]
        return out

    def undamped_hessian(self, weights: HostArray, parameters: HostArray) -> HostArray:
        """Of all spectra, at `parameters`."""
        design = self._design(self.x, *self._waves(parameters, self.x))
        out: HostArray = (design * weights[:, None]) @ design.swapaxes(1, 2)
        return out

    def model(self, rows: HostArray, parameters: HostArray) -> HostArray:
        return _sum_of_sines(*self._waves(parameters, self.x[rows]))


def _biweighted(
    fitter: _FixedFrequencies | _FreeFrequencies,
    weights: HostArray,
    start: HostArray,
    rounds: int,
) -> tuple[HostArray, HostArray, HostArray]:
    """Fit with iterated biweights; parameters, chi squared (NaN: failed) and last weights.

    Between two sines of nearly the same frequency the fit of a spectrum may wander for ever. What
    it has after :data:`ROUNDS` is as good as any later one.
    """
    active = np.arange(len(weights))
    p, chi = fitter.fit(active, weights, start)
    last = weights.copy()
    active = np.flatnonzero(np.isfinite(chi))
    for _ in range(rounds):
        dof = last[active].sum(axis=1) - fitter.fitted
        chi[active[dof <= 0]] = np.nan
        active, dof = active[dof > 0], dof[dof > 0]
        if not active.size:
            break
        scale = DOMAIN * np.sqrt(chi[active] / dof)
        deviation = (fitter.y[active] - fitter.model(active, p[active])) / scale[:, None]
        np.multiply(deviation, deviation, out=deviation)
        np.subtract(1.0, deviation, out=deviation)
        np.maximum(deviation, 0.0, out=deviation)
        deviation *= deviation
        last[active] = deviation * weights[active]
        p[active], new = fitter.fit(active, last[active], p[active])
        with np.errstate(invalid="ignore"):
            change = np.abs(chi[active] - new)
            done = ~(change >= np.where(new < 1.0, TOLERANCE, TOLERANCE * new))
        chi[active] = new
        active = active[~done]
    return p, chi, last


def _fit(
    x: HostArray, y: HostArray, w: HostArray, frequencies: HostArray, *, robust: bool
) -> tuple[HostArray, HostArray, HostArray, HostArray]:
    """Fit from given frequencies; parameters, chi squared, weights, ln det of the Hessian."""
    start = np.ones((len(x), 3, frequencies.shape[1]))
    start[:, 0] = frequencies
    rounds = ROUNDS if robust else 0
    p, fixed_chi, _ = _biweighted(_FixedFrequencies(x, y, frequencies), w, start, rounds)
    ok = np.flatnonzero(np.isfinite(fixed_chi))
    free = _FreeFrequencies(x[ok], y[ok], frequencies.shape[1])
    chi, last, logdet = np.full(len(x), np.nan), w.copy(), np.full(len(x), np.nan)
    p[ok], chi[ok], last[ok] = _biweighted(free, w[ok], p[ok], rounds)
    hessian = free.undamped_hessian(last[ok], p[ok]) if robust else free.hessian
    sign, value = np.linalg.slogdet(np.where(np.isfinite(hessian), hessian, 0.0))
    # determinants too small or too large for a float64 count as none
    usable = (sign > 0) & (value > -744.0) & (value < 709.7)
    logdet[ok] = np.where(usable, value, np.nan)
    return p, chi, last, logdet


def find_fringes(
    residual: HostArray,
    weights: HostArray,
    first_weights: HostArray,
    wavenumber: HostArray,
    search: FringeSearch,
) -> Sines:
    """Find the fringes of spectra that are divided by their continuum, minus one.

    Parameters
    ----------
    residual : array of float64, (spectrum, pixel)
        Finite.
    weights : array of float64, (spectrum, pixel)
    first_weights : array of float64, (spectrum, pixel)
        Weights with which the evidence for a spectrum without fringes is computed.
    wavenumber : array of float64, (spectrum, pixel)
        [1/cm]
    search : FringeSearch

    Returns
    -------
    Sines
    """
    n, pixels = residual.shape
    factor = wavenumber.min(axis=1)
    x = wavenumber / factor[:, None]
    # of a constant 1, not 0, and without weights: what the published evidence compares with
    evidence = log10_evidence(
        np.square(residual - 1.0).sum(axis=1),
        first_weights.sum(axis=1),
        0,
        np.zeros(n),
        search.evidence,
    )
    out = Sines(
        np.zeros(n, dtype=int),
        np.full((n, search.most), np.nan),
        np.zeros((n, 3, search.most)),
        weights.copy(),
        np.zeros((n, pixels)),
    )
    if not n:
        return out
    periodogram = _Periodogram(wavenumber, search.periods)
    for rows in np.split(np.arange(n), range(BATCH, n, BATCH)):
        highest = periodogram.of(rows, weights[rows] > USABLE_WEIGHT)
        active = rows
        for k in range(search.most):
            peak = highest(active - rows[0], residual[active] - out.model[active])
            out.periods[active, k] = search.periods[peak]
            frequencies = factor[active, None] / out.periods[active, : k + 1]
            y, w = residual[active], weights[active]
            p, chi, last, logdet = _fit(x[active], y, w, frequencies, robust=search.robust)
            new = log10_evidence(chi, last.sum(axis=1), 3 * (k + 1), logdet, search.evidence)
            better = new - evidence[active] > STRONG_EVIDENCE
            out.periods[active[~better], k] = np.nan
            active, p = active[better], p[better]
            if not active.size:
                break
            evidence[active] = new[better]
            out.number[active] = k + 1
            out.parameters[active, :, : k + 1] = p
            out.weights[active] = last[better]
            sine, cosine = sincos_turns(p[:, 0, :, None] * x[active, None])
            out.model[active] = _sum_of_sines(p, sine, cosine)
    return out

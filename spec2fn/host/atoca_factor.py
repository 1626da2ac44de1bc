"""How smooth the spectrum of ATOCA has to be: the search for the factor of the regularisation.

``"evidence"`` takes the factor for which the data are most likely if the spectrum is a random walk
of that size (the restricted likelihood: the level of the spectrum is left free); ``"gcv"`` that
which predicts pixels best from all others (generalised cross-validation); ``"official"`` the
smallest one of a list at which the misfit begins to rise.

G. Wahba 1985, Annals of Statistics 13, 1378 (both criteria compared); G. Golub, M. Heath & G. Wahba
1979, Technometrics 21, 215.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from spec2fn.kernels import banded
from spec2fn.kernels.spectrum_fit import (
    ColumnSums,
    Solver,
    SpectrumFit,
    column_variance,
    equations,
    fit_spectrum,
    link_values,
)
from spec2fn.typing import HostArray

__all__ = ["Problem", "Trials", "best_factor", "official_factor"]

_DECADES = 4.0
_RISE = 1e-3  # of the misfit with the logarithm of the factor
_REFINEMENTS = 3


class Problem:
    """The data of a fit, to which factors are tried.

    Parameters
    ----------
    fit : SpectrumFit
    profile : ndarray, (order, cross, disp)
        Of the orders of the fit.
    data, error : ndarray, (cross, disp)
    sums : ColumnSums
    """

    def __init__(
        self,
        fit: SpectrumFit,
        profile: HostArray,
        data: HostArray,
        error: HostArray,
        sums: ColumnSums,
    ) -> None:
        self.fit = fit
        self.sums = sums
        used = fit.weight > 0
        self.column = np.nonzero(used)[1]
        self.error = error[used]
        self.relative = data[used] / self.error
        self.profile = profile[:, used] / self.error
        self.variance = column_variance(fit, sums.precision)
        self.links = link_values(fit, self.variance, sums.pull)
        self.equations = equations(fit)
        self._noise = self.equations.noise(self.variance)

    @property
    def pixels(self) -> int:
        """Number of pixels that are fitted."""
        return len(self.column)

    def guess(self, spectrum: Callable[[HostArray], HostArray]) -> float:
        """Factor by which the roughness of a spectrum counts as much as all pixels together."""
        slope = np.diff(spectrum(self.fit.wave)) / np.diff(self.fit.wave)
        return float(np.sqrt(self.pixels / np.nansum(slope**2)))

    def solve(self, factor: float) -> tuple[HostArray, HostArray]:
        """Spectrum, and amplitudes by which it explains the pixels that are fitted."""
        # what counts is the response that is fitted, not another one that makes the models
        fit = replace(self.fit, factor=np.array(factor), model_response=None)
        chol = self.equations.factorise(self.variance, factor)
        return fit_spectrum(fit, self.sums, Solver(self.variance, chol))

    def solvable(self, factor: float) -> bool:
        """Whether the equations for a factor can be solved to working precision."""
        matrix = self.equations.steps + factor**2 * self._noise
        return banded.is_positive(matrix)

    def residuals(self, amplitude: HostArray) -> HostArray:
        """Of all pixels that are fitted, in units of their errors."""
        model = (self.profile * amplitude[:, self.column]).sum(axis=0)
        return model - self.relative

    def likelihood(self, factor: float) -> tuple[float, float]:
        """Minus twice the logarithm of the restricted likelihood, and the determinant in it.

        But for a constant; of the determinant the logarithm.
        """
        chol = banded.factorise(self.equations.steps + factor**2 * self._noise)
        determinant = banded.log_determinant(chol) - 2 * len(self.links) * np.log(factor)
        misfit = factor**2 * float(self.links @ banded.solve(chol, self.links))
        return determinant + misfit, determinant


def best_factor(problem: Problem, guess: float, criterion: str) -> float:
    """Factor that is best by a criterion, ``"evidence"`` or ``"gcv"``.

    Parameters
    ----------
    problem : Problem
    guess : float
        Where to begin; the search follows the criterion from there, however far.
    criterion : str

    Returns
    -------
    float
    """
    from scipy.optimize import minimize_scalar

    def cost(log_factor: float) -> float:
        factor = 10.0**log_factor
        if criterion == "evidence":
            return problem.likelihood(factor)[0]
        return _cross_validation(problem, factor)

    start = float(np.log10(guess))
    trials = {start: cost(start)}
    for step in (1.0, -1.0):
        at = start
        while abs(at + step - start) <= 3 * _DECADES:
            before, at = trials[at], at + step
            trials[at] = cost(at)
            if trials[at] > before:
                break
    best = min(trials, key=trials.__getitem__)
    found = minimize_scalar(
        cost, bounds=(best - 1, best + 1), method="bounded", options={"xatol": 0.01}
    )
    return float(10.0 ** (found.x if found.fun < trials[best] else best))


def _cross_validation(problem: Problem, factor: float) -> float:
    """Mean squared residual over the square of the share of pixels that the model leaves free."""
    _, amplitude = problem.solve(factor)
    residual = problem.residuals(amplitude)
    # the trace of the matrix that predicts the pixels is that of a derivative of a determinant
    step = 0.01
    up, down = (problem.likelihood(factor * np.exp(s))[1] for s in (step, -step))
    freedom = 1 - 0.5 * (up - down) / (2 * step)
    return float((residual**2).mean() / (1 - freedom / problem.pixels) ** 2)


@dataclass
class Trials:
    """Factors that were tried, and how well they do.

    Attributes
    ----------
    factors : list of float
    spectra : list of ndarray, (wave,)
    chi2, soft_l1, cauchy : list of float
        Means over pixels of the squared residual and of two functions of it that count outliers
        less.
    roughness : list of float
        Sum of the squared slopes.
    """

    factors: list[float] = field(default_factory=list)
    spectra: list[HostArray] = field(default_factory=list)
    chi2: list[float] = field(default_factory=list)
    soft_l1: list[float] = field(default_factory=list)
    cauchy: list[float] = field(default_factory=list)
    roughness: list[float] = field(default_factory=list)

    def add(self, problem: Problem, factor: float) -> None:
        """Try a factor; all is NaN if its equations are singular to working precision."""
        spectrum, amplitude = problem.solve(factor)
        if not problem.solvable(factor):
            spectrum, amplitude = spectrum * np.nan, amplitude * np.nan
        square = problem.residuals(amplitude) ** 2
        slope = np.diff(spectrum) / np.diff(problem.fit.wave)
        self.factors.append(factor)
        self.spectra.append(spectrum)
        self.chi2.append(float(square.mean()))
        self.soft_l1.append(float((2 * (np.sqrt(1 + square) - 1)).mean()))
        self.cauchy.append(float(np.log1p(square).mean()))
        self.roughness.append(float((slope**2).sum()))

    def best(self) -> float:
        """The smallest factor at which the misfit rises; the largest tried if it never does."""
        from scipy.interpolate import Akima1DInterpolator

        order = np.argsort(self.factors)
        place = np.log10(np.array(self.factors)[order])
        misfit = np.array(self.cauchy)[order]
        good = np.isfinite(misfit)
        curve = Akima1DInterpolator(place[good], misfit[good], method="makima")
        fine = np.linspace(place[good][0], place[good][-1], 10_000)
        rising = fine[curve.derivative()(fine) > _RISE]
        return float(10.0 ** (rising.min() if rising.size else fine[-1]))


def official_factor(
    problem: Problem, guess: float, decades: tuple[float, float]
) -> tuple[float, Trials]:
    """Search as the official pipeline does: ten factors, then three times two around the best.

    Parameters
    ----------
    problem : Problem
    guess : float
    decades : (float, float)
        Range of the ten around the guess.

    Returns
    -------
    float, Trials
    """
    trials = Trials()
    center = float(np.log10(guess))
    for factor in np.logspace(center + decades[0], center + decades[1], 10).tolist():
        trials.add(problem, factor)
    for _ in range(_REFINEMENTS):
        known = np.sort(trials.factors)
        j = int(np.argmin(np.abs(np.log(known) - np.log(trials.best()))))
        for factor in _around(known, j):
            trials.add(problem, factor)
    return trials.best(), trials


def _around(known: HostArray, j: int) -> tuple[float, float]:
    """Two factors next to the one at `j`, beyond the ends if that is where it stands."""
    if j == 0:
        pair = known[0] ** 2 / known[1], np.sqrt(known[0] * known[1])
    elif j == len(known) - 1:
        pair = np.sqrt(known[-1] * known[-2]), known[-1] ** 2 / known[-2]
    else:
        pair = np.sqrt(known[j] * known[j - 1]), np.sqrt(known[j] * known[j + 1])
    return float(pair[0]), float(pair[1])

"""An extracted spectrum against the truth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Comparison"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Comparison:
    """Extracted spectrum against truth.

    Attributes
    ----------
    wavelength : array, shape (n,)
        [um]
    flux, error, truth : array, shape ([integration,] n)
        In `unit`; `error` includes the covariance of the resampling.
    clean : array of bool, shape ([integration,] n)
        Where no flagged pixel contributed and everything is finite.
    name, slit : str
        Of the source, where there are several.
    unit : str
        Of flux, error and truth.
    """

    wavelength: Array
    flux: Array
    error: Array
    truth: Array
    clean: Array
    name: str = "target"
    slit: str = ""
    unit: str = "Jy"

    @property
    def pull(self) -> Array:
        """Residual in standard errors."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray((self.flux - self.truth) / self.error)

    @property
    def mean(self) -> float:
        """Mean pull of the clean points: 0 for an unbiased spectrum."""
        return float(np.mean(self.pull[self.clean]))

    @property
    def scatter(self) -> float:
        """Standard deviation of the pulls of the clean points: 1 for honest errors."""
        return float(np.std(self.pull[self.clean]))

    @property
    def signal_to_noise(self) -> float:
        """Median signal-to-noise ratio of the clean points, not negative."""
        return max(float(np.median((self.flux / self.error)[self.clean])), 0.0)

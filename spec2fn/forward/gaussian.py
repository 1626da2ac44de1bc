"""The Gaussian image of a star."""

from __future__ import annotations

from typing import TypeVar

import numpy as np

from spec2fn.kernels.namespace import array_namespace
from spec2fn.typing import Array

__all__ = ["enclosed"]

A = TypeVar("A", bound=Array)


def enclosed(lower: A, upper: A, sigma: A | float) -> A:
    """Share of the light between two distances from the middle, with standard deviation `sigma`.

    The exact integral; NumPy or JAX, as the arguments, which have one unit.
    """
    if array_namespace(lower, upper, sigma) is np:
        from scipy.special import erf
    else:
        from jax.scipy.special import erf
    scale = 1.0 / (np.sqrt(2.0) * sigma)
    return 0.5 * (erf(upper * scale) - erf(lower * scale))

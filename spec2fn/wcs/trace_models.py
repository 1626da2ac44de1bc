"""Models of traces as coefficients: polynomials in t, whose coefficients depend on the field."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from spec2fn.errors import UnsupportedModelError
from spec2fn.typing import HostArray

if TYPE_CHECKING:
    from astropy.modeling import Model

__all__ = ["alike", "models_of", "stacked", "trace_coefficients"]


def models_of(entry: Model | Iterable[Model]) -> list[Model]:
    """Return the models of an order: one in t, or one in (x0, y0) for each power of t."""
    return [entry] if hasattr(entry, "n_inputs") else list(entry)


def trace_coefficients(entry: Model | Iterable[Model]) -> HostArray:
    """Return the coefficients of an order of a dispersion.

    Parameters
    ----------
    entry : Polynomial1D, or sequence of Polynomial2D
        A polynomial in t, or the polynomials in (x0, y0) by which the powers of t are multiplied.

    Returns
    -------
    array, shape (power, n + 1, n + 1)
        See :mod:`spec2fn.kernels.grism`.

    Raises
    ------
    UnsupportedModelError
        For other models.
    """
    models, out = models_of(entry), []
    for model in models:
        kind = type(model).__name__
        if kind == "Polynomial1D" and len(models) == 1:
            scaled = [(model.domain, model.window)]
            out = [np.array([[c]]) for c in model.parameters]
        elif kind == "Polynomial2D":
            scaled = [(model.x_domain, model.x_window), (model.y_domain, model.y_window)]
            matrix = np.zeros((model.degree + 1,) * 2)
            for name, value in zip(model.param_names, model.parameters, strict=True):
                i, j = name[1:].split("_")
                matrix[int(i), int(j)] = value
            out.append(matrix)
        else:
            raise UnsupportedModelError(f"a {kind}, and not polynomials")
        if any(a is not None and tuple(a) != tuple(b) for a, b in scaled):
            raise UnsupportedModelError("a polynomial of a scaled variable, which is not known")
    return stacked(out)


def stacked(arrays: Sequence[HostArray]) -> HostArray:
    """Put arrays of different shapes into one, filled up with zeros."""
    shape = np.max([one.shape for one in arrays], axis=0)
    out = np.zeros((len(arrays), *shape))
    for whole, one in zip(out, arrays, strict=True):
        whole[tuple(map(slice, one.shape))] = one
    return out


def alike(first: HostArray, second: HostArray) -> tuple[HostArray, HostArray]:
    """Return two arrays of one number of dimensions with the larger of their sizes."""
    shape = np.maximum(first.shape, second.shape)
    a, b = (
        np.pad(one, [(0, n - m) for n, m in zip(shape, one.shape, strict=True)])
        for one in (first, second)
    )
    return a, b

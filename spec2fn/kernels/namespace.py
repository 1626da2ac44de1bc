"""Which array library a kernel computes with, and a few functions that kernels share.

One exposure calibrated once is faster in NumPy (no compilation, JAX need not even be imported);
gradients, ``jit`` and ``vmap`` need JAX. A kernel therefore asks for the namespace of its
arguments and is written once.
"""

from __future__ import annotations

import sys
from types import ModuleType

import numpy as np

from spec2fn.dq import UNUSABLE
from spec2fn.typing import Array, Number

__all__ = [
    "array_namespace",
    "is_jax",
    "is_traced",
    "positive_root",
    "safe_divide",
    "safe_sqrt",
    "usable",
]


def is_jax(array: object) -> bool:
    """Whether `array` is a JAX array or tracer (without importing JAX)."""
    jax = sys.modules.get("jax")
    return jax is not None and isinstance(array, jax.Array)


def is_traced(array: object) -> bool:
    """Whether `array` is being traced by a JAX transformation."""
    jax = sys.modules.get("jax")
    return jax is not None and isinstance(array, jax.core.Tracer)


def array_namespace(*arrays: object) -> ModuleType:
    """Return ``jax.numpy`` if any of `arrays` belongs to JAX, else ``numpy``."""
    if any(is_jax(a) for a in arrays):
        import jax.numpy as jnp

        return jnp
    return np


def safe_divide(a: Number, b: Number, where: Array, fill: float = np.nan) -> Array:
    """Return ``a / b`` where `where` is true and `fill` elsewhere, with finite gradients.

    The denominator is masked before the division as well as after it, because the derivative of
    the branch not taken is evaluated too (0 * inf = NaN).
    """
    xp = array_namespace(a, b, where)
    one = xp.ones((), dtype=xp.asarray(b).dtype)
    out = a / xp.where(where, b, one)
    return xp.where(where, out, xp.asarray(fill, dtype=out.dtype))


def positive_root(a: Array) -> Array:
    """Square root where `a` is positive and 0 elsewhere, with finite gradients."""
    xp = array_namespace(a)
    positive = a > 0
    return xp.where(positive, xp.sqrt(xp.where(positive, a, xp.ones_like(a))), xp.zeros_like(a))


def safe_sqrt(a: Array) -> Array:
    """Square root with a finite gradient (zero) at zero; NaN for negative values and NaN."""
    xp = array_namespace(a)
    if xp is np:
        with np.errstate(invalid="ignore"):
            return np.sqrt(a)
    zero, one, nan = (np.asarray(v, a.dtype) for v in (0.0, 1.0, np.nan))
    root = xp.sqrt(xp.where(a > 0, a, one))
    return xp.where(a > 0, root, xp.where(a == 0, zero, nan))


def usable(dq: Array, *planes: Array) -> Array:
    """Whether pixels have no flag of :data:`spec2fn.dq.UNUSABLE` and are finite in all planes."""
    xp = array_namespace(dq, *planes)
    good: Array = (dq & xp.asarray(UNUSABLE, dtype=dq.dtype)) == 0
    for plane in planes:
        good = good & xp.isfinite(plane)
    return good

"""Which array library a kernel computes with.

One exposure calibrated once is faster in NumPy (no compilation, JAX need not even be imported);
gradients, ``jit`` and ``vmap`` need JAX. A kernel therefore asks for the namespace of its
arguments and is written once.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

__all__ = ["array_namespace", "is_jax", "is_traced", "safe_divide", "safe_sqrt"]


def is_jax(array: Any) -> bool:
    """Whether `array` is a JAX array or tracer (without importing JAX)."""
    jax = sys.modules.get("jax")
    return jax is not None and isinstance(array, jax.Array)


def is_traced(array: Any) -> bool:
    """Whether `array` is being traced by a JAX transformation."""
    jax = sys.modules.get("jax")
    return jax is not None and isinstance(array, jax.core.Tracer)


def array_namespace(*arrays: Any) -> Any:
    """Return ``jax.numpy`` if any of `arrays` belongs to JAX, else ``numpy``."""
    if any(is_jax(a) for a in arrays):
        import jax.numpy as jnp

        return jnp
    return np


def safe_divide(a: Any, b: Any, where: Any, fill: float = np.nan) -> Any:
    """Return ``a / b`` where `where` is true and `fill` elsewhere, with finite gradients.

    The denominator is masked before the division as well as after it, because the derivative of
    the branch not taken is evaluated too (0 * inf = NaN).
    """
    xp = array_namespace(a, b, where)
    one = xp.ones((), dtype=xp.asarray(b).dtype)
    out = a / xp.where(where, b, one)
    return xp.where(where, out, xp.asarray(fill, dtype=out.dtype))


def safe_sqrt(a: Any) -> Any:
    """Square root with a finite gradient (zero) at zero; NaN for negative values and NaN."""
    xp = array_namespace(a)
    zero, one, nan = (np.asarray(v, a.dtype) for v in (0.0, 1.0, np.nan))
    root = xp.sqrt(xp.where(a > 0, a, one))
    return xp.where(a > 0, root, xp.where(a == 0, zero, nan))

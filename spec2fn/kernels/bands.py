"""Kernels that treat every pixel alone, run on bands of rows.

There intermediate results stay in the cache of the processor, and bands can run side by side.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, TypeGuard, TypeVar, cast

import numpy as np

from spec2fn.kernels.namespace import is_jax
from spec2fn.threads import in_threads
from spec2fn.typing import HostArray

__all__ = ["by_rows"]

_Kernel = TypeVar("_Kernel", bound=Callable[..., Any])

_BAND = 1 << 17  # pixels


def by_rows(kernel: _Kernel, *others: object) -> _Kernel:
    """Let a kernel work on bands of rows, unless JAX computes it.

    It takes arrays (..., y, x), mappings of them, and anything else, and returns an array, or
    tuples or dicts of arrays, of which each pixel depends on the same pixel of the arguments
    alone. Axes of length one are broadcast. `others` are arrays that it uses besides: a kernel
    that JAX traces must stay in its thread.
    """

    @functools.wraps(kernel)
    def run(*args: object, **kwargs: object) -> object:
        leaves = _leaves((args, kwargs))
        shape = np.broadcast_shapes(*(a.shape for a in leaves if _is_image(a)))
        pixels = int(np.prod(shape))
        if len(shape) < 2 or pixels < 2 * _BAND or any(is_jax(a) for a in (*leaves, *others)):
            return kernel(*args, **kwargs)
        rows = max(1, _BAND * shape[-2] // pixels)

        def band(first: int) -> object:
            def cut(leaf: object) -> object:
                if not _is_image(leaf) or leaf.shape[-2] == 1:
                    return leaf
                return leaf[..., first : first + rows, :]

            named = {k: _mapped(cut, v) for k, v in kwargs.items()}
            return kernel(*(_mapped(cut, v) for v in args), **named)

        head = band(0)
        out = _mapped(lambda a: np.empty((*a.shape[:-2], shape[-2], a.shape[-1]), a.dtype), head)

        def keep(first: int, part: object) -> None:
            for whole, piece in zip(_leaves(out), _leaves(part), strict=True):
                whole[..., first : first + rows, :] = piece

        keep(0, head)
        in_threads(lambda first: keep(first, band(first)), range(rows, shape[-2], rows))
        return out

    return cast("_Kernel", run)


def _is_image(leaf: object) -> TypeGuard[HostArray]:
    return getattr(leaf, "ndim", 0) >= 2


def _mapped(function: Callable[[Any], Any], tree: object) -> object:
    """Apply a function to everything in tuples and mappings."""
    if isinstance(tree, Mapping):
        return {k: _mapped(function, v) for k, v in tree.items()}
    if isinstance(tree, tuple):
        return tuple(_mapped(function, v) for v in tree)
    return function(tree)


def _leaves(tree: object) -> list[Any]:
    found: list[Any] = []
    _mapped(found.append, tree)
    return found

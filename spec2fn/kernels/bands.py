"""Kernels that treat every pixel alone, run on bands of rows.

A NumPy expression on a whole image writes every intermediate result to memory and reads it back.
On a band of rows they stay in the cache of the processor, and bands can run side by side.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

import numpy as np

from spec2fn.threads import in_threads

__all__ = ["by_rows"]

_Kernel = TypeVar("_Kernel", bound=Callable[..., Any])

_BAND = 1 << 17  # pixels


def by_rows(kernel: _Kernel) -> _Kernel:
    """Let a kernel work on bands of rows where all its arrays are NumPy's.

    Parameters
    ----------
    kernel : callable
        Takes arrays (..., y, x), mappings of them, and anything else; returns an array, or
        tuples or dicts of arrays, of which each pixel depends on the same pixel of the arguments
        alone. Axes of length one are broadcast.
    """

    @functools.wraps(kernel)
    def run(*args: Any, **kwargs: Any) -> Any:
        arrays: list[Any] = []
        _mapped(arrays.append, (args, kwargs))
        shape = np.broadcast_shapes(*(a.shape for a in arrays)) if arrays else ()
        pixels = int(np.prod(shape))
        if pixels < 2 * _BAND or any(not isinstance(a, np.ndarray) for a in arrays):
            return kernel(*args, **kwargs)
        rows = max(1, _BAND * shape[-2] // pixels)

        def band(first: int) -> Any:
            part = slice(first, first + rows)
            given, named = _mapped(
                lambda a: a if a.shape[-2] == 1 else a[..., part, :], (args, kwargs)
            )
            return kernel(*given, **named)

        head = band(0)
        out = _mapped(lambda a: np.empty((*a.shape[:-2], shape[-2], a.shape[-1]), a.dtype), head)

        def keep(first: int, found: Any) -> None:
            _paired(lambda a, b: a[..., first : first + rows, :].__setitem__(..., b), out, found)

        keep(0, head)
        in_threads(lambda first: keep(first, band(first)), range(rows, shape[-2], rows))
        return out

    return cast("_Kernel", run)


def _mapped(function: Callable[[Any], Any], tree: Any) -> Any:
    """Apply a function to the images in tuples and mappings."""
    if isinstance(tree, Mapping):
        return {k: _mapped(function, v) for k, v in tree.items()}
    if isinstance(tree, tuple):
        return tuple(_mapped(function, v) for v in tree)
    return function(tree) if getattr(tree, "ndim", 0) >= 2 else tree


def _paired(function: Callable[[Any, Any], Any], tree: Any, other: Any) -> None:
    if isinstance(tree, Mapping):
        for k in tree:
            _paired(function, tree[k], other[k])
    elif isinstance(tree, tuple):
        for a, b in zip(tree, other, strict=True):
            _paired(function, a, b)
    else:
        function(tree, other)

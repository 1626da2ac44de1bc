"""What a pipeline is a function of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from spec2fn.transforms.packing import Packed, PyTree

__all__ = ["Variable", "described"]


@dataclass(frozen=True)
class Variable:
    """What a pipeline is a function of.

    Attributes
    ----------
    dims : tuple of str
    shape : tuple of int
    dtype : numpy.dtype
    units : str
        Empty where there are none, or they are not known.
    """

    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    units: str = ""


def described(value: PyTree, prefix: str, dims: Any = None) -> Iterator[tuple[str, Variable]]:  # noqa: ANN401 - spec2fn.plan_base.Dims
    """Every array of packed values by path."""
    if isinstance(value, Packed):
        kind = value.kind
        layout = {}
        if kind == "dataset":
            layout = {name: (d, dict(a)) for name, d, a, _ in value.template.value[1]}
        for name, one in value.arrays.items():
            path = f"{prefix}{name}"
            if name in layout and hasattr(one, "shape"):
                named, attrs = layout[name]
                units = str(attrs.get("units", ""))
                yield path, Variable(named, tuple(one.shape), np.dtype(one.dtype), units)
            else:
                declared = value.template.value[1].declared.get(name) if kind == "plan" else dims
                yield from described(one, f"{path}/", declared)
    elif isinstance(value, Mapping):
        for key, one in value.items():
            yield from described(one, f"{prefix}{key}/", dims)
    elif isinstance(value, tuple):
        for i, one in enumerate(value):
            yield from described(one, f"{prefix}{i}/", dims)
    elif hasattr(value, "shape") or isinstance(value, float):
        array = np.asarray(value) if isinstance(value, float) else value
        names = dims.of(array.ndim) if dims is not None else None
        names = tuple("_" for _ in range(array.ndim)) if names is None else names
        yield prefix.rstrip("/"), Variable(names, tuple(array.shape), np.dtype(array.dtype))

"""Array types, for annotations: light to import, JAX is only loaded by a type checker."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias, Union

import numpy as np

if TYPE_CHECKING:
    import jax

__all__ = ["Array", "Arrays", "HostArray", "Number"]

HostArray: TypeAlias = np.ndarray[Any, Any]
"""An array of NumPy: of plans and whatever else is computed on the host."""

Array: TypeAlias = Union[HostArray, "jax.Array"]
"""An array of NumPy or of JAX, a tracer as well: what kernels take and return."""

Number: TypeAlias = Union[float, Array]  # noqa: UP007
"""A number, or an array without dimensions."""

Arrays: TypeAlias = Mapping[str, Array]
"""Arrays by name."""

"""JAX transformations that speak Dataset: ``jit``, ``value_and_grad``, ``jvp``, ``vmap``.

Datasets are not registered as pytrees (attributes would vanish from the structure, and a second
library registering the type would collide). They cross into JAX through :func:`pack`: numeric
variables become traced arguments; names, dims, attributes that steps branch on, and variables
that are no numbers become a hashable template; :class:`~spec2fn.schema.Meta` (headers, gwcs)
stays outside, so that a new file name does not cause a new trace and a new ``exp_type`` does.
Labels of slits (texts, integers and booleans on ``slit`` alone) are static as well.

Functions may take and return Datasets and their variables, mappings, tuples,
:class:`~spec2fn.plan_base.Plan` objects, arrays and plain Python values, in any nesting.
"""

from __future__ import annotations

from spec2fn.transforms.mapping import vmap
from spec2fn.transforms.packing import pack, unpack
from spec2fn.transforms.tracing import jit, jvp, value_and_grad

__all__ = ["jit", "jvp", "pack", "unpack", "value_and_grad", "vmap"]

"""Whole pipelines as compiled functions: planned once on the host, then differentiated and mapped.

:func:`compile` makes a :class:`Compiled` of an exposure, :func:`realisations` draws noise through
one. Nothing here is imported before it is asked for, and ``spec2fn run`` asks only with
``--backend jax``.
"""

from __future__ import annotations

from spec2fn.compiled.pipeline import Compiled
from spec2fn.compiled.realisations import Realisations, realisations
from spec2fn.compiled.source import compile
from spec2fn.compiled.variables import Variable

__all__ = ["Compiled", "Realisations", "Variable", "compile", "realisations"]

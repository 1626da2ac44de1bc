"""Pipelines in which every slit goes through the steps alone."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from spec2fn.engine.pipeline import AlsoOn, Pipeline, Split
from spec2fn.engine.step import Step
from spec2fn.transforms.mapping import vmap

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["slit_by_slit"]


def slit_by_slit(pipeline: Pipeline) -> Pipeline:
    """Return a pipeline whose steps are mapped along ``slit``, to be run inside a trace.

    Steps before there are slits are as they were, and so are those that do something with all
    slits together.
    """
    return tuple(_element(element) for element in pipeline)


def _element(element: Any) -> Any:  # noqa: ANN401 - any element of a pipeline
    if isinstance(element, Step):
        return _mapped(element)
    if isinstance(element, AlsoOn):
        return replace(element, step=_mapped(element.step))
    if isinstance(element, Split):
        branches = (replace(b, steps=tuple(map(_mapped, b.steps))) for b in element.branches)
        return replace(element, branches=tuple(branches))
    return element


def _mapped(step: Step[Any]) -> Step[Any]:
    if step.scope == "slits":
        return step
    function = step.function

    @functools.wraps(function)
    def by_slit(ds: xr.Dataset, *refs: Any, **named: Any) -> Any:  # noqa: ANN401 - as of the function
        if "slit" not in ds.dims:
            return function(ds, *refs, **named)
        plan = {name: named.pop(name) for name in ("plan",) if name in named}
        # parameters are static, and members are no arguments that could be mapped
        each = functools.partial(function, **named)
        return vmap(each, "slit")(ds, *refs, **plan)

    return replace(step, function=by_slit)

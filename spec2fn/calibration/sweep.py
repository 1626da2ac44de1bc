"""A grid of parameters, in which everything before the first difference is done once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from spec2fn.calibration.job import Source, prepare
from spec2fn.engine.pipeline import (
    AlsoOn,
    Observation,
    Pipeline,
    find_steps,
    steps_of,
    with_parameters,
)
from spec2fn.engine.run import run
from spec2fn.engine.step import Step
from spec2fn.errors import InputError, ParameterError
from spec2fn.pieces import Pieces

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["sweep"]


@dataclass(frozen=True)
class _Axis:
    """A parameter that is varied, and the element of the pipeline where it first matters."""

    name: str
    step: str
    parameter: str
    values: tuple[Any, ...]
    first: int


def sweep(
    source: Source,
    grid: Mapping[str, Sequence[Any]],
    *,
    kind: str = "x1d",
    pipeline: Pipeline | None = None,
    params: Mapping[str, Mapping[str, Any]] | None = None,
    progress: Callable[[str], Any] | None = None,
    **options: Any,  # noqa: ANN401 - those of prepare
) -> xr.Dataset:
    """Calibrate an exposure with every combination of some parameters.

    What comes before the first step that differs is done once.

    Parameters
    ----------
    source : path, mapping, Dataset or Observation
        As of :func:`spec2fn.calibrate`.
    grid : mapping of str to sequence
        Values by parameter: ``{"extract_1d.position_offset": [-1, 0, 1]}``; ``step.skip`` is one.
    kind : str
        Product that is wanted.
    pipeline, params
        As of :func:`spec2fn.calibrate`: what all have in common.
    progress : callable, optional
        Called with the name of each step before it runs.
    **options
        Of :func:`spec2fn.calibration.prepare`: ``overrides``, ``context``, ``lock``, ….

    Returns
    -------
    xarray.Dataset
        The product, with the parameters as coordinates, and as first dims of everything that has
        wavelengths or pixels, in the order of `grid`. What has neither is that of the first.
        Slits and Cubes have them in every Dataset.

    Raises
    ------
    ParameterError
        If there is no such step or parameter, a value is not allowed, or there are none.
    InputError
        If there is no such product, or it has another shape for some of the values.
    """
    job = prepare(source, pipeline=pipeline, params=params, **options)
    whole = _decided(job.settings.pipeline)
    axes = _axes(whole, grid)
    results: dict[tuple[int, ...], Any] = {}

    def descend(
        obs: Observation, begun: int, steps: Pipeline, left: Sequence[_Axis], at: tuple[int, ...]
    ) -> None:
        """Go on from element `begun` of a pipeline, with the axes that are left."""
        stop = left[0].first if left else len(steps)
        products: Mapping[str, Any] = {}
        if stop > begun:
            done = run(
                steps[begun:stop],
                obs,
                job.references,
                products=(kind,),
                progress=progress,
            )
            products, obs = done.products, Observation(done.dataset, done.members)
        if not left:
            if kind not in products:
                held = ", ".join(products) or "none after the parameters of the grid"
                msg = f"sweep: there is no product {kind!r}; there is {held}"
                raise InputError(msg)
            results[at] = products[kind]
            return
        axis, *others = left
        for i, value in enumerate(axis.values):
            changed = with_parameters(steps, {axis.step: {axis.parameter: value}})
            descend(obs, stop, changed, others, (*at, i))

    ordered = sorted(axes, key=lambda a: a.first)
    descend(job.observation, 0, whole, ordered, ())
    return _arranged(results, ordered, [a.name for a in axes])


def _decided(pipeline: Pipeline) -> Pipeline:
    """A pipeline in which the conditions of lifts are decided: its parts do not see the rest."""
    active = {s.name for s in steps_of(pipeline) if not s.skip}
    return tuple(
        (replace(e, when="") if e.when in active else e.step)
        if isinstance(e, AlsoOn) and e.when
        else e
        for e in pipeline
    )


def _axes(pipeline: Pipeline, grid: Mapping[str, Sequence[Any]]) -> list[_Axis]:
    if not grid:
        raise ParameterError("sweep: the grid has no parameter; give step.parameter with values")
    axes = []
    for name, values in grid.items():
        step, dot, parameter = name.rpartition(".")
        if not dot or isinstance(values, str) or not len(values):
            msg = f"sweep: needs step.parameter with a sequence of values, got {name!r}: {values!r}"
            raise ParameterError(msg)
        steps = find_steps(pipeline, step)
        # fails before anything runs; a value may be a text of the command line
        bound = [steps[0].with_(**{parameter: value}) for value in values]
        coerced = tuple(s.skip if parameter == "skip" else s.defaults()[parameter] for s in bound)
        keys = {s.key for s in steps}
        at = next(i for i, e in enumerate(pipeline) if keys & {s.key for s in steps_of((e,))})
        axes.append(_Axis(name, step, parameter, coerced, _first_affected(pipeline, at)))
    return axes


def _first_affected(pipeline: Pipeline, at: int) -> int:
    """The first element that a step concerns: one may look ahead at those that follow."""
    for i, element in enumerate(pipeline[:at]):
        looks_ahead = isinstance(element, Step) and "corrections" in element.parameters
        if looks_ahead and all(isinstance(e, Step) for e in pipeline[i + 1 : at + 1]):
            return i
    return at


def _arranged(
    results: Mapping[tuple[int, ...], Any], axes: Sequence[_Axis], names: Sequence[str]
) -> Any:  # noqa: ANN401 - a product
    """Products as one, with a dim for each axis."""

    def below(at: tuple[int, ...]) -> Any:  # noqa: ANN401 - a product
        if len(at) == len(axes):
            return results[at]
        axis = axes[len(at)]
        return _stacked([below((*at, i)) for i in range(len(axis.values))], axis)

    return _ordered(below(()), names)


def _stacked(parts: list[Any], axis: _Axis) -> Any:  # noqa: ANN401 - a product
    import xarray as xr

    if isinstance(parts[0], Pieces):
        several = zip(*(p.pieces for p in parts), strict=True)
        return parts[0].with_pieces(tuple(_stacked(list(s), axis) for s in several))
    for part, value in zip(parts, axis.values, strict=True):
        if dict(part.sizes) != dict(parts[0].sizes) or set(part.variables) != set(
            parts[0].variables
        ):
            msg = (
                f"sweep: with {axis.name}={value} the product has other variables or another shape"
                f" ({dict(part.sizes)}) than with {axis.values[0]} ({dict(parts[0].sizes)}); sweep"
                " these on their own"
            )
            raise InputError(msg)
    plain = all(isinstance(v, (bool, int, float, str)) for v in axis.values)
    values = list(axis.values) if plain else [str(v) for v in axis.values]
    joined = xr.concat(
        parts,
        dim=xr.IndexVariable(axis.name, values),
        data_vars=[n for n, v in parts[0].data_vars.items() if {"wave", "x"} & set(v.dims)],
        coords="minimal",
        compat="override",
        join="override",
        combine_attrs="override",
    )
    return joined.assign_attrs(parts[0].attrs)


def _ordered(product: Any, names: Sequence[str]) -> Any:  # noqa: ANN401 - a product
    if isinstance(product, Pieces):
        return product.with_pieces(tuple(_ordered(p, names) for p in product.pieces))
    return product.transpose(*(n for n in names if n in product.dims), ...)

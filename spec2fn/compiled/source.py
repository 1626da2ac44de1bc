"""From a file, an association or data in memory to a compiled pipeline."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from spec2fn.calibration.job import Source, prepare
from spec2fn.compiled.pipeline import Compiled
from spec2fn.engine.pipeline import Observation, Pipeline
from spec2fn.engine.settings import Settings, resolve_settings
from spec2fn.engine.step import as_reference
from spec2fn.errors import ParameterError
from spec2fn.pieces import Pieces

if TYPE_CHECKING:
    from spec2fn.pieces import Exposure

__all__ = ["compile", "in_memory", "prepared"]


def compile(  # noqa: A001 - spec2fn.compile is what it is called
    source: Source,
    pipeline: Pipeline | None = None,
    refs: Mapping[str, Any] | None = None,
    *,
    members: Mapping[str, tuple[Any, ...]] | None = None,
    params: Mapping[str, Mapping[str, Any]] | None = None,
    overrides: Mapping[str, Any] | None = None,
    kinds: Iterable[str] = (),
    **options: Any,  # noqa: ANN401 - those of prepare
) -> Compiled:
    """Plan a pipeline for an exposure, and make a function of it that JAX compiles.

    The exposure is calibrated once in NumPy, which makes the plans. What follows is one function
    of the numbers of exposure, references and plans; see :class:`Compiled` for what it offers,
    and for what is fixed by the plan.

    Parameters
    ----------
    source : path, mapping, Dataset or Observation
        As of :func:`spec2fn.calibrate`.
    pipeline : tuple, optional
        Steps to run; default: the pipeline of the exposure type.
    refs : mapping of str to Dataset, array, path or None, optional
        References by type, as of :func:`spec2fn.run`: CRDS is not asked then.
    members : mapping of str to tuple of xarray.Dataset, optional
        Associated exposures by role, of data in memory.
    params : mapping, optional
        Parameters by step.
    overrides : mapping of str to path, array, Dataset or None, optional
        References by type that replace those that CRDS selects.
    kinds : iterable of str
        Products to make (``"x1d"``); by default all of the pipeline that are not optional.
    **options
        Of :func:`spec2fn.calibration.prepare`: ``context``, ``lock``, ``compatibility``, ….

    Returns
    -------
    Compiled

    Raises
    ------
    InputError, ReferenceError, ParameterError
        As of :func:`spec2fn.calibrate`; and if a step fails on single slits.
    """
    observation, settings, references = prepared(
        source, pipeline, refs, members=members, params=params, overrides=overrides, **options
    )
    return Compiled.of(observation, settings, references, tuple(kinds))


def prepared(
    source: Source,
    pipeline: Pipeline | None,
    refs: Mapping[str, Any] | None,
    *,
    members: Mapping[str, tuple[Any, ...]] | None = None,
    params: Mapping[str, Mapping[str, Any]] | None = None,
    overrides: Mapping[str, Any] | None = None,
    **options: Any,  # noqa: ANN401 - those of prepare
) -> tuple[Observation, Settings, dict[str, Any]]:
    """Return observation, settings and references of a run, read into memory.

    Arguments are those of :func:`compile`.
    """
    references: Mapping[str, Any]
    if refs is None:
        job = prepare(source, pipeline=pipeline, params=params, overrides=overrides, **options)
        observation, settings, references = job.observation, job.settings, job.references
    else:
        if overrides or options:
            named = ", ".join(["overrides"] * bool(overrides) + list(options))
            msg = f"compile: {named} goes with references from CRDS, not with refs; leave one out"
            raise ParameterError(msg)
        from spec2fn import pipelines
        from spec2fn.calibration.job import opened

        observation = opened(source)
        if pipeline is None:
            _, pipeline = pipelines.for_exposure(observation.science)
        settings, references = resolve_settings(pipeline, params), refs
    if members:
        observation = observation.replace(**{k: tuple(v) for k, v in members.items()})
    observation, loaded = in_memory(observation, references)
    return observation, settings, loaded


def in_memory(
    observation: Observation, references: Mapping[str, Any]
) -> tuple[Observation, dict[str, Any]]:
    """Read an observation and its references."""
    loaded = {
        key: None if ref is None else as_reference(ref, key.rpartition(":")[2]).load()
        for key, ref in dict(references).items()
    }
    held = {role: tuple(map(_loaded, some)) for role, some in observation.members.items()}
    return Observation(_loaded(observation.science), held), loaded


def _loaded(exposure: Exposure) -> Exposure:
    if isinstance(exposure, Pieces):
        return exposure.map(lambda ds: ds.load())
    return exposure.load()

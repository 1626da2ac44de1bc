"""Which value every parameter has, and who said so.

Precedence: the user, then the CRDS reference ``pars-spec2pipeline``, then ``pars-<step>``, then
a preset of :mod:`spec2fn.compatibility`, then the default of the step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from spec2fn.compatibility import preset
from spec2fn.engine.pipeline import Pipeline, find_steps, steps_of, with_parameters
from spec2fn.engine.step import Step
from spec2fn.parameters import Parameter

__all__ = [
    "COMPATIBILITY",
    "CRDS_PIPELINE",
    "CRDS_STEP",
    "DEFAULT",
    "USER",
    "Settings",
    "resolve_settings",
]

DEFAULT = "default"
COMPATIBILITY = "compatibility"
USER = "user"
CRDS_PIPELINE = "CRDS pars-spec2pipeline"
CRDS_STEP = "CRDS pars-{}"


@dataclass(frozen=True)
class Settings:
    """The parameters of a run.

    Attributes
    ----------
    pipeline : tuple
        The pipeline with every parameter bound.
    origins : mapping of (step, parameter) to str
        Who set a parameter that is not at its default; ``skip`` counts as a parameter.
    save : tuple of str
        Steps whose own output is to be saved.
    ignored : tuple of str
        ``step.parameter`` entries of parameter references that have no meaning here.
    """

    pipeline: Pipeline
    origins: Mapping[tuple[str, str], str] = field(default_factory=dict)
    save: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()

    def table(self, step: Step) -> dict[str, tuple[Any, str]]:
        """Parameters of a step: name to (value, origin), ``skip`` first."""
        values = {"skip": step.skip, **step.defaults()}
        return {n: (v, self.origins.get((step.key, n), DEFAULT)) for n, v in values.items()}


def resolve_settings(
    pipeline: Pipeline,
    user: Mapping[str, Mapping[str, Any]] | None = None,
    crds: Mapping[str, Mapping[str, Any]] | None = None,
    compatibility: str | None = None,
) -> Settings:
    """Bind parameters to a pipeline.

    Parameters
    ----------
    pipeline : tuple
    user : mapping of step to mapping of parameter to value, optional
        Step names may be aliases; ``skip`` switches a step; ``save_results`` saves its output.
    crds : mapping, optional
        As ``spec2fn.refs.parameter_references`` returns it: parameters by step, and under
        ``"pipeline"`` those of ``pars-spec2pipeline``, by step.
    compatibility : str, optional
        Name of a preset of :mod:`spec2fn.compatibility`.

    Raises
    ------
    ParameterError
        For a step or parameter of the user's that does not exist, or a value that does not fit.
        Unknown entries of CRDS files are listed in ``ignored``.
    """
    chosen: dict[str, dict[str, Any]] = {}
    origins: dict[tuple[str, str], str] = {}
    save: dict[str, bool] = {}
    ignored: list[str] = []
    crds = crds or {}
    by_pipeline = crds.get("pipeline", {})
    base = preset(compatibility) if compatibility else {}
    for step in steps_of(pipeline):
        for source, origin in (
            (_entry(base, step), COMPATIBILITY),
            (_entry(crds, step), CRDS_STEP.format(step.name)),
            (_entry(by_pipeline, step), CRDS_PIPELINE),
        ):
            for name, value in source.items():
                if name == "save_results":
                    save[step.key] = bool(value)
                elif name == "skip" or name in step.parameters:
                    chosen.setdefault(step.key, {})[name] = value
                    origins[step.key, name] = origin
                else:
                    ignored.append(f"{step.key}.{name}")
    for label, values in (user or {}).items():
        for step in find_steps(pipeline, label):
            for name, value in values.items():
                if name == "save_results":
                    save[step.key] = _truth(value)
                    continue
                chosen.setdefault(step.key, {})[name] = value
                origins[step.key, name] = USER
    for values in chosen.values():
        if "skip" in values:
            values["skip"] = _truth(values["skip"])
    bound = with_parameters(pipeline, chosen)
    kept = tuple(name for name, on in save.items() if on)
    return Settings(bound, origins, kept, tuple(ignored))


def _entry(source: Mapping[str, Any], step: Step) -> Mapping[str, Any]:
    for name in (step.name, *step.aliases):
        if name in source:
            return source[name]
    return {}


def _truth(value: object) -> bool:
    return Parameter("skip", bool, False).coerce(value, "step")

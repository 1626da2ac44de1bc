"""Which value every parameter has, and who said so.

Precedence: the user, then parameter files of the user's, then the CRDS reference
``pars-spec2pipeline``, then ``pars-<step>``, then a preset of :mod:`spec2fn.compatibility`, then
the default of the step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from spec2fn.compatibility import preset
from spec2fn.engine.library import steps_of_library
from spec2fn.engine.pipeline import (
    Pipeline,
    find_steps,
    steps_named,
    steps_of,
    with_overrides,
    with_parameters,
)
from spec2fn.engine.step import Step
from spec2fn.errors import ParameterError
from spec2fn.official import foreign, step_named
from spec2fn.parameters import Parameter, unknown_parameter

__all__ = [
    "COMPATIBILITY",
    "CRDS_PIPELINE",
    "CRDS_STEP",
    "DEFAULT",
    "FILE",
    "USER",
    "Settings",
    "has_step",
    "resolve_settings",
]

DEFAULT = "default"
COMPATIBILITY = "compatibility"
USER = "user"
FILE = "parameter file"

_OVERRIDE = "override_"
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
        ``step.parameter`` that have no meaning here, or for this pipeline.
    overrides : mapping of str to path, array, Dataset or None
        References of single steps, by ``step:type``.
    notes : tuple of str
        What there is to say of values of the user's that are passed over.
    """

    pipeline: Pipeline
    origins: Mapping[tuple[str, str], str] = field(default_factory=dict)
    save: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    overrides: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def table(self, step: Step) -> dict[str, tuple[Any, str]]:
        """Parameters of a step: name to (value, origin), ``skip`` first."""
        values = {"skip": step.skip, **step.defaults()}
        return {n: (v, self.origins.get((step.key, n), DEFAULT)) for n, v in values.items()}


def resolve_settings(
    pipeline: Pipeline,
    user: Mapping[str, Mapping[str, Any]] | None = None,
    crds: Mapping[str, Mapping[str, Any]] | None = None,
    compatibility: str | None = None,
    files: Mapping[str, Mapping[str, Any]] | None = None,
) -> Settings:
    """Bind parameters to a pipeline.

    Parameters
    ----------
    pipeline : tuple
    user : mapping of step to mapping of parameter to value, optional
        Step names may be aliases; ``skip`` switches a step; ``save_results`` saves its output;
        ``override_<type>`` gives a reference to this step alone. What the official pipeline has
        besides is passed over or refused as :mod:`spec2fn.official` says, and so are parameters
        of its steps that the pipeline does not have.
    crds : mapping, optional
        As ``spec2fn.refs.parameter_references`` returns it: parameters by step, and under
        ``"pipeline"`` those of ``pars-spec2pipeline``, by step.
    compatibility : str, optional
        Name of a preset of :mod:`spec2fn.compatibility`.
    files : mapping, optional
        As `user`, from parameter files.

    Raises
    ------
    ParameterError
        For a step or parameter of the user's that does not exist, or a value that does not fit.
        Unknown entries of CRDS files are listed in ``ignored``.
    """
    choices = _Choices()
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
                if not choices.take(step, name, value, origin) and origin != COMPATIBILITY:
                    choices.ignored[f"{step.key}.{name}"] = None
    for source, origin in ((files or {}, FILE), (user or {}, USER)):
        for label, values in source.items():
            if not isinstance(values, Mapping):
                msg = (
                    f"parameters of {label!r} need a mapping of name to value, got {values!r};"
                    " options of the pipeline are arguments of spec2fn.calibrate"
                )
                raise ParameterError(msg)
            if not has_step(pipeline, label):
                choices.pass_over(label, values)
                continue
            for step in find_steps(pipeline, label):
                for name, value in values.items():
                    if not choices.take(step, name, value, origin):
                        choices.judge(step, name, value)
    bound = with_parameters(pipeline, choices.chosen)
    return Settings(
        with_overrides(bound, choices.overrides),
        choices.origins,
        tuple(name for name, on in choices.save.items() if on),
        tuple(choices.ignored),
        choices.overrides,
        tuple(choices.notes),
    )


@dataclass
class _Choices:
    """What the sources of parameters have said so far; the last word counts."""

    chosen: dict[str, dict[str, Any]] = field(default_factory=dict)
    origins: dict[tuple[str, str], str] = field(default_factory=dict)
    save: dict[str, bool] = field(default_factory=dict)
    ignored: dict[str, None] = field(default_factory=dict)
    overrides: dict[str, Any] = field(default_factory=dict)
    notes: dict[str, None] = field(default_factory=dict)

    def take(self, step: Step, name: str, value: object, origin: str) -> bool:
        """Take a parameter that the step has, and say whether it has it."""
        if name in ("skip", "save_results"):
            if value is None:  # not said
                return True
            value = _truth(value)
        if name == "save_results":
            self.save[step.key] = bool(value)
        elif name == "skip" or name in step.parameters:
            self.chosen.setdefault(step.key, {})[name] = value
            self.origins[step.key, name] = origin
        else:
            return False
        return True

    def judge(self, step: Step, name: str, value: object) -> None:
        """Take note of a parameter that the step does not have, or refuse it."""
        elsewhere = any(_takes(other, name) for other in steps_of_library(step.name))
        if elsewhere and not _takes(step, name):  # in a mode that has another step of this name
            self.ignored[f"{step.key}.{name}"] = None
            return
        if name.startswith(_OVERRIDE):
            self.overrides |= _override(step, name, value)
            return
        rule = foreign(step.name, name)
        if rule is None:
            raise unknown_parameter(step.name, name, step.parameters)
        note = rule.note(f"{step.key}.{name}", value)
        if note:
            self.notes[note] = None
            self.ignored[f"{step.key}.{name}"] = None

    def pass_over(self, label: str, values: Mapping[str, Any]) -> None:
        """Take note of parameters of a step that the pipeline does not have, if it exists."""
        name = step_named(label)
        steps = steps_of_library(name)
        step = steps[0] if steps else None
        for parameter, value in values.items():
            rule = foreign(name, parameter)
            has = any(_takes(s, parameter) for s in steps)
            if rule is not None and not has:
                rule.note(f"{name}.{parameter}", value)
            elif step is not None and not has:
                if parameter.startswith(_OVERRIDE):
                    _override(step, parameter, value)
                elif parameter not in ("skip", "save_results"):
                    raise unknown_parameter(name, parameter, step.parameters)
            self.ignored[f"{name}.{parameter}"] = None


def _entry(source: Mapping[str, Any], step: Step) -> Mapping[str, Any]:
    for name in (step.name, *step.aliases):
        if name in source:
            return source[name]
    return {}


def _takes(step: Step, name: str) -> bool:
    """Whether a step has a parameter, or takes the reference that ``override_<type>`` names."""
    return name in step.parameters or name in {f"{_OVERRIDE}{reftype}" for reftype in step.refs}


def has_step(pipeline: Pipeline, label: str) -> bool:
    """Whether to look for a step: not for one of another mode, which this pipeline lacks."""
    return not step_named(label) or bool(steps_named(pipeline, label))


def _override(step: Step, name: str, value: object) -> dict[str, object]:
    """The reference of this step alone, by its key in a run; none where nothing is asked for.

    Raises
    ------
    ParameterError
        If the step does not take such a reference.
    """
    text = value.strip().lower() if isinstance(value, str) else ""
    if value is None or (isinstance(value, str) and text in ("", "none")):
        return {}
    reftype = name.removeprefix(_OVERRIDE)
    if reftype not in step.refs:
        listed = ", ".join(step.refs) or "none"
        msg = f"{step.name}.{name}: {step.name} takes no reference {reftype!r} (it takes: {listed})"
        raise ParameterError(msg)
    return {f"{step.key}:{reftype}": None if text == "n/a" else value}


def _truth(value: object) -> bool:
    return Parameter("skip", bool, False).coerce(value, "step")

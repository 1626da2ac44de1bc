"""What a run would do, said beforehand without doing it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from spec2fn.engine.checks import checked
from spec2fn.engine.pipeline import (
    Observation,
    Pipeline,
    Product,
    reference_names,
    references_of,
    steps_of,
)
from spec2fn.engine.settings import Settings
from spec2fn.engine.step import Step
from spec2fn.pieces import Exposure, pieces_of

__all__ = ["PlannedStep", "RunPlan", "expected_memory", "plan"]


@dataclass(frozen=True)
class PlannedStep:
    """What one step of a planned run will do."""

    name: str
    runs: bool
    reason: str
    parameters: Mapping[str, tuple[Any, str]]
    references: Mapping[str, str]


@dataclass(frozen=True)
class RunPlan:
    """What a run would do; ``print`` it."""

    steps: tuple[PlannedStep, ...]
    products: tuple[str, ...]
    missing: tuple[str, ...]
    peak_memory: int
    context: str = ""
    ignored: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = []
        for s in self.steps:
            because = f"  ({s.reason})" if s.reason else ""
            lines.append(f"{'run ' if s.runs else 'skip'}  {s.name}{because}")
            for name, (value, origin) in s.parameters.items():
                if origin != "default" or s.runs:
                    lines.append(f"        {name} = {value!r}  [{origin}]")
            for reftype, name in s.references.items():
                if name != "N/A":
                    lines.append(f"        {reftype}: {name}")
        lines.append(f"products: {', '.join(self.products)}")
        if self.context:
            lines.append(f"CRDS context: {self.context}")
        if self.ignored:
            lines.append(f"ignored parameters: {', '.join(self.ignored)}")
        lines.append(f"expected peak memory: {self.peak_memory / 2**20:.0f} MB")
        if self.missing:
            lines.append("missing references:")
            lines.extend(f"    {m}" for m in self.missing)
        lines += [f"warning: {w}" for w in self.warnings]
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """The plan as JSON-able data."""
        return {
            "steps": [
                {
                    "step": s.name,
                    "runs": s.runs,
                    "reason": s.reason,
                    "parameters": {
                        n: {"value": v, "origin": o} for n, (v, o) in s.parameters.items()
                    },
                    "references": dict(s.references),
                }
                for s in self.steps
            ],
            "products": list(self.products),
            "missing": list(self.missing),
            "peak_memory_bytes": self.peak_memory,
            "crds_context": self.context,
            "ignored": list(self.ignored),
            "warnings": list(self.warnings),
        }


def plan(
    pipeline: Pipeline,
    science: Exposure | Observation,
    refs: Mapping[str, Any] | None = None,
    *,
    members: Mapping[str, tuple[Any, ...]] | None = None,
    params: Mapping[str, Mapping[str, Any]] | Settings | None = None,
    products: Iterable[str] = (),
    missing: Iterable[str] = (),
    context: str = "",
) -> RunPlan:
    """Say what :func:`spec2fn.run` would do with the same arguments, without doing it.

    Raises
    ------
    InputError, ContractError
        As :func:`spec2fn.run`: if the exposure is not fit for the pipeline, or the order of the
        steps cannot work.
    """
    obs, settings, warnings = checked(pipeline, science, members, params)
    refs = {**settings.overrides, **(refs or {})}
    optional = set(products)
    steps, kinds = [], []
    running: dict[str, bool] = {}
    for element in settings.pipeline:
        if isinstance(element, Product):
            if element.asked(optional) and (not element.of or running.get(element.of, False)):
                kinds.append(element.kind)
            continue
        for step in steps_of((element,)):
            reason = _foreseen_skip(step, settings, refs, obs.members)
            names = {} if step.skip else reference_names(step, refs)
            running[step.name] = not reason
            steps.append(PlannedStep(step.key, not reason, reason, settings.table(step), names))
    return RunPlan(
        tuple(steps),
        tuple(kinds),
        tuple(missing),
        expected_memory(obs.science),
        context,
        settings.ignored,
        (*warnings, *settings.notes),
    )


def _foreseen_skip(
    step: Step, settings: Settings, refs: Mapping[str, Any], members: Mapping[str, Any]
) -> str:
    if step.skip:
        origin = settings.origins.get((step.key, "skip"), "")
        if origin:
            return f"switched off by {origin}"
        return f"off by default; switch on with --set {step.name}.skip=false"
    values, selected = step.defaults(), references_of(step, refs)
    given = [v for r in step.needs_refs for v in (selected[r], values.get(f"user_supplied_{r}"))]
    found = [m for m in step.needs_members if members.get(m)]
    if found or any(v is not None for v in given) or not (step.needs_refs or step.needs_members):
        return ""
    if step.needs_members:
        return f"no {' or '.join(step.needs_members)} exposure is associated"
    return f"no {' or '.join(step.needs_refs)} reference for this exposure"


# Planes alive at once at the worst moment of a run (input, output, and temporaries of a step),
# and what the imports take; measured with benchmarks/compare_peer.py.
_PLANES_ALIVE = 14
_IMPORTS = 350 * 2**20


def expected_memory(exposure: Exposure) -> int:
    """Expected peak memory of a run in bytes."""
    planes = (part["sci" if "sci" in part else "flux"] for part in pieces_of(exposure))
    return _IMPORTS + _PLANES_ALIVE * 4 * sum(plane.size for plane in planes)

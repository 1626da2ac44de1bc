"""Run a pipeline on Datasets in memory."""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from spec2fn.engine.checks import checked, warnings_in
from spec2fn.engine.pipeline import (
    AlsoOn,
    Observation,
    Pipeline,
    Product,
    Split,
    reference_names,
    references_of,
    steps_of,
    with_later_steps,
)
from spec2fn.engine.settings import Settings
from spec2fn.engine.step import Skip, Step
from spec2fn.errors import Spec2fnError, StepFailedError
from spec2fn.pieces import Exposure
from spec2fn.schema import NOT_EXTRACTED, SWITCHED_OFF, meta_of, status_of, with_status
from spec2fn.slits import Slits, apply_by_slit

__all__ = ["Result", "StepRecord", "heard", "run"]


@dataclass(frozen=True)
class StepRecord:
    """What one step did; `problems` has what went wrong with single slits, by name."""

    name: str
    status: str
    parameters: Mapping[str, tuple[Any, str]] = field(default_factory=dict)
    references: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    problems: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """What a run made.

    Attributes
    ----------
    dataset : xarray.Dataset
        The output of the last step.
    products : mapping of str to xarray.Dataset
        By kind: ``cal``, ``s2d``, ``x1d``, …
    saved : mapping of str to xarray.Dataset
        Outputs of single steps that were asked for.
    report : tuple of StepRecord
        One per step, in order.
    plans : mapping of str to Plan
        Host-side halves of the two-phase steps, to be used again; those of associated exposures
        are tuples under the role and the step: ``"background:nsclean"``.
    members : mapping of str to tuple of xarray.Dataset
        Associated exposures as the steps left them.
    warnings : tuple of str
        What the files, the plans and the steps had to say, in the order they said it.
    """

    dataset: Any
    products: Mapping[str, Any]
    saved: Mapping[str, Any]
    report: tuple[StepRecord, ...]
    plans: Mapping[str, Any]
    members: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def run(
    pipeline: Pipeline,
    science: Exposure | Observation,
    refs: Mapping[str, Any] | None = None,
    *,
    members: Mapping[str, tuple[Any, ...]] | None = None,
    params: Mapping[str, Mapping[str, Any]] | Settings | None = None,
    plans: Mapping[str, Any] | None = None,
    lean: bool = False,
    save_steps: Iterable[str] = (),
    products: Iterable[str] = (),
    progress: Callable[[str], Any] | None = None,
    strict: bool = False,
) -> Result:
    """Run `pipeline` on an exposure.

    Parameters
    ----------
    pipeline : tuple
        Steps, product markers and lifts, as in :mod:`spec2fn.pipelines`.
    science : xarray.Dataset or Observation
        Not modified.
    refs : mapping of str to Dataset, array, path or None, optional
        References by type.
    members : mapping of str to tuple of xarray.Dataset, optional
        Associated exposures by role.
    params : mapping, optional
        ``{"photom": {"inverse": True}}``; the parameter ``skip`` switches a step on or off.
    plans : mapping of str to Plan, optional
        Plans from an earlier run of the same geometry.
    lean : bool
        Forget plans when they have been used, and associated exposures when no later step takes
        them; the result holds neither. Both may take more memory than the products.
    save_steps : iterable of str
        Steps whose output is kept in ``result.saved``.
    products : iterable of str
        Kinds of optional products to keep.
    progress : callable, optional
        Called with the name of each step before it runs.
    strict : bool
        Raise if a step fails on a slit. By default the slit becomes NaN and is flagged
        DO_NOT_USE, the report (and the variable ``slit_problem``) says why, and the other slits
        go on.

    Returns
    -------
    Result

    Raises
    ------
    InputError
        If the exposure has been through a step already that cannot be repeated; slice the
        pipeline with :func:`spec2fn.since` to go on where it stands. If it lacks a variable, or a
        member that a step takes does not belong to it (:func:`spec2fn.members.check_members`).
    ContractError
        If a step needs a variable that a later one provides.
    StepFailedError
        If a step raises an error that is not one of spec2fn's own, or with `strict` fails on a
        slit.
    """
    obs, settings, warnings = checked(pipeline, science, members, params)
    # what a step has been through is needed no more: nothing here may hold on to it
    del science, members
    refs = {**settings.overrides, **(refs or {})}
    taken: dict[str, Any] = {}
    wanted = frozenset({*save_steps, *settings.save})
    state = _Run(settings, refs, dict(plans or {}), lean, wanted, progress, strict)
    state.note(*warnings, *settings.notes)
    waiting = [obs]
    del obs
    optional = set(products)
    elements = with_later_steps(settings.pipeline)
    for i, element in enumerate(elements):
        if isinstance(element, Product):
            ds = waiting[0].science
            if element.asked(optional) and (
                not element.of or status_of(ds, element.of) == "COMPLETE"
            ):
                taken[element.kind] = ds
            del ds
        elif isinstance(element, Split):
            waiting.append(state.split(element, waiting))
        else:
            waiting.append(state.apply(element, waiting.pop()))
        if lean:
            waiting.append(_without_members(waiting.pop(), elements[i + 1 :]))
    obs = waiting.pop()
    told = tuple(state.warnings)
    records = tuple(state.records)
    return Result(obs.science, taken, state.saved, records, state.plans, obs.members, told)


@contextlib.contextmanager
def heard(tell: Callable[[str], Any]) -> Iterator[None]:
    """Pass the warnings that are logged in this thread inside the block to `tell`."""

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.thread == threading.get_ident():
                tell(" ".join(record.getMessage().split()))

    logger, ear = logging.getLogger("spec2fn"), Ear(logging.WARNING)
    logger.addHandler(ear)
    try:
        yield
    finally:
        logger.removeHandler(ear)


def _without_members(obs: Observation, later: Pipeline) -> Observation:
    """Drop the associated exposures that no element of `later` takes."""
    roles = {m for s in steps_of(later) if not s.skip for m in s.members}
    roles.update(r for e in later if isinstance(e, AlsoOn) and not e.step.skip for r in e.roles)
    return Observation(obs.science, {k: v for k, v in obs.members.items() if k in roles})


@dataclass
class _Run:
    """What a run gathers on its way."""

    settings: Settings
    refs: Mapping[str, Any]
    plans: dict[str, Any]
    lean: bool
    wanted: frozenset[str]
    progress: Callable[[str], Any] | None
    strict: bool = False
    records: list[StepRecord] = field(default_factory=list)
    saved: dict[str, Any] = field(default_factory=dict)
    warnings: dict[str, None] = field(default_factory=dict)

    def note(self, *warnings: str) -> None:
        """Take note of warnings, each once."""
        self.warnings.update(dict.fromkeys(warnings))

    def apply(self, element: Step | AlsoOn, obs: Observation) -> Observation:
        """Run one step and take note of it."""
        step = element.step if isinstance(element, AlsoOn) else element
        if self.progress is not None:
            self.progress(step.key)
        start = time.perf_counter()
        if isinstance(element, AlsoOn) and element.when:
            active = {s.name for s in steps_of(self.settings.pipeline) if not s.skip}
            element = element if element.when in active else step
        before = _problems(obs.science)
        with heard(self.note):
            obs = self._applied(element, obs)
        self.note(*warnings_in(obs))
        problems = _new_problems(before, _problems(obs.science))
        if problems and self.strict:
            listed = "; ".join(f"slit {name}: {text}" for name, text in problems.items())
            msg = f"step {step.key} failed on {len(problems)} slits (strict=True): {listed}"
            raise StepFailedError(msg)
        record = StepRecord(
            step.key,
            status_of(obs.science, step.name),
            self.settings.table(step),
            reference_names(step, self.refs),
            time.perf_counter() - start,
            problems,
        )
        self.records.append(record)
        if step.key in self.wanted and record.status == "COMPLETE":
            self.saved[step.key] = obs.science
        return obs

    def _applied(self, element: Step | AlsoOn, obs: Observation) -> Observation:
        step = element.step if isinstance(element, AlsoOn) else element
        if step.skip:
            return obs.replace(with_status(obs.science, step.name, SWITCHED_OFF))
        members = {role: obs.members.get(role, ()) for role in step.members}
        taken: dict[str, Any] = {**references_of(step, self.refs), **members}
        try:
            plan = self.plans.get(step.key)
            # without a plan, a step makes that of one bucket of slits after the other
            alone = self.lean and not isinstance(element, AlsoOn)
            if step.planner is not None and plan is None and not alone:
                plan = step.plan(obs.science, **taken)
                if not self.lean:
                    self.plans[step.key] = plan
            science = step(obs.science, plan=plan, **taken)
            if not isinstance(element, AlsoOn) or isinstance(plan, Skip):
                return obs.replace(science)
            changed = {}
            for role in element.roles:
                exposures = obs.members.get(role, ())
                plans = (plan,) * len(exposures)
                if not element.share_plan:
                    plans = self._member_plans(step, role, exposures, taken)
                pairs = zip(exposures, plans, strict=True)
                changed[role] = tuple(step(ds, plan=one, **taken) for ds, one in pairs)
            return obs.replace(science, **changed)
        except Spec2fnError:
            raise
        except Exception as error:
            slits = obs.science if isinstance(obs.science, Slits) and obs.science.buckets else None
            if slits is not None and step.scope == "dataset" and not self.strict:
                rescued = apply_by_slit(functools.partial(step, **taken), slits)
                if rescued is not None:
                    self.plans.pop(step.key, None)
                    return obs.replace(rescued)
            msg = f"step {step.name} failed: {type(error).__name__}: {error}"
            raise StepFailedError(msg) from error

    def _member_plans(
        self, step: Step, role: str, exposures: tuple[Any, ...], taken: Mapping[str, Any]
    ) -> tuple[Any, ...]:
        """The plan for each exposure of a role; kept, unless the run is lean."""
        key = f"{role}:{step.key}"
        if key not in self.plans and step.planner is not None and not self.lean:
            self.plans[key] = tuple(step.plan(ds, **taken) for ds in exposures)
        return self.plans.get(key) or (None,) * len(exposures)

    def split(self, element: Split, waiting: list[Observation]) -> Observation:
        """Run the branches, each on its slits, and join what they give.

        The observation is taken out of the list `waiting`, so that it is forgotten once it has
        been split.
        """
        obs = waiting.pop()
        whole, members = obs.science, obs.members
        exp_type = whole.attrs["exp_type"]
        queue = [(one, whole.where(one.keep)) for one in element.branches]
        del obs, whole
        parts = []
        while queue:
            one, part = queue.pop(0)
            if not len(part):
                continue
            if one.exp_type:
                part = part.assign_attrs(exp_type=one.exp_type)
            for step in one.steps:
                part = self.apply(step, Observation(part, members)).science
            parts.append(part.assign_attrs(exp_type=exp_type))
        return Observation(_joined(parts), members)


def _joined(parts: list[Any]) -> Exposure:
    spectra = [part for part in parts if not isinstance(part, Slits)]
    if spectra:
        from spec2fn.spectra.datasets import join_spectra

        return join_spectra(spectra)  # a branch without any spectrum stays slits
    joined = parts[0]
    # what a step did to the slitlets counts for the exposure; headers and gwcs are each one's
    attrs = {k: v for k, v in joined.attrs.items() if k != "meta"}
    for part in parts[1:]:
        joined = joined.join(part.assign_attrs(attrs))
    return joined


def _problems(exposure: Exposure) -> Mapping[str, str]:
    """What has gone wrong with single slits so far, by name."""
    if isinstance(exposure, Slits):
        return exposure.problems
    return meta_of(exposure).records.get(NOT_EXTRACTED, {})


def _new_problems(before: Mapping[str, str], after: Mapping[str, str]) -> dict[str, str]:
    added = {n: t.removeprefix(before.get(n, "")).removeprefix("; ") for n, t in after.items()}
    return {n: t for n, t in added.items() if t}

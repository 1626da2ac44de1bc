"""Run a pipeline on Datasets in memory, and say beforehand what a run would do."""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from spec2fn.engine.pipeline import (
    AlsoOn,
    Element,
    Observation,
    Pipeline,
    Product,
    Split,
    steps_of,
    with_later_steps,
)
from spec2fn.engine.settings import Settings, resolve_settings
from spec2fn.engine.step import Skip, Step
from spec2fn.errors import (
    ContractError,
    DatasetError,
    InputError,
    ParameterError,
    Spec2fnError,
    StepFailedError,
)
from spec2fn.members import check_members
from spec2fn.schema import (
    NOT_EXTRACTED,
    meta_of,
    status_of,
    warnings_of,
    with_status,
    with_warnings,
)
from spec2fn.slits import apply_by_slit

__all__ = [
    "PlannedStep",
    "Result",
    "RunPlan",
    "StepRecord",
    "check_input",
    "check_order",
    "heard",
    "needed_references",
    "plan",
    "recorded_status",
    "run",
    "warnings_in",
    "with_checked_members",
]

REPEATABLE = ("assign_wcs", "srctype", "targ_centroid", "msaflagopen", "badpix_selfcal")
"""Steps that describe or flag pixels and leave their values: done twice, they are done once."""


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
    science: Any,
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
    obs = science if isinstance(science, Observation) else Observation(science)
    obs = obs.replace(**{k: tuple(v) for k, v in (members or {}).items()})
    # what a step has been through is needed no more: nothing here may hold on to it
    del science, members
    settings = params if isinstance(params, Settings) else resolve_settings(pipeline, params)
    again = check_input(settings.pipeline, obs)
    check_order(settings.pipeline, obs.science)
    obs = with_checked_members(settings.pipeline, obs)
    refs = refs or {}
    taken: dict[str, Any] = {}
    wanted = frozenset({*save_steps, *settings.save})
    state = _Run(settings, refs, dict(plans or {}), lean, wanted, progress, strict)
    state.note(*again, *warnings_in(obs))
    waiting = [obs]
    del obs
    optional = set(products)
    elements = with_later_steps(settings.pipeline)
    for i, element in enumerate(elements):
        if isinstance(element, Product):
            ds = waiting[0].science
            asked = not element.optional or element.kind in optional
            if asked and (not element.of or status_of(ds, element.of) == "COMPLETE"):
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


def warnings_in(obs: Observation) -> tuple[str, ...]:
    """Return the warnings recorded on an exposure and its members, those of an earlier run too."""
    earlier = meta_of(obs.science).records.get("run", {}).get("warnings", ())
    found = [*earlier, *warnings_of(obs.science)]
    named = getattr(obs.science, "warnings", {}) if hasattr(obs.science, "buckets") else {}
    found += [f"slit {name}: {text}" for name, text in named.items()]
    for role, members in obs.members.items():
        for ds in members:
            name = meta_of(ds).filename
            found += [w if name in w else f"{role} {name}: {w}" for w in warnings_of(ds)]
    return tuple(dict.fromkeys(found))


def with_checked_members(pipeline: Pipeline, obs: Observation) -> Observation:
    """Return an observation with the warnings about the members that steps of a pipeline take.

    Raises
    ------
    InputError
        See :func:`spec2fn.members.check_members`.
    """
    roles = {m for s in steps_of(pipeline) if not s.skip for m in s.members}
    found = check_members(obs.science, {k: v for k, v in obs.members.items() if k in roles})
    return obs.replace(with_warnings(obs.science, *found)) if found else obs


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

    def apply(self, element: Any, obs: Observation) -> Observation:
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
            obs = _apply(
                element, obs, self.refs, self.plans, lean=self.lean, isolate=not self.strict
            )
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
            {k: _reference_name(_get(self.refs, k)) for k in step.reference_keys},
            time.perf_counter() - start,
            problems,
        )
        self.records.append(record)
        if step.key in self.wanted and record.status == "COMPLETE":
            self.saved[step.key] = obs.science
        return obs

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
        return Observation(self._joined(parts), members)

    @staticmethod
    def _joined(parts: list[Any]) -> Any:
        spectra = [part for part in parts if hasattr(part, "data_vars")]
        if spectra:
            from spec2fn.spectra.datasets import join_spectra

            return join_spectra(spectra)  # a branch without any spectrum stays slits
        joined = parts[0]
        # what a step did to the slitlets counts for the exposure; headers and gwcs are each one's
        attrs = {k: v for k, v in joined.attrs.items() if k != "meta"}
        for part in parts[1:]:
            joined = joined.join(part.assign_attrs(attrs))
        return joined


def _problems(ds: Any) -> Mapping[str, str]:
    """What has gone wrong with single slits so far, by name."""
    if hasattr(ds, "buckets"):
        known: Mapping[str, str] = ds.problems
        return known
    meta = getattr(ds, "attrs", {}).get("meta")
    return {} if meta is None else meta.records.get(NOT_EXTRACTED, {})


def _new_problems(before: Mapping[str, str], after: Mapping[str, str]) -> dict[str, str]:
    added = {n: t.removeprefix(before.get(n, "")).removeprefix("; ") for n, t in after.items()}
    return {n: t for n, t in added.items() if t}


def _apply(
    element: Element,
    obs: Observation,
    refs: Mapping[str, Any],
    plans: dict[str, Any],
    *,
    lean: bool,
    isolate: bool,
) -> Observation:
    step = element.step if isinstance(element, AlsoOn) else element
    assert isinstance(step, Step)
    if step.skip:
        reason = "SKIPPED: switched off"
        return obs.replace(with_status(obs.science, step.name, reason))
    bound = {r: _get(refs, key) for r, key in zip(step.refs, step.reference_keys, strict=True)}
    members: dict[str, Any] = {role: obs.members.get(role, ()) for role in step.members}
    try:
        made = plans.get(step.key)
        # without a plan, a step makes that of one bucket of slits after the other
        alone = lean and not isinstance(element, AlsoOn)
        if step.planner is not None and made is None and not alone:
            made = step.plan(obs.science, **bound, **members)
            if not lean:
                plans[step.key] = made
        science = step(obs.science, plan=made, **bound, **members)
        if not isinstance(element, AlsoOn) or isinstance(made, Skip):
            return obs.replace(science)
        changed = {}
        for role in element.roles:
            held = obs.members.get(role, ())
            known = (made,) * len(held) if element.share_plan else plans.get(f"{role}:{step.key}")
            if known is None:
                known = (None,) * len(held)
                if step.planner is not None and not lean:
                    known = tuple(step.plan(ds, **bound, **members) for ds in held)
                    plans[f"{role}:{step.key}"] = known
            changed[role] = tuple(
                step(ds, plan=one, **bound, **members) for ds, one in zip(held, known, strict=True)
            )
        return obs.replace(science, **changed)
    except Spec2fnError:
        raise
    except Exception as error:
        if isolate and step.scope == "dataset" and len(getattr(obs.science, "buckets", ())):
            rescued = apply_by_slit(functools.partial(step, **bound, **members), obs.science)
            if rescued is not None:
                plans.pop(step.key, None)
                return obs.replace(rescued)
        msg = f"step {step.name} failed: {type(error).__name__}: {error}"
        raise StepFailedError(msg) from error


def recorded_status(ds: Any, step: str) -> str:
    """Return the status of a step: of this run, of the header, or as the data show it."""
    from spec2fn.io.fits.keywords import STEP_KEYWORDS

    keyword = STEP_KEYWORDS.get(step, ("",))[0]
    said = status_of(ds, step) or str(keyword and meta_of(ds).get(keyword, ""))
    parts = getattr(ds, "buckets", getattr(ds, "cubes", (ds,)))
    units = [str(p["sci"].attrs.get("units", "")) for p in parts if "sci" in p]
    shown = {
        "extract_2d": hasattr(ds, "buckets"),
        "photom": any("Jy" in u or u == "see bunit" for u in units),
    }
    return said or ("COMPLETE" if shown.get(step) else "")


def check_input(
    pipeline: Pipeline, obs: Observation, how: str = "spec2fn.since(pipeline, {!r})"
) -> tuple[str, ...]:
    """Refuse exposures that have been through steps of the pipeline already.

    Parameters
    ----------
    pipeline : tuple
    obs : Observation
        Of its members, those whose pixels a step takes count.
    how : str
        How to go on from a step on purpose, to be formatted with its name.

    Returns
    -------
    tuple of str
        Warnings if there are steps that are done a second time, which does no harm.

    Raises
    ------
    InputError
        Naming the steps that have been done.
    """
    taken = {m for s in steps_of(pipeline) if not s.skip for m in s.members}
    roles = [r for r in _LIKE_SCIENCE if r in taken]
    told = _check_one(pipeline, obs.science, how)
    for ds in (ds for r in roles for ds in obs.members.get(r, ())):
        _check_one(pipeline, ds, "")
    return told


_LIKE_SCIENCE = ("background", "imprint", "selfcal")


def _check_one(pipeline: Pipeline, science: Any, how: str) -> tuple[str, ...]:
    active = [s for s in steps_of(pipeline) if not s.skip and not s.defaults().get("inverse")]
    done = [s.name for s in active if recorded_status(science, s.name) == "COMPLETE"]
    names = list(dict.fromkeys(n for n in done if n not in REPEATABLE))
    what = meta_of(science).filename or "the exposure"
    if names:
        last = max(i for i, s in enumerate(active) if s.name == names[-1])
        later = [s.name for s in active[last + 1 :]]
        todo = f"; to go on on purpose: {how.format(later[0])}" if later and how else ""
        msg = (
            f"{what}: has been through {', '.join(names)} already, which must not be done twice;"
            f" give the _rate file it was made from{todo}"
        )
        raise InputError(msg)
    if not done:
        return ()
    return (f"{what}: {', '.join(dict.fromkeys(done))} had been done before; done again here",)


def check_order(pipeline: Pipeline, science: Any) -> None:
    """Raise an error if a step reads what nothing before it provides.

    Raises
    ------
    DatasetError
        If no step provides it: the exposure lacks it.
    ParameterError
        If the step that provides it is switched off.
    ContractError
        If it is provided later.
    """
    parts = getattr(science, "buckets", getattr(science, "cubes", (science,)))
    held = {str(name) for part in parts for name in part.variables}
    for step in steps_of(pipeline):
        if step.skip:
            continue
        missing = [name for name in step.reads if name not in held]
        if missing:
            makers = [s for s in steps_of(pipeline) if missing[0] in s.provides]
            what = f"{step.name} reads {missing[0]!r}, which"
            if not makers:
                where = meta_of(science).filename or "the exposure"
                msg = f"{where}: {what} it does not hold, and no step before it provides"
                raise DatasetError(msg)
            if all(s.skip for s in makers):
                off = makers[0].name
                msg = f"{what} {off} provides, and that is switched off; switch {off} on"
                raise ParameterError(msg)
            msg = f"{what} no step before it provides; put {makers[0].name} before it"
            raise ContractError(msg)
        held.update(step.provides)


def needed_references(pipeline: Pipeline) -> tuple[str, ...]:
    """Reference types of the steps that are switched on, in order, without repetition.

    Those that the header of an associated exposure selects (``Step.refs_of``) are left out.
    """
    active = [s for s in steps_of(pipeline) if not s.skip and not s.refs_of]
    return tuple(dict.fromkeys(r for s in active for r in s.refs))


def _get(refs: Mapping[str, Any], key: str) -> Any:
    # a mapping given by hand need not tell whose header selected a reference
    return refs[key] if key in refs else refs.get(key.rpartition(":")[2])


def _reference_name(value: Any) -> str:
    if value is None:
        return "N/A"
    name = getattr(value, "name", None) or getattr(value, "attrs", {}).get("filename")
    return str(name) if name else ("array" if hasattr(value, "dtype") else "given")


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
            lines.append(f"{'run ' if s.runs else 'skip'}  {s.name}" + _because(s.reason))
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
            lines.append(f"ignored entries of parameter references: {', '.join(self.ignored)}")
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


def _because(reason: str) -> str:
    return f"  ({reason})" if reason else ""


def plan(
    pipeline: Pipeline,
    science: Any,
    refs: Mapping[str, Any] | None = None,
    *,
    members: Mapping[str, tuple[Any, ...]] | None = None,
    params: Mapping[str, Mapping[str, Any]] | Settings | None = None,
    products: Iterable[str] = (),
    missing: Iterable[str] = (),
    context: str = "",
) -> RunPlan:
    """Say what :func:`run` would do with the same arguments, without doing it.

    Raises
    ------
    InputError, ContractError
        As :func:`run`: if the exposure is not fit for the pipeline, or the order of the steps
        cannot work.
    """
    obs = science if isinstance(science, Observation) else Observation(science)
    obs = Observation(obs.science, {**obs.members, **(members or {})})
    settings = params if isinstance(params, Settings) else resolve_settings(pipeline, params)
    again = check_input(settings.pipeline, obs)
    check_order(settings.pipeline, obs.science)
    obs = with_checked_members(settings.pipeline, obs)
    refs = refs or {}
    optional = set(products)
    steps, kinds = [], []
    running: dict[str, bool] = {}
    for element in settings.pipeline:
        if isinstance(element, Product):
            asked = not element.optional or element.kind in optional
            if asked and (not element.of or running.get(element.of, False)):
                kinds.append(element.kind)
            continue
        for step in steps_of((element,)):
            reason = _foreseen_skip(step, settings, refs, obs.members)
            keys = () if step.skip else step.reference_keys
            names = {k: _reference_name(_get(refs, k)) for k in keys}
            running[step.name] = not reason
            steps.append(PlannedStep(step.key, not reason, reason, settings.table(step), names))
    return RunPlan(
        tuple(steps),
        tuple(kinds),
        tuple(missing),
        expected_memory(obs.science),
        context,
        settings.ignored,
        (*again, *warnings_in(obs)),
    )


def _foreseen_skip(
    step: Step, settings: Settings, refs: Mapping[str, Any], members: Mapping[str, Any]
) -> str:
    if step.skip:
        origin = settings.origins.get((step.key, "skip"), "")
        if origin:
            return f"switched off by {origin}"
        return f"off by default; switch on with --set {step.name}.skip=false"
    values = step.defaults()
    supplied = [r for r in step.needs_refs if values.get(f"user_supplied_{r}") is not None]
    held = [r for r in step.needs_refs if _get(refs, r) is not None]
    if step.needs_refs and not supplied and not held:
        return f"no {' or '.join(step.needs_refs)} reference for this exposure"
    if step.needs_members and not any(members.get(m) for m in step.needs_members):
        return f"no {' or '.join(step.needs_members)} exposure is associated"
    return ""


# Planes alive at once at the worst moment of a run (input, output, and temporaries of a step),
# and what the imports take; measured with benchmarks/compare_peer.py.
_PLANES_ALIVE = 14
_IMPORTS = 350 * 2**20


def expected_memory(ds: Any, chunk: int | None = None) -> int:
    """Expected peak memory of a run in bytes, for all integrations or `chunk` of them at once."""
    pixels = 0
    for part in getattr(ds, "buckets", getattr(ds, "cubes", (ds,))):
        sizes = dict(part.sizes)
        if chunk is not None and "integration" in sizes:
            sizes["integration"] = min(chunk, sizes["integration"])
        dims = part["sci" if "sci" in part else "flux"].dims
        pixels += math.prod(sizes[dim] for dim in dims)
    return _IMPORTS + _PLANES_ALIVE * 4 * pixels

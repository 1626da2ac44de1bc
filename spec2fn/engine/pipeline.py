"""Pipelines: tuples of steps, of markers and of lifts, and how they are edited.

A *pipeline* is a tuple of steps, of ``product(...)`` markers, of ``also_on(...)`` lifts to
associated exposures and of ``split(...)`` into branches. Nothing here reads or writes a file.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from dataclasses import replace as _replace
from typing import Any, cast

from spec2fn.engine.step import Step
from spec2fn.errors import ContractError, ParameterError, nearest
from spec2fn.pieces import Exposure

__all__ = [
    "AlsoOn",
    "Branch",
    "Element",
    "Observation",
    "Pipeline",
    "Product",
    "Split",
    "after",
    "also_on",
    "branch",
    "find_step",
    "find_steps",
    "insert_after",
    "insert_before",
    "needed_references",
    "product",
    "reference_names",
    "references_of",
    "replace",
    "since",
    "split",
    "steps_named",
    "steps_of",
    "with_later_steps",
    "with_overrides",
    "with_parameters",
    "without",
]


@dataclass(frozen=True)
class Observation:
    """A science exposure and its associated exposures.

    Attributes
    ----------
    science : xarray.Dataset
        The exposure to calibrate.
    members : mapping of str to tuple of xarray.Dataset
        Associated exposures by role: ``background``, ``imprint``, ``selfcal``,
        ``target_acquisition``, …
    """

    science: Any
    members: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    def replace(
        self, science: Exposure | None = None, /, **members: tuple[Any, ...]
    ) -> Observation:
        """Return a copy with the science exposure or some members replaced."""
        return Observation(
            self.science if science is None else science, {**self.members, **members}
        )


@dataclass(frozen=True)
class Product:
    """Marks where in a pipeline the product ``_<kind>`` is taken.

    Attributes
    ----------
    kind : str
    of : str
        Step that must have run for the product to exist; empty for always.
    optional : bool
        Taken only when asked for.
    """

    kind: str
    of: str = ""
    optional: bool = False

    @property
    def name(self) -> str:
        """Name under which pipelines address the marker."""
        return f"product:{self.kind}"

    def asked(self, optional: Collection[str]) -> bool:
        """Whether it is to be taken, where these optional products are asked for."""
        return not self.optional or self.kind in optional


def product(kind: str, *, of: str = "", optional: bool = False) -> Product:
    """Mark where a product is taken; see :class:`Product`."""
    return Product(kind, of, optional)


@dataclass(frozen=True)
class AlsoOn:
    """A step applied to the science exposure and to the members of `roles` as well."""

    roles: tuple[str, ...]
    step: Step
    share_plan: bool = False
    when: str = ""

    @property
    def name(self) -> str:
        """Name of the lifted step."""
        return self.step.name


def also_on(*args: str | Step, share_plan: bool = False, when: str = "") -> AlsoOn:
    """Lift a step to associated exposures: ``also_on("background", "imprint", nsclean)``.

    With `share_plan`, the plan made for the science exposure is applied to the members too
    (badpix_selfcal: one list of bad pixels for all); otherwise each exposure has its own. With
    `when`, the members are treated only if the step of that name is switched on.
    """
    *roles, lifted = args
    return AlsoOn(tuple(map(str, roles)), cast("Step", lifted), share_plan, when)


@dataclass(frozen=True)
class Branch:
    """Steps for some of the slits of an exposure.

    Attributes
    ----------
    name : str
    keep : callable
        Which slits: ``keep(bucket)`` is a boolean array on ``slit``.
    steps : tuple of Step
    exp_type : str
        Exposure type these slits are treated as; references are selected accordingly.
    expected : callable
        Whether an observation may hold such slits, so that their references are needed.
    """

    name: str
    keep: Callable[[Any], Any]
    steps: tuple[Step, ...]
    exp_type: str = ""
    expected: Callable[[Observation], bool] = lambda _: True


@dataclass(frozen=True)
class Split:
    """Slits that part into branches, and meet again."""

    branches: tuple[Branch, ...]

    @property
    def name(self) -> str:
        """Names of the branches."""
        return "split:" + "+".join(b.name for b in self.branches)


def branch(
    name: str,
    keep: Callable[[Any], Any],
    *steps: Step,
    exp_type: str = "",
    expected: Callable[[Observation], bool] | None = None,
) -> Branch:
    """Make a branch of :func:`split`; its steps are addressed as ``<name>/<step>``."""
    named = tuple(
        _replace(
            s,
            branch=name,
            refs_of=name if exp_type else s.refs_of,
            suffix=f"{s.suffix}_{name}" if exp_type else s.suffix,
        )
        for s in steps
    )
    new = Branch(name, keep, named, exp_type)
    return new if expected is None else _replace(new, expected=expected)


def split(*branches: Branch) -> Split:
    """Let slits part into branches, each with its own steps and references, and join them again."""
    return Split(branches)


Element = Step | Product | AlsoOn | Split
Pipeline = tuple[Element, ...]


def steps_of(pipeline: Pipeline) -> Iterator[Step]:
    """Iterate over the steps of a pipeline, those of lifts and branches included."""
    for element in pipeline:
        if isinstance(element, AlsoOn):
            yield element.step
        elif isinstance(element, Split):
            for one in element.branches:
                yield from one.steps
        elif isinstance(element, Step):
            yield element


def steps_named(pipeline: Pipeline, name: str) -> tuple[Step, ...]:
    """Return the steps called `name` (or with that alias): all of them, or ``branch/name``."""
    where, _, bare = name.rpartition("/")
    return tuple(
        s
        for s in steps_of(pipeline)
        if (bare == s.name or bare in s.aliases) and where in ("", s.branch)
    )


def find_steps(pipeline: Pipeline, name: str) -> tuple[Step, ...]:
    """Return the steps called `name`, as :func:`steps_named`, of which there must be one.

    Raises
    ------
    ParameterError
        Naming the nearest step of the pipeline if there is none.
    """
    steps = steps_named(pipeline, name)
    if not steps:
        names = [n for s in steps_of(pipeline) for n in (s.name, s.key, *s.aliases)]
        listed = ", ".join(dict.fromkeys(s.key for s in steps_of(pipeline)))
        msg = f"no step {name!r} in this pipeline{nearest(name, names)} (its steps: {listed})"
        raise ParameterError(msg)
    return steps


def find_step(pipeline: Pipeline, name: str) -> Step:
    """Return the first step called `name`; see :func:`find_steps`."""
    return find_steps(pipeline, name)[0]


def needed_references(pipeline: Pipeline) -> tuple[str, ...]:
    """Reference types of the steps that are switched on, in order, without repetition.

    Those that the header of an associated exposure selects (``Step.refs_of``), or that are given
    for one step (``Step.overridden``), are left out.
    """
    active = [s for s in steps_of(pipeline) if not s.skip and not s.refs_of]
    return tuple(dict.fromkeys(r for s in active for r in s.refs if r not in s.overridden))


def references_of(step: Step, refs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the references of a step among those of a run, by type."""
    keys = zip(step.refs, step.reference_keys, strict=True)
    # a mapping given by hand need not tell whose header selected a reference
    return {reftype: refs[key] if key in refs else refs.get(reftype) for reftype, key in keys}


def reference_names(step: Step, refs: Mapping[str, Any]) -> dict[str, str]:
    """Return what the references of a step are called, by the key of each."""
    values = references_of(step, refs).values()
    return dict(zip(step.reference_keys, map(_reference_name, values), strict=True))


def _reference_name(value: object) -> str:
    if value is None:
        return "N/A"
    name = getattr(value, "name", None) or getattr(value, "attrs", {}).get("filename")
    return str(name) if name else ("array" if hasattr(value, "dtype") else "given")


def _index(pipeline: Pipeline, name: str) -> int:
    for i, element in enumerate(pipeline):
        if element.name == name or (isinstance(element, Product) and element.kind == name):
            return i
    wanted = find_step(pipeline, name)
    return next(i for i, element in enumerate(pipeline) if wanted in steps_of((element,)))


def replace(pipeline: Pipeline, **changes: object) -> Pipeline:
    """Return a pipeline with steps replaced by name; None removes one.

    A plain function ``Dataset -> Dataset`` may stand in for a step. A name that occurs in several
    branches means all of them; ``**{"fs/photom": ...}`` means one.
    """
    out = pipeline
    for name, new in changes.items():
        markers = {e.name for e in out if isinstance(e, Product) and name in (e.name, e.kind)}
        keys = markers or {s.key for s in find_steps(out, name)}
        out = tuple(e for element in out for e in _exchanged(element, keys, new))
    return out


def _exchanged(element: Element, keys: set[str], new: object) -> tuple[Element, ...]:
    if isinstance(element, Split):
        branches = []
        for one in element.branches:
            steps = [e for s in one.steps for e in _exchanged(s, keys, new)]
            kept = tuple(_in_branch(s, one) for s in steps if isinstance(s, Step))
            branches.append(_replace(one, steps=kept))
        return (_replace(element, branches=tuple(branches)),)
    lifted = element.step if isinstance(element, AlsoOn) else element
    if (lifted.key if isinstance(lifted, Step) else lifted.name) not in keys:
        return (element,)
    if new is None:
        return ()
    if isinstance(element, AlsoOn) and isinstance(new, Step):
        return (_replace(element, step=new),)
    return (_element(new),)


def _in_branch(s: Step, one: Branch) -> Step:
    if s.branch == one.name:
        return s
    return branch(one.name, one.keep, s, exp_type=one.exp_type).steps[0]


def without(pipeline: Pipeline, *names: str) -> Pipeline:
    """Return a pipeline without the named elements."""
    return replace(pipeline, **dict.fromkeys(names))


def insert_before(pipeline: Pipeline, name: str, *new: object) -> Pipeline:
    """Return a pipeline with elements inserted before the one called `name`."""
    i = _index(pipeline, name)
    return (*pipeline[:i], *map(_element, new), *pipeline[i:])


def insert_after(pipeline: Pipeline, name: str, *new: object) -> Pipeline:
    """Return a pipeline with elements inserted after the one called `name`."""
    i = _index(pipeline, name) + 1
    return (*pipeline[:i], *map(_element, new), *pipeline[i:])


def after(pipeline: Pipeline, name: str) -> Pipeline:
    """Return what follows the element called `name`: the rest of a run that stopped there."""
    return pipeline[_index(pipeline, name) + 1 :]


def since(pipeline: Pipeline, name: str) -> Pipeline:
    """Return a pipeline from the step called `name` on: to go on from a product.

    Raises
    ------
    ParameterError
        If there is no such step, or it stands in some branches only, so that it does not say
        where the others begin.
    """
    keys = {s.key for s in find_steps(pipeline, name)}
    i = next(i for i, e in enumerate(pipeline) if keys & {s.key for s in steps_of((e,))})
    first = pipeline[i]
    if isinstance(first, Split):
        cut = []
        for one in first.branches:
            rest = tuple(itertools.dropwhile(lambda s: s.key not in keys, one.steps))
            if not rest:
                listed = ", ".join(s.name for s in one.steps)
                msg = (
                    f"{name} is no step of the branch {one.name}, which has {listed}; start at a"
                    " step of all branches, or before they part"
                )
                raise ParameterError(msg)
            cut.append(_replace(one, steps=rest))
        first = _replace(first, branches=tuple(cut))
    return (first, *pipeline[i + 1 :])


def with_parameters(pipeline: Pipeline, params: Mapping[str, Mapping[str, Any]]) -> Pipeline:
    """Return a pipeline with parameters bound: ``{"photom": {"inverse": True}}``.

    Steps may be named by their aliases; the parameter ``skip`` switches a step on or off.
    """
    out = pipeline
    for name, values in params.items():
        for one in find_steps(out, name):
            out = replace(out, **{one.key: one.with_(**values)})
    return out


def with_overrides(pipeline: Pipeline, keys: Collection[str]) -> Pipeline:
    """Return a pipeline whose steps look for references of their own, ``<key of step>:<type>``."""
    out = pipeline
    for one in tuple(steps_of(pipeline)):
        own = tuple(r for r in one.refs if f"{one.key}:{r}" in keys)
        if own:
            out = replace(out, **{one.key: _replace(one, overridden=own)})
    return out


def with_later_steps(pipeline: Pipeline) -> Pipeline:
    """Return a pipeline in which steps that look ahead know what follows them.

    A step with a parameter ``corrections`` gets the steps after it in the same branch, up to the
    next product, as they stand in the pipeline, unless the user has set it.
    """
    out: list[Element] = []
    for i, element in enumerate(pipeline):
        if isinstance(element, Split):
            branches = (
                _replace(b, steps=with_later_steps(b.steps))  # type: ignore[arg-type]
                for b in element.branches
            )
            out.append(_replace(element, branches=tuple(branches)))
        elif isinstance(element, Step) and "corrections" in element.parameters:
            later = tuple(itertools.takewhile(lambda e: isinstance(e, Step), pipeline[i + 1 :]))
            known = later and "corrections" not in dict(element.bound)
            out.append(element.with_(corrections=later) if known else element)
        else:
            out.append(element)
    return tuple(out)


def _element(value: object) -> Element:
    if isinstance(value, (Step, Product, AlsoOn, Split)):
        return value
    if callable(value):
        # a user's own function, known by its name
        return Step(name=getattr(value, "__name__", "function"), function=value, reads=())
    msg = f"a pipeline holds steps, product(...) markers and also_on(...) lifts, not {value!r}"
    raise ContractError(msg)

"""Steps and pipelines: plain functions, named, bound, and listed in tuples.

A *step* is a pure function from a Dataset to a new Dataset. :func:`step` turns the function into
a frozen, hashable callable that knows its name, its references and its parameters, and records
in the result what it did. A *pipeline* is a tuple of steps, of ``product(...)`` markers, and of
``also_on(...)`` lifts to associated exposures. Nothing here reads or writes a file.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import itertools
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from dataclasses import replace as _replace
from typing import Any, overload

import numpy as np

from spec2fn.dq import PIXEL
from spec2fn.errors import ContractError, HostOnlyError, ParameterError, ReferenceError, nearest
from spec2fn.kernels.namespace import is_traced
from spec2fn.members import check_members
from spec2fn.parameters import Parameter, check_order, parameters_of, unknown_parameter
from spec2fn.schema import described, has_value, require, with_status, with_warnings
from spec2fn.threads import one_blas_thread

__all__ = [
    "AlsoOn",
    "Branch",
    "Element",
    "Observation",
    "Pipeline",
    "Product",
    "Skip",
    "Split",
    "Step",
    "after",
    "also_on",
    "blank_pieces",
    "branch",
    "find_step",
    "find_steps",
    "insert_after",
    "insert_before",
    "product",
    "registered_steps",
    "replace",
    "since",
    "split",
    "step",
    "steps_of",
    "with_later_steps",
    "with_parameters",
    "without",
]

_REGISTRY: dict[str, Step] = {}


@dataclass(frozen=True)
class Skip:
    """Returned by a step (or its planner) that does not apply; `reason` is shown to the user."""

    reason: str


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

    def replace(self, science: Any = None, **members: tuple[Any, ...]) -> Observation:
        """Return a copy with the science exposure or some members replaced."""
        return Observation(
            self.science if science is None else science, {**self.members, **members}
        )


@dataclass(frozen=True)
class Step:
    """A pure function ``Dataset -> Dataset`` with a name, references and parameters.

    Call it like the function it is: ``flat_field(ds, flat, inverse=True)``. Made by :func:`step`.

    Attributes
    ----------
    name : str
    function : callable
        The undecorated function.
    refs : tuple of str
        CRDS reference types, in the order of the positional arguments after the Dataset.
    members : tuple of str
        Roles of associated exposures the step takes, as keyword arguments.
    reads : tuple of str
        Variables the Dataset must hold.
    provides : tuple of str
        Variables the step adds.
    traceable : bool
        Whether the step may run inside a JAX transformation (given its plan, if it has one).
    planner : callable, optional
        Host-side half of a two-phase step, ``planner(ds, *refs, **members, **parameters)``.
    plan_when : callable, optional
        ``plan_when(ds, parameters)`` says whether a plan is needed; without, the step takes None.
    skip : bool
        Whether the step is off unless a parameter reference or the user switches it on.
    chunkable : bool
        Whether integrations may be processed in pieces with identical results.
    whole_when : callable, optional
        Says of the parameters (a mapping) whether with them a chunkable step needs all
        integrations at once.
    aliases : tuple of str
        Other names of the step (those of the peer).
    needs_refs : tuple of str
        Reference types without any of which the step is skipped.
    without : callable, optional
        ``without(ds, parameters)`` says by reference type what it means that there is none, for
        those types without which the numbers are others: it becomes a warning.
    refs_of : str
        Role of the associated exposure whose header selects the references (``""``: science).
    needs_members : tuple of str
        Roles of associated exposures without any of which the step is skipped.
    scope : str
        ``"dataset"``: works on one Dataset, and bucket by bucket on :class:`~spec2fn.slits.Slits`;
        ``"slits"``: wants all slits at once.
    branch : str
        Branch of the pipeline the step stands in (see :func:`branch`), or empty.
    suffix : str
        Suffix of the file when the output of this step alone is saved.
    later_but : tuple of str, optional
        If given, :func:`run` passes the steps that follow in the same branch, up to the next
        product, as the parameter ``corrections``, without those named here.
    ordered : tuple of (str, str)
        Pairs of parameters of which the first must be less than the second.
    bound : tuple of (str, value)
        Parameters bound by :meth:`with_`.
    """

    name: str
    function: Callable[..., Any]
    refs: tuple[str, ...] = ()
    members: tuple[str, ...] = ()
    reads: tuple[str, ...] = ("sci",)
    provides: tuple[str, ...] = ()
    traceable: bool = False
    planner: Callable[..., Any] | None = None
    plan_when: Callable[[Any, Mapping[str, Any]], bool] | None = None
    skip: bool = False
    chunkable: bool = True
    whole_when: Callable[[Mapping[str, Any]], Any] | None = None
    aliases: tuple[str, ...] = ()
    needs_refs: tuple[str, ...] = ()
    without: Callable[[Any, Mapping[str, Any]], Mapping[str, str]] | None = None
    refs_of: str = ""
    needs_members: tuple[str, ...] = ()
    scope: str = "dataset"
    branch: str = ""
    suffix: str = ""
    later_but: tuple[str, ...] | None = None
    ordered: tuple[tuple[str, str], ...] = ()
    bound: tuple[tuple[str, Any], ...] = ()

    def __hash__(self) -> int:
        return hash((self.key, self.function, self.skip, repr(self.bound)))

    @property
    def __doc__(self) -> str | None:  # type: ignore[override]
        return self.function.__doc__

    @property
    def key(self) -> str:
        """The name, preceded by the branch if the step stands in one: ``fs/photom``."""
        return f"{self.branch}/{self.name}" if self.branch else self.name

    @property
    def reference_keys(self) -> tuple[str, ...]:
        """Keys under which a run finds the references: ``flat``, or ``<role>:<type>``."""
        return tuple(f"{self.refs_of}:{r}" if self.refs_of else r for r in self.refs)

    @property
    def parameters(self) -> Mapping[str, Parameter]:
        """The step's parameters by name (without ``skip``, which every step has)."""
        return _parameters(self.function, self.members)

    @property
    def works_in_pieces(self) -> bool:
        """Whether, with its parameters, integrations may be processed in pieces."""
        whole = self.whole_when is not None and self.whole_when(self.defaults())
        return self.chunkable and not whole

    def defaults(self) -> dict[str, Any]:
        """Every parameter with the value a bare call would use."""
        return {n: p.default for n, p in self.parameters.items()} | dict(self.bound)

    def with_(self, *, skip: bool | None = None, **parameters: Any) -> Step:
        """Return this step with parameters bound (and switched on or off).

        Raises
        ------
        ParameterError
            For an unknown parameter or a value of the wrong type or out of range.
        """
        values = dict(self.bound)
        for name, value in parameters.items():
            known = self.parameters
            if name not in known:
                raise unknown_parameter(self.name, name, known)
            values[name] = known[name].coerce(value, self.name)
        check_order(self.name, {**self.defaults(), **values}, self.ordered)
        return _replace(self, bound=tuple(values.items()), skip=self.skip if skip is None else skip)

    def __call__(self, ds: Any, *refs: Any, plan: Any = None, **kwargs: Any) -> Any:
        """Apply the step.

        Parameters
        ----------
        ds : xarray.Dataset
            Not modified.
        *refs : xarray.Dataset, array, path or None
            References in the order of :attr:`refs`; they can be given by keyword as well.
        plan : optional
            Host-side half of a two-phase step, from :meth:`plan`.
        **kwargs
            Parameters and members.

        Returns
        -------
        xarray.Dataset
            A new Dataset, with ``status_<name>`` recorded.
        """
        if len(refs) > len(self.refs):
            msg = f"{self.name} takes {len(self.refs)} references {self.refs}, got {len(refs)}"
            raise ContractError(msg)
        with self._threads():
            return self._call(ds, plan, *self._sort(ds, refs, kwargs))

    def _threads(self) -> contextlib.AbstractContextManager[None]:
        # what a user's own function does with BLAS is not ours to say
        ours = self.function.__module__.startswith("spec2fn.")
        return one_blas_thread() if ours else contextlib.nullcontext()

    def _call(self, ds: Any, plan: Any, references: Any, members: Any, parameters: Any) -> Any:
        parts = self._parts(ds)
        if parts is not None:
            plans = plan if plan is not None else (None,) * len(parts)
            pieces = zip(parts, plans, strict=True)
            made = tuple(self._apply(b, references, members, parameters, p) for b, p in pieces)
            status = _common_status([(status, idle) for _, status, idle in made])
            parts = tuple(with_status(out, self.name, status) for out, _, _ in made)
            out = _replace(ds, **{"cubes" if hasattr(ds, "cubes") else "buckets": parts})
        else:
            out, status, idle = self._apply(ds, references, members, parameters, plan)
            out = with_status(out, self.name, _common_status([(status, idle)]))
        self._check_references(ds, out, references)
        if self.without is None or out.attrs.get(f"status_{self.name}") != "COMPLETE":
            return out
        given = dict(zip(self.refs, references, strict=True))
        effects = self.without(ds.cubes[0] if hasattr(ds, "cubes") else ds, parameters)
        return with_warnings(
            out,
            *(
                f"{self.name}: no {reftype} reference: {effect}"
                for reftype, effect in effects.items()
                if given[reftype] is None
            ),
        )

    def _check_references(self, ds: Any, out: Any, references: list[Any]) -> None:
        """Raise if references have left nothing of an image or a cube that had values.

        Slits may be lost one by one, and say so themselves.
        """
        used = [r for r in references if r is not None]
        slits = hasattr(ds, "buckets") or (hasattr(ds, "dims") and "slit" in ds.dims)
        if not used or slits or _BLANK_PIECES.get():
            return
        kept = {id(v._data) for v in _variables(ds)}  # noqa: SLF001 - `.data` would load lazy data
        for name in ("sci", "wavelength", "flux"):
            # what was blank before is not the fault of these references
            if not _valueless(out, name, kept) or _valueless(ds, name) or not _good_somewhere(ds):
                continue
            listed = " or ".join(map(described, used))
            msg = (
                f"{self.name}: no {name!r} is left with a value; {listed} does not fit: use another"
            )
            raise ReferenceError(msg)

    def _parts(self, ds: Any) -> tuple[Any, ...] | None:
        """The Datasets the step is applied to one by one, or None for `ds` as it is."""
        if hasattr(ds, "cubes"):
            return tuple(ds.cubes)
        return tuple(ds.buckets) if self.scope == "dataset" and hasattr(ds, "buckets") else None

    def _apply(
        self, ds: Any, references: Any, members: Any, parameters: Any, plan: Any
    ) -> tuple[Any, str, tuple[str, ...]]:
        """The result, its status, and why slits were left alone (empty for those that were not)."""
        if not hasattr(ds, "buckets"):
            require(ds, self.reads, self.name)
        if self.planner is None or not self._plans(ds, parameters):
            out = self.function(ds, *references, **members, **parameters)
        else:
            if plan is None:
                plan = self._plan(ds, references, members, parameters)
            out = (
                plan
                if isinstance(plan, Skip)
                else self.function(ds, *references, plan=plan, **members, **parameters)
            )
        if isinstance(out, Skip):
            return ds, f"SKIPPED: {out.reason}", ()
        status = _blank(ds, out, plan) or "COMPLETE"
        return _freeze(out, ds), status, getattr(plan, "left_alone", ())

    def plan(self, ds: Any, *refs: Any, **kwargs: Any) -> Any:
        """Compute the host-side half of a two-phase step, or None if it has or needs none.

        For slits in buckets it is a tuple with the plan of each bucket, unless the step wants
        all slits at once; for several cubes a tuple with the plan of each.
        """
        if self.planner is None:
            return None
        references, members, parameters = self._sort(ds, refs, kwargs)
        parts = self._parts(ds)
        with self._threads():
            if parts is None:
                return self._plan(ds, references, members, parameters)
            plans = tuple(self._plan(b, references, members, parameters) for b in parts)
        return None if all(p is None for p in plans) else plans

    def _plans(self, ds: Any, parameters: Mapping[str, Any]) -> bool:
        return self.plan_when is None or self.plan_when(ds, parameters)

    def _plan(self, ds: Any, references: Any, members: Any, parameters: Any) -> Any:
        assert self.planner is not None
        if not self._plans(ds, parameters):
            return None
        if any(is_traced(v.data) for v in _variables(ds)):
            msg = (
                f"{self.name} plans on the host and cannot do so inside a JAX transformation;"
                f" compute plan = {self.name}.plan(ds, ...) outside and pass plan=plan"
            )
            raise HostOnlyError(msg)
        accepted = inspect.signature(self.planner).parameters
        extra = {k: v for k, v in {**members, **parameters}.items() if k in accepted}
        made = self.planner(ds, *references, **extra)
        if not isinstance(made, Skip):
            check_members(ds, members)
        return made

    def _sort(
        self, ds: Any, refs: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[list[Any], dict[str, Any], dict[str, Any]]:
        references = dict(zip(self.refs, refs, strict=False))
        members: dict[str, Any] = {}
        parameters = self.defaults()
        known = self.parameters
        for name, value in kwargs.items():
            if name in self.refs:
                if name in references:
                    msg = f"{self.name}: reference {name!r} is given twice"
                    raise ContractError(msg)
                references[name] = value
            elif name in self.members:
                members[name] = value
            elif name in known:
                parameters[name] = known[name].coerce(value, self.name)
            else:
                raise unknown_parameter(self.name, name, known)
        check_order(self.name, parameters, self.ordered)
        # references are those of the exposure, but for a step that takes those of a member
        user = ds
        if self.refs_of in self.members:
            user = next(iter(members.get(self.refs_of, ())), None)
        exposure = getattr(user, "attrs", None)
        values = [
            as_reference(references.get(name), name, exposure, self.name) for name in self.refs
        ]
        return values, members, parameters


def as_reference(
    value: Any, reftype: str, exposure: Mapping[str, Any] | None = None, who: str = ""
) -> Any:
    """Return a reference as steps want it: a Dataset (or None).

    A path is opened, an array becomes the ``sci`` plane of a Dataset, a lazy reference is loaded.
    With the mode attributes of an exposure, it must have been made for such exposures, and hold
    numbers.
    """
    if value is None:
        return value
    from spec2fn.refs import coerce_reference

    return coerce_reference(value, reftype, exposure, who)


@functools.cache
def _parameters(function: Callable[..., Any], members: tuple[str, ...]) -> Mapping[str, Parameter]:
    return parameters_of(function, exclude=("plan", *members))


def _variables(ds: Any) -> list[Any]:
    parts = getattr(ds, "buckets", getattr(ds, "cubes", (ds,)))
    return [v for part in parts for v in part.variables.values()]


def _valueless(ds: Any, name: str, known: Collection[int] = ()) -> bool:
    """Whether a variable is there, with other data than `known`, and without a finite number."""
    parts = getattr(ds, "buckets", getattr(ds, "cubes", (ds,)))
    found = [part.variables[name] for part in parts if name in part.variables]
    found = [v for v in found if id(v._data) not in known]  # noqa: SLF001
    if not found or any(is_traced(v.data) or v.dtype.kind != "f" for v in found):
        return False
    return not any(has_value(v.data) for v in found)


_BLANK_PIECES: ContextVar[bool] = ContextVar("_BLANK_PIECES", default=False)


@contextlib.contextmanager
def blank_pieces() -> Iterator[None]:
    """Let steps be COMPLETE inside that leave no value: they get pieces of a longer exposure."""
    token = _BLANK_PIECES.set(True)
    try:
        yield
    finally:
        _BLANK_PIECES.reset(token)


def _common_status(made: list[tuple[str, tuple[str, ...]]]) -> str:
    """What a step did to an exposure, from what it did to its parts."""
    complete = [idle for status, idle in made if status == "COMPLETE"]
    if complete and not all(idle and all(idle) for idle in complete):
        return "COMPLETE"
    if complete:
        count = Counter(why for idle in complete for why in idle)
        listed = (f"{why} ({n} slits)" if n > 1 else why for why, n in count.items())
        return f"SKIPPED: no slit is corrected: {'; '.join(listed)}"
    statuses = list(dict.fromkeys(status for status, _ in made)) or ["SKIPPED: there are no slits"]
    first, *others = [s for s in statuses if s.startswith("FAILED")] or statuses
    return "; ".join([first, *(s.partition(": ")[2] for s in others)])


def _blank(before: Any, after: Any, plan: Any) -> str:
    """Status of a step after which nothing has a value, or nothing."""
    name = next((n for n in ("flux", "sci") if n in getattr(after, "variables", ())), "")
    # lazy data stay lazy: who has not read them has not changed them
    held = (getattr(ds, "variables", {}) for ds in (after, before))
    new, old = (getattr(variables.get(name), "_data", None) for variables in held)
    if (
        new is None
        or not hasattr(new, "__array__")
        or new is old
        or is_traced(new)
        or has_value(new)
    ):
        return ""
    if not new.size or _BLANK_PIECES.get():
        return ""
    if hasattr(old, "__array__") and not has_value(old):
        return "SKIPPED: no pixel of the exposure has a value"
    what = "element of the spectrum" if name == "flux" else "pixel"
    reasons = dict.fromkeys(p for p in getattr(plan, "problems", ()) if p and isinstance(p, str))
    return "; ".join([f"FAILED: no {what} has a value after it", *reasons])


def _good_somewhere(ds: Any) -> bool:
    """Whether any pixel is finite and not flagged as bad."""
    parts = getattr(ds, "buckets", getattr(ds, "cubes", (ds,)))
    return any(
        bool((np.isfinite(p["sci"].values) & ((p["dq"].values & PIXEL["DO_NOT_USE"]) == 0)).any())
        for p in parts
        if "sci" in p and "dq" in p
    )


def _freeze(ds: Any, before: Any) -> Any:
    # what a step made is read-only, so that nobody can change it behind a shared buffer; what the
    # caller brought along is left as it was
    kept = {id(v._data) for v in _variables(before)}  # noqa: SLF001 - `.data` would load lazy data
    for var in _variables(ds):
        data = var._data  # noqa: SLF001
        if hasattr(data, "setflags") and id(data) not in kept:
            data.setflags(write=False)
    return ds


@overload
def step(function: Callable[..., Any]) -> Step: ...
@overload
def step(**options: Any) -> Callable[[Callable[..., Any]], Step]: ...
def step(function: Callable[..., Any] | None = None, **options: Any) -> Any:
    """Turn ``function(ds, *refs, *, members…, parameters…)`` into a registered :class:`Step`.

    Options are the attributes of :class:`Step`. The function returns a new Dataset or
    ``Skip(reason)``. A two-phase step names its ``planner`` and takes ``plan`` as a keyword.
    """

    def decorate(fn: Callable[..., Any]) -> Step:
        name = options.pop("name", fn.__name__)
        made = Step(name=name, function=fn, **options)
        made = _replace(made, suffix=made.suffix or name)
        _REGISTRY[name] = made
        return made

    return decorate if function is None else decorate(function)


def registered_steps() -> Mapping[str, Step]:
    """Every step of the library by name (imports all of them)."""
    import importlib
    import pkgutil

    import spec2fn.steps

    for module in pkgutil.iter_modules(spec2fn.steps.__path__):
        importlib.import_module(f"spec2fn.steps.{module.name}")
    # what a user registers is no step of the library
    ours = {
        n: s for n, s in _REGISTRY.items() if s.function.__module__.startswith("spec2fn.steps.")
    }
    return dict(sorted(ours.items()))


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


def also_on(*args: Any, share_plan: bool = False, when: str = "") -> AlsoOn:
    """Lift a step to associated exposures: ``also_on("background", "imprint", nsclean)``.

    With `share_plan`, the plan made for the science exposure is applied to the members too
    (badpix_selfcal: one list of bad pixels for all); otherwise each exposure has its own. With
    `when`, the members are treated only if the step of that name is switched on.
    """
    *roles, lifted = args
    return AlsoOn(tuple(roles), lifted, share_plan, when)


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
            suffix=_suffix(s, name, exp_type),
        )
        for s in steps
    )
    made = Branch(name, keep, named, exp_type)
    return made if expected is None else _replace(made, expected=expected)


def _suffix(s: Step, name: str, exp_type: str) -> str:
    return f"{s.suffix}_{name}" if exp_type else s.suffix


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


def find_steps(pipeline: Pipeline, name: str) -> tuple[Step, ...]:
    """Return the steps called `name` (or with that alias): all of them, or ``branch/name``.

    Raises
    ------
    ParameterError
        Naming the nearest step of the pipeline if there is none.
    """
    where, _, bare = name.rpartition("/")
    found = tuple(
        s
        for s in steps_of(pipeline)
        if (bare == s.name or bare in s.aliases) and where in ("", s.branch)
    )
    if not found:
        names = [n for s in steps_of(pipeline) for n in (s.name, s.key, *s.aliases)]
        listed = ", ".join(dict.fromkeys(s.key for s in steps_of(pipeline)))
        msg = f"no step {name!r} in this pipeline{nearest(name, names)} (its steps: {listed})"
        raise ParameterError(msg)
    return found


def find_step(pipeline: Pipeline, name: str) -> Step:
    """Return the first step called `name`; see :func:`find_steps`."""
    return find_steps(pipeline, name)[0]


def _index(pipeline: Pipeline, name: str) -> int:
    for i, element in enumerate(pipeline):
        if element.name == name or (isinstance(element, Product) and element.kind == name):
            return i
    wanted = find_step(pipeline, name)
    return next(i for i, element in enumerate(pipeline) if wanted in steps_of((element,)))


def replace(pipeline: Pipeline, **changes: Any) -> Pipeline:
    """Return a pipeline with steps replaced by name; None removes one.

    A plain function ``Dataset -> Dataset`` may stand in for a step. A name that occurs in several
    branches means all of them; ``**{"fs/photom": ...}`` means one.
    """
    out = pipeline
    for name, new in changes.items():
        if any(name in (e.name, getattr(e, "kind", "")) for e in out if isinstance(e, Product)):
            i = _index(out, name)
            out = (*out[:i], *(() if new is None else (_element(new),)), *out[i + 1 :])
            continue
        keys = {s.key for s in find_steps(out, name)}
        out = tuple(e for element in out for e in _exchanged(element, keys, new))
    return out


def _exchanged(element: Element, keys: set[str], new: Any) -> tuple[Element, ...]:
    if isinstance(element, Split):
        branches = []
        for one in element.branches:
            steps = [e for s in one.steps for e in _exchanged(s, keys, new)]
            made = tuple(_in_branch(s, one) for s in steps if isinstance(s, Step))
            branches.append(_replace(one, steps=made))
        return (_replace(element, branches=tuple(branches)),)
    lifted = element.step if isinstance(element, AlsoOn) else element
    if not isinstance(lifted, Step) or lifted.key not in keys:
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


def insert_before(pipeline: Pipeline, name: str, *new: Any) -> Pipeline:
    """Return a pipeline with elements inserted before the one called `name`."""
    i = _index(pipeline, name)
    return (*pipeline[:i], *map(_element, new), *pipeline[i:])


def insert_after(pipeline: Pipeline, name: str, *new: Any) -> Pipeline:
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
        for found in find_steps(out, name):
            out = replace(out, **{found.key: found.with_(**values)})
    return out


def with_later_steps(pipeline: Pipeline) -> Pipeline:
    """Return a pipeline in which steps that look ahead know what follows them.

    Steps with :attr:`Step.later_but` get the steps after them, as they stand in the pipeline, as
    their parameter ``corrections``, unless the user has set it.
    """
    out: list[Element] = []
    for i, element in enumerate(pipeline):
        if isinstance(element, Split):
            branches = (
                _replace(b, steps=with_later_steps(b.steps))  # type: ignore[arg-type]
                for b in element.branches
            )
            out.append(_replace(element, branches=tuple(branches)))
        elif isinstance(element, Step) and element.later_but is not None:
            later = tuple(itertools.takewhile(lambda e: isinstance(e, Step), pipeline[i + 1 :]))
            found = tuple(s for s in later if s.name not in element.later_but)
            known = found and "corrections" not in dict(element.bound)
            out.append(element.with_(corrections=found) if known else element)
        else:
            out.append(element)
    return tuple(out)


def _element(value: Any) -> Element:
    if isinstance(value, (Step, Product, AlsoOn, Split)):
        return value
    if callable(value):
        # a user's own function: not registered, known by its name
        return Step(name=getattr(value, "__name__", "function"), function=value, reads=())
    msg = f"a pipeline holds steps, product(...) markers and also_on(...) lifts, not {value!r}"
    raise ContractError(msg)

"""Steps: plain functions with a name, references, parameters, and a record of what they did.

:func:`step` turns a pure function from a Dataset to a new Dataset into a frozen, hashable callable.
A step in two phases has a planner besides, which computes on the host what the traceable function
then applies.
"""

from __future__ import annotations

import contextlib
import dis
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Generic,
    NamedTuple,
    ParamSpec,
    TypeGuard,
    cast,
    overload,
)

from spec2fn.engine.outcome import blank_status, check_references, common_status
from spec2fn.errors import ContractError, HostOnlyError
from spec2fn.kernels.namespace import is_traced
from spec2fn.members import check_members
from spec2fn.parameters import Parameter, Parameters, check_order, parameters_of, unknown_parameter
from spec2fn.pieces import Exposure, Pieces, freeze, variables_of
from spec2fn.schema import require, with_status, with_warnings
from spec2fn.threads import one_blas_thread

if TYPE_CHECKING:
    import xarray as xr

__all__ = [
    "PLANNED",
    "Skip",
    "Step",
    "as_reference",
    "step",
]

P = ParamSpec("P")

PLANNED: Any = None
"""Default of the argument ``plan`` of a step: the step makes the plan itself."""


@dataclass(frozen=True)
class Skip:
    """Returned by a step (or its planner) that does not apply; `reason` is shown to the user."""

    reason: str


class _Given(NamedTuple):
    """What a step is called with besides the exposure."""

    references: tuple[Any, ...]
    members: Mapping[str, Any]
    parameters: Parameters


@dataclass(frozen=True)
class Step(Generic[P]):
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
        Host-side half of a two-phase step: ``planner(ds, *refs, [members,] params=parameters)``.
    skip : bool
        Whether the step is off unless a parameter reference or the user switches it on.
    chunkable : bool or callable
        Whether integrations may be processed in pieces with identical results, with these
        :class:`~spec2fn.parameters.Parameters` if callable.
    aliases : tuple of str
        Other names of the step (those of the peer).
    needs_refs : tuple of str
        Reference types without any of which the step is skipped, unless it has members.
    without : callable, optional
        ``without(ds, parameters)`` says by reference type what it means that there is none, for
        those types without which the numbers are others: it becomes a warning.
    refs_of : str
        Role of the associated exposure whose header selects the references (``""``: science).
    needs_members : tuple of str
        Roles of associated exposures without any of which the step is skipped, unless it has
        references.
    scope : str
        ``"slits"`` wants all slits at once, ``"dataset"`` takes them bucket by bucket.
    branch : str
        :func:`spec2fn.engine.pipeline.branch` the step stands in, or empty.
    suffix : str
        Suffix of the file when the output of this step alone is saved.
    ordered : tuple of (str, str)
        Pairs of parameters of which the first must be less than the second.
    bound : tuple of (str, value)
        Parameters bound by :meth:`with_`.
    overridden : tuple of str
        Reference types that a run has for this step alone.
    """

    name: str
    function: Callable[Concatenate[Any, P], Any]
    refs: tuple[str, ...] = ()
    members: tuple[str, ...] = ()
    reads: tuple[str, ...] = ("sci",)
    provides: tuple[str, ...] = ()
    traceable: bool = False
    planner: Callable[..., Any] | None = None
    skip: bool = False
    chunkable: bool | Callable[[Parameters], bool] = True
    aliases: tuple[str, ...] = ()
    needs_refs: tuple[str, ...] = ()
    without: Callable[[xr.Dataset, Parameters], Mapping[str, str]] | None = None
    refs_of: str = ""
    needs_members: tuple[str, ...] = ()
    scope: str = "dataset"
    branch: str = ""
    suffix: str = ""
    ordered: tuple[tuple[str, str], ...] = ()
    bound: tuple[tuple[str, Any], ...] = ()
    overridden: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        # editors, `help` and Sphinx show the arguments of the function
        object.__setattr__(self, "__wrapped__", self.function)

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
        """Keys under which a run finds the references: ``flat``, or ``<role>:<type>``.

        Those of this step alone are ``<key of the step>:<type>``.
        """
        owners = (self.key if r in self.overridden else self.refs_of for r in self.refs)
        return tuple(f"{o}:{r}" if o else r for o, r in zip(owners, self.refs, strict=True))

    @property
    def parameters(self) -> Mapping[str, Parameter]:
        """The step's parameters by name (without ``skip``, which every step has)."""
        return parameters_of(self.function, exclude=("plan", *self.members))

    @property
    def works_in_pieces(self) -> bool:
        """Whether, with its parameters, integrations may be processed in pieces."""
        if callable(self.chunkable):
            return self.chunkable(Parameters(self.name, self.defaults()))
        return self.chunkable

    def defaults(self) -> dict[str, Any]:
        """Every parameter with the value a bare call would use."""
        return {n: p.default for n, p in self.parameters.items()} | dict(self.bound)

    def with_(self, *, skip: bool | None = None, **parameters: object) -> Step[P]:
        """Return this step with parameters bound (and switched on or off).

        Raises
        ------
        ParameterError
            For an unknown parameter or a value of the wrong type or out of range.
        """
        values, known = dict(self.bound), self.parameters
        for name, value in parameters.items():
            if name not in known:
                raise unknown_parameter(self.name, name, known)
            values[name] = known[name].coerce(value, self.name)
        check_order(self.name, {**self.defaults(), **values}, self.ordered)
        return replace(self, bound=tuple(values.items()), skip=self.skip if skip is None else skip)

    def __call__(self, ds: Exposure, *refs: P.args, **kwargs: P.kwargs) -> Any:  # noqa: ANN401 - what the step takes and makes
        """Apply the step.

        Parameters
        ----------
        ds : xarray.Dataset, Slits or Cubes
            Not modified; the result is made anew, with ``status_<name>`` recorded.
        *refs : xarray.Dataset, array, path or None
            References in the order of :attr:`refs`; they can be given by keyword as well.
        **kwargs
            Parameters and members; ``plan``, from :meth:`plan`.
        """
        plan: Any = kwargs.pop("plan", None)
        with self._threads():
            given = self._sort(ds, refs, kwargs)
            parts: tuple[Any, ...] = ds.pieces if self._by_piece(ds) else (ds,)
            plans = plan if self._by_piece(ds) and plan is not None else (plan,) * len(parts)
            done = [self._apply(p, one, given) for p, one in zip(parts, plans, strict=True)]
        status = common_status([(status, idle) for _, status, idle in done])
        made = tuple(with_status(o, self.name, status) for o, _, _ in done)
        out = ds.with_pieces(made) if self._by_piece(ds) else made[0]
        check_references(self.name, ds, out, given.references)
        if self.without is None or out.attrs.get(f"status_{self.name}") != "COMPLETE":
            return out
        effects = self.without(parts[0], given.parameters)
        absent = [r for r, ref in zip(self.refs, given.references, strict=True) if ref is None]
        told = (f"{self.name}: no {r} reference: {effects[r]}" for r in effects if r in absent)
        return with_warnings(out, *told)

    def _threads(self) -> contextlib.AbstractContextManager[None]:
        # what a user's own function does with BLAS is not ours to say
        ours = self.function.__module__.startswith("spec2fn.")
        return one_blas_thread() if ours else contextlib.nullcontext()

    def _by_piece(self, ds: Exposure) -> TypeGuard[Pieces]:
        """Whether the step is applied to the Datasets of `ds` one by one."""
        return isinstance(ds, Pieces) and not (self.scope == "slits" and ds.of_slits)

    def _apply(self, ds: Exposure, plan: object, given: _Given) -> tuple[Any, str, tuple[str, ...]]:
        """The result, its status, and why slits were left alone (empty for those that were not)."""
        if not isinstance(ds, Pieces):
            require(ds, self.reads, self.name)
        plan = self._plan(ds, given) if plan is None and self.planner is not None else plan
        phase: dict[str, Any] = {} if self.planner is None else {"plan": plan}
        out = plan
        if not isinstance(plan, Skip):
            out = self.function(ds, *given.references, **phase, **given.members, **given.parameters)
        if isinstance(out, Skip):
            return ds, f"SKIPPED: {out.reason}", ()
        status = blank_status(ds, out, getattr(plan, "problems", ())) or "COMPLETE"
        failure = getattr(plan, "failure", "")
        status = f"FAILED: {failure}" if failure else status
        return freeze(out, ds), status, getattr(plan, "left_alone", ())

    def plan(self, ds: Exposure, *refs: object, **kwargs: object) -> Any:  # noqa: ANN401 - what the step takes and makes
        """Compute the host-side half of a two-phase step, or None if it has none.

        Takes what the step itself takes. For slits in buckets, unless the step wants all slits at
        once, and for several cubes it is a tuple with the plan of each.
        """
        if self.planner is None:
            return None
        given = self._sort(ds, refs, kwargs)
        with self._threads():
            if self._by_piece(ds):
                return tuple(self._plan(part, given) for part in ds.pieces)
            return self._plan(ds, given)

    def _plan(self, ds: Exposure, given: _Given) -> object:
        assert self.planner is not None
        if any(is_traced(v.data) for v in variables_of(ds)):
            msg = (
                f"{self.name} plans on the host and cannot do so inside a JAX transformation;"
                f" compute plan = {self.name}.plan(ds, ...) outside and pass plan=plan"
            )
            raise HostOnlyError(msg)
        named = _keywords(self.planner)
        taken = {role: exposures for role, exposures in given.members.items() if role in named}
        if "params" in named:
            taken["params"] = given.parameters
        plan = self.planner(ds, *given.references, **taken)
        if not isinstance(plan, Skip):
            check_members(ds, given.members)
        return plan

    def _sort(self, ds: Exposure, refs: Sequence[Any], kwargs: Mapping[str, Any]) -> _Given:
        """References, members and parameters among the arguments of a call."""
        if len(refs) > len(self.refs):
            msg = f"{self.name} takes {len(self.refs)} references {self.refs}, got {len(refs)}"
            raise ContractError(msg)
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
        user: Any = ds
        if self.refs_of in self.members:
            user = next(iter(members.get(self.refs_of, ())), None)
        exposure = getattr(user, "attrs", None)
        bound = (as_reference(references.get(n), n, exposure, self.name) for n in self.refs)
        return _Given(tuple(bound), members, Parameters(self.name, parameters))


@functools.cache
def _keywords(planner: Callable[..., Any]) -> tuple[str, ...]:
    arguments = inspect.signature(planner).parameters.values()
    return tuple(p.name for p in arguments if p.kind is p.KEYWORD_ONLY)


def _check_planner(owner: Step[...]) -> None:
    """Raise if a planner asks for what its step has not, or by position for more than it gets."""
    assert owner.planner is not None
    kinds = [p.kind for p in inspect.signature(owner.planner).parameters.values()]
    positional = kinds.count(inspect.Parameter.POSITIONAL_OR_KEYWORD)
    if positional != 1 + len(owner.refs) and inspect.Parameter.VAR_POSITIONAL not in kinds:
        msg = (
            f"{owner.name}: its planner takes {positional} positional arguments, needs the Dataset"
            f" and the references {owner.refs}; parameters are in the keyword argument params"
        )
        raise ContractError(msg)
    unknown = sorted(set(_keywords(owner.planner)) - {"params", *owner.members})
    for name in (*unknown, *_asked(owner.planner)):
        if name not in owner.parameters:
            raise unknown_parameter(owner.name, name, owner.parameters)
    if unknown:
        msg = f"{owner.name}: its planner takes {', '.join(unknown)}; read params.{unknown[0]}"
        raise ContractError(msg)


def _asked(planner: Callable[..., Any]) -> Iterator[str]:
    """Names of the parameters that a planner itself reads, as attributes of ``params``."""
    loaded: Any = None
    for instruction in dis.get_instructions(planner):
        read = instruction.opname in ("LOAD_ATTR", "LOAD_METHOD")
        if read and (loaded == "params" or (type(loaded) is tuple and loaded[-1] == "params")):
            yield instruction.argval
        loaded = instruction.argval


def as_reference(
    value: object, reftype: str, exposure: Mapping[str, Any] | None = None, who: str = ""
) -> xr.Dataset:
    """Return a reference as steps want it: a Dataset; see :func:`spec2fn.refs.coerce_reference`."""
    from spec2fn.refs import coerce_reference

    return cast("xr.Dataset", coerce_reference(value, reftype, exposure, who))


@overload
def step(function: Callable[Concatenate[Any, P], Any]) -> Step[P]: ...
@overload
def step(**options: Any) -> Callable[[Callable[Concatenate[Any, P], Any]], Step[P]]: ...  # noqa: ANN401 - what the step takes and makes
def step(
    function: Callable[Concatenate[Any, P], Any] | None = None, **options: Any
) -> Step[P] | Callable[[Callable[Concatenate[Any, P], Any]], Step[P]]:
    """Turn ``function(ds, *refs, *, members…, parameters…)`` into a :class:`Step`.

    Options are the attributes of :class:`Step`. The function returns a new Dataset or
    ``Skip(reason)``. A two-phase step names its ``planner`` and takes ``plan`` as a keyword, with
    the default :data:`PLANNED`.

    Raises
    ------
    ParameterError
        If the planner asks for a parameter that the function does not have.
    """

    def decorate(fn: Callable[Concatenate[Any, P], Any]) -> Step[P]:
        name = options.pop("name", fn.__name__)
        new = Step(name, fn, **{"suffix": name, **options})
        if new.planner is not None:
            _check_planner(new)
        return new

    return decorate if function is None else decorate(function)

"""What is checked before anything runs: the exposure, its members, the order of the steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spec2fn.engine.pipeline import Observation, Pipeline, steps_of
from spec2fn.engine.settings import Settings, resolve_settings
from spec2fn.errors import ContractError, DatasetError, InputError, ParameterError
from spec2fn.members import check_members
from spec2fn.pieces import Exposure, pieces_of
from spec2fn.schema import meta_of, status_of, warnings_of, with_warnings
from spec2fn.slits import Slits

__all__ = [
    "REPEATABLE",
    "check_input",
    "check_order",
    "checked",
    "recorded_status",
    "warnings_in",
    "with_checked_members",
]

REPEATABLE = ("assign_wcs", "srctype", "targ_centroid", "msaflagopen", "badpix_selfcal")
"""Steps that describe or flag pixels and leave their values: done twice, they are done once."""

_LIKE_SCIENCE = ("background", "imprint", "selfcal")


def checked(
    pipeline: Pipeline,
    science: Exposure | Observation,
    members: Mapping[str, tuple[Any, ...]] | None,
    params: Mapping[str, Mapping[str, Any]] | Settings | None,
) -> tuple[Observation, Settings, tuple[str, ...]]:
    """Return what a run starts with: an observation fit for it, its settings, and the warnings.

    Raises
    ------
    InputError, DatasetError, ParameterError, ContractError
        See :func:`check_input`, :func:`check_order` and :func:`with_checked_members`.
    """
    obs = science if isinstance(science, Observation) else Observation(science)
    obs = obs.replace(**{role: tuple(exposures) for role, exposures in (members or {}).items()})
    settings = params if isinstance(params, Settings) else resolve_settings(pipeline, params)
    again = check_input(settings.pipeline, obs)
    check_order(settings.pipeline, obs.science)
    obs = with_checked_members(settings.pipeline, obs)
    return obs, settings, (*again, *warnings_in(obs))


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


def _check_one(pipeline: Pipeline, exposure: Exposure, how: str) -> tuple[str, ...]:
    active = [s for s in steps_of(pipeline) if not s.skip and not s.defaults().get("inverse")]
    done = [s.name for s in active if recorded_status(exposure, s.name) == "COMPLETE"]
    names = list(dict.fromkeys(n for n in done if n not in REPEATABLE))
    what = meta_of(exposure).filename or "the exposure"
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


def recorded_status(exposure: Exposure, step: str) -> str:
    """Return the status of a step: of this run, of the header, or as the data show it."""
    from spec2fn.io.fits.keywords import STEP_KEYWORDS

    keyword = STEP_KEYWORDS.get(step, ("",))[0]
    said = status_of(exposure, step) or str(keyword and meta_of(exposure).get(keyword, ""))
    units = [str(p["sci"].attrs.get("units", "")) for p in pieces_of(exposure) if "sci" in p]
    shown = {
        "extract_2d": isinstance(exposure, Slits),
        "photom": any("Jy" in u or u == "see bunit" for u in units),
    }
    return said or ("COMPLETE" if shown.get(step) else "")


def check_order(pipeline: Pipeline, science: Exposure) -> None:
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
    known = {str(name) for part in pieces_of(science) for name in part.variables}
    for step in steps_of(pipeline):
        if step.skip:
            continue
        missing = [name for name in step.reads if name not in known]
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
        known.update(step.provides)


def with_checked_members(pipeline: Pipeline, obs: Observation) -> Observation:
    """Return an observation with the warnings about the members that steps of a pipeline take.

    Raises
    ------
    InputError
        See :func:`spec2fn.members.check_members`.
    """
    roles = {m for s in steps_of(pipeline) if not s.skip for m in s.members}
    told = check_members(obs.science, {k: v for k, v in obs.members.items() if k in roles})
    return obs.replace(with_warnings(obs.science, *told)) if told else obs


def warnings_in(obs: Observation) -> tuple[str, ...]:
    """Return the warnings recorded on an exposure and its members, those of an earlier run too."""
    earlier = meta_of(obs.science).records.get("run", {}).get("warnings", ())
    told = [*earlier, *warnings_of(obs.science)]
    if isinstance(obs.science, Slits):
        told += [f"slit {name}: {text}" for name, text in obs.science.warnings.items()]
    for role, members in obs.members.items():
        for ds in members:
            name = meta_of(ds).filename
            told += [w if name in w else f"{role} {name}: {w}" for w in warnings_of(ds)]
    return tuple(dict.fromkeys(told))

"""Exposures with known truth and their references, in memory, made once per process.

Datasets returned here are shared: their arrays are read-only, as those of every step are.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from spec2fn.errors import InputError, nearest

if TYPE_CHECKING:
    import xarray as xr

    from spec2fn.compose import Observation, Pipeline, Step
    from spec2fn.forward.render import Rendered

__all__ = [
    "EXP_TYPES",
    "StepInput",
    "exposure",
    "members",
    "observation",
    "pipeline",
    "references",
    "rendered",
    "step_input",
]

EXP_TYPES = ("MIR_LRS-FIXEDSLIT", "MIR_LRS-SLITLESS")
"""Exposure types there are exposures of."""


@functools.cache
def rendered(exp_type: str, seed: int = 0, integrations: int = 2) -> Rendered:
    """Render an exposure of a mode.

    Parameters
    ----------
    exp_type : str
        One of :data:`EXP_TYPES`.
    seed : int
        Of noise, flat and bad pixels.
    integrations : int
        Of the time series; the slit exposures have one.

    Returns
    -------
    spec2fn.forward.render.Rendered
        With truth, forward operator, references.

    Raises
    ------
    InputError
        For another exposure type.
    """
    from spec2fn.forward.render import render_miri_lrs_slit, render_miri_lrs_slitless

    if exp_type == "MIR_LRS-FIXEDSLIT":
        return render_miri_lrs_slit(seed)
    if exp_type == "MIR_LRS-SLITLESS":
        return render_miri_lrs_slitless(seed, integrations)
    msg = f"no exposures of {exp_type!r}{nearest(exp_type, EXP_TYPES)}; there are {EXP_TYPES}"
    raise InputError(msg)


@functools.cache
def exposure(
    exp_type: str, role: str = "science", seed: int = 0, integrations: int = 2
) -> xr.Dataset:
    """Return an exposure as it is opened from a file, before any step.

    Parameters
    ----------
    exp_type, seed, integrations
        See :func:`rendered`.
    role : str
        ``science``; on the slit also ``background`` and ``target_acquisition``.
    """
    ds = rendered(exp_type, seed, integrations).exposure(role)
    for variable in ds.variables.values():
        variable.data.setflags(write=False)
    return ds


def members(exp_type: str, seed: int = 0) -> dict[str, tuple[xr.Dataset, ...]]:
    """Return the associated exposures by role."""
    roles = [r for r in rendered(exp_type, seed).setups if r != "science"]
    return {role: (exposure(exp_type, role, seed),) for role in roles}


def observation(exp_type: str, seed: int = 0, integrations: int = 2) -> Observation:
    """Return a science exposure with its associated exposures."""
    from spec2fn.compose import Observation

    science = exposure(exp_type, seed=seed, integrations=integrations)
    return Observation(science, members(exp_type, seed))


def references(exp_type: str, seed: int = 0) -> Mapping[str, Any]:
    """Return the references of a mode, opened, by type."""
    return rendered(exp_type, seed).references


def pipeline(exp_type: str) -> Pipeline:
    """Return the pipeline of a mode."""
    from spec2fn.pipelines import MODES

    return MODES[exp_type][1]


@dataclass(frozen=True)
class StepInput:
    """What a step gets in the pipeline of a mode.

    Attributes
    ----------
    step : Step
        Switched on.
    dataset : xarray.Dataset
        The exposure as the steps before left it.
    references : mapping of str to Dataset or None
        By type, those the step takes.
    members : mapping of str to tuple of Dataset
        By role, those the step takes.
    """

    step: Step
    dataset: xr.Dataset
    references: Mapping[str, Any]
    members: Mapping[str, tuple[Any, ...]]

    def plan(self, dataset: Any = None) -> Any:
        """Make the plan of the step for `dataset` (default: the one held)."""
        ds = self.dataset if dataset is None else dataset
        return self.step.plan(ds, **self.references, **self.members)

    def __call__(self, dataset: Any = None, plan: Any = None, **parameters: Any) -> Any:
        """Apply the step to `dataset` (default: the one held)."""
        ds = self.dataset if dataset is None else dataset
        return self.step(ds, plan=plan, **self.references, **self.members, **parameters)


@functools.cache
def step_input(name: str, exp_type: str) -> StepInput | None:
    """Return what the step called `name` gets in a mode, or None if the mode does not have it.

    Every step before it has run, those that are off by default too.
    """
    from dataclasses import replace

    from spec2fn.compose import AlsoOn, Product
    from spec2fn.running import run

    before: list[Any] = []
    for element in pipeline(exp_type):
        if isinstance(element, Product):
            continue
        lifted = element.step if isinstance(element, AlsoOn) else element
        active = lifted.with_(skip=False)
        if lifted.name == name:
            refs = references(exp_type)
            result = run(tuple(before), observation(exp_type), refs)
            taken = {r: refs.get(r) for r in active.refs}
            roles = {r: result.members.get(r, ()) for r in active.members}
            return StepInput(active, result.dataset, taken, roles)
        before.append(replace(element, step=active) if isinstance(element, AlsoOn) else active)
    return None

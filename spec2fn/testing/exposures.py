"""Exposures with known truth and their references, in memory, made once per process.

Datasets returned here are shared: their arrays are read-only, as those of every step are.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from spec2fn.testing import nirspec_modes, slitless

if TYPE_CHECKING:
    import xarray as xr

    from spec2fn.engine.pipeline import Observation, Pipeline
    from spec2fn.engine.step import Step
    from spec2fn.forward.rendered import Rendered
    from spec2fn.pieces import Exposure

__all__ = [
    "EXP_TYPES",
    "MRS",
    "RENDERED",
    "SOSS",
    "StepInput",
    "exposure",
    "members",
    "observation",
    "pipeline",
    "references",
    "rendered",
    "step_input",
    "step_keys",
]

RENDERED = ("MIR_LRS-FIXEDSLIT", "MIR_LRS-SLITLESS")
"""Exposure types of long spectra that are rendered from a scene, so that the truth is known."""

MRS = "MIR_MRS"
"""Also rendered, on all of the detector: every step asks for it."""

SOSS = "NIS_SOSS"
"""Rendered as well, on a detector with fewer columns."""

EXP_TYPES = (*RENDERED, MRS, SOSS, *nirspec_modes.EXP_TYPES, *slitless.EXP_TYPES)
"""Exposure types there are exposures of."""


@functools.cache
def rendered(exp_type: str, seed: int = 0, integrations: int = 2) -> Rendered:
    """Render an exposure of a mode once, see :func:`spec2fn.forward.render`."""
    from spec2fn.forward.niriss.instrument import Strip
    from spec2fn.forward.renderers import render

    if exp_type == SOSS:
        strip = Strip("SUBSTRIP256", 256, columns=768)
        return render(exp_type, seed, integrations, strip=strip)
    return render(exp_type, seed, integrations)


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
        ``science``; on the slit of MIRI also ``background`` and ``target_acquisition``, for
        NIRSpec those of :func:`spec2fn.testing.nirspec_modes.roles`.
    """
    if exp_type in nirspec_modes.EXP_TYPES:
        return nirspec_modes.exposure(exp_type, role, seed, integrations)
    if exp_type in slitless.EXP_TYPES:
        return slitless.exposure(exp_type, seed, integrations)
    ds = rendered(exp_type, seed, integrations).exposure(role)
    return nirspec_modes.read_only(ds)


def members(exp_type: str, seed: int = 0) -> dict[str, tuple[xr.Dataset, ...]]:
    """Return the associated exposures, MSA metadata and catalogs, by role."""
    if exp_type in nirspec_modes.EXP_TYPES:
        roles = [r for r in nirspec_modes.roles(exp_type) if r != "science"]
        more = nirspec_modes.metadata(exp_type)
    elif exp_type in slitless.EXP_TYPES:
        roles, more = [], slitless.metadata(exp_type)
    else:
        roles, more = [r for r in rendered(exp_type, seed).setups if r != "science"], {}
    return {**{role: (exposure(exp_type, role, seed),) for role in roles}, **more}


def observation(exp_type: str, seed: int = 0, integrations: int = 2) -> Observation:
    """Return a science exposure with its associated exposures."""
    from spec2fn.engine.pipeline import Observation

    science = exposure(exp_type, seed=seed, integrations=integrations)
    return Observation(science, members(exp_type, seed))


def references(exp_type: str, seed: int = 0) -> Mapping[str, Any]:
    """Return the references of a mode, opened, by type.

    Those of the fixed slit in an exposure of slitlets have keys ``fs:<type>``.
    """
    if exp_type in nirspec_modes.EXP_TYPES:
        return nirspec_modes.references(exp_type)
    if exp_type in slitless.EXP_TYPES:
        return slitless.references(exp_type)
    return rendered(exp_type, seed).references


def pipeline(exp_type: str) -> Pipeline:
    """Return the pipeline of a mode.

    That of the MRS makes a short cube of channel 1 alone; overlapping orders are told apart on a
    coarse grid.
    """
    from spec2fn.engine import pipeline as edit
    from spec2fn.pipelines import MODES
    from spec2fn.steps.cube_build import cube_build
    from spec2fn.steps.extract_1d import extract_1d
    from spec2fn.steps.extract_soss import extract_soss

    _, steps = MODES[exp_type]
    if exp_type == SOSS:
        return edit.replace(steps, extract_1d=extract_soss.with_(soss_n_os=1, soss_rtol=1e-2))
    if exp_type != MRS:
        return steps
    # one Dataset instead of one for each channel, and few planes: the detector is large enough
    one = cube_build.with_(channel="1", wavemin=5.3, wavemax=5.36)
    # fringes of a spectrum are removed outside of a trace only
    return edit.replace(steps, cube_build=one, extract_1d=extract_1d.with_(ifu_rfcorr=False))


@dataclass(frozen=True)
class StepInput:
    """What a step gets in the pipeline of a mode.

    Attributes
    ----------
    step : Step
        Switched on.
    dataset : xarray.Dataset or Slits
        The exposure, or its slits, as the steps before left it.
    references : mapping of str to Dataset or None
        By type, those the step takes.
    members : mapping of str to tuple of Dataset
        By role, those the step takes.
    """

    step: Step
    dataset: Exposure
    references: Mapping[str, Any]
    members: Mapping[str, tuple[Any, ...]]

    def plan(self, dataset: Exposure | None = None) -> object:
        """Make the plan of the step for `dataset` (default: the one held)."""
        ds = self.dataset if dataset is None else dataset
        return self.step.plan(ds, **self.references, **self.members)

    def __call__(
        self, dataset: Exposure | None = None, plan: object = None, **parameters: object
    ) -> Exposure:
        """Apply the step to `dataset` (default: the one held)."""
        ds = self.dataset if dataset is None else dataset
        return self.step(ds, plan=plan, **self.references, **self.members, **parameters)


def step_keys(exp_type: str) -> tuple[str, ...]:
    """Return the steps of a mode in order, those in branches as ``<branch>/<step>``."""
    from spec2fn.engine.pipeline import steps_of

    return tuple(s.key for s in steps_of(pipeline(exp_type)))


@functools.cache
def step_input(key: str, exp_type: str) -> StepInput | None:
    """Return what a step gets in a mode, or None if the mode does not have it.

    Every step before it has run, those that are off by default too.

    Parameters
    ----------
    key : str
        Name of the step, or ``<branch>/<step>``; a bare name means the first that has it.
    exp_type : str
        One of :data:`EXP_TYPES`.
    """
    from spec2fn.engine.pipeline import Split, find_steps, references_of, steps_of
    from spec2fn.engine.run import run
    from spec2fn.errors import ParameterError

    on = _switched_on(pipeline(exp_type))
    try:
        wanted = find_steps(on, key)[0]
    except ParameterError:
        return None
    at = next(i for i, element in enumerate(on) if wanted in steps_of((element,)))
    refs = references(exp_type)
    result = run(on[:at], observation(exp_type), refs)
    dataset, element = result.dataset, on[at]
    if isinstance(element, Split):
        (one,) = (b for b in element.branches if wanted in b.steps)
        dataset = dataset.where(one.keep)
        if one.exp_type:
            dataset = dataset.assign_attrs(exp_type=one.exp_type)
        dataset = run(one.steps[: one.steps.index(wanted)], dataset, refs).dataset
    members = {r: result.members.get(r, ()) for r in wanted.members}
    return StepInput(wanted, dataset, references_of(wanted, refs), members)


def _switched_on(steps: Pipeline) -> Pipeline:
    from spec2fn.engine.pipeline import AlsoOn, steps_of, with_parameters

    on = with_parameters(steps, {s.key: {"skip": False} for s in steps_of(steps)})
    # unconditionally: the step of a condition may come later
    return tuple(replace(e, when="") if isinstance(e, AlsoOn) else e for e in on)

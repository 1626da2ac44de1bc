"""What a run needs, resolved but not started: exposure, pipeline, parameters, references."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, Union

from spec2fn.engine.checks import (
    REPEATABLE,
    check_input,
    recorded_status,
    warnings_in,
    with_checked_members,
)
from spec2fn.engine.forecast import RunPlan, plan
from spec2fn.engine.pipeline import (
    Observation,
    Pipeline,
    Split,
    find_steps,
    needed_references,
    since,
    steps_of,
    with_overrides,
)
from spec2fn.engine.run import heard
from spec2fn.engine.settings import Settings, has_step, resolve_settings
from spec2fn.engine.step import Step
from spec2fn.errors import InputError, ParameterError
from spec2fn.modes import mode_of
from spec2fn.pieces import Exposure, Pieces, pieces_of
from spec2fn.schema import FIELD_KEYWORDS, meta_of, with_meta, with_warnings

if TYPE_CHECKING:
    import xarray as xr

    from spec2fn.io import Association
    from spec2fn.refs import Lock, References

__all__ = ["Job", "Source", "opened", "prepare"]

Source: TypeAlias = Union[
    str, os.PathLike[str], Mapping[str, Any], "Association", Exposure, Observation
]
"""A file, an association or its content, or data in memory."""

# Parameters that name files which are opened as associated exposures.
_MEMBER_PARAMETERS = {
    ("background", "bkg_list"): "background",
    ("targ_centroid", "ta_file"): "target_acquisition",
}

# The step that saves what the parameter of the pipeline asks for.
_ELECTRONS = "electron_rate"

_LOG = logging.getLogger("spec2fn.calibration")
_GO_ON = "--from {0}, or start={0!r} in Python"


@dataclass(frozen=True)
class Job:
    """Everything a run needs, resolved but not started.

    Attributes
    ----------
    name : str
        Base name of the products.
    mode : str
        Name of the pipeline.
    observation : Observation
        Science exposure and members, opened lazily.
    settings : Settings
        The pipeline with its parameters, and who set them.
    references : spec2fn.refs.References
        References by type.
    missing : tuple of str
        References that are neither cached nor reachable.
    options : mapping
        Parameters of the pipeline itself from parameter files (``save_bsub``).
    start : str
        Step to go on from, of a product; "" from the beginning.
    inputs : tuple of Path
        Files that are read, which no product may replace.
    warnings : tuple of str
        What there was to say so far.
    """

    name: str
    mode: str
    observation: Observation
    settings: Settings
    references: References
    missing: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    start: str = ""
    inputs: tuple[Path, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def multi_integration(self) -> bool:
        """Whether the exposure keeps its integrations apart (``_rateints``)."""
        return any("integration" in p.dims for p in pieces_of(self.observation.science))

    def plan(self, products: Iterable[str] = ()) -> RunPlan:
        """Say what running this job would do."""
        forecast = plan(
            self.settings.pipeline,
            self.observation,
            self.references,
            params=self.settings,
            products=products,
            missing=self.missing,
            context=self.references.context,
        )
        warnings = dict.fromkeys((*self.warnings, *forecast.warnings))
        return replace(forecast, warnings=tuple(warnings))


def prepare(
    source: Source,
    *,
    start: str | None = None,
    pipeline: Pipeline | None = None,
    params: Mapping[str, Mapping[str, Any]] | None = None,
    overrides: Mapping[str, Any] | None = None,
    context: str | None = None,
    lock: str | os.PathLike[str] | Lock | None = None,
    parameter_references: bool = True,
    parameter_files: Iterable[str | os.PathLike[str]] = (),
    compatibility: str | None = None,
    allow_missing: bool = False,
) -> Job:
    """Open an exposure or association and resolve its pipeline, parameters and references.

    Parameters
    ----------
    source : path, mapping, Dataset or Observation
        A ``_rate``/``_rateints`` FITS file, a level-2 association (file or mapping), or data.
        With `start` also a product (``_cal``, ``_s2d``, …), or an association with one.
    start : str, optional
        Go on from this step of the pipeline: the input has been through those before it.
    pipeline : tuple, optional
        Steps to run; default: the pipeline of the exposure type.
    params : mapping, optional
        Parameters by step; they win over those of CRDS.
    overrides : mapping of str to path, array, Dataset or None, optional
        References by type that replace the selected ones; None means "no such reference".
    context : str, optional
        CRDS context; default: ``CRDS_CONTEXT``, then the server's or the cache's.
    lock : path or Lock, optional
        Lock file: use exactly these references, those of single steps too, and ask CRDS nothing.
        Overrides of the user's win.
    parameter_references : bool
        Apply the CRDS parameter references.
    parameter_files : iterable of path
        Parameter files of the user's, as the official pipeline writes them (``export_config``);
        they win over CRDS, and `params` over them.
    compatibility : str, optional
        Preset of parameters (:mod:`spec2fn.compatibility`): ``"jwst-3.0"`` gives the numbers of the
        official package where ours differ by choice. CRDS and the user win over it.
    allow_missing : bool
        Return a job that lists missing references instead of raising.

    Raises
    ------
    InputError
        For input that cannot be used, in one line that says how to repair it.
    ReferenceError
        Listing every reference that is missing.
    """
    from spec2fn import pipelines, refs
    from spec2fn.io import base_name

    told: list[str] = []
    with heard(told.append):
        obs = opened(source, product=start is not None)
        mode = "custom"
        if pipeline is None:
            mode, pipeline = pipelines.for_exposure(obs.science)
        rest = pipeline if start is None else since(pipeline, start)
        files = refs.parameter_files(parameter_files)
        settings = resolve_settings(pipeline, params, files=files.steps)
        settings = _settled(obs.science, settings, rest, params)
        check_input(settings.pipeline, obs, _GO_ON)
        if start is not None and not any("msa_metadata" in s.members for s in steps_of(rest)):
            # the file that MSAMETFL names has done its part, and need not lie beside the product
            obs = obs.replace(with_meta(obs.science, records={"folder": ""}))
        obs = _with_msa_metadata(obs)
        meta = meta_of(obs.science)
        name = str(meta.records.get("product") or base_name(meta.filename))
        crds: Mapping[str, Any] = {}
        defaults: Mapping[str, Any] = {}
        if parameter_references and lock is None:
            recommended = refs.parameter_references(
                obs.science,
                [s.name for s in steps_of(rest)],
                context=context,
                also=needed_references(rest),
            )
            crds, defaults = recommended, recommended.options
        options = {**defaults, **files.options}
        if options.get("save_wfss_esec") and any(s.name == _ELECTRONS for s in steps_of(rest)):
            crds = {_ELECTRONS: {"skip": False}, **crds}
        settings = resolve_settings(pipeline, params, crds, compatibility, files.steps)
        settings = _settled(obs.science, settings, rest, params)
        if lock is not None:
            settings = _locked(settings, lock)
        obs = _with_member_files(obs, settings)
        obs = _with_field(obs, settings.pipeline)
        references = _references(
            obs,
            settings,
            overrides or {},
            {"context": context, "lock": lock, "allow_missing": allow_missing},
        )
        inputs = _input_files(obs, references, source, lock, *files.paths)
    return Job(
        name,
        mode,
        obs,
        settings,
        references,
        references.missing,
        options,
        start or "",
        inputs,
        tuple(dict.fromkeys((*told, *files.notes, *settings.notes, *warnings_in(obs)))),
    )


def opened(source: Source, *, product: bool = False) -> Observation:
    """Return what `source` stands for; with `product`, it may be a product."""
    from xarray import Dataset

    from spec2fn.io import open_observation

    if isinstance(source, Observation):
        return source
    if isinstance(source, (Dataset, Pieces)):
        return Observation(source)
    return open_observation(source, product=product)


def _with_msa_metadata(obs: Observation) -> Observation:
    """Add the file that the header names, unless it is there; slits know where they are."""
    given = "msa_metadata" in obs.members or isinstance(obs.science, Pieces)
    if given or not mode_of(obs.science).shutters:
        return obs
    from spec2fn.io.msa import find_msa_metadata

    meta = meta_of(obs.science)
    folders = [str(f) for k in ("folder", "asn_folder") if (f := meta.records.get(k))]
    metadata = find_msa_metadata(meta, folders)
    return obs if metadata is None else obs.replace(msa_metadata=(metadata,))


def _with_field(obs: Observation, pipeline: Pipeline) -> Observation:
    """Add the files that describe the field, which the header names, as far as steps take them."""
    taken = {m for s in steps_of(pipeline) if not s.skip for m in s.members}
    wanted = [r for r in FIELD_KEYWORDS if r in taken and r not in obs.members]
    if not wanted or mode_of(obs.science).layout != "traces":
        return obs
    from spec2fn.io.catalogs import find_field_member

    science = next(iter(pieces_of(obs.science)))
    records = meta_of(science).records
    folders = [str(f) for k in ("folder", "asn_folder") if (f := records.get(k))]
    for role in wanted:
        found = find_field_member(science, role, folders)
        if found is not None:
            obs = obs.replace(**{role: (found,)})
    return obs


def _settled(
    ds: Exposure,
    settings: Settings,
    rest: Pipeline,
    params: Mapping[str, Mapping[str, Any]] | None,
) -> Settings:
    """Settings of `rest`, the end of a pipeline, after checking that `ds` has seen what is before.

    Raises
    ------
    InputError
        If the exposure does not say that it has been through a step before, or a parameter of
        such a step is set.
    """
    from spec2fn.io.fits.keywords import STEP_KEYWORDS

    keys = [s.key for s in steps_of(rest)]
    pipeline, start = settings.pipeline, keys[0]
    if keys == [s.key for s in steps_of(pipeline)]:
        return settings
    for label, values in (params or {}).items():
        if not has_step(pipeline, label):
            continue
        late = any(s.key in keys for s in find_steps(pipeline, label))
        for parameter in () if late else sorted(set(values) - {"skip"}):
            msg = f"{label}.{parameter} is set, but {label} comes before {start}, the first to run"
            raise ParameterError(msg)
    before = [s for s in steps_of(pipeline) if s.key not in keys and not s.skip]
    names = dict.fromkeys(s.name for s in before if s.name in STEP_KEYWORDS)
    missing = [n for n in names if n not in REPEATABLE and not recorded_status(ds, n)]
    if missing:
        what = meta_of(ds).filename or "the exposure"
        msg = f"{what}: nothing says that it has been through {', '.join(missing)}, before {start}"
        if "photom" not in names or "photom" in missing:
            first = missing[0]
            msg += f"; start at {first}, or switch off what is not to be done (--skip {first})"
            raise InputError(msg)
        _LOG.warning("%s; it is calibrated, and taken as it is", msg)
    return replace(settings, pipeline=since(pipeline, next(steps_of(rest)).name))


def _locked(settings: Settings, lock: str | os.PathLike[str] | Lock) -> Settings:
    """Give steps the references that a lock holds for them alone, unless the user gives others."""
    from spec2fn.refs.lock import locked_for_steps

    active = [s for s in steps_of(settings.pipeline) if not s.skip]
    free = {s.key: [r for r in s.refs if r not in s.overridden] for s in active}
    overrides = {**locked_for_steps(lock, free), **settings.overrides}
    pipeline = with_overrides(settings.pipeline, overrides)
    return replace(settings, pipeline=pipeline, overrides=overrides)


def _with_member_files(obs: Observation, settings: Settings) -> Observation:
    from spec2fn.io import open_exposure
    from spec2fn.io.fits.exposures import check_values

    for (step_name, parameter), role in _MEMBER_PARAMETERS.items():
        steps = [s for s in steps_of(settings.pipeline) if s.name == step_name]
        files = steps[0].defaults().get(parameter) if steps else None
        if not files:
            continue
        if role == "background" and obs.members.get(role):
            # as in the peer
            warning = (
                f"{step_name}.{parameter} is not used, as the association has {role} exposures;"
                " take them out of it, or name all of them there"
            )
            obs = obs.replace(with_warnings(obs.science, warning))
            continue
        files = (files,) if isinstance(files, str) else files
        obs = obs.replace(**{role: tuple(open_exposure(f, any_exp_type=True) for f in files)})
    active = [s for s in steps_of(settings.pipeline) if not s.skip]
    check_values(obs.science, {name for s in active for name in s.reads})
    roles = {m for s in active for m in s.members} & {"background", "imprint", "selfcal"}
    for ds in (ds for r in sorted(roles) for ds in obs.members.get(r, ())):
        check_values(ds)
    return with_checked_members(settings.pipeline, obs)


def _input_files(obs: Observation, references: References, *others: object) -> tuple[Path, ...]:
    """Every file that a run reads."""
    exposures = (obs.science, *itertools.chain(*obs.members.values()))
    paths: list[Any] = [*(meta_of(ds).path for ds in exposures), *map(references.path, references)]
    paths += [p for p in others if isinstance(p, (str, os.PathLike))]
    return tuple(Path(p).expanduser() for p in dict.fromkeys(filter(None, paths)))


def _references(
    obs: Observation,
    settings: Settings,
    overrides: Mapping[str, Any],
    options: Mapping[str, Any],
) -> References:
    """References of the science exposure, and of steps that take those of a member."""
    from spec2fn import refs

    pipeline = settings.pipeline
    needed = needed_references(pipeline)
    known = {r for s in steps_of(pipeline) if not s.skip and not s.refs_of for r in s.refs}
    headers: dict[str, Any] = {}
    borrowed: dict[str, tuple[Any, dict[str, None]]] = {}
    for role, ds, steps in _other_headers(obs, pipeline):
        types = borrowed.setdefault(role, (ds, {}))[1]
        for step in steps:
            headers[step.key] = ds
            if not step.skip:
                known.update(step.refs)
                types.update(dict.fromkeys(r for r in step.refs if r not in step.overridden))
    own = {k: v for k, v in overrides.items() if k in needed or k not in known}
    selected = refs.references(obs.science, needed, overrides=own, **options)
    for role, (ds, types) in borrowed.items():
        if ds is not None and types:
            mine = {k: v for k, v in overrides.items() if k in types}
            selected = selected.joined(
                refs.references(ds, tuple(types), overrides=mine, role=role, **options)
            )
    for step in steps_of(pipeline):
        ds = headers.get(step.key, obs.science)
        if step.overridden and not step.skip and ds is not None:
            mine = {r: settings.overrides[f"{step.key}:{r}"] for r in step.overridden}
            selected = selected.joined(
                refs.references(ds, step.overridden, overrides=mine, role=step.key)
            )
    return selected


def _other_headers(
    obs: Observation, pipeline: Pipeline
) -> Iterator[tuple[str, Any, Iterable[Step]]]:
    """Steps whose references are selected by another header: (key, exposure or None, steps)."""
    for element in pipeline:
        if isinstance(element, Split):
            for one in element.branches:
                if one.exp_type:
                    ds = _as_exp_type(obs.science, one.exp_type) if one.expected(obs) else None
                    yield one.name, ds, one.steps
            continue
        for step in steps_of((element,)):
            if step.refs_of:
                yield step.refs_of, next(iter(obs.members.get(step.refs_of, ())), None), (step,)


def _as_exp_type(ds: xr.Dataset, exp_type: str) -> xr.Dataset:
    header = meta_of(ds).primary
    assert header is not None
    header = header.copy()
    header["EXP_TYPE"] = exp_type
    return with_meta(ds.assign_attrs(exp_type=exp_type), primary=header)

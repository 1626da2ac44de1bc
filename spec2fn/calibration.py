"""From files to files: open, select references, run the pipeline, write the products.

This is the outer shell; everything it does can be done by hand with :mod:`spec2fn.io`,
:mod:`spec2fn.refs` and :func:`spec2fn.run`.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from spec2fn.engine.checks import (
    REPEATABLE,
    check_input,
    recorded_status,
    warnings_in,
    with_checked_members,
)
from spec2fn.engine.forecast import RunPlan, plan
from spec2fn.engine.outcome import blank_pieces
from spec2fn.engine.pipeline import (
    Observation,
    Pipeline,
    Split,
    find_steps,
    needed_references,
    since,
    steps_of,
)
from spec2fn.engine.run import Result, StepRecord, heard, run
from spec2fn.engine.settings import Settings, resolve_settings
from spec2fn.engine.step import Step
from spec2fn.errors import InputError, ParameterError
from spec2fn.modes import mode_of
from spec2fn.parameters import user_path
from spec2fn.schema import has_value, meta_of, with_meta, with_warnings

__all__ = ["Calibration", "Job", "calibrate", "output_folder", "prepare"]

# Bytes of pixels that may be in work at once; exposures of many integrations are cut to fit.
CHUNK_BYTES = 64 * 2**20
_PLANES_IN_WORK = 20

# Parameters that name files which are opened as associated exposures.
_MEMBER_PARAMETERS = {
    ("background", "bkg_list"): "background",
    ("targ_centroid", "ta_file"): "target_acquisition",
}

# Suffixes of images that steps leave in the records, where they differ from the name.
_SUFFIXES = {
    "combined_background": "combinedbackground",
    "nsclean_mask": "mask",
    "nsclean_background": "flicker_bkg",
    "nsclean_noise": "flicker_noise",
}

_LOG = logging.getLogger("spec2fn.calibration")
_GO_ON = "--from {0}, or start={0!r} in Python"

Format = Literal["fits", "netcdf"]


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
        Parameters of the pipeline itself from CRDS (``save_bsub``).
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
    references: Any
    missing: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    start: str = ""
    inputs: tuple[Path, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def multi_integration(self) -> bool:
        """Whether the exposure keeps its integrations apart (``_rateints``)."""
        science = self.observation.science
        return "integration" in getattr(science, "cubes", (science,))[0].dims

    def plan(self, products: Iterable[str] = ()) -> RunPlan:
        """Say what running this job would do."""
        made = plan(
            self.settings.pipeline,
            self.observation,
            self.references,
            params=self.settings,
            products=products,
            missing=self.missing,
            context=self.references.context,
        )
        return replace(made, warnings=_once(self.warnings, made.warnings))


@dataclass(frozen=True)
class Calibration:
    """What :func:`calibrate` made.

    Attributes
    ----------
    products : mapping of str to xarray.Dataset
        By kind (``cal``, ``s2d``, ``x1d``, …); opened from the file if the exposure was
        processed in pieces.
    files : mapping of str to Path
        Files written, by kind (``cal``) or step name.
    report : mapping
        JSON-able: steps with status, parameters and their origin, references, warnings, seconds.
    saved : mapping of str to xarray.Dataset
        Everything else that was to be saved: outputs of single steps, and what steps keep.
    """

    products: Mapping[str, Any]
    files: Mapping[str, Path]
    report: Mapping[str, Any]
    saved: Mapping[str, Any] = field(default_factory=dict)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What there was to say of files, parameters and pixels; every product records it."""
        return tuple(self.report["warnings"])


def prepare(
    source: Any,
    *,
    start: str | None = None,
    pipeline: Pipeline | None = None,
    params: Mapping[str, Mapping[str, Any]] | None = None,
    overrides: Mapping[str, Any] | None = None,
    context: str | None = None,
    lock: Any = None,
    parameter_references: bool = True,
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
    lock : path, optional
        Lock file: use exactly these references and ask CRDS nothing.
    parameter_references : bool
        Apply the CRDS parameter references.
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
    told: list[str] = []
    with heard(told.append):
        job = _prepare(
            source,
            start,
            pipeline,
            params,
            parameter_references=parameter_references,
            compatibility=compatibility,
            overrides=dict(overrides or {}),
            context=context,
            lock=lock,
            allow_missing=allow_missing,
        )
    return replace(job, warnings=_once(told, warnings_in(job.observation)))


def _prepare(
    source: Any,
    start: str | None,
    pipeline: Pipeline | None,
    params: Mapping[str, Mapping[str, Any]] | None,
    *,
    parameter_references: bool,
    compatibility: str | None,
    **options: Any,
) -> Job:
    from spec2fn import pipelines, refs
    from spec2fn.io import open_observation

    lock, context = options["lock"], options["context"]
    obs = source
    if hasattr(source, "data_vars") or hasattr(source, "buckets") or hasattr(source, "cubes"):
        obs = Observation(source)
    elif not isinstance(source, Observation):
        obs = open_observation(source, product=start is not None)
    mode = "custom"
    if pipeline is None:
        mode, pipeline = pipelines.for_exposure(obs.science)
    rest = pipeline if start is None else since(pipeline, start)
    settings = _settled(obs.science, resolve_settings(pipeline, params), rest, params)
    check_input(settings.pipeline, obs, _GO_ON)
    if start is not None and not any("msa_metadata" in s.members for s in steps_of(rest)):
        # the file that MSAMETFL names has done its part, and need not lie beside the product
        obs = obs.replace(with_meta(obs.science, records={"folder": ""}))
    obs, name = _open(obs, open_observation)
    crds: Mapping[str, Any] = {}
    defaults: Mapping[str, Any] = {}
    if parameter_references and lock is None:
        found = refs.parameter_references(
            obs.science,
            [s.name for s in steps_of(rest)],
            context=context,
            also=needed_references(rest),
        )
        crds, defaults = found, found.options
    settings = resolve_settings(pipeline, params, crds, compatibility)
    settings = _settled(obs.science, settings, rest, params)
    obs = _with_member_files(obs, settings)
    references = _references(obs, settings.pipeline, **options)
    files = _input_files(obs, references, source, lock)
    missing = references.missing
    return Job(name, mode, obs, settings, references, missing, defaults, start or "", files)


def _settled(
    ds: Any,
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
    name = start.rpartition("/")[2]
    return replace(settings, pipeline=since(pipeline, name))


def _input_files(obs: Observation, references: Any, *others: Any) -> tuple[Path, ...]:
    """Every file that a run reads."""
    exposures = (obs.science, *itertools.chain(*obs.members.values()))
    paths = [*(meta_of(ds).path for ds in exposures), *map(references.path, references)]
    paths += [p for p in others if isinstance(p, (str, os.PathLike))]
    return tuple(Path(p).expanduser() for p in dict.fromkeys(filter(None, paths)))


def spare_inputs(paths: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Raise :class:`InputError` if a file to be written would take the place of one of `inputs`.

    Links count as the file they lead to.
    """
    held = [p for p in inputs if p.exists()]
    for path in paths:
        for one in held if path.exists() else ():
            if path.samefile(one):
                same = "" if path == one else f" ({one})"
                msg = f"{path}: is an input of this run{same}; write to another folder or name"
                raise InputError(msg)


def _once(*texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(itertools.chain(*texts)))


def _references(
    obs: Observation, pipeline: Pipeline, overrides: dict[str, Any], **options: Any
) -> Any:
    """References of the science exposure, and of steps that take those of a member."""
    from spec2fn import refs

    needed = needed_references(pipeline)
    known = set(needed)
    borrowed: dict[str, tuple[Any, dict[str, None]]] = {}
    for role, ds, steps in _other_headers(obs, pipeline):
        types = borrowed.setdefault(role, (ds, {}))[1]
        for step in steps:
            if not step.skip:
                known.update(step.refs)
                types.update(dict.fromkeys(step.refs))
    own = {k: v for k, v in overrides.items() if k in needed or k not in known}
    found = refs.references(obs.science, needed, overrides=own, **options)
    for role, (ds, types) in borrowed.items():
        if ds is not None and types:
            mine = {k: v for k, v in overrides.items() if k in types}
            found = found.joined(
                refs.references(ds, tuple(types), overrides=mine, role=role, **options)
            )
    return found


def _other_headers(
    obs: Observation, pipeline: Pipeline
) -> Iterator[tuple[str, Any, Iterable[Any]]]:
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


def _as_exp_type(ds: Any, exp_type: str) -> Any:
    header = meta_of(ds).primary
    assert header is not None
    header = header.copy()
    header["EXP_TYPE"] = exp_type
    return with_meta(ds.assign_attrs(exp_type=exp_type), primary=header)


def _open(source: Any, open_observation: Callable[[Any], Observation]) -> tuple[Observation, str]:
    from spec2fn.io import base_name

    if isinstance(source, Observation):
        obs = source
    elif hasattr(source, "data_vars"):
        obs = Observation(source)
    else:
        obs = open_observation(source)
    meta = meta_of(obs.science)
    if "msa_metadata" not in obs.members and _needs_msa_metadata(obs.science):
        from spec2fn.io.msa import find_msa_metadata

        folders = [str(f) for k in ("folder", "asn_folder") if (f := meta.records.get(k))]
        found = find_msa_metadata(meta, folders)
        obs = obs if found is None else obs.replace(msa_metadata=(found,))
    return obs, str(meta.records.get("product") or base_name(meta.filename))


def _needs_msa_metadata(ds: Any) -> bool:
    # of slits it is known already where they are
    return hasattr(ds, "data_vars") and mode_of(ds).shutters


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


def calibrate(
    source: Any,
    output_dir: str | os.PathLike[str] | None = None,
    *,
    start: str | None = None,
    pipeline: Pipeline | None = None,
    params: Mapping[str, Mapping[str, Any]] | None = None,
    skip: Iterable[str] = (),
    overrides: Mapping[str, Any] | None = None,
    context: str | None = None,
    lock: Any = None,
    parameter_references: bool = True,
    compatibility: str | None = None,
    save_steps: Iterable[str] = (),
    save_bsub: bool = False,
    file_format: Format = "fits",
    chunk_integrations: int | None = None,
    progress: Callable[[str], Any] | None = None,
    strict: bool = False,
) -> Calibration:
    """Calibrate an exposure and write its products.

    Parameters
    ----------
    source : path, mapping, Dataset or Observation
        A ``_rate``/``_rateints`` FITS file, a level-2 association, or data in memory; with
        `start` also a product.
    output_dir : path, optional
        Where products go (made if it does not exist); without it nothing is written.
    start, pipeline, params, overrides, context, lock, parameter_references, compatibility
        See :func:`prepare`.
    skip : iterable of str
        Steps to switch off.
    save_steps : iterable of str
        Steps whose own output is saved too.
    save_bsub : bool
        Save the background-subtracted exposure.
    file_format : {"fits", "netcdf"}
    chunk_integrations : int, optional
        Integrations in work at once; default: as many as fit a fixed amount of memory. The
        result does not depend on it.
    progress : callable, optional
        Called with the name of each step before it runs.
    strict : bool
        Raise if a step fails on a slit; see :func:`spec2fn.run`.

    Returns
    -------
    Calibration

    Raises
    ------
    InputError, ReferenceError, StepFailedError
        Before anything is written; also if a product would take the place of a file that is read.
    """
    from spec2fn.refs import light_asdf

    begun = time.perf_counter()
    wanted = {k: dict(v) for k, v in (params or {}).items()}
    for name in skip:
        wanted.setdefault(name, {})["skip"] = True
    job = prepare(
        source,
        start=start,
        pipeline=pipeline,
        params=wanted,
        overrides=overrides,
        context=context,
        lock=lock,
        parameter_references=parameter_references,
        compatibility=compatibility,
    )
    steps = tuple(s.key for name in save_steps for s in find_steps(job.settings.pipeline, name))
    products = ("bsub",) if save_bsub or job.options.get("save_bsub") else ()
    folder = None if output_dir is None else output_folder(output_dir)
    if folder is not None:
        foreseen = (*job.plan(products).products, *steps)
        spare_inputs(_paths(job, foreseen, folder, file_format).values(), job.inputs)
    chunk = _chunk_size(job, chunk_integrations)
    pieces = _run_pieces(job, chunk, steps, products, progress, strict=strict)
    with light_asdf(), _patient_collector():
        if chunk is None:
            result = next(pieces)
            _need_values(next(iter(result.products.values()), None), result.report)
            made = _labelled(job, result)
            files = {} if folder is None else _write(job, made, folder, file_format)
        else:
            made, files, result = _stream(job, pieces, folder, file_format)
    report = _report(job, result, files, time.perf_counter() - begun)
    kinds = {k: v for k, v in made.items() if k in result.products}
    return Calibration(kinds, files, report, {k: v for k, v in made.items() if k not in kinds})


def _need_values(ds: Any, report: Iterable[StepRecord]) -> None:
    """Raise if a step has left no value at all."""
    parts = getattr(ds, "buckets", getattr(ds, "cubes", (ds,)))
    if ds is None or any("sci" not in part or has_value(part["sci"].values) for part in parts):
        return
    failed = [f"step {r.name} {r.status}" for r in report if r.status.startswith("FAILED")]
    if failed:
        msg = f"{failed[0]}; look at its references, and at the DQ of what it was given"
        raise InputError(msg)


# Objects allocated before the collector of cycles looks at them.
_YOUNG_OBJECTS = 200_000


@contextlib.contextmanager
def _patient_collector() -> Iterator[None]:
    """Let Python look for cycles less often: the transforms of many slits are many objects.

    With the usual thresholds, which suit small programs, the search takes a fifth of the time.
    """
    before = gc.get_threshold()
    if before[0]:  # zero is off, and stays off
        gc.set_threshold(max(before[0], _YOUNG_OBJECTS), *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
        if before[0]:
            gc.collect(1)  # only what is new, so that nothing of this exposure waits for the next


def output_folder(path: str | os.PathLike[str]) -> Path:
    """Make a folder for output if it does not exist, and return it.

    Raises
    ------
    InputError
        If it cannot be made, or not be written to.
    """
    folder = user_path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        msg = f"output folder {folder} cannot be made ({error.strerror}); choose another"
        raise InputError(msg) from None
    if not os.access(folder, os.W_OK | os.X_OK):
        msg = f"output folder {folder} is not writable; choose another or change its permissions"
        raise InputError(msg)
    return folder


def _chunk_size(job: Job, asked: int | None) -> int | None:
    """Integrations per piece, or None to run the exposure in one piece."""
    ds = job.observation.science
    if not job.multi_integration or not hasattr(ds, "data_vars"):
        return None
    total = ds.sizes["integration"]
    pixels = ds.sizes["y"] * ds.sizes["x"]
    size = asked or max(1, CHUNK_BYTES // (4 * pixels * _PLANES_IN_WORK))
    whole = any(not s.skip and not s.works_in_pieces for s in steps_of(job.settings.pipeline))
    return None if whole or size >= total else size


def _run_pieces(
    job: Job,
    chunk: int | None,
    steps: tuple[str, ...],
    products: tuple[str, ...],
    progress: Callable[[str], Any] | None,
    *,
    strict: bool,
) -> Iterator[Result]:
    obs = job.observation
    plans: Mapping[str, Any] = {}
    total = 1 if chunk is None else obs.science.sizes["integration"]
    lean = chunk is None and not any(map(_keeps_members, steps_of(job.settings.pipeline)))
    for first in range(0, total, chunk or total):
        piece = obs.science
        if chunk is not None:
            piece = piece.isel(integration=slice(first, first + chunk))
        # a copy of an unread exposure reads for itself, and forgets what it read when it is gone
        members = {k: tuple(map(_unread, v)) for k, v in obs.members.items()}
        with contextlib.nullcontext() if chunk is None else blank_pieces():
            result = run(
                job.settings.pipeline,
                Observation(_computed(piece), members),
                job.references,
                params=job.settings,
                plans=plans,
                lean=lean,
                save_steps=steps,
                products=products,
                progress=progress,
                strict=strict,
            )
        plans = result.plans
        yield result
        del result, piece  # two pieces must not be in memory at once


def _computed(ds: Any) -> Any:
    return ds.compute() if hasattr(ds, "data_vars") else ds.map(_computed)


def _unread(ds: Any) -> Any:
    return ds.copy(deep=False) if hasattr(ds, "data_vars") else ds


def _keeps_members(step: Any) -> bool:
    return bool(step.defaults().get("save_flagged_bkg")) and not step.skip


def _labelled(job: Job, result: Result) -> dict[str, Any]:
    """The products and saved steps of a result, carrying the record of the run."""
    record = _record(job, result)
    extra = {
        "run": record,
        "warnings": tuple(record["warnings"]),
        "references": {k: _keyword_value(job.references, k) for k in job.references},
        "crds_context": record["crds_context"],
        "crds_version": record["versions"].get("crds", ""),
    }
    made = {**result.products, **result.saved, **_side_products(job, result)}
    return {kind: with_meta(ds, records=extra) for kind, ds in made.items()}


def _side_products(job: Job, result: Result) -> dict[str, Any]:
    """Images that steps were asked to save besides their output, by suffix."""
    records = meta_of(result.dataset).records
    images = {_SUFFIXES.get(k, k): v for k, v in records.items() if hasattr(v, "data_vars")}
    for step in steps_of(job.settings.pipeline):
        if _keeps_members(step):
            for i, ds in enumerate(result.members.get("background", ())):
                images[f"{step.name}_bkg_{i}"] = ds
    return images


def _keyword_value(references: Any, key: str) -> str:
    name = str(references.names[key])
    return name if name == "N/A" or key in references.overridden else f"crds://{name}"


def _paths(job: Job, kinds: Iterable[str], folder: Path, file_format: Format) -> dict[str, Path]:
    from spec2fn.io import product_name, product_name_of_cube

    ending = ".fits" if file_format == "fits" else ".nc"
    suffixes = {s.key: s.suffix for s in steps_of(job.settings.pipeline)}
    paths = {}
    for key in kinds:
        kind, _, cube = _cube_of(key)
        name = product_name(job.name, suffixes.get(kind, kind), job.multi_integration, ending)
        paths[key] = folder / (product_name_of_cube(name, cube) if cube else name)
    return paths


def _cube_of(key: str) -> tuple[str, str, str]:
    """Split ``s3d:ch1-short``, one of several cubes."""
    return key.partition(":")


def _apart(made: Mapping[str, Any]) -> dict[str, Any]:
    """Several cubes as so many products."""
    out: dict[str, Any] = {}
    for kind, ds in made.items():
        if hasattr(ds, "cubes"):
            out |= {f"{kind}:{name}": cube for name, cube in ds.items()}
        else:
            out[kind] = ds
    return out


def _together(made: Mapping[str, Any]) -> dict[str, Any]:
    """Invert :func:`_apart`."""
    from spec2fn.cubes import Cubes

    out: dict[str, Any] = {}
    for key, ds in made.items():
        kind, _, cube = _cube_of(key)
        if cube:
            held = out.get(kind, Cubes((), ()))
            out[kind] = Cubes((*held.names, cube), (*held.cubes, ds))
        else:
            out[key] = ds
    return out


def _write(job: Job, made: Mapping[str, Any], folder: Path, file_format: Format) -> dict[str, Path]:
    from spec2fn.io import save

    single = _apart(made)
    paths = _paths(job, single, folder, file_format)
    spare_inputs(paths.values(), job.inputs)
    for kind, path in paths.items():
        save(single[kind], path)
    return paths


def _stream(
    job: Job, pieces: Iterator[Result], folder: Path | None, file_format: Format
) -> tuple[dict[str, Any], dict[str, Path], Result]:
    """Write the products piece by piece; without a folder, keep the pieces and join them."""
    from spec2fn.io import ProductStream, open_product, save

    total = job.observation.science.sizes["integration"]
    kept: dict[str, list[Any]] = {}
    with contextlib.ExitStack() as stack:
        streams: dict[str, Any] = {}
        whole: dict[str, Any] = {}  # the same for every piece
        paths: dict[str, Path] = {}
        all_pieces = None
        for result in pieces:
            made = _apart(_labelled(job, result))
            all_pieces = _merged(all_pieces, _without_data(result))
            del result
            if folder is None or file_format != "fits":
                for kind, ds in made.items():
                    kept.setdefault(kind, []).append(ds)
                continue
            if not paths:
                paths = _paths(job, made, folder, file_format)
                spare_inputs(paths.values(), job.inputs)
                for kind, path in paths.items():
                    if "integration" not in made[kind].dims:
                        whole[kind] = made[kind]
                        continue
                    stream = ProductStream(path, made[kind], total)
                    streams[kind] = stack.enter_context(stream)
            for kind, stream in streams.items():
                stream.append(made.pop(kind))
        assert all_pieces is not None
        # the record tells of all pieces
        record = {"run": _record(job, all_pieces)}
        for stream in streams.values():
            stream.close(record["run"])
        for kind, ds in whole.items():
            save(with_meta(ds, records=record), paths[kind])
    if kept:
        joined = {kind: with_meta(_join(parts), records=record) for kind, parts in kept.items()}
        together = _together(joined)
        paths = {} if folder is None else _write(job, together, folder, file_format)
        return together, paths, all_pieces
    made = {kind: open_product(path) for kind, path in paths.items()}
    return _together(made), paths, all_pieces


def _without_data(result: Result) -> Result:
    return replace(
        result, dataset=None, products=dict.fromkeys(result.products), saved={}, members={}
    )


def _join(parts: list[Any]) -> Any:
    import xarray as xr

    if "integration" not in parts[0].dims:
        return parts[0]
    if hasattr(parts[0], "buckets"):
        buckets = zip(*(p.buckets for p in parts), strict=True)
        return type(parts[0])(tuple(_join(list(b)).transpose("slit", ...) for b in buckets))
    joined = xr.concat(
        parts,
        dim="integration",
        data_vars="minimal",
        coords="minimal",
        compat="override",
        join="exact",
        combine_attrs="override",
    )
    return joined.transpose("integration", ...)


def _merged(before: Result | None, result: Result) -> Result:
    """What several pieces of an exposure have to tell, as one."""
    if before is None:
        return result
    report, told = [], [*before.warnings, *result.warnings]
    for a, b in zip(before.report, result.report, strict=True):
        if a.status != b.status:
            told.append(f"{a.name}: {a.status} for some integrations, {b.status} for others")
        problems = {**a.problems, **b.problems}
        report.append(replace(a, seconds=a.seconds + b.seconds, problems=problems))
    return replace(result, report=tuple(report), warnings=_once(told))


def _record(job: Job, result: Result) -> dict[str, Any]:
    """The run as stored in every product: no times, so that equal input gives equal bytes."""
    import spec2fn

    refs = job.references
    references = {r: {"name": refs.names[r], "sha256": refs.sha256(r)} for r in refs}
    going_on: dict[str, Any] = {}
    if job.start:
        earlier = meta_of(job.observation.science).records.get("run")
        going_on = {"start": job.start, "earlier": earlier}
    return {
        "software": f"spec2fn {spec2fn.__version__}",
        "mode": job.mode,
        "input": job.observation.science.attrs["meta"].filename,
        "members": {
            role: [ds.attrs["meta"].filename for ds in members]
            for role, members in job.observation.members.items()
        },
        "crds_context": refs.context,
        "steps": [_step_record(r) for r in result.report],
        "ignored_parameters": list(job.settings.ignored),
        "references": references,
        "versions": _versions(),
        "warnings": list(_once(job.warnings, result.warnings)),
        **going_on,
    }


def _step_record(record: StepRecord) -> dict[str, Any]:
    problems = {"problems": dict(record.problems)} if record.problems else {}
    return {
        "step": record.name,
        "status": record.status,
        "parameters": {
            name: {"value": _plain(value), "origin": origin}
            for name, (value, origin) in record.parameters.items()
        },
        **problems,
    }


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, Step):
        return value.name
    return f"<{type(value).__name__}>"


def _versions() -> dict[str, str]:
    from importlib import metadata

    names = ("astropy", "crds", "gwcs", "jax", "numpy", "scipy", "stdatamodels", "xarray")
    return {name: metadata.version(name) for name in names}


def _report(job: Job, result: Result, files: Mapping[str, Path], seconds: float) -> dict[str, Any]:
    import resource

    record = _record(job, result)
    for entry, step in zip(record["steps"], result.report, strict=True):
        entry["seconds"] = round(step.seconds, 4)
    return {
        **record,
        "products": {kind: str(path) for kind, path in files.items()},
        "seconds": round(seconds, 3),
        "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
    }

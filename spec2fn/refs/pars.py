"""Parameters from files: CRDS references with what the mission recommends, and the user's own.

A file of type ``pars-<step>step`` holds parameters of one step, ``pars-spec2pipeline`` those of
the pipeline and, under ``steps``, of its steps; for a parameter that both set, the pipeline's wins
(https://jwst-pipeline.readthedocs.io, "Parameter Reference Files"). The official pipeline writes
files of the same format (``export_config``).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spec2fn.errors import ParameterError, ReferenceError, nearest
from spec2fn.official import FOREIGN, OPTIONS, OVERRULED, step_named
from spec2fn.parameters import user_path

if TYPE_CHECKING:
    import xarray as xr

__all__ = [
    "PARS_TYPES",
    "ParameterFile",
    "ParameterReferences",
    "parameter_files",
    "parameter_references",
]

PIPELINE_TYPE = "pars-spec2pipeline"

_STEPS = (
    "adaptive_trace_model", "assign_wcs", "background", "badpix_selfcal", "barshadow", "cube_build",
    "extract_1d", "extract_2d", "flat_field", "fringe", "imprint", "msaflagopen", "pathloss",
    "photom", "pixel_replace", "resample_spec", "residual_fringe", "straylight", "targ_centroid",
    "wavecorr", "wfss_contam",
)  # fmt: skip
PARS_TYPES: Mapping[str, str] = {
    **{step: f"pars-{step.replace('_', '')}step" for step in _STEPS},
    "master_background": "pars-masterbackgroundmosstep",
    "nsclean": "pars-cleanflickernoisestep",
    "srctype": "pars-sourcetypestep",
}
"""CRDS type of the parameter reference of each step."""


@dataclass(frozen=True, eq=False)
class ParameterReferences(Mapping[str, Any]):
    """Parameters by step, and under ``"pipeline"`` those of ``pars-spec2pipeline`` by step.

    Attributes
    ----------
    entries : mapping
        The parameters; ``skip`` and ``save_results`` count as parameters.
    options : mapping
        Parameters of the pipeline itself (``save_bsub``, …).
    files : mapping of str to str
        Names of the files that were applied, by type.
    ignored : tuple of str
        Entries that would steer the machinery of the peer and mean nothing here.
    context : str
        CRDS context.
    """

    entries: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    context: str = ""

    def __getitem__(self, name: str) -> Mapping[str, Any]:
        return self.entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)


def parameter_references(
    ds: xr.Dataset,
    step_names: Iterable[str],
    *,
    context: str | None = None,
    also: Iterable[str] = (),
) -> ParameterReferences:
    """Return the parameters that CRDS recommends for an exposure.

    Parameters
    ----------
    ds : xarray.Dataset
        The exposure.
    step_names : iterable of str
        Names of the steps of the pipeline, ours or the peer's.
    context : str, optional
        CRDS context; default ``CRDS_CONTEXT``, then the server's, then the cache's.
    also : iterable of str
        Further reference types that will be needed: if any file at all is missing, one error
        lists the missing ones of these types too.

    Raises
    ------
    spec2fn.refs.MissingReferencesError
        If parameter references apply that are not in the cache and cannot be fetched.
    spec2fn.errors.InputError
        For an unknown context.
    spec2fn.errors.ReferenceError
        If a file cannot be read or holds no parameters.
    """
    from spec2fn.refs import selection
    from spec2fn.refs.reference import open_reference

    types = {step: kind for step in step_names if (kind := pars_type(step))}
    used = selection.resolve_context(context)
    header = selection.header_of(ds)
    names = selection.select(header, (PIPELINE_TYPE, *dict.fromkeys(types.values())), used)
    if selection.missing_files(names):
        wider = tuple(r for r in also if r not in names)
        names = {**selection.select(header, wider, used), **names}
    paths = selection.fetch({k: v for k, v in names.items() if v}, used)
    read = {
        kind: _parameters(open_reference(path, kind).attrs.get("tree", {}), path.name)
        for kind, path in paths.items()
        if path is not None and kind.startswith("pars-")
    }
    ignored: list[str] = []
    entries: dict[str, Any] = {
        step: _sorted_out(read[kind], step, ignored) for step, kind in types.items() if kind in read
    }
    whole = read.get(PIPELINE_TYPE, {})
    steps = whole.get("steps") or {}
    if steps:
        entries["pipeline"] = {
            step: _sorted_out(values, step, ignored) for step, values in _listed(steps).items()
        }
    plain = {k: v for k, v in whole.items() if k != "steps"}
    options = _sorted_out(plain, "pipeline", ignored)
    files = {kind: str(names[kind]) for kind in read}
    return ParameterReferences(entries, options, files, tuple(ignored), used)


def pars_type(step: str) -> str | None:
    """CRDS type of the parameter reference of a step (by our name or the peer's), or None."""
    return PARS_TYPES.get(step) or PARS_TYPES.get(step_named(step))


@dataclass(frozen=True)
class ParameterFile:
    """Parameters of the user's, as they stand in files.

    Attributes
    ----------
    steps : mapping of str to mapping
        Parameters by step.
    options : mapping
        Parameters of the pipeline itself (:data:`spec2fn.official.OPTIONS`).
    notes : tuple of str
        What there is to say of entries that are passed over.
    paths : tuple of Path
        The files.
    """

    steps: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    paths: tuple[Path, ...] = ()


def parameter_files(paths: Iterable[str | os.PathLike[str]]) -> ParameterFile:
    """Read parameter files, as the official pipeline writes them; the last word counts.

    Parameters
    ----------
    paths : iterable of path
        ASDF files of ``calwebb_spec2`` or of one of its steps (``export_config``, or from CRDS).

    Raises
    ------
    ReferenceError
        If a file holds no parameters.
    ParameterError
        If it does not exist or cannot be read, is for another pipeline, or sets a parameter that
        nobody knows.
    """
    steps: dict[str, dict[str, Any]] = {}
    options: dict[str, Any] = {}
    notes: list[str] = []
    where = tuple(user_path(p) for p in paths)
    for path in where:
        if path.suffix.lower() == ".cfg":
            msg = f"{path}: is a file of the old format .cfg; export it as ASDF (export_config)"
            raise ParameterError(msg)
        tree = _tree(path)
        values, kind = _parameters(tree, path.name), _class_of(tree, path.name)
        listed = {kind: values} if kind else _listed(values.get("steps") or {})
        for label, own in listed.items():
            step = step_named(label) or label
            machinery = ("class", "name", "steps")
            taken = (k for k in own if k not in machinery and f"{step}.{k}" not in OVERRULED)
            steps.setdefault(step, {}).update({k: own[k] for k in taken})
        for name, value in {} if kind else values.items():
            rule = FOREIGN.get(name)
            if name in OPTIONS:
                options[name] = value
            elif rule is not None:
                notes += filter(None, [rule.note(f"{path.name}: {name}", value)])
            elif name not in ("class", "name", "steps", "skip", "save_results"):
                msg = (
                    f"{path}: the pipeline has no parameter {name!r}{nearest(name, OPTIONS)}"
                    f" (its parameters: {', '.join(OPTIONS)})"
                )
                raise ParameterError(msg)
    return ParameterFile(steps, options, tuple(notes), where)


def _tree(path: Path) -> Mapping[str, Any]:
    from asdf.util import load_yaml

    try:
        tree = load_yaml(path)
    except Exception as error:  # whatever a file that is none makes the reader stumble on
        reason = " ".join(str(error).split()) or type(error).__name__
        msg = f"{path}: cannot be read as a parameter file ({reason[:200]}); give an ASDF file"
        raise ParameterError(msg) from error
    return tree if isinstance(tree, Mapping) else {}


def _class_of(tree: Mapping[str, Any], filename: str) -> str:
    """The step that a file is of; "" if it is of the pipeline.

    Raises
    ------
    ParameterError
        If it is of another pipeline, or does not say.
    """
    parameters, meta = tree["parameters"], tree.get("meta") or {}
    said = [tree.get("class"), parameters.get("class"), meta.get("reftype")]
    said += [tree.get("name"), parameters.get("name")]
    for text in (str(s).rpartition(".")[2].lower().removeprefix("pars-") for s in said if s):
        if text in ("spec2pipeline", "calwebb_spec2", "calwebb_tso-spec2"):
            return ""
        for step, kind in PARS_TYPES.items():
            if text == kind.removeprefix("pars-"):
                return step
        if step_named(text):
            return step_named(text)
    found = next((str(s) for s in said if s), "nothing")
    msg = f"{filename}: needs parameters of calwebb_spec2 or of one of its steps, found {found!r}"
    raise ParameterError(msg)


def _listed(
    steps: Mapping[str, Any] | Iterable[Mapping[str, Any]],
) -> Mapping[str, Mapping[str, Any]]:
    # written as a mapping, or as a list of entries that name their step
    if isinstance(steps, Mapping):
        return {str(k): v for k, v in steps.items() if isinstance(v, Mapping)}
    out = {}
    for entry in steps:
        values = entry.get("parameters", entry)
        out[str(entry.get("name") or values.get("name"))] = values
    return out


def _parameters(tree: Mapping[str, Any], filename: str) -> Mapping[str, Any]:
    values = tree.get("parameters")
    if not isinstance(values, Mapping):
        msg = f"{filename}: a parameter reference needs an entry 'parameters'; it has none"
        raise ReferenceError(msg)
    # stpipe's own format keeps the steps of a pipeline beside its parameters
    return {**values, **({"steps": tree["steps"]} if tree.get("steps") else {})}


def _sorted_out(values: Mapping[str, Any], step: str, ignored: list[str]) -> dict[str, Any]:
    out = {}
    for name, value in values.items():
        if name in ("class", "name"):
            continue
        if name in FOREIGN:
            if FOREIGN[name].asks(value):
                ignored.append(f"{step}.{name}")
        elif name not in ("save_results", "skip") or value is not None:
            out[name] = value
    return out

"""Products: what they are called, what they record, and how they are written."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from spec2fn.calibration.job import Job
from spec2fn.calibration.pieces import grown_together, joined, keeps_members, merged
from spec2fn.calibration.record import run_record
from spec2fn.cubes import Cubes
from spec2fn.engine.pipeline import steps_of
from spec2fn.engine.run import Result
from spec2fn.errors import InputError
from spec2fn.parameters import user_path
from spec2fn.pieces import Exposure, Pieces, pieces_of
from spec2fn.schema import has_value, meta_of, status_of, with_meta

if TYPE_CHECKING:
    from spec2fn.refs import References

__all__ = [
    "Format",
    "labelled",
    "need_values",
    "output_folder",
    "product_paths",
    "spare_inputs",
    "write",
    "write_pieces",
]

Format = Literal["fits", "netcdf"]

# Suffixes of images that steps leave in the records, where they differ from the name.
_SUFFIXES = {
    "combined_background": "combinedbackground",
    "nsclean_mask": "mask",
    "nsclean_background": "flicker_bkg",
    "nsclean_noise": "flicker_noise",
}


# Parameters that name side products: the suffixes of these.
_NAMED_BY = {
    "soss_modelname": ("SossExtractModel", "AtocaSpectra"),
    "soss_wave_grid_out": ("grid",),
}
_NAMED_IN_FULL = ("grid",)


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


def spare_inputs(paths: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Raise :class:`InputError` if a file to be written would take the place of one of `inputs`.

    Links count as the file they lead to.
    """
    existing = [p for p in inputs if p.exists()]
    for path in paths:
        for one in existing if path.exists() else ():
            if path.samefile(one):
                same = "" if path == one else f" ({one})"
                msg = f"{path}: is an input of this run{same}; write to another folder or name"
                raise InputError(msg)


def need_values(result: Result) -> None:
    """Raise if a step has left no value at all."""
    first = next(iter(result.products.values()), None)
    parts = pieces_of(first)
    if first is None or any("sci" not in p or has_value(p["sci"].values) for p in parts):
        return
    failed = [f"step {r.name} {r.status}" for r in result.report if r.status.startswith("FAILED")]
    if failed:
        msg = f"{failed[0]}; look at its references, and at the DQ of what it was given"
        raise InputError(msg)


def labelled(job: Job, result: Result) -> dict[str, Any]:
    """Return the products and saved steps of a result, carrying the record of the run."""
    record = run_record(job, result)
    extra = {
        "run": record,
        "warnings": tuple(record["warnings"]),
        "crds_context": record["crds_context"],
        "crds_version": record["versions"].get("crds", ""),
    }
    outputs = {**result.products, **result.saved, **_side_products(job, result)}
    return {
        kind: with_meta(ds, records={**extra, "references": _references_of(job, ds)})
        for kind, ds in outputs.items()
    }


def _references_of(job: Job, ds: Exposure) -> dict[str, str]:
    """References by type, as a product says: those of steps that are yet to come are left out."""
    names = {k: _keyword_value(job.references, k) for k in job.references}
    # what was given for one step stands for the type where nothing else does
    given = {k.rpartition(":")[2]: names[k] for k in job.settings.overrides if k in names}
    steps = list(steps_of(job.settings.pipeline))
    done, later = (
        {k for s in steps if bool(status_of(ds, s.name)) == seen for k in s.reference_keys}
        for seen in (True, False)
    )
    return {k: v for k, v in {**given, **names}.items() if k not in later - done}


def _side_products(job: Job, result: Result) -> dict[str, Any]:
    """Images that steps were asked to save besides their output, by suffix."""
    from xarray import Dataset

    records = meta_of(result.dataset).records
    kept = {k: v for k, v in records.items() if isinstance(v, (Dataset, Pieces))}
    images: dict[str, Any] = {_SUFFIXES.get(k, k): v for k, v in kept.items()}
    for step in steps_of(job.settings.pipeline):
        if keeps_members(step):
            for i, ds in enumerate(result.members.get("background", ())):
                images[f"{step.name}_bkg_{i}"] = ds
    return images


def _keyword_value(references: References, key: str) -> str:
    name = str(references.names[key])
    return name if name == "N/A" or key in references.overridden else f"crds://{name}"


def _named(job: Job) -> dict[str, str]:
    """Base names that parameters give to products besides, by suffix."""
    return {
        suffix: str(name)
        for step in steps_of(job.settings.pipeline)
        for parameter, suffixes in _NAMED_BY.items()
        if (name := step.defaults().get(parameter))
        for suffix in suffixes
    }


def product_paths(
    job: Job, kinds: Iterable[str], folder: Path, file_format: Format
) -> dict[str, Path]:
    """Return the file of each product by its kind, and saved step by its key."""
    from spec2fn.io import product_name, product_name_of_cube

    ending = ".fits" if file_format == "fits" else ".nc"
    suffixes = {s.key: s.suffix for s in steps_of(job.settings.pipeline)}
    named = _named(job)
    paths = {}
    for key in kinds:
        if key in named:
            suffix = "" if key in _NAMED_IN_FULL else f"_{key}"
            paths[key] = folder / f"{named[key].removesuffix('.fits')}{suffix}{ending}"
            continue
        kind, _, cube = key.partition(":")
        name = product_name(job.name, suffixes.get(kind, kind), job.multi_integration, ending)
        paths[key] = folder / (product_name_of_cube(name, cube) if cube else name)
    return paths


def _by_cube(outputs: Mapping[str, Any]) -> dict[str, Any]:
    """Several cubes as so many products: ``s3d:ch1-short``."""
    out: dict[str, Any] = {}
    for kind, ds in outputs.items():
        if isinstance(ds, Cubes):
            out |= {f"{kind}:{name}": cube for name, cube in ds.items()}
        else:
            out[kind] = ds
    return out


def _collected(outputs: Mapping[str, Any]) -> dict[str, Any]:
    """Invert :func:`_by_cube`."""
    out: dict[str, Any] = {}
    for key, ds in outputs.items():
        kind, _, cube = key.partition(":")
        if cube:
            before = out.get(kind, Cubes((), ()))
            out[kind] = Cubes((*before.names, cube), (*before.cubes, ds))
        else:
            out[key] = ds
    return out


def write(
    job: Job, outputs: Mapping[str, Any], folder: Path, file_format: Format
) -> dict[str, Path]:
    """Write products, and return their files."""
    from spec2fn.io import save

    single = _by_cube(outputs)
    paths = product_paths(job, single, folder, file_format)
    spare_inputs(paths.values(), job.inputs)
    for kind, path in paths.items():
        save(single[kind], path)
    return paths


def write_pieces(
    job: Job, pieces: Iterator[Result], folder: Path | None, file_format: Format
) -> tuple[dict[str, Any], dict[str, Path], Result]:
    """Write the products piece by piece; without a folder, keep the pieces and join them.

    Returns
    -------
    products : mapping of str to xarray.Dataset
    files : mapping of str to Path
    result : Result
        What all pieces have to tell, without data.
    """
    if folder is not None and file_format == "fits":
        return _streamed(job, pieces, folder)
    kept: dict[str, list[Any]] = {}
    whole = None
    for result in pieces:
        for kind, ds in _by_cube(labelled(job, result)).items():
            kept.setdefault(kind, []).append(ds)
        whole = merged(whole, result)
        del result
    assert whole is not None
    record = {"run": run_record(job, whole)}
    outputs = {kind: with_meta(joined(parts), records=record) for kind, parts in kept.items()}
    outputs = _collected(outputs)
    return outputs, {} if folder is None else write(job, outputs, folder, file_format), whole


def _streamed(
    job: Job, pieces: Iterator[Result], folder: Path
) -> tuple[dict[str, Any], dict[str, Path], Result]:
    from spec2fn.io import ProductStream, open_product, save

    total = job.observation.science.sizes["integration"]
    whole = None
    with contextlib.ExitStack() as stack:
        streams: dict[str, ProductStream] = {}
        same: dict[str, Any] = {}  # for every piece
        grown: dict[str, list[Any]] = {}
        paths: dict[str, Path] = {}
        for result in pieces:
            outputs = _by_cube(labelled(job, result))
            whole = merged(whole, result)
            del result
            if not paths:
                paths = product_paths(job, outputs, folder, "fits")
                spare_inputs(paths.values(), job.inputs)
                for kind, path in paths.items():
                    if "integration" not in outputs[kind].dims:
                        same[kind] = outputs[kind]
                        continue
                    stream = ProductStream(path, outputs[kind], total)
                    streams[kind] = stack.enter_context(stream)
            for kind, stream in streams.items():
                stream.append(outputs.pop(kind))
            for kind in same:
                if "grows_along" in outputs[kind].attrs:
                    grown.setdefault(kind, []).append(outputs[kind])
        assert whole is not None
        record = run_record(job, whole)  # tells of all pieces
        for stream in streams.values():
            stream.close(record)
        for kind, ds in (same | {k: grown_together(v) for k, v in grown.items()}).items():
            save(with_meta(ds, records={"run": record}), paths[kind])
    opened = {k: open_product(path) for k, path in paths.items() if k not in _named(job)}
    return _collected(opened), paths, whole

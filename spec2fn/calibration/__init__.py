"""From files to files: open, select references, run the pipeline, write the products.

This is the outer shell; everything it does can be done by hand with :mod:`spec2fn.io`,
:mod:`spec2fn.refs` and :func:`spec2fn.run`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spec2fn.calibration.job import Job, Source, prepare
from spec2fn.calibration.pieces import (
    Backend,
    chosen_backend,
    chunk_size,
    patient_collector,
    run_pieces,
)
from spec2fn.calibration.products import (
    Format,
    labelled,
    need_values,
    output_folder,
    product_paths,
    spare_inputs,
    write,
    write_pieces,
)
from spec2fn.calibration.record import report
from spec2fn.engine.pipeline import Pipeline, find_steps

if TYPE_CHECKING:
    from spec2fn.refs import Lock

__all__ = ["Calibration", "Job", "calibrate", "output_folder", "prepare", "spare_inputs"]


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


def calibrate(
    source: Source,
    output_dir: str | os.PathLike[str] | None = None,
    *,
    start: str | None = None,
    pipeline: Pipeline | None = None,
    params: Mapping[str, Mapping[str, Any]] | None = None,
    skip: Iterable[str] = (),
    overrides: Mapping[str, Any] | None = None,
    context: str | None = None,
    lock: str | os.PathLike[str] | Lock | None = None,
    parameter_references: bool = True,
    parameter_files: Iterable[str | os.PathLike[str]] = (),
    compatibility: str | None = None,
    save_steps: Iterable[str] = (),
    save_bsub: bool = False,
    save_wfss_esec: bool = False,
    file_format: Format = "fits",
    chunk_integrations: int | None = None,
    progress: Callable[[str], Any] | None = None,
    strict: bool = False,
    backend: Backend = "numpy",
) -> Calibration:
    """Calibrate an exposure and write its products.

    Parameters
    ----------
    source : path, mapping, Dataset or Observation
        A ``_rate``/``_rateints`` FITS file, a level-2 association, or data in memory; with
        `start` also a product.
    output_dir : path, optional
        Where products go (made if it does not exist); without it nothing is written.
    start, pipeline, params, overrides, context, lock
        See :func:`prepare`.
    parameter_references, parameter_files, compatibility
        See :func:`prepare`.
    skip : iterable of str
        Steps to switch off.
    save_steps : iterable of str
        Steps whose own output is saved too.
    save_bsub : bool
        Save the background-subtracted exposure.
    save_wfss_esec : bool
        Save a slitless exposure in electrons per second.
    file_format : {"fits", "netcdf"}
    chunk_integrations : int, optional
        Integrations in work at once; default: as many as fit a fixed amount of memory. The
        result does not depend on it.
    progress : callable, optional
        Called with the name of each step before it runs.
    strict : bool
        Raise if a step fails on a slit; see :func:`spec2fn.run`.
    backend : {"numpy", "jax", "auto"}
        What computes the pixels. "jax" plans in NumPy and computes all products by the compiled
        pipeline (:func:`spec2fn.compile`); they are the same up to the rounding of sums. "auto"
        does so where it is faster: for long time series, and on an accelerator.

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
    wanted: dict[str, Any] = {
        k: dict(v) if isinstance(v, Mapping) else v for k, v in (params or {}).items()
    }
    for name in skip:
        wanted.setdefault(name, {})["skip"] = True
    if save_wfss_esec:
        wanted.setdefault("electron_rate", {}).setdefault("skip", False)
    job = prepare(
        source,
        start=start,
        pipeline=pipeline,
        params=wanted,
        overrides=overrides,
        context=context,
        lock=lock,
        parameter_references=parameter_references,
        parameter_files=parameter_files,
        compatibility=compatibility,
    )
    steps = tuple(s.key for name in save_steps for s in find_steps(job.settings.pipeline, name))
    products = ("bsub",) if save_bsub or job.options.get("save_bsub") else ()
    folder = None if output_dir is None else output_folder(output_dir)
    if folder is not None:
        foreseen = (*job.plan(products).products, *steps)
        spare_inputs(product_paths(job, foreseen, folder, file_format).values(), job.inputs)
    chunk = chunk_size(job, chunk_integrations)
    backend = chosen_backend(job, backend)
    pieces = run_pieces(job, chunk, steps, products, progress, strict=strict, backend=backend)
    with light_asdf(), patient_collector():
        if chunk is None:
            result = next(pieces)
            need_values(result)
            outputs = labelled(job, result)
            files = {} if folder is None else write(job, outputs, folder, file_format)
        else:
            outputs, files, result = write_pieces(job, pieces, folder, file_format)
    told = report(job, result, files, time.perf_counter() - begun, backend)
    kinds = {k: v for k, v in outputs.items() if k in result.products}
    return Calibration(kinds, files, told, {k: v for k, v in outputs.items() if k not in kinds})

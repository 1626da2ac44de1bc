"""Exposures of many integrations are run in pieces that fit a fixed amount of memory."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from spec2fn.calibration.job import Job
from spec2fn.engine.outcome import blank_pieces
from spec2fn.engine.pipeline import Observation, steps_of
from spec2fn.engine.run import Result, run
from spec2fn.engine.step import Step
from spec2fn.errors import ParameterError
from spec2fn.modes import mode_of
from spec2fn.pieces import Exposure, Pieces, pieces_of
from spec2fn.slits import Slits

if TYPE_CHECKING:
    import xarray as xr


Backend: TypeAlias = Literal["numpy", "jax", "auto"]
"""What computes the pixels."""

__all__ = [
    "Backend",
    "chosen_backend",
    "chunk_size",
    "grown_together",
    "joined",
    "keeps_members",
    "merged",
    "patient_collector",
    "run_pieces",
]

# Bytes of pixels that may be in work at once; exposures of many integrations are cut to fit.
CHUNK_BYTES = 64 * 2**20
_PLANES_IN_WORK = 20

# Integrations from which plans are made that depend on all of them: with more, means and medians
# of a background or a spectrum do not become better by much.
_SURVEYED = 8
_LEAST = 8  # of a piece of such an exposure


def chunk_size(job: Job, asked: int | None) -> int | None:
    """Return the integrations per piece, or None to run the exposure in one piece."""
    ds = job.observation.science
    if not job.multi_integration or isinstance(ds, Pieces):
        return None
    total = ds.sizes["integration"]
    pixels = ds.sizes["y"] * ds.sizes["x"]
    size = asked or max(1, CHUNK_BYTES // (4 * pixels * _PLANES_IN_WORK))
    if mode_of(ds).surveyed and not asked:
        size = total if total <= _SURVEYED else max(_LEAST, size)
    whole = any(not s.skip and not s.works_in_pieces for s in steps_of(job.settings.pipeline))
    return None if whole or size >= total else size


# Pixels of an exposure from which on the compiled pipeline is faster, its compilation included:
# as fast with 3e7, by an eighth of the time with 9e7; see docs/performance.md.
_AUTO_PIXELS = 9e7


def chosen_backend(job: Job, backend: Backend) -> Backend:
    """Return what is to compute the pixels of a job: ``numpy`` or ``jax``.

    ``auto`` takes JAX where it was measured to be faster: for long time series, and on an
    accelerator.

    Raises
    ------
    ParameterError
        For another backend.
    """
    if backend not in ("numpy", "jax", "auto"):
        raise ParameterError(f"backend: needs numpy, jax or auto, got {backend!r}")
    if backend != "auto":
        return backend
    pieces = pieces_of(job.observation.science)
    if job.multi_integration and sum(p["sci"].size for p in pieces) >= _AUTO_PIXELS:
        return "jax"
    import jax

    return "numpy" if jax.default_backend() == "cpu" else "jax"


def run_pieces(
    job: Job,
    chunk: int | None,
    steps: tuple[str, ...],
    products: tuple[str, ...],
    progress: Callable[[str], Any] | None,
    *,
    strict: bool,
    backend: Backend = "numpy",
) -> Iterator[Result]:
    """Run a job, on `chunk` integrations after the other (None: all at once); yield the results.

    With the backend ``jax`` the first piece is run in NumPy, which makes the plans, and all of
    them by the compiled pipeline.
    """
    obs = job.observation
    plans: Mapping[str, Any] = {}
    total = 1 if chunk is None else obs.science.sizes["integration"]
    lean = chunk is None and not any(map(keeps_members, steps_of(job.settings.pipeline)))
    lean = lean and backend == "numpy"

    def fresh_members() -> dict[str, Any]:
        # a copy of an unread exposure reads for itself, and forgets what it read when it is gone
        return {k: tuple(ds.copy(deep=False) for ds in v) for k, v in obs.members.items()}

    def run_on(piece: Exposure, **how: Any) -> Result:  # noqa: ANN401 - whatever a run takes
        with contextlib.nullcontext() if chunk is None else blank_pieces():
            return run(
                job.settings.pipeline,
                Observation(_computed(piece), fresh_members()),
                job.references,
                params=job.settings,
                plans=plans,
                lean=lean,
                progress=progress,
                strict=strict,
                **how,
            )

    if chunk is not None and mode_of(obs.science).surveyed:
        chosen = np.linspace(0, total - 1, min(total, _SURVEYED)).round().astype(int)
        # each by itself: all that lie between would be read as well
        alone = [_computed(obs.science.isel(integration=slice(k, k + 1))) for k in chosen]
        plans = run_on(joined(alone)).plans
        del alone
    for first in range(0, total, chunk or total):
        piece = obs.science
        if chunk is not None:
            piece = piece.isel(integration=slice(first, first + chunk))
        result = run_on(piece, save_steps=steps, products=products)
        plans = result.plans
        if backend == "jax":
            planned_for = Observation(_computed(piece), fresh_members())
            del piece
            yield from _compiled_pieces(job, planned_for, result, chunk, total)
            return
        yield result
        del result, piece  # two pieces must not be in memory at once


def _compiled_pieces(
    job: Job, obs: Observation, result: Result, chunk: int | None, total: int
) -> Iterator[Result]:
    """Run a job by the compiled pipeline, which its `result` for the first piece has planned."""
    from spec2fn.compiled.outputs import on_host
    from spec2fn.compiled.pipeline import Compiled
    from spec2fn.compiled.source import in_memory

    obs, references = in_memory(obs, job.references)
    kinds = (*result.products, *result.saved)
    compiled = Compiled.of(obs, job.settings, references, kinds, result)
    for first in range(0, total, chunk or total):
        piece, size = None, total
        if chunk is not None:
            # the last piece is filled up, so that it needs no program of its own
            index = np.minimum(np.arange(first, first + chunk), total - 1)
            size = min(chunk, total - first)
            piece = _computed(job.observation.science.isel(integration=index))
        made = {k: on_host(p) for k, p in compiled.products(science=piece).items()}
        if chunk is not None and size < chunk:
            made = {kind: _first(product, size) for kind, product in made.items()}
        products, saved = ({k: made[k] for k in held} for held in (result.products, result.saved))
        yield replace(result, products=products, saved=saved)


def _first(product: Exposure, size: int) -> Exposure:
    if isinstance(product, Pieces):
        return product.map(lambda ds: ds.isel(integration=slice(size)))
    return product.isel(integration=slice(size)) if "integration" in product.dims else product


def _computed(exposure: Exposure) -> Exposure:
    if isinstance(exposure, Pieces):
        return exposure.map(lambda ds: ds.compute())
    return exposure.compute()


def keeps_members(step: Step) -> bool:
    """Whether associated exposures are products of the run, and may not be forgotten."""
    return bool(step.defaults().get("save_flagged_bkg")) and not step.skip


def merged(before: Result | None, result: Result) -> Result:
    """Return what several pieces of an exposure have to tell, without their data."""
    result = replace(
        result, dataset=None, products=dict.fromkeys(result.products), saved={}, members={}
    )
    if before is None:
        return result
    report, told = [], [*before.warnings, *result.warnings]
    for a, b in zip(before.report, result.report, strict=True):
        if a.status != b.status:
            told.append(f"{a.name}: {a.status} for some integrations, {b.status} for others")
        problems = {**a.problems, **b.problems}
        report.append(replace(a, seconds=a.seconds + b.seconds, problems=problems))
    return replace(result, report=tuple(report), warnings=tuple(dict.fromkeys(told)))


def joined(parts: Sequence[Any]) -> Exposure:
    """Join the pieces of one product along ``integration``, if they have any."""
    if isinstance(parts[0], Slits):
        buckets = zip(*(p.buckets for p in parts), strict=True)
        return Slits(tuple(_concatenated(b).transpose("slit", ...) for b in buckets))
    return _concatenated(parts)


def _concatenated(parts: Sequence[xr.Dataset]) -> xr.Dataset:
    if "integration" not in parts[0].dims:
        return grown_together(parts) if "grows_along" in parts[0].attrs else parts[0]
    return _along(parts, "integration").transpose("integration", ...)


def grown_together(parts: Sequence[xr.Dataset]) -> xr.Dataset:
    """Join products along the dimension that their attribute ``grows_along`` names."""
    return _along(parts, str(parts[0].attrs["grows_along"]))


def _along(parts: Sequence[xr.Dataset], dim: str) -> xr.Dataset:
    import xarray as xr

    return xr.concat(
        parts,
        dim=dim,
        data_vars="minimal",
        coords="minimal",
        compat="override",
        join="exact",
        combine_attrs="override",
    )


# Objects allocated before the collector of cycles looks at them.
_YOUNG_OBJECTS = 200_000


@contextlib.contextmanager
def patient_collector() -> Iterator[None]:
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

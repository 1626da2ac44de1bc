"""What a run was: as every product records it, and as its report tells."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spec2fn.calibration.job import Job
from spec2fn.engine.run import Result, StepRecord
from spec2fn.engine.step import Step
from spec2fn.schema import meta_of

__all__ = ["report", "run_record"]


def run_record(job: Job, result: Result) -> dict[str, Any]:
    """Return the run as products store it: no times, so that equal input gives equal bytes."""
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
        "warnings": list(dict.fromkeys((*job.warnings, *result.warnings))),
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


def _plain(value: object) -> object:
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


def report(
    job: Job, result: Result, files: Mapping[str, Path], seconds: float, backend: str = "numpy"
) -> dict[str, Any]:
    """Return what :class:`spec2fn.calibration.Calibration` reports, times and files included."""
    import resource

    record = run_record(job, result)
    for entry, step in zip(record["steps"], result.report, strict=True):
        entry["seconds"] = round(step.seconds, 4)
    return {
        **record,
        "backend": _backend(backend),
        "products": {kind: str(path) for kind, path in files.items()},
        "seconds": round(seconds, 3),
        "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
    }


def _backend(name: str) -> dict[str, str | None]:
    """What computed the pixels; of JAX also where, and the folder that keeps compiled programs."""
    if name != "jax":
        return {"name": name}
    import jax

    from spec2fn.compiled.cache import use_cache

    cache = use_cache()
    device = jax.devices()[0].device_kind
    return {"name": name, "device": device, "cache": None if cache is None else str(cache)}

"""JWST stage-2 spectroscopic calibration as a functional, differentiable array library.

Steps are pure functions from an immutable :class:`xarray.Dataset` to a new one, pipelines are
tuples of steps, and everything works under JAX transformations::

    import spec2fn
    from spec2fn import pipelines

    result = spec2fn.calibrate("jw01234_rate.fits", output_dir="out")
    result.products["x1d"]

Importing the package is light: every public name is loaded on first use.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "Observation": "spec2fn.engine.pipeline",
    "after": "spec2fn.engine.pipeline",
    "also_on": "spec2fn.engine.pipeline",
    "calibrate": "spec2fn.calibration",
    "calibrate_all": "spec2fn.calibration.batch",
    "compile": "spec2fn.compiled",
    "diff": "spec2fn.io",
    "insert_after": "spec2fn.engine.pipeline",
    "insert_before": "spec2fn.engine.pipeline",
    "open_association": "spec2fn.io",
    "open_exposure": "spec2fn.io",
    "open_observation": "spec2fn.io",
    "open_product": "spec2fn.io",
    "open_reference": "spec2fn.refs",
    "pixel_table": "spec2fn.plans.cubes.pixel_table",
    "plan": "spec2fn.engine.forecast",
    "product": "spec2fn.engine.pipeline",
    "realisations": "spec2fn.compiled",
    "references": "spec2fn.refs",
    "replace": "spec2fn.engine.pipeline",
    "run": "spec2fn.engine.run",
    "save": "spec2fn.io",
    "save_pixel_table": "spec2fn.io",
    "since": "spec2fn.engine.pipeline",
    "spectral_leak": "spec2fn.spectra.spectral_leak",
    "step": "spec2fn.engine.step",
    "sweep": "spec2fn.calibration.sweep",
    "with_parameters": "spec2fn.engine.pipeline",
    "without": "spec2fn.engine.pipeline",
}

__all__ = ["__version__", *_PUBLIC]  # noqa: PLE0604 - names of the lazy table


def _use_float64() -> None:
    # Single precision misplaces the WCS by a third of a pixel, and switching precision around
    # single kernels breaks reverse mode; pixels stay float32 by construction.
    if os.environ.get("SPEC2FN_X64", "1") == "0":
        return
    if "jax" in sys.modules:
        sys.modules["jax"].config.update("jax_enable_x64", True)
    else:
        os.environ.setdefault("JAX_ENABLE_X64", "1")


_use_float64()


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever has that name
    if name in _PUBLIC:
        value = getattr(importlib.import_module(_PUBLIC[name]), name)
        globals()[name] = value
        return value
    if name in ("pipelines", "transforms", "schema", "engine", "io", "refs", "forward", "steps"):
        return importlib.import_module(f"spec2fn.{name}")
    msg = f"module 'spec2fn' has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})

"""Forward model: from a spectrum to detector count rates, and whole exposures with known truth.

* :mod:`spec2fn.forward.operators`: the linear operator spectrum → count rate, with its adjoint;
* :mod:`spec2fn.forward.lrs.instrument`: the instrument the synthetic exposures are taken with;
* :mod:`spec2fn.forward.scenes`: what is on the sky;
* :mod:`spec2fn.forward.lrs.references`: reference files of that instrument
  (:mod:`spec2fn.forward.reference_files`: how they are written);
* :mod:`spec2fn.forward.exposures`: headers, noise and files of exposures;
* :mod:`spec2fn.forward.lrs.render`: exposures with their truth.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spec2fn.forward.lrs.render import Rendered as Rendered
    from spec2fn.forward.lrs.render import render_miri_lrs_slit as render_miri_lrs_slit
    from spec2fn.forward.lrs.render import render_miri_lrs_slitless as render_miri_lrs_slitless
    from spec2fn.forward.operators import SpectralOperator as SpectralOperator
    from spec2fn.forward.operators import operator as operator

_HOME = {
    "Rendered": "lrs.render",
    "SpectralOperator": "operators",
    "operator": "operators",
    "render_miri_lrs_slit": "lrs.render",
    "render_miri_lrs_slitless": "lrs.render",
}

__all__ = sorted(_HOME)  # noqa: PLE0605 - the names are those of _HOME, kept in one place


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"spec2fn.forward.{_HOME[name]}"), name)
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})

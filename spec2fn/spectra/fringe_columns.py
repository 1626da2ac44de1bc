"""Columns that spectra of MRS cubes have besides: those without residual fringes."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np

from spec2fn.host.fringes_1d import NO_FRINGES, correct_fringes_1d
from spec2fn.kernels.namespace import array_namespace, is_traced
from spec2fn.plans.extraction.extract_cube import CubeExtractionPlan
from spec2fn.schema import RESIDUAL_FRINGES
from spec2fn.typing import Array, HostArray, Number

__all__ = ["without_fringes"]

_LOG = logging.getLogger("spec2fn.extract_1d")


def without_fringes(
    plan: CubeExtractionPlan, spectra: Mapping[str, tuple[Array, Number]]
) -> dict[str, Array]:
    """Correct flux, surface brightness and background for residual fringes.

    Parameters
    ----------
    plan : CubeExtractionPlan
    spectra : mapping of str to (array of float64, (…, wave), scale)
        By column; what the spectrum is to be multiplied by, after the correction.

    Returns
    -------
    dict of str to array
        The columns :data:`spec2fn.schema.RESIDUAL_FRINGES`; NaN where fringes are not sought.
        They always are inside a trace: the search for fringes decides by evidence.
    """
    out = {}
    for name in RESIDUAL_FRINGES:
        spectrum, scale = spectra[name.removeprefix("rf_")]
        if not plan.fringes or is_traced(spectrum):
            out[name] = array_namespace(spectrum).full_like(spectrum, np.nan)
            continue
        values = np.asarray(spectrum)
        rows = [_corrected(row, plan, name) for row in values.reshape(-1, values.shape[-1])]
        out[name] = np.reshape(rows, values.shape) * scale
    return out


def _corrected(spectrum: HostArray, plan: CubeExtractionPlan, name: str) -> HostArray:
    correction = correct_fringes_1d(plan.wavelength, spectrum, plan.fringes)
    if correction.skipped and correction.skipped != NO_FRINGES:
        _LOG.warning("extract_1d: %s is not known: %s", name, correction.skipped)
        return np.full_like(spectrum, np.nan)
    return correction.flux

"""Whole exposures of integral-field units with known truth: MIRI MRS, NIRSpec IFU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from spec2fn.forward import scenes
from spec2fn.forward.exposures import TARGET, Setup
from spec2fn.forward.ifu_operators import ifu_operators
from spec2fn.forward.lrs import instrument as lrs
from spec2fn.forward.lrs.references import true_flat
from spec2fn.forward.mrs import instrument as mrs
from spec2fn.forward.mrs.stray_light import stray_light
from spec2fn.forward.nirspec import instrument as nrs
from spec2fn.forward.nirspec.exposures import nirspec_setup
from spec2fn.forward.nirspec.ifu_references import EXP_TYPE, sigma
from spec2fn.forward.nirspec.references import with_true_flat
from spec2fn.forward.operators import SceneOperator
from spec2fn.forward.rendered import Exposed, Rendered, Truth, with_wcs
from spec2fn.schema import meta_of
from spec2fn.typing import HostArray
from spec2fn.wcs.evaluate import evaluate_between

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["miri_mrs", "nirspec_ifu"]

_MRS_PLACE = (0.21, -0.13)
_IFU_PLACE = (0.13, -0.17)
"""Position of the target: V2, V3 (MRS), or in the ideal frame, from the middle of the field."""
_MRS_FLUX, _IFU_FLUX = 1.5e-3, 4.0e-6  # [Jy]


def miri_mrs(references: Mapping[str, xr.Dataset], seed: int) -> Rendered:
    """Expose a young star in channels 1 and 2 of the MRS, in band SHORT."""
    setup = Setup(
        name="jw01234001001_07101_00001_mirifushort_rate.fits",
        exp_type=mrs.EXP_TYPE,
        filter="N/A",
        shape=mrs.SHAPE,
        integration_time=100.0,
        detector=lrs.DETECTOR,
        aperture=mrs.APERTURE,
        optics={
            "INSTRUME": "MIRI",
            "DETECTOR": "MIRIFUSHORT",
            "CHANNEL": "12",
            "BAND": mrs.BAND,
        },
        place=_MRS_PLACE,
        extra={"DATAMODL": "IFUImageModel"},
    )
    grid = scenes.MID_GRID
    exposure = with_wcs(setup, references)
    flat = references["flat"]
    image = true_flat(mrs.EXP_TYPE, seed).astype(np.float32)
    true = flat.assign(sci=(flat["sci"].dims, image), dq=(flat["dq"].dims, 0 * flat["dq"].data))
    parts = ifu_operators(
        exposure, {**references, "flat": true}, grid, target=TARGET, sigma=mrs.sigma
    )
    op = SceneOperator(parts, mrs.SHAPE, stray_light(exposure, references["mrsxartcorr"]))
    truth = Truth(grid, scenes.embedded_star(grid, _MRS_FLUX))
    return _rendered(setup, op, mrs.background(grid), truth)


def nirspec_ifu(references: Mapping[str, xr.Dataset], seed: int) -> Rendered:
    """Expose a galaxy with the integral field unit of NIRSpec and its prism."""
    setup = nirspec_setup(
        EXP_TYPE,
        name="jw01234001001_06101_00001_nrs1_rate.fits",
        shape=(2048, 2048),
        integration_time=200.0,
        dither=_IFU_PLACE,
        extra={"DATAMODL": "IFUImageModel"},
    )
    grid = scenes.NEAR_GRID
    v2, v3, _ = evaluate_between(
        meta_of(with_wcs(setup, references)).wcs, "slicer", "v2v3", 0.0, 0.0, 2.0e-6
    )
    setup = replace(setup, aperture=setup.aperture._replace(v2=float(v2), v3=float(v3)))
    exposure, true = with_wcs(setup, references), with_true_flat(references, seed)
    op = SceneOperator(
        ifu_operators(exposure, true, grid, target=TARGET, sigma=sigma), (2048, 2048)
    )
    truth = Truth(grid, scenes.galaxy(grid, _IFU_FLUX, 1.7, 0.15))
    return _rendered(setup, op, nrs.background(grid), truth)


def _rendered(setup: Setup, op: SceneOperator, sky: HostArray, truth: Truth) -> Rendered:
    return Rendered({"science": Exposed(setup, op((sky, truth.flux)), op)}, truth)

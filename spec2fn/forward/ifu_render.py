"""Whole exposures of integral-field units with known truth: MIRI MRS, NIRSpec IFU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from spec2fn.forward import scenes
from spec2fn.forward.exposures import TARGET, Setup
from spec2fn.forward.ifu_operators import Scattered, ifu_operators, stray_light
from spec2fn.forward.lrs.references import true_flat
from spec2fn.forward.lrs.render import Rendered, Truth, empty_exposure, reference_files
from spec2fn.forward.mrs import instrument as mrs
from spec2fn.forward.mrs import references as mrs_references
from spec2fn.forward.nirspec import ifu_references as nirspec_ifu_references
from spec2fn.forward.nirspec import instrument as nrs
from spec2fn.forward.nirspec.exposures import NirspecSetup
from spec2fn.forward.nirspec.references import with_true_flat
from spec2fn.forward.operators import SceneOperator
from spec2fn.schema import meta_of

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["MrsSetup", "render_miri_mrs", "render_nirspec_ifu"]

Array = np.ndarray[Any, Any]

_MRS_PLACE = (0.21, -0.13)
_IFU_PLACE = (0.13, -0.17)
"""Position of the target: V2, V3 (MRS), or in the ideal frame, from the middle of the field."""
_MRS_FLUX, _IFU_FLUX = 1.5e-3, 4.0e-6  # [Jy]


@dataclass(frozen=True)
class MrsSetup(Setup):
    """How an exposure of the medium-resolution spectrometer is taken.

    Attributes
    ----------
    place : (float, float)
        V2 and V3 of the target relative to the middle of the field of view [arcsec].
    """

    place: tuple[float, float] = (0.0, 0.0)

    read_noise: ClassVar[float] = 0.03

    def _configuration(self) -> dict[str, Any]:
        return {
            "DATAMODL": "IFUImageModel",
            "INSTRUME": "MIRI",
            "DETECTOR": "MIRIFUSHORT",
            "CHANNEL": "12",
            "BAND": mrs.BAND,
            "READPATT": "FASTR1",
            "FASTAXIS": 1,
            "SLOWAXIS": 2,
            "PATTTYPE": "NONE",
            "NUMDTHPT": 1,
            "XOFFSET": 0.0,
            "YOFFSET": 0.0,
            "APERNAME": f"MIRIFU_CHANNEL1{mrs.BAND[0]}",
        }

    def _aperture(self) -> tuple[float, float, float, int, float]:
        return *mrs.APERTURE, mrs.V3_ANGLE, 2, mrs.CHANNELS[0].scale

    def _offset(self) -> tuple[float, float]:
        return self.place


def render_miri_mrs(seed: int = 0, *, folder: Path | None = None) -> Rendered:
    """Render a young star seen by channels 1 and 2 of the MIRI MRS, in band SHORT.

    Parameters
    ----------
    seed : int
        Of noise, flat and bad pixels.
    folder : Path, optional
        Where the reference files stay; without it they are deleted after reading.

    Returns
    -------
    Rendered
        Role ``science`` only.
    """
    setup = MrsSetup(
        name="jw01234001001_07101_00001_mirifushort_rate.fits",
        exp_type=mrs.EXP_TYPE,
        filter="N/A",
        subarray="FULL",
        corner=(1, 1),
        shape=mrs.SHAPE,
        integration_time=100.0,
        place=_MRS_PLACE,
    )
    grid = scenes.MID_GRID
    with reference_files(
        folder, setup.exp_type, lambda p: mrs_references.write_references(p, seed)
    ) as (files, references):
        exposure = _with_wcs(setup, references)
        flat = references["flat"]
        image = true_flat(mrs.EXP_TYPE, seed).astype(np.float32)
        true = flat.assign(sci=(flat["sci"].dims, image), dq=(flat["dq"].dims, 0 * flat["dq"].data))
        parts = ifu_operators(
            exposure, {**references, "flat": true}, grid, target=TARGET, sigma=mrs.sigma
        )
        scattered = stray_light(exposure, references["mrsxartcorr"])
    op = Scattered(SceneOperator(parts, mrs.SHAPE), scattered)
    truth = Truth(grid, scenes.embedded_star(grid, _MRS_FLUX))
    return _rendered(setup, op, (mrs.background(grid), truth), (files, references), seed)


def render_nirspec_ifu(seed: int = 0, *, folder: Path | None = None) -> Rendered:
    """Render a galaxy seen by the integral field unit of NIRSpec, with the prism.

    Parameters
    ----------
    seed : int
        Of noise, flat and bad pixels.
    folder : Path, optional
        Where the reference files stay; without it they are deleted after reading.

    Returns
    -------
    Rendered
        Role ``science`` only.
    """
    setup = NirspecSetup(
        name="jw01234001001_06101_00001_nrs1_rate.fits",
        exp_type=nirspec_ifu_references.EXP_TYPE,
        filter="CLEAR",
        subarray="FULL",
        corner=(1, 1),
        shape=(2048, 2048),
        integration_time=200.0,
        dither=_IFU_PLACE,
        extra={"DATAMODL": "IFUImageModel"},
    )
    grid = scenes.NEAR_GRID
    with reference_files(
        folder,
        setup.exp_type,
        lambda p: nirspec_ifu_references.write_references(p, setup.grating, seed),
    ) as (files, references):
        setup = replace(setup, aperture=_middle(_with_wcs(setup, references)))
        exposure = _with_wcs(setup, references)
        true = with_true_flat(references, seed)
        parts = ifu_operators(
            exposure, true, grid, target=TARGET, sigma=nirspec_ifu_references.sigma
        )
    op = SceneOperator(parts, (2048, 2048))
    truth = Truth(grid, scenes.galaxy(grid, _IFU_FLUX, 1.7, 0.15))
    return _rendered(setup, op, (nrs.background(grid), truth), (files, references), seed)


def _with_wcs(setup: Setup, references: Mapping[str, Any]) -> xr.Dataset:
    from spec2fn.steps.assign_wcs import assign_wcs

    return assign_wcs(empty_exposure(setup), *(references.get(r) for r in assign_wcs.refs))


def _middle(exposure: xr.Dataset) -> tuple[float, float]:
    """V2 and V3 of the middle of the slicer [arcsec]."""
    from spec2fn.wcs.evaluate import evaluate_between

    v2, v3, _ = evaluate_between(meta_of(exposure).wcs, "slicer", "v2v3", 0.0, 0.0, 2.0e-6)
    return float(v2), float(v3)


def _rendered(
    setup: Setup,
    op: Any,
    scene: tuple[Array, Truth],
    made: tuple[Any, Mapping[str, Any]],
    seed: int,
) -> Rendered:
    sky, truth = scene
    files, references = made
    rate = op((sky, truth.flux))
    return Rendered(
        {"science": setup}, {"science": rate}, {"science": op}, files, references, truth, seed
    )

"""Exposures of the synthetic single-object slitless spectrograph of NIRISS."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from spec2fn.forward import scenes
from spec2fn.forward.exposures import START, Aperture, Setup
from spec2fn.forward.niriss import instrument as nis
from spec2fn.forward.niriss.instrument import STRIPS, Strip
from spec2fn.forward.niriss.operator import orders_operator
from spec2fn.forward.niriss.references import background_templates, true_flat
from spec2fn.forward.rendered import Exposed, Rendered, Truth
from spec2fn.typing import HostArray

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["SKY", "TEMPLATE", "niriss_soss"]

_SECONDS = 10.0
TEMPLATE = 1
"""Which of the background templates the sky is."""
SKY = (1.6, 1.8)
"""Scales of the background [DN/s], left and right of its step."""
_STEP = 700  # first column on the right


def niriss_soss(
    references: Mapping[str, xr.Dataset],  # noqa: ARG001 - what they say, the instrument does
    seed: int,
    integrations: int = 10,
    *,
    strip: Strip = STRIPS["SUBSTRIP256"],
    star: HostArray | None = None,
    wheel: float = nis.WHEEL,
    flicker: float = 0.0,
    series: bool = True,
) -> Rendered:
    """Expose a star during a transit, in integrations of 10 s each.

    Parameters
    ----------
    references : mapping
        Not needed.
    seed : int
    integrations : int
    strip : Strip
        What is read of the detector.
    star : array, optional
        Flux density [Jy] on :data:`spec2fn.forward.scenes.NEAR_GRID`.
    wheel : float
        Where the pupil wheel stands [deg]; the header says that it is
        :data:`~spec2fn.forward.niriss.instrument.WHEEL`.
    flicker : float
        Standard deviation of the 1/f noise of columns [DN/s].
    series : bool
        Or one image of the star out of transit.
    """
    flat = true_flat(strip, seed)
    shape = (integrations, *strip.shape) if series else strip.shape
    setup = Setup(
        name=f"jw01234011001_04101_00001_nis_rate{'ints' if series else ''}.fits",
        exp_type="NIS_SOSS",
        filter="CLEAR",
        shape=shape,
        integration_time=_SECONDS,
        detector=nis.DETECTOR,
        aperture=Aperture(f"NIS_{strip.subarray}", *nis.V2V3, nis.V3_ANGLE, 1, nis.PIXEL_SCALE),
        optics={"INSTRUME": "NIRISS", "DETECTOR": "NIS", "PUPIL": "GR700XD"},
        subarray=strip.subarray,
        corner=strip.corner,
        extra={"PWCPOS": nis.WHEEL},
    )
    left = nis.throughput_left(START + _SECONDS * setup.integrations / 2 / 86400)
    grid = scenes.NEAR_GRID
    op = orders_operator(strip, grid, wheel=wheel, flat=left * flat)
    sky = _background(strip, seed)
    one = scenes.star(grid, 0.2) if star is None else star
    noise = partial(_flicker, flicker, strip, seed) if flicker else None
    if series:
        truth = Truth(grid, scenes.transit(one, scenes.near_transit_depth(grid), integrations))
        return Rendered({"science": Exposed(setup, sky, op, noise)}, truth)
    lost = nis.pathloss(np.arange(strip.columns), np.array(nis.WHEEL), strip.columns)
    return Rendered({"science": Exposed(setup, sky + lost * op(one), op, noise)}, Truth(grid, one))


def _background(strip: Strip, seed: int) -> HostArray:
    rows = slice(strip.first, strip.first + strip.rows)
    template = background_templates(strip, seed)[TEMPLATE, rows]
    return np.where(np.arange(strip.columns) < _STEP, *SKY) * template


def _flicker(level: float, strip: Strip, seed: int, integration: int) -> HostArray:
    """Noise of the amplifiers, equal for all rows of a column, with a spectrum like 1/f."""
    rng = np.random.default_rng([seed, 5, integration])
    power = np.fft.rfft(rng.standard_normal(strip.columns))
    power /= np.sqrt(np.maximum(np.arange(len(power)), 1.0))
    power[0] = 0.0
    stripes = np.fft.irfft(power, strip.columns)
    return np.broadcast_to(level * stripes / stripes.std(), strip.shape)

"""Exposures of the synthetic LRS: fixed slit (nod pair) and slitless (time series)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.forward import scenes
from spec2fn.forward.exposures import Aperture, Setup
from spec2fn.forward.gaussian import enclosed
from spec2fn.forward.lrs import instrument as lrs
from spec2fn.forward.lrs.references import SHAPES, SUBARRAYS, true_flat
from spec2fn.forward.operators import operator
from spec2fn.forward.rendered import Exposed, Rendered, Truth, with_wcs
from spec2fn.typing import HostArray

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["miri_lrs_slit", "miri_lrs_slitless"]

NOD = 1.1
"""Offset of the two dither positions along the slit [arcsec]."""
POINTING_ERROR = (0.10, 0.25)
"""Column and row [pixel] by which the target misses its nominal position in the slit."""
_SLIT, _SLITLESS = "MIR_LRS-FIXEDSLIT", "MIR_LRS-SLITLESS"
_SLIT_SECONDS, _SLITLESS_SECONDS = 100.0, 10.0


def _setup(mode: str, name: str, offset: float = 0.0, **how: Any) -> Setup:  # noqa: ANN401 - fields of Setup
    """How an exposure is taken; `offset` is the dither along the slit [arcsec]."""
    v2, v3 = lrs.to_v2v3(*lrs.aperture(mode))
    aperture = "MIRIM_SLIT" if SUBARRAYS[mode] == "FULL" else "MIRIM_SLITLESSPRISM"
    given: dict[str, Any] = {"exp_type": mode, "filter": "P750L", "shape": SHAPES[mode]}
    return Setup(
        **{**given, **how},
        name=f"jw01234001001_{name}.fits",
        detector=lrs.DETECTOR,
        aperture=Aperture(aperture, float(v2), float(v3), lrs.V3_ANGLE, 2, lrs.PIXEL_SCALE),
        optics={"INSTRUME": "MIRI", "DETECTOR": "MIRIMAGE"},
        pattern=("ALONG-SLIT-NOD", 2) if offset else ("NONE", 1),
        dither=(offset, 0.0),
    )


def miri_lrs_slit(references: Mapping[str, xr.Dataset], seed: int) -> Rendered:
    """Expose a star in the slit: a nod pair and a target-acquisition image.

    Roles are ``science``, ``background`` (the other nod) and ``target_acquisition``.
    """
    shape = SHAPES[_SLIT]
    truth = Truth(scenes.GRID, scenes.dusty_star(scenes.GRID))
    x0, y0 = lrs.aperture(_SLIT)
    flat = true_flat(_SLIT, seed)
    taken = {}
    for number, (role, side) in enumerate((("science", 1), ("background", -1)), start=1):
        name = f"01101_{number:05d}_mirimage_rate"
        setup = _setup(_SLIT, name, side * NOD, integration_time=_SLIT_SECONDS, number=number)
        place = (x0 + side * NOD / lrs.PIXEL_SCALE + POINTING_ERROR[0], y0 + POINTING_ERROR[1])
        exposure = with_wcs(setup, references)
        op = operator(exposure, references, scenes.GRID, position=place, flat=flat)
        glow = _background(exposure, flat, slit=(x0, lrs.SLIT_COLUMNS))
        taken[role] = Exposed(setup, glow + op.embed(op(truth.flux), shape), op)
    setup = _setup(
        _SLIT,
        "01101_00001_mirimage_ta_rate",
        NOD,
        exp_type="MIR_TACONFIRM",
        filter="F560W",
        integration_time=_SLIT_SECONDS,
    )
    offset = lrs.FILTER_OFFSET["F560W"]
    column = x0 + NOD / lrs.PIXEL_SCALE + POINTING_ERROR[0] - offset[0]
    star = _star(shape, (column, y0 + POINTING_ERROR[1] - offset[1]))
    taken["target_acquisition"] = Exposed(setup, 2.0 + star)
    return Rendered(taken, truth)


def miri_lrs_slitless(
    references: Mapping[str, xr.Dataset], seed: int, integrations: int = 10
) -> Rendered:
    """Expose a star during a transit, in integrations of 10 s each."""
    flat = true_flat(_SLITLESS, seed)
    setup = _setup(
        _SLITLESS,
        "04101_00001_mirimage_rateints",
        shape=(integrations, *SHAPES[_SLITLESS]),
        integration_time=_SLITLESS_SECONDS,
        subarray=SUBARRAYS[_SLITLESS],
        corner=lrs.SLITLESS_CORNER,
    )
    x, y = lrs.aperture(_SLITLESS)
    place = (x - lrs.SLITLESS_CORNER[0] + 1, y - lrs.SLITLESS_CORNER[1] + 1)
    exposure = with_wcs(setup, references)
    op = operator(exposure, references, scenes.GRID, position=place, flat=flat)
    star, depth = scenes.planet_host(scenes.GRID), scenes.transit_depth(scenes.GRID)
    truth = Truth(scenes.GRID, scenes.transit(star, depth, integrations))
    return Rendered({"science": Exposed(setup, _background(exposure, flat), op)}, truth)


def _background(
    exposure: xr.Dataset, flat: HostArray, slit: tuple[float, float] | None = None
) -> HostArray:
    """Count rate [DN/s] of the background and of the flat, where there is a wavelength."""
    wave = np.asarray(exposure["wavelength"].data)
    factor = lrs.PHOTMJSR * lrs.relative_response(wave)
    factor = factor / lrs.throughput(float(exposure["mid_time"]))
    rate = flat * lrs.background(wave) / factor
    if slit is not None:
        rate = np.where(np.abs(np.arange(wave.shape[1]) - slit[0]) < slit[1] / 2, rate, 0.0)
    return np.where(np.isfinite(rate), rate, 0.0)


def _star(shape: tuple[int, int], center: tuple[float, float], rate: float = 4000.0) -> HostArray:
    """Undispersed image [DN/s] of a star, integrated over pixels."""
    width = lrs.sigma(np.array(5.6))
    x, y = (np.arange(n) - c for n, c in zip(shape[::-1], center, strict=True))
    columns, rows = (enclosed(u - 0.5, u + 0.5, width) for u in (x, y))
    return rate * rows[:, None] * columns[None, :]

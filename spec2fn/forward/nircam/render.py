"""Exposures of the synthetic grism of NIRCam: a star during a transit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from spec2fn.forward import scenes
from spec2fn.forward.exposures import Aperture, Setup
from spec2fn.forward.nircam import instrument as nircam
from spec2fn.forward.nircam.references import true_flat
from spec2fn.forward.operators import (
    SpectralOperator,
    cut,
    illuminated,
    ones_like,
    through,
    wavelength_cells,
)
from spec2fn.forward.rendered import Exposed, Rendered, Truth, with_wcs
from spec2fn.schema import meta_of
from spec2fn.typing import HostArray
from spec2fn.units import MJY_TO_JY

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["nircam_tsgrism", "trace_operator"]

_SECONDS = 10.0


def nircam_tsgrism(
    references: Mapping[str, xr.Dataset], seed: int, integrations: int = 10
) -> Rendered:
    """Expose a star during a transit, in integrations of 10 s each."""
    flat = true_flat(seed)
    x, y = nircam.APERTURE
    setup = Setup(
        name="jw01234009001_04101_00001_nrcalong_rateints.fits",
        exp_type="NRC_TSGRISM",
        filter="F444W",
        shape=(integrations, *nircam.SHAPE),
        integration_time=_SECONDS,
        detector=nircam.DETECTOR,
        aperture=Aperture(
            "NRCA5_GRISM64_F444W", *nircam.to_v2v3(x, y), nircam.V3_ANGLE, 1, nircam.PIXEL_SCALE
        ),
        optics={
            "INSTRUME": "NIRCAM",
            "DETECTOR": "NRCALONG",
            "MODULE": "A",
            "CHANNEL": "LONG",
            "PUPIL": "GRISMR",
        },
        subarray="SUBGRISM64",
        extra={"XREF_SCI": x + 1.0, "YREF_SCI": y + 1.0},
    )
    grid = scenes.NEAR_GRID
    op = trace_operator(with_wcs(setup, references), references, grid, flat=flat)
    star = scenes.planet_host(grid, flux=4.0e-5)
    truth = Truth(grid, scenes.transit(star, scenes.near_transit_depth(grid), integrations))
    return Rendered({"science": Exposed(setup, nircam.SKY * flat, op)}, truth)


def trace_operator(
    exposure: xr.Dataset,
    references: Mapping[str, xr.Dataset],
    grid: HostArray,
    *,
    flat: HostArray,
    sigma: float = nircam.SIGMA,
) -> SpectralOperator:
    """Build the operator of the source of a grism time series.

    Parameters
    ----------
    exposure : xarray.Dataset
        After ``assign_wcs`` (its pixel values do not matter); the window of ``extract_2d`` must
        be the whole of it.
    references : mapping
        Datasets by type: ``wavelengthrange`` and ``photom``.
    grid : array, shape (n,)
        Wavelengths [um], ascending.
    flat : array, shape (y, x)
        Response of the pixels.
    sigma : float
        Standard deviation of the image of a point source [pixel].
    """
    from spec2fn.steps.extract_2d import extract_2d
    from spec2fn.steps.photom import photom

    geometry = meta_of(exposure).wcs.geometry
    window = through(exposure, (extract_2d,), references)
    unit = through(ones_like(window), (photom,), references)
    brightness = (
        np.asarray(unit["sci"].data, dtype=np.float64) * float(unit["pixar_sr"]) * MJY_TO_JY
    )
    wave = np.asarray(window["wavelength"].data)
    lit = np.isfinite(brightness) & np.isfinite(wave)
    seen = illuminated(lit)
    part = cut(seen)
    x0, y0 = map(float, geometry.source)
    # of each column, how far the trace is from the row of the source
    _, row = geometry.disperse(x0, y0, wave, nircam.ORDER)
    across = (np.arange(wave.shape[0], dtype=float)[:, None] - (row - y0))[part]
    lit, gain = lit[part], np.where(lit, 1.0 / brightness, 0.0)[part]
    wave, cells = wavelength_cells(grid, wave[part], lit)
    return SpectralOperator(
        **cells,
        gain=gain,
        lower=np.where(lit, across - 0.5, 0.0),
        upper=np.where(lit, across + 0.5, 0.0),
        sigma=np.full(wave.shape, sigma),
        flat=flat[part],
        position=y0,
        window=seen,
    )

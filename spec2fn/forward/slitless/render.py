"""Exposures of fields without a slit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from spec2fn.forward.exposures import Setup
from spec2fn.forward.rendered import Exposed, Rendered, Source, Truth, with_wcs
from spec2fn.forward.slitless.field import (
    FieldSource,
    direct_files,
    gaussian_image,
    sources_of_field,
    spectrum,
)
from spec2fn.forward.slitless.instrument import GRISMS, Grism
from spec2fn.forward.slitless.references import background_shape, true_flat
from spec2fn.typing import HostArray
from spec2fn.units import MJY_TO_JY

if TYPE_CHECKING:
    import xarray as xr

    from spec2fn.wcs.grism import GrismGeometry

__all__ = ["dispersed", "wide_field"]

_SECONDS = 900.0
_PER_PIXEL = 4  # wavelengths per pixel of the trace


def wide_field(
    exp_type: str,
    references: Mapping[str, xr.Dataset],
    seed: int,
    *,
    only: Sequence[int] | None = None,
    scale: float = 1.0,
) -> Rendered:
    """Expose a field of stars and galaxies, some of whose spectra overlap.

    Parameters
    ----------
    exp_type : str
        One of :data:`spec2fn.forward.slitless.instrument.GRISMS`.
    references : mapping of str to Dataset
    seed : int
        Of the field, flat and noise.
    only : sequence of int, optional
        Positions of the sources of the field that shine.
    scale : float
        Pixels of the direct image in those of the detector.
    """
    grism = GRISMS[exp_type]
    setup = _setup(grism)
    geometry = with_wcs(setup, references).attrs["meta"].wcs.geometry
    sources = sources_of_field(grism, seed)
    if only is not None:
        sources = tuple(sources[i] for i in only)
    rate = grism.sky * background_shape(grism)
    for source in sources:
        for order in grism.orders:
            rate += dispersed(grism, geometry, source, order)
    known = tuple(
        Source(str(s.label), str(s.label), "extended" if s.extended else "point", _seen(grism, s))
        for s in sources
    )
    exposures = {"science": Exposed(setup, rate * true_flat(grism, seed))}
    files = direct_files(grism, geometry, sources, seed, scale)
    return Rendered(exposures, known[0].truth, known, files=files)


def _seen(grism: Grism, source: FieldSource) -> Truth:
    """Spectrum at the resolution of order 1: that of its image, and of pixels."""
    from scipy.ndimage import gaussian_filter1d, uniform_filter1d

    trace = grism.orders[1]
    span = abs(trace.wave[1] / sum(powers[0] for powers in trace.dx[1:]))  # um per pixel
    low, high = (
        end + s * 8 * source.width * span for end, s in zip(grism.ends, (-1, 1), strict=True)
    )
    wave = np.linspace(low, high, 8001)
    per_pixel = span / (wave[1] - wave[0])
    response = grism.response(wave)
    light = gaussian_filter1d(
        spectrum(source, wave, grism.ends) * response, source.width * per_pixel
    )
    # what is divided by the response at one wavelength was gathered at its neighbours'
    flux = uniform_filter1d(light, round(per_pixel)) / np.maximum(response, 1e-6)
    return Truth(wave, flux)


def _setup(grism: Grism) -> Setup:
    keywords = {k: v for k, v in grism.keywords.items() if k != "FILTER"}
    if grism.wheel:
        keywords["FWCPOS"] = grism.wheel[0]  # type: ignore[assignment]
    return Setup(
        name=f"jw01234001001_03101_00001_{grism.keywords['DETECTOR'].lower()}_rate.fits",
        exp_type=grism.exp_type,
        filter=grism.keywords["FILTER"],
        shape=grism.shape,
        integration_time=_SECONDS,
        detector=grism.detector,
        aperture=grism.aperture,
        optics={"INSTRUME": grism.instrument, **keywords},
        extra={"SRCTYAPT": None, "SRCTYPE": None},
    )


def dispersed(grism: Grism, geometry: GrismGeometry, source: FieldSource, order: int) -> HostArray:
    """Count rate [DN/s] of one source in one order, (y, x), before the flat."""
    out = np.zeros(grism.shape)
    low, high = grism.ends[0] - 6 * grism.edge, grism.ends[1] + 6 * grism.edge
    place = np.array(source.x), np.array(source.y)
    x, y = geometry.disperse(*place, np.array([low, high]), order)
    number = max(int(_PER_PIXEL * np.hypot(*(np.diff(np.asarray(v))[0] for v in (x, y)))), 24)
    step = (high - low) / number
    wave = low + step * (np.arange(number) + 0.5)
    x, y = (np.asarray(v) for v in geometry.disperse(*place, wave, order))
    flux = spectrum(source, wave, grism.ends) * grism.response(wave)
    conversion = grism.orders[order].conversion * grism.pixel_area * MJY_TO_JY
    gaussian_image(out, x, y, flux * step / conversion, source.width)
    return out

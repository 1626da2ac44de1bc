"""Residual fringes of one spectrum extracted from an MRS cube.

The dichroic and the detector leave fringes of about 0.4 and 2.9 cm-1 in spectra of point sources,
which a fringe flat made with extended light does not remove (Argyriou et al. 2020, A&A 641, A150;
Kavanagh et al., residual fringe correction of the JWST calibration pipeline,
https://jwst-pipeline.readthedocs.io). Periods that stand out of the continuum are fitted as sums
of sines, see :mod:`spec2fn.host.sine_search`, and divided out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from spec2fn.errors import ParameterError
from spec2fn.host.continuum import (
    FEWEST_PERIODS,
    USABLE_WEIGHT,
    envelope,
    extrema,
    find_knots,
    fit_baseline,
    flag_lines,
    reject_runaways,
    unclipped,
)
from spec2fn.host.sine_search import Evidence, FringeSearch, find_fringes
from spec2fn.typing import HostArray

__all__ = ["NO_FRINGES", "FringeCorrection", "correct_fringes_1d"]

NO_FRINGES = "no evidence of fringes"
"""Why a spectrum is as it was although it has been searched."""

DETECTOR = FringeSearch(2.9, 1.5, 10, 0.001, True, Evidence(1002.0, (0.001, 1.0)))
DICHROIC = FringeSearch(0.4, 0.15, 15, 0.001, True, Evidence(1002.0, (0.001, 1.0)))
RELIABLE_WAVELENGTH = 27.6  # [um]; beyond, the calibration is too uncertain


@dataclass(frozen=True, eq=False)
class FringeCorrection:
    """A corrected spectrum.

    Attributes
    ----------
    flux : array of float64, (wave,)
        Corrected; where `flux` was not positive, as it was.
    factor : array of float64, (wave,)
        Corrected over original flux, 1 where nothing was done.
    number : tuple of int
        Fringes found around each of the periods searched.
    skipped : str
        Why nothing was corrected; empty if something was.
    """

    flux: HostArray
    factor: HostArray
    number: tuple[int, ...]
    skipped: str


def correct_fringes_1d(
    wavelength: HostArray,
    flux: HostArray,
    channel: int | None,
    *,
    dichroic_only: bool = False,
    max_amp: float = 0.4,
    clip_features: bool = True,
    clip_sigma: float = 5.0,
    max_line: float = 0.05,
    ignore_regions: Sequence[tuple[float, float]] = (),
) -> FringeCorrection:
    """Correct a spectrum for residual fringes.

    Parameters
    ----------
    wavelength : array of float64, (wave,)
        Increasing [um].
    flux : array of float64, (wave,)
        Pixels that are NaN or not positive are left out; those below 1e-3 (MJy/sr, in which the
        limit was chosen) do not steer the knots of the continuum.
    channel : int or None
        Of the MRS: 1 and 2 have detector fringes only; 3, 4, and a spectrum of several channels
        (None) have dichroic fringes too.
    dichroic_only : bool
        Correct dichroic fringes only (channels 3 and 4).
    max_amp : float
        Beats of higher fringes are not corrected [fraction of the continuum].
    clip_features : bool
        Leave out spectral lines by sigma clipping; else those that are higher than `max_line`.
    clip_sigma : float
        Threshold of the clipping [standard deviations].
    max_line : float
        [fraction of the continuum]
    ignore_regions : sequence of (float, float)
        Wavelengths left out of the fits [um].

    Returns
    -------
    FringeCorrection

    Raises
    ------
    ParameterError
        If `dichroic_only` is asked for in channel 1 or 2.
    """
    wave, data = np.asarray(wavelength, dtype=float), np.asarray(flux, dtype=float)
    if dichroic_only and channel not in (3, 4):
        msg = (
            "dichroic_only needs a spectrum of channel 3 or 4, which alone have fringes of the"
            f" dichroics, found channel {channel}; leave dichroic_only out"
        )
        raise ParameterError(msg)
    searches: tuple[FringeSearch, ...] = (DETECTOR, DICHROIC)
    if dichroic_only:
        searches = (DICHROIC,)
    elif channel in (1, 2):
        searches = (DETECTOR,)

    def unchanged(reason: str) -> FringeCorrection:
        return FringeCorrection(data.copy(), np.ones(data.shape), (0,) * len(searches), reason)

    with np.errstate(invalid="ignore"):
        positive = np.flatnonzero(data > 0)
    if positive.size < 3:
        return unchanged("fewer than three pixels are positive")
    value, at = data[positive][None], wave[positive]
    wavenumber = 1e4 / at[None]
    if not np.all(np.diff(at) > 0):
        return unchanged("the wavelengths do not increase")
    flux_weights = value / np.median(value)
    flux_weights[~np.isfinite(flux_weights)] = 0.0
    weights = flux_weights.copy()
    weights[:, at > RELIABLE_WAVELENGTH] = 0.0
    for low, high in ignore_regions:
        weights[:, (at > low) & (at < high)] = 0.0
    if not weights.any():
        return unchanged("every pixel is left out")
    extent = wavenumber.max() - wavenumber.min()
    for search in searches:
        if extent // search.period < FEWEST_PERIODS:
            return unchanged(
                f"the spectrum is shorter than {FEWEST_PERIODS} fringes of {search.period} cm-1"
            )
    minima, maxima = extrema(value, reach=2)
    middle = 0.5 * (envelope(value, minima) + envelope(value, maxima))
    with np.errstate(invalid="ignore", divide="ignore"):
        excess = np.abs((value - middle) / middle)
    if clip_features:
        weights *= unclipped(excess[0], clip_sigma)
    else:
        weights *= flag_lines(excess, np.full(value.shape, max_line))
    weights[weights <= 0] = 1e-8
    corrected, number = value, []
    for search in searches:
        corrected, found = _corrected(
            corrected, wavenumber, weights, flux_weights, search, max_amp=max_amp
        )
        number.append(found)
    out, factor = data.copy(), np.ones(data.shape)
    out[positive], factor[positive] = corrected[0], corrected[0] / value[0]
    reason = "" if any(number) else NO_FRINGES
    return FringeCorrection(out, factor, tuple(number), reason)


def _corrected(
    flux: HostArray,
    wavenumber: HostArray,
    weights: HostArray,
    flux_weights: HostArray,
    search: FringeSearch,
    *,
    max_amp: float,
) -> tuple[HostArray, int]:
    """Divide a spectrum, (1, pixel), by fringes of a kind, and count them."""
    knots = find_knots(flux, weights, int(np.ptp(wavenumber) / search.period))
    scaled = wavenumber / wavenumber.min()
    continuum, _ = fit_baseline(flux, weights, scaled, knots, robust=search is DETECTOR)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.where(continuum != 0.0, flux / continuum, 1e-8)
    residual = np.where(ratio != 0.0, ratio - 1.0, 0.0)
    residual *= np.where(flux_weights > 1e-7, 1.0, 1e-8)
    sines = find_fringes(np.nan_to_num(residual), weights, weights, wavenumber, search)
    if not sines.number[0]:
        return flux, 0
    fringes = np.where(reject_runaways(sines.model, np.full(flux.shape, max_amp)), 0.0, sines.model)
    with np.errstate(invalid="ignore", divide="ignore"):
        flux = flux / (1.0 + np.where(flux_weights > USABLE_WEIGHT, fringes, 0.0))
    return np.where(np.isfinite(flux), flux, 0.0), int(sines.number[0])

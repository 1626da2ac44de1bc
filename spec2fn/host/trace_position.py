"""Where the traces of overlapping orders lie: the angle of a wheel and a shift, from an image.

The profiles of a reference are moved across the dispersion as the model of the traces says; how
much light each order has in each column is free. That leaves a problem of two unknowns, solved by
Gauss and Newton with the amplitudes projected out (Golub and Pereyra 1973, SIAM J. Numer. Anal.
10, 413; Kaufman 1975, BIT 15, 49).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from spec2fn.kernels.profile_shift import moved_profile
from spec2fn.typing import HostArray

__all__ = ["Position", "fit_position", "profile_coefficients", "profile_position"]

Traces = Callable[[float], HostArray]
"""Angle [deg] to the row of each order in each column, (order, disp); NaN where it is not."""

_STEP = 1e-4  # degrees, of derivatives
_ROUNDS = 30
_TOLERANCE = 1e-6  # pixels that the trace still moves
_FAR = 6.0  # standard deviations of the residual beyond which a pixel is left out
_MARGIN = 22.0  # rows that a profile needs on either side for its centroid


class Position(NamedTuple):
    """Where the traces lie.

    Attributes
    ----------
    angle, shift : float
        Of the wheel [deg]; by which rows are larger than those of the model [pixel].
    angle_error, shift_error : float
        Standard errors, enlarged where the profiles do not fit to the noise.
    chi2 : float
        Per degree of freedom.
    converged : bool
    """

    angle: float
    shift: float
    angle_error: float
    shift_error: float
    chi2: float
    converged: bool


def profile_coefficients(profile: HostArray) -> HostArray:
    """Return coefficients of cubic B-splines along the rows of profiles (..., cross, disp)."""
    from scipy.ndimage import spline_filter1d

    return np.asarray(spline_filter1d(np.asarray(profile, np.float64), 3, axis=-2, mode="mirror"))


def profile_position(profile: HostArray, traces: Traces, start: float) -> tuple[float, float]:
    """Return the angle and the shift at which a model of the traces runs through profiles.

    Parameters
    ----------
    profile : array, shape (order, cross, disp)
        Only the first order is used: of others, parts may be outside the detector.
    traces : callable
    start : float
        Angle to begin with [deg].

    Returns
    -------
    angle : float
        [deg]
    shift : float
        By which the centroids are above the trace [pixel].
    """
    row = np.arange(profile.shape[-2])[:, None]
    with np.errstate(invalid="ignore", divide="ignore"):
        centroid = (row * profile[0]).sum(0) / profile[0].sum(0)
    at = traces(start)[0]
    whole = np.isfinite(centroid) & (at > _MARGIN) & (at < profile.shape[-2] - 1 - _MARGIN)
    angle, shift = start, 0.0
    for _ in range(_ROUNDS):
        rise = (traces(angle + _STEP)[0] - traces(angle - _STEP)[0]) / (2 * _STEP)
        design = np.stack([rise, np.ones_like(rise)], axis=1)[whole]
        residual = (centroid - traces(angle)[0] - shift)[whole]
        step = np.linalg.lstsq(design, residual, rcond=None)[0]
        angle, shift = angle + float(step[0]), shift + float(step[1])
        if np.abs(design @ step).max() < _TOLERANCE:
            break
    return angle, shift


def fit_position(
    image: HostArray, error: HostArray, profile: HostArray, traces: Traces, start: float
) -> Position:
    """Fit the angle of the wheel and a shift across the dispersion to an image.

    Parameters
    ----------
    image, error : array, shape (cross, disp)
        Pixels where either is not finite, or the error is not positive, are left out.
    profile : array, shape (order, cross, disp)
        Of a reference; it holds for the angle at which the trace of the first order runs through
        it (:func:`profile_position`).
    traces : callable
        Angle [deg] to the row of each order in each column, (order, disp).
    start : float
        Angle to begin with [deg].

    Returns
    -------
    Position
    """
    coefficients = profile_coefficients(profile)
    origin = traces(profile_position(profile, traces, start)[0])
    good = np.isfinite(image) & np.isfinite(error) & (error > 0)
    data, known = np.where(good, image, 0.0), np.where(good, error, 1.0) ** -2.0 * good
    weight = known
    angle, shift, converged = start, 0.0, False
    for _ in range(_ROUNDS):
        normal, right, residual, chi2 = _system(
            data, weight, coefficients, (traces, origin), (angle, shift)
        )
        step = np.linalg.solve(normal, right)
        angle, shift = angle + float(step[0]), shift + float(step[1])
        reach = traces(angle) - traces(angle - float(step[0]))
        converged = bool(np.nanmax(np.abs(reach)) + abs(step[1]) < _TOLERANCE)
        if converged:
            break
        far = residual**2 * known > _FAR**2 * max(chi2, 1.0)
        weight = np.where(far, 0.0, known)
    error_of = np.sqrt(np.diag(np.linalg.inv(normal)) * max(chi2, 1.0))
    return Position(angle, shift, float(error_of[0]), float(error_of[1]), chi2, converged)


def _system(
    data: HostArray,
    weight: HostArray,
    coefficients: HostArray,
    model: tuple[Traces, HostArray],
    at: tuple[float, float],
) -> tuple[HostArray, HostArray, HostArray, float]:
    """Return the normal equations of a step in angle and shift, the residual and its chi square."""
    (traces, origin), (angle, shift) = model, at
    move = traces(angle) - origin + shift
    rise = (traces(angle + _STEP) - traces(angle - _STEP)) / (2 * _STEP)
    there = np.isfinite(move) & np.isfinite(rise)
    move, rise = np.where(there, move, 0.0), np.where(there, rise, 0.0)
    seen = there[:, None, :]
    # light that all rows of a column share is no trace
    flat = np.ones((1, *data.shape))
    basis = np.concatenate([np.where(seen, moved_profile(coefficients, move), 0.0), flat])
    slope = np.where(seen, moved_profile(coefficients, move, derivative=True), 0.0)
    gram = np.einsum("arc,brc->cab", basis, weight * basis, optimize=True)
    inverse = np.linalg.pinv(gram, rcond=1e-9, hermitian=True)

    def amplitudes(values: HostArray) -> HostArray:
        seen_by = np.einsum("arc,rc->ca", basis, weight * values, optimize=True)
        return np.einsum("cab,cb->ac", inverse, seen_by)

    def left(values: HostArray) -> HostArray:
        return values - np.einsum("ac,arc->rc", amplitudes(values), basis, optimize=True)

    light = amplitudes(data)[:-1]
    residual = left(data)
    # a trace that moves up falls in rows where its slope falls
    turned, moved = (
        left(-np.einsum("oc,orc->rc", light * d, slope, optimize=True))
        for d in (rise, np.ones_like(rise))
    )
    columns = np.stack([turned, moved])
    normal = np.einsum("irc,jrc->ij", columns, weight * columns, optimize=True)
    right = np.einsum("irc,rc->i", columns, weight * residual, optimize=True)
    free = int((weight > 0).sum()) - int((np.linalg.matrix_rank(gram, hermitian=True)).sum()) - 2
    chi2 = float((weight * residual**2).sum() / max(free, 1))
    return normal, right, residual, chi2

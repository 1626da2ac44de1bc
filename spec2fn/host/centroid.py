"""The centre of a point source in an image, by a least-squares fit of a Gaussian."""

from __future__ import annotations

import numpy as np

from spec2fn.typing import HostArray

__all__ = ["cut_around", "gaussian_centroid"]

_WIDTHS = (1.0, 10.0)  # FWHM of a point source [pixel]: neither a hot pixel nor the background
_SEEN = 0.5  # share of the fitted light that has to fall on usable pixels
_PEAK = 5.0  # in standard deviations of the residuals


def cut_around(
    image: HostArray, centre: tuple[float, float], size: int
) -> tuple[HostArray, tuple[int, int]]:
    """Cut a square out of an image, as far as it lies on the image.

    Parameters
    ----------
    image : array, shape (ny, nx)
    centre : (float, float)
        Zero-indexed pixel (x, y); rounded to the nearest pixel.
    size : int
        Width of the square [pixel].

    Returns
    -------
    cutout : array
        View of the image, possibly empty.
    origin : (int, int)
        Pixel (x, y) of its first element.
    """
    edges = []
    for position, length in zip(centre, image.shape[::-1], strict=True):
        first = round(position) - size // 2
        edges.append((min(max(first, 0), length), min(max(first + size, 0), length)))
    (x0, x1), (y0, y1) = edges
    return image[y0:y1, x0:x1], (x0, y0)


def gaussian_centroid(image: HostArray) -> tuple[float, float] | str:
    """Fit an elliptical Gaussian without background and return its centre.

    All finite pixels have the same weight. The starting values are the moments of the image
    above its minimum, the widths are free in every direction (the exponent is a quadratic form).

    Parameters
    ----------
    image : array, shape (ny, nx)
        Pixels that are not finite are left out.

    Returns
    -------
    (float, float) or str
        Zero-indexed pixel (x, y); or why what was fitted is no star: the image is flat, the fit
        does not converge, its peak is no maximum inside the image, is not above the noise, is
        too wide or too narrow, or most of its light falls on pixels that are not finite (a
        saturated star: the fit then hangs on its wings or on the background).
    """
    from scipy.optimize import least_squares

    y, x = np.nonzero(np.isfinite(image))
    data = np.asarray(image, dtype=np.float64)[y, x]
    start = _moments(x, y, data)
    if start is None:
        return "the image is flat"
    scale = start[0]

    def residuals(p: HostArray) -> HostArray:
        return (_gaussian(p, x, y)[0] - data) / scale

    def slopes(p: HostArray) -> HostArray:
        model, profile = _gaussian(p, x, y)
        dx, dy = x - p[1], y - p[2]
        columns = (
            profile,
            model * (2 * p[3] * dx + p[4] * dy),
            model * (2 * p[5] * dy + p[4] * dx),
            -model * dx * dx,
            -model * dx * dy,
            -model * dy * dy,
        )
        return np.stack(columns, axis=1) / scale

    with np.errstate(over="ignore", invalid="ignore"):
        try:
            fit = least_squares(residuals, start, jac=slopes, x_scale="jac", xtol=1e-12)
        except ValueError:  # the model overflowed on the way: a fit that runs off
            return "it ran off"
    amplitude, x0, y0, a, b, c = fit.x
    ny, nx = image.shape
    peaked = amplitude > 0 and a > 0 and 4 * a * c > b * b
    if not (fit.success and peaked and 0 <= x0 <= nx - 1 and 0 <= y0 <= ny - 1):
        return "it has no maximum inside the image"
    return _implausible(fit.x, x, y, data) or (float(x0), float(y0))


def _implausible(p: HostArray, x: HostArray, y: HostArray, data: HostArray) -> str:
    """Why a fitted Gaussian is no image of a star, or nothing."""
    model = _gaussian(p, x, y)[0]
    curvature = np.linalg.eigvalsh([[p[3], p[4] / 2], [p[4] / 2, p[5]]])
    narrow, wide = 2 * np.sqrt(np.log(2) / curvature[::-1])
    if narrow < _WIDTHS[0] or wide > _WIDTHS[1]:
        return (
            f"its full widths are {narrow:.1f} and {wide:.1f} pixels, those of a star are from"
            f" {_WIDTHS[0]:.0f} to {_WIDTHS[1]:.0f}"
        )
    seen = model.sum() / (p[0] * np.pi / np.sqrt(curvature.prod()))
    if seen < _SEEN:
        return f"{1 - seen:.0%} of its light falls on pixels that are not finite"
    left = data - model
    noise = 1.4826 * np.median(np.abs(left - np.median(left)))
    if p[0] < _PEAK * noise:
        return f"its peak is {p[0] / noise:.1f} standard deviations, needs {_PEAK:.0f}"
    return ""


def _gaussian(p: HostArray, x: HostArray, y: HostArray) -> tuple[HostArray, HostArray]:
    dx, dy = x - p[1], y - p[2]
    profile = np.exp(-(p[3] * dx * dx + p[4] * dx * dy + p[5] * dy * dy))
    return p[0] * profile, profile


def _moments(x: HostArray, y: HostArray, data: HostArray) -> HostArray | None:
    if data.size == 0:
        return None
    light = data - data.min()
    total = light.sum()
    if not total > 0:
        return None
    x0, y0 = (light * x).sum() / total, (light * y).sum() / total
    xx = (light * (x - x0) ** 2).sum() / total
    yy = (light * (y - y0) ** 2).sum() / total
    xy = (light * (x - x0) * (y - y0)).sum() / total
    covariance = np.array([[xx, xy], [xy, yy]]) + 1e-6 * (1 + xx + yy) * np.eye(2)
    inverse = np.linalg.inv(covariance)
    return np.array([light.max(), x0, y0, inverse[0, 0] / 2, inverse[0, 1], inverse[1, 1] / 2])

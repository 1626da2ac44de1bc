"""Figures of the embedded example with cubes: image, aperture, spectrum, residuals by band."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spec2fn.demo.comparison import Comparison
from spec2fn.demo.cubes import bands

__all__ = ["plot_cubes"]

Array = np.ndarray[Any, Any]


def plot_cubes(
    path: Path, mode: str, comparisons: Sequence[Comparison], products: Mapping[str, Any]
) -> Path:
    """Plot the collapsed cube of each band beside its spectrum and the truth.

    Parameters
    ----------
    path : Path
    mode : str
        Of the demo, for the title.
    comparisons : sequence of Comparison
        By band.
    products : mapping
        ``s3d`` and ``x1d``.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = len(comparisons)
    figure = Figure(figsize=(14, 0.6 + 4.6 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"{mode}: cube, extracted spectrum against truth, and residual / error")
    grid = figure.add_gridspec(2 * rows, 2, height_ratios=[2.6, 1.0] * rows, width_ratios=[1, 2])
    cubes, spectra = (bands(products[n]) for n in ("s3d", "x1d"))
    for k, (c, (_, cube), (_, x1d)) in enumerate(zip(comparisons, cubes, spectra, strict=True)):
        image = figure.add_subplot(grid[2 * k : 2 * k + 2, 0])
        _plot_image(figure, image, cube, x1d.isel(spectrum=0))
        spectrum = figure.add_subplot(grid[2 * k, 1])
        pulls = figure.add_subplot(grid[2 * k + 1, 1], sharex=spectrum)
        _plot_spectrum(spectrum, c)
        _plot_pulls(pulls, c)
    figure.savefig(path, dpi=100, metadata={"Software": None})
    return path


def _plot_image(figure: Any, axis: Any, cube: Any, spectrum: Any) -> None:
    from matplotlib.colors import AsinhNorm
    from matplotlib.patches import Circle

    planes = np.asarray(cube["sci"].values, np.float64)
    good = np.isfinite(planes)
    count = good.sum(0)
    image = np.where(good, planes, 0.0).sum(0) / np.maximum(count, 1)
    # spaxels at the rim of the field of view have no data at most wavelengths
    image[count < 0.5 * count.max()] = np.nan
    size = float(np.sqrt(cube["pixar_a2"]))
    ny, nx = image.shape
    extent = [v * size for v in (-nx / 2, nx / 2, -ny / 2, ny / 2)]
    sky = float(np.nanmedian(image))
    deviation = 1.48 * float(np.nanmedian(np.abs(image - sky)))
    low, high = sky - 3 * deviation, float(np.nanmax(image))
    norm = AsinhNorm(linear_width=5 * deviation, vmin=low, vmax=high)
    shown = axis.imshow(image, origin="lower", extent=extent, cmap="viridis", norm=norm)
    axis.set_facecolor("0.85")
    bar = figure.colorbar(shown, ax=axis, shrink=0.7, label="mean surface brightness [MJy/sr]")
    ticks = [t for t in _ticks(sky, high) if low <= t <= high]
    bar.set_ticks(ticks, labels=[f"{t:g}" for t in ticks])
    x, y = (float(spectrum[n]) for n in ("extr_x", "extr_y"))
    centre = ((x + 0.5 - nx / 2) * size, (y + 0.5 - ny / 2) * size)
    radius = size * np.sqrt(np.nanmedian(spectrum["npixels"].values) / np.pi)
    axis.add_patch(Circle(centre, radius, fill=False, color="w", lw=1.5))
    axis.set_title("mean over wavelength, aperture", fontsize=10)
    axis.set_xlabel("west [arcsec]")
    axis.set_ylabel("north [arcsec]")


def _ticks(low: float, high: float) -> list[float]:
    """1, 2, 5, 10, … around these values."""
    decades = np.arange(np.floor(np.log10(max(low, 1e-3))), np.ceil(np.log10(high)) + 1)
    return [float(m * 10**d) for d in decades for m in (1, 2, 5)]


def _plot_spectrum(axis: Any, c: Comparison) -> None:
    scale, unit = (1e3, "mJy") if np.nanmax(c.truth) > 3e-4 else (1e6, "µJy")
    wave, clean = c.wavelength, c.clean
    axis.errorbar(
        wave[clean],
        scale * c.flux[clean],
        scale * c.error[clean],
        fmt=".",
        ms=3,
        lw=0.8,
        label="extracted",
    )
    flagged = ~clean & np.isfinite(c.flux) & (c.flux != 0)
    axis.plot(
        wave[flagged], scale * c.flux[flagged], "x", ms=4, color="0.6", label="flagged pixels"
    )
    axis.plot(wave, scale * c.truth, "k-", lw=1, label="truth", zorder=3)
    bias = 100 * (c.flux[clean].sum() / c.truth[clean].sum() - 1)
    axis.set_title(
        f"{c.name}: flux {bias:+.2f} %, S/N {c.signal_to_noise:.0f}, residual / error: mean"
        f" {c.mean:+.3f}, std. dev. {c.scatter:.3f}",
        fontsize=10,
    )
    axis.set_ylabel(f"flux density [{unit}]")
    axis.tick_params(labelbottom=False)
    axis.legend(frameon=False)


def _plot_pulls(axis: Any, c: Comparison) -> None:
    axis.plot(c.wavelength[c.clean], c.pull[c.clean], ".", ms=3)
    axis.axhline(0.0, color="k", lw=0.8)
    for level in (-1, 1):
        axis.axhline(level, color="k", lw=0.6, ls=":")
    axis.set_ylim(-5, 5)
    axis.set_xlabel("wavelength [µm]")
    axis.set_ylabel("residual / error")

"""Figures of the embedded example: truth, extracted spectra, residuals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spec2fn.demo.comparison import Comparison

__all__ = ["plot"]

Array = np.ndarray[Any, Any]

_COLUMNS = 4  # of slits on a page


def plot(
    path: Path, mode: str, comparisons: Sequence[Comparison], products: Mapping[str, Any]
) -> Path:
    """Plot spectra against truth: one of its own large, those of many slits on a page.

    Parameters
    ----------
    path : Path
    mode : str
        Of the demo, for the title.
    comparisons : sequence of Comparison
    products : mapping
        ``s2d`` has the rectified images of slits.
    """
    if len(comparisons) == 1:
        return _plot_target(path, mode, comparisons[0])
    return _plot_slits(path, mode, comparisons, products["s2d"])


def _plot_slits(path: Path, mode: str, comparisons: Sequence[Comparison], rectified: Any) -> Path:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    by_slit = {c.slit: c for c in comparisons}
    names = [*by_slit, *(n for n in rectified.names if n not in by_slit)]
    columns = _COLUMNS if len(names) > _COLUMNS else 2
    rows = -(-len(names) // columns)
    width, height = 5.0 * columns, 3.6 * rows + 0.7
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    figure.suptitle(
        f"{mode}: rectified image, spectrum (points) against truth (line), and residual / error"
        " of every slit",
        y=1 - 0.2 / height,
    )
    page = figure.add_gridspec(
        rows,
        columns,
        left=0.6 / width,
        right=1 - 0.15 / width,
        bottom=0.5 / height,
        top=1 - 0.65 / height,
        wspace=0.16,
        hspace=0.28,
    )
    for k, name in enumerate(names):
        parts = page[divmod(k, columns)].subgridspec(
            3, 1, height_ratios=[1.1, 2.4, 1.0], hspace=0.08
        )
        image = figure.add_subplot(parts[0])
        one = rectified.slit(name)
        _show(image, one)
        image.tick_params(labelsize=7)
        if name not in by_slit:
            image.set_title(f"slit {name}: {one['source_name'].item()}, background", fontsize=9)
            image.set_xlabel("wavelength [µm]", fontsize=8)
            continue
        image.set_title(_title(by_slit[name]), fontsize=9)
        spectrum = figure.add_subplot(parts[1], sharex=image)
        pulls = figure.add_subplot(parts[2], sharex=image)
        _plot_one(spectrum, pulls, by_slit[name])
        for axis in (spectrum, pulls):
            axis.tick_params(labelsize=7)
        for axis in (image, spectrum):
            axis.tick_params(labelbottom=False)
    # tight: a last row of backgrounds only leaves room below
    figure.savefig(path, dpi=90, bbox_inches="tight", metadata={"Software": None})
    return path


def _title(c: Comparison) -> str:
    return (
        f"slit {c.slit}: {c.name}, S/N {c.signal_to_noise:.0f}, pulls: mean {c.mean:+.2f},"
        f" std. dev. {c.scatter:.2f}"
    )


def _show(axis: Any, slit: Any) -> None:
    image = np.asarray(slit["sci"].values, dtype=np.float64)
    wave = np.asarray(slit["wavelength"].values)[0]
    low, high = np.nanpercentile(image, (2.0, 99.0))
    known = np.isfinite(wave)
    # cells end half-way between the wavelengths of the columns
    ends = (wave[known][1:] + wave[known][:-1]) / 2
    ends = np.concatenate([[2 * wave[known][0] - ends[0]], ends, [2 * wave[known][-1] - ends[-1]]])
    rows = np.arange(len(image) + 1) - 0.5
    axis.pcolormesh(
        ends, rows, image[:, known], vmin=low, vmax=high, cmap="viridis", rasterized=True
    )
    axis.set_facecolor("0.85")
    axis.set_ylabel("row", fontsize=8)


def _plot_one(axis: Any, pulls: Any, c: Comparison) -> None:
    scale, unit = (1e6, "µJy") if c.unit == "Jy" else (1.0, "MJy sr$^{-1}$")
    wave, clean = c.wavelength, c.clean
    axis.plot(wave[clean], scale * c.flux[clean], ".", ms=2.5, color="C0")
    lower, upper = (scale * (c.flux + k * c.error) for k in (-1, 1))
    axis.vlines(wave[clean], lower[clean], upper[clean], lw=0.5, color="C0", alpha=0.6)
    order = np.argsort(wave)
    axis.plot(wave[order], scale * c.truth[order], "k-", lw=0.8, zorder=3)
    axis.set_ylabel(unit, fontsize=8)
    values = scale * np.concatenate([c.flux[clean], c.truth[clean]])
    margin = 0.08 * np.ptp(values)
    axis.set_ylim(values.min() - margin, values.max() + margin)
    pulls.plot(wave[clean], c.pull[clean], ".", ms=2, color="C0")
    pulls.axhline(0.0, color="k", lw=0.8)
    for level in (-1, 1):
        pulls.axhline(level, color="k", lw=0.5, ls=":")
    pulls.set_ylim(-5, 5)
    pulls.set_ylabel("pull", fontsize=8)
    pulls.set_xlabel("wavelength [µm]", fontsize=8)


def _plot_target(path: Path, mode: str, comparison: Comparison) -> Path:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    series = comparison.flux.ndim == 2
    figure = Figure(figsize=(9, 9 if series else 6.5), layout="constrained")
    FigureCanvasAgg(figure)
    ratios = [3, 1.4, 1.6] if series else [3, 1.4]
    axes = figure.subplots(len(ratios), 1, height_ratios=ratios)
    axes[1].sharex(axes[0])
    _plot_spectrum(axes[0], comparison)
    axes[0].set_title(
        f"{mode}: residual / error has mean {comparison.mean:+.3f},"
        f" standard deviation {comparison.scatter:.3f}"
    )
    _plot_pulls(axes[1], comparison)
    if series:
        _plot_light_curve(axes[2], comparison)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    return path


def _first(values: Array) -> Array:
    return values[0] if values.ndim == 2 else values


def _plot_spectrum(axis: Any, comparison: Comparison) -> None:
    wave = comparison.wavelength
    flux, error, truth, clean = (
        _first(v) for v in (comparison.flux, comparison.error, comparison.truth, comparison.clean)
    )
    label = "extracted (first integration)" if comparison.flux.ndim == 2 else "extracted"
    axis.errorbar(
        wave[clean], 1e3 * flux[clean], 1e3 * error[clean], fmt=".", ms=3, lw=0.8, label=label
    )
    flagged = ~clean & np.isfinite(flux)
    axis.plot(
        wave[flagged], 1e3 * flux[flagged], "x", ms=4, color="0.6", label="flagged pixels in box"
    )
    order = np.argsort(wave)
    axis.plot(wave[order], 1e3 * truth[order], "k-", lw=1, label="truth", zorder=3)
    axis.set_ylabel("flux density [mJy]")
    axis.legend(frameon=False)


def _plot_pulls(axis: Any, comparison: Comparison) -> None:
    wave = np.broadcast_to(comparison.wavelength, comparison.flux.shape)
    clean = comparison.clean
    axis.plot(wave[clean], comparison.pull[clean], ".", ms=3 if clean.ndim == 1 else 1.5)
    axis.axhline(0.0, color="k", lw=0.8)
    for level in (-1, 1):
        axis.axhline(level, color="k", lw=0.6, ls=":")
    axis.set_ylim(-5, 5)
    axis.set_xlabel("wavelength [µm]")
    axis.set_ylabel("residual / error")


def _plot_light_curve(axis: Any, comparison: Comparison) -> None:
    always = comparison.clean.all(0)
    number = np.arange(1, len(comparison.flux) + 1)
    scale = comparison.truth[:, always].sum(1).max()
    flux = comparison.flux[:, always].sum(1) / scale
    error = np.sqrt((comparison.error[:, always] ** 2).sum(1)) / scale
    axis.plot(number, comparison.truth[:, always].sum(1) / scale, "k-", lw=1, label="truth")
    axis.errorbar(number, flux, error, fmt="o", ms=4, label="extracted, all wavelengths")
    axis.set_xlabel("integration")
    axis.set_ylabel("relative flux")
    axis.legend(frameon=False)

"""Figures of the embedded examples: images, extracted spectra against truth, residuals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.demo.comparison import Comparison, LineComparison
from spec2fn.demo.line_figure import plot_lines
from spec2fn.demo.orders import plot_orders
from spec2fn.pieces import pieces_of

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from spec2fn.slits import Slits

__all__ = ["plot"]

_COLUMNS = 4  # of slits on a page
_METADATA = {"Software": None}  # equal figures are equal files


def plot(
    path: Path, mode: str, comparisons: Sequence[Comparison], products: Mapping[str, Any]
) -> Path:
    """Plot spectra against truth: of cubes, one of its own large, or those of many slits on a page.

    Parameters
    ----------
    path : Path
    mode : str
        Of the demo, for the title.
    comparisons : sequence of Comparison
    products : mapping
        ``s3d`` and ``x1d`` of cubes, which are collapsed; ``s2d``, the rectified images of slits.
        Of a slitless exposure ``cal``, ``flat_field`` and ``simul``, the image and its model, and
        ``uncorrected``, comparisons of spectra from which no contamination is subtracted. Of
        overlapping orders ``cal`` and ``models``, see :func:`spec2fn.demo.orders.plot_orders`.
    """
    if any(isinstance(c, LineComparison) for c in comparisons):
        plot_lines(_figure, path, comparisons, products["s2d"])
    elif "s3d" in products:
        _plot_cubes(path, mode, comparisons, products)
    elif "models" in products:
        plot_orders(path, mode, comparisons, products)
    elif "simul" in products:
        _plot_field(path, mode, comparisons, products)
    elif len(comparisons) == 1:
        _plot_target(path, mode, comparisons[0])
    else:
        _plot_slits(path, mode, comparisons, products["s2d"])
    return path


def _figure(size: tuple[float, float], *, constrained: bool = True) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained" if constrained else None)
    FigureCanvasAgg(figure)
    return figure


def _plot_pulls(
    axis: Axes,
    c: Comparison,
    *,
    size: float = 3,
    width: float = 0.6,
    label: tuple[str, float | None] = ("residual / error", None),
) -> None:
    wave = np.broadcast_to(c.wavelength, c.flux.shape)
    axis.plot(wave[c.clean], c.pull[c.clean], ".", ms=size, color="C0")
    axis.axhline(0.0, color="k", lw=0.8)
    for level in (-1, 1):
        axis.axhline(level, color="k", lw=width, ls=":")
    axis.set_ylim(-5, 5)
    text, font = label
    axis.set_xlabel("wavelength [µm]", fontsize=font)
    axis.set_ylabel(text, fontsize=font)


def _plot_spectrum(axis: Axes, c: Comparison, scale: float, extracted: str, flagged: str) -> None:
    """Plot a spectrum, the first of a time series, with error bars, and the truth."""
    flux, error, truth, clean = (np.atleast_2d(v)[0] for v in (c.flux, c.error, c.truth, c.clean))
    wave = c.wavelength
    errors = scale * error[clean]
    axis.errorbar(wave[clean], scale * flux[clean], errors, fmt=".", ms=3, lw=0.8, label=extracted)
    bad = ~clean & np.isfinite(flux) & (flux != 0)
    axis.plot(wave[bad], scale * flux[bad], "x", ms=4, color="0.6", label=flagged)
    order = np.argsort(wave)
    axis.plot(wave[order], scale * truth[order], "k-", lw=1, label="truth", zorder=3)
    axis.legend(frameon=False)


def _plot_target(path: Path, mode: str, c: Comparison) -> None:
    series = c.flux.ndim == 2
    figure = _figure((9, 9 if series else 6.5))
    ratios = [3, 1.4, 1.6] if series else [3, 1.4]
    axes = figure.subplots(len(ratios), 1, height_ratios=ratios)
    axes[1].sharex(axes[0])
    extracted = "extracted (first integration)" if series else "extracted"
    _plot_spectrum(axes[0], c, 1e3, extracted, "flagged pixels in box")
    axes[0].set_ylabel("flux density [mJy]")
    axes[0].set_title(
        f"{mode}: residual / error has mean {c.mean:+.3f}, standard deviation {c.scatter:.3f}"
    )
    _plot_pulls(axes[1], c, size=1.5 if series else 3)
    if series:
        _plot_light_curve(axes[2], c)
    figure.savefig(path, dpi=110, metadata=_METADATA)


def _plot_light_curve(axis: Axes, comparison: Comparison) -> None:
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


def _plot_slits(path: Path, mode: str, comparisons: Sequence[Comparison], rectified: Slits) -> None:
    by_slit = {c.slit: c for c in comparisons}
    names = [*by_slit, *(n for n in rectified.names if n not in by_slit)]
    columns = _COLUMNS if len(names) > _COLUMNS else 2
    rows = -(-len(names) // columns)
    width, height = 5.0 * columns, 3.6 * rows + 0.7
    figure = _figure((width, height), constrained=False)
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
        slit = rectified.slit(name)
        _show(image, slit)
        image.tick_params(labelsize=7)
        if name not in by_slit:
            image.set_title(f"slit {name}: {slit['source_name'].item()}, background", fontsize=9)
            image.set_xlabel("wavelength [µm]", fontsize=8)
            continue
        image.set_title(_title(by_slit[name]), fontsize=9)
        axis = figure.add_subplot(parts[1], sharex=image)
        pulls = figure.add_subplot(parts[2], sharex=image)
        _plot_small(axis, by_slit[name])
        _plot_pulls(pulls, by_slit[name], size=2, width=0.5, label=("pull", 8))
        for one in (axis, pulls):
            one.tick_params(labelsize=7)
        for one in (image, axis):
            one.tick_params(labelbottom=False)
    # tight: a last row of backgrounds only leaves room below
    figure.savefig(path, dpi=90, bbox_inches="tight", metadata=_METADATA)


def _plot_field(
    path: Path, mode: str, comparisons: Sequence[Comparison], products: Mapping[str, Any]
) -> None:
    """Plot the grism image with its boxes, the model and what is left, and spectra."""
    image, model = (np.asarray(products[n]["sci"].values) for n in ("flat_field", "simul"))
    rows = -(-len(comparisons) // _COLUMNS)
    figure = _figure((18, 4.6 + 3.4 * rows))
    figure.suptitle(
        f"{mode}: grism image with the boxes of orders, model of all sources, residual; spectra of"
        " order 1 against truth"
    )
    grid = figure.add_gridspec(rows + 1, 12, height_ratios=[1.5, *[1.0] * rows])
    level = 6 * float(np.nanmedian(np.abs(image - np.nanmedian(image)))) * 1.48
    titles = ("image", "model", "image - model")
    for k, (title, shown) in enumerate(zip(titles, (image, model, image - model), strict=True)):
        axis = figure.add_subplot(grid[0, 4 * k : 4 * k + 4])
        axis.imshow(shown, origin="lower", vmin=-level, vmax=level, cmap="RdBu_r", aspect="auto")
        axis.set_title(title, fontsize=10)
        axis.tick_params(labelsize=7)
        if not k:
            _boxes(axis, products["cal"])
    before = {c.name: c for c in products["uncorrected"]}
    for k, c in enumerate(comparisons):
        row, column = divmod(k, _COLUMNS)
        axis = figure.add_subplot(grid[row + 1, 3 * column : 3 * column + 3])
        raw = before.get(c.name)
        if raw is not None:
            axis.plot(raw.wavelength, 1e6 * raw.flux, "-", color="C1", lw=0.8, label="uncorrected")
        _plot_small(axis, c)
        low, high = (f(c.wavelength[c.clean]) for f in (np.min, np.max))
        axis.set_xlim(low - 0.04 * (high - low), high + 0.04 * (high - low))
        axis.set_title(_title(c).replace("slit", "source", 1), fontsize=9)
        axis.set_xlabel("wavelength [µm]", fontsize=8)
        axis.tick_params(labelsize=7)
        if raw is not None:
            axis.legend(frameon=False, fontsize=7)
    figure.savefig(path, dpi=90, metadata=_METADATA)


def _boxes(axis: Axes, slits: Slits) -> None:
    from matplotlib.patches import Rectangle

    names = ("xstart", "ystart", "xsize", "ysize", "spectral_order")
    for x, y, width, height, order in zip(*map(slits.variable, names), strict=True):
        corner = (float(x) - 1.5, float(y) - 1.5)
        color = f"C{2 + int(order) % 7}"
        axis.add_patch(Rectangle(corner, int(width), int(height), fill=False, ec=color, lw=0.6))


def _title(c: Comparison) -> str:
    return (
        f"slit {c.slit}: {c.name}, S/N {c.signal_to_noise:.0f}, pulls: mean {c.mean:+.2f},"
        f" std. dev. {c.scatter:.2f}"
    )


def _show(axis: Axes, slit: xr.Dataset) -> None:
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


def _plot_small(axis: Axes, c: Comparison) -> None:
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


def _plot_cubes(
    path: Path, mode: str, comparisons: Sequence[Comparison], products: Mapping[str, Any]
) -> None:
    """Plot the collapsed cube of each band beside its spectrum and the truth."""
    rows = len(comparisons)
    figure = _figure((14, 0.6 + 4.6 * rows))
    figure.suptitle(f"{mode}: cube, extracted spectrum against truth, and residual / error")
    grid = figure.add_gridspec(2 * rows, 2, height_ratios=[2.6, 1.0] * rows, width_ratios=[1, 2])
    cubes, spectra = (pieces_of(products[n]) for n in ("s3d", "x1d"))
    for k, (c, cube, x1d) in enumerate(zip(comparisons, cubes, spectra, strict=True)):
        image = figure.add_subplot(grid[2 * k : 2 * k + 2, 0])
        _plot_image(figure, image, cube, x1d.isel(spectrum=0))
        axis = figure.add_subplot(grid[2 * k, 1])
        pulls = figure.add_subplot(grid[2 * k + 1, 1], sharex=axis)
        scale, unit = (1e3, "mJy") if np.nanmax(c.truth) > 3e-4 else (1e6, "µJy")
        _plot_spectrum(axis, c, scale, "extracted", "flagged pixels")
        bias = 100 * (c.flux[c.clean].sum() / c.truth[c.clean].sum() - 1)
        axis.set_title(
            f"{c.name}: flux {bias:+.2f} %, S/N {c.signal_to_noise:.0f}, residual / error: mean"
            f" {c.mean:+.3f}, std. dev. {c.scatter:.3f}",
            fontsize=10,
        )
        axis.set_ylabel(f"flux density [{unit}]")
        axis.tick_params(labelbottom=False)
        _plot_pulls(pulls, c)
    figure.savefig(path, dpi=100, metadata=_METADATA)


def _plot_image(figure: Figure, axis: Axes, cube: xr.Dataset, spectrum: xr.Dataset) -> None:
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
    extent = (-nx / 2 * size, nx / 2 * size, -ny / 2 * size, ny / 2 * size)
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

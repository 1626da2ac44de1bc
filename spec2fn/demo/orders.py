"""Overlapping orders of one source: spectra against truth, and the figure of the example."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from spec2fn.demo.comparison import Comparison, flagged, spectrum_columns, usable
from spec2fn.forward.niriss import instrument as nis
from spec2fn.typing import HostArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from spec2fn.forward.rendered import Rendered

__all__ = [
    "Depth",
    "Models",
    "binned_ratio",
    "compare_orders",
    "plot_orders",
    "read_models",
    "transit_depth",
    "white_light",
]

_COLORS = {1: "C0", 2: "C3", 3: "C2"}
_BIN = 32  # columns of a point of a spectrum of depths


def compare_orders(products: Mapping[str, Any], rendered: Rendered) -> tuple[Comparison, ...]:
    """Compare the spectra of all orders, where their throughput is above 5 % of its peak.

    Parameters
    ----------
    products : mapping of str to Dataset
        ``cal``, which tells where pixels are flagged, and ``x1d``.
    rendered : Rendered

    Returns
    -------
    tuple of Comparison
        One for each order, with all integrations.
    """
    extracted, op = products["x1d"], rendered.operators["science"]
    bad = flagged(products["cal"])
    rows = np.arange(bad.shape[-2])[:, None]
    out = []
    for k in range(extracted.sizes["spectrum"]):
        one = extracted.isel(spectrum=k)
        order = int(one["sporder"])
        share = op.profile[op.orders.index(order)]
        middle = (rows * share).sum(0) / share.sum(0)
        touched = (bad & (np.abs(rows - middle) < nis.BOX / 2 + 0.5)).any(-2)
        wave, flux, error = spectrum_columns(one)
        known = np.isfinite(wave)
        wave, flux, error = wave[known], flux[..., known], error[..., known]
        # a spectrum has a wavelength for every column from the first
        touched = touched[..., : len(wave)]
        lit = nis.lit(order, wave)
        wave, flux, error, touched = (v[..., lit] for v in (wave, flux, error, touched))
        clean = usable(wave, flux, error) & ~touched
        truth = rendered.truth.at(wave)
        out.append(Comparison(wave, flux, error, truth, clean, f"order {order}"))
    return tuple(out)


class Depth(NamedTuple):
    """Depth of a transit by wavelength, and what it should be."""

    wavelength: HostArray
    depth: HostArray
    error: HostArray
    truth: HostArray


def _in_transit(c: Comparison) -> tuple[HostArray, HostArray]:
    """Integrations of full depth, and those before and after the transit."""
    curve = c.truth.sum(1) / c.truth.sum(1).max()
    return curve < curve.min() + 1e-6, curve > 1 - 1e-6


def transit_depth(c: Comparison, columns: int = _BIN) -> Depth:
    """Return the depth of a transit in bins of so many columns.

    Columns with a flagged pixel in any integration are left out.
    """
    inside, outside = _in_transit(c)
    (good,) = np.nonzero(c.clean.all(0))
    bins = np.array_split(good, max(len(good) // columns, 1))

    def light(values: HostArray, which: HostArray) -> HostArray:
        return np.array([values[which][:, b].sum(1).mean() for b in bins])

    def noise(which: HostArray) -> HostArray:
        number = which.sum()
        return np.array([np.sqrt((c.error[which][:, b] ** 2).sum()) / number for b in bins])

    low, high = (light(c.flux, which) for which in (inside, outside))
    truth = 1 - light(c.truth, inside) / light(c.truth, outside)
    error = low / high * np.hypot(noise(inside) / low, noise(outside) / high)
    return Depth(np.array([c.wavelength[b].mean() for b in bins]), 1 - low / high, error, truth)


def white_light(c: Comparison) -> tuple[HostArray, HostArray, HostArray]:
    """Return flux of all clean wavelengths, its error, and the truth, relative to no transit."""
    good = c.clean.all(0)
    _, outside = _in_transit(c)
    flux, truth = c.flux[:, good].sum(1), c.truth[:, good].sum(1)
    level = truth[outside].mean()
    error = np.sqrt((c.error[:, good] ** 2).sum(1))
    return flux / level, error / level, truth / level


class Models(NamedTuple):
    """Models of the first integration and apertures, (order, y, x)."""

    images: HostArray
    apertures: HostArray


def read_models(path: Path) -> Models:
    """Read the product with the models of the traces."""
    from astropy.io import fits

    with fits.open(path) as hdus:
        planes = [
            np.stack([np.asarray(h.data[0], np.float64) for h in hdus if h.name.startswith(name)])
            for name in ("ORDER", "APER")
        ]
    return Models(*planes)


def plot_orders(
    path: Path, mode: str, comparisons: Sequence[Comparison], products: Mapping[str, Any]
) -> None:
    """Plot the frame, the model of each order and what is left; spectra, depths, light curves.

    Parameters
    ----------
    path : Path
    mode : str
    comparisons : sequence of Comparison
        Of orders.
    products : mapping
        ``cal``, and ``models``, see :func:`read_models`.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(16, 15), layout="constrained")
    FigureCanvasAgg(figure)
    pulls = "; ".join(
        f"{c.name}: mean {c.mean:+.2f}, std. dev. {c.scatter:.3f}" for c in comparisons
    )
    figure.suptitle(
        f"{mode}: three orders that overlap on the detector.  residual / error of {pulls}"
    )
    page = figure.add_gridspec(6, 2, height_ratios=[1.2, 1.2, 1.2, 2.4, 1.2, 2.1])
    _plot_images(figure, page, products)
    spectrum = figure.add_subplot(page[3, :])
    residual = figure.add_subplot(page[4, :], sharex=spectrum)
    _plot_spectra(spectrum, residual, comparisons)
    _plot_depths(figure.add_subplot(page[5, 0]), comparisons[:2])
    _plot_light_curves(figure.add_subplot(page[5, 1]), comparisons[:2])
    figure.savefig(path, dpi=90, metadata={"Software": None})


def _plot_images(figure: Figure, page: Any, products: Mapping[str, Any]) -> None:  # noqa: ANN401 - a GridSpec
    from matplotlib.colors import AsinhNorm, Normalize

    cal, models = products["cal"], products["models"]
    image, error = (np.asarray(cal[n].values[0], np.float64) for n in ("sci", "err"))
    total = models.images.sum(0)
    scale = 10.0 ** np.ceil(np.log10(np.nanpercentile(total, 99.0)))
    bright: Any = AsinhNorm(linear_width=scale / 100, vmin=-scale / 200, vmax=scale)
    light = {"norm": bright, "cmap": "magma"}
    shown: list[tuple[str, HostArray, Mapping[str, Any]]] = [
        ("first integration, calibrated [DN/s]", image, light),
        ("sum of the models", np.where(models.apertures.any(0), total, np.nan), light),
    ]
    for k, (part, box) in enumerate(zip(models.images, models.apertures, strict=True), start=1):
        shown.append(
            (f"model of order {k} in its aperture", np.where(box > 0, part, np.nan), light)
        )
    left = {"norm": Normalize(-4, 4), "cmap": "RdBu_r"}
    title = "(image - models) / error; what is beyond the ends of orders has no model"
    shown.append((title, (image - total) / error, left))
    for k, (title, values, how) in enumerate(shown):
        axis = figure.add_subplot(page[k // 2, k % 2])
        mesh = axis.imshow(values, origin="lower", aspect="auto", interpolation="none", **how)
        axis.set_facecolor("0.85")
        axis.set_title(title, fontsize=10)
        axis.tick_params(labelsize=7)
        bar = figure.colorbar(mesh, ax=axis, pad=0.01, fraction=0.03)
        if how is light:
            ticks = [0.0, scale / 100, scale / 10, scale]
            bar.set_ticks(ticks, labels=[f"{t:g}" for t in ticks])
        bar.ax.tick_params(labelsize=7)


def _plot_spectra(axis: Axes, below: Axes, comparisons: Sequence[Comparison]) -> None:
    for c in comparisons:
        color, flux = _color(c), np.where(c.clean, c.flux, np.nan)[0]
        axis.plot(c.wavelength, 1e3 * flux, ".", ms=2.5, color=color, label=c.name)
        wave, ratio, error = binned_ratio(c)
        below.errorbar(wave, 1e2 * (ratio - 1), 1e2 * error, fmt="o", ms=2.5, lw=0.8, color=color)
    for c in comparisons:
        label = "truth" if c is comparisons[0] else None
        axis.plot(c.wavelength, 1e3 * c.truth[0], "k-", lw=0.8, label=label)
    axis.set_ylabel("flux density [mJy]")
    axis.set_title("first integration, where the throughput is above 5 % of its peak", fontsize=10)
    axis.legend(frameon=False, markerscale=3)
    axis.tick_params(labelbottom=False)
    below.axhline(0.0, color="k", lw=0.8)
    for level in (-1, 1):
        below.axhline(level, color="k", lw=0.6, ls=":")
    below.set_ylim(-3, 3)
    below.set_xlabel("wavelength [µm]")
    below.set_ylabel(f"all integrations,\n{_BIN} columns:\nflux / truth - 1 [%]", fontsize=9)


def _color(c: Comparison) -> str:
    return _COLORS[int(c.name.split()[1])]


def binned_ratio(c: Comparison) -> tuple[HostArray, HostArray, HostArray]:
    """Return wavelength, ratio of flux to truth and its error, in bins of columns.

    Of all integrations together; columns with a flagged pixel in any of them are left out.
    """
    (good,) = np.nonzero(c.clean.all(0))
    bins = np.array_split(good, max(len(good) // _BIN, 1))
    wave = np.array([c.wavelength[b].mean() for b in bins])
    flux, truth = (np.array([v[:, b].sum() for b in bins]) for v in (c.flux, c.truth))
    error = np.array([np.sqrt((c.error[:, b] ** 2).sum()) for b in bins])
    return wave, flux / truth, error / truth


def _plot_depths(axis: Axes, comparisons: Sequence[Comparison]) -> None:
    for c in comparisons:
        one = transit_depth(c)
        bars = axis.errorbar(
            one.wavelength, 1e2 * one.depth, 1e2 * one.error, fmt="o", ms=3, lw=0.8, color=_color(c)
        )
        bars.set_label(c.name)
        axis.plot(one.wavelength, 1e2 * one.truth, "k-", lw=1, zorder=3)
    axis.set_xlabel("wavelength [µm]")
    axis.set_ylabel("transit depth [%]")
    axis.set_title(f"depth in bins of {_BIN} columns, and truth", fontsize=10)
    axis.legend(frameon=False)


def _plot_light_curves(axis: Axes, comparisons: Sequence[Comparison]) -> None:
    for k, c in enumerate(comparisons):
        flux, error, truth = white_light(c)
        number, shift = np.arange(1, len(flux) + 1), -0.01 * k
        bars = axis.errorbar(number, flux + shift, error, fmt="o", ms=4, color=_color(c))
        bars.set_label(f"{c.name}, {shift:+.2f}" if k else c.name)
        axis.plot(number, truth + shift, "k-", lw=1, zorder=0)
    axis.set_xlabel("integration")
    axis.set_ylabel("relative flux")
    axis.set_title("light curves of all wavelengths together, and truth", fontsize=10)
    axis.legend(frameon=False)

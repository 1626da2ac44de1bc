"""The embedded example: render an exposure of known truth, calibrate it, compare.

Needs neither a network nor CRDS files: exposure, reference files and an offline CRDS cache are
made by :mod:`spec2fn.forward`, and calibrated the way real data are.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.dq import Pixel
from spec2fn.errors import InputError, nearest

if TYPE_CHECKING:
    import xarray as xr

    from spec2fn.forward.render import Rendered

__all__ = ["DEMOS", "Comparison", "Demo", "compare", "run_demo"]

Array = np.ndarray[Any, Any]

DEMOS = ("miri-lrs-slit", "miri-lrs-slitless")
"""Modes there is an example of."""

CONTEXT = "jwst_0001.pmap"
_REACH = 8.0  # pixels on either side of the source whose flags matter
_FLAGS = np.uint32(Pixel.DO_NOT_USE | Pixel.JUMP_DET)


@dataclass(frozen=True)
class Comparison:
    """Extracted spectrum against truth.

    Attributes
    ----------
    wavelength : array, shape (n,)
        [um]
    flux, error, truth : array, shape ([integration,] n)
        [Jy]; `error` includes the covariance of the resampling.
    clean : array of bool, shape ([integration,] n)
        Where no flagged pixel contributed and everything is finite.
    """

    wavelength: Array
    flux: Array
    error: Array
    truth: Array
    clean: Array

    @property
    def pull(self) -> Array:
        """Residual in standard errors."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray((self.flux - self.truth) / self.error)

    @property
    def mean(self) -> float:
        """Mean pull of the clean points: 0 for an unbiased spectrum."""
        return float(np.mean(self.pull[self.clean]))

    @property
    def scatter(self) -> float:
        """Standard deviation of the pulls of the clean points: 1 for honest errors."""
        return float(np.std(self.pull[self.clean]))


@dataclass(frozen=True)
class Demo:
    """What :func:`run_demo` made.

    Attributes
    ----------
    mode : str
    folder : pathlib.Path
    files : mapping of str to Path
        ``input``, ``cache``, ``truth``, ``figure`` and the products by kind.
    comparison : Comparison
    seconds : mapping of str to float
        Time by stage.
    """

    mode: str
    folder: Path
    files: Mapping[str, Path]
    comparison: Comparison
    seconds: Mapping[str, float]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        c = self.comparison
        return {
            "mode": self.mode,
            "folder": str(self.folder),
            "files": {k: str(v) for k, v in self.files.items()},
            "points": int(c.clean.sum()),
            "mean_pull": round(c.mean, 4),
            "std_pull": round(c.scatter, 4),
            "median_signal_to_noise": round(float(np.median((c.flux / c.error)[c.clean])), 1),
            "seconds": {k: round(v, 2) for k, v in self.seconds.items()},
        }

    def __str__(self) -> str:
        c, facts = self.comparison, self.as_dict()
        width = max(map(len, self.files))
        lines = [f"{self.mode}: rendered, calibrated and compared in {self._total:.1f} s"]
        lines += [f"  {k:{width}s}  {v}" for k, v in self.files.items()]
        lines.append(
            f"extracted flux against truth at {facts['points']} points without flagged pixels"
            f" (median S/N {facts['median_signal_to_noise']:.0f}):"
        )
        lines.append(
            f"  residual / error: mean {c.mean:+.3f} (unbiased: 0),"
            f" standard deviation {c.scatter:.3f} (honest errors: 1)"
        )
        return "\n".join(lines)

    @property
    def _total(self) -> float:
        return sum(self.seconds.values())


def run_demo(
    mode: str,
    output_dir: str | os.PathLike[str],
    seed: int = 0,
    *,
    integrations: int = 10,
    progress: Callable[[str], Any] | None = None,
) -> Demo:
    """Render an exposure with a known spectrum, calibrate it and compare the result.

    Parameters
    ----------
    mode : {"miri-lrs-slit", "miri-lrs-slitless"}
    output_dir : path
        Where everything goes; made if it does not exist.
    seed : int
        Of noise, flat and bad pixels.
    integrations : int
        Of the time series.
    progress : callable, optional
        Called with the name of each stage and step.

    Returns
    -------
    Demo

    Raises
    ------
    InputError
        For an unknown mode, or a folder that cannot be written.
    """
    if mode not in DEMOS:
        msg = f"no demo {mode!r}{nearest(mode, DEMOS)}; there are {', '.join(DEMOS)}"
        raise InputError(msg)
    if integrations < 1:
        msg = f"demo: integrations must be at least 1, got {integrations}"
        raise InputError(msg)
    from spec2fn.calibration import calibrate, output_folder
    from spec2fn.refs import use_cache

    tell = progress or (lambda _: None)
    folder = output_folder(output_dir).resolve()
    clock = _Clock()
    tell("render")
    rendered, association, cache = _render(mode, folder, seed, integrations)
    clock.lap("render")
    params = {"pixel_replace": {"skip": False}}
    if mode == "miri-lrs-slit":
        params["targ_centroid"] = {"skip": False}
    with use_cache(cache, CONTEXT):
        result = calibrate(association, folder / "products", params=params, progress=progress)
    clock.lap("calibrate")
    tell("compare")
    comparison = compare(result.products["x1d"], result.products["cal"], rendered)
    files = {
        "input": association,
        "cache": cache,
        **dict(result.files),
        "truth": _write_truth(folder / "truth.fits", rendered),
        "figure": _plot(folder / f"{mode}.png", mode, comparison),
    }
    clock.lap("compare")
    return Demo(mode, folder, files, comparison, clock.laps)


def compare(extracted: xr.Dataset, calibrated: xr.Dataset, rendered: Rendered) -> Comparison:
    """Compare an extracted spectrum with what was rendered.

    Parameters
    ----------
    extracted : xarray.Dataset
        The ``x1d`` product: dims ([integration,] spectrum, wave).
    calibrated : xarray.Dataset
        The ``cal`` product, which tells where pixels are flagged.
    rendered : Rendered

    Returns
    -------
    Comparison
    """
    one = extracted.isel(spectrum=0)
    wave = np.asarray(one["wavelength"].data, dtype=np.float64)
    if wave.ndim == 2:
        wave = wave[0]
    known = np.isfinite(wave)
    column = "flux_error_cov" if "flux_error_cov" in one else "flux_error"
    flux, error = (np.asarray(one[n].data, dtype=np.float64) for n in ("flux", column))
    truth = rendered.truth.at(np.where(known, wave, rendered.truth.wavelength[0]))
    clean = np.isfinite(flux) & np.isfinite(error) & (error > 0) & known
    clean &= ~_touched(calibrated, rendered, wave)
    return Comparison(wave, flux, error, truth, clean)


def _touched(calibrated: xr.Dataset, rendered: Rendered, wave: Array) -> Array:
    """Whether a flagged pixel lies under the source, by wavelength."""
    op = rendered.operators["science"]
    (y0, y1), (x0, x1) = op.window
    cut = (..., slice(y0, y1), slice(x0, x1))
    bad = (np.asarray(calibrated["dq"].data)[cut] & _FLAGS) != 0
    near = (op.lower < op.position + _REACH) & (op.upper > op.position - _REACH) & (op.gain > 0)
    rows = (bad & near).any(-1)
    of_row = np.asarray(calibrated["wavelength"].data)[cut]
    of_row = np.where(op.gain > 0, of_row, np.nan)
    seen = np.isfinite(of_row).any(1)
    of_row = np.array([np.nanmedian(w) for w in of_row[seen]])
    order = np.argsort(of_row)
    nearest_row = np.searchsorted((of_row[order][1:] + of_row[order][:-1]) / 2, wave)
    return np.asarray(rows[..., seen][..., order][..., nearest_row])


class _Clock:
    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name] = now - self._last
        self._last = now


def _render(mode: str, folder: Path, seed: int, integrations: int) -> tuple[Rendered, Path, Path]:
    """Write exposures, association, references and cache; return the last three's truth."""
    from spec2fn.forward.render import render_miri_lrs_slit, render_miri_lrs_slitless
    from spec2fn.refs import CacheEntry, write_cache

    cache = folder / "crds_cache"
    references = cache / "references" / "jwst" / "miri"
    references.mkdir(parents=True, exist_ok=True)
    if mode == "miri-lrs-slit":
        rendered = render_miri_lrs_slit(seed, folder=references)
    else:
        rendered = render_miri_lrs_slitless(seed, integrations, folder=references)
    entries = [
        CacheEntry(f.path, "miri", f.reftype, {k.upper(): v for k, v in f.match.items()})
        for f in rendered.reference_files
    ]
    write_cache(cache, entries, CONTEXT)
    return rendered, rendered.write(folder), cache


def _write_truth(path: Path, rendered: Rendered) -> Path:
    from astropy.io import fits

    truth = rendered.truth
    flux = np.atleast_2d(truth.flux)
    table = fits.BinTableHDU.from_columns(
        [
            fits.Column("WAVELENGTH", "D", unit="um", array=truth.wavelength),
            fits.Column("FLUX", f"{len(flux)}D", unit="Jy", array=flux.T),
        ],
        name="TRUTH",
    )
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(path, overwrite=True)
    return path


def _plot(path: Path, mode: str, comparison: Comparison) -> Path:
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

"""Figure of the lines of a lamp: the rectified slits, their spectra, and where lines were found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from spec2fn.demo.comparison import Comparison, LineComparison

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from spec2fn.slits import Slits

__all__ = ["plot_lines"]

_SOFTWARE = {"Software": None}  # equal figures are equal files
_LIMIT = 0.05  # pixel


def plot_lines(
    figure_of: Callable[[tuple[float, float]], Figure],
    path: Path,
    comparisons: Sequence[Comparison],
    rectified: Slits,
) -> None:
    """Plot image, spectrum and offsets of the lines of each slit.

    Parameters
    ----------
    figure_of : callable
        Makes a figure of a size [inch].
    path : Path
    comparisons : sequence of LineComparison
    rectified : Slits
    """
    slits = [c for c in comparisons if isinstance(c, LineComparison)]
    figure = figure_of((14, 0.6 + 3.6 * len(slits)))
    figure.suptitle("nirspec-lamp: lines of a lamp through fixed slits, and where they were found")
    grid = figure.add_gridspec(3 * len(slits), 1, height_ratios=[0.8, 1.6, 1.0] * len(slits))
    for k, c in enumerate(slits):
        image, spectrum, offsets = (figure.add_subplot(grid[3 * k + i, 0]) for i in range(3))
        wave, flux = c.spectrum
        slit = rectified.slit(c.slit)
        planes = np.asarray(slit["sci"].values, np.float64)
        columns = np.asarray(slit["wavelength"].values, np.float64)[0]
        ends = np.interp(np.arange(columns.size + 1) - 0.5, np.arange(columns.size), columns)
        high = float(np.nanpercentile(planes, 99.5))
        rows = np.arange(planes.shape[0] + 1) - 0.5
        image.pcolormesh(ends, rows, planes, vmin=0, vmax=high, cmap="viridis", rasterized=True)
        image.set_facecolor("0.85")
        image.set_ylabel("row", fontsize=8)
        image.set_title(f"slit {c.slit}: {c}", fontsize=10)
        spectrum.vlines(c.wavelength, 0, 1.05 * flux.max(), color="C1", lw=0.6, label="lines")
        spectrum.plot(wave, flux, "-", lw=0.9, color="C0", label="extracted")
        spectrum.set_ylabel("DN s$^{-1}$ in a row", fontsize=8)
        spectrum.legend(frameon=False, fontsize=8, loc="upper right")
        error = c.error / c.pixel
        good = c.clean
        offsets.errorbar(c.wavelength[good], c.offset[good], error[good], fmt=".", ms=4, lw=0.8)
        offsets.axhline(0.0, color="k", lw=0.8)
        for limit in (-_LIMIT, _LIMIT):
            offsets.axhline(limit, color="k", lw=0.6, ls=":")
        offsets.set_ylim(-2 * _LIMIT, 2 * _LIMIT)
        offsets.set_ylabel("offset [pixel]", fontsize=8)
        for axis in (image, spectrum, offsets):
            axis.set_xlim(ends[0], ends[-1])
            axis.tick_params(labelsize=7, labelbottom=axis is offsets)
    offsets.set_xlabel("wavelength [µm]")
    figure.savefig(path, dpi=90, metadata=_SOFTWARE)

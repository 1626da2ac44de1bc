"""Extracted spectra against the truth: of one source, of slits, of cubes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.cubes import Cubes
from spec2fn.dq import Pixel
from spec2fn.pieces import pieces_of
from spec2fn.schema import meta_of
from spec2fn.typing import HostArray
from spec2fn.units import MJY_TO_JY

if TYPE_CHECKING:
    import xarray as xr

    from spec2fn.forward.rendered import Rendered, Source

__all__ = ["Comparison", "LineComparison", "compare", "flagged", "spectrum_columns", "usable"]

_REACH = 8.0  # pixels on either side of a source in an image whose flags matter
_MARGIN = 1.0  # pixels beside the box of a slit
_RADIUS = 2.5  # distance from the source in a cube, in widths of its image
_CLOSE = 1.2  # planes and pixels on either side of a flagged pixel that share its light
_COMPLETE = 0.999
_DARK = 0.02  # um beyond the wavelengths of a source in an image that are of no interest
_EDGE = 0.22  # part of a band at either end of which the response falls
_FEWEST = 20  # wavelengths of a spectrum that is worth a comparison
_NEAR = 6.0  # pixels on either side of a line to which its profile is fitted


@dataclass(frozen=True)
class Comparison:
    """Extracted spectrum against truth.

    Attributes
    ----------
    wavelength : array, shape (n,)
        [um]
    flux, error, truth : array, shape ([integration,] n)
        In `unit`; `error` includes the covariance of the resampling.
    clean : array of bool, shape ([integration,] n)
        Where no flagged pixel contributed and everything is finite.
    name, slit : str
        Of the source, where there are several.
    unit : str
        Of flux, error and truth.
    """

    wavelength: HostArray
    flux: HostArray
    error: HostArray
    truth: HostArray
    clean: HostArray
    name: str = "target"
    slit: str = ""
    unit: str = "Jy"

    @property
    def pull(self) -> HostArray:
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

    @property
    def signal_to_noise(self) -> float:
        """Median signal-to-noise ratio of the clean points, not negative."""
        return max(float(np.median((self.flux / self.error)[self.clean])), 0.0)

    def __str__(self) -> str:
        return (
            f"mean {self.mean:+.3f}  standard deviation {self.scatter:.3f}"
            f"  points {self.clean.sum()}  median S/N {self.signal_to_noise:.0f}"
        )


@dataclass(frozen=True)
class LineComparison(Comparison):
    """Wavelengths of the lines of a lamp against truth.

    Attributes
    ----------
    wavelength, truth : array, shape (n,)
        Where the lines are [um].
    flux, error : array, shape (n,)
        Where they were found, and its standard error [um].
    clean : array of bool, shape (n,)
        Lines whose profile could be fitted.
    pixel : array, shape (n,)
        Size of a pixel there [um].
    spectrum : tuple of two arrays
        Wavelength [um] and count rate [DN/s] in a row of the slit.
    name, slit, unit
        See :class:`Comparison`.
    """

    pixel: HostArray = field(default_factory=lambda: np.empty(0))
    spectrum: tuple[HostArray, HostArray] = (np.empty(0), np.empty(0))
    unit: str = "um"

    @property
    def offset(self) -> HostArray:
        """How far from where they are the lines were found [pixel]."""
        return np.asarray((self.flux - self.truth) / self.pixel)

    def __str__(self) -> str:
        offset = self.offset[self.clean]
        return (
            f"{len(offset)} lines, {offset.mean():+.4f} pixel from the truth on average,"
            f" {np.abs(offset).max():.3f} at most"
        )


def compare(products: Mapping[str, Any], rendered: Rendered) -> tuple[Comparison, ...]:
    """Compare extracted spectra with what was rendered; not of overlapping orders.

    Parameters
    ----------
    products : mapping of str to Dataset, Slits or Cubes
        ``cal``, which tells where pixels are flagged, and ``x1d``; ``s2d`` of slits, if there is.
    rendered : Rendered

    Returns
    -------
    tuple of Comparison
        One for each source, the target first, or for each cube.
    """
    if "s3d" in products:
        x1d = products["x1d"]
        names = x1d.names if isinstance(x1d, Cubes) else ("",)
        return tuple(
            _of_cube(name, one, products["cal"], rendered)
            for name, one in zip(names, pieces_of(x1d), strict=True)
        )
    if any(s.kind == "lamp" for s in rendered.sources):
        return tuple(_of_lines(products["x1d"], source) for source in rendered.sources)
    if rendered.files:
        found = (_of_trace(products, source) for source in rendered.sources)
        return tuple(one for one in found if one is not None)
    if rendered.sources:
        # the slitlet that the background is measured in is no source
        mos = rendered.setups["science"].exp_type == "NRS_MSASPEC"
        sources = [s for s in rendered.sources if not (mos and s.kind == "empty")]
        return tuple(_of_slit(products, source) for source in sources)
    return (_of_image(products["x1d"], products["cal"], rendered),)


def spectrum_columns(spectrum: xr.Dataset) -> tuple[HostArray, HostArray, HostArray]:
    """Wavelength, flux and its error, which counts the covariance of resampling if it is known."""
    names = (
        "wavelength",
        "flux",
        "flux_error_cov" if "flux_error_cov" in spectrum else "flux_error",
    )
    wave, flux, error = (np.asarray(spectrum[n].values, dtype=np.float64) for n in names)
    return (wave[0] if wave.ndim == 2 else wave), flux, error


def usable(wave: HostArray, flux: HostArray, error: HostArray) -> HostArray:
    """Return where everything is finite and the error positive."""
    return np.isfinite(wave) & np.isfinite(flux) & np.isfinite(error) & (error > 0)


def flagged(ds: xr.Dataset, *more: Pixel) -> HostArray:
    """Pixels that are not to be used, or have another flag."""
    flags = np.bitwise_or.reduce([np.uint32(f) for f in (Pixel.DO_NOT_USE, *more)])
    return (np.asarray(ds["dq"].values) & flags) != 0


def _in_order(flags: HostArray, lines: HostArray, wave: HostArray) -> HostArray:
    """Flags of rows or columns, whose wavelengths are `lines`, at the nearest of other ones."""
    order = np.argsort(lines)
    ends = (lines[order][1:] + lines[order][:-1]) / 2
    nearest = np.searchsorted(ends, np.where(np.isfinite(wave), wave, ends[0]))
    return np.asarray(flags[..., order][..., nearest])


def _of_image(extracted: xr.Dataset, cal: xr.Dataset, rendered: Rendered) -> Comparison:
    """Compare the one spectrum of an image, or of each image of a time series."""
    wave, flux, error = spectrum_columns(extracted.isel(spectrum=0))
    truth = rendered.truth.at(np.where(np.isfinite(wave), wave, rendered.truth.wavelength[0]))
    op = rendered.operators["science"]
    rows, columns = (slice(*w) for w in op.window)
    near = (op.lower < op.position + _REACH) & (op.upper > op.position - _REACH) & (op.gain > 0)
    across = -1 if cal.attrs["dispaxis"] == 2 else -2
    bad = (flagged(cal, Pixel.JUMP_DET)[..., rows, columns] & near).any(across)
    of_pixel = np.where(op.gain > 0, np.asarray(cal["wavelength"].data)[rows, columns], np.nan)
    lines = np.moveaxis(of_pixel, across, -1)
    seen = np.isfinite(lines).any(1)
    of_line = np.nanmedian(lines[seen], axis=1)
    touched = _in_order(bad[..., seen], of_line, wave)
    clean = usable(wave, flux, error) & ~touched
    # a filter leaves most of a slitless image dark
    lit = ~((wave < of_line.min() - _DARK) | (wave > of_line.max() + _DARK))
    flux, error, truth, clean = (v[..., lit] for v in (flux, error, truth, clean))
    return Comparison(wave[lit], flux, error, truth, clean)


def _of_cube(band: str, extracted: xr.Dataset, cal: xr.Dataset, rendered: Rendered) -> Comparison:
    """Compare the spectrum of the target in a cube."""
    wave, flux, error = spectrum_columns(extracted.isel(spectrum=0))
    clean = usable(wave, flux, error) & ~_planes_touched(cal, rendered, wave)
    name = f"target in {band}" if band else "target"
    return Comparison(wave, flux, error, rendered.truth.at(wave), clean, name)


def _planes_touched(cal: xr.Dataset, rendered: Rendered, wave: HostArray) -> HostArray:
    """Whether a flagged pixel lies under the source, by plane."""
    _, point = rendered.operators["science"].parts
    window = tuple(slice(*w) for w in point.window)
    reach = _RADIUS * point.sigma
    near = (point.gain > 0) & (point.lower < reach) & (point.upper > -reach)
    near &= (point.near < reach) & (point.far > -reach)
    bad = flagged(cal)[window] & near
    of_pixel = np.asarray(cal["wavelength"].data)[window]
    step = np.abs(np.gradient(of_pixel, axis=0 if cal.attrs["dispaxis"] == 2 else 1))
    bad &= np.isfinite(of_pixel) & np.isfinite(step)
    planes = np.abs(np.gradient(wave))
    out = np.zeros(wave.shape, bool)
    for center, width in zip(of_pixel[bad], step[bad], strict=True):
        out |= np.abs(wave - center) < _CLOSE * (width + planes) / 2
    return out


def _of_slit(products: Mapping[str, Any], source: Source) -> Comparison:
    """Compare flux density, or the surface brightness within the box of a source of some extent."""
    spectra = products["x1d"]
    (row,) = np.flatnonzero(spectra["sltname"].values == source.slit)
    one = spectra.isel(spectrum=int(row))
    wave, flux, error = spectrum_columns(one)
    pixels = np.asarray(one["npixels"].values)
    truth = source.truth.at(np.where(np.isfinite(wave), wave, source.truth.wavelength[0]))
    slit = products["cal"].slit(source.slit)
    along, unit = _along(slit)
    width = float(one["extrystp"]) - float(one["extrystr"]) + 1.0
    centre = float(slit["source_ypos"])
    if source.kind != "point":
        rectified = products["s2d"].slit(source.slit)
        place, weight = _box_rows(rectified, one)
        centre = float(np.average(place, weights=weight))
        if source.profile is not None:
            truth = truth * np.average(source.profile(place), weights=weight)
        area = pixels * float(rectified["pixar_sr"]) * MJY_TO_JY
        with np.errstate(divide="ignore", invalid="ignore"):
            flux, error = flux / area, error / area
    near = np.abs(along - centre) < (width / 2 + _MARGIN) * unit
    # at the ends of a spectrum that is tilted a part of the box is not lit
    clean = usable(wave, flux, error) & (pixels > _COMPLETE * np.nanmax(pixels))
    clean &= ~_columns_touched(slit, near, wave)
    brightness = "Jy" if source.kind == "point" else "MJy/sr"
    return Comparison(wave, flux, error, truth, clean, source.name, source.slit, brightness)


def _of_lines(spectra: xr.Dataset, source: Source) -> LineComparison:
    """Compare the wavelengths of the lines of a lamp, seen through a slit."""
    from spec2fn.forward.nirspec import lamps

    (row,) = np.flatnonzero(spectra["sltname"].values == source.slit)
    one = spectra.isel(spectrum=int(row))
    wave, flux, error = spectrum_columns(one)
    known = usable(wave, flux, error)
    rows = np.asarray(one["npixels"].values)[known]
    wave, flux, error = wave[known], flux[known] / rows, error[known] / rows
    lines = lamps.LINES
    lines = lines[(lines > wave[0]) & (lines < wave[-1])]
    pixel = np.interp(lines, wave, np.gradient(wave))
    fits = [
        _position(line, size, wave, flux, error) for line, size in zip(lines, pixel, strict=True)
    ]
    found, errors = np.array(fits).T
    return LineComparison(
        lines,
        found,
        errors,
        lines,
        np.isfinite(found),
        source.name,
        source.slit,
        pixel=pixel,
        spectrum=(wave, flux),
    )


def _position(
    line: float, pixel: float, wave: HostArray, flux: HostArray, error: HostArray
) -> tuple[float, float]:
    """Centre of a Gaussian profile on a constant near a line, and its error; NaN without one."""
    from scipy.optimize import curve_fit

    near = np.abs(wave - line) < _NEAR * pixel
    if near.sum() < 2 * _NEAR - 1:
        return np.nan, np.nan
    x, y = (wave[near] - line) / pixel, flux[near]

    def profile(x: HostArray, height: float, centre: float, width: float, base: float) -> HostArray:
        return height * np.exp(-0.5 * ((x - centre) / width) ** 2) + base

    start = (float(np.ptp(y)), 0.0, 1.5, float(y.min()))
    try:
        best, covariance = curve_fit(profile, x, y, start, error[near], absolute_sigma=True)
    except RuntimeError:  # no convergence
        return np.nan, np.nan
    return line + pixel * float(best[1]), pixel * float(np.sqrt(covariance[1, 1]))


def _of_trace(products: Mapping[str, Any], source: Source) -> Comparison | None:
    """Compare the first order of a source without a slit; None if little of it was seen."""
    spectra = products["x1d"]
    rows = (spectra["sltname"].values == source.name) & (spectra["sporder"].values == 1)
    if not rows.any():
        return None
    (row,) = np.flatnonzero(rows)
    wave, flux, error = spectrum_columns(spectra.isel(spectrum=int(row)))
    cal = products["cal"]
    k = int(
        np.flatnonzero(
            (cal.variable("spectral_order") == 1) & (np.array(cal.names) == source.name)
        )[0]
    )
    slit = cal.slit(cal.ids[k])
    known = np.isfinite(wave)
    truth = source.truth.at(np.where(known, wave, source.truth.wavelength[0]))
    # where the filter lets through little, a spectrum is that of its neighbours
    low, high = source.truth.wavelength[[0, -1]]
    margin = _EDGE * (high - low)
    clean = usable(wave, flux, error) & (wave > low + margin) & (wave < high - margin)
    bad = np.asarray(flagged(slit).any(axis=0))
    clean &= ~_in_order(bad, np.nanmedian(slit["wavelength"].values, axis=0), wave)
    if clean.sum() < _FEWEST:
        return None
    return Comparison(wave, flux, error, truth, clean, source.name, source.slit)


def _along(slit: xr.Dataset) -> tuple[HostArray, float]:
    """Position of pixels along the slit, and its mean step from row to row."""
    from spec2fn.wcs.lower import lower

    wcs: Any = meta_of(slit).wcs
    y, x = np.indices(slit["sci"].shape[-2:], dtype=np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        to_slit = lower(wcs[int(slit["slit"])], "detector", "slit_frame")
        along = np.asarray(to_slit(x, y)[1])
    return along, float(np.nanmedian(np.abs(np.diff(along, axis=0))))


def _box_rows(rectified: xr.Dataset, spectrum: xr.Dataset) -> tuple[HostArray, HostArray]:
    """Position along the slit of the rows of a rectified slit, and their share in the box."""
    along, _ = _along(rectified)
    middle = along[:, along.shape[1] // 2]
    rows = np.arange(len(middle))
    low, high = (float(spectrum[n]) - 1.0 for n in ("extrystr", "extrystp"))
    weight = np.clip(np.minimum(rows - low, high - rows) + 1.0, 0.0, 1.0)
    return middle, weight


def _columns_touched(slit: xr.Dataset, near: HostArray, wave: HostArray) -> HostArray:
    """Whether a flagged pixel lies in or beside the box, by wavelength."""
    of_pixel = np.where(near, np.asarray(slit["wavelength"].values), np.nan)
    seen = np.isfinite(of_pixel).any(axis=0)
    columns = (flagged(slit) & near).any(axis=-2)
    # resampling mixes neighbours, and has none at the ends
    ends = [(0, 0)] * (columns.ndim - 1) + [(1, 1)]
    wide = np.pad(columns, ends, constant_values=True)
    columns = wide[..., :-2] | wide[..., 1:-1] | wide[..., 2:]
    return _in_order(columns[..., seen], np.nanmedian(of_pixel[:, seen], axis=0), wave)

"""The embedded example with slits: every extracted spectrum against the truth of its source."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.demo.comparison import Comparison
from spec2fn.dq import Pixel

if TYPE_CHECKING:
    import xarray as xr

    from spec2fn.forward.rendered import Rendered, Source

__all__ = ["compare_slits"]

Array = np.ndarray[Any, Any]

_FLAG = np.uint32(Pixel.DO_NOT_USE)
_MARGIN = 1.0  # pixels beside the box whose flags matter
_COMPLETE = 0.999
_JY = 1e6  # in a MJy


def compare_slits(products: Mapping[str, Any], rendered: Rendered) -> tuple[Comparison, ...]:
    """Compare the spectra of slits with what was rendered.

    Point sources are compared in flux density [Jy], others in the surface brightness within the
    extraction box [MJy/sr]. The slitlet the background is measured in is no source, and left out.

    Parameters
    ----------
    products : mapping of str to Dataset or Slits
        ``cal``, ``x1d`` and, if the spectra were resampled, ``s2d``.
    rendered : Rendered
        With sources.

    Returns
    -------
    tuple of Comparison
    """
    sources = [s for s in rendered.sources if not _measures_background(s, rendered)]
    return tuple(_compare(products, source) for source in sources)


def _measures_background(source: Source, rendered: Rendered) -> bool:
    return source.kind == "empty" and rendered.setups["science"].exp_type == "NRS_MSASPEC"


def _compare(products: Mapping[str, Any], source: Source) -> Comparison:
    spectra = products["x1d"]
    (row,) = np.flatnonzero(spectra["sltname"].values == source.slit)
    one = spectra.isel(spectrum=int(row))
    wave = np.asarray(one["wavelength"].values, dtype=np.float64)
    known = np.isfinite(wave)
    flux, error = (np.asarray(one[n].values, np.float64) for n in ("flux", "flux_error_cov"))
    pixels = np.asarray(one["npixels"].values)
    truth = source.truth.at(np.where(known, wave, source.truth.wavelength[0]))
    cut = products["cal"].slit(source.slit)
    along, unit = _along(cut)
    width = float(one["extrystp"]) - float(one["extrystr"]) + 1.0
    centre = float(cut["source_ypos"])
    name = "flux"
    if source.kind != "point":
        rectified = products["s2d"].slit(source.slit)
        place, weight = _box_rows(rectified, one)
        centre = float(np.average(place, weights=weight))
        if source.profile is not None:
            truth = truth * np.average(source.profile(place), weights=weight)
        name = "surf_bright"
        area = pixels * float(rectified["pixar_sr"]) * _JY
        with np.errstate(divide="ignore", invalid="ignore"):
            flux, error = flux / area, error / area
    near = np.abs(along - centre) < (width / 2 + _MARGIN) * unit
    # at the ends of a spectrum that is tilted a part of the box is not lit
    clean = np.isfinite(flux) & np.isfinite(error) & (error > 0) & known
    clean &= pixels > _COMPLETE * np.nanmax(pixels)
    clean &= ~_touched(cut, near, wave)
    unit_name = "Jy" if name == "flux" else "MJy/sr"
    return Comparison(wave, flux, error, truth, clean, source.name, source.slit, unit_name)


def _along(slit: xr.Dataset) -> tuple[Array, float]:
    """Position of pixels along the slit, and its mean step from row to row."""
    from spec2fn.wcs.lower import lower

    y, x = np.indices(slit["sci"].shape[-2:], dtype=np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        along = np.asarray(lower(_wcs(slit), "detector", "slit_frame")(x, y)[1])
    return along, float(np.nanmedian(np.abs(np.diff(along, axis=0))))


def _wcs(slit: xr.Dataset) -> Any:
    from spec2fn.schema import meta_of

    wcs: Any = meta_of(slit).wcs
    return wcs[int(slit["slit"])]


def _box_rows(rectified: xr.Dataset, spectrum: xr.Dataset) -> tuple[Array, Array]:
    """Position along the slit of the rows of a rectified slit, and their share in the box."""
    along, _ = _along(rectified)
    middle = along[:, along.shape[1] // 2]
    rows = np.arange(len(middle))
    low, high = (float(spectrum[n]) - 1.0 for n in ("extrystr", "extrystp"))
    weight = np.clip(np.minimum(rows - low, high - rows) + 1.0, 0.0, 1.0)
    return middle, weight


def _touched(slit: xr.Dataset, near: Array, wave: Array) -> Array:
    """Whether a flagged pixel lies in or beside the box, by wavelength."""
    bad = ((np.asarray(slit["dq"].values) & _FLAG) != 0) & near
    of_pixel = np.where(near, np.asarray(slit["wavelength"].values), np.nan)
    seen = np.isfinite(of_pixel).any(axis=0)
    columns = bad.any(axis=-2)
    # resampling mixes neighbours, and has none at the ends
    ends = [(0, 0)] * (columns.ndim - 1) + [(1, 1)]
    wide = np.pad(columns, ends, constant_values=True)
    columns = wide[..., :-2] | wide[..., 1:-1] | wide[..., 2:]
    of_column = np.nanmedian(of_pixel[:, seen], axis=0)
    order = np.argsort(of_column)
    ends = (of_column[order][1:] + of_column[order][:-1]) / 2
    nearest = np.searchsorted(ends, np.where(np.isfinite(wave), wave, ends[0]))
    return np.asarray(columns[..., seen][..., order][..., nearest])

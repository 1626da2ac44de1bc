"""The embedded example with cubes: spectra of the target against the truth, band by band."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.cubes import Cubes
from spec2fn.demo.comparison import Comparison
from spec2fn.dq import Pixel

if TYPE_CHECKING:
    import xarray as xr

    from spec2fn.forward.rendered import Rendered

__all__ = ["bands", "compare_cubes"]

Array = np.ndarray[Any, Any]

_FLAG = np.uint32(Pixel.DO_NOT_USE)
_REACH = 2.5  # distance from the source within which flags matter, in widths of its image
_CLOSE = 1.2  # planes and pixels on either side of a flagged pixel that share its light


def bands(product: Any) -> tuple[tuple[str, xr.Dataset], ...]:
    """Names and Datasets of a product, of which there may be one or several."""
    if isinstance(product, Cubes):
        return tuple(product.items())
    return (("", product),)


def compare_cubes(products: Mapping[str, Any], rendered: Rendered) -> tuple[Comparison, ...]:
    """Compare the spectra extracted from cubes with what was rendered.

    Parameters
    ----------
    products : mapping of str to Dataset or Cubes
        ``cal`` and ``x1d``.
    rendered : Rendered

    Returns
    -------
    tuple of Comparison
        One for each cube.
    """
    made = bands(products["x1d"])
    return tuple(_compare(name, one, products["cal"], rendered) for name, one in made)


def _compare(name: str, extracted: xr.Dataset, cal: xr.Dataset, rendered: Rendered) -> Comparison:
    one = extracted.isel(spectrum=0)
    wave, flux, error = (
        np.asarray(one[n].values, dtype=np.float64)
        for n in ("wavelength", "flux", "flux_error_cov")
    )
    truth = rendered.truth.at(wave)
    clean = np.isfinite(flux) & np.isfinite(error) & (error > 0)
    clean &= ~_touched(cal, rendered, wave)
    title = f"target in {name}" if name else "target"
    return Comparison(wave, flux, error, truth, clean, title)


def _touched(cal: xr.Dataset, rendered: Rendered, wave: Array) -> Array:
    """Whether a flagged pixel lies under the source, by plane."""
    _, point = rendered.operators["science"].parts
    (y0, y1), (x0, x1) = point.window
    cut = (slice(y0, y1), slice(x0, x1))
    bad = (np.asarray(cal["dq"].data)[cut] & _FLAG) != 0
    reach = _REACH * point.sigma
    near = (point.gain > 0) & (point.lower < reach) & (point.upper > -reach)
    near &= (point.near < reach) & (point.far > -reach)
    place = np.asarray(cal["wavelength"].data)[cut]
    axis = 0 if cal.attrs["dispaxis"] == 2 else 1
    step = np.abs(np.gradient(place, axis=axis))
    (at, thick) = (v[bad & near] for v in (place, step))
    known = np.isfinite(at) & np.isfinite(thick)
    order = np.argsort(at[known])
    at, thick = at[known][order], thick[known][order]
    planes = np.abs(np.gradient(wave))
    out = np.zeros(wave.shape, bool)
    for center, width in zip(at, thick, strict=True):
        out |= np.abs(wave - center) < _CLOSE * (width + planes) / 2
    return out

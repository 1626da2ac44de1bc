"""Spatial profiles of a point source from a PSF reference, for optimal extraction.

The reference holds the PSF at every wavelength, oversampled across the trace. It is shifted to
the source's trace and resampled to the pixels; after a nod subtraction the negative image of the
source gets a profile of its own. The positions can be refined on the data: the shift that
minimises the squared residual of the fitted scene over the read-noise variance, by the simplex
search of Nelder & Mead (1965, Computer Journal 7, 308).

Refinement looks at the first integration of the exposure only, so a plan made with the first
chunk of integrations holds for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.errors import ReferenceError
from spec2fn.kernels.extraction import optimal_extract
from spec2fn.parameters import Parameters
from spec2fn.plans.extraction.source_location import Geometry
from spec2fn.schema import meta_of, status_of
from spec2fn.typing import HostArray

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["psf_profiles"]

NOD_PATTERNS = ("ALONG-SLIT-NOD", "2-POINT-NOD")
# Below this distance [pixel] from the source a negative trace cannot be told from it.
NEAREST_NOD = 2.0


@dataclass(frozen=True, eq=False)
class _Grid:
    """Coordinates in the PSF image of every pixel of the cutout, (disp, cross)."""

    psf: HostArray
    subpixels: float
    across: HostArray
    along: HostArray

    def profiles(self, shift: float, nod_offset: float | None) -> list[HostArray]:
        """Profiles that sum to 1 (the negative one to -1) at every dispersion element."""
        from scipy.ndimage import map_coordinates

        def at(across: HostArray) -> HostArray:
            profile = map_coordinates(self.psf, [self.along, across], order=1)
            total = np.nansum(profile, axis=1, keepdims=True)
            out = np.divide(profile, total, out=np.zeros_like(profile), where=total != 0)
            return np.where(np.isfinite(out), out, 0.0)

        across = self.across + shift * self.subpixels
        if nod_offset is None:
            return [at(across)]
        return [at(across), -at(across + nod_offset * self.subpixels)]


def psf_profiles(
    ds: xr.Dataset,
    psf: xr.Dataset,
    geometry: Geometry,
    params: Parameters,
    trace: HostArray | None,
    *,
    wavelength: HostArray,
    images: Callable[[], tuple[HostArray, HostArray]],
    slit_name: str,
    dispaxis: int,
) -> tuple[tuple[HostArray, ...], float, float]:
    """Profiles of the source (and its negative nod) on the pixels of an exposure.

    Parameters
    ----------
    ds : xarray.Dataset
        For the dither keywords and the status of the background subtraction.
    psf : xarray.Dataset
        ``psf`` reference: ``psf`` image, ``wave`` [um]; keywords SUBPIX, CENTCOL, CENTROW.
    geometry : Geometry
    params : Parameters
        Of ``extract_1d``: whether to look for a negative nod if the exposure had one subtracted
        (`model_nod_pair`), and to refine the positions on the data (`optimize_psf_location`).
    trace : array of float64, (disp,) or None
        Position of the source; the middle of the slit without.
    wavelength : array of float64, (y, x)
        [um]
    images : callable
        Returns data and read-noise variance (y, x) of the first integration, NaN at bad pixels;
        called only to refine the position.
    slit_name : str
    dispaxis : int

    Returns
    -------
    profiles : tuple of array of float64, (y, x)
        Source, and negative source if there is one (values <= 0).
    lower, upper : float
        Limits across the trace.

    Raises
    ------
    ReferenceError
        If the reference has no PSF for this slit or lacks a keyword.
    """
    shape, box = wavelength.shape, geometry.box
    middle = geometry.middle()
    nod_offset = None
    if trace is None:
        trace = geometry.middle_trace(middle)
    elif params.model_nod_pair and _nod_subtracted(ds):
        offset = float(trace[int(np.round(middle.along))]) - geometry.nod(middle.wavelength)
        nod_offset = offset if np.isfinite(offset) and abs(offset) >= NEAREST_NOD else None
    (x0, x1), (y0, y1) = ((int(np.ceil(a)), int(np.ceil(b))) for a, b in box)
    cut = slice(y0, y1), slice(x0, x1)
    flip = (lambda a: a.T) if dispaxis == 1 else (lambda a: a)
    along = slice(x0, x1) if dispaxis == 1 else slice(y0, y1)
    edge = (box[1] if dispaxis == 1 else box[0])[0]
    grid = _grid(psf, flip(wavelength[cut]), trace[along] - edge, slit_name, dispaxis)
    shift = 0.0
    if params.optimize_psf_location:
        data, variance = (flip(np.asarray(a, dtype=float)[cut]) for a in images())
        shift, nod_offset = _refine(grid, data, variance, nod_offset)
    full = []
    for profile in grid.profiles(shift, nod_offset):
        image = np.zeros(shape)
        image[cut] = flip(profile)
        full.append(image)
    lower, upper = (y0, y1) if dispaxis == 1 else (x0, x1)
    return tuple(full), float(lower), float(upper)


def _nod_subtracted(ds: xr.Dataset) -> bool:
    meta = meta_of(ds)
    status = status_of(ds, "background") or str(meta.get("S_BKDSUB", ""))
    if not status.startswith("COMPLETE"):
        return False
    # without it, whether the background holds the target at the other nod is not known
    pattern = ds.attrs.get("dither_type") or meta.require(
        "PATTTYPE", "extract_1d.model_nod_pair=true after a background was subtracted"
    )
    return str(pattern) in NOD_PATTERNS


def _grid(
    psf: xr.Dataset, wavelength: HostArray, trace: HostArray, slit_name: str, dispaxis: int
) -> _Grid:
    suffix, header = _matching_psf(psf, slit_name)
    center_key = "CENTROW" if dispaxis == 1 else "CENTCOL"
    numbers = [header.get(k, meta_of(psf).get(k)) for k in ("SUBPIX", center_key)]
    if None in numbers:
        msg = f"extract_1d: the psf reference needs keywords SUBPIX and {center_key}"
        raise ReferenceError(msg)
    subpixels, center = map(float, numbers)
    image = np.asarray(psf[f"psf{suffix}"].values, dtype=float)
    waves = np.asarray(psf[f"wave{suffix}"].values, dtype=float).ravel()
    order = np.argsort(waves)
    order = order[np.isfinite(waves[order])]
    along = np.interp(wavelength, waves[order], order, left=np.nan, right=np.nan)
    columns = np.arange(wavelength.shape[1], dtype=float)
    across = (columns[None, :] - trace[:, None]) * subpixels + center
    return _Grid(image.T if dispaxis == 1 else image, subpixels, across, along)


def _matching_psf(psf: xr.Dataset, slit_name: str) -> tuple[str, Mapping[str, Any]]:
    """Suffix of the variables of the first PSF for a slit, and its header."""
    meta = meta_of(psf)
    headers = meta.records.get("headers", {})
    apertures = []
    for name in psf.data_vars:
        if not str(name).startswith("psf"):
            continue
        header = headers.get(name, meta)
        aperture = str(header.get("APERTURE", "ANY")).upper()
        if aperture in ("ANY", "NONE", slit_name.upper()):
            return str(name).removeprefix("psf"), header
        apertures.append(aperture)
    msg = (
        f"extract_1d: the psf reference has no PSF for slit {slit_name!r} (it has:"
        f" {', '.join(apertures) or 'none'}); use another reference or extraction_type=box"
    )
    raise ReferenceError(msg)


def _refine(
    grid: _Grid, data: HostArray, variance: HostArray, nod_offset: float | None
) -> tuple[float, float | None]:
    """Shift of the source, and offset of the negative one, that fit the data best."""
    from scipy.optimize import minimize

    good = np.isfinite(data) & np.isfinite(variance)
    filled = np.where(good, data, 0.0)
    basis = np.ones((data.shape[1], 1))

    def residual(values: HostArray) -> float:
        nod = float(values[1]) if len(values) > 1 else None
        profiles = grid.profiles(float(values[0]), nod)
        scene = optimal_extract(filled, good, profiles, basis).scene
        with np.errstate(divide="ignore", invalid="ignore"):
            return float(np.nansum((scene - data) ** 2 / variance))

    start = [0.0] if nod_offset is None else [0.0, nod_offset]
    best = minimize(residual, start, method="Nelder-Mead").x
    return float(best[0]), (float(best[1]) if len(best) > 1 else None)

"""The WCS of MIRI: LRS (fixed slit and slitless) and the imager.

The geometry of the LRS is described in the JWST documentation of assign_wcs and in Kendrew et
al. (2015, PASP 127, 623): the wavelength and the drift of the trace depend on the detector row
only and are tabulated (``specwcs``); position along the slit is that of the imager
(``distortion``) at the row of the reference point.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from spec2fn.errors import InputError, ReferenceError
from spec2fn.modes import mode_of
from spec2fn.schema import meta_of
from spec2fn.subarray import subarray_origin
from spec2fn.typing import HostArray
from spec2fn.wcs.assign import AssignedWcs, References, entry, file_of, reference
from spec2fn.wcs.assign.miri_gwcs import image_gwcs, spectral_gwcs
from spec2fn.wcs.assign.pointing import (
    dithered_position,
    of_subarray,
    velocity_correction,
)
from spec2fn.wcs.evaluate import evaluate, evaluate_between
from spec2fn.wcs.s_region import box_region, polygon

if TYPE_CHECKING:
    import xarray as xr
    from astropy.modeling import Model
    from gwcs import WCS

    from spec2fn.parameters import Parameters

__all__ = ["filter_offset", "imaging", "lrs"]

_WHO = "assign_wcs"
_REFERENCE_COLUMNS = 4  # light-insensitive pixels on the left edge of the detector
_SMOOTHING = 0.002  # of the splines through the tables of trace and wavelength
_VERTICES = (1, 2, 3, 4)


@dataclass(frozen=True, eq=False)
class _LrsGeometry:
    """What both halves of the LRS transform need; pixels are zero-indexed in the subarray."""

    zero: tuple[float, float]
    scale: float  # arcsec per pixel along the slit
    to_v2v3: Model
    rows: HostArray
    trace: HostArray
    wavelength: HostArray
    box: tuple[tuple[float, float], tuple[float, float]]


def lrs(ds: xr.Dataset, refs: References, _: Parameters) -> AssignedWcs:
    """Build the WCS of a MIRI LRS exposure, from ``distortion`` (ASDF) and ``specwcs`` (FITS).

    Frames: detector → alpha_beta → v2v3 → v2v3vacorr → world, the last with axes RA, Dec [deg]
    (ICRS) and barycentric vacuum wavelength [um].
    """
    specwcs = reference(refs, "specwcs", _WHO)
    geometry = _lrs_geometry(ds, _distortion(refs), specwcs)
    meta = meta_of(ds)
    to_slit = _detector_to_slit(geometry, velocity_correction(meta))
    wcs = spectral_gwcs(meta, to_slit, _slit_to_v2v3(geometry), "spec")
    scalars: dict[str, float] = {}
    if mode_of(ds).slit:
        s_region = _slit_footprint(wcs, specwcs)
        place = dithered_position(ds, wcs)
        scalars = dict(zip(("dithered_ra", "dithered_dec"), place, strict=True))
    else:
        # around the corners of the bounding box; these lie half a pixel beyond the wavelength
        # table, so that usually there is none
        x, y = np.meshgrid(*map(np.array, geometry.box))
        ra, dec = evaluate(wcs, x.ravel(), y.ravel())[:2]
        s_region = box_region(ra, dec, clockwise=True) if np.isfinite([ra, dec]).all() else None
    return AssignedWcs(wcs, dispaxis=2, s_region=s_region, scalars=scalars)


def _column(table: xr.Dataset, name: str) -> HostArray:
    for variable in table.data_vars:
        if str(variable).rpartition(".")[2] == name:
            return np.asarray(table[variable].values, dtype=np.float64)
    msg = f"{_WHO}: reference 'specwcs' ({file_of(table)}) has no column {name!r}"
    raise ReferenceError(msg)


def _distortion(refs: References) -> Model:
    ref = reference(refs, "distortion", _WHO)
    return entry(ref.attrs.get("tree", {}), f"reference 'distortion' ({file_of(ref)})", "model")


def _smooth(rows: HostArray, values: HostArray) -> HostArray:
    # smoothing spline through a tabulated quantity, evaluated at the tabulated rows again
    from scipy.interpolate import UnivariateSpline

    order = np.argsort(rows)
    return UnivariateSpline(rows[order], values[order], s=_SMOOTHING)(rows)


def _lrs_geometry(ds: xr.Dataset, distortion: Model, specwcs: xr.Dataset) -> _LrsGeometry:
    slitless = not mode_of(ds).slit
    keys = ("IMXSLTL", "IMYSLTL") if slitless else ("IMX", "IMY")
    header = meta_of(specwcs)
    origin = subarray_origin(ds)
    # the reference point is given in one-indexed pixels of the full frame
    zero = tuple(header.number(k, _WHO) - 1 - o for k, o in zip(keys, origin, strict=True))
    to_v2v3 = of_subarray(ds, distortion)
    v2, v3 = to_v2v3(np.array([zero[0], zero[0] + 1]), np.array([zero[1], zero[1]]))
    rows = _column(specwcs, "y_center") + zero[1]
    x_center = _column(specwcs, "x_center")
    y_edges = (
        np.floor(_column(specwcs, "y2").min() + zero[1]) - 0.5,
        np.ceil(_column(specwcs, "y0").max() + zero[1]) + 0.5,
    )
    if slitless:
        first = max(0, _REFERENCE_COLUMNS - origin[0])
        box = ((first - 0.5, ds.sizes["x"] - 0.5), y_edges)
    else:
        x_edges = (
            np.floor(_column(specwcs, "x0").min() + zero[0]) - 0.5,
            np.ceil(_column(specwcs, "x1").max() + zero[0]) + 0.5,
        )
        box = (x_edges, (rows.min(), rows.max()))
    return _LrsGeometry(
        zero=(zero[0], zero[1]),
        scale=float(np.hypot(v2[1] - v2[0], v3[1] - v3[0])),
        to_v2v3=to_v2v3,
        rows=rows,
        # relative to the reference point, whose column drops out up to rounding
        trace=_smooth(rows, (x_center + zero[0]) - zero[0]),
        wavelength=_smooth(rows, _column(specwcs, "wavelength")),
        box=tuple((float(a), float(b)) for a, b in box),  # type: ignore[arg-type]
    )


def _table(rows: HostArray, values: HostArray, name: str) -> Model:
    from astropy.modeling.models import Tabular1D

    return Tabular1D(
        points=rows, lookup_table=values, name=name, bounds_error=False, fill_value=np.nan
    )


def _along_slit(zero: float, scale: float) -> tuple[Model, Model]:
    # pixel -> arcsec from the reference point, and back
    from astropy.modeling.models import Polynomial1D, Shift

    return (
        Shift(-zero) | Polynomial1D(1, c0=0, c1=scale),
        Polynomial1D(1, c0=0, c1=1 / scale) | Shift(zero),
    )


def _detector_to_slit(geometry: _LrsGeometry, velocity: Model | None) -> Model:
    from astropy.modeling import bind_bounding_box
    from astropy.modeling.models import Const1D, Mapping, Shift

    zx, zy = geometry.zero
    drift = _table(geometry.rows, geometry.trace, "xshiftref")
    wavelength = _table(geometry.rows, geometry.wavelength, "waveref")
    if velocity is not None:
        wavelength = wavelength | velocity
    first, second = Mapping([0], n_inputs=2), Mapping([1], n_inputs=2)
    to_alpha, from_alpha = _along_slit(zx, geometry.scale)

    # there and back: no effect, but where later steps read the reference point of the slit from
    marker = Shift(-zx) & Shift(-zy) | Shift(zx) & Shift(zy)
    straighten = Mapping((0, 1, 0, 1)) | (first - (second | drift)) & second
    slit = Mapping((0, 1, 0)) | (first | to_alpha) & Const1D(0)
    model = Mapping((0, 1, 0, 1)) | (marker | straighten | slit) & (second | wavelength)

    to_row = wavelength.inverse
    column = Mapping((0, 2)) | from_alpha & to_row | first + (second | drift)
    row = Mapping([2], n_inputs=3) | to_row
    model.inverse = Mapping((0, 1, 2, 0, 1, 2)) | column & row
    bind_bounding_box(model, geometry.box, order="F")
    return model


def _slit_to_v2v3(geometry: _LrsGeometry) -> Model:
    from astropy.modeling.models import Identity, Mapping

    to_alpha, from_alpha = _along_slit(geometry.zero[0], geometry.scale)
    to_beta, from_beta = _along_slit(geometry.zero[1], geometry.scale)
    passed = Mapping((0, 1, 2))
    model = passed | (from_alpha & from_beta | geometry.to_v2v3) & Identity(1)
    model.inverse = passed | (geometry.to_v2v3.inverse | to_alpha & to_beta) & Identity(1)
    return model


def _slit_footprint(wcs: WCS, specwcs: xr.Dataset) -> str | None:
    header = meta_of(specwcs)
    corners = [[header.get(f"{axis}VERT{i}") for i in _VERTICES] for axis in ("V2", "V3")]
    if any(value is None for axis in corners for value in axis):
        return None
    v2, v3 = np.array(corners, dtype=np.float64)
    return polygon(*evaluate_between(wcs, "v2v3", None, v2, v3, np.zeros(len(_VERTICES)))[:2])


def filter_offset(filteroffset: xr.Dataset, name: str) -> tuple[float, float]:
    """Offset (columns, rows) [pixel] of a filter from the one the distortion was measured in.

    Raises
    ------
    ReferenceError
        If the reference has no entry for the filter.
    """
    for one in filteroffset.attrs.get("tree", {}).get("filters", ()):
        if one["filter"] == name:
            return float(one["column_offset"]), float(one["row_offset"])
    msg = f"reference 'filteroffset' ({file_of(filteroffset)}) has no filter {name!r}"
    raise ReferenceError(msg)


def imaging(ds: xr.Dataset, refs: References) -> AssignedWcs:
    """Build the WCS of a MIRI image, from ``distortion`` and ``filteroffset`` (both ASDF).

    Frames: detector → v2v3 → v2v3vacorr → world.
    """
    from astropy.modeling import bind_bounding_box
    from astropy.modeling.models import Shift

    meta = meta_of(ds)
    name = ds.attrs.get("filter") or meta.require("FILTER", _WHO)
    if not isinstance(name, str):
        msg = f"{_WHO}: keyword FILTER is {name!r}, needs the name of a filter"
        raise InputError(msg)
    columns, rows = filter_offset(reference(refs, "filteroffset", _WHO), name)
    model = of_subarray(ds, Shift(columns) & Shift(rows) | _distortion(refs))
    ny, nx = ds["sci"].shape[-2:]
    bind_bounding_box(model, ((-0.5, nx - 0.5), (-0.5, ny - 0.5)), order="F")

    return AssignedWcs(image_gwcs(meta, model))

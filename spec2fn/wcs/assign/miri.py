"""The WCS of MIRI: LRS (fixed slit and slitless) and the imager.

The geometry of the LRS is described in the JWST documentation of assign_wcs and in Kendrew et
al. (2015, PASP 127, 623): the wavelength and the drift of the trace depend on the detector row
only and are tabulated (``specwcs``); position along the slit is that of the imager
(``distortion``) at the row of the reference point.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.errors import InputError, ReferenceError
from spec2fn.modes import mode_of
from spec2fn.schema import meta_of
from spec2fn.subarray import subarray_origin
from spec2fn.wcs.assign import AssignedWcs, WcsOptions, reference
from spec2fn.wcs.assign.pointing import (
    dithered_position,
    number,
    polygon,
    subarray_shift,
    v2v3_to_sky,
    velocity_aberration,
    velocity_correction,
)

if TYPE_CHECKING:
    import xarray as xr

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
    to_v2v3: Any
    rows: np.ndarray
    trace: np.ndarray
    wavelength: np.ndarray
    box: tuple[tuple[float, float], tuple[float, float]]


def lrs(
    ds: xr.Dataset,
    refs: Mapping[str, Any],
    options: WcsOptions | None = None,  # noqa: ARG001 - for other instruments
) -> AssignedWcs:
    """Build the WCS of a MIRI LRS exposure.

    Frames: detector → alpha_beta → v2v3 → v2v3vacorr → world, the last with axes RA, Dec [deg]
    (ICRS) and barycentric vacuum wavelength [um].

    Parameters
    ----------
    ds : xarray.Dataset
        Exposure of type MIR_LRS-FIXEDSLIT or MIR_LRS-SLITLESS.
    refs : mapping
        ``distortion`` (ASDF) and ``specwcs`` (FITS table).
    options : WcsOptions, optional
        Not used.

    Returns
    -------
    AssignedWcs

    Raises
    ------
    ReferenceError, InputError
        For a missing reference, a column or a keyword it lacks, or a keyword that the exposure
        lacks.
    """
    from astropy.modeling import models
    from gwcs.wcs import WCS

    specwcs = reference(refs, "specwcs", _WHO)
    geometry = _lrs_geometry(ds, reference(refs, "distortion", _WHO), specwcs)
    meta = meta_of(ds)
    detector, alpha_beta, v2v3, v2v3vacorr, world = _lrs_frames()
    wcs = WCS(
        [
            (detector, _detector_to_slit(geometry, velocity_correction(meta))),
            (alpha_beta, _slit_to_v2v3(geometry)),
            (v2v3, velocity_aberration(meta) & models.Identity(1)),
            (v2v3vacorr, v2v3_to_sky(meta) & models.Identity(1)),
            (world, None),
        ]
    )
    scalars: dict[str, float] = {}
    if mode_of(ds).slit:
        s_region = _slit_footprint(wcs, specwcs)
        ra, dec = dithered_position(ds, wcs)
        scalars = {"dithered_ra": ra, "dithered_dec": dec}
    else:
        s_region = _box_footprint(wcs, geometry.box)
    return AssignedWcs(wcs, dispaxis=2, s_region=s_region, scalars=scalars)


def _lrs_frames() -> tuple[Any, ...]:
    from astropy import coordinates, units
    from gwcs.coordinate_frames import CelestialFrame, CompositeFrame, Frame2D, SpectralFrame

    def plane(name: str, unit: Any, names: tuple[str, str] | None = None) -> Any:
        extra = {} if names is None else {"axes_names": names}
        return Frame2D(name=name, axes_order=(0, 1), unit=(unit, unit), **extra)

    def spectral(name: str) -> Any:
        return SpectralFrame(
            name=name, axes_order=(2,), unit=(units.micron,), axes_names=("lambda",)
        )

    arcsec, spec = units.arcsec, spectral("spec")
    slit = plane("alpha_beta_spatial", arcsec, ("alpha", "beta"))
    sky = CelestialFrame(
        name="icrs",
        reference_frame=coordinates.ICRS(),
        axes_order=(0, 1),
        unit=(units.deg, units.deg),
        axes_names=("RA", "DEC"),
    )
    focal = [
        CompositeFrame([plane(f"{name}_spatial", arcsec, ("v2", "v3")), spec], name=name)
        for name in ("v2v3", "v2v3vacorr")
    ]
    return (
        plane("detector", units.pix),
        CompositeFrame([slit, spectral("alpha_beta_spectral")], name="alpha_beta"),
        *focal,
        CompositeFrame([sky, spec], name="world"),
    )


def _column(table: xr.Dataset, name: str) -> np.ndarray:
    for variable in table.data_vars:
        if str(variable).rpartition(".")[2] == name:
            return np.asarray(table[variable].values, dtype=np.float64)
    msg = f"{_WHO}: reference 'specwcs' ({_file_of(table)}) has no column {name!r}"
    raise ReferenceError(msg)


def _file_of(ref: xr.Dataset) -> str:
    return meta_of(ref).filename or str(ref.attrs.get("filename", "unnamed"))


def _model_of(ref: xr.Dataset) -> Any:
    model = ref.attrs.get("tree", {}).get("model")
    if model is None:
        msg = f"{_WHO}: reference 'distortion' ({_file_of(ref)}) holds no model"
        raise ReferenceError(msg)
    return model


def _smooth(rows: np.ndarray, values: np.ndarray) -> np.ndarray:
    # smoothing spline through a tabulated quantity, evaluated at the tabulated rows again
    from scipy.interpolate import UnivariateSpline

    order = np.argsort(rows)
    smoothed: np.ndarray = UnivariateSpline(rows[order], values[order], s=_SMOOTHING)(rows)
    return smoothed


def _lrs_geometry(ds: xr.Dataset, distortion: xr.Dataset, specwcs: xr.Dataset) -> _LrsGeometry:
    slitless = not mode_of(ds).slit
    keys = ("IMXSLTL", "IMYSLTL") if slitless else ("IMX", "IMY")
    header = meta_of(specwcs)
    origin = subarray_origin(ds)
    # the reference point is given in one-indexed pixels of the full frame
    zero = tuple(number(header, k) - 1 - o for k, o in zip(keys, origin, strict=True))
    shift = subarray_shift(ds)
    to_v2v3 = _model_of(distortion) if shift is None else shift | _model_of(distortion)
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


def _table(rows: np.ndarray, values: np.ndarray, name: str) -> Any:
    from astropy.modeling.models import Tabular1D

    return Tabular1D(
        points=rows, lookup_table=values, name=name, bounds_error=False, fill_value=np.nan
    )


def _along_slit(zero: float, scale: float) -> tuple[Any, Any]:
    # pixel -> arcsec from the reference point, and back
    from astropy.modeling.models import Polynomial1D, Shift

    return (
        Shift(-zero) | Polynomial1D(1, c0=0, c1=scale),
        Polynomial1D(1, c0=0, c1=1 / scale) | Shift(zero),
    )


def _detector_to_slit(geometry: _LrsGeometry, velocity: Any | None) -> Any:
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


def _slit_to_v2v3(geometry: _LrsGeometry) -> Any:
    from astropy.modeling.models import Identity, Mapping

    to_alpha, from_alpha = _along_slit(geometry.zero[0], geometry.scale)
    to_beta, from_beta = _along_slit(geometry.zero[1], geometry.scale)
    passed = Mapping((0, 1, 2))
    model = passed | (from_alpha & from_beta | geometry.to_v2v3) & Identity(1)
    model.inverse = passed | (geometry.to_v2v3.inverse | to_alpha & to_beta) & Identity(1)
    return model


def _slit_footprint(wcs: Any, specwcs: xr.Dataset) -> str | None:
    from spec2fn.wcs.lower import lower

    header = meta_of(specwcs)
    corners = [[header.get(f"{axis}VERT{i}") for i in _VERTICES] for axis in ("V2", "V3")]
    if any(value is None for axis in corners for value in axis):
        return None
    v2, v3 = np.array(corners, dtype=np.float64)
    ra, dec, _ = lower(wcs, "v2v3")(v2, v3, np.zeros(len(_VERTICES)))
    return polygon(ra, dec)


def _box_footprint(wcs: Any, box: tuple[tuple[float, float], tuple[float, float]]) -> str | None:
    # the rectangle in RA and Dec around the corners of the bounding box; these lie half a pixel
    # beyond the wavelength table, so that usually there is none
    from spec2fn.wcs.lower import lower

    x, y = np.meshgrid(*map(np.array, box))
    ra, dec, _ = lower(wcs)(x.ravel(), y.ravel())
    west, east, south, north = ra.min(), ra.max(), dec.min(), dec.max()
    return polygon(np.mod([west, west, east, east], 360), [south, north, north, south])


def filter_offset(filteroffset: xr.Dataset, name: str) -> tuple[float, float]:
    """Offset (columns, rows) [pixel] of a filter from the one the distortion was measured in.

    Raises
    ------
    ReferenceError
        If the reference has no entry for the filter.
    """
    for entry in filteroffset.attrs.get("tree", {}).get("filters", ()):
        if entry["filter"] == name:
            return float(entry["column_offset"]), float(entry["row_offset"])
    msg = f"reference 'filteroffset' ({_file_of(filteroffset)}) has no filter {name!r}"
    raise ReferenceError(msg)


def imaging(ds: xr.Dataset, refs: Mapping[str, Any]) -> AssignedWcs:
    """Build the WCS of a MIRI image (frames detector → v2v3 → v2v3vacorr → world).

    Parameters
    ----------
    ds : xarray.Dataset
        Exposure of the imager.
    refs : mapping
        ``distortion`` and ``filteroffset`` (both ASDF).

    Returns
    -------
    AssignedWcs
    """
    from astropy import coordinates, units
    from astropy.modeling import bind_bounding_box
    from astropy.modeling.models import Shift
    from gwcs.coordinate_frames import CelestialFrame, Frame2D
    from gwcs.wcs import WCS

    meta = meta_of(ds)
    name = ds.attrs.get("filter") or meta.require("FILTER", _WHO)
    if not isinstance(name, str):
        msg = f"{_WHO}: keyword FILTER is {name!r}, needs the name of a filter"
        raise InputError(msg)
    columns, rows = filter_offset(reference(refs, "filteroffset", _WHO), name)
    distortion = _model_of(reference(refs, "distortion", _WHO))
    model = Shift(columns) & Shift(rows) | distortion
    shift = subarray_shift(ds)
    if shift is not None:
        model = shift | model
    ny, nx = ds["sci"].shape[-2:]
    bind_bounding_box(model, ((-0.5, nx - 0.5), (-0.5, ny - 0.5)), order="F")

    def focal(frame: str) -> Any:
        return Frame2D(
            name=frame,
            axes_order=(0, 1),
            axes_names=("v2", "v3"),
            unit=(units.arcsec, units.arcsec),
        )

    detector = Frame2D(name="detector", axes_order=(0, 1), unit=(units.pix, units.pix))
    world = CelestialFrame(reference_frame=coordinates.ICRS(), name="world")
    return AssignedWcs(
        WCS(
            [
                (detector, model),
                (focal("v2v3"), velocity_aberration(meta)),
                (focal("v2v3vacorr"), v2v3_to_sky(meta)),
                (world, None),
            ]
        )
    )

"""The WCS of slitless spectra of NIRISS, NIRCam and MIRI, wide-field and of time series.

The traces come from the reference ``specwcs`` (JWST documentation of assign_wcs; the coefficients
are those of GRISMCONF, Pirzkal & Ryan 2017), the undispersed image from ``distortion`` and
``filteroffset``. The grism of NIRISS is turned by the angle of its wheel, FWCPOS, from that for
which the traces were measured (Willott et al. 2022, PASP 134, 025002).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.errors import InputError, ReferenceError, UnsupportedModelError
from spec2fn.kernels.grism import evaluate, field_coefficients, rotated
from spec2fn.schema import Meta, meta_of
from spec2fn.subarray import subarray_origin
from spec2fn.typing import HostArray
from spec2fn.wcs.assign import AssignedWcs, References, file_of, reference
from spec2fn.wcs.assign.pointing import (
    dithered_v2v3,
    of_subarray,
    v2v3_to_sky,
    velocity_aberration,
    velocity_correction,
)
from spec2fn.wcs.frames import plane, spectral
from spec2fn.wcs.grism import (
    MIRI,
    NIRCAM,
    NIRISS,
    Approximation,
    GrismGeometry,
    GrismWcs,
    Imaging,
    constant,
)
from spec2fn.wcs.sip import SipApproximation
from spec2fn.wcs.trace_models import alike, stacked, trace_coefficients

if TYPE_CHECKING:
    import xarray as xr
    from astropy.modeling import Model
    from gwcs import WCS
    from gwcs.coordinate_frames import BaseCoordinateFrame

    from spec2fn.parameters import Parameters

__all__ = ["time_series", "wide_field"]

_WHO = "assign_wcs"
_ROW, _COLUMN = 1, 2
_FIELD = 2047.0  # pixels of the full frame
_SAMPLES = 9  # of field and trace, to see whether a trace turns back


@dataclass(frozen=True)
class _Instrument:
    """What is particular to an instrument.

    Attributes
    ----------
    wheel : str
        Keyword of the wheel that holds the dispersers.
    axes : mapping of str to int
        Dispersion axis by disperser.
    models : (str, str, str)
        Transforms of stdatamodels: from the dispersed image along rows and along columns, and to
        it.
    approximation : Approximation
        How these invert a trace.
    plane : str
        Name of the plane of the dispersed image.
    needed : tuple of str
        Entries that the reference ``specwcs`` must have.
    turns : bool
        Whether the angle of the wheel counts.
    sip_floor : float
        How good an approximation of the inverse can be at best [pixel].
    """

    wheel: str
    axes: Mapping[str, int]
    models: tuple[str, str, str]
    approximation: Approximation
    needed: tuple[str, ...]
    plane: str = "grism"
    turns: bool = False
    sip_floor: float = 0.0


_NEEDED = ("orders", "displ", "dispx", "dispy")
_INSTRUMENTS: Mapping[str, _Instrument] = {
    "NIRISS": _Instrument(
        "FILTER",
        {"GR150C": _ROW, "GR150R": _COLUMN},
        (
            "NIRISSForwardRowGrismDispersion",
            "NIRISSForwardColumnGrismDispersion",
            "NIRISSBackwardGrismDispersion",
        ),
        NIRISS,
        (*_NEEDED, "invdispl", "fwcpos_ref"),
        turns=True,
    ),
    "NIRCAM": _Instrument(
        "PUPIL",
        {"GRISMR": _ROW, "GRISMC": _COLUMN},
        (
            "NIRCAMForwardRowGrismDispersion",
            "NIRCAMForwardColumnGrismDispersion",
            "NIRCAMBackwardGrismDispersion",
        ),
        NIRCAM,
        _NEEDED,
    ),
    "MIRI": _Instrument(
        "FILTER",
        {"P750L": _COLUMN},
        ("", "MIRIWFSSForwardDispersion", "MIRIWFSSBackwardDispersion"),
        MIRI,
        (*_NEEDED, "invdispl"),
        plane="dispersed",
        sip_floor=0.02,
    ),
}


def wide_field(ds: xr.Dataset, refs: References, params: Parameters) -> AssignedWcs:
    """Build the WCS of a wide-field slitless exposure.

    Frames: grism_detector → detector → v2v3 → v2v3vacorr → world. A pixel of the dispersed image
    has the world coordinates of a source (x0, y0) and order that are given besides.

    Parameters
    ----------
    ds : xarray.Dataset
        Exposure of type NIS_WFSS, NRC_WFSS or MIR_WFSS.
    refs : mapping
        ``distortion``, ``specwcs`` and optionally ``filteroffset`` (all ASDF).
    params : Parameters
        Of :func:`spec2fn.steps.assign_wcs.assign_wcs`:
        ``grism_rotation`` and ``grism_inverse``.

    Returns
    -------
    AssignedWcs
        Whose ``wcs`` is a :class:`~spec2fn.wcs.grism.GrismWcs`.

    Raises
    ------
    ReferenceError, InputError
        For a missing reference, an entry it lacks or a model in it that is not known, a keyword
        that the exposure lacks, or a disperser that the instrument has not.
    """
    optics = _optics(ds, refs)
    origin = subarray_origin(ds)
    # the field of the traces is that of the full frame, which the official pipeline forgets
    field = (0, 0) if params.grism_inverse == "approximate" else origin
    geometry = _geometry(ds, optics, params, field)
    velocity = velocity_correction(optics.meta)

    def make() -> WCS:
        model = _dispersion(optics, params)
        if any(field):
            model = _moved(model, field)
        steps = [(_dispersed_frame(optics), _with_velocity(model, velocity))]
        for name, transform in zip(
            ("detector", "v2v3", "v2v3vacorr"), _to_sky(ds, optics), strict=True
        ):
            unit, axes = ("pix", ("x", "y")) if name == "detector" else ("arcsec", ("v2", "v3"))
            steps.append((_with_wavelength(name, f"{name}spatial", unit, axes), transform))
        return _gwcs(steps, "sky")

    def undispersed() -> WCS:
        from astropy.coordinates import ICRS
        from gwcs.coordinate_frames import CelestialFrame
        from gwcs.wcs import WCS

        frames = [plane("detector", "pix"), plane("v2v3", "arcsec", ("v2", "v3"))]
        frames += [plane("v2v3vacorr", "arcsec", ("v2", "v3"))]
        pairs = zip(frames, _imaging(ds, optics), strict=True)
        return WCS([*pairs, (CelestialFrame(reference_frame=ICRS(), name="world"), None)])

    built = _assigned(optics, GrismWcs(geometry, make))
    if params.sip is None:
        return built
    middle = tuple(optics.meta.get(f"CRPIX{k}") for k in (1, 2))
    crpix = None if None in middle else (float(middle[0]), float(middle[1]))
    floor = optics.instrument.sip_floor
    sip = replace(params.sip, max_inv_pix_error=max(params.sip.max_inv_pix_error, floor))
    shape = ds.sizes["y"], ds.sizes["x"]
    approximation = SipApproximation(undispersed, shape, crpix, sip)
    return replace(built, records={**built.records, "sip": approximation})


def time_series(ds: xr.Dataset, refs: References, params: Parameters) -> AssignedWcs:
    """Build the WCS of a grism time series of NIRCam.

    Frames: grism_detector → direct_image → v2v3 → v2v3vacorr → world. The source is at the
    reference point of the aperture (XREF_SCI, YREF_SCI), moved by the dither offsets (XOFFSET,
    YOFFSET); with ``grism_reference`` "keyword" its zero-indexed pixel has the numbers of the
    keywords, which count from 1, and nothing is moved.

    Parameters
    ----------
    ds : xarray.Dataset
        Exposure of type NRC_TSGRISM, of module A with GRISMR.
    refs : mapping
        ``distortion``, ``specwcs`` and optionally ``filteroffset`` (all ASDF).
    params : Parameters
        Of :func:`spec2fn.steps.assign_wcs.assign_wcs`:
        ``grism_inverse`` and ``grism_reference``.

    Returns
    -------
    AssignedWcs
        Whose ``wcs`` is a :class:`~spec2fn.wcs.grism.GrismWcs`.

    Raises
    ------
    ReferenceError, InputError
        As :func:`wide_field`, and for another module or disperser, or the stripes of the dispersed
        Hartmann sensor.
    """
    for keyword, needed in (("MODULE", "A"), ("PUPIL", "GRISMR")):
        found = _element(ds, keyword)
        if found != needed:
            msg = (
                f"{_WHO}: keyword {keyword} is {found!r}, needs {needed}: grism time series of"
                " others are not supported"
            )
            raise InputError(msg)
    subarray = str(ds.attrs.get("subarray", "")).upper()
    if "DHS" in subarray:
        msg = (
            f"{_WHO}: keyword SUBARRAY is {subarray!r}: the stripes of the dispersed Hartmann"
            " sensor are not supported; give exposures of SUBGRISM subarrays or FULL"
        )
        raise InputError(msg)
    optics = _optics(ds, refs)
    origin = subarray_origin(ds)
    source = _source(optics, params, origin)
    geometry = replace(
        _geometry(ds, optics, params, origin), source=np.subtract(source, origin, dtype=float)
    )
    velocity = velocity_correction(optics.meta)

    def make() -> WCS:
        from astropy.modeling.models import Identity
        from astropy.modeling.models import Mapping as Inputs

        place = constant(source[0]) & constant(source[1])
        model = _with_velocity(_dispersion(optics, params), velocity)
        model = Inputs((0, 1, 0, 1, 2)) | (Identity(2) & place & Identity(1)) | model
        shift = of_subarray(ds, Identity(2))
        if any(origin):
            model = shift & Identity(1) | model
        steps = [(plane("grism_detector", "pix"), model)]
        frames = (
            ("direct_image", "full_detector", "pix", ("dx", "dy")),
            ("v2v3", "v2v3_spatial", "deg", ("v2", "v3")),
            ("v2v3vacorr", "v2v3vacorr_spatial", "arcsec", ("v2", "v3")),
        )
        for frame, transform in zip(frames, _to_sky(None, optics), strict=True):
            steps.append((_with_wavelength(*frame), transform))
        return _gwcs(steps, "icrs")

    return _assigned(optics, GrismWcs(geometry, make))


@dataclass(frozen=True, eq=False)
class _Optics:
    """What an exposure and its references say."""

    meta: Meta
    instrument: _Instrument
    axis: int
    traces: Mapping[str, Any]
    arrays: Mapping[str, HostArray]
    angle: float
    focal: Model  # of the full frame


def _element(ds: xr.Dataset, keyword: str) -> str:
    attribute = {"INSTRUME": "instrument"}.get(keyword, keyword.lower())
    value = ds.attrs.get(attribute) or meta_of(ds).require(keyword, _WHO)
    return str(value).strip().upper()


def _optics(ds: xr.Dataset, refs: References) -> _Optics:
    meta, name = meta_of(ds), _element(ds, "INSTRUME")
    instrument = _INSTRUMENTS[name]
    disperser = _element(ds, instrument.wheel)
    if disperser not in instrument.axes:
        msg = (
            f"{_WHO}: keyword {instrument.wheel} is {disperser!r}, needs a disperser of {name}:"
            f" {' or '.join(instrument.axes)}"
        )
        raise InputError(msg)
    ref = reference(refs, "specwcs", _WHO)
    traces = ref.attrs.get("tree", {})
    missing = [key for key in instrument.needed if traces.get(key) is None]
    if missing:
        raise _bad(ref, f"has no {', '.join(missing)}")
    count = len(traces["orders"])
    arrays = {}
    for key in ("displ", "dispx", "dispy", "invdispl", "invdispx", "invdispy"):
        if traces.get(key) is not None:
            if len(traces[key]) != count:
                raise _bad(ref, f"has {count} orders, but {len(traces[key])} models {key}")
            arrays[key] = stacked([_coefficients(one, ref, key) for one in traces[key]])
    # the traces turn with the wheel
    angle = float(traces["fwcpos_ref"]) - meta.number("FWCPOS", _WHO) if instrument.turns else 0.0
    return _Optics(
        meta, instrument, instrument.axes[disperser], traces, arrays, angle, _focal(ds, refs)
    )


def _bad(ref: xr.Dataset, why: str) -> ReferenceError:
    return ReferenceError(
        f"{_WHO}: reference 'specwcs' ({file_of(ref)}) {why}; use the one for this grism and filter"
    )


def _coefficients(entry: Any, ref: xr.Dataset, key: str) -> HostArray:  # noqa: ANN401 - a model, or several
    try:
        coefficients = trace_coefficients(entry)
    except UnsupportedModelError as error:
        raise _bad(ref, f"has in {key} {error}") from None
    if not np.isfinite(coefficients).all():
        raise _bad(ref, f"has a coefficient in {key} that is not finite")
    return coefficients


def _focal(ds: xr.Dataset, refs: References) -> Model:
    """Return the model from pixels of the full frame to V2, V3."""
    from astropy.modeling.models import Shift

    ref = reference(refs, "distortion", _WHO)
    model = ref.attrs.get("tree", {}).get("model")
    if model is None:
        msg = (
            f"{_WHO}: reference 'distortion' ({file_of(ref)}) holds no model; use another reference"
        )
        raise ReferenceError(msg)
    offset = refs.get("filteroffset")
    rows = [] if offset is None else offset.attrs.get("tree", {}).get("filters", ())
    for row in rows:
        if all(row[k] == ds.attrs.get(k) for k in ("filter", "pupil") if k in row):
            columns, lines = row.get("column_offset"), row.get("row_offset")
            if columns is not None and lines is not None:
                return Shift(float(columns)) & Shift(float(lines)) | model
    return model


def _geometry(
    ds: xr.Dataset, optics: _Optics, params: Parameters, field: tuple[float, float]
) -> GrismGeometry:
    from spec2fn.wcs.lower import lower

    meta, arrays, instrument = optics.meta, optics.arrays, optics.instrument
    focal = of_subarray(ds, optics.focal)
    to_sky = velocity_aberration(meta) | v2v3_to_sky(meta)
    imaging = Imaging(*(lower(m) for m in (focal, focal.inverse, to_sky, to_sky.inverse)))
    velocity = velocity_correction(meta)
    dx, dy = alike(arrays["dispx"], arrays["dispy"])
    angle = np.array(optics.angle)
    along = "invdispx" if optics.axis == _ROW else "invdispy"
    official = params.grism_inverse == "approximate"
    return GrismGeometry(
        dx,
        dy,
        arrays["displ"],
        angle,
        np.array(1.0 if velocity is None else float(velocity(1.0))),
        tuple(map(int, optics.traces["orders"])),
        _folded(dx, dy, angle, optics.axis),
        optics.axis,
        (float(field[0]), float(field[1])),
        imaging,
        turned=optics.angle != 0,
        mirrored=params.grism_rotation == "opposite",
        approximation=instrument.approximation if official else None,
        inverse_wave=arrays.get("invdispl") if official else None,
        inverse_along=arrays.get(along) if official else None,
    )


def _folded(dx: HostArray, dy: HostArray, angle: HostArray, axis: int) -> tuple[bool, ...]:
    """Return which orders have traces that turn back, anywhere in the field."""
    x0, y0 = np.meshgrid(*[np.linspace(0, _FIELD, _SAMPLES)] * 2)
    t = np.linspace(0, 1, _SAMPLES)[:, None, None]
    out = []
    for one in zip(dx, dy, strict=True):
        offsets = [field_coefficients(c, x0, y0) for c in one]
        along = rotated(offsets[0], offsets[1], angle)[axis - 1]
        steps = np.diff(evaluate(along, t), axis=0)
        out.append(bool((steps.max(axis=0) * steps.min(axis=0) < 0).any()))
    return tuple(out)


def _source(optics: _Optics, params: Parameters, origin: tuple[int, int]) -> tuple[float, float]:
    """Return the pixel of the full frame at which the source of a time series is imaged."""
    meta = optics.meta
    x, y = (meta.number(k, _WHO) for k in ("XREF_SCI", "YREF_SCI"))
    if params.grism_reference == "keyword":
        return x, y
    x, y = x - 1 + origin[0], y - 1 + origin[1]
    if any(meta.get(k) for k in ("XOFFSET", "YOFFSET")):
        from spec2fn.wcs.invert import invert
        from spec2fn.wcs.lower import lower

        focal = lower(optics.focal)
        v2, v3 = focal(x, y)
        moved = np.subtract(
            dithered_v2v3(meta), [meta.number(k, _WHO) for k in ("V2_REF", "V3_REF")]
        )
        x, y = map(float, invert(focal, (v2 + moved[0], v3 + moved[1]), (x, y)))
    return x, y


def _dispersion(optics: _Optics, params: Parameters) -> Model:
    from stdatamodels.jwst.transforms import models

    instrument, traces = optics.instrument, optics.traces
    there, back = (
        getattr(models, instrument.models[k]) for k in (0 if optics.axis == _ROW else 1, 2)
    )
    offsets = {"xmodels": traces["dispx"], "ymodels": traces["dispy"]}
    orders, waves, inverse = traces["orders"], traces["displ"], traces.get("invdispl")
    forward, backward = dict(offsets), dict(offsets)
    if "invdispl" in instrument.needed:
        backward["lmodels"] = inverse
    else:
        backward["lmodels"] = waves
        forward |= {f"inv_{k}models": traces.get(f"invdisp{k}") for k in "xy"}
        backward["inv_lmodels"] = inverse
    if instrument.turns:
        opposite = params.grism_rotation == "opposite"
        forward["theta"] = -optics.angle if opposite else optics.angle
        backward["theta"] = optics.angle
    model = there(orders, lmodels=waves, **forward)
    model.inverse = back(orders, **backward)
    return model


def _moved(model: Model, origin: tuple[float, float]) -> Model:
    from astropy.modeling.models import Identity, Shift

    there, back = (Shift(s * origin[0]) & Shift(s * origin[1]) for s in (1, -1))
    return there & there & Identity(1) | model | back & Identity(2)


def _with_velocity(model: Model, velocity: Model | None) -> Model:
    from astropy.modeling.models import Identity
    from astropy.modeling.models import Mapping as Inputs

    if velocity is None:
        return model
    return model | Inputs((0, 1, 2, 3)) | Identity(2) & velocity & Identity(1)


def _to_sky(ds: xr.Dataset | None, optics: _Optics) -> list[Model]:
    """Return the models from the undispersed image (of an exposure, or whole) to the sky."""
    from astropy.modeling.models import Identity

    return [one & Identity(2) for one in _imaging(ds, optics)]


def _imaging(ds: xr.Dataset | None, optics: _Optics) -> list[Model]:
    focal = optics.focal if ds is None else of_subarray(ds, optics.focal)
    return [focal, velocity_aberration(optics.meta), v2v3_to_sky(optics.meta)]


def _dispersed_frame(optics: _Optics) -> BaseCoordinateFrame:
    name = optics.instrument.plane
    return plane("grism_detector", "pix", (f"x_{name}", f"y_{name}"))


def _with_wavelength(
    name: str, spatial: str, unit: str, axes: tuple[str, str]
) -> BaseCoordinateFrame:
    from gwcs.coordinate_frames import CompositeFrame

    return CompositeFrame([plane(spatial, unit, axes), spectral()], name=name)


def _gwcs(steps: list[tuple[BaseCoordinateFrame, Model]], sky: str) -> WCS:
    from astropy.coordinates import ICRS
    from gwcs.coordinate_frames import CelestialFrame, CompositeFrame
    from gwcs.wcs import WCS

    world = CompositeFrame(
        [CelestialFrame(reference_frame=ICRS(), name=sky), spectral()], name="world"
    )
    return WCS([*steps, (world, None)])


def _assigned(optics: _Optics, wcs: GrismWcs) -> AssignedWcs:
    return AssignedWcs(wcs, dispaxis=optics.axis, of_pixels=False)

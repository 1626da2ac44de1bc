"""Observations without slits, small enough to run every step in a second.

A window of the detector, four sources with straight traces along its rows (MIRI: columns), and
references made for them. The one source of a time series stands at XREF_SCI, YREF_SCI.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.schema import Meta, meta_of
from spec2fn.testing.fields import catalog_dataset

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["EXP_TYPES", "exposure", "metadata", "references"]

_FIELDS = {
    "NIS_WFSS": {"INSTRUME": "NIRISS", "DETECTOR": "NIS", "FILTER": "GR150C", "PUPIL": "F115W"},
    "NRC_WFSS": {
        "INSTRUME": "NIRCAM",
        "DETECTOR": "NRCALONG",
        "FILTER": "F444W",
        "PUPIL": "GRISMR",
        "MODULE": "A",
        "CHANNEL": "LONG",
    },
    "MIR_WFSS": {"INSTRUME": "MIRI", "DETECTOR": "MIRIMAGE", "FILTER": "P750L"},
}
_SERIES = {"NRC_TSGRISM": _FIELDS["NRC_WFSS"]}

EXP_TYPES = (*_FIELDS, *_SERIES)
"""Exposure types there are exposures of."""

_SHAPE = (100, 150)
_WIDE = {"MIR_WFSS": _SHAPE[::-1]}
_START = 401  # one-based first row and column
_PLACES = ((30.0, 20.0), (80.0, 32.0), (55.0, 60.0), (20.0, 82.0))  # along, across
_SOURCE = (35.0, 34.0)
_RANGE = (1.0, 1.4)
_COUNTS = (3.0, 40.0, 25.0, 15.0)
_BACKGROUND = 0.4
_SCALE = 0.065  # arcsec


def _elements(exp_type: str) -> Mapping[str, str]:
    return {**_FIELDS, **_SERIES}[exp_type]


def _shape(exp_type: str) -> tuple[int, int]:
    return _WIDE.get(exp_type, _SHAPE)


@functools.cache
def _empty(exp_type: str, integrations: int) -> xr.Dataset:
    import xarray as xr
    from astropy.io.fits import Header

    from spec2fn.io.fits.exposures import mode_attrs

    ny, nx = _shape(exp_type)
    header = {
        "TELESCOP": "JWST",
        "EXP_TYPE": exp_type,
        **_elements(exp_type),
        "SUBARRAY": "SYNTH",
        "PROGRAM": "01234",
        "OBSERVTN": "001",
        "VISIT": "001",
        "VISITGRP": "01",
        "SEQ_ID": "1",
        "ACT_ID": "01",
        "EXPOSURE": "00001",
        "SUBSTRT1": _START,
        "SUBSTRT2": _START,
        "SUBSIZE1": nx,
        "SUBSIZE2": ny,
        "FWCPOS": 222.3,
        "V2_REF": -290.0,
        "V3_REF": -697.0,
        "V3I_YANG": 0.5,
        "VPARITY": -1,
        "ROLL_REF": 30.0,
        "RA_REF": 53.1,
        "DEC_REF": -27.8,
        "PA_APER": 30.5,
        "VELOSYS": 12345.6,
        "VA_SCALE": 1.00002,
        "XOFFSET": 0.0,
        "YOFFSET": 0.0,
    }
    if exp_type in _SERIES:
        header |= {f"{axis}REF_SCI": value + 1 for axis, value in zip("XY", _SOURCE, strict=True)}
    shape: tuple[int, ...] = (ny, nx)
    if exp_type in _SERIES:
        shape = (integrations, *shape)
    dims = ("integration", "y", "x")[-len(shape) :]
    meta = Meta(Header(header), None, "jw01234_rate.fits")
    planes = {n: (dims, np.zeros(shape, np.float32)) for n in ("sci", "err")}
    ds = xr.Dataset({**planes, "dq": (dims, np.zeros(shape, np.uint32))})
    model = "CubeModel" if exp_type in _SERIES else "ImageModel"
    return ds.assign_attrs({**mode_attrs(meta), "model": model, "meta": meta})


@functools.cache
def _geometry(exp_type: str) -> Any:  # noqa: ANN401 - of a grism
    from spec2fn.steps.assign_wcs import assign_wcs

    return meta_of(assign_wcs(_empty(exp_type, 1), **_optics(exp_type))).wcs.geometry


def _pixels(exp_type: str) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Pixels of the sources in the undispersed image."""
    along, across = np.array([_SOURCE] if exp_type in _SERIES else _PLACES).T
    return (along, across) if exp_type not in _WIDE else (across, along)


@functools.cache
def exposure(exp_type: str, seed: int = 0, integrations: int = 2) -> xr.Dataset:
    """Return an exposure before any step: background, and the spectra of its sources.

    Parameters
    ----------
    exp_type : str
        One of :data:`EXP_TYPES`.
    seed : int
        Of the noise.
    integrations : int
        Of the time series; the others have one image.

    Returns
    -------
    xarray.Dataset
        Arrays are read-only.
    """
    ds = _empty(exp_type, integrations)
    rng = np.random.default_rng(seed)
    image = _BACKGROUND * _background(exp_type)
    geometry = _geometry(exp_type)
    for x0, y0, counts in zip(*_pixels(exp_type), _COUNTS, strict=False):
        for order in geometry.orders:
            waves = np.linspace(*_RANGE, 2000)
            x, y = geometry.disperse(x0, y0, waves, order)
            for shift, share in ((-1, 0.2), (0, 0.6), (1, 0.2)):
                place = np.floor(np.stack([y, x]) + 0.5).astype(int)
                place[1 if exp_type in _WIDE else 0] += shift
                size = np.array(image.shape)[:, None]
                inside = ((place >= 0) & (place < size)).all(axis=0)
                weight = share * counts * 40 / len(waves)
                np.add.at(image, tuple(place[:, inside]), weight)
    shape = ds["sci"].shape
    values = {
        "sci": image + rng.normal(0.0, 0.02, shape),
        "err": np.full(shape, 0.02),
        "var_poisson": rng.uniform(1e-4, 2e-4, shape),
        "var_rnoise": rng.uniform(1e-4, 2e-4, shape),
    }
    ds = ds.assign({n: (ds["sci"].dims, v.astype(np.float32)) for n, v in values.items()})
    ds["sci"].attrs["units"] = "DN/s"
    ds = ds.assign(mid_time=((), np.float64(60000.0)), exposure_time=((), np.float64(100.0)))
    if exp_type in _SERIES:
        times = 60000.0 + 0.01 * np.arange(integrations)
        ds = ds.assign(int_mid_mjd_utc=("integration", times)).assign_attrs(tso=True)
    for variable in ds.variables.values():
        variable.data.setflags(write=False)
    return ds


def _background(exp_type: str) -> np.ndarray[Any, Any]:
    y, x = np.indices(_shape(exp_type))
    return np.asarray(1.0 + 0.1 * np.sin(x / 40) + 0.1 * y / 100)


def metadata(exp_type: str) -> Mapping[str, tuple[Any, ...]]:
    """Return what an observation holds besides the exposure, by role."""
    if exp_type in _SERIES:
        return {}
    ra, dec = _geometry(exp_type).detector_to_world(*_pixels(exp_type))
    magnitude = 25 - 2.5 * np.log10(_COUNTS)
    half = 2.5 * _SCALE / 3600
    return {"sourcecat": (catalog_dataset(ra, dec, half, isophotal_abmag=magnitude),)}


def _tree(reftype: str, tree: Mapping[str, Any]) -> xr.Dataset:
    import xarray as xr

    meta = Meta(filename=f"{reftype}.asdf")
    attrs = {"reftype": reftype, "filename": meta.filename, "meta": meta, "tree": dict(tree)}
    return xr.Dataset(attrs=attrs)


@functools.cache
def _optics(exp_type: str) -> Mapping[str, Any]:
    from astropy.modeling import models

    back = models.Scale(1 / _SCALE) & models.Scale(1 / _SCALE)
    centre = models.Shift(-290.0 + 30) & models.Shift(-697.0 + 28)
    forward = models.Scale(_SCALE) & models.Scale(_SCALE) | centre
    forward.inverse = models.Shift(290.0 - 30) & models.Shift(697.0 - 28) | back

    def field(value: float, x: float = 0.0, y: float = 0.0) -> Any:  # noqa: ANN401 - a model
        return models.Polynomial2D(1, c0_0=value, c1_0=x, c0_1=y)

    low, high = _RANGE
    low, high = low - 0.1, high + 0.1
    line = models.Polynomial1D(1, c0=low, c1=high - low)
    inverse = models.Polynomial1D(1, c0=-low / (high - low), c1=1 / (high - low))
    along = [[field(3.0), field(45.0, 1e-3)], [field(-20.0), field(80.0, 0.0, 1e-3)]]
    across = [[field(0.5), field(1.0)], [field(-0.5), field(1.5)]]
    orders = [1] if exp_type in (*_WIDE, *_SERIES) else [1, 2]
    dispx, dispy = (along, across) if exp_type not in _WIDE else (across, along)
    count = len(orders)
    # of NIRCam each order has a list of models, as wavelengths may depend on the field
    several = exp_type.startswith("NRC")
    tree = {
        "orders": orders,
        "displ": [[line] if several else line] * count,
        "invdispl": [[inverse] if several else inverse] * count,
        "dispx": dispx[:count],
        "dispy": dispy[:count],
        "fwcpos_ref": 222.0,
    }
    return {
        "distortion": _tree("distortion", {"model": forward}),
        "specwcs": _tree("specwcs", tree),
    }


@functools.cache
def references(exp_type: str) -> Mapping[str, Any]:
    """Return the references of a mode by type."""
    import xarray as xr

    rng = np.random.default_rng(11)
    shape = _shape(exp_type)
    elements = _elements(exp_type)
    orders = _geometry(exp_type).orders
    name = elements["PUPIL"] if elements["FILTER"].startswith("GR") else elements["FILTER"]
    kind = {"exposure": {"type": exp_type}}
    extra = ["FULL"] if exp_type in _SERIES else []
    ranges = {
        "wavelengthrange": [[o, *extra, name, *_RANGE] for o in orders],
        "extract_orders": [[name, list(orders)]],
        "meta": kind,
    }

    def image(
        reftype: str, sci: np.ndarray[Any, Any], **planes: np.ndarray[Any, Any]
    ) -> xr.Dataset:
        found = {"sci": sci.astype(np.float32), "dq": np.zeros(sci.shape, np.uint32), **planes}
        meta = Meta(filename=f"{reftype}.fits")
        attrs = {"reftype": reftype, "filename": meta.filename, "meta": meta}
        return xr.Dataset({n: (("y", "x"), p) for n, p in found.items()}, attrs=attrs)

    flat = 1 + 0.02 * rng.standard_normal(shape)
    sizes = {"pixar_sr": np.float64(1e-13), "pixar_a2": np.float64(0.00423)}
    area = image("area", np.ones(shape)).assign({n: ((), v) for n, v in sizes.items()})
    return {
        **_optics(exp_type),
        "wavelengthrange": _tree("wavelengthrange", ranges),
        "bkg": image("bkg", _background(exp_type)),
        "flat": image("flat", flat, err=np.full(shape, 0.001, np.float32)),
        "gain": image("gain", np.full(shape, 1.6)),
        "area": area,
        "photom": _table("photom", exp_type, _response(exp_type, orders)).assign(
            {n: ((), v) for n, v in sizes.items()}
        ),
        "apcorr": _table("apcorr", exp_type, _apertures(), SIZEUNIT="pixels"),
    }


def _keys(exp_type: str, count: int) -> dict[str, np.ndarray[Any, Any]]:
    elements = _elements(exp_type)
    if exp_type in _WIDE:
        values = {"filter": elements["FILTER"], "subarray": "SYNTH"}
    else:
        values = {"filter": elements["FILTER"], "pupil": elements["PUPIL"]}
    return {n: np.array([v] * count) for n, v in values.items()}


def _response(exp_type: str, orders: tuple[int, ...]) -> dict[str, np.ndarray[Any, Any]]:
    waves = np.linspace(0.95, 1.45, 30)
    columns = {} if exp_type in _WIDE else {"order": np.array(orders)}
    return columns | {
        "photmjsr": np.array([0.02 * (1 + k) for k, _ in enumerate(orders)]),
        "wavelength": np.tile(waves, (len(orders), 1)),
        "relresponse": np.tile(1 + 0.2 * (waves - 1), (len(orders), 1)),
    }


def _apertures() -> dict[str, np.ndarray[Any, Any]]:
    return {
        "wavelength": np.array([[0.9, 1.5]]),
        "nelem_wl": np.array([2]),
        "size": np.array([[3.0, 11.0, 21.0]]),
        "nelem_size": np.array([3]),
        "apcorr": np.array([[[1.3, 1.1, 1.0], [1.3, 1.1, 1.0]]]),
    }


def _table(
    reftype: str, exp_type: str, columns: Mapping[str, np.ndarray[Any, Any]], **keywords: str
) -> xr.Dataset:
    import xarray as xr

    count = len(next(iter(columns.values())))
    variables = {}
    for name, values in {**_keys(exp_type, count), **columns}.items():
        key = f"{reftype}.{name}"
        dims = (f"{reftype}_row", *(f"{key}_d{i}" for i in range(1, values.ndim)))
        variables[key] = (dims, values)
    header: Any = {"REFTYPE": reftype.upper(), **keywords}
    meta = Meta(primary=header, filename=f"{reftype}.fits")
    attrs = {"reftype": reftype, "filename": meta.filename, "meta": meta}
    return xr.Dataset(variables, attrs=attrs)

"""References of the steps of NIRSpec after assign_wcs, in memory, small and smooth.

Everything depends on wavelength and place in a way that a wrong row, slit or unit would show.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr
from astropy.io.fits import Header

from spec2fn.forward.nirspec.optics import CONFIGURATIONS
from spec2fn.schema import Meta
from spec2fn.typing import HostArray
from spec2fn.wcs.open_slits import FIXED_SLITS

__all__ = ["GRATING", "calibration_references"]

WAVES = np.linspace(0.5, 5.5, 41)  # um
GRATING = "PRISM"
"""That exposures are taken with."""
_FILTER = CONFIGURATIONS[GRATING][0]
_SLITS = tuple(FIXED_SLITS)
_SHUTTERS = (171, 365)
_SLICES = 30
_SPECTRAL = {"CRPIX": 1.0, "CRVAL": 0.5e-6, "CDELT": 0.25e-6}  # of pathloss, in m
_N_PATHLOSS = 21


@functools.cache
def calibration_references(exp_type: str, frame: tuple[int, int]) -> Mapping[str, xr.Dataset]:
    """Return the references of flux, source position and extraction, by type.

    Parameters
    ----------
    exp_type : str
        ``NRS_FIXEDSLIT``, ``NRS_BRIGHTOBJ``, ``NRS_MSASPEC`` or ``NRS_IFU``.
    frame : (int, int)
        Rows and columns of the images of the flats, which begin at the corner of the detector.

    Returns
    -------
    mapping of str to xarray.Dataset
        Flats in three parts, ``pathloss``, ``barshadow``, ``photom``, ``area``, ``wavecorr``,
        ``extract1d``, ``apcorr``, ``msaoper``, ``cubepar``, as far as the mode needs them.
    """
    mos, ifu = exp_type == "NRS_MSASPEC", exp_type == "NRS_IFU"
    refs = _flats(frame, mos=mos) | {
        "pathloss": _pathloss(mos=mos),
        "photom": _photom(single=mos or ifu),
        "area": _areas(exp_type),
    }
    if ifu:
        refs |= _of_cubes()
    else:
        boxes = {"apertures": [{"id": "ANY", "extract_width": 5}]}
        refs["extract1d"] = xr.Dataset(attrs={"tree": boxes, "meta": Meta()})
        refs |= {"wavecorr": _wavecorr(mos=mos), "apcorr": _apcorr(mos=mos)}
    if mos:
        refs["barshadow"] = _barshadow()
    if mos or ifu:
        refs["msaoper"] = _msaoper()
    return {
        name: ds.assign_attrs(reftype=name, filename=f"jwst_nirspec_{name}_9999")
        for name, ds in refs.items()
    }


def _of_cubes() -> dict[str, xr.Dataset]:
    """References of cube_build and of spectra of cubes."""
    wave = np.arange(0.5, 5.5, 0.02, dtype=np.float32)
    shepard = {"roispatial": 0.3, "roispectral": 0.05}
    tables: dict[str, dict[str, float]] = {
        "cubepar": {"spaxelsize": 0.1, "spectralstep": 0.02, "wavemin": 0.6, "wavemax": 5.3},
        "cubepar_msm": {**shepard, "power": 2.0, "softrad": 0.01},
        "cubepar_emsm": {**shepard, "scalerad": 0.1},
    }
    variables: dict[str, Any] = {}
    who = {"disperser": np.array([GRATING]), "filter": np.array([_FILTER])}
    for name, values in tables.items():
        columns = {k: np.array([v], np.float32) for k, v in values.items()}
        variables |= _table(name, **who, **columns)
    for kind in ("driz", "msm", "emsm"):
        shape = {} if kind == "driz" else tables[f"cubepar_{kind}"]
        columns = {k: np.full(wave.size, v, np.float32) for k, v in shape.items()}
        variables |= _table(f"multichan_prism_{kind}", wavelength=wave, **columns)
    radii = {"wavelength": np.array([[0.5, 3.0, 5.5]])}
    for name, radius in (("radius", 0.3), ("inner_bkg", 0.8), ("outer_bkg", 1.1)):
        radii[name] = radius + 0.02 * radii["wavelength"]
    waves, sizes = np.linspace(0.5, 5.5, 6), np.linspace(0.1, 0.8, 8)[:, None]
    apcorr = {
        "wavelength": waves[None],
        "radius": sizes * np.ones(6),
        "radius_units": "arcsec",
        "apcorr": 1 + np.exp(-sizes / 0.3) * waves / 5,
        "filter": _FILTER,
        "grating": GRATING,
    }
    method = {"method": "exact", "subpixels": 8, "subtract_background": True}
    return {
        "cubepar": xr.Dataset(variables),
        "extract1d": xr.Dataset(attrs={"tree": {"data": radii, "meta": method}, "meta": Meta()}),
        "apcorr": xr.Dataset(attrs={"tree": {"apcorr_table": apcorr}, "meta": Meta()}),
    }


def _table(name: str, **columns: HostArray) -> dict[str, Any]:
    """Variables of a table, as they are read from a file."""
    return {
        f"{name}.{k}": ((f"{name}_row", *(f"{name}.{k}_d{i}" for i in range(1, v.ndim))), v)
        for k, v in columns.items()
    }


def _fast(suffix: str = "", rows: tuple[str, ...] = ("ANY",), phase: float = 0.0) -> dict[str, Any]:
    n = len(rows)
    ripple = 1 + 0.1 * np.sin(3 * WAVES + phase + np.arange(n)[:, None])
    return _table(
        f"fast_variation{suffix}",
        slit_name=np.array(rows),
        nelem=np.full(n, len(WAVES), np.int32),
        wavelength=np.tile(WAVES.astype(np.float32), (n, 1)),
        data=ripple.astype(np.float32),
        error=np.full((n, len(WAVES)), 0.01, np.float32),
    )


def _images(
    waves: tuple[float, ...], shape: tuple[int, int], suffix: str = "", *, cube_dq: bool = False
) -> dict[str, Any]:
    rng = np.random.default_rng(len(waves) + len(suffix))
    base = rng.uniform(0.9, 1.1, shape).astype(np.float32)
    flags = np.where(rng.random(shape) < 1e-3, 1, 0).astype(np.uint32)
    tilt = 1 + 0.05 * np.arange(len(waves), dtype=np.float32)
    cube = base * tilt[:, None, None]
    dims = (f"z{suffix}", f"y{suffix}", f"x{suffix}")
    if cube_dq:
        flags = np.broadcast_to(flags, cube.shape).copy()
    return {
        f"sci{suffix}": (dims, cube),
        f"err{suffix}": (dims, np.float32(0.01) * cube),
        f"dq{suffix}": (dims[3 - flags.ndim :], flags),
        f"wavelength{suffix}.wavelength": (dims[:1], np.array(waves, np.float32)),
    }


def _flats(frame: tuple[int, int], *, mos: bool) -> dict[str, xr.Dataset]:
    fore: dict[str, Any] = {}
    if mos:
        spectrograph = _images((0.5, 5.4), frame, cube_dq=True)
        for quadrant, suffix in enumerate(("", "_2", "_3", "_4")):
            fore |= _images((0.5, 2.5, 5.5), _SHUTTERS, suffix, cube_dq=True)
            fore |= _fast(suffix, phase=3.0 + quadrant)
    else:
        planes = _images((1.0,), frame)
        spectrograph = {k: (("y", "x"), planes[k][1].reshape(frame)) for k in ("sci", "err", "dq")}
        fore = _fast(rows=_SLITS, phase=3.0)
    return {
        "fflat": xr.Dataset(fore),
        "sflat": xr.Dataset(spectrograph | _fast(phase=2.0)),
        "dflat": xr.Dataset(_images((0.5, 2.0, 5.2), frame) | _fast(phase=1.0)),
    }


def _pathloss(*, mos: bool) -> xr.Dataset:
    apertures = [(name, 0, 0.5) for name in _SLITS]
    if mos:
        apertures = [("MOS1x1", 1, 0.5), ("MOS1x3", 3, 1.5)]
    waves = 0.5 + 0.25 * np.arange(_N_PATHLOSS)
    variables: dict[str, Any] = {}
    headers = {}
    for k, (name, shutters, half) in enumerate(apertures, start=1):
        suffix = "" if k == 1 else f"_{k}"
        x, y = np.linspace(-0.5, 0.5, 5), np.linspace(-half, half, 7)
        shape = (1 - 0.8 * x**2) * (1 - 0.3 * (y[:, None] / half) ** 2)
        cube = (0.95 - 0.05 * waves[:, None, None]) * shape * (1 - 0.02 * k)
        variables[f"ps{suffix}"] = ((f"w{k}", f"y{k}", f"x{k}"), cube.astype(np.float32))
        uniform = (0.98 - 0.01 * waves) * (1 - 0.02 * k)
        variables[f"uni{suffix}"] = (f"w{k}", uniform.astype(np.float32))
        place = {"CRPIX1": 3.0, "CRVAL1": 0.0, "CDELT1": 0.25}
        place |= {"CRPIX2": 1.0, "CRVAL2": -half, "CDELT2": half / 3}
        spectral = {f"{key}3": v for key, v in _SPECTRAL.items()}
        headers[f"ps{suffix}"] = Header(
            {"APERTURE": name, "SHUTTERS": shutters, **spectral, **place}
        )
        headers[f"uni{suffix}"] = Header({f"{key}1": v for key, v in _SPECTRAL.items()})
    return xr.Dataset(variables, attrs={"meta": Meta(records={"headers": headers})})


def _barshadow() -> xr.Dataset:
    y = np.linspace(-1, 1, 21)[:, None]
    w = 0.9 + 0.02 * np.linspace(0, 1, 30)
    header = {"CRVAL1": 0.5e-6, "CDELT1": 0.17e-6, "CRVAL2": -1.0, "CDELT2": 0.1}
    single = (1 - 0.6 * y * y) * w
    triple = (1 - 0.1 * np.abs(np.sin(np.pi * y))) * w
    return xr.Dataset(
        {
            "data1x1": (("y", "x"), single.astype(np.float32)),
            "data1x3": (("y", "x"), triple.astype(np.float32)),
        },
        attrs={"meta": Meta(science=Header(header))},
    )


def _who(names: tuple[str, ...], *, slits: bool = True) -> dict[str, HostArray]:
    """Columns that say what the rows of a table are for."""
    n = len(names)
    who = {"filter": np.array([_FILTER] * n), "grating": np.array([GRATING] * n)}
    return who | ({"slit": np.array(names)} if slits else {})


def _photom(*, single: bool) -> xr.Dataset:
    names = ("ANY",) if single else _SLITS
    n = len(names)
    response = 1 + 0.2 * np.cos(WAVES + np.arange(n)[:, None])
    table = _table(
        "photom",
        **_who(names, slits=not single),
        photmj=(1e-12 * (1 + 0.1 * np.arange(n))).astype(np.float32),
        nelem=np.full(n, len(WAVES), np.int16),
        wavelength=np.tile(WAVES.astype(np.float32), (n, 1)),
        relresponse=response.astype(np.float32),
    )
    table |= _table("timecoeff_linear", t0=np.full(n, 59635.0), lossperyear=np.full(n, 0.01))
    area = {"pixar_a2": ((), np.float64(0.0105)), "pixar_sr": ((), np.float64(2.5e-13))}
    return xr.Dataset(table | area)


def _areas(exp_type: str) -> xr.Dataset:
    if exp_type != "NRS_MSASPEC":
        ifu = exp_type == "NRS_IFU"
        number = np.arange(_SLICES if ifu else len(_SLITS), dtype=np.int16)
        names = {"slice_id": number} if ifu else {"slit_id": np.array(_SLITS)}
        areas = (0.01 * (1 + (0.01 if ifu else 0.1) * number)).astype(np.float32)
        return xr.Dataset(_table("area", **names, pixarea=areas))
    y, x = (a.ravel() + 1 for a in np.indices(_SHUTTERS))
    table = _table(
        "area",
        quadrant=np.repeat(np.arange(1, 5, dtype=np.int16), x.size),
        shutter_x=np.tile(x.astype(np.int16), 4),
        shutter_y=np.tile(y.astype(np.int16), 4),
        pixarea=np.tile((0.01 + 1e-5 * (x + y)).astype(np.float32), 4),
    )
    return xr.Dataset(table)


def _wavecorr(*, mos: bool) -> xr.Dataset:
    from astropy.modeling.models import Tabular2D

    waves, positions = np.linspace(0.4e-6, 5.6e-6, 9), np.linspace(-0.5, 0.5, 5)
    shift = positions * (0.3 + 1e5 * waves[:, None])
    model = Tabular2D(points=(waves, positions), lookup_table=shift)
    names = ("MOS",) if mos else _SLITS
    apertures = [{"aperture_name": n, "zero_point_offset": model} for n in names]
    return xr.Dataset(attrs={"tree": {"apertures": apertures}})


def _apcorr(*, mos: bool) -> xr.Dataset:
    names = ("MOS",) if mos else _SLITS
    n = len(names)
    waves = np.linspace(0.5, 5.5, 6)
    sizes = np.array([2.0, 4.0, 6.0, 9.0])[:, None] * (1 + 0.02 * np.arange(6))
    phases = np.array([0.0, 0.5, 1.0])
    table = 1 + np.exp(-sizes / 3)[:, :, None] * (0.5 + 0.2 * phases) * waves[None, :, None] / 5

    def rows(values: HostArray) -> HostArray:
        return np.broadcast_to(values, (n, *np.shape(values))).copy()

    columns = _table(
        "apcorr",
        **_who(names),
        wavelength=rows(waves),
        nelem_wl=np.full(n, 6),
        size=rows(sizes),
        nelem_size=np.full(n, 4),
        pixphase=rows(phases),
        apcorr=rows(table),
    )
    return xr.Dataset(columns, attrs={"meta": Meta(primary=Header({"SIZEUNIT": "pixels"}))})


def _msaoper() -> xr.Dataset:
    states = {"state": "open", "TA state": "open", "Internal state": "normal"}
    shutters = [{"Q": 3, "x": 180, "y": y, **states} for y in (150, 162)]
    return xr.Dataset(attrs={"tree": {"msaoper": shutters}})

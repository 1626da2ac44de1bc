"""A NIRSpec of straight lines: references, exposures and MSA metadata in memory, for tests.

Layout, dispersion and plate scale are those of the instrument to a few percent, and both
directions of every transform are exact, which the polynomials of real references are not.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.plans.nirspec_slits import FIXED_SLITS
from spec2fn.schema import Meta

if TYPE_CHECKING:
    import xarray as xr

__all__ = [
    "CONFIGURATIONS",
    "exposure",
    "msa_metadata",
    "neighbouring_slitlets",
    "reference_dataset",
    "references",
]

CONFIGURATIONS: Mapping[str, tuple[str, float, float, tuple[float, float]]] = {
    "G140M": ("F100LP", 95700.0, -4.02, (0.9e-6, 1.9e-6)),
    "G235M": ("F170LP", 57200.0, -4.12, (1.6e-6, 3.2e-6)),
    "G395M": ("F290LP", 35600.0, -4.55, (2.8e-6, 5.3e-6)),
    "G235H": ("F170LP", 163300.0, -9.9, (1.6e-6, 3.2e-6)),
    "G395H": ("F290LP", 95400.0, -9.5, (2.8e-6, 5.3e-6)),
    "PRISM": ("CLEAR", 0.0, 24.22, (0.6e-6, 5.3e-6)),
}
"""Filter, lines per m, tilt [deg] and range of wavelengths [m] by grating."""

_PIXEL = 18e-6  # m
_CORNERS = {"NRS1": (-0.038283, -0.018423, 1.0), "NRS2": (0.038059, 0.018421, -1.0)}
_QUADRANTS = {
    1: (-0.0427, -0.0418),
    2: (-0.0429, 0.0073),
    3: (0.0045, -0.0418),
    4: (0.0046, 0.0072),
}
_PITCH = (105.26e-6, 203.54e-6)
_OPEN = (78e-6, 178e-6)
_FIXED = [
    (0.02697, -0.00272, 75.5e-6, 1.2607e-3),
    (0.03466, -0.00126, 76.0e-6, 1.2724e-3),
    (0.02967, 0.00029, 154.7e-6, 1.4492e-3),
    (0.02867, 0.00155, 626.9e-6, 0.6184e-3),
    (-0.03468, 0.00276, 78.8e-6, 1.2737e-3),
]
_GLASS: Mapping[str, Any] = {
    "angle": -16.5,
    "kcoef": [0.58339748, 0.46037445, 3.8915394],
    "lcoef": [0.00252643, 0.010078333, 1200.556],
    "tcoef": [-2.66e-05, 0.0, 0.0, 0.0, 0.0, 0.0],
    "tref": 35.0,
    "pref": 0.0,
}


def reference_dataset(name: str, tree: Mapping[str, Any], **attrs: Any) -> xr.Dataset:
    """Return a reference as it is when an ASDF file has been opened."""
    import xarray as xr

    filename = f"jwst_nirspec_{name}_9999.asdf"
    return xr.Dataset(attrs={"tree": dict(tree), "filename": filename, **attrs})


@functools.cache
def references(grating: str) -> Mapping[str, xr.Dataset]:
    """Return what assign_wcs needs, by reference type."""
    from astropy.modeling.models import AffineTransformation2D, Polynomial1D, Scale, Shift

    name, density, tilt, waverange = CONFIGURATIONS[grating]
    sensor = {"tilt_model": Polynomial1D(1, c0=3033.4, c1=-8916.4), "zeroreadings": [0.34]}
    disperser = {
        "gwa_tiltx": sensor,
        "gwa_tilty": {"tilt_model": Polynomial1D(1, c0=0.0, c1=0.0), "zeroreadings": [0.2]},
        "theta_x": 0.02,
        "theta_y": tilt,
        "theta_z": 0.02,
        "tilt_y": 0.0,
    }
    disperser |= _GLASS if grating == "PRISM" else {"groovedensity": density}
    fpa = {
        f"{detector.lower()}_model": AffineTransformation2D(
            [[sign * _PIXEL, 0], [0, sign * _PIXEL]]
        )
        | Shift(x) & Shift(y)
        for detector, (x, y, sign) in _CORNERS.items()
    }
    collimator = Shift(0.0) & Shift(0.2945) | Scale(1 / 1.571) & Scale(1 / 1.646)
    camera = Scale(3.52) & Scale(3.70) | Shift(0.0) & Shift(0.294)
    return {
        "camera": reference_dataset("camera", {"model": camera}),
        "collimator": reference_dataset("collimator", {"model": collimator}),
        "disperser": reference_dataset("disperser", disperser, grating=grating),
        "fore": reference_dataset("fore", {"model": _fore()}, filter=name),
        "fpa": reference_dataset("fpa", fpa),
        "msa": reference_dataset("msa", _msa()),
        "ote": reference_dataset("ote", {"model": _ote()}),
        "wavelengthrange": reference_dataset(
            "wavelengthrange",
            {
                "waverange_selector": [f"{name}_{grating}"],
                "wavelengthrange": [list(waverange)],
                "order": [-1],
            },
        ),
    }


def _fore() -> Any:
    from astropy.modeling.models import Mapping as Map
    from astropy.modeling.models import Polynomial1D

    # degrees per metre, which depends a little on wavelength
    scale = Map((2,), n_inputs=3) | Polynomial1D(1, c0=0.715, c1=3.0)
    x, y = Map((0,), n_inputs=3), Map((1,), n_inputs=3)
    both = Map((0, 1, 2, 0, 1, 2))
    model = both | (x * scale) & (y * scale)
    model.inverse = both | (x / scale) & (y / scale)
    return model


def _ote() -> Any:
    from astropy.modeling.models import Rotation2D, Scale, Shift

    return Rotation2D(138.5) | Shift(0.10539) & Shift(-0.11913) | Scale(3600) & Scale(3600)


@functools.cache
def _msa() -> Mapping[str, Any]:
    from astropy.modeling.models import Rotation2D, Shift

    kind = [("NO", "i4"), ("XC", "f8"), ("YC", "f8"), ("SIZEX", "f8"), ("SIZEY", "f8")]
    row, column = np.divmod(np.arange(365 * 171), 365)
    shutters = np.zeros(row.size, dtype=kind)
    shutters["NO"] = np.arange(row.size) + 1
    shutters["XC"], shutters["YC"] = column * _PITCH[0], row * _PITCH[1]
    shutters["SIZEX"], shutters["SIZEY"] = _OPEN
    fixed = np.array([(i, *slit) for i, slit in enumerate(_FIXED)], dtype=kind)
    tree = {
        f"Q{q}": {"data": shutters, "model": Rotation2D(0.01 * q) | Shift(x) & Shift(y)}
        for q, (x, y) in _QUADRANTS.items()
    }
    tree["Q5"] = {"data": fixed, "model": Rotation2D(0.0) | Shift(0.0) & Shift(0.0)}
    return tree


def exposure(
    exp_type: str = "NRS_FIXEDSLIT",
    grating: str = "G395H",
    *,
    detector: str = "NRS1",
    subarray: str = "FULL",
    window: tuple[int, int, int, int] = (1, 1, 2048, 2048),
    integrations: int = 0,
    **keywords: Any,
) -> xr.Dataset:
    """Return an exposure whose pixels hold their own position.

    Parameters
    ----------
    exp_type, grating, detector, subarray : str
    window : (int, int, int, int)
        SUBSTRT1, SUBSTRT2, SUBSIZE1, SUBSIZE2.
    integrations : int
        Number of integrations; 0 for a countrate image.
    **keywords
        FITS keywords to add or replace; None removes one.

    Returns
    -------
    xarray.Dataset
        ``sci`` is column + row / 4096 (+ 10000 per integration) in the image.
    """
    import xarray as xr
    from astropy.io.fits import Header

    x, y, nx, ny = window
    header = {
        "TELESCOP": "JWST",
        "INSTRUME": "NIRSPEC",
        "EXP_TYPE": exp_type,
        "DETECTOR": detector,
        "GRATING": grating,
        "FILTER": CONFIGURATIONS[grating][0],
        "SUBARRAY": subarray,
        "FXD_SLIT": "NONE" if exp_type == "NRS_MSASPEC" else "S200A1",
        "PROGRAM": "01234",
        "GWA_XTIL": 0.34,
        "GWA_YTIL": 0.2,
        "GWA_TILT": 38.0,
        "MSAMETFL": "jw01234_01_msa.fits",
        "MSAMETID": 1,
        "PATT_NUM": 1,
        "V2_REF": 331.867,
        "V3_REF": -479.4175,
        "V3I_YANG": 138.5,
        "VPARITY": -1,
        "ROLL_REF": 30.0,
        "RA_REF": 53.1,
        "DEC_REF": -27.8,
        "VELOSYS": 12345.6,
        "VA_SCALE": 1.00002,
        "XOFFSET": 0.0,
        "YOFFSET": 0.0,
        **keywords,
    }
    header = {k: v for k, v in header.items() if v is not None}
    image = np.arange(nx, dtype=np.float32) + np.arange(ny, dtype=np.float32)[:, None] / 4096
    dims: tuple[str, ...] = ("y", "x")
    if integrations:
        number = np.arange(integrations, dtype=np.float32)[:, None, None]
        image, dims = image + np.float32(10000) * number, ("integration", *dims)
    names = {
        "exp_type": "EXP_TYPE",
        "instrument": "INSTRUME",
        "detector": "DETECTOR",
        "grating": "GRATING",
        "filter": "FILTER",
        "subarray": "SUBARRAY",
        "fixed_slit": "FXD_SLIT",
    }
    attrs: dict[str, Any] = {n: header[k] for n, k in names.items() if k in header}
    attrs |= {"xstart": x, "ystart": y, "xsize": nx, "ysize": ny}
    attrs["meta"] = Meta(Header(header), None, "jw01234_nrs_rate.fits")
    return xr.Dataset(
        {
            "sci": (dims, image, {"units": "DN/s"}),
            "err": (dims, np.ones_like(image)),
            "dq": (dims, np.zeros(image.shape, dtype=np.uint32)),
        },
        attrs=attrs,
    )


def msa_metadata(extra: tuple[Mapping[str, Any], ...] = ()) -> xr.Dataset:
    """Return MSA metadata: configuration 1 with four slitlets and a fixed slit, dither index 1.

    Slitlets 1 (quadrant 3) and 2 (quadrant 4) hold a source in the middle of three shutters, 3 is
    a single shutter with a source that the catalogue lacks, 4 sees background alone.

    Parameters
    ----------
    extra : tuple of mappings
        Rows of SHUTTER_INFO to add; what a mapping leaves out is that of an empty shutter.
    """
    rows = [_shutter(1, 3, 67, c, 1, main=c == 60) for c in (59, 60, 61)]
    rows += [_shutter(2, 4, 120, c, 2, main=c == 90) for c in (89, 90, 91)]
    rows += [_shutter(3, 3, 200, 120, -7, main=True)]
    rows += [_shutter(4, 4, 200, c, 0, main=False) for c in (30, 31, 33)]
    rows += [_shutter(0, 0, 0, 0, 9, main=True) | {"fixed_slit": next(iter(FIXED_SLITS))}]
    rows += [_shutter(0, 0, 0, 0, 0, main=False) | dict(row) for row in extra]
    sources = {
        "source_id": np.array([1, 2, 9]),
        "source_name": np.array(["1234_1", "1234_2", "1234_9"]),
        "alias": np.array(["one", "two", "nine"]),
        "stellarity": np.array([0.9, 0.1, 1.0]),
        "ra": np.array([53.1, 53.11, 53.12]),
        "dec": np.array([-27.8, -27.81, -27.82]),
    }
    return _metadata(rows, sources)


def neighbouring_slitlets() -> xr.Dataset:
    """Return MSA metadata with slitlets beside the fixed slits, so that a small window sees all.

    Slitlet 1 holds a star in the middle of three shutters, 2 a galaxy in the first of three, 3
    background, 4 a star in a single shutter; S200A1 is open as well.
    """
    rows = [_shutter(1, 3, 176, c, 1, main=c == 166) for c in (165, 166, 167)]
    rows += [_shutter(2, 3, 180, c, 2, main=c == 157) for c in (157, 158, 159)]
    rows += [_shutter(3, 3, 186, c, 3, main=c == 146) for c in (145, 146, 147)]
    rows += [_shutter(4, 3, 170, 153, 4, main=True)]
    rows += [_shutter(0, 0, 0, 0, 9, main=True) | {"fixed_slit": next(iter(FIXED_SLITS))}]
    names = ["1234_1", "1234_2", "1234_BKG3", "1234_4", "1234_9"]
    sources = {
        "source_id": np.array([1, 2, 3, 4, 9]),
        "source_name": np.array(names),
        "alias": np.array(names),
        "stellarity": np.array([0.9, 0.1, 0.0, 1.0, 1.0]),
        "ra": 53.1 + 0.01 * np.arange(5),
        "dec": -27.8 - 0.01 * np.arange(5),
    }
    return _metadata(rows, sources)


def _metadata(rows: list[dict[str, Any]], sources: Mapping[str, Any]) -> xr.Dataset:
    import xarray as xr

    data = {
        f"shutter_info.{key}": ("shutter_info_row", np.array([row[key] for row in rows]))
        for key in rows[0]
    }
    data |= {f"source_info.{key}": ("source_info_row", v) for key, v in sources.items()}
    return xr.Dataset(data, attrs={"filename": "jw01234_01_msa.fits"})


def _shutter(
    slitlet: int, quadrant: int, row: int, column: int, source: int, *, main: bool
) -> dict[str, Any]:
    where = np.float32(0.6 if main else np.nan)
    return {
        "slitlet_id": slitlet,
        "msa_metadata_id": 1,
        "shutter_quadrant": quadrant,
        "shutter_row": row,
        "shutter_column": column,
        "source_id": source,
        "background": "N" if main else "Y",
        "shutter_state": "OPEN",
        "estimated_source_in_shutter_x": where,
        "estimated_source_in_shutter_y": where,
        "dither_point_index": 1,
        "primary_source": "Y" if main else "N",
        "fixed_slit": "NONE",
    }

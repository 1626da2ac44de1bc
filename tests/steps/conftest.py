"""A MIRI LRS exposure with references, small and made up, shared by tests of steps."""

import numpy as np
import pytest
import xarray as xr
from astropy.io import fits
from astropy.modeling import models

from spec2fn.schema import Meta

PIXEL_SCALE = 0.11  # arcsec
REFERENCE_POINT = (20.0, 30.0)  # zero-indexed pixel of the full frame
V2_REF, V3_REF = -415.0, -400.0
FILTER_OFFSET = (-0.5, 0.25)


def lrs_wavelength(rows):
    """Wavelength [um] by row, relative to the reference point."""
    return 8.0 - 0.05 * rows


def lrs_drift(rows):
    """Column of the trace by row, relative to the reference point."""
    return 0.01 * rows


def distortion():
    """Square pixels that are turned by 5 degrees and put the reference point at (V2, V3)_REF."""
    turn = np.deg2rad(5.0)
    matrix = PIXEL_SCALE * np.array([[np.cos(turn), np.sin(turn)], [np.sin(turn), -np.cos(turn)]])
    start = models.Shift(-REFERENCE_POINT[0]) & models.Shift(-REFERENCE_POINT[1])
    return start | models.AffineTransformation2D(matrix, [V2_REF, V3_REF])


def references(columns=(), **header):
    """References of a made-up LRS: ``distortion``, ``specwcs`` and ``filteroffset``."""
    rows = np.arange(12.0, -13.0, -1.0)
    table = {
        "x_center": lrs_drift(rows),
        "y_center": rows,
        "wavelength": lrs_wavelength(rows),
        "x0": np.full(25, -6.0),
        "x1": np.full(25, 6.0),
        "y0": rows + 0.5,
        "y2": rows - 0.5,
    }
    corners = {
        f"{a}VERT{i}": v
        for a, c in {
            "V2": (V2_REF - 2, V2_REF + 2, V2_REF + 2, V2_REF - 2),
            "V3": (V3_REF - 0.2, V3_REF - 0.2, V3_REF + 0.2, V3_REF + 0.2),
        }.items()
        for i, v in enumerate(c, start=1)
    }
    keywords = {
        "IMX": REFERENCE_POINT[0] + 1,
        "IMY": REFERENCE_POINT[1] + 1,
        "IMXSLTL": REFERENCE_POINT[0] + 1,
        "IMYSLTL": REFERENCE_POINT[1] + 1,
        **corners,
        **header,
    }
    keywords = {k: v for k, v in keywords.items() if v is not None}
    tables = {f"wavetable.{k}": ("wavetable_row", v) for k, v in table.items() if k not in columns}
    specwcs = xr.Dataset(
        tables, attrs={"meta": Meta(primary=fits.Header(keywords), filename="specwcs.fits")}
    )
    entry = {"filter": "F560W", "column_offset": FILTER_OFFSET[0], "row_offset": FILTER_OFFSET[1]}
    return {
        "specwcs": specwcs,
        "distortion": xr.Dataset(attrs={"tree": {"model": distortion()}}),
        "filteroffset": xr.Dataset(attrs={"tree": {"filters": [entry]}, "filename": "off.asdf"}),
    }


def exposure(exp_type="MIR_LRS-FIXEDSLIT", shape=(60, 48), origin=(1, 1), **header):
    """An exposure of zeros; a keyword given as None is left out."""
    keywords = {
        "V2_REF": V2_REF,
        "V3_REF": V3_REF,
        "RA_REF": 53.1,
        "DEC_REF": -27.8,
        "ROLL_REF": 30.0,
        "V3I_YANG": 4.83,
        "VPARITY": -1,
        "XOFFSET": 0.0,
        "YOFFSET": 0.0,
        **header,
    }
    primary = fits.Header({k: v for k, v in keywords.items() if v is not None})
    dims = ("integration", "y", "x")[-len(shape) :]
    return xr.Dataset(
        {
            "sci": (dims, np.zeros(shape, np.float32)),
            "err": (dims, np.ones(shape, np.float32)),
            "dq": (dims, np.zeros(shape, np.uint32)),
        },
        attrs={
            "exp_type": exp_type,
            "instrument": "MIRI",
            "source_type": "POINT",
            "xstart": origin[0],
            "ystart": origin[1],
            "xsize": shape[-1],
            "ysize": shape[-2],
            "meta": Meta(primary=primary, filename="exposure.fits"),
        },
    )


class LrsCase:
    """Everything above, as one fixture."""

    scale = PIXEL_SCALE
    reference_point = REFERENCE_POINT
    v2v3 = (V2_REF, V3_REF)
    filter_offset = FILTER_OFFSET
    wavelength = staticmethod(lrs_wavelength)
    drift = staticmethod(lrs_drift)
    references = staticmethod(references)
    exposure = staticmethod(exposure)


@pytest.fixture
def lrs_case():
    """A made-up MIRI LRS: ``lrs_case.exposure(...)`` and ``lrs_case.references(...)``."""
    return LrsCase


def slit_wcs(shape, height=8.0, start=1.0, step=0.01, tilt=0.001, curve=2e-5):
    """A gwcs of a slit: wavelength grows along x, from `start` by `step` [um], lines are tilted."""
    from gwcs import WCS

    centre = (shape[0] - 1) / 2
    nothing = models.Polynomial2D(1)
    along = models.Polynomial2D(1, c0_0=-centre / height, c0_1=1 / height)
    wave = models.Polynomial2D(
        2,
        c0_0=1e-6 * (start - tilt * centre),
        c1_0=1e-6 * step,
        c0_1=1e-6 * tilt,
        c2_0=1e-6 * curve,
    )
    to_slit = models.Mapping((0, 1, 0, 1, 0, 1)) | nothing & along & wave
    to_world = models.Identity(2) & models.Scale(1e6)
    wcs = WCS([("detector", to_slit), ("slit_frame", to_world), ("world", None)])
    wcs.bounding_box = ((-0.5, shape[1] - 0.5), (-0.5, shape[0] - 0.5))
    return wcs


def slit_bucket(
    shapes=((9, 30), (7, 26), (9, 28)), n=None, ids=None, exp_type="NRS_MSASPEC", **variables
):
    """A bucket of slits with noise as data, padded; `variables` are those on ``slit``."""
    rng = np.random.default_rng(5)
    count, size = len(shapes), tuple(max(s) for s in zip(*shapes, strict=True))
    dims, full = ("slit", "y", "x"), (count, *size)
    if n is not None:
        dims, full = ("slit", "integration", "y", "x"), (count, n, *size)
    inside = np.zeros((count, *size), bool)
    for i, (ny, nx) in enumerate(shapes):
        inside[i, :ny, :nx] = True
    wide = inside if n is None else np.broadcast_to(inside[:, None], full)
    names = ("sci", "err", "var_poisson", "var_rnoise")
    planes = {
        k: (dims, np.where(wide, rng.uniform(1, 2, full), np.nan).astype(np.float32)) for k in names
    }
    ids = list(range(count)) if ids is None else ids
    wcs = {
        i: slit_wcs(s, start=1.0 + 0.1 * k)
        for k, (i, s) in enumerate(zip(ids, shapes, strict=True))
    }
    wave = np.full((count, *size), np.nan)
    for k, (i, (ny, nx)) in enumerate(zip(ids, shapes, strict=True)):
        y, x = np.mgrid[:ny, :nx]
        wave[k, :ny, :nx] = wcs[i](x, y)[2]
    wave[0, :2] = np.nan  # rows outside the slit
    on_slit = {
        "slit_name": np.array([str(i + 1) for i in ids]),
        "source_type": np.array(["POINT"] * count),
        "source_xpos": np.linspace(-0.3, 0.2, count),
        "source_ypos": np.linspace(0.1, -0.2, count),
        "ysize": np.array([s[0] for s in shapes]),
        "xsize": np.array([s[1] for s in shapes]),
        **{k: np.asarray(v) for k, v in variables.items()},
    }
    return xr.Dataset(
        {
            **planes,
            "dq": (dims, np.where(wide, 0, 513).astype(np.uint32)),
            "wavelength": (("slit", "y", "x"), wave),
            **{k: ("slit", v) for k, v in on_slit.items()},
        },
        coords={"slit": ids},
        attrs={"exp_type": exp_type, "instrument": "NIRSPEC", "meta": Meta(wcs=wcs)},
    )


@pytest.fixture
def slits():
    """``slits(...)``: a small bucket of NIRSpec slits, made up."""
    return slit_bucket


@pytest.fixture
def widened():
    """``widened(ds)``: a bucket with more padding."""

    def pad(ds, y=2, x=3):
        fill = {n: 513 if n == "dq" else np.nan for n in ds.data_vars if ds[n].ndim > 1}
        wide = ds[list(fill)].pad(y=(0, y), x=(0, x), constant_values=fill)
        return ds.drop_vars(list(fill)).assign(wide.data_vars)

    return pad

"""Reference files of the synthetic low-resolution spectrometer.

Each file follows the JWST reference file definition of its type (public CRDS documentation and
the schemas of ``stdatamodels``), and says exactly what :mod:`spec2fn.forward.lrs.instrument`
does, so that a spectrum extracted with these files is unbiased. The flat is the exception, as in
real life: it is measured, with the error its ERR plane states.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.forward import reference_files as files
from spec2fn.forward.gaussian import enclosed
from spec2fn.forward.lrs import instrument as lrs
from spec2fn.typing import HostArray

if TYPE_CHECKING:
    from astropy.modeling import Model

__all__ = ["BOX", "SHAPES", "SUBARRAYS", "measured_flat", "references", "true_flat"]

SHAPES: Mapping[str, tuple[int, int]] = {
    "MIR_LRS-FIXEDSLIT": (1024, 1032),
    "MIR_LRS-SLITLESS": (416, 72),
    "MIR_MRS": (1024, 1032),
}
"""Rows and columns of the subarray of each mode."""

SUBARRAYS: Mapping[str, str] = {
    "MIR_LRS-FIXEDSLIT": "FULL",
    "MIR_LRS-SLITLESS": "SLITLESSPRISM",
    "MIR_MRS": "FULL",
}

BOX: Mapping[str, tuple[int, int]] = {
    "MIR_LRS-FIXEDSLIT": (16, 27),
    "MIR_LRS-SLITLESS": (31, 43),
}
"""First and last column of the extraction box; on the slit it follows the source."""

FLAT_ERROR = 0.001
# Mean variance [pixel^2] that drizzling onto the straightened grid and the fractional pixels at
# the ends of the box add to the image: each is linear interpolation at a phase f, f (1 - f).
_RESAMPLING_VARIANCE = 1 / 6 + 1 / 6


_DETECTOR = {"detector": "MIRIMAGE"}
_OPTICS: Mapping[str, Any] = {
    "instrument": {"name": "MIRI", **_DETECTOR},
    "exposure": {"type": "MIR_IMAGE"},
    "input_units": "pixel",
}


def references(exp_type: str, seed: int = 0) -> Iterator[files.Reference]:
    """Make every reference of a mode.

    Parameters
    ----------
    exp_type : str
        ``MIR_LRS-FIXEDSLIT`` or ``MIR_LRS-SLITLESS``.
    seed : int
        Of the flat.
    """
    own = {"exp_type": exp_type}
    mode = {"INSTRUME": "MIRI", "DETECTOR": "MIRIMAGE", "FILTER": "P750L", "EXP_TYPE": exp_type}
    fits = partial(files.fits_reference, match=own, mode=mode)
    yield _distortion()
    yield _filteroffset()
    yield fits("specwcs", _specwcs())
    yield fits("flat", measured_flat(exp_type, seed))
    yield fits("photom", _photom(exp_type))
    yield fits("apcorr", _apcorr(exp_type))
    apertures = {"apertures": [_aperture(exp_type)]}
    yield files.Reference("extract1d", own, apertures, {"instrument": "MIRI", **own})
    if exp_type == "MIR_LRS-FIXEDSLIT":
        yield fits("pathloss", _pathloss())
        yield fits("psf", _psf())


def true_flat(exp_type: str, seed: int = 0) -> HostArray:
    """Response of each pixel relative to the mean, float64, shape of the subarray."""
    shape = SHAPES[exp_type]
    y, x = np.mgrid[: shape[0], : shape[1]]
    smooth = 1 + 0.03 * np.sin(2 * np.pi * x / shape[1]) * np.cos(2 * np.pi * y / shape[0])
    rng = np.random.default_rng([seed, 1])
    return np.asarray(smooth * (1 + 0.005 * rng.standard_normal(shape)))


def _distortion() -> files.Reference:
    from astropy.modeling.models import Mapping as Axes
    from astropy.modeling.models import Polynomial2D

    def linear(matrix: HostArray, offset: HostArray) -> Model:
        first, second = (
            Polynomial2D(1, c0_0=offset[i], c1_0=matrix[i, 0], c0_1=matrix[i, 1]) for i in (0, 1)
        )
        return Axes((0, 1, 0, 1)) | first & second

    matrix = lrs.v2v3_matrix()
    offset = np.array(lrs.to_v2v3(0.0, 0.0))
    model = linear(matrix, offset)
    inverse = np.linalg.inv(matrix)
    model.inverse = linear(inverse, -inverse @ offset)
    meta = {**_OPTICS, "output_units": "arcsec"}
    return files.Reference("distortion", _DETECTOR, {"model": model}, meta, "DistortionModel")


def _filteroffset() -> files.Reference:
    rows = [
        {"filter": name, "pupil": "N/A", "column_offset": x, "row_offset": y}
        for name, (x, y) in lrs.FILTER_OFFSET.items()
    ]
    return files.Reference(
        "filteroffset", _DETECTOR, {"filters": rows}, _OPTICS, "FilteroffsetModel"
    )


def _specwcs() -> files.Content:
    first, last = lrs.ROWS
    rows = np.arange(first, last - 1, -1, dtype=np.float64)
    x = lrs.trace(rows)
    half = (lrs.SLIT_COLUMNS - 3.0) / 2
    columns = {"x_center": x, "y_center": rows, "wavelength": lrs.wavelength(rows)}
    # corners of each wavelength element: upper left, upper right, lower right, lower left
    for i, (side, step) in enumerate(((-1, 0.5), (1, 0.5), (1, -0.5), (-1, -0.5))):
        columns[f"x{i}"] = lrs.trace(rows + step) + side * half
        columns[f"y{i}"] = rows + step
    keywords: dict[str, float] = {}
    for suffix, mode in (("", "MIR_LRS-FIXEDSLIT"), ("SLTL", "MIR_LRS-SLITLESS")):
        keywords[f"IMX{suffix}"], keywords[f"IMY{suffix}"] = (
            round(v + 1.0, 6) for v in lrs.aperture(mode)
        )
    x0, y0 = lrs.aperture("MIR_LRS-FIXEDSLIT")
    for i, (sx, sy) in enumerate(((-1, -1), (1, -1), (1, 1), (-1, 1)), start=1):
        v2, v3 = lrs.to_v2v3(x0 + sx * lrs.SLIT_COLUMNS / 2, y0 + sy * lrs.SLIT_ROWS / 2)
        keywords[f"V2VERT{i}"], keywords[f"V3VERT{i}"] = float(v2), float(v3)
    return "MiriLRSSpecwcsModel", keywords, [files.table_hdu("WAVETABLE", columns)]


def measured_flat(exp_type: str, seed: int) -> files.Content:
    """Return the content of a flat: :func:`true_flat` with the error its ERR plane states."""
    subarray = SUBARRAYS[exp_type]
    corner = (1, 1) if subarray == "FULL" else lrs.SLITLESS_CORNER
    return files.measured_flat(true_flat(exp_type, seed), FLAT_ERROR, seed, subarray, corner, 1)


def _photom(exp_type: str) -> files.Content:
    wave = np.linspace(3.0, 15.0, 1201)
    who = {
        "filter": np.array(["P750L"], "S12"),
        "subarray": np.array([SUBARRAYS[exp_type]], "S17"),
    }
    hdus = files.photom_tables(
        who,
        {"photmjsr": lrs.PHOTMJSR},
        wave,
        lrs.relative_response(wave),
        day=lrs.REFERENCE_DAY,
        loss=lrs.LOSS_PER_YEAR,
        exponential=lrs.EXPONENTIAL,
    )
    area = {"PIXAR_SR": float(lrs.PIXEL_AREA_SR), "PIXAR_A2": float(lrs.PIXEL_AREA_ARCSEC2)}
    return "MirLrsPhotomModel", area, hdus


def _apcorr(exp_type: str) -> files.Content:
    wave = np.linspace(4.0, 14.3, 300)
    size = np.arange(1, 25)
    width = lrs.sigma(wave)
    if exp_type == "MIR_LRS-FIXEDSLIT":
        offset = np.zeros_like(wave)
        width = np.sqrt(width**2 + _RESAMPLING_VARIANCE)
    else:
        # the box stands still while the spectrum is curved
        rows = np.arange(lrs.ROWS[1], lrs.ROWS[0] + 1)[::-1]
        column = lrs.aperture(exp_type)[0] + lrs.trace(np.interp(wave, lrs.wavelength(rows), rows))
        offset = sum(BOX[exp_type]) / 2 - column
    half = size / 2
    factor = 1 / enclosed(offset[:, None] - half, offset[:, None] + half, width[:, None])
    table = files.table_hdu(
        "APCORR",
        {
            "subarray": np.array([SUBARRAYS[exp_type]], "S17"),
            "wavelength": wave[None].astype(np.float32),
            "nelem_wl": np.array([len(wave)], np.int16),
            "size": size[None].astype(np.uint8),
            "nelem_size": np.array([len(size)], np.int16),
            "apcorr": factor[None].astype(np.float32),
            "apcorr_err": np.zeros((1, *factor.shape), np.float32),
        },
        SIZEUNIT="pixels",
    )
    return "MirLrsApcorrModel", {}, [table]


def _aperture(exp_type: str) -> dict[str, Any]:
    start, stop = BOX[exp_type]
    box = {
        "id": exp_type,
        "region_type": "target",
        "dispaxis": 2,
        "xstart": start,
        "xstop": stop,
        "independent_var": "pixel",
    }
    if exp_type == "MIR_LRS-FIXEDSLIT":
        return box | {"extract_width": stop - start + 1, "use_source_posn": True}
    regions = [[7.5], [21.5], [53.5], [67.5]]
    return box | {"use_source_posn": False, "bkg_coeff": regions, "bkg_order": 0}


def _pathloss() -> files.Content:
    wave = np.linspace(15.0, 3.5, 231)
    columns, rows, step = 65, 41, 0.1
    offset = (np.arange(rows) - rows // 2) * step
    factor = 1 / lrs.slit_transmission(wave[:, None], offset[None, :])
    cube = np.repeat(factor[:, :, None], columns, axis=2).astype(np.float32)
    table = files.table_hdu(
        "PATHLOSS",
        {
            "wavelength": wave.astype(np.float32),
            "pathloss": cube,
            "pathloss_err": np.zeros_like(cube),
        },
        CRPIX1=columns // 2 + 1.0,
        CRVAL1=0.0,
        CDELT1=1.0,
        CRPIX2=rows // 2 + 1.0,
        CRVAL2=0.0,
        CDELT2=step,
    )
    return "MirLrsPathlossModel", {}, [table]


def _psf() -> files.Content:
    first, last = lrs.ROWS
    wave = lrs.wavelength(np.arange(last, first + 1, dtype=np.float64))
    oversampling, pixels = 4, 81
    center = (oversampling * pixels - 1) / 2
    u = (np.arange(oversampling * pixels) - center) / oversampling
    step = 0.5 / oversampling
    profile = enclosed(u - step, u + step, lrs.sigma(wave)[:, None])
    hdus = [
        files.image_hdu(
            "PSF",
            profile,
            APERTURE="ANY",
            SUBPIX=oversampling,
            CENTCOL=center,
            CENTROW=float(-last),
        ),
        files.image_hdu("WAVE", wave),
    ]
    return "SpecPsfModel", {}, hdus

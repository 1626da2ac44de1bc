"""Reference files of the synthetic grism of NIRCam.

Each file follows the JWST reference file definition of its type (public CRDS documentation and
the schemas of ``stdatamodels``), and says exactly what
:mod:`spec2fn.forward.nircam.instrument` does; the flat is measured, with the error its ERR plane
states. The images of stars are narrow and the box is wide, so that there is no aperture
correction, as there is none for this mode.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.forward import reference_files as files
from spec2fn.forward.nircam import instrument as nircam
from spec2fn.typing import HostArray

if TYPE_CHECKING:
    from astropy.modeling import Model

__all__ = ["references", "true_flat"]

_FLAT_ERROR = 0.001
_BOX = (28, 40)
_SKY_ROWS = ((5.5, 18.5), (49.5, 60.5))
_DETECTOR = {"detector": "NRCALONG"}
_OPTICS = {"name": "NIRCAM", "module": "A", "channel": "LONG", **_DETECTOR}


def references(exp_type: str, seed: int = 0) -> Iterator[files.Reference]:
    """Make every reference of the mode; `seed` is that of the flat."""
    own = {"exp_type": exp_type}
    mode = {
        "INSTRUME": "NIRCAM",
        "DETECTOR": "NRCALONG",
        "MODULE": "A",
        "CHANNEL": "LONG",
        "FILTER": "F444W",
        "PUPIL": "GRISMR",
        "EXP_TYPE": exp_type,
    }
    fits = partial(files.fits_reference, match=own, mode=mode)
    meta = {"exposure": {"type": exp_type}, "input_units": "micron", "output_units": "micron"}
    grism = meta | {"instrument": {**_OPTICS, "pupil": "GRISMR"}}
    yield _distortion()
    yield files.Reference("specwcs", own, _traces(), grism, "NIRCAMGrismModel")
    ranges = meta | {"instrument": {"name": "NIRCAM"}, "wavelength_units": "micron"}
    yield files.Reference("wavelengthrange", own, _ranges(), ranges, "WavelengthrangeModel")
    flat = true_flat(seed)
    yield fits("flat", files.measured_flat(flat, _FLAT_ERROR, seed, "SUBGRISM64", (1, 1), -1))
    yield fits("photom", _photom())
    apertures = {"apertures": [_aperture()]}
    yield files.Reference("extract1d", own, apertures, {"instrument": "NIRCAM", **own})


def true_flat(seed: int = 0) -> HostArray:
    """Response of each pixel relative to the mean, float64, shape of the subarray."""
    rows, columns = nircam.SHAPE
    y, x = np.mgrid[:rows, :columns]
    smooth = 1 + 0.03 * np.sin(2 * np.pi * x / columns) * np.cos(2 * np.pi * y / rows)
    rng = np.random.default_rng([seed, 1])
    return np.asarray(smooth * (1 + 0.005 * rng.standard_normal(nircam.SHAPE)))


def _distortion() -> files.Reference:
    from astropy.modeling.models import Mapping as Axes
    from astropy.modeling.models import Polynomial2D

    def linear(matrix: HostArray, offset: HostArray) -> Model:
        first, second = (
            Polynomial2D(1, c0_0=offset[i], c1_0=matrix[i, 0], c0_1=matrix[i, 1]) for i in (0, 1)
        )
        return Axes((0, 1, 0, 1)) | first & second

    matrix, offset = nircam.v2v3_matrix(), np.array(nircam.to_v2v3(0.0, 0.0))
    inverse = np.linalg.inv(matrix)
    model = linear(matrix, offset)
    model.inverse = linear(inverse, -inverse @ offset)
    meta: dict[str, Any] = {"instrument": _OPTICS, "exposure": {"type": "NRC_IMAGE"}}
    meta |= {"input_units": "pixel", "output_units": "arcsec"}
    return files.Reference("distortion", _DETECTOR, {"model": model}, meta, "DistortionModel")


def _line(coefficients: Iterable[float]) -> Model:
    from astropy.modeling.models import Polynomial1D

    named = {f"c{k}": float(c) for k, c in enumerate(coefficients)}
    return Polynomial1D(len(named) - 1, **named)


def _traces() -> dict[str, Any]:
    polynomial = np.polynomial.polynomial
    t = np.linspace(-0.2, 1.2, 201)
    wave, along = (polynomial.polyval(t, c) for c in (nircam.WAVE, nircam.TRACE_X))
    return {
        "orders": [nircam.ORDER],
        "displ": [_line(nircam.WAVE)],
        "dispx": [_line(nircam.TRACE_X)],
        "dispy": [_line(nircam.TRACE_Y)],
        "invdispl": [_line(polynomial.polyfit(wave, t, 1))],
        "invdispx": [_line(polynomial.polyfit(along, t, 3))],
    }


def _ranges() -> dict[str, Any]:
    return {
        "wavelengthrange": [[nircam.ORDER, 0, "F444W", *nircam.WAVELENGTHS]],
        "waverange_selector": ["F444W"],
        "order": [nircam.ORDER],
        "extract_orders": [["F444W", [nircam.ORDER]]],
    }


def _photom() -> files.Content:
    wave = np.linspace(*nircam.WAVELENGTHS, 1121)
    who = {
        "filter": np.array(["F444W"], "S12"),
        "pupil": np.array(["GRISMR"], "S15"),
        "order": np.array([nircam.ORDER], np.int16),
    }
    hdus = files.photom_tables(
        who,
        {"photmjsr": nircam.PHOTMJSR},
        wave,
        nircam.relative_response(wave),
        day=nircam.REFERENCE_DAY,
        loss=nircam.LOSS_PER_YEAR,
    )
    hdus[0].header["PHOTUNIT"] = "MJy micron s / (DN sr)"
    area = {
        "PIXAR_SR": float(nircam.PIXEL_AREA_SR),
        "PIXAR_A2": float(nircam.PIXEL_AREA_ARCSEC2),
    }
    return "NrcWfssPhotomModel", area, hdus


def _aperture() -> dict[str, Any]:
    return {
        "id": "ANY",
        "region_type": "target",
        "dispaxis": 1,
        "ystart": _BOX[0],
        "ystop": _BOX[1],
        "independent_var": "pixel",
        "use_source_posn": False,
        "bkg_coeff": [[limit] for rows in _SKY_ROWS for limit in rows],
        "bkg_order": 0,
    }

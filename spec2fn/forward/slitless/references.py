"""Reference files of the synthetic slitless spectrographs.

Each file follows the JWST reference file definition of its type, and says what
:mod:`spec2fn.forward.slitless.instrument` does. The flat is measured, with the error its ERR plane
states.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.forward import reference_files as files
from spec2fn.forward.slitless.instrument import GRISMS, Field, Grism
from spec2fn.typing import HostArray

if TYPE_CHECKING:
    from astropy.modeling import Model

__all__ = ["background_shape", "references", "true_flat"]

_FLAT_ERROR = 0.001
_GRID = 41  # places along each side at which the distortion is inverted


def references(exp_type: str, seed: int = 0) -> Iterator[files.Reference]:
    """Make every reference of a mode; `seed` is that of the flat."""
    grism = GRISMS[exp_type]
    match = {"exp_type": exp_type}
    keywords = {"INSTRUME": grism.instrument, **grism.keywords, "EXP_TYPE": exp_type}
    fits = partial(files.fits_reference, match=match, mode=keywords)
    words = {k.lower(): v for k, v in grism.keywords.items()}
    meta = {"instrument": {"name": grism.instrument, **words}, "exposure": {"type": exp_type}}
    pixels = {**meta, "input_units": "pixel", "output_units": "arcsec"}
    yield files.Reference(
        "distortion", match, {"model": _distortion(grism)}, pixels, "DistortionModel"
    )
    kind = "NIRISSGrismModel" if grism.wheel else "NIRCAMGrismModel"
    microns = {**meta, "input_units": "micron", "output_units": "micron"}
    yield files.Reference("specwcs", match, _specwcs(grism), microns, kind)
    ranges = {
        "waverange_selector": [grism.band],
        "wavelengthrange": [[o, grism.band, *_ends(grism)] for o in grism.orders],
        "order": list(grism.orders),
        "extract_orders": [[grism.band, list(grism.extracted)]],
    }
    units = {**meta, "wavelength_units": "micron"}
    yield files.Reference("wavelengthrange", match, ranges, units, "WavelengthrangeModel")
    frame = {
        "SUBARRAY": "FULL",
        "SUBSTRT1": 1,
        "SUBSTRT2": 1,
        "SUBSIZE1": grism.shape[1],
        "SUBSIZE2": grism.shape[0],
        "FASTAXIS": grism.detector.fast,
        "SLOWAXIS": grism.detector.slow,
    }
    flat = true_flat(grism, seed)
    noise = np.random.default_rng([seed, 2]).standard_normal(grism.shape)
    measured = (flat * (1 + _FLAT_ERROR * noise)).astype(np.float32)
    planes = files.planes(measured, (_FLAT_ERROR * flat).astype(np.float32))
    yield fits("flat", ("FlatModel", frame, planes))
    # it is subtracted before the flat field is divided out, and so is seen through it
    sky = (background_shape(grism) * flat).astype(np.float32)
    yield fits("bkg", ("WfssBkgModel", frame, files.planes(sky)))
    gain = np.full(grism.shape, grism.detector.gain, np.float32)
    yield fits("gain", ("GainModel", frame, [files.image_hdu("SCI", gain)]))
    yield fits("photom", _photom(grism))
    yield fits("apcorr", _apcorr(grism))


def true_flat(grism: Grism, seed: int = 0) -> HostArray:
    """Response of each pixel relative to the mean, float64 (y, x)."""
    y, x = np.mgrid[: grism.shape[0], : grism.shape[1]]
    smooth = 1 + 0.02 * np.sin(x / 170.0) * np.cos(y / 140.0)
    rng = np.random.default_rng([seed, 1])
    return np.asarray(smooth * (1 + 0.004 * rng.standard_normal(grism.shape)))


def background_shape(grism: Grism) -> HostArray:
    """Dispersed background relative to its mean, float64 (y, x)."""
    y, x = np.mgrid[: grism.shape[0], : grism.shape[1]]
    return np.asarray(1 + 0.10 * np.tanh((x - 300.0) / 180.0) - 0.05 * y / grism.shape[0])


def _ends(grism: Grism) -> tuple[float, float]:
    """Wavelengths within which there is light."""
    return grism.ends[0] - 5 * grism.edge, grism.ends[1] + 5 * grism.edge


def _polynomial(values: dict[tuple[int, int], float], degree: int) -> Model:
    from astropy.modeling.models import Polynomial2D

    return Polynomial2D(degree, **{f"c{i}_{j}": v for (i, j), v in values.items()})


def _distortion(grism: Grism) -> Model:
    from astropy.modeling.fitting import LinearLSQFitter
    from astropy.modeling.models import AffineTransformation2D, Polynomial2D, Shift
    from astropy.modeling.models import Mapping as Axes

    def both(first: Model, second: Model) -> Model:
        return Axes((0, 1, 0, 1)) | first & second

    (a, b), bend, at = grism.center, grism.curvature, grism.aperture
    bent = both(
        _polynomial({(1, 0): 1.0, (1, 1): bend}, 2), _polynomial({(0, 1): 1.0, (2, 0): bend}, 2)
    )
    matrix = grism.matrix()
    model = (
        Shift(-a) & Shift(-b)
        | bent
        | AffineTransformation2D(matrix=matrix)
        | Shift(at.v2) & Shift(at.v3)
    )
    u, v = np.meshgrid(*(np.linspace(-1.3 * c, 1.3 * c, _GRID) for c in (a, b)))
    straight = bent(u, v)
    # far less than the Newton steps that follow need
    fits = [LinearLSQFitter()(Polynomial2D(3), *straight, target) for target in (u, v)]
    model.inverse = (
        Shift(-at.v2) & Shift(-at.v3)
        | AffineTransformation2D(matrix=np.linalg.inv(matrix))
        | both(*fits)
        | Shift(a) & Shift(b)
    )
    return model


def _specwcs(grism: Grism) -> dict[str, Any]:
    from astropy.modeling.models import Polynomial1D

    def surfaces(powers: tuple[Field, ...]) -> list[Model]:
        return [_polynomial(dict(zip(((0, 0), (1, 0), (0, 1)), f, strict=True)), 1) for f in powers]

    traces = list(grism.orders.values())
    tree: dict[str, Any] = {
        "orders": list(grism.orders),
        "dispx": [surfaces(t.dx) for t in traces],
        "dispy": [surfaces(t.dy) for t in traces],
    }
    if grism.wheel is None:
        waves = [[(w, 0.0, 0.0) for w in t.wave] for t in traces]
        return {**tree, "displ": [surfaces(tuple(w)) for w in waves]}
    forward = [Polynomial1D(1, c0=t.wave[0], c1=t.wave[1]) for t in traces]
    back = [Polynomial1D(1, c0=-t.wave[0] / t.wave[1], c1=1 / t.wave[1]) for t in traces]
    return {**tree, "displ": forward, "invdispl": back, "fwcpos_ref": grism.wheel[1]}


def _photom(grism: Grism) -> files.Content:
    low, high = _ends(grism)
    wave = np.linspace(low - 0.01, high + 0.01, 401)
    relative = 1 / np.maximum(grism.response(wave), 1e-4)
    rows = len(grism.orders)

    def each(value: HostArray | float | str, kind: str) -> HostArray:
        return np.array([value] * rows, kind)

    table = files.table_hdu(
        "PHOTOM",
        {
            "filter": each(grism.keywords["FILTER"], "S12"),
            "pupil": each(grism.keywords["PUPIL"], "S15"),
            "order": np.array(list(grism.orders), np.int16),
            "photmjsr": np.array([t.conversion for t in grism.orders.values()], np.float32),
            "uncertainty": each(0.0, "f4"),
            "nelem": each(wave.size, "i2"),
            "wavelength": each(wave, "f4"),
            "relresponse": each(relative, "f4"),
            "reluncertainty": each(np.zeros(wave.size), "f4"),
        },
        PHOTUNIT="MJy micron s / (DN sr)",
        WAVEUNIT="micron",
    )
    model = "NisWfssPhotomModel" if grism.wheel else "NrcWfssPhotomModel"
    area = {"PIXAR_SR": grism.pixel_area, "PIXAR_A2": grism.aperture.scale**2}
    return model, area, [table]


def _apcorr(grism: Grism) -> files.Content:
    from scipy.special import erf

    wave = np.linspace(*_ends(grism), 20)
    size = np.arange(3, 31)
    factor = 1 / erf(size / 2 / (np.sqrt(2) * grism.width))
    table = files.table_hdu(
        "APCORR",
        {
            "filter": np.array([grism.keywords["FILTER"]], "S12"),
            "pupil": np.array([grism.keywords["PUPIL"]], "S15"),
            "wavelength": wave[None].astype(np.float32),
            "nelem_wl": np.array([len(wave)], np.int16),
            "size": size[None].astype(np.uint8),
            "nelem_size": np.array([len(size)], np.int16),
            "apcorr": np.broadcast_to(factor, (1, len(wave), len(size))).astype(np.float32),
            "apcorr_err": np.zeros((1, len(wave), len(size)), np.float32),
        },
        SIZEUNIT="pixels",
    )
    model = "NisWfssApcorrModel" if grism.wheel else "NrcWfssApcorrModel"
    return model, {}, [table]

"""Reference files of the synthetic medium-resolution spectrometer.

Each file follows the JWST reference file definition of its type (public CRDS documentation and
the schemas of ``stdatamodels``), and says what :mod:`spec2fn.forward.mrs.instrument` does. The
flat is measured, with the error its ERR plane states.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from spec2fn.forward import reference_files as files
from spec2fn.forward.ifu_references import (
    EXTRACTION,
    CubeImage,
    apcorr_table,
    apertures,
    cube_tables,
)
from spec2fn.forward.lrs.references import measured_flat
from spec2fn.forward.mrs import instrument as mrs
from spec2fn.typing import HostArray
from spec2fn.units import ARCSEC2_TO_SR

__all__ = ["references"]

_DETECTOR = "MIRIFUSHORT"
_MODELS = {
    "distortion": "DistortionMRSModel",
    "specwcs": "SpecwcsModel",
    "wavelengthrange": "WavelengthrangeModel",
    "regions": "RegionsModel",
    "extract1d": "Extract1dIFUModel",
    "apcorr": "MirMrsApcorrModel",
}
_FRINGES = {"ffreq": (2.9, 0.4), "dffreq": (1.5, 0.15)}  # [cm], main and beat component


def references(exp_type: str = mrs.EXP_TYPE, seed: int = 0) -> Iterator[files.Reference]:
    """Make every reference of the mode; `seed` is that of the flat."""
    match = {"exp_type": exp_type}
    wave, images = _images()
    sigma = mrs.sigma(wave)
    in_cube = np.array([i.sigma(s) for i, s in zip(images, sigma, strict=True)])
    trees = {
        **mrs.optics_trees(),
        "extract1d": {"data": apertures(wave, in_cube)},
        "apcorr": {
            "apcorr_table": apcorr_table(wave, sigma, images, channel="ALL", band="ALL"),
        },
    }
    for reftype, tree in trees.items():
        yield files.Reference(reftype, match, tree, _meta(reftype), _MODELS[reftype])
    mode = {"INSTRUME": "MIRI", "DETECTOR": _DETECTOR, "CHANNEL": "12", "BAND": mrs.BAND}
    fits = partial(files.fits_reference, match=match, mode={**mode, "EXP_TYPE": exp_type})
    yield fits("flat", measured_flat(exp_type, seed))
    yield fits("fringe", _fringe())
    yield fits("photom", _photom())
    yield fits("mrsxartcorr", _cross_artifact())
    yield fits("fringefreq", _fringe_frequencies())
    yield fits("cubepar", _cubes())


def _images() -> tuple[HostArray, list[CubeImage]]:
    """Wavelengths of both channels, and what blurs the image of a star in their cubes."""
    waves, images = [], []
    for c in mrs.CHANNELS:
        waves.append(np.linspace(c.planes[0] - 0.1, c.planes[1] + 0.1, 12))
        images += [CubeImage(c.scale, c.width, c.spaxel)] * 12
    return np.concatenate(waves), images


def _meta(reftype: str) -> Mapping[str, Any]:
    """Metadata of an ASDF reference."""
    from astropy import units

    names = {"name": "MIRI", "detector": _DETECTOR, "channel": "12", "band": mrs.BAND}
    own: dict[str, Mapping[str, Any]] = {
        "extract1d": EXTRACTION,
        "distortion": {"input_units": units.pix, "output_units": units.arcsec},
        "specwcs": {"input_units": units.pix, "output_units": units.micron},
        "wavelengthrange": {"wavelength_units": units.micron},
    }
    return {"instrument": names, "exposure": {"type": mrs.EXP_TYPE}, **own.get(reftype, {})}


def _fringe() -> files.Content:
    wave = mrs.wavelengths()
    flat = mrs.fringes(wave).astype(np.float32)
    return "FringeModel", {}, files.planes(flat)


def _photom() -> files.Content:
    factor = (mrs.PHOTMJSR * mrs.relative_response(mrs.wavelengths())).astype(np.float32)
    area = mrs.CHANNELS[0].scale * mrs.CHANNELS[0].width
    sizes = np.full(factor.shape, area * ARCSEC2_TO_SR, np.float32)
    hdus = [*files.planes(factor), files.image_hdu("PIXSIZ", sizes)]
    wave = np.linspace(4.5, 29.0, 50)
    for number in range(1, 5):
        columns = {"binwave": wave, **mrs.time_dependence(wave)}
        columns = {k: v.astype(np.float32) for k, v in columns.items()}
        hdus.append(files.table_hdu(f"TIMECOEFF_POWERLAW_CH{number}", columns))
    keywords = {"PIXAR_A2": area, "PIXAR_SR": area * ARCSEC2_TO_SR, "PHOTMJSR": mrs.PHOTMJSR}
    return "MirMrsPhotomModel", keywords, hdus


def _cross_artifact() -> files.Content:
    rows = np.arange(mrs.SHAPE[0])
    profile = {
        "lor_fwhm": 80.0 + 0.005 * rows,
        "lor_scale": np.full(rows.size, 2.0e-4),
        "gau_fwhm": np.full(rows.size, 6.0),
        "gau_xoff": np.full(rows.size, 18.0),
        "gau_scale1": np.full(rows.size, 1.0e-4),
        "gau_scale2": np.full(rows.size, 6.0e-5),
    }
    columns = {"yrow": rows.astype(np.int16)}
    columns |= {k: v.astype(np.float32) for k, v in profile.items()}
    hdus = [files.table_hdu(f"CH{c}{b}", columns) for c in "1234" for b in "ABC"]
    return "MirMrsXArtCorrModel", {}, hdus


def _fringe_frequencies() -> files.Content:
    labels = np.array([label for c in mrs.CHANNELS for label in c.labels], np.float64)

    def both(values: tuple[float, float], kind: type) -> HostArray:
        return np.tile(np.array(values, kind), (labels.size, 1))

    columns = {
        "slice": labels,
        **{k: both(v, np.float64) for k, v in _FRINGES.items()},
        "min_nfringes": both((1, 1), np.int64),
        "max_nfringes": both((10, 15), np.int64),
        "min_snr": both((10.0, 10.0), np.float64),
        "pgram_res": both((0.001, 0.001), np.float64),
    }
    wave = np.linspace(4.5, 29.0, 50)
    hdus = [files.table_hdu(f"RFC_FREQ_{b}", columns) for b in ("SHORT", "MEDIUM", "LONG")]
    hdus.append(files.table_hdu("MAX_AMP", {"wavelength": wave, "amplitude": np.full(50, 0.12)}))
    return "FringeFreqModel", {}, hdus


def _cubes() -> files.Content:
    who = {
        "channel": np.array([str(c.number) for c in mrs.CHANNELS], "S3"),
        "band": np.array([mrs.BAND] * len(mrs.CHANNELS), "S12"),
    }
    planes = np.array([c.planes for c in mrs.CHANNELS])
    table = np.concatenate([np.arange(low, high, step) for low, high, step in planes])
    spaxels = np.array([c.spaxel for c in mrs.CHANNELS])
    hdus = cube_tables(who, planes, spaxels, {"MULTICHANNEL": table}, drizzle="DRIZ")
    return "MiriIFUCubeParsModel", {}, hdus

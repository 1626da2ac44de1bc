"""Reference files of the synthetic medium-resolution spectrometer.

Each file follows the JWST reference file definition of its type (public CRDS documentation and
the schemas of ``stdatamodels``), and says what :mod:`spec2fn.forward.mrs.instrument` does. The
flat is measured, with the error its ERR plane states.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from spec2fn.forward.ifu_references import CubeImage, apcorr_table, apertures, cube_tables
from spec2fn.forward.lrs.references import ReferenceFile, measured_flat
from spec2fn.forward.mrs import instrument as mrs
from spec2fn.forward.reference_files import image_hdu, table_hdu, write_asdf, write_fits
from spec2fn.units import ARCSEC2_TO_SR

__all__ = ["write_references"]

Array = np.ndarray[Any, Any]
Content = tuple[str, dict[str, Any], list[Any]]

_MODE = {"INSTRUME": "MIRI", "DETECTOR": "MIRIFUSHORT", "CHANNEL": "12", "BAND": mrs.BAND}
_MATCH = {"exp_type": mrs.EXP_TYPE}
_MODELS = {
    "distortion": "DistortionMRSModel",
    "specwcs": "SpecwcsModel",
    "wavelengthrange": "WavelengthrangeModel",
    "regions": "RegionsModel",
    "extract1d": "Extract1dIFUModel",
    "apcorr": "MirMrsApcorrModel",
}
_FRINGES = {"ffreq": (2.9, 0.4), "dffreq": (1.5, 0.15)}  # [cm], main and beat component


def write_references(folder: Path, seed: int = 0) -> list[ReferenceFile]:
    """Write every reference file of the mode.

    Parameters
    ----------
    folder : Path
        Existing folder for the files.
    seed : int
        Of the flat.

    Returns
    -------
    list of ReferenceFile
    """
    out: list[ReferenceFile] = []

    def add(reftype: str, suffix: str, write: Callable[[Path], None]) -> None:
        path = folder / f"jwst_miri_{reftype}_0001.{suffix}"
        write(path)
        out.append(ReferenceFile(reftype, path, _MATCH))

    def fits(reftype: str, content: Content) -> None:
        add(reftype, "fits", lambda p: write_fits(p, reftype, mrs.EXP_TYPE, content, _MODE))

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
        add(reftype, "asdf", _asdf_writer(reftype, tree))
    fits("flat", measured_flat(mrs.EXP_TYPE, seed))
    fits("fringe", _fringe())
    fits("photom", _photom())
    fits("mrsxartcorr", _cross_artifact())
    fits("fringefreq", _fringe_frequencies())
    fits("cubepar", _cubes())
    return out


def _images() -> tuple[Array, list[CubeImage]]:
    """Wavelengths of both channels, and what blurs the image of a star in their cubes."""
    waves, images = [], []
    for c in mrs.CHANNELS:
        waves.append(np.linspace(c.planes[0] - 0.1, c.planes[1] + 0.1, 12))
        images += [CubeImage(c.scale, c.width, c.spaxel)] * 12
    return np.concatenate(waves), images


def _asdf_writer(reftype: str, tree: Any) -> Callable[[Path], None]:
    names = {"name": "MIRI", "detector": _MODE["DETECTOR"], "channel": "12", "band": mrs.BAND}
    meta: dict[str, Any] = {"instrument": names, "exposure": {"type": mrs.EXP_TYPE}}
    if reftype == "extract1d":
        meta |= {
            "region_type": "target",
            "subtract_background": True,
            "method": "exact",
            "subpixels": 10,
        }
    elif reftype in ("distortion", "specwcs"):
        from astropy import units

        meta |= {
            "input_units": units.pix,
            "output_units": units.arcsec if reftype == "distortion" else units.micron,
        }
    elif reftype == "wavelengthrange":
        from astropy import units

        meta["wavelength_units"] = units.micron
    return lambda path: write_asdf(path, reftype, _MODELS[reftype], tree, **meta)


def _fringe() -> Content:
    wave = mrs.wavelengths()
    flat = mrs.fringes(wave).astype(np.float32)
    hdus = [
        image_hdu("SCI", flat),
        image_hdu("ERR", np.zeros_like(flat)),
        image_hdu("DQ", np.zeros(flat.shape, np.uint32)),
    ]
    return "FringeModel", {}, hdus


def _photom() -> Content:
    factor = (mrs.PHOTMJSR * mrs.relative_response(mrs.wavelengths())).astype(np.float32)
    area = mrs.CHANNELS[0].scale * mrs.CHANNELS[0].width
    hdus = [
        image_hdu("SCI", factor),
        image_hdu("ERR", np.zeros_like(factor)),
        image_hdu("DQ", np.zeros(factor.shape, np.uint32)),
        image_hdu("PIXSIZ", np.full(factor.shape, area * ARCSEC2_TO_SR, np.float32)),
    ]
    wave = np.linspace(4.5, 29.0, 50)
    for number in range(1, 5):
        columns = {"binwave": wave, **mrs.time_dependence(wave)}
        columns = {k: v.astype(np.float32) for k, v in columns.items()}
        hdus.append(table_hdu(f"TIMECOEFF_POWERLAW_CH{number}", columns))
    keywords = {"PIXAR_A2": area, "PIXAR_SR": area * ARCSEC2_TO_SR, "PHOTMJSR": mrs.PHOTMJSR}
    return "MirMrsPhotomModel", keywords, hdus


def _cross_artifact() -> Content:
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
    hdus = [table_hdu(f"CH{c}{b}", columns) for c in "1234" for b in "ABC"]
    return "MirMrsXArtCorrModel", {}, hdus


def _fringe_frequencies() -> Content:
    labels = np.array([label for c in mrs.CHANNELS for label in c.labels], np.float64)

    def both(values: tuple[float, float], kind: type) -> Array:
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
    hdus = [table_hdu(f"RFC_FREQ_{b}", columns) for b in ("SHORT", "MEDIUM", "LONG")]
    hdus.append(table_hdu("MAX_AMP", {"wavelength": wave, "amplitude": np.full(50, 0.12)}))
    return "FringeFreqModel", {}, hdus


def _cubes() -> Content:
    who = {
        "channel": np.array([str(c.number) for c in mrs.CHANNELS], "S3"),
        "band": np.array([mrs.BAND] * len(mrs.CHANNELS), "S12"),
    }
    planes = np.array([c.planes for c in mrs.CHANNELS])
    table = np.concatenate([np.arange(low, high, step) for low, high, step in planes])
    spaxels = np.array([c.spaxel for c in mrs.CHANNELS])
    hdus = cube_tables(who, planes, spaxels, {"MULTICHANNEL": table}, drizzle="DRIZ")
    return "MiriIFUCubeParsModel", {}, hdus

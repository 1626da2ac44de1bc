"""Reference files of the integral field unit of the synthetic NIRSpec.

As :mod:`spec2fn.forward.nirspec.references`, with which they share flats and photometry.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from spec2fn.forward import reference_files as files
from spec2fn.forward.ifu_references import (
    EXTRACTION,
    CubeImage,
    apcorr_table,
    apertures,
    cube_tables,
)
from spec2fn.forward.nirspec import instrument as nrs
from spec2fn.forward.nirspec.ifu_optics import optics_trees
from spec2fn.forward.nirspec.optics import CONFIGURATIONS
from spec2fn.forward.nirspec.references import (
    GRATING,
    detector_flat,
    fast_table,
    instrument_keywords,
    msaoper,
    optics_references,
    pathloss_content,
    photom_content,
    spectrograph_flat,
    table_waves,
)
from spec2fn.typing import HostArray
from spec2fn.units import ARCSEC2_TO_SR

__all__ = ["EXP_TYPE", "references", "sigma"]

EXP_TYPE = "NRS_IFU"
SLICE_WIDTH = 0.103
"""Width of a slice on the sky [arcsec]."""
SPAXEL = 0.1
_SLICES = 30
_PLANES = {"PRISM": (0.7, 5.25, 0.01)}  # first and last wavelength, step [um]
_STEPS = {"PRISM": 0.005, "MED": 0.001, "HIGH": 0.0004}
_BEAM = (0.6, 0.6)  # of the light that passes, around a star [arcsec]


def sigma(wave: HostArray) -> HostArray:
    """Standard deviation [arcsec] of the Gaussian image of a star."""
    return nrs.PIXEL_SCALE * nrs.sigma(wave)


def references(exp_type: str = EXP_TYPE, seed: int = 0) -> Iterator[files.Reference]:
    """Make every reference of the mode; `seed` is that of the flat."""
    match = {"detector": "NRS1"}
    yield from optics_references(optics_trees(GRATING), match)
    mode = {**instrument_keywords(GRATING), "EXP_TYPE": exp_type}
    fits = partial(files.fits_reference, match=match, mode=mode)
    yield fits("dflat", detector_flat(seed))
    yield fits("sflat", spectrograph_flat())
    yield fits("fflat", _fore_flat())
    yield fits("pathloss", pathloss_content({"IFU": (0, _BEAM)}))
    yield fits("photom", _photom(GRATING))
    yield fits("area", _areas())
    name = CONFIGURATIONS[GRATING][0]
    yield fits("cubepar", _cubes(GRATING, name))
    wave = table_waves(30)
    image = CubeImage(nrs.PIXEL_SCALE, SLICE_WIDTH, SPAXEL)
    images = [image] * len(wave)
    meta = {
        "instrument": {"name": "NIRSPEC", "detector": "NRS1", "filter": name, "grating": GRATING},
        "exposure": {"type": exp_type},
    }
    radii = {"data": apertures(wave, image.sigma(sigma(wave)))}
    yield files.Reference("extract1d", match, radii, {**meta, **EXTRACTION}, "Extract1dIFUModel")
    correction = apcorr_table(wave, sigma(wave), images, grating=GRATING, filter=name)
    yield files.Reference("apcorr", match, {"apcorr_table": correction}, meta, "NrsIfuApcorrModel")
    yield msaoper(match)


def _fore_flat() -> files.Content:
    wave = table_waves(300)
    return "NirspecFlatModel", {}, [fast_table({"ANY": nrs.fore_response(wave)}, wave)]


def _photom(grating: str) -> files.Content:
    model, keywords, hdus = photom_content(grating, mos=True)
    area = nrs.PIXEL_SCALE * SLICE_WIDTH
    own = {"PIXAR_A2": area, "PIXAR_SR": area * ARCSEC2_TO_SR}
    return model, {**keywords, **own}, hdus


def _areas() -> files.Content:
    number = np.arange(_SLICES)
    # slices are not quite equally wide
    area = nrs.PIXEL_SCALE * SLICE_WIDTH * (1 + 0.002 * np.cos(number))
    columns = {"slice_id": number.astype(np.int16), "pixarea": area.astype(np.float32)}
    return "NirspecIfuAreaModel", {}, [files.table_hdu("AREA", columns)]


def _cubes(grating: str, name: str) -> files.Content:
    who = {"disperser": np.array([grating], "S5"), "filter": np.array([name], "S6")}
    low, high, _ = planes = _PLANES[grating]
    tables = {f"MULTICHAN_{k}": np.arange(low, high, step) for k, step in _STEPS.items()}
    hdus = cube_tables(who, np.array([planes]), np.array([SPAXEL]), tables, drizzle="DRIZZLE")
    return "NirspecIFUCubeParsModel", {}, hdus

"""Reference files of the integral field unit of the synthetic NIRSpec.

As :mod:`spec2fn.forward.nirspec.references`, with which they share flats and photometry.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from spec2fn.forward.ifu_references import CubeImage, apcorr_table, apertures, cube_tables
from spec2fn.forward.lrs.references import ReferenceFile
from spec2fn.forward.nirspec import instrument as nrs
from spec2fn.forward.nirspec.ifu_optics import optics_trees
from spec2fn.forward.nirspec.optics import CONFIGURATIONS
from spec2fn.forward.nirspec.references import (
    detector_flat,
    fast_table,
    optics_writer,
    pathloss_content,
    photom_content,
    spectrograph_flat,
    table_waves,
    write_msaoper,
)
from spec2fn.forward.reference_files import table_hdu, write_asdf, write_fits
from spec2fn.units import ARCSEC2_TO_SR

__all__ = ["EXP_TYPE", "sigma", "write_references"]

Array = np.ndarray[Any, Any]

EXP_TYPE = "NRS_IFU"
SLICE_WIDTH = 0.103
"""Width of a slice on the sky [arcsec]."""
SPAXEL = 0.1
_SLICES = 30
_PLANES = {"PRISM": (0.7, 5.25, 0.01)}  # first and last wavelength, step [um]
_STEPS = {"PRISM": 0.005, "MED": 0.001, "HIGH": 0.0004}
_BEAM = (0.6, 0.6)  # of the light that passes, around a star [arcsec]


def sigma(wave: Any) -> Any:
    """Standard deviation [arcsec] of the Gaussian image of a star."""
    return nrs.PIXEL_SCALE * nrs.sigma(wave)


def write_references(folder: Path, grating: str = "PRISM", seed: int = 0) -> list[ReferenceFile]:
    """Write every reference file of the mode.

    Parameters
    ----------
    folder : Path
        Existing folder for the files.
    grating : str
    seed : int
        Of the flat.

    Returns
    -------
    list of ReferenceFile
    """
    out: list[ReferenceFile] = []
    name = CONFIGURATIONS[grating][0]
    instrument = {"INSTRUME": "NIRSPEC", "DETECTOR": "NRS1", "GRATING": grating, "FILTER": name}

    def add(reftype: str, suffix: str, write: Callable[[Path], None]) -> None:
        path = folder / f"jwst_nirspec_{reftype}_0001.{suffix}"
        write(path)
        out.append(ReferenceFile(reftype, path, {"detector": "NRS1"}))

    for reftype, (tree, mode) in optics_trees(grating).items():
        add(reftype, "asdf", optics_writer(reftype, tree, mode))
    contents = {
        "dflat": detector_flat(seed),
        "sflat": spectrograph_flat(),
        "fflat": _fore_flat(),
        "pathloss": pathloss_content({"IFU": (0, _BEAM)}),
        "photom": _photom(grating),
        "area": _areas(),
        "cubepar": _cubes(grating, name),
    }
    for reftype, content in contents.items():
        add(reftype, "fits", _fits_writer(reftype, content, instrument))
    wave = table_waves(30)
    image = CubeImage(nrs.PIXEL_SCALE, SLICE_WIDTH, SPAXEL)
    images = [image] * len(wave)
    correction = apcorr_table(wave, sigma(wave), images, grating=grating, filter=name)
    meta: dict[str, Any] = {
        "instrument": {"name": "NIRSPEC", "detector": "NRS1", "filter": name, "grating": grating},
        "exposure": {"type": EXP_TYPE},
    }
    how = {"region_type": "target", "subtract_background": True, "method": "exact", "subpixels": 10}
    table = apertures(wave, image.sigma(sigma(wave)))
    add(
        "extract1d",
        "asdf",
        lambda p: write_asdf(p, "extract1d", "Extract1dIFUModel", {"data": table}, **meta, **how),
    )
    add(
        "apcorr",
        "asdf",
        lambda p: write_asdf(
            p, "apcorr", "NrsIfuApcorrModel", {"apcorr_table": correction}, **meta
        ),
    )
    add("msaoper", "json", write_msaoper)
    return out


def _fits_writer(reftype: str, content: Any, instrument: Mapping[str, str]) -> Any:
    return lambda path: write_fits(path, reftype, EXP_TYPE, content, instrument)


def _fore_flat() -> Any:
    wave = table_waves(300)
    return "NirspecFlatModel", {}, [fast_table({"ANY": nrs.fore_response(wave)}, wave)]


def _photom(grating: str) -> Any:
    model, keywords, hdus = photom_content(grating, mos=True)
    area = nrs.PIXEL_SCALE * SLICE_WIDTH
    own = {"PIXAR_A2": area, "PIXAR_SR": area * ARCSEC2_TO_SR}
    return model, keywords | own, hdus


def _areas() -> Any:
    number = np.arange(_SLICES)
    # slices are not quite equally wide
    area = nrs.PIXEL_SCALE * SLICE_WIDTH * (1 + 0.002 * np.cos(number))
    columns = {"slice_id": number.astype(np.int16), "pixarea": area.astype(np.float32)}
    return "NirspecIfuAreaModel", {}, [table_hdu("AREA", columns)]


def _cubes(grating: str, name: str) -> Any:
    who = {"disperser": np.array([grating], "S5"), "filter": np.array([name], "S6")}
    low, high, _ = planes = _PLANES[grating]
    tables = {f"MULTICHAN_{k}": np.arange(low, high, step) for k, step in _STEPS.items()}
    hdus = cube_tables(who, np.array([planes]), np.array([SPAXEL]), tables, drizzle="DRIZZLE")
    return "NirspecIFUCubeParsModel", {}, hdus

"""Exposures of the lamps of NIRSpec: lines and a continuum, through slits, shutters and the IFU.

The lamps shine from the calibration unit behind the telescope: they fill every aperture, do not
pass the filters, and are at rest in the spectrograph.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.forward import reference_files as files
from spec2fn.forward.exposures import Setup
from spec2fn.forward.ifu_references import cube_tables
from spec2fn.forward.nirspec import ifu_optics, optics
from spec2fn.forward.nirspec.exposures import nirspec_setup
from spec2fn.forward.nirspec.msa import msa_metadata, shutter
from spec2fn.forward.nirspec.references import (
    detector_flat,
    instrument_keywords,
    msaoper,
    optics_references,
    spectrograph_flat,
    with_true_flat,
)
from spec2fn.forward.operators import (
    SceneOperator,
    SurfaceOperator,
    illuminated,
    ones_like,
    wavelength_cells,
)
from spec2fn.forward.rendered import Exposed, Rendered, Source, Truth, empty_exposure
from spec2fn.modes import MODES, Mode
from spec2fn.schema import meta_of
from spec2fn.typing import HostArray

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["GRATING", "GRID", "LAMPS", "LINES", "expose", "references", "spectrum"]

GRATING = "G395M"
"""That every exposure is taken with."""
LAMPS = {"LINE": "LINE3", "FLAT": "FLAT3"}
"""Names of the lamps, by what they shine with."""
RANGE = (2.9, 5.0)
"""Wavelengths of the lamps [um]."""
GRID = np.linspace(2.8, 5.4, 26001)
"""Wavelengths [um] at which true spectra are tabulated (linear in between)."""
LINES = np.arange(2.93, 4.99, 0.0413)
"""Wavelengths of the lines [um]."""
_WIDTH = 0.0025  # standard deviation of a line [um]
_BRIGHT, _CONTINUUM = 30.0, 40.0  # DN/s
_PLANE = 0.00179  # of cubes [um]
_SPAXEL = 0.1
_MSA_FILE = "jw01234007001_01_msa.fits"
_SLITLETS = tuple((n + 1, (3 + n % 2, 100 + 20 * n, 12 + 20 * n)) for n in range(7))
# rows and columns, first column and row, subarray
_IMAGES: Mapping[str, tuple[tuple[int, int], tuple[int, int], str]] = {
    "FIXEDSLIT": ((256, 2048), (1, 897), "ALLSLITS"),
    "BRIGHTOBJ": ((64, 2048), (1, 945), "SUB2048"),
    "MSASPEC": ((2048, 2048), (1, 1), "FULL"),
    "IFU": ((2048, 2048), (1, 1), "FULL"),
}


def spectrum(wave: HostArray, light: str) -> HostArray:
    """Count rate [DN/s] of a lamp at wavelengths [um]; `light` is one of :data:`LAMPS`."""
    if light == "FLAT":
        return _CONTINUUM * (1 + 0.2 * np.sin(2 * wave))
    out = np.zeros_like(wave)
    for k, line in enumerate(LINES):
        out += _BRIGHT * (1 + k % 4) * np.exp(-0.5 * ((wave - line) / _WIDTH) ** 2)
    return out


def _light(mode: Mode) -> str:
    alone = {"NRS_AUTOWAVE": "LINE", "NRS_AUTOFLAT": "FLAT"}
    return mode.light or alone[mode.exp_type]


def references(name: str, seed: int = 0) -> Iterator[files.Reference]:
    """Make every reference of a mode of lamps; `seed` is that of the flat."""
    mode, match = MODES[name], {"detector": "NRS1"}
    trees = dict((ifu_optics if mode.sliced else optics).optics_trees(GRATING))
    for reftype in ("fore", "ote", "chromcorr"):
        trees.pop(reftype, None)  # light of a lamp does not pass them
    ranges = {
        "waverange_selector": [f"{lamp}_{GRATING}" for lamp in LAMPS.values()],
        "wavelengthrange": [[1e-6 * w for w in RANGE]] * len(LAMPS),
        "order": [-1] * len(LAMPS),
    }
    yield from optics_references({**trees, "wavelengthrange": (ranges, {})}, match)
    keywords = {**instrument_keywords(GRATING), "FILTER": "OPAQUE", "EXP_TYPE": mode.exp_type}
    fits = partial(files.fits_reference, match=match, mode=keywords)
    yield fits("dflat", detector_flat(seed))
    yield msaoper(match)
    if _light(mode) == "FLAT":
        return
    yield fits("sflat", spectrograph_flat())
    if mode.sliced:
        yield fits("cubepar", _cubes())


def _cubes() -> files.Content:
    who = {"disperser": np.array([GRATING], "S5"), "filter": np.array(["OPAQUE"], "S6")}
    tables = {"MULTICHAN_MED": np.arange(*RANGE, _PLANE)}
    planes = np.array([(*RANGE, _PLANE)])
    hdus = cube_tables(who, planes, np.array([_SPAXEL]), tables, drizzle="DRIZZLE")
    return "NirspecIFUCubeParsModel", {}, hdus


def _setup(mode: Mode) -> Setup:
    shape, corner, subarray = _IMAGES[mode.lamp]
    bright = mode.lamp == "BRIGHTOBJ"
    keywords = {
        "FILTER": "OPAQUE",
        "OPMODE": mode.lamp,
        "LAMP": LAMPS[_light(mode)],
        "SRCTYPE": "UNKNOWN",
        "SRCTYAPT": None,
        **({"MSAMETFL": _MSA_FILE, "MSAMETID": 1} if mode.shutters else {}),
        **({"DATAMODL": "IFUImageModel"} if mode.sliced else {}),
    }
    setup = nirspec_setup(
        mode.exp_type,
        name="jw01234007001_03101_00001_nrs1_rate.fits",
        grating=GRATING,
        shape=shape,
        integration_time=100.0,
        subarray=subarray,
        corner=corner,
        fixed_slit="S1600A1" if bright else "NONE",
        extra=keywords,
    )
    name = "NRS_S1600A1_SLIT" if bright else "NRS_FULL_MSA"
    return replace(setup, aperture=setup.aperture._replace(name=name))


def expose(name: str, references: Mapping[str, xr.Dataset], seed: int) -> Rendered:
    """Expose a lamp; `name` is that of a mode of :data:`spec2fn.modes.MODES`."""
    mode = MODES[name]
    setup, light = _setup(mode), _light(mode)
    metadata = _metadata() if mode.shutters else None
    truth = Truth(GRID, spectrum(GRID, light))
    parts = _operators(setup, with_true_flat(references, seed), metadata)
    op = SceneOperator(tuple(parts.values()), _IMAGES[mode.lamp][0])
    taken = {"science": Exposed(setup, op([truth.flux] * len(parts)), op)}
    sources = () if mode.sliced else tuple(Source(light, slit, "lamp", truth) for slit in parts)
    return Rendered(taken, truth, sources, metadata)


def _metadata() -> xr.Dataset:
    rows = [
        shutter(number, quadrant, row, column + k, 0, main=False)
        for number, (quadrant, row, column) in _SLITLETS
        for k in range(3)
    ]
    kinds = {"stellarity": "f8", "ra": "f8", "dec": "f8", "program": "i4", "source_id": "i4"}
    texts = dict.fromkeys(("source_name", "alias", "catalog_id", "preimage_id"), "U20")
    empty = {column: np.zeros(0, kind) for column, kind in {**kinds, **texts}.items()}
    return msa_metadata(rows, empty, _MSA_FILE)


def _operators(
    setup: Setup, references: Mapping[str, xr.Dataset], metadata: xr.Dataset | None
) -> dict[str, SurfaceOperator]:
    """Operators of the light of a lamp, by slit, or of all slices together."""
    from spec2fn.steps.assign_wcs import assign_wcs
    from spec2fn.steps.extract_2d import extract_2d
    from spec2fn.steps.flat_field import flat_field

    given: dict[str, Any] = {} if metadata is None else {"msa_metadata": (metadata,)}
    refs = (references.get(r) for r in assign_wcs.refs)
    ds = assign_wcs(empty_exposure(setup), *refs, **given)
    flats = [references.get(r) for r in flat_field.refs]
    if "slit_y" in ds:
        divided = flat_field(ones_like(ds), *flats)
        window = illuminated(np.isfinite(ds["wavelength"].values))
        return {"": _operator(divided, ds["slit_y"].values, window)}
    slits = extract_2d(ds)
    divided = slits.map(ones_like).map(lambda b: flat_field(b, *flats))
    wcs: Any = meta_of(slits.buckets[0]).wcs
    out = {}
    for number in divided.ids:
        one = divided.slit(number)
        y, x = np.indices(one["sci"].shape[-2:], dtype=np.float64)
        along, _ = wcs.slit_frame(np.full(x.shape, number), x, y)
        y0, x0 = int(one["ystart"]) - 1, int(one["xstart"]) - 1
        window = ((y0, y0 + y.shape[0]), (x0, x0 + y.shape[1]))
        ends = float(one["slit_ymin"]), float(one["slit_ymax"])
        out[str(one["slit_name"].item())] = _operator(one, along, window, ends)
    return out


def _operator(
    divided: xr.Dataset,
    along: HostArray,
    window: tuple[tuple[int, int], tuple[int, int]],
    ends: tuple[float, float] = (-0.55, 0.55),
) -> SurfaceOperator:
    """Operator of uniform light, but for the ends of a slit, which lie a little inside `ends`."""
    value, wave = (np.asarray(divided[n].values, np.float64) for n in ("sci", "wavelength"))
    if value.shape != tuple(b - a for a, b in window):
        seen = tuple(slice(*w) for w in window)
        value, wave, along = value[seen], wave[seen], along[seen]
    step = float(np.nanmedian(np.abs(np.diff(along, axis=0))))
    distance = np.minimum(along - ends[0], ends[1] - along) - 0.05
    inside = np.clip(distance / step + 0.5, 0.0, 1.0)
    lit = np.isfinite(value) & (value > 0) & np.isfinite(wave) & (inside > 0)
    lit &= (wave > GRID[0]) & (wave < GRID[-1])
    _, cells = wavelength_cells(GRID, wave, lit)
    return SurfaceOperator(
        **cells,
        gain=lit.astype(np.float64),
        flat=np.where(lit, 1.0 / np.where(lit, value, 1.0), 1.0),
        window=window,
        profile=np.where(lit, inside, 0.0),
    )

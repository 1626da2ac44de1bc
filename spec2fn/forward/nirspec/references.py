"""Reference files of the synthetic NIRSpec.

Each file follows the JWST reference file definition of its type (public CRDS documentation and
the schemas of ``stdatamodels``), and says what :mod:`spec2fn.forward.nirspec.instrument` does. The
detector flat is measured, with the error its ERR plane states.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.forward import reference_files as files
from spec2fn.forward.gaussian import enclosed
from spec2fn.forward.nirspec import instrument as nrs
from spec2fn.forward.nirspec.optics import CONFIGURATIONS, optics_trees
from spec2fn.schema import SHUTTERS_ACROSS, SHUTTERS_ALONG
from spec2fn.typing import HostArray
from spec2fn.units import ARCSEC2_TO_SR

if TYPE_CHECKING:
    import xarray as xr
    from astropy.io.fits import BinTableHDU

__all__ = [
    "BACKGROUND",
    "EXTRACT_WIDTH",
    "FLAT_ERROR",
    "GRATING",
    "detector_flat",
    "fast_table",
    "instrument_keywords",
    "msaoper",
    "optics_references",
    "pathloss_content",
    "photom_content",
    "references",
    "spectrograph_flat",
    "table_waves",
    "true_detector_flat",
    "with_true_flat",
]

GRATING = "PRISM"
"""That every exposure is taken with."""
FLAT_ERROR = 0.001
EXTRACT_WIDTH = {"NRS_MSASPEC": 7, "NRS_FIXEDSLIT": 9, "NRS_BRIGHTOBJ": 11}
"""Height of the extraction box of each mode [pixel]."""
BACKGROUND = ((0.5,), (5.5,), (26.5,), (31.5,))
"""Rows of the rectified S200A1 in which the sky is measured, if it is not subtracted before."""
_FRAME = (2048, 2048)
_FLAT_WAVES = (0.5, 5.6)
# see forward.references: linear interpolation when resampling, and at the ends of the box
_RESAMPLING_VARIANCE = {"NRS_MSASPEC": 1 / 3, "NRS_FIXEDSLIT": 1 / 3, "NRS_BRIGHTOBJ": 1 / 6}
_SLITS = tuple(nrs.APERTURES)


def references(exp_type: str, seed: int = 0) -> Iterator[files.Reference]:
    """Make every reference of a mode.

    Parameters
    ----------
    exp_type : str
        ``NRS_FIXEDSLIT``, ``NRS_BRIGHTOBJ`` or ``NRS_MSASPEC``, which also gets those of the
        fixed slits; the background of S200A1 is then fitted beside the source.
    seed : int
        Of the flat.
    """
    yield from optics_references(optics_trees(GRATING), {})
    modes = [exp_type, "NRS_FIXEDSLIT"] if exp_type == "NRS_MSASPEC" else [exp_type]
    keywords = instrument_keywords(GRATING)
    # both are the same for slitlets and fixed slits
    both = {**keywords, "P_EXP_TY": "".join(f"{m}|" for m in modes), "EXP_TYPE": exp_type}
    yield files.fits_reference("dflat", detector_flat(seed), {"detector": "NRS1"}, both)
    yield files.fits_reference("sflat", spectrograph_flat(), {"detector": "NRS1"}, both)
    for which in modes:
        own = {"exp_type": which}
        mos = which == "NRS_MSASPEC"
        fits = partial(files.fits_reference, match=own, mode={**keywords, "EXP_TYPE": which})
        yield fits("fflat", _quadrant_flats() if mos else _fore_flat())
        if which != "NRS_BRIGHTOBJ":
            yield fits("pathloss", _pathloss(mos=mos))
        yield fits("photom", photom_content(GRATING, mos=mos))
        yield fits("area", _shutter_areas() if mos else _slit_areas())
        yield fits("apcorr", _apcorr(which, GRATING))
        yield _wavecorr(which)
        apertures = _apertures(which, local_background=exp_type == "NRS_MSASPEC")
        yield files.Reference(
            "extract1d", own, {"apertures": apertures}, {"instrument": "NIRSPEC", **own}
        )
    if exp_type == "NRS_MSASPEC":
        yield files.fits_reference(
            "barshadow", _barshadow(), {"exp_type": exp_type}, {**keywords, "EXP_TYPE": exp_type}
        )
        yield msaoper({})


def instrument_keywords(grating: str) -> dict[str, str]:
    """Return the keywords of the instrument and its configuration."""
    instrument = {"INSTRUME": "NIRSPEC", "DETECTOR": "NRS1", "GRATING": grating}
    return instrument | {"FILTER": CONFIGURATIONS[grating][0]}


def optics_references(
    trees: Mapping[str, tuple[Mapping[str, Any], Mapping[str, str]]], match: Mapping[str, str]
) -> Iterator[files.Reference]:
    """Return the references of the optics, from their content and mode by type."""
    names = {"fpa": "FPA", "msa": "MSA", "ote": "OTE", "fore": "FORE"}
    for reftype, (tree, mode) in trees.items():
        meta: dict[str, Any] = {
            "instrument": {"name": "NIRSPEC", **mode},
            "exposure": {"type": "N/A"},
        }
        if reftype == "wavelengthrange":
            meta["wavelength_units"] = "m"
        elif "model" in tree:
            meta |= {"input_units": "m", "output_units": "m"}
        model = f"{names.get(reftype, reftype.capitalize())}Model"
        yield files.Reference(reftype, match, tree, meta, model)


def true_detector_flat(seed: int = 0) -> HostArray:
    """Response of each pixel of NRS1 at the first wavelength, float32."""
    y, x = (np.linspace(0, 1, n, dtype=np.float32) for n in _FRAME)
    smooth = 1 + np.float32(0.02) * np.sin(6 * x) * np.cos(5 * y)[:, None]
    rng = np.random.default_rng([seed, 1])
    noise = rng.standard_normal(_FRAME, dtype=np.float32)
    return np.asarray(smooth * (1 + np.float32(0.006) * noise), np.float32)


def with_true_flat(references: Mapping[str, xr.Dataset], seed: int) -> dict[str, xr.Dataset]:
    """References with the flat that the detector has, instead of that which was measured."""
    flat = references["dflat"]
    image = true_detector_flat(seed)
    cube = np.stack([image, image * np.float32(1.01)])
    true = flat.assign(sci=(flat["sci"].dims, cube), dq=(flat["dq"].dims, 0 * flat["dq"].data))
    return {**references, "dflat": true}


def table_waves(n: int) -> HostArray:
    """Return wavelengths of a table [um]."""
    return np.linspace(*nrs.WAVES, n)


def _text(values: Iterable[str], size: int) -> HostArray:
    return np.array(list(values), f"S{size}")


def fast_table(
    curves: Mapping[str, HostArray], wave: HostArray, **keywords: str | float
) -> BinTableHDU:
    """Table of the variation with wavelength, a row for each slit."""
    n, rows = len(wave), len(curves)
    columns = {
        "slit_name": _text(curves, 15),
        "nelem": np.full(rows, n, np.int32),
        "wavelength": np.tile(wave.astype(np.float32), (rows, 1)),
        "data": np.array(list(curves.values()), np.float32),
        "error": np.zeros((rows, n), np.float32),
    }
    return files.table_hdu("FAST_VARIATION", columns, **keywords)


def _flags() -> BinTableHDU:
    names = {0: "DO_NOT_USE", 18: "NO_FLAT_FIELD", 25: "UNRELIABLE_FLAT"}
    columns = {
        "BIT": np.array(list(names), np.int32),
        "VALUE": np.array([1 << b for b in names], np.int32),
        "NAME": _text(names.values(), 40),
        "DESCRIPTION": _text([""] * 3, 80),
    }
    return files.table_hdu("DQ_DEF", columns)


def _image_waves(waves: Iterable[float], **keywords: str | float) -> BinTableHDU:
    return files.table_hdu("WAVELENGTH", {"wavelength": np.array(waves, np.float32)}, **keywords)


def detector_flat(seed: int) -> files.Content:
    """Return the content of a measured D-flat."""
    rng = np.random.default_rng([seed, 2])
    noise = rng.standard_normal(_FRAME, dtype=np.float32)
    measured = true_detector_flat(seed) * (1 + np.float32(FLAT_ERROR) * noise)
    cube = np.stack([measured, measured * np.float32(1.01)])
    dq = np.zeros(_FRAME, np.uint32)
    dq[rng.random(_FRAME, dtype=np.float32) < 2e-4] = 1 | (1 << 18)
    wave = table_waves(300)
    hdus = [
        *files.planes(cube, np.float32(FLAT_ERROR) * measured, dq),
        _image_waves(_FLAT_WAVES),
        fast_table({"ANY": nrs.detector_response(wave)}, wave),
        _flags(),
    ]
    return "NirspecFlatModel", {}, hdus


def spectrograph_flat() -> files.Content:
    """Return the content of an S-flat."""
    y, x = (np.linspace(-1, 1, n, dtype=np.float32) for n in _FRAME)
    image = 1 + np.float32(0.01) * x + np.float32(0.02) * y[:, None] ** 2
    wave = table_waves(300)
    curve = fast_table({"ANY": nrs.spectrograph_response(wave)}, wave)
    images = [files.image_hdu("SCI", image), files.image_hdu("ERR", np.zeros_like(image))]
    return "NirspecFlatModel", {}, [*images, curve]


def _fore_flat() -> files.Content:
    wave = table_waves(300)
    curves = {name: nrs.fore_response(wave, k) for k, name in enumerate(_SLITS)}
    return "NirspecFlatModel", {}, [fast_table(curves, wave)]


def _quadrant_flats() -> files.Content:
    wave = table_waves(300)
    y, x = (np.linspace(-1, 1, n, dtype=np.float32) for n in (SHUTTERS_ACROSS, SHUTTERS_ALONG))
    hdus = []
    for quadrant in range(1, 5):
        image = 1 + np.float32(0.02) * (x * y[:, None] + np.float32(0.1 * quadrant))
        version = {"EXTVER": quadrant}
        hdus += [
            *files.planes(np.stack([image, image * np.float32(1.01)]), version=quadrant),
            _image_waves(_FLAT_WAVES, **version),
            fast_table({"ANY": nrs.fore_response(wave, quadrant)}, wave, **version),
        ]
    return "NirspecQuadFlatModel", {}, [*hdus, _flags()]


def _pathloss(*, mos: bool) -> files.Content:
    apertures = {name: (0, size) for name, size in nrs.APERTURES.items()}
    if mos:
        apertures = {f"MOS1x{n}": (n, nrs.slitlet(n)) for n in (1, 3)}
    return pathloss_content(apertures, mos=mos)


def pathloss_content(
    apertures: Mapping[str, tuple[int, tuple[float, float]]], *, mos: bool = False
) -> files.Content:
    """Return the pathloss of apertures: number of shutters, and width and height [arcsec]."""
    wave = table_waves(52)
    spectral = (1.0, wave[0] * 1e-6, (wave[1] - wave[0]) * 1e-6)
    hdus = []
    for version, (name, (shutters, size)) in enumerate(apertures.items(), start=1):
        # positions along a slitlet count in shutters
        half, unit = (shutters / 2, nrs.SHUTTER[1]) if mos else (0.5, size[1])
        x, y = np.linspace(-0.5, 0.5, 41), np.linspace(-half, half, 20 * max(shutters, 1) + 1)
        where = (x, y[:, None] * (unit / size[1]))
        cube = nrs.point_transmission(wave[:, None, None], *where, size).astype(np.float32)
        uniform = nrs.uniform_transmission(wave).astype(np.float32)
        place = [(1.0, axis[0], axis[1] - axis[0]) for axis in (x, y)]
        keys: dict[str, str | float] = {"EXTVER": version, "APERTURE": name, "SHUTTERS": shutters}
        hdus += [
            files.image_hdu("PS", cube, **keys, **_grid([*place, spectral])),
            files.image_hdu("PSVAR", np.zeros_like(cube), EXTVER=version),
            files.image_hdu("UNI", uniform, EXTVER=version, **_grid([spectral])),
            files.image_hdu("UNIVAR", np.zeros_like(uniform), EXTVER=version),
        ]
    return "PathlossModel", {}, hdus


def _grid(axes: list[tuple[float, float, float]]) -> dict[str, float]:
    return {
        f"{word}{k}": float(value)
        for k, axis in enumerate(axes, start=1)
        for word, value in zip(("CRPIX", "CRVAL", "CDELT"), axis, strict=True)
    }


def _barshadow() -> files.Content:
    y = np.linspace(-1, 1, 401)
    columns = 11
    step = (nrs.WAVES[1] - nrs.WAVES[0]) / (columns - 1)
    place = {"CRVAL1": nrs.WAVES[0] * 1e-6, "CDELT1": step * 1e-6}
    place |= {"CRVAL2": -1.0, "CDELT2": float(y[1] - y[0])}
    hdus = []
    for shutters in (1, 3):
        shadow = np.repeat(nrs.bar_shadow(y, shutters)[:, None], columns, axis=1)
        hdus += [
            files.image_hdu(f"DATA1X{shutters}", shadow.astype(np.float32), **place),
            files.image_hdu(f"VAR1X{shutters}", np.zeros(shadow.shape, np.float32)),
        ]
    return "BarshadowModel", {}, hdus


def photom_content(grating: str, *, mos: bool) -> files.Content:
    """Return the content of the conversion to flux density."""
    wave = table_waves(1200)
    hdus = files.photom_tables(
        _who(grating, mos=mos),
        {"photmj": nrs.PHOTMJ},
        wave,
        nrs.relative_response(wave),
        day=nrs.REFERENCE_DAY,
        loss=nrs.LOSS_PER_YEAR,
    )
    area = nrs.pixel_area("MOS")
    keywords = {"PIXAR_A2": area, "PIXAR_SR": area * ARCSEC2_TO_SR}
    return ("NrsMosPhotomModel" if mos else "NrsFsPhotomModel"), keywords, hdus


def _who(grating: str, *, mos: bool) -> dict[str, HostArray]:
    """Columns that name the rows of a table, one for each slit."""
    slits = ("",) if mos else _SLITS
    who = {
        "filter": _text([CONFIGURATIONS[grating][0]] * len(slits), 12),
        "grating": _text([grating] * len(slits), 15),
    }
    return who if mos else who | {"slit": _text(slits, 15)}


def _slit_areas() -> files.Content:
    columns = {
        "slit_id": _text(_SLITS, 15),
        "pixarea": np.array([nrs.pixel_area(n) for n in _SLITS], np.float32),
    }
    return "NirspecSlitAreaModel", {}, [files.table_hdu("AREA", columns)]


def _shutter_areas() -> files.Content:
    y, x = (a.ravel() + 1 for a in np.indices((SHUTTERS_ACROSS, SHUTTERS_ALONG)))
    columns = {
        "quadrant": np.repeat(np.arange(1, 5, dtype=np.int16), x.size),
        "shutter_x": np.tile(x.astype(np.int16), 4),
        "shutter_y": np.tile(y.astype(np.int16), 4),
        "pixarea": np.full(4 * x.size, nrs.pixel_area("MOS"), np.float32),
    }
    return "NirspecMosAreaModel", {}, [files.table_hdu("AREA", columns)]


def _apcorr(exp_type: str, grating: str) -> files.Content:
    mos = exp_type == "NRS_MSASPEC"
    who = _who(grating, mos=mos)
    rows, wave, size = len(who["filter"]), table_waves(60), np.arange(2.0, 16.0)
    width = np.sqrt(nrs.sigma(wave) ** 2 + _RESAMPLING_VARIANCE[exp_type])
    half = size[:, None] / 2
    factor = 1 / enclosed(-half, half, width)
    phase = np.array([0.0, 0.5, 1.0], np.float32)

    def each(value: HostArray) -> HostArray:
        return np.tile(value.astype(np.float32), (rows, *(1,) * value.ndim))

    table = np.repeat(factor[:, :, None], len(phase), axis=2)
    columns = who | {
        "wavelength": each(wave),
        "nelem_wl": np.full(rows, len(wave), np.int16),
        "size": each(np.repeat(size[:, None], len(wave), axis=1)),
        "nelem_size": np.full(rows, len(size), np.int16),
        "pixphase": each(phase),
        "apcorr": each(table),
        "apcorr_err": each(np.zeros_like(table)),
    }
    hdu = files.table_hdu("APCORR", columns, SIZEUNIT="pixels")
    return ("NrsMosApcorrModel" if mos else "NrsFsApcorrModel"), {}, [hdu]


def _wavecorr(exp_type: str) -> files.Reference:
    from astropy.modeling.models import Tabular2D

    wave, x = table_waves(21), np.linspace(-0.5, 0.5, 11)
    names = ("MOS",) if exp_type == "NRS_MSASPEC" else _SLITS
    apertures = []
    for name in names:
        width = nrs.SHUTTER[0] if name == "MOS" else nrs.APERTURES[name][0]
        shift = nrs.zero_point_offset(wave[:, None], x) * (width / nrs.SHUTTER[0])
        table = Tabular2D(points=(wave * 1e-6, x), lookup_table=shift)
        one = {"aperture_name": name, "zero_point_offset": table, "width": width}
        apertures.append({**one, "variance": np.zeros_like(shift)})
    meta = {"instrument": {"name": "NIRSPEC"}, "exposure": {"type": exp_type}}
    own = {"exp_type": exp_type}
    return files.Reference("wavecorr", own, {"apertures": apertures}, meta, "WaveCorrModel")


def _apertures(exp_type: str, *, local_background: bool) -> list[dict[str, Any]]:
    """Extraction boxes by slit."""
    apertures = []
    for name in ("ANY",) if exp_type == "NRS_MSASPEC" else _SLITS:
        one: dict[str, Any] = {
            "id": name,
            "region_type": "target",
            "dispaxis": 1,
            "extract_width": EXTRACT_WIDTH[exp_type],
            "use_source_posn": True,
        }
        if local_background and name == "S200A1":
            one |= {"bkg_coeff": [list(c) for c in BACKGROUND], "bkg_order": 0}
        apertures.append(one)
    return apertures


def msaoper(match: Mapping[str, str]) -> files.Reference:
    """Return which shutters are stuck."""
    states = {"state": "closed", "TA state": "closed", "Internal state": "normal"}
    stuck = states | {"state": "open", "TA state": "open"}
    shutters = [
        {"Q": 4, "x": 120, "y": 40, **states, "Vignetted": "no"},
        {"Q": 3, "x": 330, "y": 60, **stuck, "Vignetted": "no"},
    ]
    tree = {"title": "MSA operability", "msaoper": shutters}
    return files.Reference("msaoper", match, tree, {"instrument": "NIRSPEC", "exp_type": "N/A"})

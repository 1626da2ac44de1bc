"""Reference files of the synthetic single-object slitless spectrograph of NIRISS.

Each file follows the JWST reference file definition of its type (public CRDS documentation and
the schemas of ``stdatamodels``), and says exactly what
:mod:`spec2fn.forward.niriss.instrument` does; the flat is measured, with the error its ERR plane
states.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from spec2fn.forward import reference_files as files
from spec2fn.forward.niriss import instrument as nis
from spec2fn.forward.niriss.instrument import STRIPS, Strip
from spec2fn.forward.niriss.operator import orders_operator, profiles
from spec2fn.forward.scenes import NEAR_GRID
from spec2fn.typing import HostArray

__all__ = ["background_templates", "references", "true_flat"]

_FLAT_ERROR = 0.001
_BEYOND = 8  # columns that the conversion to flux is tabulated for beyond the detector


def references(
    exp_type: str, seed: int = 0, strip: Strip = STRIPS["SUBSTRIP256"]
) -> Iterator[files.Reference]:
    """Make every reference of the mode.

    Parameters
    ----------
    exp_type : str
    seed : int
        Of the flat.
    strip : Strip
        That they are for.
    """
    own = {"exp_type": exp_type}
    keywords = {"INSTRUME": "NIRISS", "DETECTOR": "NIS", "EXP_TYPE": exp_type}
    optics = {**keywords, "FILTER": "CLEAR", "PUPIL": "GR700XD"}
    subarray = {**optics, "SUBARRAY": strip.subarray}
    meta: dict[str, Any] = {
        "instrument": {"name": "NIRISS", "detector": "NIS", "filter": "CLEAR"},
        "exposure": {"type": exp_type},
    }
    fits = partial(files.fits_reference, match=own)
    wide = meta | {"instrument": {"name": "NIRISS", "detector": "NIS"}}
    yield files.Reference("specwcs", own, _specwcs(strip), wide, "SpecwcsModel")
    yield files.Reference("pastasoss", own, _traces(strip), {**meta, **_ranges(strip)},
                          "PastasossModel")  # fmt: skip
    yield fits("specprofile", _profiles(strip), mode=subarray)
    yield fits("speckernel", _kernels(), mode=keywords)
    yield fits("bkg", _background(strip, seed), mode={**optics, "SUBARRAY": "SUBSTRIP256"})
    model, header, hdus = files.measured_flat(
        true_flat(strip, seed), _FLAT_ERROR, seed, strip.subarray, strip.corner, nis.DETECTOR.fast
    )
    header = {**header, "SLOWAXIS": nis.DETECTOR.slow}
    yield fits("flat", (model, header, hdus), mode=optics)
    yield fits("photom", _photom(strip), mode=keywords)
    yield fits("pathloss", _pathloss(strip), mode=optics)


def true_flat(strip: Strip, seed: int = 0) -> HostArray:
    """Response of each pixel relative to the mean, float64; part of that of all 256 rows."""
    rows, columns = 256, strip.columns
    y, x = np.mgrid[:rows, :columns]
    smooth = 1 + 0.02 * np.sin(2 * np.pi * x / columns) * np.cos(2 * np.pi * y / rows)
    rng = np.random.default_rng([seed, 1])
    flat = smooth * (1 + 0.005 * rng.standard_normal((rows, columns)))
    return np.asarray(flat[strip.first : strip.first + strip.rows])


def background_templates(strip: Strip, seed: int = 0) -> HostArray:
    """Background of all 256 rows as the detector shows it, relative: (model, row, column)."""
    whole = Strip("SUBSTRIP256", 256, columns=strip.columns)
    return nis.background_templates(strip.columns) * true_flat(whole, seed)


def _specwcs(strip: Strip) -> dict[Any, Any]:
    """Wavelength by row and column of the detector, of each order."""
    from astropy.modeling.models import Tabular2D

    x, y = np.arange(0.0, strip.columns + 1, 8.0), np.array([0.0, 1024.0, 2048.0])
    angle = nis.WHEEL - nis.WHEEL_COMMANDED
    return {
        order: Tabular2D(
            points=(y, x),
            lookup_table=np.tile(nis.wavelength(order, x, strip.columns, angle), (3, 1)),
            bounds_error=False,
            fill_value=None,
        )
        for order in nis.ORDERS
    }


def _traces(strip: Strip) -> dict[str, Any]:
    """Traces, wavelengths and throughputs, and how they turn with the wheel."""
    columns = strip.columns
    x = np.arange(float(columns))
    wave = np.linspace(nis.SHORTEST, nis.LONGEST, 5001)
    traces, models, throughputs = [], [], []
    for number, order in nis.ORDERS.items():
        seen = nis.trace(number, x, columns) < 400.0
        traces.append(
            {
                "spectral_order": number,
                "pivot_x": order.pivot[0] * columns,
                "pivot_y": order.pivot[1],
                "trace": np.stack([x, nis.trace(number, x, columns)], axis=1)[seen],
                "cutoff": round(order.cutoff * columns),
                **({} if order.shortest is None else {"short_cutoff": order.shortest}),
            }
        )
        models.append(
            {
                "spectral_order": number,
                "polynomial_degree": len(order.wave) - 1,
                "coefficients": _by_column_and_angle(order.wave),
                "scale_extents": [[0.0, 0.0], [float(columns), 1.0]],
            }
        )
        throughputs.append(
            {
                "spectral_order": number,
                "wavelength": wave,
                "throughput": nis.throughput(number, wave),
            }
        )
    return {"traces": traces, "wavecal_models": models, "throughputs": throughputs}


def _by_column_and_angle(powers: tuple[float, ...]) -> list[float]:
    """Coefficients of 1, x, a, x², xa, a², …, of a polynomial in x with a term in a."""
    out = [powers[0], powers[1], nis.WHEEL_DISPERSION]
    for degree, coefficient in enumerate(powers[2:], start=2):
        out += [coefficient] + [0.0] * degree
    return out


def _ranges(strip: Strip) -> dict[str, Any]:
    return {
        "order2_separation_cutoff": list(nis.SEPARATION),
        "pwcpos_bounds": list(nis.WHEEL_BOUNDS),
        "pwcpos_cmd": nis.WHEEL_COMMANDED,
        "soss_xdim": strip.columns,
        "soss_ydim": 300,
        "subarray_ymin": strip.columns - 256,
        "wavemap_nwl": 5001,
        "wavemap_wlmin": nis.SHORTEST,
        "wavemap_wlmax": nis.LONGEST,
    }


def _profiles(strip: Strip) -> files.Content:
    shares = profiles(strip).astype(np.float32)
    keywords = {"OVERSAMP": 1, "PADDING": 0}
    hdus = [
        files.image_hdu("ORDER", share, EXTVER=k, ORDER=order, **keywords)
        for k, (order, share) in enumerate(zip(nis.ORDERS, shares, strict=True), start=1)
    ]
    return "SpecProfileModel", {}, [*hdus]


def _kernels() -> files.Content:
    half, samples = nis.KERNEL_HALF, nis.KERNEL_SAMPLES
    offset = np.linspace(-half, half, 2 * half * samples + 1)
    wave = np.linspace(nis.SHORTEST, nis.LONGEST, 95)
    image = nis.kernel(offset[:, None], wave)
    image = np.maximum(image / image.sum(0), 1e-10)
    of = {"NWAVE": len(wave), "WAVEMIN": float(wave[0]), "WAVEMAX": float(wave[-1])}
    place = {"SPECOS": samples, "HALFWIDT": half, "INDCENTR": len(offset) // 2}
    waves = np.tile(wave, (len(offset), 1)).astype(np.float32)
    hdus = [
        files.image_hdu("WAVELENGTHS", waves, **of),
        files.image_hdu("KERNELS", image.astype(np.float32), **place),
    ]
    return "SpecKernelModel", {}, [*hdus]


def _background(strip: Strip, seed: int) -> files.Content:
    templates = background_templates(strip, seed).astype(np.float32)
    return "SossBkgModel", {}, files.planes(templates, np.full_like(templates, 0.005))


def _photom(strip: Strip) -> files.Content:
    op = orders_operator(strip, NEAR_GRID, beyond=_BEYOND)
    column = np.arange(-_BEYOND, strip.columns + _BEYOND)
    angle = nis.WHEEL - nis.WHEEL_COMMANDED
    counts = nis.IN_BOX * op.columns(np.ones(NEAR_GRID.shape))
    wave = np.stack([nis.wavelength(o, column, strip.columns, angle) for o in nis.ORDERS])
    who = {
        "filter": np.array(["CLEAR"] * len(wave), "S12"),
        "pupil": np.array(["GR700XD"] * len(wave), "S15"),
        "order": np.array(list(nis.ORDERS), np.int16),
    }
    response = 1.0 / (np.maximum(counts, 1e-3 * counts.max(1, keepdims=True)) * nis.PHOTMJ)
    hdus = files.photom_tables(
        who,
        {"photmj": nis.PHOTMJ},
        wave[:, ::-1],
        response[:, ::-1],
        day=nis.REFERENCE_DAY,
        loss=nis.LOSS_PER_YEAR,
    )
    return "NisSossPhotomModel", {}, hdus


def _pathloss(strip: Strip) -> files.Content:
    wheel = np.linspace(*nis.WHEEL_BOUNDS, 11)
    column = np.arange(strip.columns)[:, None]
    share = nis.pathloss(column, wheel, strip.columns)[None].astype(np.float32)
    grid = {"CRPIX1": 1.0, "CRPIX2": 1.0, "CRPIX3": 1.0}
    grid |= {"CRVAL1": float(wheel[0]), "CRVAL2": 1.0, "CRVAL3": 0.6e-6}
    grid |= {"CDELT1": float(wheel[1] - wheel[0]), "CDELT2": 1.0, "CDELT3": 1e-6}
    uniform = np.ones(2, np.float32)
    one = {"CRPIX1": 1.0, "CRVAL1": 0.6e-6, "CDELT1": 1e-6}
    hdus = [
        files.image_hdu("PS", share, APERTURE=strip.subarray, SHUTTERS=0, **grid),
        files.image_hdu("PSVAR", np.zeros_like(share)),
        files.image_hdu("UNI", uniform, **one),
        files.image_hdu("UNIVAR", np.zeros_like(uniform)),
    ]
    return "PathlossModel", {}, [*hdus]

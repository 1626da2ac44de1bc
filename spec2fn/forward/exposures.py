"""Synthetic exposures: headers, noise, flags, files.

Headers carry the JWST keywords that stage 2 needs; files are written with astropy's headers and
plain arrays, integration by integration if there are many.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from spec2fn.dq import Pixel
from spec2fn.forward.reference_files import table_hdu
from spec2fn.io.fits.exposures import mode_attrs, scalar_variables
from spec2fn.io.fits.extents import big_endian
from spec2fn.io.fits.fitsfile import BLOCK
from spec2fn.schema import INT_TIMES, PLANES, Meta
from spec2fn.typing import HostArray

if TYPE_CHECKING:
    import xarray as xr
    from astropy.io.fits import Header

__all__ = [
    "START",
    "Aperture",
    "Detector",
    "Setup",
    "bad_pixels",
    "int_times",
    "observe",
    "to_dataset",
    "write_exposure",
]

START = 60370.5
"""Start of every exposure [MJD]."""
TARGET = (53.1, -27.8)
"""Position of the source on the sky, ICRS [deg]."""
ROLL = 30.0
_PARITY = -1
_DATE = "2024-03-01"
_STEPS = ["DARK", "DQINIT", "GANSCL", "GRPSCL", "JUMP", "LINEAR", "RAMP", "REFPIX", "SATURA"]
_BAD_FRACTION = 1.5e-3
_HIT_FRACTION = 1.0e-3
_HIT_VARIANCE = 1.5
# readers of JWST files expect the extension; the keywords say everything that is in it
_ASDF = (
    b"#ASDF 1.0.0\n#ASDF_STANDARD 1.6.0\n%YAML 1.1\n%TAG ! tag:stsci.edu:asdf/\n"
    b"--- !core/asdf-1.1.0\nmeta: {telescope: JWST}\n...\n"
)


class Detector(NamedTuple):
    """Gain [electrons per DN], read noise of a countrate of 100 s [DN/s], how it is read."""

    gain: float
    read_noise: float
    pattern: str
    fast: int
    slow: int


class Aperture(NamedTuple):
    """Where exposures look.

    Attributes
    ----------
    v2, v3 : float
        Reference point [arcsec].
    angle : float
        From V3 to the columns of the ideal frame [deg].
    dispaxis : int
        As in the headers.
    scale : float
        Size of a pixel [arcsec].
    """

    name: str
    v2: float
    v3: float
    angle: float
    dispaxis: int
    scale: float

    def to_ideal(self, v2: float, v3: float) -> tuple[float, float]:
        """Return an offset in V2, V3 in the ideal frame [arcsec]."""
        x, y = np.linalg.solve(self._rotation(), (v2, v3))
        return float(x), float(y)

    def from_ideal(self, x: float, y: float) -> tuple[float, float]:
        """Return an offset in the ideal frame in V2, V3 [arcsec]."""
        v2, v3 = self._rotation() @ (x, y)
        return float(v2), float(v3)

    def _rotation(self) -> HostArray:
        c, s = np.cos(np.deg2rad(self.angle)), np.sin(np.deg2rad(self.angle))
        return np.array([[_PARITY * c, s], [-_PARITY * s, c]])


@dataclass(frozen=True)
class Setup:
    """How an exposure is taken.

    Attributes
    ----------
    name : str
        File name.
    exp_type, filter, subarray : str
        As in the headers.
    shape : tuple of int
        ([integrations,] rows, columns).
    integration_time : float
        Seconds per integration.
    detector : Detector
    aperture : Aperture
    optics : mapping
        Keywords of the instrument, its detector and its elements.
    corner : (int, int)
        First column and row of the subarray, from 1.
    number : int
        Of the exposure, and of its dither position.
    pattern : (str, int)
        Of dithers, and its number of positions.
    dither : (float, float)
        Position of the target relative to the aperture, in the ideal frame [arcsec].
    place : (float, float)
        V2 and V3 of the target relative to where the dither puts it [arcsec].
    extra : mapping
        Keywords to add or replace; one that is None is left out.
    """

    name: str
    exp_type: str
    filter: str
    shape: tuple[int, ...]
    integration_time: float
    detector: Detector
    aperture: Aperture
    optics: Mapping[str, Any]
    subarray: str = "FULL"
    corner: tuple[int, int] = (1, 1)
    number: int = 1
    pattern: tuple[str, int] = ("NONE", 1)
    dither: tuple[float, float] = (0.0, 0.0)
    place: tuple[float, float] = (0.0, 0.0)
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def integrations(self) -> int:
        """Number of integrations."""
        return self.shape[0] if len(self.shape) == 3 else 1

    def headers(self) -> tuple[Header, Header]:
        """PRIMARY and SCI headers."""
        from astropy.io.fits import Header

        primary, science = self._primary(), self._science()
        for keyword, value in self.extra.items():
            (science if keyword in science else primary)[keyword] = value
        one, other = (
            Header({k: v for k, v in cards.items() if v is not None})
            for cards in (primary, science)
        )
        return one, other

    def _primary(self) -> dict[str, Any]:
        seconds = self.integration_time * self.integrations
        multi = len(self.shape) == 3
        return {
            "DATE": "2024-03-02T00:00:00.000",
            "ORIGIN": "STSCI",
            "FILENAME": self.name,
            "CAL_VER": "1.0.0",
            "DATAMODL": "CubeModel" if multi else "ImageModel",
            "TELESCOP": "JWST",
            "TITLE": "synthetic exposure of spec2fn",
            "CATEGORY": "COM",
            "DATE-OBS": _DATE,
            "TIME-OBS": "12:00:00.000",
            "DATE-BEG": f"{_DATE}T12:00:00.000",
            "PROGRAM": "01234",
            "OBSERVTN": "001",
            "VISIT": "001",
            "VISITGRP": "01",
            "SEQ_ID": "1",
            "ACT_ID": "01",
            "EXPOSURE": f"{self.number:05d}",
            "VISIT_ID": "01234001001",
            "VISITYPE": "PRIME_TARGETED_FIXED",
            "TSOVISIT": multi,
            "TARGPROP": "SYNTHETIC",
            "TARGNAME": "SYNTHETIC",
            "TARGTYPE": "FIXED",
            "TARG_RA": TARGET[0],
            "TARG_DEC": TARGET[1],
            "SRCTYAPT": "POINT",
            "FILTER": self.filter,
            "EXP_TYPE": self.exp_type,
            "EXPCOUNT": 1,
            "EXPSTART": START,
            "EXPMID": START + seconds / 2 / 86400,
            "EXPEND": START + seconds / 86400,
            "NINTS": self.integrations,
            "INTSTART": 1,
            "INTEND": self.integrations,
            "NGROUPS": 10,
            "NFRAMES": 1,
            "GROUPGAP": 0,
            "TFRAME": self.integration_time / 10,
            "TGROUP": self.integration_time / 10,
            "EFFINTTM": self.integration_time,
            "EFFEXPTM": seconds,
            "TMEASURE": seconds,
            "DURATION": seconds,
            "GAINFACT": 1.0,
            "SUBARRAY": self.subarray,
            "SUBSTRT1": self.corner[0],
            "SUBSTRT2": self.corner[1],
            "SUBSIZE1": self.shape[-1],
            "SUBSIZE2": self.shape[-2],
            "PATT_NUM": self.number,
            **{f"S_{step}": "COMPLETE" for step in _STEPS},
            **self.optics,
            "READPATT": self.detector.pattern,
            "FASTAXIS": self.detector.fast,
            "SLOWAXIS": self.detector.slow,
            "PATTTYPE": self.pattern[0],
            "NUMDTHPT": self.pattern[1],
            "XOFFSET": self.dither[0],
            "YOFFSET": self.dither[1],
            "APERNAME": self.aperture.name,
        }

    def _science(self) -> dict[str, Any]:
        at, (ra, dec) = self.aperture, self._pointing()
        return {
            "SRCTYPE": "POINT",
            "MJD-BEG": START,
            "XPOSURE": self.integration_time * self.integrations,
            "PA_APER": ROLL + at.angle,
            "VA_SCALE": 1.00002,
            "BUNIT": "DN/s",
            "RA_V1": ra,
            "DEC_V1": dec,
            "PA_V3": ROLL,
            "WCSAXES": 3,
            "CRPIX1": 0.0,
            "CRPIX2": 0.0,
            "CRVAL1": ra,
            "CRVAL2": dec,
            "CTYPE1": "RA---TAN",
            "CTYPE2": "DEC--TAN",
            "CUNIT1": "deg",
            "CUNIT2": "deg",
            "CDELT1": at.scale / 3600,
            "CDELT2": at.scale / 3600,
            "PC1_1": -1.0,
            "PC1_2": 0.0,
            "PC2_1": 0.0,
            "PC2_2": 1.0,
            "DISPAXIS": at.dispaxis,
            "V2_REF": at.v2,
            "V3_REF": at.v3,
            "VPARITY": _PARITY,
            "V3I_YANG": at.angle,
            "RA_REF": ra,
            "DEC_REF": dec,
            "ROLL_REF": ROLL,
            "VELOSYS": 12345.6,
        }

    def _pointing(self) -> tuple[float, float]:
        """Sky position of the aperture when the source stands at its offset from it."""
        roll = np.deg2rad(ROLL)
        moved = self.aperture.from_ideal(*self.dither)
        v2, v3 = (a + b for a, b in zip(moved, self.place, strict=True))
        east, north = v2 * np.cos(roll) + v3 * np.sin(roll), v3 * np.cos(roll) - v2 * np.sin(roll)
        dec = TARGET[1] - north / 3600
        return float(TARGET[0] - east / 3600 / np.cos(np.deg2rad(dec))), float(dec)


def bad_pixels(shape: tuple[int, ...], seed: int) -> HostArray:
    """Flags (uint32) of pixels that never work: dead ones, and the reference columns."""
    rng = np.random.default_rng([seed, 3])
    dq = np.zeros(shape, np.uint32)
    dq[rng.random(shape) < _BAD_FRACTION] = Pixel.DO_NOT_USE | Pixel.DEAD
    # reference columns: at both sides of the detector, of which the subarray has the left one
    reference = Pixel.DO_NOT_USE | Pixel.REFERENCE_PIXEL
    dq[:, :4] = reference
    if shape[1] > 1000:
        dq[:, -4:] = reference
    return dq


def observe(
    rate: HostArray,
    bad: HostArray,
    seconds: float,
    seed: tuple[int, ...],
    detector: Detector,
) -> dict[str, HostArray]:
    """Take an image of a true count rate (y, x) [DN/s]; `bad` as :func:`bad_pixels` has them.

    Returns
    -------
    dict of str to array
        ``sci err var_poisson var_rnoise`` float32 and ``dq`` uint32. The variances are those the
        noise is drawn from. Pixels a cosmic ray hit (JUMP_DET) have lost part of their ramp: the
        rate is right, the variance larger. Bad pixels are NaN.
    """
    rng = np.random.default_rng(seed)
    hit = rng.random(rate.shape) < _HIT_FRACTION
    loss = np.where(hit, _HIT_VARIANCE, 1.0)
    poisson = loss * np.maximum(rate, 0.0) / (detector.gain * seconds)
    rnoise = loss * (detector.read_noise * 100.0 / seconds) ** 2
    total = np.sqrt(poisson + rnoise)
    sci = rate + total * rng.standard_normal(rate.shape)
    dead = (bad & np.uint32(Pixel.DO_NOT_USE)) != 0
    planes = {"sci": sci, "err": total, "var_poisson": poisson, "var_rnoise": rnoise}
    out: dict[str, HostArray] = {
        k: np.where(dead, np.nan, v).astype(np.float32) for k, v in planes.items()
    }
    out["dq"] = bad | np.where(hit, np.uint32(Pixel.JUMP_DET), np.uint32(0))
    return out


def int_times(integrations: int, seconds: float) -> dict[str, HostArray]:
    """Columns of the INT_TIMES table, by the names of :data:`spec2fn.schema.INT_TIMES`."""
    edges = START + np.arange(integrations + 1) * seconds / 86400
    times = {"start": edges[:-1], "mid": (edges[:-1] + edges[1:]) / 2, "end": edges[1:]}
    out: dict[str, HostArray] = {
        "integration_number": np.arange(1, integrations + 1, dtype=np.int32)
    }
    # barycentric times differ by the light-travel time, here 90 s
    for scale, shift in (("mjd_utc", 0.0), ("bjd_tdb", 90.0 / 86400)):
        for which, value in times.items():
            out[f"int_{which}_{scale}"] = value + shift
    return {name: out[name] for name in INT_TIMES}


def to_dataset(setup: Setup, planes: Mapping[str, HostArray]) -> xr.Dataset:
    """Return an exposure as :func:`spec2fn.io.open_exposure` would."""
    import xarray as xr

    primary, science = setup.headers()
    meta = Meta(primary, science, setup.name)
    dims = ("integration", "y", "x") if len(setup.shape) == 3 else ("y", "x")
    variables: dict[str, Any] = {}
    for name, data in planes.items():
        attrs = {"units": "DN/s"} if PLANES[name].kind == "value" else {}
        variables[name] = (dims, data, attrs)
    if len(dims) == 3:
        for name, data in int_times(setup.integrations, setup.integration_time).items():
            variables[name] = (("integration",), data)
    variables |= scalar_variables(meta)
    attrs = mode_attrs(meta) | {"model": primary["DATAMODL"], "meta": meta}
    return xr.Dataset(variables, attrs=attrs)


def write_exposure(
    path: str | os.PathLike[str], setup: Setup, pieces: Iterable[Mapping[str, HostArray]]
) -> None:
    """Write a ``_rate`` or ``_rateints`` file.

    `pieces` are the planes (y, x) of :func:`observe`, one mapping per integration, in order; never
    more than one is held.
    """
    from astropy.io import fits

    primary, science = setup.headers()
    start: dict[str, int] = {}
    with Path(path).open("wb") as file:
        file.write(fits.PrimaryHDU(header=primary).header.tostring().encode("ascii"))
        for name in ("sci", "err", "dq", "var_poisson", "var_rnoise"):
            plane = PLANES[name]
            # the header of an image that is never made
            empty = np.broadcast_to(np.zeros((), plane.dtype), setup.shape)
            hdu = fits.ImageHDU(empty, name=plane.hdu)
            if name == "sci":
                hdu.header.extend(science, strip=False)
            elif name == "err":
                hdu.header["BUNIT"] = "DN/s"
            file.write(hdu.header.tostring().encode("ascii"))
            start[name] = file.tell()
            file.seek(start[name] + -(-empty.nbytes // BLOCK) * BLOCK)
        if len(setup.shape) == 3:
            times = int_times(setup.integrations, setup.integration_time)
            file.write(_table("INT_TIMES", {INT_TIMES[n][0]: v for n, v in times.items()}))
        file.write(_table("ASDF", {"ASDF_METADATA": np.frombuffer(_ASDF, np.uint8)[None]}))
        for number, piece in enumerate(pieces):
            for name, at in start.items():
                stored = big_endian(piece[name], ">u4" if name == "dq" else ">f4")
                file.seek(at + number * stored.nbytes)
                file.write(stored.tobytes())


def _table(name: str, columns: Mapping[str, HostArray]) -> bytes:
    """Extension of a table, as it stands in a file."""
    from astropy.io import fits

    buffer = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), table_hdu(name, columns)]).writeto(buffer)
    return buffer.getvalue()[BLOCK:]

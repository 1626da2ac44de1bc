"""Reference files: what they hold, and how they are written, named and opened."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from spec2fn.typing import HostArray

if TYPE_CHECKING:
    import xarray as xr
    from astropy.io.fits import BinTableHDU, ImageHDU
    from astropy.io.fits.hdu.base import ExtensionHDU

__all__ = [
    "Content",
    "Reference",
    "ReferenceFile",
    "fits_reference",
    "image_hdu",
    "measured_flat",
    "open_references",
    "photom_tables",
    "planes",
    "table_hdu",
]

Content: TypeAlias = "tuple[str, Mapping[str, Any], list[ExtensionHDU]]"
"""What a FITS reference holds: its data model, keywords of its own, extensions."""

_DESCRIPTION = "synthetic instrument of spec2fn.forward"
_USEAFTER = "2020-01-01T00:00:00"
_UNMEASURED = 2e-4  # of the pixels of a flat


@dataclass(frozen=True)
class Reference:
    """What a reference file holds.

    Attributes
    ----------
    reftype : str
        CRDS type.
    match : mapping
        What it applies to: ``exp_type`` for what differs between modes, ``detector`` otherwise.
    content : sequence of HDU, or mapping
        Extensions of a FITS file; tree of an ASDF file, or of a JSON file.
    meta : mapping
        Keywords, or metadata, besides those every reference has: of the instrument and the mode.
    model : str
        Its data model; that of a JSON file has no name.
    """

    reftype: str
    match: Mapping[str, str]
    content: Sequence[ExtensionHDU] | Mapping[str, Any]
    meta: Mapping[str, Any]
    model: str = ""

    @property
    def suffix(self) -> str:
        """Of the file."""
        if not isinstance(self.content, Mapping):
            return "fits"
        return "asdf" if self.model else "json"

    def write(self, path: Path) -> None:
        """Write the file."""
        if not isinstance(self.content, Mapping):
            _write_fits(path, self, self.content)
        elif self.model:
            _write_asdf(path, self, self.content)
        else:
            _write_json(path, self, self.content)


def fits_reference(
    reftype: str, content: Content, match: Mapping[str, str], mode: Mapping[str, str]
) -> Reference:
    """Return a FITS reference; `mode` has keywords of the instrument and the mode."""
    model, keywords, hdus = content
    return Reference(reftype, match, hdus, {**mode, **keywords}, model)


@dataclass(frozen=True)
class ReferenceFile:
    """A reference file, its CRDS type, and what it applies to: see :class:`Reference`."""

    reftype: str
    path: Path
    match: Mapping[str, str]


def open_references(
    files: Iterable[ReferenceFile], exp_type: str, *, load: bool = False
) -> dict[str, xr.Dataset]:
    """Open references by type; with `load`, so that their files are needed no more.

    Those of the fixed slits in an exposure of slitlets have keys ``fs:<type>``.
    """
    from spec2fn.refs import open_reference

    out = {}
    for file in files:
        prefix = "fs:" if file.match.get("exp_type", exp_type) != exp_type else ""
        reference = open_reference(file.path, file.reftype)
        out[prefix + file.reftype] = reference.load() if load else reference
    return out


def table_hdu(name: str, columns: Mapping[str, Any], **keywords: str | float) -> BinTableHDU:
    """Return a table extension; each column is an array with the rows first."""
    from astropy.io import fits

    parts = {k: np.asarray(v) for k, v in columns.items()}
    rows = len(next(iter(parts.values())))
    data = np.empty(rows, dtype=[(k, v.dtype, v.shape[1:]) for k, v in parts.items()])
    for k, v in parts.items():
        data[k] = v
    hdu = fits.BinTableHDU(data, name=name)
    hdu.header.update(keywords)
    return hdu


def image_hdu(name: str, data: HostArray, **keywords: str | float) -> ImageHDU:
    """Return an image extension."""
    from astropy.io import fits

    hdu = fits.ImageHDU(data, name=name)
    hdu.header.update(keywords)
    return hdu


def planes(
    data: HostArray,
    error: HostArray | None = None,
    dq: HostArray | None = None,
    version: int | None = None,
) -> list[ExtensionHDU]:
    """Return the extensions SCI, ERR and DQ; without error and flags they are zero."""
    keywords = {} if version is None else {"EXTVER": version}
    return [
        image_hdu("SCI", data, **keywords),
        image_hdu("ERR", np.zeros_like(data) if error is None else error, **keywords),
        image_hdu("DQ", np.zeros(data.shape, np.uint32) if dq is None else dq, **keywords),
    ]


def measured_flat(  # noqa: PLR0917 - what a header says
    flat: HostArray, error: float, seed: int, subarray: str, corner: tuple[int, int], fast_axis: int
) -> Content:
    """Return the content of a flat as it is measured: with the error that its ERR plane states.

    Parameters
    ----------
    flat : array, (y, x)
        The true one.
    error : float
        Relative.
    seed : int
    subarray : str
    corner : (int, int)
        SUBSTRT1 and SUBSTRT2.
    fast_axis : int
    """
    rng = np.random.default_rng([seed, 2])
    data = (flat * (1 + error * rng.standard_normal(flat.shape))).astype(np.float32)
    dq = np.zeros(flat.shape, np.uint32)
    bad = rng.random(flat.shape) < _UNMEASURED
    dq[bad] = 3
    data[bad] = np.nan
    table = table_hdu(
        "DQ_DEF",
        {
            "BIT": np.array([0, 1], np.int32),
            "VALUE": np.array([1, 2], np.uint32),
            "NAME": np.array(["DO_NOT_USE", "NO_FLAT_FIELD"], "S40"),
            "DESCRIPTION": np.array(["unusable", "no response measured"], "S80"),
        },
    )
    keywords = {
        "SUBARRAY": subarray,
        "SUBSTRT1": corner[0],
        "SUBSTRT2": corner[1],
        "SUBSIZE1": flat.shape[1],
        "SUBSIZE2": flat.shape[0],
        "FASTAXIS": fast_axis,
        "SLOWAXIS": 2,
    }
    return "FlatModel", keywords, [*planes(data, (error * flat).astype(np.float32), dq), table]


def photom_tables(
    who: Mapping[str, HostArray],
    conversion: Mapping[str, float],
    wave: HostArray,
    response: HostArray,
    *,
    day: float,
    loss: float,
    exponential: tuple[float, float, float] = (0.0, 100.0, 1.0),
) -> list[ExtensionHDU]:
    """Return the tables of a conversion to flux and of the loss of throughput with time.

    Parameters
    ----------
    who : mapping of str to array
        Columns that name the rows, which all hold the same, but for what is given by row.
    conversion : mapping of str to float
        Its column at unit relative response.
    wave, response : array, shape ([row,] n)
        Relative response by wavelength [um].
    day, loss : float
        Reference day [MJD], and share of the throughput lost in a year.
    exponential : (float, float, float)
        Amplitude, e-folding time [d] and asymptote of a second loss.
    """
    rows = len(next(iter(who.values())))

    def each(**values: HostArray | float) -> dict[str, HostArray]:
        shapes = {k: (rows, *np.shape(v)[-1:]) for k, v in values.items()}
        return {k: np.broadcast_to(v, shapes[k]).astype(np.float32) for k, v in values.items()}

    amplitude, tau, const = exponential
    columns = each(**conversion, uncertainty=0.0)
    columns["nelem"] = np.full(rows, wave.shape[-1], np.int16)
    columns |= each(wavelength=wave, relresponse=response, reluncertainty=np.zeros(wave.shape[-1]))
    losses = {
        "LINEAR": each(t0=day, lossperyear=loss),
        "EXPONENTIAL": each(t0=day, amplitude=amplitude, tau=tau, const=const),
        "POWERLAW": each(t0=day, year1value=1.0, tsoft=1.0, alpha=0.0),
    }
    tables = {"PHOTOM": columns, **{f"TIMECOEFF_{k}": v for k, v in losses.items()}}
    return [table_hdu(name, {**who, **own}) for name, own in tables.items()]


def _write_fits(path: Path, reference: Reference, hdus: Sequence[ExtensionHDU]) -> None:
    from astropy.io import fits

    primary = fits.PrimaryHDU()
    primary.header.update(
        {
            "FILENAME": path.name,
            "DATAMODL": reference.model,
            "TELESCOP": "JWST",
            "REFTYPE": reference.reftype.upper(),
            "PEDIGREE": "DUMMY",
            "DESCRIP": _DESCRIPTION,
            "AUTHOR": "spec2fn",
            "USEAFTER": _USEAFTER,
            **reference.meta,
        }
    )
    fits.HDUList([primary, *hdus]).writeto(path, overwrite=True)


def _write_asdf(path: Path, reference: Reference, tree: Mapping[str, Any]) -> None:
    import asdf

    from spec2fn.io.fits.asdf_wcs import sorted_extensions
    from spec2fn.refs.plugins import light_asdf

    meta = {
        "author": "spec2fn",
        "description": _DESCRIPTION,
        "pedigree": "DUMMY",
        "useafter": _USEAFTER,
        "telescope": "JWST",
        "reftype": reference.reftype,
        "model_type": reference.model,
        "filename": path.name,
        "date": "2024-01-01T00:00:00.000",
        **reference.meta,
    }
    file = io.BytesIO()
    with light_asdf():
        asdf.AsdfFile({"meta": meta, **tree}).write_to(file)
    path.write_bytes(sorted_extensions(file.getvalue()))


def _write_json(path: Path, reference: Reference, tree: Mapping[str, Any]) -> None:
    # files of NIRSpec describe themselves twice
    described = ("description", "descrip")[: 1 + (reference.meta["instrument"] == "NIRSPEC")]
    meta = {
        "reftype": reference.reftype.upper(),
        "instrument": reference.meta["instrument"],
        "telescope": "JWST",
        "exp_type": reference.meta["exp_type"],
        "pedigree": "DUMMY",
        **dict.fromkeys(described, _DESCRIPTION),
        "author": "spec2fn",
        "useafter": _USEAFTER,
    }
    path.write_text(json.dumps({**meta, **tree}, indent=1) + "\n", encoding="utf-8")

"""Writing reference files: FITS and ASDF with the keywords every JWST reference file has."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["DESCRIPTION", "USEAFTER", "image_hdu", "table_hdu", "write_asdf", "write_fits"]

Array = np.ndarray[Any, Any]

DESCRIPTION = "synthetic instrument of spec2fn.forward"
USEAFTER = "2020-01-01T00:00:00"


LRS = {"INSTRUME": "MIRI", "DETECTOR": "MIRIMAGE", "FILTER": "P750L"}


def write_fits(
    path: Path,
    reftype: str,
    exp_type: str,
    content: tuple[str, dict[str, Any], list[Any]],
    instrument: Mapping[str, str] = LRS,
) -> None:
    """Write a FITS reference; `content` is the data model, more keywords, and the extensions."""
    from astropy.io import fits

    model, keywords, hdus = content
    primary = fits.PrimaryHDU()
    header = {
        "FILENAME": path.name,
        "DATAMODL": model,
        "TELESCOP": "JWST",
        "REFTYPE": reftype.upper(),
        "PEDIGREE": "DUMMY",
        "DESCRIP": DESCRIPTION,
        "AUTHOR": "spec2fn",
        "USEAFTER": USEAFTER,
        **instrument,
        "EXP_TYPE": exp_type,
        **keywords,
    }
    for keyword, value in header.items():
        primary.header[keyword] = value
    fits.HDUList([primary, *hdus]).writeto(path, overwrite=True)


def table_hdu(name: str, columns: Mapping[str, Any], **keywords: Any) -> Any:
    """Return a table extension; each column is an array with the rows first."""
    from astropy.io import fits

    parts = {k: np.asarray(v) for k, v in columns.items()}
    rows = len(next(iter(parts.values())))
    data = np.empty(rows, dtype=[(k, v.dtype, v.shape[1:]) for k, v in parts.items()])
    for k, v in parts.items():
        data[k] = v
    hdu = fits.BinTableHDU(data, name=name)
    for keyword, value in keywords.items():
        hdu.header[keyword] = value
    return hdu


def image_hdu(name: str, data: Array, **keywords: Any) -> Any:
    """Return an image extension."""
    from astropy.io import fits

    hdu = fits.ImageHDU(data, name=name)
    for keyword, value in keywords.items():
        hdu.header[keyword] = value
    return hdu


def write_asdf(
    path: Path, reftype: str, model: str, content: Mapping[str, Any], **meta: Any
) -> None:
    """Write an ASDF reference with more `meta` and `content` beside it."""
    import asdf

    from spec2fn.refs.plugins import light_asdf

    common = {
        "author": "spec2fn",
        "description": DESCRIPTION,
        "pedigree": "DUMMY",
        "useafter": USEAFTER,
        "telescope": "JWST",
        "reftype": reftype,
        "model_type": model,
        "filename": path.name,
        "date": "2024-01-01T00:00:00.000",
        "instrument": {"name": "MIRI", "detector": "MIRIMAGE"},
    }
    with light_asdf():
        asdf.AsdfFile({"meta": {**common, **meta}, **content}).write_to(path)

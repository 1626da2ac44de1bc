"""What a slitless exposure needs to know of its field: the catalog of sources, and their images.

The image pipeline of the observatory writes all three for a direct image of the field: a catalog
of sources (ECSV), a map of the pixels of each source, and the image itself
(https://jwst-pipeline.readthedocs.io, "source_catalog step").
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.errors import InputError
from spec2fn.io.fits.asdf_wcs import deferred_wcs
from spec2fn.io.fits.exposures import header_meta, image_dataset, mode_attrs
from spec2fn.io.fits.fitsfile import FitsFile, scan
from spec2fn.io.fits.lazy import lazy_variable
from spec2fn.parameters import user_path
from spec2fn.schema import FIELD_KEYWORDS, Meta, meta_of, with_meta
from spec2fn.typing import HostArray

if TYPE_CHECKING:
    import xarray as xr

__all__ = [
    "find_field_member",
    "open_field_member",
    "read_catalog",
    "read_direct_image",
    "read_segmentation_map",
]

_NUMBERS = ("xcentroid", "ycentroid", "isophotal_abmag")
_CORNERS = ("sky_bbox_ll", "sky_bbox_lr", "sky_bbox_ul", "sky_bbox_ur")
_SKY = ("sky_centroid", *_CORNERS)
_NEEDED = ("label", *_NUMBERS, "is_extended", *_SKY)


def read_catalog(path: str | os.PathLike[str]) -> xr.Dataset:
    """Read the catalog of the sources of a direct image.

    Parameters
    ----------
    path : path
        ECSV file with the columns ``label``, ``xcentroid``, ``ycentroid``, ``isophotal_abmag``,
        ``is_extended``, ``sky_centroid``, and the corners of the rectangle around each source,
        ``sky_bbox_ll``, ``sky_bbox_lr``, ``sky_bbox_ul``, ``sky_bbox_ur``.

    Returns
    -------
    xarray.Dataset
        dims ``(source)``: ``label`` int64; ``xcentroid``, ``ycentroid`` [pixel of the direct image,
        from 0], ``isophotal_abmag``, ``ra``, ``dec`` [deg, ICRS] float64; ``is_extended`` bool;
        and ``corner_ra``, ``corner_dec`` (source, corner) [deg], the corners in the order above.
        What a row leaves out is NaN. Attributes ``filename`` and ``meta``.

    Raises
    ------
    InputError
        If the file is missing, no ECSV table, or empty; if a column is missing or holds something
        else, a label is no integer or occurs twice, or a source has no position.
    """
    import xarray as xr

    where = user_path(path)
    table = _table(where)
    held = set(table.colnames)
    missing = [n for n in _NEEDED if n not in held and not {f"{n}.ra", f"{n}.dec"} <= held]
    if missing:
        msg = (
            f"{where}: the catalog has no column {', '.join(missing)} (it has"
            f" {', '.join(table.colnames)}); give the catalog that the image pipeline made of the"
            " direct image (*_cat.ecsv)"
        )
        raise InputError(msg)
    if not len(table):
        msg = f"{where}: the catalog holds no source; give one that does"
        raise InputError(msg)
    variables: dict[str, Any] = {"label": ("source", _labels(where, table["label"]))}
    for name in _NUMBERS:
        variables[name] = ("source", _numbers(where, name, table[name]))
    variables["is_extended"] = ("source", _flags(where, table["is_extended"]))
    centre, *corners = (_sky(where, name, table) for name in _SKY)
    if not np.isfinite(centre).all():
        row = int(np.flatnonzero(~np.isfinite(centre).all(axis=0))[0])
        label = variables["label"][1][row]
        msg = f"{where}: sky_centroid of source {label} is no position; correct or remove it"
        raise InputError(msg)
    for k, name in enumerate(("ra", "dec")):
        variables[name] = ("source", centre[k], {"units": "deg"})
        stacked = np.stack([c[k] for c in corners], axis=1)
        variables[f"corner_{name}"] = (("source", "corner"), stacked, {"units": "deg"})
    meta = Meta(filename=where.name, path=str(where))
    return xr.Dataset(variables, attrs={"filename": where.name, "meta": meta})


def _table(where: Path) -> Any:  # noqa: ANN401 - a table of astropy, which has no types
    from astropy.table import QTable

    try:
        text = where.read_text(encoding="utf-8")
    except FileNotFoundError:
        msg = f"{where}: no such file; give the catalog of the sources in the direct image"
        raise InputError(msg) from None
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is no text"
        raise InputError(f"{where}: the catalog cannot be read ({why}); check the file") from error
    if not text.startswith("# %ECSV"):
        msg = f"{where}: is no ECSV table, which starts with '# %ECSV'; give a *_cat.ecsv file"
        raise InputError(msg)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # columns nobody asks for may have odd units
            return QTable.read(text, format="ascii.ecsv")
    except Exception as error:  # whatever the readers of its columns raise
        why = " ".join(str(error).split()) or type(error).__name__
        msg = f"{where}: the catalog cannot be read ({why[:200]}); make it again"
        raise InputError(msg) from error


def _plain(column: Any) -> HostArray:  # noqa: ANN401 - any column
    values: Any = getattr(column, "value", column)  # without its unit
    if hasattr(values, "filled"):
        number = values.dtype.kind in "iuf"
        values = values.astype(float).filled(np.nan) if number else values.filled(False)
    return np.asarray(values)


def _labels(where: Path, column: Any) -> HostArray:  # noqa: ANN401 - any column
    mask = np.ma.getmaskarray(np.ma.asarray(getattr(column, "value", column)))
    values = np.asarray(column)
    if values.dtype.kind not in "iuf":
        whole = np.zeros(len(values), bool)
    else:
        with np.errstate(invalid="ignore"):
            whole = np.isfinite(values) & (values == np.floor(values))
    bad = np.flatnonzero(mask | ~whole)
    if bad.size:
        shown = "missing" if mask[bad[0]] else repr(values[bad[0]].item())
        msg = f"{where}: label of source {bad[0] + 1} is {shown}, needs an integer; correct it"
        raise InputError(msg)
    out = values.astype(np.int64)
    found, count = np.unique(out, return_counts=True)
    if count.max() > 1:
        twice = ", ".join(map(str, found[count > 1][:5]))
        msg = f"{where}: label {twice} occurs more than once; every source needs one of its own"
        raise InputError(msg)
    return out


def _numbers(where: Path, name: str, column: Any) -> HostArray:  # noqa: ANN401 - any column
    values = _plain(column)
    try:
        return values.astype(np.float64)
    except (TypeError, ValueError):
        msg = f"{where}: column {name} holds {str(values[0])!r}, needs numbers; correct it"
        raise InputError(msg) from None


def _flags(where: Path, column: Any) -> HostArray:  # noqa: ANN401 - any column
    values = _plain(column)
    if values.dtype.kind == "U":
        text = np.char.upper(np.char.strip(values))
        if np.isin(text, ("TRUE", "FALSE")).all():
            return text == "TRUE"
    if values.dtype.kind not in "biu":
        msg = (
            f"{where}: column is_extended holds {str(values[0])!r}, needs True or False; correct it"
        )
        raise InputError(msg)
    return values.astype(bool)


def _sky(where: Path, name: str, table: Any) -> HostArray:  # noqa: ANN401 - a table of astropy
    """Right ascension and declination (ICRS) of a column of positions [deg]."""
    if name not in table.colnames:
        parts = (table[f"{name}.ra"], table[f"{name}.dec"])
        return np.stack([_numbers(where, name, p) for p in parts])
    column = table[name]
    if not hasattr(column, "icrs"):
        msg = f"{where}: column {name} holds {str(column[0])!r}, needs positions; correct it"
        raise InputError(msg)
    place = column.icrs
    return np.stack([np.asarray(place.ra.deg, float), np.asarray(place.dec.deg, float)])


def read_direct_image(path: str | os.PathLike[str]) -> xr.Dataset:
    """Open the direct image of a field, which may be a mosaic.

    Parameters
    ----------
    path : path
        FITS file with SCI (``_i2d``, ``_cal``).

    Returns
    -------
    xarray.Dataset
        As of :func:`spec2fn.io.open_product`; ``meta.wcs`` is the gwcs of the image, read on use.

    Raises
    ------
    InputError
        If the file is missing, damaged, or holds no image.
    """
    file = scan(path)
    ds = image_dataset(file, any_exp_type=True, product=True)
    if ds["sci"].ndim != 2:
        msg = f"{file.path}: SCI is {ds['sci'].shape}, needs the two dimensions of an image"
        raise InputError(msg)
    return with_meta(ds, wcs=_wcs(file))


def read_segmentation_map(path: str | os.PathLike[str]) -> xr.Dataset:
    """Open the map of the pixels of each source.

    Parameters
    ----------
    path : path
        FITS file whose SCI holds the label of the source of each pixel, 0 for none (``_segm``).

    Returns
    -------
    xarray.Dataset
        ``label`` (y, x), integer; ``meta.wcs`` is the gwcs of the image, read on use.

    Raises
    ------
    InputError
        If the file is missing, damaged, or holds no image of integers.
    """
    import xarray as xr

    file = scan(path)
    science = file.find("SCI")
    if science is None or len(science.shape) != 2 or science.dtype.kind not in "iu":
        found = "no SCI" if science is None else f"SCI of {science.dtype} {science.shape}"
        msg = f"{file.path}: has {found}, needs an image of integers: the labels of the sources"
        raise InputError(msg)
    meta = header_meta(file, science, {}).replace(wcs=_wcs(file))
    label = lazy_variable(("y", "x"), file, science, "int64")
    return xr.Dataset({"label": label}, attrs={**mode_attrs(meta), "meta": meta})


def _wcs(file: FitsFile) -> object:
    asdf = file.find("ASDF")
    if asdf is None:
        return None
    return deferred_wcs(lambda: bytes(file.raw(asdf.start, asdf.size)), file.path.name)


_READERS: Mapping[str, Callable[[Path], Any]] = {
    "sourcecat": read_catalog,
    "segmap": read_segmentation_map,
    "direct_image": read_direct_image,
}


def open_field_member(role: str, path: str | os.PathLike[str]) -> xr.Dataset:
    """Open a member of an association that describes the field.

    Parameters
    ----------
    role : str
        One of :data:`spec2fn.schema.FIELD_KEYWORDS`.
    path : path
    """
    return _READERS[role](user_path(path))


def find_field_member(ds: xr.Dataset, role: str, folders: Iterable[str]) -> xr.Dataset | None:
    """Open the file that the header of an exposure names for a role.

    Parameters
    ----------
    ds : xarray.Dataset
        Exposure.
    role : str
        One of :data:`spec2fn.schema.FIELD_KEYWORDS`, which has the keyword.
    folders : iterable of str
        Where to look: the folder of the exposure, that of its association.

    Returns
    -------
    xarray.Dataset or None
        None if the header names none.

    Raises
    ------
    InputError
        If none of the folders holds the file, and as the function that opens it.
    """
    keyword, meta = FIELD_KEYWORDS[role][0], meta_of(ds)
    name = str(meta.get(keyword) or "").strip()
    places = list(dict.fromkeys(Path(folder) / user_path(name) for folder in folders))
    if name.upper() in ("", "N/A", "NONE") or not places:
        return None
    for path in places:
        if path.exists():
            return open_field_member(role, path)
    msg = (
        f"{meta.filename}: its {FIELD_KEYWORDS[role][1]} {name} ({keyword}) is not in"
        f" {' or '.join(str(p.parent.absolute()) for p in places)}; put it there, or name it as"
        f" {role} in the association"
    )
    raise InputError(msg)

"""Coordinates of the pixels of an integral-field exposure that was read from a file.

``assign_wcs`` leaves them in the Dataset. A product holds the gwcs alone (and, of the NIRSpec IFU,
wavelengths in single precision), from which they are evaluated again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.errors import InputError
from spec2fn.modes import mode_of
from spec2fn.schema import meta_of
from spec2fn.typing import HostArray
from spec2fn.wcs.evaluate import evaluate_between
from spec2fn.wcs.slices import IfuSlices, ifu_slices

if TYPE_CHECKING:
    import xarray as xr
    from gwcs import WCS

__all__ = ["mrs_planes", "slice_map", "with_coordinates", "with_planes"]

_COORDINATES = ("ra", "dec", "wavelength", "slice_id")
_UNITS = {"wavelength": "um", "ra": "deg", "dec": "deg", "alpha": "arcsec", "beta": "arcsec"}


def slice_map(ds: xr.Dataset, who: str) -> HostArray:
    """Return the number of the slice of every pixel.

    Parameters
    ----------
    ds : xarray.Dataset
        Integral-field exposure with ``slice_id`` or ``regions`` (y, x), or with a gwcs.
    who : str
        Name of the step or function, for messages.

    Returns
    -------
    int32 array, shape (y, x)
        0 outside the slices; MRS: channel times 100 plus the number of the slice.

    Raises
    ------
    InputError
        If the exposure has neither, or the WCS is not one of an integral-field unit.
    """
    for name in ("slice_id", "regions"):
        if name in ds:
            return np.asarray(ds[name].data).astype(np.int32)
    return _mapped(ds, _gwcs(ds, who), who)


def with_coordinates(ds: xr.Dataset, who: str = "with_coordinates") -> xr.Dataset:
    """Return an integral-field exposure with the coordinates of its pixels.

    The light of a lamp has none on the sky.

    Parameters
    ----------
    ds : xarray.Dataset
        MIRI MRS or NIRSpec IFU, with ``sci``, such as a ``_cal`` product read from a file.
    who : str
        Name of the step or function, for messages.

    Returns
    -------
    xarray.Dataset
        `ds` itself if it holds them. Otherwise with ``wavelength`` [um], ``ra``, ``dec`` [deg]
        float64 and ``slice_id`` int32 (y, x); MRS: also ``alpha`` and ``beta`` [arcsec];
        NIRSpec: ``slit_y``, along the slice in units of its length. NaN outside the slices.

    Raises
    ------
    InputError
        If the exposure has no WCS, or not one of an integral-field unit.
    """
    lamp = bool(mode_of(ds).lamp)
    if all(n in ds for n in (_COORDINATES[2:] if lamp else _COORDINATES)):
        return ds
    wcs = _gwcs(ds, who)
    label = _mapped(ds, wcs, who)
    if ds.attrs.get("instrument") == "MIRI":
        return with_planes(ds, mrs_planes(wcs, label))
    planes = _nirspec(ifu_slices(ds), label, lamp=lamp)
    label[~np.isfinite(planes["wavelength" if lamp else "ra"])] = 0
    return with_planes(ds, {**planes, "slice_id": label})


def with_planes(ds: xr.Dataset, planes: Mapping[str, HostArray]) -> xr.Dataset:
    """Return an exposure with coordinates of its pixels, arrays (y, x) by name."""
    units = {n: {"units": _UNITS[n]} if n in _UNITS else {} for n in planes}
    return ds.assign({n: (("y", "x"), plane, units[n]) for n, plane in planes.items()})


def mrs_planes(wcs: WCS, label: HostArray) -> dict[str, HostArray]:
    """Evaluate the gwcs of an MRS exposure at every pixel.

    Parameters
    ----------
    wcs : gwcs.WCS
    label : int32 array, shape (y, x)
        From :func:`slice_map`.

    Returns
    -------
    dict
        ``wavelength`` [um], ``ra``, ``dec`` [deg], ``alpha`` and ``beta`` [arcsec] (y, x) float64,
        NaN outside the slices; a wavelength outside the range of its channel has no position on
        the sky, nor counts. And ``slice_id``, which is `label`.
    """
    ny, nx = label.shape
    x, y = np.arange(float(nx))[None, :], np.arange(float(ny))[:, None]
    in_slices = evaluate_between(wcs, None, "alpha_beta", x, y)
    planes = dict(zip(("alpha", "beta", "wavelength"), in_slices, strict=True))
    # only pixels inside slices go on to the sky
    inside = np.flatnonzero(np.isfinite(planes["wavelength"]))
    place = [plane.ravel()[inside] for plane in planes.values()]
    sky = evaluate_between(wcs, "alpha_beta", None, *place)
    for name, values in zip(("ra", "dec", "wavelength"), sky, strict=True):
        planes[name] = np.full(label.shape, np.nan)
        planes[name].reshape(-1)[inside] = values
    return {**planes, "slice_id": label}


def _nirspec(slices: IfuSlices, label: HostArray, *, lamp: bool) -> dict[str, HostArray]:
    names = ("slit_y", "wavelength") if lamp else ("slit_y", "ra", "dec", "wavelength")
    planes = {n: np.full(label.shape, np.nan) for n in names}
    place = np.full((3, *label.shape), np.nan)
    for number in slices.numbers:
        y, x = np.nonzero(label == number)
        along, position = slices.located(number, x.astype(float), y.astype(float))
        planes["slit_y"][y, x] = along
        place[:, y, x] = position
    y, x = np.nonzero(label)
    seen = place[2:, y, x] if lamp else slices.world(*place[:, y, x])
    for name, values in zip(names[1:], seen, strict=True):
        planes[name][y, x] = values
    return planes


def _gwcs(ds: xr.Dataset, who: str) -> WCS:
    wcs = meta_of(ds).wcs
    wcs = wcs.load() if hasattr(wcs, "load") else wcs
    if wcs is None:
        msg = f"{who}: the exposure has no WCS; run assign_wcs first"
        raise InputError(msg)
    return wcs


def _mapped(ds: xr.Dataset, wcs: WCS, who: str) -> HostArray:
    """Return the map that the gwcs selects slices by."""
    transforms = [s.transform for s in getattr(wcs, "pipeline", ())]
    mappers: list[Any] = [getattr(t, "label_mapper", None) for t in transforms]
    maps = [m.mapper for m in mappers if np.ndim(getattr(m, "mapper", 0)) == 2]
    if not maps or np.shape(maps[0]) != ds["sci"].shape[-2:]:
        msg = f"{who}: the WCS has no map of the slices of this exposure; run assign_wcs first"
        raise InputError(msg)
    return np.array(maps[0]).astype(np.int32)

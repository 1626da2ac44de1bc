"""Where the spectra of the sources of a catalog fall on a slitless exposure.

A source's rectangle on the sky, at both ends of the wavelengths of an order, is enclosed by a
rectangle of pixels (https://jwst-pipeline.readthedocs.io, "extract_2d step": "WFSS"). All sources
are done at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from spec2fn.errors import InputError, ParameterError
from spec2fn.schema import meta_of
from spec2fn.typing import HostArray

if TYPE_CHECKING:
    import xarray as xr

    from spec2fn.wcs.grism import GrismGeometry

__all__ = ["SourceBoxes", "chosen_sources", "need_catalog", "source_boxes"]

_ARCSEC = 3600.0


@dataclass(frozen=True, eq=False)
class SourceBoxes:
    """Rectangles around spectra, the brightest source first, its orders as they are asked for.

    Attributes
    ----------
    source : int array, shape (box,)
        Row of the catalog.
    order : int array, shape (box,)
    low, high : int array, shape (box, 2)
        First and last pixel (x, y), from 0; they may lie beyond the image.
    centre : float array, shape (box, 2)
        Position (x, y) of the source without dispersion [pixel].
    off : tuple of (int, int)
        Row of the catalog and order of spectra that miss the image.
    """

    source: HostArray
    order: HostArray
    low: HostArray
    high: HostArray
    centre: HostArray
    off: tuple[tuple[int, int], ...] = ()

    def __len__(self) -> int:
        return len(self.source)


def need_catalog(sourcecat: Sequence[xr.Dataset], ds: xr.Dataset, who: str) -> xr.Dataset:
    """Return the catalog among the members of a step.

    Raises
    ------
    InputError
        If there is none, or more than one.
    """
    if len(sourcecat) == 1:
        return sourcecat[0]
    found = f"{len(sourcecat)} source catalogs" if sourcecat else "no source catalog"
    msg = (
        f"{who}: {meta_of(ds).filename or 'the exposure'} has {found}, needs one: name it as a"
        " sourcecat member of the association, or in the keyword SCATFILE"
    )
    raise InputError(msg)


def chosen_sources(
    catalog: xr.Dataset,
    labels: Sequence[int] | None,
    ra: Sequence[float] | None,
    dec: Sequence[float] | None,
    max_sep: float,
) -> tuple[HostArray | None, tuple[str, ...]]:
    """Return which rows of a catalog are asked for, by label or by position.

    Parameters
    ----------
    catalog : xarray.Dataset
        As :func:`spec2fn.io.catalogs.read_catalog` returns it.
    labels : sequence of int, optional
    ra, dec : sequence of float, optional
        Positions [deg]; the source nearest to each is meant.
    max_sep : float
        Largest distance from it [arcsec].

    Returns
    -------
    chosen : bool array, shape (source,), or None
        None if nothing is asked for.
    warnings : tuple of str
        Positions without a source.

    Raises
    ------
    ParameterError
        If `ra` and `dec` do not belong together.
    InputError
        If a label does not occur, or no source is near any of the positions.
    """
    if labels is None and ra is None and dec is None:
        return None, ()
    if len(ra or ()) != len(dec or ()):
        msg = (
            f"extract_2d: source_ra has {len(ra or ())} values and source_dec"
            f" {len(dec or ())}; give as many of both"
        )
        raise ParameterError(msg)
    known = catalog["label"].values
    for label in labels or ():
        if int(label) not in known:
            near = known[np.argsort(np.abs(known - int(label)), kind="stable")[:5]]
            msg = (
                f"extract_2d: no source {label} in {_name(catalog)}; nearest of its"
                f" {len(known)} labels are {', '.join(map(str, sorted(near.tolist())))}"
            )
            raise InputError(msg)
    chosen = np.isin(known, [int(label) for label in labels or ()])
    told = []
    for place in zip(ra or (), dec or (), strict=True):
        distance = _ARCSEC * _separation(*place, catalog["ra"].values, catalog["dec"].values)
        nearest = int(np.argmin(distance))
        if distance[nearest] <= max_sep:
            chosen[nearest] = True
            continue
        told.append(
            f"extract_2d: no source of {_name(catalog)} within {max_sep:g} arcsec of"
            f" {place[0]:.6f}, {place[1]:.6f}; the nearest, {known[nearest]}, is"
            f" {distance[nearest]:.3g} away"
        )
    if not chosen.any():
        raise InputError(told[0] if told else "extract_2d: source_ids is empty; name a source")
    return chosen, tuple(told)


def _separation(ra: float, dec: float, ras: HostArray, decs: HostArray) -> HostArray:
    """Distances on the sky [deg] (Vincenty)."""
    lon, lat = np.deg2rad(ras - ra), np.deg2rad(decs)
    sin0, cos0 = np.sin(np.deg2rad(dec)), np.cos(np.deg2rad(dec))
    across = np.hypot(
        np.cos(lat) * np.sin(lon), cos0 * np.sin(lat) - sin0 * np.cos(lat) * np.cos(lon)
    )
    along = sin0 * np.sin(lat) + cos0 * np.cos(lat) * np.cos(lon)
    return np.rad2deg(np.arctan2(across, along))


def _name(catalog: xr.Dataset) -> str:
    return meta_of(catalog).filename or str(catalog.attrs.get("filename", "the catalog"))


def source_boxes(
    geometry: GrismGeometry,
    catalog: xr.Dataset,
    ranges: Mapping[int, tuple[float, float]],
    shape: tuple[int, int],
    *,
    magnitude_limit: float | None = None,
    brightest: int | None = None,
    half_height: int | None = None,
    chosen: HostArray | None = None,
) -> SourceBoxes:
    """Return the rectangles around the spectra of the sources of a catalog.

    Parameters
    ----------
    geometry : GrismGeometry
    catalog : xarray.Dataset
        As :func:`spec2fn.io.catalogs.read_catalog` returns it.
    ranges : mapping of int to (float, float)
        Shortest and longest wavelength [um] by order.
    shape : (int, int)
        Rows and columns of the image.
    magnitude_limit : float, optional
        Sources have to be brighter; those of unknown magnitude are kept, as the faintest.
    brightest : int, optional
        Keep so many of the sources that fall on the image.
    half_height : int, optional
        Half the height across the dispersion, of sources that are not extended [pixel]; by
        default that of their rectangle in the catalog.
    chosen : bool array, shape (source,), optional
        The sources that are asked for.

    Returns
    -------
    SourceBoxes
        Those that reach into the image, with two pixels at least along the dispersion. Sources of
        equal magnitude are in the order of the catalog.
    """
    magnitude = catalog["isophotal_abmag"].values
    keep = np.ones(len(magnitude), bool) if chosen is None else np.asarray(chosen, bool).copy()
    if magnitude_limit is not None:
        with np.errstate(invalid="ignore"):
            keep &= ~(magnitude >= magnitude_limit)
    rows = np.flatnonzero(keep)
    rows = rows[np.argsort(magnitude[rows], kind="stable")]
    sky = {n: catalog[n].values[rows] for n in ("ra", "dec", "corner_ra", "corner_dec")}
    corner = np.stack(geometry.world_to_detector(sky["corner_ra"], sky["corner_dec"]))
    middle = np.stack(geometry.world_to_detector(sky["ra"], sky["dec"]))
    boxes = [_of_order(geometry, order, limits, corner, middle) for order, limits in ranges.items()]
    low, high = (np.stack([b[k] for b in boxes], axis=1) for k in range(2))  # source order xy
    if half_height is not None:
        across = 1 if geometry.disp_axis == 1 else 0
        centre = np.stack([b[2] for b in boxes], axis=1)[..., across]
        narrow = ~catalog["is_extended"].values[rows]
        low[narrow, :, across] = centre[narrow] - half_height
        high[narrow, :, across] = centre[narrow] + half_height
    on = _reaches(low, high, shape, geometry.disp_axis)
    off = tuple((int(rows[s]), tuple(ranges)[o]) for s, o in zip(*np.nonzero(~on), strict=True))
    some = np.flatnonzero(on.any(axis=1))[:brightest]
    which = np.nonzero(on[some])
    source, order = some[which[0]], which[1]
    return SourceBoxes(
        rows[source],
        np.array(tuple(ranges), dtype=int)[order],
        _pixel(low[source, order]),
        _pixel(high[source, order]),
        middle[:, source].T.copy(),
        off,
    )


def _of_order(
    geometry: GrismGeometry,
    order: int,
    limits: tuple[float, float],
    corner: HostArray,
    middle: HostArray,
) -> tuple[HostArray, HostArray, HostArray]:
    """Lower and upper edge of the rectangles, and their middle: (source, 2) each."""
    x0, y0 = corner
    ends = [np.stack(geometry.disperse(x0, y0, wave, order), axis=-1) for wave in limits]
    reached = np.concatenate(ends, axis=1)  # source corner xy
    missing = np.isnan(reached).all(axis=1)
    low = np.where(np.isnan(reached), np.inf, reached).min(axis=1)
    high = np.where(np.isnan(reached), -np.inf, reached).max(axis=1)
    low[missing], high[missing] = np.nan, np.nan
    x0, y0 = middle
    centre = np.stack(geometry.disperse(x0, y0, sum(limits) / 2, order), axis=-1)
    return low, high, centre


def _rounded(edge: HostArray) -> HostArray:
    return np.floor(edge + 0.5)


def _pixel(edge: HostArray) -> HostArray:
    return _rounded(edge).astype(np.int64)


def _reaches(low: HostArray, high: HostArray, shape: tuple[int, int], disp_axis: int) -> HostArray:
    """Which rectangles, (source, order, 2), have pixels of the image, (source, order)."""
    last = np.array([shape[1] - 1, shape[0] - 1])
    along, across = (0, 1) if disp_axis == 1 else (1, 0)
    with np.errstate(invalid="ignore"):
        low, high = _rounded(low), _rounded(high)
        return (
            (high[..., along] > 0)
            & (low[..., along] < last[along])
            & (high[..., across] >= 0)
            & (low[..., across] <= last[across])
        )

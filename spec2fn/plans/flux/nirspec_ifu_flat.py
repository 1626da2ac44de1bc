"""Host-side half of the flat fields of the NIRSpec IFU.

The three parts of a flat are those of slits; pixels are placed on them where they stand on the
detector, and what a pixel of one slice borrows from its neighbours it borrows from that slice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.errors import ReferenceError
from spec2fn.kernels.tables import GAUSS_3
from spec2fn.plans.flux.nirspec_flat import (
    FlatTablePlan,
    SpectralFlatPlan,
    detector_shape,
    outside_nominal,
    plan_images,
    read_table,
)
from spec2fn.plans.flux.tables import (
    PixelList,
    Segment,
    beyond,
    extrapolates,
    held_beyond,
    make_bank,
)
from spec2fn.schema import require
from spec2fn.wcs.assign.pointing import subarray_origin

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["plan_ifu_flat", "widths_by_slice"]


def plan_ifu_flat(
    ds: xr.Dataset,
    fflat: xr.Dataset | None,
    sflat: xr.Dataset | None,
    dflat: xr.Dataset | None,
    extrapolate: bool | None = None,
) -> SpectralFlatPlan:
    """Place the pixels of an IFU exposure on the parts of its flat.

    Parameters
    ----------
    ds : xarray.Dataset
        Exposure with ``wavelength`` [um] and ``slice_id``, dims ``(y, x)``. The attributes
        ``xstart``, ``ystart`` say where it stands on the detector.
    fflat, sflat, dflat : xarray.Dataset, optional
        Parts; of the table of the fore optics the first row counts.
    extrapolate : bool, optional
        See :func:`spec2fn.steps.flat_field.flat_field`.

    Returns
    -------
    SpectralFlatPlan
        With planes of shape (y, x) in place of (slit, y, x); pixels outside the slices count as
        padding.

    Raises
    ------
    DatasetError
        If a variable is missing.
    ReferenceError
        If a part lacks an image, a table or a column, or the images differ in size.
    """
    require(ds, ("wavelength", "slice_id"), "flat_field")
    wave = np.asarray(ds["wavelength"].data, dtype=np.float64)
    lit = np.isfinite(wave)
    parts = {"fflat": fflat, "sflat": sflat, "dflat": dflat}
    images = [ref for ref in (sflat, dflat) if ref is not None]
    position = _positions(ds, lit, detector_shape(images))
    plans, within = [], np.ones(wave.shape, dtype=bool)
    for reftype in ("sflat", "dflat"):
        plan, inside = plan_images(parts[reftype], reftype, wave)
        plans.append(plan)
        within &= inside.reshape(inside.shape[-2:])
    extend = extrapolates(ds, extrapolate)
    listed = lit & (extend | within) & (position >= 0)
    where = np.flatnonzero(listed)
    back = np.where(lit, np.int32(where.size), np.int32(where.size + 1))
    back.reshape(-1)[where] = np.arange(where.size, dtype=np.int32)

    width = widths_by_slice(wave, np.asarray(ds["slice_id"].data)).reshape(-1)[where]
    x = wave.reshape(-1)[where]
    points = np.stack([x + offset * width for offset, _ in GAUSS_3])
    usable = np.ones(where.size, dtype=bool)
    held = ~within.reshape(-1)[where] if extend else None
    number = np.zeros(where.size, np.int32)
    tables: list[FlatTablePlan | None] = []
    searched: dict[Any, Any] = {}
    for reftype, ref in parts.items():
        segment = None if ref is None else read_table(ref, "", 0, reftype)
        if ref is not None and segment is None:
            msg = (
                f"flat_field: reference {reftype!r} has fewer than two usable rows in its table of"
                " the fast variation; fetch it again from CRDS"
            )
            raise ReferenceError(msg)
        if segment is None:
            tables.append(None)
            continue
        found: list[Segment | None] = [segment]
        if held is not None:
            held |= beyond(found, number, points)
            found = held_beyond(found)
        bank, covered = make_bank(found, number, points, searched)
        usable &= covered
        tables.append(FlatTablePlan(bank))
    return SpectralFlatPlan(
        pixels=PixelList(where, back),
        usable=usable,
        lit=None,
        width=width,
        position=position,
        tables=tuple(tables),
        images=tuple(plans),
        problems=(),
        held=held,
        outside=outside_nominal(ds, x) if extend else None,
    )


def _positions(ds: xr.Dataset, lit: Any, shape: tuple[int, int]) -> Any:
    first_x, first_y = subarray_origin(ds)
    x = np.arange(lit.shape[1]) + first_x
    y = np.arange(lit.shape[0])[:, None] + first_y
    height, width = shape
    on = lit & (y >= 0) & (y < height) & (x >= 0) & (x < width)
    return np.where(on, y * width + x, -1).astype(np.int32)


def widths_by_slice(wave: Any, slice_id: Any) -> Any:
    """Range of wavelengths in each pixel: the step to the next column.

    Where the pixel of the next column has no wavelength, the mean of that column of the slice
    stands in; the last column of a slice repeats the step before it.

    Parameters
    ----------
    wave : array of float64, shape (y, x)
        NaN outside the slices.
    slice_id : array of int, shape (y, x)

    Returns
    -------
    array of float64, shape (y, x)
        0 outside the slices.
    """
    nx = wave.shape[1]
    out = np.zeros(wave.shape)
    if nx < 2:
        return out
    lit = np.isfinite(wave)
    step = np.full(wave.shape, np.nan)
    np.subtract(wave[:, 1:], wave[:, :-1], out=step[:, :-1])
    # the last column of a slice looks back, every other one ahead
    changes = lit.copy()
    changes[:, :-1] &= slice_id[:, 1:] != slice_id[:, :-1]
    y, x = np.nonzero(changes)
    last = np.zeros(int(slice_id.max(initial=0)) + 1, dtype=np.intp)
    np.maximum.at(last, slice_id[y, x], x)
    end = x == last[slice_id[y, x]]
    step[y[end], x[end]] = np.nan
    known = np.isfinite(step)
    np.copyto(out, step, where=known)

    y, x = np.nonzero(lit & ~known)
    here, number = wave[y, x], slice_id[y, x]
    end = x == last[number]
    side = np.where(end, x - 1, x + 1).clip(0, nx - 1)
    beside = wave[y, side]
    (missing,) = np.nonzero(np.isnan(beside))
    beside[missing] = _column_means(wave, slice_id, number[missing], side[missing])
    found = np.where(end, here - beside, beside - here)
    out[y, x] = np.where(np.isfinite(found), found, 0.0)
    return out


def _column_means(wave: Any, slice_id: Any, number: Any, column: Any) -> Any:
    """Mean wavelength of columns of slices; NaN where a slice has none there."""
    pairs, back = np.unique(np.stack([number, column]), axis=1, return_inverse=True)
    values = wave[:, pairs[1]]
    mine = (slice_id[:, pairs[1]] == pairs[0]) & np.isfinite(values)
    count = mine.sum(axis=0)
    total = np.where(mine, values, 0.0).sum(axis=0)
    mean = np.where(count > 0, total / np.where(count > 0, count, 1), np.nan)
    return mean[back.reshape(-1)]

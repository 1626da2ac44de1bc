"""Host-side half of the flat fields of NIRSpec spectra: where pixels stand on the three parts.

The pixels of slits, or of the slices of the integral-field unit, are placed on the images and the
tables of the fore optics, the spectrograph and the detector. What a pixel borrows from its
neighbours it borrows from those of its own slit or slice.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from spec2fn.errors import DatasetError, ReferenceError
from spec2fn.kernels.bands import by_rows
from spec2fn.kernels.tables import GAUSS_3
from spec2fn.modes import mode_of
from spec2fn.plans.flux.factors import extrapolates
from spec2fn.plans.flux.spectral_flat import FlatImagePlan, FlatTablePlan, SpectralFlatPlan
from spec2fn.plans.flux.tables import (
    Segment,
    TableBank,
    clean_wavelength,
    distinct_segments,
    list_pixels,
    make_bank,
    outside_tables,
    true_pixels,
    with_constant_ends,
)
from spec2fn.schema import need, require
from spec2fn.subarray import subarray_origin
from spec2fn.typing import HostArray

if TYPE_CHECKING:
    import xarray as xr

    from spec2fn.parameters import Parameters

__all__ = ["plan_ifu_flat", "plan_spectral_flat", "widths_by_slice"]

TABLE = "fast_variation"
_NEEDED = ("wavelength", "slit_name", "xstart", "ystart", "xsize", "ysize", "source_type")

Parts = dict[str, "xr.Dataset | None"]
Segments = list[Segment | None]
Tables = tuple[Segments | None, Segments | None]


def plan_spectral_flat(ds: xr.Dataset, parts: Parts, params: Parameters) -> SpectralFlatPlan:
    """Place the pixels of a bucket of slits on the parts of their flats.

    Parameters
    ----------
    ds : xarray.Dataset
        Bucket with dims ``(slit, [integration,] y, x)``, ``wavelength`` [um] and the variables of
        extract_2d and srctype; for NRS_MSASPEC also ``quadrant``, ``xcen``, ``ycen``. The
        attributes ``xstart``, ``ystart`` say where the subarray stands on the detector.
    parts : dict of xarray.Dataset or None
        ``fflat``, ``sflat``, ``dflat``; lamp exposures have no fore optics. At least one is
        needed.
    params : Parameters
        Of :func:`spec2fn.steps.flat_field.flat_field`.

    Raises
    ------
    DatasetError
        If the exposure has not been cut into slits, or lacks a variable.
    ReferenceError
        If a reference lacks an image, a table or a column.

    Notes
    -----
    Algorithm: JWST pipeline documentation, flat_field step ("NIRSpec spectroscopic data").
    """
    if "slit" not in ds.dims:
        msg = "flat_field: NIRSpec spectra must be cut into slits first; run extract_2d"
        raise DatasetError(msg)
    mos = mode_of(ds).shutters
    require(ds, (*_NEEDED, "quadrant", "xcen", "ycen") if mos else _NEEDED, "flat_field")
    extend = extrapolates(ds, params.extrapolate)
    plan = _plan_slits(ds, parts, "wavelength", extend)
    if not mode_of(ds).several_slits:
        return plan
    types = np.char.upper(np.asarray(ds["source_type"].data).astype(str))
    point = tuple(int(i) for i in np.flatnonzero(types == "POINT"))
    uniform = None
    if point and "wavelength_uncorrected" in ds:
        some = ds.isel(slit=list(point))
        uniform = _plan_slits(some, parts, "wavelength_uncorrected", extend)
    return replace(plan, point=point, uniform=uniform)


def plan_ifu_flat(ds: xr.Dataset, parts: Parts, params: Parameters) -> SpectralFlatPlan:
    """Place the pixels of an IFU exposure on the parts of its flat.

    Parameters
    ----------
    ds : xarray.Dataset
        Exposure with ``wavelength`` [um] and ``slice_id``, dims ``(y, x)``. The attributes
        ``xstart``, ``ystart`` say where it stands on the detector.
    parts, params
        See :func:`plan_spectral_flat`; of the table of the fore optics the first row counts.

    Returns
    -------
    SpectralFlatPlan
        The exposure as one slit; pixels outside the slices count as padding.

    Raises
    ------
    DatasetError
        If a variable is missing.
    ReferenceError
        If a part lacks an image, a table or a column, or the images differ in size.
    """
    require(ds, ("wavelength", "slice_id"), "flat_field")
    wave = np.asarray(ds["wavelength"].data, dtype=np.float64)
    tables: dict[str, Tables] = {}
    for reftype, ref in parts.items():
        segment = None if ref is None else _read_table(ref, "", 0, reftype)
        if ref is not None and segment is None:
            msg = (
                f"flat_field: reference {reftype!r} has fewer than two usable rows in its table of"
                " the fast variation; fetch it again from CRDS"
            )
            raise ReferenceError(msg)
        tables[reftype] = ([segment], None)
    x, y = subarray_origin(ds)
    return _placed(
        ds,
        parts,
        wave=wave[None],
        true=np.isfinite(wave)[None],
        width=widths_by_slice(wave, np.asarray(ds["slice_id"].data))[None],
        origin=(np.array([y]), np.array([x])),
        tables=tables,
        problems=[""],
        extend=extrapolates(ds, params.extrapolate),
    )


def _plan_slits(ds: xr.Dataset, parts: Parts, name: str, extend: bool) -> SpectralFlatPlan:
    true = true_pixels(ds)
    wave = np.where(true, clean_wavelength(ds[name].data), np.nan)
    problems = [""] * ds.sizes["slit"]
    tables = {
        "fflat": _fore_segments(ds, parts["fflat"], problems),
        "sflat": _segments(ds, parts["sflat"], "sflat", problems),
        "dflat": _segments(ds, parts["dflat"], "dflat", problems),
    }
    # the cut-out is placed in the image, the image in the frame of the detector
    y, x = (np.asarray(ds[n].data) + int(ds.attrs.get(n, 1)) - 2 for n in ("ystart", "xstart"))
    return _placed(
        ds,
        parts,
        wave=wave,
        true=true,
        width=_widths(wave, np.asarray(ds["xsize"].data)),
        origin=(y, x),
        tables=tables,
        problems=problems,
        extend=extend,
    )


def _placed(
    ds: xr.Dataset,
    parts: Parts,
    *,
    wave: HostArray,
    true: HostArray,
    width: HostArray,
    origin: tuple[HostArray, HostArray],
    tables: dict[str, Tables],
    problems: list[str],
    extend: bool,
) -> SpectralFlatPlan:
    """Place pixels on the parts.

    Parameters
    ----------
    ds, parts
    wave, true, width : array, shape (slit, y, x)
        Wavelengths, NaN in the dark; which pixels are no padding; the range of wavelengths in
        each.
    origin : (array, array)
        Row and column of the detector at which each slit begins.
    tables, problems
        Tables of the parts by slit, and why slits have none.
    extend : bool
        Whether the parts are extrapolated.
    """
    position = _positions(true, origin, _detector_shape(parts))
    images, within = [], np.ones(wave.shape, dtype=bool)
    for reftype in ("sflat", "dflat"):
        plan, inside = _plan_images(parts[reftype], reftype, wave)
        images.append(plan)
        within &= inside
    fine = np.array([not p for p in problems], dtype=bool).reshape(-1, 1, 1)
    # a pixel without wavelength has a flat only if no part of it depends on wavelength
    cubes = any(p is not None and p.knots is not None for p in images)
    listed = true & fine & (position >= 0) & (extend | within)
    if cubes:
        listed &= ~np.isnan(wave)
    some = list_pixels(listed, true)
    x, width = (v.reshape(-1)[some.position] for v in (wave, width))
    lit, slit = ~np.isnan(x), some.slit
    usable = np.ones(len(x), dtype=bool)
    points = np.stack([x + offset * width for offset, _ in GAUSS_3])
    extrapolated = ~within.reshape(-1)[some.position] if extend else None
    plans: list[FlatTablePlan | None] = []
    searched: dict[tuple[object, ...], tuple[HostArray, HostArray]] = {}
    for segments, errors in tables.values():
        if segments is None or not any(segments):
            plans.append(None)
            continue
        if extrapolated is not None:
            extrapolated |= lit & outside_tables(segments, slit, points)
            segments = with_constant_ends(segments)  # noqa: PLW2901
        bank, covered = make_bank(segments, slit, points, searched)
        usable &= covered | ~lit
        plans.append(_table_plan(bank, segments, errors, slit, x))
    low, high = ds.attrs.get("nominal_range", (-np.inf, np.inf))
    return SpectralFlatPlan(
        pixels=some,
        usable=usable,
        lit=None if lit.all() else lit,
        width=np.where(lit & np.isfinite(width), width, 0.0),
        position=position,
        tables=tuple(plans),
        images=tuple(images),
        problems=tuple(problems),
        extrapolated=extrapolated,
        outside=(x < low) | (x > high) if extend else None,
    )


def _widths(wave: HostArray, xsize: HostArray) -> HostArray:
    """Range of wavelengths in each pixel: the step to the next column.

    Where the pixel of the next column has no wavelength, the mean of that column stands in; the
    last column of the slit repeats the step before it, the last lit column before the end of the
    slit has none.
    """
    if wave.shape[-1] < 2:
        return np.zeros(wave.shape)
    known = ~np.isnan(wave)
    count = known.sum(axis=-2)
    total = np.where(known, wave, 0.0).sum(axis=-2)
    mean = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
    filled = np.where(known, wave, mean[:, None, :])
    step = np.zeros(wave.shape)
    step[..., :-1] = filled[..., 1:] - filled[..., :-1]
    columns = count > 0
    last = columns.shape[1] - 1 - np.argmax(columns[:, ::-1], axis=1)
    slits = np.arange(len(wave))
    at_end = ((last == xsize - 1) & (last > 0))[:, None]
    step[slits, :, last] = np.where(at_end, step[slits, :, np.maximum(last - 1, 0)], 0.0)
    return step


def widths_by_slice(wave: HostArray, slice_id: HostArray) -> HostArray:
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
    width = np.where(end, here - beside, beside - here)
    out[y, x] = np.where(np.isfinite(width), width, 0.0)
    return out


def _column_means(
    wave: HostArray, slice_id: HostArray, number: HostArray, column: HostArray
) -> HostArray:
    """Mean wavelength of columns of slices; NaN where a slice has none there."""
    pairs, back = np.unique(np.stack([number, column]), axis=1, return_inverse=True)
    values = wave[:, pairs[1]]
    mine = (slice_id[:, pairs[1]] == pairs[0]) & np.isfinite(values)
    count = mine.sum(axis=0)
    total = np.where(mine, values, 0.0).sum(axis=0)
    mean = np.where(count > 0, total / np.where(count > 0, count, 1), np.nan)
    return mean[back.reshape(-1)]


def _detector_shape(parts: Parts) -> tuple[int, int]:
    """Shape (y, x) of the images of the parts, that of the detector without any."""
    refs = [parts[n] for n in ("sflat", "dflat")]
    shapes = {np.shape(ref["sci"])[-2:] for ref in refs if ref is not None and "sci" in ref}
    if len(shapes) > 1:
        msg = f"flat_field: references 'sflat' and 'dflat' differ in size: {sorted(shapes)}"
        raise ReferenceError(msg)
    height, width = shapes.pop() if shapes else (2048, 2048)
    return height, width


def _positions(
    true: HostArray, origin: tuple[HostArray, HostArray], shape: tuple[int, int]
) -> HostArray:
    height, width = shape
    first_y, first_x = (v.reshape(-1, 1, 1) for v in origin)
    y = np.arange(true.shape[1])[:, None] + first_y
    x = np.arange(true.shape[2]) + first_x
    on = true & (y >= 0) & (y < height) & (x >= 0) & (x < width)
    return np.where(on, y * width + x, -1).astype(np.int32)


def _plan_images(
    ref: xr.Dataset | None, reftype: str, wave: HostArray
) -> tuple[FlatImagePlan | None, HostArray]:
    """Place pixels between the images of a part; also, which pixels are between images."""
    everywhere = np.ones((1, 1, 1), dtype=bool)
    if ref is None:
        return None, everywhere
    if "sci" not in ref:
        msg = f"flat_field: reference {reftype!r} holds no image 'sci'; it needs one"
        raise ReferenceError(msg)
    if "path" in ref.attrs:
        need(ref, ("err",), "flat_field")
    shape = ref["sci"].shape
    if len(shape) < 3 or shape[0] == 1:
        return FlatImagePlan(), everywhere
    knots = _image_wavelengths(ref, "", reftype)[: shape[0]]
    if len(knots) < 2:
        msg = (
            f"flat_field: reference {reftype!r} has {shape[0]} images but {len(knots)} wavelengths"
            " in its table 'wavelength'; it needs one for each"
        )
        raise ReferenceError(msg)
    lower, upper, inside = _between_knots(wave, knots)
    return FlatImagePlan(lower, upper, knots), inside


@by_rows
def _between_knots(wave: HostArray, knots: HostArray) -> tuple[HostArray, HostArray, HostArray]:
    # pixels without wavelength are flagged; only the flags of the first images matter there
    known = np.where(np.isnan(wave), 0.0, wave)
    lower = np.clip(np.searchsorted(knots, known, side="right") - 1, 0, len(knots) - 2)
    upper = np.where(known == knots[lower], lower, lower + 1)
    inside = (known >= knots[0]) & (known <= knots[-1])
    return lower.astype(np.int16), upper.astype(np.int16), inside


def _image_wavelengths(ref: xr.Dataset, suffix: str, reftype: str) -> HostArray:
    name = f"wavelength{suffix}.wavelength"
    if name not in ref.variables:
        msg = f"flat_field: reference {reftype!r} has several images but no {name!r}; it needs it"
        raise ReferenceError(msg)
    knots = np.asarray(ref.variables[name].data).reshape(-1).astype(np.float64)
    return knots[knots > 0]


def _segments(ds: xr.Dataset, ref: xr.Dataset | None, reftype: str, problems: list[str]) -> Tables:
    """Tables of a part by slit; slits without one are noted in `problems`."""
    if ref is None:
        return None, None
    mode = mode_of(ds)
    by_slit = bool(mode.fixed_slits or mode.lamp) and f"{TABLE}.slit_name" in ref
    rows = np.char.lower(np.char.strip(ref[f"{TABLE}.slit_name"].data)) if by_slit else None
    read = functools.cache(lambda row: _read_table(ref, "", row, reftype))
    names = np.asarray(ds["slit_name"].data).astype(str)
    segments: Segments = [None] * len(names)
    for i, name in enumerate(names):
        match = [0] if rows is None else np.flatnonzero(np.isin(rows, ("any", name.lower())))
        if not len(match):
            problems[i] = f"flat_field: {reftype} has no row for slit {name}"
            continue
        segments[i] = read(int(match[0]))
        if segments[i] is None:
            problems[i] = f"flat_field: {reftype} has no usable table for slit {name}"
    return segments, None


def _read_table(ref: xr.Dataset, suffix: str, row: int, reftype: str) -> Segment | None:
    """Rows of a table that count, by wavelength, or None if there are fewer than two."""
    name = f"{TABLE}{suffix}"
    columns = [f"{name}.{c}" for c in ("wavelength", "data", "error")]
    missing = [c for c in columns if c not in ref]
    if missing:
        msg = f"flat_field: reference {reftype!r} has no {', '.join(map(repr, missing))}"
        raise ReferenceError(f"{msg}; it needs a table of the fast variation")
    waves, values = (np.asarray(ref[c].data) for c in columns[:2])
    first = row * waves.shape[1] if waves.ndim > 1 else 0
    waves, values = (v[row] if v.ndim > 1 else v for v in (waves, values))
    count = len(waves)
    if f"{name}.nelem" in ref:
        count = min(count, int(np.asarray(ref[f"{name}.nelem"].data)[row]))
    waves, values = waves[:count].astype(np.float64), values[:count]
    elements = np.flatnonzero((waves > 0) & ~np.isnan(values) & (values != 0))
    elements = elements[np.argsort(waves[elements], kind="stable")]
    if len(elements):
        elements = elements[np.concatenate([[True], np.diff(waves[elements]) > 0])]
    if len(elements) < 2:
        return None
    return Segment(name, elements + first, waves[elements])


def _fore_segments(ds: xr.Dataset, fflat: xr.Dataset | None, problems: list[str]) -> Tables:
    """Tables of the fore optics and, for the micro-shutter array, errors of its image."""
    if fflat is None or not mode_of(ds).shutters:
        return _segments(ds, fflat, "fflat", problems)
    if "path" in fflat.attrs:
        errs = [str(n).replace("sci", "err") for n in fflat if str(n)[:3] == "sci"]
        need(fflat, errs, "flat_field")
    read = functools.cache(lambda suffix: _read_table(fflat, suffix, 0, "fflat"))
    names, *shutters = (np.asarray(ds[n].data) for n in ("slit_name", "quadrant", "xcen", "ycen"))
    segments: Segments = [None] * len(names)
    errors: Segments = [None] * len(names)
    for i, (quadrant, x, y) in enumerate(zip(*shutters, strict=True)):
        suffix = "" if quadrant == 1 else f"_{quadrant}"
        cube = fflat.variables.get(f"sci{suffix}")
        inside = cube is not None and 1 <= x <= cube.shape[-1] and 1 <= y <= cube.shape[-2]
        if not 1 <= quadrant <= 4 or not inside:
            where = f"shutter ({x}, {y}) of quadrant {quadrant}"
            problems[i] = f"flat_field: fflat does not cover {where} of slit {names[i]}"
        elif (table := read(suffix)) is None:
            problems[i] = f"flat_field: fflat has no usable table for quadrant {quadrant}"
        else:
            segments[i], errors[i] = _shutter_segment(fflat, suffix, table, int(x) - 1, int(y) - 1)
    return segments, errors


def _shutter_segment(
    fflat: xr.Dataset, suffix: str, table: Segment, x: int, y: int
) -> tuple[Segment, Segment | None]:
    cube = np.asarray(fflat.variables[f"sci{suffix}"].data)
    size = cube.shape[-2] * cube.shape[-1]
    knots = _image_wavelengths(fflat, suffix, "fflat")[: cube.shape[0] if cube.ndim == 3 else 0]
    if len(knots) < 2:
        nowhere = np.zeros(len(table.knots), dtype=bool)
        extra = (np.zeros(len(nowhere), np.int32), np.zeros(len(nowhere)), nowhere)
        return replace(table, extra=extra), None
    low = np.clip(np.searchsorted(knots, table.knots, side="right") - 1, 0, len(knots) - 2)
    fraction = (table.knots - knots[low]) / (knots[low + 1] - knots[low])
    between = (table.knots >= knots[0]) & (table.knots <= knots[-1])
    values = cube[: len(knots), y, x]
    known = ~between | ~(np.isnan(values[low]) | np.isnan(values[low + 1]))
    place = y * cube.shape[-1] + x
    extra = ((low * size + place).astype(np.int32), np.where(between, fraction, 0.0), between)
    elements = np.arange(len(knots)) * size + place
    error = Segment(f"err{suffix}", elements, knots) if f"err{suffix}" in fflat.variables else None
    return replace(table, known=known, extra=extra), error


def _table_plan(
    bank: TableBank,
    segments: Segments,
    errors: Segments | None,
    slit: HostArray,
    x: HostArray,
) -> FlatTablePlan:
    if errors is None:
        return FlatTablePlan(bank)
    shutter = tuple(
        tuple(
            np.concatenate([s.extra[i] for s in distinct_segments(segments) if s.name == name])
            for i in range(3)
        )
        for name in bank.names
    )
    if not any(errors):
        return FlatTablePlan(bank, shutter)
    error_bank, covered = make_bank(errors, slit, x[None])
    return FlatTablePlan(bank, shutter, error_bank, covered)

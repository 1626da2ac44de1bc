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
from spec2fn.plans.flux.tables import Segment, list_pixels, make_bank, wavelengths_of
from spec2fn.schema import need, require
from spec2fn.subarray import subarray_origin
from spec2fn.typing import HostArray

if TYPE_CHECKING:
    import xarray as xr

    from spec2fn.parameters import Parameters

__all__ = ["pixel_widths", "plan_ifu_flat", "plan_spectral_flat"]

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
        ``fflat``, ``sflat``, ``dflat``; at least one is needed.
    params : Parameters
        Of :func:`spec2fn.steps.flat_field.flat_field`.

    Raises
    ------
    DatasetError
        If the exposure has not been cut into slits, or lacks a variable.
    ReferenceError
        If a reference lacks an image, a table or a column, or images of parts differ in size.

    Notes
    -----
    Algorithm: JWST pipeline documentation, flat_field step ("NIRSpec spectroscopic data").
    """
    if "slit" not in ds.dims:
        msg = "flat_field: NIRSpec spectra must be cut into slits first; run extract_2d"
        raise DatasetError(msg)
    mode = mode_of(ds)
    shutters = ("quadrant", "xcen", "ycen") if mode.shutters else ()
    require(ds, (*_NEEDED, *shutters), "flat_field")
    extend = extrapolates(ds, params.extrapolate)
    plan = _plan_slits(ds, parts, "wavelength", extend)
    if not mode.several_slits:
        return plan
    types = np.char.upper(np.asarray(ds["source_type"].data).astype(str))
    point = tuple(int(i) for i in np.flatnonzero(types == "POINT"))
    uniform = None
    if point and "wavelength_uncorrected" in ds:
        uniform = _plan_slits(ds.isel(slit=list(point)), parts, "wavelength_uncorrected", extend)
    return replace(plan, point=point, uniform=uniform)


def plan_ifu_flat(ds: xr.Dataset, parts: Parts, params: Parameters) -> SpectralFlatPlan:
    """Place the pixels of an IFU exposure on the parts of its flat, as one slit.

    Pixels outside the slices count as padding. See :func:`plan_spectral_flat`; of tables the first
    row counts.

    Parameters
    ----------
    ds : xarray.Dataset
        Exposure with ``wavelength`` [um] and ``slice_id``, dims ``(y, x)``. The attributes
        ``xstart``, ``ystart`` say where it stands on the detector.
    """
    require(ds, ("wavelength", "slice_id"), "flat_field")
    wave = np.asarray(ds["wavelength"].data, dtype=np.float64)
    x, y = subarray_origin(ds)
    true = np.isfinite(wave)[None]
    return _placed(
        ds,
        parts,
        wave=wave[None],
        width=pixel_widths(wave, np.asarray(ds["slice_id"].data))[None],
        true=true,
        position=_positions(true, np.array([y]), np.array([x]), parts),
        extend=extrapolates(ds, params.extrapolate),
    )


def _plan_slits(ds: xr.Dataset, parts: Parts, name: str, extend: bool) -> SpectralFlatPlan:
    wave, true = wavelengths_of(ds, name)
    # the cut-out is placed in the image, the image in the frame of the detector
    y, x = (np.asarray(ds[n].data) + int(ds.attrs.get(n, 1)) - 2 for n in ("ystart", "xstart"))
    slit = np.repeat(np.arange(len(wave)), wave.shape[1])[:, None]
    rows = wave.reshape(len(slit), wave.shape[2])
    return _placed(
        ds,
        parts,
        wave=wave,
        width=pixel_widths(rows, slit, np.asarray(ds["xsize"].data)).reshape(wave.shape),
        true=true,
        position=_positions(true, y, x, parts),
        extend=extend,
    )


def _placed(
    ds: xr.Dataset,
    parts: Parts,
    *,
    wave: HostArray,
    width: HostArray,
    true: HostArray,
    position: HostArray,
    extend: bool,
) -> SpectralFlatPlan:
    """Place the pixels (slit, y, x) that are no padding (`true`) on the parts."""
    problems = [""] * len(wave)
    tables = [_segments(ds, parts[n], n, problems) for n in ("fflat", "sflat", "dflat")]
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
    lit, slit = ~np.isnan(x), some.position // int(np.prod(wave.shape[1:]))
    usable = np.ones(len(x), dtype=bool)
    points = np.stack([x + offset * width for offset, _ in GAUSS_3])
    extrapolated = ~within.reshape(-1)[some.position] if extend else None
    plans: list[FlatTablePlan | None] = []
    searched: dict[tuple[object, ...], tuple[HostArray, HostArray]] = {}
    for segments, errors in tables:
        if segments is None or not any(segments):
            plans.append(None)
            continue
        bank, covered, beyond = make_bank(segments, slit, points, searched, extend=extend)
        if extrapolated is not None:
            extrapolated |= lit & beyond
        usable &= covered | ~lit
        table = FlatTablePlan(bank)
        if errors is not None and any(errors):
            error_bank, covered, _ = make_bank(errors, slit, x[None])
            table = FlatTablePlan(bank, error_bank, covered)
        plans.append(table)
    low, high = ds.attrs.get("nominal_range", (-np.inf, np.inf))
    return SpectralFlatPlan(
        pixels=some,
        usable=usable,
        lit=None if lit.all() else lit,
        width=width,
        position=position,
        tables=tuple(plans),
        images=tuple(images),
        problems=tuple(problems),
        extrapolated=extrapolated,
        outside=(x < low) | (x > high) if extend else None,
    )


def pixel_widths(wave: HostArray, group: HostArray, columns: HostArray | None = None) -> HostArray:
    """Return the range of wavelengths in each pixel: the step to the next column; 0 in the dark.

    Where the pixel of the next column has no wavelength, the mean of that column of the slit or
    slice stands in; the last column repeats the step before it.

    Parameters
    ----------
    wave : array of float64, shape (y, x)
        NaN in the dark.
    group : array of int, shape (y, x) or (y, 1)
        Slit or slice of each pixel.
    columns : array of int, optional
        How many each slit has: where the last ones are dark, the last lit one has no width.
    """
    nx, lit, group = wave.shape[1], np.isfinite(wave), np.broadcast_to(group, wave.shape)
    step = np.full(wave.shape, np.nan)
    np.subtract(wave[:, 1:], wave[:, :-1], out=step[:, :-1])
    # the last column looks back, every other one ahead
    stops = lit.copy()
    stops[:, :-1] &= ~lit[:, 1:] | (group[:, 1:] != group[:, :-1])
    y, x = np.nonzero(stops)
    last = np.zeros(int(group.max(initial=0)) + 1, dtype=np.intp)
    np.maximum.at(last, group[y, x], x)
    end = x == last[group[y, x]]
    step[y[end], x[end]] = np.nan
    known = np.isfinite(step)
    out = np.where(known, step, 0.0)

    y, x = np.nonzero(lit & ~known)
    here, number = wave[y, x], group[y, x]
    end = x == last[number]
    side = np.where(end, x - 1, x + 1).clip(0, nx - 1)
    beside = wave[y, side]
    (missing,) = np.nonzero(np.isnan(beside))
    if missing.size:
        column = (group * nx + np.arange(nx))[lit]
        count = np.bincount(column, minlength=len(last) * nx)
        total = np.bincount(column, wave[lit], minlength=len(last) * nx)
        mean = np.divide(total, count, out=np.full(len(total), np.nan), where=count > 0)
        beside[missing] = mean[number[missing] * nx + side[missing]]
    width = np.where(end, here - beside, beside - here)
    if columns is not None:
        width[end & (x != columns[number] - 1)] = 0.0
    out[y, x] = np.where(np.isfinite(width), width, 0.0)
    return out


def _positions(true: HostArray, first_y: HostArray, first_x: HostArray, parts: Parts) -> HostArray:
    """Place of each pixel in the flattened images of the parts, -1 outside."""
    refs = [parts[n] for n in ("sflat", "dflat")]
    shapes = {np.shape(ref["sci"])[-2:] for ref in refs if ref is not None and "sci" in ref}
    if len(shapes) > 1:
        msg = f"flat_field: references 'sflat' and 'dflat' differ in size: {sorted(shapes)}"
        raise ReferenceError(msg)
    height, width = shapes.pop() if shapes else (2048, 2048)
    y = np.arange(true.shape[1])[:, None] + first_y.reshape(-1, 1, 1)
    x = np.arange(true.shape[2]) + first_x.reshape(-1, 1, 1)
    on = true & (y >= 0) & (y < height) & (x >= 0) & (x < width)
    return np.where(on, y * width + x, -1).astype(np.int32)


def _plan_images(
    ref: xr.Dataset | None, reftype: str, wave: HostArray
) -> tuple[FlatImagePlan | None, HostArray]:
    """Place pixels between the images of a part; also, which pixels are between images."""
    everywhere = np.ones((1, 1, 1), dtype=bool)
    if ref is None:
        return None, everywhere
    need(ref, ("sci", "err") if "path" in ref.attrs else ("sci",), "flat_field")
    shape = ref["sci"].shape
    if len(shape) < 3 or shape[0] == 1:
        return FlatImagePlan(), everywhere
    knots = _image_wavelengths(ref, "")[: shape[0]]
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


def _image_wavelengths(ref: xr.Dataset, suffix: str) -> HostArray:
    name = f"wavelength{suffix}.wavelength"
    need(ref, (name,), "flat_field")
    knots = np.asarray(ref.variables[name].data).reshape(-1).astype(np.float64)
    return knots[knots > 0]


def _read_table(ref: xr.Dataset, suffix: str, row: int) -> Segment | None:
    """Rows of a table that count, by wavelength, or None if there are fewer than two."""
    name = f"{TABLE}{suffix}"
    need(ref, [f"{name}.{c}" for c in ("wavelength", "data", "error")], "flat_field")
    waves, values = (np.asarray(ref[f"{name}.{c}"].data) for c in ("wavelength", "data"))
    first = row * waves.shape[1] if waves.ndim > 1 else 0
    waves, values = (v[row] if v.ndim > 1 else v for v in (waves, values))
    count = len(waves)
    if f"{name}.nelem" in ref:
        count = min(count, int(np.asarray(ref[f"{name}.nelem"].data)[row]))
    waves, values = waves[:count].astype(np.float64), values[:count]
    elements = np.flatnonzero((waves > 0) & ~np.isnan(values) & (values != 0))
    knots, kept = np.unique(waves[elements], return_index=True)
    return Segment(name, elements[kept] + first, knots) if len(kept) > 1 else None


def _segments(ds: xr.Dataset, ref: xr.Dataset | None, part: str, problems: list[str]) -> Tables:
    """Tables of a part by slit, and errors of the images of shutters.

    Slits without a table are noted in `problems`.
    """
    if ref is None:
        return None, None
    mode = mode_of(ds)
    if part == "fflat" and mode.shutters:
        return _fore_segments(ds, ref, problems)
    if "slit" not in ds.dims:
        table = _read_table(ref, "", 0)
        if table is None:
            msg = (
                f"flat_field: reference {part!r} has fewer than two usable rows in its table of"
                " the fast variation; fetch it again from CRDS"
            )
            raise ReferenceError(msg)
        return [table], None
    by_slit = bool(mode.fixed_slits or mode.lamp) and f"{TABLE}.slit_name" in ref
    rows = np.char.lower(np.char.strip(ref[f"{TABLE}.slit_name"].data)) if by_slit else None
    read = functools.cache(functools.partial(_read_table, ref, ""))
    names = np.asarray(ds["slit_name"].data).astype(str)
    segments: Segments = [None] * len(names)
    for i, name in enumerate(names):
        match = [0] if rows is None else np.flatnonzero(np.isin(rows, ("any", name.lower())))
        if not len(match):
            problems[i] = f"flat_field: {part} has no row for slit {name}"
            continue
        segments[i] = read(int(match[0]))
        if segments[i] is None:
            problems[i] = f"flat_field: {part} has no usable table for slit {name}"
    return segments, None


def _fore_segments(ds: xr.Dataset, fflat: xr.Dataset, problems: list[str]) -> Tables:
    """Tables of the fore optics of the micro-shutter array, and errors of its images."""
    if "path" in fflat.attrs:
        errs = [str(n).replace("sci", "err") for n in fflat if str(n)[:3] == "sci"]
        need(fflat, errs, "flat_field")
    read = functools.cache(lambda suffix: _read_table(fflat, suffix, 0))
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
    knots = _image_wavelengths(fflat, suffix)[: cube.shape[0] if cube.ndim == 3 else 0]
    if len(knots) < 2:
        nowhere = tuple(np.zeros(len(table.knots), dtype) for dtype in (np.int32, float, bool))
        return replace(table, extra=nowhere), None
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

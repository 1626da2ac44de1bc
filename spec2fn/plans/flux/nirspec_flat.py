"""Host-side half of the flat fields of NIRSpec spectra: three parts, each with its own axes.

A flat is the product of a fore-optics, a spectrograph and a detector part. Each part is an image
that changes slowly with wavelength times a table that changes fast; the image of the fore optics
of the micro-shutter array is in shutters, not pixels. Here every pixel of a bucket of slits is
placed on all of them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.contents import need
from spec2fn.errors import DatasetError, ReferenceError
from spec2fn.kernels.bands import by_rows
from spec2fn.kernels.tables import GAUSS_3
from spec2fn.modes import mode_of
from spec2fn.plan_base import Plan, array, labels, positions
from spec2fn.plans.flux.tables import (
    PixelList,
    Segment,
    TableBank,
    beyond,
    clean_wavelength,
    distinct_segments,
    extrapolates,
    held_beyond,
    list_pixels,
    make_bank,
    true_pixels,
)
from spec2fn.schema import require
from spec2fn.typing import Array

if TYPE_CHECKING:
    import xarray as xr

__all__ = [
    "FlatImagePlan",
    "FlatTablePlan",
    "SpectralFlatPlan",
    "SuppliedFlatPlan",
    "detector_shape",
    "outside_nominal",
    "plan_images",
    "plan_spectral_flat",
    "plan_supplied_flat",
    "read_table",
]

TABLE = "fast_variation"
_NEEDED = ("wavelength", "slit_name", "xstart", "ystart", "xsize", "ysize", "source_type")


class FlatTablePlan(Plan):
    """The table of fast variation of one part of a flat.

    Attributes
    ----------
    bank : TableBank
        Cells of the three Gaussian points of every pixel, shape (3, n).
    shutter : tuple of tuple of array, optional
        For each name of the bank, by row of the bank: position in the flattened image cube of
        the shutters, weight of the next image, and whether there are images on both sides; the
        values of the table are multiplied by the image there.
    shutter_errors : TableBank, optional
        Errors of the image of the shutter by wavelength, cells of shape (1, n).
    shutter_covered : array of bool, shape (n,), optional
        Where `shutter_errors` apply.
    """

    bank: TableBank
    shutter: tuple[tuple[Array, ...], ...] | None = array("_", default=None)
    shutter_errors: TableBank | None = None
    shutter_covered: Array | None = array("(slit pixel)", default=None)


class FlatImagePlan(Plan):
    """The image of slow variation of one part of a flat.

    Attributes
    ----------
    lower, upper : array of int16, shape (slit, y, x), optional
        Images below and above each pixel (both the same for a pixel exactly at an image);
        None for a single image.
    knots : array of float64, shape (z,), optional
        Wavelengths of the images [um].
    """

    lower: Array | None = array("[slit] y x", default=None)
    upper: Array | None = array("[slit] y x", default=None)
    knots: Array | None = array("knot", default=None)


class SpectralFlatPlan(Plan):
    """Where the pixels of a bucket of slits stand on the parts of a flat.

    Attributes
    ----------
    pixels : PixelList
        Pixels that have a flat; all others of the slits are flagged.
    usable : array of bool, shape (n,)
        Pixels within all tables and images.
    lit : array of bool, shape (n,), optional
        Pixels that have a wavelength; all if None. The tables are 1 for the others.
    width : array of float64, shape (n,)
        Range of wavelengths in each pixel [um].
    position : array of int32, shape (slit, y, x)
        Position in the flattened image of the detector, -1 outside.
    tables : tuple of FlatTablePlan or None
        Of the fore optics, the spectrograph, and the detector.
    images : tuple of FlatImagePlan or None
        Of the spectrograph, and the detector.
    problems : tuple of str
        By slit: why it has no flat, or an empty string.
    point : tuple of int
        Slits for which the flats of point and uniform sources are kept.
    uniform : SpectralFlatPlan, optional
        Of these slits with wavelengths for uniform sources; None if these are the same.
    held, outside : array of bool, shape (n,), optional
        With extrapolation: pixels beyond a table or image, where its end is used, and pixels
        beyond the nominal range, where the image of the spectrograph may be undefined.
    """

    pixels: PixelList
    usable: Array = array("(slit pixel)")
    lit: Array | None = array("(slit pixel)")
    width: Array = array("(slit pixel)")
    position: Array = array("[slit] y x")
    tables: tuple[FlatTablePlan | None, ...]
    images: tuple[FlatImagePlan | None, ...]
    problems: tuple[str, ...] = labels("slit")
    point: tuple[int, ...] = positions("slit", default=())
    uniform: SpectralFlatPlan | None = None
    held: Array | None = array("(slit pixel)", default=None)
    outside: Array | None = array("(slit pixel)", default=None)


class SuppliedFlatPlan(Plan):
    """A flat given by the user, padded like the bucket: ``sci``, ``err``, ``dq``."""

    sci: Array = array("slit y x")
    err: Array = array("slit y x")
    dq: Array = array("slit y x")


def plan_spectral_flat(
    ds: xr.Dataset,
    fflat: xr.Dataset | None,
    sflat: xr.Dataset | None,
    dflat: xr.Dataset | None,
    extrapolate: bool | None = None,
) -> SpectralFlatPlan:
    """Place the pixels of a bucket of slits on the parts of their flats.

    Parameters
    ----------
    ds : xarray.Dataset
        Bucket with dims ``(slit, [integration,] y, x)``, ``wavelength`` [um] and the variables of
        extract_2d and srctype; for NRS_MSASPEC also ``quadrant``, ``xcen``, ``ycen``. The
        attributes ``xstart``, ``ystart`` say where the subarray stands on the detector.
    fflat, sflat, dflat : xarray.Dataset, optional
        Parts; lamp exposures have no fore optics. At least one is needed.
    extrapolate : bool, optional
        See :func:`spec2fn.steps.flat_field.flat_field`.

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
    extend = extrapolates(ds, extrapolate)
    plan = _plan(ds, (fflat, sflat, dflat), "wavelength", extend)
    if not mode_of(ds).several_slits:
        return plan
    types = np.char.upper(np.asarray(ds["source_type"].data).astype(str))
    point = tuple(int(i) for i in np.flatnonzero(types == "POINT"))
    uniform = None
    if point and "wavelength_uncorrected" in ds:
        some = ds.isel(slit=list(point))
        uniform = _plan(some, (fflat, sflat, dflat), "wavelength_uncorrected", extend)
    return replace(plan, point=point, uniform=uniform)


def _plan(ds: xr.Dataset, parts: tuple[Any, Any, Any], name: str, extend: bool) -> SpectralFlatPlan:
    wave = clean_wavelength(ds[name].data)
    true = true_pixels(ds)
    wave = np.where(true, wave, np.nan)
    problems = [""] * ds.sizes["slit"]
    segments = [
        _fore_segments(ds, parts[0], problems),
        _segments(ds, parts[1], "sflat", problems),
        _segments(ds, parts[2], "dflat", problems),
    ]
    position = _positions(ds, true, detector_shape([ref for ref in parts[1:] if ref is not None]))
    images, within = [], np.ones(wave.shape, dtype=bool)
    for ref, reftype in zip(parts[1:], ("sflat", "dflat"), strict=True):
        plan, inside = plan_images(ref, reftype, wave)
        images.append(plan)
        within &= inside
    fine = np.array([not p for p in problems], dtype=bool).reshape(-1, 1, 1)
    # a pixel without wavelength has a flat only if no part of it depends on wavelength
    cubes = any(p is not None and p.knots is not None for p in images)
    listed = true & fine & (position >= 0) & (extend | within)
    if cubes:
        listed &= ~np.isnan(wave)
    pixels = list_pixels(listed, true)
    x = wave.reshape(-1)[pixels.where]
    width = _widths(wave, np.asarray(ds["xsize"].data)).reshape(-1)[pixels.where]
    lit, slit = ~np.isnan(x), pixels.slit
    usable = np.ones(len(x), dtype=bool)
    points = np.stack([x + offset * width for offset, _ in GAUSS_3])
    held = ~np.broadcast_to(within, wave.shape).reshape(-1)[pixels.where] if extend else None
    tables: list[FlatTablePlan | None] = []
    searched: dict[Any, Any] = {}
    for found, errors in segments:
        if found is None or not any(found):
            tables.append(None)
            continue
        if held is not None:
            held |= lit & beyond(found, slit, points)
        used = found if held is None else held_beyond(found)
        bank, covered = make_bank(used, slit, points, searched)
        usable &= covered | ~lit
        tables.append(_table_plan(bank, used, errors, slit, x))
    return SpectralFlatPlan(
        pixels=pixels,
        usable=usable,
        lit=None if lit.all() else lit,
        width=np.where(lit & np.isfinite(width), width, 0.0),
        position=position,
        tables=tuple(tables),
        images=tuple(images),
        problems=tuple(problems),
        held=held,
        outside=outside_nominal(ds, x) if extend else None,
    )


def outside_nominal(ds: xr.Dataset, x: Any) -> Any:
    """Return which wavelengths [um] lie outside the nominal range that the user exceeded."""
    low, high = ds.attrs.get("nominal_range", (-np.inf, np.inf))
    return (x < low) | (x > high)


def _widths(wave: Any, xsize: Any) -> Any:
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


def detector_shape(parts: list[xr.Dataset]) -> tuple[int, int]:
    """Return the shape (y, x) of the images of the parts, that of the detector without any.

    Raises
    ------
    ReferenceError
        If they differ.
    """
    shapes = {np.shape(ref["sci"])[-2:] for ref in parts if "sci" in ref}
    if len(shapes) > 1:
        msg = f"flat_field: references 'sflat' and 'dflat' differ in size: {sorted(shapes)}"
        raise ReferenceError(msg)
    height, width = shapes.pop() if shapes else (2048, 2048)
    return height, width


def _positions(ds: xr.Dataset, true: Any, shape: tuple[int, int]) -> Any:
    height, width = shape
    # the cut-out is placed in the image, the image in the frame of the detector
    start = {n: np.asarray(ds[n].data) + int(ds.attrs.get(n, 1)) - 2 for n in ("xstart", "ystart")}
    y = np.arange(ds.sizes["y"])[:, None] + start["ystart"].reshape(-1, 1, 1)
    x = np.arange(ds.sizes["x"]) + start["xstart"].reshape(-1, 1, 1)
    on = true & (y >= 0) & (y < height) & (x >= 0) & (x < width)
    return np.where(on, y * width + x, -1).astype(np.int32)


def plan_images(ref: Any, reftype: str, wave: Any) -> tuple[FlatImagePlan | None, Any]:
    """Place pixels between the images of a part; also, which pixels are between images.

    Parameters
    ----------
    ref : xarray.Dataset or None
        With ``sci`` ([wavelength,] y, x).
    reftype : str
        For messages.
    wave : array
        Wavelengths of the pixels [um]; NaN is allowed.

    Returns
    -------
    FlatImagePlan or None
        None without a reference.
    bool array
        Broadcasts against `wave`.

    Raises
    ------
    ReferenceError
        If there is no image, or not a wavelength for each of several.
    """
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
def _between_knots(wave: Any, knots: Any) -> tuple[Any, Any, Any]:
    # pixels without wavelength are flagged; only the flags of the first images matter there
    known = np.where(np.isnan(wave), 0.0, wave)
    lower = np.clip(np.searchsorted(knots, known, side="right") - 1, 0, len(knots) - 2)
    upper = np.where(known == knots[lower], lower, lower + 1)
    inside = (known >= knots[0]) & (known <= knots[-1])
    return lower.astype(np.int16), upper.astype(np.int16), inside


def _image_wavelengths(ref: xr.Dataset, suffix: str, reftype: str) -> Any:
    name = f"wavelength{suffix}.wavelength"
    if name not in ref.variables:
        msg = f"flat_field: reference {reftype!r} has several images but no {name!r}; it needs it"
        raise ReferenceError(msg)
    knots = np.asarray(ref.variables[name].data).reshape(-1).astype(np.float64)
    return knots[knots > 0]


def _segments(
    ds: xr.Dataset, ref: xr.Dataset | None, reftype: str, problems: list[str]
) -> tuple[list[Segment | None] | None, None]:
    """Tables of a part by slit; slits without one are noted in `problems`."""
    if ref is None:
        return None, None
    mode = mode_of(ds)
    by_slit = bool(mode.fixed_slits or mode.lamp) and f"{TABLE}.slit_name" in ref
    rows = np.char.lower(np.char.strip(ref[f"{TABLE}.slit_name"].data)) if by_slit else None
    found: list[Segment | None] = []
    read: dict[int, Segment | None] = {}
    for i, name in enumerate(np.asarray(ds["slit_name"].data).astype(str)):
        row = 0
        if rows is not None:
            match = np.flatnonzero((rows == "any") | (rows == name.lower()))
            if not len(match):
                problems[i] = f"flat_field: {reftype} has no row for slit {name}"
                found.append(None)
                continue
            row = int(match[0])
        if row not in read:
            read[row] = read_table(ref, "", row, reftype)
        if read[row] is None:
            problems[i] = f"flat_field: {reftype} has no usable table for slit {name}"
        found.append(read[row])
    return found, None


def read_table(ref: xr.Dataset, suffix: str, row: int, reftype: str) -> Segment | None:
    """Rows of a table that count, or None if there are fewer than two.

    Parameters
    ----------
    ref : xarray.Dataset
    suffix : str
        Of the name of the table.
    row : int
        Row of the reference, whose elements are the rows of the table.
    reftype : str
        For messages.

    Returns
    -------
    Segment or None
        Sorted by wavelength; elements without wavelength or value are left out.

    Raises
    ------
    ReferenceError
        If a column is missing.
    """
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


def _fore_segments(
    ds: xr.Dataset, fflat: xr.Dataset | None, problems: list[str]
) -> tuple[list[Segment | None] | None, list[Segment | None] | None]:
    """Tables of the fore optics and, for the micro-shutter array, errors of its image."""
    if fflat is None or not mode_of(ds).shutters:
        return _segments(ds, fflat, "fflat", problems)
    if "path" in fflat.attrs:
        need(
            fflat,
            [str(n).replace("sci", "err") for n in fflat if str(n)[:3] == "sci"],
            "flat_field",
        )
    found: list[Segment | None] = []
    errors: list[Segment | None] = []
    read: dict[int, Segment | None] = {}
    names, quadrants, columns, rows = (
        np.asarray(ds[n].data) for n in ("slit_name", "quadrant", "xcen", "ycen")
    )
    for i, (quadrant, x, y) in enumerate(zip(quadrants, columns, rows, strict=True)):
        suffix = "" if quadrant == 1 else f"_{quadrant}"
        cube = fflat.variables.get(f"sci{suffix}")
        inside = cube is not None and 1 <= x <= cube.shape[-1] and 1 <= y <= cube.shape[-2]
        if not 1 <= quadrant <= 4 or not inside:
            where = f"shutter ({x}, {y}) of quadrant {quadrant}"
            problems[i] = f"flat_field: fflat does not cover {where} of slit {names[i]}"
            found.append(None)
            errors.append(None)
            continue
        if quadrant not in read:
            read[int(quadrant)] = read_table(fflat, suffix, 0, "fflat")
        table = read[int(quadrant)]
        if table is None:
            problems[i] = f"flat_field: fflat has no usable table for quadrant {quadrant}"
            found.append(None)
            errors.append(None)
            continue
        segment, error = _shutter_segment(fflat, suffix, table, int(x) - 1, int(y) - 1)
        found.append(segment)
        errors.append(error)
    return found, errors


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
    found: list[Segment | None],
    errors: list[Segment | None] | None,
    slit: Any,
    x: Any,
) -> FlatTablePlan:
    if errors is None:
        return FlatTablePlan(bank)
    shutter = tuple(
        tuple(
            np.concatenate([s.extra[i] for s in distinct_segments(found) if s.name == name])
            for i in range(3)
        )
        for name in bank.names
    )
    if not any(errors):
        return FlatTablePlan(bank, shutter)
    error_bank, covered = make_bank(errors, slit, x[None])
    return FlatTablePlan(bank, shutter, error_bank, covered)


def plan_supplied_flat(ds: xr.Dataset, flat: Any) -> SuppliedFlatPlan:
    """Bring a flat given by the user into the shape of a bucket.

    Parameters
    ----------
    ds : xarray.Dataset
        Bucket with dims ``(slit, [integration,] y, x)``.
    flat : xarray.Dataset
        Either with dims ``(slit, y, x)`` and ``slit_name`` (what ``save_interpolated_flat``
        keeps), or as read from a file with one image by slit (``sci``, ``sci_2``, …, in the order
        of the product, or named by SLTNAME), or a single image for a single slit.

    Raises
    ------
    ReferenceError
        If there is no flat for a slit, or its size differs.
    """
    names = np.asarray(ds["slit_name"].data).astype(str)
    shape = (ds.sizes["slit"], ds.sizes["y"], ds.sizes["x"])
    planes = {
        "sci": np.ones(shape, np.float32),
        "err": np.zeros(shape, np.float32),
        "dq": np.zeros(shape, np.uint32),
    }
    images = _supplied_images(flat)
    for i, (name, number) in enumerate(zip(names, ds["slit"].values, strict=True)):
        one = images.get(name, images.get(int(number) + 1))
        size = (int(ds["ysize"].data[i]), int(ds["xsize"].data[i]))
        if one is None or one.get("size", one["sci"].shape[-2:]) != size:
            found = "none" if one is None else f"one of {one['sci'].shape}"
            msg = f"flat_field: the user-supplied flat needs an image of {size} for slit {name}"
            raise ReferenceError(f"{msg}, but has {found}")
        for key, plane in planes.items():
            if one.get(key) is not None:
                plane[i, : size[0], : size[1]] = one[key][: size[0], : size[1]]
    return SuppliedFlatPlan(**planes)


def _supplied_images(flat: Any) -> dict[Any, dict[Any, Any]]:
    """Images by name of the slit, or by number counted from one."""

    def get(name: str) -> Any:
        return np.asarray(flat[name].data) if name in flat else None

    images: dict[Any, dict[Any, Any]] = {}
    if "slit" in flat.dims:
        for i, name in enumerate(np.asarray(flat["slit_name"].data).astype(str)):
            planes = {k: get(k) for k in ("sci", "err", "dq")}
            one: dict[Any, Any] = {k: v[i] for k, v in planes.items() if v is not None}
            if "xsize" in flat:
                one["size"] = (int(flat["ysize"].data[i]), int(flat["xsize"].data[i]))
            images[name] = one
        return images
    meta = flat.attrs.get("meta")
    headers = meta.records.get("headers", {}) if meta is not None else {}
    for number in range(1, len(flat.variables) + 1):
        suffix = "" if number == 1 else f"_{number}"
        if f"sci{suffix}" not in flat:
            break
        name = headers.get(f"sci{suffix}", {}).get("SLTNAME")
        key = number if name is None else str(name)
        images[key] = {k: get(f"{k}{suffix}") for k in ("sci", "err", "dq")}
    return images

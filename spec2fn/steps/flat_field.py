"""Correction of the response of single pixels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.dq import PIXEL
from spec2fn.engine.step import PLANNED, Skip, as_reference, step
from spec2fn.errors import DatasetError
from spec2fn.kernels.bands import by_rows
from spec2fn.kernels.namespace import array_namespace, is_jax, is_traced
from spec2fn.kernels.photometry import flat_field as divide_by_flat
from spec2fn.kernels.spectral_flat import between_images, multiply_factors
from spec2fn.kernels.tables import average_across, chords, follow, indices, spread
from spec2fn.modes import mode_of
from spec2fn.plans.flux.flat_field import FlatFieldPlan, is_path, plan_image_flat
from spec2fn.plans.flux.nirspec_flat import (
    FlatImagePlan,
    FlatTablePlan,
    SpectralFlatPlan,
    SuppliedFlatPlan,
    plan_spectral_flat,
    plan_supplied_flat,
)
from spec2fn.plans.flux.nirspec_ifu_flat import plan_ifu_flat
from spec2fn.plans.flux.tables import TableBank, in_memory, take
from spec2fn.schema import replace_data, with_meta
from spec2fn.slits import with_problems
from spec2fn.threads import in_threads

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["flat_field"]

# Listed pixels evaluated at once, in threads.
_PIECE = 1 << 18


def _plan(
    ds: xr.Dataset,
    flat: Any,
    fflat: Any = None,
    sflat: Any = None,
    dflat: Any = None,
    *,
    user_supplied_flat: Any = None,
    extrapolate: bool | None = None,
) -> FlatFieldPlan | SpectralFlatPlan | SuppliedFlatPlan | Skip:
    mode = mode_of(ds)
    exp_type = mode.exp_type or "this exposure"
    if mode.layout == "slits" and not mode.lamp:
        if user_supplied_flat is not None:
            return plan_supplied_flat(ds, as_reference(user_supplied_flat, "flat", ds.attrs))
        if fflat is None and sflat is None and dflat is None:
            return Skip(f"no fflat, sflat or dflat reference for {exp_type}")
        return plan_spectral_flat(ds, fflat, sflat, dflat, extrapolate)
    if (
        mode.sliced
        and mode.instrument == "NIRSPEC"
        and not mode.lamp
        and user_supplied_flat is None
    ):
        if fflat is None and sflat is None and dflat is None:
            return Skip(f"no fflat, sflat or dflat reference for {exp_type}")
        return plan_ifu_flat(ds, fflat, sflat, dflat, extrapolate)
    if mode.lamp:
        return Skip(f"no two-dimensional flat applies to {exp_type}")
    if user_supplied_flat is None:
        if flat is None:
            return Skip(f"no flat reference for {exp_type}")
        return plan_image_flat(flat, ds)
    if not is_path(user_supplied_flat):
        return plan_image_flat(user_supplied_flat, ds, "user_supplied_flat")
    opened = as_reference(user_supplied_flat, "flat", ds.attrs)
    plan = plan_image_flat(opened, ds, "user_supplied_flat")
    return replace(plan, opened=_planes(opened, plan))


def _without(ds: Any, parameters: Mapping[str, Any]) -> Mapping[str, str]:
    mode = mode_of(ds)
    if (
        mode.instrument != "NIRSPEC"
        or mode.lamp
        or parameters.get("user_supplied_flat") is not None
    ):
        return {}
    return dict.fromkeys(("fflat", "sflat", "dflat"), "this part of the flat is taken as 1")


@step(
    refs=("flat", "fflat", "sflat", "dflat"),
    without=_without,
    reads=("sci", "err", "dq", "var_poisson", "var_rnoise"),
    provides=("var_flat", "flatfield_point", "flatfield_uniform"),
    traceable=True,
    planner=_plan,
    needs_refs=("flat", "fflat", "sflat", "dflat"),
)
def flat_field(
    ds: xr.Dataset,
    flat: xr.Dataset | None = None,
    fflat: xr.Dataset | None = None,
    sflat: xr.Dataset | None = None,
    dflat: xr.Dataset | None = None,
    *,
    plan: FlatFieldPlan | SpectralFlatPlan | SuppliedFlatPlan = PLANNED,
    save_interpolated_flat: bool = False,
    user_supplied_flat: Any = None,
    inverse: bool = False,
    extrapolate: bool | None = None,
) -> xr.Dataset:
    """Divide an exposure by its flat field.

    Most exposures have a two-dimensional flat, of which the part that belongs to the subarray is
    used. The flat of a NIRSpec spectrum is composed, pixel by pixel at its wavelength, of parts
    for fore optics, spectrograph and detector: images interpolated in wavelength times tables
    averaged over the pixel (for the IFU, the first row of the tables). Pixels whose flat is NaN,
    zero, or flagged NO_FLAT_FIELD or
    DO_NOT_USE, or (NIRSpec) outside the wavelengths of a part, become NaN and are flagged
    DO_NOT_USE; every flag of the flat is added to the exposure's.

    Parameters
    ----------
    ds : xarray.Dataset
        Exposure with ``sci``, ``dq`` and variances, dims ``([integration,] y, x)``; of the
        NIRSpec IFU also ``wavelength`` [um] and ``slice_id``, dims ``(y, x)``. NIRSpec slits: a
        bucket with ``wavelength`` [um], dims ``(slit, [integration,] y, x)``.
    flat : xarray.Dataset, optional
        Flat with ``sci`` and, if known, ``err`` and ``dq``, dims ``(y, x)``. It is read here, not
        in the plan, so that the result can be differentiated with respect to it.
    fflat, sflat, dflat : xarray.Dataset, optional
        Parts of the flats of NIRSpec spectra: images ``sci``, ``err``, ``dq`` (for MOS fore
        optics by quadrant: ``sci``, ``sci_2``, …), tables ``wavelength`` and ``fast_variation``.
        Read here as well.
    plan : FlatFieldPlan, SpectralFlatPlan or SuppliedFlatPlan
        From ``flat_field.plan(ds, flat, ...)``.
    save_interpolated_flat : bool
        Keep the flat that was applied, cut to the exposure, as the record ``interpolatedflat``
        (a Dataset) of the result's :class:`~spec2fn.schema.Meta`. Ignored inside a JAX
        transformation.
    user_supplied_flat : str, xarray.Dataset or array, optional
        Used instead of the references: a file, or its content; for slits, see
        :func:`spec2fn.plans.flux.nirspec_flat.plan_supplied_flat`.
    inverse : bool
        Multiply by the flat instead.
    extrapolate : bool, optional
        NIRSpec spectra: beyond the wavelengths of a part, take the value at its end and flag
        UNRELIABLE_FLAT instead of NaN; where the image of the spectrograph is undefined outside
        the nominal range, it counts as one. By default this is done if
        ``assign_wcs.wavelength_range`` goes beyond the nominal range.

    Returns
    -------
    xarray.Dataset
        With ``var_flat`` (zero if `inverse`) and ``err`` the root of the sum of the variances.
        Fixed slits also have ``flatfield_point`` and ``flatfield_uniform``: the flats of a slit
        that holds a point source, with wavelengths corrected for its place (these are applied)
        and without; NaN for other slits. A slit without flat is NaN, and the variable
        ``slit_problem`` says why.

    Raises
    ------
    ReferenceError
        If the flat does not cover the exposure, or lacks an image, a table or a column.
    DatasetError
        If the exposure does not say where its subarray stands, or has not been cut into slits.

    Notes
    -----
    Algorithm: JWST pipeline documentation, flat_field step ("Imaging and non-NIRSpec
    spectroscopic data", "NIRSpec spectroscopic data").
    """
    if isinstance(plan, (SpectralFlatPlan, SuppliedFlatPlan)):
        parts = (fflat, sflat, dflat)
        keep = save_interpolated_flat and not is_traced(ds.variables["sci"].data)
        return _flatten_slits(ds, parts, plan, inverse=inverse, keep=keep)
    if plan.opened is not None:
        image, error, flags = plan.opened
    else:
        given = flat if user_supplied_flat is None else user_supplied_flat
        image, error, flags = _planes(given, plan)
    names = ("sci", "var_poisson", "var_rnoise", "dq")
    sci, var_poisson, var_rnoise, dq = (ds.variables[n].data for n in names)
    if image.shape != sci.shape[-2:]:
        msg = (
            f"flat_field: the plan is for planes of {image.shape} but 'sci' is {sci.shape[-2:]};"
            " make it with flat_field.plan(ds, flat) for this exposure"
        )
        raise DatasetError(msg)
    flags = _complete(image, flags)
    planes, dq = divide_by_flat(
        sci,
        var_poisson,
        var_rnoise,
        dq,
        flat=image,
        flat_err=error,
        flat_dq=flags,
        do_not_use=PIXEL["DO_NOT_USE"],
        inverse=inverse,
    )
    var_flat = planes.pop("var_flat")
    out = replace_data(ds, dq=dq, **planes)
    out = out.assign(var_flat=(ds["sci"].dims, var_flat))
    if save_interpolated_flat and not is_traced(planes["sci"]):
        out = with_meta(out, records={"interpolatedflat": _as_dataset(image, error, flags)})
    return out


def _flatten_slits(
    ds: xr.Dataset,
    parts: tuple[Any, Any, Any],
    plan: SpectralFlatPlan | SuppliedFlatPlan,
    *,
    inverse: bool,
    keep: bool,
) -> xr.Dataset:
    """Divide the slits of a bucket by their flats."""
    names = ("sci", "var_poisson", "var_rnoise", "dq")
    sci, var_poisson, var_rnoise, dq = (ds.variables[n].data for n in names)
    image, error, flags = slit_flat(ds, parts, plan, "wavelength")
    if "slit" not in ds.dims:
        image, error, flags = _only_slices(plan, image, error, flags)
    axis = 1 if {"slit", "integration"} <= set(ds["sci"].dims) else None
    planes, dq = divide_by_flat(
        sci,
        var_poisson,
        var_rnoise,
        dq,
        flat=_insert(image.astype(sci.dtype, copy=False), axis),
        flat_err=_insert(error.astype(sci.dtype, copy=False), axis),
        flat_dq=_insert(flags, axis),
        do_not_use=PIXEL["DO_NOT_USE"],
        inverse=inverse,
    )
    var_flat = planes.pop("var_flat")
    out = replace_data(ds, dq=dq, **planes)
    out = out.assign(var_flat=(ds["sci"].dims, var_flat))
    if isinstance(plan, SpectralFlatPlan) and "slit" in ds.dims:
        out = with_problems(out, plan.problems)
        if mode_of(ds).several_slits:
            kinds = _both_kinds(ds, parts, plan, image.astype(sci.dtype))
            out = out.assign({n: (("slit", "y", "x"), p) for n, p in kinds.items()})
    if keep:
        kept = _record(ds, image, error, flags)
        out = with_meta(out, records={"interpolatedflat": kept})
    return out


def _only_slices(plan: Any, image: Any, error: Any, flags: Any) -> tuple[Any, Any, Any]:
    """Mark the pixels outside the slices of an IFU."""
    xp = array_namespace(image, flags)
    outside = xp.asarray(plan.pixels.back > plan.pixels.where.size)
    nothing = xp.asarray(np.nan, dtype=image.dtype)
    bad = np.uint32(PIXEL["DO_NOT_USE"])
    return (
        xp.where(outside, nothing, image),
        xp.where(outside, nothing, error),
        xp.where(outside, bad, flags),
    )


def _insert(plane: Any, axis: int | None) -> Any:
    return plane if axis is None else plane[:, None]


def _both_kinds(ds: xr.Dataset, parts: Any, plan: SpectralFlatPlan, image: Any) -> dict[str, Any]:
    """Flats of point and uniform sources, NaN in slits that hold no point source."""
    xp = array_namespace(image)
    nothing = xp.full(image.shape[1:], np.nan, dtype=image.dtype)[None]
    point = list(plan.point)
    if plan.uniform is None:
        uniform = image[np.array(point, dtype=int)]
    else:
        some = ds.isel(slit=point)
        uniform, _, _ = slit_flat(some, parts, plan.uniform, "wavelength_uncorrected")
    is_point = np.isin(np.arange(image.shape[0]), point)
    back = np.full(image.shape[0], len(point))
    back[point] = np.arange(len(point))
    return {
        "flatfield_point": xp.where(is_point[:, None, None], image, nothing),
        "flatfield_uniform": xp.concatenate([uniform.astype(image.dtype), nothing])[back],
    }


def slit_flat(
    ds: xr.Dataset,
    parts: tuple[xr.Dataset | None, xr.Dataset | None, xr.Dataset | None],
    plan: SpectralFlatPlan | SuppliedFlatPlan,
    name: str = "wavelength",
) -> tuple[Any, Any, Any]:
    """Evaluate the flats of a bucket of slits.

    Parameters
    ----------
    ds : xarray.Dataset
        Bucket.
    parts : tuple of xarray.Dataset or None
        Of the fore optics, the spectrograph and the detector.
    plan : SpectralFlatPlan or SuppliedFlatPlan
    name : str
        Variable with the wavelengths [um] for which `plan` was made.

    Returns
    -------
    flat, error : array, shape (slit, y, x)
        In the dtype of ``sci``; 1 and 0 where unknown, NaN where not positive.
    flags : array of uint32, shape (slit, y, x)
    """
    bad = np.uint32(
        PIXEL["NO_FLAT_FIELD"] | PIXEL["DO_NOT_USE"] | PIXEL["UNRELIABLE_FLAT"],
    )
    if isinstance(plan, SuppliedFlatPlan):
        image, error, flags = plan.sci, plan.err, plan.dq
        xp = array_namespace(image, error, flags)
        positive = image > 0
        flags = xp.where(positive, flags, flags | bad)
        return xp.where(positive, image, xp.asarray(np.nan, image.dtype)), error, flags

    found = [
        None if image is None else _image_flags(part, image, plan.position)
        for part, image in zip(parts[1:], plan.images, strict=True)
    ]
    flat, error, fine, gap = _listed_flat(ds.variables[name].data, parts, plan, found)
    back = plan.pixels.back
    xp = array_namespace(flat, error)
    if found[0] is not None and plan.outside is not None:
        found[0] = xp.where(spread(gap, back, False, False), np.uint32(0), found[0])
    flags = xp.zeros(back.shape, dtype=np.uint32)
    for one in found:
        flags = flags if one is None else flags | one
    if plan.held is not None:
        guessed = spread(xp.asarray(plan.held) | gap, back, False, False)
        flags = xp.where(guessed, flags | np.uint32(PIXEL["UNRELIABLE_FLAT"]), flags)
    dtype = ds.variables["sci"].dtype
    return (
        spread(flat.astype(dtype), back, 1.0, 1.0),
        spread(error.astype(dtype), back, 0.0, 0.0),
        xp.where(spread(fine, back, False, True), flags, flags | bad),
    )


def _listed_flat(
    wavelength: Any, parts: tuple[Any, ...], plan: SpectralFlatPlan, found: list[Any]
) -> tuple[Any, Any, Any, Any]:
    """Flat and error of the listed pixels, where they are fine, and where the S-flat has gaps.

    Parameters
    ----------
    wavelength : array
        Of all pixels [um].
    parts, plan
        See :func:`slit_flat`.
    found : list of array or None
        Flags of the images of the spectrograph and the detector, of all pixels.
    """
    unusable = np.uint32(PIXEL["NO_FLAT_FIELD"] | PIXEL["DO_NOT_USE"])
    flagged = [None if flags is None else flags.reshape(-1) for flags in found]
    tables = [
        (table, _lines(part, table))
        for part, table in zip(parts, plan.tables, strict=True)
        if table is not None
    ]
    wavelength = wavelength.reshape(-1)

    def evaluate(piece: slice) -> tuple[Any, Any, Any, Any]:
        where = plan.pixels.where[piece]
        wave = wavelength[where]
        factors: list[tuple[Any | None, Any]] = []
        for table, lines in tables:
            factors += _fast_factors(table, lines, plan, wave, piece)
        usable = plan.usable[piece]
        gap: Any = np.zeros(where.shape, dtype=bool)
        for k, (part, image) in enumerate(zip(parts[1:], plan.images, strict=True)):
            if image is None:
                continue
            value, error = _slow_factor(part, image, plan, wave, where)
            flags = flagged[k]
            flags = None if flags is None else flags[where]
            if k == 0 and plan.outside is not None:
                xp = array_namespace(value)
                outside = xp.asarray(plan.outside[piece])
                gap = outside & ~(value > 0)
                if flags is not None:
                    gap = gap | (outside & ((flags & unusable) != 0))
                    flags = xp.where(gap, np.uint32(0), flags)
                value = xp.where(gap, xp.ones((), value.dtype), value)
                error = xp.where(gap, xp.zeros((), error.dtype), error)
            factors.append((value, error))
            if flags is not None:
                usable = usable & ((flags & unusable) == 0)
        # without any table or image no pixel is listed
        factors = factors or [(wave, wave)]
        xp = array_namespace(wave, *(v for pair in factors for v in pair))
        flat, error, usable = multiply_factors(factors, xp.asarray(usable))
        positive = flat > 0
        nothing = xp.asarray(np.nan, dtype=flat.dtype)
        flat, error = (xp.where(positive, v, nothing) for v in (flat, error))
        return flat, error, usable & positive, gap

    count = plan.pixels.where.size
    held = [in_memory(v) for part in parts if part is not None for v in part.variables.values()]
    if count <= _PIECE or is_jax(wavelength) or any(is_jax(v) for v in held):
        return evaluate(slice(None))
    pieces = in_threads(evaluate, [slice(k, k + _PIECE) for k in range(0, count, _PIECE)])
    xp = array_namespace(*pieces[0])
    flat, error, fine, gap = (xp.concatenate(v) for v in zip(*pieces, strict=True))
    return flat, error, fine, gap


def _lines(part: Any, table: FlatTablePlan) -> tuple[Any, ...]:
    """Straight lines between the rows of a table: values, errors, and errors of the shutters."""
    bank = table.bank
    values, errors = (_column(part, bank, c) for c in ("data", "error"))
    if table.shutter is not None:
        values = values * _shutter_image(part, table, array_namespace(values))
    shutters = None
    if table.shutter_errors is not None:
        shutters = chords(table.shutter_errors.knots, _elements(part, table.shutter_errors))
    return chords(bank.knots, values), chords(bank.knots, errors), shutters


def _fast_factors(
    table: FlatTablePlan, lines: tuple[Any, ...], plan: SpectralFlatPlan, wave: Any, piece: slice
) -> list[tuple[Any, Any]]:
    """Table of the fast variation, and the errors of the image of the shutters."""
    xp = array_namespace(wave, *lines[0])
    lit = None if plan.lit is None else xp.asarray(plan.lit[piece])
    x = wave if lit is None else xp.where(lit, wave, xp.zeros((), dtype=wave.dtype))
    width, cells = xp.asarray(plan.width[piece]), table.bank.cells[:, piece]
    value = average_across(lines[0], cells, x, width)
    error = follow(lines[1], cells[1], x)
    if lit is not None:
        value = xp.where(lit, value, xp.ones((), dtype=value.dtype))
        error = xp.where(lit, error, xp.zeros((), dtype=error.dtype))
    found = [(value, error)]
    if table.shutter_errors is not None:
        assert table.shutter_covered is not None
        error = follow(lines[2], table.shutter_errors.cells[0, piece], x)
        covered = table.shutter_covered[piece]
        found.append((None, xp.where(covered, error, xp.zeros((), dtype=error.dtype))))
    return found


def _column(part: Any, bank: TableBank, column: str) -> Any:
    columns = [part.variables[f"{n}.{column}"].data for n in bank.names]
    xp = array_namespace(*columns, bank.knots)
    picked = [xp.asarray(c).reshape(-1)[e] for c, e in zip(columns, bank.elements, strict=True)]
    return xp.concatenate(picked).astype(xp.asarray(bank.knots).dtype)


def _elements(part: Any, bank: TableBank) -> Any:
    images = [part.variables[n].data for n in bank.names]
    xp = array_namespace(*images, bank.knots)
    picked = [xp.asarray(c).reshape(-1)[e] for c, e in zip(images, bank.elements, strict=True)]
    return xp.concatenate(picked)


def _shutter_image(part: Any, table: FlatTablePlan, xp: Any) -> Any:
    """Image of the shutters at the wavelengths of the table, 1 where there is none."""
    assert table.shutter is not None
    picked = []
    for name, (first, fraction, between) in zip(table.bank.names, table.shutter, strict=True):
        cube = xp.asarray(part.variables[name.replace("fast_variation", "sci")].data)
        flat = cube.reshape(-1)
        dtype = xp.asarray(fraction).dtype
        low = flat[first].astype(dtype)
        above = first + cube.shape[-2] * cube.shape[-1]
        # the last image has none above it; its fraction is zero
        high = flat[xp.minimum(above, flat.size - 1)].astype(dtype)
        picked.append(xp.where(between, low + fraction * (high - low), 1.0))
    return xp.concatenate(picked)


def _slow_factor(
    part: Any, image: FlatImagePlan, plan: SpectralFlatPlan, wave: Any, where: Any
) -> tuple[Any, Any]:
    """Image of the slow variation at some listed pixels, and its error."""
    pixel = plan.position.reshape(-1)[where]
    lower = None if image.lower is None else image.lower.reshape(-1)[where].astype(pixel.dtype)
    pixel, lower = indices(pixel), None if lower is None else indices(lower)

    def at(name: str) -> Any:
        variable = part.variables[name]
        if variable.ndim == 2 or lower is None or variable.shape[0] == 1:
            return take(variable, pixel).astype(wave.dtype)
        size = variable.shape[-2] * variable.shape[-1]
        first = lower * size + pixel
        x = wave
        if plan.held is not None:
            assert image.knots is not None
            x = array_namespace(wave).clip(wave, image.knots[0], image.knots[-1])
        return between_images(
            take(variable, first), take(variable, first + size), lower, image.knots, x
        )

    value = at("sci")
    xp = array_namespace(value)
    return value, at("err") if "err" in part.variables else xp.zeros_like(value)


def _image_flags(part: Any, image: FlatImagePlan, position: Any) -> Any:
    """Flags of an image, or None if it has none."""
    if "dq" not in part.variables:
        return None
    dq = part.variables["dq"]
    single = dq.ndim == 2 or image.lower is None or dq.shape[0] == 1
    size = dq.shape[-2] * dq.shape[-1]

    def look_up(position: Any, *images: Any) -> Any:
        xp = array_namespace(position)
        pixel = indices(xp.maximum(xp.asarray(position), 0))
        flags: Any = np.uint32(0)
        for number in images or (0,):
            offset = number.astype(pixel.dtype) * size if images else 0
            flags = flags | take(dq, pixel + offset)
        xp = array_namespace(flags, position)
        return xp.where(position >= 0, flags, xp.zeros((), dtype=flags.dtype)).astype(np.uint32)

    images = () if single else (image.lower, image.upper)
    return by_rows(look_up, in_memory(dq))(position, *images)


def _record(ds: xr.Dataset, image: Any, error: Any, flags: Any) -> xr.Dataset:
    import xarray as xr

    if "slit" not in ds.dims:
        return _as_dataset(image.astype(np.float32), error.astype(np.float32), flags)
    dims = ("slit", "y", "x")
    kept = ("wavelength", "slit_name", "xstart", "ystart", "xsize", "ysize")
    return xr.Dataset(
        {
            "sci": (dims, image.astype(np.float32)),
            "err": (dims, error.astype(np.float32)),
            "dq": (dims, flags),
            **{n: ds[n].variable for n in kept if n in ds},
        },
        coords={"slit": ds["slit"].values},
        attrs={"reftype": "flat"},
    )


def _planes(flat: Any, plan: FlatFieldPlan) -> tuple[Any, Any, Any]:
    part = (slice(*plan.rows), slice(*plan.columns))
    if not hasattr(flat, "data_vars"):
        flat = {"sci": flat}
        get = flat.get
    else:

        def get(name: str) -> Any:
            return flat.variables[name].data if name in flat.variables else None

    image = get("sci")[part]
    xp = array_namespace(image)
    error, flags = get("err"), get("dq")
    error = xp.zeros_like(image) if error is None else error[part]
    flags = xp.zeros(image.shape, dtype=np.uint32) if flags is None else flags[part]
    return image, error, flags.astype(np.uint32)


def _complete(image: Any, flags: Any) -> Any:
    """Flag DO_NOT_USE every pixel whose flat cannot be used."""
    xp = array_namespace(image, flags)
    no_flat = np.uint32(PIXEL["NO_FLAT_FIELD"])
    bad = np.uint32(PIXEL["DO_NOT_USE"])
    flags = xp.where(xp.isnan(image) | (image == 0), flags | (no_flat | bad), flags)
    return xp.where((flags & no_flat) != 0, flags | bad, flags)


def _as_dataset(image: Any, error: Any, flags: Any) -> xr.Dataset:
    import xarray as xr

    return xr.Dataset(
        {"sci": (("y", "x"), image), "err": (("y", "x"), error), "dq": (("y", "x"), flags)},
        attrs={"reftype": "flat"},
    )

"""Flats of NIRSpec spectra: three parts, each with its own axes, multiplied pixel by pixel.

Each part is an image that changes slowly with wavelength times a table that changes fast; the
image of the fore optics of the micro-shutter array is in shutters, not pixels.
"""

from __future__ import annotations

import functools
import operator
from typing import TYPE_CHECKING

import numpy as np

from spec2fn.dq import PIXEL
from spec2fn.kernels.bands import by_rows
from spec2fn.kernels.namespace import array_namespace, is_jax
from spec2fn.kernels.scaling import multiply_factors
from spec2fn.kernels.tables import (
    average_across,
    between_images,
    cell_lines,
    indices,
    on_lines,
    onto_image,
)
from spec2fn.modes import mode_of
from spec2fn.plan_base import Plan, array, labels, positions
from spec2fn.plans.flux.factors import Factor, by_source_type
from spec2fn.plans.flux.tables import PixelList, TableBank, in_memory, take
from spec2fn.schema import need
from spec2fn.threads import in_threads
from spec2fn.typing import Array

if TYPE_CHECKING:
    from collections.abc import Iterator

    import xarray as xr

__all__ = ["FlatImagePlan", "FlatTablePlan", "SpectralFlatPlan"]

_PIECE = 1 << 18  # listed pixels evaluated at once, in threads
_UNUSABLE = np.uint32(PIXEL["NO_FLAT_FIELD"] | PIXEL["DO_NOT_USE"])
_BAD = np.uint32(_UNUSABLE | PIXEL["UNRELIABLE_FLAT"])

Lines = tuple[Array, Array]


class FlatTablePlan(Plan):
    """The table of fast variation of one part of a flat.

    Attributes
    ----------
    bank : TableBank
        Cells of the three Gaussian points of every pixel, shape (3, n). Its values are multiplied
        by the images of the shutters, where it has as `extra` for each row: position in the
        flattened image cube, weight of the next image, and whether there are images on both sides.
    shutter_errors : TableBank, optional
        Errors of the image of the shutter by wavelength, cells of shape (1, n).
    shutter_covered : array of bool, shape (n,), optional
        Where `shutter_errors` apply.
    """

    bank: TableBank
    shutter_errors: TableBank | None = None
    shutter_covered: Array | None = array("(slit pixel)", default=None)

    def lines(self, part: xr.Dataset) -> tuple[Lines, Lines, Lines | None]:
        """Straight lines between the rows: values, errors, and errors of the shutters."""
        values = self.bank.values(part, "data")
        if any(self.bank.extra):
            values = values * self._shutter_image(part)
        shutters = None if self.shutter_errors is None else self.shutter_errors.lines(part)
        return cell_lines(self.bank.knots, values), self.bank.lines(part, "error"), shutters

    def _shutter_image(self, part: xr.Dataset) -> Array:
        """Image of the shutters at the wavelengths of the table, 1 where there is none."""
        picked = []
        for name, (first, fraction, between) in zip(self.bank.names, self.bank.extra, strict=True):
            cube = part.variables[name.replace("fast_variation", "sci")].data
            xp = array_namespace(cube, first)
            flat, dtype = xp.asarray(cube).reshape(-1), xp.asarray(fraction).dtype
            low = flat[first].astype(dtype)
            above = first + cube.shape[-2] * cube.shape[-1]
            # the last image has none above it; its fraction is zero
            high = flat[xp.minimum(above, flat.size - 1)].astype(dtype)
            picked.append(xp.where(between, low + fraction * (high - low), 1.0))
        return array_namespace(*picked).concatenate(picked)


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

    lower: Array | None = array("slit y x", default=None)
    upper: Array | None = array("slit y x", default=None)
    knots: Array | None = array("knot", default=None)

    def lies_between(self, variable: xr.Variable) -> bool:
        """Whether pixels stand between images of a variable of the part."""
        return self.lower is not None and variable.ndim > 2 and variable.shape[0] > 1

    def flags(self, part: xr.Dataset, position: Array) -> Array | None:
        """Flags of the image, or of those below and above; None if it has none."""
        if "dq" not in part.variables:
            return None
        dq = part.variables["dq"]
        size = dq.shape[-2] * dq.shape[-1]

        def look_up(position: Array, *images: Array) -> Array:
            xp = array_namespace(position)
            pixel = indices(xp.maximum(xp.asarray(position), 0))
            first = [number.astype(pixel.dtype) * size for number in images] or [0]
            flags = functools.reduce(operator.or_, (take(dq, pixel + n) for n in first))
            xp = array_namespace(flags, position)
            return xp.where(position >= 0, flags, xp.zeros((), dtype=flags.dtype)).astype(np.uint32)

        images = (self.lower, self.upper) if self.lies_between(dq) else ()
        return by_rows(look_up, in_memory(dq))(position, *images)


class SpectralFlatPlan(Plan):
    """Where the pixels of a bucket of slits, or of an image as one slit, stand on the parts.

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
    extrapolated, outside : array of bool, shape (n,), optional
        With extrapolation: pixels beyond a table or image, where its end is used, and pixels
        beyond the nominal range, where the image of the spectrograph may be undefined.
    """

    pixels: PixelList
    usable: Array = array("(slit pixel)")
    lit: Array | None = array("(slit pixel)")
    width: Array = array("(slit pixel)")
    position: Array = array("slit y x")
    tables: tuple[FlatTablePlan | None, ...]
    images: tuple[FlatImagePlan | None, ...]
    problems: tuple[str, ...] = labels("slit")
    point: tuple[int, ...] = positions("slit -> uniform", default=())
    uniform: SpectralFlatPlan | None = None
    extrapolated: Array | None = array("(slit pixel)", default=None)
    outside: Array | None = array("(slit pixel)", default=None)

    def factor(self, ds: xr.Dataset, _: object, *parts: xr.Dataset | None) -> Factor:
        """Return the flat of an exposure, from its parts."""
        value, error, flags = self.evaluated(ds, parts, "wavelength")
        new, problems = {}, self.problems
        if "slit" not in ds.dims:
            xp = array_namespace(value, flags)
            outside = xp.asarray(self.pixels.entry[0] > self.pixels.position.size)
            nothing = xp.asarray(np.nan, dtype=value.dtype)
            value, error = (xp.where(outside, nothing, v[0]) for v in (value, error))
            flags = xp.where(outside, np.uint32(PIXEL["DO_NOT_USE"]), flags[0])
            problems = ()
        elif mode_of(ds).several_slits:
            uniform = value[np.array(self.point, dtype=int)]
            if self.uniform is not None:
                some = ds.isel(slit=list(self.point))
                uniform, *_ = self.uniform.evaluated(some, parts, "wavelength_uncorrected")
            new = by_source_type("flatfield", self.point, value, uniform)
        return Factor(
            value, divides=True, error=error, flags=flags, variables=new, problems=problems
        )

    def evaluated(
        self, ds: xr.Dataset, parts: tuple[xr.Dataset | None, ...], name: str
    ) -> tuple[Array, Array, Array]:
        """Return flat, error and flags of every pixel, at the wavelengths `name` of the plan.

        Flat and error are in the dtype of ``sci``: 1 and 0 where unknown, NaN if not positive.
        """
        planned = zip(parts[1:], self.images, strict=True)
        slow = [
            (need(part, (), "flat_field"), image) for part, image in planned if image is not None
        ]
        images = [(part, image, image.flags(part, self.position)) for part, image in slow]
        flat, error, fine, gap = self._listed(ds.variables[name].data, parts, images)
        entry, dtype = self.pixels.entry, ds.variables["sci"].dtype
        xp = array_namespace(flat, error)
        flags: Array = xp.zeros(entry.shape, dtype=np.uint32)
        for _, image, own in images:
            if own is not None and image is self.images[0] and self.outside is not None:
                own = xp.where(onto_image(gap, entry, False, False), np.uint32(0), own)  # noqa: PLW2901
            flags = flags if own is None else flags | own
        if self.extrapolated is not None:
            guessed = onto_image(xp.asarray(self.extrapolated) | gap, entry, False, False)
            flags = xp.where(guessed, flags | np.uint32(PIXEL["UNRELIABLE_FLAT"]), flags)
        return (
            onto_image(flat.astype(dtype), entry, 1.0, 1.0),
            onto_image(error.astype(dtype), entry, 0.0, 0.0),
            xp.where(onto_image(fine, entry, False, True), flags, flags | _BAD),
        )

    def _listed(
        self,
        wavelength: Array,
        parts: tuple[xr.Dataset | None, ...],
        images: list[tuple[xr.Dataset, FlatImagePlan, Array | None]],
    ) -> tuple[Array, ...]:
        """Flat and error of the listed pixels, where they are fine, and gaps of the S-flat."""
        tables = [
            (table, table.lines(need(part, (), "flat_field")))
            for part, table in zip(parts, self.tables, strict=True)
            if table is not None
        ]
        wavelength = wavelength.reshape(-1)

        def evaluate(piece: slice) -> tuple[Array, ...]:
            position = self.pixels.position[piece]
            wave = wavelength[position]
            factors = [f for table in tables for f in self._fast_factors(*table, wave, piece)]
            usable = self.usable[piece]
            gap: Array = np.zeros(position.shape, dtype=bool)
            for part, image, plane in images:
                value, error = self._slow_factor(part, image, wave, position)
                flags = None if plane is None else plane.reshape(-1)[position]
                if image is self.images[0] and self.outside is not None:
                    xp = array_namespace(value)
                    outside = xp.asarray(self.outside[piece])
                    gap = outside & ~(value > 0)
                    if flags is not None:
                        gap = gap | (outside & ((flags & _UNUSABLE) != 0))
                        flags = xp.where(gap, np.uint32(0), flags)
                    value = xp.where(gap, xp.ones((), value.dtype), value)
                    error = xp.where(gap, xp.zeros((), error.dtype), error)
                factors.append((value, error))
                if flags is not None:
                    usable = usable & ((flags & _UNUSABLE) == 0)
            # without any table or image no pixel is listed
            factors = factors or [(wave, wave)]
            xp = array_namespace(wave, *(v for pair in factors for v in pair))
            flat, error, usable = multiply_factors(factors, xp.asarray(usable))
            positive = flat > 0
            nothing = xp.asarray(np.nan, dtype=flat.dtype)
            flat, error = (xp.where(positive, v, nothing) for v in (flat, error))
            return flat, error, usable & positive, gap

        count = self.pixels.position.size
        read = [in_memory(v) for part in parts if part is not None for v in part.variables.values()]
        if count <= _PIECE or any(map(is_jax, (wavelength, *read))):
            return evaluate(slice(None))
        pieces = in_threads(evaluate, [slice(k, k + _PIECE) for k in range(0, count, _PIECE)])
        return tuple(map(np.concatenate, zip(*pieces, strict=True)))

    def _fast_factors(
        self,
        table: FlatTablePlan,
        lines: tuple[Lines, Lines, Lines | None],
        wave: Array,
        piece: slice,
    ) -> Iterator[tuple[Array | None, Array]]:
        """Table of the fast variation, and the errors of the image of the shutters."""
        values, errors, shutters = lines
        xp = array_namespace(wave, *values, self.width)
        lit = None if self.lit is None else xp.asarray(self.lit[piece])
        x = wave if lit is None else xp.where(lit, wave, xp.zeros((), dtype=wave.dtype))
        width, cells = xp.asarray(self.width[piece]), table.bank.cells[:, piece]
        value = average_across(values, cells, x, width)
        error = on_lines(errors, cells[1], x)
        if lit is not None:
            value = xp.where(lit, value, xp.ones((), dtype=value.dtype))
            error = xp.where(lit, error, xp.zeros((), dtype=error.dtype))
        yield value, error
        if table.shutter_errors is not None and shutters is not None:
            assert table.shutter_covered is not None
            error = on_lines(shutters, table.shutter_errors.cells[0, piece], x)
            covered = table.shutter_covered[piece]
            yield None, xp.where(covered, error, xp.zeros((), dtype=error.dtype))

    def _slow_factor(
        self, part: xr.Dataset, image: FlatImagePlan, wave: Array, position: Array
    ) -> tuple[Array, Array]:
        """Image of the slow variation at some listed pixels, and its error."""
        pixel, lower = self.position.reshape(-1)[position], image.lower
        if lower is not None:
            lower = indices(lower.reshape(-1)[position].astype(pixel.dtype))
        pixel = indices(pixel)

        def at(name: str) -> Array:
            variable = part.variables[name]
            if not image.lies_between(variable):
                return take(variable, pixel).astype(wave.dtype)
            assert lower is not None
            assert image.knots is not None
            size = variable.shape[-2] * variable.shape[-1]
            first, x = lower * size + pixel, wave
            if self.extrapolated is not None:
                x = array_namespace(wave).clip(wave, image.knots[0], image.knots[-1])
            below, above = take(variable, first), take(variable, first + size)
            return between_images(below, above, lower, image.knots, x)

        value = at("sci")
        if "err" in part.variables:
            return value, at("err")
        return value, array_namespace(value).zeros_like(value)

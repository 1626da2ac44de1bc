"""What other sources contribute to each cut-out spectrum of a slitless exposure.

The direct image, cut into sources by the segmentation map, is dispersed into every order
(:mod:`spec2fn.host.contamination`). The plan holds, for each cut-out, the images of all other
sources as a sparse matrix that acts on the coefficients of their spectra, so that the
contamination is linear in these and differentiable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from spec2fn.errors import InputError
from spec2fn.host.contamination import (
    Cutout,
    DirectPixels,
    Dispersed,
    SpectralGrid,
    Trace,
    cut,
    disperse_source,
    fit_in_turn,
    fit_jointly,
    hat_functions,
    legendre,
    merge,
)
from spec2fn.kernels.namespace import array_namespace
from spec2fn.plan_base import Plan, array
from spec2fn.typing import Array, HostArray

__all__ = [
    "BucketContamination",
    "ContaminationPlan",
    "DirectImage",
    "Geometry",
    "OrderResponse",
    "Spectra",
    "direct_pixels",
    "magnitude_limits",
    "simulate",
]

Spectrum = Callable[[HostArray], HostArray]
"""Wavelength [um] to brightness relative to that on the direct image."""


class Geometry(Protocol):
    """World coordinates of a grism exposure (see :class:`spec2fn.wcs.grism.GrismGeometry`)."""

    def world_to_detector(self, ra: Array, dec: Array) -> tuple[Array, Array]:
        """Undispersed place on the detector."""

    def disperse(self, x0: Array, y0: Array, wavelength: Array, order: int) -> tuple[Array, Array]:
        """Place on the grism image."""


@dataclass(frozen=True)
class DirectImage:
    """Direct image of a field, and its sources.

    Attributes
    ----------
    image : ndarray, (y, x)
        Brightness of the pixels of sources without background [MJy/sr].
    segments : int ndarray, (y, x)
        Labels of the sources; 0 where there is none.
    to_world : callable
        Pixel x, y (zero at the center of the first) to right ascension and declination [deg].
    """

    image: HostArray
    segments: HostArray
    to_world: Callable[[HostArray, HostArray], tuple[HostArray, HostArray]]


@dataclass(frozen=True)
class OrderResponse:
    """Response of one order.

    Attributes
    ----------
    order : int
    ends : (float, float)
        Shortest and longest wavelength [um].
    wavelength, conversion : ndarray, (knot,)
        MJy/sr for one DN/s per micrometre, on ascending wavelengths [um]; no response beyond.
    """

    order: int
    ends: tuple[float, float]
    wavelength: HostArray
    conversion: HostArray

    def gain(self, wavelength: HostArray, step: float) -> HostArray:
        """Count rate of 1 MJy/sr in an interval of `step` [um]; 0 without response."""
        s = np.interp(wavelength, self.wavelength, self.conversion, left=0.0, right=0.0)
        known = np.isfinite(s) & (s != 0)
        return np.where(known, step / np.where(known, s, 1.0), 0.0)

    @property
    def strongest(self) -> float:
        """Smallest positive conversion."""
        good = (self.wavelength > 0) & np.isfinite(self.wavelength) & (self.conversion > 0)
        return float(np.min(self.conversion[good], initial=np.inf))


@dataclass(frozen=True)
class Spectra:
    """How the spectra of sources are described.

    Attributes
    ----------
    degree : int
        Of Legendre polynomials by which spectra are multiplied.
    knots : tuple of float
        Wavelengths [um] of a piecewise linear spectrum instead of a polynomial.
    shapes : mapping of int to callable
        Spectrum by label; flat for other sources.
    """

    degree: int = 0
    knots: tuple[float, ...] = ()
    shapes: Mapping[int, Spectrum] | None = None

    @property
    def size(self) -> int:
        """Number of coefficients of a source."""
        return len(self.knots) or self.degree + 1

    def basis(self, source: int, wavelength: HostArray, ends: tuple[float, float]) -> HostArray:
        """Spectra that are combined for a source, (basis, wave)."""
        if self.knots:
            basis = hat_functions(wavelength, np.asarray(self.knots))
        else:
            basis = legendre(wavelength, ends, self.degree)
        shape = (self.shapes or {}).get(source)
        return basis if shape is None else basis * np.asarray(shape(wavelength))


class BucketContamination(Plan):
    """Contamination of the cut-outs of one bucket, as a sparse matrix.

    Attributes
    ----------
    index : int array, (entry,)
        Pixel of the bucket, counted through ``(slit, y, x)``.
    column : int array, (entry,)
        Coefficient by which `value` is multiplied.
    value : array, (entry,)
        [DN/s]
    shape : (int, int, int)
        Of the bucket.
    variance : array, (slit, y, x), or None
        Of the contamination, by the errors of the coefficients.
    """

    index: Array = array("entry")
    column: Array = array("entry")
    value: Array = array("entry")
    shape: tuple[int, int, int]
    variance: Array | None = array("slit y x", default=None)

    def image(self, coefficients: Array) -> Array:
        """Contamination [DN/s], (slit, y, x)."""
        xp = array_namespace(coefficients, self.value)
        light = self.value * coefficients[self.column]
        size = int(np.prod(self.shape))
        if xp is np:
            total = np.bincount(self.index, light, minlength=size)
        else:
            total = xp.zeros(size, light.dtype).at[self.index].add(light)
        return total.reshape(self.shape)


class ContaminationPlan(Plan):
    """Contamination of all cut-outs.

    Attributes
    ----------
    coefficients : array, (column,)
        Of the spectra, for one source and order after the other.
    buckets : tuple of BucketContamination
    kept : tuple of tuple of int
        Positions of the cut-outs of each bucket that are kept.
    simulated : array, (row, col), or None
        Grism image of all sources [DN/s].
    own : tuple of array, (slit, y, x), or None
        What the source of each cut-out contributes itself [DN/s], by bucket.
    modelled : tuple of tuple of int
        Cut-outs, among those kept, whose own source is simulated.
    note : str
        What the fit of the spectra has found.
    """

    coefficients: Array = array("column")
    buckets: tuple[BucketContamination, ...]
    kept: tuple[tuple[int, ...], ...]
    simulated: Array | None = array("row col", default=None)
    own: tuple[Array, ...] | None = array("...", default=None)
    modelled: tuple[tuple[int, ...], ...] = ()
    note: str = ""


def magnitude_limits(
    responses: Sequence[OrderResponse], limit: float, first: OrderResponse | None
) -> dict[int, float]:
    """Faintest magnitude that matters in each order.

    That of orders 0 and 1 is `limit`; in others sources have to be brighter by the ratio of the
    responses where they are largest.
    """
    out = {}
    for response in responses:
        out[response.order] = limit
        if response.order not in (0, 1):
            if first is None:
                msg = (
                    "magnitude_limit needs the response of order 1 in the PHOTOM reference to"
                    f" scale that of order {response.order}; leave it out"
                )
                raise InputError(msg)
            out[response.order] += 2.5 * np.log10(first.strongest / response.strongest)
    return out


def simulate(
    direct: DirectImage,
    geometry: Geometry,
    responses: Sequence[OrderResponse],
    spectra: Spectra,
    shape: tuple[int, int],
    *,
    magnitudes: Mapping[int, float] | None = None,
    limits: Mapping[int, float] | None = None,
    oversample: int = 2,
    chunk: int | None = None,
) -> Dispersed:
    """Disperse all sources of a direct image.

    Parameters
    ----------
    direct : DirectImage
    geometry : Geometry
    responses : sequence of OrderResponse
        Of the orders to simulate.
    spectra : Spectra
    shape : (int, int)
        Rows and columns of the detector.
    magnitudes : mapping of int to float, optional
        By label.
    limits : mapping of int to float, optional
        By order: sources that are not brighter are left out, and those of unknown magnitude.
    oversample : int
        Wavelengths per pixel of the trace.
    chunk : int, optional
        As the official pipeline: pixels are put a half to the upper right of their centers, and
        so many of them share a grid of wavelengths that fits the first. Otherwise every source
        has its own.

    Returns
    -------
    Dispersed
    """
    every = None if chunk is not None else list(direct_pixels(direct, geometry))
    parts: dict[tuple[int, int], list[Trace]] = {}
    place = _shifted(geometry) if chunk is not None else geometry.disperse
    for response in responses:
        bright = None
        if limits is not None:
            limit = limits[response.order]
            bright = frozenset(k for k, m in (magnitudes or {}).items() if m < limit)
        if every is not None:
            blocks = [[s] for s in every if bright is None or s.source in bright]
        else:
            assert chunk is not None
            blocks = _chunks(list(direct_pixels(direct, geometry, bright, official=True)), chunk)
        for block in blocks:
            wavelength, step = _wavelengths(block[0], response, place, oversample, chunk)
            for pixels in block:
                grid = SpectralGrid(
                    wavelength,
                    response.gain(wavelength, step),
                    spectra.basis(pixels.source, wavelength, response.ends),
                )
                order = response.order
                trace = disperse_source(pixels, order, grid, _of_order(place, order), shape)
                if trace is not None:
                    parts.setdefault((pixels.source, order), []).append(trace)
    traces = [merge(same) for same in parts.values()]
    return Dispersed([t for t in traces if t is not None], shape, spectra.size)


def _of_order(
    place: Callable[..., tuple[HostArray, HostArray]], order: int
) -> Callable[[HostArray, HostArray, HostArray], tuple[HostArray, HostArray]]:
    return lambda x, y, wavelength: place(x, y, wavelength, order)


def _shifted(geometry: Geometry) -> Callable[..., tuple[HostArray, HostArray]]:
    """Dispersion of corners instead of centers."""

    def place(x: HostArray, y: HostArray, wavelength: HostArray, order: int) -> tuple:
        x, y = geometry.disperse(x, y, wavelength, order)
        return x - 0.5, y - 0.5

    return place


def direct_pixels(
    direct: DirectImage,
    geometry: Geometry,
    chosen: frozenset[int] | None = None,
    *,
    official: bool = False,
) -> Iterator[DirectPixels]:
    """Yield the pixels of each source, with their places on the detector of the grism image.

    Parameters
    ----------
    direct : DirectImage
    geometry : Geometry
    chosen : frozenset of int, optional
        Labels of the sources that are wanted.
    official : bool
        As the official pipeline: the corners of pixels instead of their centers, whatever their
        area.
    """
    wanted = direct.segments != 0
    if chosen is not None:
        wanted &= np.isin(direct.segments, list(chosen))
    rows, columns = np.nonzero(wanted)
    if not rows.size:
        return
    labels = direct.segments[rows, columns]
    flux = np.asarray(direct.image[rows, columns], dtype=float)

    def place(x: HostArray, y: HostArray) -> tuple[HostArray, HostArray]:
        return geometry.world_to_detector(*direct.to_world(x, y))

    # the order of the peer among equal labels, on which its chunks depend
    order = np.argsort(labels) if official else np.argsort(labels, kind="stable")
    rows, columns, labels, flux = (a[order] for a in (rows, columns, labels, flux))
    size = None
    if official:
        x, y = place(columns + 0.5, rows + 0.5)
    else:
        right, left = place(columns + 0.5, rows), place(columns - 0.5, rows)
        upper, lower = place(columns, rows + 0.5), place(columns, rows - 0.5)
        along = [a - b for a, b in zip(right, left, strict=True)]
        across = [a - b for a, b in zip(upper, lower, strict=True)]
        area = np.abs(along[0] * across[1] - along[1] * across[0])
        # light of a pixel larger than those of the detector comes from all of it
        several = max(1, int(np.ceil(np.sqrt(np.median(area)) - 0.1)))
        size = float(np.median(area)) / several**2
        steps = (np.arange(several) + 0.5) / several - 0.5
        dy, dx = (np.tile(s.ravel(), rows.size) for s in np.meshgrid(steps, steps, indexing="ij"))
        rows, columns, labels, flux = (
            np.repeat(a, several**2) for a in (rows, columns, labels, flux * area / several**2)
        )
        x, y = place(columns + dx, rows + dy)
    ends = np.flatnonzero(np.diff(labels, append=labels[-1] + 1)) + 1
    for start, end in zip([0, *ends[:-1]], ends, strict=True):
        finite = (
            np.isfinite(x[start:end]) & np.isfinite(y[start:end]) & np.isfinite(flux[start:end])
        )
        part = np.arange(start, end)[finite]
        if part.size:
            yield DirectPixels(int(labels[start]), x[part], y[part], flux[part], size)


def _chunks(sources: Sequence[DirectPixels], most: int) -> list[list[DirectPixels]]:
    """Sources cut into runs of so many pixels."""
    blocks: list[list[DirectPixels]] = []
    room = 0
    for source in sources:
        start = 0
        while start < len(source.x):
            if not room:
                blocks.append([])
                room = most
            part = slice(start, start + room)
            piece = replace(source, x=source.x[part], y=source.y[part], flux=source.flux[part])
            blocks[-1].append(piece)
            room -= len(piece.x)
            start += len(piece.x)
    return blocks


def _wavelengths(
    pixels: DirectPixels,
    response: OrderResponse,
    place: Callable[..., tuple[HostArray, HostArray]],
    oversample: int,
    chunk: int | None,
) -> tuple[HostArray, float]:
    """Wavelengths at which light is dispersed, and the interval each stands for [um]."""
    low, high = response.ends
    x, y = (pixels.x[:1], pixels.y[:1]) if chunk else ([pixels.x.mean()], [pixels.y.mean()])
    ends = np.array([low, high])
    along_x, along_y = place(np.asarray(x), np.asarray(y), ends, response.order)
    if chunk:
        length = abs(np.diff(along_y)[0] - np.diff(along_x)[0])
        number = max(int(np.ceil((high - low) / ((high - low) / length / oversample))), 3)
        wavelength = np.linspace(low, high, number)
        return wavelength, float(wavelength[1] - wavelength[0])
    length = float(np.hypot(np.diff(along_x)[0], np.diff(along_y)[0]))
    number = max(int(np.ceil(length * oversample)), 8)
    step = (high - low) / number
    return low + step * (np.arange(number) + 0.5), step


def fitted(
    dispersed: Dispersed,
    cutouts: Sequence[Cutout],
    spectra: Spectra,
    *,
    alpha: float,
    threshold: float,
    rounds: int,
    scatter: float | None,
    official: bool,
) -> tuple[HostArray, HostArray | None, str]:
    """Coefficients of the spectra, their covariances, and what to say of them.

    Parameters
    ----------
    dispersed : Dispersed
    cutouts : sequence of Cutout
        Observed spectra.
    spectra : Spectra
        Those with knots are fitted all at once (:func:`spec2fn.host.contamination.fit_jointly`),
        polynomials one after the other (:func:`spec2fn.host.contamination.fit_in_turn`).
    alpha, threshold, rounds : float, float, int
        See :func:`spec2fn.host.contamination.fit_in_turn`.
    scatter : float, optional
        See :func:`spec2fn.host.contamination.fit_jointly`.
    official : bool
        See :func:`own_images`.

    Returns
    -------
    coefficients : ndarray, (trace, basis)
    covariance : ndarray, (trace, basis, basis), or None
    note : str
    """
    if spectra.knots:
        image, error = _mosaic(cutouts, dispersed.shape)
        fit = fit_jointly([dispersed], [image], [error], scatter)
        place = [dispersed.sources.index(t.source) for t in dispersed.traces]
        note = (
            f"spectra of {len(dispersed.sources)} sources fitted to {fit.pixels} pixels:"
            f" chi2/pixel {fit.chi2 / max(fit.pixels, 1):.3g}, scatter about the flat spectrum"
            f" {fit.scatter:.3g}"
        )
        return fit.coefficients[place], fit.covariance[place], note
    if not spectra.degree:
        return dispersed.flat(), None, ""
    coefficients, done = fit_in_turn(
        dispersed,
        cutouts,
        alpha=alpha,
        threshold=threshold,
        rounds=rounds,
        own_of=_cropped if official else _own,
    )
    return coefficients, None, f"polynomials fitted in each round: {', '.join(map(str, done))}"


def _mosaic(cutouts: Sequence[Cutout], shape: tuple[int, int]) -> tuple[HostArray, HostArray]:
    """Image and error on the detector; cut-outs that overlap hold the same pixels."""
    image, error = np.full(shape, np.nan), np.full(shape, np.nan)
    for c in cutouts:
        y, x, height, width = c.box
        window = np.s_[y : y + height, x : x + width]
        new = c.usable & np.isfinite(c.image)
        image[window] = np.where(new, c.image, image[window])
        error[window] = np.where(new, c.error, error[window])
    return image, error


def _own(trace: Trace, cutout: Cutout) -> HostArray:
    return cut(trace.images, (trace.y, trace.x), cutout.box)


def _official_window(trace: Trace, cutout: Cutout) -> tuple[slice, slice]:
    """Rows and columns of a cut-out on which the official pipeline puts a model.

    Where the model begins inside the cut-out, it loses as many of its last rows or columns.
    """
    rows, columns = (
        slice(max(start, 0), max(min(start + size, full, size), 0))
        for start, size, full in zip(
            np.subtract((trace.y, trace.x), cutout.box[:2]),
            trace.images.shape[1:],
            cutout.box[2:],
            strict=True,
        )
    )
    return rows, columns


def _cropped(trace: Trace, cutout: Cutout) -> HostArray:
    images = np.zeros((len(trace.images), *cutout.box[2:]))
    window = _official_window(trace, cutout)
    images[:, *window] = _own(trace, cutout)[:, *window]
    return images


def _overlap(trace: Trace, cutout: Cutout) -> bool:
    return all(s.start < s.stop for s in _official_window(trace, cutout))


def plan_contamination(
    dispersed: Dispersed,
    buckets: Sequence[Sequence[Cutout]],
    shapes: Sequence[tuple[int, int]],
    coefficients: HostArray,
    covariance: HostArray | None,
    *,
    official: bool,
    keep_models: bool,
    note: str = "",
    segmented: frozenset[int] | None = None,
) -> ContaminationPlan:
    """Sort the images of all sources by the cut-outs they fall on.

    Parameters
    ----------
    dispersed : Dispersed
    buckets : sequence of sequence of Cutout
        Cut-outs of each bucket.
    shapes : sequence of (int, int)
        Rows and columns of each bucket.
    coefficients : ndarray, (trace, basis)
    covariance : ndarray, (trace, basis, basis), optional
    official : bool
        Keep the peer's rules: a cut-out whose own source and order are not simulated has no
        contamination, what its own model loses is contamination, and sources without a segment
        are left out.
    keep_models : bool
        Keep the simulated image, and the part of it that belongs to each cut-out itself.
    note : str
    segmented : frozenset of int, optional
        Labels of the sources that have a segment; needed if `official`.

    Returns
    -------
    ContaminationPlan
    """
    planned, own, kept, modelled = [], [], [], []
    for cutouts, shape in zip(buckets, shapes, strict=True):
        chosen = tuple(
            k for k, c in enumerate(cutouts) if not official or c.source in (segmented or ())
        )
        kept.append(chosen)
        entries: list[tuple[HostArray, HostArray, HostArray]] = []
        variance = None if covariance is None else np.zeros((len(chosen), *shape))
        models = np.zeros((len(chosen), *shape))
        found: list[int] = []
        for k, cutout in enumerate([cutouts[c] for c in chosen]):
            itself = dispersed.index.get((cutout.source, cutout.order))
            height, width = cutout.box[2:]
            lost: HostArray | None = None
            if itself is not None:
                trace = dispersed.traces[itself]
                mine = (_cropped if official else _own)(trace, cutout)
                lost = _own(trace, cutout) - mine if official else None
                models[k, :height, :width] = np.tensordot(coefficients[itself], mine, 1)
            if itself is not None and (not official or _overlap(trace, cutout)):
                found.append(k)
            elif official:
                continue
            for i in dispersed.overlapping(cutout.box):
                images = lost if i == itself else _own(dispersed.traces[i], cutout)
                if images is None:
                    continue
                basis, y, x = np.nonzero(images)
                if not basis.size:
                    continue
                index = (k * shape[0] + y) * shape[1] + x
                entries.append((index, i * dispersed.basis + basis, images[basis, y, x]))
                if variance is not None and covariance is not None:
                    variance[k, :height, :width] += np.einsum(
                        "kyx,kl,lyx->yx", images, covariance[i], images
                    )
        index, column, value = (
            np.concatenate([e[j] for e in entries]) if entries else np.zeros(0, kind)
            for j, kind in enumerate((np.intp, np.intp, float))
        )
        planned.append(BucketContamination(index, column, value, (len(chosen), *shape), variance))
        own.append(models)
        modelled.append(tuple(found))
    return ContaminationPlan(
        coefficients.ravel(),
        tuple(planned),
        tuple(kept),
        dispersed.image(coefficients) if keep_models else None,
        tuple(own) if keep_models else None,
        tuple(modelled),
        note,
    )

"""Simulated spectra of all sources of a slitless exposure, and how their colours are fitted.

Every pixel of the direct image that belongs to a source is dispersed into each order. What that
gives is linear in the spectrum of the source, so that it is kept as one image for each member of
a basis of spectra, on the box of the detector it falls on. The model of an exposure, what one
source contributes to it, and the fit of all spectra at once are then sums over these images.

N. Pirzkal & R. Ryan 2017, WFC3 ISR 2017-01 (the dispersion of pixels); R. Ryan, S. Casertano &
N. Pirzkal 2018, PASP 130, 034501 (the joint, damped solution for the spectra of all sources).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from spec2fn.errors import InputError
from spec2fn.kernels.dispersal import shares, widening
from spec2fn.typing import HostArray

if TYPE_CHECKING:
    from scipy.sparse import csr_array

__all__ = [
    "Box",
    "Cutout",
    "DirectPixels",
    "Dispersed",
    "JointFit",
    "SpectralGrid",
    "Trace",
    "add",
    "cut",
    "disperse_source",
    "fit_in_turn",
    "fit_jointly",
    "hat_functions",
    "legendre",
    "merge",
]

Box: TypeAlias = tuple[int, int, int, int]
"""First row, first column, rows and columns."""
Disperse: TypeAlias = Callable[[HostArray, HostArray, HostArray], tuple[HostArray, HostArray]]
"""Undispersed x, y [pixel] and wavelength [um] to the place on the grism image."""

_SAMPLES = 50_000  # pixels times wavelengths that are dispersed at once
_NODES = 4  # along each axis, where the offsets of a source are known
_FEW_PIXELS = 48
_CHECKED = 5
_EXACT = 1e-8
_ENOUGH = 64  # pixels by which the place and the fractions of pixels of a source are known
_MARGIN = 2  # pixels beside the detector; nodes stand in for the outermost pixels
_ROUNDS = 6  # of finding the scatter of the spectra
_SCATTER = (0.01, 10.0)
_SETTLED = 0.02


@dataclass(frozen=True)
class DirectPixels:
    """Pixels of one source on the direct image.

    Attributes
    ----------
    source : int
        Label of the source.
    x, y : ndarray, (pixel,)
        Undispersed places on the detector [pixel].
    flux : ndarray, (pixel,)
        Brightness times the area of the pixel in those of the detector [MJy/sr].
    area : float, optional
        That area. If it is known, dispersed images are as sharp as the direct image.
    """

    source: int
    x: HostArray
    y: HostArray
    flux: HostArray
    area: float | None = None


@dataclass(frozen=True)
class SpectralGrid:
    """Wavelengths at which light is dispersed.

    Attributes
    ----------
    wavelength : ndarray, (wave,)
        [um], ascending.
    gain : ndarray, (wave,)
        Count rate for 1 MJy/sr of the interval around each; 0 without response.
    basis : ndarray, (basis, wave)
        Spectra relative to the brightness on the direct image.
    """

    wavelength: HostArray
    gain: HostArray
    basis: HostArray


@dataclass(frozen=True)
class Trace:
    """What one source contributes to one order.

    Attributes
    ----------
    source, order : int
    y, x : int
        First row and column of the box.
    images : ndarray, (basis, y, x)
        For each spectrum of the basis [DN/s].
    """

    source: int
    order: int
    y: int
    x: int
    images: HostArray

    @property
    def box(self) -> Box:
        """The box on the detector."""
        return (self.y, self.x, *self.images.shape[1:])


def cut(image: HostArray, at: tuple[int, int], box: Box) -> HostArray:
    """Cut a box out of an image that begins at a row and column; zero where there is none.

    Parameters
    ----------
    image : ndarray, (..., y, x)
    at : (int, int)
        Row and column of its first pixel.
    box : Box

    Returns
    -------
    ndarray, (..., rows, columns)
    """
    out = np.zeros((*image.shape[:-2], *box[2:]), image.dtype)
    ours: list[slice] = []
    theirs: list[slice] = []
    for first, start, length, size in zip(at, box[:2], box[2:], image.shape[-2:], strict=True):
        low, high = max(first, start), min(first + size, start + length)
        if low >= high:
            return out
        ours.append(slice(low - start, high - start))
        theirs.append(slice(low - first, high - first))
    out[..., ours[0], ours[1]] = image[..., theirs[0], theirs[1]]
    return out


def add(out: HostArray, image: HostArray, box: Box) -> None:
    """Add what lies on a box to an image, in place."""
    y, x, height, width = box
    out[y : y + height, x : x + width] += image


def legendre(wavelength: HostArray, ends: tuple[float, float], degree: int) -> HostArray:
    """Legendre polynomials of degree 0 to `degree` between two wavelengths, (degree + 1, wave)."""
    place = 2.0 * (wavelength - ends[0]) / (ends[1] - ends[0]) - 1.0
    return np.polynomial.legendre.legvander(place, degree).T


def hat_functions(wavelength: HostArray, knots: HostArray) -> HostArray:
    """Piecewise linear functions that are one at one knot each, (knot, wave).

    The first and the last are constant beyond the ends, so that they add up to one everywhere.
    """
    return np.array([np.interp(wavelength, knots, row) for row in np.eye(len(knots))])


def disperse_source(
    pixels: DirectPixels, order: int, grid: SpectralGrid, disperse: Disperse, shape: tuple[int, int]
) -> Trace | None:
    """Disperse the pixels of one source into one order.

    Parameters
    ----------
    pixels : DirectPixels
    order : int
    grid : SpectralGrid
    disperse : callable
        ``disperse(x, y, wavelength)`` for arrays that broadcast.
    shape : (int, int)
        Rows and columns of the detector.

    Returns
    -------
    Trace or None
        None if nothing falls on the detector. The box is that of all pixels lit at wavelengths of
        the grid, with response or not.
    """
    offsets = _Offsets.of(pixels, grid.wavelength, disperse)
    if offsets is not None:
        near = offsets.near(pixels, shape)
        grid = SpectralGrid(grid.wavelength[near], grid.gain[near], grid.basis[:, near])
        offsets = replace(offsets, offsets=offsets.offsets[:, near])
    length = max(1, _SAMPLES // max(len(grid.wavelength), 1))
    parts, moments, total = [], np.zeros((4, len(grid.wavelength))), 0.0
    for start in range(0, len(pixels.x) if len(grid.wavelength) else 0, length):
        part = slice(start, start + length)
        x, y = pixels.x[None, part], pixels.y[None, part]
        if offsets is None:
            x, y = disperse(x, y, grid.wavelength[:, None])
        else:
            dx, dy = offsets.at(x[0], y[0])
            x, y = x + dx, y + dy
        laid = _lay(x, y, pixels.flux[part], grid, shape)
        if laid is not None:
            (row, column), images = laid
            parts.append(Trace(pixels.source, order, row, column, images))
            if pixels.area is not None:
                few = slice(None, None, 1 + x.shape[1] // _ENOUGH)
                flux = pixels.flux[part][few]
                moments += _moments(x[:, few], y[:, few], flux, pixels.area)
                total += float(np.abs(flux).sum())
    whole = merge(parts)
    return _sharpened(whole, moments / total) if whole is not None and total > 0 else whole


@dataclass(frozen=True)
class _Offsets:
    """How far light is dispersed around one source, by bicubic polynomials of the place.

    A source is small against the field over which traces change, and the inverse of a trace
    costs more than a polynomial.

    Attributes
    ----------
    x, y : ndarray, (node,)
        Where the offsets are known.
    offsets : ndarray, (2, wave, node * node)
        Along x and y [pixel], at all pairs of y and x.
    """

    x: HostArray
    y: HostArray
    offsets: HostArray

    @classmethod
    def of(cls, pixels: DirectPixels, wavelength: HostArray, disperse: Disperse) -> _Offsets | None:
        """Fit the offsets of a source; None if it has few pixels, or no polynomial is exact."""
        if len(pixels.x) < _FEW_PIXELS:
            return None
        unit = np.cos(np.pi * (np.arange(_NODES) + 0.5) / _NODES)
        x, y = (0.5 * (a.max() + a.min() + unit * np.ptp(a)) for a in (pixels.x, pixels.y))
        if np.ptp(x) < 1 or np.ptp(y) < 1:
            return None

        def exact(x: HostArray, y: HostArray) -> HostArray:
            there = disperse(x[None], y[None], wavelength[:, None])
            return np.stack([a - b for a, b in zip(there, (x, y), strict=True)])

        found = cls(x, y, exact(np.tile(x, _NODES), np.repeat(y, _NODES)))
        lost = np.isnan(found.offsets)
        if (lost.any(axis=2) != lost.all(axis=2)).any():
            return None
        some = np.linspace(0, len(pixels.x) - 1, _CHECKED).astype(int)
        sample = pixels.x[some], pixels.y[some]
        agree = np.allclose(found.at(*sample), exact(*sample), rtol=0, atol=_EXACT, equal_nan=True)
        return found if agree else None

    def near(self, pixels: DirectPixels, shape: tuple[int, int]) -> HostArray:
        """Whether light of a wavelength can fall on the detector, (wave,)."""
        out = np.ones(self.offsets.shape[1], bool)
        for shift, at, size in zip(self.offsets, (pixels.x, pixels.y), shape[::-1], strict=True):
            low, high = at.min() + shift.min(axis=1), at.max() + shift.max(axis=1)
            out &= (high > -_MARGIN) & (low < size + _MARGIN)
        return out

    def at(self, x: HostArray, y: HostArray) -> HostArray:
        """Offsets at places, (2, wave, place)."""
        along, across = _lagrange(self.x, x), _lagrange(self.y, y)
        return self.offsets @ (across[:, None] * along).reshape(-1, len(x))


def _lagrange(nodes: HostArray, at: HostArray) -> HostArray:
    """Polynomials that are one at one of some nodes each, (node, place)."""
    gaps = nodes[:, None] - nodes
    np.fill_diagonal(gaps, 1.0)
    out = np.empty((len(nodes), len(at)))
    for k, row in enumerate(gaps):
        others = np.delete(nodes, k)
        out[k] = np.prod(at - others[:, None], axis=0) / np.prod(row)
    return out


def merge(parts: Sequence[Trace]) -> Trace | None:
    """Add up parts of one trace that lie on different boxes; None if there are none."""
    if len(parts) < 2:
        return parts[0] if parts else None
    boxes = np.array([t.box for t in parts])
    low, high = boxes[:, :2].min(axis=0), (boxes[:, :2] + boxes[:, 2:]).max(axis=0)
    box = (int(low[0]), int(low[1]), int(high[0] - low[0]), int(high[1] - low[1]))
    images = np.sum([cut(t.images, (t.y, t.x), box) for t in parts], axis=0)
    return replace(parts[0], y=box[0], x=box[1], images=images)


def _lay(
    x: HostArray, y: HostArray, flux: HostArray, grid: SpectralGrid, shape: tuple[int, int]
) -> tuple[tuple[int, int], HostArray] | None:
    """First pixel and images of a block of samples, dims (wave, pixel)."""
    from scipy.sparse import csc_array

    column, row = np.floor(x), np.floor(y)
    u, v = x - column, y - row
    # the upper neighbour gets nothing of what lies on the center of a pixel
    reach = [
        (row, row + (v > 0), shape[0]),
        (column, column + (u > 0), shape[1]),
    ]
    light = grid.gain[:, None] * flux
    lit: HostArray | None = None  # all of them
    if not all(low.min() >= 0 and high.max() < size for low, high, size in reach):
        lit = np.logical_and.reduce([(high >= 0) & (low < size) for low, high, size in reach])
        if not lit.any():
            return None
        # what has no place at all has no shares
        light, u, v = (np.where(lit, a, 0.0) for a in (light, u, v))
    chosen = ... if lit is None else lit
    (y0, y1), (x0, x1) = (
        (max(int(low[chosen].min()), 0), min(int(high[chosen].max()), size - 1))
        for low, high, size in reach
    )
    # with a margin of one pixel, onto which falls what lies beside the detector
    width, height = x1 - x0 + 4, y1 - y0 + 4
    row, column = row - (y0 - 1), column - (x0 - 1)
    if lit is not None:
        row = np.where(lit, np.clip(row, 0, height - 2), 0)
        column = np.where(lit, np.clip(column, 0, width - 2), 0)
    index = (row * width + column).astype(np.int32)
    places = np.empty((index.size, 4), np.int32)
    values = np.empty((index.size, 4))
    for k, (step, share) in enumerate(shares(u, v, width)):
        np.add(index.ravel(), step, out=places[:, k])
        np.multiply(light.ravel(), share.ravel(), out=values[:, k])
    spread = csc_array(
        (values.ravel(), places.ravel(), np.arange(0, places.size + 1, 4, dtype=np.int32)),
        shape=(height * width, index.size),
    )
    images = spread @ np.repeat(grid.basis.T, x.shape[1], axis=0)
    images = images.T.reshape(-1, height, width)
    return (y0, x0), images[:, 1 : 2 + y1 - y0, 1 : 2 + x1 - x0]


def _moments(x: HostArray, y: HostArray, flux: HostArray, area: float) -> HostArray:
    """Sums over pixels, (4, wave): of y, x and what laying adds to either width, by brightness."""
    known = [np.nan_to_num(a) for a in (y, x)]
    wider = [widening(a - np.floor(a), area) for a in known]
    return np.stack([a @ np.abs(flux) for a in (*known, *wider)])


def _sharpened(trace: Trace, moments: HostArray) -> Trace:
    """Take back what laying light on pixels adds to the width, as :func:`shares` with an area.

    Here in the image of a trace, by the mean over a source (wave), which is a quarter of the work.
    """
    middle, wider = moments[:2], moments[2:]
    along = int(np.argmax(np.ptp(middle, axis=1)))  # the axis of dispersion
    order = np.argsort(middle[along])
    at = trace.box[along] + np.arange(trace.box[2 + along])
    images = trace.images
    for axis, adds in enumerate(wider):
        # along the dispersion a pixel gets light of all fractions
        mean = np.full_like(adds, adds.mean()) if axis == along else adds
        excess = np.interp(at, middle[along][order], mean[order])
        edge = [(0, 0)] * 3
        edge[1 + axis] = (1, 1)  # no light is lost over the edge
        steps = np.diff(np.pad(trace.images, edge, mode="edge"), n=2, axis=1 + axis)
        images = images - 0.5 * (excess[:, None] if along == 0 else excess) * steps
    return replace(trace, images=images)


class Dispersed:
    """The simulated spectra of all sources in all orders: a linear operator of their spectra.

    Parameters
    ----------
    traces : sequence of Trace
    shape : (int, int)
        Rows and columns of the detector.
    basis : int
        Number of spectra of the basis.
    """

    def __init__(self, traces: Sequence[Trace], shape: tuple[int, int], basis: int) -> None:
        self.traces = tuple(traces)
        self.shape = shape
        self.basis = basis
        self.index = {(t.source, t.order): i for i, t in enumerate(self.traces)}
        self.sources = tuple(sorted({t.source for t in self.traces}))
        self._boxes = np.array([t.box for t in self.traces], dtype=int).reshape(-1, 4)

    def __len__(self) -> int:
        return len(self.traces)

    def flat(self) -> HostArray:
        """Coefficients of spectra that are those of the basis's first member, (trace, basis)."""
        out = np.zeros((len(self), self.basis))
        out[:, 0] = 1.0
        return out

    def own(self, i: int, coefficients: HostArray) -> HostArray:
        """Image of one trace on its box [DN/s]."""
        return np.tensordot(coefficients[i], self.traces[i].images, 1)

    def image(self, coefficients: HostArray, sources: Sequence[int] | None = None) -> HostArray:
        """Simulated grism image of all sources, or of some.

        Parameters
        ----------
        coefficients : ndarray, (trace, basis)
        sources : sequence of int, optional
            Labels.

        Returns
        -------
        ndarray, (y, x)
            [DN/s]
        """
        out = np.zeros(self.shape)
        for i, trace in enumerate(self.traces):
            if sources is None or trace.source in sources:
                add(out, self.own(i, coefficients), trace.box)
        return out

    def adjoint(self, image: HostArray) -> HostArray:
        """The adjoint of :meth:`image`, (trace, basis)."""
        out = np.zeros((len(self), self.basis))
        for i, t in enumerate(self.traces):
            y, x, height, width = t.box
            out[i] = np.tensordot(t.images, image[y : y + height, x : x + width], 2)
        return out

    def overlapping(self, box: Box) -> HostArray:
        """Positions of the traces that reach into a box."""
        low = self._boxes[:, :2]
        high = low + self._boxes[:, 2:]
        start, size = np.array(box[:2]), np.array(box[2:])
        return np.flatnonzero(((low < start + size) & (high > start)).all(axis=1))

    def matrix(self, weight: HostArray) -> csr_array:
        """The operator on spectra that all orders of a source share, times weights.

        Parameters
        ----------
        weight : ndarray, (y, x)
            Pixels without weight are left out.

        Returns
        -------
        scipy.sparse.csr_array, (pixel with weight, source * basis)
        """
        from scipy.sparse import coo_array, csr_array

        places = np.flatnonzero(weight.ravel())
        position = np.full(weight.size, -1)
        position[places] = np.arange(places.size)
        position = position.reshape(weight.shape)
        column = {source: i * self.basis for i, source in enumerate(self.sources)}
        rows, columns, values = [], [], []
        for t in self.traces:
            y, x, height, width = t.box
            window = np.s_[y : y + height, x : x + width]
            k, j, i = np.nonzero(np.where(position[window] >= 0, t.images, 0.0))
            rows.append(position[window][j, i])
            columns.append(column[t.source] + k)
            values.append(t.images[k, j, i] * weight[window][j, i])
        shape = (places.size, len(self.sources) * self.basis)
        if not rows:
            return csr_array(shape)
        triple = [np.concatenate(part) for part in (values, rows, columns)]
        return coo_array((triple[0], (triple[1], triple[2])), shape=shape).tocsr()


@dataclass(frozen=True)
class Cutout:
    """An observed spectrum.

    Attributes
    ----------
    source, order : int
    box : Box
        On the detector.
    image, error : ndarray, (y, x)
        [DN/s]
    usable : bool ndarray, (y, x)
    """

    source: int
    order: int
    box: Box
    image: HostArray
    error: HostArray
    usable: HostArray


def fit_in_turn(
    dispersed: Dispersed,
    cutouts: Sequence[Cutout],
    *,
    alpha: float,
    threshold: float,
    rounds: int,
    own_of: Callable[[Trace, Cutout], HostArray],
) -> tuple[HostArray, tuple[int, ...]]:
    """Fit one spectrum after the other, the brightest first, each with the latest of the others.

    Parameters
    ----------
    dispersed : Dispersed
        The first spectrum of its basis is the flat one.
    cutouts : sequence of Cutout
    alpha : float
        Added to the diagonal of the weighted normal equations.
    threshold : float
        A fit is rejected if it changes the brightness by a larger part than this.
    rounds : int
        How often; ends when a round fits nothing.
    own_of : callable
        ``own_of(trace, cutout)`` cuts the images of a trace to an observed spectrum.

    Returns
    -------
    coefficients : ndarray, (trace, basis)
    fitted : tuple of int
        Number of spectra fitted in each round.
    """
    coefficients = dispersed.flat()
    known = [
        (cutout, i, own_of(dispersed.traces[i], cutout))
        for cutout in cutouts
        if (i := dispersed.index.get((cutout.source, cutout.order))) is not None
    ]
    known.sort(key=lambda one: -np.nansum(one[2][0]))
    total = dispersed.image(coefficients)
    fitted = []
    for _ in range(rounds):
        done = 0
        for cutout, i, images in known:
            basis = np.concatenate([np.tensordot(coefficients[i], images, 1)[None], images[1:]])
            alone = cutout.image - (cut(total, (0, 0), cutout.box) - basis[0])
            found = _fit_one(alone, basis, cutout, alpha)
            if found is None or abs(found[0] - 1.0) > threshold:
                continue
            before = dispersed.own(i, coefficients)
            coefficients[i] *= found[0]
            coefficients[i, 1:] += found[1:]
            change = dispersed.own(i, coefficients) - before
            add(total, change, dispersed.traces[i].box)
            done += 1
        fitted.append(done)
        if not done:
            break
    return coefficients, tuple(fitted)


def _fit_one(image: HostArray, basis: HostArray, cutout: Cutout, alpha: float) -> HostArray | None:
    """Weighted least squares of one spectrum; None with fewer pixels than unknowns."""
    use = np.isfinite(image) & np.isfinite(basis[0]) & (basis[0] != 0) & cutout.usable
    weighed = use & np.isfinite(cutout.error) & (cutout.error > 0)
    if use.sum() < len(basis) or not weighed.any():
        return None
    error = cutout.error[weighed].astype(float)
    design = (basis[:, weighed] / error).T
    data = image[weighed] / error
    if alpha == 0:
        return np.asarray(np.linalg.lstsq(design, data, rcond=None)[0])
    normal = design.T @ design + alpha * np.eye(len(basis))
    return np.asarray(np.linalg.solve(normal, design.T @ data))


@dataclass(frozen=True)
class JointFit:
    """Spectra of all sources.

    Attributes
    ----------
    coefficients : ndarray, (source, basis)
        In the order of :attr:`Dispersed.sources`.
    covariance : ndarray, (source, basis, basis)
        Of the coefficients of each source, with those of the others held.
    scatter : float
        Standard deviation of the coefficients about 1 that was assumed a priori.
    chi2 : float
        Weighted sum of squared residuals.
    pixels : int
        Number of pixels that were fitted.
    """

    coefficients: HostArray
    covariance: HostArray
    scatter: float
    chi2: float
    pixels: int


def fit_jointly(
    dispersed: Sequence[Dispersed],
    images: Sequence[HostArray],
    errors: Sequence[HostArray],
    scatter: float | None = None,
) -> JointFit:
    """Fit the spectra of all sources to one or several exposures of a field.

    Least squares on all pixels, damped towards a spectrum that is flat at the brightness of the
    direct image: a priori the coefficients are 1 with a standard deviation `scatter`. Without
    one it is found from the spectra themselves (empirical Bayes: the scatter that the fit has,
    until it no longer changes), between 0.01 and 10.

    Parameters
    ----------
    dispersed : sequence of Dispersed
        Of each exposure, with the same basis.
    images, errors : sequence of ndarray, (y, x)
        [DN/s]; pixels that are not finite or have no positive error are left out.
    scatter : float, optional

    Returns
    -------
    JointFit
    """
    from scipy.sparse import csr_array, vstack

    basis = dispersed[0].basis
    sources = sorted({s for d in dispersed for s in d.sources})
    blocks, data = [], []
    for one, image, error in zip(dispersed, images, errors, strict=True):
        usable = np.isfinite(image) & np.isfinite(error) & (error > 0)
        weight = np.where(usable, 1.0 / np.where(usable, error, 1.0), 0.0)
        matrix = one.matrix(weight)
        place = np.array([sources.index(s) for s in one.sources], dtype=int)
        columns = (place[:, None] * basis + np.arange(basis)).ravel()
        widen = csr_array(
            (np.ones(columns.size), (np.arange(columns.size), columns)),
            shape=(columns.size, len(sources) * basis),
        )
        blocks.append(matrix @ widen)
        data.append((image * weight)[weight > 0])
    matrix = csr_array(vstack(blocks))
    residual = np.concatenate(data) - matrix.sum(axis=1)  # of flat spectra
    normal, right = (matrix.T @ matrix).tocsr(), matrix.T @ residual
    parts = [slice(i * basis, (i + 1) * basis) for i in range(len(sources))]
    own = np.array([normal[p, p].toarray() for p in parts]).reshape(-1, basis, basis)
    seen = normal.diagonal()
    assumed = 1.0 if scatter is None else scatter
    for _ in range(_ROUNDS):
        covariance = np.linalg.inv(own + np.eye(basis) / assumed**2)
        change = _solve(normal, right, assumed, covariance)
        told = seen * assumed**2 > 1  # coefficients about which the data say something
        if scatter is not None or not told.any():
            break
        found = float(np.clip(np.sqrt(np.mean(change[told] ** 2)), *_SCATTER))
        if abs(found - assumed) < _SETTLED * assumed:
            break
        assumed = found
    left = residual - matrix @ change
    return JointFit(
        1.0 + change.reshape(-1, basis), covariance, assumed, float(left @ left), left.size
    )


def _solve(normal: csr_array, right: HostArray, scatter: float, inverse: HostArray) -> HostArray:
    """Damped normal equations by conjugate gradients; each source's own block is inverted."""
    from scipy.sparse import eye_array
    from scipy.sparse.linalg import LinearOperator, cg

    size = right.size

    def precondition(vector: HostArray) -> HostArray:
        return np.einsum("skl,sl->sk", inverse, vector.reshape(inverse.shape[:2])).ravel()

    damped = normal + eye_array(size) / scatter**2
    solution, unsettled = cg(
        damped, right, rtol=1e-10, maxiter=1000, M=LinearOperator((size, size), precondition)
    )
    if unsettled:
        msg = (
            f"the spectra of {inverse.shape[0]} sources could not be told apart in 1000 rounds;"
            " assume a smaller scatter of the spectra"
        )
        raise InputError(msg)
    return np.asarray(solution)

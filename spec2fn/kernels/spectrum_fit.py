"""One spectrum that explains the light of one or several overlapping spectral orders.

A pixel (y, x) of order o holds ``profile[o, y, x] * amplitude[o, x]``: wavelengths are constant
along columns, so that an order is known by one amplitude for each column. The amplitudes follow
from one spectrum f on a grid of wavelengths, ``amplitude = response @ f``, which is the convolution
with the resolution of the order, times its throughput, integrated over the pixel. Sought is the
spectrum for which ::

    sum(((data - sum_o(profile * amplitude)) / error) ** 2) + (factor * |df / dwavelength|) ** 2

is smallest. Two properties make this cheap:

* Pixels enter by two kinds of sums over columns alone, which hold all information that there is.
* The second term is that of a random walk. Neighbouring rows of the response, weighted so that
  they cancel for a constant spectrum, see the steps of the walk nearby and no others. The
  equations for as many unknowns as there are amplitudes, instead of wavelengths, are therefore a
  narrow band, and the resolution of the grid costs next to nothing. They are also solvable where
  the normal equations of the spectrum are singular to working precision.

A. Darveau-Bernier et al. 2022, PASP 134, 094502 (the model); G. Wahba 1990, Spline Models for
Observational Data (the second form of the equations).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from spec2fn.kernels import banded
from spec2fn.kernels.namespace import array_namespace
from spec2fn.plan_base import Plan, array
from spec2fn.typing import Array, HostArray

if TYPE_CHECKING:
    from scipy.sparse import csr_array

__all__ = [
    "AmplitudeCovariance",
    "ColumnSums",
    "Equations",
    "Solver",
    "SpectrumFit",
    "amplitude_covariance",
    "band_order",
    "column_sums",
    "column_variance",
    "column_weights",
    "equations",
    "fit_spectrum",
    "fitted_amplitudes",
    "link_values",
    "pixel_integrals",
    "responses",
    "smoothed_amplitudes",
    "solver",
]

# weight of columns that lose their pixels in an integration, in that of typical ones: a smaller one
# would be lost in rounding
_FLOOR = 1e-8


class ColumnSums(NamedTuple):
    """What the pixels say about the amplitudes.

    Attributes
    ----------
    precision : array, (order, order, disp)
        Inverse covariance of the amplitudes of a column.
    pull : array, (..., order, disp)
        That times the amplitudes which fit the column best.
    """

    precision: Array
    pull: Array


def column_sums(
    profile: Array, weight: Array, data: Array, flicker: Array | None = None
) -> ColumnSums:
    """Sums over columns that hold all that pixels say about the amplitudes of orders.

    Parameters
    ----------
    profile : array, (order, cross, disp)
    weight : array, (cross, disp)
        Inverse variance; zero where a pixel is not used.
    data : array, (..., cross, disp)
        Finite.
    flicker : array, number, optional
        A constant of each column is fitted as well, whose prior standard deviation this is;
        infinite if nothing is known about it.

    Returns
    -------
    ColumnSums
    """
    xp = array_namespace(profile, weight, data)
    weighted = column_weights(profile, weight, flicker)
    precision = xp.einsum("oyx,pyx->opx", weighted, profile)
    return ColumnSums(precision, xp.einsum("oyx,...yx->...ox", weighted, data))


def column_weights(profile: Array, weight: Array, flicker: Array | None) -> Array:
    """Weights with which pixels are summed over columns, (order, cross, disp)."""
    weighted = profile * weight
    if flicker is None:
        return weighted
    xp = array_namespace(profile, weight)
    known = weight.sum(axis=-2) + 1 / flicker**2
    share = weighted.sum(axis=-2) / xp.where(known > 0, known, 1.0)
    return weighted - share[:, None] * weight


def pixel_integrals(grid: Array, lower: Array, upper: Array, first: HostArray, taps: int) -> Array:
    """Weights with which a function on a grid, linear in between, is integrated over pixels.

    Parameters
    ----------
    grid : array, (wave,)
        [um], ascending.
    lower, upper : array, (...,)
        Ends of the pixels [um].
    first : int array, (...,)
        The last point of the grid that is not beyond the lower end.
    taps : int
        How many points a pixel needs at most, with those on either side.

    Returns
    -------
    array, (..., taps)
        For the points from `first` on.
    """
    xp = array_namespace(grid, lower, upper)
    at = first[..., None] + np.arange(taps - 1)
    beyond = at + 1 >= grid.shape[0]
    at = np.minimum(at, grid.shape[0] - 2)
    left, right = grid[at], grid[at + 1]
    start = xp.clip(left, lower[..., None], upper[..., None])
    stop = xp.clip(right, lower[..., None], upper[..., None])
    length = xp.where(beyond, 0.0, stop - start)
    place = (0.5 * (start + stop) - left) / (right - left)
    zero = xp.zeros_like(length[..., :1])
    return xp.concatenate([length * (1 - place), zero], axis=-1) + xp.concatenate(
        [zero, length * place], axis=-1
    )


def responses(
    integrals: Array,
    integral_first: HostArray,
    gain: Array,
    kernel: Array,
    *,
    kernel_first: HostArray,
    first: HostArray,
    taps: int,
) -> Array:
    """Response of the columns of an order: resolution, throughput and the integral over pixels.

    Differentiable in the integrals (and so in the wavelengths of columns), the gain and the kernel.

    Parameters
    ----------
    integrals : array, (disp, node)
        See :func:`pixel_integrals`.
    integral_first : int array, (disp,)
        First point of the grid for each column; columns are zero where there is none.
    gain : array, (wave,)
        Throughput times wavelength.
    kernel : array, (wave, tap)
        Resolution around each point of the grid.
    kernel_first : int array, (wave,)
        First point of the grid in each row of it.
    first : int array, (disp,)
        First point of the grid in the response of each column.
    taps : int
        Points of a response.

    Returns
    -------
    array, (disp, taps)
    """
    xp = array_namespace(integrals, gain, kernel)
    many, last = integrals.shape[0], len(kernel_first) - 1
    out = xp.zeros((many, taps))
    row = np.arange(many)[:, None]
    for j in range(integrals.shape[1]):
        node = np.minimum(integral_first + j, last)
        weight = integrals[:, j] * gain[node]
        at = (kernel_first[node] - first)[:, None] + np.arange(kernel.shape[1])
        # columns that the order does not reach have no weight, wherever they stand
        at = np.clip(at, 0, taps - 1)
        seen = weight[:, None] * kernel[node]
        if xp is np:
            out[row, at] += seen
        else:
            out = out.at[row, at].add(seen)
    return out


class SpectrumFit(Plan):
    """One spectrum, and how the columns of one or more orders respond to it.

    Attributes
    ----------
    wave : array, (wave,)
        [um], ascending.
    response : array, (order, disp, tap)
        Amplitude of a column for a unit of the spectrum; zero where the order is not fitted.
    first : int array, (order, disp)
        First wavelength of each response.
    factor : array, number
        Weight of the smoothness of the spectrum.
    weight : array, (cross, disp)
        Inverse variance; zero where pixels are not used.
    covered : bool array, (order, disp)
        Columns whose amplitude is known.
    pins : int array, (pin,)
        Points of the grid at which the spectrum is zero.
    chain : int array, (row,)
        Amplitudes (order times disp, then pins) by wavelength.
    position : int array, (place,)
        Where each of them stands in the chain; the number of rows where it does not.
    turn : int array, (link,)
        Order of the pairs of neighbours in which the matrix is a narrow band.
    width : int
        Half width of the band.
    orders : tuple of int
        Positions of the orders in the exposure.
    model_response : array, (order, disp, tap), optional
        Response by which the models are made, if it is another one.
    flicker : array, number, optional
        See :func:`column_sums`.
    """

    wave: Array = array("wave")
    response: Array = array("order disp tap")
    first: Array = array("order disp")
    factor: Array = array("")
    weight: Array = array("cross disp")
    covered: Array = array("order disp")
    pins: Array = array("pin")
    chain: Array = array("row")
    position: Array = array("place")
    turn: Array = array("link")
    width: int
    orders: tuple[int, ...]
    model_response: Array | None = array("order disp tap", default=None)
    flicker: Array | None = array("", default=None)

    @functools.cached_property
    def equations(self) -> Equations:
        """All of the equations that does not depend on the pixels; of the host alone."""
        return equations(self)

    @functools.cached_property
    def matrix(self) -> csr_array:
        """The response as a sparse matrix, (order times disp, wave); of the host alone."""
        return _matrix(self, self.response)


def _beside(fit: SpectrumFit, *others: Array) -> SpectrumFit:
    """Return a fit with arrays of the kind that what comes with it has."""
    xp = array_namespace(fit.response, fit.wave, *others)
    if xp is np:
        return fit
    names = ("wave", "response", "first", "factor", "pins", "chain", "position", "turn")
    return replace(fit, **{name: xp.asarray(getattr(fit, name)) for name in names})


class _Chain:
    """Pairs of neighbours in wavelength, which do not respond to a constant spectrum."""

    def __init__(self, fit: SpectrumFit) -> None:
        self.fit = fit
        self.xp = array_namespace(fit.response, fit.wave)
        self.shape = fit.response.shape[:2]
        ones = self.xp.ones(fit.pins.shape[0])
        total = self.rows(fit.response.sum(axis=-1), ones)
        size = self.xp.hypot(total[:-1], total[1:])
        self.total, self.up, self.down = total, total[1:] / size, total[:-1] / size

    def rows(self, amplitude: Array, pins: Array | None = None) -> Array:
        """Bring amplitudes (..., order, disp) into the order of the chain, (..., row)."""
        flat = amplitude.reshape(*amplitude.shape[:-2], -1)
        if self.fit.pins.shape[0]:
            shape = (*flat.shape[:-1], self.fit.pins.shape[0])
            end = self.xp.zeros(shape) if pins is None else self.xp.broadcast_to(pins, shape)
            flat = self.xp.concatenate([flat, end], axis=-1)
        return flat[..., self.fit.chain]

    def places(self, rows: Array) -> tuple[Array, Array]:
        """Undo :meth:`rows`: (..., order, disp), and the pins (..., pin)."""
        padded = self.xp.concatenate([rows, self.xp.zeros_like(rows[..., :1])], axis=-1)
        flat = padded[..., self.fit.position]
        many = self.shape[0] * self.shape[1]
        return flat[..., :many].reshape(*flat.shape[:-1], *self.shape), flat[..., many:]

    def difference(self, rows: Array) -> Array:
        """Pairs (..., link) of rows (..., row)."""
        return self.up * rows[..., :-1] - self.down * rows[..., 1:]

    def spread(self, links: Array) -> Array:
        """Apply the adjoint of :meth:`difference`."""
        zero = self.xp.zeros_like(links[..., :1])
        return self.xp.concatenate([self.up * links, zero], axis=-1) - self.xp.concatenate(
            [zero, self.down * links], axis=-1
        )


def _respond(fit: SpectrumFit, spectrum: Array, response: Array | None = None) -> Array:
    """Amplitudes (..., order, disp) of spectra (..., wave)."""
    usual = response is None
    response = fit.response if response is None else response
    xp = array_namespace(response, spectrum)
    if xp is np:
        flat = spectrum.reshape(-1, spectrum.shape[-1])
        found = ((fit.matrix if usual else _matrix(fit, response)) @ flat.T).T
        return found.reshape(*spectrum.shape[:-1], *response.shape[:2])
    at = fit.first[..., None] + np.arange(response.shape[-1])
    return (spectrum[..., at] * response).sum(axis=-1)


def _collect(fit: SpectrumFit, amplitude: Array, pins: Array) -> Array:
    """Apply the adjoint of :func:`_respond`, and lay down the pins: (..., wave)."""
    xp = array_namespace(fit.response, amplitude)
    lead, size = amplitude.shape[:-2], fit.wave.shape[0]
    if xp is np:
        flat = amplitude.reshape(-1, amplitude.shape[-2] * amplitude.shape[-1])
        out = np.ascontiguousarray((fit.matrix.T @ flat.T).T).reshape(*lead, size)
        out[..., fit.pins] += pins
        return out
    at = fit.first[..., None] + np.arange(fit.response.shape[-1])
    out = xp.zeros((*lead, size)).at[..., at].add(amplitude[..., None] * fit.response)
    return out.at[..., fit.pins].add(pins)


def _matrix(fit: SpectrumFit, response: Array) -> csr_array:
    """A response as a sparse matrix, (order times disp, wave)."""
    from scipy.sparse import csr_array

    taps = response.shape[-1]
    columns = (np.asarray(fit.first)[..., None] + np.arange(taps)).ravel()
    rows = np.arange(0, columns.size + 1, taps)
    shape = (rows.size - 1, fit.wave.shape[0])
    return csr_array((np.asarray(response).ravel(), columns, rows), shape=shape)


def _variance(fit: SpectrumFit, chain: _Chain, precision: Array) -> Array:
    """Covariance of the amplitudes of each column by its pixels alone, (order, order, disp)."""
    xp = chain.xp
    many = fit.response.shape[0]
    used = chain.places(xp.ones(fit.chain.shape[0]))[0]
    one = np.eye(many)[:, :, None]
    own = (precision * one).sum(axis=1)
    typical = (own * used).sum(axis=-1) / used.sum(axis=-1)
    # columns without pixels, or too few to tell the orders apart, keep a large finite variance
    floor = _FLOOR * (own + typical[:, None])
    matrix = precision * used[:, None] * used + one * xp.where(used > 0, floor, 1.0)
    found = xp.linalg.inv(xp.moveaxis(matrix, -1, 0))
    return xp.moveaxis(found, 0, -1) * used[:, None] * used


def column_variance(fit: SpectrumFit, precision: Array) -> Array:
    """Covariance of the amplitudes of each column by its pixels alone.

    Parameters
    ----------
    fit : SpectrumFit
    precision : array, (order, order, disp)
        Of :class:`ColumnSums`.

    Returns
    -------
    array, (order, order, disp)
        Zero for orders that are not fitted in a column; large where there are no pixels.
    """
    return _variance(fit, _Chain(fit), precision)


def link_values(fit: SpectrumFit, variance: Array, pull: Array) -> Array:
    """What the pixels say about the links of a fit, in the order of its matrix, (..., link)."""
    chain = _Chain(fit)
    return chain.difference(chain.rows(_scaled(variance, pull)))[..., fit.turn]


def _scaled(variance: Array, amplitude: Array) -> Array:
    xp = array_namespace(variance, amplitude)
    return xp.einsum("opx,...px->...ox", variance, amplitude)


class Equations(NamedTuple):
    """The matrix of the links, ``steps + factor**2 * noise``, on the host.

    Attributes
    ----------
    steps : ndarray, (half width + 1, link)
        What a random walk of unit steps makes of the links, as a band.
    depth, place : int ndarray, (element,)
        Where in the band elements of the second part stand; some several times.
    share : ndarray, (element,)
        By how much they are multiplied.
    source : int ndarray, (element,)
        From which element of a covariance (order, order, disp) they come.
    """

    steps: HostArray
    depth: HostArray
    place: HostArray
    share: HostArray
    source: HostArray

    def noise(self, variance: HostArray) -> HostArray:
        """Second part of the matrix for a covariance of amplitudes, as a band."""
        rows, columns = self.steps.shape
        values = self.share * variance.ravel()[self.source]
        flat = np.bincount(self.depth * columns + self.place, values, minlength=rows * columns)
        return flat.reshape(rows, columns)

    def factorise(self, variance: HostArray, factor: float) -> HostArray:
        """Cholesky factor of the matrix."""
        return banded.factorise(self.steps + factor**2 * self.noise(variance))


def equations(fit: SpectrumFit) -> Equations:
    """All of the matrix of the links that does not depend on the pixels; of the host alone.

    Raises
    ------
    ValueError
        If the responses reach further than those for which the band was made.
    """
    back = np.argsort(fit.turn)
    walked = _walked(fit)
    matrix = (walked @ walked.T).tocoo()
    i, j = back[matrix.row], back[matrix.col]
    low = i >= j
    depth, place = (i - j)[low], j[low]
    if depth.max(initial=0) > fit.width:
        msg = (
            f"responses need a band of half width {fit.width}, found {depth.max()}; make a new plan"
        )
        raise ValueError(msg)
    size = len(back)
    steps = np.zeros((fit.width + 1, size))
    np.add.at(steps, (depth, place), matrix.data[low])
    return Equations(steps, *_noise_elements(fit, back))


def _noise_elements(fit: SpectrumFit, back: HostArray) -> tuple[HostArray, ...]:
    """Depth, place, share and source of :class:`Equations`."""
    chain = _Chain(fit)
    many, disp = fit.response.shape[:2]
    links = len(back)
    position = np.asarray(fit.position)[: many * disp].reshape(many, disp)
    ends = [_ends(chain, position[o], links) for o in range(many)]
    parts = []
    for o, p in np.ndindex(many, many):
        source = (o * many + p) * disp + np.arange(disp)
        for link, share in ends[o]:
            for other, share_other in ends[p]:
                both = (link < links) & (other < links)
                i, j = back[link[both]], back[other[both]]
                low = i >= j
                value = (share * share_other)[both][low]
                parts.append(((i - j)[low], j[low], value, source[both][low]))
    depth, place, share, source = (np.concatenate(each) for each in zip(*parts, strict=True))
    return depth, place, share, source


def _ends(chain: _Chain, row: HostArray, links: int) -> tuple[tuple[HostArray, HostArray], ...]:
    """Both links of rows of the chain, and their shares; beyond the last where there is none."""
    up, down = np.append(chain.up, 0.0), np.append(-chain.down, 0.0)
    before = np.where((row > 0) & (row <= links), row - 1, links)
    after = np.minimum(row, links)
    return (after, up[after]), (before, down[before])


def _walked(fit: SpectrumFit) -> csr_array:
    """Response of links to each step of the spectrum: all that they see beyond it."""
    from scipy.sparse import coo_array, csr_array, diags_array, vstack

    chain = _Chain(fit)
    size = fit.wave.shape[0]
    many = len(fit.pins)
    rows = _matrix(fit, fit.response)
    if many:
        pins = coo_array((np.ones(many), (np.arange(many), fit.pins)), shape=(many, size))
        rows = csr_array(vstack([rows, pins], format="csr"))
    rows = rows[fit.chain]
    pairs = csr_array(diags_array(chain.up) @ rows[:-1] - diags_array(chain.down) @ rows[1:])
    pairs.eliminate_zeros()
    pairs.sort_indices()
    counts = np.diff(pairs.indptr)
    if not counts.all():
        msg = "a fit needs columns that respond to the spectrum differently, found two alike"
        raise ValueError(msg)
    start, stop = pairs.indices[pairs.indptr[:-1]], pairs.indices[pairs.indptr[1:] - 1]
    taps = int((stop - start).max()) + 1
    dense = np.zeros((len(counts), taps))
    at = pairs.indices - np.repeat(start, counts)
    dense[np.repeat(np.arange(len(counts)), counts), at] = pairs.data
    # before their first point they see everything, which is nothing
    beyond = np.cumsum(dense[:, ::-1], axis=1)[:, ::-1][:, 1:]
    columns = start[:, None] + np.arange(taps - 1)
    inside = columns < stop[:, None]
    steps = np.diff(fit.wave)
    values = beyond * steps[np.minimum(columns, size - 2)]
    ends = np.concatenate([[0], np.cumsum(inside.sum(axis=1))])
    return csr_array((values[inside], columns[inside], ends), shape=(len(counts), size - 1))


def band_order(fit: SpectrumFit) -> tuple[HostArray, int]:
    """Order of the links in which the matrix is a narrow band, and its half width.

    Parameters
    ----------
    fit : SpectrumFit
        Of any order and width.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import reverse_cuthill_mckee

    links = fit.chain.shape[0] - 1
    walked = abs(_walked(fit))
    depth, place, _, _ = _noise_elements(fit, np.arange(links))
    ones = np.ones(len(depth))
    noise = coo_array((ones, (place + depth, place)), shape=(links, links))
    pattern = (walked @ walked.T + noise + noise.T).tocsr()
    turn = reverse_cuthill_mckee(pattern, symmetric_mode=True).astype(int)
    back = np.argsort(turn)
    coo = pattern.tocoo()
    return turn, int(np.abs(back[coo.row] - back[coo.col]).max())


def _factor(fit: SpectrumFit, variance: Array, prepared: Equations | None) -> Array:
    """Cholesky factor of the matrix of the links; a constant for derivatives."""
    if array_namespace(fit.response, fit.wave, fit.factor, variance) is np:
        prepared = prepared or fit.equations
        return prepared.factorise(variance, float(fit.factor))
    import jax

    structure = {n: getattr(fit, n) for n in ("first", "chain", "position", "turn", "pins")}
    values = {"response": fit.response, "wave": fit.wave, "factor": fit.factor}
    arrays = jax.lax.stop_gradient({**structure, **values, "variance": variance})

    latest: list[SpectrumFit] = []  # its equations are there already

    def on_host(given: Mapping[str, Array]) -> HostArray:
        host: dict[str, Any] = {name: np.array(a) for name, a in given.items()}
        covariance, smoothness = host.pop("variance"), float(host.pop("factor"))
        one = latest[0] if latest else None
        same = (np.array_equal(getattr(one, n), a, equal_nan=True) for n, a in host.items())
        if one is None or not all(same):
            one = replace(fit, **host, **rest)
            latest[:] = [one]
        return one.equations.factorise(covariance, smoothness)

    empty = np.zeros((0, fit.response.shape[1]))
    covered = np.zeros(fit.response.shape[:2], bool)
    rest: dict[str, Any] = {
        "weight": empty,
        "covered": covered,
        "flicker": None,
        "model_response": None,
    }
    shape = jax.ShapeDtypeStruct((fit.width + 1, fit.chain.shape[0] - 1), np.dtype(float))
    return jax.pure_callback(on_host, shape, arrays, vmap_method="sequential")


class Solver(NamedTuple):
    """The equations of a fit, solved for all integrations whose pixels have the same weights.

    Attributes
    ----------
    variance : array, (order, order, disp)
        See :func:`column_variance`.
    factor : array, (half width + 1, link)
        Cholesky factor of the matrix of the links; a constant for derivatives.
    """

    variance: Array
    factor: Array


def solver(fit: SpectrumFit, precision: Array, prepared: Equations | None = None) -> Solver:
    """Prepare a fit for integrations.

    Parameters
    ----------
    fit : SpectrumFit
    precision : array, (order, order, disp)
        Of :class:`ColumnSums`.
    prepared : Equations, optional
        Of the fit, or of one that differs by its factor, if it is on the host.
    """
    fit = _beside(fit, fit.factor, precision)
    variance = column_variance(fit, precision)
    return Solver(variance, _factor(fit, variance, prepared))


def fit_spectrum(
    fit: SpectrumFit, sums: ColumnSums, solved: Solver | None = None
) -> tuple[Array, Array]:
    """Find the spectrum that explains the columns best, and is smooth.

    Parameters
    ----------
    fit : SpectrumFit
    sums : ColumnSums
        Of pixels in one or more integrations.
    solved : Solver, optional
        Of the fit and the precision of the sums.

    Returns
    -------
    spectrum : array, (..., wave)
        Flux density on the grid of the fit.
    amplitude : array, (..., order, disp)
        Of each order in each column; of those not :attr:`~SpectrumFit.covered` as well.
    """
    xp = array_namespace(fit.response, fit.factor, *sums)
    fit = _beside(fit, fit.factor, *sums)
    chain = _Chain(fit)
    variance, factor = solver(fit, sums.precision) if solved is None else solved
    right = link_values(fit, variance, sums.pull)
    step = fit.wave[1:] - fit.wave[:-1]

    def walk(links: Array) -> Array:
        collected = _collect(fit, *chain.places(chain.spread(links)))
        beyond = xp.cumsum(collected[..., ::-1], axis=-1)[..., ::-1][..., 1:]
        walked = xp.cumsum(step**2 * beyond, axis=-1)
        return xp.concatenate([xp.zeros_like(walked[..., :1]), walked], axis=-1)

    back = np.argsort(fit.turn) if xp is np else xp.argsort(fit.turn)

    def multiply(turned: Array) -> Array:
        links = turned[..., back]
        walked = walk(links)
        seen = chain.difference(chain.rows(_respond(fit, walked), walked[..., fit.pins]))
        noisy = _scaled(variance, chain.places(chain.spread(links))[0])
        return (seen + fit.factor**2 * chain.difference(chain.rows(noisy)))[..., fit.turn]

    links = banded.solve_with(factor, multiply, right)[..., back]
    spectrum = walk(links)
    if fit.pins.shape[0]:
        level = -spectrum[..., fit.pins[0]]
    else:
        total = chain.places(chain.total)[0]
        missing = sums.pull - _scaled(sums.precision, _respond(fit, spectrum))
        weight = (total * _scaled(sums.precision, total)).sum()
        level = (missing * total).sum(axis=(-2, -1)) / weight
    spectrum = spectrum + level[..., None]
    return spectrum, _respond(fit, spectrum, fit.model_response)


def fitted_amplitudes(fit: SpectrumFit, sums: ColumnSums) -> Array:
    """Amplitudes by which a fit explains its pixels; zero in columns that it does not listen to.

    Parameters
    ----------
    fit : SpectrumFit
    sums : ColumnSums

    Returns
    -------
    array, (..., order, disp)
    """
    chain = _Chain(fit)
    listed = chain.places(chain.xp.ones(fit.chain.shape[0]))[0]
    return _respond(fit, fit_spectrum(fit, sums)[0]) * listed


def smoothed_amplitudes(fit: SpectrumFit, sums: ColumnSums, solved: Solver) -> Array:
    """Amplitudes of :func:`fitted_amplitudes`, however little smoothness counts.

    What the pixels of a column say, moved by what smoothness asks for: where this is next to
    nothing, the response to a spectrum that follows all noise would be lost in rounding.

    Parameters
    ----------
    fit : SpectrumFit
    sums : ColumnSums
    solved : Solver
        Of the fit and the precision of the sums, on the host.

    Returns
    -------
    array, (..., order, disp)
        Zero where an order is not fitted.
    """
    chain = _Chain(fit)
    right = link_values(fit, solved.variance, sums.pull)
    links = banded.solve(solved.factor, right)[..., np.argsort(fit.turn)]
    asked = chain.places(chain.spread(links))[0]
    moved = fit.factor**2 * _scaled(solved.variance, asked)
    found: Array = _scaled(solved.variance, sums.pull) - moved
    return found


class AmplitudeCovariance(NamedTuple):
    """How well the amplitudes of a column are known, by :func:`amplitude_covariance`.

    Attributes
    ----------
    posterior : ndarray, (order, order, disp)
        Given that the spectrum is a random walk of the size that the factor stands for. Also the
        derivative of the amplitudes of a column with respect to :attr:`ColumnSums.pull` there.
    sampling : ndarray, (order, order, disp)
        By the noise of the pixels alone.
    """

    posterior: HostArray
    sampling: HostArray


def amplitude_covariance(
    fit: SpectrumFit, precision: HostArray, prepared: Equations | None = None
) -> AmplitudeCovariance:
    """Covariance of the amplitudes of different orders in the same column.

    Parameters
    ----------
    fit : SpectrumFit
        On the host.
    precision : ndarray, (order, order, disp)
        Of :class:`ColumnSums`.
    prepared : Equations, optional
        Of the fit.

    Returns
    -------
    AmplitudeCovariance
        Zero where an order is not fitted, or has no pixels.
    """
    variance = column_variance(fit, precision)
    prepared = prepared or fit.equations
    factor = float(fit.factor)
    step = 1e-3
    here, up, down = (
        _posterior(fit, variance, prepared, factor * np.exp(s)) for s in (0.0, step, -step)
    )
    # what the smoothness adds to the pixels' own information is a derivative by its weight
    return AmplitudeCovariance(here, here + 0.25 * (up - down) / step)


def _posterior(
    fit: SpectrumFit, variance: HostArray, prepared: Equations, factor: float
) -> HostArray:
    inverse = banded.inverse_band(prepared.factorise(variance, factor))
    chain = _Chain(fit)
    links = fit.chain.shape[0] - 1
    back = np.append(np.argsort(fit.turn), links)
    inverse = np.pad(inverse, ((0, 0), (0, 1)))
    many, disp = fit.response.shape[:2]
    position = np.asarray(fit.position)[: many * disp].reshape(many, disp)
    ends = [_ends(chain, row, links) for row in position]
    spread = np.zeros((many, many, disp))
    for o, p in np.ndindex(many, many):
        for a, share_a in ends[o]:
            for b, share_b in ends[p]:
                i, j = back[a], back[b]
                # links of columns that no order shares are never asked for
                depth = np.minimum(np.abs(i - j), fit.width)
                spread[o, p] += share_a * share_b * inverse[depth, np.minimum(i, j)]
    gained = np.einsum("oqx,qrx,rpx->opx", variance, spread, variance)
    return variance - factor**2 * gained

"""Estimates of the flux of bad pixels from their neighbours.

Both algorithms are those described for the pixel replacement step of the JWST calibration
pipeline (https://jwst-pipeline.readthedocs.io), written for whole arrays: any number of leading
axes, no search that depends on values, so that they run under ``jit``, ``grad`` and ``vmap``.
In NumPy, where array indices may depend on data, only the pixels that need it are computed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import NamedTuple

import numpy as np

from spec2fn.dq import PIXEL
from spec2fn.kernels.interpolation_linear import bridge_rows
from spec2fn.kernels.namespace import array_namespace, safe_divide, safe_sqrt
from spec2fn.kernels.statistics import masked_median
from spec2fn.typing import Array, Arrays, HostArray

__all__ = ["fit_profile", "from_model", "map_planes", "minimum_gradient"]

_SIGNIFICANT = 5.0
_OVERFLOW = 1e20


def map_planes(function: Callable[..., Array], *planes: Arrays) -> dict[str, Array]:
    """Apply a function to every plane, together with those of the same name of others."""
    return {name: function(*(p[name] for p in planes)) for name in planes[0]}


def _bit(dq: Array, name: str) -> Array:
    return np.asarray(PIXEL[name], dtype=dq.dtype)


def _has(dq: Array, name: str) -> Array:
    return (dq & _bit(dq, name)) != 0


def _replaced_flags(dq: Array, replaced: Array) -> Array:
    """Flags with ``FLUX_ESTIMATED``, and without ``DO_NOT_USE`` but in ``NON_SCIENCE`` pixels."""
    xp = array_namespace(dq, replaced)
    usable = xp.where(_has(dq, "NON_SCIENCE"), dq, dq & ~_bit(dq, "DO_NOT_USE"))
    return xp.where(replaced, usable | _bit(dq, "FLUX_ESTIMATED"), dq)


def _crop(mask: HostArray) -> tuple[slice, slice] | None:
    """The smallest rectangle that holds all true pixels of a NumPy mask."""
    plane = np.any(mask, axis=tuple(range(mask.ndim - 2)))
    rows, columns = np.flatnonzero(plane.any(axis=1)), np.flatnonzero(plane.any(axis=0))
    if rows.size == 0:
        return None
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


@np.errstate(over="ignore", invalid="ignore")  # overflowing errors become infinite
def minimum_gradient(planes: Arrays, size: tuple[Array, Array] | None = None) -> Arrays:
    """Replace pixels that are not finite by the mean of two neighbours.

    The two neighbours along x or along y are taken, whichever differ less; if one pair is not
    finite, the other. A pixel without a finite pair, and
    the outermost pixels (two at the start, one at the end of each axis), stay as they are.

    Parameters
    ----------
    planes : mapping of array, (…, y, x)
        ``sci``, ``dq``, ``err`` and any variances; errors are averaged as standard errors.
    size : tuple of (…) int, optional
        True height and width of images that are padded at their ends; they broadcast against
        the leading axes.

    Returns
    -------
    mapping of array
        ``FLUX_ESTIMATED`` set where a value was estimated, and ``DO_NOT_USE`` cleared there
        unless the pixel is ``NON_SCIENCE``.
    """
    sci = planes["sci"]
    ny, nx = sci.shape[-2:]
    if min(ny, nx) < 4:
        return planes
    xp = array_namespace(*planes.values())
    if xp is not np:
        return _gradient_dense(planes, xp, size)
    finite = np.isfinite(sci)
    box = _crop(finite)
    if box is None:
        return planes
    inner = tuple(
        slice(max(b.start, 2), min(b.stop, n - 1)) for b, n in zip(box, (ny, nx), strict=True)
    )
    *lead, y, x = np.nonzero(_between_finite(finite, *inner))
    y, x = y + inner[0].start, x + inner[1].start
    if size is not None:
        height, width = (np.broadcast_to(n, sci.shape[:-2])[tuple(lead)] for n in size)
        kept = (y < height - 1) & (x < width - 1)
        lead, y, x = [i[kept] for i in lead], y[kept], x[kept]

    def pairs(a: Array) -> tuple[Array, Array, Array, Array]:
        return a[*lead, y, x - 1], a[*lead, y, x + 1], a[*lead, y - 1, x], a[*lead, y + 1, x]

    def change(a: Array, values: Array) -> Array:
        out = a.copy()
        out[*lead, y, x] = np.where(usable, values, a[*lead, y, x])
        return out

    along_y, usable = _choose(*pairs(sci))
    flags = change(planes["dq"], _replaced_flags(planes["dq"][*lead, y, x], usable))
    return _averaged(planes, flags, along_y, pairs, change)


def _between_finite(finite: Array, y: slice, x: slice) -> Array:
    """Pixels of a window that are not finite, but both neighbours along x or y are."""

    def moved(dy: int, dx: int) -> Array:
        return finite[..., y.start + dy : y.stop + dy, x.start + dx : x.stop + dx]

    pair = moved(0, -1) & moved(0, 1)
    pair |= moved(-1, 0) & moved(1, 0)
    return pair & ~moved(0, 0)


def _choose(left: Array, right: Array, down: Array, up: Array) -> tuple[Array, Array]:
    xp = array_namespace(left)
    infinity = xp.asarray(np.inf, left.dtype)
    along_x, along_y = xp.abs(left - right), xp.abs(down - up)
    along_x = xp.where(xp.isnan(along_x), infinity, along_x)
    along_y = xp.where(xp.isnan(along_y), infinity, along_y)
    return along_y < along_x, xp.isfinite(along_x) | xp.isfinite(along_y)


def _mean(along_y: Array, left: Array, right: Array, down: Array, up: Array) -> Array:
    xp = array_namespace(along_y, left)
    return xp.where(along_y, (down + up) / 2, (left + right) / 2)


def _square(a: Array) -> Array:
    # NaN squared has the derivative NaN, even where the result is not used
    xp = array_namespace(a)
    missing = xp.isnan(a)
    known = xp.where(missing, np.zeros((), a.dtype), a)
    return xp.where(missing, np.asarray(np.nan, a.dtype), known * known)


def _gradient_dense(planes: Arrays, xp: ModuleType, size: tuple[Array, Array] | None) -> Arrays:
    ny, nx = planes["sci"].shape[-2:]
    inner = [(0, 0)] * (planes["sci"].ndim - 2) + [(2, 1), (2, 1)]

    def pairs(a: Array) -> tuple[Array, Array, Array, Array]:
        left, right, down, up = a[..., 1:-2], a[..., 3:], a[..., 1:-2, 2:-1], a[..., 3:, 2:-1]
        return left[..., 2:-1, :], right[..., 2:-1, :], down, up

    along_y, usable = _choose(*pairs(planes["sci"]))
    replaced = xp.pad(usable, inner) & ~xp.isfinite(planes["sci"])
    if size is not None:
        height, width = (xp.asarray(n)[..., None, None] for n in size)
        inside = (np.arange(ny)[:, None] < height - 1) & (np.arange(nx) < width - 1)
        replaced = replaced & inside

    def change(a: Array, values: Array) -> Array:
        return xp.where(replaced, xp.pad(values, inner), a)

    flags = _replaced_flags(planes["dq"], replaced)
    return _averaged(planes, flags, along_y, pairs, change)


def _averaged(
    planes: Arrays,
    dq: Array,
    along_y: Array,
    pairs: Callable[[Array], Sequence[Array]],
    change: Callable[[Array, Array], Array],
) -> Arrays:
    """Planes of which `change` replaces pixels by the means of their `pairs` of neighbours."""

    def mean(name: str, a: Array) -> Array:
        if name in ("sci", "err"):
            return change(a, _mean(along_y, *pairs(a)))
        return change(a, _square(_mean(along_y, *(safe_sqrt(p) for p in pairs(a)))))

    return {name: dq if name == "dq" else mean(name, a) for name, a in planes.items()}


def from_model(planes: Arrays, model: Array, dispaxis: int) -> Arrays:
    """Replace pixels that are not finite by a model.

    Parameters
    ----------
    planes : mapping of array, (…, y, x)
        ``sci``, ``dq``, ``err`` and any variances.
    model : array, (…, y, x)
        Broadcasts against them; NaN where there is none.
    dispaxis : {1, 2}
        Dispersion along x or y, along which errors are interpolated, as standard errors.

    Returns
    -------
    mapping of array
        Replaced pixels carry ``FLUX_ESTIMATED`` and no longer ``DO_NOT_USE``. A pixel whose
        error is not known, because its line along the dispersion has none, stays as it is.
    """
    sci, dq = planes["sci"], planes["dq"]
    xp = array_namespace(model, *planes.values())
    wanted = ~xp.isfinite(sci) & xp.isfinite(model)

    def between(a: Array) -> Array:
        along = a if dispaxis == 2 else a.swapaxes(-1, -2)
        good = xp.isfinite(a) & ~wanted
        good = good if dispaxis == 2 else good.swapaxes(-1, -2)
        out = bridge_rows(along, good, xp.arange(along.shape[-2]))
        return out if dispaxis == 2 else out.swapaxes(-1, -2)

    errors = {name: a for name, a in planes.items() if name not in ("sci", "dq")}
    known = {
        name: between(a) if name == "err" else _square(between(safe_sqrt(a)))
        for name, a in errors.items()
    }
    replaced = wanted
    for a in known.values():
        replaced = replaced & xp.isfinite(a)
    flags = (dq & ~_bit(dq, "DO_NOT_USE")) | _bit(dq, "FLUX_ESTIMATED")
    return {
        "sci": xp.where(replaced, model.astype(sci.dtype), sci),
        "dq": xp.where(replaced, flags, dq),
        **{name: xp.where(replaced, known[name], a) for name, a in errors.items()},
    }


@np.errstate(over="ignore", invalid="ignore")
def fit_profile(planes: Arrays, dispaxis: int, n_adjacent: int) -> Arrays:
    """Replace bad pixels by the median spatial profile of adjacent columns, scaled to their own.

    The profiles of up to `n_adjacent` columns on either side are divided by their largest
    absolute value (unless nothing in them exceeds five standard errors), their median is taken,
    and scaled to the good pixels of the column: the scale is the exact minimum of
    ``sum((|c| - s |m|)**2)``, `c` being the column in units of its largest value and `m` the
    median profile. Errors get the median of the adjacent errors with the same scales.

    Parameters
    ----------
    planes : mapping of array, (…, y, x)
        As above.
    dispaxis : {1, 2}
        Dispersion along x or along y.
    n_adjacent : int
        Columns on either side; a "column" runs across the dispersion.

    Returns
    -------
    mapping of array
        Pixels with ``DO_NOT_USE`` and without ``NON_SCIENCE``, in columns and within the rows
        that hold good pixels, carry an estimate and ``FLUX_ESTIMATED`` instead; they become NaN
        if no adjacent column has a good pixel in that row.
    """
    if array_namespace(*planes.values()) is np:
        box = _crop(~_has(planes["dq"], "DO_NOT_USE"))
        if box is None:
            return planes
        inner = map_planes(lambda a: a[(..., *box)], planes)
        fitted = _across(_fit(_across(inner, dispaxis), n_adjacent), dispaxis)

        def put(old: Array, new: Array) -> Array:
            out = old.copy()
            out[(..., *box)] = new
            return out

        return map_planes(put, planes, fitted)
    return _across(_fit(_across(planes, dispaxis), n_adjacent), dispaxis)


def _across(planes: Arrays, dispaxis: int) -> Arrays:
    # the last axis is the dispersion from here on
    return map_planes(lambda a: a.swapaxes(-1, -2), planes) if dispaxis == 2 else planes


class _Neighbours(NamedTuple):
    """What the median over adjacent columns needs to know, padded along the dispersion."""

    usable: Array  # (…, row, column + 2 n) pixel of a column that may lend its profile
    peak: Array  # (…, 1, column + 2 n) largest absolute value of the column
    faint: Array  # (…, 1, column) nothing significant among the neighbours: no normalisation
    n: int

    def median(
        self, values: Array, mask: Array, at: tuple[HostArray, ...] | None = None
    ) -> tuple[Array, Array]:
        """Median of `values` of the adjacent columns, everywhere or at NumPy indices `at`."""
        xp = array_namespace(values)
        padded, mask = _pad(values, self.n), self.usable & _pad(mask, self.n)
        offsets = [k for k in range(2 * self.n + 1) if k != self.n]
        width = values.shape[-1]
        faint = self.faint if at is None else self.faint[(*at[:-2], 0, at[-1])]
        zero, one = np.zeros((), values.dtype), np.ones((), values.dtype)
        stack, masks = [], []
        for k in offsets:
            if at is None:
                window = (..., slice(k, k + width))
                v, m, p = padded[window], mask[window], self.peak[window]
            else:
                there = at[-1] + k
                v, m = padded[(*at[:-1], there)], mask[(*at[:-1], there)]
                p = self.peak[(*at[:-2], 0, there)]
            m = m & (faint | (p > 0))
            stack.append(xp.where(m, v, zero) / xp.where(faint | (p <= 0), one, p))
            masks.append(m)
        return masked_median(stack, masks)


def _pad(a: Array, n: int) -> Array:
    xp = array_namespace(a)
    return xp.pad(a, [(0, 0)] * (a.ndim - 1) + [(n, n)])


def _near(flags: Array, n: int) -> Array:
    """Whether any of the adjacent columns is flagged."""
    padded, width = _pad(flags, n), flags.shape[-1]
    out = padded[..., :width]
    for k in range(1, 2 * n + 1):
        if k != n:
            out = out | padded[..., k : k + width]
    return out


def _neighbours(sci: Array, err: Array, good: Array, valid: Array, n: int) -> _Neighbours:
    xp = array_namespace(sci, err, good)
    usable = good & valid & xp.isfinite(sci)
    zero = np.zeros((), sci.dtype)
    size = xp.where(usable, xp.abs(sci), zero)
    peak = xp.max(size, axis=-2, keepdims=True)
    # |x| > 5 err, without dividing by errors that may be zero
    known = usable & ~xp.isnan(err) & ((size > 0) | (err != 0))
    bright = known & (size >= np.asarray(_SIGNIFICANT, sci.dtype) * xp.abs(err))
    any_known = _near(xp.any(known, axis=-2, keepdims=True), n)
    faint = any_known & ~_near(xp.any(bright, axis=-2, keepdims=True), n)
    return _Neighbours(_pad(good & valid, n), _pad(peak, n), faint, n)


def _within(flags: Array) -> Array:
    """True from the first to the last true row."""
    xp = array_namespace(flags)
    count = xp.cumsum(flags.astype(xp.int32), axis=-2)
    total = count[..., -1:, :]
    return (count > 0) & ((count < total) | flags)


def _fit(planes: Arrays, n: int) -> Arrays:
    sci, dq = planes["sci"], planes["dq"]
    xp = array_namespace(*planes.values())
    unusable, non_science = _has(dq, "DO_NOT_USE"), _has(dq, "NON_SCIENCE")
    rows = _within(xp.any(~unusable, axis=-1, keepdims=True))
    bad = unusable & ~non_science & rows
    valid = xp.any(~unusable & ~non_science & rows, axis=-2, keepdims=True)
    near = _neighbours(sci, planes["err"], ~unusable & rows, valid, n)
    own = ~unusable & rows & xp.isfinite(sci)
    fitted = (
        valid
        & xp.any(bad, axis=-2, keepdims=True)
        & _near(valid, n)
        & xp.any(own, axis=-2, keepdims=True)
    )
    changed = bad & fitted

    # variances are averaged as standard errors; NaN has no part in a median
    errors = [name for name in planes if name not in ("sci", "dq")]
    sigmas = {k: planes[k] if k == "err" else safe_sqrt(planes[k]) for k in errors}
    (median, found), widths, at = _medians(near, sci, sigmas, changed)
    scale = _scale(sci, own, median, found, near.faint)
    replaced = changed & found
    value = (median.astype(scale.dtype) * scale).astype(sci.dtype)
    blank = unusable & rows & fitted
    nan = np.asarray(np.nan, sci.dtype)

    def estimate(name: str) -> Array:
        old, (middle, has) = planes[name], widths[name]
        s = scale if at is None else scale[(*at[:-2], 0, at[-1])]
        new = (middle.astype(s.dtype) * s) ** (1 if name == "err" else 2)
        new = xp.where(has, new, np.asarray(np.nan, s.dtype)).astype(old.dtype)
        if at is None:
            return xp.where(changed, new, old)
        out = old.copy()
        out[at] = new
        return out

    return {
        "sci": xp.where(replaced, value, xp.where(blank, nan, sci)),
        "dq": _replaced_flags(dq, replaced),
        **{name: estimate(name) for name in errors},
    }


def _medians(
    near: _Neighbours, sci: Array, sigmas: Arrays, changed: Array
) -> tuple[tuple[Array, Array], dict[str, tuple[Array, Array]], tuple[HostArray, ...] | None]:
    """Medians of values everywhere (they are fitted), of errors where they are needed."""
    xp = array_namespace(sci, changed, *sigmas.values())
    zero = np.zeros((), sci.dtype)

    def median(values: Array, at: tuple[HostArray, ...] | None = None) -> tuple[Array, Array]:
        known = xp.isfinite(values)
        return near.median(xp.where(known, values, zero), known, at)

    if xp is np:
        at = np.nonzero(changed)
        return median(sci), {k: median(a, at) for k, a in sigmas.items()}, at
    import jax

    # in one mapped call: compiling the network five times takes five times as long
    middle, found = jax.vmap(median)(xp.stack([sci, *sigmas.values()]))
    pairs = list(zip(middle, found, strict=True))
    return pairs[0], dict(zip(sigmas, pairs[1:], strict=True)), None


def _scale(sci: Array, own: Array, median: Array, found: Array, faint: Array) -> Array:
    """What brings the median profile to the column it is fitted to, float64 (…, 1, column)."""
    xp = array_namespace(sci, own, median)
    zero = np.zeros((), sci.dtype)
    low = np.asarray(-np.inf, sci.dtype)
    peak = xp.max(xp.where(own, sci, low), axis=-2, keepdims=True)
    has_peak = xp.any(own, axis=-2, keepdims=True) & (peak != 0)
    peak = xp.where(has_peak, peak, np.ones((), sci.dtype))
    column = xp.abs(xp.where(own, sci, zero) / peak)
    profile = xp.where(own & found, xp.abs(median), zero)
    limit = np.asarray(_OVERFLOW, sci.dtype)
    tame = xp.all((profile < limit) & (column < limit), axis=-2, keepdims=True)
    tame = tame & has_peak & xp.any(own & found, axis=-2, keepdims=True)
    p = xp.where(tame, profile, zero).astype(xp.float64)
    c = xp.where(tame, column, zero).astype(xp.float64)
    square = xp.sum(p * p, axis=-2, keepdims=True)
    ratio = safe_divide(xp.sum(p * c, axis=-2, keepdims=True), square, square > 0, fill=1.0)
    full = ratio * xp.abs(peak).astype(xp.float64)
    return xp.where(tame & ~faint, full, np.ones((), np.float64))

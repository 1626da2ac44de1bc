"""Host-side half of the residual fringe correction: which columns have which fringes.

The spectrum of a slice runs along detector columns. For every column of every slice the planner
decides whether there is signal, which pixels are spectral lines, where the knots of the continuum
are, and how many fringes of which period stand out (algorithm: Kavanagh et al., residual fringe
correction of the JWST calibration pipeline, https://jwst-pipeline.readthedocs.io). All columns go
through each stage together.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from spec2fn.dq import Pixel
from spec2fn.errors import DatasetError, ReferenceError
from spec2fn.host.continuum import (
    FEWEST_PERIODS,
    USABLE_WEIGHT,
    envelope,
    extrema,
    find_knots,
    fit_baseline,
    flag_lines,
    reject_runaways,
)
from spec2fn.host.sine_search import (
    Evidence,
    FringeSearch,
    Sines,
    find_fringes,
    sincos_turns,
)
from spec2fn.plan_base import Plan, array
from spec2fn.typing import Array, Arrays

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["FringeBlock", "FringeStage", "ResidualFringePlan", "plan_columns"]


EVIDENCE = Evidence(13.0, (0.001, 10.0))
FEWEST_PIXELS = 50
LEAST_SNR = 10.0  # of a pixel
LEAST_WEIGHT = 0.003
SMOOTHING = 7  # [pixel], wide enough for the fringes of the dichroics
ROBUST_PERIOD = 1.5  # [1/cm]; shorter ones are fitted without reweighting
BATCH = 64  # columns whose waves are made at once
DER_SNR = 1.482602 / np.sqrt(6.0)  # Stoehr et al. 2008, ASP Conf. Ser. 394, 505

CORRECTED = "corrected"
SHORT = f"fewer than {FEWEST_PIXELS + 1} pixels in the slice"
FAINT = "signal-to-noise ratio below the limit of the reference"
PERIODS = f"shorter than {FEWEST_PERIODS} fringes"
ORDER = "wavenumbers are not monotonic"
WEIGHT = "too few usable pixels for the continuum"
NO_EVIDENCE = "no evidence of fringes"
NOT_SEARCHED = "no fringe to search in the reference"


class FringeBlock(Plan):
    """Columns with the same number of fringes of a kind.

    Attributes
    ----------
    columns : array of int, (n,)
        Positions in the list of columns.
    keep : array of bool, (n, y)
        Pixels to correct.
    continuum, weight, offset : array of float32, (n, y)
    waves : array of float32, (n, y, k)
    level : array of float32, (n,)
        See :func:`spec2fn.kernels.residual_fringe.fringe_model`.
    """

    columns: Array = array("column")
    keep: Array = array("column y")
    continuum: Array = array("column y")
    weight: Array = array("column y")
    offset: Array = array("column y")
    waves: Array = array("column y wave")
    level: Array = array("column")


class FringeStage(Plan):
    """One kind of fringes.

    Attributes
    ----------
    blocks : tuple of FringeBlock
    source : array of int, (column,)
        Position of a column in the blocks, one after the other and counted from 1; 0: none.
    """

    blocks: tuple[FringeBlock, ...]
    source: Array = array("column")


class ResidualFringePlan(Plan):
    """Fringes of the columns of an exposure.

    Attributes
    ----------
    columns : array of int, (column,)
        Positions along x of the corrected columns of all slices.
    use : array of bool, (column, y)
        Pixels of the slice with positive flux.
    owner : array of int32, (y, x)
        Column by which a pixel is corrected, or -1.
    stages : tuple of FringeStage
        Fringes of the detector, then of the dichroics.
    outcome : tuple of (str, int)
        Numbers of columns by what became of them.
    table : mapping of str to array
        Every column of every slice: ``slice``, ``column``, ``outcome``, ``snr``, ``number`` and
        ``period`` [1/cm] of the first fringe (column, kind).
    images : mapping of str to array, or None
        ``weights`` and ``continuum`` (y, x), and ``knots``, if they were asked for.
    """

    columns: Array = array("column")
    use: Array = array("column y")
    owner: Array = array("y x")
    stages: tuple[FringeStage, ...]
    outcome: tuple[tuple[str, int], ...]
    table: Arrays = array("...")
    images: Arrays | None = array("...", default=None)


@dataclass(frozen=True, eq=False)
class _FringeTable:
    """The table of fringe periods, its rows by slice; and the highest amplitude by wavelength."""

    values: dict[str, Array]
    rows: dict[int, int]
    amplitude: tuple[Array, Array]

    @classmethod
    def of(cls, reference: xr.Dataset, band: str) -> _FringeTable:
        prefix = "rfc_freq_" + (band.lower() if band.lower() in ("short", "medium") else "long")
        names = ("slice", "ffreq", "dffreq", "max_nfringes", "min_snr", "pgram_res")
        limits = ("max_amp.wavelength", "max_amp.amplitude")
        lacking = [n for n in (*(f"{prefix}.{n}" for n in names), *limits) if n not in reference]
        if lacking:
            msg = (
                f"residual_fringe needs the columns {', '.join(lacking)} in the fringefreq"
                " reference, which has none; select another reference"
            )
            raise ReferenceError(msg)
        values = {n: np.asarray(reference[f"{prefix}.{n}"].values) for n in names}
        rows = {int(s): k for k, s in reversed(list(enumerate(values["slice"])))}
        wavelength, amplitude = (reference[n].values for n in limits)
        return cls(values, rows, (wavelength, amplitude))

    def search(self, row: int, kind: int) -> FringeSearch:
        names = ("ffreq", "dffreq", "pgram_res", "max_nfringes")
        period, half_range, step, most = (float(self.values[n][row, kind]) for n in names)
        robust = period > ROBUST_PERIOD
        return FringeSearch(period, half_range, int(most), step, robust, EVIDENCE)


def _planes(
    ds: xr.Dataset, ignored: Sequence[tuple[float, float]]
) -> tuple[Array, Array, Array, float]:
    """Data over their median (0 where unusable), whether they are bright, weights; the median."""
    first = {"integration": 0} if "integration" in ds.dims else {}
    sci, err, dq = (np.asarray(ds[v].isel(first).values) for v in ("sci", "err", "dq"))
    wavelength = np.asarray(ds["wavelength"].values)
    with np.errstate(invalid="ignore", divide="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # columns without data
        positive = sci[sci > 0]
        middle = np.median(positive) if positive.size else sci.dtype.type(1)
        unusable = ((dq & np.uint32(Pixel.DO_NOT_USE)) != 0) | ~np.isfinite(sci)
        data = np.where(unusable, 0, sci) / middle
        bright = sci / err > LEAST_SNR
        mean = np.nanmean(np.ascontiguousarray(sci.T), axis=1)
        weights = (sci / mean).astype(float)
    weights[np.isnan(weights) | (weights == np.inf)] = 0.0
    for low, high in ignored:
        weights[(wavelength > low) & (wavelength < high)] = 0.0
    return data, bright, weights, float(middle)


@dataclass(eq=False)
class _Columns:
    """Columns of the slices; every array is (column, y) or (column,)."""

    slices: Array
    x: Array
    rows: Array  # of the reference
    snr: Array
    data: Array
    inside: Array
    weight: Array
    usable: Array  # weight after lines are left out
    bright: Array
    limit: Array
    wavenumber: Array
    outcome: Array  # of str
    middle: float  # of the data before they were scaled

    def alive(self) -> Array:
        return np.flatnonzero(self.outcome == CORRECTED)


def plan_columns(
    ds: xr.Dataset,
    reference: xr.Dataset,
    ignored: Sequence[tuple[float, float]] = (),
    *,
    images: bool = False,
) -> ResidualFringePlan:
    """Find the fringes of the columns of an exposure.

    Parameters
    ----------
    ds : xarray.Dataset
        With ``sci``, ``err``, ``dq``, ``wavelength``, ``slice_id``; of several integrations the
        first one.
    reference : xarray.Dataset
        The ``fringefreq`` reference.
    ignored : sequence of (float, float)
        Ranges of wavelength left out of the fits [um].
    images : bool
        Keep weights, continuum and knots.

    Returns
    -------
    ResidualFringePlan

    Raises
    ------
    DatasetError
        Without data of a known band.
    ReferenceError
        If the reference lacks a column or a slice.
    """
    band = str(ds.attrs.get("band", ""))
    if not band:
        msg = (
            "residual_fringe needs the band of the MRS exposure (BAND: SHORT, MEDIUM or LONG),"
            " found none; set the attribute 'band'"
        )
        raise DatasetError(msg)
    table = _FringeTable.of(reference, band)
    columns = _select(ds, table, ignored)
    _leave_out_lines(columns)
    shape = (ds.sizes["y"], ds.sizes["x"])
    return _assemble(shape, columns, _search(columns, table), images=images)


def _select(
    ds: xr.Dataset, table: _FringeTable, ignored: Sequence[tuple[float, float]]
) -> _Columns:
    """Columns of all slices, in which wavenumbers off the slice are extrapolated."""
    image, bright, weights, middle = _planes(ds, ignored)
    labels = np.asarray(ds["slice_id"].values)
    slices, x = [], []
    for number in np.unique(labels[labels > 0]):
        if int(number) not in table.rows:
            msg = (
                f"residual_fringe needs slice {number} in the fringefreq reference, which has"
                f" {min(table.rows)} to {max(table.rows)}; select another reference"
            )
            raise ReferenceError(msg)
        count = np.count_nonzero(labels == number, axis=0)
        edges = np.flatnonzero(np.diff(count))
        if edges.size:
            inside = np.arange(edges.min(), edges.max() + 1)
            slices += [int(number)] * inside.size
            x += inside.tolist()
    rows = np.array([table.rows[s] for s in slices], dtype=int)
    at, of = np.array(x, dtype=int), np.array(slices, dtype=int)
    inside = labels.T[at] == of[:, None]
    wavelength = inside * np.asarray(ds["wavelength"].values).T[at]
    data = np.where(inside, image.T[at], 0.0).astype(float)
    valid = wavelength > 0
    outcome = np.where(valid.sum(axis=1) > FEWEST_PIXELS, CORRECTED, SHORT).astype(object)
    snr = np.zeros(len(at))
    for k in np.flatnonzero(outcome == CORRECTED):
        snr[k] = _der_snr(data[k, valid[k]])
        if snr[k] < table.values["min_snr"][rows[k], 0]:
            outcome[k] = FAINT
    weight = inside * weights.T[at]
    weight[weight <= 0] = 1e-8
    with np.errstate(divide="ignore"):
        wavenumber = 1e4 / wavelength
    columns = _Columns(
        of,
        at,
        rows,
        snr,
        data,
        inside,
        weight,
        weight.copy(),
        bright.T[at],
        2.0 * np.interp(wavelength, *table.amplitude),
        wavenumber,
        outcome,
        middle,
    )
    for k in columns.alive():
        columns.wavenumber[k] = _filled(wavenumber[k])
    return columns


def _der_snr(flux: Array) -> float:
    """Signal-to-noise ratio of a spectrum from differences of pixels two apart."""
    f = np.where(flux < 0, 1e-8, flux)
    noise = DER_SNR * np.nanmedian(np.abs(2.0 * f[2:-2] - f[:-4] - f[4:]))
    return float(np.nanmean(f) / noise) if noise != 0 else 0.0


def _filled(wavenumber: Array) -> Array:
    known = np.isfinite(wavenumber)
    if known.all():
        return wavenumber
    pixel = np.arange(wavenumber.size)
    cubic = np.polynomial.polynomial.polyfit(pixel[known], wavenumber[known], 3)
    return np.where(known, wavenumber, np.polynomial.polynomial.polyval(pixel, cubic))


def _leave_out_lines(columns: _Columns) -> None:
    alive = columns.alive()
    if not alive.size:
        return
    data = np.where(columns.data[alive] > 0, columns.data[alive], 1e-8)
    limit, weight = columns.limit[alive], columns.weight[alive]
    excess = np.abs(data / envelope(data, extrema(data)[0])) - 1.0
    usable = weight * flag_lines(excess * columns.bright[alive], limit)
    long = columns.slices[alive] >= 300
    if long.any():
        # fringes of the dichroics, of channels 3 and 4, hide broad features
        data = data[long]
        total = np.cumsum(np.pad(data, ((0, 0), (1, 0))), axis=1)
        smooth = (total[:, SMOOTHING:] - total[:, :-SMOOTHING]) / SMOOTHING
        nodes = np.zeros(data.shape, dtype=bool)
        nodes[:, : smooth.shape[1]] = extrema(smooth)[0]
        # published so: the smoothed values stand 3 pixels early, and the last one at the end
        values = np.pad(smooth, ((0, 0), (0, SMOOTHING - 1)), mode="edge")
        with np.errstate(divide="ignore"):
            excess = np.abs(data / envelope(values, nodes)) - 1.0
        usable[long] *= flag_lines(excess, limit[long])
    lonely = np.zeros(usable.shape, dtype=bool)
    for end, neighbour in ((0, 1), (-1, -2)):
        lonely[:, end] = usable[:, neighbour] == 0
    usable[lonely | (usable <= LEAST_WEIGHT)] = 1e-8
    columns.usable[alive] = usable


@dataclass(eq=False)
class _Fringes:
    """Fringes of one kind in the columns `at`."""

    at: Array
    wavenumber: Array  # scaled
    relative: Array
    continuum: Array
    knots: Array
    sines: Sines
    keep: Array


def _search(columns: _Columns, table: _FringeTable) -> list[list[_Fringes]]:
    """Search every kind of fringes; columns without drop out."""
    periods, least_snr = table.values["ffreq"], table.values["min_snr"]
    current = np.where(columns.data > 0, columns.data, 1e-8)
    fringes: list[list[_Fringes]] = []
    searched = np.zeros(len(columns.x), dtype=bool)
    for kind in range(periods.shape[1]):
        fringes.append([])
        alive = columns.alive()
        wanted = periods[columns.rows[alive], kind] > 1e-3
        wanted &= ~(columns.snr[alive] <= least_snr[columns.rows[alive], kind])
        alive = alive[wanted]
        searched[alive] = True
        searches = [(columns.slices[k] // 100, table.search(columns.rows[k], kind)) for k in alive]
        for one in dict.fromkeys(searches):
            at = alive[[s == one for s in searches]]
            part = _fit_kind(columns, current, at, one[1])
            if part is not None:
                fringes[kind].append(part)
                model = np.where(part.keep, part.sines.model, 0.0)
                new = current[part.at] / (1.0 + model)
                new = np.nan_to_num(new, nan=0.0, posinf=1e-8, neginf=1e-8)
                current[part.at] = np.where(new < 0, 1e-8, new)
    alive = columns.alive()
    columns.outcome[alive[~searched[alive]]] = NOT_SEARCHED
    return fringes


def _fit_kind(
    columns: _Columns, current: Array, at: Array, search: FringeSearch
) -> _Fringes | None:
    wavenumber = columns.wavenumber[at]
    extent = wavenumber.max(axis=1, initial=-np.inf) - wavenumber.min(axis=1, initial=np.inf)
    long = extent // search.period >= FEWEST_PERIODS
    columns.outcome[at[~long]] = PERIODS
    at, extent, wavenumber = at[long], extent[long], wavenumber[long]
    if not at.size:
        return None
    flux, usable = current[at], columns.usable[at]
    number = (extent / search.period).astype(int)
    knots = np.zeros(flux.shape, dtype=bool)
    for n in np.unique(number):
        same = number == n
        knots[same] = find_knots(flux[same], usable[same], int(n))
    scaled = wavenumber / wavenumber.min(axis=1, keepdims=True)
    continuum, possible = fit_baseline(flux, usable, scaled, knots, robust=search.robust)
    columns.outcome[at[~possible]] = ORDER
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.where(continuum != 0, flux / continuum, 0.0)
    relative = np.where(ratio != 0, ratio - 1.0, 0.0)
    relative = relative * np.where(columns.weight[at] > 1e-7, 1.0, 1e-8)
    relative[~(np.abs(relative) < 1e100)] = 0.0
    weights = usable * columns.bright[at]
    columns.usable[at] = weights
    go = np.flatnonzero(possible)
    sines = find_fringes(relative[go], weights[go], usable[go], wavenumber[go], search)
    some = sines.number > 0
    # without any continuum the published algorithm sees a flat spectrum, and may go on to the
    # next kind of fringes
    known = np.isfinite(continuum[go]).any(axis=1)
    columns.outcome[at[go[~some & known]]] = NO_EVIDENCE
    columns.outcome[at[go[~some & ~known]]] = WEIGHT
    go, sines = go[some], sines.take(some)
    if not go.size:
        return None
    rejected = reject_runaways(sines.model, columns.limit[at[go]])
    keep = ~rejected & (columns.weight[at[go]] > USABLE_WEIGHT)
    return _Fringes(at[go], scaled[go], relative[go], continuum[go], knots[go], sines, keep)


def _assemble(
    shape: tuple[int, int], columns: _Columns, fringes: list[list[_Fringes]], *, images: bool
) -> ResidualFringePlan:
    outcome, x, positive = columns.outcome.astype(str), columns.x, columns.data > 0
    done = outcome == CORRECTED
    place = np.cumsum(done) - 1
    use = positive[done]
    owner = np.full(shape, -1, dtype=np.int32)
    number, row = np.nonzero(use)
    owner[row, x[done][number]] = number
    period = np.full((outcome.size, len(fringes)), np.nan)
    numbers = np.zeros(period.shape, dtype=np.int32)
    pictures = {n: np.full(shape, np.nan) for n in ("continuum", "weights", "knots")}
    stages = []
    for kind, parts in enumerate(fringes):
        blocks: list[FringeBlock] = []
        for part in parts:
            at = part.at
            numbers[at, kind] = part.sines.number
            period[at, kind] = part.sines.periods[:, 0]
            kept = np.flatnonzero(done[at])
            blocks += _blocks(part, kept, place[at[kept]], use, columns.middle)
            if images:
                _paint(pictures, part, kept, x[at], positive[at], middle=columns.middle)
        source = np.zeros(use.shape[0], dtype=np.int32)
        if blocks:
            order = np.concatenate([b.columns for b in blocks])
            source[order] = np.arange(1, order.size + 1)
        stages.append(FringeStage(tuple(blocks), source))
    table = {
        "slice": columns.slices.astype(np.int32),
        "column": x.astype(np.int32),
        "outcome": outcome,
        "snr": columns.snr,
        "number": numbers,
        "period": period,
    }
    return ResidualFringePlan(
        x[done].astype(np.int32),
        use,
        owner,
        tuple(stages),
        tuple(sorted(Counter(outcome.tolist()).items())),
        table,
        pictures if images else None,
    )


def _paint(
    pictures: dict[str, Array], part: _Fringes, kept: Array, x: Array, use: Array, *, middle: float
) -> None:
    # of the last kind, as the official intermediate results
    columns = {
        "continuum": part.continuum * middle,
        "weights": part.sines.weights,
        "knots": part.knots.astype(float),
    }
    number, row = np.nonzero(use[kept])
    for name, values in columns.items():
        pictures[name][row, x[kept][number]] = values[kept][number, row]


def _blocks(
    fringes: _Fringes, kept: Array, place: Array, use: Array, middle: float
) -> list[FringeBlock]:
    """Columns sorted by their number of fringes, which sizes the arrays."""
    blocks = []
    number = fringes.sines.number[kept]
    for n in np.unique(number):
        rows = np.flatnonzero(number == n)
        pieces = [
            _block(fringes, kept[k], use[place[k]], middle, int(n))
            for k in np.split(rows, range(BATCH, rows.size, BATCH))
        ]
        arrays = [np.concatenate(a) for a in zip(*pieces, strict=True)]
        blocks.append(FringeBlock(place[rows].astype(np.int32), *arrays))
    return blocks


def _block(fringes: _Fringes, k: Array, use: Array, middle: float, n: int) -> tuple[Array, ...]:
    frequency = fringes.sines.parameters[k, 0, :n]
    continuum = fringes.continuum[k]
    fitted = use & (continuum > 0) & (fringes.sines.weights[k] > 1e-7)
    continuum = np.where(fitted, continuum, 0.0)
    weight = np.where(fitted, fringes.sines.weights[k], 0.0)
    sine, cosine = sincos_turns(frequency[:, :, None] * fringes.wavenumber[k][:, None])
    waves = np.concatenate([cosine, sine], axis=1)
    # orthonormal combinations; frequencies that hardly differ have fewer than two each
    normal = (waves * weight[:, None]) @ waves.swapaxes(1, 2)
    value, vector = np.linalg.eigh(normal)
    significant = (value > 1e-9 * value[:, -1:]) & (value > 0)
    scale = np.where(significant, 1.0 / np.sqrt(np.where(significant, value, 1.0)), 0.0)
    waves = ((vector * scale[:, None]).swapaxes(1, 2) @ waves).swapaxes(1, 2)
    relative = np.where(fitted, fringes.relative[k], 0.0)
    amplitude = np.einsum("jn,jnk->jk", weight * relative, waves)
    offset = fringes.sines.model[k] - np.einsum("jk,jnk->jn", amplitude, waves)
    power = weight * continuum**2
    total = power.sum(axis=1)
    own = (power * (1.0 + relative)).sum(axis=1)
    level = np.where(total > 0, own / np.where(total > 0, total, 1.0), 1.0)
    arrays = (continuum * middle, weight, offset, waves, level)
    return fringes.keep[k], *(a.astype(np.float32) for a in arrays)

"""Extraction apertures: from an ``extract1d`` reference to the weight of every pixel.

An aperture is given by the reference (start/stop limits, a width around the source trace, or
polynomial limits) and by the user's parameters. Conventions of the JWST ``extract1d`` reference
file (https://jwst-pipeline.readthedocs.io, "EXTRACT1D reference file"): start/stop limits are
inclusive pixel indices counted from 0; polynomial limits have 0 at the centre of a pixel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from dataclasses import replace as _replace
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np

from spec2fn.contents import number, truth
from spec2fn.errors import ReferenceError
from spec2fn.modes import Mode
from spec2fn.parameters import Parameters
from spec2fn.schema import described
from spec2fn.typing import HostArray

if TYPE_CHECKING:
    import xarray as xr

__all__ = [
    "Aperture",
    "aperture_weights",
    "select_aperture",
    "weighted_center",
]

Coefficients = tuple[tuple[float, ...], ...]
Limit: TypeAlias = float | HostArray

T = TypeVar("T")


@dataclass(frozen=True)
class Aperture:
    """Everything that defines an extraction, before it becomes weights.

    Attributes
    ----------
    xstart, xstop, ystart, ystop : float
        Limits, inclusive pixel indices.
    extract_width : float or None
        Width across the trace, around the trace or the middle of the limits.
    src_coeff, bkg_coeff : tuple of coefficient tuples or None
        Polynomial lower and upper limits in turn, constant term first.
    independent_var : str
        ``"pixel"`` or ``"wavelength"``.
    dispaxis : int
        1 along x, 2 along y.
    trace : array, (disp,) or None
        Position of the source across the trace, at every dispersion element.
    """

    xstart: float
    xstop: float
    ystart: float
    ystop: float
    dispaxis: int
    extract_width: float | None = None
    src_coeff: Coefficients | None = None
    bkg_coeff: Coefficients | None = None
    independent_var: str = "pixel"
    subtract_background: bool = False
    bkg_fit: str | None = None
    bkg_order: int = 0
    smoothing_length: int = 0
    use_source_posn: bool = False
    position_offset: float = 0.0
    extraction_type: str = "box"
    trace: HostArray | None = None

    def shifted(self, offset: float) -> Aperture:
        """Return the aperture moved by `offset` pixels across the trace."""

        def move(coefficients: Coefficients | None) -> Coefficients | None:
            if coefficients is None:
                return None
            return tuple((c[0] + offset, *c[1:]) for c in coefficients)

        changes: dict[str, Any] = {
            "src_coeff": move(self.src_coeff),
            "bkg_coeff": move(self.bkg_coeff),
        }
        names = ("ystart", "ystop") if self.dispaxis == 1 else ("xstart", "xstop")
        changes |= {name: getattr(self, name) + offset for name in names}
        if self.trace is not None:
            changes["trace"] = self.trace + offset
        return _replace(self, **changes)


def select_aperture(
    extract1d: xr.Dataset | None,
    shape: tuple[int, int],
    dispaxis: int,
    params: Parameters,
    *,
    slit_name: str,
    spectral_order: int,
    mode: Mode,
    point: bool,
    has_psf: bool,
) -> Aperture | str:
    """Merge the matching entry of an ``extract1d`` reference with the user's parameters.

    Without a reference, the whole image is summed. `slit_name` is matched with the ``id`` of the
    entries; ``"ANY"`` matches all. Apertures are not centred on extended sources by default.

    Returns
    -------
    Aperture or str
        A reason to skip, if the slit is listed but not this spectral order.

    Raises
    ------
    ReferenceError
        If the reference holds no apertures, no entry for the slit, or one that cannot be used.
    """
    full: dict[str, Any] = {"xstart": 0, "xstop": shape[1] - 1, "ystart": 0, "ystop": shape[0] - 1}
    if extract1d is None:
        return Aperture(**full, dispaxis=dispaxis)
    label = described(extract1d)
    entries = extract1d.attrs.get("tree", {}).get("apertures")
    if not isinstance(entries, (list, tuple)) or not all(hasattr(e, "get") for e in entries):
        msg = (
            f"extract_1d: {label} has no list of 'apertures'; use the JSON reference of this"
            " exposure type, or none at all"
        )
        raise ReferenceError(msg)
    named = [
        a
        for a in entries
        if a.get("id", "dummy") != "dummy"
        and (a["id"] in (slit_name, "ANY") or slit_name == "ANY")
        and a.get("region_type", "target") == "target"
    ]
    if not named:
        listed = ", ".join(str(a.get("id")) for a in entries) or "none"
        msg = (
            f"extract_1d: {label} has no target aperture for {slit_name!r}"
            f" (it has: {listed}); use a reference with this id or none at all"
        )
        raise ReferenceError(msg)
    for values in named:
        if values.get("spectral_order", spectral_order) in (spectral_order, "ANY"):
            entry = _Entry(values, label)
            aperture = _merge(entry, full, dispaxis, params)
            centred = _centred(entry, params.use_source_posn, mode, point=point)
            kind = params.extraction_type if has_psf else "box"
            if kind is None:
                kind = "optimal" if centred else "box"
            return _replace(aperture, use_source_posn=centred, extraction_type=kind)
    return f"the extract1d reference has no aperture for spectral order {spectral_order}"


@dataclass(frozen=True)
class _Entry:
    """One aperture of a reference, whose values are checked when they are read."""

    values: Mapping[str, Any]
    label: str

    def where(self, name: str) -> str:
        return f"extract_1d: {self.label}: aperture {self.values.get('id')!r}: {name!r}"

    def number(
        self, name: str, default: T, *, low: float = -np.inf, whole: bool = False
    ) -> float | T:
        value: float | None = self.values.get(name)
        if value is None:
            return default
        number(value, self.where(name), low=low, whole=whole)
        return value

    def choice(self, name: str, default: str, known: tuple[str, ...]) -> str:
        value = self.values.get(name, default)
        meant = [k for k in known if str(value).lower().startswith(k)]
        if not meant:
            msg = f"{self.where(name)} is {value!r}, needs {' or '.join(map(repr, known))}"
            raise ReferenceError(msg)
        return meant[0]

    def coefficients(self, name: str) -> Coefficients | None:
        lists = self.values.get(name)
        if lists is None:
            return None
        good = isinstance(lists, (list, tuple)) and all(isinstance(c, (list, tuple)) for c in lists)
        if not good or not lists or len(lists) % 2 or any(len(c) == 0 for c in lists):
            msg = (
                f"{self.where(name)} has {len(lists) if good else 'no'} coefficient lists; needs"
                " lower and upper limits in turn, none of them empty"
            )
            raise ReferenceError(msg)
        where = f"{self.where(name)}: a coefficient"
        return tuple(tuple(number(c, where) for c in row) for row in lists)


def _merge(entry: _Entry, full: Mapping[str, float], dispaxis: int, params: Parameters) -> Aperture:
    limits: dict[str, Any] = {name: entry.number(name, default) for name, default in full.items()}
    for start, stop in (("xstart", "xstop"), ("ystart", "ystop")):
        if limits[start] > limits[stop]:
            msg = (
                f"{entry.where(start)} is {limits[start]} and {stop!r} {limits[stop]}, needs them"
                " in order; correct the file or use another"
            )
            raise ReferenceError(msg)
    bkg_coeff = entry.coefficients("bkg_coeff")
    subtract = params.subtract_background
    if subtract is None:
        subtract = bkg_coeff is not None
    length = params.smoothing_length
    if length is None:
        length = entry.number("smoothing_length", 0, low=0)
    bkg_fit, bkg_order = _background(entry, params, subtract=subtract)
    return Aperture(
        **limits,
        dispaxis=dispaxis,
        extract_width=entry.number("extract_width", None, low=0),
        src_coeff=entry.coefficients("src_coeff"),
        bkg_coeff=bkg_coeff,
        independent_var=entry.choice("independent_var", "pixel", ("pixel", "wavelength")),
        subtract_background=subtract,
        bkg_fit=bkg_fit,
        bkg_order=bkg_order,
        smoothing_length=odd_length(length),
        position_offset=params.position_offset,
    )


def _centred(entry: _Entry, asked: bool | None, mode: Mode, *, point: bool) -> bool:
    """Whether the aperture is put on the source."""
    if asked is None and not point:
        return False
    if asked is None and entry.values.get("use_source_posn") is not None:
        asked = truth(entry.values["use_source_posn"], entry.where("use_source_posn"))
    return mode.source_position if asked is None else asked


def _background(entry: _Entry, params: Parameters, *, subtract: bool) -> tuple[str | None, int]:
    """How the background is fitted, and the order of its polynomial."""
    order = params.bkg_order
    if order is None:
        order = entry.number("bkg_order", 0, low=0, whole=True)
    fit = params.bkg_fit if subtract else None
    if subtract and fit is None:
        fit = entry.choice("bkg_fit", "poly", ("poly", "mean", "median"))
    return ("poly", 0) if fit == "mean" else (fit, int(order))


def odd_length(length: float) -> int:
    """Return a boxcar length that can be used: odd, or 0 (no smoothing) below 3."""
    n = round(length)
    return 0 if n < 3 else n - 1 + n % 2


def aperture_weights(
    aperture: Aperture, wavelength: HostArray, *, background: bool = False
) -> tuple[HostArray, float, float]:
    """Fraction of every pixel inside the aperture (or inside the background regions).

    In order of preference the limits come from polynomial coefficients, the width around the
    trace, the width around the middle of the limits, or the limits themselves.

    Parameters
    ----------
    aperture : Aperture
    wavelength : array of float64, (y, x)
        Independent variable of polynomial limits [um], if the reference says so.
    background : bool
        Weights of the background regions instead of the source aperture.

    Returns
    -------
    weights : array of float64, (y, x)
        From 0 to 1; whole pixels only for a median background.
    lower, upper : float
        Mean inclusive limits across the trace, counted from 0.
    """
    ny, nx = wavelength.shape
    index = np.arange(ny)[:, None] if aperture.dispaxis == 1 else np.arange(nx)[None, :]
    partial = not (background and aperture.bkg_fit == "median")
    weights = np.zeros((ny, nx))
    limits = _limits(aperture, wavelength, background=background)
    for lower, upper in limits:
        _include(weights, index, lower, upper, partial)
    # along the dispersion, limits are whole pixels
    start, stop, along = aperture.ystart, aperture.ystop, weights.T
    if aperture.dispaxis == 1:
        start, stop, along = aperture.xstart, aperture.xstop, weights
    along[:, : int(np.ceil(start))] = 0.0
    along[:, int(np.floor(stop)) + 1 :] = 0.0
    return weights, min(_mean(low) for low, _ in limits), max(_mean(high) for _, high in limits)


def _mean(limits: Limit) -> float:
    # pixels without a wavelength (or elements without a trace) have no limit
    values = np.asarray(limits, dtype=float)
    values = values[np.isfinite(values)]
    return float(values.mean()) if values.size else float("nan")


def _limits(
    aperture: Aperture, wavelength: HostArray, *, background: bool
) -> list[tuple[Limit, Limit]]:
    """Inclusive limits across the trace of every region."""
    along_x = aperture.dispaxis == 1
    coefficients = aperture.bkg_coeff if background else aperture.src_coeff
    if coefficients is not None:
        variable = np.asarray(wavelength, dtype=float)
        if not aperture.independent_var.startswith("wavelength"):
            variable = np.indices(wavelength.shape, dtype=float)[1 if along_x else 0]
        polyval = np.polynomial.polynomial.polyval
        pairs = zip(coefficients[::2], coefficients[1::2], strict=True)
        return [(polyval(variable, a) + 0.5, polyval(variable, b) - 0.5) for a, b in pairs]
    start, stop = aperture.xstart, aperture.xstop
    if along_x:
        start, stop = aperture.ystart, aperture.ystop
    width = aperture.extract_width
    if width is None:
        return [(start, stop)]
    middle: Limit = (start + stop) / 2.0
    if aperture.trace is not None:
        middle = aperture.trace[None, :] if along_x else aperture.trace[:, None]
    lower = middle - (width - 1.0) / 2.0
    return [(lower, lower + width - 1.0)]


def _include(
    weights: HostArray, index: HostArray, lower: Limit, upper: Limit, partial: bool
) -> None:
    """Add a region with inclusive limits to `weights` (in place); the larger weight wins."""
    full = weights.shape
    finite = np.isfinite(lower) & np.isfinite(upper)
    if not np.any(finite):
        return
    # most of a full-frame image is far from the aperture
    low = np.min(np.where(finite, lower, np.inf)) - 1.0
    high = np.max(np.where(finite, upper, -np.inf)) + 1.0
    near = np.flatnonzero((index.ravel() >= low) & (index.ravel() <= high))
    if len(near) == 0:
        return
    cut = slice(near[0], near[-1] + 1)
    part = (cut, slice(None)) if index.shape[0] > 1 else (slice(None), cut)
    weights, index = weights[part], index[part]
    lower = np.broadcast_to(np.asarray(lower, dtype=float), full)[part]
    upper = np.broadcast_to(np.asarray(upper, dtype=float), full)[part]
    weights[(index >= lower) & (index <= upper)] = 1.0
    if not partial:
        return
    for covered in (index - lower + 1.0, upper - index + 1.0):
        edge = (covered > 0) & (covered < 1) & (weights < covered)
        weights[edge] = covered[edge]


def weighted_center(weights: HostArray) -> tuple[float, float]:
    """Centre (row, column) of the positive weights of an image; of the image if there are none."""
    w = np.where(weights > 0, weights, 0.0)
    if not w.any():
        w = np.ones_like(w)
    by_row, by_column = w.sum(axis=1), w.sum(axis=0)
    return (
        float(np.average(np.arange(len(by_row)), weights=by_row)),
        float(np.average(np.arange(len(by_column)), weights=by_column)),
    )


def center_at(weights: HostArray, dispaxis: int, element: int) -> float:
    """Centre across the trace of the weights at one dispersion element."""
    line = weights[:, element] if dispaxis == 1 else weights[element, :]
    return weighted_center(np.asarray(line)[None, :])[1]


def mean_wavelength(weights: HostArray, wavelength: HostArray, dispaxis: int) -> HostArray:
    """Wavelength at every dispersion element, averaged with the weights of the aperture.

    NaN where no pixel of the aperture has one.
    """
    axis = 0 if dispaxis == 1 else 1
    across = np.flatnonzero((weights > 0).any(axis=1 - axis))
    if len(across):
        cut = slice(across[0], across[-1] + 1)
        part = (cut, slice(None)) if axis == 0 else (slice(None), cut)
        weights, wavelength = weights[part], wavelength[part]
    used = np.isfinite(wavelength) & (weights > 0)
    w = np.where(used, weights, 0.0)
    total = w.sum(axis=axis)
    mean = (w * np.where(used, wavelength, 0.0)).sum(axis=axis)
    return np.divide(mean, total, out=np.full(total.shape, np.nan), where=total > 0)


def polynomial_basis(n: int, order: int) -> HostArray:
    """Powers 0 … `order` of a coordinate that runs from -1 to 1 over `n` pixels."""
    return np.vander(np.linspace(-1.0, 1.0, n), order + 1, increasing=True)


def bounding_slices(masks: Sequence[HostArray]) -> tuple[int, int, int, int]:
    """Smallest window (row start, stop, column start, stop) that holds every True of `masks`."""
    used = np.logical_or.reduce(list(masks))
    rows = np.flatnonzero(used.any(axis=1))
    columns = np.flatnonzero(used.any(axis=0))
    if len(rows) == 0:
        return 0, 1, 0, 1
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1

"""Strategies of hypothesis for planes, flags, exposures and references.

Whatever is drawn contains what breaks calibration code in practice: NaN with and without flags,
infinities, zero and negative flats, rows without a single good pixel, negative counts. Shapes
come from a small pool, so that compiled functions are compiled a few times only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from spec2fn.dq import Pixel
from spec2fn.pieces import Pieces
from spec2fn.testing import exposures as _made
from spec2fn.typing import HostArray

if TYPE_CHECKING:
    import xarray as xr
    from hypothesis.strategies import DrawFn, SearchStrategy
    from numpy.typing import DTypeLike

    from spec2fn.pieces import Exposure

__all__ = [
    "SHAPES",
    "disturb",
    "exposures",
    "flags",
    "flats",
    "integers",
    "masks",
    "numbers",
    "planes",
    "scales",
    "shapes",
    "share",
]

SHAPES: tuple[tuple[int, ...], ...] = ((1, 1), (4, 3), (9, 6), (2, 9, 6))
"""The pool of shapes, ([integration,] y, x)."""

_STEPS = 64
"""Largest value that is drawn, in units of the smallest."""


def share(fraction: float, *, shrink: bool = False) -> settings:
    """Settings with a fraction of the profile's examples, at least 1: for expensive tests.

    Where seeds are drawn a smaller one is not simpler, and shrinking would only take time. The
    first example is always the simplest, seed 0.
    """
    phases = (Phase.explicit, Phase.reuse, Phase.generate, *((Phase.shrink,) if shrink else ()))
    return settings(max_examples=max(1, round(settings().max_examples * fraction)), phases=phases)


def shapes(ndim: int | None = None) -> SearchStrategy[tuple[int, ...]]:
    """Shapes of the pool; with `ndim`, only those of that many dimensions."""
    return st.sampled_from([s for s in SHAPES if ndim in (None, len(s))])


def scales() -> SearchStrategy[float]:
    """Positive factors over six orders of magnitude."""
    return st.floats(-3.0, 3.0).map(lambda e: float(np.float32(10.0**e)))


def planes(
    shape: tuple[int, ...],
    *,
    positive: bool = False,
    finite: bool = False,
    dtype: DTypeLike = np.float32,
) -> SearchStrategy[HostArray]:
    """Images of the given shape, every pixel of which is drawn.

    Their values are multiples of one power of two between 2**-14 and 2**6, at most 64 times it, so
    that sums of them are exact; a failing example shrinks to zeros and ones.

    Parameters
    ----------
    shape : tuple of int
    positive : bool
        As variances are; otherwise about half of the pixels are negative.
    finite : bool
        Leave out NaN and infinities.
    dtype : dtype
        A floating type.
    """
    special = [] if finite else [np.nan, np.inf] + ([] if positive else [-np.inf])
    values = np.arange(-_STEPS, _STEPS + 1 + len(special), dtype=np.float64)
    values[values.size - len(special) :] = special
    lowest = 0 if positive else -_STEPS
    codes = arrays(
        np.int16, shape, elements=st.integers(lowest, _STEPS + len(special)), fill=st.nothing()
    )

    def decode(drawn: tuple[HostArray, int]) -> HostArray:
        code, power = drawn
        return (values[code + _STEPS] * 2.0**power).astype(dtype)

    return st.tuples(codes, st.integers(-14, 6)).map(decode)


def numbers(
    shape: tuple[int, ...], lowest: float, highest: float, *, step: float
) -> SearchStrategy[HostArray]:
    """Arrays of float64 of multiples of a step between two multiples of it, ends included."""
    ends = round(lowest / step), round(highest / step)
    return integers(shape, *ends).map(lambda n: n * step)


def integers(shape: tuple[int, ...], lowest: int, highest: int) -> SearchStrategy[HostArray]:
    """Arrays of int64 of integers between two of them, ends included."""
    elements = st.integers(lowest, highest)
    return arrays(np.int64, shape, elements=elements, fill=st.nothing())


def masks(shape: tuple[int, ...]) -> SearchStrategy[HostArray]:
    """Boolean images of the given shape, every pixel of which is drawn."""
    return arrays(np.bool_, shape, elements=st.booleans(), fill=st.nothing())


@st.composite
def flags(draw: DrawFn, shape: tuple[int, ...]) -> HostArray:
    """Data-quality planes, uint32: single pixels, and often a row without a good pixel."""
    bits = (0, Pixel.JUMP_DET, Pixel.DO_NOT_USE, Pixel.DO_NOT_USE | Pixel.DEAD)
    elements = st.sampled_from([int(b) for b in bits])
    out = draw(arrays(np.uint32, shape, elements=elements, fill=st.nothing()))
    if draw(st.booleans()):
        out[..., draw(st.integers(0, shape[-2] - 1)), :] |= np.uint32(Pixel.DO_NOT_USE)
    return out


def disturb(ds: Exposure, seed: int, rows: int = 2, pixels: int = 20) -> Exposure:
    """Return an exposure, or its slits, with what goes wrong in exposures.

    Parameters
    ----------
    ds : xarray.Dataset or Slits
        With ``sci`` and ``err``, not modified.
    seed : int
    rows : int
        Rows without a good pixel.
    pixels : int
        Pixels of each kind: flagged NaN, infinite, zero, negative, zero variance.

    Returns
    -------
    xarray.Dataset or Slits
        A pixel that is NaN is flagged DO_NOT_USE, and the reverse, as in countrate files. The
        padding of slits stays as it is.
    """
    if isinstance(ds, Pieces):
        pieces = (_disturbed(p, seed + i, rows, pixels) for i, p in enumerate(ds.pieces))
        return ds.with_pieces(tuple(pieces))
    return _disturbed(ds, seed, rows, pixels)


def _disturbed(ds: xr.Dataset, seed: int, rows: int, pixels: int) -> xr.Dataset:
    from spec2fn.schema import PLANES, replace_data

    if "sci" not in ds:
        return _disturbed_spectra(ds, seed, pixels)
    rng = np.random.default_rng(seed)
    shape = ds["sci"].shape
    new: dict[str, Any] = {
        name: np.array(ds[name].data)
        for name, plane in PLANES.items()
        if name in ds and plane.kind in ("value", "variance") and ds[name].shape == shape
    }
    bottom, top = _lit_rows(ds)
    lines = rng.integers(bottom, top, rows)

    def some() -> tuple[HostArray, ...]:
        where = [rng.integers(0, n, pixels) for n in shape]
        where[-2] = rng.integers(bottom, top, pixels)
        return tuple(where)

    masked = np.isnan(np.asarray(ds["sci"].data))
    masked[..., lines, :] = True
    masked[some()] = True
    new["sci"][some()] = np.inf
    new["sci"][some()] = 0.0
    new["sci"][some()] *= -1
    for name, plane in PLANES.items():
        if name in new and plane.kind == "variance":
            new[name][some()] = 0.0
    for values in new.values():
        values[masked] = np.nan
    if "dq" in ds:  # a resampled spectrum has none
        new["dq"] = np.array(ds["dq"].data)
        new["dq"][masked] |= np.uint32(Pixel.DO_NOT_USE)
        jumps = np.zeros(shape, dtype=bool)
        jumps[some()] = True
        jumps &= (new["dq"] & np.uint32(Pixel.NON_SCIENCE)) == 0
        new["dq"][jumps] |= np.uint32(Pixel.JUMP_DET)
    return replace_data(ds, None, **new)


def _disturbed_spectra(ds: xr.Dataset, seed: int, points: int) -> xr.Dataset:
    """Spectra with as many points of each kind: without a value, zero, negative."""
    rng = np.random.default_rng(seed)
    flux = np.array(ds["flux"].data)

    def some() -> tuple[HostArray, ...]:
        return tuple(rng.integers(0, n, points) for n in flux.shape)

    flux[some()] = np.nan
    flux[some()] = 0.0
    flux[some()] *= -1
    return ds.assign(flux=(ds["flux"].dims, flux, ds["flux"].attrs))


def _lit_rows(ds: xr.Dataset) -> tuple[int, int]:
    # the wavelength of a cube belongs to its planes
    if "wavelength" not in ds or "y" not in ds["wavelength"].dims:
        return 0, int(ds.sizes["y"])
    lit = np.isfinite(np.asarray(ds["wavelength"].data))
    rows = np.nonzero(lit.reshape(-1, *lit.shape[-2:]).any((0, 2)))[0]
    return int(rows[0]), int(rows[-1]) + 1


@st.composite
def exposures(draw: DrawFn, mode: str | xr.Dataset) -> xr.Dataset:
    """Exposures of a mode, disturbed (see :func:`disturb`).

    `mode` is one of :data:`spec2fn.testing.exposures.EXP_TYPES`, or the exposure to disturb.
    """
    ds = _made.exposure(mode) if isinstance(mode, str) else mode
    rows = draw(st.integers(1, 4))
    return _disturbed(ds, draw(st.integers(0, 2**32 - 1)), rows, 20)


@st.composite
def flats(draw: DrawFn, exp_type: str) -> xr.Dataset:
    """Flat references of a mode with zero, negative and NaN pixels and rows."""
    flat = _made.references(exp_type)["flat"]
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    data = np.array(flat["sci"].data)
    for value in (0.0, -1.0, np.nan):
        data[rng.integers(0, data.shape[0], 50), rng.integers(0, data.shape[1], 50)] = value
    data[draw(st.integers(0, data.shape[0] - 1))] = 0.0
    return flat.assign(sci=(flat["sci"].dims, data))

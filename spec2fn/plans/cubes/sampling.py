"""What bands a cube holds, the size of its spaxels, and its planes in wavelength.

Source: JWST pipeline documentation, "cube_build", and the CUBEPAR reference file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from spec2fn.errors import InputError, ParameterError
from spec2fn.parameters import Parameters
from spec2fn.typing import HostArray

if TYPE_CHECKING:
    import xarray as xr

__all__ = [
    "Band",
    "CubeSampling",
    "Influence",
    "bands_of",
    "cube_name",
    "groups_of",
    "read_sampling",
]

_MOST_PLANES = 100_000  # no spectrograph has as many
# the tabulated radii are made for four dithers; one exposure needs larger ones
_FEW_EXPOSURES = 1.5
_RESOLUTION = {"prism": "prism", "m": "med", "h": "high"}


@dataclass(frozen=True)
class Band:
    """What an exposure can be divided into: channel and band, or grating and filter."""

    first: str  # channel "1" to "4", or grating
    second: str  # band, such as "short", or filter


@dataclass(frozen=True, eq=False)
class Influence:
    """Parameters of the Shepard weights, one value or one for each plane.

    Attributes
    ----------
    spatial, spectral : array
        Radius of the region of influence [arcsec], and half its depth [um].
    power, softening : array, optional
        Of the modified Shepard weights.
    scale : array, optional
        Of the exponential weights [arcsec].
    """

    spatial: HostArray
    spectral: HostArray
    power: HostArray | None = None
    softening: HostArray | None = None
    scale: HostArray | None = None

    def at(self, nearest: HostArray) -> Influence:
        """Values for each pixel, given the plane that is nearest to it."""
        known = ((name, v) for name, v in vars(self).items() if v is not None)
        return Influence(
            **{n: v[nearest] if v.ndim else np.broadcast_to(v, nearest.shape) for n, v in known}
        )


@dataclass(frozen=True, eq=False)
class CubeSampling:
    """Sampling of one cube, from the reference file and the user.

    Attributes
    ----------
    spaxel : float
        Size of a spaxel [arcsec].
    wavelength, lower, upper : (w,) float64
        Centre and edges of the planes [um].
    step : float, optional
        Spacing of linear planes [um]; None for a table of wavelengths.
    thickness : (w,) float64
        Distance to the next plane [um].
    influence : Influence, optional
        None for drizzle.
    """

    spaxel: float
    wavelength: HostArray
    lower: HostArray
    upper: HostArray
    thickness: HostArray
    step: float | None
    influence: Influence | None


def bands_of(ds: xr.Dataset, params: Parameters) -> list[Band]:
    """Return the bands of an exposure that are wanted, in the order of the cube.

    Parameters
    ----------
    ds : xarray.Dataset
        With the mode attributes.
    params : Parameters
        ``channel`` and ``band``, or ``grating`` and ``filter``; "all" for any. Several are
        separated by commas.

    Raises
    ------
    ParameterError
        If the exposure has none that is wanted, or a filter is given without a grating.
    """
    attrs = ds.attrs
    if attrs.get("instrument") == "MIRI":
        names = ("channel", "band")
        band = str(attrs.get("band", "")).lower()
        present = [Band(c, band) for c in sorted(str(attrs.get("channel", "")))]
    else:
        names = ("grating", "filter")
        present = [Band(*(str(attrs.get(n, "")).lower() for n in names))]
        given = [params[n].lower() != "all" for n in names]
        if any(given) and not all(given):
            missing = names[given.index(False)]
            msg = f"cube_build: grating and filter select together; give {missing} too"
            raise ParameterError(msg)

    def has(value: str, name: str) -> bool:
        asked = params[name].lower()
        return asked == "all" or value in (a.strip() for a in asked.split(","))

    found = [b for b in present if has(b.first, names[0]) and has(b.second, names[1])]
    if not found:
        asked = ", ".join(f"{n}={params[n]}" for n in names)
        has_these = ", ".join(f"{b.first} {b.second}" for b in present)
        msg = f"cube_build: {asked} selects nothing; this exposure has {has_these}"
        raise ParameterError(msg)
    return found


def groups_of(bands: Sequence[Band], output_type: str, instrument: str) -> list[list[Band]]:
    """Return the bands of each cube to be made.

    Parameters
    ----------
    bands : sequence of Band
    output_type : {"band", "channel", "grating", "multi"}
    instrument : {"MIRI", "NIRSPEC"}

    Raises
    ------
    ParameterError
        If the instrument has no such type of cube.
    """
    if output_type == "multi":
        return [list(bands)]
    if output_type == "channel" and instrument != "MIRI":
        msg = "cube_build: output_type='channel' is for MIRI; use 'band' or 'grating'"
        raise ParameterError(msg)
    if output_type == "grating" and instrument != "NIRSPEC":
        msg = "cube_build: output_type='grating' is for NIRSpec; use 'band' or 'channel'"
        raise ParameterError(msg)
    return [[b] for b in bands]


def cube_name(bands: Sequence[Band], instrument: str) -> str:
    """Return the name of a cube: ``ch1-short``, ``ch1-2-short``, ``g395h-f290lp``."""
    if instrument == "MIRI":
        channels = "-".join(dict.fromkeys(b.first for b in bands))
        return f"ch{channels}-" + "".join(sorted({b.second for b in bands}, reverse=True))
    return "-".join(f"{b.first}-{b.second}" for b in bands)


def _column(cubepar: xr.Dataset, table: str, column: str) -> HostArray:
    name = f"{table}.{column}"
    if name not in cubepar:
        reference = cubepar.attrs.get("filename", "the cubepar reference")
        tables = ", ".join(sorted({str(n).split(".")[0] for n in cubepar.data_vars}))
        msg = f"cube_build: {reference} has no {column!r} in table {table!r} (it holds {tables})"
        raise InputError(msg)
    return np.asarray(cubepar[name].values)


def _row(cubepar: xr.Dataset, table: str, band: Band, instrument: str) -> int:
    keys = ("channel", "band") if instrument == "MIRI" else ("disperser", "filter")
    text = [np.char.lower(np.char.strip(_column(cubepar, table, k).astype(str))) for k in keys]
    (rows,) = np.nonzero((text[0] == band.first) & (text[1] == band.second))
    if not rows.size:
        reference = cubepar.attrs.get("filename", "the cubepar reference")
        msg = (
            f"cube_build: table {table!r} of {reference} has no row for {band.first} {band.second}"
        )
        raise InputError(msg)
    return int(rows[-1])


def _multiband_table(bands: Sequence[Band], instrument: str, weighting: str) -> str:
    if instrument == "MIRI":
        return "multichannel_" + ("driz" if weighting == "drizzle" else weighting)
    grating = bands[-1].first
    resolution = _RESOLUTION[grating if grating == "prism" else grating[-1]]
    return f"multichan_{resolution}_{weighting}"


def read_sampling(
    cubepar: xr.Dataset,
    bands: Sequence[Band],
    instrument: str,
    params: Parameters,
) -> CubeSampling:
    """Return the sampling of a cube.

    Linear planes start at the lowest wavelength; those of a cube in the plane of the slicer go
    equally far beyond both ends of the range, and no radius of influence is needed for it.

    Raises
    ------
    InputError
        If the reference file lacks a table, a row, or a value.
    ParameterError
        If `wavelengths` does not ascend, or there are too few planes or too many.
    """
    internal = params.coord_system == "internal_cal"
    weighting = "drizzle" if internal else params.weighting
    linear = internal or (params.linear_wave and params.output_type != "multi")

    def values(column: str, table: str = "cubepar") -> HostArray:
        rows = [_row(cubepar, table, b, instrument) for b in bands]
        return _column(cubepar, table, column)[rows].astype(np.float64)

    sizes = values("spaxelsize")
    smallest = int(np.argmin(sizes))
    spaxel = float(params.scalexy or sizes[smallest])
    low = values("wavemin").min() if params.wavemin is None else params.wavemin
    high = values("wavemax").max() if params.wavemax is None else params.wavemax
    step, influence = None, None
    if linear:
        step = float(params.scalew or values("spectralstep")[0])
        if weighting != "drizzle":
            table = f"cubepar_{weighting}"
            influence = _influence(weighting, lambda c: values(c, table), params, smallest)
    else:
        table = _multiband_table(bands, instrument, weighting)
        wavelength = _column(cubepar, table, "wavelength").astype(np.float64)
        chosen = _table_range(wavelength, low, high)
        wavelength = wavelength[chosen]
        if weighting != "drizzle":
            influence = _influence(weighting, lambda c: _column(cubepar, table, c)[chosen])
    if params.wavelengths is not None:
        return _own_wavelengths(spaxel, params.wavelengths, influence)
    if step is not None:
        wavelength = _even_planes(low, high, step, centred=internal)
    if wavelength.size < 2:
        msg = f"cube_build: {wavelength.size} planes between {low} and {high} um; widen the range"
        raise ParameterError(msg)
    thickness = np.diff(wavelength, append=2 * wavelength[-1] - wavelength[-2])
    thickness[-1] = thickness[-2]
    # planes of a table reach half way to the next, and as far the other way
    lower = np.maximum.accumulate(wavelength - thickness / 2)
    upper = wavelength + thickness / 2
    return CubeSampling(spaxel, wavelength, lower, upper, thickness, step, influence)


def _even_planes(low: float, high: float, step: float, *, centred: bool) -> HostArray:
    if (high - low) / step > _MOST_PLANES:
        msg = (
            f"cube_build: {(high - low) / step:.3g} planes of {step:g} um between {low:g} and"
            f" {high:g} um; correct scalew, wavemin or wavemax"
        )
        raise ParameterError(msg)
    planes = math.ceil((high - low) / step)
    if centred:
        low = (low + high) / 2 - planes / 2 * step
    return low + step / 2 + np.arange(planes) * step


def _own_wavelengths(
    spaxel: float, wavelengths: Sequence[float], influence: Influence | None
) -> CubeSampling:
    own = np.asarray(wavelengths, dtype=np.float64)
    if own.size < 2 or not (np.diff(own) > 0).all():
        msg = "cube_build.wavelengths: needs at least 2 ascending wavelengths [um]"
        raise ParameterError(msg)
    ends = 1.5 * own[[0, -1]] - 0.5 * own[[1, -2]]
    edges = np.concatenate([ends[:1], (own[1:] + own[:-1]) / 2, ends[1:]])
    lower, upper = edges[:-1], edges[1:]
    if influence is not None and influence.spatial.ndim:
        influence = influence.at(np.full(own.size, influence.spatial.size // 2))
    return CubeSampling(spaxel, own, lower, upper, upper - lower, None, influence)


def _table_range(table: HostArray, low: float, high: float) -> slice:
    first, last = (int(np.abs(table - limit).argmin()) for limit in (low, high))
    if first > 1 and table[first] > low:
        first -= 1
    if last < table.size - 1 and high > table[last]:
        last += 1
    return slice(first, last + 1)


def _influence(
    weighting: str,
    column: Callable[[str], HostArray],
    params: Parameters | None = None,
    smallest: int = 0,
) -> Influence:
    """Return the parameters of the weights.

    With `params`, which overrule it, `column` gives the values of bands, of which `smallest` has
    the smallest spaxels; otherwise those of planes.
    """
    names = {"roispatial": "rois", "roispectral": "roiw", "power": "weight_power"}
    given = {} if params is None else {column: params[name] for column, name in names.items()}

    def value(name: str) -> HostArray:
        if given.get(name):
            return np.asarray(given[name], dtype=np.float64)
        values = np.asarray(column(name), dtype=np.float64)
        if params is not None:
            values = np.asarray(values[smallest] if name == "roispatial" else values.min())
        if name == "roispatial" and (params is None or weighting == "msm"):
            values = values * _FEW_EXPOSURES
        if not np.isfinite(values).any():
            msg = f"cube_build: the cubepar reference has no finite value of {name.upper()}"
            raise InputError(msg)
        return np.asarray(values)

    radii = value("roispatial"), value("roispectral")
    if weighting == "emsm":
        return Influence(*radii, scale=value("scalerad"))
    return Influence(*radii, power=value("power"), softening=value("softrad"))

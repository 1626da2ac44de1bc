"""Aperture losses of NIRSpec: which aperture a slit has, where sources and pixels stand."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.errors import ReferenceError
from spec2fn.host.interpolation import locate
from spec2fn.kernels.bands import by_rows
from spec2fn.kernels.namespace import array_namespace
from spec2fn.kernels.slit_corrections import bilinear_by_slit, interpolate_by_slit
from spec2fn.modes import mode_of
from spec2fn.plan_base import Plan, array, labels
from spec2fn.plans.flux.factors import Factor, extrapolates
from spec2fn.plans.flux.pathloss import cell_on, grid_axis
from spec2fn.plans.slits.slit_frame import chosen_types, is_point
from spec2fn.schema import described, meta_of
from spec2fn.slits import as_one_slit, strings
from spec2fn.typing import Array, HostArray, Number

if TYPE_CHECKING:
    import xarray as xr
    from numpy.typing import DTypeLike

    from spec2fn.parameters import Parameters

__all__ = ["SlitPathlossPlan", "Wavelengths", "plan_nirspec_ifu", "plan_nirspec_slits"]

_LOG = logging.getLogger("spec2fn.slits")


class Wavelengths(Plan):
    """Where the pixels of slits stand on the wavelengths of the reference.

    Attributes
    ----------
    points : array of float64, shape (slit, n)
        Wavelengths of the reference [um].
    index, covered : array, shape (slit, y, x)
        See :func:`spec2fn.host.interpolation.locate`.
    ends : array of float64, shape (slit, 2), optional
        With extrapolation: wavelengths beyond are taken to be these [um].
    """

    points: Array = array("slit knot")
    index: Array = array("slit y x")
    covered: Array = array("slit y x")
    ends: Array | None = array("slit 2", default=None)

    def on_pixels(self, vector: Array, wavelength: Array, dtype: DTypeLike) -> Array:
        """Interpolate the table of each slit; NaN where not covered."""
        xp = array_namespace(vector, wavelength)
        points = xp.asarray(self.points)
        missing = points.shape[1] - vector.shape[1]
        if missing > 0:
            vector = xp.pad(vector, ((0, 0), (0, missing)))
        ends = None if self.ends is None else xp.asarray(self.ends)[:, :, None, None]

        def correction(covered: Array, index: Array, wavelength: Array) -> Array:
            safe = xp.where(covered, wavelength, points[:, :1, None])
            if ends is not None:
                safe = xp.clip(safe, ends[:, 0], ends[:, 1])
            value = interpolate_by_slit(points, vector, index, safe)
            return xp.where(covered, value, xp.nan).astype(dtype)

        planes = (xp.asarray(self.covered), xp.asarray(self.index), wavelength)
        return by_rows(correction, points, vector)(*planes)


class SlitPathlossPlan(Plan):
    """Which aperture of the reference a slit has, and where its source stands in it.

    Attributes
    ----------
    suffixes : tuple of str
        Of the variables ``ps`` and ``uni`` of each aperture in use: ``""``, ``"_2"``, …
    which : array of int32, shape (slit,)
        Index of the slit's aperture among them.
    shares : array of float64, shape (slit, k)
        Weights with which the uniform corrections of the apertures are added up.
    grid_x, grid_y : array of float64, shape (slit, 3)
        Reference pixel (one-based), its position, and the step of the grid of positions.
    shift : array of float64, shape (slit,)
        Added to the position of the source along the slit.
    applies : array of bool, shape (slit,)
    point : array of bool, shape (slit,)
        Slits that get the correction of a point source.
    shifted_back : array of bool, shape (slit,)
        Slits whose uniform correction is that of the uncorrected wavelength.
    point_waves, uniform_waves : Wavelengths
    kinds : tuple of str
        Correction of each slit: POINT, UNIFORM or empty.
    left_alone : tuple of str
        By slit: why it is not corrected; empty where it is.
    """

    suffixes: tuple[str, ...]
    which: Array = array("slit")
    shares: Array = array("slit aperture")
    grid_x: Array = array("slit 3")
    grid_y: Array = array("slit 3")
    shift: Array = array("slit")
    applies: Array = array("slit")
    point: Array = array("slit")
    shifted_back: Array = array("slit")
    point_waves: Wavelengths
    uniform_waves: Wavelengths
    kinds: tuple[str, ...] = labels("slit")
    left_alone: tuple[str, ...] = labels("slit")

    def factor(self, ds: xr.Dataset, reference: xr.Dataset) -> Factor:
        """Return the share of the light that passes the apertures."""
        image = "slit" not in ds.dims
        slits = as_one_slit(ds, ("sci", "wavelength")) if image else ds
        cubes = [reference.variables[f"ps{s}"].data for s in self.suffixes]
        vectors = [reference.variables[f"uni{s}"].data for s in self.suffixes]
        wavelength = slits.variables["wavelength"].data
        place = [slits.variables[n].data for n in ("source_xpos", "source_ypos") if n in slits]
        xp = array_namespace(slits.variables["sci"].data, wavelength, *place, *cubes, *vectors)
        dtype = slits.variables["sci"].dtype
        if not cubes:
            cubes, vectors = [np.ones((2, 2, 2))], [np.ones(2)]

        column = self._cell(xp, slits, "source_xpos", self.grid_x, 0.0)
        row = self._cell(xp, slits, "source_ypos", self.grid_y, xp.asarray(self.shift))
        point = bilinear_by_slit(_stacked(xp, cubes), self.which, column, row)
        uniform = xp.asarray(self.shares) @ _stacked(xp, vectors).astype(self.shares.dtype)
        uniform_wave = wavelength
        if "wavelength_uncorrected" in slits:
            before = slits.variables["wavelength_uncorrected"].data
            shifted_back = xp.asarray(self.shifted_back)[:, None, None]
            uniform_wave = xp.where(shifted_back, before, wavelength)
        planes = {
            "pathloss_ps": self.point_waves.on_pixels(point, wavelength, dtype),
            "pathloss_un": self.uniform_waves.on_pixels(uniform, uniform_wave, dtype),
        }
        value = xp.where(xp.asarray(self.point)[:, None, None], *planes.values())
        new: dict[str, Any] = {n: (("slit", "y", "x"), plane) for n, plane in planes.items()}
        new["pathloss_correction_type"] = ("slit", np.array(self.kinds, dtype="U7"))
        if image:
            value = value[0]
            new = {n: (("y", "x"), plane[0]) for n, plane in planes.items()}
        return Factor(value, divides=True, applies=self.applies, variables=new)

    def _cell(self, xp: ModuleType, ds: xr.Dataset, name: str, grid: Array, shift: Number) -> Array:
        """Zero-based place of each source on an axis of the grid of its aperture."""
        place = xp.asarray(ds.variables[name].data if name in ds else xp.zeros(len(self.kinds)))
        return cell_on(xp.asarray(grid), xp.where(xp.isfinite(place), place, 0.0) + shift)


def _stacked(xp: ModuleType, arrays: list[Array]) -> Array:
    shape = tuple(max(sizes) for sizes in zip(*(a.shape for a in arrays), strict=True))
    return xp.stack(
        [
            xp.pad(xp.asarray(a), [(0, n - m) for n, m in zip(shape, a.shape, strict=True)])
            for a in arrays
        ]
    )


@dataclass(frozen=True)
class _Aperture:
    suffix: str
    name: str
    shutters: int
    point: tuple[tuple[float, ...], ...]  # (reference pixel, value, step) of x, y, wavelength
    uniform: tuple[float, ...]
    shape: tuple[int, ...]
    n_uniform: int

    def wavelengths(self, *, uniform: bool) -> HostArray:
        pixel, value, step = self.uniform if uniform else self.point[2]
        n = self.n_uniform if uniform else self.shape[0]
        metres: HostArray = value + (np.arange(n) + 1.0 - pixel) * step
        # the precision of the table decides whether a pixel at its very end is covered
        return metres.astype(np.float32) * np.float32(1e6)


def plan_nirspec_slits(
    ds: xr.Dataset, reference: xr.Dataset, params: Parameters
) -> SlitPathlossPlan:
    """Place the sources of a bucket of slits on the apertures of a pathloss reference.

    A slit is left alone if the reference lacks its aperture or its source stands outside.

    Parameters
    ----------
    ds : xarray.Dataset
        Bucket with ``wavelength`` [um], ``slit_name``, ``source_type``, and for MOS
        ``shutter_state``; ``source_xpos``, ``source_ypos`` (a source without is centred).
    reference : xarray.Dataset
        For each aperture a cube ``ps`` (wavelength, y, x) and a vector ``uni``, with the
        keywords APERTURE, SHUTTERS and those of their coordinates [m].
    params : Parameters
        Of :func:`spec2fn.steps.pathloss.pathloss`.

    Raises
    ------
    ReferenceError
        If the reference holds no apertures, or lacks keywords of their coordinates.
    """
    apertures = _apertures(reference)
    mos = mode_of(ds).shutters
    names, states = strings(ds, "slit_name"), strings(ds, "shutter_state")
    if mos:
        chosen = [_of_shutters(apertures, state) for state in states]
    else:
        chosen = [next((a for a in apertures if a.name == name), None) for name in names]
    used = [a for a in apertures if a in chosen]
    shift = np.array([_shift(s) if mos else 0.0 for s in states])
    two = [mos and len(s) == 2 and a is not None for s, a in zip(states, chosen, strict=True)]
    pair = _pair(apertures) if any(two) else ()
    used += [a for a in pair if a not in used]

    shares = np.zeros((len(chosen), max(len(used), 1)))
    uniform = list(chosen)
    for i, aperture in enumerate(chosen):
        if aperture is None:
            continue
        if pair and two[i]:
            shares[i, [used.index(a) for a in pair]] = 0.5
            uniform[i] = pair[0]
        else:
            shares[i, used.index(aperture)] = 1.0
    return _assemble(ds, (chosen, uniform, used), shares, shift, params)


def plan_nirspec_ifu(ds: xr.Dataset, reference: xr.Dataset, params: Parameters) -> SlitPathlossPlan:
    """Place the source of an IFU exposure, which is taken to be centred, on the aperture.

    Parameters
    ----------
    ds : xarray.Dataset
        Exposure with ``wavelength`` [um].
    reference, params
        See :func:`plan_nirspec_slits`; the first aperture counts.

    Returns
    -------
    SlitPathlossPlan
        The exposure as one slit.
    """
    aperture = _apertures(reference)[0]
    one = as_one_slit(ds, ("wavelength",)).assign(slit_name=("slit", ["of the IFU"]))
    chosen = ([aperture], [aperture], [aperture])
    return _assemble(one, chosen, np.ones((1, 1)), np.zeros(1), params)


def _assemble(
    ds: xr.Dataset,
    apertures: tuple[Sequence[_Aperture | None], Sequence[_Aperture | None], list[_Aperture]],
    shares: HostArray,
    shift: HostArray,
    params: Parameters,
) -> SlitPathlossPlan:
    chosen, uniform, used = apertures
    names = strings(ds, "slit_name")
    point = is_point(chosen_types(ds, params.source_type))
    neutral = (1.0, 0.0, 1.0)
    grids = [np.array([a.point[k] if a else neutral for a in chosen]) for k in (0, 1)]
    place = [_position(ds, "source_xpos"), _position(ds, "source_ypos") + shift]
    left_alone = ["" if a is not None else "no such aperture in the reference" for a in chosen]
    if "ysize" in ds and "xsize" in ds:
        empty = np.asarray(ds["ysize"].data) * np.asarray(ds["xsize"].data) == 0
        left_alone = [
            w or ("no pixels" if e else "") for w, e in zip(left_alone, empty, strict=True)
        ]
    for k in (0, 1):
        cell = cell_on(grids[k], place[k])
        size = np.array([a.shape[2 - k] if a else np.inf for a in chosen])
        for i in np.flatnonzero(~((cell >= 0) & (cell < size - 1))):
            left_alone[i] = left_alone[i] or "source outside the aperture"
    for name, why in zip(names, left_alone, strict=True):
        if why and why != "no pixels":
            _LOG.warning("pathloss: slit %s is not corrected: %s", name, why)
    inside = np.array([not why for why in left_alone], dtype=bool)

    corrected = np.asarray(ds["wavelength"].data)
    before = np.asarray(ds.get("wavelength_uncorrected", ds["wavelength"]).data)
    shifted_back = point & (not mode_of(ds).shutters)
    extend = extrapolates(ds, params.extrapolate)
    point_waves = _locate(corrected, chosen, inside, extend, uniform=False)
    same = all(
        np.array_equal(a.wavelengths(uniform=False), u.wavelengths(uniform=True))
        for a, u in zip(chosen, uniform, strict=True)
        if a is not None and u is not None
    )
    if shifted_back.any() or not same:
        waves = np.where(shifted_back[:, None, None], before, corrected)
        uniform_waves = _locate(waves, uniform, inside, extend, uniform=True)
    else:
        uniform_waves = point_waves
    return SlitPathlossPlan(
        suffixes=tuple(a.suffix for a in used),
        which=np.array([used.index(a) if a else 0 for a in chosen], dtype=np.int32),
        shares=shares,
        grid_x=grids[0],
        grid_y=grids[1],
        shift=shift,
        applies=inside,
        point=point,
        shifted_back=shifted_back,
        point_waves=point_waves,
        uniform_waves=uniform_waves,
        kinds=tuple(
            ("POINT" if p else "UNIFORM") if ok else "" for p, ok in zip(point, inside, strict=True)
        ),
        left_alone=tuple(left_alone),
    )


def _locate(
    wavelength: HostArray,
    apertures: Sequence[_Aperture | None],
    applies: HostArray,
    extend: bool,
    *,
    uniform: bool,
) -> Wavelengths:
    tables = [a.wavelengths(uniform=uniform) if a else np.empty(0) for a in apertures]
    n = max([2, *(len(t) for t in tables)])
    points = np.tile(np.arange(n, dtype=np.float64), (len(tables), 1))
    index = np.zeros(wavelength.shape, np.int32)
    covered = np.zeros(wavelength.shape, bool)
    steps = np.arange(1.0, n + 1)
    ends = np.tile([-np.inf, np.inf], (len(tables), 1))
    for aperture in {a for a, ok in zip(apertures, applies, strict=True) if ok}:
        assert aperture is not None
        slits = [i for i, a in enumerate(apertures) if a == aperture and applies[i]]
        table = aperture.wavelengths(uniform=uniform)
        points[slits] = table[-1] + steps  # ascending beyond the end
        points[slits, : len(table)] = table
        if extend:
            ends[slits] = table[0], table[-1]
            wave = np.clip(wavelength[slits], table[0], table[-1])
            index[slits], _, covered[slits] = locate(wave, table)
        else:
            index[slits], _, covered[slits] = locate(wavelength[slits], table, include_first=False)
    return Wavelengths(points, index, covered, ends if extend else None)


def _position(ds: xr.Dataset, name: str) -> HostArray:
    if name not in ds:
        return np.zeros(ds.sizes["slit"])
    return np.nan_to_num(np.asarray(ds[name].data, dtype=np.float64))


def _neighbours(state: str) -> tuple[bool, bool]:
    """Whether the shutters below and above the source are closed."""
    source = state.find("x")
    below = source == 0 or state[source - 1 : source] == "0"
    above = source + 1 >= len(state) or state[source + 1] == "0"
    return below, above


def _shift(state: str) -> float:
    # the aperture of three shutters has the source in its middle one; at the end of a slitlet
    # the outer shutters of the reference stand for it
    if not state:
        return 0.0
    below, above = _neighbours(state)
    return float(above) - float(below)


def _of_shutters(apertures: list[_Aperture], state: str) -> _Aperture | None:
    if not state:
        return None
    count = 1 if all(_neighbours(state)) else 3
    return next((a for a in apertures if a.shutters == count), None)


def _pair(apertures: list[_Aperture]) -> tuple[_Aperture, ...]:
    """The apertures of one and three shutters, if they can be averaged for two."""
    by_name = {a.name.upper(): a for a in apertures}
    if len(apertures) != 2 or set(by_name) != {"MOS1X1", "MOS1X3"}:
        _LOG.warning("pathloss: no mean of 1x1 and 1x3 shutters; slitlets of two take 1x3")
        return ()
    one, three = by_name["MOS1X1"], by_name["MOS1X3"]
    if (one.uniform, one.n_uniform) != (three.uniform, three.n_uniform):
        _LOG.warning("pathloss: 1x1 and 1x3 shutters differ in wavelength; two shutters take 1x3")
        return ()
    return one, three


def _apertures(reference: xr.Dataset) -> list[_Aperture]:
    headers = meta_of(reference).records.get("headers", {})
    out, where = [], f"{described(reference)}, extension"
    for name, header in headers.items():
        suffix = str(name)[2:]
        if not (name == "ps" or (str(name).startswith("ps_") and suffix[1:].isdigit())):
            continue
        if f"uni{suffix}" not in reference or name not in reference:
            continue
        out.append(
            _Aperture(
                suffix,
                str(header.get("APERTURE", "")).strip(),
                int(header.get("SHUTTERS", 0)),
                tuple(grid_axis(header.get, k, f"{where} {name.upper()}") for k in (1, 2, 3)),
                grid_axis(headers[f"uni{suffix}"].get, 1, f"{where} UNI{suffix}"),
                tuple(reference[name].shape),
                reference[f"uni{suffix}"].shape[0],
            )
        )
    if not out:
        msg = (
            f"pathloss: {described(reference)} holds no apertures (extensions PS and UNI); one made"
            " for NIRSpec slits is needed"
        )
        raise ReferenceError(msg)
    return out

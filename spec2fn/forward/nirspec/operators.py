"""Linear operators from the spectra of sources in NIRSpec slits to detector count rates.

As in :mod:`spec2fn.forward.operators`, the calibration is read backwards: an exposure of ones
goes through the very steps that calibrate, and the reciprocal of the result is the gain.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.forward.nirspec.instrument import sigma
from spec2fn.forward.operators import (
    SpectralOperator,
    SurfaceOperator,
    ones_like,
    through,
    wavelength_cells,
)
from spec2fn.schema import FIXED_SLIT_QUADRANT, meta_of
from spec2fn.slits import Slits
from spec2fn.typing import HostArray
from spec2fn.units import MJY_TO_JY

if TYPE_CHECKING:
    import xarray as xr

    from spec2fn.engine.step import Step

__all__ = ["SlitOperators", "open_slits", "slit_operators"]


@dataclass(frozen=True, eq=False)
class SlitOperators:
    """Operators of what a slit may hold.

    Attributes
    ----------
    name : str
        Of the slit.
    sky : SurfaceOperator
        Uniform surface brightness.
    point : SpectralOperator or None
        Point source at the planned position; None if the slit is calibrated as extended.
    along : array, shape (y, x)
        Position of the pixels along the slit, in units of its height; NaN outside.
    """

    name: str
    sky: SurfaceOperator
    point: SpectralOperator | None
    along: HostArray

    def extended(self, profile: Callable[[HostArray], HostArray]) -> SurfaceOperator:
        """Operator of a source with this relative surface brightness by position along the slit."""
        shape = np.where(self.sky.gain > 0, profile(np.nan_to_num(self.along)), 0.0)
        return replace(self.sky, profile=shape)


def open_slits(
    exposure: xr.Dataset,
    references: Mapping[str, xr.Dataset],
    msa_metadata: xr.Dataset | None = None,
) -> Slits:
    """Cut the slits out of an exposure, with their WCS and the types of their sources.

    `references` are those of ``assign_wcs``, by type; NRS_MSASPEC needs `msa_metadata`.
    """
    from spec2fn.steps.assign_wcs import assign_wcs
    from spec2fn.steps.extract_2d import extract_2d
    from spec2fn.steps.srctype import srctype

    given: dict[str, Any] = {} if msa_metadata is None else {"msa_metadata": (msa_metadata,)}
    ds = assign_wcs(exposure, *(references.get(r) for r in assign_wcs.refs), **given)
    return srctype(extract_2d(ds))


def slit_operators(
    slits: Slits, references: Mapping[str, xr.Dataset], grid: HostArray
) -> tuple[SlitOperators, ...]:
    """Build the operators of all slits of an exposure.

    Parameters
    ----------
    slits : Slits
        From :func:`open_slits`.
    references : mapping
        Datasets by type; those of fixed slits in an exposure of slitlets as ``fs:<type>``. The
        flats are those that the detector has, not those that were measured.
    grid : array, shape (n,)
        Wavelengths [um], ascending, which cover those of the exposure.

    Returns
    -------
    tuple of SlitOperators
        In the order of the slits.

    Raises
    ------
    spec2fn.errors.DatasetError
        If the grid does not cover the wavelengths of the exposure.
    """
    from spec2fn.steps.barshadow import barshadow
    from spec2fn.steps.flat_field import flat_field
    from spec2fn.steps.pathloss import pathloss
    from spec2fn.steps.photom import photom
    from spec2fn.steps.wavecorr import wavecorr

    steps: list[Step[Any]] = [wavecorr, pathloss, barshadow, photom]
    if slits.attrs["exp_type"] == "NRS_BRIGHTOBJ":
        steps.remove(pathloss)
    operators: dict[int, SlitOperators] = {}
    for part, prefix in _modes(slits):
        refs = {**references, **_prefixed(references, prefix)}
        own = part.map(ones_like)
        sky = own.map(_extended)
        kinds = {}
        for name, some in (("own", own), ("sky", sky)):
            # a flat depends on the wavelength, and so on the place of the source
            start = through(some, [wavecorr], refs)
            flat = through(start, [flat_field], refs)
            kinds[name] = (through(start, steps[1:], refs), flat)
        for number in part.ids:
            operators[number] = _operators(part, kinds, number, grid)
    return tuple(operators[i] for i in slits.ids)


def _modes(slits: Slits) -> list[tuple[Slits, str]]:
    """Slits by the mode they are calibrated in, and the prefix of its references."""
    if slits.attrs["exp_type"] != "NRS_MSASPEC":
        return [(slits, "")]
    fixed = slits.where(lambda b: b["quadrant"].values == FIXED_SLIT_QUADRANT)
    shutters = slits.where(lambda b: b["quadrant"].values != FIXED_SLIT_QUADRANT)
    parts = [(shutters, ""), (fixed.assign_attrs(exp_type="NRS_FIXEDSLIT"), "fs:")]
    return [(part, prefix) for part, prefix in parts if len(part)]


def _prefixed(references: Mapping[str, xr.Dataset], prefix: str) -> dict[str, Any]:
    if not prefix:
        return {}
    own = {k.removeprefix(prefix): v for k, v in references.items() if k.startswith(prefix)}
    return {"barshadow": None, **own}  # fixed slits have no bars


def _extended(bucket: xr.Dataset) -> xr.Dataset:
    types = np.full(bucket.sizes["slit"], "EXTENDED")
    return bucket.assign(source_type=("slit", types))


def _operators(
    slits: Slits, kinds: Mapping[str, tuple[Slits, Slits]], number: int, grid: HostArray
) -> SlitOperators:
    slit = slits.slit(number)
    name, position = str(slit["slit_name"].item()), float(slit["source_ypos"])
    along, spacing = _positions(slit, number)
    y0, x0 = int(slit["ystart"]) - 1, int(slit["xstart"]) - 1
    window = ((y0, y0 + along.shape[0]), (x0, x0 + along.shape[1]))
    parts: dict[str, dict[str, Any]] = {}
    for kind, (calibrated, flat) in kinds.items():
        ones, response = calibrated.slit(number), flat.slit(number)
        wave = np.asarray(ones["wavelength"].data)
        value, divided = (np.asarray(d["sci"].data, np.float64) for d in (ones, response))
        lit = np.isfinite(value) & np.isfinite(divided) & np.isfinite(wave) & (value > 0)
        wave, cells = wavelength_cells(grid, wave, lit)
        parts[kind] = {
            **cells,
            "gain": np.where(lit, 1.0 / np.where(lit, value, 1.0), 0.0),
            "flat": np.where(lit, 1.0 / np.where(lit, divided, 1.0), 1.0),
            "window": window,
        }
        if kind == "own":
            width = sigma(wave)
    sky = SurfaceOperator(**parts["sky"], profile=np.ones(along.shape))
    point = None
    if str(slit["source_type"].item()) == "POINT":
        # one unit along the slit is the same for all columns, the ends of a pixel are its own
        unit = float(np.nanmedian(spacing))
        inside = np.isfinite(along)
        ends = [np.where(inside, (along + k * spacing) / unit, 0.0) for k in (-0.5, 0.5)]
        own = parts["own"] | {"gain": parts["own"]["gain"] / MJY_TO_JY * inside}
        point = SpectralOperator(
            **own, lower=ends[0], upper=ends[1], sigma=width, position=position / unit
        )
    return SlitOperators(name, sky, point, along)


def _positions(slit: xr.Dataset, number: int) -> tuple[HostArray, HostArray]:
    """Position of pixels along the slit, and its step from row to row by column."""
    y, x = np.indices(slit["sci"].shape[-2:], dtype=np.float64)
    wcs: Any = meta_of(slit).wcs
    along = np.asarray(wcs.slit_frame(np.full(x.shape, number), x, y)[0])
    step = np.diff(along, axis=0)
    known = np.isfinite(step)
    count = known.sum(axis=0)
    mean = np.where(known, step, 0.0).sum(axis=0) / np.maximum(count, 1)
    return along, np.where(count > 0, mean, np.nan_to_num(np.median(mean[count > 0])))

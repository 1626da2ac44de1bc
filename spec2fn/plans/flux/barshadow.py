"""Shadows that bars cast between open shutters: where the pixels of slitlets stand on them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from spec2fn.errors import ReferenceError
from spec2fn.kernels.bar_shadows import assemble_shadows, bilinear_clipped
from spec2fn.kernels.namespace import array_namespace
from spec2fn.plan_base import Plan, array, labels
from spec2fn.plans.flux.factors import Factor
from spec2fn.plans.slits.slit_frame import chosen_types, is_point
from spec2fn.plans.slits.slit_planes import slit_planes
from spec2fn.schema import meta_of
from spec2fn.slits import strings
from spec2fn.typing import Array

if TYPE_CHECKING:
    import xarray as xr

    from spec2fn.parameters import Parameters

__all__ = ["BarshadowPlan", "plan_barshadow"]

_FULL_TO_OPEN = 1.15  # pitch of the shutters over their open height, where nothing better is known


class BarshadowPlan(Plan):
    """Where the pixels of slitlets stand on the shadows of their shutters.

    Attributes
    ----------
    states : tuple of str
        The different states of shutters among the slitlets to be corrected.
    which : array of int32, shape (slit,)
        Index of the slitlet's state.
    applies : array of bool, shape (slit,)
        Slitlets to be corrected.
    row : array of float64, shape (slit, y, x)
        Zero-based row of the shadow; 0 where not covered.
    covered : array of bool, shape (slit, y, x)
    start, increment : float64 scalar arrays
        Wavelength of the first column of the shadow, and from one column to the next [um].
    problems : tuple of str
        Why a slit could not be evaluated.
    left_alone : tuple of str
        By slit: why it is not corrected; empty where it is.
    """

    states: tuple[str, ...]
    which: Array = array("slit")
    applies: Array = array("slit")
    row: Array = array("slit y x")
    covered: Array = array("slit y x")
    start: Array = array("")
    increment: Array = array("")
    problems: tuple[str, ...] = labels("slit")
    left_alone: tuple[str, ...] = labels("slit")

    def factor(self, ds: xr.Dataset, reference: xr.Dataset) -> Factor:
        """Return the transmission of the shutters at every pixel."""
        single, triple = (reference.variables[n].data for n in ("data1x1", "data1x3"))
        name = "wavelength_uncorrected" if "wavelength_uncorrected" in ds else "wavelength"
        wavelength = ds.variables[name].data
        dtype = ds.variables["sci"].dtype
        xp = array_namespace(ds.variables["sci"].data, wavelength, single, triple)

        applies = xp.asarray(self.applies)
        covered = xp.asarray(self.covered) & xp.isfinite(wavelength)
        shadows = assemble_shadows(single, triple, self.states or ("x",))
        column = (xp.where(covered, wavelength, self.start) - self.start) / self.increment
        shadow = bilinear_clipped(shadows, self.which, self.row, column)
        value = xp.where(covered, shadow, xp.nan).astype(dtype)
        value = xp.where(applies[:, None, None], value, xp.ones((), dtype=dtype))
        new = {
            "barshadow": (("slit", "y", "x"), value),
            "barshadow_corrected": (("slit",), applies),
        }
        return Factor(value, divides=True, applies=applies, variables=new, problems=self.problems)


def plan_barshadow(ds: xr.Dataset, reference: xr.Dataset, params: Parameters) -> BarshadowPlan:
    """Place the pixels of the slitlets in a bucket on the shadows of their shutters.

    Point sources, and slitlets without shutters, are left alone.

    Parameters
    ----------
    ds : xarray.Dataset
        Bucket with ``shutter_state``, ``source_type`` and ``slit_yscale``.
    reference : xarray.Dataset
        ``data1x1`` and ``data1x3`` with the keywords of their coordinates.
    params : Parameters
        Of :func:`spec2fn.steps.barshadow.barshadow`.

    Raises
    ------
    DatasetError
        If the Dataset holds no WCS of slits.
    ReferenceError
        If the reference is no bar shadow.
    """
    start, increment, step = _grid(reference)
    states = strings(ds, "shutter_state")
    point = is_point(chosen_types(ds, params.source_type))
    left_alone = tuple(
        "the source is POINT" if is_one else "" if state else "no shutters"
        for is_one, state in zip(point, states, strict=True)
    )
    wanted = np.array([not why for why in left_alone], dtype=bool)
    distinct = tuple(sorted({s for s, ok in zip(states, wanted, strict=True) if ok}))
    which = [distinct.index(s) if s in distinct else 0 for s in states]

    along, wavelength, problems = slit_planes(ds, wanted, "barshadow")
    scale = np.full(len(states), _FULL_TO_OPEN)
    if "slit_yscale" in ds:
        given = np.asarray(ds["slit_yscale"].data, dtype=np.float64)
        scale = np.where(np.isfinite(given) & (given > 0), given, scale)
    # one shutter below the first the shadow begins; positions count from the one of the source
    shutter = 1.0 / step
    first = shutter * np.array([1.0 + s.find("x") for s in states])
    row = first[:, None, None] + along / scale[:, None, None] * shutter
    covered = np.isfinite(row) & np.isfinite(wavelength)
    return BarshadowPlan(
        states=distinct,
        which=np.array(which, dtype=np.int32),
        applies=wanted,
        row=np.where(covered, row, 0.0),
        covered=covered,
        start=np.float64(start * 1e6),
        increment=np.float64(increment * 1e6),
        problems=tuple(problems),
        left_alone=tuple(why or p for why, p in zip(left_alone, problems, strict=True)),
    )


def _grid(reference: xr.Dataset) -> tuple[float, float, float]:
    meta = meta_of(reference)
    name = meta.filename or "given as a Dataset"
    missing = [n for n in ("data1x1", "data1x3") if n not in reference]
    values = [meta.get(k) for k in ("CRVAL1", "CDELT1", "CDELT2")]
    if missing or any(v is None for v in values) or not values[1] or not values[2]:
        lacks = ", ".join(n.upper() for n in missing) or "CRVAL1, CDELT1 or CDELT2"
        msg = f"barshadow: reference {name} lacks {lacks}; a bar shadow of MSA shutters is needed"
        raise ReferenceError(msg)
    shapes = [tuple(reference[n].shape) for n in ("data1x1", "data1x3")]
    rows = shapes[0][0]
    if shapes[0] != shapes[1] or rows % 2 == 0 or round((rows - 1) * float(values[2])) != 2:
        msg = (
            f"barshadow: reference {name} holds images of shapes {shapes[0]} and {shapes[1]};"
            " both must have the same odd number of rows, from -1 to 1 shutter"
        )
        raise ReferenceError(msg)
    return float(values[0]), float(values[1]), float(values[2])

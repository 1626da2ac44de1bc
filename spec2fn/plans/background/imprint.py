"""Which imprint exposure belongs to an exposure, and its average over integrations.

An imprint (or leakage calibration) exposure is taken with all shutters of the micro-shutter
array closed, so that it shows the light that leaks through them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.dq import PIXEL
from spec2fn.errors import DatasetError
from spec2fn.kernels.bands import by_rows
from spec2fn.plan_base import array
from spec2fn.plans.background.background import BackgroundPlan, check_units
from spec2fn.schema import meta_of, require
from spec2fn.typing import Array, HostArray

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["ImprintPlan", "match_imprint", "plan_subtraction"]

Planes = dict[str, HostArray]

# observation, dither position
_KEYWORDS = ("OBSERVTN", "PATT_NUM")


class ImprintPlan(BackgroundPlan):
    """The imprint on the pixels of the exposure, averaged over its integrations.

    Attributes
    ----------
    lacking : bool ndarray, (y, x)
        Where the imprint has no valid value.
    """

    lacking: Array = array("y x")


def match_imprint(science: xr.Dataset, imprints: Sequence[xr.Dataset]) -> xr.Dataset | None:
    """Return the imprint exposure that belongs to an exposure.

    A single one belongs to all. Of several, those count that agree on being of a background
    target (BKGDTARG), and among these the one of the same observation (OBSERVTN) and dither
    position (PATT_NUM); if none agrees and only one is left, it is used for all positions.

    Parameters
    ----------
    science : xarray.Dataset
        Science or background exposure; only keywords count.
    imprints : sequence of xarray.Dataset

    Returns
    -------
    xarray.Dataset or None
        None if none matches.
    """
    if len(imprints) == 1:
        return imprints[0]
    target = _background_target(science)
    candidates = [i for i in imprints if _background_target(i) == target]
    own = _identity(science)
    for candidate in candidates:
        if None not in own and _identity(candidate) == own:
            return candidate
    return candidates[0] if len(candidates) == 1 else None


def _background_target(ds: xr.Dataset) -> bool | None:
    value = ds.attrs.get("background_target", meta_of(ds).get("BKGDTARG"))
    return None if value is None else bool(value)


def _identity(ds: xr.Dataset) -> tuple[Any, ...]:
    meta = meta_of(ds)
    return tuple(meta.get(keyword) for keyword in _KEYWORDS)


def plan_subtraction(science: xr.Dataset, imprint: xr.Dataset) -> ImprintPlan:
    """Average an imprint exposure over its integrations, to be subtracted from an exposure.

    The leakage does not change, so that the mean has the least noise.

    Parameters
    ----------
    science, imprint : xarray.Dataset

    Returns
    -------
    ImprintPlan

    Raises
    ------
    DatasetError
        If sizes or units disagree.
    """
    name = meta_of(imprint).filename or "in memory"
    who = f"imprint: imprint exposure ({name})"
    require(imprint, ("sci", "err", "dq"), who)
    mine, theirs = science["sci"], imprint["sci"]
    if mine.shape[-2:] != theirs.shape[-2:]:
        msg = (
            f"{who} is {theirs.shape[-2:]} but the exposure is {mine.shape[-2:]};"
            " both must be of the same subarray"
        )
        raise DatasetError(msg)
    check_units(science, imprint, who)
    planes = {
        "sci": np.asarray(theirs.values),
        "var": np.asarray(imprint["err"].values),
        **{
            v: np.asarray(imprint[v].values) if v in imprint else np.zeros(theirs.shape, np.float32)
            for v in ("var_poisson", "var_rnoise")
        },
    }
    filled, flags, lacking = _averaged(planes, np.asarray(imprint["dq"].values))
    return ImprintPlan(**filled, dq=flags, lacking=lacking)


@by_rows
def _averaged(planes: Planes, dq: HostArray) -> tuple[Planes, HostArray, HostArray]:
    """Mean over integrations, zero where it is not known; flags; and where there is no rate."""
    planes = {**planes, "var": np.square(planes["var"], dtype=np.float64)}
    if dq.ndim == 3:
        planes, dq = _mean(planes), np.bitwise_or.reduce(dq, axis=0)
    lacking = ~np.isfinite(planes["sci"])
    filled = {
        k: np.where(lacking | ~np.isfinite(v), 0.0, v).astype(np.float32) for k, v in planes.items()
    }
    flags = np.where(lacking, dq | np.uint32(PIXEL["DO_NOT_USE"]), dq).astype(np.uint32)
    return filled, flags, lacking


def _mean(planes: Planes) -> Planes:
    finite = np.isfinite(planes["sci"])
    count = np.count_nonzero(finite, axis=0)
    n = np.where(count == 0, np.nan, count)
    out = {}
    for name, plane in planes.items():
        total = np.sum(plane, axis=0, dtype=np.float64, where=finite)
        out[name] = total / (n if name == "sci" else n * n)
    return out

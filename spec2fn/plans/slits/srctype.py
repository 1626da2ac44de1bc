"""Rules for the source type of exposures with a single source."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spec2fn.modes import Mode
from spec2fn.plan_base import Plan, labels
from spec2fn.schema import meta_of

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["SourceTypePlan", "decide_source_type", "is_time_series"]


class SourceTypePlan(Plan):
    """The decided source type.

    Attributes
    ----------
    source_type : str
        POINT, EXTENDED or UNKNOWN.
        Empty if every slit has its own.
    source_type_apt : str or None
        The type requested in the observing program.
    slit_types : tuple of str, optional
        Type of every slit of a bucket; None leaves those of the slits as they are.
    centred : tuple of bool, optional
        Slits whose source counts as centred.
    warnings : tuple of str
    """

    source_type: str
    source_type_apt: str | None = None
    slit_types: tuple[str, ...] | None = labels("slit", default=None)
    centred: tuple[bool, ...] | None = labels("slit", default=None)
    warnings: tuple[str, ...] = ()


def is_time_series(ds: xr.Dataset, mode: Mode) -> bool:
    """Whether an exposure is a time series (TSOVISIT, or by its mode) of several integrations."""
    recorded = meta_of(ds).get("NINTS")
    count = ds.sizes.get("integration", 1) if recorded is None else recorded
    return bool(ds.attrs.get("tso") or mode.time_series) and int(count) >= 2


def decide_source_type(
    ds: xr.Dataset, mode: Mode, user: str | None, requested: str | None
) -> tuple[str, bool]:
    """Return POINT or EXTENDED for an exposure of a single source.

    Parameters
    ----------
    ds : xarray.Dataset
    mode : Mode
    user : str or None
        Source type given as a parameter.
    requested : str or None
        Source type of the observing program.

    Returns
    -------
    source_type : str
    known : bool
        Whether anything tells, or the default of the mode was taken.
    """
    pattern = ds.attrs.get("dither_optimized_for" if mode.etalon else "dither_type")
    background, tso = ds.attrs.get("background_target"), is_time_series(ds, mode)
    known = bool(user or requested or background or tso) or pattern is not None
    if user is not None:
        return user, known
    if background:
        return "EXTENDED", known
    if tso:
        return "POINT", known
    if requested in ("POINT", "EXTENDED"):
        return requested, known
    if pattern is not None and ("NOD" in pattern or "POINT-SOURCE" in pattern):
        return "POINT", known
    return mode.source_type, known

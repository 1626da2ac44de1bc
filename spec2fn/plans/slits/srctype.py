"""Rules for the source type of exposures with a single source."""

from __future__ import annotations

from spec2fn.modes import Mode
from spec2fn.plan_base import Plan, labels

__all__ = [
    "SourceTypePlan",
    "decide_source_type",
    "is_time_series",
    "type_by_stellarity",
    "types_of_fixed_slits",
]


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


def is_time_series(mode: Mode, flagged: bool, integrations: int) -> bool:
    """Whether an exposure is a time series of more than one integration.

    Parameters
    ----------
    mode : Mode
    flagged : bool
        Whether the visit is marked as a time series (TSOVISIT).
    integrations : int
        Of the whole exposure (NINTS).
    """
    return (flagged or mode.time_series) and integrations >= 2


def decide_source_type(
    mode: Mode,
    *,
    user: str | None,
    background: bool,
    tso: bool,
    requested: str | None,
    pattern: str | None,
) -> str:
    """Return POINT or EXTENDED for an exposure of a single source.

    Parameters
    ----------
    mode : Mode
    user : str or None
        Source type given as a parameter.
    background : bool
        Whether the target is a background target.
    tso : bool
        Whether the exposure is a time series.
    requested : str or None
        Source type of the observing program.
    pattern : str or None
        Dither pattern, or what it is optimized for.
    """
    if user is not None:
        return user
    if background:
        return "EXTENDED"
    if tso:
        return "POINT"
    if requested in ("POINT", "EXTENDED"):
        return requested
    if pattern is not None and ("NOD" in pattern or "POINT-SOURCE" in pattern):
        return "POINT"
    return mode.source_type


_POINTLIKE = 0.75  # stellarity above which a source counts as a point


def type_by_stellarity(stellarity: float) -> str:
    """Return POINT or EXTENDED for a source of the MSA metadata.

    Parameters
    ----------
    stellarity : float
        0 (extended) to 1 (point); negative or above 0.75 is a point.
    """
    return "POINT" if stellarity < 0 or stellarity > _POINTLIKE else "EXTENDED"


def types_of_fixed_slits(
    names: list[str], primary: str | None, decided: str
) -> tuple[tuple[str, ...], tuple[bool, ...]]:
    """Return the types of fixed slits, and which of them count as centred.

    The target is in the primary slit, the others see the sky. An extended target has no position.

    Parameters
    ----------
    names : list of str
    primary : str or None
        Name of the slit with the target.
    decided : str
        Type of the target.
    """
    types = tuple(decided if name == primary else "EXTENDED" for name in names)
    return types, tuple(name == primary and decided == "EXTENDED" for name in names)

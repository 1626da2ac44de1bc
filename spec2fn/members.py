"""Whether associated exposures belong to the science exposure: before anything is subtracted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from spec2fn.errors import InputError
from spec2fn.pieces import Exposure
from spec2fn.schema import MODE_ATTRS, meta_of

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["check_members"]

# What must agree for light (or a bad pixel) to fall on the same pixels.
_DETECTOR = ("INSTRUME", "DETECTOR")
_OPTICS = ("EXP_TYPE", "FILTER", "GRATING", "PUPIL", "CHANNEL", "BAND")
_PIXELS = ("SUBSTRT1", "SUBSTRT2", "SUBSIZE1", "SUBSIZE2")
_TARGET = ("PROGRAM", "OBSERVTN")  # a verification image is taken right before its spectra
_ATTRS = {keyword: name for name, (keyword, _) in MODE_ATTRS.items()}

# Backgrounds are cut to the subarray of the science exposure, all others must have its pixels;
# bad pixels are the same whatever light falls on them.
_REFUSED: Mapping[str, tuple[str, ...]] = {
    "background": (*_DETECTOR, *_OPTICS),
    "imprint": (*_DETECTOR, *_OPTICS, *_PIXELS),
    "selfcal": (*_DETECTOR, *_PIXELS),
    "target_acquisition": (*_DETECTOR, *_TARGET),
}
_NOTED: Mapping[str, Mapping[str, str]] = {
    "background": {
        "SUBARRAY": "only pixels that both have are subtracted",
        "MSAMETFL": "other shutters may have been open",
        "MSAMETID": "other shutters may have been open",
    },
    "selfcal": dict.fromkeys(_OPTICS, "only pixels that stand out in both are found"),
}


def check_members(
    science: Exposure, members: Mapping[str, Sequence[xr.Dataset]]
) -> tuple[str, ...]:
    """Compare the headers of associated exposures with that of the exposure they serve.

    What the exposure itself does not say cannot be compared and passes.

    Parameters
    ----------
    science : xarray.Dataset or Slits
    members : mapping of str to sequence of xarray.Dataset
        By role: ``background``, ``imprint``, ``selfcal``, ``target_acquisition``; no others count.

    Returns
    -------
    tuple of str
        Warnings: what differs without making the member useless, or could not be compared.

    Raises
    ------
    InputError
        If a member was taken in another set-up (naming both files, the keyword and its two
        values), or an exposure is to be subtracted twice or from itself.
    """
    warnings: list[str] = []
    mine = _file(science)
    for role, refused in _REFUSED.items():
        used = tuple(members.get(role, ()))
        if role == "target_acquisition" and len(used) > 1:
            left = ", ".join(map(_file, used[1:]))
            warnings.append(f"of several {role} images {_file(used[0])} is used, not {left}")
            used = used[:1]
        seen = {_identity(science): f"the one it is to be subtracted from ({mine})"}
        for member in used:
            who = f"{role} exposure {_file(member)}"
            if role in ("background", "imprint"):
                identity = _identity(member)
                if identity in seen:
                    same = seen[identity]
                    msg = f"{who} is the same exposure as {same}; leave it out or give another"
                    raise InputError(msg)
                seen[identity] = who
            for keyword, ours, theirs in _differences(science, member, refused):
                if theirs is not None:
                    msg = (
                        f"{who} has {keyword} {theirs!r}, but {mine} has {ours!r}; give an exposure"
                        " of the same set-up, or leave it out"
                    )
                    raise InputError(msg)
                warnings.append(
                    f"{who} has no keyword {keyword}, so that it cannot be told whether it fits"
                    f" {mine} ({ours!r}); add it"
                )
            if role == "imprint" and _value(member, "IS_IMPRT") in (False, "F"):
                warnings.append(f"{who} says that it is no imprint (IS_IMPRT is F); check its role")
            noted = _NOTED.get(role, {})
            for keyword, ours, theirs in _differences(science, member, tuple(noted)):
                if theirs is not None:
                    warnings.append(
                        f"{who} has {keyword} {theirs!r}, but {mine} has {ours!r}: {noted[keyword]}"
                    )
    return tuple(dict.fromkeys(warnings))


def _file(ds: Exposure) -> str:
    return meta_of(ds).filename or "in memory"


def _differences(
    science: Exposure, member: xr.Dataset, keywords: Sequence[str]
) -> Iterator[tuple[str, Any, Any]]:
    """Yield keyword and values where they differ; None where only the member lacks it."""
    for keyword in keywords:
        ours, theirs = _value(science, keyword), _value(member, keyword)
        # a Dataset put together by hand need not hold more than its steps ask for
        known = theirs is not None or meta_of(member).primary is not None
        if ours is not None and ours != theirs and known:
            yield keyword, ours, theirs


def _value(ds: Exposure, keyword: str) -> str | float | None:
    value = ds.attrs.get(_ATTRS.get(keyword, ""))
    value = meta_of(ds).get(keyword) if value is None else value
    if isinstance(value, str):
        value = value.strip().upper()
        return None if value in ("", "N/A", "NULL", "NONE") else value
    return value if isinstance(value, (int, float)) else None


def _identity(ds: Exposure) -> object:
    """What tells an exposure wherever its file has gone, as a rate or as rates of integrations."""
    from spec2fn.io.naming import base_name

    meta = meta_of(ds)
    name = meta.get("FILENAME")
    if not isinstance(name, str) or not name.strip():
        return id(ds)
    return base_name(name.strip()), meta.get("EXPSTART"), meta.get("DETECTOR")

"""Which exposures a reference file says it was made for, and whether one is among them.

FITS references say so by the keywords of the exposure (``BAND``) and patterns of several values
(``P_EXP_TY = "NRS_FIXEDSLIT|NRS_BRIGHTOBJ|"``), ASDF references by ``meta.instrument.band`` and
``meta.exposure.p_exptype``. Of what a file says only the properties count by which CRDS selects
files of its type: others are often left from the exposure that a file was made of (a NIRSpec
``photom`` reference for both detectors says ``DETECTOR = NRS2``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.errors import ReferenceError
from spec2fn.schema import MODE_ATTRS, described

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["check_contents", "check_exposure", "made_for"]

# attribute of an exposure -> FITS keyword of a pattern, and its place in the tree of an ASDF file
_PATTERNS: Mapping[str, tuple[str, str]] = {
    "exp_type": ("P_EXP_TY", "exposure.p_exptype"),
    "detector": ("P_DETECT", "instrument.p_detector"),
    "filter": ("P_FILTER", "instrument.p_filter"),
    "pupil": ("P_PUPIL", "instrument.p_pupil"),
    "grating": ("P_GRATIN", "instrument.p_grating"),
    "channel": ("P_CHANNE", "instrument.p_channel"),
    "band": ("P_BAND", "instrument.p_band"),
    "module": ("P_MODULE", "instrument.p_module"),
}

# besides instrument and exposure type; by the parameters of the CRDS rules of each type
_SELECTED_BY: Mapping[str, tuple[str, ...]] = {
    "apcorr": ("filter", "grating"),
    "area": ("detector", "filter", "grating"),
    "bkg": ("detector", "filter", "pupil", "module"),
    "dflat": ("detector",),
    "disperser": ("grating",),
    "distortion": ("detector", "channel", "band", "module"),
    "fflat": ("filter",),
    "filteroffset": ("detector", "module"),
    "flat": ("detector", "filter", "grating", "band"),
    "fore": ("filter",),
    "fringe": ("detector", "channel", "band"),
    "photom": ("detector", "channel", "band"),
    "psf": ("filter",),
    "regions": ("detector", "channel", "band"),
    "sflat": ("detector", "filter", "grating"),
    "specwcs": ("detector", "filter", "pupil", "channel", "band", "module"),
}
_NOT_BY_EXP_TYPE = frozenset({"distortion", "filteroffset", "flat", "fringe"})
_NOT_BY_DETECTOR = frozenset({("NIRSPEC", "photom"), ("NIRSPEC", "area")})

# exposure types that share references, whatever these say
_ALIKE = (
    frozenset({"NRS_FIXEDSLIT", "NRS_BRIGHTOBJ"}),
    frozenset({"NRC_GRISM", "NRC_WFSS", "NRC_TSGRISM"}),
    frozenset({"MIR_IMAGE", "MIR_TACQ", "MIR_TACONFIRM"}),
)
# internal exposures are calibrated with the references of the aperture they light up
_INTERNAL = frozenset({"NRS_LAMP", "NRS_AUTOWAVE", "NRS_AUTOFLAT"})
_SAMPLE = 1024
_NO_NUMBERS = frozenset({"meta", "history", "asdf_library"})
_ANYTHING = frozenset({"", "N/A", "ANY", "GENERIC", "UNKNOWN", "UNDEFINED", "NONE"})


def made_for(
    get: Callable[[str], object], tree: Mapping[str, Any] | None = None
) -> tuple[tuple[str, str], ...]:
    """Return what exposures a reference file says it was made for.

    `get` gives the value of a FITS keyword, or None; the content of an ASDF reference has patterns.

    Returns
    -------
    tuple of (str, str)
        Mode attribute, and values it may have, separated by ``|``. A property that is not
        restricted is left out.
    """
    meta = {} if tree is None else tree.get("meta", {})
    out = []
    for name in ("instrument", *_PATTERNS):
        keyword, path = _PATTERNS.get(name, ("", ""))
        own = _values(get(MODE_ATTRS[name][0]))
        if name == "exp_type":
            own |= _values(_at(meta, "exp_type"))  # as old files have it
        pattern = _values(get(keyword) if keyword else None) | _values(_at(meta, path))
        # a pattern wins over a value of N/A beside it, and adds to any other
        if _ANYTHING & pattern or (not pattern and _ANYTHING & own):
            continue
        allowed = (own | pattern) - _ANYTHING
        if allowed:
            out.append((name, "|".join(sorted(allowed))))
    return tuple(out)


def check_exposure(ref: xr.Dataset, attrs: Mapping[str, Any], reftype: str, who: str = "") -> None:
    """Raise unless an exposure is one of those that a reference says it was made for.

    Parameters
    ----------
    ref : xarray.Dataset
        Its attribute ``made_for`` counts, see :func:`made_for`; without, nothing is checked.
    attrs : mapping
        Mode attributes of the exposure; those it lacks are not checked.
    reftype : str
    who : str
        Step that uses the reference, for the message.

    Raises
    ------
    ReferenceError
        Naming the file and all keywords that do not fit.
    """
    wanted = dict(ref.attrs.get("made_for", ()))
    if not wanted:
        return
    instrument = str(attrs.get("instrument", "")).strip().upper()
    names = ["instrument", *_SELECTED_BY.get(reftype, ())]
    if (instrument, reftype) in _NOT_BY_DETECTOR and "detector" in names:
        names.remove("detector")
    if reftype not in _NOT_BY_EXP_TYPE:
        names.append("exp_type")
    wrong = [
        f"{MODE_ATTRS[n][0]} {wanted[n]} and not {attrs[n]}"
        for n in names
        if n in wanted and not _fits(n, str(attrs.get(n, "")), wanted[n].split("|"))
    ]
    if wrong:
        msg = (
            f"{who}{': ' if who else ''}{described(ref)} was made for {', '.join(wrong)}; give the"
            " one for this exposure, or correct what the file says"
        )
        raise ReferenceError(msg)


def check_contents(ref: xr.Dataset, who: str = "") -> None:
    """Raise if a part of a reference (an image, a table, an entry of a tree) holds only NaN.

    Errors and variances may: they are not known for every reference. The :class:`ReferenceError`
    names the step that uses the reference (`who`), the file and the part.
    """
    # by part: whether any of its numbers is finite
    parts: dict[str, bool] = {}
    for name, variable in ref.variables.items():
        part, _, column = str(name).partition(".")
        if variable.dtype.kind == "f" and variable.size and not _is_error(column or part):
            parts[part] = parts.get(part, False) or _finite_somewhere(variable)
    tree = ref.attrs.get("tree")
    if isinstance(tree, Mapping):
        for name, value in tree.items():
            found = list(_numbers(value)) if name not in _NO_NUMBERS else ()
            if found:
                parts[name] = any(found)
    blank = [part for part, finite in parts.items() if not finite]
    if blank:
        msg = (
            f"{who}{': ' if who else ''}{described(ref)} holds no finite number in"
            f" {', '.join(map(repr, blank))}; use another reference"
        )
        raise ReferenceError(msg)


def _is_error(name: str) -> bool:
    return any(word in name.lower() for word in ("err", "unc", "var"))


def _finite_somewhere(variable: xr.Variable) -> bool:
    plane = variable.encoding.get("plane")
    if plane is not None and not variable._in_memory:  # noqa: SLF001 - nothing else tells
        return bool(plane.has_numbers())
    data = variable.data
    if not isinstance(data, np.ndarray):
        return True  # traced, or on a device
    flat = data.reshape(-1)
    # some of many will do, nearly always
    some = flat[:: max(1, flat.size // _SAMPLE)]
    return bool(np.isfinite(some).any()) or bool(np.isfinite(flat).any())


def _numbers(value: object) -> Iterator[bool]:
    """Whether the numbers in an entry of a tree are finite, array by array."""
    if isinstance(value, Mapping):
        for one in value.values():
            yield from _numbers(one)
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from _numbers(one)
    elif isinstance(value, float):
        yield bool(np.isfinite(value))
    elif getattr(getattr(value, "dtype", None), "kind", "") == "f":
        yield bool(np.isfinite(np.asarray(value)).any())
    else:  # a model
        for name in ("parameters", "lookup_table"):
            held = getattr(value, name, None)
            if getattr(held, "size", 0):
                yield from _numbers(np.asarray(held, dtype=float))


def _values(text: object) -> set[str]:
    parts = text.split("|") if isinstance(text, str) else ()
    return {v.strip().upper() for v in parts if v.strip()}


def _at(tree: object, path: str) -> object:
    for part in path.split("."):
        tree = tree.get(part) if isinstance(tree, Mapping) else None
    return tree


def _fits(name: str, value: str, allowed: Iterable[str]) -> bool:
    value = value.strip().upper()
    allowed = set(allowed)
    if value in _ANYTHING or value in allowed:
        return True
    if name == "channel":
        # a file may hold more channels than the detector
        return any(set(value) <= set(one) for one in allowed)
    if name == "exp_type":
        return value in _INTERNAL or any(value in alike and alike & allowed for alike in _ALIKE)
    return False

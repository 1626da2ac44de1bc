"""What keywords of exposures may hold: ranges of numbers, the texts there are."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from spec2fn.errors import InputError

__all__ = ["ALLOWED", "Allowed", "allowed"]


@dataclass(frozen=True)
class Allowed:
    """What a keyword may hold.

    Attributes
    ----------
    kind : type
        float (any finite number), int, bool, or str.
    low, high : float
        Range of a number, both included.
    among : tuple of str
        The texts there are; any if empty.
    like : str
        Regular expression of a text.
    needs : str
        For messages.
    """

    kind: type
    low: float = -math.inf
    high: float = math.inf
    among: tuple[str, ...] = ()
    like: str = ""
    needs: str = ""

    def said(self) -> str:
        """What is needed, in words."""
        if self.needs or self.among:
            return self.needs or f"one of {', '.join(self.among)}"
        if self.kind is bool:
            return "T or F"
        what = "a number" if self.kind is float else "an integer"
        limits = [(self.low, "from"), (self.high, "to")]
        return " ".join([what, *(f"{w} {v:g}" for v, w in limits if math.isfinite(v))])


def _each(keywords: str, allowed: Allowed) -> dict[str, Allowed]:
    return dict.fromkeys(keywords.split(), allowed)


_POSITIVE = Allowed(float, low=sys.float_info.min, needs="a positive number")

ALLOWED: Mapping[str, Allowed] = {
    **_each("RA_REF TARG_RA DITH_RA ROLL_REF V3I_YANG", Allowed(float, -360, 360)),
    **_each("DEC_REF TARG_DEC DITH_DEC", Allowed(float, -90, 90)),
    **_each("V2_REF V3_REF XOFFSET YOFFSET", Allowed(float, -3600, 3600)),
    "VPARITY": Allowed(float, among=("-1", "1")),
    # of a telescope that moves at 30 km/s about the Sun, with a margin
    "VA_SCALE": Allowed(float, 0.99, 1.01),
    "VELOSYS": Allowed(float, -1e6, 1e6),
    "PA_APER": Allowed(float),
    **_each("GWA_XTIL GWA_YTIL", Allowed(float, -10, 10)),
    "GWA_TILT": Allowed(float, sys.float_info.min, 400, needs="a temperature [K] from 0 to 400"),
    "EXPMID": Allowed(float, 5e4, 1e5, needs="a modified Julian date from 50000 to 100000"),
    **_each("XPOSURE TMEASURE EFFEXPTM", Allowed(float, 0)),
    **_each("PIXAR_SR PIXAR_A2", _POSITIVE),
    **_each("PHOTMJSR PHOTUJA2 TA_XPOS TA_YPOS SRCXPOS SRCYPOS", Allowed(float)),
    **_each("NINTS INTSTART INTEND", Allowed(int, 1)),
    **_each("SUBSTRT1 SUBSTRT2 SUBSIZE1 SUBSIZE2", Allowed(int, 1, 2048)),
    "DISPAXIS": Allowed(int, 1, 3),
    "SPORDER": Allowed(int, -9, 9),
    **_each("MSAMETID PATT_NUM", Allowed(int, 0)),
    **_each("TSOVISIT BKGDTARG", Allowed(bool)),
    **_each("SRCTYPE SRCTYAPT", Allowed(str, among=("POINT", "EXTENDED", "UNKNOWN"))),
    "INSTRUME": Allowed(str, among=("MIRI", "NIRSPEC", "NIRISS", "NIRCAM", "FGS")),
    "TARGTYPE": Allowed(str, among=("FIXED", "MOVING", "GENERIC", "INTERNAL")),
    "DATAMODL": Allowed(str, like=r"\w+Model", needs="a data model such as ImageModel"),
    "DATE-OBS": Allowed(str, like=r"\d{4}-\d\d-\d\d.*", needs="a date such as 2024-03-01"),
    "TIME-OBS": Allowed(str, like=r"\d\d:\d\d:\d\d.*", needs="a time such as 12:00:00.000"),
}
"""What keywords of exposures may hold, checked whenever one is read (``Meta.get``)."""


def allowed(keyword: str, value: Any, file: str) -> Any:
    """Return the value of a keyword, as the type that :data:`ALLOWED` says.

    Raises
    ------
    InputError
        Naming file, keyword, value and what is needed, if the value makes no sense.
    """
    rule = ALLOWED.get(keyword)
    if rule is None:
        return value
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if rule.kind is str:
        good = isinstance(value, str) and (not rule.among or value.strip().upper() in rule.among)
        if good and re.fullmatch(rule.like or ".*", value.strip()):
            return value
    elif rule.kind is bool:
        # some software writes logical values as text
        value = {"T": True, "TRUE": True, "F": False, "FALSE": False}.get(
            str(value).strip().upper(), value
        )
        if isinstance(value, bool | np.bool_):
            return bool(value)
    elif number:
        listed = not rule.among or f"{float(value):g}" in rule.among
        if math.isfinite(value) and rule.low <= value <= rule.high and listed:
            if rule.kind is float:
                return value
            if value == round(value):
                return round(value)
    msg = f"{file or 'the exposure'}: keyword {keyword} is {value!r}, needs {rule.said()}"
    raise InputError(f"{msg}; correct it")

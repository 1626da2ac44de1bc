"""Where the grating wheel of NIRSpec stood."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from spec2fn.schema import meta_of
from spec2fn.wcs.assign.pointing import number

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["grating_wheel_differs"]

_SENSORS = ("GWA_XTIL", "GWA_YTIL")
_TOLERANCE = 1e-8


def grating_wheel_differs(science: xr.Dataset, others: Sequence[xr.Dataset]) -> str:
    """Say whether the grating wheel moved between NIRSpec exposures.

    The wheel does not return to exactly the same position, which moves the spectra on the
    detector; two tilt sensors (GWA_XTIL, GWA_YTIL) tell.

    Parameters
    ----------
    science : xarray.Dataset
        Of any instrument.
    others : sequence of xarray.Dataset
        Exposures to compare with.

    Returns
    -------
    str
        Why they do not fit; empty if they do, or for other instruments.

    Raises
    ------
    InputError
        If a NIRSpec exposure lacks one of the keywords, or it is no number.
    """
    if str(science.attrs.get("instrument", "")).upper() != "NIRSPEC":
        return ""
    for sensor in _SENSORS:
        own = number(meta_of(science), sensor, "background")
        for other in others:
            theirs = number(meta_of(other), sensor, "background")
            if not abs(theirs - own) <= _TOLERANCE:
                name = meta_of(other).filename or "a background exposure"
                return (
                    f"the grating wheel moved: {sensor} is {own} in the science exposure and"
                    f" {theirs} in {name}"
                )
    return ""

"""Which slits of NIRSpec are open: the fixed slits, by exposure type and subarray."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from spec2fn.errors import InputError, nearest
from spec2fn.modes import mode_of
from spec2fn.schema import FIXED_SLIT_QUADRANT, SHUTTERS_ALONG, meta_of

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["FIXED_SLITS", "Slit", "fixed_slit", "open_fixed_slits", "shutter_id"]

FIXED_SLITS: Mapping[str, int] = {
    "S200A1": 1,
    "S200A2": 2,
    "S400A1": 3,
    "S1600A1": 4,
    "S200B1": 5,
}
"""Names of the fixed slits, with the numbers they have in source ids."""

_SUBARRAYS: Mapping[str, str] = {
    "SUBS200A1": "S200A1",
    "SUBS200A2": "S200A2",
    "SUBS400A1": "S400A1",
    "SUBS200B1": "S200B1",
    "SUB2048": "S1600A1",
    "SUB512": "S1600A1",
    "SUB512S": "S1600A1",
    "SUB1024A": "S1600A1",
    "SUB1024B": "S1600A1",
}
_ALL_SLITS = ("FULL", "ALLSLITS")


@dataclass(frozen=True)
class Slit:
    """An open slit: a fixed slit, or a slitlet of neighbouring shutters of the MSA.

    Attributes
    ----------
    name : str
        Name of the fixed slit, or number of the slitlet.
    shutter_id : int
        Row of the slit in the MSA reference: from 0 for fixed slits, from 1 for shutters.
    ymin, ymax : float
        Extent along the slit, in units of its (main shutter's) height, from its centre.
    quadrant : int
        Quadrant of the MSA, 1 to 4; 5 for fixed slits.
    xcen, ycen : int
        Row and column of the main shutter, from 1 (0 for fixed slits).
    source_id, source_name, source_alias, stellarity, source_ra, source_dec
        The source that was planned; RA and Dec in degrees.
    source_xpos, source_ypos : float
        Planned position of the source in the main shutter, from its centre (-0.5 to 0.5).
    shutter_state : str
        One character per shutter, in the order of columns: 1 open, 0 closed, x main shutter.
    slit_xscale, slit_yscale : float
        Pitch of the shutters over the size of their open area.
    dither_position : int
        Index into the dither pattern (MOS only).
    slitlet_id : int
        Number of the slitlet; of a fixed slit its ``shutter_id``.
    """

    name: str
    shutter_id: int
    ymin: float
    ymax: float
    quadrant: int = FIXED_SLIT_QUADRANT
    xcen: int = 0
    ycen: int = 0
    source_id: int = 0
    source_name: str = ""
    source_alias: str = ""
    stellarity: float = 0.0
    source_ra: float = 0.0
    source_dec: float = 0.0
    source_xpos: float = 0.0
    source_ypos: float = 0.0
    shutter_state: str = ""
    slit_xscale: float = 1.0
    slit_yscale: float = 1.0
    dither_position: int = 0
    slitlet_id: int = 0

    @property
    def fixed(self) -> bool:
        """Whether this is a fixed slit."""
        return self.quadrant == FIXED_SLIT_QUADRANT


def shutter_id(row: int, column: int) -> int:
    """Return the number of a shutter in its quadrant; all three count from 1."""
    return row + (column - 1) * SHUTTERS_ALONG


def fixed_slit(name: str, primary: str, y_range: tuple[float, float]) -> Slit:
    """Return a fixed slit.

    The source of the primary slit has the id 1; the others have two digits, the number of the
    primary slit and their own.
    """
    number = FIXED_SLITS[name]
    source_id = 1 if name == primary else 10 * FIXED_SLITS.get(primary, 0) + number
    return Slit(name, number - 1, *y_range, source_id=source_id, slitlet_id=number - 1)


def open_fixed_slits(ds: xr.Dataset, y_range: tuple[float, float]) -> tuple[Slit, ...]:
    """Return the fixed slits that an exposure may see.

    Parameters
    ----------
    ds : xarray.Dataset
        With attributes ``exp_type``, ``subarray`` and ``fixed_slit``.
    y_range : (float, float)
        Lower and upper edge along the slits, in units of their height.

    Raises
    ------
    InputError
        If SUBARRAY or FXD_SLIT is missing, or is no subarray that sees slits or no slit.
    """
    if mode_of(ds).one_slit:
        return (fixed_slit("S1600A1", "S1600A1", y_range),)
    meta = meta_of(ds)
    # without it the slit with the target is not known: no source would be a point
    said = ds.attrs.get("fixed_slit") or ("NONE" if mode_of(ds).lamp else None)
    primary = str(said or meta.require("FXD_SLIT", "assign_wcs")).upper()
    if primary not in (*FIXED_SLITS, "NONE"):
        msg = (
            f"assign_wcs: keyword FXD_SLIT is {primary!r}{nearest(primary, FIXED_SLITS)};"
            f" needs one of {', '.join(FIXED_SLITS)} or NONE"
        )
        raise InputError(msg)
    subarray = str(ds.attrs.get("subarray") or meta.require("SUBARRAY", "assign_wcs")).upper()
    if subarray not in (*_SUBARRAYS, *_ALL_SLITS):
        known = (*_ALL_SLITS, *_SUBARRAYS)
        msg = (
            f"assign_wcs: keyword SUBARRAY is {subarray!r}{nearest(subarray, known)};"
            f" slits are seen in {', '.join(known)}"
        )
        raise InputError(msg)
    only = _SUBARRAYS.get(subarray)
    names = FIXED_SLITS if only is None else (only,)
    return tuple(fixed_slit(name, primary, y_range) for name in names)

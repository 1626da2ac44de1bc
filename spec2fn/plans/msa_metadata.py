"""Slitlets from the MSA metadata file: neighbouring open shutters that hold one source.

The file (FITS keyword MSAMETFL of the exposure) is described in the JWST documentation of
assign_wcs, "MSA metadata file". ``SHUTTER_INFO`` has a row for every open shutter, configuration
(``msa_metadata_id``) and position of the dither pattern; ``SOURCE_INFO`` a row for every source.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.errors import InputError
from spec2fn.plans.nirspec_slits import FIXED_SLIT_QUADRANT, FIXED_SLITS, Slit
from spec2fn.schema import MSA_TABLES, meta_of

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["MSA_COLUMNS", "msa_configuration", "open_slitlets"]

MSA_COLUMNS = 365  # shutters of a quadrant along the dispersion
_PITCH = 1.15  # of shutters along a slitlet, in units of the open area's height
_MARGIN = 0.5  # beyond the outermost shutters of a slitlet
_SCALES = (1.35, 1.15)  # where the MSA reference has none (fixed slits)
_UNPLANNED = 0.5  # the centre of the shutter, in the coordinates of the planning tool


@dataclass(frozen=True, eq=False)
class _Tables:
    """The rows of one configuration, grouped by slitlet."""

    rows: Mapping[str, np.ndarray]
    sources: Mapping[str, np.ndarray]
    program: str
    dither: int
    y_range: tuple[float, float]
    scales: Mapping[int, tuple[float, float]]


def msa_configuration(ds: xr.Dataset) -> tuple[int, int]:
    """Return the configuration (MSAMETID) and the dither index (PATT_NUM) of an exposure.

    Raises
    ------
    InputError
        If a keyword is missing or no integer.
    """
    meta = meta_of(ds)
    return meta.require("MSAMETID", "assign_wcs"), meta.require("PATT_NUM", "assign_wcs")


def open_slitlets(
    msa: xr.Dataset,
    metadata_id: int,
    dither: int,
    *,
    program: str = "",
    y_range: tuple[float, float] = (-0.55, 0.55),
    scales: Mapping[int, tuple[float, float]] | None = None,
) -> tuple[Slit, ...]:
    """Return the open slitlets (and fixed slits) of a configuration of the MSA.

    Parameters
    ----------
    msa : xarray.Dataset
        MSA metadata, from :func:`spec2fn.io.read_msa_metadata`.
    metadata_id, dither : int
        Configuration, and index into the dither pattern.
    program : str
        Program number, for the names of background and virtual sources.
    y_range : (float, float)
        Edges of the open area of a shutter, in units of its height.
    scales : mapping of int to (float, float), optional
        Pitch over open size of the shutters (x, y) by quadrant.

    Returns
    -------
    tuple of Slit
        In the order in which the file names them.

    Raises
    ------
    InputError
        If there is no such configuration or dither index, or a slitlet has several main shutters
        or mixes shutters with fixed slits.
    """
    rows = {c: msa[f"shutter_info.{c}"].values for c in MSA_TABLES["shutter_info"]}
    n = len(rows["slitlet_id"])
    fixed: Any = msa["shutter_info.fixed_slit"].values if "shutter_info.fixed_slit" in msa else []
    rows["fixed_slit"] = np.array(
        [str(f).strip() if str(f).strip() in FIXED_SLITS else "" for f in fixed] or [""] * n
    )
    chosen = _choose(rows, metadata_id, dither, str(msa.attrs.get("filename", "the MSA file")))
    tables = _Tables(
        {name: values[chosen] for name, values in rows.items()},
        {c: msa[f"source_info.{c}"].values for c in MSA_TABLES["source_info"]},
        program.lstrip("0"),
        dither,
        y_range,
        scales or {},
    )
    groups: dict[str, list[int]] = {}
    for i, name in enumerate(tables.rows["fixed_slit"]):
        groups.setdefault(str(name) or str(tables.rows["slitlet_id"][i]), []).append(i)
    slits = (_slitlet(tables, name, members) for name, members in groups.items())
    return tuple(s for s in slits if s is not None)


def _choose(rows: Mapping[str, np.ndarray], metadata_id: int, dither: int, file: str) -> np.ndarray:
    same = rows["msa_metadata_id"] == metadata_id
    if not same.any():
        known = sorted({int(i) for i in rows["msa_metadata_id"]})
        msg = (
            f"assign_wcs: {file} has no configuration MSAMETID={metadata_id}; it has"
            f" {', '.join(map(str, known)) or 'none'}: correct MSAMETID or MSAMETFL"
        )
        raise InputError(msg)
    chosen = same & (rows["dither_point_index"] == dither)
    if not chosen.any():
        known = sorted({int(i) for i in rows["dither_point_index"][same]})
        msg = (
            f"assign_wcs: {file} has no dither index PATT_NUM={dither} for MSAMETID={metadata_id};"
            f" it has {', '.join(map(str, known))}: correct PATT_NUM or MSAMETFL"
        )
        raise InputError(msg)
    return np.flatnonzero(chosen)


def _slitlet(t: _Tables, name: str, members: list[int]) -> Slit | None:
    primary = [i for i in members if t.rows["primary_source"][i] == "Y"]
    if t.rows["fixed_slit"][members[0]]:
        if len(members) > 1:
            msg = f"assign_wcs: the MSA file lists fixed slit {name} {len(members)} times; keep one"
            raise InputError(msg)
        # a fixed slit without a source of its own is not part of the observation
        return _fixed(t, name, primary[0]) if primary else None
    if len(primary) > 1:
        msg = (
            f"assign_wcs: slitlet {name} has {len(primary)} shutters with a primary source in the"
            " MSA file; one is allowed"
        )
        raise InputError(msg)
    return _shutters(t, name, members, primary)


def _source(t: _Tables, source_id: int, slitlet: str) -> dict[str, Any]:
    (found,) = np.nonzero(t.sources["source_id"] == source_id)
    if not found.size:
        return _nameless(t, "VRT", slitlet)
    s, i = t.sources, int(found[0])
    return {
        "source_name": str(s["source_name"][i]),
        "source_alias": str(s["alias"][i]),
        "stellarity": float(s["stellarity"][i]),
        "source_ra": float(s["ra"][i]),
        "source_dec": float(s["dec"][i]),
    }


def _nameless(t: _Tables, kind: str, slitlet: str) -> dict[str, Any]:
    alias = f"{kind}{slitlet}"
    return {"source_name": f"{t.program}_{alias}", "source_alias": alias}


def _position(t: _Tables, row: int) -> dict[str, Any]:
    # the planning tool counts from a corner of the shutter; in the precision of the file
    out = {}
    for axis in "xy":
        value = t.rows[f"estimated_source_in_shutter_{axis}"][row]
        centre = value.dtype.type(_UNPLANNED)
        out[f"source_{axis}pos"] = 0.0 if np.isnan(value) else float(value - centre)
    return out


def _scales(t: _Tables, quadrant: int) -> dict[str, Any]:
    x, y = t.scales.get(quadrant, _SCALES)
    return {"slit_xscale": float(x), "slit_yscale": float(y)}


def _fixed(t: _Tables, name: str, row: int) -> Slit:
    shutter = FIXED_SLITS[name] - 1
    return Slit(
        name,
        shutter,
        t.y_range[0],
        t.y_range[1],
        source_id=int(t.rows["source_id"][row]),
        shutter_state="x",
        dither_position=t.dither,
        slitlet_id=shutter,
        **_source(t, int(t.rows["source_id"][row]), name),
        **_position(t, row),
        **_scales(t, FIXED_SLIT_QUADRANT),
    )


def _shutters(t: _Tables, name: str, members: list[int], primary: list[int]) -> Slit:
    columns = [int(t.rows["shutter_column"][i]) for i in members]
    first, last = min(columns), max(columns)
    if primary:
        centred = [i for i in members if t.rows["background"][i] == "N"] or primary
        main = centred[0]
        ycen = int(t.rows["shutter_column"][main])
        source_id = int(t.rows["source_id"][primary[0]])
        source = _source(t, source_id, name) | _position(t, main)
    else:
        # shutters that see background alone have no source id of their own
        main, ycen, source_id = members[0], first + (last - first) // 2, int(name)
        source = _nameless(t, "BKG", name)
    xcen, quadrant = int(t.rows["shutter_row"][main]), int(t.rows["shutter_quadrant"][main])
    low, high = t.y_range
    return Slit(
        name,
        xcen + (ycen - 1) * MSA_COLUMNS,
        -(-low + _MARGIN) + (first - ycen) * _PITCH,
        high + _MARGIN + (last - ycen) * _PITCH,
        quadrant,
        xcen,
        ycen,
        source_id=source_id,
        shutter_state=_state(columns, ycen),
        dither_position=t.dither,
        slitlet_id=int(name),
        **source,
        **_scales(t, quadrant),
    )


def _state(columns: Sequence[int], main: int) -> str:
    def one(column: int) -> str:
        return "x" if column == main else str(int(column in columns))

    return "".join(one(c) for c in range(min(columns), max(columns) + 1))

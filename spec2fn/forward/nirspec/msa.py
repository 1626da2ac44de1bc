"""MSA metadata of synthetic exposures: which shutters are open, and for which sources."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.schema import MSA_TABLES

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["fixed_slit", "msa_metadata", "shutter", "write_msa_metadata"]

_COLUMNS: Mapping[str, Mapping[str, str]] = {
    "shutter_info": {
        "slitlet_id": ">i2",
        "msa_metadata_id": ">i2",
        "shutter_quadrant": ">i2",
        "shutter_row": ">i2",
        "shutter_column": ">i2",
        "source_id": ">i4",
        "background": "S1",
        "shutter_state": "S6",
        "estimated_source_in_shutter_x": ">f4",
        "estimated_source_in_shutter_y": ">f4",
        "dither_point_index": ">i2",
        "primary_source": "S1",
        "fixed_slit": "S7",
    },
    "source_info": {
        "program": ">i4",
        "source_id": ">i4",
        "source_name": "S20",
        "alias": "S31",
        "catalog_id": "S20",
        "ra": ">f8",
        "dec": ">f8",
        "preimage_id": "S30",
        "stellarity": ">f8",
    },
}
_ARRAY = (342, 730)  # shutters of all quadrants


def shutter(
    slitlet: int,
    quadrant: int,
    row: int,
    column: int,
    source: int,
    *,
    main: bool,
    place: tuple[float, float] = (0.6, 0.6),
) -> dict[str, Any]:
    """Return a row of SHUTTER_INFO: an open shutter of configuration 1, dither index 1.

    Parameters
    ----------
    slitlet, quadrant, row, column, source : int
        Columns of the table; `row` counts along the dispersion, `column` along the slitlet.
    main : bool
        Whether the source stands in this shutter.
    place : (float, float)
        Position of the source in the main shutter, from its corner (0 to 1).
    """
    x, y = (np.float32(p if main else np.nan) for p in place)
    return {
        "slitlet_id": slitlet,
        "msa_metadata_id": 1,
        "shutter_quadrant": quadrant,
        "shutter_row": row,
        "shutter_column": column,
        "source_id": source,
        "background": "N" if main else "Y",
        "shutter_state": "OPEN",
        "estimated_source_in_shutter_x": x,
        "estimated_source_in_shutter_y": y,
        "dither_point_index": 1,
        "primary_source": "Y" if main else "N",
        "fixed_slit": "NONE",
    }


def fixed_slit(name: str, source: int, place: tuple[float, float] = (0.6, 0.6)) -> dict[str, Any]:
    """Return the row of SHUTTER_INFO of a fixed slit with a source; see :func:`shutter`."""
    return shutter(0, 0, 0, 0, source, main=True, place=place) | {"fixed_slit": name}


def msa_metadata(
    rows: Sequence[Mapping[str, Any]],
    sources: Mapping[str, Any],
    filename: str = "jw01234_01_msa.fits",
) -> xr.Dataset:
    """Put rows of SHUTTER_INFO and columns of SOURCE_INFO together.

    As :func:`spec2fn.io.msa.read_msa_metadata` reads them.
    """
    import xarray as xr

    data = {
        f"shutter_info.{key}": ("shutter_info_row", np.array([row[key] for row in rows]))
        for key in rows[0]
    }
    data |= {f"source_info.{key}": ("source_info_row", v) for key, v in sources.items()}
    return xr.Dataset(data, attrs={"filename": filename})


def write_msa_metadata(path: str | os.PathLike[str], metadata: xr.Dataset) -> None:
    """Write MSA metadata as the file that MSAMETFL names."""
    from astropy.io import fits

    hdus = [fits.PrimaryHDU(), fits.ImageHDU(np.zeros(_ARRAY, np.float32), name="SHUTTER_IMAGE")]
    for name in MSA_TABLES:
        kinds = _COLUMNS[name]
        table = np.zeros(metadata.sizes[f"{name}_row"], dtype=list(kinds.items()))
        for column in kinds:
            if f"{name}.{column}" in metadata:
                table[column] = metadata[f"{name}.{column}"].values
        hdus.append(fits.BinTableHDU(table, name=name.upper()))
    fits.HDUList(hdus).writeto(path, overwrite=True)

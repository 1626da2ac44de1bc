"""Where the source of a cut-out without a slit is: at the position that its catalog has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from spec2fn.deferred import as_deferred
from spec2fn.errors import InputError
from spec2fn.plans.extraction.slit_geometry import SlitGeometry
from spec2fn.plans.extraction.source_location import Location
from spec2fn.schema import meta_of
from spec2fn.typing import HostArray

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["TraceGeometry", "field_scale", "trace_geometry"]


@dataclass(frozen=True, eq=False)
class TraceGeometry(SlitGeometry):
    """A cut-out, all of which shows one source.

    Attributes
    ----------
    sky : (float, float)
        Right ascension and declination of the source [deg].
    waves : float array, (y, x)
        Wavelengths of the pixels [um].
    """

    sky: tuple[float, float] = (np.nan, np.nan)
    waves: HostArray | None = None

    def __call__(self, x: HostArray | float, y: HostArray | float) -> tuple[HostArray, ...]:
        """Position of the source, and the wavelengths at the nearest pixels."""
        x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
        column = np.clip(np.floor(x + 0.5).astype(int), 0, self.shape[1] - 1)
        row = np.clip(np.floor(y + 0.5).astype(int), 0, self.shape[0] - 1)
        ra, dec = (np.full(x.shape, value) for value in self.sky)
        assert self.waves is not None
        return ra, dec, np.asarray(self.waves[row, column])

    def locate(self) -> Location | None:
        """Return None: apertures are not moved, as cut-outs are made for their source."""
        return None


def trace_geometry(bucket: xr.Dataset, i: int) -> TraceGeometry:
    """Return where the source of a cut-out is.

    Parameters
    ----------
    bucket : xarray.Dataset
        With ``wavelength`` (slit, y, x), ``source_ra`` and ``source_dec`` on ``slit``.
    i : int
        Position of the cut-out in the bucket.
    """

    def value(name: str) -> float:
        return float(bucket.variables[name].values[i]) if name in bucket else float("nan")

    height, width = (int(bucket.variables[n].values[i]) for n in ("ysize", "xsize"))
    known = meta_of(bucket).wcs
    slit = int(bucket.variables["slit"].values[i])
    return TraceGeometry(
        as_deferred(known, slit) if hasattr(known, "keys") else known,
        ((-0.5, width - 0.5), (-0.5, height - 0.5)),
        (height, width),
        (value("source_xpos"), value("source_ypos")),
        1,
        sky=(value("source_ra"), value("source_dec")),
        waves=bucket.variables["wavelength"].values[i, :height, :width],
    )


def field_scale(bucket: xr.Dataset, i: int) -> float:
    """Return the size of a pixel across the dispersion, at the source of a cut-out [arcsec].

    Raises
    ------
    InputError
        If the cut-outs have no geometry of the field, as those of a file.
    """
    geometry = getattr(meta_of(bucket).wcs, "geometry", None)
    if geometry is None:
        msg = (
            "extract_1d: sizes of the apcorr reference are in arcsec, and the cut-outs do not say"
            " how large their pixels are; start at assign_wcs, or set apply_apcorr=false"
        )
        raise InputError(msg)
    x, y = (float(bucket.variables[f"source_{n}pos"].values[i]) for n in "xy")
    across = np.array([0.0, 1.0])
    if geometry.disp_axis == 1:
        place = x + 0 * across, y + across
    else:
        place = x + across, y + 0 * across
    ra, dec = (np.deg2rad(np.asarray(v)) for v in geometry.detector_to_world(*place))
    return float(np.rad2deg(np.hypot((ra[1] - ra[0]) * np.cos(dec[0]), dec[1] - dec[0])) * 3600)

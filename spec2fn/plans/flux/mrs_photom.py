"""Flux calibration of the MIRI MRS, by an image."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from spec2fn.errors import ReferenceError
from spec2fn.kernels.namespace import array_namespace
from spec2fn.kernels.photometry import interpolate_planned, power_law_change
from spec2fn.plan_base import Plan, array
from spec2fn.plans.flux.factors import Factor
from spec2fn.plans.flux.photom import TIME_TABLES, need_mid_time, photom_scalars, pixel_area
from spec2fn.schema import meta_of, need, require
from spec2fn.typing import Array, HostArray

if TYPE_CHECKING:
    import xarray as xr

    from spec2fn.parameters import Parameters

__all__ = ["MrsPhotomPlan", "plan_mrs_photom"]

_, TIME_COLUMNS = TIME_TABLES["timecoeff_powerlaw"]
"""Columns of the tables of the time dependence, besides the wavelength ``binwave`` [um]."""

_CHANNELS = (1, 2, 3, 4)


class MrsPhotomPlan(Plan):
    """Where the pixels of an exposure stand on the tables of the time dependence.

    Attributes
    ----------
    tables : tuple of str
        Tables of the channels of the exposure; their rows follow each other. Empty without a
        time dependence.
    index, fraction : array, shape (y, x)
        Cell of a pixel in the joined tables, and its place in the cell (beyond 0 to 1 outside
        the tabulated wavelengths).
    timed : array of bool, shape (y, x)
        Pixels with a wavelength; others do not change with time.
    nominal : float or None
        Conversion [(MJy/sr)/(DN/s)] that the header of the reference states for all pixels.
    """

    tables: tuple[str, ...] = ()
    index: Array | None = array("y x", default=None)
    fraction: Array | None = array("y x", default=None)
    timed: Array | None = array("y x", default=None)
    nominal: float | None = None

    def factor(
        self, ds: xr.Dataset, photom: xr.Dataset, area: xr.Dataset | None, *, inverse: bool
    ) -> Factor:
        """Return surface brightness per count rate."""
        image = photom.variables["sci"].data
        columns = {
            c: [photom.variables[f"{table}.{c}"].data for table in self.tables]
            for c in TIME_COLUMNS
        }
        used = (image, *(column for joined in columns.values() for column in joined))
        xp = array_namespace(ds.variables["sci"].data, *used)
        exact = xp.asarray(0.0).dtype
        value = xp.asarray(image).astype(exact)
        usable = xp.isfinite(value)
        value = xp.where(usable, value, xp.ones_like(value))
        if inverse:
            usable = usable & (value != 0)
        if self.tables:
            time = xp.asarray(ds.variables["mid_time"].data).astype(exact)
            joined = (
                xp.concatenate([xp.asarray(c).astype(exact) for c in columns[name]])
                for name in TIME_COLUMNS
            )
            # the throughput does not grow beyond that of the beginning
            change = xp.minimum(power_law_change(time, *joined), xp.ones((), dtype=exact))
            throughput = interpolate_planned(change, self.index, xp.asarray(self.fraction))
            value = value / xp.where(self.timed, throughput, xp.ones_like(throughput))
        flags = None
        if "dq" in photom:
            flags = xp.asarray(photom.variables["dq"].data).astype(np.uint32)
        sizes = (pixel_area("pixar_sr", area, photom), pixel_area("pixar_a2", area, photom))
        return Factor(
            value.astype(ds.variables["sci"].dtype),
            usable,
            flags=flags,
            units="DN/s" if inverse else "MJy/sr",
            scalars=photom_scalars(self.nominal, *sizes),
        )


def plan_mrs_photom(ds: xr.Dataset, photom: xr.Dataset, params: Parameters) -> MrsPhotomPlan:
    """Place the pixels of an exposure on the time dependence of their channels.

    Parameters
    ----------
    ds : xarray.Dataset
        Exposure with ``wavelength`` [um] and ``slice_id``, dims ``(y, x)``.
    photom : xarray.Dataset
        PHOTOM reference with ``sci`` [(MJy/sr)/(DN/s)] and tables ``timecoeff_powerlaw_ch<n>``.
    params : Parameters
        Of :func:`spec2fn.steps.photom.photom`.

    Raises
    ------
    DatasetError
        If ``wavelength`` or ``slice_id`` is missing.
    InputError
        If the exposure has no mid time and the time dependence needs one.
    ReferenceError
        If the reference lacks its image, has another size, or a damaged table.
    """
    require(ds, ("wavelength", "slice_id"), "photom")
    shape = ds["sci"].shape[-2:]
    if "sci" not in photom or photom["sci"].shape != shape:
        found = photom["sci"].shape if "sci" in photom else "missing"
        msg = (
            f"photom: the image 'sci' of reference 'photom' is {found}, needs {shape} as the"
            " exposure; give the reference of its channel and band"
        )
        raise ReferenceError(msg)
    # read here, because what describes a reference does not enter a trace
    stated = meta_of(photom).get("PHOTMJSR")
    nominal = float(stated) if isinstance(stated, (int, float)) else None
    names = [f"timecoeff_powerlaw_ch{c}" for c in _CHANNELS]
    if not params.apply_time_correction or not any(f"{n}.binwave" in photom for n in names):
        return MrsPhotomPlan(nominal=nominal)
    need_mid_time(ds)
    wave = np.asarray(ds["wavelength"].data)
    channel = np.asarray(ds["slice_id"].data) // 100
    index = np.zeros(shape, dtype=np.int32)
    fraction = np.zeros(shape)
    timed = np.isfinite(wave)
    tables: list[str] = []
    start = 0
    for number, name in zip(_CHANNELS, names, strict=True):
        pixels = np.nonzero(timed & (channel == number))
        if not pixels[0].size:
            continue
        knots = _knots(photom, name)
        low = np.clip(np.searchsorted(knots, wave[pixels], side="left") - 1, 0, len(knots) - 2)
        index[pixels] = start + low
        fraction[pixels] = (wave[pixels] - knots[low]) / (knots[low + 1] - knots[low])
        tables.append(name)
        start += len(knots)
    return MrsPhotomPlan(tuple(tables), index, fraction, timed & (channel > 0), nominal)


def _knots(photom: xr.Dataset, name: str) -> HostArray:
    need(photom, [f"{name}.{c}" for c in ("binwave", *TIME_COLUMNS)], "photom")
    knots: HostArray = np.asarray(photom[f"{name}.binwave"].data, dtype=np.float64)
    if len(knots) < 2 or not (np.diff(knots) > 0).all():
        msg = (
            f"photom: 'binwave' of table {name!r} needs two or more increasing wavelengths;"
            " fetch the file again"
        )
        raise ReferenceError(msg)
    return knots

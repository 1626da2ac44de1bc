"""The window of a grism time series: rows around the spectrum of its one source."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.errors import InputError
from spec2fn.plan_base import Plan, array, outside
from spec2fn.plans.slits.grism_cutouts import grism_geometry
from spec2fn.plans.slits.spectral_orders import extracted_orders
from spec2fn.schema import meta_of, with_meta
from spec2fn.typing import Array

if TYPE_CHECKING:
    import xarray as xr

    from spec2fn.deferred import DeferredWcs
    from spec2fn.parameters import Parameters
    from spec2fn.wcs.grism import GrismGeometry

__all__ = ["WindowPlan", "plan_window"]

_WHO = "extract_2d"
_HEIGHT = 64  # rows
_SOURCE_ROW = 34  # of the window, from 0, as the instrument team wants it


class WindowPlan(Plan):
    """What is cut out of a grism time series.

    Attributes
    ----------
    wavelength : array, shape (y, x)
        Of the pixels of the window [um].
    source : array, shape (2,)
        Pixel (x, y) of the source in the window, from 0.
    reference : array, shape (2,)
        What XREF_SCI and YREF_SCI say of it.
    rows : (int, int)
        First row of the window, from 0, and the end.
    order : int
        Spectral order.
    wcs : GrismWcs
        Of the window.
    names : (str, str)
        Name of the source in the catalogs, and that of its proposer.
    """

    wavelength: Array = array("y x")
    source: Array = array("2")
    reference: Array = array("2")
    rows: tuple[int, int]
    order: int
    wcs: DeferredWcs = outside()
    names: tuple[str, str]

    def cut_out(self, ds: xr.Dataset) -> xr.Dataset:
        """Cut the window out of an exposure."""
        start, stop = self.rows
        out = ds.isel(y=slice(start, stop))
        height, width = self.wavelength.shape
        numbers = {"xstart": 1, "ystart": start + 1, "xsize": width, "ysize": height}
        new: dict[str, Any] = {n: ((), np.int64(v)) for n, v in numbers.items()}
        for k, axis in enumerate("xy"):
            new[f"source_{axis}pos"] = ((), self.source[k], {"units": "pixel"})
            new[f"{axis}ref_sci"] = ((), self.reference[k], {"units": "pixel"})
        new |= {"slit_name": ((), np.array("1")), "source_id": ((), np.int64(1))}
        for name, text in zip(("source_name", "source_alias"), self.names, strict=True):
            new[name] = ((), np.array(text))
        new["wavelength"] = (("y", "x"), self.wavelength, {"units": "um"})
        out = out.assign(new).assign_attrs(model="SlitModel")
        if self.wcs is None:  # inside a trace, which has no headers
            return out
        return with_meta(out, wcs=self.wcs, records={"spectral_order": self.order})


def plan_window(
    ds: xr.Dataset, wavelengthrange: xr.Dataset | None, params: Parameters
) -> WindowPlan:
    """Plan the window of a grism time series.

    Parameters
    ----------
    ds : xarray.Dataset
        After assign_wcs.
    wavelengthrange : xarray.Dataset
        Says which order to extract.
    params : Parameters
        Of :func:`spec2fn.steps.extract_2d.extract_2d`.

    Raises
    ------
    DatasetError
        If assign_wcs has not run.
    InputError
        If several orders are asked for, or one that is not known.
    ReferenceError
        If the reference is missing, or does not know the filter.
    """
    meta, geometry = meta_of(ds), grism_geometry(ds, _WHO)
    orders = list(extracted_orders(ds, wavelengthrange, params.extract_orders, _WHO))
    if len(orders) != 1:
        msg = (
            f"{_WHO}: a time series gives the spectrum of one order, not of {len(orders)}"
            f" ({', '.join(map(str, orders))}); set extract_orders to one of them"
        )
        raise InputError(msg)
    (order,) = orders
    height, width = ds.sizes["y"], ds.sizes["x"]
    rows = min(params.tsgrism_extract_height or _HEIGHT, height)
    assert geometry.source is not None
    x0, y0 = map(float, geometry.source)
    if params.tsgrism_window == "fixed":
        start, source = 0, np.array([_dithered_column(ds, geometry), _SOURCE_ROW])
        reference = source + np.array([1, 0])  # the official row counts from 0
    else:
        start = int(np.clip(round(y0) - _SOURCE_ROW, 0, height - rows))
        source = np.array([x0, y0 - start])
        reference = source + 1
    x, y = np.arange(width, dtype=float), np.arange(rows, dtype=float)[:, None] + start
    waves = geometry.wavelength(x, y, x0, y0, order)
    name, alias = (str(meta.get(k) or "") for k in ("TARGNAME", "TARGPROP"))
    return WindowPlan(
        np.array(np.broadcast_to(waves, (rows, width))),
        source,
        reference,
        (start, start + rows),
        order,
        meta.wcs.window((0, start), (rows, width), order),
        (name, alias),
    )


def _dithered_column(ds: xr.Dataset, geometry: GrismGeometry) -> float:
    """Column at which the dither offsets place the target."""
    from spec2fn.wcs.assign.pointing import dithered_v2v3

    assert geometry.imaging is not None
    x, _ = geometry.imaging.undistortion(*dithered_v2v3(meta_of(ds), _WHO))
    return float(x)

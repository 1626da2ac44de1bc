"""Where the spectra of NIRSpec slits lie, and the world coordinates of their pixels."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.errors import DatasetError, InputError, NoDataOnDetectorError, nearest
from spec2fn.kernels.namespace import array_namespace
from spec2fn.modes import mode_of
from spec2fn.plan_base import Plan, outside
from spec2fn.schema import meta_of
from spec2fn.slits import Slits, padding
from spec2fn.typing import Array, HostArray
from spec2fn.wcs.open_slits import Slit
from spec2fn.wcs.s_region import polygon

if TYPE_CHECKING:
    import xarray as xr

    from spec2fn.wcs.assign.nirspec import SlitWcs
    from spec2fn.wcs.assign.nirspec_batch import SlitBatch

__all__ = ["Extract2dPlan", "bucket", "chosen", "cut_outs", "slit_wcs"]

_FOOTPRINT_WAVELENGTH = 2e-6  # m; the outline of a slit hardly depends on it
_CORNERS = np.array([-0.5, -0.5, 0.5, 0.5])
_TEXT = ("source_name", "source_alias", "shutter_state")
_INTEGERS = ("source_id", "quadrant", "xcen", "ycen", "slitlet_id", "shutter_id", "dither_position")
_NUMBERS = ("stellarity", "source_ra", "source_dec", "slit_xscale", "slit_yscale")


class Extract2dPlan(Plan):
    """What is cut out of an exposure.

    Attributes
    ----------
    buckets : tuple of xarray.Dataset
        Everything but the pixels of the exposure: the variables on ``slit``, and ``wavelength``,
        ``ra`` and ``dec`` (slit, y, x).
    wcs : SlitWcs
        Of the cut-outs.
    warnings : tuple of str
    """

    buckets: tuple[Any, ...]
    wcs: Any = outside()
    warnings: tuple[str, ...] = ()

    def cut_out(self, ds: xr.Dataset) -> Slits:
        """Cut the slits out of an exposure."""
        meta = meta_of(ds)
        records: dict[str, Any] = {}
        if self.warnings:
            records["warnings"] = (*meta.records.get("warnings", ()), *self.warnings)
        model = "SlitModel" if mode_of(ds).one_slit else "MultiSlitModel"
        attrs = {**ds.attrs, "model": model}
        if self.wcs is not None:  # as it is inside a trace, which has no headers
            attrs["meta"] = meta.replace(wcs=self.wcs, records=records)
        ds = ds.drop_vars("mask", errors="ignore")  # it is one of the whole exposure
        imaged = [name for name, var in ds.variables.items() if {"y", "x"} <= set(var.dims)]
        rest = ds.drop_vars(imaged)
        out = []
        for planned in self.buckets:
            cut = {name: _cut(ds[name], planned) for name in imaged}
            cut_out = planned.assign(cut).assign(rest.variables)
            cut_out.attrs = dict(attrs)
            out.append(cut_out)
        return Slits(tuple(out))


def _cut(
    var: xr.DataArray, bucket: xr.Dataset
) -> tuple[tuple[Hashable, ...], Array, dict[str, Any]]:
    # only the rows and columns that any slit of the bucket needs are read
    size = np.stack([bucket["xsize"].values, bucket["ysize"].values], axis=1)
    start = np.stack([bucket["xstart"].values, bucket["ystart"].values], axis=1) - 1
    low, high = start.min(axis=0), (start + size).max(axis=0)
    data = var.isel(x=slice(low[0], high[0]), y=slice(low[1], high[1])).data
    dims = ("slit", *var.dims)
    if len(size) == 1:
        return dims, data[None], dict(var.attrs)
    xp = array_namespace(data)
    offset, most = start - low, high - low - 1
    steps = (np.arange(bucket.sizes["x"]), np.arange(bucket.sizes["y"])[:, None])
    pixels = [offset[:, k, None, None] + s for k, s in enumerate(steps)]
    taken = data[..., np.minimum(pixels[1], most[1]), np.minimum(pixels[0], most[0])]
    inside = (steps[0] < size[:, 0, None, None]) & (steps[1] < size[:, 1, None, None])
    taken = xp.where(inside, taken, padding(str(var.name), np.dtype(taken.dtype)))
    return dims, xp.moveaxis(taken, -3, 0), dict(var.attrs)


def slit_wcs(ds: xr.Dataset) -> SlitWcs:
    """Return the WCS of the slits of an exposure; :class:`DatasetError` if there is none."""
    wcs: Any = meta_of(ds).wcs
    if not hasattr(wcs, "batch"):
        msg = "extract_2d: the exposure has no WCS of its slits; run assign_wcs first"
        raise DatasetError(msg)
    out: SlitWcs = wcs
    return out


def chosen(
    slits: Sequence[Slit], slit_names: Sequence[str] | None, source_ids: Sequence[int] | None
) -> tuple[int, ...]:
    """Return the ids of the slits with one of these names or sources; of all without a choice.

    Raises
    ------
    InputError
        If no open slit has the name, or holds the source.
    """
    if slit_names is None and source_ids is None:
        return tuple(range(len(slits)))
    names, sources = [s.name for s in slits], [s.source_id for s in slits]
    wanted, held = slit_names or (), source_ids or ()
    for name in wanted:
        if name not in names:
            msg = (
                f"extract_2d: no open slit {name!r} on this detector{nearest(name, names)};"
                f" there are {', '.join(names)}"
            )
            raise InputError(msg)
    for source in held:
        if source not in sources:
            listed = ", ".join(map(str, sorted(set(sources))))
            msg = f"extract_2d: no open slit holds source {source}; there are {listed}"
            raise InputError(msg)
    return tuple(i for i, s in enumerate(slits) if s.name in wanted or s.source_id in held)


def cut_outs(
    wcs: SlitWcs, ids: Sequence[int], limit: tuple[int, int]
) -> tuple[SlitWcs, tuple[str, ...]]:
    """Return the WCS of the cut-outs of slits, and warnings on those without a pixel in the image.

    The image has `limit` pixels (x, y).

    Raises
    ------
    NoDataOnDetectorError
        If none has one.
    """
    wanted = np.array(ids)
    edges = np.floor(wcs.boxes[wanted] + 0.5).astype(int)
    start = np.clip(edges[:, :, 0], 0, limit)
    size = np.clip(edges[:, :, 1], 0, limit) - start
    inside = (size > 0).all(axis=1)
    if not inside.any():
        msg = (
            "extract_2d: no pixel of the image sees a slit;"
            " check SUBSTRT1 and SUBSTRT2 of the exposure"
        )
        raise NoDataOnDetectorError(msg)
    warnings = tuple(
        f"slit {wcs.batch.slits[i].name} is left out: it lies outside the subarray"
        for i in wanted[~inside]
    )
    return wcs.cut(wanted[inside], start[inside], size[inside]), warnings


def bucket(
    wcs: SlitWcs, ids: Sequence[int], positions: dict[int, tuple[float, float]]
) -> xr.Dataset:
    """Return the variables on ``slit`` and the world coordinates of a bucket of slits.

    Parameters
    ----------
    wcs : SlitWcs
        From :func:`cut_outs`.
    ids : sequence of int
        Slits to be padded to the size of the largest.
    positions : mapping of int to (float, float)
        Measured source position by slit id, where it is not the planned one.

    Returns
    -------
    xarray.Dataset
        dims (slit, y, x); see :mod:`spec2fn.slits`.
    """
    import xarray as xr

    batch, slit = wcs.batch, np.array(ids)
    slits = [batch.slits[i] for i in ids]
    start, size = wcs.starts[slit], wcs.sizes[slit]
    world = wcs.on_pixels(wcs.world, slit, tuple(size.max(axis=0)[::-1]))
    on_sky = batch.optics.on_sky
    data: dict[str, Any] = {
        name: (("slit", "y", "x"), plane, {"units": unit})
        for (name, unit), plane in zip(_PLANES.items(), world, strict=True)
        if on_sky or name == "wavelength"
    }
    data |= {name: ("slit", values) for name, values in _attributes(slits).items()}
    moved = [
        positions.get(int(i), (s.source_xpos, s.source_ypos))
        for i, s in zip(ids, slits, strict=True)
    ]
    for k, axis in enumerate("xy"):
        data[f"source_{axis}pos"] = ("slit", np.array([p[k] for p in moved], dtype=np.float64))
        data[f"{axis}start"] = ("slit", start[:, k] + 1)
        data[f"{axis}size"] = ("slit", size[:, k].copy())
    if on_sky:
        data["s_region"] = ("slit", _footprints(batch, slit))
    return xr.Dataset(data, coords={"slit": slit})


_PLANES = {"ra": "deg", "dec": "deg", "wavelength": "um"}


def _attributes(slits: Sequence[Slit]) -> dict[str, HostArray]:
    out = {"slit_name": np.array([s.name for s in slits])}
    out |= {name: np.array([getattr(s, name) for s in slits], dtype=str) for name in _TEXT}
    out |= {name: np.array([getattr(s, name) for s in slits], dtype=int) for name in _INTEGERS}
    out |= {name: np.array([getattr(s, name) for s in slits], dtype=float) for name in _NUMBERS}
    out["slit_ymin"] = np.array([s.ymin for s in slits], dtype=float)
    out["slit_ymax"] = np.array([s.ymax for s in slits], dtype=float)
    out["source_type"] = np.full(len(slits), "UNKNOWN")
    out["slit_problem"] = np.full(len(slits), "")
    return out


def _footprints(batch: SlitBatch, ids: HostArray) -> HostArray:
    low, high = (batch.edges[ids, k, None] for k in (0, 1))
    along = np.concatenate([low, high, high, low], axis=1)
    ra, dec, _ = batch.sky(ids[:, None], _CORNERS, along, _FOOTPRINT_WAVELENGTH)
    return np.array([polygon(a, d) or "" for a, d in zip(ra, dec, strict=True)])

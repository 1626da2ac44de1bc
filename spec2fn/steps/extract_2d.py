"""Cut the spectra of the slits out of an exposure."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.engine.step import PLANNED, Skip, step
from spec2fn.kernels.namespace import array_namespace
from spec2fn.modes import mode_of
from spec2fn.parameters import Parameters
from spec2fn.plans.slits.extract_2d import Extract2dPlan, bucket, chosen, cut_outs, slit_wcs
from spec2fn.schema import meta_of
from spec2fn.slits import Slits, group_shapes, padding
from spec2fn.typing import Array

if TYPE_CHECKING:
    import xarray as xr

    from spec2fn.wcs.assign.nirspec import SlitWcs

_ANY_WAVELENGTH = 2.0  # um; the position in the slit hardly depends on it


def _plan(
    ds: xr.Dataset, wavelengthrange: xr.Dataset | None, *, params: Parameters
) -> Extract2dPlan | Skip:
    mode = mode_of(ds)
    if mode.layout != "slits":
        return Skip(f"EXP_TYPE {mode.exp_type} has no slits to cut out")
    whole = slit_wcs(ds)
    ids = chosen(whole.batch.slits, params.slit_names, params.source_ids)
    wcs, left_out = cut_outs(whole, ids, (ds.sizes["x"], ds.sizes["y"]))
    positions = _measured_positions(ds, wcs)
    groups = group_shapes([(int(y), int(x)) for x, y in wcs.sizes[list(wcs.ids)]])
    buckets = tuple(bucket(wcs, [wcs.ids[i] for i in group], positions) for group in groups)
    return Extract2dPlan(buckets, wcs, left_out)


@step(
    refs=("wavelengthrange",),
    reads=("sci", "err", "dq"),
    provides=("wavelength", "ra", "dec"),
    planner=_plan,
)
def extract_2d(
    ds: xr.Dataset,
    wavelengthrange: xr.Dataset | None = None,
    *,
    plan: Extract2dPlan = PLANNED,
    slit_names: tuple[str, ...] | None = None,
    source_ids: tuple[int, ...] | None = None,
) -> Slits:
    """Cut a rectangle around the spectrum of every slit.

    Parameters
    ----------
    ds : xarray.Dataset
        NIRSpec exposure of slits after ``assign_wcs``; variables ([integration,] y, x).
    wavelengthrange : xarray.Dataset, optional
        Not used for slits.
    plan : Extract2dPlan
        From ``extract_2d.plan(ds, ...)``.
    slit_names : tuple of str, optional
        Names of the slits to keep; all by default.
    source_ids : tuple of int, optional
        Keep the slits that hold these sources (besides those of `slit_names`).

    Returns
    -------
    Slits
        Every variable of the exposure that lies on the image, cut out; ``wavelength`` [um],
        ``ra``, ``dec`` [deg] (slit, y, x) float64, NaN outside the slit; and the variables on
        ``slit`` described in :mod:`spec2fn.slits`. The id of a slit is its position among all
        open slits, whatever is selected. ``xstart``, ``ystart`` are one-indexed in the image of
        the exposure, so that a subarray adds its own origin.

    Raises
    ------
    InputError
        If a slit or source that is asked for does not exist, no slit lies in the image, or a
        keyword is missing that says where the target is in its fixed slit.
    DatasetError
        If assign_wcs has not run.

    Notes
    -----
    The position of the source in the primary fixed slit follows from the dither offsets
    (XOFFSET, YOFFSET, both 0 for a target that is centred) and the orientation of the aperture.
    That of MSA sources is the planned one.
    """
    meta = meta_of(ds)
    records: dict[str, Any] = {}
    if plan.warnings:
        records["warnings"] = (*meta.records.get("warnings", ()), *plan.warnings)
    model = "SlitModel" if mode_of(ds).one_slit else "MultiSlitModel"
    attrs = {**ds.attrs, "model": model, "meta": meta.replace(wcs=plan.wcs, records=records)}
    imaged = [name for name, var in ds.variables.items() if {"y", "x"} <= set(var.dims)]
    rest = ds.drop_vars(imaged)
    out = []
    for planned in plan.buckets:
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


def _measured_positions(ds: xr.Dataset, wcs: SlitWcs) -> dict[int, tuple[float, float]]:
    # where the dither offsets put the target, in the fixed slit that it was aimed at
    from spec2fn.wcs.assign.pointing import dithered_v2v3
    from spec2fn.wcs.lower import lower

    primary = ds.attrs.get("fixed_slit")
    if mode_of(ds).shutters:
        return {}
    if mode_of(ds).one_slit:
        primary = "S1600A1"
    target = next((i for i in wcs if wcs.batch.slits[i].name == primary), None)
    if target is None:
        return {}
    v2, v3 = dithered_v2v3(meta_of(ds), "extract_2d")
    x, y, _ = lower(wcs[target], "v2v3", "slit_frame")(v2, v3, _ANY_WAVELENGTH)
    return {target: (float(x), float(y))}

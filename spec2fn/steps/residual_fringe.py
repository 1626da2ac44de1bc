"""Correction of the fringes that the fringe flat leaves in spectra of the MIRI MRS."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.engine.step import PLANNED, Skip, step
from spec2fn.errors import DatasetError
from spec2fn.kernels.namespace import array_namespace, is_jax
from spec2fn.kernels.residual_fringe import fringe_model, gather_columns, scatter_columns
from spec2fn.modes import mode_of
from spec2fn.parameters import Parameters
from spec2fn.plans.fringes.residual_fringe import ResidualFringePlan, plan_columns
from spec2fn.plans.regions import HIGH_TRANSMISSION, region_map
from spec2fn.schema import meta_of, replace_data, require, status_of, with_meta
from spec2fn.typing import Array, HostArray
from spec2fn.wcs.coordinates import with_coordinates

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["residual_fringe"]


def _plan(
    ds: xr.Dataset,
    fringefreq: xr.Dataset | None = None,
    regions: xr.Dataset | None = None,
    *,
    params: Parameters,
) -> ResidualFringePlan | Skip:
    mode = mode_of(ds)
    if not mode.etalon:
        return Skip(f"residual fringes are only corrected for MIR_MRS, not {mode.exp_type}")
    if fringefreq is None:
        return Skip("no fringefreq reference")
    done = status_of(ds, "fringe")
    if not done.startswith("COMPLETE"):
        msg = (
            "residual_fringe needs an exposure divided by the fringe flat, found the status"
            f" {done or 'unknown'!r} of the step fringe; run fringe first"
        )
        raise DatasetError(msg)
    needed = ("wavelength", "slice_id")
    if meta_of(ds).wcs is not None and any(name not in ds for name in needed):
        ds = with_coordinates(ds, "residual_fringe")
    require(ds, needed, "residual_fringe")
    if regions is not None:
        shape = (ds.sizes["y"], ds.sizes["x"])
        labels = region_map(regions, HIGH_TRANSMISSION, shape, "residual_fringe")
        ds = ds.assign(slice_id=(("y", "x"), labels.astype("i4")))
    ends = (params.ignore_region_min or (), params.ignore_region_max or ())
    ignored = tuple(zip(*ends, strict=True))
    return plan_columns(ds, fringefreq, ignored, images=params.save_intermediate_results)


@step(
    refs=("fringefreq", "regions"),
    needs_refs=("fringefreq",),
    reads=("sci", "err", "dq"),
    traceable=True,
    skip=True,
    planner=_plan,
    ordered=(("ignore_region_min", "ignore_region_max"),),
)
def residual_fringe(
    ds: xr.Dataset,
    fringefreq: xr.Dataset | None = None,
    regions: xr.Dataset | None = None,
    *,
    plan: ResidualFringePlan = PLANNED,
    ignore_region_min: tuple[float, ...] | None = None,
    ignore_region_max: tuple[float, ...] | None = None,
    save_intermediate_results: bool = False,
) -> xr.Dataset:
    """Divide the spectra of the slices by the fringes found in them.

    Every detector column of every slice is searched for fringes of the detector (about 2.9 cm-1)
    and of the dichroics (0.4 cm-1); their number and periods are those for which the evidence is
    strong. Columns that are too short, too faint or without evidence stay as they are.

    Parameters
    ----------
    ds : xarray.Dataset
        MRS exposure after ``fringe`` and ``photom``, (y, x) or (integration, y, x). The fringes
        are found in the first integration; their amplitudes are fitted in each. ``wavelength``
        and ``slice_id`` are those of ``assign_wcs``; of a product without them the gwcs is
        evaluated.
    fringefreq : xarray.Dataset
        Periods of the fringes of each slice, with the highest number of fringes and the least
        signal-to-noise ratio, and their highest amplitude by wavelength.
    regions : xarray.Dataset, optional
        Map of the slices, if it is to be another one than ``slice_id``.
    plan : ResidualFringePlan, optional
        Everything that is decided or not linear in the data: the columns, the pixels and their
        weights, the shape of the continuum, and the periods. Gradients hold it fixed: with it the
        level of the continuum and the amplitudes of the fringes follow the data.
    ignore_region_min, ignore_region_max : sequence of float, optional
        Ends of ranges of wavelength that are left out of the fits [um].
    save_intermediate_results : bool
        Keep the factors, the continuum, the weights of the last fit and the knots as Datasets in
        ``ds.attrs["meta"].records`` (``"rfc_factors"``, ``"background_fit"``,
        ``"weights_features"``, ``"knot_locations"``; not inside a JAX transformation).

    Returns
    -------
    xarray.Dataset
        With ``sci`` corrected; errors stay as they were. ``ds.attrs["meta"].records`` holds the
        number of columns by outcome under ``"residual_fringe"``, and under
        ``"residual_fringe_columns"`` the slice, position, outcome, signal-to-noise ratio, number
        of fringes and first period of every column.

    Raises
    ------
    DatasetError
        If the exposure was not divided by a fringe flat.
    ParameterError
        If regions to ignore lack an end.
    ReferenceError
        If the reference lacks a slice of the exposure.

    Notes
    -----
    Algorithm: Kavanagh et al., residual fringe correction of the JWST calibration pipeline
    (https://jwst-pipeline.readthedocs.io).
    """
    sci = ds["sci"].data
    factor = _factors(sci, plan)
    xp = array_namespace(sci, factor)
    image = scatter_columns(factor, plan.owner)
    good = xp.isfinite(sci)
    new = xp.where(good, sci, xp.zeros((), dtype=sci.dtype)) * image
    out = replace_data(ds, sci=xp.where(good, new.astype(sci.dtype), sci))
    if is_jax(sci):
        return out
    records: dict[str, Any] = {
        "residual_fringe": dict(plan.outcome),
        "residual_fringe_columns": plan.table,
    }
    if save_intermediate_results and plan.images is not None:
        names = {"background_fit": "continuum", "weights_features": "weights"}
        names["knot_locations"] = "knots"
        records["rfc_factors"] = _as_image(ds, image)
        records |= {key: _as_image(ds, plan.images[name]) for key, name in names.items()}
    return with_meta(out, records=records)


def _factors(sci: Array, plan: ResidualFringePlan) -> Array:
    values, good = gather_columns(sci, plan.columns, plan.use)
    xp = array_namespace(sci, plan.columns)
    one = xp.ones((), dtype=sci.dtype)
    total = xp.ones_like(values)
    for stage in plan.stages:
        pieces = [xp.ones_like(values[..., :1, :])]
        for b in stage.blocks:
            columns = (values[..., b.columns, :], good[..., b.columns, :])
            model = fringe_model(*columns, b.continuum, b.weight, (b.waves, b.offset, b.level))
            divisor = one + xp.where(b.keep, model, xp.zeros((), dtype=model.dtype))
            up = divisor > 0
            pieces.append(xp.where(up, one / xp.where(up, divisor, one), one))
        factor = xp.concatenate(pieces, axis=-2)[..., stage.source, :]
        values, total = values * factor, total * factor
    return total


def _as_image(ds: xr.Dataset, data: HostArray) -> xr.Dataset:
    import xarray as xr

    dims = ds["sci"].dims[-data.ndim :]
    keep = {k: v for k, v in ds.attrs.items() if not k.startswith("status_")}
    model = "ImageModel" if data.ndim == 2 else "CubeModel"
    image = np.asarray(data, dtype=np.float32)
    return xr.Dataset({"sci": (dims, image)}, attrs={**keep, "model": model})

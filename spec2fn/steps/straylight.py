"""Stray light of the MIRI MRS."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import numpy as np

from spec2fn.dq import PIXEL
from spec2fn.engine.step import PLANNED, Skip, step
from spec2fn.kernels.namespace import array_namespace, is_traced
from spec2fn.kernels.straylight import (
    clipped,
    cross_artifact,
    row_profiles,
    shower_light,
    within_percentiles,
)
from spec2fn.modes import mode_of
from spec2fn.parameters import Parameters, Range
from spec2fn.plans.background.straylight import COLUMNS, StraylightPlan, plan_straylight
from spec2fn.schema import replace_data, with_meta
from spec2fn.typing import Array

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["straylight"]

_NO_SOURCE = sum(PIXEL[n] for n in ("DO_NOT_USE", "NON_SCIENCE", "DEAD", "HOT"))
_NO_SHOWER = PIXEL["DO_NOT_USE"] | PIXEL["REFERENCE_PIXEL"]
_EDGE = 4  # columns of reference pixels on both sides
_BRIGHT = 3.0  # standard deviations above the pedestal from which on a pixel is a source


def _plan(
    ds: xr.Dataset,
    mrsxartcorr: xr.Dataset | None,
    regions: xr.Dataset | None = None,
    *,
    params: Parameters,
) -> StraylightPlan | Skip:
    mode = mode_of(ds)
    if not mode.etalon:
        return Skip(f"stray light is corrected in MIR_MRS exposures, not in {mode.exp_type}")
    if mrsxartcorr is None:
        return Skip("no mrsxartcorr reference for this exposure")
    plane = params.shower_plane if params.clean_showers else None
    return plan_straylight(ds, mrsxartcorr, regions, plane)


@step(
    refs=("mrsxartcorr", "regions"),
    ordered=(("shower_low_reject", "shower_high_reject"),),
    reads=("sci", "dq"),
    traceable=True,
    planner=_plan,
    needs_refs=("mrsxartcorr",),
)
def straylight(
    ds: xr.Dataset,
    mrsxartcorr: xr.Dataset | None = None,
    regions: xr.Dataset | None = None,
    *,
    plan: StraylightPlan = PLANNED,
    clean_showers: bool = False,
    shower_plane: Annotated[int, Range(0, 8)] = 3,
    shower_x_stddev: Annotated[float, Range(0.1, 1000.0)] = 18.0,
    shower_y_stddev: Annotated[float, Range(0.1, 1000.0)] = 5.0,
    shower_low_reject: Annotated[float, Range(0.0, 100.0)] = 0.1,
    shower_high_reject: Annotated[float, Range(0.0, 100.0)] = 99.9,
    save_shower_model: bool = False,
) -> xr.Dataset:
    """Subtract the cross artifact, the pedestal and (on demand) cosmic-ray showers.

    Light that is reflected inside the detector spreads along its row; its profile, a Lorentzian
    and two pairs of Gaussians, is tabulated for every row and sub-band. Then the dark level
    between the two channels is subtracted. Showers are smooth light that is seen between the
    slices, and interpolated over them.

    Parameters
    ----------
    ds : xarray.Dataset
        Exposure of type MIR_MRS with all columns of the detector, ``([integration,] y, x)``, with
        ``sci`` [DN/s] and ``dq``; every integration is corrected by itself.
    mrsxartcorr : xarray.Dataset
        Tables ``ch1a`` … ``ch4c`` with the columns of
        :data:`spec2fn.plans.background.straylight.COLUMNS`. Read here, not in the plan, so that
        the result can be differentiated with respect to them.
    regions : xarray.Dataset, optional
        Maps of the slices; for showers.
    plan : StraylightPlan
        From ``straylight.plan(ds, mrsxartcorr, regions, ...)``.
    clean_showers : bool
        Whether to correct for residual cosmic-ray showers.
    shower_plane : int
        Map of `regions` that says what lies between slices.
    shower_x_stddev, shower_y_stddev : float
        Standard deviations [pixel] of the Gaussian that smooths showers.
    shower_low_reject, shower_high_reject : float
        Percentiles of the pixels between slices beyond which they are left out.
    save_shower_model : bool
        Keep the image of the showers as the record ``shower_model`` (a Dataset) of the result's
        :class:`~spec2fn.schema.Meta`. Ignored inside a JAX transformation.

    Returns
    -------
    xarray.Dataset
        With corrected ``sci``; errors and flags are left as they are. Bands of which the
        channels see different ones (SHORT-MEDIUM, …) have no profile of the artifact: only the
        pedestal and showers are subtracted. Skipped without ``mrsxartcorr``.

    Raises
    ------
    DatasetError
        If the exposure does not have all columns of the detector.
    ReferenceError
        If a table lacks a column, or there is no map of slices for showers.

    Notes
    -----
    Algorithm: JWST pipeline documentation, straylight step; the artifact: Gáspár et al. (2021,
    PASP 133, 014504) and Argyriou et al. (2023, A&A 675, A111).
    """
    assert mrsxartcorr is not None
    sci, dq = ds["sci"].data, ds["dq"].data
    tables = {
        f"{table}.{c}": mrsxartcorr[f"{table}.{c}"].data
        for table, _, _ in plan.halves
        for c in COLUMNS
    }
    xp = array_namespace(sci, dq, *tables.values())
    zero = xp.zeros((), dtype=sci.dtype)
    finite = xp.isfinite(sci)
    known = xp.where(finite, sci, zero)
    columns = np.arange(sci.shape[-1])
    edge = (columns < _EDGE) | (columns >= sci.shape[-1] - _EDGE)

    level, _, noise = clipped(_gap(known, plan))
    level, noise = level[..., None, None], noise[..., None, None]
    source = finite & ((dq & xp.asarray(_NO_SOURCE, dtype=dq.dtype)) == 0)
    source = source & (known >= level + np.asarray(_BRIGHT, sci.dtype) * noise)
    light = xp.where(source & (known > level), known - level, zero)
    halves = [
        (
            slice(first, stop),
            row_profiles(
                **{c: xp.asarray(tables[f"{table}.{c}"]).astype(sci.dtype) for c in COLUMNS},
                width=sci.shape[-1],
            ),
        )
        for table, first, stop in plan.halves
    ]
    artifact = xp.where(edge, zero, cross_artifact(light, halves))
    _, pedestal, _ = clipped(_gap(known - artifact, plan))
    out = sci - artifact - xp.where(edge, zero, pedestal[..., None, None])
    shower = None
    if clean_showers:
        dark = xp.asarray(plan.between) & ((dq & xp.asarray(_NO_SHOWER, dtype=dq.dtype)) == 0)
        dark = dark & xp.isfinite(out)
        values = xp.where(dark, out, zero)
        dark = within_percentiles(values, dark, shower_low_reject, shower_high_reject)
        shower = shower_light(values, dark, shower_x_stddev, shower_y_stddev)
        out = out - shower
    done = replace_data(ds, sci=out)
    if save_shower_model and shower is not None and not is_traced(shower):
        done = with_meta(done, records={"shower_model": _record(ds, shower)})
    return done


def _gap(sci: Array, plan: StraylightPlan) -> Array:
    """Pixels between the channels, along one axis."""
    rows, columns = plan.gap
    part = sci[..., slice(*rows), slice(*columns)]
    return part.reshape((*part.shape[:-2], -1))


def _record(ds: xr.Dataset, shower: Array) -> xr.Dataset:
    import xarray as xr

    return xr.Dataset({"sci": (ds["sci"].dims, shower, dict(ds["sci"].attrs))})

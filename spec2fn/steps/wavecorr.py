"""Correction of the wavelengths of point sources that are not centred in their slits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.engine.step import PLANNED, Skip, step
from spec2fn.kernels.namespace import array_namespace, is_traced
from spec2fn.kernels.slit_corrections import interpolate_by_slit, offsets_at
from spec2fn.modes import mode_of
from spec2fn.parameters import Parameters
from spec2fn.plans.slits.slit_frame import require_slits
from spec2fn.plans.slits.wavecorr import WavecorrPlan, WavelengthChange, is_corrected, plan_wavecorr
from spec2fn.schema import meta_of, replace_data, with_meta, with_problems
from spec2fn.typing import HostArray

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["wavecorr"]


def _plan(
    ds: xr.Dataset, wavecorr: xr.Dataset | None, *, params: Parameters
) -> WavecorrPlan | Skip:
    mode = mode_of(ds)
    if not (mode.fixed_slits or mode.shutters) or (mode.lamp and not params.lamps):
        return Skip(f"no wavelength correction applies to {mode.exp_type}")
    if wavecorr is None:
        return Skip(f"no wavecorr reference for {mode.exp_type}")
    require_slits(ds, "wavecorr", ("wavelength", "source_xpos", "ysize", "xsize"))
    if is_corrected(ds):
        return Skip("the wavelengths have been corrected already")
    return plan_wavecorr(ds, wavecorr)


@step(
    refs=("wavecorr",),
    reads=("sci",),
    provides=("wavelength_uncorrected", "wavelength_corrected"),
    traceable=True,
    planner=_plan,
    needs_refs=("wavecorr",),
)
def wavecorr(
    ds: xr.Dataset,
    wavecorr: xr.Dataset | None = None,
    *,
    plan: WavecorrPlan = PLANNED,
    lamps: bool = True,
) -> xr.Dataset:
    """Correct the wavelengths of point sources that are not centred in their slits.

    The image of such a source is shifted along the dispersion. The reference gives the shift, in
    pixels, by wavelength and position of the source across the slit.

    Parameters
    ----------
    ds : xarray.Dataset
        A bucket of slits, dims ``(slit, [integration,] y, x)``, with ``wavelength`` [um],
        ``source_type`` and ``source_xpos`` (in units of the slit's width). The result can be
        differentiated with respect to ``source_xpos`` and ``wavelength``.
    wavecorr : xarray.Dataset
        Reference: the zero-point offsets by aperture.
    plan : WavecorrPlan
        From ``wavecorr.plan(ds, reference)``.
    lamps : bool
        Whether exposures of lamps are looked at, as those of the sky are. A lamp fills its slits,
        so that there is nothing to correct unless a slit is said to hold a POINT source.

    Returns
    -------
    xarray.Dataset
        With corrected ``wavelength`` [um]; the former one as ``wavelength_uncorrected``;
        ``wavelength_corrected`` (bool on ``slit``) says which slits have been corrected. The
        gwcs of those gets a further frame ``wavecorr_frame`` (not inside a JAX transformation,
        where there is none). Slits of extended sources, without a position of the source, of
        apertures unknown to the reference, and slits whose corrected wavelengths would not
        increase, keep their wavelengths.

    Raises
    ------
    DatasetError
        If ``wavelength`` or the gwcs of the slits is missing.
    ReferenceError
        If the reference holds no apertures.

    Notes
    -----
    Algorithm: JWST pipeline documentation, wavecorr step.
    """
    wavelength = ds.variables["wavelength"].data
    position = ds.variables["source_xpos"].data
    xp = array_namespace(wavelength, position, plan.points)
    applies = xp.asarray(plan.applies)

    # positions may be unknown where nothing is corrected
    place = xp.where(applies, xp.asarray(position, dtype=float), 0.0)
    shift = offsets_at(plan.offsets, plan.positions, place)
    values = xp.asarray(plan.points) + shift * xp.asarray(plan.dispersion)
    valid = applies[:, None, None] & xp.isfinite(wavelength)
    metres = xp.where(valid, wavelength, 1.0) * 1e-6
    corrected = interpolate_by_slit(plan.points, values, plan.index, metres) * 1e6
    corrected = xp.where(valid, corrected, wavelength)

    old = ds.variables["wavelength"]
    out = replace_data(ds, wavelength=corrected).assign(
        wavelength_uncorrected=(old.dims, old.data, dict(old.attrs)),
        wavelength_corrected=("slit", applies),
    )
    out = with_problems(out, plan.warnings or (), lost=False)
    wcs = meta_of(ds).wcs
    if isinstance(wcs, Mapping) and not any(is_traced(v) for v in (values, applies)):
        out = with_meta(out, wcs=_corrected(ds, wcs, plan, np.asarray(values)))
    return out


def _corrected(
    ds: xr.Dataset, wcs: Mapping[int, Any], plan: WavecorrPlan, values: HostArray
) -> Mapping[int, Any]:
    changes = {}
    for i in np.flatnonzero(np.asarray(plan.applies)):
        slit, n = int(ds["slit"].values[i]), int(plan.count[i])
        tables = np.asarray(plan.points)[i, :n].copy(), values[i, :n].copy()
        changes[slit] = WavelengthChange(*tables)
    if hasattr(wcs, "changed"):
        changed: Mapping[int, Any] = wcs.changed(changes)  # built when they are asked for
        return changed
    return {k: changes[k](w) if k in changes else w for k, w in wcs.items()}

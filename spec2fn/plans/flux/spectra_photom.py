"""Flux calibration of slitless spectra that have been extracted in count rates.

The factor is that of a pixel at the wavelength of the element, which spans the wavelengths between
its neighbours. It is exact where wavelengths do not change across the dispersion.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.dq import PIXEL
from spec2fn.errors import InputError, ReferenceError
from spec2fn.kernels.namespace import array_namespace
from spec2fn.plan_base import Plan
from spec2fn.plans.flux.grism_photom import GrismPhotomPlan, plan_grism_photom
from spec2fn.plans.flux.photom import pixel_area
from spec2fn.schema import SPECTRUM_COLUMNS, described, meta_of, set_scalars, with_meta
from spec2fn.typing import Array
from spec2fn.units import MJY_TO_JY

if TYPE_CHECKING:
    import xarray as xr

    from spec2fn.parameters import Parameters

__all__ = ["SpectraPhotomPlan", "plan_spectra_photom", "scaled", "with_lost_elements"]

_UNTOUCHED = ("wavelength", "dq", "npixels")


class SpectraPhotomPlan(Plan):
    """What converts extracted spectra into physical units.

    Attributes
    ----------
    elements : GrismPhotomPlan
        Of the elements of the spectra, as those of images one pixel high.
    """

    elements: GrismPhotomPlan

    def calibrated(
        self, ds: xr.Dataset, photom: xr.Dataset, area: xr.Dataset | None, *, inverse: bool
    ) -> xr.Dataset:
        """Return spectra in Jy and MJy/sr, or back in count rates."""
        factor = self.elements.factor(_as_slits(ds), photom, area, inverse=inverse)
        assert factor.usable is not None
        bright, known = factor.value[:, 0], factor.usable[:, 0]
        xp = array_namespace(bright, ds.variables["flux"].data)
        size = pixel_area("pixar_sr", area, photom)
        bright = bright.astype(np.float64)
        if size is None:
            msg = (
                f"photom: neither {described(photom)} nor an area reference says how large a pixel"
                " is (PIXAR_SR), which the flux of a spectrum needs; use another"
            )
            raise ReferenceError(msg)
        flux = bright * (size * MJY_TO_JY)
        empty = xp.asarray(np.nan)
        new: dict[str, Any] = {}
        for name, (_, unit) in SPECTRUM_COLUMNS.items():
            if name not in ds or name in _UNTOUCHED:
                continue
            scale = flux if name.startswith("flux") else bright
            scale = scale * scale if "_var_" in name else scale
            old = ds.variables[name]
            values = scaled(old.data, scale, inverse=inverse)
            units = _rate(name) if inverse else unit
            new[name] = (old.dims, xp.where(known, values, empty), {**old.attrs, "units": units})
        out = with_lost_elements(ds.assign(new), known)
        out = set_scalars(out, pixar_sr=size, pixar_a2=pixel_area("pixar_a2", area, photom))
        problems = {
            n: p for n, p in zip(_names(ds), self.elements.problems or (), strict=False) if p
        }
        if problems and "meta" in ds.attrs:
            told = tuple(f"spectrum {name}: {why}" for name, why in problems.items())
            before = meta_of(ds).records.get("warnings", ())
            out = with_meta(out, records={"warnings": (*before, *told)})
        return out


def scaled(values: Array, scale: Array, *, inverse: bool) -> Array:
    """Return values times a scale, or divided by it; those that are not finite stay as they are.

    They are masked before the product, so that derivatives by the scale are finite where there is
    no flux.
    """
    xp = array_namespace(values, scale)
    there = xp.isfinite(values)
    filled = xp.where(there, values, xp.zeros_like(values))
    out = filled / scale if inverse else filled * scale
    return xp.where(there, out, values.astype(out.dtype))


def with_lost_elements(ds: xr.Dataset, known: Array) -> xr.Dataset:
    """Return spectra in which elements without a flux calibration are flagged DO_NOT_USE.

    Parameters
    ----------
    ds : xarray.Dataset
        With ``dq`` ([integration,] spectrum, wave) and ``n_wave`` (spectrum).
    known : bool array, (spectrum, wave)
        Elements that the reference covers.
    """
    dq = ds.variables["dq"]
    xp = array_namespace(dq.data, known)
    within = np.arange(ds.sizes["wave"], dtype=np.int32) < ds["n_wave"].data[:, None]
    lost = xp.asarray(within) & ~known
    flags = dq.data | xp.where(lost, np.uint32(PIXEL["DO_NOT_USE"]), np.uint32(0))
    return ds.assign(dq=(dq.dims, flags, dict(dq.attrs)))


def _rate(name: str) -> str:
    return "DN^2 / s^2" if "_var_" in name else "DN/s"


def _names(ds: xr.Dataset) -> list[str]:
    orders = ds["sporder"].values.tolist()
    return [f"{n} (order {o})" for n, o in zip(ds["sltname"].values, orders, strict=True)]


def plan_spectra_photom(
    ds: xr.Dataset, photom: xr.Dataset, params: Parameters
) -> SpectraPhotomPlan | str:
    """Place the elements of extracted spectra on the response of their order.

    Parameters
    ----------
    ds : xarray.Dataset
        Spectra in count rates, dims ([integration,] spectrum, wave), with ``wavelength`` [um],
        ``n_wave`` and ``sporder``.
    photom : xarray.Dataset
        See :func:`spec2fn.plans.flux.grism_photom.plan_grism_photom`.
    params : Parameters
        Of :func:`spec2fn.steps.photom.photom`.

    Returns
    -------
    SpectraPhotomPlan or str
        Why nothing can be calibrated.

    Raises
    ------
    InputError
        If the spectra are calibrated already.
    DatasetError, ReferenceError
        See :func:`spec2fn.plans.flux.grism_photom.plan_grism_photom`.
    """
    if not params.inverse and "Jy" in str(ds["flux"].attrs.get("units", "")):
        msg = (
            f"photom: the spectra of {meta_of(ds).filename or 'the exposure'} are in"
            f" {ds['flux'].attrs['units']} already; leave photom out before extract_1d"
        )
        raise InputError(msg)
    plan = plan_grism_photom(_as_slits(ds), photom, params)
    return plan if isinstance(plan, str) else SpectraPhotomPlan(plan)


def _as_slits(ds: xr.Dataset) -> xr.Dataset:
    """The wavelengths of spectra as those of slits one pixel high."""
    import xarray as xr

    wave = ds.variables["wavelength"].data
    flux: Array = ds.variables["flux"].data
    flux = flux if flux.ndim == 2 else flux[0]
    count = ds.sizes["spectrum"]
    variables: dict[str, Any] = {
        "sci": (("slit", "y", "x"), flux[:, None]),
        "wavelength": (("slit", "y", "x"), wave[:, None]),
        "spectral_order": ("slit", ds["sporder"].data),
        "ysize": ("slit", np.ones(count, dtype=int)),
        "xsize": ("slit", ds["n_wave"].data),
    }
    if "mid_time" in ds:
        variables["mid_time"] = ds.variables["mid_time"]
    return xr.Dataset(variables, attrs={**ds.attrs, "dispaxis": 1})

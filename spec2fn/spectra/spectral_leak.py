"""Light of 6 um that leaks into spectra of the MRS at 12 um."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from spec2fn.errors import InputError
from spec2fn.kernels.interpolation_linear import interpolate1d
from spec2fn.kernels.namespace import array_namespace
from spec2fn.schema import need, require, with_status
from spec2fn.typing import Array

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["spectral_leak"]

_WHO = "spectral_leak"
_COLUMNS = ("flux", "rf_flux")
_TABLE = ("leakcor.wavelength", "leakcor.frac_leak")
_BANDS = {"1B": 6.0, "3A": 12.0}  # wavelength [um] that tells the band


def spectral_leak(
    spectrum_1b: xr.Dataset, spectrum_3a: xr.Dataset, reference: xr.Dataset
) -> xr.Dataset:
    """Subtract from a spectrum of band 3A what leaks in from band 1B in second order.

    Parameters
    ----------
    spectrum_1b, spectrum_3a : xarray.Dataset
        Extracted spectra of one point source, dims (spectrum, wave) with one spectrum each,
        ``wavelength`` [um], ``flux`` [Jy] and, without residual fringes, ``rf_flux``; or of the
        channels that these bands are part of.
    reference : xarray.Dataset
        The ``mrsptcorr`` reference: share of the flux that leaks, by wavelength.

    Returns
    -------
    xarray.Dataset
        `spectrum_3a` with corrected ``flux``, and ``rf_flux`` if both have it; errors stay as
        they are. Unchanged, with the reason in ``status_spectral_leak``, if the source is
        extended.

    Raises
    ------
    DatasetError
        If a spectrum lacks wavelength or flux.
    InputError
        If they do not hold 6 and 12 um, or more than one spectrum.
    ReferenceError
        If the reference has no leak.

    Notes
    -----
    The leak is the flux at half the wavelength times the share in the reference, both
    interpolated linearly; beyond the ends of a spectrum its last values hold. Algorithm: spectral
    leak step of the JWST calibration pipeline (https://jwst-pipeline.readthedocs.io), after
    Gasman et al. 2023, A&A 673, A102. Differentiable in both spectra.
    """
    reference = need(reference, _TABLE, _WHO)
    spectra = {"1B": spectrum_1b, "3A": spectrum_3a}
    waves = {band: _wavelength(ds, band) for band, ds in spectra.items()}
    for ds in spectra.values():
        if "srctype" in ds and "EXTENDED" in ds["srctype"].values:
            return with_status(spectrum_3a, _WHO, "SKIPPED: the source is extended")
    table = [np.asarray(reference[n].values, dtype=float) for n in _TABLE]
    wave = waves["3A"]
    share = _between(table[0], table[1], wave)
    new = {}
    for name in _COLUMNS:
        if name in spectrum_1b and name in spectrum_3a:
            source = spectrum_1b[name].data.reshape(-1)
            var = spectrum_3a.variables[name]
            leak = _between(2.0 * waves["1B"], source, wave) * share
            new[name] = (var.dims, var.data - leak, dict(var.attrs))
    return with_status(spectrum_3a.assign(new), _WHO, "COMPLETE")


def _wavelength(ds: xr.Dataset, band: str) -> Array:
    require(ds, ("wavelength", "flux"), _WHO)
    wave, needed = ds["wavelength"].data.reshape(-1), _BANDS[band]
    number = int(np.prod(ds["flux"].shape[:-1]))
    if number != 1:
        msg = f"{_WHO} needs one spectrum of band {band}, found {number}; select one with isel"
        raise InputError(msg)
    if not float(wave[0]) < needed < float(wave[-1]):
        msg = (
            f"{_WHO} needs a spectrum of band {band}, which holds {needed:g} um, found"
            f" {float(wave[0]):.4g} to {float(wave[-1]):.4g} um; give the spectra in the order"
            " 1B, 3A"
        )
        raise InputError(msg)
    return wave


def _between(points: Array, values: Array, x: Array) -> Array:
    """Interpolate linearly; beyond the ends the last values hold."""
    xp = array_namespace(points, values, x)
    return interpolate1d(points, values, xp.clip(x, points[0], points[-1]))

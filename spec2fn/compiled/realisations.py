"""Realisations of the noise, through a whole pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.errors import ContractError, InputError
from spec2fn.pieces import pieces_of
from spec2fn.typing import HostArray

if TYPE_CHECKING:
    import xarray as xr

    from spec2fn.compiled.pipeline import Compiled

__all__ = ["Realisations", "realisations"]

DIM = "realisation"
_KINDS = ("poisson", "rnoise")


@dataclass(frozen=True)
class Realisations:
    """What :func:`realisations` returns.

    Attributes
    ----------
    products : mapping of str to xarray.Dataset, Slits or Cubes
        By kind, with the dim ``realisation`` first.
    planned : xarray.Dataset
        The spectra of the exposure itself, with the errors that they state.
    """

    products: Mapping[str, Any]
    planned: xr.Dataset

    def scatter(self) -> xr.DataArray:
        """Standard deviation of the flux [Jy], dims ``([integration,] spectrum, wave)``."""
        flux: xr.DataArray = self.products["x1d"]["flux"].std(DIM, ddof=1)
        return flux

    def stated(self) -> xr.DataArray:
        """What the spectra state for it [Jy]: ``flux_error_cov`` without the part of the flat.

        Where resampling has left no covariance it is ``flux_error``.
        """
        ds = self.planned
        name = "flux_error_cov" if "flux_error_cov" in ds else "flux_error"
        parts = [ds[f"flux_var_{kind}"] for kind in _KINDS]
        noise = sum(parts[1:], parts[0])
        total = noise + ds["flux_var_flat"]
        return ds[name] * np.sqrt((noise / total.where(total > 0)).fillna(1.0))

    def coverage(self) -> float:
        """Root mean square of scatter over stated error: 1 if the errors are honest.

        Elements count whose flux and error are finite in all realisations.
        """
        scatter, stated = self.scatter(), self.stated()
        ratio = (scatter / stated.where(stated > 0)).values
        ratio = ratio[np.isfinite(ratio)]
        if not ratio.size:
            msg = "realisations: no element of the spectra has a scatter and an error"
            raise InputError(msg)
        return float(np.sqrt(np.mean(ratio**2)))


def realisations(
    compiled: Compiled,
    n: int,
    key: int = 0,
    *,
    one_over_f: float = 0.0,
    kinds: tuple[str, ...] = ("x1d",),
) -> Realisations:
    """Add noise to an exposure again and again, and calibrate each.

    The noise of a pixel is normal, with the sum of ``var_poisson`` and ``var_rnoise`` (the square
    of ``err``, if it has neither) as its variance. Images that the plan subtracts (the average of
    background exposures, an imprint) have noise as well, the same for all integrations, where
    their variances are propagated. What is discrete is that of the plan, for all realisations.

    Parameters
    ----------
    compiled : Compiled
        From :func:`spec2fn.compile`; it makes ``x1d``.
    n : int
        Number of realisations, at least 2.
    key : int
        Seed. The same key gives the same realisations, however many there are.
    one_over_f : float
        Standard deviation [units of ``sci``] of noise of the read-out besides, in the exposure
        itself, whose power is inverse to the frequency; rows are read one after the other. 0 for
        none.
    kinds : tuple of str
        Products to return; ``x1d`` is among them.

    Returns
    -------
    Realisations

    Raises
    ------
    InputError
        If there are fewer than 2 realisations, or the exposure has no error.
    ContractError
        If ``x1d`` is not among the products.
    """
    if n < 2:
        raise InputError(f"realisations: n must be at least 2, got {n}")
    if "x1d" not in kinds:
        raise ContractError(f"realisations: kinds must have 'x1d', got {kinds}")
    chosen = compiled.only(*kinds)
    sigmas = _sigmas(chosen)

    def draw(some: HostArray) -> dict[str, HostArray]:
        return {
            path: np.stack(
                [
                    _noisy(
                        np.random.default_rng([key, int(i), k]),
                        chosen.value(path),
                        sigma,
                        one_over_f if path.startswith("science") else 0.0,
                    )
                    for i in some
                ]
            )
            for k, (path, sigma) in enumerate(sigmas.items())
        }

    return Realisations(chosen.in_batches(DIM, n, draw), chosen.first.products["x1d"])


def _sigmas(compiled: Compiled) -> dict[str, HostArray]:
    """Standard deviation of the pixels, by path."""
    science = compiled.observation.science
    out = {}
    for i, part in enumerate(pieces_of(science)):
        path = "science/sci" if part is science else f"science/{i}/sci"
        variances = [part[f"var_{k}"].values for k in _KINDS if f"var_{k}" in part]
        if not variances:
            if "err" not in part:
                msg = "realisations: the exposure has neither variances nor err; add one of them"
                raise InputError(msg)
            variances = [part["err"].values ** 2]
        variance = sum(variances[1:], variances[0])
        sigma = np.sqrt(np.where(np.isfinite(variance) & (variance > 0), variance, 0.0))
        out[path] = sigma.astype(part["sci"].dtype)
    return out | _subtracted(compiled)


def _subtracted(compiled: Compiled) -> dict[str, HostArray]:
    """Standard deviation of images that are subtracted, by path.

    They have variances of their own, on which the products depend where they are propagated.
    """
    used, out = set(compiled.parameters()), {}
    for path in sorted(used):
        folder, _, name = path.rpartition("/")
        parts = [f"{folder}/var_{k}" for k in _KINDS]
        if name == "sci" and not folder.startswith("science") and used.issuperset(parts):
            variance = sum((compiled.value(p) for p in parts[1:]), compiled.value(parts[0]))
            out[path] = np.sqrt(variance)
    return out


def _noisy(
    rng: np.random.Generator, sci: HostArray, sigma: HostArray, one_over_f: float
) -> HostArray:
    noise: HostArray = np.asarray(rng.standard_normal(sci.shape, np.float32))
    noise *= sigma
    noise += sci
    if one_over_f:
        noise += one_over_f * _pink(rng, sci.shape)
    return noise


def _pink(rng: np.random.Generator, shape: tuple[int, ...]) -> HostArray:
    """Noise of unit variance, 1/f in power, along the rows as they are read."""
    length = shape[-1] * shape[-2]
    amplitude = np.concatenate([[0.0], np.fft.rfftfreq(length)[1:] ** -0.5])
    amplitude /= np.sqrt(2 * np.sum(amplitude**2) / length)
    white = rng.standard_normal((*shape[:-2], length))
    pink = np.fft.irfft(np.fft.rfft(white) * amplitude, n=length)
    return pink.reshape(shape).astype(np.float32)

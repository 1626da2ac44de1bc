"""Combination of background exposures into the image that is subtracted.

Each exposure is averaged over its integrations with sigma clipping, the averages are combined
over exposures with sigma clipping, and the variances of what was kept are propagated to the
variance of the mean. The algorithm follows the description of the background subtraction step in
the JWST pipeline documentation; the propagation of the variance is ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from spec2fn.dq import PIXEL
from spec2fn.errors import DatasetError
from spec2fn.kernels.background import add_in_quadrature, per_plane
from spec2fn.kernels.statistics import clip_bounds
from spec2fn.plan_base import Plan, array
from spec2fn.schema import meta_of, require
from spec2fn.subarray import subarray_origin
from spec2fn.typing import Array, HostArray

if TYPE_CHECKING:
    import xarray as xr
    from numpy.typing import DTypeLike

__all__ = [
    "BackgroundPlan",
    "check_units",
    "combine_backgrounds",
    "describe",
    "grating_wheel_differs",
]

_VARIANCES = ("var_poisson", "var_rnoise")
_SENSORS, _TOLERANCE = ("GWA_XTIL", "GWA_YTIL"), 1e-8  # of the tilt of the grating wheel


class BackgroundPlan(Plan):
    """The combined background on the pixels of the science exposure.

    Attributes
    ----------
    sci : ndarray, (y, x), float32
        Background in the units of the exposure; zero where no exposure has a valid value.
    dq : ndarray, (y, x), uint32
        Flags of all exposures and integrations; ``DO_NOT_USE`` where there is no valid value.
    var : ndarray, (y, x), float32
        Variance of the mean (from the ``err`` planes).
    var_poisson, var_rnoise : ndarray, (y, x), float32
        Its parts.
    """

    sci: Array = array("y x")
    dq: Array = array("y x")
    var: Array = array("y x")
    var_poisson: Array = array("y x")
    var_rnoise: Array = array("y x")

    def subtract_from(self, ds: xr.Dataset, *, propagate_variance: bool) -> dict[str, Array]:
        """Return the planes of an exposure less this image, with its flags (and variance) added."""
        sci, dq = ds["sci"].data, ds["dq"].data
        new = {"sci": sci - per_plane(self.sci, sci), "dq": dq | per_plane(self.dq, dq)}
        if propagate_variance:
            new["err"] = add_in_quadrature(ds["err"].data, self.var)
            for name in _VARIANCES:
                if name in ds:
                    old = ds[name].data
                    new[name] = old + per_plane(getattr(self, name), old)
        return new

    def recorded(self, ds: xr.Dataset) -> xr.Dataset:
        """Return an exposure with what there is to record of its background: nothing."""
        return ds

    def subtracted(self, ds: xr.Dataset) -> xr.Dataset:
        """Return the image that is subtracted, with the headers of the science exposure."""
        return describe(self, ds)


def combine_backgrounds(
    science: xr.Dataset,
    exposures: Sequence[xr.Dataset],
    sigma: float = 3.0,
    maxiters: int | None = None,
) -> BackgroundPlan | None:
    """Average background exposures on the pixels of a science exposure.

    Parameters
    ----------
    science : xarray.Dataset
        Gives the pixels (its subarray) and the units; its data are not used.
    exposures : sequence of xarray.Dataset
        Two-dimensional or with integrations, each on any subarray of the same detector.
    sigma : float
        Clipping threshold in standard deviations about the median.
    maxiters : int, optional
        Maximum number of clipping iterations.

    Returns
    -------
    BackgroundPlan or None
        None if no exposure overlaps the science exposure.

    Raises
    ------
    DatasetError
        If the position of a subarray is unknown, or units or sizes contradict each other.
    """
    stack: list[Mapping[str, HostArray]] = []
    flags = np.zeros(science["sci"].shape[-2:], dtype=np.uint32)
    for number, exposure in enumerate(exposures, 1):
        who = f"background exposure {number} ({meta_of(exposure).filename or 'in memory'})"
        require(exposure, ("sci", "err", "dq", *_VARIANCES), f"background: {who}")
        check_units(science, exposure, f"background: {who}")
        cut = _overlap(science, exposure, who)
        if cut is None:
            continue
        here, there = cut
        planes, dq = _average_integrations(exposure, there, sigma, maxiters)
        flags[here] |= dq
        stack.append({name: _place(plane, here, flags.shape) for name, plane in planes.items()})
    if not stack:
        return None
    mean = _combine(stack, sigma, maxiters)
    lacking = ~np.isfinite(mean["sci"])
    flags[lacking] |= np.uint32(PIXEL["DO_NOT_USE"])
    with np.errstate(over="ignore"):
        final = {n: np.where(lacking, 0.0, a).astype(np.float32) for n, a in mean.items()}
    return BackgroundPlan(dq=flags, **final)


def _corners(ds: xr.Dataset, who: str) -> tuple[int, int] | None:
    # zero-based row and column of the first pixel on the detector
    x, y = ds.attrs.get("xstart"), ds.attrs.get("ystart")
    if x is None or y is None:
        return None
    ny, nx = ds["sci"].shape[-2:]
    sizes = (ds.attrs.get("ysize", ny), ds.attrs.get("xsize", nx))
    if sizes != (ny, nx):
        msg = (
            f"background: {who} is {(ny, nx)} but its subarray (SUBSIZE2, SUBSIZE1) is {sizes};"
            " correct the header or cut the data"
        )
        raise DatasetError(msg)
    return int(y) - 1, int(x) - 1


def _overlap(
    science: xr.Dataset, exposure: xr.Dataset, who: str
) -> tuple[tuple[slice, slice], tuple[slice, slice]] | None:
    # rows and columns that both have, in either
    mine, other = _corners(science, "the science exposure"), _corners(exposure, who)
    shape, their = science["sci"].shape[-2:], exposure["sci"].shape[-2:]
    if (mine is None) != (other is None):
        # one says where it lies on the detector, so the other must, unless it is all of it
        mine, other = (subarray_origin(d, "background")[::-1] for d in (science, exposure))
    if mine is None or other is None:
        if shape != their:
            msg = (
                f"background: {who} is {their} but the science exposure is {shape}, and keywords"
                " SUBSTRT1, SUBSTRT2 that say where they lie on the detector are missing"
            )
            raise DatasetError(msg)
        mine = other = (0, 0)
    here, there = [], []
    for m, o, n_m, n_o in zip(mine, other, shape, their, strict=True):
        first, last = max(m, o), min(m + n_m, o + n_o)
        if first >= last:
            return None
        here.append(slice(first - m, last - m))
        there.append(slice(first - o, last - o))
    return (here[0], here[1]), (there[0], there[1])


def check_units(science: xr.Dataset, exposure: xr.Dataset, who: str) -> None:
    """Raise :class:`DatasetError` unless two exposures are in the same units, if they have any."""
    mine, other = (d["sci"].attrs.get("units") for d in (science, exposure))
    if mine and other and mine != other:
        msg = (
            f"{who} is in {other} but the science exposure in {mine};"
            " both must have had the same steps"
        )
        raise DatasetError(msg)


def _average_integrations(
    exposure: xr.Dataset, cut: tuple[slice, slice], sigma: float, maxiters: int | None
) -> tuple[dict[str, HostArray], HostArray]:
    dq = np.asarray(exposure["dq"].values)[(..., *cut)]
    planes = {
        name: np.asarray(exposure[source].values)[(..., *cut)]
        for name, source in {"sci": "sci", "var": "err", **{v: v for v in _VARIANCES}}.items()
    }
    if planes["sci"].ndim == 2:
        return {**planes, "var": np.square(planes["var"], dtype=np.float64)}, dq
    # the sum of float32 integrations is itself rounded to float32: small against the noise, and
    # what everybody else's products contain
    clipped = _clipped_mean(planes, sigma, maxiters, errors=("var",), dtype=planes["sci"].dtype)
    return clipped, np.bitwise_or.reduce(dq, axis=0)


def _combine(
    stack: Sequence[Mapping[str, HostArray]], sigma: float, maxiters: int | None
) -> dict[str, HostArray]:
    if len(stack) == 1:
        return dict(stack[0])
    return _clipped_mean(
        {name: np.stack([s[name] for s in stack]) for name in stack[0]}, sigma, maxiters
    )


def _clipped_mean(
    planes: Mapping[str, HostArray],
    sigma: float,
    maxiters: int | None,
    errors: tuple[str, ...] = (),
    dtype: DTypeLike = np.float64,
) -> dict[str, HostArray]:
    # `errors` are standard errors to be squared, all other planes but `sci` (summed in `dtype`)
    # are variances; layers go one by one, so that only one is held in float64
    data = planes["sci"]
    low, high = clip_bounds(data, sigma, maxiters)
    kept = np.isfinite(data)
    kept &= (data >= low) & (data <= high)
    count = np.count_nonzero(kept, axis=0)
    empty = count == 0
    n = np.where(empty, 1, count).astype(np.float64)
    out = {}
    for name, plane in planes.items():
        total = np.zeros(count.shape, dtype if name == "sci" else np.float64)
        for layer, used in zip(plane, kept, strict=True):
            term = np.square(layer, dtype=np.float64) if name in errors else layer
            np.add(total, term, out=total, where=used)
        mean = total / (n if name == "sci" else n * n)
        mean[empty] = np.nan
        out[name] = mean
    return out


def _place(plane: HostArray, here: tuple[slice, slice], shape: tuple[int, ...]) -> HostArray:
    if plane.shape == shape:
        return plane
    out = np.full(shape, np.nan, dtype=plane.dtype)
    out[here] = plane
    return out


def grating_wheel_differs(science: xr.Dataset, others: Sequence[xr.Dataset]) -> str:
    """Say why the grating wheel moved between NIRSpec exposures; nothing if it did not.

    The wheel does not return to exactly the same position, which moves the spectra on the
    detector; two tilt sensors (GWA_XTIL, GWA_YTIL) tell.

    Raises
    ------
    InputError
        If a NIRSpec exposure lacks one of the keywords, or it is no number.
    """
    if str(science.attrs.get("instrument", "")).upper() != "NIRSPEC":
        return ""
    for sensor in _SENSORS:
        own = meta_of(science).number(sensor, "background")
        for other in others:
            theirs = meta_of(other).number(sensor, "background")
            if not abs(theirs - own) <= _TOLERANCE:
                name = meta_of(other).filename or "a background exposure"
                return (
                    f"the grating wheel moved: {sensor} is {own} in the science exposure and"
                    f" {theirs} in {name}"
                )
    return ""


def describe(plan: BackgroundPlan, science: xr.Dataset) -> xr.Dataset:
    """Return the combined background as a Dataset with the headers of the science exposure."""
    import xarray as xr

    units = science["sci"].attrs.get("units")
    value = {"units": units} if units else {}
    dims = ("y", "x")
    keep = {k: v for k, v in science.attrs.items() if not k.startswith("status_")}
    return xr.Dataset(
        {
            "sci": (dims, plan.sci, value),
            "err": (dims, np.sqrt(plan.var), value),
            "dq": (dims, plan.dq),
            "var_poisson": (dims, plan.var_poisson),
            "var_rnoise": (dims, plan.var_rnoise),
        },
        attrs={**keep, "model": "ImageModel"},
    )

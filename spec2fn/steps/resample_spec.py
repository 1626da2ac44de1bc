"""Rectification of a slit spectrum: resampling onto a grid of wavelength and position."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np

from spec2fn.dq import UNUSABLE
from spec2fn.engine.step import PLANNED, Skip, step
from spec2fn.errors import ParameterError
from spec2fn.kernels import resampling
from spec2fn.kernels.namespace import array_namespace, is_traced, positive_root, safe_sqrt
from spec2fn.parameters import Parameters, Range
from spec2fn.plans.resampling.resample import ResamplePlan, make_plan
from spec2fn.schema import (
    COMMON_ERROR,
    COMMON_SHARE,
    SCALARS,
    VARIANCES,
    set_scalars,
    with_attrs,
    with_meta,
    with_problems,
)
from spec2fn.slits import as_one_slit
from spec2fn.typing import Array

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["plan_resample_spec", "resample_spec"]

_PLANES = ("sci", "err", "dq", *VARIANCES, COMMON_SHARE)
# what stands beyond the edges of a slit instead of NaN
_OUTSIDE = {"dq": UNUSABLE, "con": 0, "wht": 0, "covariance": 0}


def plan_resample_spec(ds: xr.Dataset, *, params: Parameters) -> ResamplePlan | Skip:
    """Compute output grids and pixel overlaps on the host; see :func:`resample_spec`.

    Returns
    -------
    ResamplePlan or Skip
        The plan depends on the WCS and on header values, not on pixel values; only the point
        where the tangent plane of a NIRSpec slit touches the sky follows the light in it, which
        changes the result by less than a millionth of a pixel.

    Raises
    ------
    DatasetError, InputError
        If there is no WCS, no dispersion direction, or an output WCS that cannot be used.
    ParameterError
        If the size of the output cannot be found or wanted, or `fillval` is no number.
    """
    _fill(params.fillval)
    if params.several == "left" and "integration" in ds.dims:
        return Skip("integrations are left as they are")
    plan = make_plan(ds, params)
    return Skip(plan) if isinstance(plan, str) else plan


def _fill(fillval: str) -> float:
    if fillval.strip().upper() in ("NAN", "INDEF"):
        return math.nan
    try:
        value = float(fillval)
    except ValueError:
        value = math.inf
    if math.isinf(value):
        msg = f"resample_spec.fillval: needs NAN, INDEF or a number, got {fillval!r}"
        raise ParameterError(msg)
    return value


@step(
    reads=("sci", "err", "dq"),
    provides=("wht", "con", "variance_cov", "covariance"),
    traceable=True,
    planner=plan_resample_spec,
    suffix="s2d",
)
def resample_spec(
    ds: xr.Dataset,
    *,
    plan: ResamplePlan = PLANNED,
    pixfrac: Annotated[float, Range(0.0, 1.0)] = 1.0,
    kernel: Literal["square", "point"] = "square",
    fillval: str = "NAN",
    weight_type: Literal["ivm", "exptime"] | None = "ivm",
    output_shape: tuple[Annotated[int, Range(1)], Annotated[int, Range(1)]] | None = None,
    pixel_scale_ratio: Annotated[float, Range(0.0, above=True)] = 1.0,
    pixel_scale: Annotated[float, Range(0.0, above=True)] | None = None,
    output_wcs: str | object = "",
    propagate_dq: bool = False,
    several: Literal["resampled", "left"] = "resampled",
) -> xr.Dataset:
    """Resample a slit spectrum onto a grid that is straight in wavelength and position.

    Parameters
    ----------
    ds : xarray.Dataset
        ``sci``, ``err``, ``dq``, variances, with dims ([integration,] y, x), and the gwcs; or a
        bucket of slits, dims (slit, [integration,] y, x).
    plan : ResamplePlan
        Output grid and overlaps, from :func:`plan_resample_spec`.
    pixfrac : float
        Linear size to which an input pixel is shrunk before it is laid on the output grid.
    kernel : {"square", "point"}
        Whether a pixel is spread over its shrunken outline or is put into one output pixel.
    fillval : str
        Value of ``sci`` where no pixel contributes: a number, or "NAN".
    weight_type : {"ivm", "exptime", None}
        Weight by the inverse variance of the read noise, by exposure time, or all pixels alike.
    output_shape : tuple of int, optional
        Size of the output (x, y), counted from its first pixel.
    pixel_scale_ratio : float
        Input over output pixel size along the slit.
    pixel_scale : float, optional
        Output pixel size along the slit [arcsec]; overrides `pixel_scale_ratio`.
    output_wcs : str or gwcs.WCS
        Output grid: a gwcs, or an ASDF file that holds one; overrides both pixel scales.
    propagate_dq : bool
        Whether the output has a ``dq``: all flags of the pixels that contribute.
    several : {"resampled", "left"}
        What becomes of exposures that keep their integrations apart: each is resampled, or the
        step is skipped and spectra are those of the exposure's own pixels.

    Returns
    -------
    xarray.Dataset
        Dims ([integration,] y, x) of the output: ``sci``, ``err``, the variances, ``wht``
        (drizzle weight), ``con`` with dims ([integration,] context, y, x) (1 where the exposure
        contributes), ``wavelength`` (y, x) [um], and

        ``variance_cov`` ([integration,] y, x) float32
            Variance of ``sci`` for independent input pixels; NaN where not sampled.
        ``covariance`` ([integration,] lag, y, x) float32
            Element ``[k - 1]`` is the covariance of a pixel with the one k further along the
            slit (along x if ``dispaxis`` is 2, else along y); 0 where they share nothing.
        ``common_error`` ([integration,] y, x) float32
            After a master background: its standard error, common to all pixels of a wavelength
            (the planes above count it as if it were independent).

        Slits keep their leading dimension: every plane is (slit, [integration,] …, y, x), also
        ``wavelength``; ``xsize`` and ``ysize`` are those of the output,
        ``cutout_xsize`` and ``cutout_ysize`` those of the input, ``pixar_sr``, ``pixar_a2`` and
        ``s_region`` are variables on ``slit``, and ``meta.wcs`` is a mapping of
        slit id to gwcs. A slit that cannot be resampled is NaN, has no gwcs, and
        ``slit_problem`` says why.

    Raises
    ------
    InputError, ParameterError
        See :func:`plan_resample_spec`.

    Notes
    -----
    Drizzle (Fruchter & Hook 2002, PASP 114, 144): each output pixel is the weighted mean of the
    input pixels that overlap it. The variance planes and ``err`` are those of the JWST pipeline:
    resampled standard deviations, squared, times the change of pixel size. They overestimate the
    error of one pixel and know nothing of its neighbours; the two planes above do.
    """
    alone = "slit" not in ds.dims
    slits = as_one_slit(ds, _PLANES) if alone else ds
    planes = _resampled(slits, plan, weight_type, _fill(fillval), flags=propagate_dq)
    xp = array_namespace(planes["sci"])
    count, ny, nx = plan.wavelength.shape
    inside = (xp.arange(nx) < xp.asarray(plan.xsize)[:, None, None]) & (
        xp.arange(ny)[:, None] < xp.asarray(plan.ysize)[:, None, None]
    )
    new: dict[str, Any] = {}
    for name, flat in planes.items():
        inner = {"con": {"context": 1}, "covariance": {"lag": plan.pairs.lags}}.get(name, {})
        data = flat.reshape(*flat.shape[:-1], *inner.values(), count, ny, nx)
        data = xp.where(inside, data, xp.asarray(_OUTSIDE.get(name, math.nan), dtype=data.dtype))
        dims = (*slits["sci"].dims[:-2], *inner, "y", "x")
        new[name] = (dims, xp.moveaxis(data, -3, 0), dict(ds[name].attrs) if name in ds else {})
    new["wavelength"] = (("slit", "y", "x"), plan.wavelength, {"units": "um"})
    out = with_attrs(
        ds.drop_dims(["y", "x"]),
        model="SlitModel" if alone else "MultiSlitModel",
        resample_ndriz=1,
        resample_weight_type=weight_type,
        resample_pixfrac=pixfrac,
    )
    return _image(out, new, plan) if alone else _bucket(out, new, plan)


def _resampled(
    ds: xr.Dataset, plan: ResamplePlan, weight_type: str | None, fill: float, *, flags: bool
) -> dict[str, Array]:
    """Return the planes of the output: all slits on top of each other, pixels in the last axis."""
    planes_in = {n: _pixels(ds[n].data, plan) for n in _PLANES if n in ds}
    sci, dq = planes_in["sci"], planes_in["dq"]
    var = {n: planes_in[n] for n in VARIANCES if n in planes_in}
    xp = array_namespace(sci, *var.values())
    overlap = plan.overlap
    weight = resampling.drizzle_weight(
        dq,
        (sci, planes_in["err"], *var.values()),
        weight_type=weight_type,
        var_rnoise=var.get("var_rnoise"),
        exposure_time=plan.exposure_time,
    )
    coefficient, total = resampling.coefficients(overlap, weight)
    # how values change with the size of the pixel, and that change, by pixel
    size = math.prod(plan.wavelength.shape[1:])
    scale, ratio = (
        xp.repeat(xp.asarray(v), size).astype(sci.dtype) for v in (plan.scale, plan.ratio)
    )
    out = {"sci": scale * resampling.apply(overlap, coefficient, sci)}
    growth = scale * scale * ratio
    for name, values in var.items():
        out[name] = growth * resampling.resample_variance(overlap, coefficient, values)
    summed = sum((out[n] for n in var), start=xp.zeros_like(out["sci"]))
    out["err"] = safe_sqrt(summed)
    variance = sum(var.values(), start=xp.zeros_like(sci))
    gain = scale[overlap.rows] * coefficient
    out["variance_cov"] = resampling.apply(overlap, gain * gain, variance)
    out["covariance"] = resampling.pair_covariance(overlap, plan.pairs, gain, variance)
    if COMMON_SHARE in planes_in and "var_poisson" in var:
        error = positive_root(planes_in[COMMON_SHARE] * var["var_poisson"])
        out[COMMON_ERROR] = scale * resampling.apply(overlap, coefficient, error)
    out["wht"] = total
    out["con"] = (total > 0).astype("int32")
    if flags:
        out["dq"] = resampling.propagate_flags(overlap, coefficient, dq)
    for name in ("sci", *var, "err", "variance_cov", COMMON_ERROR):
        if name in out:
            missing = xp.asarray(fill if name == "sci" else math.nan, dtype=sci.dtype)
            out[name] = xp.where(total > 0, out[name], missing)
    return out


def _pixels(data: Array, plan: ResamplePlan) -> Array:
    """Return the pixels of the slits on top of each other, flattened."""
    y0, y1, x0, x1 = plan.window
    stacked = array_namespace(data).moveaxis(data[..., y0:y1, x0:x1], 0, -3)
    return stacked.reshape(*stacked.shape[:-3], -1)


def _image(out: xr.Dataset, new: dict[str, Any], plan: ResamplePlan) -> xr.Dataset:
    """Return the exposure `out` with new variables, those of its one slit."""
    out = out.assign(
        {name: (dims[1:], data[0], attrs) for name, (dims, data, attrs) in new.items()}
    )
    numbers = {n: getattr(plan, n) for n in ("pixar_sr", "pixar_a2")}
    if plan.source_xpos is not None:
        numbers |= {"source_xpos": plan.source_xpos, "source_ypos": plan.source_ypos}
    out = set_scalars(out, **{n: None if v is None else v[0] for n, v in numbers.items()})
    if is_traced(out["sci"].data):
        # what describes the output grid does not enter a trace
        return out
    told = plan.provenance
    out = with_attrs(out, s_region=told.s_region[0], resample_pixel_scale_ratio=_ratio(plan))
    return with_meta(out, wcs=told.wcs[0])


def _bucket(out: xr.Dataset, new: dict[str, Any], plan: ResamplePlan) -> xr.Dataset:
    """Return the bucket `out` with new variables."""
    for name in ("xsize", "ysize"):
        # keywords go on describing the cut-out of the exposure
        cut = f"cutout_{name}"
        new[cut] = ("slit", out[cut if cut in out else name].data)
        new[name] = ("slit", getattr(plan, name))
    for name in ("pixar_sr", "pixar_a2"):
        new[name] = ("slit", getattr(plan, name), {"units": SCALARS[name].unit})
    out = with_problems(out.assign(new), plan.problems)
    if is_traced(out["sci"].data):
        # nor does it here, and that of the input is wrong now
        return out.drop_vars("s_region", errors="ignore")
    told = plan.provenance
    regions = np.array([region or "" for region in told.s_region], dtype=str)
    out = out.assign(s_region=("slit", regions))
    return with_meta(with_attrs(out, resample_pixel_scale_ratio=_ratio(plan)), wcs=told.wcs)


def _ratio(plan: ResamplePlan) -> float:
    """Return the ratio of pixel sizes, which the slits of an exposure share."""
    known = np.asarray(plan.ratio)[[not p for p in plan.problems]]
    return float(known[0]) if known.size else 1.0

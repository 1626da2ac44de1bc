"""Rectification of a slit spectrum: resampling onto a grid of wavelength and position."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np

from spec2fn.dq import Pixel
from spec2fn.engine.step import PLANNED, Skip, step
from spec2fn.errors import InputError, ParameterError
from spec2fn.kernels import resampling
from spec2fn.kernels.namespace import array_namespace, is_traced
from spec2fn.modes import mode_of
from spec2fn.parameters import Range
from spec2fn.plans.resampling.resample import ResampleSpecPlan, Slit, make_plan, require_wcs
from spec2fn.plans.resampling.resample_slits import ResampleSlitsPlan, plan_slits
from spec2fn.schema import (
    COMMON_ERROR,
    COMMON_SHARE,
    SCALARS,
    VARIANCES,
    meta_of,
    set_scalars,
    with_attrs,
    with_meta,
    with_problems,
)
from spec2fn.slits import PADDING
from spec2fn.wcs.slit_grid import first_image

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["plan_resample_spec", "resample_spec"]

_BAD_BITS = int(Pixel.DO_NOT_USE | Pixel.NON_SCIENCE)


def plan_resample_spec(
    ds: xr.Dataset,
    *,
    pixfrac: float = 1.0,
    kernel: str = "square",
    fillval: str = "NAN",
    weight_type: str | None = "ivm",
    output_shape: tuple[int, int] | None = None,
    pixel_scale_ratio: float = 1.0,
    pixel_scale: float | None = None,
    output_wcs: Any = "",
) -> ResampleSpecPlan | ResampleSlitsPlan | Skip:
    """Compute output grid and pixel overlaps on the host; see :func:`resample_spec`.

    Returns
    -------
    ResampleSpecPlan, ResampleSlitsPlan or Skip
        The plan depends on the WCS and on header values, not on pixel values; only the point
        where the tangent plane of a NIRSpec slit touches the sky follows the light in it, which
        changes the result by less than a millionth of a pixel.

    Raises
    ------
    InputError
        If there is no WCS, no dispersion direction, or an output WCS that cannot be used.
    ParameterError
        If a pixel scale is not positive or `fillval` is no number.
    """
    _fill(fillval)
    meta = meta_of(ds)
    attrs = ds.attrs
    if "slit" not in ds.dims:
        wcs = require_wcs(meta.wcs)
    dispaxis = attrs.get("dispaxis", meta.get("DISPAXIS"))
    if dispaxis not in (1, 2):
        msg = (
            "resample_spec: needs the dispersion direction (DISPAXIS 1 or 2), found"
            f" {dispaxis!r}; run assign_wcs first"
        )
        raise InputError(msg)
    exposure_time = _exposure_time(ds)
    if weight_type == "exptime" and not exposure_time > 0:
        msg = (
            "resample_spec: weight_type='exptime' needs a positive exposure time (TMEASURE,"
            f" EFFEXPTM or XPOSURE), found {exposure_time}; use weight_type='ivm'"
        )
        raise InputError(msg)
    if "slit" in ds.dims:
        return plan_slits(
            ds,
            exposure_time=exposure_time,
            pixfrac=pixfrac,
            kernel=kernel,
            output_shape=output_shape,
            pixel_scale_ratio=pixel_scale_ratio,
            pixel_scale=pixel_scale,
            output_wcs=output_wcs,
        )
    area = _scalar(ds, "pixar_sr", meta.get("PIXAR_SR"))
    source = None
    # only here the position is given in pixels of the exposure, not in slit units
    if mode_of(ds).slit:
        x, y = (_scalar(ds, f"source_{axis}pos", None) for axis in "xy")
        source = None if x is None or y is None else (x, y)
    ny, nx = ds["sci"].shape[-2:]
    slit = Slit(
        wcs=wcs,
        shape=(ny, nx),
        dispaxis=dispaxis,
        instrument=str(attrs.get("instrument", "")),
        pixel_area=area,
        source=source,
        s_region=attrs.get("s_region", meta.get("S_REGION")),
        exposure_time=exposure_time,
        image=first_image(ds["sci"].data) if attrs.get("instrument") == "NIRSPEC" else None,
    )
    plan = make_plan(
        slit,
        pixfrac=pixfrac,
        kernel=kernel,
        output_shape=output_shape,
        pixel_scale_ratio=pixel_scale_ratio,
        pixel_scale=pixel_scale,
        output_wcs=output_wcs,
    )
    return Skip(plan) if isinstance(plan, str) else plan


def _scalar(ds: xr.Dataset, name: str, default: Any) -> float | None:
    value = float(ds[name].item()) if name in ds else default
    return None if value is None or not math.isfinite(value) else float(value)


def _exposure_time(ds: xr.Dataset) -> float:
    meta = meta_of(ds)
    for keyword in ("TMEASURE", "EFFEXPTM"):
        value = meta.get(keyword)
        if isinstance(value, (int, float)):
            return float(value)
    return _scalar(ds, "exposure_time", None) or math.nan


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
    plan: ResampleSpecPlan | ResampleSlitsPlan = PLANNED,
    pixfrac: Annotated[float, Range(0.0, 1.0)] = 1.0,
    kernel: Literal["square", "point"] = "square",
    fillval: str = "NAN",
    weight_type: Literal["ivm", "exptime"] | None = "ivm",
    output_shape: tuple[Annotated[int, Range(1)], Annotated[int, Range(1)]] | None = None,
    pixel_scale_ratio: Annotated[float, Range(0.0, above=True)] = 1.0,
    pixel_scale: Annotated[float, Range(0.0, above=True)] | None = None,
    output_wcs: str | object = "",
    propagate_dq: bool = False,
) -> xr.Dataset:
    """Resample a slit spectrum onto a grid that is straight in wavelength and position.

    Parameters
    ----------
    ds : xarray.Dataset
        ``sci``, ``err``, ``dq``, variances, with dims ([integration,] y, x), and the gwcs; or a
        bucket of slits, dims (slit, [integration,] y, x).
    plan : ResampleSpecPlan or ResampleSlitsPlan
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
    var = {n: ds[n].data for n in VARIANCES if n in ds}
    sci = _cut(ds["sci"].data, plan)
    dq = _cut(ds["dq"].data, plan)
    var = {n: _cut(v, plan) for n, v in var.items()}
    xp = array_namespace(sci, *var.values())
    weight = resampling.drizzle_weight(
        dq,
        (sci, _cut(ds["err"].data, plan), *var.values()),
        _BAD_BITS,
        weight_type=weight_type,
        var_rnoise=var.get("var_rnoise"),
        exposure_time=plan.exposure_time,
    )
    coefficient, total = resampling.coefficients(plan.overlap, weight)
    scale, ratio = (xp.asarray(v).astype(sci.dtype) for v in _scales(ds, plan, xp))
    planes = _resample(plan, coefficient, sci, var, (scale, ratio))
    if COMMON_SHARE in ds and "var_poisson" in var:
        share = _cut(ds[COMMON_SHARE].data, plan)
        planes[COMMON_ERROR] = scale * resampling.apply(
            plan.overlap, coefficient, resampling.common_error(share, var["var_poisson"])
        )
    planes["wht"] = total
    planes["con"] = (total > 0).astype("int32")
    if propagate_dq:
        planes["dq"] = resampling.propagate_flags(plan.overlap, coefficient, dq)
    sampled = total > 0
    nan = xp.asarray(math.nan, dtype=sci.dtype)
    planes["sci"] = xp.where(sampled, planes["sci"], xp.asarray(_fill(fillval), dtype=sci.dtype))
    for name in (*var, "err", "variance_cov", COMMON_ERROR):
        if name in planes:
            planes[name] = xp.where(sampled, planes[name], nan)
    if isinstance(plan, ResampleSlitsPlan):
        return _assemble_slits(ds, plan, planes, weight_type, pixfrac)
    return _assemble(ds, plan, planes, weight_type, pixfrac)


def _cut(data: Any, plan: ResampleSpecPlan | ResampleSlitsPlan) -> Any:
    # all pixels, flattened: of the slits on top of each other, or of the bounding box
    if isinstance(plan, ResampleSlitsPlan):
        xp = array_namespace(data)
        stacked = xp.moveaxis(data, 0, -3)
        return stacked.reshape(*stacked.shape[:-3], -1)
    y0, y1, x0, x1 = plan.window
    cut = data[..., y0:y1, x0:x1]
    return cut.reshape(*cut.shape[:-2], (y1 - y0) * (x1 - x0))


def _scales(ds: xr.Dataset, plan: ResampleSpecPlan | ResampleSlitsPlan, xp: Any) -> tuple[Any, Any]:
    # how values change with the size of the pixel, and that change; one number, or one by pixel
    if isinstance(plan, ResampleSlitsPlan):
        size = plan.shape[0] * plan.shape[1]
        return xp.repeat(xp.asarray(plan.scale), size), xp.repeat(xp.asarray(plan.ratio), size)
    # flux density per pixel follows the size of the pixel, surface brightness does not
    units = str(ds["sci"].attrs.get("units", "")).strip()
    per_pixel = units in ("Jy", "mJy", "uJy", "nJy", "MJy")
    return (1.0 / plan.ratio if per_pixel and plan.pixar_sr is not None else 1.0), plan.ratio


def _resample(
    plan: ResampleSpecPlan | ResampleSlitsPlan,
    coefficient: Any,
    sci: Any,
    var: dict[str, Any],
    sizes: tuple[Any, Any],
) -> dict[str, Any]:
    xp = array_namespace(coefficient, sci)
    overlap = plan.overlap
    scale, ratio = sizes
    out = {"sci": scale * resampling.apply(overlap, coefficient, sci)}
    growth = scale * scale * ratio
    for name, values in var.items():
        out[name] = growth * resampling.resample_variance(overlap, coefficient, values)
    summed = sum((out[n] for n in var), start=xp.zeros_like(out["sci"]))
    positive = summed > 0
    out["err"] = xp.where(
        positive, xp.sqrt(xp.where(positive, summed, xp.ones_like(summed))), summed
    )
    variance = sum(var.values(), start=xp.zeros_like(sci))
    gain = (scale[overlap.rows] if scale.ndim else scale) * coefficient
    out["variance_cov"] = resampling.apply(overlap, gain * gain, variance)
    out["covariance"] = resampling.pair_covariance(overlap, plan.pairs, gain, variance)
    return out


def _assemble(
    ds: xr.Dataset,
    plan: ResampleSpecPlan,
    planes: dict[str, Any],
    weight_type: str | None,
    pixfrac: float,
) -> xr.Dataset:
    lead = ds["sci"].dims[:-2]
    extra = {"con": ("context",), "covariance": ("lag",)}
    new: dict[str, Any] = {}
    for name, flat in planes.items():
        middle = {"con": (1,), "covariance": (plan.pairs.lags,)}.get(name, ())
        data = flat.reshape(*flat.shape[:-1], *middle, *plan.overlap.shape_out)
        attrs = dict(ds[name].attrs) if name in ds else {}
        new[name] = ((*lead, *extra.get(name, ()), "y", "x"), data, attrs)
    new["wavelength"] = (("y", "x"), plan.wavelength, {"units": "um"})
    gone = [n for n, v in ds.variables.items() if {"y", "x"} & set(v.dims)]
    out = set_scalars(
        ds.drop_vars(gone).assign(new), pixar_sr=plan.pixar_sr, pixar_a2=plan.pixar_a2
    )
    if plan.source_xpos is not None:
        out = set_scalars(out, source_xpos=plan.source_xpos, source_ypos=plan.source_ypos)
    out = with_attrs(
        out,
        model="SlitModel",
        resample_ndriz=1,
        resample_weight_type=weight_type,
        resample_pixfrac=pixfrac,
    )
    if is_traced(planes["sci"]):
        # what describes the output grid does not enter a trace
        return out
    out = with_attrs(
        out,
        s_region=plan.provenance.s_region,
        resample_pixel_scale_ratio=float(plan.ratio),
    )
    return with_meta(out, wcs=plan.provenance.wcs)


def _assemble_slits(
    ds: xr.Dataset,
    plan: ResampleSlitsPlan,
    planes: dict[str, Any],
    weight_type: str | None,
    pixfrac: float,
) -> xr.Dataset:
    xp = array_namespace(planes["sci"])
    slits, (ny, nx) = ds.sizes["slit"], plan.shape
    inside = (xp.arange(nx) < xp.asarray(plan.xsize)[:, None, None]) & (
        xp.arange(ny)[:, None] < xp.asarray(plan.ysize)[:, None, None]
    )
    extra = {"con": ("context",), "covariance": ("lag",)}
    fills = {"dq": PADDING, "con": 0, "wht": 0, "covariance": 0}
    lead = ds["sci"].dims[:-2]
    new: dict[str, Any] = {}
    for name, flat in planes.items():
        middle = {"con": (1,), "covariance": (plan.pairs.lags,)}.get(name, ())
        data = flat.reshape(*flat.shape[:-1], *middle, slits, ny, nx)
        data = xp.where(inside, data, xp.asarray(fills.get(name, math.nan), dtype=data.dtype))
        attrs = dict(ds[name].attrs) if name in ds else {}
        new[name] = ((*lead, *extra.get(name, ()), "y", "x"), xp.moveaxis(data, -3, 0), attrs)
    new["wavelength"] = (("slit", "y", "x"), plan.wavelength, {"units": "um"})
    for name in ("xsize", "ysize"):
        # keywords go on describing the cut-out of the exposure
        cut = f"cutout_{name}"
        new[cut] = ("slit", ds[cut if cut in ds else name].data)
        new[name] = ("slit", getattr(plan, name))
    for name in ("pixar_sr", "pixar_a2"):
        new[name] = ("slit", getattr(plan, name), {"units": SCALARS[name].unit})
    gone = [n for n, v in ds.variables.items() if {"y", "x"} & set(v.dims)]
    out = with_attrs(
        with_problems(ds.drop_vars(gone).assign(new), plan.problems),
        model="MultiSlitModel",
        resample_ndriz=1,
        resample_weight_type=weight_type,
        resample_pixfrac=pixfrac,
    )
    if is_traced(planes["sci"]):
        # what describes the output grid does not enter a trace, that of the input is wrong now
        return out.drop_vars("s_region", errors="ignore")
    known = np.asarray(plan.ratio)[[not p for p in plan.problems]]
    regions = [r or "" for r in plan.provenance.s_region or ()]
    out = with_attrs(
        out.assign(s_region=("slit", np.array(regions, dtype=str))),
        resample_pixel_scale_ratio=float(known[0]) if known.size else 1.0,
    )
    return with_meta(out, wcs=plan.provenance.wcs)

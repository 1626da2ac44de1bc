"""Correction of the light that an aperture cuts off a source."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from spec2fn.dq import PIXEL
from spec2fn.engine.step import PLANNED, Skip, step
from spec2fn.kernels.bands import by_rows
from spec2fn.kernels.namespace import array_namespace
from spec2fn.kernels.photometry import bilinear, interpolate_planned, rescale
from spec2fn.kernels.slit_corrections import (
    bilinear_by_slit,
    interpolate_by_slit,
    rescale_slits,
)
from spec2fn.modes import mode_of
from spec2fn.plans.flux.nirspec_pathloss import (
    SlitPathlossPlan,
    Wavelengths,
    plan_nirspec_ifu,
    plan_nirspec_slits,
)
from spec2fn.plans.flux.pathloss import PathlossPlan, plan_lrs_slit
from spec2fn.plans.slits.slit_frame import require_slits
from spec2fn.schema import replace_data, require
from spec2fn.slits import as_one_slit

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["pathloss"]

_VARIANCES = ("var_poisson", "var_rnoise", "var_flat")
_PLANES = ("sci", "err", "dq", "wavelength", *_VARIANCES)


def _plan(
    ds: xr.Dataset,
    pathloss: xr.Dataset | None,
    *,
    source_type: Literal["POINT", "EXTENDED"] | None = None,
    user_slit_loc: float | None = None,
    extrapolate: bool | None = None,
) -> PathlossPlan | SlitPathlossPlan | Skip:
    mode = mode_of(ds)
    if pathloss is None:
        return Skip(f"no pathloss reference for {mode.exp_type}")
    if mode.layout == "slits":
        require_slits(ds, "pathloss", ("wavelength",))
        return plan_nirspec_slits(ds, pathloss, source_type, extrapolate)
    if mode.sliced and not mode.etalon:
        require(ds, ("wavelength",), "pathloss")
        return plan_nirspec_ifu(
            as_one_slit(ds, ("wavelength",)), pathloss, source_type, extrapolate
        )
    if not mode.slit:
        return Skip(f"no pathloss correction applies to {mode.exp_type}")
    kind = source_type or ds.attrs.get("source_type")
    if kind is None or str(kind).upper() != "POINT":
        return Skip(f"the source is {kind or 'of unknown type'}, the correction is for POINT")
    return plan_lrs_slit(ds, pathloss, user_slit_loc)


@step(
    refs=("pathloss",),
    reads=("sci", "err", "dq"),
    provides=("pathloss_ps", "pathloss_un"),
    traceable=True,
    planner=_plan,
    needs_refs=("pathloss",),
)
def pathloss(
    ds: xr.Dataset,
    pathloss: xr.Dataset | None = None,
    *,
    plan: PathlossPlan | SlitPathlossPlan = PLANNED,
    inverse: bool = False,
    source_type: Literal["POINT", "EXTENDED"] | None = None,
    user_slit_loc: float | None = None,
    extrapolate: bool | None = None,
) -> xr.Dataset:
    """Correct for the light that the aperture cuts off a source.

    A point source in the LRS slit is multiplied by the correction of the reference at the
    position of the source; slits of NIRSpec are divided by the transmission, point sources by
    that at their position, extended ones by that of a uniform source. A point source in the
    NIRSpec IFU is taken to be in the middle of the aperture.

    Parameters
    ----------
    ds : xarray.Dataset
        Exposure with ``wavelength``, dims ``([integration,] y, x)``, or a bucket of NIRSpec slits,
        dims ``(slit, [integration,] y, x)``, whose result can be differentiated with respect to
        ``source_xpos``, ``source_ypos`` and ``wavelength`` as well.
    pathloss : xarray.Dataset
        Reference: the correction by wavelength on a spatial grid. It is read here, not in the
        plan, so that the result can be differentiated with respect to it, as it can with respect
        to the position of the source (LRS: ``plan.x``, ``plan.y``).
    plan : PathlossPlan or SlitPathlossPlan
        From ``pathloss.plan(ds, reference, ...)``.
    inverse : bool
        Undo the correction.
    source_type : {"POINT", "EXTENDED"}, optional
        Treat the source as of this type.
    user_slit_loc : float, optional
        LRS: offset of the source along the dispersion [arcsec]: 0 is where the pointing puts it,
        the slit is 0.51 arcsec wide.
    extrapolate : bool, optional
        NIRSpec: beyond the wavelengths of the reference, take the value at its end. By
        default this is done if ``assign_wcs.wavelength_range`` goes beyond the nominal range.

    Returns
    -------
    xarray.Dataset
        With the correction as ``pathloss_ps`` (dims ``[slit,] y, x``), for NIRSpec also that
        of a uniform source as ``pathloss_un``, and ``pathloss_correction_type`` (POINT, UNIFORM,
        or empty for a slit that is left alone, because the reference lacks its aperture or the
        source stands outside; its corrections are NaN). Pixels outside the wavelengths of the
        reference become NaN and are flagged DO_NOT_USE.

    Raises
    ------
    DatasetError
        If ``wavelength`` or the gwcs is missing.
    InputError
        If the exposure does not say where the target is.
    ReferenceError
        If the reference is no pathloss table (LRS) or holds no apertures (NIRSpec).

    Notes
    -----
    Algorithm: JWST pipeline documentation, pathloss step ("MIRI LRS", "NIRSpec MOS", "NIRSpec
    fixed slit", "NIRSpec IFU").
    """
    assert pathloss is not None
    if isinstance(plan, SlitPathlossPlan):
        if "slit" not in ds.dims:
            return _correct_ifu(ds, pathloss, plan, inverse=inverse)
        return _correct_slits(ds, pathloss, plan, inverse=inverse)
    values = {n: ds.variables[n].data for n in ("sci", "err")}
    variances = {n: ds.variables[n].data for n in _VARIANCES if n in ds}
    cube = pathloss.variables["pathloss.pathloss"].data
    xp = array_namespace(*values.values(), *variances.values(), cube, plan.x, plan.index)

    column, row = (
        g[0] + (p - g[1]) / g[2] - 1 for p, g in ((plan.x, plan.grid_x), (plan.y, plan.grid_y))
    )
    vector = bilinear(xp.asarray(cube), xp.asarray(column), xp.asarray(row))
    if plan.flipped:
        vector = vector[::-1]
    dtype = values["sci"].dtype
    factor = interpolate_planned(vector, plan.index, plan.fraction).astype(dtype)
    planes, dq = rescale(
        values,
        variances,
        ds.variables["dq"].data,
        factor,
        plan.covered,
        do_not_use=PIXEL["DO_NOT_USE"],
        inverse=inverse,
    )
    applied = xp.where(plan.covered, factor, xp.asarray(np.nan, dtype=dtype))
    return replace_data(ds, dq=dq, **planes).assign(pathloss_ps=(("y", "x"), applied))


def _correct_slits(
    ds: xr.Dataset, reference: xr.Dataset, plan: SlitPathlossPlan, *, inverse: bool
) -> xr.Dataset:
    cubes = [reference.variables[f"ps{s}"].data for s in plan.suffixes]
    vectors = [reference.variables[f"uni{s}"].data for s in plan.suffixes]
    wavelength = ds.variables["wavelength"].data
    place = [ds.variables[n].data for n in ("source_xpos", "source_ypos") if n in ds]
    xp = array_namespace(ds.variables["sci"].data, wavelength, *place, *cubes, *vectors)
    dtype = ds.variables["sci"].dtype
    if not cubes:
        cubes, vectors = [np.ones((2, 2, 2))], [np.ones(2)]

    column, row = (_cell(xp, ds, plan, k) for k in (0, 1))
    point = bilinear_by_slit(_stacked(xp, cubes), plan.which, column, row)
    uniform = xp.asarray(plan.shares) @ _stacked(xp, vectors).astype(plan.shares.dtype)
    waves = {"pathloss_ps": wavelength, "pathloss_un": wavelength}
    if "wavelength_uncorrected" in ds:
        before = ds.variables["wavelength_uncorrected"].data
        back = xp.asarray(plan.shifted_back)[:, None, None]
        waves["pathloss_un"] = xp.where(back, before, wavelength)
    tables = {
        "pathloss_ps": (plan.point_waves, point),
        "pathloss_un": (plan.uniform_waves, uniform),
    }
    planes = {name: _on_pixels(xp, *table, waves[name], dtype) for name, table in tables.items()}

    is_point = xp.asarray(plan.point)[:, None, None]
    factor = xp.where(is_point, planes["pathloss_ps"], planes["pathloss_un"])
    data, dq = rescale_slits(
        {n: ds.variables[n].data for n in ("sci", "err")},
        {n: ds.variables[n].data for n in _VARIANCES if n in ds},
        ds.variables["dq"].data,
        factor,
        plan.applies,
        do_not_use=PIXEL["DO_NOT_USE"],
        inverse=not inverse,
    )
    new: dict[str, Any] = {n: (("slit", "y", "x"), plane) for n, plane in planes.items()}
    new["pathloss_correction_type"] = ("slit", np.array(plan.kinds, dtype="U7"))
    return replace_data(ds, dq=dq, **data).assign(new)


def _correct_ifu(
    ds: xr.Dataset, reference: xr.Dataset, plan: SlitPathlossPlan, *, inverse: bool
) -> xr.Dataset:
    done = _correct_slits(as_one_slit(ds, _PLANES), reference, plan, inverse=inverse)
    names = ("sci", "err", "dq", *(n for n in _VARIANCES if n in ds))
    out = replace_data(ds, **{n: done.variables[n].data[0] for n in names})
    kinds = ("pathloss_ps", "pathloss_un")
    return out.assign({n: (("y", "x"), done.variables[n].data[0]) for n in kinds})


def _cell(xp: Any, ds: xr.Dataset, plan: SlitPathlossPlan, axis: int) -> Any:
    """Zero-based place of each source on the grid of its aperture, along x (0) or y (1)."""
    name, grid = (("source_xpos", plan.grid_x), ("source_ypos", plan.grid_y))[axis]
    place = xp.asarray(ds.variables[name].data if name in ds else xp.zeros(len(plan.kinds)))
    place = xp.where(xp.isfinite(place), place, 0.0)
    grid = xp.asarray(grid)
    if axis == 1:
        place = place + xp.asarray(plan.shift)
    return grid[:, 0] + (place - grid[:, 1]) / grid[:, 2] - 1


def _on_pixels(xp: Any, waves: Wavelengths, vector: Any, wavelength: Any, dtype: Any) -> Any:
    points = xp.asarray(waves.points)
    missing = points.shape[1] - vector.shape[1]
    if missing > 0:
        vector = xp.pad(vector, ((0, 0), (0, missing)))
    ends = None if waves.ends is None else xp.asarray(waves.ends)[:, :, None, None]

    def correction(covered: Any, index: Any, wavelength: Any) -> Any:
        safe = xp.where(covered, wavelength, points[:, :1, None])
        if ends is not None:
            safe = xp.clip(safe, ends[:, 0], ends[:, 1])
        value = interpolate_by_slit(points, vector, index, safe)
        return xp.where(covered, value, xp.nan).astype(dtype)

    planes = (xp.asarray(waves.covered), xp.asarray(waves.index), wavelength)
    return by_rows(correction, points, vector)(*planes)


def _stacked(xp: Any, arrays: list[Any]) -> Any:
    shape = tuple(max(sizes) for sizes in zip(*(a.shape for a in arrays), strict=True))
    return xp.stack(
        [
            xp.pad(xp.asarray(a), [(0, n - m) for n, m in zip(shape, a.shape, strict=True)])
            for a in arrays
        ]
    )

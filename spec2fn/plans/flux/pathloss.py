"""Aperture losses in the slit of MIRI: where the source and the pixels stand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.errors import DatasetError, InputError, ParameterError, ReferenceError
from spec2fn.host.interpolation import locate
from spec2fn.kernels.namespace import array_namespace
from spec2fn.kernels.photometry import interpolate_planned
from spec2fn.kernels.slit_corrections import bilinear_by_slit
from spec2fn.plan_base import Plan, array
from spec2fn.plans.flux.factors import Factor
from spec2fn.schema import described, meta_of, need, require
from spec2fn.typing import Array
from spec2fn.wcs.evaluate import size_of_pixel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import xarray as xr
    from gwcs import WCS

    from spec2fn.parameters import Parameters

__all__ = ["PathlossPlan", "cell_on", "grid_axis", "plan_lrs_slit"]


class PathlossPlan(Plan):
    """Where a source stands in its aperture, and pixels on the wavelengths of the reference.

    Attributes
    ----------
    x, y : float64 scalar arrays
        Position of the source relative to the centre of the aperture, in the units of the
        reference grid (LRS slit: pixels). The correction can be differentiated in them.
    grid_x, grid_y : array of float64, shape (3,)
        Reference pixel (one-based), its position, and the step of the reference grid.
    flipped : bool
        Whether the wavelengths of the reference decrease.
    index, fraction, covered : array, shape (y, x)
        See :func:`spec2fn.host.interpolation.locate`.
    """

    x: Array = array("")
    y: Array = array("")
    grid_x: Array = array("3")
    grid_y: Array = array("3")
    flipped: bool
    index: Array = array("y x")
    fraction: Array = array("y x")
    covered: Array = array("y x")

    def factor(self, ds: xr.Dataset, reference: xr.Dataset) -> Factor:
        """Return what the flux of a point source is multiplied by."""
        cube = reference.variables["pathloss.pathloss"].data
        xp = array_namespace(ds.variables["sci"].data, cube, self.x, self.index)
        column = xp.asarray(cell_on(self.grid_x, self.x))[None]
        row = xp.asarray(cell_on(self.grid_y, self.y))[None]
        (vector,) = bilinear_by_slit(xp.asarray(cube)[None], np.zeros(1, int), column, row)
        if self.flipped:
            vector = vector[::-1]
        dtype = ds.variables["sci"].dtype
        value = interpolate_planned(vector, self.index, self.fraction).astype(dtype)
        applied = xp.where(self.covered, value, xp.asarray(np.nan, dtype=dtype))
        return Factor(value, self.covered, variables={"pathloss_ps": (("y", "x"), applied)})


def plan_lrs_slit(ds: xr.Dataset, reference: xr.Dataset, params: Parameters) -> PathlossPlan:
    """Place the source of a MIRI LRS slit exposure on the pathloss reference.

    The position is ``source_xpos``, ``source_ypos`` if target acquisition has measured it, else
    that of the target (TARG_RA, TARG_DEC) in the exposure's WCS. A source outside the reference
    grid is treated as centred.

    Parameters
    ----------
    ds : xarray.Dataset
        Exposure with ``wavelength`` and a gwcs.
    reference : xarray.Dataset
        Pathloss table (``pathloss.wavelength``, ``pathloss.pathloss``) with the keywords of its
        spatial grid.
    params : Parameters
        Of :func:`spec2fn.steps.pathloss.pathloss`.

    Raises
    ------
    DatasetError
        If ``wavelength`` or the gwcs is missing.
    InputError
        If the exposure does not say where the target is.
    ReferenceError
        If the reference is no pathloss table.
    """
    require(ds, ("wavelength",), "pathloss")
    need(reference, ("pathloss.wavelength", "pathloss.pathloss"), "pathloss")
    wcs = meta_of(ds).wcs
    if wcs is None:
        msg = "pathloss: the Dataset holds no WCS (meta.wcs); run assign_wcs first"
        raise DatasetError(msg)
    aperture = _aperture_centre(wcs)
    x, y = _source_position(ds, wcs, aperture)
    x, y = x - aperture[0], y - aperture[1]
    offset = params.user_slit_loc
    if offset is not None:
        y += offset / size_of_pixel(wcs, aperture, int(ds.attrs.get("dispaxis", 2)))

    get, what = meta_of(reference).get, described(reference)
    grid_x, grid_y = (np.array(grid_axis(get, axis, what)) for axis in (1, 2))
    n_rows, n_columns = reference["pathloss.pathloss"].shape[-2:]
    column, row = cell_on(grid_x, x), cell_on(grid_y, y)
    if not (0 <= column < n_columns - 1 and 0 <= row < n_rows - 1):
        if offset:
            msg = (
                f"pathloss.user_slit_loc={offset:g} arcsec puts the source outside the grid"
                " of the pathloss reference; the slit is 0.51 arcsec wide: give its offset in it"
            )
            raise ParameterError(msg)
        x = y = 0.0

    table = np.asarray(reference["pathloss.wavelength"].data)
    flipped = bool(table[0] > table[-1])
    index, fraction, covered = locate(
        ds["wavelength"].data, table[::-1] if flipped else table, include_first=False
    )
    source = [np.asarray(v, np.float64) for v in (x, y)]
    return PathlossPlan(source[0], source[1], grid_x, grid_y, flipped, index, fraction, covered)


def cell_on(grid: Array, place: Array) -> Array:
    """Return the zero-based cell of places on axes, given by :func:`grid_axis`."""
    return grid[..., 0] + (place - grid[..., 1]) / grid[..., 2] - 1


def grid_axis(get: Callable[[str], Any], axis: int, what: str) -> tuple[float, ...]:
    """Return reference pixel (one-based), its value, and the step of an axis of a pathloss grid.

    `get` returns keywords; :class:`ReferenceError` says that `what` lacks them.
    """
    values = [get(f"{word}{axis}") for word in ("CRPIX", "CRVAL", "CDELT")]
    if any(v is None for v in values) or not values[2]:
        msg = (
            f"pathloss: {what} lacks CRPIX{axis}, CRVAL{axis} or CDELT{axis}, which place its grid;"
            " use another"
        )
        raise ReferenceError(msg)
    return tuple(map(float, values))


def _aperture_centre(wcs: WCS) -> tuple[float, float]:
    """Zero-based detector position of the reference point of the LRS aperture.

    The transform of an LRS exposure begins by moving the origin there.
    """
    leaves: Iterable[Any] = getattr(wcs.forward_transform, "traverse_postorder", tuple)()
    shifts = [-float(m.offset.value) for m in leaves if type(m).__name__ == "Shift"]
    if len(shifts) < 2:
        msg = "pathloss: the WCS does not begin at the aperture of the LRS; run assign_wcs first"
        raise DatasetError(msg)
    return shifts[0], shifts[1]


def _source_position(
    ds: xr.Dataset, wcs: WCS, aperture: tuple[float, float]
) -> tuple[float, float]:
    if "source_xpos" in ds and "source_ypos" in ds:
        return float(ds["source_xpos"]), float(ds["source_ypos"])
    meta = meta_of(ds)
    target = [meta.number(k, "pathloss") for k in ("TARG_RA", "TARG_DEC")]
    wavelength = wcs(*aperture, with_bounding_box=False)[2]
    x, y = wcs.invert(*target, wavelength, with_bounding_box=False)[:2]
    if not (np.isfinite(x) and np.isfinite(y)):
        msg = (
            f"pathloss: the target (TARG_RA {target[0]}, TARG_DEC {target[1]}) of"
            f" {meta.filename or 'the exposure'} is not on the detector; correct the keywords"
        )
        raise InputError(msg)
    return float(x), float(y)

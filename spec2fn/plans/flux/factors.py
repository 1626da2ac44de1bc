"""What multiplicative steps share: a factor for every pixel, and how it is applied.

The plan of such a step makes the :class:`Factor` of an exposure (a method ``factor``, traced: it
reads the references anew); :func:`apply_factor` does the rest, for images and slits alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from spec2fn.dq import PIXEL
from spec2fn.kernels.namespace import array_namespace
from spec2fn.kernels.scaling import rescale
from spec2fn.schema import VARIANCES, replace_data, set_scalars, with_problems
from spec2fn.typing import Array, Arrays, Number

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Factor", "apply_factor", "by_source_type", "extrapolates"]


class Factor(NamedTuple):
    """What an exposure is multiplied or divided by, dims ``([slit,] y, x)``.

    Attributes
    ----------
    value : array
    usable : array of bool, optional
        Where `value` is defined, elsewhere pixels become NaN and are flagged; where it is finite
        if None. A factor with an `error` says by `flags` (DO_NOT_USE) where it is not.
    divides : bool
        The exposure is divided by `value`.
    error : array, optional
        Standard error of `value`; it becomes ``var_flat``, and ``err`` the root of the sum of the
        variances.
    flags : array of uint32, optional
        Flags to be added.
    applies : array of bool, shape (slit,), optional
        The other slits are left as they are.
    units : str, optional
        Of the values afterwards.
    scalars : mapping
        Of :func:`spec2fn.schema.set_scalars`.
    variables : mapping
        What the exposure holds afterwards besides.
    problems, warnings : tuple of str
        By slit: why it is lost, and what is to be known of it.
    """

    value: Array
    usable: Array | None = None
    divides: bool = False
    error: Array | None = None
    flags: Array | None = None
    applies: Array | None = None
    units: str | None = None
    scalars: Mapping[str, Number | None] = {}
    variables: Mapping[str, Any] = {}
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def apply_factor(ds: xr.Dataset, factor: Factor, *, inverse: bool = False) -> xr.Dataset:
    """Return an exposure scaled by a factor, with its errors, variances and flags.

    Dims are ``([slit,] [integration,] y, x)``; `inverse` undoes it.
    """
    between = {"slit", "integration"} <= set(ds["sci"].dims)

    def expanded(plane: Array | None) -> Array | None:
        return plane[:, None] if between and plane is not None else plane

    # a flat makes the error anew from the variances
    flat, divides = factor.error is not None, factor.divides != inverse
    names = ("sci",) if flat else ("sci", "err")
    variances = [n for n in VARIANCES if n in ds and not (flat and n == "var_flat")]
    before: Arrays = {n: ds.variables[n].data for n in (*names, *variances)}
    dq, value, usable = ds.variables["dq"].data, expanded(factor.value), expanded(factor.usable)
    xp = array_namespace(dq, value, *before.values())
    if usable is None and not flat:
        usable = xp.isfinite(value)
    chosen = True
    if factor.applies is not None:
        chosen = xp.reshape(xp.asarray(factor.applies), (-1, *(1,) * (len(dq.shape) - 1)))
        usable = usable | ~chosen
    planes, new_dq = rescale(
        {n: before[n] for n in names},
        {n: before[n] for n in variances},
        dq,
        value,
        usable,
        do_not_use=PIXEL["DO_NOT_USE"],
        inverse=divides,
        error=expanded(factor.error),
        flags=expanded(factor.flags),
    )
    if factor.applies is not None and not (xp is np and np.all(factor.applies)):
        planes = {n: xp.where(chosen, p, before[n]) for n, p in planes.items()}
        new_dq = xp.where(chosen, new_dq, dq)
    if flat:
        ds = ds.assign(var_flat=(ds["sci"].dims, planes.pop("var_flat")))
    out = replace_data(ds, units=factor.units, dq=new_dq, **planes)
    out = set_scalars(out, **factor.scalars).assign(factor.variables)
    out = with_problems(out, factor.problems)
    return with_problems(out, factor.warnings, lost=False)


def by_source_type(
    prefix: str, point: tuple[int, ...], value: Array, uniform: Array
) -> dict[str, tuple[tuple[str, ...], Array]]:
    """Return ``<prefix>_point``, ``<prefix>_uniform``: factors of slits with a point source.

    They are `value`, shape (slit, y, x), and `uniform`, shape (point, y, x); NaN in other slits.
    """
    xp = array_namespace(value, uniform)
    nothing = xp.full((1, *value.shape[1:]), np.nan, dtype=value.dtype)
    entry = np.full(value.shape[0], len(point))
    entry[list(point)] = np.arange(len(point))
    planes = {
        f"{prefix}_point": xp.where((entry < len(point))[:, None, None], value, nothing),
        f"{prefix}_uniform": xp.concatenate([uniform.astype(value.dtype), nothing])[entry],
    }
    return {n: (("slit", "y", "x"), p) for n, p in planes.items()}


def extrapolates(ds: xr.Dataset, asked: bool | None) -> bool:
    """Whether references are extrapolated: as asked, or if the user chose a wider range."""
    return "nominal_range" in ds.attrs if asked is None else asked

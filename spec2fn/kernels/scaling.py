"""Scaling of pixels with their errors and flags: flat fields, aperture losses, flux factors.

All kernels take plain arrays whose last two axes are detector rows and columns; planes of the
data may have leading axes (integrations), planes of a calibration have none and are broadcast.
Invalid pixels are masked before the arithmetic as well as after it, so that gradients stay
finite there whatever values they hold.
"""

from __future__ import annotations

from types import ModuleType

from spec2fn.kernels.bands import by_rows
from spec2fn.kernels.namespace import array_namespace, safe_sqrt
from spec2fn.typing import Array, Arrays

__all__ = ["agree_on_invalid", "divide_by_flat", "expand_to", "rescale"]


def expand_to(plane: Array, like: Array) -> Array:
    """Return `plane` with leading axes of length one added until it has as many as `like`."""
    xp = array_namespace(plane, like)
    missing = len(like.shape) - len(plane.shape)
    return xp.reshape(plane, (1,) * missing + tuple(plane.shape)) if missing > 0 else plane


def _any_nan(planes: Arrays, xp: ModuleType) -> Array:
    found = None
    for plane in planes.values():
        nan = xp.isnan(plane)
        found = nan if found is None else found | nan
    return found


@by_rows
def agree_on_invalid(planes: Arrays, dq: Array, do_not_use: int) -> tuple[dict[str, Array], Array]:
    """Make NaN and a flag mark the same pixels.

    A pixel that is NaN in any plane, or flagged, becomes NaN in every plane and is flagged.

    Parameters
    ----------
    planes : mapping of str to array, shape (..., y, x), float
        Values, errors and variances.
    dq : array of uint32, shape (..., y, x)
    do_not_use : int
        The bit that marks a pixel as unusable.

    Returns
    -------
    planes : dict of str to array
    dq : array of uint32
    """
    xp = array_namespace(dq, *planes.values())
    bit = xp.asarray(do_not_use, dtype=dq.dtype)
    invalid = _any_nan(planes, xp) | ((dq & bit) != 0)
    out = {
        name: xp.where(invalid, xp.asarray(xp.nan, dtype=plane.dtype), plane)
        for name, plane in planes.items()
    }
    return out, xp.where(invalid, dq | bit, dq)


@by_rows
def rescale(
    values: Arrays,
    variances: Arrays,
    dq: Array,
    factor: Array,
    usable: Array,
    *,
    do_not_use: int,
    inverse: bool = False,
) -> tuple[dict[str, Array], Array]:
    """Multiply values by a factor and variances by its square.

    Parameters
    ----------
    values, variances : mapping of str to array, shape (..., y, x), float32
    dq : array of uint32, shape (..., y, x)
    factor : array, shape (y, x)
        Only looked at where `usable`; cast to the dtype of the planes.
    usable : array of bool, shape (y, x)
        Where the factor is defined; elsewhere pixels become NaN and are flagged.
    do_not_use : int
        The bit that marks a pixel as unusable.
    inverse : bool
        Divide instead.

    Returns
    -------
    planes : dict of str to array
        Values and variances by their names.
    dq : array of uint32
    """
    xp = array_namespace(dq, factor, *values.values(), *variances.values())
    bit = xp.asarray(do_not_use, dtype=dq.dtype)
    planes = {**values, **variances}
    invalid = _any_nan(planes, xp) | ((dq & bit) != 0) | ~expand_to(usable, dq)

    filled = xp.where(usable, factor, xp.ones((), dtype=factor.dtype))
    scales: dict[tuple[object, bool], Array] = {}
    out = {}
    for name, plane in planes.items():
        key = (plane.dtype, name in variances)
        if key not in scales:
            scale = expand_to(filled.astype(plane.dtype), plane)
            scales[key] = scale * scale if name in variances else scale
        safe = xp.where(invalid, xp.zeros((), dtype=plane.dtype), plane)
        out[name] = safe / scales[key] if inverse else safe * scales[key]
    return agree_on_invalid(out, xp.where(invalid, dq | bit, dq), do_not_use)


@by_rows
def divide_by_flat(
    sci: Array,
    var_poisson: Array,
    var_rnoise: Array,
    dq: Array,
    *,
    flat: Array,
    flat_err: Array,
    flat_dq: Array,
    do_not_use: int,
    inverse: bool = False,
) -> tuple[dict[str, Array], Array]:
    """Divide by a flat field and propagate its error.

    ``sci / f``, ``var_poisson / f²``, ``var_rnoise / f²``,
    ``var_flat = ((sci / f) / f σ_f)²``, and ``err²`` is the sum of the variances. In this order no
    intermediate result overflows before the result does, be the flat many orders from one.

    Parameters
    ----------
    sci, var_poisson, var_rnoise : array, shape (..., y, x), float32
    dq : array of uint32, shape (..., y, x)
    flat, flat_err : array, shape (y, x), or as many axes as `sci`
    flat_dq : array of uint32, of the shape of `flat`
        Must mark with `do_not_use` every pixel where the flat cannot be used (NaN and zero
        included).
    do_not_use : int
        The bit that marks a pixel as unusable.
    inverse : bool
        Multiply instead; ``var_flat`` is zero then.

    Returns
    -------
    planes : dict of str to array
        ``sci``, ``err``, ``var_poisson``, ``var_rnoise``, ``var_flat``.
    dq : array of uint32
        Input flags with those of the flat.

    Notes
    -----
    Algorithm: JWST pipeline documentation, flat_field step ("Imaging and non-NIRSpec
    spectroscopic data").
    """
    xp = array_namespace(sci, var_poisson, var_rnoise, dq, flat, flat_err, flat_dq)
    dtype = sci.dtype
    zero, one = xp.zeros((), dtype=dtype), xp.ones((), dtype=dtype)
    bit = xp.asarray(do_not_use, dtype=dq.dtype)

    dq = dq | expand_to(flat_dq, dq)
    unusable = (flat_dq & bit) != 0
    f = expand_to(xp.where(unusable, one, flat.astype(dtype)), sci)
    f_err = expand_to(xp.where(unusable, zero, flat_err.astype(dtype)), sci)
    inputs = {"sci": sci, "p": var_poisson, "r": var_rnoise}
    invalid = _any_nan(inputs, xp) | ((dq & bit) != 0) | xp.isnan(f_err)
    sci, var_poisson, var_rnoise = (xp.where(invalid, zero, v) for v in inputs.values())
    f_err = xp.where(xp.isnan(f_err), zero, f_err)

    if inverse:
        sci, var_poisson, var_rnoise = sci * f, var_poisson * (f * f), var_rnoise * (f * f)
        var_flat = xp.zeros_like(sci)
    else:
        sci, var_poisson, var_rnoise = sci / f, var_poisson / (f * f), var_rnoise / (f * f)
        noise = sci / f * f_err
        var_flat = noise * noise
    planes = {
        "sci": sci,
        "err": safe_sqrt(var_poisson + var_rnoise + var_flat),
        "var_poisson": var_poisson,
        "var_rnoise": var_rnoise,
        "var_flat": var_flat,
    }
    return agree_on_invalid(planes, xp.where(invalid, dq | bit, dq), do_not_use)

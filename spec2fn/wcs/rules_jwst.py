"""Lowering rules of the transforms of gwcs and stdatamodels, such as gratings and sets of slits."""

# ruff: noqa: ARG001, PLR0917 - every rule and kernel has the same signature, used or not

from __future__ import annotations

from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from spec2fn.errors import InputError, UnsupportedModelError
from spec2fn.kernels.sphere import to_cartesian, to_spherical
from spec2fn.typing import Array, Arrays
from spec2fn.wcs.lowered import (
    Coordinates,
    Params,
    Ruled,
    formula,
    lower_model,
    plain_parameters,
    register,
)

if TYPE_CHECKING:
    from astropy.modeling import Model

_GEOMETRY = "gwcs.geometry."
_SPECTROSCOPY = "gwcs.spectroscopy."
_JWST = "stdatamodels.jwst.transforms.models."
_KELVIN = 273.15
_ZEMAX_ABOVE = 20.0  # kelvin from the reference temperature
_UNSET = -9999


@formula(_GEOMETRY + "SphericalToCartesian")
def _spherical_to_cartesian(xp: ModuleType, p: Arrays, lon: Array, lat: Array) -> Coordinates:
    return to_cartesian(xp.deg2rad(lon), xp.deg2rad(lat))


@register(_GEOMETRY + "CartesianToSpherical")
def _cartesian_to_spherical(model: Model) -> Ruled:
    wrap = model.wrap_lon_at != 180

    def kernel(xp: ModuleType, p: Arrays, x: Array, y: Array, z: Array) -> Coordinates:
        lon, lat = to_spherical(x, y, z)
        lon = xp.rad2deg(lon)
        if wrap:
            lon = xp.where(lon < 0, lon + 360.0, lon)
        return lon, xp.rad2deg(lat)

    return kernel, {}


def _to_cosines(xp: ModuleType, x: Array, y: Array) -> tuple[Array, Array, Array, Array]:
    length = xp.sqrt(1.0 + x * x + y * y)
    return x / length, y / length, 1.0 / length, length


@formula(_GEOMETRY + "ToDirectionCosines")
def _to_direction_cosines(xp: ModuleType, p: Arrays, x: Array, y: Array, z: Array) -> Coordinates:
    return _to_cosines(xp, x, y)


@formula(_GEOMETRY + "FromDirectionCosines")
def _from_direction_cosines(
    xp: ModuleType, p: Arrays, a: Array, b: Array, c: Array, length: Array
) -> Coordinates:
    return a * length, b * length, c * length


@formula(_JWST + "Unitless2DirCos")
def _unitless2dircos(xp: ModuleType, p: Arrays, x: Array, y: Array) -> Coordinates:
    return _to_cosines(xp, x, y)[:3]


@formula(_JWST + "DirCos2Unitless")
def _dircos2unitless(xp: ModuleType, p: Arrays, x: Array, y: Array, z: Array) -> Coordinates:
    return x / z, y / z


@formula(_JWST + "IdealToV2V3")
def _ideal_to_v2v3(xp: ModuleType, p: Arrays, x: Array, y: Array) -> Coordinates:
    angle = xp.deg2rad(p["v3idlyangle"])
    c, s, right = xp.cos(angle), xp.sin(angle), p["vparity"] * x
    return p["v2ref"] + right * c + y * s, p["v3ref"] - right * s + y * c


@formula(_JWST + "V2V3ToIdeal")
def _v2v3_to_ideal(xp: ModuleType, p: Arrays, v2: Array, v3: Array) -> Coordinates:
    angle = xp.deg2rad(p["v3idlyangle"])
    c, s, dv2, dv3 = xp.cos(angle), xp.sin(angle), v2 - p["v2ref"], v3 - p["v3ref"]
    return p["vparity"] * (dv2 * c - dv3 * s), dv2 * s + dv3 * c


@register(_JWST + "Rotation3DToGWA")
def _rotation_to_gwa(model: Model) -> Ruled:
    axes = model.axes_order

    def kernel(xp: ModuleType, p: Arrays, x: Array, y: Array, z: Array) -> Coordinates:
        # a sequence of rotations of a unit vector, whose third component follows from the others
        for k, axis in enumerate(axes):
            angle = xp.deg2rad(p["angles"][k])
            c, s = xp.cos(angle), xp.sin(angle)
            if axis == "x":
                y = y * c + z * s
            elif axis == "y":
                x = x * c - z * s
            else:
                x, y = x * c + y * s, y * c - x * s
            z = xp.sqrt(1.0 - x * x - y * y)
        return x, y, z

    return kernel, {"angles": np.array(model.angles.value, dtype=np.float64).ravel()}


@formula(_JWST + "WavelengthFromGratingEquation")
def _wavelength_from_grating(
    xp: ModuleType, p: Arrays, a: Array, b: Array, out: Array
) -> Coordinates:
    return (-(a + out) / (p["groove_density"] * p["order"]),)


@formula(_JWST + "AngleFromGratingEquation")
def _angle_from_grating(
    xp: ModuleType, p: Arrays, wave: Array, a: Array, b: Array, z: Array
) -> Coordinates:
    x = -a - p["groove_density"] * p["order"] * wave
    return x, -b, xp.sqrt(1.0 - x * x - b * b)


@register(_JWST + "RefractionIndexFromPrism")
def _refraction_index(model: Model) -> Ruled:
    def kernel(xp: ModuleType, p: Arrays, a: Array, b: Array, out: Array) -> Coordinates:
        # sin and cos of twice the apex angle: 2 sin cos and 1 - 2 sin^2
        twice = 2.0 * xp.deg2rad(p["prism_angle"])
        inside = (out + a * xp.cos(twice)) / xp.sin(twice)
        return (xp.sqrt(inside * inside + a * a + b * b),)

    angle = np.array(model.prism_angle.value, dtype=np.float64).reshape(())
    return kernel, {"prism_angle": angle}


@register(_JWST + "Logical")
def _logical(model: Model) -> Ruled:
    compare = {"GT": "greater", "LT": "less", "EQ": "equal", "NE": "not_equal"}[model.condition]
    if np.ndim(model.compareto) or np.ndim(model.value):
        msg = "a Logical model that compares with an array has no lowering rule; use scalars"
        raise UnsupportedModelError(msg)

    def kernel(xp: ModuleType, p: Arrays, x: Array) -> Coordinates:
        replace = getattr(xp, compare)(x, p["compareto"]) & ~xp.isnan(x)
        return (xp.where(replace, p["value"], x),)

    params = {
        "compareto": np.asarray(model.compareto, dtype=np.float64),
        "value": np.asarray(model.value, dtype=np.float64),
    }
    return kernel, params


@formula(_SPECTROSCOPY + "WavelengthFromGratingEquation")
def _wavelength_by_order(xp: ModuleType, p: Arrays, a: Array, out: Array) -> Coordinates:
    return ((a + out) / (p["groove_density"] * p["spectral_order"]),)


@formula(_SPECTROSCOPY + "AnglesFromGratingEquation3D")
def _angles_by_order(
    xp: ModuleType, p: Arrays, wavelength: Array, a: Array, b: Array
) -> Coordinates:
    x = a - p["groove_density"] * p["spectral_order"] * wavelength
    return x, -b, xp.sqrt(1.0 - x * x - b * b)


def _refract(xp: ModuleType, n: Array, a: Array, b: Array) -> tuple[Array, Array, Array]:
    x, y = a / n, b / n
    return x, y, xp.sqrt(1.0 - x * x - y * y)


@formula(_SPECTROSCOPY + "Snell3D")
def _snell3d(xp: ModuleType, p: Arrays, n: Array, a: Array, b: Array, c: Array) -> Coordinates:
    return _refract(xp, n, a, b)


def _sellmeier(xp: ModuleType, wavelength: Array, b: Array, c: Array) -> Array:
    square = wavelength * wavelength
    return xp.sqrt(1.0 + sum(b[i] * square / (square - c[i]) for i in range(3)))


@register(_SPECTROSCOPY + "SellmeierGlass")
def _sellmeier_glass(model: Model) -> Ruled:
    def kernel(xp: ModuleType, p: Arrays, wavelength: Array) -> Coordinates:
        return (_sellmeier(xp, wavelength, p["B_coef"], p["C_coef"]),)

    return kernel, _glass(model)


def _glass(model: Model) -> Arrays:
    values = plain_parameters(model)
    return {k: v.ravel() if k.endswith("_coef") else v for k, v in values.items()}


def _air(wavelength: Array, celsius: Array, pressure: Array) -> Array:
    # refractive index of air: Kohlrausch, as in the Zemax manual; pressure in atmospheres
    square = wavelength * wavelength
    excess = (
        6432.8
        + 2949810.0 * square / (146.0 * square - 1.0)
        + 5540.0 * square / (41.0 * square - 1.0)
    )
    return 1.0 + excess * 1e-8 * pressure / (1.0 + (celsius - 15.0) * 3.4785e-3)


def _zemax(xp: ModuleType, p: Arrays, wavelength: Array) -> Array:
    # Zemax manual, chapter "Using glass catalogs": index of a glass away from the temperature and
    # pressure at which its dispersion was measured, relative to the air around it
    t, t0 = p["temperature"] - _KELVIN, p["ref_temperature"] - _KELVIN
    now, then = _air(wavelength, t, p["pressure"]), _air(wavelength, t0, p["ref_pressure"])
    wavelength = wavelength * now / then
    n = _sellmeier(xp, wavelength, p["B_coef"], p["C_coef"])
    d, e, dt = p["D_coef"], p["E_coef"], t - t0
    rise = d[0] * dt + d[1] * dt**2 + d[2] * dt**3
    rise = rise + (e[0] * dt + e[1] * dt**2) / (wavelength * wavelength - e[2] ** 2)
    return (n * then + 0.5 * (n * n - 1.0) / n * rise) / now


@register(_SPECTROSCOPY + "SellmeierZemax")
def _sellmeier_zemax(model: Model) -> Ruled:
    return lambda xp, p, wavelength: (_zemax(xp, p, wavelength),), _glass(model)


@register(_JWST + "Snell")
def _snell(model: Model) -> Ruled:
    # near the reference temperature the glass is as it was measured
    warm = model.temp - model.tref >= _ZEMAX_ABOVE

    def kernel(xp: ModuleType, p: Arrays, wave: Array, a: Array, b: Array, c: Array) -> Coordinates:
        micron = wave * 1e6
        n = _zemax(xp, p, micron) if warm else _sellmeier(xp, micron, p["B_coef"], p["C_coef"])
        angle = xp.deg2rad(p["prism_angle"])
        cos, sin = xp.cos(angle), xp.sin(angle)
        # into the glass, to the frame of the back surface and reflected there, and back again
        x, y, z = _refract(xp, n, a, b)
        x, y = -(x * cos - z * sin), -y
        z = xp.sqrt(1.0 - x * x - y * y)
        x = x * cos + z * sin
        return _refract(xp, 1.0 / n, x, y)

    values = {
        "prism_angle": model.prism_angle,
        "temperature": model.temp,
        "ref_temperature": model.tref,
        "pressure": model.pressure,
        "ref_pressure": model.pref,
        "B_coef": model.kcoef,
        "C_coef": model.lcoef,
        "D_coef": model.tcoef[:3],
        "E_coef": model.tcoef[3:],
    }
    return kernel, {k: np.asarray(v, dtype=np.float64) for k, v in values.items()}


def _slit_numbers(model: Model) -> list[float]:
    numbers = []
    for slit in model.slits:
        label = slit
        if hasattr(slit, "slit_id"):
            label = slit.name if slit.slit_id == _UNSET else slit.slit_id
        try:
            numbers.append(float(label))
        except (TypeError, ValueError):
            msg = (
                f"slit {label!r} has no number, so that this set of slits cannot be lowered;"
                " lower the model of the slit: transform.get_model(name)"
            )
            raise InputError(msg) from None
    return numbers


def _select(model: Model, position: int, *, passes: int | None) -> Ruled:
    # `position` of the slit's number among the inputs, `passes` its position among the outputs
    numbers = _slit_numbers(model)
    lowered = [lower_model(m) for m in model.models]

    def kernel(xp: ModuleType, params: Params, *c: Array) -> Coordinates:
        number, rest = c[position], (*c[:position], *c[position + 1 :])
        out: Coordinates = ()
        wanted = set(np.unique(number)) if xp is np else set(numbers)
        for i, one in enumerate(lowered):
            if numbers[i] not in wanted:
                continue
            values = one.kernel(xp, params[i], *rest)
            out = out or tuple(xp.full_like(v, np.nan) for v in values)
            out = tuple(
                xp.where(number == numbers[i], v, o) for v, o in zip(values, out, strict=True)
            )
        if not out:
            msg = f"no slit {sorted(map(float, wanted))}; there are {numbers}"
            raise InputError(msg)
        return out if passes is None else (*out[:passes], number, *out[passes:])

    return kernel, tuple(one.params for one in lowered)


register(_JWST + "Gwa2Slit")(partial(_select, position=0, passes=0))
register(_JWST + "Slit2Gwa")(partial(_select, position=0, passes=0))
register(_JWST + "Slit2Msa")(partial(_select, position=0, passes=2))
register(_JWST + "Slit2MsaLegacy")(partial(_select, position=0, passes=None))
register(_JWST + "Msa2Slit")(partial(_select, position=2, passes=0))


@register(_JWST + "NirissSOSSModel")
def _by_order(model: Model) -> Ruled:
    orders = tuple(model.models)
    lowered = tuple(lower_model(model.models[order]) for order in orders)

    def kernel(xp: ModuleType, p: Params, x: Array, y: Array, order: Array) -> Coordinates:
        found = [xp.asarray(np.nan)] * 3
        for number, one, params in zip(orders, lowered, p, strict=True):
            values = one.kernel(xp, params, x, y)
            pairs = zip(found, values, strict=True)
            found = [xp.where(order == number, new, old) for old, new in pairs]
        return tuple(found)

    return kernel, tuple(one.params for one in lowered)

"""Lowering rules of the transforms of gwcs and stdatamodels."""

# ruff: noqa: ARG001, ARG005, PLR0917 - every rule and kernel has the same signature, used or not

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from spec2fn.errors import UnsupportedModelError
from spec2fn.kernels.sphere import to_cartesian, to_spherical
from spec2fn.typing import Array, Arrays
from spec2fn.wcs.lowered import Coordinates, Ruled, plain_parameters, register

if TYPE_CHECKING:
    from astropy.modeling import Model

_GEOMETRY = "gwcs.geometry."
_JWST = "stdatamodels.jwst.transforms.models."


@register(_GEOMETRY + "SphericalToCartesian")
def _spherical_to_cartesian(model: Model) -> Ruled:
    return lambda xp, p, lon, lat: to_cartesian(xp.deg2rad(lon), xp.deg2rad(lat)), {}


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


@register(_GEOMETRY + "ToDirectionCosines")
def _to_direction_cosines(model: Model) -> Ruled:
    return lambda xp, p, x, y, z: _to_cosines(xp, x, y), {}


@register(_GEOMETRY + "FromDirectionCosines")
def _from_direction_cosines(model: Model) -> Ruled:
    return lambda xp, p, a, b, c, length: (a * length, b * length, c * length), {}


@register(_JWST + "Unitless2DirCos")
def _unitless2dircos(model: Model) -> Ruled:
    return lambda xp, p, x, y: _to_cosines(xp, x, y)[:3], {}


@register(_JWST + "DirCos2Unitless")
def _dircos2unitless(model: Model) -> Ruled:
    return lambda xp, p, x, y, z: (x / z, y / z), {}


@register(_JWST + "IdealToV2V3")
def _ideal_to_v2v3(model: Model) -> Ruled:
    def kernel(xp: ModuleType, p: Arrays, x: Array, y: Array) -> Coordinates:
        angle = xp.deg2rad(p["v3idlyangle"])
        c, s, right = xp.cos(angle), xp.sin(angle), p["vparity"] * x
        return p["v2ref"] + right * c + y * s, p["v3ref"] - right * s + y * c

    return kernel, plain_parameters(model)


@register(_JWST + "V2V3ToIdeal")
def _v2v3_to_ideal(model: Model) -> Ruled:
    def kernel(xp: ModuleType, p: Arrays, v2: Array, v3: Array) -> Coordinates:
        angle = xp.deg2rad(p["v3idlyangle"])
        c, s, dv2, dv3 = xp.cos(angle), xp.sin(angle), v2 - p["v2ref"], v3 - p["v3ref"]
        return p["vparity"] * (dv2 * c - dv3 * s), dv2 * s + dv3 * c

    return kernel, plain_parameters(model)


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


@register(_JWST + "WavelengthFromGratingEquation")
def _wavelength_from_grating(model: Model) -> Ruled:
    def kernel(xp: ModuleType, p: Arrays, a: Array, b: Array, out: Array) -> Coordinates:
        return (-(a + out) / (p["groove_density"] * p["order"]),)

    return kernel, plain_parameters(model)


@register(_JWST + "AngleFromGratingEquation")
def _angle_from_grating(model: Model) -> Ruled:
    def kernel(xp: ModuleType, p: Arrays, wave: Array, a: Array, b: Array, z: Array) -> Coordinates:
        x = -a - p["groove_density"] * p["order"] * wave
        return x, -b, xp.sqrt(1.0 - x * x - b * b)

    return kernel, plain_parameters(model)


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

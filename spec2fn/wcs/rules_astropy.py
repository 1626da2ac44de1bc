"""Lowering rules of astropy's models."""

# ruff: noqa: ARG001, ARG005 - every rule and kernel has the same signature, used or not

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from spec2fn.errors import UnsupportedModelError
from spec2fn.kernels.interpolation_linear import interpolate1d, interpolate2d, nearest1d
from spec2fn.kernels.polynomials import (
    chebyshev_basis,
    legendre_basis,
    map_domain,
    polynomial1d,
    polynomial2d,
    series2d,
)
from spec2fn.kernels.sphere import (
    apply_matrix,
    rotation_matrix,
    safe_hypot,
    to_cartesian,
    to_spherical,
)
from spec2fn.typing import Array, Arrays, HostArray
from spec2fn.wcs.lowered import Coordinates, Params, Ruled, formula, plain_parameters, register

if TYPE_CHECKING:
    from astropy.modeling import Model

_Basis = Callable[[Array, int], list[Array]]
_Range = tuple[float, float]

_FUNCTIONAL = "astropy.modeling.functional_models."
_POLYNOMIAL = "astropy.modeling.polynomial."
_PROJECTION = "astropy.modeling.projections."
_ROTATION = "astropy.modeling.rotations."


@formula(_FUNCTIONAL + "Shift")
def _shift(xp: ModuleType, p: Arrays, x: Array) -> Coordinates:
    return (x + p["offset"],)


@formula(_FUNCTIONAL + "Scale")
@formula(_FUNCTIONAL + "Multiply")
def _scale(xp: ModuleType, p: Arrays, x: Array) -> Coordinates:
    return (x * p["factor"],)


@formula(_FUNCTIONAL + "Const1D")
def _const1d(xp: ModuleType, p: Arrays, x: Array) -> Coordinates:
    return (p["amplitude"] * xp.ones_like(x),)


@formula(_FUNCTIONAL + "Const2D")
def _const2d(xp: ModuleType, p: Arrays, x: Array, y: Array) -> Coordinates:
    return (p["amplitude"] * (xp.ones_like(x) * xp.ones_like(y)),)


@formula(_FUNCTIONAL + "Linear1D")
def _linear1d(xp: ModuleType, p: Arrays, x: Array) -> Coordinates:
    return (p["slope"] * x + p["intercept"],)


@formula("astropy.modeling.mappings.Identity")
def _identity(xp: ModuleType, p: Arrays, *c: Array) -> Coordinates:
    return c


@register("astropy.modeling.mappings.Mapping")
def _mapping(model: Model) -> Ruled:
    indices = tuple(model.mapping)
    return lambda xp, p, *c: tuple(c[i] for i in indices), {}


def _to_window(domain: _Range | None, window: _Range) -> Callable[[Array], Array]:
    # polynomials may be in a variable that is scaled first
    return lambda x: x if domain is None else map_domain(x, domain, window)


@register(_POLYNOMIAL + "Polynomial1D")
def _polynomial1d(model: Model) -> Ruled:
    scaled = _to_window(model.domain, model.window)
    return lambda xp, p, x: (polynomial1d(p["c"], scaled(x)),), {"c": _series(model)}


def _series(model: Model) -> HostArray:
    values = plain_parameters(model)
    return np.array([values[name] for name in model.param_names], dtype=np.float64)


def _matrix(model: Model, shape: tuple[int, int]) -> HostArray:
    out = np.zeros(shape)
    for name, value in plain_parameters(model).items():
        i, j = name[1:].split("_")
        out[int(i), int(j)] = value
    return out


def _to_windows(model: Model) -> Callable[[Array, Array], tuple[Array, Array]]:
    scaled_x = _to_window(model.x_domain, model.x_window)
    scaled_y = _to_window(model.y_domain, model.y_window)
    return lambda x, y: (scaled_x(x), scaled_y(y))


@register(_POLYNOMIAL + "Polynomial2D")
def _polynomial2d(model: Model) -> Ruled:
    scaled, n = _to_windows(model), model.degree + 1
    return lambda xp, p, x, y: (polynomial2d(p["c"], *scaled(x, y)),), {"c": _matrix(model, (n, n))}


def _orthogonal1d(model: Model, basis: _Basis) -> Ruled:
    scaled, degree = _to_window(model.domain, model.window), model.degree

    def kernel(xp: ModuleType, p: Arrays, x: Array) -> Coordinates:
        terms = basis(scaled(x), degree)
        out = p["c"][0] * terms[0]
        for i in range(1, degree + 1):
            out = out + p["c"][i] * terms[i]
        return (out,)

    return kernel, {"c": _series(model)}


def _orthogonal2d(model: Model, basis: _Basis) -> Ruled:
    scaled = _to_windows(model)
    nx, ny = model.x_degree, model.y_degree

    def kernel(xp: ModuleType, p: Arrays, x: Array, y: Array) -> Coordinates:
        x, y = scaled(x, y)
        return (series2d(p["c"], basis(x, nx), basis(y, ny)),)

    return kernel, {"c": _matrix(model, (nx + 1, ny + 1))}


for _name, _basis in (("Chebyshev", chebyshev_basis), ("Legendre", legendre_basis)):
    register(f"{_POLYNOMIAL}{_name}1D")(partial(_orthogonal1d, basis=_basis))
    register(f"{_POLYNOMIAL}{_name}2D")(partial(_orthogonal2d, basis=_basis))


@register("astropy.modeling.tabular._Tabular")
def _tabular(model: Model) -> Ruled:
    n = model.n_inputs
    method = model.method
    if n > 2 or method not in ("linear", "nearest") or (n == 2 and method != "linear"):
        msg = (
            f"a Tabular model with {n} inputs and method {method!r} has no lowering rule; those"
            " with one input (linear, nearest) or two (linear) have"
        )
        raise UnsupportedModelError(msg)
    points = [np.asarray(p, dtype=np.float64) for p in model.points]
    table = np.asarray(model.lookup_table, dtype=np.float64)
    for axis, values in enumerate(points):
        if values.size > 1 and values[0] > values[-1]:
            points[axis] = values[::-1]
            table = np.flip(table, axis)
    strict, fill = model.bounds_error, model.fill_value
    if strict:
        fill = np.nan if fill is None else fill

    def kernel(xp: ModuleType, p: Params, *c: Array) -> Coordinates:
        # an exception cannot depend on the values of a trace: there, out of bounds gives the fill
        if strict and xp is np:
            _check_bounds(p["points"], c)
        if n == 1:
            interpolate = interpolate1d if method == "linear" else nearest1d
            return (interpolate(p["points"][0], p["lookup_table"], c[0], fill),)
        return (interpolate2d(p["points"], p["lookup_table"], c[0], c[1], fill),)

    params = {
        "points": tuple(np.ascontiguousarray(v) for v in points),
        "lookup_table": np.ascontiguousarray(table),
    }
    return kernel, params


def _check_bounds(points: Coordinates, coordinates: Coordinates) -> None:
    for axis, (grid, c) in enumerate(zip(points, coordinates, strict=True)):
        if np.any((c < grid[0]) | (c > grid[-1])):
            msg = f"coordinate {axis} leaves the table, which covers {grid[0]} to {grid[-1]}"
            raise ValueError(msg)


@formula(_PROJECTION + "AffineTransformation2D")
def _affine(xp: ModuleType, p: Arrays, x: Array, y: Array) -> Coordinates:
    m, t = p["matrix"], p["translation"]
    if xp is np and m[0, 1] == 0 and m[1, 0] == 0:
        # a row of x and a column of y stay what they are, which makes what follows cheap
        return m[0, 0] * x + t[0], m[1, 1] * y + t[1]
    return m[0, 0] * x + m[0, 1] * y + t[0], m[1, 0] * x + m[1, 1] * y + t[1]


@formula(_PROJECTION + "Pix2Sky_Gnomonic")
def _pix2sky_tan(xp: ModuleType, p: Arrays, x: Array, y: Array) -> Coordinates:
    # Calabretta & Greisen (2002), A&A 395, 1077, eqs. 14, 15 and 55
    r = safe_hypot(x, y)
    origin = r == 0
    one = xp.ones((), dtype=r.dtype)
    phi = xp.arctan2(xp.where(origin, 0 * one, x), xp.where(origin, one, -y))
    return xp.rad2deg(phi), xp.rad2deg(xp.arctan2(xp.rad2deg(one), r))


@formula(_PROJECTION + "Sky2Pix_Gnomonic")
def _sky2pix_tan(xp: ModuleType, p: Arrays, phi: Array, theta: Array) -> Coordinates:
    # Calabretta & Greisen (2002), eqs. 12, 13 and 54
    phi, theta = xp.deg2rad(phi), xp.deg2rad(theta)
    r = xp.rad2deg(xp.cos(theta) / xp.sin(theta))
    return r * xp.sin(phi), -r * xp.cos(phi)


def _degrees(model: Model, names: tuple[str, ...]) -> dict[str, HostArray]:
    # rotations keep radians inside and show degrees
    return {n: np.array(getattr(model, n).value, dtype=np.float64).reshape(()) for n in names}


@register(_ROTATION + "Rotation2D")
def _rotation2d(model: Model) -> Ruled:
    def kernel(xp: ModuleType, p: Arrays, x: Array, y: Array) -> Coordinates:
        angle = xp.deg2rad(p["angle"])
        c, s = xp.cos(angle), xp.sin(angle)
        return c * x - s * y, s * x + c * y

    return kernel, _degrees(model, ("angle",))


def _angles(model: Model) -> dict[str, HostArray]:
    return {"angles": np.array(model.angles.value, dtype=np.float64).ravel()}


@register(_ROTATION + "RotationSequence3D")
def _rotation_sequence(model: Model) -> Ruled:
    axes = model.axes_order

    def kernel(xp: ModuleType, p: Arrays, x: Array, y: Array, z: Array) -> Coordinates:
        return apply_matrix(rotation_matrix(xp.deg2rad(p["angles"]), axes), x, y, z)

    return kernel, _angles(model)


def _turn(xp: ModuleType, matrix: list[list[Array]], lon: Array, lat: Array) -> tuple[Array, Array]:
    vector = to_cartesian(xp.deg2rad(lon), xp.deg2rad(lat))
    lon, lat = to_spherical(*apply_matrix(matrix, *vector))
    return xp.rad2deg(lon), xp.rad2deg(lat)


@register(_ROTATION + "SphericalRotationSequence")
def _spherical_sequence(model: Model) -> Ruled:
    axes = model.axes_order

    def kernel(xp: ModuleType, p: Arrays, lon: Array, lat: Array) -> Coordinates:
        return _turn(xp, rotation_matrix(xp.deg2rad(p["angles"]), axes), lon, lat)

    return kernel, _angles(model)


@register(_ROTATION + "EulerAngleRotation")
def _euler(model: Model) -> Ruled:
    axes = model.axes_order

    def kernel(xp: ModuleType, p: Arrays, lon: Array, lat: Array) -> Coordinates:
        angles = xp.deg2rad(xp.stack([p["phi"], p["theta"], p["psi"]]))
        return _turn(xp, rotation_matrix(angles, axes), lon, lat)

    return kernel, _degrees(model, ("phi", "theta", "psi"))


def _sky_rotation(model: Model, to_celestial: bool) -> Ruled:
    # Calabretta & Greisen (2002), section 2.4: three Euler angles about z, x, z
    def kernel(xp: ModuleType, p: Arrays, lon: Array, lat: Array) -> Coordinates:
        if to_celestial:
            angles = [p["lon_pole"] - 90.0, p["lat"] - 90.0, -90.0 - p["lon"]]
        else:
            angles = [90.0 + p["lon"], 90.0 - p["lat"], 90.0 - p["lon_pole"]]
        matrix = rotation_matrix(xp.deg2rad(xp.stack(angles)), "zxz")
        out_lon, out_lat = _turn(xp, matrix, lon, lat)
        return xp.where(out_lon < 0, out_lon + 360.0, out_lon), out_lat

    return kernel, _degrees(model, ("lon", "lat", "lon_pole"))


register(_ROTATION + "RotateNative2Celestial")(partial(_sky_rotation, to_celestial=True))
register(_ROTATION + "RotateCelestial2Native")(partial(_sky_rotation, to_celestial=False))

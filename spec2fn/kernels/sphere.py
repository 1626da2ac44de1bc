"""Rotations of vectors and conversions between spherical and Cartesian coordinates."""

from __future__ import annotations

from collections.abc import Sequence

from spec2fn.kernels.namespace import array_namespace, safe_sqrt
from spec2fn.typing import Array

__all__ = ["apply_matrix", "rotation_matrix", "safe_hypot", "to_cartesian", "to_spherical"]


def safe_hypot(x: Array, y: Array) -> Array:
    """Return ``sqrt(x**2 + y**2)`` with a zero instead of a NaN derivative at the origin."""
    return safe_sqrt(x * x + y * y)


def rotation_matrix(angles: Array, axes: Sequence[str]) -> list[list[Array]]:
    """Matrix of successive rotations of the coordinate system about its axes.

    Parameters
    ----------
    angles : array, shape (n,)
        Angles in radians; the first is applied first.
    axes : sequence of {"x", "y", "z"}
        Axis of each rotation. A positive angle turns the axes counter-clockwise, i.e. a vector's
        components clockwise.
    """
    xp = array_namespace(angles)
    rows: list[list[Array]] = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    cosines, sines = xp.cos(angles), xp.sin(angles)
    for k, axis in enumerate(axes):
        a = "xyz".index(axis)
        i, j = (a + 1) % 3, (a + 2) % 3
        c, s = cosines[k], sines[k]
        first = [c * p + s * q for p, q in zip(rows[i], rows[j], strict=True)]
        second = [c * q - s * p for p, q in zip(rows[i], rows[j], strict=True)]
        rows[i], rows[j] = first, second
    return rows


def apply_matrix(
    matrix: Sequence[Sequence[Array]], x: Array, y: Array, z: Array
) -> tuple[Array, Array, Array]:
    """Multiply the vectors (x, y, z), any shape, by a 3 x 3 matrix given as rows."""
    a, b, c = (row[0] * x + row[1] * y + row[2] * z for row in matrix)
    return a, b, c


def to_cartesian(lon: Array, lat: Array) -> tuple[Array, Array, Array]:
    """Unit vector of longitude and latitude in radians."""
    xp = array_namespace(lon, lat)
    cos_lat = xp.cos(lat)
    return cos_lat * xp.cos(lon), cos_lat * xp.sin(lon), xp.sin(lat)


def to_spherical(x: Array, y: Array, z: Array) -> tuple[Array, Array]:
    """Longitude (-pi, pi] and latitude in radians of a vector; the longitude of a pole is 0."""
    xp = array_namespace(x, y, z)
    h = safe_hypot(x, y)
    pole = h == 0
    one = xp.ones((), dtype=h.dtype)
    lon = xp.where(pole, xp.zeros((), dtype=h.dtype), xp.arctan2(y, xp.where(pole, one, x)))
    return lon, xp.arctan2(z, h)

"""Quadrilaterals on the cells of a grid."""

import numpy as np
import pytest

from spec2fn.host.quadrilaterals import clip_quads, quad_entries

SQUARE = np.array([[0.0, 0.0, 1.0, 1.0], [0.0, 1.0, 1.0, 0.0]])  # clockwise


def outline(x, y):
    return np.array(x, dtype=float)[:, None], np.array(y, dtype=float)[:, None]


def test_square_on_one_cell():
    area = clip_quads(*outline(*SQUARE), 1, 1)
    assert area.shape == (1, 1, 1)
    assert area[0, 0, 0] == pytest.approx(1.0)


def test_shifted_square_is_shared_by_four_cells():
    x, y = SQUARE + np.array([[0.25], [0.4]])
    area = clip_quads(*outline(x, y), 2, 2)[..., 0]
    # columns along the first axis
    np.testing.assert_allclose(area, [[0.75 * 0.6, 0.75 * 0.4], [0.25 * 0.6, 0.25 * 0.4]])


def test_diamond_has_a_quarter_of_its_area_in_each_cell():
    x, y = [1.0, 0.5, 1.0, 1.5], [0.5, 1.0, 1.5, 1.0]
    np.testing.assert_allclose(clip_quads(*outline(x, y), 2, 2)[..., 0], 0.125)


def test_orientation_gives_the_sign():
    x, y = SQUARE[:, ::-1]
    assert clip_quads(*outline(x, y), 1, 1)[0, 0, 0] == pytest.approx(-1.0)


def test_areas_add_up_to_those_of_the_quadrilaterals():
    rng = np.random.default_rng(5)
    corners = SQUARE[:, :, None] * [[[2.0]], [[1.3]]] + rng.uniform(0, 0.3, (2, 4, 200)) + 0.1
    x, y = corners
    true = 0.5 * np.abs((x[0] - x[2]) * (y[1] - y[3]) - (x[1] - x[3]) * (y[0] - y[2]))
    np.testing.assert_allclose(np.abs(clip_quads(x, y, 3, 2).sum(axis=(0, 1))), true, rtol=1e-12)


def test_areas_agree_with_counting_points():
    rng = np.random.default_rng(6)
    x, y = outline([0.3, 0.9, 2.7, 2.2], [0.2, 1.8, 1.6, 0.1])
    u, v = rng.uniform(0, 3, 400_000), rng.uniform(0, 2, 400_000)
    inside = np.ones(u.size, bool)
    for k in range(4):
        j = (k + 1) % 4
        side = (x[j] - x[k]) * (v - y[k]) - (y[j] - y[k]) * (u - x[k])
        inside &= side < 0
    counted = np.histogram2d(u[inside], v[inside], bins=(range(4), range(3)))[0] * 6 / u.size
    np.testing.assert_allclose(clip_quads(x, y, 3, 2)[..., 0], counted, atol=0.01)


def test_entries_outside_the_image_are_dropped():
    x, y = SQUARE[:, :, None] + np.array([[[-0.5, 10.0, 2.5]], [[0.0, 0.0, 1.5]]])
    who, cell, value = quad_entries(x, y, (2, 3))
    held = sorted(zip(who.tolist(), cell.tolist(), value.tolist(), strict=True))
    assert held == [(0, 0, pytest.approx(0.5)), (2, 5, pytest.approx(0.25))]


def clipped_area(x, y):
    """Area of a convex polygon within the unit square (Sutherland & Hodgman 1974)."""
    polygon = list(zip(x, y, strict=True))
    for axis, limit, sign in ((0, 0.0, 1), (0, 1.0, -1), (1, 0.0, 1), (1, 1.0, -1)):
        out = []
        for a, b in zip(polygon, polygon[1:] + polygon[:1], strict=True):
            da, db = sign * (a[axis] - limit), sign * (b[axis] - limit)
            if da >= 0:
                out.append(a)
            if (da >= 0) != (db >= 0):
                t = da / (da - db)
                out.append(tuple(p + t * (q - p) for p, q in zip(a, b, strict=True)))
        polygon = out
        if not polygon:
            return 0.0
    px, py = np.array(polygon).T
    return 0.5 * abs(np.dot(px, np.roll(py, -1)) - np.dot(py, np.roll(px, -1)))


def test_areas_agree_with_clipping_one_polygon_after_the_other():
    rng = np.random.default_rng(0)
    n = 300
    centre, size = rng.uniform(1, 3, (2, n)), rng.uniform(0.05, 1, n)
    angle = rng.uniform(0, 2 * np.pi, n) - np.arange(4)[:, None] * np.pi / 2
    angle += rng.uniform(-0.3, 0.3, (4, n))
    x, y = centre[0] + size * np.cos(angle), centre[1] + size * np.sin(angle)
    found = clip_quads(x, y, 4, 4)
    for i in range(4):
        for j in range(4):
            wanted = [clipped_area(x[:, k] - i, y[:, k] - j) for k in range(n)]
            np.testing.assert_allclose(found[i, j], wanted, atol=1e-13)


def test_many_cells_are_clipped_in_pieces():
    # 20000 quadrilaterals of 100 cells each
    x, y = SQUARE[:, :, None] * 9.5 + np.linspace(0.1, 0.4, 20_000)
    who, _, value = quad_entries(x, y, (10, 10))
    np.testing.assert_allclose(np.bincount(who, value), 9.5**2, rtol=1e-12)
    assert who.size == 100 * 20_000

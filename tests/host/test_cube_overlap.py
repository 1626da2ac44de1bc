import numpy as np
import pytest

from spec2fn.host.cube_overlap import (
    assemble,
    paired,
    plane_overlaps,
    roi_entries,
    roi_planes,
)
from spec2fn.host.quadrilaterals import quad_entries

SQUARE = np.array([[0.0, 0.0, 1.0, 1.0], [0.0, 1.0, 1.0, 0.0]])  # clockwise


def test_planes_share_the_width_of_a_pixel():
    edges = np.array([1.0, 1.1, 1.3, 1.6])
    first, overlap = plane_overlaps(
        np.array([1.15, 1.05, 0.5, 2.0]), np.array([0.4, 0.02, 0.1, 0.1]), edges[:-1], edges[1:]
    )
    assert first.tolist() == [0, 0, 3, 3]
    np.testing.assert_allclose(overlap[:, 0], [0.1, 0.2, 0.05], atol=1e-7)
    np.testing.assert_allclose(overlap[:, 1], [0.02, -1, -1], atol=1e-7)
    assert (overlap[:, 2:] == -1).all()


def test_a_pixel_between_planes_that_do_not_join_is_nowhere():
    first, overlap = plane_overlaps(
        np.array([1.5]), np.array([0.1]), np.array([1.0, 2.0]), np.array([1.2, 2.2])
    )
    assert first.tolist() == [2]
    assert not (overlap > 0).any()


def test_region_of_influence_is_a_circle():
    x, y = np.array([2.0]), np.array([1.0])
    who, cell, value = roi_entries(x, y, np.array([1.0]), (4, 5), lambda away, _: away)
    assert set(who.tolist()) == {0}
    assert dict(zip(cell.tolist(), value.tolist(), strict=True)) == {
        7: 0.0,
        2: 1.0,
        6: 1.0,
        8: 1.0,
        12: 1.0,
    }


def test_region_of_influence_in_wavelength_counts_both_ends():
    centre = np.array([1.0, 2.0, 3.0, 4.0])
    first, value = roi_planes(
        np.array([2.5]), np.array([1.5]), centre, np.full(4, 1.0), lambda away, _: away
    )
    assert first.tolist() == [0]
    np.testing.assert_allclose(value[:, 0], [2.25, 0.25, 0.25, 2.25])


def dense(op):
    """The operator as a matrix of voxels and pixels."""
    out = np.zeros((op.n_out, op.pixels.size))
    for r, row in enumerate(op.rows):
        for e in range(op.starts[r], op.starts[r + 1]):
            for d in range(op.spectral.shape[0]):
                voxel = row + d * op.plane
                if op.spectral[d, op.cols[e]] > 0 and voxel < op.n_out:
                    out[voxel, op.cols[e]] += op.spatial[e] * op.spectral[d, op.cols[e]]
    return out


@pytest.fixture
def scattered():
    rng = np.random.default_rng(8)
    n, shape = 60, (7, 5, 6)
    x = SQUARE[0][:, None] * 1.4 + rng.uniform(-0.5, 5.5, n)
    y = SQUARE[1][:, None] * 1.2 + rng.uniform(-0.5, 4.5, n)
    wave, width = rng.uniform(-0.5, 7.5, n), rng.uniform(0.5, 2.5, n)
    edges = np.arange(8.0)
    first, spectral = plane_overlaps(wave, width, edges[:-1], edges[1:])
    pixels = np.sort(rng.choice(200, n, replace=False))
    op = assemble(
        first,
        spectral,
        pixels,
        lambda which: quad_entries(x[:, which], y[:, which], shape[1:]),
        shape=shape,
    )
    return op, (x, y, wave, width, pixels)


def test_operator_holds_every_overlap(scattered):
    op, (x, y, wave, width, pixels) = scattered
    matrix = dense(op)
    place = {int(p): i for i, p in enumerate(op.pixels)}
    for k, pixel in enumerate(pixels):
        who, cell, area = quad_entries(x[:, [k]], y[:, [k]], (5, 6))
        for plane in range(7):
            low, high = wave[k] - width[k] / 2, wave[k] + width[k] / 2
            shared = max(min(high, plane + 1) - max(low, plane), 0.0)
            true = np.zeros(30)
            true[cell] = area * shared
            held = matrix[plane * 30 : plane * 30 + 30, place[pixel]] if pixel in place else 0.0
            np.testing.assert_allclose(held, true, atol=1e-6)
    assert who.max() == 0


def test_operator_is_sorted_and_knows_what_it_reaches(scattered):
    op, _ = scattered
    assert (np.diff(op.rows) > 0).all()
    assert (np.diff(op.voxels) > 0).all()
    reached = np.flatnonzero(dense(op).any(axis=1))
    assert np.isin(reached, op.voxels).all()
    for d in range(op.spectral.shape[0]):
        inside = op.rows + d * op.plane < op.n_out
        np.testing.assert_array_equal(
            op.voxels[op.position[d][inside]], (op.rows + d * op.plane)[inside]
        )
        assert (op.position[d][~inside] == op.voxels.size).all()


@pytest.mark.parametrize("offset", [(0, 0, 1), (0, 1, 0), (1, 0, 0), (1, 1, 2)])
def test_pairs_are_products_of_entries(scattered, offset):
    op, _ = scattered
    matrix = dense(op).reshape(7, 5, 6, -1)
    dw, dy, dx = offset
    true = np.zeros_like(matrix)
    true[: 7 - dw, : 5 - dy, : 6 - dx] = (
        matrix[: 7 - dw, : 5 - dy, : 6 - dx] * matrix[dw:, dy:, dx:]
    )
    np.testing.assert_allclose(
        dense(paired(op, offset)).reshape(true.shape), true, rtol=1e-5, atol=1e-7
    )


def test_nothing_reaches_the_cube():
    first, spectral = plane_overlaps(
        np.array([9.0]), np.array([0.5]), np.array([0.0, 1.0]), np.array([1.0, 2.0])
    )
    op = assemble(
        first,
        spectral,
        np.array([3]),
        lambda which: quad_entries(np.zeros((4, which.size)), np.zeros((4, which.size)), (2, 2)),
        shape=(2, 2, 2),
    )
    assert op.pixels.size == op.rows.size == op.voxels.size == 0

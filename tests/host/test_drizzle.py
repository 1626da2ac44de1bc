"""Overlap of drizzled pixels: polygon areas, corners, edges, kernels; the drizzle library."""

import numpy as np
import pytest

from spec2fn.host.drizzle import corners, drizzle_overlap, neighbour_pairs
from spec2fn.kernels import resampling


def test_corners_of_a_regular_grid():
    pixel_map = np.stack(np.meshgrid(np.arange(4.0), np.arange(3.0)))
    x, y = corners(pixel_map, 0.5)
    np.testing.assert_allclose(x[:, 0, 0], [-0.5, 0.5, 0.5, -0.5])
    np.testing.assert_allclose(y[:, 0, 0], [0.5, 0.5, -0.5, -0.5])
    np.testing.assert_allclose(x[:, 2, 3], [2.5, 3.5, 3.5, 2.5])
    # below and on the left the map goes on
    bordered = np.pad(pixel_map, ((0, 0), (1, 0), (1, 0)), constant_values=np.nan)
    x, y = corners(bordered, 0.25)
    assert np.isnan(x[:, :2]).all()
    assert np.isnan(y[:, :, :2]).all()
    np.testing.assert_allclose(x[:, 3, 4], [2.75, 3.25, 3.25, 2.75])


def test_unknown_neighbours_take_the_outline():
    pixel_map = np.stack(np.meshgrid(np.arange(7.0), np.arange(7.0)))
    pixel_map[:, 3, 3] = np.nan
    square = drizzle_overlap(pixel_map, (7, 7))
    assert set(range(49)) - set(square.cols) == {16, 17, 18, 23, 24, 25, 30, 31, 32}
    point = drizzle_overlap(pixel_map, (7, 7), "point")
    assert set(range(49)) - set(point.cols) == {24}


def test_point_kernel_rounds_away_from_zero():
    pixel_map = np.array([[[-0.5, -0.49, 0.5, 1.49, 2.5]], [[0.0] * 5]])
    found = drizzle_overlap(pixel_map, (1, 3), "point")
    assert found.cols.tolist() == [1, 2, 3]
    assert found.rows.tolist() == [0, 1, 1]
    small = drizzle_overlap(pixel_map, (1, 3), "square", 0.0005)
    assert small.rows.tolist() == found.rows.tolist()


def test_identity_and_shift():
    pixel_map = np.stack(np.meshgrid(np.arange(5.0), np.arange(4.0)))
    same = drizzle_overlap(pixel_map, (4, 5))
    np.testing.assert_array_equal(same.rows, same.cols)
    np.testing.assert_allclose(same.area, 1)
    assert neighbour_pairs(same, 1).lags == 1
    assert neighbour_pairs(same, 1).first.size == 0
    half = drizzle_overlap(pixel_map + np.array([0.25, 0.0])[:, None, None], (4, 6))
    assert sorted(set(np.round(half.area, 12))) == [0.25, 0.75]


def test_finer_grid_has_longer_lags():
    pixel_map = np.stack(np.meshgrid(np.arange(5.0) * 2.7, np.arange(4.0)))
    overlap = drizzle_overlap(pixel_map, (4, 14))
    assert neighbour_pairs(overlap, 1).lags == 3
    assert neighbour_pairs(overlap, 0).lags == 1
    assert neighbour_pairs(overlap, 0).first.size == 0


@pytest.mark.parametrize("kernel", ["square", "point"])
@pytest.mark.parametrize("pixfrac", [1.0, 0.8, 0.3, 0.0])
@pytest.mark.parametrize("zoom", [0.3, 1.0, 2.3])
@pytest.mark.filterwarnings("ignore:Kernel reset")
def test_drizzle_library(kernel, pixfrac, zoom):
    resample = pytest.importorskip("drizzle.resample", reason="the parity extra is not installed")
    rng = np.random.default_rng(7)
    y, x = np.indices((60, 25), dtype=float)
    pixel_map = zoom * np.stack([1.03 * x - 0.02 * y + 3 + 1e-3 * (y - 30) ** 2, y + 0.06 * x + 1])
    pixel_map[:, 30:32, 5] = np.nan
    pixel_map[:, :2] = np.nan
    data = rng.normal(10, 1, y.shape).astype("f4")
    weight = rng.uniform(0.1, 5, y.shape).astype("f4")
    weight[rng.uniform(size=y.shape) < 0.05] = 0
    shape = (int(70 * zoom), int(35 * zoom))
    peer = resample.Drizzle(kernel=kernel, out_shape=shape, fillval="NAN")
    peer.add_image(
        data=data,
        exptime=1.0,
        pixmap=np.moveaxis(pixel_map, 0, -1),
        weight_map=weight,
        pixfrac=pixfrac,
    )
    overlap = drizzle_overlap(pixel_map, shape, kernel, pixfrac)
    coefficient, wht = resampling.coefficients(overlap, weight.ravel())
    sci = resampling.apply(overlap, coefficient, data.ravel()).reshape(shape)
    np.testing.assert_allclose(wht.reshape(shape), peer.out_wht, rtol=1e-5, atol=1e-6)
    both = (wht.reshape(shape) > 0) & (peer.out_wht > 0)
    # what only one of the two has is round-off of the clipping, far below any real overlap
    assert np.max(peer.out_wht[~both], initial=0) < 1e-9
    np.testing.assert_allclose(sci[both], peer.out_img[both], rtol=1e-5)

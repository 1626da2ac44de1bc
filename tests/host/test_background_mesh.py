import numpy as np
import pytest

from spec2fn.host.background_mesh import background_mesh


def slope(shape):
    y, x = np.indices(shape)
    return (3.0 + 0.02 * y - 0.01 * x).astype(np.float32)


@pytest.mark.parametrize("box", [None, (16, 16), (25, 17)])
def test_a_slope_under_stars_is_followed(box):
    image = slope((320, 480))
    image[::11, ::13] += 50.0
    mesh = background_mesh(image, np.ones(image.shape, bool), box)
    assert mesh.dtype == np.float32
    inner = (slice(112, -112), slice(112, -112))
    np.testing.assert_allclose(mesh[inner], slope(image.shape)[inner], atol=0.1)


def test_boxes_are_no_larger_than_the_image():
    image, mask = slope((40, 60)), np.ones((40, 60), bool)
    mesh = background_mesh(image, mask, (500, 60))
    np.testing.assert_array_equal(mesh, background_mesh(image, mask, (40, 60)))


def test_masked_boxes_take_the_mean_of_their_neighbours():
    image, mask = np.full((96, 96), 2.0, np.float32), np.ones((96, 96), bool)
    image[32:64, 32:64], mask[32:64, 32:64] = 1e4, False
    np.testing.assert_allclose(background_mesh(image, mask), 2.0, rtol=1e-6)


def test_without_a_box_that_has_enough_pixels_there_is_no_mesh():
    image, mask = np.ones((64, 64), np.float32), np.ones((64, 64), bool)
    mask[:, ::4] = False
    assert background_mesh(image, mask) is None


def test_single_pixels_have_the_background_of_the_whole_image():
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:203, :250]
    image = (1 + 0.3 * np.sin(x / 60) + 0.002 * y + 0.05 * rng.normal(size=x.shape)).astype("f4")
    mask = rng.random(image.shape) < 0.9
    at = rng.integers(0, 203, 500), rng.integers(0, 250, 500)
    for box in ((40, 50), (33, 47)):
        how = {"box": box, "filter_size": 3, "excluded": 30.0}
        whole = background_mesh(image, mask, **how)
        np.testing.assert_allclose(background_mesh(image, mask, **how, at=at), whole[at], rtol=1e-6)

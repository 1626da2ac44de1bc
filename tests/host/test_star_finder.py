import numpy as np
import pytest

from spec2fn.host.star_finder import brightest_source


def image(*sources, noise=0.0, shape=(30, 35)):
    y, x = np.indices(shape)
    out = np.random.default_rng(5).normal(0.0, noise, shape) if noise else np.zeros(shape)
    for x0, y0, height, width in sources:
        out = out + height * np.exp(-0.5 * ((x - x0) ** 2 + (y - y0) ** 2) / width**2)
    return out


@pytest.mark.parametrize("position", [(17.0, 12.0), (17.3, 11.8), (4.4, 25.1), (30.9, 3.2)])
def test_a_star_is_found_where_it_is(position):
    found = brightest_source(image((*position, 50.0, 1.27), noise=0.3), 1.0)
    np.testing.assert_allclose(found, position, atol=0.15)


def test_a_star_at_the_edge_is_drawn_to_the_middle():
    # the missing half of its light counts as zero, in DAOFIND as here
    found = brightest_source(image((33.9, 2.2, 50.0, 1.27), noise=0.3), 1.0)
    assert 33.4 < found[0] < 33.9
    np.testing.assert_allclose(found[1], 2.2, atol=0.15)


def test_the_brightest_star_counts():
    found = brightest_source(image((8, 8, 20, 1.3), (25, 20, 60, 1.3), (25, 5, 30, 1.3)), 1.0)
    np.testing.assert_allclose(found, (25, 20), atol=0.05)


def test_a_hot_pixel_and_a_stripe_are_no_stars():
    hot = image((20, 20, 30.0, 1.3))
    hot[5, 6] = 1e4
    np.testing.assert_allclose(brightest_source(hot, 1.0), (20, 20), atol=0.1)
    stripe = np.zeros((30, 35))
    stripe[14] = 100.0
    assert brightest_source(stripe, 1.0) is None


def test_nothing_is_found_in_an_empty_image():
    assert brightest_source(np.zeros((20, 20)), 1.0) is None
    assert brightest_source(image((10, 10, 0.5, 1.3), shape=(20, 20)), 5.0) is None

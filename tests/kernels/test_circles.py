import numpy as np
import pytest

from spec2fn.kernels.circles import circle_overlap, circle_sampled

CENTRES = [(5.3, 4.8), (5.0, 4.0), (5.5, 4.5), (-0.7, 9.9), (40.0, 40.0)]
SHAPE = (10, 12)


def sampled(centre, radius, n=80):
    """Fraction of a fine grid of points in each pixel that is inside: a brute-force truth."""
    offset = (np.arange(n) + 0.5) / n - 0.5
    y = (np.arange(SHAPE[0])[:, None] + offset).reshape(-1, 1) - centre[1]
    x = (np.arange(SHAPE[1])[:, None] + offset).reshape(1, -1) - centre[0]
    inside = x**2 + y**2 < radius**2
    return inside.reshape(SHAPE[0], n, SHAPE[1], n).mean(axis=(1, 3))


@pytest.mark.parametrize("centre", CENTRES)
@pytest.mark.parametrize("radius", [0.05, 0.3, 0.5, 1.0, 2.7, 7.0, 60.0])
def test_overlaps_are_those_of_a_fine_grid(centre, radius):
    area = circle_overlap(np.array(centre), np.array([radius]), SHAPE)[0]
    np.testing.assert_allclose(area, sampled(centre, radius), atol=6e-3)


@pytest.mark.parametrize("radius", [0.01, 0.49, 0.5, 1.25, 3.0, 3.99])
def test_the_area_of_the_circle_is_conserved(radius):
    area = circle_overlap(np.array([5.37, 4.61]), np.array([radius]), SHAPE)
    assert area.sum() == pytest.approx(np.pi * radius**2, rel=1e-9)
    assert area.min() >= 0
    assert area.max() <= 1 + 1e-12


def test_without_a_radius_nothing_is_covered():
    assert not circle_overlap(np.array([5.0, 5.0]), np.array([0.0, -1.0, np.nan]), SHAPE).any()


@pytest.mark.parametrize(("cover", "subpixels"), [(circle_overlap, ()), (circle_sampled, (3,))])
def test_a_part_of_the_image_has_the_same_overlaps(cover, subpixels):
    centre, radius = np.array([5.2, 4.7]), np.array([1.3, 3.1])
    whole = cover(centre, radius, SHAPE, *subpixels)
    part = cover(centre, radius, (4, 5), *subpixels, origin=(3, 2))
    np.testing.assert_allclose(part, whole[:, 3:7, 2:7], atol=1e-14)


def test_one_subpixel_asks_for_the_centre_of_the_pixel():
    weights = circle_sampled(np.array([5.0, 4.0]), np.array([2.0]), SHAPE, 1)[0]
    y, x = np.indices(SHAPE)
    np.testing.assert_array_equal(weights, np.hypot(x - 5, y - 4) < 2)


def test_many_subpixels_approach_the_exact_overlap():
    centre, radius = np.array([5.2, 4.7]), np.array([2.6])
    fine = circle_sampled(centre, radius, SHAPE, 60)
    np.testing.assert_allclose(fine, circle_overlap(centre, radius, SHAPE), atol=5e-3)


def test_derivatives_agree_with_finite_differences():
    import jax
    import jax.numpy as jnp

    mix = np.random.default_rng(1).normal(size=(3, *SHAPE))
    # no rim is near an edge of pixels, where the second derivative is infinite
    centre, radius = np.array([5.23, 4.71]), np.array([0.31, 1.87, 3.36])

    def total(c, r):
        return (circle_overlap(c, r, SHAPE) * mix).sum()

    with jax.enable_x64(True):
        slopes = jax.jit(jax.grad(total, (0, 1)))(jnp.asarray(centre), jnp.asarray(radius))
        step = 1e-6
        for k, (found, value) in enumerate(zip(slopes, (centre, radius), strict=True)):
            for i in range(len(value)):
                ends = []
                for sign in (1, -1):
                    moved = [centre.copy(), radius.copy()]
                    moved[k][i] += sign * step
                    ends.append(total(*moved))
                assert float(found[i]) == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-5)


@pytest.mark.parametrize("centre", CENTRES)
def test_derivatives_are_finite_where_rims_touch_edges(centre):
    import jax
    import jax.numpy as jnp

    with jax.enable_x64(True):
        slope = jax.grad(lambda c, r: circle_overlap(c, r, SHAPE)[:, 3].sum(), (0, 1))
        slopes = jax.jit(slope)(jnp.asarray(centre), jnp.array([0.0, 0.5, 1.0, 1.5, 2.0]))
        assert all(bool(jnp.isfinite(s).all()) for s in slopes)

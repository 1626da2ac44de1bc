"""Lowering a gwcs: frames, parameters, evaluation on the pixels of an image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from astropy import coordinates
from astropy.modeling import models
from gwcs import WCS
from gwcs.coordinate_frames import CelestialFrame, Frame2D

from spec2fn.errors import InputError
from spec2fn.wcs.invert import invert, jacobian
from spec2fn.wcs.lower import box_of, evaluate_on_box, lower

BOX = ((1.5, 7.0), (0.0, 5.2))


@pytest.fixture
def wcs():
    """An imager with a curved detector, three frames and a bounding box."""
    distortion = models.Polynomial2D(2, c0_0=0.0, c1_0=0.11, c0_1=0.002, c2_0=1e-5)
    other = models.Polynomial2D(2, c0_0=0.0, c1_0=-0.003, c0_1=0.12, c1_1=2e-5)
    focal = models.Shift(-4.0) & models.Shift(-3.0) | models.Mapping((0, 1, 0, 1))
    focal = focal | distortion & other
    sky = (
        models.Scale(1 / 3600) & models.Scale(1 / 3600)
        | models.Pix2Sky_TAN()
        | models.RotateNative2Celestial(0.0, -27.0, 180.0)
    )
    out = WCS(
        [
            (Frame2D(name="detector"), focal),
            (Frame2D(name="v2v3"), sky),
            (CelestialFrame(reference_frame=coordinates.ICRS(), name="world"), None),
        ]
    )
    out.bounding_box = BOX
    return out


def test_the_whole_wcs_agrees_with_gwcs_inside_and_outside_the_box(wcs):
    y, x = np.mgrid[:8, :10].astype(float)
    planes = evaluate_on_box(lower(wcs), (8, 10), box_of(wcs))
    assert box_of(wcs) == BOX
    for ours, theirs in zip(planes, wcs(x, y), strict=True):
        np.testing.assert_array_equal(np.isnan(ours), np.isnan(theirs))
        np.testing.assert_allclose(ours, theirs, rtol=1e-13, atol=1e-13)


def test_a_box_off_the_detector_gives_only_nan(wcs):
    ra, dec = evaluate_on_box(lower(wcs), (8, 10), ((20.0, 30.0), (0.0, 5.0)))
    assert np.isnan(ra).all()
    assert np.isnan(dec).all()


def test_without_a_box_every_pixel_is_evaluated(wcs):
    wcs.bounding_box = None
    assert box_of(wcs) is None
    assert np.isfinite(evaluate_on_box(lower(wcs), (8, 10))).all()


def test_frames_select_a_part_and_its_inverse(wcs):
    v2, v3 = lower(wcs, "detector", "v2v3")(3.0, 4.0)
    assert np.allclose((v2, v3), wcs.get_transform("detector", "v2v3")(3.0, 4.0), rtol=1e-13)
    sky = lower(wcs, "v2v3")
    assert np.allclose(lower(wcs, "world", "v2v3")(*sky(v2, v3)), (v2, v3), atol=1e-9)
    assert lower(wcs, "v2v3", "v2v3")(1.0, 2.0) == (1.0, 2.0)
    with pytest.raises(InputError, match="no frame 'slit'; its frames are detector, v2v3, world"):
        lower(wcs, "slit")


def test_parameters_are_named_by_frame_and_can_be_replaced(wcs):
    lowered = lower(wcs, to_frame="v2v3")
    assert set(lowered.params) == {"detector"}
    moved = jax.tree.map(lambda leaf: np.asarray(leaf) * 2, lowered.params)
    assert lowered.with_params(moved)(3.0, 4.0) != lowered(3.0, 4.0)
    assert lowered(3.0, 4.0) == lower(wcs, to_frame="v2v3")(3.0, 4.0)


def test_gradient_with_respect_to_every_parameter(wcs):
    lowered = lower(wcs, to_frame="v2v3")
    x, y = np.arange(5.0), np.arange(5.0) + 1

    def total(params):
        return sum((o**2).sum() for o in lowered.function(params, x, y))

    slopes = jax.grad(total)(jax.tree.map(jnp.asarray, lowered.params))
    for k, leaf in enumerate(jax.tree.leaves(lowered.params)):
        for index in np.ndindex(leaf.shape):

            def bumped(by, k=k, index=index):
                leaves, tree = jax.tree.flatten(lowered.params)
                leaves[k] = leaves[k].copy()
                leaves[k][index] += by
                return total(jax.tree.unflatten(tree, leaves))

            numeric = (bumped(1e-6) - bumped(-1e-6)) / 2e-6
            found = jax.tree.leaves(slopes)[k][index]
            np.testing.assert_allclose(found, numeric, rtol=1e-6, atol=1e-7)


def test_jit_and_vmap_equal_eager(wcs):
    lowered = lower(wcs)
    x, y = jnp.linspace(0, 9, 5), jnp.linspace(1, 6, 5)
    eager = lowered(x, y)
    for other in (
        jax.jit(lowered.function)(lowered.params, x, y),
        jax.vmap(lowered)(x, y),
        np.transpose([lowered(float(a), float(b)) for a, b in zip(x, y, strict=True)]),
    ):
        np.testing.assert_allclose(np.stack(other), np.stack(eager), rtol=1e-14, atol=1e-13)


@pytest.mark.parametrize("xp", [np, jnp])
def test_newton_inverts_across_zero_right_ascension(wcs, xp):
    lowered = lower(wcs)
    y, x = (xp.asarray(c) for c in np.mgrid[:6, :8].astype(float))
    sky = lowered(x, y)
    assert np.ptp(np.asarray(sky[0])) > 300
    back = invert(
        lowered,
        sky,
        (x + 0.8, y - 0.7),
        periods=(360.0, None),
        bounds=((-5, 15), (-5, 15)),
        iterations=5,
    )
    np.testing.assert_allclose(back[0], x, atol=1e-6)
    np.testing.assert_allclose(back[1], y, atol=1e-6)


def test_newton_fits_more_outputs_than_inputs_and_keeps_nan():
    def f(x):
        return 2.0 * x, 5.0 * x + 0.1 * x**3

    x = np.array([0.5, np.nan, 2.0])
    (found,) = invert(f, f(x), (np.ones(3),))
    np.testing.assert_allclose(found, x, atol=1e-10)


def test_newton_says_nan_where_nothing_depends_on_a_coordinate():
    (found,) = invert(lambda x: (0.0 * x,), (np.ones(2),), (np.zeros(2),))
    assert np.isnan(found).all()


def test_the_jacobian_of_numpy_is_that_of_jax(wcs):
    lowered = lower(wcs, to_frame="v2v3")
    x, y = np.arange(3.0), np.arange(3.0) + 2
    _, numeric = jacobian(lowered, (x, y))
    _, exact = jacobian(lowered, (jnp.asarray(x), jnp.asarray(y)))
    np.testing.assert_allclose(np.array(numeric), np.array(exact), rtol=1e-8, atol=1e-12)


def test_newton_inverts_no_points_at_all(wcs):
    none = np.zeros(0)
    for found in invert(lower(wcs), (none, none), (none, none)):
        assert found.shape == (0,)

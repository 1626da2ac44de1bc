import numpy as np
import pytest
from scipy.special import ndtr

from spec2fn import transforms
from spec2fn.kernels.dispersal import Dispersal, OrderGeometry, gather, splat

SHAPE = (23, 31)


def drawn(seed, number=40, margin=4.0):
    rng = np.random.default_rng(seed)
    x = rng.uniform(-margin, SHAPE[1] + margin, number)
    y = rng.uniform(-margin, SHAPE[0] + margin, number)
    return x, y, rng.normal(size=number), rng.normal(size=SHAPE)


def gaussian(x0, y0, width, pixel=1.0, half=15):
    """A star on pixels of some size, integrated over them: places and light."""
    edges = (np.arange(-half, half + 2) - 0.5) * pixel
    middles = edges[:-1] + pixel / 2
    parts = [np.diff(ndtr((edges - c) / width)) for c in (x0, y0)]
    return np.meshgrid(middles, middles), np.outer(parts[1], parts[0])


@pytest.mark.parametrize("pixel", [0.5, 1.0])
@pytest.mark.parametrize("shift", [(0.0, 0.0), (0.5, 0.5), (0.3, -0.2)])
def test_with_the_area_of_pixels_stars_are_as_sharp_as_they_were(pixel, shift):
    (x, y), light = gaussian(0.1, -0.2, 0.9, pixel)
    shape = (41, 41)
    _, true = gaussian(0.1 + shift[0], -0.2 + shift[1], 0.9, half=20)
    wrong = {}
    for area in (None, pixel**2):
        laid = splat(x + shift[0] + 20, y + shift[1] + 20, light, shape, area)
        np.testing.assert_allclose(laid.sum(), 1.0, atol=1e-12)
        wrong[area] = np.abs(laid - true).sum()
    assert wrong[pixel**2] < max(0.6 * wrong[None], 1e-12)
    assert wrong[pixel**2] < 0.1


def test_jax_agrees():
    jnp = pytest.importorskip("jax.numpy")
    x, y, light, image = drawn(4)
    arrays = [jnp.asarray(a) for a in (x, y, light, image)]
    np.testing.assert_allclose(splat(*arrays[:3], SHAPE), splat(x, y, light, SHAPE), atol=1e-12)
    np.testing.assert_allclose(
        gather(arrays[0], arrays[1], arrays[3]), gather(x, y, image), atol=1e-12
    )


def operator(seed=0, pixels=30, waves=17, lit=3):
    """Three sources, of which `lit` have pixels."""
    rng = np.random.default_rng(seed)
    x0, y0 = rng.uniform(2, 28, pixels), rng.uniform(2, 20, pixels)
    wave = np.linspace(1.0, 1.4, waves)
    orders = {
        str(m): OrderGeometry(
            x0 + m * 30 * (wave[:, None] - 1.1),
            y0 + m * 3 * (wave[:, None] - 1.1),
            wave,
            rng.uniform(0.1, 1.0, waves),
        )
        for m in (1, 2)
    }
    source = np.sort(rng.integers(0, lit, pixels))
    spectra = {m: rng.uniform(0.5, 1.5, (3, waves)) for m in orders}
    return Dispersal(orders, source, 3, SHAPE), rng.uniform(0, 2, pixels), spectra, rng


@pytest.mark.parametrize("lit", [3, 2])
def test_the_operator_has_adjoints_in_the_image_and_in_the_spectra(lit):
    dispersal, flux, spectra, rng = operator(lit=lit)
    image = rng.normal(size=SHAPE)
    forward = (dispersal(flux, spectra) * image).sum()
    np.testing.assert_allclose(
        forward, (flux * dispersal.adjoint(image, spectra)).sum(), rtol=1e-12
    )
    back = dispersal.adjoint_spectra(image, flux)
    # also of sources without a pixel
    assert {m: b.shape for m, b in back.items()} == {m: s.shape for m, s in spectra.items()}
    np.testing.assert_allclose(
        forward, sum((spectra[m] * back[m]).sum() for m in spectra), rtol=1e-12
    )
    pytest.importorskip("jax")
    adjoint = transforms.jit(lambda plan, image, flux: plan.adjoint_spectra(image, flux))
    traced = adjoint(dispersal, image, flux)
    for m in spectra:
        np.testing.assert_allclose(traced[m], back[m], rtol=1e-12)


def test_orders_and_sources_add_up():
    dispersal, flux, spectra, _ = operator()
    whole = dispersal(flux, spectra)
    by_order = sum(
        Dispersal({m: g}, dispersal.source, 3, SHAPE)(flux, spectra)
        for m, g in dispersal.orders.items()
    )
    by_source = sum(dispersal(flux * (dispersal.source == s), spectra) for s in range(3))
    np.testing.assert_allclose(by_order, whole, atol=1e-13)
    np.testing.assert_allclose(by_source, whole, atol=1e-13)


def test_gradients_agree_with_finite_differences():
    jax = pytest.importorskip("jax")
    jnp = jax.numpy
    dispersal, flux, spectra, rng = operator()
    image = rng.normal(size=SHAPE)

    def loss(flux, shift, scale):
        orders = {
            m: OrderGeometry(g.x + shift, g.y, g.wavelength, g.gain * scale)
            for m, g in dispersal.orders.items()
        }
        moved = Dispersal(orders, dispersal.source, 3, SHAPE)
        return (jnp.asarray(moved(flux, spectra)) * image).sum()

    at = (jnp.asarray(flux), jnp.asarray(0.03), jnp.asarray(1.0))
    gradients = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(*at)
    step = 1e-6
    for k, exact in enumerate(gradients):
        way = rng.normal(size=np.shape(at[k]))
        ends = [
            float(loss(*(a + s * step * way if i == k else a for i, a in enumerate(at))))
            for s in (1, -1)
        ]
        numeric = (ends[0] - ends[1]) / (2 * step)
        np.testing.assert_allclose(np.sum(exact * way), numeric, rtol=1e-5)


def test_light_without_a_place_is_lost():
    x, y = np.array([np.nan, 3.0, -5.0]), np.array([2.0, 4.0, np.nan])
    laid = splat(x, y, np.ones(3), SHAPE)
    assert laid.sum() == laid[4, 3] == 1.0
    np.testing.assert_array_equal(gather(x, y, np.ones(SHAPE)), [0.0, 1.0, 0.0])

import numpy as np
import pytest
from astropy.stats import sigma_clipped_stats

from spec2fn.kernels.circles import circle_overlap
from spec2fn.kernels.cube_extraction import (
    Spaxels,
    clipping_limits,
    extract_aperture,
    extract_whole,
)

SHAPE = (4, 15, 17)  # wave, y, x
CENTRE = np.array([8.2, 7.1])


def by_astropy(values, sigma, maxiters=5):
    mean, _, deviation = sigma_clipped_stats(values, sigma=sigma, maxiters=maxiters)
    return mean - sigma * deviation, mean + sigma * deviation


@pytest.mark.parametrize("sigma", [1.0, 2.0, 3.0])
@pytest.mark.parametrize("maxiters", [1, 2, 5])
def test_limits_are_those_of_astropy(sigma, maxiters):
    rng = np.random.default_rng(3)
    values = rng.standard_t(2, size=(60, 80)).astype(np.float32)
    valid = rng.random(values.shape) < np.linspace(0.03, 1, 60)[:, None]
    valid[7] = False
    low, high = clipping_limits(np.where(valid, values, np.nan), valid, sigma, maxiters)
    for k in range(len(values)):
        if not valid[k].any():
            assert (low[k], high[k]) == (-np.inf, np.inf)
            continue
        truth = by_astropy(values[k, valid[k]].astype(float), sigma, maxiters)
        np.testing.assert_allclose((low[k], high[k]), truth, rtol=1e-6, atol=1e-6)


def test_limits_survive_very_bright_outliers():
    values = np.random.default_rng(1).normal(size=(1, 500))
    values[0, :3] = 1e12
    low, high = clipping_limits(values, np.ones_like(values, bool), 3.0)
    np.testing.assert_allclose((low[0], high[0]), by_astropy(values[0], 3.0), rtol=1e-3)


def test_limits_are_the_same_under_jax():
    import jax
    import jax.numpy as jnp

    rng = np.random.default_rng(4)
    values, valid = rng.standard_t(2, size=(5, 40)), rng.random((5, 40)) < 0.7
    with jax.enable_x64(True):
        traced = jax.jit(lambda v: clipping_limits(v, valid, 2.0))(jnp.asarray(values))
        np.testing.assert_allclose(traced, clipping_limits(values, valid, 2.0), rtol=1e-12)


def scene(background=2.0):
    """A point source on a background, with its aperture and annulus."""
    radius, inner, outer = (np.linspace(*ends, SHAPE[0]) for ends in ((2.2, 3), (4, 5), (6, 6.5)))
    aperture = circle_overlap(CENTRE, radius, SHAPE[1:])
    annulus = circle_overlap(CENTRE, outer, SHAPE[1:]) - circle_overlap(CENTRE, inner, SHAPE[1:])
    areas = (np.pi * radius**2, np.pi * (outer**2 - inner**2))
    y, x = np.indices(SHAPE[1:])
    source = np.exp(-0.5 * ((x - CENTRE[0]) ** 2 + (y - CENTRE[1]) ** 2) / 0.6**2)
    brightness = np.arange(1.0, SHAPE[0] + 1)[:, None, None]
    return source * brightness + background, aperture, annulus, areas


def test_a_source_on_a_flat_background_keeps_its_flux():
    data, aperture, annulus, areas = scene()
    one = np.ones(SHAPE)
    sums = extract_aperture(Spaxels(data, (one,), one), aperture, annulus=annulus, areas=areas)
    truth = 2 * np.pi * 0.6**2 * np.arange(1.0, SHAPE[0] + 1)
    np.testing.assert_allclose(sums.flux, truth, rtol=5e-3)
    np.testing.assert_allclose(sums.background / sums.npixels_background, 2.0, rtol=1e-6)
    np.testing.assert_allclose(sums.npixels, areas[0])
    assert not sums.empty.any()


def test_the_exact_variance_is_that_of_simulated_noise():
    _, aperture, annulus, areas = scene()
    rng = np.random.default_rng(7)
    sigma = rng.uniform(0.5, 2.0, SHAPE)
    noise = rng.normal(size=(3000, *SHAPE)) * sigma
    one = np.ones(SHAPE)
    options = {"annulus": annulus, "areas": areas}
    many = extract_aperture(Spaxels(noise, (sigma**2,), one), aperture, **options)
    one_sum = extract_aperture(Spaxels(noise[0], (sigma**2,), one), aperture, **options)
    np.testing.assert_allclose(many.flux.std(axis=0), np.sqrt(one_sum.variance_cov), rtol=0.05)


@pytest.mark.parametrize("kept", [None, "some"])
def test_the_variance_of_noise_that_is_alike_everywhere_is_exact(kept):
    # noise that is smoothed over the whole plane, of which the middle is looked at
    smooth = np.array([[0.2, 0.5, 0.1], [0.6, 1.0, 0.4], [0.0, 0.7, 0.3]])
    reach = 2
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1))
    for a, b in np.ndindex(3, 3):
        for c, d in np.ndindex(3, 3):
            kernel[c - a + reach, d - b + reach] += smooth[a, b] * smooth[c, d]
    variance, joint = kernel[reach, reach], kernel.sum() - kernel[reach, reach]
    kernel[reach, reach] = 0
    data, aperture, annulus, areas = scene()
    wide = [(0, 0), (5, 5), (5, 5)]
    aperture, annulus = np.pad(aperture, wide), np.pad(annulus, wide)
    kept = None if kept is None else np.random.default_rng(8).random(aperture.shape) < 0.8
    full = np.full(aperture.shape, 1.0)
    held = (np.pad(data, wide), (variance * full,), full, joint * full)
    kernels = np.broadcast_to(kernel / kernel.sum(), (SHAPE[0], *kernel.shape))
    found = extract_aperture(
        Spaxels(*held, kernels), aperture, annulus=annulus, kept=kept, areas=areas
    )
    clipped = annulus if kept is None else np.where(kept, annulus, 0)
    area = annulus.sum(axis=(1, 2))
    weight = aperture - (aperture.sum(axis=(1, 2)) / area)[:, None, None] * clipped
    # of the noise before it was smoothed
    before = np.zeros((SHAPE[0], aperture.shape[1] + 2, aperture.shape[2] + 2))
    for a, b in np.ndindex(3, 3):
        before[:, a : a + weight.shape[1], b : b + weight.shape[2]] += smooth[a, b] * weight
    np.testing.assert_allclose(found.variance_cov, (before**2).sum(axis=(1, 2)), rtol=1e-10)


def test_a_single_spaxel_and_all_of_them_have_the_variance_that_is_known():
    rng = np.random.default_rng(9)
    variance, joint, kernel = (rng.uniform(0.5, 2.0, s) for s in (SHAPE, SHAPE, (SHAPE[0], 3, 5)))
    kernel[:, 1, 2] = 0
    one = np.ones(SHAPE)
    spaxels = Spaxels(one, (variance,), one, joint, kernel)
    areas = (np.ones(SHAPE[0]),) * 2
    single = np.zeros(SHAPE)
    single[:, 5, 6] = 1
    found = extract_aperture(spaxels, single, areas=areas)
    np.testing.assert_allclose(found.variance_cov, variance[:, 5, 6])
    true = (variance + joint).sum(axis=(1, 2))
    np.testing.assert_allclose(extract_aperture(spaxels, one, areas=areas).variance_cov, true)
    np.testing.assert_allclose(extract_whole(spaxels, one > 0).variance_cov, true)


def test_spaxels_without_data_count_neither_as_flux_nor_as_area():
    data, aperture, annulus, areas = scene()
    valid = np.ones(SHAPE, bool)
    valid[1, :, :8] = False
    valid[2] = False
    held = valid.astype(float)
    spaxels = Spaxels(np.where(valid, data, 0.0), (held,), held)
    sums = extract_aperture(spaxels, aperture, annulus=annulus, areas=areas)
    assert sums.npixels[1] == pytest.approx(aperture[1, :, 8:].sum())
    assert sums.empty.tolist() == [False, False, True, False]
    assert sums.flux[2] == 0
    assert sums.npixels[2] == areas[0][2]


def test_an_extended_source_is_the_sum_over_the_field():
    rng = np.random.default_rng(2)
    data = rng.normal(3.0, 0.1, SHAPE)
    data[0, 3, 4] = 500.0
    valid = rng.random(SHAPE) < 0.9
    valid[0, 3, 4] = True
    kept = valid & (data < 100)
    masked = np.where(valid, data, 0.0)
    sums = extract_whole(Spaxels(masked, (masked**2,), valid.astype(float)), kept)
    np.testing.assert_allclose(sums.flux, [data[k][valid[k]].sum() for k in range(SHAPE[0])])
    np.testing.assert_allclose(sums.npixels, valid.sum(axis=(1, 2)))
    np.testing.assert_allclose(sums.background / sums.npixels_background, 3.0, rtol=0.02)

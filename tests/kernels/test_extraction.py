"""Box and optimal extraction, background fits, variances: NumPy against independent sums."""

import numpy as np
import pytest
from scipy.interpolate import RectBivariateSpline

from spec2fn.kernels.background_fit import (
    boxcar,
    boxcar_variance,
    fit_polynomial,
    invert_normal_matrix,
    median_across,
)
from spec2fn.kernels.extraction import (
    box_extract,
    common_variance,
    interpolate_correction,
    operator_variance,
    optimal_extract,
    subtracted_variance,
)

RNG = np.random.default_rng(5)
SHAPE = (3, 11, 12)


def image(bad=0.1):
    good = RNG.random(SHAPE) > bad
    data = np.where(good, RNG.normal(3.0, 1.0, SHAPE), 0.0)
    return data, good


def basis(order, n=SHAPE[-1]):
    return np.vander(np.linspace(-1, 1, n), order + 1, increasing=True)


@pytest.mark.parametrize("length", [3, 5, 31])
def test_boxcar_is_the_mean_of_good_neighbours(length):
    data, good = image(0.4)
    smooth, defined, _ = boxcar(data, good, length)
    half = length // 2
    for i in range(SHAPE[1]):
        rows = np.clip(np.arange(i - half, i + half + 1), 0, SHAPE[1] - 1)
        use, values = good[:, rows], data[:, rows]
        n = use.sum(axis=1)
        np.testing.assert_array_equal(defined[:, i], n > 0)
        expected = np.where(n > 0, (values * use).sum(axis=1) / np.maximum(n, 1), 0.0)
        np.testing.assert_allclose(smooth[:, i], expected, atol=1e-14)


@pytest.mark.parametrize("length", [3, 7, 31])
def test_boxcar_variance_squares_the_multiplicity(length):
    plane = RNG.random(SHAPE)
    n, half = SHAPE[1], length // 2
    operator = np.zeros((n, n))
    for i in range(n):
        for j in np.clip(np.arange(i - half, i + half + 1), 0, n - 1):
            operator[i, j] += 1.0
    expected = np.einsum("ij,ajx->aix", operator**2, plane)
    if half < n:  # beyond, an element is repeated at both ends of the same box
        np.testing.assert_allclose(boxcar_variance(plane, length), expected)


def test_normal_matrix_singular_becomes_zero():
    matrix = np.stack([np.diag([1.0, 2.0]), np.ones((2, 2)), np.zeros((2, 2))])
    inverse = invert_normal_matrix(matrix)
    np.testing.assert_allclose(inverse[0], np.diag([1.0, 0.5]))
    assert not inverse[1:].any()


@pytest.mark.parametrize("order", [0, 1, 3])
def test_polynomial_fit_equals_lstsq(order):
    data, good = image(0.2)
    aperture = RNG.random(SHAPE)
    terms = basis(order)
    background, (weights,) = fit_polynomial(data, good, terms, (aperture,))
    for k in np.ndindex(SHAPE[:2]):
        use = good[k]
        coefficients = np.linalg.lstsq(terms[use], data[k][use], rcond=None)[0]
        np.testing.assert_allclose(background[k], terms @ coefficients, atol=1e-10)
    np.testing.assert_allclose((weights * data).sum(-1), (aperture * background).sum(-1))


def test_median_even_odd_and_empty():
    data = np.array([[1.0, 9.0, 2.0, 7.0], [3.0, 1.0, 2.0, 100.0], [1.0, 2.0, 3.0, 4.0]])
    used = np.array([[True] * 4, [True, True, True, False], [False] * 4])
    median, defined = median_across(data, used)
    np.testing.assert_array_equal(median[:, 0], [4.5, 2.0, 0.0])
    np.testing.assert_array_equal(defined[:, 0], [True, True, False])


def test_box_sum_without_background():
    data, good = image()
    weights = RNG.random(SHAPE[1:])
    out = box_extract(data, good, weights, scene=True)
    np.testing.assert_allclose(out.flux, (data * weights * good).sum(-1))
    np.testing.assert_allclose(out.npixels, (weights * good).sum(-1))
    np.testing.assert_allclose(out.scene.sum(-1), out.flux)
    assert not out.background.any()


@pytest.mark.parametrize("length", [0, 5])
@pytest.mark.parametrize("order", [0, 2])
def test_box_operator_is_the_derivative(order, length):
    """The variance is that of the linear operator, smoothing and overlap included."""
    data, good = image(0.05)
    weights = np.zeros(SHAPE[1:])
    weights[:, 4:8] = 0.9
    region = np.zeros(SHAPE[1:], bool)
    region[:, :6] = region[:, 9:] = True  # overlaps the aperture
    options = {"basis": basis(order), "smoothing_length": length}
    out = box_extract(data, good, weights, region, **options)
    variance = np.where(good, RNG.random(SHAPE), 0.0)
    expected = np.zeros(SHAPE[:2])
    for index in np.ndindex(SHAPE[1:]):
        unit = np.zeros(SHAPE)
        unit[:, *index] = good[:, *index]
        column = box_extract(unit, good, weights, region, **options).flux
        expected += column**2 * variance[:, *index][:, None]
    np.testing.assert_allclose(
        subtracted_variance(out.weights, out.fitted, good, variance), expected
    )


def test_a_common_error_does_not_average_out():
    data, good = image(0.0)
    weights = np.zeros(SHAPE[1:])
    weights[:, 4:8] = 1.0
    error = RNG.uniform(0.5, 1.0, SHAPE)
    own = RNG.uniform(1.0, 2.0, SHAPE)
    total = subtracted_variance(weights, None, good, own + error**2)
    total = total + common_variance(weights, None, error)
    n = SHAPE[-1]
    for k, j in np.ndindex(SHAPE[:2]):
        full = np.diag(own[k, j]) + np.outer(error[k, j], error[k, j])
        assert total[k, j] == pytest.approx(weights[j] @ full @ weights[j])
    # what a fitted background takes away does not count
    region = np.ones(SHAPE[1:], bool)
    out = box_extract(data, good, weights, region, basis=basis(0))
    same = np.ones((*SHAPE[:2], n))
    left = common_variance(out.weights, out.fitted, same)
    np.testing.assert_allclose(left, 0.0, atol=1e-12)


@pytest.mark.parametrize("length", [0, 3])
def test_covariance_across_the_trace(length):
    data, good = image(0.0)
    weights = np.zeros(SHAPE[1:])
    weights[:, 4:8] = 1.0
    region = np.ones(SHAPE[1:], bool)
    options = {"basis": basis(1), "smoothing_length": length}
    out = box_extract(data, good, weights, region, **options)
    n = SHAPE[-1]
    mix = np.eye(n) + 0.5 * np.eye(n, k=1) + 0.2 * np.eye(n, k=-1)
    full = mix @ mix.T  # the same for every dispersion element
    variance = np.broadcast_to(np.diag(full), SHAPE)
    lags = [np.broadcast_to(np.pad(np.diag(full, k), (0, k)), SHAPE).copy() for k in (1, 2)]
    lags[0][..., -1] = np.nan  # there is no next pixel
    found = subtracted_variance(out.weights, out.fitted, good, variance, lags)
    operator = np.zeros((SHAPE[1], SHAPE[1], n))
    for i, j in np.ndindex(SHAPE[1:]):
        unit = np.zeros(SHAPE)
        unit[:, i, j] = 1.0
        operator[:, i, j] = box_extract(unit, good, weights, region, **options).flux[0]
    expected = np.einsum("rij,jk,rik->r", operator, full, operator)
    np.testing.assert_allclose(found, np.broadcast_to(expected, SHAPE[:2]))
    plain = operator_variance(weights, variance, lags)
    np.testing.assert_allclose(
        plain, np.einsum("rj,jk,rk->r", weights, full, weights)[None].repeat(3, 0)
    )


def test_median_background_ignores_an_outlier():
    good = np.ones(SHAPE, bool)
    data = np.full(SHAPE, 2.0)
    data[:, :, 5] += 10.0
    data[:, 3, 0] = 1e6
    weights = np.zeros(SHAPE[1:])
    weights[:, 5] = 1.0
    region = np.zeros(SHAPE[1:], bool)
    region[:, :3] = region[:, 9:] = True
    out = box_extract(data, good, weights, region)
    np.testing.assert_allclose(out.flux, 10.0)
    np.testing.assert_allclose(out.background, 2.0)


def test_element_without_background_pixels_is_lost_by_the_median():
    data, good = image(0.0)
    good[0, 4, :3] = False
    weights = np.zeros(SHAPE[1:])
    weights[:, 5:8] = 1.0
    region = np.zeros(SHAPE[1:], bool)
    region[:, :3] = True
    out = box_extract(data, good, weights, region)
    assert out.npixels[0, 4] == 0
    assert out.flux[0, 4] == 0
    assert np.isfinite(out.flux).all()


@pytest.mark.parametrize("order", [None, 0, 2])
def test_optimal_fit_recovers_amplitudes(order):
    x = np.arange(SHAPE[-1])
    profile = np.exp(-0.5 * ((x - 4.3) / 1.2) ** 2)[None].repeat(SHAPE[1], 0)
    nod = -np.exp(-0.5 * ((x - 9.0) / 1.2) ** 2)[None].repeat(SHAPE[1], 0)
    amplitude, negative = RNG.random(SHAPE[:2]) + 1.0, RNG.random(SHAPE[:2])
    data = amplitude[..., None] * profile + negative[..., None] * nod
    terms = None
    if order is not None:
        terms = basis(order)
        data = data + RNG.normal(size=(*SHAPE[:2], order + 1)) @ terms.T
    good = RNG.random(SHAPE) > 0.1
    out = optimal_extract(np.where(good, data, 0.0), good, [profile, nod], terms)
    np.testing.assert_allclose(out.flux, amplitude)
    np.testing.assert_allclose(out.scene, data)
    np.testing.assert_allclose((out.weights * np.where(good, data, 0.0)).sum(-1), amplitude)


def test_correction_is_bilinear_and_constant_beyond():
    sizes = np.array([2.0, 3.0, 5.0, 8.0])
    waves = np.linspace(5.0, 12.0, SHAPE[1])
    table = RNG.random((SHAPE[1], 4)) + 1.0
    npixels = RNG.uniform(0.0, 11.0, SHAPE[:2])
    all_sizes = np.broadcast_to(sizes, table.shape)
    spline = RectBivariateSpline(sizes, waves, table.T, kx=1, ky=1)
    expected = spline(npixels, np.broadcast_to(waves, npixels.shape), grid=False)
    np.testing.assert_allclose(interpolate_correction(npixels, all_sizes, table), expected)
    single = interpolate_correction(npixels, all_sizes[:, :1], table[:, :1])
    np.testing.assert_array_equal(single, np.broadcast_to(table[:, 0], SHAPE[:2]))

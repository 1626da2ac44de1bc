"""Short polynomials along slits."""

import numpy as np

from spec2fn.wcs.assign.nirspec_series import fit_series

LOW = np.array([[-0.5, 1.0], [-2.0, 3.0], [0.5, 1.0]])
HIGH = np.array([[0.5, 2.0], [3.0, 5.0], [0.7, 1.5]])


def smooth(slit, first, second):
    return first**4 * second**2 + slit - 2 * second, np.sin(0.1 * first) * (1 + 0 * second)


def test_polynomials_are_exact_and_others_nearly_so():
    series = fit_series(smooth, LOW, HIGH, (8, 3), 1e-9)
    rng = np.random.default_rng(3)
    slit = np.arange(3)[:, None]
    share = rng.uniform(size=(2, 3, 40))
    first, second = (LOW[:, k, None] + share[k] * (HIGH - LOW)[:, k, None] for k in (0, 1))
    found = series(slit, first, second)
    for a, b in zip(found, smooth(slit, first, second), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)
    # any order of slits, any shape
    again = series(np.array([2, 0]), first[[2, 0], 3], second[[2, 0], 3])
    np.testing.assert_array_equal(again[0], found[0][[2, 0], 3])


def test_a_variable_that_does_not_matter():
    series = fit_series(lambda _, y, __: (y**3,), LOW, HIGH, (4, 1), 1e-12)
    np.testing.assert_allclose(series(np.array([1]), np.array([2.5]))[0], [2.5**3], rtol=1e-13)


def test_what_is_not_smooth_is_refused():
    assert fit_series(lambda _, y, __: (np.abs(y),), LOW, HIGH, (6, 1), 1e-6) is None
    assert fit_series(lambda _, y, __: (y * np.nan,), LOW, HIGH, (6, 1), 1e-6) is None


def test_nan_stays_nan():
    series = fit_series(smooth, LOW, HIGH, (8, 3), 1e-9)
    assert np.isnan(series(np.array([0]), np.array([np.nan]), np.array([1.5]))[0]).all()

"""Scaling of an image to data, outliers left aside."""

import numpy as np
import pytest

from spec2fn.host.image_scaling import scale_to_fit


def field(rng, shape=(40, 50), factor=0.7):
    image = (1 + 0.1 * rng.standard_normal(shape)).astype("f4")
    error = rng.uniform(0.01, 0.03, shape).astype("f4")
    data = (factor * image + error * rng.standard_normal(shape)).astype("f4")
    return data, error, image


def literally(data, error, image, usable, percent, rounds, stop=0.0, axis=0):
    """The algorithm with NaN for what does not count, in double precision."""
    data, error, image = (np.where(usable, a, np.nan).astype("f8") for a in (data, error, image))
    last, count = np.inf, 0
    while count < rounds:
        with np.errstate(all="ignore"):
            factor = np.nansum(data * image / error**2) / np.nansum(image**2 / error**2)
        residual = data - factor * image
        if stop > 0:
            spread = np.sqrt(np.nanmean(np.nanmedian(residual, axis=axis) ** 2))
            if np.isfinite(last) and (last - spread) / last < stop:
                break
            last = spread
        count += 1
        low, high = np.nanpercentile(residual, (percent, 100 - percent))
        out = (residual < low) | (residual > high)
        for plane in (data, error, image):
            plane[out] = np.nan
    return np.nansum(data * image / error**2) / np.nansum(image**2 / error**2), count


@pytest.mark.parametrize("percent", [0.5, 1.0, 20.0])
@pytest.mark.parametrize("rounds", [0, 1, 5])
def test_the_factor_is_that_of_the_pixels_that_are_left(percent, rounds):
    rng = np.random.default_rng(1)
    data, error, image = field(rng)
    usable = rng.random(data.shape) < 0.7
    data[usable & (rng.random(data.shape) < 0.02)] += 5
    wanted, count = literally(data, error, image, usable, percent, rounds)
    found = scale_to_fit(data, error, image, usable, percent=percent, max_iterations=rounds)
    assert found.factor == pytest.approx(wanted, rel=1e-7)
    assert found.iterations == count == rounds


@pytest.mark.parametrize("axis", [0, 1])
def test_it_stops_when_the_profile_does_not_change(axis):
    data, error, image = field(np.random.default_rng(2))
    data[5] += 1
    usable = np.ones(data.shape, bool)
    wanted, count = literally(data, error, image, usable, 1.0, 20, stop=0.02, axis=axis)
    how = {"percent": 1.0, "max_iterations": 20, "least_change": 0.02, "profile_axis": axis}
    found = scale_to_fit(data, error, image, usable, **how)
    assert found.iterations == count < 20
    assert found.factor == pytest.approx(wanted, rel=1e-6)


def test_the_truth_is_found_beside_outliers():
    rng = np.random.default_rng(3)
    data, error, image = field(rng, (200, 200))
    data[rng.random(data.shape) < 0.03] += 3
    found = scale_to_fit(data, error, image, np.ones(data.shape, bool), percent=1.0)
    assert found.factor == pytest.approx(0.7, rel=1e-3)


def test_what_has_no_value_or_no_error_does_not_count():
    data, error, image = field(np.random.default_rng(4))
    usable = np.ones(data.shape, bool)
    usable[:4] = False
    wanted = scale_to_fit(data, error, image, usable).factor
    usable[:] = True
    data[0], error[1], image[2], error[3] = np.nan, 0.0, np.nan, np.nan
    found = scale_to_fit(data, error, image, usable)
    assert found.factor == wanted
    assert found.pixels < 36 * 50


def test_the_factor_scales_with_the_data():
    data, error, image = field(np.random.default_rng(5))
    usable = np.ones(data.shape, bool)
    one = scale_to_fit(data, error, image, usable).factor
    assert scale_to_fit(8 * data, 8 * error, image, usable).factor == pytest.approx(8 * one)
    assert scale_to_fit(data, error, 4 * image, usable).factor == pytest.approx(one / 4)


def test_without_pixels_there_is_no_factor():
    data, error, image = field(np.random.default_rng(6))
    found = scale_to_fit(data, error, image, np.zeros(data.shape, bool))
    assert np.isnan(found.factor)
    assert found.pixels == 0

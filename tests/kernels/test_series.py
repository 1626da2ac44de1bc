"""What single integrations lack, and the background of columns, against SciPy and astropy."""

import warnings

import jax
import numpy as np
import pytest
from astropy.stats import SigmaClip
from scipy.ndimage import median_filter

from spec2fn.kernels.column_background import column_background
from spec2fn.kernels.series import from_neighbours


@pytest.mark.parametrize("count", [1, 2, 4, 7, 14])
def test_missing_values_are_running_medians(count):
    rng = np.random.default_rng(count)
    images = rng.normal(size=(count, 6, 5)).astype(np.float32)
    images[rng.random(images.shape) < 0.2] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        typical = np.nan_to_num(np.nanmedian(images, axis=0))
    filled = np.where(np.isfinite(images), images, typical)
    smooth = median_filter(filled, (min(count, 5), 1, 1))
    expected = np.where(np.isfinite(images), images, smooth)
    np.testing.assert_array_equal(from_neighbours(images, typical, 5), expected)
    traced = jax.jit(lambda a, b: from_neighbours(a, b, 5))(images, typical)
    np.testing.assert_array_equal(traced, expected)


def test_nothing_is_copied_where_nothing_is_missing():
    images = np.ones((3, 4, 4))
    assert from_neighbours(images, images[0], 5) is images


def test_background_of_columns_is_that_of_sigma_clipping():
    rng = np.random.default_rng(5)
    image = rng.normal(2.0, 1.0, (64, 30)) + np.linspace(0, 1, 30)
    image[20:30] += 100.0
    image[5, ::3] += 12.0
    image[3, 3] = np.nan
    masked = rng.random(image.shape) < 0.1
    limit = np.nanpercentile(image, 75)
    hidden = masked | (image > limit) | ~np.isfinite(image)
    clip = SigmaClip(sigma=3, maxiters=None, cenfunc="mean")
    expected = clip(np.ma.array(image, mask=hidden), axis=0).mean(axis=0)
    found = column_background(image, masked, 0.25)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    np.testing.assert_allclose(
        jax.jit(column_background, static_argnums=2)(image, masked, 0.25), expected, rtol=1e-12
    )
    assert column_background(image, np.ones_like(masked), 0.25).tolist() == [0.0] * 30

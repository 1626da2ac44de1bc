"""Search for residual bad pixels."""

import numpy as np
import pytest
import xarray as xr

from spec2fn.errors import DatasetError
from spec2fn.plans.background.selfcal import find_bad_pixels, minimum_image


def exposure(sci, **attrs):
    sci = np.asarray(sci, dtype=np.float32)
    return xr.Dataset({"sci": (("integration", "y", "x")[-sci.ndim :], sci)}, attrs=attrs)


def test_minimum_over_exposures_ignores_nan_and_moving_sources():
    a, b = np.full((6, 7), 10.0), np.full((6, 7), 11.0)
    a[2, 2], b[3, 3] = 500.0, 500.0
    a[4, 4] = b[5, 5] = np.nan
    a[1, 1] = b[1, 1] = 70.0
    image = minimum_image([exposure(a), exposure(b)])
    assert image.dtype == np.float32
    assert image[2, 2] == image[4, 4] == 11.0
    assert image[3, 3] == image[5, 5] == 10.0
    assert image[1, 1] == 70.0


@pytest.mark.parametrize("n", [3, 4, 40])
def test_integrations_count_through_their_median(n):
    rng = np.random.default_rng(n)
    cube = rng.normal(size=(n, 12, 9)).astype(np.float32)
    cube[rng.random(cube.shape) < 0.1] = np.nan
    cube[0, 0, 0] = np.inf
    cube[:, 5, 5] = np.nan
    finite = np.where(np.isfinite(cube), cube, np.nan)
    expected = np.ma.median(np.ma.masked_invalid(finite), axis=0).filled(np.nan)
    np.testing.assert_allclose(minimum_image([exposure(cube)]), expected, rtol=1e-6)


def test_pedestal_between_the_mrs_channels_is_removed():
    image = np.zeros((1024, 1032))
    image[:, 503:516] = 4.0
    low = minimum_image([exposure(image + 3, detector="MIRIFUSHORT"), exposure(image + 1)])
    np.testing.assert_array_equal(low, (image - 4).astype(np.float32))


def test_exposures_of_other_sizes_are_refused():
    with pytest.raises(DatasetError, match=r"\(3, 4\) but the science exposure is \(3, 5\)"):
        minimum_image([exposure(np.zeros((3, 5))), exposure(np.zeros((3, 4)))])


@pytest.mark.parametrize("dispaxis", [1, 2, None])
def test_hot_and_cold_pixels_are_found_among_the_most_deviant(dispaxis):
    rng = np.random.default_rng(1)
    image = rng.normal(size=(60, 50)).astype(np.float32)
    image[20, 30], image[40, 10] = 50.0, -40.0
    image[30, 30] = np.nan
    bad = find_bad_pixels(image, dispaxis, 5, 0.002, 0.002).bad
    assert bad[20, 30]
    assert bad[40, 10]
    assert not bad[30, 30]
    assert bad.sum() == pytest.approx(2 * 0.002 * image.size, abs=2)


def test_a_spectral_trace_is_not_mistaken_for_bad_pixels():
    rng = np.random.default_rng(2)
    image = rng.normal(size=(60, 50)).astype(np.float32) + 100
    image[:, 25] += 50.0
    image[33, 7] = 130.0
    along = find_bad_pixels(image, 2, 15, 0.0, 1 / image.size).bad
    across = find_bad_pixels(image, 1, 15, 0.0, 1 / image.size).bad
    assert along[33, 7]
    assert not along[10:50, 25].any()
    assert across[:, 25].any()


def test_nothing_is_flagged_without_data_or_contrast():
    assert not find_bad_pixels(np.full((8, 9), np.nan), 2).bad.any()
    assert not find_bad_pixels(np.zeros((8, 9)), 2).bad.any()

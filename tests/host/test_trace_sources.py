"""Which parts of a slit a trace model describes."""

import numpy as np
import pytest
from scipy.stats import sigmaclip

from spec2fn.host.trace_sources import (
    clipped_moments,
    column_scales,
    compact_pixels,
    cross_profile,
    steep_positions,
    trimmed,
)

RNG = np.random.default_rng(5)
Y, X = np.mgrid[:20, :60].astype(float)
ALONG = (Y - 10) * 0.1
PROFILE = np.exp(-0.5 * ((ALONG - 0.2) / 0.1) ** 2)


def test_moments_after_clipping():
    values = np.concatenate([RNG.normal(3, 1, (500, 2)), [[900, np.nan], [-900, np.inf]]])
    mean, rms = clipped_moments(values)
    assert mean == pytest.approx([3, 3], abs=0.15)
    assert rms == pytest.approx([1, 1], abs=0.1)
    assert np.isnan(clipped_moments(np.full((4, 1), np.nan))).all()
    assert sigmaclip(values[:500, 0], 3, 3).clipped.mean() == pytest.approx(mean[0], abs=0.02)


def test_profile_is_the_median_along_the_dispersion():
    flux = 100 * PROFILE + RNG.normal(0, 1, PROFILE.shape)
    flux[3, 7] = 1e6
    profile = cross_profile(flux, np.ones_like(flux), ALONG)
    assert np.diff(profile.along) == pytest.approx(0.05)
    brightest = profile.along[np.nanargmax(profile.flux)]
    assert brightest == pytest.approx(0.2, abs=0.03)
    assert np.nanmax(profile.flux) == pytest.approx(100, rel=0.02)
    np.testing.assert_allclose(profile.snr, profile.flux)
    assert profile.exceeds(90, None)
    assert not profile.exceeds(110, None)
    assert profile.exceeds(None, 90)
    assert not profile.exceeds(None, 110)
    assert profile.exceeds(None, None)
    assert cross_profile(flux * np.nan, np.ones_like(flux), ALONG) is None


def test_noisy_ends_are_left_out():
    error = np.ones_like(PROFILE)
    error[0] = error[-2] = 200
    flux = 100 * PROFILE
    kept = trimmed(flux, ALONG, cross_profile(flux, error, ALONG))
    assert np.isnan(kept[0]).all()
    assert np.isnan(kept[-1]).all()
    np.testing.assert_array_equal(kept[1:-2], flux[1:-2])
    same = trimmed(flux, ALONG, cross_profile(flux, np.ones_like(flux), ALONG))
    np.testing.assert_array_equal(same, flux)


def test_scale_is_that_of_the_pixels_that_agree():
    flux = PROFILE * (5 + X)
    flux[15, 4] *= 30  # in the wing
    flux[12, 30] = np.nan
    scale, weight = column_scales(flux, np.where(Y > 1, PROFILE, np.nan), robust=True)
    assert scale == pytest.approx(5 + X[0])
    assert np.nansum(weight * np.nan_to_num(flux), axis=0) == pytest.approx(scale)
    assert weight[15, 4] == weight[12, 30] == 0
    assert (weight[:2] == 0).all()


def test_a_hot_pixel_in_the_core_has_no_part_in_the_scale():
    true = 5 + X[0]
    noise = RNG.normal(0, 0.05, PROFILE.shape)
    clean = PROFILE * true + noise
    flux = clean.copy()
    flux[11:14, 10::20] += [[300.0, 0, 0], [0, 3000, 0], [0, 0, -30]]
    robust, weight = column_scales(flux, PROFILE, robust=True)
    assert robust == pytest.approx(true, abs=0.2)
    assert (weight[flux != clean] == 0).all()
    mean, _ = column_scales(flux, PROFILE, robust=False)
    assert (mean[[10, 30]] > 5 * true[[10, 30]]).all()
    # where there is nothing to be left out, both are the same
    same = np.delete(np.arange(60), [10, 30, 50])
    np.testing.assert_array_equal(robust[same], mean[same])


def test_a_column_without_signal_has_no_scale():
    scale, weight = column_scales(-PROFILE, PROFILE, robust=True)
    assert (scale == 0).all()
    assert (weight == 0).all()


def test_compact_sources_are_where_the_profile_is_steep():
    steep = steep_positions(PROFILE, ALONG, 0.3, (2, 1))
    assert steep.size > 50
    assert np.abs(np.abs(steep - 0.2) - 0.1).max() < 0.11
    there = compact_pixels(ALONG, steep, 0.1, 40, 2)
    assert there[9:15].all()
    assert not there[:5].any()
    assert not there[18:].any()
    assert not compact_pixels(ALONG, steep[:49], 0.1, 40, 2).any()
    flat = np.ones_like(PROFILE)
    assert not steep_positions(flat, ALONG, 0.3, (1, 1)).size


def test_ends_of_a_profile_are_not_steep():
    model = np.where((Y > 4) & (Y < 9), 1.0, np.nan)
    assert not steep_positions(model, ALONG, 0.1, (1, 1)).size
    assert steep_positions(model, ALONG, 0.1, (0, 0)).size == X.shape[1]

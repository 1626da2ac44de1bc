"""Apertures, aperture corrections and source positions on the host."""

import numpy as np
import pytest
import xarray as xr

from spec2fn.plans.extraction.aperture import (
    Aperture,
    aperture_weights,
    bounding_slices,
    center_at,
    mean_wavelength,
    weighted_center,
)
from spec2fn.plans.extraction.source_location import ImageGeometry, Middle
from spec2fn.wcs.evaluate import size_of_pixel
from spec2fn.wcs.spectrum import spectral_wcs

SHAPE = (10, 14)
FULL = {"xstart": 0, "xstop": 13, "ystart": 0, "ystop": 9}
WAVES = np.broadcast_to(np.linspace(5.0, 14.0, 10)[:, None], SHAPE)


def covered(lower, upper, n):
    """Fraction of each pixel between inclusive limits, edges included."""
    pixels = np.arange(n)
    low, high = np.maximum(pixels - 0.5, lower - 0.5), np.minimum(pixels + 0.5, upper + 0.5)
    return np.clip(high - low, 0.0, 1.0)


@pytest.mark.parametrize(("lower", "upper"), [(3, 6), (2.25, 7.5), (-3.0, 4.4), (9.5, 20.0)])
def test_weights_are_the_covered_fraction(lower, upper):
    aperture = Aperture(**{**FULL, "xstart": lower, "xstop": upper}, dispaxis=2)
    weights, low, high = aperture_weights(aperture, WAVES)
    np.testing.assert_allclose(weights, np.tile(covered(lower, upper, 14), (10, 1)))
    assert (low, high) == (lower, upper)


def test_aperture_off_the_image_is_empty():
    aperture = Aperture(**{**FULL, "xstart": 40, "xstop": 45}, dispaxis=2)
    assert not aperture_weights(aperture, WAVES)[0].any()


def test_trace_moves_the_width():
    trace = np.linspace(4.0, 6.0, 10)
    trace[0] = np.nan
    aperture = Aperture(**FULL, dispaxis=2, extract_width=3, trace=trace)
    weights, low, high = aperture_weights(aperture, WAVES)
    assert not weights[0].any()
    for row in range(1, 10):
        np.testing.assert_allclose(weights[row], covered(trace[row] - 1, trace[row] + 1, 14))
        assert weights[row].sum() == pytest.approx(3.0)
        assert center_at(weights, 2, row) == pytest.approx(trace[row], abs=1e-9)
    assert high - low == pytest.approx(2.0)


def test_limits_along_the_dispersion_are_whole_pixels():
    aperture = Aperture(**{**FULL, "ystart": 1.2, "ystop": 7.8}, dispaxis=2)
    weights = aperture_weights(aperture, WAVES)[0]
    np.testing.assert_array_equal(np.flatnonzero(weights[:, 0]), np.arange(2, 8))


def test_median_regions_hold_whole_pixels_only():
    edges = ((2.2,), (6.1,))
    aperture = Aperture(**FULL, dispaxis=2, bkg_coeff=edges, bkg_fit="median")
    whole = aperture_weights(aperture, WAVES, background=True)[0]
    assert set(np.unique(whole)) == {0.0, 1.0}
    aperture = Aperture(**FULL, dispaxis=2, bkg_coeff=edges, bkg_fit="poly")
    part = aperture_weights(aperture, WAVES, background=True)[0]
    assert (part > 0).sum() > (whole > 0).sum()


def test_overlapping_regions_keep_the_larger_weight():
    edges = ((1.5,), (5.8,), (5.0,), (8.5,))
    aperture = Aperture(**FULL, dispaxis=2, src_coeff=edges)
    weights, low, high = aperture_weights(aperture, WAVES)
    expected = np.maximum(covered(2.0, 5.3, 14), covered(5.5, 8.0, 14))
    np.testing.assert_allclose(weights[3], expected)
    assert (low, high) == (2.0, 8.0)


def test_shift_moves_everything_and_leaves_the_original():
    before = Aperture(**FULL, dispaxis=2, src_coeff=((1.0, 0.5), (4.0,)), trace=np.full(10, 3.0))
    after = before.shifted(2.0)
    assert after.src_coeff == ((3.0, 0.5), (6.0,))
    assert (after.xstart, after.xstop, after.ystart) == (2.0, 15.0, 0)
    np.testing.assert_array_equal(after.trace, 5.0)
    np.testing.assert_array_equal(before.trace, 3.0)
    assert before.src_coeff == ((1.0, 0.5), (4.0,))
    turned = Aperture(**FULL, dispaxis=1).shifted(1.0)
    assert (turned.ystart, turned.xstart) == (1.0, 0)


def test_centres_and_means():
    weights = np.zeros(SHAPE)
    weights[2:5, 6] = [1.0, 2.0, 1.0]
    assert weighted_center(weights) == (3.0, 6.0)
    assert weighted_center(-weights) == (4.5, 6.5)
    tilted = WAVES + 0.1 * np.arange(14)
    tilted = np.where(np.arange(10)[:, None] == 3, np.nan, tilted)
    mean = mean_wavelength(
        np.where(np.arange(14) < 4, [1.0, 1.0, 2.0, 0.0] + [0.0] * 10, 0.0) * np.ones(SHAPE),
        tilted,
        2,
    )
    np.testing.assert_allclose(mean[4], WAVES[4, 0] + 0.1 * (0 + 1 + 2 * 2) / 4)
    assert np.isnan(mean[3])
    assert bounding_slices([weights > 0]) == (2, 5, 6, 7)
    assert bounding_slices([weights < 0]) == (0, 1, 0, 1)


class Sky:
    """Rotated pixels on the equator; wavelength along y, tilted by `tilt` along x."""

    bounding_box = ((1.5, 12.5), (0.5, 8.5))

    def __init__(self, tilt=0.0, noise=0.0):
        self.tilt, self.noise = tilt, noise

    def __call__(self, x, y, with_bounding_box=True):
        x, y = np.broadcast_arrays(np.asarray(x, float), np.asarray(y, float))
        waves = 5.0 + y + self.tilt * x + self.noise * np.cos(37.0 * x)
        outside = (x < 1.5) | (x > 12.5)
        return 1e-4 * (x + 0.02 * y), 0.0 * x, np.where(outside & with_bounding_box, np.nan, waves)

    def backward_transform(self, ra, dec, wavelength):
        y = (np.asarray(wavelength) - 5.0 - self.tilt * 7.0) / (1.0 - 0.02 * self.tilt)
        return np.asarray(ra) / 1e-4 - 0.02 * y, y

    def invert(self, ra, dec, wavelength, with_bounding_box=True):
        return self.backward_transform(ra, dec, wavelength)


def located(sky, dispaxis=2):
    ds = xr.Dataset(attrs={"exp_type": "MIR_LRS-SLITLESS"})
    return ImageGeometry(sky, sky.bounding_box, SHAPE, None, dispaxis, ds)


def test_middle_of_straight_lines_is_not_found_in_rounding_errors():
    middle = located(Sky(noise=1e-15)).middle()
    assert middle.along == 4.5
    assert middle.across == pytest.approx(6.5)  # of the columns 2 … 11 that have a wavelength
    tilted = located(Sky(tilt=0.05)).middle()
    assert tilted.across == pytest.approx(6.5)
    assert tilted.wavelength == pytest.approx(5.0 + 4.5 + 0.05 * 6.5)


def test_traces():
    trace = located(Sky()).trace((7e-4, 0.0))
    assert np.isnan(trace[[0, 9]]).all()
    np.testing.assert_allclose(np.diff(trace[1:9]), -0.02, atol=1e-12)
    # without a slit in which the middle had a position
    flat = located(Sky(), 1).middle_trace(Middle(7.0, 3.5, 8.0))
    assert np.isnan(flat[:2]).all()
    assert set(flat[2:13]) == {3.5}


def test_pixel_scale_across_the_trace():
    scale = size_of_pixel(Sky(), (6.94, 3.0), 2)
    assert scale == pytest.approx(1e-4 * 3600.0, rel=1e-9)


@pytest.mark.parametrize("waves", [np.array([5.0, 6.0, 8.0]), np.array([9.0, 6.0, 5.0])])
def test_wcs_of_a_spectrum(waves):
    wcs = spectral_wcs(10.0, -5.0, waves)
    ra, dec, wavelength = wcs(np.arange(3.0))
    np.testing.assert_array_equal(wavelength, waves)
    np.testing.assert_array_equal([ra, dec], [[10.0] * 3, [-5.0] * 3])
    assert wcs(0.5)[2] == pytest.approx(waves[:2].mean())
    np.testing.assert_allclose(wcs.invert(10.0, -5.0, waves[1]), 1.0)
    uneven = spectral_wcs(10.0, -5.0, np.array([5.0, 7.0, 6.0]))
    with pytest.raises(NotImplementedError):
        uneven.invert(10.0, -5.0, 6.0)

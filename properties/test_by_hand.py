"""Medians, clipped means and percentiles, against loops that take one element after the other."""

import numpy as np
from hypothesis import assume, example, given
from hypothesis import strategies as st

from spec2fn.kernels.background_fit import median_across
from spec2fn.kernels.column_background import column_background
from spec2fn.kernels.cube_extraction import clipping_limits
from spec2fn.kernels.interpolation_linear import bridge_rows
from spec2fn.kernels.series import from_neighbours
from spec2fn.kernels.statistics import clip_bounds, masked_median, running_median
from spec2fn.kernels.straylight import clipped, within_percentiles
from spec2fn.plans.background.selfcal import find_bad_pixels
from spec2fn.testing.strategies import integers, masks, planes

SIGMAS = st.sampled_from([1.0, 1.5, 2.0, 3.0])
ROUNDS = st.sampled_from([1, 2, 5])


def median(values):
    """The middle value, or the mean of the two in the middle."""
    ordered = sorted(values)
    n = len(ordered)
    return (ordered[(n - 1) // 2] + ordered[n // 2]) / 2


def without_infinities(image):
    return np.where(np.isinf(image), np.nan, image)


@given(st.data(), st.integers(1, 6))
def test_the_median_of_what_is_masked_in(data, n):
    shape = (n, 2, 3)
    stack, mask = data.draw(planes(shape)), data.draw(masks(shape))
    mask &= np.isfinite(stack)
    found, some = masked_median(list(stack), list(mask))
    for at in np.ndindex(shape[1:]):
        values = stack[:, *at][mask[:, *at]]
        assert some[at] == (values.size > 0)
        assert found[at] == (median(values) if values.size else 0.0)


@given(planes((5, 4), dtype=np.float64).map(without_infinities), integers((2,), 1, 4))
def test_the_running_median(image, size):
    ky, kx = map(int, size)
    for block in (5, 1 << 16):
        found = running_median(image, (ky, kx), block)
        for y, x in np.ndindex(image.shape):
            window = [
                image[j, i] if 0 <= j < 5 and 0 <= i < 4 else 0.0
                for j in range(y - ky // 2, y - ky // 2 + ky)
                for i in range(x - kx // 2, x - kx // 2 + kx)
            ]
            window = [v for v in window if not np.isnan(v)]
            expected = median(window) if window else np.nan
            np.testing.assert_equal(found[y, x], expected)


@given(planes((3, 6), finite=True, dtype=np.float64), masks((3, 6)))
def test_the_median_across_a_trace(data, used):
    found, some = median_across(data, used)
    for row in range(3):
        values = data[row][used[row]]
        assert some[row, 0] == (values.size > 0)
        assert found[row, 0] == (median(values) if values.size else 0.0)


def survivors(values, sigma, rounds, *, centre=median, returning=False):
    """Which values are left after clipping.

    With `returning`, all those inside the last limits: also values that an earlier round had left
    out, as `astropy.stats.sigma_clip` has it. Examples in which rounding decides are rejected.
    """
    kept = within = np.ones(len(values), bool)
    for _ in range(rounds):
        inside = values[kept]
        if not inside.size:
            break
        middle, reach = centre(inside), sigma * inside.std()
        away = np.abs(values - middle)
        assume(not np.any(np.abs(away - reach)[away != 0] <= 1e-9 * reach))
        within = away <= reach
        if not np.any(kept & ~within):
            break
        kept = kept & within
    return within if returning else kept


@example(np.array([[-7.0, 8, -7, 0, 4, 11, -8]]).T * [1, 0, 0], 1.0, 2)
@given(planes((7, 3), dtype=np.float64), SIGMAS, st.sampled_from([1, 2, 5, None]))
def test_bounds_keep_what_a_loop_keeps(values, sigma, rounds):
    for block in (7, 1 << 18):
        low, high = clip_bounds(values, sigma, rounds, block)
        for lane in range(3):
            column = values[:, lane]
            finite = np.isfinite(column)
            most = 100 if rounds is None else rounds
            kept = survivors(column[finite], sigma, most, returning=True)
            with np.errstate(invalid="ignore"):
                ours = (column >= low[lane]) & (column <= high[lane])
            np.testing.assert_array_equal(ours[finite], kept)


@given(planes((2, 8), finite=True, dtype=np.float64), SIGMAS, ROUNDS)
def test_clipped_moments(values, sigma, rounds):
    mean, middle, deviation = clipped(values, sigma, rounds)
    for i, row in enumerate(values):
        left = row[survivors(row, sigma, rounds)]
        size = np.abs(row).max()
        np.testing.assert_allclose(mean[i], left.mean() if left.size else 0.0, atol=1e-12 * size)
        if left.size:
            assert middle[i] == median(left)
        np.testing.assert_allclose(deviation[i], left.std() if left.size else 0.0, atol=1e-7 * size)


@given(planes((2, 7), finite=True, dtype=np.float64), masks((2, 7)), st.sampled_from([2.0, 3.0]))
def test_limits_of_planes(values, valid, sigma):
    rounds = 5
    low, high = clipping_limits(values, valid, sigma, rounds)
    for i in range(2):
        row = values[i][valid[i]]
        if not row.size:
            assert (low[i], high[i]) == (-np.inf, np.inf)
            continue
        left = row[survivors(row, sigma, rounds)]
        size = np.abs(row).max()
        ends = left.mean() - sigma * left.std(), left.mean() + sigma * left.std()
        np.testing.assert_allclose((low[i], high[i]), ends, atol=1e-7 * size)


@given(planes((6, 3), dtype=np.float64).map(without_infinities), masks((6, 3)))
def test_the_background_of_columns(image, masked):
    assume(np.isfinite(image).any())
    found = column_background(image, masked, 0.0)
    for x in range(3):
        values = image[:, x][np.isfinite(image[:, x]) & ~masked[:, x]]
        left = values[survivors(values, 3.0, 100, centre=np.mean)]
        expected = left.mean() if left.size else 0.0
        np.testing.assert_allclose(found[x], expected, atol=1e-12 * np.nanmax(np.abs(image)))


@given(planes((3, 4), finite=True, dtype=np.float64), masks((3, 4)), integers((2,), 0, 100))
def test_pixels_within_percentiles(values, kept, ends):
    low, high = sorted(map(float, ends))
    found = within_percentiles(values, kept, low, high)
    if not kept.any():
        assert not found.any()
        return
    bottom, top = np.percentile(values[kept], [low, high])
    near = 1e-12 * np.abs(values).max()
    sure = (np.abs(values - bottom) > near) & (np.abs(values - top) > near)
    expected = kept & (values >= bottom) & (values <= top)
    np.testing.assert_array_equal(found[sure], expected[sure])


@given(st.data(), st.integers(1, 6), st.integers(1, 5))
def test_missing_values_of_a_series(data, count, window):
    images = data.draw(planes((count, 2, 2), dtype=np.float64))
    typical = data.draw(planes((2, 2), finite=True, dtype=np.float64))
    found = from_neighbours(images, typical, window)
    size = min(count, window)
    for y, x in np.ndindex(2, 2):
        line = [v if np.isfinite(v) else typical[y, x] for v in images[:, y, x]]
        for k in range(count):
            near = [mirrored(line, j) for j in range(k - size // 2, k - size // 2 + size)]
            given_ = images[k, y, x]
            assert found[k, y, x] == (given_ if np.isfinite(given_) else sorted(near)[size // 2])


def mirrored(line, at):
    n = len(line)
    at = -1 - at if at < 0 else at
    return line[2 * n - 1 - at if at >= n else at]


@given(planes((5, 3), dtype=np.float64), masks((5, 3)), integers((4,), -4, 20))
def test_gaps_of_columns_are_bridged(values, good, quarters):
    good &= np.isfinite(values)
    place = quarters / 4
    found = bridge_rows(values, good, place)
    for x in range(3):
        rows = np.flatnonzero(good[:, x])
        if not rows.size:
            assert np.isnan(found[:, x]).all()
            continue
        size = np.abs(values[rows, x]).max()
        expected = np.interp(place, rows, values[rows, x])
        np.testing.assert_allclose(found[:, x], expected, atol=1e-12 * size)


@given(planes((6, 5)).map(without_infinities), st.sampled_from([None, 1, 2]), integers((2,), 0, 5))
def test_pixels_that_stand_out(image, dispaxis, tenths):
    """As many are flagged at either end as were asked for, and none without a value."""
    lower, upper = tenths / 10
    bad = find_bad_pixels(image, dispaxis, 3, lower, upper).bad
    assert not bad[np.isnan(image)].any()
    n = np.isfinite(image).sum()
    # of those whose window has a value; equal residuals are on neither side
    assert bad.sum() <= np.ceil(n * lower) + np.ceil(n * upper)
    if not lower and not upper:
        assert not bad.any()

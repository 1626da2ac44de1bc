"""Splines of all columns at once against one fit at a time with scipy."""

import numpy as np
import pytest
from scipy.interpolate import make_lsq_spline

from spec2fn.host.trace_splines import (
    SplineSettings,
    fit_columns,
    fit_some_columns,
    native_spacing,
)

SETTINGS = SplineSettings(reach=15, spacing=1.6)


def spectrum(ny=24, nx=70, seed=3):
    """A tilted trace with noise, bad pixels and outliers, in a slit with slanted edges."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:ny, :nx].astype(float)
    along = 0.1 * (y - 11.3 + 0.02 * (x - 35) + 2e-4 * (x - 35) ** 2)
    flux = 100 * np.exp(-0.5 * ((along - 0.13) / 0.12) ** 2) * (1 + x / nx) + 4
    flux += rng.normal(0, 1, flux.shape)
    flux[rng.random(flux.shape) < 0.01] += 200
    flux[rng.random(flux.shape) < 0.03] = np.nan
    outside = np.abs(along) > 0.9
    along[outside] = flux[outside] = np.nan
    return flux.astype(np.float32), along.astype(np.float32)


def one_fit(x, y, number, settings):
    """The published fit of one window, literally."""
    order = np.argsort(x, kind="stable")
    x, y = x[order], y[order]
    distance = np.abs(np.diff(x, prepend=0.0))
    kept = distance
    for _ in range(5):
        middle, rms = np.median(kept), np.std(kept)
        kept = kept[np.abs(kept - middle) <= 3 * rms]
    good = distance <= kept.mean() + 5 * kept.std()
    x, y = x[good], y[good]
    whole = len(x)
    for iteration in range(settings.iterations):
        step = np.float32(x[-1] - x[0]) / np.float32(number)
        inner = np.arange(x[0] + step / 2, x[-1] - step / 2, step)
        knots = np.concatenate([[x[0]] * 4, inner, [x[-1]] * 4])
        spline = make_lsq_spline(x.astype(float), y.astype(float), knots.astype(float), k=3)
        away = y - spline(x)
        near = np.abs(away) <= settings.sigma * np.std(away)
        if iteration == settings.iterations - 1 or near.all() or near.sum() < 0.8 * whole:
            return spline
        x, y = x[near], y[near]
    return spline


@pytest.mark.parametrize(
    "settings",
    [
        SETTINGS,
        SplineSettings(reach=8, spacing=1.6, knots_per_pixel=1.0, fewest_per_pixel=0.25),
        SplineSettings(reach=12, spacing=1.6, sigma=3.0, iterations=2, knots=20, fewest=8),
    ],
)
def test_columns_have_the_spline_of_their_window(settings):
    flux, along = spectrum()
    total = np.nansum(flux, axis=0)
    splines = fit_columns(flux, along, total, settings, np.arange(flux.shape[1]))
    number, _ = settings.counts(along)
    found = splines(along)
    assert splines.known[5:].all()
    for column in range(7, flux.shape[1], 7):
        near = slice(max(column - settings.reach, 0), column + settings.reach)
        y = (flux / total)[:, near]
        good = np.isfinite(y) & np.isfinite(along[:, near])
        expected = one_fit(along[:, near][good], y[good], number, settings)
        inside = np.isfinite(found[:, column])
        assert inside.sum() > 10
        np.testing.assert_allclose(
            found[inside, column], expected(along[inside, column]), atol=1e-6
        )


def test_order_of_pixels_and_of_batches_does_not_matter(monkeypatch):
    flux, along = spectrum()
    total = np.nansum(flux, axis=0)
    columns = np.arange(flux.shape[1])
    whole = fit_columns(flux, along, total, SETTINGS, columns)(along)
    monkeypatch.setattr("spec2fn.host.trace_splines._PAIRS", 1000)
    parts = fit_columns(flux[::-1], along[::-1], total, SETTINGS, columns)(along)
    np.testing.assert_allclose(parts, whole, atol=1e-9)


def test_scaling_the_flux_changes_nothing():
    flux, along = spectrum()
    columns = np.arange(flux.shape[1])
    found = [
        fit_columns(f, along, np.nansum(f, axis=0), SETTINGS, columns)(along)
        for f in (flux, flux * np.float32(64))
    ]
    np.testing.assert_array_equal(*found)


def test_a_column_without_a_fit_takes_the_spline_before_it():
    flux, along = spectrum()
    total = np.nansum(flux, axis=0)
    total[30:50] = 0.0  # nothing is left in the windows of the columns in the middle
    settings = SplineSettings(reach=5, spacing=2.5, knots=18, fewest=3)
    for order, lender in ((np.arange(70), 34), (np.arange(70)[::-1], 45)):
        splines = fit_columns(flux, along, total, settings, order)
        assert splines.known[lender]
        assert splines.known[36:44].all()
        for name in ("start", "step", "low", "high", "coefficients"):
            lent = getattr(splines, name)
            np.testing.assert_array_equal(
                lent[36:44], np.broadcast_to(lent[lender], lent[36:44].shape)
            )


def test_a_column_between_two_fits_takes_the_mean_of_both():
    flux, along = spectrum()
    total = np.nansum(flux, axis=0)
    total[30:50] = 0.0
    settings = SplineSettings(reach=5, spacing=2.5, knots=18, fewest=3)
    columns = np.arange(70)
    before, after = (fit_columns(flux, along, total, settings, o) for o in (columns, columns[::-1]))
    splines = fit_columns(flux, along, total, settings, columns, interpolate=True)
    one, other, found = (s(along) for s in (before, after, splines))
    # those whose splines are lent
    left = int(np.flatnonzero((before.coefficients == before.coefficients[40]).all(axis=1))[0])
    right = int(np.flatnonzero((after.coefficients == after.coefficients[40]).all(axis=1))[-1])
    assert 25 < left < 36
    assert 43 < right < 55
    share = (np.arange(36, 44) - left) / (right - left)
    expected = (1 - share) * one[:, 36:44] + share * other[:, 36:44]
    np.testing.assert_allclose(found[:, 36:44], expected, rtol=1e-12)
    np.testing.assert_array_equal(np.isfinite(found), splines.holds(along))
    np.testing.assert_array_equal(found[:, : left + 1], one[:, : left + 1])
    np.testing.assert_array_equal(found[:, right:], one[:, right:])


def test_intervals_without_pixels_give_no_spline():
    flux, along = spectrum()
    flux[np.abs(along - 0.1) < 0.16] = np.nan
    total = np.nansum(flux, axis=0)
    splines = fit_columns(flux, along, total, SETTINGS, np.arange(70))
    assert not splines.known.any()
    assert np.isnan(splines(along)).all()


def test_spacing_of_pixels():
    _, along = spectrum()
    assert native_spacing(along) == pytest.approx(0.1, rel=1e-5)
    assert np.isnan(native_spacing(np.full((3, 4), np.nan)))


def test_some_columns_lend_their_splines_to_their_neighbours():
    flux, along = spectrum()
    total = np.nansum(flux, axis=0)
    some = fit_some_columns(flux, along, total, SETTINGS)
    all_of = fit_columns(flux, along, total, SETTINGS, np.arange(flux.shape[1]))
    assert some.known.all()
    lenders = np.flatnonzero(all_of.known & (np.arange(flux.shape[1]) % SETTINGS.reach == 0))
    assert lenders.size > 3
    nearest = lenders[np.abs(np.arange(flux.shape[1])[:, None] - lenders).argmin(axis=1)]
    for name in ("start", "step", "last", "low", "high", "coefficients"):
        np.testing.assert_array_equal(getattr(some, name), getattr(all_of, name)[nearest], name)
    nothing = fit_some_columns(np.full_like(flux, np.nan), along, total, SETTINGS)
    assert not nothing.known.any()

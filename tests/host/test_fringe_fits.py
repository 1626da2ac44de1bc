import os
from pathlib import Path

import numpy as np
import pytest

from spec2fn.host.continuum import (
    Spline,
    bridge,
    envelope,
    extrema,
    find_knots,
    fit_baseline,
    flag_lines,
    reject_runaways,
    unclipped,
)
from spec2fn.host.sine_search import (
    Evidence,
    FringeSearch,
    _Periodogram,
    find_fringes,
    log10_evidence,
    sincos_turns,
)


def test_sines_and_cosines_of_turns():
    turns = np.random.default_rng(0).uniform(-900, 900, (3, 500))
    sine, cosine = sincos_turns(turns)
    np.testing.assert_allclose(sine, np.sin(2 * np.pi * (turns % 1)), atol=1e-11)
    np.testing.assert_allclose(cosine, np.cos(2 * np.pi * (turns % 1)), atol=1e-11)


def test_periodogram_finds_the_period_of_the_best_sine():
    rng = np.random.default_rng(1)
    wavenumber = np.sort(rng.uniform(1740, 2040, (2, 300)), axis=1)
    good = rng.random((2, 300)) > 0.2
    y = rng.normal(size=(2, 300)) + 0.5 * np.cos(2 * np.pi * wavenumber / 2.71)
    periods = np.linspace(2.0, 4.0, 400)
    found = _Periodogram(wavenumber, periods).of(np.arange(2), good)(np.arange(2), y)
    for k in range(2):
        x, v = wavenumber[k, good[k]], y[k, good[k]]
        left = []
        for period in periods:
            a = 2 * np.pi * x / period
            design = np.stack([np.ones(x.size), np.cos(a), np.sin(a)], axis=1)
            left.append(np.linalg.lstsq(design, v, rcond=None)[1][0])
        assert found[k] == np.argmin(left)


def test_periodogram_of_nothing_takes_the_first_period():
    wavenumber = np.linspace(1740, 2040, 300)[None]
    one = np.array([0])
    highest = _Periodogram(wavenumber, np.linspace(2.0, 4.0, 50)).of(one, np.zeros((1, 300), bool))
    assert highest(one, np.ones((1, 300)))[0] == 0


SEARCH = FringeSearch(2.9, 1.5, 10, 0.01, True, Evidence(13.0, (0.001, 10.0)))


def fringes(wavenumber, components):
    return sum(a * np.cos(2 * np.pi * wavenumber / p + f) for p, a, f in components)


def test_fringes_are_found_with_their_amplitudes():
    rng = np.random.default_rng(2)
    wavenumber = np.linspace(1740, 2040, 1024)[None].repeat(3, axis=0)
    truth = np.stack(
        [
            fringes(wavenumber[0], [(2.8, 0.03, 0.3)]),
            fringes(wavenumber[0], [(2.8, 0.03, 0.3), (2.5, 0.015, 1.0)]),
            0.0 * wavenumber[0],
        ]
    )
    data = truth + 0.002 * rng.normal(size=truth.shape)
    weights = np.ones(data.shape)
    found = find_fringes(data, weights, weights, wavenumber, SEARCH)
    assert found.number[0] == 1
    assert found.number[1] == 2
    np.testing.assert_allclose(found.periods[1, :2], [2.8, 2.5], atol=0.02)
    np.testing.assert_allclose(found.model[:2], truth[:2], atol=2e-3)
    amplitude = np.hypot(found.parameters[0, 1, 0], found.parameters[0, 2, 0])
    assert amplitude == pytest.approx(0.03, rel=0.02)


def test_spectra_do_not_influence_each_other():
    rng = np.random.default_rng(3)
    wavenumber = np.linspace(1740, 2040, 512)[None] + rng.uniform(0, 5, (4, 1))
    data = np.stack([fringes(w, [(2.2 + 0.2 * k, 0.02, k)]) for k, w in enumerate(wavenumber)])
    data += 0.003 * rng.normal(size=data.shape)
    weights = rng.uniform(0.5, 1.5, data.shape)
    together = find_fringes(data, weights, weights, wavenumber, SEARCH)
    for k in range(4):
        one = slice(k, k + 1)
        alone = find_fringes(data[one], weights[one], weights[one], wavenumber[one], SEARCH)
        assert alone.number[0] == together.number[k]
        np.testing.assert_allclose(alone.model[0], together.model[k], rtol=1e-9, atol=1e-12)


def test_outliers_lose_their_weight():
    wavenumber = np.linspace(1740, 2040, 1024)[None]
    data = fringes(wavenumber, [(2.8, 0.03, 0.3)])
    data += 0.002 * np.random.default_rng(4).normal(size=data.shape)
    data[0, 500] = 0.5
    weights = np.ones(data.shape)
    found = find_fringes(data, weights, weights, wavenumber, SEARCH)
    assert found.weights[0, 500] == 0.0
    assert np.median(found.weights) > 0.9


def test_evidence_prefers_the_simpler_of_two_equal_fits():
    prior = Evidence(13.0, (0.001, 10.0))
    chisq, weight, logdet = np.array([1.0]), np.array([1000.0]), np.array([10.0])
    simple = log10_evidence(chisq, weight, 3, logdet, prior)
    assert simple > log10_evidence(chisq, weight, 6, 2 * logdet, prior)
    assert log10_evidence(0.9 * chisq, weight, 3, logdet, prior) > simple
    assert log10_evidence(chisq, np.array([2.0]), 3, logdet, prior) == -1e9
    assert log10_evidence(chisq, weight, 3, np.array([np.nan]), prior) == -1e9


@pytest.mark.parametrize("reach", [1, 2])
def test_envelopes_are_monotone_cubics_through_the_extrema(reach):
    from scipy.interpolate import PchipInterpolator

    signal = np.random.default_rng(5).normal(size=(6, 90))
    signal[1] = np.arange(90)  # no extrema at all
    signal[2, 5:] = 1.0
    for nodes, sign in zip(extrema(signal, reach), (-1, 1), strict=True):
        out = envelope(signal, nodes)
        for k in range(6):
            inside = [
                i
                for i in range(reach, 90 - reach)
                if all(
                    sign * (signal[k, i] - signal[k, i + d]) > 0
                    for d in range(-reach, reach + 1)
                    if d
                )
            ]
            x = [0, *inside, 89]
            expected = PchipInterpolator(x, signal[k, x])(np.arange(90))
            np.testing.assert_allclose(out[k], expected, atol=1e-12)


def test_lines_are_flagged_from_trough_to_trough():
    x = np.arange(120.0)
    excess = 0.02 * (1 + np.cos(2 * np.pi * x / 10)) + np.exp(-0.5 * ((x - 60) / 2) ** 2)
    weights = flag_lines(excess[None], np.full((1, 120), 0.2))[0]
    assert weights[57:64].max() == 0.0
    assert weights[:50].min() == 1.0
    assert weights[70:].min() == 1.0


def test_clipping_is_one_sided():
    excess = np.abs(np.random.default_rng(6).normal(size=400))
    excess[[10, 200]] = 30.0
    assert np.flatnonzero(~unclipped(excess, 5.0)).tolist() == [10, 200]


@pytest.mark.parametrize("degree", [1, 2])
def test_splines_are_those_of_scipy(degree):
    from scipy.interpolate import LSQUnivariateSpline

    rng = np.random.default_rng(7)
    x = np.sort(rng.uniform(1, 1.2, (3, 200)), axis=1)
    y = np.sin(30 * x) + 0.1 * rng.normal(size=x.shape)
    w = rng.uniform(0.2, 2.0, x.shape)
    w[0, 50:60] = 1e-8
    knots = np.zeros(x.shape, bool)
    knots[:, 10:190:17] = True
    knots[1, 11] = True
    fitted = Spline.of(x, knots, degree).fit(y, w * w)
    for k in range(3):
        peer = LSQUnivariateSpline(x[k], y[k], x[k, knots[k]], w=w[k], k=degree)
        np.testing.assert_allclose(fitted[k], peer(x[k]), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("degree", [1, 2])
def test_splines_know_which_coefficients_the_data_determine(degree):
    from scipy.interpolate import LSQUnivariateSpline

    rng = np.random.default_rng(9)
    lost = 0
    for _ in range(60):
        x = np.sort(rng.uniform(1, 1.2, 60))[None]
        knots = np.zeros(x.shape, bool)
        knots[0, rng.choice(np.arange(1, 59), 12, replace=False)] = True
        w = (rng.random(x.shape) < rng.uniform(0.3, 0.9)).astype(float)
        y = rng.normal(size=x.shape)
        fitted = Spline.of(x, knots, degree).fit(y, w * w)[0]
        peer = LSQUnivariateSpline(x[0], y[0], x[0, knots[0]], w=w[0], k=degree)(x[0])
        np.testing.assert_array_equal(np.isfinite(fitted), np.isfinite(peer))
        lost += np.isnan(fitted).any()
    assert 10 < lost < 60


def test_a_spline_without_weight_is_no_number():
    x = np.linspace(1, 1.2, 200)[None]
    knots = np.zeros(x.shape, bool)
    knots[:, 10:190:10] = True
    power = np.ones(x.shape)
    power[:, 100:160] = 0.0
    fitted = Spline.of(x, knots, 2).fit(np.ones(x.shape), power)
    assert np.isnan(fitted[0, :140]).all()
    assert np.isfinite(fitted[0, 170:]).all()


def test_baseline_ignores_outliers_in_either_direction():
    x = np.linspace(1.2, 1.0, 400)
    y = 2.0 + x + 0.001 * np.random.default_rng(8).normal(size=400)
    y[200] = 50.0
    w = np.ones(400)
    knots = find_knots(y[None], w[None], 12)
    up = fit_baseline(y[None, ::-1], w[None], x[None, ::-1], knots[:, ::-1], robust=True)
    down = fit_baseline(y[None], w[None], x[None], knots, robust=True)
    np.testing.assert_allclose(down[0][0], 2.0 + x, atol=2e-3)
    np.testing.assert_allclose(up[0][0, ::-1], down[0][0], rtol=1e-9)
    assert down[1].all()
    # it has no weight at all
    y[200] = 60.0
    farther = fit_baseline(y[None], w[None], x[None], knots, robust=True)
    np.testing.assert_allclose(farther[0], down[0], rtol=1e-6)


def test_baseline_needs_monotonic_wavenumbers():
    x = np.linspace(1.0, 1.2, 100)
    x[50] = 1.0
    knots = np.zeros((1, 100), bool)
    knots[:, 10:90:10] = True
    ones = np.ones((1, 100))
    out, possible = fit_baseline(ones, ones, x[None], knots, robust=True)
    assert not possible.any()
    assert np.isnan(out).all()


@pytest.mark.parametrize("name", ["good_col", "edge_col"])
def test_baselines_of_real_columns(name):
    from astropy.io import fits

    folder = os.environ.get("SPEC2FN_REALDATA")
    if not folder:
        pytest.skip("SPEC2FN_REALDATA is not set")
    with fits.open(Path(folder, "residual_fringe", f"{name}.fits")) as hdus:
        period = hdus[0].header["FFREQ"]
        planes = [hdus[k].data.astype(float)[None] for k in range(1, 5)]
    flux, weights, wavenumber, expected = planes
    number = int(np.ptp(wavenumber) / period)
    knots = find_knots(flux, weights, number)
    out, _ = fit_baseline(flux, weights, wavenumber / wavenumber.min(), knots, robust=True)
    np.testing.assert_allclose(out, expected, rtol=1e-6, atol=1e-8)


def test_knots_mark_the_edges_of_unusable_pixels():
    flux, weights = np.ones((1, 100)), np.ones((1, 100))
    weights[0, 40:47] = 1e-8
    knots = np.flatnonzero(find_knots(flux, weights, 5)[0])
    assert {39, 47} <= set(knots.tolist())
    assert 5 <= len(knots) <= 7


def test_gaps_are_bridged_linearly():
    values, weights = np.arange(10.0)[None], np.ones((1, 10))
    values[0, 3:6] = -9.0
    weights[0, [0, 3, 4, 5]] = 0.0
    assert bridge(values, weights)[0].tolist() == [1, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert (bridge(values, 0 * weights) == values).all()


def test_only_the_beat_that_runs_away_is_rejected():
    x = np.arange(400.0)
    model = 0.05 * np.sin(2 * np.pi * x / 12) * np.abs(np.sin(2 * np.pi * x / 400))
    model[200:] *= 10
    rejected = reject_runaways(model[None], np.full((1, 400), 0.3))[0]
    assert not rejected[:180].any()
    assert rejected[230:370].all()

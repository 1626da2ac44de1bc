"""Estimates of bad pixels from their neighbours."""

import numpy as np
import pytest

from spec2fn.dq import PIXEL
from spec2fn.kernels.pixel_replace import fit_profile, minimum_gradient

DNU, NON_SCIENCE, ESTIMATED = (
    np.uint32(PIXEL[n]) for n in ("DO_NOT_USE", "NON_SCIENCE", "FLUX_ESTIMATED")
)
ALGORITHMS = {
    "mingrad": minimum_gradient,
    "along x": lambda p: fit_profile(p, 1, 2),
    "along y": lambda p: fit_profile(p, 2, 1),
}


def make(sci, bad=(), snr=50.0):
    """Planes with `bad` pixels flagged and NaN everywhere."""
    sci = np.asarray(sci, dtype=np.float32).copy()
    err = (np.abs(sci) / snr + 1e-3).astype(np.float32)
    dq = np.zeros(sci.shape, dtype=np.uint32)
    planes = [err, err**2 * np.float32(0.7), err**2 * np.float32(0.3)]
    for pixel in bad:
        dq[pixel] |= DNU
        for plane in (sci, *planes):
            plane[pixel] = np.nan
    names = ("err", "var_poisson", "var_rnoise")
    return {"sci": sci, "dq": dq, **dict(zip(names, planes, strict=True))}


def random_planes(seed, shape=(3, 24, 20), fraction=0.08):
    rng = np.random.default_rng(seed)
    profile = np.exp(-0.5 * ((np.arange(shape[-2]) - 11.3) / 2.5) ** 2)[:, None]
    spectrum = 100 * (1 + 0.3 * np.sin(np.arange(shape[-1])))
    sci = profile * spectrum + rng.normal(size=shape)
    bad = rng.random(shape) < fraction
    planes = make(sci, [bad])
    planes["dq"][rng.random(shape) < 0.02] |= NON_SCIENCE
    planes["dq"][..., :2, :] |= DNU
    planes["dq"][shape[0] // 3 :, ..., 7] |= DNU
    for plane in (p for name, p in planes.items() if name != "dq"):
        plane[(planes["dq"] & DNU) != 0] = np.nan
    return planes


def arrays(planes):
    return tuple(planes.values())


def from_arrays(sci, dq, err, poisson, rnoise):
    return {"sci": sci, "dq": dq, "err": err, "var_poisson": poisson, "var_rnoise": rnoise}


def test_minimum_gradient_takes_the_pair_that_differs_less():
    y, x = np.mgrid[:9, :9].astype(float)
    out = minimum_gradient(make(10 * y + x, [(4, 4)]))
    assert out["sci"][4, 4] == 44.0
    steep = 100.0 * (y - 3) ** 2 + x
    assert minimum_gradient(make(steep, [(4, 4)]))["sci"][4, 4] == 104.0  # along x
    assert out["dq"][4, 4] == ESTIMATED
    planes = make(steep, [(4, 4)])
    replaced = minimum_gradient(planes)
    err, var = planes["err"], planes["var_rnoise"]
    assert replaced["err"][4, 4] == pytest.approx((err[4, 3] + err[4, 5]) / 2)
    expected = ((np.sqrt(var[4, 3]) + np.sqrt(var[4, 5])) / 2) ** 2
    assert replaced["var_rnoise"][4, 4] == pytest.approx(expected, rel=1e-6)


def test_minimum_gradient_uses_the_other_pair_or_none():
    y, x = np.mgrid[:9, :9].astype(float)
    image = 100 * y + x
    out = minimum_gradient(make(image, [(4, 4), (4, 5)]))
    assert out["sci"][4, 4] == 404.0
    assert out["sci"][4, 5] == 405.0
    block = [(j, i) for j in (3, 4, 5) for i in (3, 4, 5)]
    out = minimum_gradient(make(image, block))
    assert np.isnan(out["sci"][4, 4])
    assert out["dq"][4, 4] == DNU


@pytest.mark.parametrize("pixel", [(1, 4), (8, 4), (4, 1), (4, 8)])
def test_minimum_gradient_leaves_the_edges(pixel):
    planes = make(np.ones((9, 9)), [pixel])
    for before, after in zip(arrays(planes), arrays(minimum_gradient(planes)), strict=True):
        np.testing.assert_array_equal(before, after)


def test_minimum_gradient_keeps_do_not_use_off_the_science_area():
    planes = make(np.ones((9, 9)), [(4, 4)])
    planes["dq"][4, 4] |= NON_SCIENCE
    assert minimum_gradient(planes)["dq"][4, 4] == DNU | NON_SCIENCE | ESTIMATED


@pytest.mark.parametrize("shape", [(1, 1), (3, 8), (4, 4), (2, 5, 6)])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_small_and_hopeless_frames_come_back_unchanged(name, shape):
    for planes in (make(np.ones(shape)), make(np.ones(shape), [np.ones(shape, bool)])):
        for before, after in zip(arrays(planes), arrays(ALGORITHMS[name](planes)), strict=True):
            np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("dispaxis", [1, 2])
def test_fit_profile_recovers_profile_times_spectrum(dispaxis):
    profile = np.array([1, 3, 10, 30, 60, 35, 12, 4, 2.0])
    spectrum = 5 + np.arange(15.0) ** 1.5
    truth = profile[:, None] * spectrum
    bad = [(4, 7), (3, 7), (6, 2), (4, 8)]
    if dispaxis == 2:
        truth, bad = truth.T, [(x, y) for y, x in bad]
    out = fit_profile(make(truth, bad), dispaxis, 3)
    np.testing.assert_allclose(out["sci"], truth, rtol=2e-6)
    for pixel in bad:
        assert out["dq"][pixel] == ESTIMATED
        assert out["err"][pixel] == pytest.approx(truth[pixel] / 50, rel=0.05)
    total = out["var_poisson"] + out["var_rnoise"]
    np.testing.assert_allclose(total, out["err"] ** 2, rtol=1e-5)


def test_fit_profile_scale_is_the_least_squares_solution():
    rng = np.random.default_rng(5)
    truth = np.exp(-0.5 * ((np.arange(11) - 5) / 1.5) ** 2)[:, None] * 100 * np.ones(9)
    sci = truth + rng.normal(size=truth.shape)
    planes = make(sci, [(4, 4)])
    out = fit_profile(planes, 1, 2)
    columns = [2, 3, 5, 6]
    profiles = sci[:, columns] / np.abs(sci[:, columns]).max(axis=0)
    median = np.median(profiles, axis=1)
    rows = np.arange(11) != 4
    a, b = np.abs(median[rows]), np.abs(sci[rows, 4])
    expected = median[4] * (a @ b) / (a @ a)
    assert out["sci"][4, 4] == pytest.approx(expected, rel=1e-5)


def test_fit_profile_of_a_negative_column_keeps_its_sign():
    sci = -np.array([1, 5, 20, 5, 1.0])[:, None] * np.ones(9)
    out = fit_profile(make(sci, [(2, 4), (1, 4)]), 1, 3)
    np.testing.assert_allclose(out["sci"][:, 4], sci[:, 4], rtol=1e-6)
    assert out["err"][2, 4] > 0


def test_fit_profile_does_not_scale_noise():
    # nothing exceeds five standard errors: the median of the neighbours as they are
    sci = np.tile(np.array([1.0, 2.0, 3.0, 2.0])[:, None], 7) * np.array([1, 1, 1, 9, 1, 1, 1])
    out = fit_profile(make(sci, [(2, 3)], snr=2.0), 1, 2)
    assert out["sci"][2, 3] == 3.0


def test_fit_profile_without_a_neighbour_in_the_row_clears_the_value():
    planes = make(np.full((5, 9), 10.0), [(2, i) for i in range(2, 7)])
    planes["sci"][2, 4] = 123.0  # flagged, so never used
    out = fit_profile(planes, 1, 2)
    assert np.isnan(out["sci"][2, 4])
    assert out["dq"][2, 4] == DNU
    assert out["dq"][2, 3] == ESTIMATED


@pytest.mark.parametrize("name", ALGORITHMS)
def test_flagged_pixels_of_any_value_change_nothing(name):
    planes = random_planes(1)
    if name == "mingrad":
        pytest.skip("works on what is not finite, whatever the flags")
    spoiled = from_arrays(*(a.copy() for a in arrays(planes)))
    flagged = (planes["dq"] & DNU) != 0
    spoiled["sci"][flagged] = 1e6
    a, b = ALGORITHMS[name](planes), ALGORITHMS[name](spoiled)
    replaced = (a["dq"] & ESTIMATED) != 0
    np.testing.assert_array_equal(a["sci"][replaced], b["sci"][replaced])
    np.testing.assert_array_equal(a["dq"], b["dq"])


@pytest.mark.parametrize("name", ALGORITHMS)
def test_inputs_are_not_modified_and_integrations_do_not_mix(name):
    planes = random_planes(2)
    before = [a.copy() for a in arrays(planes)]
    out = arrays(ALGORITHMS[name](planes))
    for a, b in zip(arrays(planes), before, strict=True):
        np.testing.assert_array_equal(a, b)
    for i in range(3):
        single = ALGORITHMS[name](from_arrays(*(a[i] for a in before)))
        for a, b in zip(out, arrays(single), strict=True):
            np.testing.assert_array_equal(a[i], b)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_jit_and_vmap_equal_numpy(name):
    jax = pytest.importorskip("jax")
    planes = random_planes(3)
    assert ((ALGORITHMS[name](planes)["dq"] & ESTIMATED) != 0).sum() > 20

    def kernel(*planes):
        return arrays(ALGORITHMS[name](from_arrays(*planes)))

    expected = kernel(*arrays(planes))
    for compiled in (jax.jit(kernel), jax.jit(jax.vmap(kernel))):
        for a, b in zip(compiled(*arrays(planes)), expected, strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_allclose(np.asarray(a), b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_gradients_are_finite_and_agree_with_differences(name):
    jax = pytest.importorskip("jax")
    planes = random_planes(4, shape=(24, 20))
    rng = np.random.default_rng(0)
    weight = rng.normal(size=planes["sci"].shape)
    flat = [a.astype(np.float64) if a.dtype.kind == "f" else a for a in arrays(planes)]

    def total(sci, err, poisson):
        out = ALGORITHMS[name](from_arrays(sci, flat[1], err, poisson, flat[4]))
        parts = (out["sci"], out["err"], out["var_poisson"])
        return sum(jax.numpy.nansum(weight * p) for p in parts)

    point = (flat[0], flat[2], flat[3])
    total = jax.jit(total)
    gradients = jax.jit(jax.grad(total, argnums=(0, 1, 2)))(*point)
    # small, because errors proportional to the data nearly tie in their medians
    step = [1e-8 * rng.normal(size=weight.shape) * np.nan_to_num(np.abs(p)) for p in point]
    plus = total(*(p + d for p, d in zip(point, step, strict=True)))
    minus = total(*(p - d for p, d in zip(point, step, strict=True)))
    slope = sum((np.asarray(g) * d).sum() for g, d in zip(gradients, step, strict=True))
    assert all(np.isfinite(g).all() for g in gradients)
    assert slope == pytest.approx(float(plus - minus) / 2, rel=1e-4)

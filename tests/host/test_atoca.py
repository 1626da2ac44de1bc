"""What is planned for ATOCA: grid, responses, factor; against the official classes as well."""

from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest

from spec2fn.errors import InputError, ReferenceError
from spec2fn.host.atoca import AtocaSettings, integrals_of, plan_atoca, typical_integration
from spec2fn.host.atoca_grid import adaptive_grid, oversample, pixel_boundaries, shared_grid
from spec2fn.host.atoca_kernel import SpectralKernel, kernel_rows, throughput_at
from spec2fn.kernels.atoca import (
    order_amplitudes,
    order_models,
)
from tests.soss_orders import COLUMNS, ROWS, SETTINGS, flux, orders, spectral_kernel

OFFICIAL = {"search": "official", "capped": False, "exact_ends": False, "free_ends": False}


def exposure(seed=0):
    """An image of three orders whose light is not that of a model, its error and its masks."""
    rng = np.random.default_rng(seed)
    image = np.zeros((ROWS, COLUMNS))
    for order, scale in zip(orders(), (1.0, 0.5, 0.2), strict=True):
        light = flux(order.wave) * throughput_at(order.throughput, order.wave) * order.wave * 0.01
        image += scale * order.profile * light
    error = 0.02 + 0.005 * rng.random(image.shape)
    mask = rng.random(image.shape) < 0.01
    return image + error * rng.normal(size=image.shape), error, mask, np.zeros(mask.shape, bool)


def planned(**settings):
    given = {k: settings.pop(k) for k in ("wave_grid", "estimate") if k in settings}
    choices = AtocaSettings(**{**SETTINGS, **settings})
    return plan_atoca(orders(), *exposure(), settings=choices, **given)


def test_grids_are_halved_where_the_trapezoids_fail():
    def peak(wave):
        return 1 + np.exp(-0.5 * ((wave - 1.5) / 0.01) ** 2)

    start = np.linspace(1, 2, 41)
    fine = adaptive_grid(start, peak, 5000, rtol=1e-3)
    assert set(start) <= set(fine)
    steps = np.diff(fine)
    assert steps[np.abs(fine[1:] - 1.5) < 0.03].max() < 0.3 * steps.max()
    capped = adaptive_grid(start, peak, 60, rtol=1e-6)
    assert len(capped) == 60
    # with no room left the official way halves everything once more
    assert len(adaptive_grid(start, peak, 41, rtol=1e-6)) == 41
    assert len(adaptive_grid(start, peak, 41, rtol=1e-6, capped=False)) == 81


def test_oversampling_and_boundaries():
    np.testing.assert_allclose(oversample(np.array([1.0, 2, 4]), 2), [1, 1.5, 2, 3, 4])
    np.testing.assert_allclose(oversample(np.array([1.0, 2, 4]), np.array([1, 2])), [1, 2, 3, 4])
    edges = pixel_boundaries(np.array([np.nan, 4.0, 2.0, 1.0]))
    np.testing.assert_allclose(edges, [0.5, 1.5, 3.0, 5.0])
    with pytest.raises(InputError, match="two pixels"):
        pixel_boundaries(np.array([np.nan, 1.0]))


@pytest.mark.parametrize("size", [50, 400, 3000])
def test_the_cap_of_the_grid_is_one(size):
    first, second, _ = orders()
    grid = shared_grid(first.trace, second.trace, flux, 1.0, rtol=1e-5, size=size)
    assert len(grid) <= size
    assert (np.diff(grid) > 0).all()
    assert grid[0] < 1.0 + 0.05
    assert grid[-1] > 2.7


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("oversampling", "rtol", "size"), [(1, 1e-2, 20_000), (2, 1e-4, 20_000), (2, 1e-5, 1500)]
)
def test_grids_are_the_official_ones(oversampling, rtol, size):
    soss = pytest.importorskip("jwst.extract_1d.soss_extract.soss_extract")
    models = []
    for order in orders()[:2]:
        known = np.sort(order.trace[np.isfinite(order.trace)])
        native = SimpleNamespace(native_grid=(known, None))
        make = soss.DetectorModelOrder.get_grid_from_trace
        models.append(SimpleNamespace(get_grid_from_trace=partial(make, native)))
    integration = SimpleNamespace(order_models=models, order2_separation_cutoff=[1.0, 1.25])
    theirs = soss.Integration.make_decontamination_grid(
        integration, flux, rtol=rtol, max_grid_size=size, n_os=oversampling
    )
    first, second = (o.trace for o in orders()[:2])
    how = {"oversampling": oversampling, "rtol": rtol, "size": size, "capped": False}
    ours = shared_grid(first, second, flux, 1.0, **how)
    np.testing.assert_allclose(ours, theirs, rtol=1e-12)


def test_kernels_conserve_light_and_blur_lines():
    first = orders()[0]
    grid = np.linspace(1.1, 2.75, 1200)
    rows = kernel_rows(first.kernel, first.trace, grid, 0, len(grid))
    np.testing.assert_allclose(rows.values.sum(axis=1), 1.0)
    line = np.exp(-0.5 * ((grid - 1.9) / 0.004) ** 2)
    blurred = (rows.values * line[rows.first[:, None] + np.arange(rows.values.shape[1])]).sum(1)
    width = np.sqrt((blurred * (grid - 1.9) ** 2).sum() / blurred.sum())
    # 0.7 + 0.19 pixels of 0.0111 um, and the line itself
    assert width == pytest.approx(np.hypot(0.89 * 0.0113, 0.004), rel=0.03)
    short = SpectralKernel(11, spectral_kernel().wavelength[:, :5], spectral_kernel().values[:, :5])
    with pytest.raises(ReferenceError, match="four wavelengths"):
        kernel_rows(short, first.trace, grid, 0, 10)


def test_throughput_ends_at_zero():
    table = np.array([np.linspace(1, 2, 30), np.full(30, 0.5)])
    np.testing.assert_allclose(
        throughput_at(table, np.array([0.5, 1.0, 1.5, 2.0, 3.0])), [0, 0, 0.5, 0, 0], atol=1e-3
    )
    with pytest.raises(ReferenceError, match="ascending"):
        throughput_at(table[:, ::-1], np.array([1.5]))


def test_typical_integrations_have_the_official_noise_if_wanted():
    mean, error = np.zeros((3, 4)), np.full((3, 4), 2.0)
    assert typical_integration(mean, error, 4) is mean
    noisy = typical_integration(mean, error, 4, noise=True)
    np.testing.assert_array_equal(
        noisy, np.random.default_rng(42).normal(0.0, error * np.sqrt(0.75))
    )


@pytest.mark.parametrize("search", ["evidence", "gcv", "official"])
def test_searched_factors_explain_an_image_that_obeys_the_model(search):
    _, error, mask, unmodelled = exposure()
    grid = np.linspace(1.0, 2.79, 900)
    draft = planned(wave_grid=grid, factor=1e-3).joint
    at = draft.first[..., None] + np.arange(draft.response.shape[-1])
    light = (draft.response * flux(grid)[at]).sum(axis=-1)
    image = sum(o.profile * a for o, a in zip(orders()[:2], light, strict=True))
    data = image + error * np.random.default_rng(4).normal(size=image.shape)
    settings = AtocaSettings(**SETTINGS, search=search)
    given = {"settings": settings, "wave_grid": grid, "separate": ()}
    plan = plan_atoca(orders()[:2], data, error, mask, unmodelled, **given)
    model = np.nansum(order_models(plan, order_amplitudes(plan, data)), axis=0)
    used = (plan.joint.weight > 0) & plan.joint.covered.all(axis=0)
    # a tenth of the pixels is what the spectrum is free to follow
    assert 0.8 < np.mean(((data - model) / error)[used] ** 2) < 1.0
    truth = np.where(plan.joint.covered, light, np.nan)
    found = order_amplitudes(plan, data) / truth - 1
    assert np.nanpercentile(np.abs(found), 90) < 0.03


def test_orders_with_too_few_pixels_are_left_out_or_refused():
    data, error, mask, unmodelled = exposure()
    settings = AtocaSettings(**SETTINGS, factor=1e-3)
    blank = [replace(o, aperture=o.aperture * (i != 2)) for i, o in enumerate(orders())]
    plan = plan_atoca(blank, data, error, mask, unmodelled, settings=settings)
    assert set(plan.alone) == {"1"}
    assert np.isnan(order_amplitudes(plan, data)[2]).all()
    with pytest.raises(InputError, match="needs 25 usable pixels"):
        plan_atoca(orders(), data, error, np.ones_like(mask), unmodelled, settings=settings)


def test_bad_grids_and_estimates_are_refused():
    with pytest.raises(InputError, match="soss_wave_grid_in"):
        planned(wave_grid=np.array([1.0]), factor=1e-3)
    with pytest.raises(InputError, match="soss_estimate"):
        planned(estimate=np.full((2, 10), np.nan))


def test_exact_integrals_and_official_ones():
    rng = np.random.default_rng(1)
    grid = np.sort(rng.random(200))
    lower = rng.uniform(grid[2], 0.9, 30)
    upper = lower + rng.uniform(0.001, 0.09, 30)
    exact, official = (integrals_of(grid, lower, upper, exact=e) for e in (True, False))
    at = [r.first[:, None] + np.arange(r.values.shape[1]) for r in (exact, official)]
    line = (exact.values * grid[at[0]]).sum(axis=1)
    np.testing.assert_allclose(line, 0.5 * (upper**2 - lower**2), rtol=1e-10)
    long = upper - lower > 0.03
    np.testing.assert_allclose(official.values.sum(axis=1)[long], (upper - lower)[long])
    # the official ones stand too far in the blue
    assert ((official.values * grid[at[1]]).sum(axis=1) < line)[long].all()


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("points", [300, 900])
def test_models_are_those_of_the_official_engine(points):
    atoca = pytest.importorskip("jwst.extract_1d.soss_extract.atoca")
    utils = pytest.importorskip("jwst.extract_1d.soss_extract.atoca_utils")
    data, error, mask, unmodelled = exposure()
    factor = 1e-2
    grid = np.linspace(1.0, 2.79, points)
    settings = AtocaSettings(**SETTINGS, **OFFICIAL, factor=factor, threshold=1e-3)
    plan = plan_atoca(
        orders(), data, error, mask, unmodelled, settings=settings, wave_grid=grid, separate=()
    )
    two = orders()[:2]
    kernels = []
    for o in two:
        trace = np.where(np.isfinite(o.trace), o.trace, 0.0)
        k = o.kernel
        kernels.append(utils.WebbKernel(k.wavelength.copy(), k.values.copy(), trace, k.pixels))
    maps = [np.tile(o.wave, (ROWS, 1)) for o in two]
    through = [utils.throughput_soss(*o.throughput) for o in two]
    outside = [~(o.aperture > 0) for o in two]
    engine = atoca.ExtractionEngine(
        maps, [o.profile for o in two], through, kernels, grid, outside, global_mask=mask
    )
    spectrum = engine(data, error, tikhonov=True, factor=factor)
    np.testing.assert_array_equal(plan.joint.weight > 0, ~engine.mask)
    amplitudes = order_amplitudes(plan, data)
    for i in range(2):
        light = engine.get_pixel_mapping(i, error=None).dot(spectrum)
        ours = (plan.profile[i] * amplitudes[i])[~engine.mask]
        # the first column of the model is made by other weights
        known = np.isfinite(ours) & (two[i].profile[~engine.mask] > 1e-2)
        inner = known & (np.abs(ours - light) < 0.2 * np.abs(light).max())
        assert inner.sum() > 0.97 * known.sum()
        np.testing.assert_allclose(ours[inner], light[inner], atol=1e-6 * np.abs(light).max())

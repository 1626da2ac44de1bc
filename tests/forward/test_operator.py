"""The forward operator: truth of its numbers, linearity, adjoint, JAX, gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spec2fn import transforms
from spec2fn.errors import DatasetError
from spec2fn.forward import operator, scenes
from spec2fn.forward.gaussian import enclosed
from spec2fn.forward.lrs import instrument as lrs
from spec2fn.testing.exposures import rendered


@pytest.fixture(scope="module")
def slit():
    return rendered("MIR_LRS-FIXEDSLIT")


@pytest.fixture(scope="module")
def op(slit):
    return slit.operators["science"]


def test_fractions_sum_to_one_and_agree_with_quadrature():
    edges = np.arange(-20.5, 21.0)
    parts = enclosed(edges[:-1] - 0.3, edges[1:] - 0.3, 1.2)
    assert parts.sum() == pytest.approx(1.0, abs=1e-12)
    u = np.linspace(0.5, 1.5, 20001)
    density = np.exp(-0.5 * ((u - 0.3) / 1.2) ** 2) / (1.2 * np.sqrt(2 * np.pi))
    assert parts[21] == pytest.approx(np.trapezoid(density, u), rel=1e-8)


def test_counts_follow_the_instrument(slit, op):
    # independent of the calibration steps: only formulas of the instrument
    flux = slit.truth.flux
    wave = np.interp(op.fraction + op.index, np.arange(len(op.grid)), op.grid)
    seen = (op.gain > 0).all(1)
    row_wave = wave[seen][:, 20]
    mid = float(slit.setups["science"].headers()[0]["EXPMID"])
    conversion = lrs.PHOTMJSR * lrs.relative_response(row_wave) / lrs.throughput(mid)
    expected = (
        1e-6
        * np.interp(row_wave, slit.truth.wavelength, flux)
        / lrs.PIXEL_AREA_SR
        / conversion
        * lrs.slit_transmission(row_wave, 0.25)
    )
    counts = (op(flux) / op.flat).sum(1)[seen]
    # the reference tables are interpolated linearly
    np.testing.assert_allclose(counts, expected, rtol=3e-4)


def test_the_spectrum_stands_where_the_pointing_puts_it(op):
    weights = op(np.ones(len(op.grid))) / op.flat
    columns = np.arange(*op.window[1])
    rows = np.arange(*op.window[0])
    center = (weights * columns).sum(1) / weights.sum(1)
    x, y = lrs.aperture("MIR_LRS-FIXEDSLIT")
    expected = x + 1.1 / lrs.PIXEL_SCALE + 0.1 + lrs.trace(rows - y)
    np.testing.assert_allclose(center, expected, atol=0.02)


def test_adjoint_and_dense(op):
    rng = np.random.default_rng(0)
    flux, image = rng.normal(size=op.shape[1]), rng.normal(size=op.shape[0])
    assert np.vdot(op(flux), image) == pytest.approx(np.vdot(flux, op.T(image)), rel=1e-11)
    np.testing.assert_allclose(op.dense() @ flux, op(flux).ravel(), rtol=1e-10, atol=1e-9)


def test_jax_agrees_with_numpy(slit, op):
    flux = jnp.asarray(slit.truth.flux)
    compiled = transforms.jit(lambda o, f: o(f))
    np.testing.assert_allclose(compiled(op, flux), op(slit.truth.flux), rtol=1e-10, atol=1e-12)
    image = np.random.default_rng(1).normal(size=op.shape[0])
    np.testing.assert_allclose(op.T(jnp.asarray(image)), op.T(image), rtol=1e-9, atol=1e-6)


def test_batches_are_loops(op):
    flux = np.random.default_rng(2).random((3, op.shape[1][0]))
    np.testing.assert_allclose(op(flux), np.stack([op(f) for f in flux]), rtol=1e-14)
    mapped = jax.vmap(op)(jnp.asarray(flux))
    np.testing.assert_allclose(mapped, op(flux), rtol=1e-10, atol=1e-9)


def test_gradients_agree_with_finite_differences(slit, op):
    flux, flat = jnp.asarray(slit.truth.flux), jnp.asarray(op.flat)
    weight = jnp.asarray(np.random.default_rng(3).normal(size=op.shape[0]))

    def loss(f, position, response):
        return jnp.sum(weight * op(f, position, response) ** 2)

    start = (flux, jnp.asarray(op.position), flat)
    gradients = jax.grad(loss, argnums=(0, 1, 2))(*start)
    rng = np.random.default_rng(4)
    for i, (value, gradient) in enumerate(zip(start, gradients, strict=True)):
        assert bool(jnp.isfinite(gradient).all())
        step = jnp.asarray(rng.normal(size=value.shape)) * 1e-6 * jnp.abs(value).max()
        moved = [list(start), list(start)]
        moved[0][i], moved[1][i] = value + step, value - step
        difference = (loss(*moved[0]) - loss(*moved[1])) / 2
        assert float(jnp.sum(gradient * step)) == pytest.approx(float(difference), rel=1e-4)


def test_embed_puts_the_window_into_the_detector(op):
    (y0, y1), (x0, x1) = op.window
    full = op.embed(np.ones(op.shape[0]), (1024, 1032))
    assert full.sum() == (y1 - y0) * (x1 - x0)
    assert full[y0:y1, x0:x1].all()


def test_errors_say_what_to_do(slit):
    from spec2fn.forward.rendered import with_wcs

    exposure = with_wcs(slit.setups["science"], slit.references)
    with pytest.raises(DatasetError, match="extend the grid"):
        operator(exposure, slit.references, scenes.GRID[500:], position=(335.0, 300.0))
    without = exposure.assign_attrs(meta=exposure.attrs["meta"].replace(wcs=None))
    with pytest.raises(DatasetError, match="run assign_wcs first"):
        operator(without, slit.references, scenes.GRID, position=(335.0, 300.0))

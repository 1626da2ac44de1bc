"""What must be conserved: light, through rendering, resampling and extraction."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from spec2fn import run, without
from spec2fn.forward.exposures import to_dataset
from spec2fn.kernels import cubes, resampling
from spec2fn.testing import exposures, operators, strategies
from spec2fn.testing.strategies import masks, numbers, planes

SLIT, SLITLESS = exposures.RENDERED


def noiseless(exp_type, flux, seconds=100.0):
    """The science exposure of a spectrum without noise, background and bad pixels."""
    made = exposures.rendered(exp_type)
    op, setup = made.operators["science"], made.setups["science"]
    rate = op.embed(op(flux), setup.shape[-2:])
    rate = np.broadcast_to(rate, setup.shape).astype(np.float32)
    one = np.full(setup.shape, 1e-6, np.float32)
    planes = {"sci": rate, "err": one, "var_poisson": one, "var_rnoise": one}
    return to_dataset(setup, {**planes, "dq": np.zeros(setup.shape, np.uint32)})


def exact_references(exp_type):
    """References whose flat is the true one."""
    from spec2fn.forward.lrs.references import true_flat

    refs = dict(exposures.references(exp_type))
    flat = refs["flat"]
    dims = flat["sci"].dims
    exact = true_flat(exp_type).astype(np.float32)
    clean = np.zeros(exact.shape, np.uint32)
    refs["flat"] = flat.assign(sci=(dims, exact), dq=(dims, clean))
    return refs


SLOPES = numbers((4,), -0.5, 0.5, step=1 / 64)


def smooth_spectrum(wave, slopes):
    t = (wave - 9.0) / 5.0
    return 1e-3 * np.exp(sum(c * t**k for k, c in enumerate(slopes)))


@strategies.share(0.03)
@given(slopes=SLOPES)
def test_slitless_extraction_returns_the_spectrum_that_was_rendered(slopes):
    op = exposures.rendered(SLITLESS).operators["science"]
    flux = smooth_spectrum(op.grid, slopes)
    out = run(exposures.pipeline(SLITLESS), noiseless(SLITLESS, flux), exact_references(SLITLESS))
    spectrum = out.dataset.isel(spectrum=0, integration=0)
    wave = np.asarray(spectrum["wavelength"].data)
    good = np.isfinite(wave)
    truth = np.interp(wave[good], op.grid, flux)
    # all that is left: float32 pixels, and wings of the star in the background region
    np.testing.assert_allclose(spectrum["flux"].data[good], truth, rtol=1e-4)


@strategies.share(0.03)
@given(slopes=SLOPES)
def test_slit_extraction_returns_the_spectrum_that_was_rendered(slopes):
    made = exposures.rendered(SLIT)
    op = made.operators["science"]
    flux = smooth_spectrum(op.grid, slopes)
    out = run(
        without(exposures.pipeline(SLIT), "background"),
        noiseless(SLIT, flux),
        exact_references(SLIT),
        members={"target_acquisition": (exposures.exposure(SLIT, "target_acquisition"),)},
        params={"targ_centroid": {"skip": False}},
    )
    spectrum = out.dataset.isel(spectrum=0)
    wave = np.asarray(spectrum["wavelength"].data)
    # the outermost rows of the resampled spectrum have no pixel that they lie in wholly
    good = np.isfinite(wave) & np.isfinite(spectrum["flux"].data)
    assert good.sum() > 380
    ratio = spectrum["flux"].data[good] / np.interp(wave[good], op.grid, flux)
    # the resampling weights differ from pixel to pixel by the flat: light moves between pixels
    # of the smallest images, but none is lost on average
    np.testing.assert_allclose(ratio, 1.0, atol=8e-3)
    assert abs(ratio.mean() - 1) < 3e-4


def light(*shape):
    return planes(shape, finite=True, dtype=np.float64)


def positive(*shape):
    return planes(shape, finite=True, positive=True, dtype=np.float64)


@given(operators.overlaps(), st.data())
def test_resampling_conserves_weighted_light(overlap, data):
    """Every pixel gives what of it falls on the output, however much it weighs."""
    weight, image = data.draw(positive(overlap.n_in)), data.draw(light(overlap.n_in))
    coefficient, total = resampling.coefficients(overlap, weight)
    given_ = resampling.apply_adjoint(overlap, overlap.area, np.ones(overlap.n_out))
    near = 1e-12 * max(np.abs(weight * image).sum(), np.abs(weight).sum())
    assert abs(total.sum() - (weight * given_).sum()) <= near
    out = resampling.apply(overlap, coefficient, image)
    assert abs((total * out).sum() - (weight * image * given_).sum()) <= near
    # a pixel gives itself away at most once
    assert (given_ <= 1 + 1e-12).all()


@given(operators.overlaps(), st.data())
def test_resampling_keeps_a_constant(overlap, data):
    weight, level = data.draw(positive(overlap.n_in)), data.draw(st.integers(-64, 64))
    coefficient, total = resampling.coefficients(overlap, weight)
    image = np.where(weight > 0, float(level), np.nan)
    out = resampling.apply(overlap, coefficient, image)
    np.testing.assert_allclose(out, np.where(total > 0, level, 0.0), atol=1e-12 * abs(level))


@given(operators.overlaps(shape_out=(14, 14)), st.data())
def test_resampling_without_weights_conserves_light_within_the_image(overlap, data):
    """Equal weights and no light over the edge: sums are kept."""
    given_ = resampling.apply_adjoint(overlap, overlap.area, np.ones(overlap.n_out))
    image = np.where(np.isclose(given_, 1.0), data.draw(light(overlap.n_in)), 0.0)
    coefficient, total = resampling.coefficients(overlap, np.ones(overlap.n_in))
    out = resampling.apply(overlap, coefficient, image) * total
    assert abs(out.sum() - image.sum()) <= 1e-12 * np.abs(image).sum()


@given(operators.cube_operators(kinds=("overlap",), inside=True), st.data())
def test_cubes_conserve_light(op, data):
    """A pixel within the cube gives its area times its width to it, and its value with it."""
    values = data.draw(light(op.pixels.size))
    shares = np.maximum(op.spectral, 0).sum(axis=0)
    area = 1.25**2  # of the outlines that are drawn
    ones = np.ones(op.voxels.size)
    np.testing.assert_allclose(cubes.apply_adjoint(op, ones), area * shares, rtol=1e-6)
    total = cubes.to_cube(op, cubes.apply(op, values)).sum()
    size = area * np.abs(values * shares).sum()
    assert abs(total - area * (values * shares).sum()) <= 1e-6 * size


@given(operators.cube_operators(), st.data())
def test_cubes_are_means_of_good_pixels(op, data):
    """With what they weigh, voxels hold the light of good pixels, and of no others."""
    n = op.pixels.size
    sci, err = data.draw(planes((n,))), data.draw(planes((n,), positive=True))
    good = data.draw(masks((n,))) & np.isfinite(sci) & np.isfinite(err)
    out = cubes.combine(op, sci, err, good)
    each = cubes.apply_adjoint(op, np.ones(op.voxels.size))
    kept = np.where(good, sci, 0.0)
    total = (out["weight"].astype(float) * out["sci"]).sum()
    # single precision
    assert abs(total - (each * kept).sum()) <= 1e-5 * (each * np.abs(kept)).sum()
    seen = out["wmap"] > 0
    if good.any():
        low, high = sci[good].min(), sci[good].max()
        near = 1e-5 * max(abs(low), abs(high))
        assert (out["sci"][seen] >= low - near).all()
        assert (out["sci"][seen] <= high + near).all()
    assert not out["sci"][~seen].any()
    assert not out["var"][~seen].any()

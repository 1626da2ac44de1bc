"""What must be conserved: light, through rendering, resampling and extraction."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from spec2fn import run, without
from spec2fn.forward.exposures import to_dataset
from spec2fn.schema import replace_data
from spec2fn.testing import exposures, strategies

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


def smooth_spectrum(wave, seed):
    rng = np.random.default_rng(seed)
    slopes = rng.normal(size=4) / 4
    t = (wave - 9.0) / 5.0
    return 1e-3 * np.exp(sum(c * t**k for k, c in enumerate(slopes)))


@strategies.share(0.2)
@given(seed=st.integers(0, 2**32 - 1))
def test_slitless_extraction_returns_the_spectrum_that_was_rendered(seed):
    op = exposures.rendered(SLITLESS).operators["science"]
    flux = smooth_spectrum(op.grid, seed)
    out = run(exposures.pipeline(SLITLESS), noiseless(SLITLESS, flux), exact_references(SLITLESS))
    spectrum = out.dataset.isel(spectrum=0, integration=0)
    wave = np.asarray(spectrum["wavelength"].data)
    good = np.isfinite(wave)
    truth = np.interp(wave[good], op.grid, flux)
    # all that is left: float32 pixels, and wings of the star in the background region
    np.testing.assert_allclose(spectrum["flux"].data[good], truth, rtol=1e-4)


@strategies.share(0.12)
@given(seed=st.integers(0, 2**32 - 1))
def test_slit_extraction_returns_the_spectrum_that_was_rendered(seed):
    made = exposures.rendered(SLIT)
    op = made.operators["science"]
    flux = smooth_spectrum(op.grid, seed)
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


@strategies.share(0.12)
@given(seed=st.integers(0, 2**32 - 1))
def test_resampling_with_equal_weights_conserves_light(seed):
    given_to = exposures.step_input("resample_spec", SLIT)
    ds = given_to.dataset
    rng = np.random.default_rng(seed)
    lit = np.isfinite(np.asarray(ds["wavelength"].data))
    # light well inside the slit, so that none falls off the edges
    inside = np.zeros_like(lit)
    rows, columns = (np.nonzero(lit.any(axis))[0] for axis in (1, 0))
    inside[rows[3] : rows[-3], columns[5] : columns[-5]] = True
    data = np.where(inside, rng.standard_normal(lit.shape), 0.0).astype(np.float32)
    one = np.ones(lit.shape, np.float32)
    planes = {n: one for n in ("err", "var_poisson", "var_rnoise", "var_flat") if n in ds}
    clean = np.zeros(lit.shape, np.uint32)
    exposure = replace_data(ds, None, sci=data, dq=clean, **planes)
    total = np.nansum(given_to(exposure)["sci"].data, dtype=np.float64)
    assert abs(total - data.sum(dtype=np.float64)) < 2e-6 * np.abs(data).sum()

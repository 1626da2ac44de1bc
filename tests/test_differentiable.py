"""Gradients through whole pipelines, compared with finite differences."""

import numpy as np
import pytest

from spec2fn import pipelines, transforms
from spec2fn.engine.pipeline import after, with_parameters
from spec2fn.engine.run import run
from spec2fn.forward import render

SLIT = {"pixel_replace": {"skip": False}, "badpix_selfcal": {"skip": False}}
SLITLESS = {"pixel_replace": {"skip": False}}


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(("MIR_LRS-FIXEDSLIT", SLIT, slice(20, 300)), id="slit"),
        pytest.param(("MIR_LRS-SLITLESS", SLITLESS, slice(20, 300)), id="slitless"),
        pytest.param(("NRC_TSGRISM", {}, slice(600, 900)), id="grism"),
    ],
)
def case(request):
    """A run up to the end, and the function that repeats everything after assign_wcs."""
    exp_type, params, lit = request.param
    rendered = render(exp_type, 3, integrations=2)
    _, pipeline = pipelines.for_exposure(rendered.science)
    pipeline = with_parameters(pipeline, params)
    first = run(
        pipeline,
        rendered.science,
        rendered.references,
        members=rendered.members,
        save_steps=["assign_wcs"],
    )
    rest = after(pipeline, "assign_wcs")
    weights = np.random.default_rng(0).uniform(0.5, 1.5, 2048)[lit]

    def scalar(ds, refs, plans):
        flux = run(rest, ds, refs, plans=plans).products["x1d"]["flux"].data
        flux = flux.reshape(-1, flux.shape[-1])[:, lit]
        import jax.numpy as jnp

        return jnp.nansum(flux * weights) * 1e3

    used = {k: v for k, v in rendered.references.items() if k in ("flat", "photom", "pathloss")}
    return first, scalar, {**dict.fromkeys(rendered.references), **used}


def test_gradients_through_the_pipeline(case):
    first, scalar, refs = case
    start, plans = first.saved["assign_wcs"], first.plans
    wrt = {0: ("sci",), 1: ("flat/sci", "photom/photom.photmjsr")}
    gradient = transforms.jit(transforms.value_and_grad(scalar, wrt))
    value, grads = gradient(start, refs, plans)
    assert np.isfinite(value)
    d_sci, d_flat = np.asarray(grads[0]["sci"]), np.asarray(grads[1]["flat/sci"])
    d_phot = np.asarray(grads[1]["photom/photom.photmjsr"])
    for grad in (d_sci, d_flat, d_phot):
        assert np.isfinite(grad).all()
        assert np.abs(grad).max() > 0

    def evaluate(sci=None, flat=None, factor=None):
        ds, changed = start, dict(refs)
        if sci is not None:
            ds = ds.assign(sci=(ds["sci"].dims, sci))
        if flat is not None:
            changed["flat"] = refs["flat"].assign(sci=(("y", "x"), flat))
        if factor is not None:
            name = "photom.photmjsr"
            changed["photom"] = refs["photom"].assign(
                {name: (refs["photom"][name].dims, refs["photom"][name].data * factor)}
            )
        return float(scalar(ds, changed, plans))

    # the pixel with the strongest influence on the sum, and its flat
    pixel = np.unravel_index(np.argmax(np.abs(d_sci)), d_sci.shape)
    sci = start["sci"].values
    step = np.float32(0.2 * abs(sci[pixel]))
    up, down = sci.copy(), sci.copy()
    up[pixel] += step
    down[pixel] -= step
    slope = (evaluate(sci=up) - evaluate(sci=down)) / (2 * step)
    np.testing.assert_allclose(d_sci[pixel], slope, rtol=2e-3)

    spot = np.unravel_index(np.argmax(np.abs(d_flat)), d_flat.shape)
    flat = np.array(refs["flat"]["sci"].values)
    step = np.float32(0.01)
    up, down = flat.copy(), flat.copy()
    up[spot] += step
    down[spot] -= step
    slope = (evaluate(flat=up) - evaluate(flat=down)) / (2 * step)
    np.testing.assert_allclose(d_flat[spot], slope, rtol=5e-3)

    # the flux is proportional to the conversion factor
    slope = (evaluate(factor=1.01) - evaluate(factor=0.99)) / 0.02
    along = (d_phot * np.asarray(refs["photom"]["photom.photmjsr"].data)).sum()
    np.testing.assert_allclose(along, slope, rtol=1e-3)
    np.testing.assert_allclose(along, value, rtol=1e-3)


def test_jit_equals_the_run(case):
    first, scalar, refs = case
    start, plans = first.saved["assign_wcs"], first.plans
    compiled = transforms.jit(scalar)(start, refs, plans)
    np.testing.assert_allclose(compiled, scalar(start, refs, plans), rtol=1e-5)

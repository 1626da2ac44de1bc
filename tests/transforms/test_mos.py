"""Slitlets, whose steps branch on labels, as a pipeline under transformations."""

import jax.numpy as jnp
import numpy as np
import pytest

from spec2fn import transforms
from spec2fn.engine.pipeline import after, with_parameters
from spec2fn.engine.run import run
from spec2fn.testing import exposures

MOS = "NRS_MSASPEC"


@pytest.fixture(scope="module")
def case():
    """Slitlets and fixed slits as extract_2d leaves them, and the steps that follow."""
    obs, refs = exposures.observation(MOS), exposures.references(MOS)
    # the background is combined on the host
    pipeline = with_parameters(exposures.pipeline(MOS), {"master_background": {"skip": True}})
    first = run(pipeline, obs.science, refs, members=obs.members, save_steps=["extract_2d"])
    used = {k: v for k, v in refs.items() if v is not None}
    rest = after(pipeline, "extract_2d")

    def spectra(slits, refs, plans):
        return run(rest, slits, refs, plans=plans).products["x1d"]

    slits = first.saved["extract_2d"]
    assert {"flat_field", "pathloss", "barshadow", "photom", "extract_1d"} <= {
        key.removeprefix("mos/") for key in first.plans
    }
    return spectra, (slits, used, first.plans)


def test_compiled_equals_eager(case):
    spectra, arguments = case
    eager, compiled = spectra(*arguments), transforms.jit(spectra)(*arguments)
    assert set(compiled.variables) == set(eager.variables)
    for name, variable in eager.variables.items():
        if variable.dtype.kind == "f":
            np.testing.assert_allclose(compiled[name], variable, rtol=1e-5, atol=1e-12)
        else:
            np.testing.assert_array_equal(compiled[name], variable)


def test_gradients_equal_finite_differences(case):
    spectra, (slits, refs, plans) = case

    def total(slits, refs, plans):
        return jnp.nansum(spectra(slits, refs, plans)["flux"].data) * 1e3

    wrt = tuple(f"{i}/sci" for i in range(len(slits.buckets)))
    gradient = transforms.jit(
        transforms.value_and_grad(total, {0: wrt, 1: ("photom/photom.photmj",)})
    )
    value, grads = gradient(slits, refs, plans)
    assert float(value) == pytest.approx(float(total(slits, refs, plans)), rel=1e-6)
    (of_photom,) = grads[1].values()
    old = refs["photom"]["photom.photmj"]
    up, down = (
        float(total(slits, {**refs, "photom": changed}, plans))
        for changed in (
            refs["photom"].assign({old.name: (old.dims, old.values * np.float32(f))})
            for f in (1.02, 0.98)
        )
    )
    assert (up - down) / 2 == pytest.approx(float((of_photom * 0.02 * old.values).sum()), rel=1e-4)

    rng = np.random.default_rng(2)
    change, moved = 0.0, []
    for i, bucket in enumerate(slits.buckets):
        slope, sci = np.asarray(grads[0][f"{i}/sci"], dtype=float), bucket["sci"].values
        assert np.isfinite(slope).all()
        assert (slope != 0).any()
        step = (rng.uniform(0.01, 0.03, sci.shape) * np.sign(slope)).astype(sci.dtype)
        moved.append(step)
        change += float((slope * step).sum())

    def at(sign):
        parts = zip(slits.buckets, moved, strict=True)
        put = [b.assign(sci=(b["sci"].dims, b["sci"].data + sign * m)) for b, m in parts]
        return float(total(type(slits)(tuple(put)), refs, plans))

    assert (at(1) - at(-1)) / 2 == pytest.approx(change, rel=2e-3)

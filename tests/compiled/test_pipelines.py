"""Every pipeline as a whole: compiled, differentiated, mapped over realisations."""

import re

import jax.numpy as jnp
import numpy as np
import pytest

from spec2fn.pieces import pieces_of
from spec2fn.pipelines import MODES
from spec2fn.testing import exposures

# most of the time is compilation; modes that share their steps with one that is not slow
SLOW = {"MIR_LRS-FIXEDSLIT", "MIR_MRS", "MIR_WFSS", "NIS_SOSS", "NRC_WFSS", "NRS_IFU"}
CASES = [
    pytest.param(m, marks=pytest.mark.slow if m in SLOW else ())
    for m in MODES
    if m in exposures.EXP_TYPES  # lamps have none of their own
]
# fields of plans in which spectra are smooth (the correction of apertures has kinks in sizes)
SMOOTH = ("fraction", "area", "spatial", "apcorr_table")


@pytest.fixture(params=CASES, scope="module")
def compiled(request, planned):
    return planned(request.param)


def assert_same(made, eager):
    for a, b in zip(pieces_of(made), pieces_of(eager), strict=True):
        assert set(a.variables) == set(b.variables)
        assert {k: v for k, v in a.attrs.items() if k != "meta"} == {
            k: v for k, v in b.attrs.items() if k != "meta"
        }
        for name, variable in b.variables.items():
            assert a[name].dims == variable.dims, name
            one, other = np.asarray(a[name].data), np.asarray(variable.data)
            assert one.dtype == other.dtype, name
            if other.dtype.kind != "f":
                np.testing.assert_array_equal(one, other, name)
                continue
            finite = np.isfinite(other)
            np.testing.assert_array_equal(np.isfinite(one), finite, name)
            # sums of pixels of opposite sign are as good as the pixels
            size = np.abs(other[finite]).max(initial=0.0)
            np.testing.assert_allclose(
                one[finite], other[finite], rtol=1e-5, atol=1e-6 * size, err_msg=name
            )


def test_compiled_equals_eager(compiled):
    made = compiled.products()
    assert set(made) == set(compiled.first.products)
    for kind, product in compiled.first.products.items():
        assert_same(made[kind], product)
        for a, b in zip(pieces_of(made[kind]), pieces_of(product), strict=True):
            assert a.attrs["meta"] is b.attrs["meta"]


def total(products):
    """A number to which every element of the spectra contributes by its own weight."""
    flux = products["x1d"]["flux"].data
    weights = np.random.default_rng(7).uniform(0.5, 1.5, flux.shape)
    return jnp.where(jnp.isfinite(flux), flux, 0.0).ravel() @ weights.ravel() * 1e3


def chosen(compiled):
    """Pixels, a flat, a factor of photom and a field of a plan, by path."""
    known = compiled.parameters()
    (science,) = [p for p in known if re.fullmatch(r"science/sci", p)]
    flat = next(p for p in known if re.fullmatch(r"refs/[fsd]?flat/.*sci", p))
    # an image for the MRS
    factors = r"refs/photom/(photom\.(photmj|photmjsr)|sci)"
    photom = next(p for p in known if re.fullmatch(factors, p))
    plan = next(
        p
        for field in SMOOTH
        for p in known
        if p.startswith("plans/") and p.endswith(f"/{field}") and "master_background" not in p
    )
    return science, flat, photom, plan


def test_gradients_equal_finite_differences(compiled):
    paths = chosen(compiled)
    value, gradients = compiled.value_and_grad(total, paths)()
    assert float(value) == pytest.approx(float(total(compiled.first.products)), rel=1e-5)
    rng = np.random.default_rng(3)
    for path in paths:
        slope = np.asarray(gradients[path], dtype=float)
        held = np.asarray(compiled.value(path))
        assert np.isfinite(slope).all(), path
        assert (slope != 0).any(), path
        size = 2e-3 * np.nan_to_num(np.abs(held))
        step = (rng.uniform(0.5, 1.5, held.shape) * np.sign(slope) * size).astype(held.dtype)
        up, down = (
            float(total(compiled.products({path: (held + sign * step).astype(held.dtype)})))
            for sign in (1, -1)
        )
        assert (up - down) / 2 == pytest.approx(float((slope * step).sum()), rel=5e-3), path


def test_mapped_over_realisations_equals_a_loop(compiled):
    sci = compiled.observation.science["sci"].values
    rng = np.random.default_rng(1)
    several = (sci * rng.uniform(0.9, 1.1, (2, *sci.shape))).astype(sci.dtype)
    one_kind = compiled.only("x1d")
    mapped = one_kind.vmap("realisation")({"science/sci": several})["x1d"]
    for i, one in enumerate(several):
        alone = compiled.products({"science/sci": one})["x1d"]
        assert_same(mapped.isel(realisation=i), alone)

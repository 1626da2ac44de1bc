"""Scaling the data by k scales flux by k and variances by k²."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spec2fn import run
from spec2fn.schema import EXTRACTED, PLANES, replace_data
from spec2fn.testing import exposures, strategies

# k of either sign would exchange maxima and minima, which sigma clipping and pixel replacement
# rightly notice only through rounding; a power of two leaves the rounding of float32 alone
FACTORS = st.sampled_from([2.0**n for n in (*range(5, 13), *range(-12, 0))])
LINEAR = (
    "background",
    "barshadow",
    "flat_field",
    "imprint",
    "master_background",
    "nsclean",
    "pathloss",
    "photom",
    "pixel_replace",
    "resample_spec",
)
CASES = [
    (key, exp_type)
    for exp_type in exposures.EXP_TYPES
    for key in exposures.step_keys(exp_type)
    if key.rpartition("/")[2] in LINEAR
]
_POWER = {"value": 1, "variance": 2}


def scaled(ds, factor):
    if hasattr(ds, "buckets"):
        return ds.map(lambda b: scaled(b, factor))
    planes = {
        name: ds[name].data * np.float32(factor ** _POWER[plane.kind])
        for name, plane in PLANES.items()
        if name in ds and plane.kind in _POWER
    }
    return replace_data(ds, None, **planes)


def assert_scaled(after, before, factor):
    if hasattr(before, "buckets"):
        for a, b in zip(after.buckets, before.buckets, strict=True):
            assert_scaled(a, b, factor)
        return
    for name, plane in PLANES.items():
        if name not in before or plane.kind not in _POWER:
            continue
        expected = before[name].data.astype(np.float64) * factor ** _POWER[plane.kind]
        # what is smaller has fewer digits in float32
        least = np.finfo(np.float32).tiny
        np.testing.assert_allclose(after[name].data, expected, 1e-5, least, err_msg=name)


@pytest.mark.parametrize(("name", "exp_type"), CASES)
def test_steps_are_linear(name, exp_type):
    given_to = exposures.step_input(name, exp_type)

    @strategies.share(0.01)
    @given(seed=st.integers(0, 2**32 - 1), factor=FACTORS)
    def check(seed, factor):
        ds = strategies.disturb(given_to.dataset, seed)
        members = {
            role: tuple(scaled(m, factor) for m in values)
            for role, values in given_to.members.items()
        }
        before = given_to(ds)
        after = given_to.step(scaled(ds, factor), **given_to.references, **members)
        assert_scaled(after, before, factor)

    check()


@pytest.mark.parametrize("exp_type", exposures.EXP_TYPES)
def test_the_spectrum_is_linear_in_the_exposure(exp_type):
    pipeline, refs = exposures.pipeline(exp_type), exposures.references(exp_type)
    obs = exposures.observation(exp_type)

    def spectrum(factor):
        members = {
            role: tuple(scaled(m, factor) if "sci" in m else m for m in values)
            for role, values in obs.members.items()
        }
        return run(pipeline, obs.replace(scaled(obs.science, factor), **members), refs).dataset

    before = spectrum(1.0)

    @strategies.share(0.01)
    @given(factor=FACTORS)
    def check(factor):
        after = spectrum(factor)
        for name in EXTRACTED:
            if name in ("wavelength", "dq", "npixels") or name not in before:
                power = 0
            else:
                power = 2 if "_var_" in name else 1
            if name in before:
                expected = before[name].data * factor**power
                np.testing.assert_allclose(after[name].data, expected, rtol=1e-5, err_msg=name)

    check()

"""A slit does not notice its neighbours: neither their order, nor their number, nor padding."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spec2fn.dq import PIXEL
from spec2fn.slits import PADDING, Slits
from spec2fn.testing import exposures, nirspec_modes, strategies

WHOLE = ("extract_2d", "master_background")  # make slits, or look at all of them
CASES = [
    pytest.param(name, exp_type, id=f"{name}-{exp_type}")
    for exp_type in nirspec_modes.SLIT_TYPES
    for name in exposures.step_keys(exp_type)[exposures.step_keys(exp_type).index("extract_2d") :]
    if name.rpartition("/")[2] not in WHOLE
]
SEVERAL = [c for c in CASES if c.values[1] != "NRS_BRIGHTOBJ" and not c.values[0].startswith("fs/")]
SEEDS = st.integers(1, 2**32 - 1)
PADS = st.tuples(st.integers(2, 5), st.integers(1, 7))


def by_slit(out):
    """What a step made of each slit, without padding."""
    if isinstance(out, Slits):
        return {i: out.slit(i) for i in out.ids}
    ids = out["slit"].values if "slit" in out else np.zeros(out.sizes["spectrum"], int)
    return {
        int(i): out.isel(spectrum=k, wave=slice(int(out["n_wave"][k]))) for k, i in enumerate(ids)
    }


def assert_same_slits(out, expected, ids=None):
    ours, theirs = by_slit(out), by_slit(expected)
    assert list(ours) == list(theirs if ids is None else ids)
    for i, one in ours.items():
        assert set(one.variables) == set(theirs[i].variables)
        for name, variable in one.variables.items():
            a, b = variable.values, theirs[i][name].values
            assert a.shape == b.shape, (i, name)
            if a.dtype.kind == "f":
                # sums over rows of another length round differently
                size = np.abs(b[np.isfinite(b)]).max(initial=0.0)
                rtol = 1e-5 if a.dtype == np.float32 else 1e-9
                np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-7 * size, err_msg=name)
            else:
                np.testing.assert_array_equal(a, b, err_msg=name)


def turned(slits, seed):
    rng = np.random.default_rng(seed)
    buckets = [b.isel(slit=shuffled(rng, b.sizes["slit"])) for b in slits.buckets]
    return Slits(tuple(buckets[i] for i in shuffled(rng, len(buckets))))


def shuffled(rng, n):
    """Another order, if there is one."""
    order = rng.permutation(n)
    return order[::-1] if np.array_equal(order, np.arange(n)) else order


def widened(bucket, y, x):
    names = [n for n, v in bucket.data_vars.items() if {"y", "x"} & set(v.dims)]
    fill = {
        n: PADDING if n == "dq" else np.nan if bucket[n].dtype.kind == "f" else 0 for n in names
    }
    wide = bucket[names].pad(y=(0, y), x=(0, x), constant_values=fill)
    for n in names:
        wide[n] = wide[n].astype(bucket[n].dtype)
    return bucket.drop_vars(names).assign(wide.data_vars)


def emptied(slits, kind):
    """Every bucket with its first slit off the detector, or without size."""

    def empty(bucket):
        first = np.arange(bucket.sizes["slit"]) == 0
        new = {}
        for name, variable in bucket.data_vars.items():
            if {"y", "x"} <= set(variable.dims):
                data = variable.values.copy()
                gone = PADDING if kind == "zero-size" else PIXEL["DO_NOT_USE"]
                data[0] = gone if name == "dq" else np.nan if data.dtype.kind == "f" else 0
                new[name] = (variable.dims, data)
        bucket = bucket.assign(new)
        if kind == "zero-size":
            for name in ("xsize", "ysize"):
                bucket = bucket.assign({name: ("slit", np.where(first, 0, bucket[name].values))})
        else:
            bucket = bucket.assign(xstart=("slit", np.where(first, 5000, bucket["xstart"].values)))
        return bucket

    return slits.map(empty)


@pytest.mark.parametrize(("name", "exp_type"), SEVERAL)
def test_order_does_not_matter(name, exp_type):
    given_to = exposures.step_input(name, exp_type)

    @strategies.share(0.01)
    @given(seed=SEEDS)
    def check(seed):
        slits = strategies.disturb(given_to.dataset, seed)
        assert_same_slits(given_to(turned(slits, seed)), given_to(slits))

    check()


@pytest.mark.parametrize(("name", "exp_type"), SEVERAL)
def test_some_slits_are_those_of_all(name, exp_type):
    given_to = exposures.step_input(name, exp_type)

    @strategies.share(0.01)
    @given(seed=SEEDS)
    def check(seed):
        slits = strategies.disturb(given_to.dataset, seed)
        ids = np.array(slits.ids)
        chosen = np.random.default_rng(seed).permutation(ids)[: 1 + seed % (len(ids) - 1)]
        some = slits.where(lambda b: np.isin(b["slit"].values, chosen))
        assert_same_slits(given_to(some), given_to(slits), sorted(chosen))

    check()


@pytest.mark.parametrize(("name", "exp_type"), CASES)
def test_padding_does_not_matter(name, exp_type):
    given_to = exposures.step_input(name, exp_type)

    @strategies.share(0.01)
    @given(seed=SEEDS, pads=PADS)
    def check(seed, pads):
        slits = strategies.disturb(given_to.dataset, seed)
        assert_same_slits(given_to(slits.map(lambda b: widened(b, *pads))), given_to(slits))

    check()


@pytest.mark.parametrize(("name", "exp_type"), SEVERAL)
@pytest.mark.parametrize("kind", ["off-detector", "zero-size"])
def test_slits_without_light_disturb_nobody(name, exp_type, kind):
    given_to = exposures.step_input(name, exp_type)
    slits = given_to.dataset
    out = given_to(emptied(slits, kind))
    lost = {int(b["slit"].values[0]) for b in slits.buckets}
    rest = given_to(slits)
    for i in set(by_slit(out)) - lost:
        for plane in ("sci", "err", "dq", "flux", "flux_error"):
            if plane in by_slit(rest)[i]:
                a, b = (by_slit(v)[i][plane].values for v in (out, rest))
                np.testing.assert_allclose(a, b, rtol=1e-5, err_msg=plane)
    assert set(by_slit(rest)) - lost <= set(by_slit(out))


@pytest.mark.parametrize("exp_type", nirspec_modes.SLIT_TYPES)
def test_an_exposure_of_dark_slits_is_calibrated(exp_type):
    from spec2fn import run

    obs = exposures.observation(exp_type)
    dark = np.full(obs.science["sci"].shape, np.nan, np.float32)
    planes = dict.fromkeys(("sci", "err", "var_poisson"), (obs.science["sci"].dims, dark))
    flags = np.full(dark.shape, PIXEL["DO_NOT_USE"], np.uint32)
    science = obs.science.assign({**planes, "dq": (obs.science["dq"].dims, flags)})
    science["sci"].attrs["units"] = "DN/s"
    out = run(exposures.pipeline(exp_type), obs.replace(science), exposures.references(exp_type))
    assert "cal" in out.products
    for part in out.products["cal"].buckets:
        assert np.isnan(part["sci"].values).all()

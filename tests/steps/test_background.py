"""The step background."""

import numpy as np
import pytest

from spec2fn.errors import HostOnlyError, ParameterError
from spec2fn.schema import meta_of, status_of
from spec2fn.steps.background import background


@pytest.fixture
def pair(lrs_case):
    rng = np.random.default_rng(0)

    def make(shape=(12, 10), level=5.0):
        ds = lrs_case.exposure(shape=shape)
        dims = ds["sci"].dims
        sci = rng.normal(level, 1, shape).astype(np.float32)
        var = {k: (dims, np.full(shape, 0.5, np.float32)) for k in ("var_poisson", "var_rnoise")}
        return ds.assign(sci=(dims, sci, {"units": "DN/s"}), **var)

    return make


def test_nod_partner_is_subtracted_and_its_variance_added(pair):
    science, nod = pair(), pair()
    nod["dq"][3, 4] = 1 << 11
    out = background(science, background=(nod,))
    np.testing.assert_array_equal(out["sci"], science["sci"] - nod["sci"])
    np.testing.assert_allclose(out["err"], np.sqrt(2.0), rtol=1e-6)
    np.testing.assert_allclose(out["var_poisson"], 1.0)
    np.testing.assert_allclose(out["var_rnoise"], 1.0)
    assert out["dq"].values[3, 4] == 1 << 11
    assert out["sci"].attrs["units"] == "DN/s"
    assert out["sci"].dtype == out["err"].dtype == np.float32
    assert status_of(out, "background") == "COMPLETE"
    assert "combined_background" not in meta_of(out).records


def test_errors_stay_without_propagation(pair):
    science = pair((3, 12, 10))
    out = background(science, background=(pair(),), propagate_variance=False)
    for name in ("err", "var_poisson", "var_rnoise"):
        np.testing.assert_array_equal(out[name], science[name])


def test_difference_scatters_as_its_errors_say(pair):
    science, nods = pair((2, 60, 70)), tuple(pair((2, 60, 70)) for _ in range(2))
    out = background(science, background=nods)
    pull = out["sci"].values / out["err"].values
    assert np.std(pull) == pytest.approx(1.0, abs=0.03)


@pytest.mark.parametrize("science", [(12, 10), (3, 12, 10)])
@pytest.mark.parametrize("other", [(12, 10), (2, 12, 10)])
def test_any_number_of_integrations_on_either_side(pair, science, other):
    science, other = pair(science), pair(other)
    out = background(science, background=(other,))
    level = other["sci"].values.reshape(-1, 12, 10).mean(axis=0)
    np.testing.assert_allclose(out["sci"], science["sci"].values - level, rtol=1e-5, atol=1e-6)


def test_zero_background_changes_no_bit(pair):
    science, empty = pair(), pair()
    for name in ("sci", "err", "var_poisson", "var_rnoise"):
        empty[name] = empty[name] * np.float32(0)
    out = background(science, background=(empty,))
    for name in ("sci", "err", "dq", "var_poisson", "var_rnoise"):
        np.testing.assert_array_equal(out[name], science[name])


def test_reasons_to_skip_and_to_refuse(pair):
    science = pair()
    assert status_of(background(science), "background") == "SKIPPED: no background exposures"
    away = pair().assign_attrs(xstart=500)
    reason = status_of(background(science, background=(away,)), "background")
    assert reason == "SKIPPED: no background exposure overlaps the subarray"
    with pytest.raises(ParameterError, match=r"bkg_list names nod\.fits"):
        background(science, bkg_list=("nod.fits",))
    for bad in ({"sigma": -1}, {"maxiters": 0}):
        with pytest.raises(ParameterError, match=f"background.{next(iter(bad))}"):
            background(science, background=(pair(),), **bad)


def test_combined_image_is_kept_on_request(pair):
    science, nod = pair(), pair((2, 12, 10))
    out = background(science, background=(nod,), save_combined_background=True)
    image = meta_of(out).records["combined_background"]
    np.testing.assert_array_equal(out["sci"], science["sci"] - image["sci"])
    assert meta_of(image).filename == "exposure.fits"
    assert "combined_background" not in meta_of(science).records


def test_transformations(pair):
    pytest.importorskip("jax")
    from spec2fn import transforms

    science, nod = pair((2, 12, 10)), pair()
    plan = background.plan(science, background=(nod,))
    expected = background(science, plan=plan)
    compiled = transforms.jit(background)(science, plan=plan)
    for name in ("sci", "err", "dq", "var_poisson"):
        np.testing.assert_allclose(compiled[name], expected[name], rtol=1e-6)

    def total(ds, plan):
        return (background(ds, plan=plan)["sci"] ** 2).sum()

    _, gradient = transforms.value_and_grad(total)(science, plan)
    np.testing.assert_allclose(gradient["sci"], 2 * expected["sci"], rtol=1e-5)
    with pytest.raises(HostOnlyError, match=r"background\.plan"):
        transforms.jit(lambda ds: background(ds, background=(nod,)))(science)

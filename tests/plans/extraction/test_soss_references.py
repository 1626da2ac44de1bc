"""References of overlapping orders that lack something."""

from dataclasses import replace

import numpy as np
import pytest
import xarray as xr

from spec2fn.errors import InputError, ReferenceError
from spec2fn.plans.extraction.soss_references import order_profiles, spectral_kernel, trace_model
from spec2fn.schema import meta_of, with_meta
from spec2fn.steps.extract_soss import extract_soss
from spec2fn.testing import exposures


@pytest.fixture(scope="module")
def given():
    return exposures.step_input("extract_1d", exposures.SOSS)


@pytest.fixture(scope="module")
def pastasoss(given):
    return given.references["pastasoss"]


def without(ref, *path):
    tree = dict(ref.attrs["tree"])
    part = tree
    for key in path[:-1]:
        part[key] = dict(part[key])
        part = part[key]
    del part[path[-1]]
    return ref.assign_attrs(tree=tree)


def with_keyword(ds, keyword, value):
    header = meta_of(ds).primary.copy()
    header.pop(keyword, None)
    if value is not None:
        header[keyword] = value
    return with_meta(ds, primary=header)


def test_every_order_has_its_trace(given, pastasoss):
    model = trace_model(given.dataset, pastasoss, (1, 2, 3))
    assert [t.order for t in model.orders] == [1, 2, 3]
    assert len(model.throughputs) == 3
    assert model.separation[0] < model.separation[1]
    tree = pastasoss.attrs["tree"]
    fewer = pastasoss.assign_attrs(tree={**tree, "traces": tree["traces"][:2]})
    assert [t.order for t in trace_model(given.dataset, fewer, (1, 2, 3)).orders] == [1, 2]
    with pytest.raises(ReferenceError, match="no trace of orders 3; use another"):
        trace_model(given.dataset, fewer, (3,))


@pytest.mark.parametrize(
    "path", [("traces",), ("throughputs",), ("meta", "pwcpos_cmd"), ("meta", "wavemap_nwl")]
)
def test_a_missing_entry_is_named(given, pastasoss, path):
    with pytest.raises(ReferenceError, match=f"no entry '{path[-1]}'"):
        trace_model(given.dataset, without(pastasoss, *path), (1, 2))


@pytest.mark.parametrize(
    ("value", "says"),
    [(None, "PWCPOS is missing"), (250.0, "beyond the angles"), ("north", "PWCPOS")],
)
def test_the_wheel_has_to_be_known(given, pastasoss, value, says):
    with pytest.raises(InputError, match=says):
        trace_model(with_keyword(given.dataset, "PWCPOS", value), pastasoss, (1, 2))


def test_profiles_lose_their_border_and_have_to_fit(given):
    ref = given.references["specprofile"]
    shape = given.dataset.sizes["y"], given.dataset.sizes["x"]
    whole = order_profiles(ref, (1, 2), shape)
    assert whole.shape == (2, *shape)
    inner = order_profiles(ref, (1, 2), (shape[0] - 4, shape[1]))
    np.testing.assert_array_equal(inner, whole[:, 2:-2])
    for rows in (shape[0] + 2, shape[0] - 1):
        with pytest.raises(ReferenceError, match="the exposure is"):
            order_profiles(ref, (1,), (rows, shape[1]))
    with pytest.raises(ReferenceError, match="no profile of order 7"):
        order_profiles(ref, (7,), shape)


def test_the_kernel_has_a_width(given):
    ref = given.references["speckernel"]
    assert spectral_kernel(ref).pixels % 2 == 1
    headless = ref.assign_attrs(meta=replace(meta_of(ref), primary=None, science=None))
    with pytest.raises(ReferenceError, match="HALFWIDT"):
        spectral_kernel(headless)
    with pytest.raises(ReferenceError, match="'kernels'"):
        spectral_kernel(ref.drop_vars("kernels"))


@pytest.mark.parametrize(
    ("attrs", "says"),
    [
        ({"filter": "F277W"}, "FILTER CLEAR only"),
        ({"subarray": "FULL"}, "subarrays SUBSTRIP256 and SUBSTRIP96"),
    ],
)
def test_what_cannot_be_extracted_is_left_alone_and_says_why(given, attrs, says):
    ds = given.dataset.assign_attrs(attrs)
    out = extract_soss(ds, **given.references)
    assert out.attrs["status_extract_1d"].startswith("SKIPPED: ")
    assert says in out.attrs["status_extract_1d"]
    assert "sci" in out


def test_references_are_needed(given):
    for name in ("pastasoss", "specprofile", "speckernel"):
        with pytest.raises(ReferenceError, match=f"reference {name!r} is missing"):
            extract_soss(given.dataset, **{**given.references, name: None})


def test_a_grid_has_to_be_one(given):
    with pytest.raises(InputError, match="soss_wave_grid_in has no WAVEGRID"):
        extract_soss(
            given.dataset, **given.references, soss_wave_grid_in=xr.Dataset({"sci": ("x", [1.0])})
        )

"""What leaves an exposure as it is: nothing to subtract, nothing to replace, a second time."""

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from spec2fn.dq import PIXEL
from spec2fn.kernels import pixel_replace
from spec2fn.kernels.background import add_in_quadrature
from spec2fn.kernels.extraction import box_extract
from spec2fn.kernels.scaling import agree_on_invalid, rescale
from spec2fn.plans.background.selfcal import SelfcalPlan
from spec2fn.plans.slits.msaflagopen import FailedOpenPlan
from spec2fn.steps.background import background
from spec2fn.steps.badpix_selfcal import badpix_selfcal
from spec2fn.steps.msaflagopen import msaflagopen
from spec2fn.testing import strategies
from spec2fn.testing.strategies import flags, masks, numbers, planes

VARIANCES = ("var_poisson", "var_rnoise")
DO_NOT_USE = PIXEL["DO_NOT_USE"]
SHAPES = st.sampled_from([(1, 1), (4, 3), (2, 3, 3)])


@st.composite
def exposures(draw, shape):
    """Exposures in which NaN and DO_NOT_USE mark the same pixels."""
    dims = ("integration", "y", "x")[-len(shape) :]
    values = {"sci": draw(planes(shape))}
    values |= {n: draw(planes(shape, positive=True)) for n in ("err", *VARIANCES)}
    values, dq = agree_on_invalid(values, draw(flags(shape)), DO_NOT_USE)
    attrs = {"exp_type": "MIR_LRS-FIXEDSLIT", "instrument": "MIRI"}
    arrays = {n: (dims, v, {"units": "DN/s"}) for n, v in {**values, "dq": dq}.items()}
    return xr.Dataset(arrays, attrs=attrs)


def empty(ds):
    """An exposure without light and errors."""
    flat = ds.isel(integration=0) if "integration" in ds.dims else ds
    return flat.assign({n: 0 * flat["dq"].astype(v.dtype) for n, v in flat.data_vars.items()})


def assert_same(a, b):
    assert set(a.variables) == set(b.variables)
    for name in b.variables:
        np.testing.assert_array_equal(a[name].data, b[name].data, err_msg=name)


@given(SHAPES.flatmap(exposures))
def test_an_empty_background_subtracts_nothing(ds):
    assert_same(background(ds, background=(empty(ds),)), ds)


@given(SHAPES.flatmap(exposures))
def test_an_exposure_less_itself_is_empty(ds):
    if "integration" in ds.dims:
        ds = ds.isel(integration=0)
    twin = ds.assign_attrs(filename="twin.fits").copy(deep=True)
    left = background(ds, background=(twin,))["sci"].data
    assert (left[np.isfinite(ds["sci"].data)] == 0).all()


@given(planes((3, 4), positive=True))
def test_no_variance_adds_nothing(err):
    np.testing.assert_array_equal(add_in_quadrature(err, np.zeros((3, 4), np.float32)), err)


@given(st.data(), st.sampled_from([None, 1, 2]), st.sampled_from([0, 3]))
def test_a_dark_region_has_no_background(data, terms, length):
    """Light within the aperture alone, and all around it none: nothing is subtracted."""
    shape = (3, 9)
    region = np.ones(shape, bool)
    region[:, 3:6] = False
    aperture = np.where(region, 0.0, 1.0)
    light = data.draw(planes(shape, finite=True, dtype=np.float64)) * aperture
    good = data.draw(masks(shape))
    good[:, [0, 2, 7]] = True  # a polynomial and a median want pixels
    basis = None if terms is None else np.vander(np.linspace(-1, 1, 9), terms, increasing=True)
    plain = box_extract(light, good, aperture)
    out = box_extract(light, good, aperture, region, basis=basis, smoothing_length=length)
    np.testing.assert_array_equal(out.flux, plain.flux)
    assert not out.background.any()


STEPS = {
    "badpix_selfcal": (badpix_selfcal, SelfcalPlan, "bad"),
    "msaflagopen": (msaflagopen, FailedOpenPlan, "failed"),
}


@pytest.mark.parametrize("name", STEPS)
@given(st.data(), SHAPES)
def test_flagging_twice_is_flagging_once(name, data, shape):
    step, plan, field = STEPS[name]
    ds, bad = data.draw(exposures(shape)), data.draw(masks(shape[-2:]))
    held = plan(**{field: bad})
    once = step(ds, plan=held)
    assert_same(step(once, plan=held), once)
    # nothing but the pixels of the plan is touched, and no flag is lost
    kept = np.broadcast_to(~bad, shape)
    for variable in ds.data_vars:
        before, after = (d[variable].data for d in (ds, once))
        np.testing.assert_array_equal(after[kept], before[kept], err_msg=variable)
    assert ((once["dq"].data & ds["dq"].data) == ds["dq"].data).all()


@given(SHAPES.flatmap(lambda s: st.tuples(planes(s), planes(s, positive=True), flags(s))))
def test_nan_and_flags_agree_once_and_for_all(drawn):
    sci, err, dq = drawn
    values, flagged = agree_on_invalid({"sci": sci, "err": err}, dq, DO_NOT_USE)
    invalid = np.isnan(sci) | np.isnan(err) | ((dq & DO_NOT_USE) != 0)
    for plane in values.values():
        np.testing.assert_array_equal(np.isnan(plane), invalid)
    np.testing.assert_array_equal((flagged & DO_NOT_USE) != 0, invalid)
    again, same = agree_on_invalid(values, flagged, DO_NOT_USE)
    np.testing.assert_array_equal(same, flagged)
    for name, plane in again.items():
        np.testing.assert_array_equal(plane, values[name])


@given(st.data(), SHAPES)
def test_a_factor_is_taken_back(data, shape):
    """Values multiplied by a power of two and divided by it are as they were."""
    ds = data.draw(exposures(shape))
    values = {n: ds[n].data for n in ("sci", "err")}
    variances = {n: ds[n].data for n in VARIANCES}
    factor = np.float32(2.0) ** data.draw(numbers(shape[-2:], -6, 6, step=1)).astype(np.float32)
    usable = np.ones(factor.shape, bool)
    flagged = ds["dq"].data
    out, dq = rescale(values, variances, flagged, factor, usable, do_not_use=DO_NOT_USE)
    back, dq = rescale(
        {n: out[n] for n in values},
        {n: out[n] for n in variances},
        dq,
        factor,
        usable,
        inverse=True,
        do_not_use=DO_NOT_USE,
    )
    np.testing.assert_array_equal(dq, flagged)
    for name, plane in {**values, **variances}.items():
        np.testing.assert_array_equal(back[name], plane, err_msg=name)


METHODS = {
    "minimum_gradient": pixel_replace.minimum_gradient,
    "fit_profile along x": lambda p: pixel_replace.fit_profile(p, 1, 2),
    "fit_profile along y": lambda p: pixel_replace.fit_profile(p, 2, 2),
    "from_model": lambda p: pixel_replace.from_model(p, np.ones_like(p["sci"]), 1),
}


@pytest.mark.parametrize("method", METHODS)
@strategies.share(0.5, shrink=True)
@given(data=st.data(), shape=st.sampled_from([(5, 6), (2, 4, 5)]))
def test_good_pixels_are_not_replaced(method, data, shape):
    ds = data.draw(exposures(shape))
    held = {n: ds[n].data for n in ("sci", "err", "dq", *VARIANCES)}
    out = METHODS[method](held)
    good = np.isfinite(held["sci"])
    for name, plane in held.items():
        np.testing.assert_array_equal(out[name][good], plane[good], err_msg=name)
    # whatever was replaced has a value and says so; what was not is as it was
    estimated = (out["dq"] & PIXEL["FLUX_ESTIMATED"]) != 0
    np.testing.assert_array_equal(out["dq"][~estimated], held["dq"][~estimated])
    assert not (out["dq"][estimated] & DO_NOT_USE).any()
    assert np.isfinite(out["sci"][estimated]).all()


@pytest.mark.parametrize("method", METHODS)
@strategies.share(0.5, shrink=True)
@given(sci=planes((5, 6), finite=True), err=planes((5, 6), finite=True, positive=True))
def test_without_bad_pixels_nothing_is_replaced(method, sci, err):
    held = {"sci": sci, "err": err, "dq": np.zeros(sci.shape, np.uint32)}
    out = METHODS[method](held)
    for name, plane in held.items():
        np.testing.assert_array_equal(out[name], plane, err_msg=name)

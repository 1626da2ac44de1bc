"""Slitless spectra that are calibrated after they have been extracted."""

import jax.numpy as jnp
import numpy as np
import pytest

from spec2fn import run, transforms
from spec2fn.errors import InputError
from spec2fn.pipelines import TSGRISM_PHOTOM_LAST, WFSS_PHOTOM_LAST
from spec2fn.schema import status_of, warnings_of
from spec2fn.steps.photom import photom
from spec2fn.testing import exposures

PIPELINES = {
    "NIS_WFSS": WFSS_PHOTOM_LAST,
    "MIR_WFSS": WFSS_PHOTOM_LAST,
    "NRC_TSGRISM": TSGRISM_PHOTOM_LAST,
}


def calibrated(exp_type, pipeline=None):
    pipeline = pipeline or exposures.pipeline(exp_type)
    return run(pipeline, exposures.observation(exp_type), exposures.references(exp_type))


@pytest.mark.parametrize("exp_type", PIPELINES)
def test_fluxes_are_those_of_calibrated_images(exp_type):
    first, last = calibrated(exp_type), calibrated(exp_type, PIPELINES[exp_type])
    assert last.products["cal"].attrs.get("status_photom") is None
    one, other = first.products["x1d"], last.products["x1d"]
    assert status_of(other, "photom") == "COMPLETE"
    # at the ends pixels of an element may be calibrated in part
    whole = np.isfinite(one["flux"].values) & np.isfinite(other["flux"].values)
    whole &= one["npixels"].values == other["npixels"].values
    assert whole.mean() > 0.2
    for name in ("flux", "flux_error", "flux_error_cov", "surf_bright", "flux_var_rnoise"):
        scale = np.median(np.abs(one[name].values[whole]))
        np.testing.assert_allclose(
            other[name].values[whole], one[name].values[whole], rtol=3e-3, atol=3e-3 * scale
        )
        assert one[name].attrs["units"] == other[name].attrs["units"]
    np.testing.assert_array_equal(one["wavelength"].shape, other["wavelength"].shape)


def test_it_is_undone():
    exp_type = "NIS_WFSS"
    refs = exposures.references(exp_type)
    given = {k: refs[k] for k in ("photom", "area")}
    rates = run(PIPELINES[exp_type][:-2], exposures.observation(exp_type), refs).dataset
    again = photom(photom(rates, **given), **given, inverse=True)
    known = np.isfinite(again["flux"].values)
    np.testing.assert_allclose(again["flux"].values[known], rates["flux"].values[known], rtol=1e-9)
    assert again["flux"].attrs["units"] == "DN/s"
    with pytest.raises(InputError, match="are in Jy already"):
        photom(photom(rates, **given), **given)


def test_an_order_without_a_row_is_lost_and_says_why():
    exp_type = "NIS_WFSS"
    refs = dict(exposures.references(exp_type))
    table = refs["photom"]
    refs["photom"] = table.isel(photom_row=[0])
    out = run(PIPELINES[exp_type], exposures.observation(exp_type), refs).products["x1d"]
    second = out["sporder"].values == 2
    assert np.isnan(out["flux"].values[second]).all()
    assert np.isfinite(out["flux"].values[~second]).any()
    assert any("no row for" in w for w in warnings_of(out))


def test_the_result_has_a_gradient():
    jax = pytest.importorskip("jax")
    exp_type = "NIS_WFSS"
    refs = exposures.references(exp_type)
    rates = run(PIPELINES[exp_type][:-2], exposures.observation(exp_type), refs).dataset
    given = {k: refs[k] for k in ("photom", "area")}
    plan = photom.plan(rates, **given)
    bare = rates.drop_attrs(deep=False).assign_attrs(
        {k: v for k, v in rates.attrs.items() if k != "meta"}
    )
    known = np.isfinite(photom(rates, **given)["flux"].values)

    def total(factor):
        flux = np.nan_to_num(bare["flux"].data) * factor
        out = photom(
            bare.assign(flux=(bare["flux"].dims, flux, bare["flux"].attrs)), **given, plan=plan
        )
        return jax.numpy.where(known, out["flux"].data, 0.0).sum()

    value, slope = jax.value_and_grad(total)(np.float64(1.0))
    assert float(slope) == pytest.approx(float(value), rel=1e-9)


def test_derivatives_by_the_response_are_finite_where_there_is_no_flux():
    exp_type = "NIS_WFSS"
    refs = exposures.references(exp_type)
    rates = run(PIPELINES[exp_type][:-2], exposures.observation(exp_type), refs).dataset
    lost = np.isnan(rates["flux"].values)
    assert lost.any()
    area, plan = refs["area"], photom.plan(rates, refs["photom"], refs["area"])

    def total(reference):
        flux = photom(rates, reference, area, plan=plan)["flux"].data
        return jnp.where(jnp.isfinite(flux), flux, 0.0).sum()

    names = ("photom.photmjsr", "photom.relresponse")
    value, slopes = transforms.value_and_grad(total, wrt=names)(refs["photom"])
    for name in names:
        # fluxes are proportional to either
        product = (np.asarray(slopes[name], float) * refs["photom"][name].values).sum()
        assert product == pytest.approx(float(value), rel=1e-6)

"""Combination of background exposures."""

import numpy as np
import pytest
import xarray as xr

from spec2fn.dq import PIXEL
from spec2fn.errors import DatasetError
from spec2fn.plans.background.background import combine_backgrounds, describe


def exposure(sci, err=0.5, dq=0, **attrs):
    sci = np.asarray(sci, dtype=np.float32)
    dims = ("integration", "y", "x")[-sci.ndim :]
    err = np.broadcast_to(np.asarray(err, np.float32), sci.shape).copy()
    dq = np.broadcast_to(np.asarray(dq, np.uint32), sci.shape).copy()
    planes = {"sci": sci, "err": err, "var_poisson": 0.6 * err**2, "var_rnoise": 0.4 * err**2}
    variables = {k: (dims, v.astype(np.float32)) for k, v in planes.items()}
    return xr.Dataset({**variables, "dq": (dims, dq)}, attrs=attrs)


SCIENCE = exposure(np.zeros((4, 5)))


def test_one_image_is_taken_as_it_is():
    image = np.arange(20.0).reshape(4, 5)
    plan = combine_backgrounds(SCIENCE, [exposure(image, err=2.0, dq=4)])
    np.testing.assert_array_equal(plan.sci, image.astype(np.float32))
    np.testing.assert_allclose(plan.var, 4.0)
    np.testing.assert_allclose(plan.var_poisson + plan.var_rnoise, 4.0, rtol=1e-6)
    assert (plan.dq == 4).all()
    assert plan.sci.dtype == plan.var.dtype == np.float32
    assert plan.dq.dtype == np.uint32


def test_mean_and_variance_of_the_mean_over_integrations_and_exposures():
    rng = np.random.default_rng(0)
    a, b = rng.normal(10, 1, (3, 4, 5)), rng.normal(10, 1, (4, 5))
    plan = combine_backgrounds(SCIENCE, [exposure(a, err=3.0, dq=1 << 2), exposure(b, err=1.0)])
    np.testing.assert_allclose(plan.sci, (a.mean(axis=0) + b) / 2, rtol=1e-6)
    np.testing.assert_allclose(plan.var, (9 / 3 + 1) / 4, rtol=1e-6)
    assert (plan.dq == 4).all()


def test_the_variance_is_that_of_repeated_draws():
    rng = np.random.default_rng(1)
    frame = exposure(np.zeros((60, 70)))
    draws = [exposure(rng.normal(5, 0.5, (4, 60, 70))) for _ in range(3)]
    plan = combine_backgrounds(frame, draws, sigma=10.0)
    assert np.std(plan.sci) == pytest.approx(np.sqrt(plan.var.mean()), rel=0.05)


def test_outliers_are_clipped_and_do_not_count():
    rng = np.random.default_rng(2)
    cube = rng.normal(10, 1, (20, 4, 5))
    cube[3, 1, 1] = 1e6
    cube[5, 2, 2] = np.nan
    plan = combine_backgrounds(SCIENCE, [exposure(cube, err=1.0)])
    kept = np.delete(cube[:, 1, 1], 3)
    assert plan.sci[1, 1] == pytest.approx(kept.mean(), rel=1e-5)
    assert plan.var[1, 1] == pytest.approx(1 / 19, rel=1e-5)
    assert plan.var[2, 2] == pytest.approx(1 / 19, rel=1e-5)
    loose = combine_backgrounds(SCIENCE, [exposure(cube, err=1.0)], sigma=50.0)
    assert loose.sci[1, 1] > 1e4


def test_where_nothing_is_valid_nothing_is_subtracted_and_the_pixel_is_flagged():
    image = np.full((4, 5), 7.0)
    image[0, 0] = np.nan
    other = np.full((2, 4, 5), 9.0)
    other[:, 0, 0] = other[:, 1, 1] = np.nan
    plan = combine_backgrounds(SCIENCE, [exposure(image), exposure(other)])
    assert plan.sci[0, 0] == plan.var[0, 0] == 0
    assert plan.dq[0, 0] == PIXEL["DO_NOT_USE"]
    assert plan.sci[1, 1] == 7.0  # the other exposure does not pull it towards zero
    assert plan.dq[1, 1] == 0
    assert plan.sci[2, 2] == 8.0


def test_subarrays_are_put_in_their_place():
    science = exposure(np.zeros((4, 5)), xstart=11, ystart=21, xsize=5, ysize=4)
    y, x = np.mgrid[21:25, 13:19]
    shifted = exposure(100.0 * y + x, xstart=13, ystart=21, xsize=6, ysize=4)
    full_y, full_x = np.mgrid[1:41, 1:31]
    full = exposure(100.0 * full_y + full_x, xstart=1, ystart=1, xsize=30, ysize=40)
    expected_y, expected_x = np.mgrid[21:25, 11:16]
    expected = 100.0 * expected_y + expected_x
    np.testing.assert_array_equal(combine_backgrounds(science, [full]).sci, expected)
    plan = combine_backgrounds(science, [shifted])
    np.testing.assert_array_equal(plan.sci[:, 2:], expected[:, 2:])
    assert (plan.dq[:, :2] == PIXEL["DO_NOT_USE"]).all()
    assert (plan.dq[:, 2:] == 0).all()
    both = combine_backgrounds(science, [shifted, full])
    np.testing.assert_array_equal(both.sci, expected)
    away = exposure(np.ones((4, 5)), xstart=100, ystart=1, xsize=5, ysize=4)
    assert combine_backgrounds(science, [away]) is None


def test_contradictions_are_explained():
    with pytest.raises(DatasetError, match=r"\(4, 6\).*\(4, 5\).*SUBSTRT1"):
        combine_backgrounds(SCIENCE, [exposure(np.zeros((4, 6)))])
    wrong = exposure(np.zeros((4, 6)), xstart=1, ystart=1, xsize=5, ysize=4)
    with pytest.raises(DatasetError, match=r"exposure 1.*\(4, 6\).*SUBSIZE"):
        combine_backgrounds(SCIENCE, [wrong])
    with pytest.raises(DatasetError, match="needs variable 'var_rnoise'"):
        combine_backgrounds(SCIENCE, [SCIENCE.drop_vars("var_rnoise")])
    science, other = SCIENCE.copy(), SCIENCE.copy()
    science["sci"] = science["sci"].assign_attrs(units="DN/s")
    other["sci"] = other["sci"].assign_attrs(units="MJy/sr")
    with pytest.raises(DatasetError, match="MJy/sr but the science exposure in DN/s"):
        combine_backgrounds(science, [other])


def test_the_combined_image_is_described_with_the_headers_of_the_science():
    science = SCIENCE.assign_attrs(exp_type="MIR_LRS-FIXEDSLIT", status_assign_wcs="COMPLETE")
    plan = combine_backgrounds(science, [exposure(np.full((4, 5), 3.0), err=2.0)])
    image = describe(plan, science)
    assert image.attrs == {"exp_type": "MIR_LRS-FIXEDSLIT", "model": "ImageModel"}
    np.testing.assert_array_equal(image["err"], 2.0)
    assert image["sci"].dims == ("y", "x")

"""The step imprint, and the rule of the grating wheel for backgrounds."""

import numpy as np
import pytest
import xarray as xr
from astropy.io import fits

from spec2fn.dq import PIXEL
from spec2fn.errors import DatasetError, InputError
from spec2fn.schema import Meta, status_of
from spec2fn.steps.background import background
from spec2fn.steps.imprint import imprint
from spec2fn.transforms import jit, value_and_grad

SHAPE = (6, 7)


def exposure(level=1.0, shape=SHAPE, seed=0, exp_type="NRS_MSASPEC", attrs=None, **header):
    rng = np.random.default_rng(seed)
    dims = ("integration", "y", "x")[-len(shape) :]
    unit = {"units": "DN/s"}
    keywords = {"OBSERVTN": "001", "PATT_NUM": 1, "GWA_XTIL": 0.34, "GWA_YTIL": 0.12, **header}
    primary = fits.Header({k: v for k, v in keywords.items() if v is not None})
    return xr.Dataset(
        {
            "sci": (dims, (level + rng.normal(0, 0.1, shape)).astype(np.float32), unit),
            "err": (dims, np.full(shape, 0.1, np.float32), unit),
            "var_poisson": (dims, np.full(shape, 0.004, np.float32)),
            "var_rnoise": (dims, np.full(shape, 0.006, np.float32)),
            "dq": (dims, np.zeros(shape, np.uint32)),
        },
        attrs={
            "exp_type": exp_type,
            "instrument": "NIRSPEC",
            **(attrs or {}),
            "meta": Meta(primary=primary, filename=f"level_{level}.fits"),
        },
    )


def flagged(ds, bit):
    dq = ds["dq"].values.copy()
    dq[..., 2, 3] = bit
    return ds.assign(dq=(ds["dq"].dims, dq))


@pytest.mark.parametrize("shape", [SHAPE, (3, *SHAPE)])
def test_a_single_imprint_is_subtracted(shape):
    ds, other = exposure(3.0, shape), flagged(exposure(1.0, seed=1), PIXEL["HOT"])
    out = imprint(ds, imprint=(other,))
    np.testing.assert_allclose(out["sci"], ds["sci"] - other["sci"], rtol=1e-6)
    np.testing.assert_allclose(out["err"], np.sqrt(0.02), rtol=1e-6)
    np.testing.assert_allclose(out["var_poisson"], 0.008, rtol=1e-6)
    np.testing.assert_allclose(out["var_rnoise"], 0.012, rtol=1e-6)
    assert (out["dq"].values[..., 2, 3] == PIXEL["HOT"]).all()
    assert out["sci"].dtype == out["err"].dtype == np.float32
    assert status_of(out, "imprint") == "COMPLETE"


def test_errors_stay_without_propagation():
    ds = exposure(3.0)
    out = imprint(ds, imprint=(exposure(1.0),), propagate_variance=False)
    for name in ("err", "var_poisson", "var_rnoise"):
        np.testing.assert_array_equal(out[name], ds[name])


def test_integrations_of_the_imprint_are_averaged():
    ds, other = exposure(3.0, (2, *SHAPE)), exposure(1.0, (4, *SHAPE), seed=1)
    out = imprint(ds, imprint=(flagged(other, PIXEL["WARM"]),))
    mean = other["sci"].values.mean(axis=0)
    np.testing.assert_allclose(out["sci"], ds["sci"].values - mean, rtol=1e-5)
    np.testing.assert_allclose(out["var_poisson"], 0.004 * 1.25, rtol=1e-6)
    np.testing.assert_allclose(out["err"], 0.1 * np.sqrt(1.25), rtol=1e-6)


def test_without_value_in_the_imprint_there_is_none_in_the_result():
    other = exposure(1.0)
    sci = other["sci"].values.copy()
    sci[1, 1] = np.nan
    out = imprint(exposure(3.0), imprint=(other.assign(sci=(("y", "x"), sci)),))
    assert np.isnan(out["sci"].values[1, 1])
    assert out["dq"].values[1, 1] == PIXEL["DO_NOT_USE"]
    assert np.isnan(out["sci"].values).sum() == 1


def test_of_several_the_one_of_the_same_dither_is_taken():
    ds = exposure(9.0, PATT_NUM=2)
    members = tuple(exposure(float(i), seed=i, PATT_NUM=i) for i in (1, 2, 3))
    out = imprint(ds, imprint=members)
    np.testing.assert_allclose(out["sci"], ds["sci"] - members[1]["sci"], rtol=1e-6)


def test_observation_counts_too():
    ds = exposure(9.0, OBSERVTN="007")
    members = (exposure(1.0), exposure(2.0, OBSERVTN="007"))
    out = imprint(ds, imprint=members)
    np.testing.assert_allclose(out["sci"], ds["sci"] - members[1]["sci"], rtol=1e-6)


def test_background_targets_have_their_own():
    target = {"background_target": True}
    ds = exposure(9.0, attrs=target, PATT_NUM=4)
    members = (exposure(1.0, PATT_NUM=4), exposure(2.0, attrs=target, PATT_NUM=1))
    out = imprint(ds, imprint=members)
    np.testing.assert_allclose(out["sci"], ds["sci"] - members[1]["sci"], rtol=1e-6)


def test_skips_say_why():
    ds = exposure(PATT_NUM=5)
    assert status_of(imprint(ds), "imprint") == "SKIPPED: no imprint exposures"
    members = (exposure(PATT_NUM=1), exposure(PATT_NUM=2))
    status = status_of(imprint(ds, imprint=members), "imprint")
    assert "none of 2 imprint exposures" in status
    assert "dither position (5)" in status
    out = imprint(exposure(exp_type="NRS_FIXEDSLIT"), imprint=members[:1])
    assert "not subtracted from NRS_FIXEDSLIT" in status_of(out, "imprint")


def test_flat_lamps_through_the_ifu_have_imprints():
    lamp = {"lamp_mode": "IFU", "lamp_state": "FLAT1"}
    ds = exposure(exp_type="NRS_LAMP", attrs=lamp)
    out = imprint(ds, imprint=(exposure(exp_type="NRS_LAMP"),))
    assert status_of(out, "imprint") == "COMPLETE"


def test_sizes_and_units_must_agree():
    with pytest.raises(DatasetError, match="same subarray"):
        imprint(exposure(), imprint=(exposure(shape=(5, 7)),))
    other = exposure()
    other["sci"].attrs["units"] = "MJy/sr"
    with pytest.raises(DatasetError, match="MJy/sr"):
        imprint(exposure(), imprint=(other,))


def test_jit_and_gradient():
    ds = exposure(3.0, (2, *SHAPE))
    plan = imprint.plan(ds, imprint=(exposure(1.0, seed=1),))
    eager, traced = imprint(ds, plan=plan), jit(imprint)(ds, plan=plan)
    for name in ("sci", "err", "dq"):
        np.testing.assert_allclose(traced[name], eager[name], rtol=1e-6)
    _, slope = value_and_grad(lambda d: imprint(d, plan=plan)["sci"].data.sum())(ds)
    np.testing.assert_array_equal(np.asarray(slope["sci"]), 1.0)


def test_background_needs_the_same_position_of_the_grating_wheel():
    science = exposure(3.0)
    assert status_of(background(science, background=(exposure(),)), "background") == "COMPLETE"
    almost = exposure(GWA_XTIL=0.34 + 5e-9)
    assert status_of(background(science, background=(almost,)), "background") == "COMPLETE"
    turned = exposure(2.0, GWA_YTIL=0.12 + 1e-6)
    out = background(science, background=(exposure(), turned))
    status = status_of(out, "background")
    assert status.startswith("SKIPPED: the grating wheel moved: GWA_YTIL")
    assert "level_2.0.fits" in status
    np.testing.assert_array_equal(out["sci"], science["sci"])


def test_position_of_the_grating_wheel_must_be_known():
    with pytest.raises(InputError, match="GWA_XTIL"):
        background(exposure(), background=(exposure(GWA_XTIL=None),))

"""Approximate world coordinates in the headers of slitless exposures."""

import logging

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from spec2fn.io import save
from spec2fn.schema import meta_of, with_meta
from spec2fn.steps.assign_wcs import assign_wcs
from spec2fn.steps.extract_2d import extract_2d
from spec2fn.testing import exposures
from spec2fn.wcs.sip import SipApproximation, SipOptions

EXP_TYPE = "NIS_WFSS"


def assigned(exp_type=EXP_TYPE, **params):
    refs = exposures.references(exp_type)
    given = {k: refs[k] for k in ("distortion", "specwcs")}
    return assign_wcs(exposures.exposure(exp_type), **given, **params)


@pytest.mark.parametrize("exp_type", ["NIS_WFSS", "NRC_WFSS", "MIR_WFSS"])
def test_the_header_of_an_image_says_where_it_is(exp_type, tmp_path):
    ds = assigned(exp_type)
    path = tmp_path / "a_assign_wcs.fits"
    save(ds, path)
    header = fits.getheader(path, "SCI")
    assert header["CTYPE1"].startswith("RA---TAN")
    assert not {"CDELT1", "PC1_1"} & set(header)
    y, x = np.mgrid[: ds.sizes["y"] : 20, : ds.sizes["x"] : 20].astype(float)
    geometry = meta_of(ds).wcs.geometry
    ra, dec = geometry.detector_to_world(x, y)
    found = WCS(header).all_pix2world(x, y, 0)
    scale = 3600 / 0.065
    cos = np.cos(np.deg2rad(dec))
    np.testing.assert_allclose((found[0] - ra) * cos * scale, 0, atol=0.01)
    np.testing.assert_allclose((found[1] - dec) * scale, 0, atol=0.01)


def test_cut_outs_have_no_such_keywords(tmp_path):
    refs, members = exposures.references(EXP_TYPE), exposures.members(EXP_TYPE)
    slits = extract_2d(assigned(), refs["wavelengthrange"], **members)
    path = tmp_path / "a_cal.fits"
    save(slits, path)
    header = fits.getheader(path, "SCI")
    assert not [k for k in header if k.startswith(("A_", "AP_", "CTYPE"))]


def test_it_can_be_switched_off(tmp_path):
    ds = assigned(sip_approx=False)
    save(ds, tmp_path / "a.fits")
    assert "CTYPE1" not in fits.getheader(tmp_path / "a.fits", "SCI")


def test_degrees_are_as_asked():
    keywords = meta_of(assigned(sip_degree=3, sip_inv_degree=2)).records["sip"].keywords
    assert keywords["A_ORDER"] == 3
    assert keywords["AP_ORDER"] == 2


def test_a_finer_fit_needs_more_terms():
    keywords = meta_of(assigned()).records["sip"].keywords
    assert "A_ORDER" not in keywords  # the distortion is linear to a hundredth of a pixel
    fine = {"sip_max_pix_error": 1e-7, "sip_max_inv_pix_error": 1e-3, "sip_npoints": 16}
    found = meta_of(assigned(**fine)).records["sip"].keywords
    assert found["A_ORDER"] > 1
    assert found["AP_ORDER"] == 1


class Crooked:
    """A gwcs that no polynomial comes close to."""

    def to_fits_sip(self, **_):
        raise RuntimeError("no degree is\n good enough")


def test_a_fit_that_is_not_good_enough_leaves_the_header_alone(tmp_path, caplog):
    ds = assigned()
    sip = SipApproximation(Crooked, (100, 150), None, SipOptions())
    ds = with_meta(ds, records={"sip": sip})
    with caplog.at_level(logging.WARNING):
        save(ds, tmp_path / "a.fits")
    assert "CTYPE1" not in fits.getheader(tmp_path / "a.fits", "SCI")
    (record,) = caplog.records
    assert "(SIP): no degree is good enough" in record.getMessage()

import pytest

from spec2fn.io import base_name, product_name


@pytest.mark.parametrize(
    ("name", "base"),
    [
        ("a/b/foo_rate.fits", "foo"),
        ("foo_rateints.fits.gz", "foo"),
        ("foo", "foo"),
        ("foo_bar.fits", "foo_bar"),
        ("foo_flat_field.fits", "foo"),
        ("rate.fits", "rate"),
        ("foo_cal_cal.fits", "foo_cal"),
        ("jw01234001001_01101_00001_mirimage", "jw01234001001_01101_00001_mirimage"),
    ],
)
def test_base_name(name, base):
    assert base_name(name) == base


@pytest.mark.parametrize(
    ("kind", "integrations", "name"),
    [
        ("cal", False, "foo_cal.fits"),
        ("cal", True, "foo_calints.fits"),
        ("bsub", True, "foo_bsubints.fits"),
        ("x1d", True, "foo_x1dints.fits"),
        ("s2d", True, "foo_s2d.fits"),
        ("flat_field", True, "foo_flat_field.fits"),
    ],
)
def test_product_name(kind, integrations, name):
    assert product_name("in/foo_rate.fits", kind, integrations) == name


def test_other_extension():
    assert product_name("foo", "cal", extension=".nc") == "foo_cal.nc"

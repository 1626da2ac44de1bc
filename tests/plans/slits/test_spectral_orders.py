"""Orders of slitless spectra and their wavelengths."""

import pytest
import xarray as xr

from spec2fn.errors import InputError, ReferenceError
from spec2fn.plans.slits.spectral_orders import extracted_orders, passband, wavelength_ranges

ROWS = [[1, "F115W", 0.97, 1.32], [2, "F115W", 0.98, 1.31], [1, "F200W", 1.75, 2.23]]


def reference(rows=ROWS, extracted=(("F115W", [2, 1]),)):
    tree = {"wavelengthrange": rows, "extract_orders": [list(e) for e in extracted]}
    return xr.Dataset(attrs={"tree": tree, "reftype": "wavelengthrange"})


def exposure(**attrs):
    return xr.Dataset(attrs={"filter": "GR150C", "pupil": "F115W", **attrs})


@pytest.mark.parametrize(
    ("attrs", "name"),
    [
        ({"filter": "GR150C", "pupil": "F115W"}, "F115W"),
        ({"filter": "F444W", "pupil": "GRISMR"}, "F444W"),
        ({"filter": "P750L"}, "P750L"),
    ],
)
def test_the_filter_is_the_one_that_is_no_grism(attrs, name):
    assert passband(xr.Dataset(attrs=attrs)) == name


def test_ranges_and_orders_come_from_the_reference():
    ranges = wavelength_ranges(exposure(), reference(), "step")
    assert ranges == {1: (0.97, 1.32), 2: (0.98, 1.31)}
    assert list(extracted_orders(exposure(), reference(), None, "step")) == [2, 1]


def test_the_user_chooses_orders():
    assert extracted_orders(exposure(), reference(), [1], "step") == {1: (0.97, 1.32)}
    with pytest.raises(InputError, match="no order 3 for F115W; there are 1, 2"):
        extracted_orders(exposure(), reference(), [3], "step")


@pytest.mark.parametrize(
    ("ref", "attrs", "message"),
    [
        (None, {}, "'wavelengthrange' is missing"),
        (xr.Dataset(attrs={"tree": {}}), {}, "has no wavelengthrange"),
        (reference(), {"pupil": "F090W"}, "has no row for filter F090W"),
        (reference([[1, "F115W", 2.0, 1.0]]), {}, "a wrong range for order 1"),
        (reference(extracted=()), {}, "set extract_orders to some of 1, 2"),
        (reference(extracted=[("F115W", [7])]), {}, "set extract_orders to some of 1, 2"),
    ],
)
def test_a_reference_that_does_not_fit(ref, attrs, message):
    with pytest.raises(ReferenceError, match=message) as error:
        extracted_orders(exposure(**attrs), ref, None, "step")
    assert "\n" not in str(error.value)

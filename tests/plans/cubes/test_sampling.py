"""Which bands of an exposure a cube holds."""

import pytest
import xarray as xr

from spec2fn.errors import ParameterError
from spec2fn.parameters import Parameters
from spec2fn.plans.cubes.sampling import Band, bands_of

NIRSPEC = {"instrument": "NIRSPEC", "grating": "G395H", "filter": "F290LP"}
MRS = {"instrument": "MIRI", "channel": "12", "band": "SHORT"}


def chosen(attrs, **given):
    names = dict.fromkeys(("channel", "band", "grating", "filter"), "all")
    return bands_of(xr.Dataset(attrs=attrs), Parameters("cube_build", {**names, **given}))


def test_all_bands_in_any_spelling():
    assert chosen(MRS) == [Band("1", "short"), Band("2", "short")]
    assert chosen(MRS, channel="ALL", band="Short") == chosen(MRS)
    assert chosen(NIRSPEC) == [Band("g395h", "f290lp")]
    assert chosen(NIRSPEC, grating="ALL") == chosen(NIRSPEC, filter="All") == chosen(NIRSPEC)


def test_some_bands():
    assert chosen(MRS, channel="3, 2") == [Band("2", "short")]
    assert chosen(NIRSPEC, grating="g235h,g395h", filter="F290LP") == chosen(NIRSPEC)


@pytest.mark.parametrize(
    ("attrs", "given", "text"),
    [
        (NIRSPEC, {"grating": "g395h"}, "grating and filter select together; give filter too"),
        (NIRSPEC, {"filter": "f290lp"}, "give grating too"),
        (MRS, {"channel": "4"}, "channel=4, band=all selects nothing; this exposure has 1 short"),
    ],
)
def test_a_selection_that_cannot_be_is_refused(attrs, given, text):
    with pytest.raises(ParameterError, match=text):
        chosen(attrs, **given)

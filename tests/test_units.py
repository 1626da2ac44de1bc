import pytest
from astropy import units as u

from spec2fn import units


@pytest.mark.parametrize(
    ("value", "one", "other"),
    [
        (units.RAD_TO_ARCSEC, u.rad, u.arcsec),
        (units.ARCSEC2_TO_SR, u.arcsec**2, u.sr),
        (units.SR_TO_ARCSEC2, u.sr, u.arcsec**2),
        (units.MJSR_TO_UJA2, u.MJy / u.sr, u.uJy / u.arcsec**2),
    ],
)
def test_constants_are_those_of_astropy(value, one, other):
    assert value == pytest.approx(one.to(other), rel=1e-14)

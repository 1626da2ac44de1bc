"""Values of keywords without parsing a header, against astropy."""

import numpy as np
import pytest
from astropy.io import fits

from spec2fn.io.fits.fitsfile import scan

VALUES = {
    "TEXT": "plain",
    "QUOTED": "O'Neill's / slit",
    "EMPTY": "",
    "BLANKS": "  lead",
    "YES": True,
    "NO": False,
    "WHOLE": -12,
    "REAL": 1.5e-300,
    "TINY": -0.25,
    "LONG": "S_REGION " * 30,
    "NOTHING": None,
    "COMPLEX": 1 + 2j,
}


@pytest.fixture
def hdu(tmp_path):
    header = fits.Header()
    for key, value in VALUES.items():
        header[key] = (value, "what / it is")
    header.append(fits.Card.fromstring("EXPONENT=              1.25D+03 / old style"))
    header["HIERARCH A LONG KEY"] = 5
    header.append(fits.Card.fromstring("TWICE   =                    1"))
    header.append(fits.Card.fromstring("TWICE   =                    2"))
    fits.PrimaryHDU(np.zeros((2, 3)), header).writeto(tmp_path / "x.fits")
    return scan(tmp_path / "x.fits").hdus[0]


def test_values_are_those_of_astropy(hdu):
    for key in (*VALUES, "EXPONENT", "TWICE", "NAXIS1", "BITPIX", "SIMPLE"):
        value, official = hdu.get(key), hdu.header.get(key)
        assert type(value) is type(official), key
        assert value == official or value is official, key
    assert hdu.get("ABSENT") is None


def test_plain_values_do_not_parse_the_header(hdu):
    for key in ("TEXT", "QUOTED", "YES", "WHOLE", "REAL", "ABSENT"):
        hdu.get(key)
    assert "header" not in vars(hdu)

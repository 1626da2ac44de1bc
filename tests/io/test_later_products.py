"""Published products that are exposures no more are refused by what they are."""

import os
from pathlib import Path

import pytest

from spec2fn.engine.checks import check_input
from spec2fn.engine.pipeline import Observation
from spec2fn.errors import InputError
from spec2fn.io import open_exposure
from spec2fn.pipelines import for_exposure

ROOT = Path(os.environ.get("SPEC2FN_REALDATA", "/none"))
pytestmark = pytest.mark.skipif(
    not ROOT.is_dir(), reason="SPEC2FN_REALDATA does not name the published JWST files"
)


def steps_told(path):
    ds = open_exposure(path)
    return check_input(for_exposure(ds)[1], Observation(ds))


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("round2/nirspec_mos_smacs/*_x1d.fits", r"is a file of extracted spectra \(_x1d\)"),
        ("round2/nirspec_mos_smacs/*_s2d.fits", r"is a resampled image \(_s2d\)"),
        ("miri_mrs/*12A_cal.fits.gz", "has been through flat_field, fringe, photom already"),
        ("nirspec_fs/*_cal.fits", "has been through extract_2d, flat_field, photom already"),
        # no S_ keyword of it says so, but its units do
        ("nirspec_mos/*_phot.138.*.fits", "photom already"),
    ],
)
def test_refused(pattern, says):
    (path,) = ROOT.glob(pattern)
    with pytest.raises(InputError, match=says) as raised:
        steps_told(path)
    assert path.name.removesuffix(".gz") in str(raised.value)


def test_a_file_that_is_only_described_goes_on():
    (path,) = (ROOT / "miri_lrs").glob("*_jwst201_calints.fits")
    (told,) = steps_told(path)
    assert f"{path.name}: assign_wcs, srctype had been done before; done again here" in told

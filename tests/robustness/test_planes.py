"""Every plane of every exposure absent, of another type, or without a value.

The products stay as they are, or one line names the extension.
"""

import numpy as np
import pytest
from astropy.io import fits

from spec2fn.demo.run import DEMOS
from spec2fn.schema import FIELD_KEYWORDS
from tests.robustness.conftest import judge

PLANES = ("SCI", "ERR", "DQ", "VAR_POISSON", "VAR_RNOISE")
QUICK = ("miri-lrs-slitless", "nirspec-bots")
MODES = [m if m in QUICK else pytest.param(m, marks=pytest.mark.slow) for m in DEMOS]
# the position it gives is no pixel of the products
APART = ("target_acquisition",)


def absent(hdus, name):
    del hdus[name]


def another_type(hdus, name):
    """Twice the precision, of flags another width: the same numbers."""
    data = hdus[name].data
    hdus[name].data = data.astype(np.float64 if data.dtype.kind == "f" else np.int32)


def without_a_value(hdus, name):
    """NaN everywhere; flags: every pixel is bad."""
    data = hdus[name].data
    data[...] = np.nan if data.dtype.kind == "f" else data | 1


def edited(case, folder, file, damage, plane):
    case.copy(folder)
    with fits.open(folder / file, mode="update") as hdus:
        damage(hdus, plane)
    return folder


@pytest.mark.parametrize("damage", [absent, another_type, without_a_value])
@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize("mode", MODES)
def test_planes_of_the_science_exposure(case, tmp_path, mode, plane, damage):
    one = case(mode)
    folder = edited(one, tmp_path / "in", one.science, damage, plane)
    said = judge(one.run(folder), one.usual, plane)
    # the error is made of its components, but weighs the background of slitless spectra
    unused = plane == "ERR" and damage is without_a_value and not mode.endswith("-wfss")
    harmless = damage is another_type or unused
    assert said == ("same" if harmless else "refused")


@pytest.mark.slow
@pytest.mark.parametrize("damage", [absent, another_type, without_a_value])
@pytest.mark.parametrize("mode", DEMOS)
def test_planes_of_associated_exposures(case, tmp_path, mode, damage):
    one = case(mode)
    for role, files in one.members.items():
        # files of a slitless field are no exposures: what they lack is said by their readers
        for plane in PLANES if role not in ("science", *FIELD_KEYWORDS) else ():
            folder = edited(one, tmp_path / f"{role}-{plane}", files[0], damage, plane)
            said = judge(one.run(folder), one.usual, plane)
            if role not in APART and damage is not another_type and plane in ("SCI", "DQ"):
                assert said == "refused", (role, plane)


def test_flags_that_are_no_integers(case, tmp_path):
    one = case("miri-lrs-slitless")

    def real(hdus, name):
        hdus[name].data = hdus[name].data.astype(np.float32)

    outcome = one.run(edited(one, tmp_path / "in", one.science, real, "DQ"))
    assert judge(outcome, one.usual, "DQ") == "refused"


def test_several_planes_that_are_missing_are_named_together(case, tmp_path):
    one = case("miri-lrs-slitless")
    folder = edited(one, tmp_path / "in", one.science, absent, "ERR")
    with fits.open(folder / one.science, mode="update") as hdus:
        del hdus["VAR_RNOISE"]
    error = str(one.run(folder).error)
    assert one.science in error
    assert "ERR, VAR_RNOISE" in error


def test_bad_integrations_beside_a_good_one_are_no_error(case, tmp_path):
    one = case("miri-lrs-slitless")

    def only_the_last(hdus, name):
        hdus[name].data[:-1] = np.nan

    outcome = one.run(edited(one, tmp_path / "in", one.science, only_the_last, "SCI"))
    assert outcome.error is None
    flux = outcome.products["x1d"]["flux"].values
    assert np.isnan(flux[:-1]).all()
    usual = one.usual.products["x1d"]["flux"].values[-1]
    np.testing.assert_array_equal(flux[-1], usual)

"""The judge of damaged input sees what it must see."""

import numpy as np
import pytest
from astropy.io import fits

from tests.robustness.conftest import Outcome, difference, edit_header, judge


@pytest.mark.parametrize("mode", ["miri-lrs-slitless", "nirspec-fs"])
def test_equal_runs_are_the_same_and_others_are_not(case, mode, tmp_path):
    one = case(mode)
    assert judge(one.run(), one.usual) == "same"
    folder = one.copy(tmp_path / "in")
    with fits.open(folder / one.science, mode="update") as hdus:
        hdus["SCI"].data += np.float32(0.1)
    other = one.run(folder)
    assert other.error is None
    assert "differs" in difference(other.products, one.usual.products)
    with pytest.raises(AssertionError, match="differs"):
        judge(other, one.usual)


def test_an_error_must_name_the_cause(case, tmp_path):
    one = case("miri-lrs-slitless")
    folder = one.copy(tmp_path / "in")
    assert edit_header(folder / one.science, "EXP_TYPE", None) == 1
    refused = one.run(folder)
    assert judge(refused, one.usual, "EXP_TYPE") == "refused"
    with pytest.raises(AssertionError):
        judge(refused, one.usual, "FILTER")
    with pytest.raises(AssertionError):
        judge(Outcome({"cal": one.usual.products["cal"]}), one.usual)

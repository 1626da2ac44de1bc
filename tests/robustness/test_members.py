"""Associated exposures that do not belong: from an association, from parameters, in Python."""

import pytest
from astropy.io import fits

from spec2fn.calibration import prepare
from spec2fn.errors import InputError
from spec2fn.io import open_observation
from tests.robustness.conftest import edit_header, judge


@pytest.fixture
def slit(case, tmp_path):
    one = case("miri-lrs-slit")
    return one, one.copy(tmp_path / "in")


def alone(one):
    """The association without its backgrounds."""
    (product,) = one.association["products"]
    members = [m for m in product["members"] if m["exptype"] != "background"]
    return {**one.association, "products": [{**product, "members": members}]}


@pytest.mark.parametrize(
    ("mode", "keyword", "value"),
    [
        ("nirspec-fs", "FILTER", "F170LP"),
        ("nirspec-fs", "GRATING", "G395H"),
        ("nirspec-fs", "DETECTOR", "NRS2"),
        ("miri-lrs-slit", "EXP_TYPE", "MIR_LRS-SLITLESS"),
    ],
)
def test_a_background_of_another_set_up(case, tmp_path, mode, keyword, value):
    one = case(mode)
    folder = one.copy(tmp_path / "in")
    nod = one.members["background"][0]
    assert edit_header(folder / nod, keyword, value) == 1
    params = {"background": {"bkg_list": [str(folder / nod)]}}
    for options in ({}, {"association": alone(one), "params": params}):
        outcome = one.run(folder, **options)
        assert judge(outcome, one.usual, keyword) == "refused"
        for word in (nod, one.science, keyword, value):
            assert word in str(outcome.error)


def test_the_exposure_as_its_own_background(slit):
    one, folder = slit
    copy = folder / "copy_rate.fits"
    copy.write_bytes((folder / one.science).read_bytes())
    outcome = one.run(
        folder, association=alone(one), params={"background": {"bkg_list": [str(copy)]}}
    )
    assert judge(outcome, one.usual, "copy_rate.fits") == "refused"
    assert one.science in str(outcome.error)


def test_a_list_of_backgrounds_gives_what_the_association_gives(slit):
    one, folder = slit
    paths = [str(folder / name) for name in one.members["background"]]
    params = {"background": {"bkg_list": paths}}
    assert judge(one.run(folder, association=alone(one), params=params), one.usual) == "same"


def test_a_list_beside_the_backgrounds_of_an_association_is_passed_over_with_a_warning(slit):
    one, folder = slit
    other = folder / "other_rate.fits"
    other.write_bytes((folder / one.members["background"][0]).read_bytes())
    outcome = one.run(folder, params={"background": {"bkg_list": [str(other)]}})
    assert judge(outcome, one.usual) == "same"
    (warning,) = (
        w
        for w in outcome.products["cal"].attrs["meta"].records["warnings"]
        if "background.bkg_list" in w
    )
    assert "is not used" in warning


def test_a_verification_image_of_another_observation(slit):
    one, folder = slit
    image = folder / "ta_rate.fits"
    image.write_bytes((folder / one.science).read_bytes())
    with fits.open(image, mode="update") as hdus:
        hdus[0].header.update(EXP_TYPE="MIR_TACONFIRM", FILTER="F560W", OBSERVTN="077")
    params = {"targ_centroid": {"skip": False, "ta_file": str(image)}}
    outcome = one.run(folder, params=params)
    assert judge(outcome, one.usual, "OBSERVTN") == "refused"
    assert "ta_rate.fits" in str(outcome.error)


def test_observations_are_checked_before_references_are_looked_for(case, tmp_path):
    one = case("nirspec-fs")
    folder = one.copy(tmp_path / "in")
    edit_header(folder / one.members["background"][0], "DETECTOR", "NRS2")
    obs = open_observation(folder / one.science)
    nod = open_observation(folder / one.members["background"][0]).science
    with pytest.raises(InputError, match="DETECTOR 'NRS2'"):
        prepare(obs.replace(background=(nod,)), parameter_references=False)

"""Associated exposures of another set-up are refused, and legal ones are not."""

import numpy as np
import pytest
import xarray as xr
from astropy.io import fits

from spec2fn.engine.forecast import plan
from spec2fn.engine.pipeline import Observation
from spec2fn.engine.run import run
from spec2fn.errors import InputError
from spec2fn.members import check_members
from spec2fn.pipelines import MODES
from spec2fn.schema import MODE_ATTRS, Meta, meta_of
from spec2fn.steps.background import background
from spec2fn.steps.badpix_selfcal import badpix_selfcal
from spec2fn.steps.imprint import imprint

MODE = {
    "MIR_LRS-FIXEDSLIT": {"INSTRUME": "MIRI", "DETECTOR": "MIRIMAGE", "FILTER": "P750L"},
    "MIR_MRS": {
        "INSTRUME": "MIRI",
        "DETECTOR": "MIRIFUSHORT",
        "CHANNEL": "12",
        "BAND": "SHORT",
    },
    "NRS_FIXEDSLIT": {
        "INSTRUME": "NIRSPEC",
        "DETECTOR": "NRS1",
        "FILTER": "F290LP",
        "GRATING": "G395H",
        "FXD_SLIT": "S200A1",
    },
    "NRS_IFU": {"INSTRUME": "NIRSPEC", "DETECTOR": "NRS1", "FILTER": "F290LP", "GRATING": "G395H"},
    "NRS_MSASPEC": {
        "INSTRUME": "NIRSPEC",
        "DETECTOR": "NRS1",
        "FILTER": "F290LP",
        "GRATING": "G395H",
        "MSAMETFL": "a_msa.fits",
        "MSAMETID": 1,
    },
}
COMMON = {
    "PROGRAM": "01234",
    "OBSERVTN": "001",
    "SUBARRAY": "FULL",
    "SUBSTRT1": 1,
    "SUBSTRT2": 1,
    "SUBSIZE1": 9,
    "SUBSIZE2": 8,
    "GWA_XTIL": 0.34,
    "GWA_YTIL": 0.12,
}


def exposure(exp_type, name="sci_rate.fits", seed=0, shape=(8, 9), **keywords):
    """An exposure with the keywords of a mode; those that are None are left out."""
    cards = {"EXP_TYPE": exp_type, "FILENAME": name, **COMMON, **MODE[exp_type], **keywords}
    header = fits.Header({k: v for k, v in cards.items() if v is not None})
    attrs = {n: header[k] for n, (k, _) in MODE_ATTRS.items() if k in header}
    rng = np.random.default_rng(seed)
    dims = ("integration", "y", "x")[-len(shape) :]
    plane = (dims, np.full(shape, 0.1, np.float32))
    return xr.Dataset(
        {
            "sci": (dims, rng.normal(1, 0.1, shape).astype(np.float32), {"units": "DN/s"}),
            **dict.fromkeys(("err", "var_poisson", "var_rnoise"), plane),
            "dq": (dims, np.zeros(shape, np.uint32)),
        },
        attrs={**attrs, "meta": Meta(primary=header, filename=name)},
    )


DIFFERENT = [
    ("MIR_LRS-FIXEDSLIT", "DETECTOR", "MIRIFULONG"),
    ("MIR_LRS-FIXEDSLIT", "EXP_TYPE", "MIR_LRS-SLITLESS"),
    ("MIR_MRS", "BAND", "LONG"),
    ("MIR_MRS", "CHANNEL", "34"),
    ("NRS_FIXEDSLIT", "GRATING", "G395M"),
    ("NRS_FIXEDSLIT", "FILTER", "F170LP"),
    ("NRS_FIXEDSLIT", "INSTRUME", "NIRISS"),
    ("NRS_IFU", "GRATING", "PRISM"),
    ("NRS_MSASPEC", "DETECTOR", "NRS2"),
]


@pytest.mark.parametrize("role", ["background", "imprint"])
@pytest.mark.parametrize(("exp_type", "keyword", "value"), DIFFERENT)
def test_another_set_up_is_refused(exp_type, keyword, value, role):
    science = exposure(exp_type)
    other = exposure(exp_type, "other_rate.fits", 1, **{keyword: value})
    with pytest.raises(InputError) as caught:
        check_members(science, {role: (exposure(exp_type, "good.fits"), other)})
    for word in (
        role,
        "other_rate.fits",
        "sci_rate.fits",
        keyword,
        value,
        science.attrs["exp_type"] if keyword == "EXP_TYPE" else meta_of(science).get(keyword),
    ):
        assert str(word) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("keyword", ["SUBSTRT1", "SUBSTRT2", "SUBSIZE1", "SUBSIZE2"])
@pytest.mark.parametrize("role", ["imprint", "selfcal"])
def test_pixels_elsewhere_on_the_detector_are_refused(role, keyword):
    science = exposure("NRS_IFU")
    with pytest.raises(InputError, match=f"other.fits has {keyword} 5, but sci_rate.fits has"):
        check_members(science, {role: (exposure("NRS_IFU", "other.fits", **{keyword: 5}),)})


@pytest.mark.parametrize("role", ["background", "imprint"])
def test_the_exposure_itself_is_refused(role):
    science = exposure("NRS_IFU", "a_rate.fits", EXPSTART=6e4)
    with pytest.raises(InputError, match=f"{role} exposure a_rate.fits is the same exposure as"):
        check_members(science, {role: (science,)})
    # a copy under another name, and the rates of its integrations
    renamed = exposure("NRS_IFU", "b_rate.fits", FILENAME="a_rate.fits", EXPSTART=6e4)
    ints = exposure("NRS_IFU", "a_rateints.fits", EXPSTART=6e4, shape=(2, 8, 9))
    for same in (renamed, ints):
        with pytest.raises(
            InputError, match=r"the one it is to be subtracted from \(a_rate.fits\)"
        ):
            check_members(science, {role: (same,)})
        nod = exposure("NRS_IFU", "nod_rate.fits")
        with pytest.raises(InputError, match=r"same exposure as .* exposure a"):
            check_members(nod, {role: (science, same)})
    assert not check_members(science, {"selfcal": (science,)})


@pytest.mark.parametrize(
    ("exp_type", "role", "keywords"),
    [
        ("MIR_LRS-FIXEDSLIT", "background", {"PATT_NUM": 2}),
        ("MIR_MRS", "background", {"OBSERVTN": "002", "PROGRAM": "04321"}),
        ("MIR_MRS", "selfcal", {"OBSERVTN": "002"}),
        ("NRS_FIXEDSLIT", "background", {"FXD_SLIT": "S200A2"}),
        ("NRS_IFU", "imprint", {"OBSERVTN": "002", "PATT_NUM": 3}),
        ("NRS_MSASPEC", "background", {"PATT_NUM": 2}),
        ("NRS_MSASPEC", "imprint", {"MSAMETFL": "N/A", "MSAMETID": None}),
        # in memory, without a header
        ("NRS_IFU", "background", None),
    ],
)
def test_legal_members_pass_without_a_word(exp_type, role, keywords):
    other = exposure(exp_type, "other.fits", **(keywords or {}))
    if keywords is None:
        other.attrs = {"exp_type": exp_type, "instrument": "NIRSPEC"}
    assert check_members(exposure(exp_type), {role: (other,)}) == ()


@pytest.mark.parametrize(
    ("exp_type", "role", "keywords", "words"),
    [
        ("NRS_FIXEDSLIT", "background", {"SUBARRAY": "ALLSLITS"}, "SUBARRAY 'ALLSLITS'"),
        ("NRS_MSASPEC", "background", {"MSAMETID": 7}, "MSAMETID 7"),
        ("NRS_IFU", "selfcal", {"GRATING": "PRISM"}, "GRATING 'PRISM'"),
        ("MIR_MRS", "background", {"BAND": None}, "no keyword BAND"),
    ],
)
def test_what_may_be_meant_is_a_warning(exp_type, role, keywords, words):
    other = exposure(exp_type, "other.fits", **keywords)
    (warning,) = check_members(exposure(exp_type), {role: (other,)})
    assert words in warning
    assert "other.fits" in warning
    assert "sci_rate.fits" in warning


def test_an_imprint_that_says_it_is_none_is_a_warning():
    science = exposure("NRS_IFU")
    for value, warned in ((True, 0), (False, 1), ("F", 1), (None, 0)):
        other = exposure("NRS_IFU", "other.fits", IS_IMPRT=value)
        assert len(check_members(science, {"imprint": (other,)})) == warned


def test_verification_images_of_another_observation_are_refused():
    science = exposure("MIR_LRS-FIXEDSLIT")
    image = exposure("MIR_LRS-FIXEDSLIT", "ta.fits", EXP_TYPE="MIR_TACONFIRM", FILTER="F560W")
    assert check_members(science, {"target_acquisition": (image,)}) == ()
    (warning,) = check_members(science, {"target_acquisition": (image, image)})
    assert "of several target_acquisition images ta.fits is used" in warning
    far = exposure("MIR_LRS-FIXEDSLIT", "ta.fits", OBSERVTN="002")
    with pytest.raises(InputError, match=r"ta\.fits has OBSERVTN '002'"):
        check_members(science, {"target_acquisition": (far,)})


def test_steps_and_runs_check_their_members():
    science = exposure("NRS_IFU")
    other = exposure("NRS_IFU", "other.fits", 1, GRATING="PRISM")
    moved = exposure("NRS_IFU", "moved.fits", 1, SUBSTRT2=5)
    for step, role, member in (
        (background, "background", other),
        (imprint, "imprint", other),
        (badpix_selfcal, "selfcal", moved),
    ):
        with pytest.raises(InputError, match=f"{role} exposure {meta_of(member).filename} has"):
            step(science, **{role: (member,)})
        on = step.with_(skip=False)
        for do in (plan, run):
            with pytest.raises(InputError, match=f"{role} exposure"):
                do((on,), Observation(science, {role: (member,)}))
            with pytest.raises(InputError, match=f"{role} exposure"):
                do((on,), science, members={role: (member,)})
            do((step.with_(skip=True),), Observation(science, {role: (member,)}))


def test_an_imprint_is_compared_with_the_background_too():
    science, nod = exposure("NRS_IFU"), exposure("NRS_IFU", "nod.fits", 1)
    other = exposure("NRS_IFU", "other.fits", 2)
    assert imprint(nod, imprint=(other,)).attrs["status_imprint"] == "COMPLETE"
    with pytest.raises(InputError, match=r"imprint exposure nod.fits is the same .* \(nod.fits\)"):
        imprint(nod, imprint=(nod,))
    assert check_members(science, {"background": (nod,), "imprint": (other,)}) == ()


def test_warnings_about_members_are_recorded():
    science = exposure("NRS_FIXEDSLIT")
    other = exposure("NRS_FIXEDSLIT", "other.fits", 1, SUBARRAY="ALLSLITS")
    out = run((background,), science, members={"background": (other,)}).dataset
    (warning,) = meta_of(out).records["warnings"]
    assert "SUBARRAY 'ALLSLITS'" in warning


def test_every_role_of_the_pipelines_is_checked_or_no_exposure():
    from spec2fn import members
    from spec2fn.engine.pipeline import steps_of
    from spec2fn.schema import FIELD_KEYWORDS

    roles = {m for _, pipeline in MODES.values() for s in steps_of(pipeline) for m in s.members}
    assert roles - {"msa_metadata", *FIELD_KEYWORDS} == set(members._REFUSED)

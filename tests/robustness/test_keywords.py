"""Every keyword that is read, one by one absent or nonsense: the same products, or one line.

Which keywords are read is found by watching a run, so that a new one is covered on the day it is
read. FITS headers hold no NaN: the text stands for it; Datasets in memory may hold one.
"""

import math
import sys

import numpy as np
import pytest
from astropy.io import fits

from spec2fn import schema
from spec2fn.errors import InputError
from spec2fn.modes import mode_named
from spec2fn.schema import ALLOWED, SCALARS, Meta, allowed
from tests.robustness.conftest import Outcome, difference, edit_header, judge, parts

# an exposure without them has no such correction: the numbers are right for what the warning says
NEUTRAL = {"VELOSYS": 0.0, "VA_SCALE": 1.0}

# variables of products that are the keyword's own copy, with which nothing is computed
COPIES = {
    "XPOSURE": ("exposure_time",),
    "EXPMID": ("mid_time",),
    "PA_APER": ("pa_aper",),
    "TARGNAME": ("source_name", "srcname"),
    "TARGPROP": ("source_alias", "srcalias"),
}

# where keywords are read that tell modes apart: most matter in other modes only
_BRANCHES = {"selection.py", "exposures.py"}


def readers(one, name, params):
    """Keywords of an exposure that a run reads, with the files of code that read them."""
    found, raw = {}, Meta.raw

    def watched(self, keyword):
        if self.filename == name:
            frame = sys._getframe(1)
            while frame.f_code.co_filename == schema.__file__:
                frame = frame.f_back
            found.setdefault(keyword, set()).add(frame.f_code.co_filename.rpartition("/")[2])
        return raw(self, keyword)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Meta, "raw", watched)
        assert one.run(params=params).error is None
    return found


def nonsense(keyword, held):
    """Values that a keyword cannot have, one of each kind."""
    rule = ALLOWED.get(keyword)
    if rule is None:
        return ["nonsense", 7.5] if isinstance(held, str) else ["nonsense"]
    if rule.kind is str:
        return ["nonsense", 7.5, True]
    if rule.kind is bool:
        return ["nonsense", 7]
    beyond = [2 * rule.high + 1] if math.isfinite(rule.high) else []
    below = [rule.low - 1 if rule.low else -1.0] if math.isfinite(rule.low) else []
    return ["NaN", "nonsense", True, *beyond, *below] + [0.5] * (rule.kind is int)


def held_by(one, keyword, name):
    with fits.open(one.folder / name) as hdus:
        return next((h.header[keyword] for h in hdus if keyword in h.header), None)


def without(outcome, keyword):
    """Products without the copy of the keyword, each part a product of its own."""
    copy = COPIES.get(keyword, ())
    return {
        f"{kind} {name}": ds.drop_vars(copy, errors="ignore")
        for kind, product in outcome.products.items()
        for name, ds in parts(product).items()
    }


def damaged(one, folder, changes, name, params=None):
    path = folder / name
    path.write_bytes((one.folder / name).read_bytes())
    for keyword, value in changes.items():
        if not edit_header(path, keyword, value):
            with fits.open(path, mode="update") as hdus:
                hdus["SCI"].header[keyword] = value
    return one.run(folder, params=params)


def verdict(one, folder, keyword, value, usual, *how):
    """Judge a damaged keyword; raises AssertionError for a third outcome."""
    outcome = damaged(one, folder, {keyword: value}, *how)
    if outcome.error is None and value is None and keyword in NEUTRAL:
        told = [str(w) for d in without(outcome, keyword).values() for w in warned(d)]
        assert any(keyword in w for w in told), f"no warning of the absence of {keyword}"
        usual = damaged(one, folder, {keyword: NEUTRAL[keyword]}, *how)
    return judge(
        Outcome(without(outcome, keyword), outcome.report, outcome.error),
        Outcome(without(usual, keyword)),
        keyword,
    )


def warned(ds):
    return ds.attrs["meta"].records.get("warnings", ())


def check_all(one, tmp_path, only=None, every=True, role="science", params=None):
    """Damage the keywords of an exposure one by one; return those that were read."""
    folder, name = one.copy(tmp_path / "in"), one.members[role][0]
    keywords = readers(one, name, params)
    usual = one.run(params=params)
    chosen = sorted(k for k in keywords if only is None or k in only)
    told = (held_by(one, k, name) or "" for k in ("EXP_TYPE", "OPMODE", "LAMP"))
    required = {
        *mode_named(*told).keywords,
        "EXP_TYPE",
        "SUBARRAY",
        "FXD_SLIT",
    }
    third, together, single = [], [], []
    for keyword in chosen:
        held = held_by(one, keyword, name)
        if keyword == "EXP_TYPE" and role == "target_acquisition":
            continue  # skips a step, see there
        values = nonsense(keyword, held)
        for value in [None] * (held is not None) + (values if every else values[:1]):
            likely = keyword not in ALLOWED and keywords[keyword] <= _BRANCHES
            (together if likely and not every else single).append((keyword, value))
    # where many are expected to change nothing, one run shows that none of them does
    for value in (None, "nonsense"):
        some = [(k, v) for k, v in together if v == value and k not in required]
        outcome = damaged(one, folder, dict(some), name, params)
        if outcome.error is None and not difference(outcome.products, usual.products):
            together = [pair for pair in together if pair not in some]
    for keyword, value in single + together:
        try:
            verdict(one, folder, keyword, value, usual, name, params)
        except AssertionError as error:
            third.append(f"{keyword} = {value!r}: {str(error).splitlines()[0]}")
    assert not third, "\n".join(third)
    return chosen


def test_slitless(case, tmp_path):
    assert len(check_all(case("miri-lrs-slitless"), tmp_path)) > 40


def test_where_the_target_is_in_a_fixed_slit(case, tmp_path):
    keywords = {"XOFFSET", "YOFFSET", "V3I_YANG", "VPARITY", "FXD_SLIT", "SUBARRAY", "GWA_XTIL"}
    assert set(check_all(case("nirspec-fs"), tmp_path, keywords, every=False)) == keywords


@pytest.mark.slow
@pytest.mark.parametrize(
    "mode",
    [
        *("nirspec-bots", "nirspec-fs", "miri-lrs-slit", "nircam-tsgrism", "nirspec-lamp"),
        "niriss-soss",
    ],
)
def test_every_keyword(case, mode, tmp_path):
    assert len(check_all(case(mode), tmp_path, every=False)) > 40


def test_which_lamp_shines_through_what(case, tmp_path):
    keywords = {"OPMODE", "LAMP", "GRATING", "FILTER", "FXD_SLIT", "SUBARRAY"}
    assert set(check_all(case("nirspec-lamp"), tmp_path, keywords, every=False)) == keywords


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["nirspec-mos", "miri-mrs", "nirspec-ifu"])
def test_every_keyword_of_many_slits_and_slices(case, mode, tmp_path):
    assert len(check_all(case(mode), tmp_path, every=False)) > 40


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["nirspec-fs", "miri-lrs-slit"])
def test_every_keyword_of_a_background(case, mode, tmp_path):
    assert len(check_all(case(mode), tmp_path, every=False, role="background")) > 20


@pytest.mark.slow
def test_every_keyword_of_an_acquisition_image(case, tmp_path):
    options = {"every": False, "role": "target_acquisition"}
    switched_on = {"targ_centroid": {"skip": False}}
    one = case("miri-lrs-slit")
    assert len(check_all(one, tmp_path, params=switched_on, **options)) > 20
    # an image of another type is no error: the target is where the dither put it, as without image
    name = one.members["target_acquisition"][0]
    outcome = damaged(one, tmp_path / "in", {"EXP_TYPE": "MIR_IMAGE"}, name, switched_on)
    assert "not MIR_IMAGE" in outcome.statuses["targ_centroid"]
    assert difference(outcome.products, one.usual.products) is None


@pytest.mark.parametrize("keyword", sorted(ALLOWED))
@pytest.mark.parametrize("value", [float("nan"), float("inf"), np.float32("nan")])
def test_numbers_in_memory_are_finite(keyword, value):
    with pytest.raises(InputError, match=rf"x\.fits: keyword {keyword} is .*, needs "):
        Meta(primary={keyword: value}, filename="x.fits").get(keyword)


def test_what_counts_as_absent_and_what_is_read_as_it_is():
    meta = Meta(primary={"FILTER": "  ", "VPARITY": -1, "BKGDTARG": "F", "NINTS": 3.0})
    assert meta.get("FILTER") is None
    assert meta.get("VPARITY") == -1
    assert meta.get("BKGDTARG") is False
    assert meta.get("NINTS") == 3
    assert isinstance(meta.get("NINTS"), int)
    for value in (0, 2, "1"):
        with pytest.raises(InputError, match="VPARITY"):
            allowed("VPARITY", value, "x.fits")


def test_scalars_that_are_read_have_a_range():
    assert {s.keyword for s in SCALARS.values()} <= set(ALLOWED)
    columns = {"pa_aper", "source_name", "source_alias", "srcname", "srcalias"}
    assert {name for names in COPIES.values() for name in names} - columns <= set(SCALARS)

"""Exposures of several integrations, and selfcal members, against the peer as far as it runs.

Steps that the peer cannot do on such exposures are switched off on both sides; what it does instead
stands in docs/parity.md.
"""

import json

import numpy as np
import pytest
from astropy.io import fits

from spec2fn.calibration import calibrate
from spec2fn.io.fits.keywords import STEP_KEYWORDS

pytestmark = [pytest.mark.parity, pytest.mark.nightly, pytest.mark.filterwarnings("ignore")]

TWO, SELFCAL = ("nints=2",), ("selfcal=2",)
# name, what the generator is told, steps that are switched off, and on
CASES = {
    "fixed slits": ("nrs_fs_g395h", TWO, ("bkg_subtract", "pixel_replace"), ()),
    "MOS": ("nrs_mos_prism", TWO, ("master_background_mos", "barshadow", "pixel_replace"), ()),
    "IFU": (
        "nrs_ifu_prism",
        TWO,
        ("flat_field", "pathloss", "photom", "cube_build", "extract_1d"),
        (),
    ),
    "MRS": (
        "miri_mrs_12short",
        TWO,
        ("badpix_selfcal", "bkg_subtract", "residual_fringe", "cube_build", "extract_1d",
         "straylight"),
        (),
    ),
    "MRS selfcal": ("miri_mrs_12short", SELFCAL, ("residual_fringe",), ()),
    "IFU selfcal": ("nrs_ifu_prism", SELFCAL, ("extract_1d",), ("badpix_selfcal",)),
}  # fmt: skip
CUBES = ("s3d", "x1d")
FINAL = ("cal", "calints", "x1d", "x1dints")


def run_of(whole_run, case):
    name, made, without, within = CASES[case]
    return whole_run(name, made=made, without=without, within=within)


@pytest.mark.parametrize("case", CASES)
def test_every_product_agrees(case, whole_run, compare, allowed):
    run = run_of(whole_run, case)
    low, seen = [], set()
    for kind, path in run.files():
        if kind == "s2d":  # the peer saves what it has not resampled
            assert fits.getheader(path)["S_RESAMP"] == "SKIPPED"
            continue
        seen.add(kind)
        least = allowed("resampled" if kind in CUBES else "exposures")
        # the peer calls the spectra of several integrations of MOS slits _x1d
        ours = run.ours("x1dints" if (case, kind) == ("MOS", "x1d") else kind)
        for row in compare(path, ours, least.rtol):
            assert "problem" not in row, (kind, row)
            flags = str(row["plane"][0]) in ("DQ", "REGIONS")
            if row.get("ok", 1.0) < (least.dq if flags else least.ok):
                low.append((kind, row["plane"], row["ok"]))
        for keyword, _ in STEP_KEYWORDS.values() if kind in FINAL else ():
            assert fits.getheader(ours).get(keyword) == fits.getheader(path).get(keyword), keyword
    assert len(seen) >= 6
    assert seen & set(FINAL)
    assert not low


@pytest.mark.parametrize("case", ["MRS selfcal", "IFU selfcal"])
def test_warm_pixels_that_members_share_are_found(case, whole_run):
    run = run_of(whole_run, case)
    run.files()
    before = fits.getdata(run.peer["assign_wcs"], "DQ") & 1
    theirs, ours = (
        (fits.getdata(path, "DQ") & 1) & ~before
        for path in (run.peer["badpix_selfcal"], run.ours("badpix_selfcal"))
    )
    assert theirs.sum() > 100
    np.testing.assert_array_equal(ours, theirs)


def test_integrations_with_selfcal_are_those_of_the_exposures(whole_run, tmp_path):
    """What the peer cannot do: both at once. Each integration is as an exposure of its own."""
    run = run_of(whole_run, "MRS selfcal")
    asn = json.loads((run.folder / "spec2_asn.json").read_text())
    members = asn["products"][0]["members"]
    (science,) = (m for m in members if m["exptype"] == "science")
    ints = tmp_path / science["expname"].replace("_rate.", "_rateints.")
    with fits.open(run.folder / science["expname"]) as file:
        for name in ("SCI", "ERR", "DQ", "VAR_POISSON", "VAR_RNOISE"):
            file[name].data = np.stack([file[name].data] * 2)
        file[0].header.update({"DATAMODL": "CubeModel", "NINTS": 2})
        del file["ASDF"]
        file.writeto(ints)
    for member in members:
        if member is science:
            member["expname"] = ints.name
        else:
            (tmp_path / member["expname"]).symlink_to(run.folder / member["expname"])
    (tmp_path / "asn.json").write_text(json.dumps(asn))
    params = {name: {"skip": True} for name in ("residual_fringe", "cube_build", "extract_1d")}
    params["badpix_selfcal"] = {"skip": False}
    params["pixel_replace"] = {"skip": False}
    one = calibrate(run.folder / "spec2_asn.json", params=params).products["cal"]
    two = calibrate(tmp_path / "asn.json", params=params).products["cal"]
    for name in ("sci", "err", "dq", "var_poisson"):
        for k in range(2):
            np.testing.assert_array_equal(two[name].isel(integration=k), one[name], err_msg=name)

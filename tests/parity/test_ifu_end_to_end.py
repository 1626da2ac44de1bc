"""Whole runs of integral-field exposures against the peer: every product and every step."""

import numpy as np
import pytest
from astropy.io import fits

from spec2fn.calibration import calibrate
from spec2fn.io import open_product
from spec2fn.refs import references
from spec2fn.schema import SPECTRUM_COLUMNS
from spec2fn.steps.assign_wcs import assign_wcs
from spec2fn.steps.cube_build import cube_build
from spec2fn.steps.extract_1d import extract_1d

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]

SCENARIOS = (
    "nrs_ifu_g395m",
    "nrs_ifu_members",
    "nrs_ifu_prism",
    "nrs_ifu_g395h_nrs2",
    "miri_mrs_12short",
    "miri_mrs_12short_band",
    "miri_mrs_34long",
)
# the peer numbers the spectra of several cubes, and saves the first cube alone
OF_BANDS = {"s3d": "ch1-short_s3d", "0_x1d": "ch1-short_x1d", "1_x1d": "ch2-short_x1d"}
KEYWORDS = ("CRPIX", "CRVAL", "CDELT", "CTYPE", "CUNIT")
CLIPPED = ("BACKGROUND", "RF_BACKGROUND")


def row_of(name, kind, plane=()):
    """Row of allowed.yaml of a plane or column; without, of the whole file."""
    mrs = name.startswith("miri_mrs")
    if kind.endswith("x1d"):
        return "clipped_columns" if plane and mrs and plane[-1] in CLIPPED else "spectra"
    if kind.endswith("s3d"):
        return "cubes"
    fringes = mrs and kind in ("residual_fringe", "cal", "pixel_replace") and plane[:1] == ("SCI",)
    return "residual_fringes" if fringes else "exposures"


def our_file(run, name, kind):
    if name.endswith("_band") and kind in OF_BANDS:
        return run.out / f"{run.stem}_{OF_BANDS[kind]}.fits"
    return run.ours(kind)


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_product_agrees(name, whole_run, compare, allowed):
    run = whole_run(name)
    low, files = {}, run.files()
    for kind, path in files:
        for row in compare(path, our_file(run, name, kind), allowed(row_of(name, kind)).rtol):
            assert "problem" not in row, (kind, row)
            least = allowed(row_of(name, kind, row["plane"]))
            flags = row["plane"][0] in ("DQ", "REGIONS")
            if row.get("ok", 1.0) < (least.dq if flags else least.ok):
                low[(kind, *row["plane"])] = row["ok"]
    assert len(files) >= 9
    assert not low
    assert_same_grid(run.peer["s3d"], our_file(run, name, "s3d"), allowed("keywords"))


def assert_same_grid(theirs, ours, row):
    with fits.open(theirs) as a, fits.open(ours) as b:
        assert a["SCI"].shape == b["SCI"].shape
        for keyword in (f"{k}{i}" for k in KEYWORDS for i in (1, 2, 3)):
            x, y = (h["SCI"].header.get(keyword) for h in (a, b))
            assert y == (x if isinstance(x, str) or x is None else row.approx(x))


@pytest.mark.nightly
def test_the_background_differs_by_the_residual_fringes_alone(whole_run, allowed):
    peer = whole_run("miri_mrs_12short").peer
    ds = open_product(peer["pixel_replace"]).load()
    refs = references(ds, (*assign_wcs.refs, "cubepar", "extract1d", "apcorr"))
    ds = assign_wcs(ds, **{k: refs[k] for k in assign_wcs.refs})
    cube = cube_build(ds, refs["cubepar"], output_type="multi")
    ours = extract_1d(cube, refs["extract1d"], refs["apcorr"])
    theirs = fits.getdata(peer["x1d"], "EXTRACT1D")
    for variable in ("flux", "background", "flux_error", "bkgd_error"):
        column = np.asarray(theirs[SPECTRUM_COLUMNS[variable][0]], dtype=float)
        agreeing = allowed("background_alone").fraction(ours[variable].values.ravel(), column)
        # a spaxel at the clipping limit
        assert agreeing >= 1 - 3 / column.size, variable


def as_integrations(rate, path):
    """The exposure twice, the second time with twice the light."""
    with fits.open(rate) as file:
        for name in ("SCI", "ERR", "DQ", "VAR_POISSON", "VAR_RNOISE"):
            data = file[name].data
            both = [data, data * (2 if name == "SCI" else 1)]
            file[name].data = np.stack(both).astype(data.dtype)
        file[0].header.update({"DATAMODL": "CubeModel", "NINTS": 2})
        del file["ASDF"]
        file.writeto(path)
    return path


def test_several_cubes_are_written_in_pieces(whole_run, tmp_path):
    run = whole_run("miri_mrs_12short")
    (rate,) = run.folder.glob(f"{run.stem}_rate.fits")
    path = as_integrations(rate, tmp_path / f"{run.stem}_rateints.fits")
    params = {name: {"skip": True} for name in ("badpix_selfcal", "residual_fringe")}
    params["cube_build"] = {"output_type": "band"}
    whole = calibrate(path, tmp_path / "whole", params=params)
    pieces = calibrate(path, tmp_path / "pieces", params=params, chunk_integrations=1)
    names = {f"ch{n}-short_{kind}ints.fits" for n in (1, 2) for kind in ("s3d", "x1d")}
    assert {p.name.removeprefix(f"{run.stem}_") for p in whole.files.values()} > names
    for kind, file in whole.files.items():
        assert pieces.files[kind].read_bytes() == file.read_bytes(), kind

"""Whole runs of the lamps of NIRSpec against the peer: products, steps, statuses, lines."""

import json

import numpy as np
import pytest
from astropy.io import fits
from scipy.optimize import curve_fit

from spec2fn.calibration import calibrate
from spec2fn.io.fits.keywords import STEP_KEYWORDS

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]

FAST = "nrs_lamp_fs_line"
SLOW = ("nrs_lamp_bots_line_ints", "nrs_lamp_mos_line", "nrs_lamp_ifu_flat")
NIGHTLY = (
    "nrs_lamp_fs_line_prism",
    "nrs_lamp_fs_flat",
    "nrs_lamp_bots_line",
    "nrs_lamp_mos_line_nrs2",
    "nrs_lamp_mos_flat",
    "nrs_lamp_ifu_line",
    "nrs_autowave_fs",
    "nrs_autowave_mos",
    "nrs_autowave_ifu",
    "nrs_autoflat_mos",
)
RESAMPLED = ("s2d", "x1d", "x1dints")
PRODUCTS = ("cal", "calints", *RESAMPLED)
# the peer puts the planes of these half a pixel of the detector off their labels
CUBES = ("s3d", "x1d")
SPEED_OF_LIGHT = 299792458.0  # m/s
REACH = 6  # pixels


def later(mark, *names):
    return [pytest.param(n, marks=getattr(pytest.mark, mark)) for n in names]


@pytest.mark.parametrize("name", [FAST, *later("slow", *SLOW), *later("nightly", *NIGHTLY)])
def test_every_product_agrees(name, whole_run, compare, allowed):
    run = whole_run(name)
    low, files = [], run.files()
    for kind, path in files:
        # the peer saves the flat that it skips
        if ("_ifu_" in name and kind in CUBES) or ("_autoflat_" in name and kind == "flat_field"):
            continue
        least = allowed("resampled" if kind in RESAMPLED else "exposures")
        for row in compare(path, run.ours(kind), least.rtol):
            assert "problem" not in row, (kind, row)
            if row.get("ok", 1.0) < (least.dq if str(row["plane"][0]) == "DQ" else least.ok):
                low.append((kind, row["plane"], row["ok"]))
        for keyword, _ in STEP_KEYWORDS.values() if kind in PRODUCTS else ():
            ours, theirs = (fits.getheader(p).get(keyword) for p in (run.ours(kind), path))
            assert ours == theirs, (kind, keyword)
    assert {k for k, _ in files} & {"cal", "calints"}
    assert not low


def offsets(wave, flux, lines):
    """How far from `lines` a spectrum has its lines [pixel]."""
    pixel = np.interp(lines, wave, np.gradient(wave))
    out = []
    for line, size in zip(lines, pixel, strict=True):
        near = np.abs(wave - line) < REACH * size
        x, y = (wave[near] - line) / size, flux[near]

        def bell(x, height, centre, width, base):
            return height * np.exp(-0.5 * ((x - centre) / width) ** 2) + base

        best, _ = curve_fit(bell, x, y, (np.ptp(y), 0.0, 1.5, y.min()))
        out.append(best[1])
    return np.array(out)


def lines_of(folder, wave):
    """Lines that the exposure holds, well inside a range of wavelengths."""
    first, step, width = json.loads((folder / "scenario.json").read_text())["truth"][
        "lines_from_step_sigma"
    ]
    lines = np.arange(first, 5.4, step)
    return lines[(lines > wave[0] + 8 * width) & (lines < wave[-1] - 8 * width)]


def spectra(path):
    with fits.open(path) as hdus:
        for hdu in (h for h in hdus if h.name == "EXTRACT1D"):
            wave, flux = (np.asarray(hdu.data[n], float) for n in ("WAVELENGTH", "FLUX"))
            rows = np.asarray(hdu.data["NPIXELS"], float)
            good = np.isfinite(wave) & np.isfinite(flux) & (rows > 0)
            yield wave[good], flux[good] / rows[good]


@pytest.mark.parametrize(
    "name", [FAST, *later("nightly", "nrs_lamp_fs_line_prism", "nrs_lamp_mos_line_nrs2")]
)
def test_lines_are_where_they_belong(name, whole_run):
    run = whole_run(name)
    run.files()
    count = 0
    for wave, flux in spectra(run.ours("x1d")):
        found = offsets(wave, flux, lines_of(run.folder, wave))
        assert abs(np.median(found)) < 0.005
        count += len(found)
        # but for those that bad pixels spoil
        assert np.mean(np.abs(found) < 0.05) > 0.9
    assert count > 100


@pytest.mark.nightly
def test_planes_of_a_cube_have_the_wavelengths_of_its_labels(whole_run, tmp_path):
    run = whole_run("nrs_lamp_ifu_line")
    run.files()
    source = run.folder / json.loads((run.folder / "scenario.json").read_text())["asn"]
    # by default lines are where a lamp has them that is at rest in the spectrograph
    rest = calibrate(source, tmp_path / "rest", parameter_references=False)
    with fits.open(run.peer["cal"]) as hdus:
        velocity = hdus["SCI"].header["VELOSYS"] / SPEED_OF_LIGHT
    found = {}
    for which, path, factor in (
        ("ours", run.ours("s3d"), 1.0),
        ("at rest", rest.files["s3d"], 1.0 + velocity),
        ("peer", run.peer["s3d"], 1.0),
    ):
        with fits.open(path) as hdus:
            wave = np.asarray(hdus["WCS-TABLE"].data["wavelength"], float).ravel()
            flux = np.nanmean(np.asarray(hdus["SCI"].data, float), axis=(1, 2))
        found[which] = offsets(wave, flux, lines_of(run.folder, wave) * factor)
    for which in ("ours", "at rest"):
        assert len(found[which]) > 50
        assert np.abs(found[which]).max() < 0.05, which
    # half a pixel of the detector, in planes
    assert 0.4 < np.median(found["peer"]) < 0.47

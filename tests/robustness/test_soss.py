"""Overlapping orders of damaged exposures: one clear line, or what can be had with a reason."""

import numpy as np
import pytest
from astropy.io import fits

from spec2fn.errors import InputError
from tests.robustness.conftest import edit_header, judge

MODE = "niriss-soss"


def edited(one, folder, **values):
    folder = one.copy(folder)
    path = folder / one.science
    with fits.open(path, mode="update") as hdus:
        for keyword, value in values.items():
            header = next(h.header for h in hdus if keyword in h.header)
            header[keyword] = value
    return folder


def refused(outcome, *words):
    assert isinstance(outcome.error, InputError), outcome.error
    text = str(outcome.error)
    assert "\n" not in text
    assert not outcome.products
    for word in words:
        assert word in text, text
    return text


@pytest.mark.parametrize(
    "keyword", ["PWCPOS", "TARG_RA", "FILTER", "PUPIL", "SUBARRAY", "TSOVISIT"]
)
def test_a_keyword_that_is_needed(case, tmp_path, keyword):
    one = case(MODE)
    folder = one.copy(tmp_path / "in")
    assert edit_header(folder / one.science, keyword, None)
    assert judge(one.run(folder), one.usual, keyword) == "refused"


def test_an_unknown_subarray(case, tmp_path):
    outcome = case(MODE).run(edited(case(MODE), tmp_path / "in", SUBARRAY="SUBSTRIP257"))
    refused(outcome, "SUBARRAY", "'SUBSTRIP257'", "did you mean", "SUBSTRIP256")


@pytest.mark.parametrize("angle", [245.0, 246.05])
def test_a_wheel_beyond_the_references(case, tmp_path, angle):
    outcome = case(MODE).run(edited(case(MODE), tmp_path / "in", PWCPOS=angle))
    refused(outcome, "PWCPOS", f"{angle:g}", "245.54", "246.04", case(MODE).science)


def test_a_wheel_at_the_bound_of_the_references(case, tmp_path):
    outcome = case(MODE).run(edited(case(MODE), tmp_path / "in", PWCPOS=246.04))
    assert outcome.error is None, outcome.error


@pytest.mark.parametrize("keyword", ["FILTER", "SUBARRAY"])
def test_without_spectra_there_is_a_calibrated_exposure_and_a_reason(case, tmp_path, keyword):
    one = case(MODE)
    value = {"FILTER": "F277W", "SUBARRAY": "FULL"}[keyword]
    # the references are those of the other set-up: say that they hold for this one as well
    overrides = {}
    for reftype in ("flat", "bkg", "specwcs"):
        overrides[reftype] = path = tmp_path / one.references[reftype].name
        path.write_bytes(one.references[reftype].read_bytes())
        if path.suffix == ".fits":
            edit_header(path, keyword, value)
    outcome = one.run(edited(one, tmp_path / "in", **{keyword: value}), overrides=overrides)
    assert outcome.error is None, outcome.error
    assert set(outcome.products) == {"cal"}
    for step in ("extract_1d", "photom"):
        assert outcome.statuses[step].startswith("SKIPPED: "), outcome.statuses[step]
    assert value in outcome.statuses["extract_1d"]


def test_an_integration_without_a_value(case, tmp_path):
    one = case(MODE)
    folder = one.copy(tmp_path / "in")
    with fits.open(folder / one.science, mode="update", memmap=False) as hdus:
        hdus["SCI"].data[0] = np.nan
        hdus["DQ"].data[0] |= 1
    outcome = one.run(folder)
    assert outcome.error is None, outcome.error
    flux, error = (outcome.products["x1d"][n].values for n in ("flux", "flux_error_cov"))
    assert np.isnan(flux[0]).all()
    assert np.isnan(error[0]).all()
    usual = one.usual.products["x1d"]["flux"].values
    lit = np.isfinite(usual[1]) & np.isfinite(flux[1])
    assert lit.sum() > 0.95 * np.isfinite(usual[1]).sum()
    assert np.median(np.abs(flux[1][lit] / usual[1][lit] - 1)) < 5e-3


def test_blocks_without_a_value(case, tmp_path):
    one = case(MODE)
    folder = one.copy(tmp_path / "in")
    with fits.open(folder / one.science, mode="update", memmap=False) as hdus:
        for name in ("SCI", "ERR", "VAR_POISSON", "VAR_RNOISE"):
            hdus[name].data[:, 30:90, 300:320] = np.nan
        hdus["DQ"].data[:, 30:90, 300:320] |= 1
    outcome = one.run(folder)
    assert outcome.error is None, outcome.error
    flux = outcome.products["x1d"]["flux"].values
    usual = one.usual.products["x1d"]["flux"].values
    assert np.isnan(flux[:, 0, 305:315]).all()
    np.testing.assert_allclose(flux[:, 0, 340:700], usual[:, 0, 340:700], rtol=2e-2)


def test_more_nodes_than_the_official_indices_can_count(case):
    many = {"soss_n_os": 30, "soss_max_grid_size": 100_000, "soss_tikfac": 1e-8}
    outcome = case(MODE).run(params={"extract_1d": many})
    assert outcome.error is None, outcome.error
    a, b = (o.products["x1d"]["flux"].values for o in (outcome, case(MODE).usual))
    lit = np.isfinite(a) & np.isfinite(b)
    assert np.median(np.abs(a[lit] / b[lit] - 1)) < 1e-2


def test_a_wheel_off_its_header_is_found(case, tmp_path):
    one = case(MODE)
    fit = {"extract_1d": {"soss_fit_pwcpos": True}}
    said = 245.79
    usual = one.run(params=fit)
    moved = one.run(edited(one, tmp_path / "in", PWCPOS=said - 0.05), params=fit)
    for outcome in (usual, moved):
        assert outcome.error is None, outcome.error
        spectra = outcome.products["x1d"]
        assert float(spectra["pupil_wheel_angle"]) == pytest.approx(said, abs=2e-3)
        assert float(spectra["trace_shift"]) == pytest.approx(0.0, abs=0.02)
    a, b = (o.products["x1d"]["flux"].values for o in (usual, moved))
    lit = np.isfinite(a) & np.isfinite(b)
    np.testing.assert_allclose(a[lit], b[lit], rtol=1e-3, atol=1e-4 * np.nanmax(a))


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("soss_width", 0.0),
        ("soss_n_os", 0),
        ("soss_tikfac", -1.0),
        ("soss_bad_pix", "nothing"),
        ("soss_wave_grid_in", "nowhere.fits"),
        ("soss_estimate", "nowhere.fits"),
    ],
)
def test_parameters_that_make_no_sense(case, parameter, value):
    outcome = case(MODE).run(params={"extract_1d": {parameter: value}})
    assert outcome.error is not None
    text = str(outcome.error)
    assert "\n" not in text
    assert parameter in text or str(value) in text

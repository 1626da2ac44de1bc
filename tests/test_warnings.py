"""Every warning reaches the terminal, the report, the record of every product, and Python."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

import spec2fn
from spec2fn import calibrate
from spec2fn.calibration import prepare
from spec2fn.cli import main
from spec2fn.demo import run as demo
from spec2fn.engine import pipeline as compose
from spec2fn.engine import run as running
from spec2fn.engine.forecast import plan
from spec2fn.engine.pipeline import Observation, Split
from spec2fn.engine.step import Skip
from spec2fn.errors import InputError, StepFailedError
from spec2fn.io import base_name
from spec2fn.pipelines import MIRI_LRS_SLITLESS
from spec2fn.refs import cache_environment
from spec2fn.schema import with_meta, with_problems, with_warnings
from spec2fn.testing import exposures

MOS = "NRS_MSASPEC"


@pytest.fixture(scope="session")
def exposure(tmp_path_factory):
    """A time series of three integrations with the offline cache of its references."""
    made = demo.run_demo("miri-lrs-slitless", tmp_path_factory.mktemp("told"), integrations=3)
    (path,) = Path(made.folder).glob("*_rateints.fits")
    return path, cache_environment(made.files["cache"], demo.CONTEXT)


@pytest.fixture
def association(exposure, tmp_path, monkeypatch):
    """An association with a misspelt role, beside its exposures."""
    path, environment = exposure
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    for name in (path.name, "x_rate.fits"):
        (tmp_path / name).symlink_to(path)
    members = [
        {"expname": path.name, "exptype": "science"},
        {"expname": "x_rate.fits", "exptype": "psf"},
    ]
    product = {"name": base_name(path), "members": members}
    file = tmp_path / "odd_asn.json"
    file.write_text(json.dumps({"asn_type": "spec2", "products": [product]}))
    return file


def record(path):
    with fits.open(path) as hdus:
        return json.loads(str(hdus["SPEC2FN"].data[0][0]))


def cli(*args, capsys):
    status = main([str(a) for a in args])
    out, err = capsys.readouterr()
    return status, out, err.splitlines()


def is_it(line):
    return "x_rate.fits of exptype 'psf' is left out" in line


def test_a_role_that_stage_2_does_not_know_is_told_everywhere(association, tmp_path, capsys):
    out = tmp_path / "out"
    status, text, err = cli("run", association, "--output-dir", out, "--json", capsys=capsys)
    assert status == 0
    (line,) = err
    assert line.startswith("spec2fn: warning: ")
    assert is_it(line)
    report = json.loads(text)
    (told,) = report["warnings"]
    assert is_it(told)
    assert line.endswith(told)
    for path in report["products"].values():
        assert record(path)["warnings"] == [told]
        assert spec2fn.open_product(path).attrs["meta"].records["run"]["warnings"] == [told]
    result = calibrate(association)
    assert result.warnings == (told,)
    assert all(ds.attrs["meta"].records["warnings"] == (told,) for ds in result.products.values())


def test_quiet_prints_errors_only_and_plan_tells_beforehand(association, tmp_path, capsys):
    out = tmp_path / "out"
    assert cli("run", association, "--output-dir", out, "--quiet", capsys=capsys) == (0, "", [])
    (told,) = record(next(out.glob("*_x1dints.fits")))["warnings"]
    assert is_it(told)
    status, text, err = cli("plan", association, "--json", capsys=capsys)
    assert status == 0
    assert json.loads(text)["warnings"] == [told]
    assert err == [f"spec2fn: warning: {told}"]
    assert f"warning: {told}" in str(prepare(association).plan())
    status, _, err = cli("refs", association, capsys=capsys)
    assert (status, err) == (0, [f"spec2fn: warning: {told}"])


def speaking(text, **where):
    """A step that warns, in a plan's way, of what it finds."""

    def speak(ds):
        return with_warnings(ds, text(ds))

    return compose.insert_after(MIRI_LRS_SLITLESS, where.get("after", "flat_field"), speak)


@pytest.mark.parametrize("form", ["fits", "netcdf", None])
def test_of_an_exposure_in_pieces_every_piece_is_heard(association, tmp_path, form):
    def which(ds):
        return f"integration {int(ds['integration_number'].values[0])} is odd"

    folder = None if form is None else tmp_path / "out"
    result = calibrate(
        association,
        folder,
        pipeline=speaking(which),
        chunk_integrations=1,
        file_format=form or "fits",
    )
    expected = [which_one(result.warnings, n) for n in (1, 2, 3)]
    assert [w for w in result.warnings if w in expected] == expected
    assert any(is_it(w) for w in result.warnings)
    for kind, ds in result.products.items():
        assert list(ds.attrs["meta"].records["run"]["warnings"]) == list(result.warnings), kind
    for path in result.files.values():
        if form == "fits":
            assert record(path)["warnings"] == list(result.warnings)


def which_one(warnings, number):
    (found,) = (w for w in warnings if w == f"integration {number} is odd")
    return found


def test_a_status_that_differs_from_piece_to_piece_is_told(association):
    def fickle(ds):
        number = int(ds["integration_number"].values[0])
        return Skip("nothing to do") if number == 2 else ds

    odd = compose.insert_after(MIRI_LRS_SLITLESS, "flat_field", fickle)
    result = calibrate(association, pipeline=odd, chunk_integrations=1)
    assert (
        "fickle: COMPLETE for some integrations, SKIPPED: nothing to do for others"
        in result.warnings
    )


@pytest.mark.parametrize(
    ("error", "raised", "status"), [(InputError, InputError, 2), (KeyError, StepFailedError, 1)]
)
def test_an_error_in_the_second_piece_leaves_nothing(association, tmp_path, error, raised, status):
    def fail(ds):
        if int(ds["integration_number"].values[0]) == 2:
            raise error("odd")
        return ds

    odd = compose.insert_after(MIRI_LRS_SLITLESS, "photom", fail)
    with pytest.raises(raised, match="odd") as caught:
        calibrate(association, tmp_path / "out", pipeline=odd, chunk_integrations=1)
    assert caught.value.exit_code == status
    assert list((tmp_path / "out").iterdir()) == []


def test_what_is_logged_counts_and_members_are_named(caplog):
    def talk(ds):
        logging.getLogger("spec2fn.odd").warning("%d pixels\nare odd", 7)
        logging.getLogger("spec2fn.odd").info("not worth a word")
        return ds

    obs = exposures.observation("MIR_LRS-SLITLESS")
    member = with_meta(with_warnings(obs.science, "its times are odd"), filename="b_rate.fits")
    named = with_warnings(obs.science, "s_rate.fits is odd")
    obs = Observation(named, {"background": (member,)})
    result = running.run(compose.replace((compose._element(talk),)), obs)
    assert result.warnings == (
        "s_rate.fits is odd",
        "background b_rate.fits: its times are odd",
        "7 pixels are odd",
    )
    assert plan((compose._element(talk),), obs).warnings == result.warnings[:2]
    assert not logging.getLogger("spec2fn").handlers


def test_slits_and_branches(caplog):
    def mark(ds):
        here = [f"mark: odd {n}" if n == "2" else "" for n in ds["slit_name"].values]
        return with_problems(with_warnings(ds, f"{ds.sizes['slit']} slits"), here, lost=False)

    pipeline = compose.without(exposures.pipeline(MOS), "master_background")
    i = next(i for i, e in enumerate(pipeline) if isinstance(e, Split))
    (first, *others) = pipeline[i].branches
    steps = (*first.steps, *compose.branch(first.name, first.keep, compose._element(mark)).steps)
    split = compose.split(compose._replace(first, steps=steps), *others)
    result = running.run(
        (*pipeline[:i], split, *pipeline[i + 1 :]),
        exposures.observation(MOS),
        exposures.references(MOS),
    )
    assert "slit 2: mark: odd 2" in result.warnings
    assert any(w.endswith(" slits") for w in result.warnings)
    cal = result.products["cal"]
    assert cal.warnings == {"2": "mark: odd 2"}
    # it is not lost: nothing of it in the report, and it has values
    assert "2" not in cal.problems
    assert not any(r.problems for r in result.report)
    assert np.isfinite(cal.slit("2")["sci"].values).any()


def test_a_warning_of_the_product_that_a_run_goes_on_with(association, tmp_path):
    whole = calibrate(association, tmp_path / "out")
    again = calibrate(whole.files["cal"], start="extract_1d")
    assert again.warnings == whole.warnings

"""Parameters of the official pipeline: every one of them means something here, or is answered."""

import importlib.util
import re
from pathlib import Path

import pytest
import yaml

from spec2fn import pipelines
from spec2fn.engine.library import registered_steps, steps_of_library
from spec2fn.engine.pipeline import references_of, steps_of
from spec2fn.engine.settings import FILE, USER, resolve_settings
from spec2fn.errors import ParameterError, ReferenceError
from spec2fn.official import FOREIGN, OVERRULED, STEPS, foreign, step_named
from spec2fn.refs import parameter_files

DOCS = Path(__file__).parents[1] / "docs"
if not DOCS.exists():
    pytest.skip("not in a checkout", allow_module_level=True)

OFFICIAL = yaml.safe_load((DOCS / "official.yaml").read_text("utf-8"))
OURS = registered_steps()
EVERY = OFFICIAL["every_step"]
DEFAULTS = {
    name: EVERY | step["parameters"] | {f"override_{r}": None for r in step["references"]}
    for name, step in OFFICIAL["steps"].items()
}
MODES = dict(pipelines.MODES.values())


def need_the_peer():
    if importlib.util.find_spec("jwst") is None:
        pytest.skip("the parity extra (jwst==3.0.0) is not installed")


def has(step, parameter):
    """Whether our step has a parameter of the official one."""
    ours = steps_of_library(step_named(step))
    return parameter in ("skip", "save_results") or any(parameter in s.parameters for s in ours)


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("official", DOCS / "official_parameters.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")
def test_the_table_is_that_of_the_package(script):
    need_the_peer()
    assert script.official() == OFFICIAL, "run python docs/official_parameters.py"


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")
def test_every_value_that_the_package_allows_is_allowed():
    need_the_peer()
    from jwst.pipeline import Spec2Pipeline

    tried = 0
    for name, kind in Spec2Pipeline.step_defs.items():
        steps = steps_of_library(step_named(name))
        for parameter, rule in kind.load_spec_file().items():
            if not has(name, parameter) or parameter in ("skip", "save_results", "steps"):
                continue
            choices = re.match(r"option\((.*)\)", " ".join(str(rule).split()))
            listed = re.sub(r"default\s*=.*", "", choices[1]) if choices else ""
            values = re.findall(r"['\"]([^'\"]*)['\"]|(None)", listed)
            for value in (quoted or None for quoted, _ in values):
                for step in steps:
                    if parameter in step.parameters:
                        step.with_(**{parameter: value})
                        tried += 1
    assert tried > 40


def test_steps_have_the_names_of_the_package():
    assert set(STEPS.values()) == set(OFFICIAL["steps"])
    for step in OURS.values():
        if STEPS.get(step.name, step.name) != step.name:
            assert STEPS[step.name] in step.aliases
    for mode, pipeline in MODES.items():
        assert {s.name for s in steps_of(pipeline)} <= {*STEPS, "electron_rate"}, mode


@pytest.mark.parametrize("step", OFFICIAL["steps"])
def test_every_parameter_means_something_or_is_answered(step):
    for parameter in DEFAULTS[step]:
        if has(step, parameter) or parameter.startswith("override_"):
            continue
        rule = foreign(step, parameter)
        assert rule is not None, f"{step}.{parameter} is neither taken nor listed in FOREIGN"
        assert not rule.asks(DEFAULTS[step][parameter]), f"{step}.{parameter}: its default asks"
        assert rule.instead


def test_nothing_is_listed_that_nobody_has():
    for label in FOREIGN:
        step, _, parameter = label.rpartition(".")
        theirs = OFFICIAL["steps"].get(STEPS.get(step, ""), {}).get("parameters", {})
        known = {*EVERY, *theirs, "logcfg", "logging", "steps"}
        assert parameter in known, label


@pytest.mark.parametrize("mode", MODES)
def test_a_dictionary_with_every_default_fits_every_mode(mode):
    settings = resolve_settings(MODES[mode], DEFAULTS)
    assert settings.notes == ()
    assert settings.overrides == {}
    present = {s.name for s in steps_of(settings.pipeline)}
    listed = {label.partition(".")[0].rpartition("/")[2] for label in settings.ignored}
    several = {name for name in present if len(steps_of_library(name)) > 1}
    assert listed == {step_named(s) for s in DEFAULTS} - present | several
    for step in steps_of(settings.pipeline):
        for name, value in (
            OFFICIAL["steps"].get(STEPS.get(step.name), {"parameters": {}})["parameters"].items()
        ):
            if name in step.parameters:
                taken = step.parameters[name].coerce(value, step.name)
                assert dict(step.bound)[name] == taken, (step.key, name)
                assert settings.origins[step.key, name] == USER


def settled(mode="MIRI_LRS_SLITLESS", **user):
    return resolve_settings(MODES[mode], user)


def test_what_means_nothing_is_passed_over_with_a_note():
    settings = settled(photom={"suffix": "mine", "output_use_index": False}, extract_1d={})
    (note,) = settings.notes
    assert note.startswith("photom.suffix='mine' is ignored: products are named after")
    assert settings.ignored == ("photom.suffix",)
    assert settled(resample_spec={"single": True, "in_memory": "false"}).notes == ()
    assert "ignored" in settled(photom={"output_dir": "/tmp/x"}).notes[0]


def test_what_cannot_be_done_is_refused_with_what_to_do_instead():
    with pytest.raises(ParameterError, match=r"photom.pre_hooks=.*insert_before"):
        settled(photom={"pre_hooks": ["mine.function"]})
    assert settled(photom={"pre_hooks": "[]", "post_hooks": []}).ignored == ()


def test_steps_of_other_modes_are_passed_over_but_not_misspelt_ones():
    settings = settled(straylight={"clean_showers": True}, msa_flagging={"skip": True})
    assert settings.ignored == ("straylight.clean_showers", "msaflagopen.skip")
    assert settings.notes == ()
    for name, says in (("straylight", "no parameter 'clean_shower'; did"), ("stray", "no step")):
        with pytest.raises(ParameterError, match=says):
            settled(**{name: {"clean_shower": True}})
    with pytest.raises(ParameterError, match="straylight takes no reference 'flat'"):
        settled(straylight={"override_flat": "x.fits"})


def test_what_the_step_of_another_mode_takes_is_passed_over():
    given = {"soss_width": 30.0, "bkg_order": 1, "override_speckernel": "x.fits"}
    settings = settled(extract_1d=given)
    assert settings.ignored == ("extract_1d.soss_width", "extract_1d.override_speckernel")
    assert settings.overrides == {}
    assert settled("NIRISS_SOSS", extract_1d=given).ignored == ("extract_1d.bkg_order",)
    for mode, its in (("NIRISS_SOSS", "soss_width"), ("MIRI_LRS_SLITLESS", "bkg_order")):
        with pytest.raises(ParameterError, match=f"no parameter 'bkg_ordr'.*{its}"):
            settled(mode, extract_1d={"bkg_ordr": 1})
    # the type of a reference is no parameter, in whichever pipeline
    for mode in ("NIRISS_SOSS", "MIRI_LRS_SLITLESS", "NIRSPEC_AUTOFLAT"):
        with pytest.raises(ParameterError, match="no parameter 'apcorr'"):
            settled(mode, extract_1d={"apcorr": "x.fits"})


def test_options_of_the_pipeline_are_no_steps():
    with pytest.raises(ParameterError, match=r"'save_bsub' need a mapping .* got True; options of"):
        settled(save_bsub=True)


def test_a_reference_of_one_step():
    settings = settled("MIRI_MRS", residual_fringe={"override_regions": "mine.asdf"})
    assert settings.overrides == {"residual_fringe:regions": "mine.asdf"}
    refs = {"regions": "crds.asdf", **settings.overrides}
    found = {s.name: references_of(s, refs).get("regions") for s in steps_of(settings.pipeline)}
    assert found["assign_wcs"] == found["straylight"] == "crds.asdf"
    assert found["residual_fringe"] == "mine.asdf"
    none = settled(photom={"override_photom": "N/A"}, flat_field={"override_flat": "None"})
    assert none.overrides == {"photom:photom": None}
    with pytest.raises(ParameterError, match=r"photom takes no reference 'flat' \(it takes: ph"):
        settled(photom={"override_flat": "x.fits"})


def test_a_reference_of_one_step_is_used(tmp_path):
    import numpy as np
    import xarray as xr

    from spec2fn import run
    from spec2fn.engine.step import step

    @step(refs=("flat",))
    def first(ds, flat=None, *, times: float = 1.0):
        return ds.assign(sci=ds["sci"] * flat["sci"].data * np.float32(times))

    @step(refs=("flat",))
    def second(ds, flat=None):
        return ds.assign(sci=ds["sci"] * flat["sci"].data)

    def plane(value):
        return xr.Dataset({"sci": (("y", "x"), np.full((2, 2), value, np.float32))})

    params = {"second": {"override_flat": plane(5)}}
    done = run((first, second), plane(1), {"flat": plane(3)}, params=params)
    assert (done.dataset["sci"].values == 15).all()
    assert dict(done.report[1].references) == {"second:flat": "given"}


def asdf_file(path, tree):
    import asdf

    asdf.AsdfFile(tree).write_to(path)
    return path


def test_files_of_the_pipeline_and_of_a_step(tmp_path):
    whole = {
        "class": "jwst.pipeline.calwebb_spec2.Spec2Pipeline",
        "name": "Spec2Pipeline",
        "parameters": {"save_bsub": True, "output_dir": "out", "pre_hooks": [], "skip": False},
        "steps": [
            {
                "class": "jwst.background.background_step.BackgroundStep",
                "name": "bkg_subtract",
                "parameters": {"sigma": 4.0, "suffix": None},
            }
        ],
    }
    old = {"parameters": {"class": "jwst.photom.PhotomStep", "name": "photom", "inverse": True}}
    paths = (
        asdf_file(tmp_path / "whole.asdf", whole),
        asdf_file(tmp_path / "old.asdf", old),
        asdf_file(tmp_path / "late.asdf", {**whole, "parameters": {}, "steps": []}),
    )
    found = parameter_files(paths)
    assert found.steps == {
        "background": {"sigma": 4.0, "suffix": None},
        "photom": {"inverse": True},
    }
    assert found.options == {"save_bsub": True}
    (note,) = found.notes
    assert note.startswith("whole.asdf: output_dir='out' is ignored: products go where --output-d")
    assert found.paths == paths
    pipeline = MODES["MIRI_LRS_SLITLESS"]
    settings = resolve_settings(pipeline, {"photom": {"inverse": False}}, files=found.steps)
    assert settings.origins["background", "sigma"] == FILE
    assert settings.origins["photom", "inverse"] == USER
    crds = {"photom": {"inverse": False}}
    settings = resolve_settings(pipeline, None, crds, files=found.steps)
    assert settings.origins["photom", "inverse"] == FILE


def test_files_that_cannot_be_meant(tmp_path):
    other = {"class": "jwst.pipeline.Image2Pipeline", "name": "Image2Pipeline", "parameters": {}}
    known = {"class": "x.Spec2Pipeline", "parameters": {"save_bsu": True}}
    for name, tree, kind, says in (
        ("image.asdf", other, ParameterError, "calwebb_spec2 or of one of its steps, found 'jwst"),
        ("typo.asdf", known, ParameterError, "no parameter 'save_bsu'; did you mean 'save_bsub'"),
        ("none.asdf", {"a": 1}, ReferenceError, "needs an entry 'parameters'"),
    ):
        with pytest.raises(kind, match=says):
            parameter_files([asdf_file(tmp_path / name, tree)])
    with pytest.raises(ParameterError, match=r"gone\.asdf: cannot be read"):
        parameter_files([tmp_path / "gone.asdf"])
    with pytest.raises(ParameterError, match="export it as ASDF"):
        parameter_files([tmp_path / "old.cfg"])


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")
def test_files_written_by_the_package(tmp_path):
    need_the_peer()
    from jwst.extract_1d import Extract1dStep
    from jwst.pipeline import Spec2Pipeline

    whole = Spec2Pipeline()
    whole.extract_1d.use_source_posn = False
    whole.pixel_replace.skip = False
    whole.export_config(tmp_path / "whole.asdf")
    one = Extract1dStep(smoothing_length=3)
    one.export_config(tmp_path / "one.asdf", include_metadata=True)
    found = parameter_files([tmp_path / "whole.asdf", tmp_path / "one.asdf"])
    assert found.options == OFFICIAL["pipeline"]
    assert found.notes == ()
    assert set(found.steps) == set(STEPS)
    # which the official pipeline overrules: holes of cubes are not told apart in stage 2
    assert "skip_dqflagging" not in found.steps["cube_build"]
    for mode, pipeline in MODES.items():
        settings = resolve_settings(pipeline, files=found.steps)
        assert settings.notes == (), mode
        steps = {step.name: step for step in steps_of(settings.pipeline)}
        assert "extract_1d" in steps or "LAMP" in mode or "AUTO" in mode
        if "extract_1d" in steps:
            apart = "soss_width" in steps["extract_1d"].parameters
            assert dict(steps["extract_1d"].bound).get("smoothing_length") == (None if apart else 3)
        if "pixel_replace" in steps:
            assert not steps["pixel_replace"].skip


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("step", OFFICIAL["steps"])
def test_the_file_of_every_step_written_by_the_package(step, tmp_path):
    need_the_peer()
    from jwst.pipeline import Spec2Pipeline

    kind = Spec2Pipeline.step_defs[step]
    given = kind()
    given.export_config(tmp_path / "given.asdf")
    kind(name=step).export_config(tmp_path / "named.asdf", include_metadata=True)
    for file in ("given", "named"):
        found = parameter_files([tmp_path / f"{file}.asdf"])
        assert (found.notes, found.options) == ((), {}), file
        assert set(found.steps) == {step_named(step)}, file
        for mode, pipeline in MODES.items():
            settings = resolve_settings(pipeline, files=found.steps)
            assert settings.notes == (), (file, mode)
            for ours in steps_of(settings.pipeline):
                if ours.name != step_named(step):
                    continue
                assert ours.skip == given.skip, (file, mode)
                bound = dict(ours.bound)
                for name, parameter in ours.parameters.items():
                    if f"{ours.name}.{name}" in OVERRULED:
                        assert name not in found.steps[ours.name]
                    elif name in OFFICIAL["steps"][step]["parameters"]:
                        value = parameter.coerce(getattr(given, name), ours.name)
                        assert bound.get(name, parameter.default) == value, (file, mode, name)

"""A preset of parameters: under what the user and CRDS say, over the defaults."""

import pytest

from spec2fn.cli import main
from spec2fn.compatibility import PRESETS, preset
from spec2fn.engine.library import steps_of_library
from spec2fn.engine.pipeline import find_step
from spec2fn.engine.settings import COMPATIBILITY, CRDS_STEP, USER, resolve_settings
from spec2fn.errors import ParameterError
from spec2fn.pipelines import NIRSPEC_IFU


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_names_parameters_that_exist_and_differ(name):
    for label, parameter, value in PRESETS[name]:
        having = [s for s in steps_of_library(label) if parameter in s.parameters]
        assert having, (label, parameter)
        for step in having:
            assert step.defaults()[parameter] != value, (label, parameter)
            step.with_(**{parameter: value})


def test_the_user_and_crds_win_over_a_preset():
    crds = {"nsclean": {"n_sigma": 3.0}}
    user = {"background": {"propagate_variance": True}}
    settings = resolve_settings(NIRSPEC_IFU, user, crds, "jwst-3.0")
    nsclean, background, imprint = (
        settings.table(find_step(settings.pipeline, n))
        for n in ("nsclean", "background", "imprint")
    )
    assert nsclean["fit_method"] == ("median", COMPATIBILITY)
    assert nsclean["n_sigma"] == (3.0, CRDS_STEP.format("nsclean"))
    assert background["propagate_variance"] == (True, USER)
    assert imprint["propagate_variance"] == (False, COMPATIBILITY)


def test_an_unknown_preset_is_one_line():
    with pytest.raises(ParameterError, match=r"did you mean 'jwst-3\.0'"):
        preset("jwst-3")


def test_the_plan_shows_what_a_preset_sets(tmp_path, capsys, monkeypatch):
    from spec2fn.demo.run import CONTEXT, run_demo
    from spec2fn.refs import cache_environment

    demo = run_demo("miri-lrs-slit", tmp_path)
    for key, value in cache_environment(demo.files["cache"], CONTEXT).items():
        monkeypatch.setenv(key, value)
    assert main(["plan", str(demo.files["input"]), "--compatibility", "jwst-3.0"]) == 0
    assert "propagate_variance = False  [compatibility]" in capsys.readouterr().out
    assert main(["plan", str(demo.files["input"]), "--compatibility", "jwst"]) == 2
    assert "jwst-3.0" in capsys.readouterr().err

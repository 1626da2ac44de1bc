"""CRDS parameter references."""

import pytest

from spec2fn.errors import ReferenceError
from spec2fn.refs import (
    CacheEntry,
    MissingReferencesError,
    parameter_references,
    use_cache,
    write_cache,
)
from spec2fn.refs.pars import PARS_TYPES, pars_type

STEPS = ("assign_wcs", "background", "photom", "targ_centroid", "my_own_step")


def test_steps_pipeline_and_machinery_are_told_apart(cache, rate):
    found = parameter_references(rate(), STEPS)
    assert found["photom"] == {"inverse": True, "skip": True, "save_results": True}
    assert found["pipeline"] == {"photom": {"skip": False}, "bkg_subtract": {"sigma": 4.0}}
    assert set(found) == {"photom", "pipeline"}
    assert found.options == {"save_bsub": True}
    assert found.ignored == ("photom.suffix",)
    assert found.files == {
        "pars-spec2pipeline": "jwst_miri_pars-spec2pipeline_0001.asdf",
        "pars-photomstep": "jwst_miri_pars-photomstep_0001.asdf",
    }
    assert found.context == "jwst_0001.pmap"


def test_precedence_pipeline_then_step_then_default(cache, rate):
    from spec2fn.engine.settings import resolve_settings
    from spec2fn.engine.step import Step

    def body(ds, *, inverse: bool = False, mrs_time_correction: bool = True):
        return ds

    photom = Step(name="photom", function=body)
    settings = resolve_settings((photom,), None, parameter_references(rate(), STEPS))
    table = settings.table(settings.pipeline[0])
    assert table["skip"] == (False, "CRDS pars-spec2pipeline")
    assert table["inverse"] == (True, "CRDS pars-photom")
    assert table["mrs_time_correction"] == (True, "default")
    assert settings.save == ("photom",)
    mine = resolve_settings(
        (photom,), {"photom": {"skip": True}}, parameter_references(rate(), STEPS)
    )
    assert mine.table(mine.pipeline[0])["skip"] == (True, "user")


def test_none_for_another_mode(cache, rate):
    found = parameter_references(rate(EXP_TYPE="MIR_LRS-FIXEDSLIT"), STEPS)
    assert dict(found) == {}
    assert found.files == {}


def test_missing_files_are_listed_with_those_needed_later(cache, rate):
    folder = cache / "references/jwst/miri"
    (folder / "jwst_miri_pars-photomstep_0001.asdf").unlink()
    (folder / "jwst_miri_flat_0001.fits").unlink()
    with pytest.raises(MissingReferencesError) as caught:
        parameter_references(rate(), STEPS, also=("flat", "extract1d"))
    assert caught.value.missing == (
        "flat: jwst_miri_flat_0001.fits",
        "pars-photomstep: jwst_miri_pars-photomstep_0001.asdf",
    )


def test_file_without_parameters(tmp_path, rate):
    import asdf

    path = tmp_path / "p.asdf"
    asdf.AsdfFile({"meta": {"reftype": "pars-photomstep"}}).write_to(path)
    with (
        use_cache(write_cache(tmp_path / "c", [CacheEntry(path, "MIRI", "pars-photomstep")])),
        pytest.raises(ReferenceError, match="needs an entry 'parameters'"),
    ):
        parameter_references(rate(), STEPS)


def test_types_are_those_of_crds():
    import crds.jwst

    unknown = set(PARS_TYPES.values()) - set(crds.jwst.FILEKINDS)
    assert unknown <= {"pars-targcentroidstep"}  # the mission's own list lacks it
    assert pars_type("bkg_subtract") == pars_type("background") == "pars-backgroundstep"
    assert pars_type("my_own_step") is None

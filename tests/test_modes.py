"""The table of modes: traits that follow the descriptions of the instruments."""

import pytest

from spec2fn import modes, pipelines
from spec2fn.modes import MODES, mode_named


def test_every_pipeline_has_a_row_with_a_builder():
    for name in pipelines.MODES:
        assert MODES[name].wcs, name


def test_rows_are_named_by_exposure_type_and_lamp():
    assert all(name == mode.name for name, mode in MODES.items())
    assert mode_named(" nrs_ifu ").sliced
    assert mode_named("NRS_LAMP", "IFU").sliced
    assert mode_named("NRS_LAMP", "MSASPEC").shutters
    assert mode_named("NRS_AUTOWAVE", "FIXEDSLIT").several_slits
    assert mode_named("NRS_AUTOFLAT", "MSASPEC").lamp == "MSASPEC"
    for mode in MODES.values():
        assert bool(mode.lamp) == (":" in mode.name)


@pytest.mark.parametrize("name", ["MIR_IMAGE", "", "NRS_LAMP:IMAGE"])
def test_an_unknown_type_has_no_traits(name):
    exp_type, _, lamp = name.partition(":")
    assert mode_named(exp_type, lamp) == modes.Mode(exp_type)


def test_layouts_exclude_what_cannot_be():
    for mode in MODES.values():
        assert not (mode.shutters and mode.fixed_slits), mode.name
        assert mode.layout == "slits" or not (mode.shutters or mode.fixed_slits), mode.name
        assert mode.layout == "image" or not mode.slit, mode.name
        assert mode.sliced or not mode.etalon, mode.name
        assert mode.instrument == "NIRSPEC" or not mode.through_array, mode.name
        # light of a lamp comes from no source
        assert not mode.lamp or not (mode.one_source or mode.source_position), mode.name


@pytest.mark.parametrize("name", [*pipelines.MODES, modes.ACQUISITION_IMAGE])
def test_every_mode_says_which_elements_it_has(name):
    assert {"INSTRUME", "DETECTOR"} < set(MODES[name].keywords)

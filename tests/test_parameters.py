"""Every parameter of every step against values that nobody can mean."""

import math
from typing import Annotated, Any, Literal, get_args, get_origin

import pytest

from spec2fn.engine.library import registered_steps
from spec2fn.errors import ParameterError
from spec2fn.parameters import Range

PARAMETERS = [
    (step, name, parameter.hint)
    for step in registered_steps().values()
    for name, parameter in step.parameters.items()
]
IDS = [f"{step.name}.{name}" for step, name, _ in PARAMETERS]
# references and exposures given in memory: whatever the step takes
ANYTHING = ("flat_field.user_supplied_flat", "master_background.user_background")
ANYTHING += ("extract_2d.grism_objects", "background.wfss_mask", "wfss_contam.seds")
ANYTHING += ("extract_1d.soss_estimate", "extract_1d.soss_wave_grid_in")
ANYTHING += ("extract_1d.soss_contaminants",)
ANYTHING += ("master_background.corrections", "nsclean.user_mask", "resample_spec.output_wcs")


def kinds(hint):
    """The types a value may have, and the ranges of its numbers."""
    origin = get_origin(hint)
    if origin is Annotated:
        base, *notes = get_args(hint)
        for kind, known in kinds(base):
            yield kind, [*known, *(n for n in notes if isinstance(n, Range))]
    elif origin is Literal:
        yield Literal, []
    elif origin is tuple:
        for one in get_args(hint):
            if one is not Ellipsis:
                yield from ((("many", kind), ranges) for kind, ranges in kinds(one))
    elif get_args(hint):
        for one in get_args(hint):
            yield from kinds(one)
    else:
        yield hint, []


def wrong_values(hint):
    found = list(kinds(hint))
    types = {k[1] if isinstance(k, tuple) else k for k, _ in found}
    many = any(isinstance(k, tuple) for k, _ in found)
    count = sum(isinstance(k, tuple) for k, _ in found) or 1
    if get_origin(hint) is not tuple and "..." in str(hint):
        count = 2
    wrong = [object(), {"a": 1}]
    if str not in types:
        wrong += ["gibberish", "1.5.2", ""]
    if types & {int, float}:
        wrong += [math.nan, math.inf, -math.inf, "nan", "inf", "1e999", "-1e999", True]
    if int in types:
        wrong += [1.5, "2.5", 10**12]
    for _, ranges in found:
        for r in ranges:
            wrong += [] if r.minimum is None else [r.minimum - 1]
            wrong += [] if r.maximum is None else [r.maximum + 1]
            wrong += [r.minimum] if r.above else []
    if types == {bool, type(None)} or types == {bool}:
        wrong += [2, -1, 0.5, math.nan]
    if not many:
        return wrong
    # an empty list is one
    return [w if isinstance(w, str) else (w,) * count for w in wrong if w != ""]


@pytest.mark.parametrize(("step", "name", "hint"), PARAMETERS, ids=IDS)
def test_values_that_nobody_can_mean_are_refused_in_one_line(step, name, hint):
    if f"{step.name}.{name}" in ANYTHING:
        pytest.skip("takes whatever is given")
    assert hint is not Any, "a parameter needs a type"
    for value in wrong_values(hint):
        with pytest.raises(ParameterError) as found:
            step.with_(**{name: value})
        text = str(found.value)
        assert text.startswith(f"{step.name}.{name}: needs "), text
        assert "\n" not in text


@pytest.mark.parametrize(("step", "name", "hint"), PARAMETERS, ids=IDS)
def test_the_defaults_are_allowed(step, name, hint):
    default = step.parameters[name].default
    assert step.with_(**{name: default}).defaults()[name] == default


PAIRS = [(step, pair) for step in registered_steps().values() for pair in step.ordered]


@pytest.mark.parametrize(("step", "pair"), PAIRS, ids=lambda v: getattr(v, "name", str(v)))
def test_lower_ends_are_below_upper_ends(step, pair):
    low, high = pair
    if low == high:
        with pytest.raises(ParameterError, match=f"{low}=.* must ascend"):
            step.with_(**{low: (3.0, 2.0)})
        assert step.with_(**{low: (2.0, 3.0)})
        return
    many = "..." in str(step.parameters[low].hint)
    for a, b, fine in ((3.0, 2.0, False), (2.0, 2.0, False), (2.0, 3.0, True)):
        values = {low: (a,) if many else a, high: (b,) if many else b}
        if fine:
            assert step.with_(**values)
        else:
            with pytest.raises(ParameterError, match=f"{low}={a} must be less than {high}={b}"):
                step.with_(**values)
    if many:
        with pytest.raises(ParameterError, match="found 2 and 1"):
            step.with_(**{low: (1.0, 2.0), high: (3.0,)})


def test_a_lower_end_is_checked_against_the_default_of_the_upper():
    assign_wcs = registered_steps()["assign_wcs"]
    with pytest.raises(ParameterError, match=r"low=0\.6 must be less than .*high=0\.55"):
        assign_wcs.with_(slit_y_low=0.6)


def test_every_number_that_is_no_shift_has_a_range():
    # what may have either sign, and is judged where the geometry is known
    free = {
        "extract_1d.position_offset",
        "extract_1d.center_xy",
        "extract_1d.log_increment",
        "pathloss.user_slit_loc",
        "extract_2d.source_ids",
        "residual_fringe.ignore_region_min",
        "residual_fringe.ignore_region_max",
    }
    for (step, name, hint), label in zip(PARAMETERS, IDS, strict=True):
        for kind, ranges in kinds(hint):
            bare = kind[1] if isinstance(kind, tuple) else kind
            if bare in (int, float) and label not in free:
                assert ranges, f"{step.name}.{name}"

"""Grids of parameters: as many runs, in which what they share is done once."""

import numpy as np
import pytest

import spec2fn
from spec2fn.engine.pipeline import steps_of
from spec2fn.engine.run import run
from spec2fn.errors import InputError, ParameterError
from spec2fn.testing import exposures

SERIES = "NRC_TSGRISM"
GRID = {"extract_1d.position_offset": [0.0, 1.5], "photom.inverse": [False, True]}


def swept(grid, exp_type=SERIES, **how):
    refs = exposures.references(exp_type)
    types = {r for s in steps_of(exposures.pipeline(exp_type)) if not s.skip for r in s.refs}
    return spec2fn.sweep(
        exposures.observation(exp_type),
        grid,
        overrides={t: refs.get(t) for t in types},
        parameter_references=False,
        **how,
    )


def test_every_combination_is_a_run_of_its_own():
    done = []
    made = swept(GRID, progress=done.append)
    assert list(made["flux"].dims[:2]) == list(GRID)
    for i, offset in enumerate(GRID["extract_1d.position_offset"]):
        for j, inverse in enumerate(GRID["photom.inverse"]):
            params = {
                "extract_1d": {"position_offset": offset},
                "photom": {"inverse": inverse},
            }
            alone = run(
                exposures.pipeline(SERIES),
                exposures.observation(SERIES),
                exposures.references(SERIES),
                params=params,
            ).products["x1d"]
            one = made["flux"].sel(
                {"extract_1d.position_offset": offset, "photom.inverse": inverse}
            )
            np.testing.assert_array_equal(one, alone["flux"])
            np.testing.assert_array_equal(one, made["flux"][i, j])
    # once, twice, four times
    assert [done.count(n) for n in ("assign_wcs", "photom", "extract_1d")] == [1, 2, 4]


def test_values_are_those_of_the_step():
    made = swept({"photom.inverse": ["false", "true"]})
    assert made["photom.inverse"].values.tolist() == [False, True]
    assert "photom.inverse" in made["flux"].dims
    assert made["mid_time"].dims == ()


def test_slits_have_the_dim_in_every_bucket():
    made = swept({"photom.inverse": [False, True]}, "NRS_FIXEDSLIT", kind="cal")
    assert len(made.buckets) > 1
    for bucket in made.buckets:
        assert bucket["sci"].dims == ("photom.inverse", "slit", "y", "x")


@pytest.mark.parametrize(
    ("grid", "error", "text"),
    [
        ({}, ParameterError, "no parameter"),
        ({"extract_1d": [1]}, ParameterError, "needs step.parameter"),
        ({"extract_1d.position_offset": []}, ParameterError, "sequence of values"),
        ({"extract_1d.no": [1]}, ParameterError, "no"),
        ({"photom.inverse": ["maybe"]}, ParameterError, "photom.inverse"),
    ],
)
def test_grids_that_make_no_sense_are_refused(grid, error, text):
    with pytest.raises(error, match=text):
        swept(grid)


def test_products_must_be_there_and_have_one_shape():
    with pytest.raises(InputError, match="no product 's3d'; there is x1d"):
        swept({"extract_1d.position_offset": [0.0]}, kind="s3d")
    with pytest.raises(InputError, match="sweep these on their own"):
        swept({"extract_2d.tsgrism_extract_height": [20, 30]}, kind="cal")

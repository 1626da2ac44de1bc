import numpy as np
import pytest
import xarray as xr

from spec2fn.cubes import Cubes
from spec2fn.engine.step import step
from spec2fn.errors import DatasetError, InputError
from spec2fn.io import product_name_of_cube
from spec2fn.schema import Meta, meta_of, status_of, with_meta


def cube(value):
    data = np.full((2, 3, 3), value, np.float32)
    return xr.Dataset({"sci": (("wave", "y", "x"), data)}, attrs={"meta": Meta(filename="a.fits")})


def test_cubes_are_found_by_name():
    cubes = Cubes(("ch1-short", "ch2-short"), (cube(1), cube(2)))
    assert [name for name, _ in cubes.items()] == ["ch1-short", "ch2-short"]
    assert float(cubes["ch2-short"]["sci"].max()) == 2
    with pytest.raises(InputError, match="ch1-short"):
        cubes["ch1-shrt"]


def test_names_must_differ():
    with pytest.raises(DatasetError, match="different names"):
        Cubes(("a", "a"), (cube(1), cube(2)))


def test_a_step_is_applied_to_each_cube():
    @step
    def double(ds):
        return ds.assign(sci=ds["sci"] * 2)

    out = double(Cubes(("a", "b"), (cube(1), cube(2))))
    assert out.names == ("a", "b")
    assert [float(c["sci"].max()) for c in out] == [2, 4]
    assert status_of(out["b"], "double") == "COMPLETE"


def test_a_planned_step_plans_for_each_cube():
    @step(planner=lambda ds: float(ds["sci"].max()))
    def subtract_peak(ds, *, plan):
        return ds.assign(sci=ds["sci"] - plan)

    cubes = Cubes(("a", "b"), (cube(1), cube(2)))
    assert subtract_peak.plan(cubes) == (1, 2)
    assert all(float(c["sci"].max()) == 0 for c in subtract_peak(cubes))


def test_meta_is_replaced_in_each_cube():
    out = with_meta(Cubes(("a", "b"), (cube(1), cube(2))), records={"run": 1})
    assert [meta_of(c).records["run"] for c in out] == [1, 1]


def test_the_name_of_a_cube_stands_before_the_suffix():
    assert product_name_of_cube("jw1_s3d.fits", "ch1-short") == "jw1_ch1-short_s3d.fits"
    assert product_name_of_cube("jw1_x1d.nc", "ch2-short") == "jw1_ch2-short_x1d.nc"

import numpy as np
import pytest

from spec2fn.schema import status_of
from spec2fn.steps.srctype import srctype
from spec2fn.transforms import jit


@pytest.fixture
def fixed(slits):
    def make(**attrs):
        ds = slits(
            exp_type="NRS_FIXEDSLIT",
            slit_name=["S200A1", "S400A1", "S1600A1"],
            source_type=["UNKNOWN"] * 3,
        )
        return ds.assign_attrs({"fixed_slit": "S400A1", **attrs})

    return make


@pytest.mark.parametrize(
    ("attrs", "expected"),
    [
        ({"source_type_apt": "POINT"}, "POINT"),
        ({"source_type_apt": "EXTENDED"}, "EXTENDED"),
        ({"source_type_apt": "UNKNOWN"}, "POINT"),
        ({"source_type_apt": "POINT", "background_target": True}, "EXTENDED"),
        ({"dither_type": "2-POINT-NOD"}, "POINT"),
    ],
)
def test_the_primary_slit_has_the_target_and_the_others_the_sky(fixed, attrs, expected):
    out = srctype(fixed(**attrs))
    assert list(out["source_type"].values) == ["EXTENDED", expected, "EXTENDED"]
    assert out.attrs["source_type"] == expected
    assert status_of(out, "srctype") == "COMPLETE"


def test_an_extended_target_counts_as_centred(fixed):
    ds = fixed(source_type_apt="POINT")
    same = srctype(ds)
    np.testing.assert_array_equal(same["source_xpos"].values, ds["source_xpos"].values)
    out = srctype(ds, source_type="EXTENDED")
    np.testing.assert_array_equal(out["source_xpos"].values, [-0.3, 0.0, 0.2])
    assert out["source_ypos"].values[1] == 0
    assert ds["source_xpos"].values[1] != 0


def test_no_primary_slit(fixed):
    out = srctype(fixed(fixed_slit="NONE", source_type_apt="POINT"))
    assert set(out["source_type"].values) == {"EXTENDED"}


def test_the_user_decides_on_the_primary_slit_alone(fixed):
    out = srctype(fixed(background_target=True), source_type="point")
    assert list(out["source_type"].values) == ["EXTENDED", "POINT", "EXTENDED"]


def test_bright_object_time_series_are_points(slits):
    ds = slits(((5, 12),), n=3, exp_type="NRS_BRIGHTOBJ", slit_name=["S1600A1"])
    out = srctype(ds.assign_attrs(source_type_apt="EXTENDED", tso=True))
    assert list(out["source_type"].values) == ["POINT"]
    assert out.attrs["source_type"] == "POINT"


def test_stellarity_decides_on_slitlets_whatever_the_user_says(slits):
    shapes = ((4, 6),) * 6
    ds = slits(shapes, stellarity=[-1.0, 0.0, 0.75, 0.76, 1.0, np.nan])
    for out in (srctype(ds), srctype(ds.assign_attrs(source_type="POINT"), source_type="EXTENDED")):
        expected = ["POINT", "EXTENDED", "EXTENDED", "POINT", "POINT", "EXTENDED"]
        assert list(out["source_type"].values) == expected
        assert "source_type" not in out.attrs
        assert status_of(out, "srctype") == "COMPLETE"


def test_lamps_have_no_source(slits):
    ds = slits(exp_type="NRS_AUTOFLAT", source_type=["UNKNOWN"] * 3)
    out = srctype(ds)
    assert out.attrs["source_type"] == "UNKNOWN"
    assert set(out["source_type"].values) == {"UNKNOWN"}


def test_order_of_slits_does_not_matter_and_jit_equals_eager(fixed):
    ds = fixed(source_type_apt="EXTENDED")
    out = srctype(ds)
    turned = srctype(ds.isel(slit=[2, 0, 1])).isel(slit=[1, 2, 0])
    compiled = jit(srctype)(ds, plan=srctype.plan(ds))
    for other in (turned, compiled):
        assert list(other["source_type"].values) == list(out["source_type"].values)
        np.testing.assert_array_equal(other["source_xpos"].values, out["source_xpos"].values)

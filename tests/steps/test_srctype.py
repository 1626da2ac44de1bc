import numpy as np
import pytest
import xarray as xr
from astropy.io import fits

from spec2fn.schema import Meta, status_of
from spec2fn.steps.srctype import srctype
from spec2fn.transforms import jit


def exposure(n=None, header=None, **attrs):
    shape, dims = ((2, 3), ("y", "x")) if n is None else ((n, 2, 3), ("integration", "y", "x"))
    attrs = {"exp_type": "MIR_LRS-FIXEDSLIT", "instrument": "MIRI", **attrs}
    if header:
        attrs["meta"] = Meta(primary=fits.Header(header))
    return xr.Dataset({"sci": (dims, np.zeros(shape, np.float32))}, attrs=attrs)


@pytest.mark.parametrize(
    ("attrs", "expected"),
    [
        ({"source_type_apt": "EXTENDED"}, "EXTENDED"),
        ({"source_type_apt": "UNKNOWN"}, "POINT"),
        ({"source_type": "EXTENDED"}, "EXTENDED"),
        ({"background_target": True, "source_type_apt": "POINT"}, "EXTENDED"),
        ({"dither_type": "ALONG-SLIT-NOD"}, "POINT"),
        ({"exp_type": "MIR_MRS", "instrument": "MIRI"}, "EXTENDED"),
        ({"exp_type": "MIR_MRS", "dither_optimized_for": "POINT-SOURCE"}, "POINT"),
        ({"exp_type": "MIR_MRS", "dither_type": "4-POINT-NOD"}, "EXTENDED"),
        ({"exp_type": "NRS_IFU"}, "EXTENDED"),
        ({"exp_type": "NRS_IFU", "dither_type": "2-POINT-NOD"}, "POINT"),
        ({"exp_type": "MIR_IMAGE"}, "UNKNOWN"),
    ],
)
def test_rules(attrs, expected):
    out = srctype(exposure(**attrs))
    assert out.attrs["source_type"] == expected
    assert status_of(out, "srctype") == "COMPLETE"


def test_a_type_that_nothing_says_is_told():
    def warnings(**attrs):
        return srctype(exposure(None, {"NINTS": 1}, **attrs)).attrs["meta"].records.get("warnings")

    (warning,) = warnings()
    assert "taken to be POINT" in warning
    assert "SRCTYAPT" in warning
    assert "srctype.source_type" in warning
    for attrs in (
        {"source_type_apt": "UNKNOWN"},
        {"source_type": "EXTENDED"},
        {"dither_type": "NONE"},
        {"background_target": True},
    ):
        assert warnings(**attrs) is None


def test_time_series_are_points_whatever_was_requested():
    ds = exposure(3, tso=True, source_type_apt="EXTENDED")
    assert srctype(ds).attrs["source_type"] == "POINT"
    assert srctype(exposure(3, exp_type="NRC_TSGRISM")).attrs["source_type"] == "POINT"


def test_a_time_series_of_one_integration_is_none():
    ds = exposure(1, tso=True, source_type_apt="EXTENDED")
    assert srctype(ds).attrs["source_type"] == "EXTENDED"
    # a chunk of one integration of a longer exposure is judged by the exposure
    ds = exposure(1, {"NINTS": 10}, tso=True, source_type_apt="EXTENDED")
    assert srctype(ds).attrs["source_type"] == "POINT"


def test_the_user_decides_first():
    ds = exposure(3, tso=True, background_target=True)
    assert srctype(ds, source_type="EXTENDED").attrs["source_type"] == "EXTENDED"
    assert srctype(ds, source_type="point").attrs["source_type"] == "POINT"


def test_the_requested_type_is_kept():
    out = srctype(exposure(source_type="EXTENDED"), source_type="POINT")
    assert out.attrs["source_type_apt"] == "EXTENDED"
    assert "source_type_apt" not in srctype(exposure()).attrs


def test_lrs_exposures_become_slits():
    assert srctype(exposure()).attrs["model"] == "SlitModel"
    assert (
        srctype(exposure(model="IFUImageModel", exp_type="MIR_MRS")).attrs["model"]
        == "IFUImageModel"
    )


def test_exposures_with_many_sources_are_skipped_with_a_reason():
    out = srctype(exposure(exp_type="NRS_MSASPEC"))
    assert status_of(out, "srctype").startswith("SKIPPED: sources of NRS_MSASPEC")
    assert "source_type" not in out.attrs


def test_under_jit_with_its_plan():
    ds = exposure(source_type_apt="EXTENDED")
    out = jit(srctype)(ds, plan=srctype.plan(ds))
    assert out.attrs["source_type"] == "EXTENDED"

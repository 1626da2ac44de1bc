"""extract_2d of a grism time series: the window, its wavelengths, keywords and bad input."""

import numpy as np
import pytest
import xarray as xr

from spec2fn.errors import DatasetError, InputError, ReferenceError
from spec2fn.schema import Meta, meta_of
from spec2fn.steps.assign_wcs import assign_wcs
from spec2fn.steps.extract_2d import extract_2d
from spec2fn.steps.srctype import srctype
from tests.wcs.test_grism import references, series

SHAPE = (3, 128, 100)


def ranges(extract=(1,), rows=None, **tree):
    tree = {
        "wavelengthrange": rows or [[o, 0, "F444W", 0.8, 1.4] for o in (1, 2)],
        "extract_orders": [["F444W", list(extract)]],
    } | tree
    return xr.Dataset(attrs={"tree": tree, "filename": "wavelengthrange.asdf", "meta": Meta()})


def exposure(**changes):
    ds = assign_wcs(
        series(**({"shape": SHAPE, "TARGNAME": "WASP", "TARGPROP": "W"} | changes)), **references()
    )
    planes = {
        "err": (ds["sci"].dims, np.ones(ds["sci"].shape, np.float32)),
        "dq": (ds["sci"].dims, np.zeros(ds["sci"].shape, np.uint32)),
    }
    rows = np.arange(ds.sizes["y"], dtype=np.float32)[:, None] + 0 * ds["sci"].values
    return ds.assign(sci=(ds["sci"].dims, rows), **planes)


def test_the_source_is_in_row_34():
    ds = exposure(YREF_SCI=61.0)
    out = extract_2d(ds, ranges())
    assert out.sizes == {"integration": 3, "y": 64, "x": 100}
    np.testing.assert_array_equal(out["sci"][1, :, 0], np.arange(26, 90))
    assert (int(out["ystart"]), int(out["ysize"]), int(out["xstart"])) == (27, 64, 1)
    assert (float(out["source_xpos"]), float(out["source_ypos"])) == (40.0, 34.0)
    assert (float(out["xref_sci"]), float(out["yref_sci"])) == (41.0, 35.0)
    geometry = meta_of(ds).wcs.geometry
    y, x = np.mgrid[:64, :100].astype(float)
    np.testing.assert_array_equal(
        out["wavelength"], geometry.wavelength(x, y + 26, *geometry.source, 1)
    )
    assert meta_of(out).records["spectral_order"] == 1
    assert out.attrs["model"] == "SlitModel"
    assert [str(out[n].values) for n in ("slit_name", "source_name", "source_alias")] == [
        "1",
        "WASP",
        "W",
    ]


@pytest.mark.parametrize(
    ("yref", "height", "rows"),
    [
        (35.0, None, (0, 64)),
        (10.0, None, (0, 64)),
        (120.0, None, (64, 128)),
        (35.0, 20, (0, 20)),
        (81.0, 500, (0, 128)),
    ],
)
def test_the_window_stays_on_the_image(yref, height, rows):
    out = extract_2d(exposure(YREF_SCI=yref), ranges(), tsgrism_extract_height=height)
    np.testing.assert_array_equal(out["sci"][0, :, 5], np.arange(*rows))
    assert float(out["source_ypos"]) == yref - 1 - rows[0]


def test_the_fixed_window_is_the_first_rows():
    ds = exposure(YREF_SCI=61.0)
    out = extract_2d(ds, ranges(), tsgrism_window="fixed", tsgrism_extract_height=48)
    np.testing.assert_array_equal(out["sci"][0, :, 0], np.arange(48))
    assert (float(out["source_ypos"]), float(out["yref_sci"])) == (34.0, 34.0)
    assert float(out["xref_sci"]) == float(out["source_xpos"]) + 1


def test_another_order():
    out = extract_2d(exposure(), ranges(), extract_orders=(2,))
    assert meta_of(out).records["spectral_order"] == 2
    four = [[o, "F444W", 0.8, 1.4] for o in (1, 2)]
    same = extract_2d(exposure(), ranges(extract=(2,), rows=four))
    np.testing.assert_array_equal(same["wavelength"], out["wavelength"])


def test_the_source_is_a_point():
    out = srctype(extract_2d(exposure(NINTS=3), ranges()))
    assert out.attrs["source_type"] == "POINT"
    assert out.attrs["status_srctype"] == "COMPLETE"


def test_pieces_are_those_of_the_whole():
    ds = exposure()
    plan = extract_2d.plan(ds, ranges())
    whole = extract_2d(ds, ranges(), plan=plan)
    for k in range(3):
        part = extract_2d(ds.isel(integration=slice(k, k + 1)), ranges(), plan=plan)
        np.testing.assert_array_equal(part["sci"][0], whole["sci"][k])


@pytest.mark.parametrize(
    ("reference", "params", "error", "message"),
    [
        (None, {}, ReferenceError, "'wavelengthrange' is missing"),
        (ranges(rows=[[1, 0, "F277W", 1, 2]]), {}, ReferenceError, "no row for filter F444W"),
        (ranges(extract=(1, 2)), {}, InputError, "one order, not of 2 .1, 2."),
        (ranges(), {"extract_orders": (1, 2)}, InputError, "one order, not of 2"),
        (ranges(), {"extract_orders": (7,)}, InputError, "no order 7"),
        (
            ranges(rows=[[o, 0, "F444W", 0.8, 1.4] for o in (1, 3)]),
            {"extract_orders": (3,)},
            InputError,
            r"order 3 is not among those .* \(1, 2\)",
        ),
    ],
)
def test_bad_orders_are_one_line(reference, params, error, message):
    with pytest.raises(error, match=message) as caught:
        extract_2d(exposure(), reference, **params)
    assert "\n" not in str(caught.value)


def test_assign_wcs_comes_first():
    ds = exposure()
    bare = ds.assign_attrs(meta=meta_of(ds).replace(wcs=None))
    with pytest.raises(DatasetError, match="run assign_wcs first"):
        extract_2d(bare, ranges())
    offset = exposure(XOFFSET=None)
    with pytest.raises(InputError, match="XOFFSET"):
        extract_2d(offset, ranges(), tsgrism_window="fixed")

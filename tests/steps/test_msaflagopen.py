"""The step msaflagopen, with shutters whose spectra are straight lines."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest
import xarray as xr

from spec2fn.dq import PIXEL
from spec2fn.errors import ReferenceError
from spec2fn.plans.slits.msaflagopen import failed_open_shutters, illuminated_pixels
from spec2fn.schema import Meta, status_of
from spec2fn.steps.msaflagopen import msaflagopen
from spec2fn.transforms import jit

FLAG = PIXEL["MSA_FAILED_OPEN"]
NORMAL = {"state": "closed", "TA state": "closed", "Internal state": "normal"}


def shutter(quadrant, x, y, **states):
    named = {"ta": "TA state", "internal": "Internal state", "state": "state"}
    return {"Q": quadrant, "x": x, "y": y, **NORMAL, **{named[k]: v for k, v in states.items()}}


def reference(*shutters):
    return xr.Dataset(attrs={"tree": {"msaoper": list(shutters)}, "filename": "msaoper.json"})


class StraightLines:
    """Stands in for the transforms of shutters: shutter i lights three rows from 10 i on."""

    def __init__(self, slits):
        self.slits = slits

    def slit_frame(self, slit, x, y):
        along = (np.asarray(y) - 10.0 * (slit + 1) - 1.0) / 3.0 + 0.0 * np.asarray(x)
        along = np.where(np.abs(along) <= 0.5, along, np.nan)
        return along, np.where(np.asarray(x) < 30, 1e-6, np.nan) + 0.0 * along


@pytest.fixture
def lines(monkeypatch):
    def boxes(batch):
        return np.array([[[4.5, 45.5], [10.0 * (i + 1) - 2.4, 10.0 * (i + 1) + 4.6]]
                         for i in range(len(batch.slits))])  # fmt: skip

    monkeypatch.setattr("spec2fn.wcs.assign.nirspec_boxes.bounding_boxes", boxes)
    monkeypatch.setattr(
        "spec2fn.steps.msaflagopen.shutter_batch",
        lambda ds, shutters, refs: StraightLines(tuple(shutters)),
    )


def exposure(shape=(60, 40), exp_type="NRS_MSASPEC"):
    dims = ("integration", "y", "x")[-len(shape) :]
    dq = np.zeros(shape, np.uint32)
    dq[..., 0, 0] = dq[..., 11, 10] = PIXEL["HOT"]
    return xr.Dataset(
        {"sci": (dims, np.zeros(shape, np.float32)), "dq": (dims, dq)},
        attrs={"exp_type": exp_type, "instrument": "NIRSPEC", "meta": Meta()},
    )


def test_any_open_state_counts():
    found = failed_open_shutters(
        reference(
            shutter(3, 300, 21, state="open"),
            shutter(4, 12, 40),
            shutter(4, 100, 133, ta="open"),
            shutter(1, 1, 1, internal="open"),
        )
    )
    assert [(s.quadrant, s.xcen, s.ycen) for s in found] == [(3, 300, 21), (4, 100, 133), (1, 1, 1)]
    assert [s.shutter_id for s in found] == [300 + 20 * 365, 100 + 132 * 365, 1]
    assert [s.name for s in found] == ["1", "2", "3"]
    assert {(s.ymin, s.ymax) for s in found} == {(-0.5, 0.5)}


@pytest.mark.parametrize("shape", [(60, 40), (2, 60, 40)])
def test_lit_pixels_are_flagged(lines, shape):
    ds = exposure(shape)
    out = msaflagopen(ds, reference(shutter(1, 5, 5, state="open"), shutter(2, 5, 5, ta="open")))
    lit = np.zeros(shape, bool)
    lit[..., 10:13, 5:30] = lit[..., 20:23, 5:30] = True
    np.testing.assert_array_equal(out["dq"].values, ds["dq"].values | np.where(lit, FLAG, 0))
    assert out["dq"].dtype == np.uint32
    assert status_of(out, "msaflagopen") == "COMPLETE"


def test_shutters_beyond_the_detector(lines):
    batch = StraightLines(failed_open_shutters(reference(*[shutter(1, 1, 1, state="open")] * 9)))
    lit = illuminated_pixels(batch, (60, 40))
    np.testing.assert_array_equal(np.flatnonzero(lit.any(axis=1)) // 10, np.repeat(range(1, 6), 3))


def test_nothing_open_flags_nothing(lines):
    ds = exposure()
    out = msaflagopen(ds, reference(shutter(4, 12, 40)))
    np.testing.assert_array_equal(out["dq"], ds["dq"])
    assert status_of(out, "msaflagopen") == "COMPLETE"


def test_skips_say_why():
    out = msaflagopen(exposure(exp_type="NRS_FIXEDSLIT"), reference())
    assert "NRS_FIXEDSLIT" in status_of(out, "msaflagopen")
    assert status_of(msaflagopen(exposure()), "msaflagopen") == "SKIPPED: no msaoper reference"


@pytest.mark.parametrize(
    "tree",
    [
        None,
        {},
        {"msaoper": 7},
        {"msaoper": [{"Q": 1}]},
        {"msaoper": [shutter("one", 2, 3)]},
        {"msaoper": [shutter(5, 2, 3)]},
        {"msaoper": [shutter(1, 366, 3)]},
    ],
)
def test_damaged_reference(tree):
    attrs = {"filename": "msaoper.json", **({} if tree is None else {"tree": tree})}
    with pytest.raises(ReferenceError, match=r"msaoper\.json"):
        msaflagopen(exposure(), xr.Dataset(attrs=attrs))


def test_optics_of_the_exposure_are_used():
    optics = SimpleNamespace()
    ds = exposure().assign_attrs(
        meta=Meta(wcs=SimpleNamespace(batch=SimpleNamespace(optics=optics)))
    )
    from spec2fn.plans.slits.msaflagopen import shutter_batch

    assert shutter_batch(ds, (), {}).optics is optics


def test_under_jit(lines):
    ds = exposure()
    plan = msaflagopen.plan(ds, reference(shutter(1, 5, 5, state="open")))
    out = jit(msaflagopen)(ds, plan=plan)
    assert isinstance(out["dq"].data, jax.Array)
    np.testing.assert_array_equal(out["dq"], msaflagopen(ds, plan=plan)["dq"])

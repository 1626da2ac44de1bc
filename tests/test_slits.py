"""Slits in padded buckets."""

import numpy as np
import pytest
import xarray as xr

from spec2fn.buckets import MAX_BUCKETS, group_shapes
from spec2fn.errors import DatasetError, InputError
from spec2fn.slits import PADDING, Slits
from tests.buckets import FREE_PADDING, bucketize

SHAPES = [(20, 100), (22, 101), (5, 400), (20, 99), (0, 0), (6, 390)]


def one(i, shape):
    rng = np.random.default_rng(i)
    return xr.Dataset(
        {
            "sci": (("y", "x"), rng.normal(size=shape).astype("f4")),
            "dq": (("y", "x"), np.zeros(shape, "u4")),
            "slit_name": ((), f"S{i}"),
            "source_id": ((), 10 * i),
        },
        attrs={"exp_type": "NRS_MSASPEC"},
    )


@pytest.fixture
def slits():
    return bucketize([one(i, s) for i, s in enumerate(SHAPES)])


def test_every_slit_comes_back_as_it_was(slits):
    assert len(slits) == len(SHAPES)
    assert slits.names == tuple(f"S{i}" for i in range(len(SHAPES)))
    for i, shape in enumerate(SHAPES):
        got = slits.slit(i)
        assert got["sci"].shape == shape
        np.testing.assert_array_equal(got["sci"], one(i, shape)["sci"])
        assert slits.slit(f"S{i}")["source_id"] == slits.slit(np.int64(i))["source_id"] == 10 * i
    assert [s["sci"].shape for s in slits] == SHAPES


def test_padding_is_flagged(slits):
    for bucket in slits.buckets:
        y, x = np.indices(bucket["sci"].shape[1:])
        for k in range(bucket.sizes["slit"]):
            outside = (y >= int(bucket["ysize"][k])) | (x >= int(bucket["xsize"][k]))
            assert np.isnan(bucket["sci"].values[k][outside]).all()
            assert (bucket["dq"].values[k][outside] == PADDING).all()
            assert (bucket["dq"].values[k][~outside] == 0).all()


def test_similar_shapes_share_a_bucket_and_waste_is_small():
    groups = group_shapes(SHAPES)
    assert sorted(i for g in groups for i in g) == list(range(len(SHAPES)))
    assert any({0, 1, 3} <= set(g) for g in groups)
    assert not any({0, 2} <= set(g) for g in groups)
    rng = np.random.default_rng(0)
    heights, widths = rng.integers(20, 40, 200), rng.integers(300, 500, 200)
    many = [(int(h), int(w)) for h, w in zip(heights, widths, strict=True)]
    groups = group_shapes(many)
    assert len(groups) <= MAX_BUCKETS
    padded = sum(max(many[i][0] for i in g) * max(many[i][1] for i in g) * len(g) for g in groups)
    assert padded < 1.3 * sum(h * w for h, w in many)


def test_padding_that_takes_no_time_saves_buckets(monkeypatch):
    shapes = [(20, 100)] * 3 + [(30, 120), (5, 400)]
    padded = 4 * 30 * 120 - (3 * 20 * 100 + 30 * 120)  # of the first four as one
    for free, expected in ((0, 3), (padded - 1, 3), (padded, 2), (FREE_PADDING, 1)):
        monkeypatch.setattr("spec2fn.buckets.FREE_PADDING", free)
        groups = group_shapes(shapes)
        assert len(groups) == expected, free
        assert sorted(i for g in groups for i in g) == list(range(len(shapes)))
    assert FREE_PADDING == 100_000  # long ones differ by more than that
    assert len(group_shapes([(300, 2000), (100, 2000)])) == 2


def test_kinds_share_no_bucket():
    shapes, kinds = [(20, 100), (20, 100), (20, 100), (5, 400)], ["a", "b", "a", "b"]
    assert sorted(group_shapes(shapes, kinds=kinds)) == [[0, 2], [1], [3]]
    assert group_shapes(shapes[:3], kinds=["a"] * 3) == group_shapes(shapes[:3]) == [[0, 1, 2]]


def test_selected_slits_cannot_be_written_to(slits):
    chosen = slits.where(lambda b: b["source_id"].values % 20 == 0)
    assert 0 < len(chosen) < len(slits)
    for bucket in chosen.buckets:
        for variable in bucket.variables.values():
            assert not variable.data.flags.writeable or any(
                variable.data is v.data for b in slits.buckets for v in b.variables.values()
            )


def test_selection(slits):
    chosen = slits.select(names=["S2"], source_ids=[50])
    assert chosen.names == ("S2", "S5")
    assert chosen.ids == (2, 5)
    with pytest.raises(InputError, match="no slit 'S9'"):
        slits.select(names=["S9"])
    with pytest.raises(InputError, match="no slit holds source 7"):
        slits.select(source_ids=[7])
    rest = slits.where(lambda b: b["source_id"].values > 0)
    assert len(rest) == len(SHAPES) - 1


def test_parts_meet_again(slits):
    a, b = slits.select(names=["S0", "S2"]), slits.select(names=["S1"])
    assert b.join(a).names == ("S0", "S1", "S2")
    with pytest.raises(DatasetError, match="share ids"):
        a.join(a)


def test_a_step_runs_on_every_bucket(slits):
    from spec2fn.engine.step import step
    from spec2fn.schema import status_of

    double = step(name="double_for_slits")(lambda ds: ds.assign(sci=ds["sci"] * 2))
    out = double(slits)
    assert isinstance(out, Slits)
    assert status_of(out, "double_for_slits") == "COMPLETE"
    np.testing.assert_array_equal(out.slit(1)["sci"], 2 * slits.slit(1)["sci"])


def test_view_as_a_tree(slits):
    assert list(slits.tree()) == list(slits.names)

"""Several cubes of an exposure pass through transformations."""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from spec2fn.cubes import Cubes
from spec2fn.plan_base import Plan
from spec2fn.schema import Meta, meta_of
from spec2fn.transforms import jit, pack, unpack, value_and_grad


@dataclass(frozen=True, eq=False)
class Centre(Plan):
    """A position."""

    centre: Any


@pytest.fixture
def cubes():
    def cube(value):
        data = np.full((2, 3, 3), value, np.float32)
        meta = Meta(filename=f"{value}.fits", wcs=object())
        return xr.Dataset({"sci": (("wave", "y", "x"), data)}, attrs={"meta": meta})

    return Cubes(("ch1-short", "ch2-short"), (cube(1), cube(2)))


def doubled(cubes):
    return cubes.map(lambda c: c.assign(sci=(c["sci"].dims, 2 * c["sci"].data)))


def test_taken_apart_and_put_together(cubes):
    back = unpack(pack(cubes))
    assert back.names == cubes.names
    for a, b in zip(back, cubes, strict=True):
        assert a.drop_attrs().identical(b.drop_attrs())


def test_compiled_cubes_keep_their_headers_and_wcs(cubes):
    out = jit(doubled)(cubes)
    assert out.names == cubes.names
    for a, b in zip(out, cubes, strict=True):
        np.testing.assert_array_equal(a["sci"], 2 * b["sci"].values)
        assert meta_of(a).filename == meta_of(b).filename
        assert meta_of(a).wcs is meta_of(b).wcs


def test_cubes_may_be_made_of_an_exposure(cubes):
    out = jit(lambda ds: Cubes(("a", "b"), (ds, ds)))(cubes["ch2-short"])
    assert [meta_of(c).filename for c in out] == ["2.fits", "2.fits"]
    (one,) = jit(lambda c: (c["ch2-short"],))(cubes)
    np.testing.assert_array_equal(one["sci"], 2)


def test_gradients_go_by_name(cubes):
    def loss(cubes):
        return sum(jnp.sum(c["sci"].data ** 2) for c in cubes)

    _, found = value_and_grad(loss, wrt=("ch1-short/sci", "ch2-short/sci"))(cubes)
    for name, cube in cubes.items():
        np.testing.assert_allclose(found[f"{name}/sci"], 2 * cube["sci"].values)


def test_plans_of_several_cubes_are_numbered(cubes):
    plans = {"step": (Centre(np.array([1.0, 2.0])), Centre(np.array([3.0, 4.0])))}

    def loss(cubes, plans):
        found = zip(cubes, plans["step"], strict=True)
        return sum(jnp.sum(c["sci"].data, dtype="f8") * jnp.sum(p.centre) ** 2 for c, p in found)

    value, found = value_and_grad(loss, wrt={1: ("step/1/centre",)})(cubes, plans)
    assert float(value) == 18 * 9 + 36 * 49
    np.testing.assert_allclose(found[1]["step/1/centre"], 2 * 36 * 7)

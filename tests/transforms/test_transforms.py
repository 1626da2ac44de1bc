"""JAX transformations of functions of Datasets."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import xarray as xr

from spec2fn import transforms
from spec2fn.errors import ContractError
from spec2fn.plan_base import Plan
from spec2fn.schema import Meta, meta_of


@dataclass(frozen=True, eq=False)
class Weights(Plan):
    w: Any
    power: int = 1
    nothing: Any = None
    limits: tuple[float, ...] = (0.5, 1.5)


@pytest.fixture
def ds():
    rng = np.random.default_rng(1)
    return xr.Dataset(
        {
            "sci": (("integration", "y", "x"), rng.normal(size=(2, 3, 4)).astype("f4")),
            "dq": (("y", "x"), np.zeros((3, 4), "u4")),
            "label": (("y",), np.array(list("abc"))),
            "scalar": ((), 2.0),
        },
        attrs={"exp_type": "A", "meta": Meta(filename="f.fits")},
    )


@pytest.fixture
def flat():
    return xr.Dataset({"sci": (("y", "x"), np.linspace(1, 2, 12, dtype="f4").reshape(3, 4))})


def divide(ds, refs):
    assert meta_of(ds).filename == ""  # headers never enter a trace
    return ds.assign(sci=ds["sci"] / refs["flat"]["sci"].data)


def test_pack_round_trip(ds, flat):
    back = transforms.unpack(transforms.pack({"a": (ds, 1.5, "text"), "b": flat}))
    assert back["a"][0].identical(ds.drop_attrs().assign_attrs(exp_type="A"))
    assert back["a"][1:] == (1.5, "text")
    assert back["b"].identical(flat)


def test_jit_equals_eager_and_keeps_the_headers(ds, flat):
    out = transforms.jit(divide)(ds, {"flat": flat})
    np.testing.assert_allclose(out["sci"], ds["sci"] / flat["sci"], rtol=3e-7)
    assert out["sci"].dtype == np.float32
    assert list(out["label"].values) == list("abc")
    assert out.attrs["meta"] is ds.attrs["meta"]


def test_a_new_file_name_does_not_retrace_a_new_mode_does(ds, flat):
    traces = []

    def spy(d, refs):
        traces.append(d.attrs["exp_type"])
        return divide(d, refs)

    compiled = transforms.jit(spy)
    compiled(ds, {"flat": flat})
    compiled(ds.assign_attrs(meta=Meta(filename="g.fits")), {"flat": flat + 1})
    assert traces == ["A"]
    compiled(ds.assign_attrs(exp_type="B"), {"flat": flat})
    assert traces == ["A", "B"]


def test_gradients_with_respect_to_data_and_reference(ds, flat):
    def loss(d, refs):
        return (divide(d, refs)["sci"] ** 2).sum()

    value, grads = transforms.value_and_grad(loss, {0: ("sci",), 1: ("flat/sci",)})(
        ds, {"flat": flat}
    )
    sci, f = ds["sci"].values, flat["sci"].values
    np.testing.assert_allclose(value, ((sci / f) ** 2).sum(), rtol=1e-5)
    np.testing.assert_allclose(grads[0]["sci"], 2 * sci / f**2, rtol=1e-5)
    np.testing.assert_allclose(grads[1]["flat/sci"], (-2 * sci**2 / f**3).sum(0), rtol=1e-4)
    with pytest.raises(ContractError, match="no numeric variable 'nope'"):
        transforms.value_and_grad(loss, ("nope",))(ds, {"flat": flat})


def test_jvp_is_the_directional_derivative(ds, flat):
    tangent = np.ones((2, 3, 4))
    value, d = transforms.jvp(divide, (ds, {"flat": flat}), {0: {"sci": tangent}})
    np.testing.assert_allclose(value["sci"], ds["sci"] / flat["sci"], rtol=1e-6)
    np.testing.assert_allclose(d["sci"], np.broadcast_to(1 / flat["sci"], (2, 3, 4)), rtol=1e-6)


def test_vmap_over_a_named_dimension_equals_a_loop(ds):
    def total(d):
        assert d["sci"].dims == ("y", "x")
        return d.assign(sci=d["sci"].sum("x"))

    out = transforms.vmap(total)(ds)
    assert out["sci"].dims == ("integration", "y")
    for i in range(2):
        one = ds["sci"].isel(integration=i).sum("x")
        np.testing.assert_allclose(out["sci"][i], one, rtol=1e-6)
    with pytest.raises(ContractError, match="must have dimension 'slit'"):
        transforms.vmap(total, "slit")(ds)


def test_a_variable_is_taken_and_returned_like_a_dataset(ds, flat):
    def brightest(d, f):
        return (d["sci"] / f["sci"]).max("x").rename("brightest")

    value, derivative = transforms.jvp(brightest, (ds, flat), {0: {"sci": ds["sci"].data}})
    expected = brightest(ds, flat)
    for out in (value, derivative, transforms.jit(brightest)(ds, flat)):
        assert out.name == "brightest"
        xr.testing.assert_allclose(out, expected, rtol=1e-6)
    doubled = transforms.jit(lambda sci: 2 * sci)(ds["sci"])
    xr.testing.assert_allclose(doubled, 2 * ds["sci"])
    mapped = transforms.vmap(lambda sci: sci.sum("x"))(ds["sci"])
    xr.testing.assert_allclose(mapped, ds["sci"].sum("x"), rtol=1e-6)


def test_plans_are_arguments(ds):
    plan = Weights(np.full((3, 4), 2.0, "f4"), power=2)

    def apply(d, p):
        assert isinstance(p, Weights)
        assert p.nothing is None
        assert p.limits[0] < p.limits[1]  # what is not declared is static
        return d.assign(sci=d["sci"] * (p.w**p.power))

    np.testing.assert_allclose(transforms.jit(apply)(ds, plan)["sci"], ds["sci"] * 4, rtol=1e-6)

"""Mapping by name: Datasets, plans, labels."""

import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from spec2fn import transforms
from spec2fn.errors import ContractError, PlanError
from spec2fn.plan_base import Plan, array, labels, positions
from spec2fn.slits import Slits
from spec2fn.typing import Array

KINDS = ("POINT", "EXTENDED", "POINT")


class Weights(Plan):
    """Of slits."""

    w: Array = array("slit y x")
    shared: Array = array("y x")
    kinds: tuple[str, ...] = labels("slit", default=KINDS)
    members: tuple[int, ...] = positions("slit", default=())
    listed: Array | None = array("(slit pixel)", default=None)
    placed: Array | None = array("slit -> (slit pixel)", default=None)
    anything: Array | None = array("...", default=None)
    forgotten: object = None


@pytest.fixture
def rng():
    return np.random.default_rng(5)


@pytest.fixture
def plan(rng):
    return Weights(rng.uniform(1, 2, (3, 4, 5)), rng.uniform(1, 2, (4, 5)))


@pytest.fixture
def bucket(rng):
    return xr.Dataset(
        {
            "sci": (("slit", "integration", "y", "x"), rng.normal(size=(3, 2, 4, 5))),
            "flat": (("y", "x"), rng.uniform(1, 2, (4, 5))),
            "time": ((), 5.0),
            "xsize": ("slit", np.array([5, 3, 4])),
            "slit_name": ("slit", np.array(["A", "B", "C"])),
            "source_type": ("slit", np.array(KINDS)),
        },
        coords={"slit": [4, 2, 9]},
        attrs={"exp_type": "A"},
    )


def weighted(ds, plan):
    """Written for buckets."""
    new = ds["sci"].data * (plan.w * plan.shared)[:, None]
    mean = (ds["sci"].data / ds["flat"].data).mean((-2, -1))
    out = ds.assign(sci=(ds["sci"].dims, new), mean=(("slit", "integration"), mean))
    return out.assign(doubled=((), 2 * ds["time"].data))


def same(out, expected):
    assert set(out.variables) == set(expected.variables)
    for name, variable in expected.variables.items():
        assert out[name].dims == variable.dims, name
        if variable.dtype.kind == "f":
            np.testing.assert_allclose(out[name], variable, rtol=1e-12)
        else:
            assert out[name].dtype == variable.dtype, name
            np.testing.assert_array_equal(out[name], variable)


def test_slits_are_mapped_as_buckets_of_one_with_their_part_of_the_plan(bucket, plan):
    seen = []

    def spy(ds, plan):
        seen.append((dict(ds.sizes), plan.w.shape, plan.shared.shape, plan.kinds))
        return weighted(ds, plan)

    out = transforms.vmap(spy, "slit")(bucket, plan=plan)
    same(out, weighted(bucket, plan))
    sizes = {"slit": 1, "integration": 2, "y": 4, "x": 5}
    assert len(seen) == 1, "what is not looked at does not cause another trace"
    assert seen[0][:3] == (sizes, (1, 4, 5), (4, 5))
    assert len(seen[0][3]) == 1


def test_integrations_are_mapped_with_the_whole_plan(bucket, plan):
    def each(ds, plan):
        assert ds["sci"].dims == ("slit", "y", "x")
        return ds.assign(sci=(ds["sci"].dims, ds["sci"].data * plan.w))

    out = transforms.vmap(each)(bucket, plan)
    expected = bucket["sci"] * plan.w[:, None]
    same(out, bucket.assign(sci=(bucket["sci"].dims, expected.data)))


def test_a_dim_can_be_hidden_or_kept(bucket):
    def total(ds):
        return ds.assign(total=ds["sci"].sum(("y", "x")) * ds["xsize"].astype(float))

    out = transforms.vmap(total, "slit", keep=False)(bucket)
    same(out, total(bucket))
    kept = transforms.vmap(lambda ds: ds.assign(n=((), jnp.sum(ds["sci"].data))), keep=True)(bucket)
    assert kept["n"].dims == ("integration",)
    np.testing.assert_allclose(kept["n"], bucket["sci"].sum(("slit", "y", "x")))


def test_coordinates_along_the_dim_are_kept():
    ds = xr.Dataset({"sci": ("integration", np.arange(3.0))}, coords={"integration": [5, 6, 7]})
    out = transforms.vmap(lambda d: d.assign(sci=d["sci"] ** 2))(ds)
    xr.testing.assert_equal(out, ds.assign(sci=ds["sci"] ** 2))


def test_what_a_function_looks_at_decides_how_often_it_is_traced(bucket, plan):
    traces = []

    def by_type(ds, plan):
        factor = 2.0 if str(ds["source_type"].values[0]) == "POINT" else 3.0
        traces.append(factor)
        kind, passed = np.array(plan.kinds, dtype="U8"), np.array(plan.kinds)
        new = {"kind": ("slit", kind), "passed": ("slit", passed)}
        return ds.assign(sci=(ds["sci"].dims, ds["sci"].data * factor), **new)

    out = transforms.vmap(by_type, "slit")(bucket, plan)
    factor = np.where(np.array(KINDS) == "POINT", 2.0, 3.0)[:, None, None, None]
    kinds = {name: ("slit", np.array(KINDS)) for name in ("kind", "passed")}
    same(out, bucket.assign(sci=bucket["sci"] * factor, **kinds))
    # one of all slits each time it looks, one for each value, in the order of the slits
    assert sorted(set(traces)) == [2.0, 3.0]
    assert len(traces) <= 4


def test_numbers_of_slits_are_traced_in_a_map_and_static_elsewhere(bucket):
    def cut(ds):
        width = ds["xsize"].data
        inside = np.arange(5) < jnp.asarray(width)[:, None, None, None]
        return ds.assign(sci=(ds["sci"].dims, jnp.where(inside, ds["sci"].data, 0.0)))

    same(transforms.vmap(cut, "slit")(bucket), cut(bucket))

    def wide(ds):
        rows = [i for i, n in enumerate(ds["xsize"].values) if n > 3]  # on the host
        return ds["sci"].data[jnp.array(rows)].sum()

    np.testing.assert_allclose(transforms.jit(wide)(bucket), wide(bucket))
    _, slope = transforms.value_and_grad(wide)(bucket)
    np.testing.assert_allclose(slope["sci"][:, 0, 0, 0], [1.0, 0.0, 1.0])


def test_labels_made_in_a_trace_can_be_passed_on(bucket):
    def mark(ds):
        return ds.assign(good=("slit", ds["sci"].data.mean((1, 2, 3)) > 0))

    out = transforms.jit(transforms.jit(mark))(bucket)
    np.testing.assert_array_equal(out["good"], mark(bucket)["good"])
    again = transforms.jit(lambda ds: ds["sci"].data[np.asarray(ds["good"].data)].sum())(out)
    np.testing.assert_allclose(again, bucket["sci"].values[out["good"].values].sum())


def test_slits_are_mapped_bucket_by_bucket(bucket, plan):
    slits = Slits((bucket, bucket.isel(slit=[0]).assign_coords(slit=[1])))
    plans = (plan, Weights(plan.w[:1], plan.shared, kinds=("POINT",)))

    def step(ds, plan):
        assert ds.sizes["slit"] == 1
        return weighted(ds, plan)

    out = transforms.vmap(step, "slit")(slits, plan=plans)
    assert out.ids == slits.ids
    for one, ds, p in zip(out.buckets, slits.buckets, plans, strict=True):
        same(one, weighted(ds, p))


def test_gradients_and_compiled_maps(bucket, plan):
    mapped = transforms.jit(transforms.vmap(weighted, "slit"))
    same(mapped(bucket, plan), weighted(bucket, plan))

    def loss(function):
        return lambda ds, plan: (function(ds, plan)["sci"].data ** 2).sum()

    wrt = {0: ("sci",), 1: ("w",)}
    _, found = transforms.value_and_grad(loss(transforms.vmap(weighted, "slit")), wrt)(bucket, plan)
    _, expected = transforms.value_and_grad(loss(weighted), wrt)(bucket, plan)
    np.testing.assert_allclose(found[0]["sci"], expected[0]["sci"])
    np.testing.assert_allclose(found[1]["w"], expected[1]["w"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"forgotten": np.zeros(7)}, r"Weights\.forgotten is an array of shape \(7,\).*array\(\"…"),
        ({"anything": np.zeros(7)}, r"Weights\.anything is an array of shape \(7,\)"),
        ({"listed": np.zeros(7)}, r"Weights\.listed has an axis \(slit pixel\).* along 'slit'"),
        ({"placed": np.zeros(3, int)}, r"Weights\.placed holds positions in \(slit pixel\), of wh"),
        ({"members": (1,)}, r"Weights\.members holds positions \(1,\).* along 'slit'"),
    ],
)
def test_fields_that_cannot_be_mapped_are_named(bucket, plan, changes, message):
    held = {n: getattr(plan, n) for n in ("w", "shared")}
    with pytest.raises(PlanError, match=message):
        transforms.vmap(weighted, "slit")(bucket, Weights(**held, **changes))


def test_positions_of_all_and_empty_lists_are_no_obstacle(bucket, plan):
    whole = Weights(plan.w, plan.shared, members=(0, 1, 2), listed=np.zeros(0))

    def members(ds, plan):
        assert plan.members == (0,)
        return weighted(ds, plan)

    same(transforms.vmap(members, "slit")(bucket, whole), weighted(bucket, whole))


class Lit(Plan):
    """Pixels that are listed."""

    position: Array = array("(slit pixel) -> entry")
    entry: Array = array("slit y x -> (slit pixel)")
    by_slit: tuple[int, ...] = labels("slit -> (slit pixel)")


class Summed(Plan):
    """Listed pixels that go into sums, which come one after the other, slit by slit in each."""

    pixel: Array = array("(slit term) -> (slit pixel)")
    place: Array = array("(slit term) -> shape")
    shape: tuple[int, int]
    by_slit: tuple[tuple[int, ...], ...] = labels("slit -> (slit term)")


class Listing(Plan):
    """Lists of two kinds, some for the slits in `some` once more."""

    lit: Lit
    weight: Array = array("(slit pixel)", padding=0.0)
    factor: tuple[Array, ...] = array("(slit pixel)")
    summed: Summed
    some: tuple[int, ...] = positions("slit -> other", default=())
    other: Lit | None = None


def lit(true):
    position = np.flatnonzero(true)
    entry = np.full(true.shape, len(position) + 1)
    entry[:, 0] = len(position)  # beyond the list in another way
    entry.reshape(-1)[position] = np.arange(len(position))
    return Lit(position, entry, tuple(true.sum((1, 2)).tolist()))


def listing(rng, true, some=(0, 2)):
    """What is true, and two sums of it in each row of four for every slit."""
    pixels = lit(true)
    n, (slit, row, _) = len(pixels.position), np.nonzero(true)
    second = np.flatnonzero(rng.uniform(size=n) < 0.5)
    pixel = np.concatenate([np.arange(n), second])
    place = np.concatenate([slit * 4 + row, slit[second] * 4 + row[second] + 4 * len(true)])
    counts = [[int((slit == i).sum()), int((slit[second] == i).sum())] for i in range(len(true))]
    return Listing(
        pixels,
        rng.uniform(1, 2, n),
        (rng.uniform(1, 2, n), rng.uniform(1, 2, n)),
        Summed(pixel, place, (1, 4), tuple(map(tuple, counts))),
        some,
        lit(true[list(some)]) if some else None,
    )


def with_lists(ds, plan):
    """Write an image of what is listed, and sums of it."""
    slits, listed = ds.sizes["slit"], plan.lit.position
    values = jnp.asarray(ds["flux"].data).reshape(-1)[listed] * plan.factor[0] * plan.factor[1]
    image = jnp.concatenate([values, jnp.array([-1.0, -2.0])])[plan.lit.entry]
    terms = (values * plan.weight)[plan.summed.pixel]
    sums = jnp.zeros(2 * slits * 4).at[plan.summed.place].add(terms).reshape(2, slits, 4)
    again = jnp.full(image.shape, jnp.nan)
    if plan.some:
        chosen = jnp.asarray(ds["flux"].data)[jnp.array(plan.some)].reshape(-1)
        values = jnp.concatenate([chosen[plan.other.position], jnp.array([-3.0, -4.0])])
        again = again.at[jnp.array(plan.some)].set(values[plan.other.entry])
    new = {"image": image, "again": again}
    out = ds.assign({n: (("slit", "y", "x"), v) for n, v in new.items()})
    return out.assign(sums=(("slit", "order", "y"), jnp.moveaxis(sums, 1, 0)))


@pytest.mark.parametrize(
    ("some", "lost"), [((), None), ((1,), 0), ((0, 2), 0), ((0, 2), 1), ((0, 1, 2), 2)]
)
def test_lists_of_all_slits_are_cut_into_those_of_each(rng, bucket, lost, some):
    true = rng.uniform(size=(3, 4, 5)) < np.array([0.2, 0.9, 0.5])[:, None, None]
    true[:, 1, 1] = True
    flux = np.where(true, rng.normal(size=true.shape), np.nan)  # what is not listed has no value
    if lost is not None:
        true[lost] = False
    ds, plan = bucket.assign(flux=(("slit", "y", "x"), flux)), listing(rng, true, some)
    mapped = transforms.vmap(with_lists, "slit")
    same(transforms.jit(mapped)(ds, plan=plan), with_lists(ds, plan))

    def loss(function):
        def of(ds, plan):
            out = function(ds, plan)
            return jnp.sum(out["image"].data ** 2) + jnp.sum(out["sums"].data ** 3)

        return of

    wrt = {0: ("flux",), 1: ("weight", "factor/1")}
    (_, found), (_, expected) = (
        transforms.jit(transforms.value_and_grad(loss(f), wrt))(ds, plan)
        for f in (mapped, with_lists)
    )
    for i, names in wrt.items():
        for name in names:
            assert np.isfinite(expected[i][name]).all()
            np.testing.assert_allclose(found[i][name], expected[i][name], rtol=1e-10)


def test_lists_do_not_matter_along_another_dim(rng, bucket):
    true = np.ones((3, 4, 5), dtype=bool)
    plan = listing(rng, true)

    def each(ds, plan):
        return with_lists(ds.assign(flux=ds["sci"]), plan).drop_vars("flux")

    out = transforms.vmap(each)(bucket, plan)
    for i in range(2):
        expected = each(bucket.isel(integration=i), plan)
        np.testing.assert_allclose(out["image"].isel(integration=i), expected["image"])


def test_a_list_must_be_as_long_as_its_slits_say(rng, bucket):
    plan = listing(rng, np.ones((3, 4, 5), dtype=bool))
    short = Listing(plan.lit, plan.weight[1:], (plan.factor[0][1:],) * 2, plan.summed)
    with pytest.raises(PlanError, match=r"Listing\.weight has 59 elements along \(slit pixel\)"):
        transforms.vmap(with_lists, "slit")(bucket, short)


def test_lengths_must_agree(bucket, plan):
    other = Weights(plan.w[:2], plan.shared, kinds=KINDS[:2])
    with pytest.raises(
        ContractError, match=r"'slit', all of the same length; found 3 .*2 .Weights.w"
    ):
        transforms.vmap(weighted, "slit")(bucket, other)
    with pytest.raises(ContractError, match="'order', all of the same length; found none"):
        transforms.vmap(weighted, "order")(bucket, plan)


def test_results_must_have_one_form(bucket, plan):
    def more_for_some(ds):
        point = str(ds["source_type"].values[0]) == "POINT"
        return ds.assign(extra=ds["sci"]) if point else ds

    def units_by_type(ds):
        units = "MJy" if ds["source_type"].values[0] == "POINT" else "MJy/sr"
        return ds.assign(sci=(ds["sci"].dims, ds["sci"].data, {"units": units}))

    def attribute(ds):
        return ds.assign_attrs(source_type=ds["source_type"].values[0])

    for function in (more_for_some, units_by_type, attribute):
        with pytest.raises(ContractError, match="other variables, units or attributes for some"):
            transforms.vmap(function, "slit")(bucket)
    with pytest.raises(ContractError, match="cannot return a plan"):
        transforms.vmap(lambda ds, plan: plan, "slit")(bucket, plan)

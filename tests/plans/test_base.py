"""Fields of plans say along which dims they run."""

import dataclasses
import importlib
import pkgutil

import numpy as np
import pytest

import spec2fn
from spec2fn import transforms
from spec2fn.errors import PlanError
from spec2fn.plan_base import Plan, array, labels, positions
from spec2fn.typing import Array


class Toy(Plan):
    weights: Array = array("slit disp cross")
    rows: Array = array("slit 2")
    given: Array | None = array("[integration] disp cross", default=None)
    columns: dict[str, Array] = array("slit", default=None)
    tables: tuple[Array, ...] = array("_", default=())
    listed: Array = array("(slit pixel)", default=None)
    level: float = array("", default=1.0)
    anything: Array = array("...", default=None)
    names: tuple[str, ...] = labels("slit", default=("a", "b", "c"))
    members: tuple[int, ...] = positions("slit", default=())
    order: int = 2


def toy(**changes):
    return Toy(**{"weights": np.zeros((3, 4, 5)), "rows": np.zeros((3, 2)), **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"given": np.zeros((4, 5))},
        {"given": np.zeros((7, 4, 5))},
        {"columns": {"a": np.zeros(3), "b": np.ones(3, bool)}},
        {"tables": (np.zeros(3), np.zeros(8))},
        {"listed": np.zeros(99)},
        {"level": np.float64(3)},
        {"anything": np.zeros((1, 2, 3, 4))},
    ],
)
def test_plans_with_the_declared_dims_are_made(changes):
    plan = toy(**changes)
    assert dataclasses.replace(plan, order=3).order == 3
    with pytest.raises(dataclasses.FrozenInstanceError, match="Toy is frozen"):
        plan.order = 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": np.zeros((4, 5))}, r"Toy\.weights needs dims \(slit disp cross\).*\(4, 5\)"),
        ({"rows": np.zeros((3, 3))}, r"Toy\.rows needs dims \(slit 2\).*the length of '2' is 2"),
        ({"rows": np.zeros((2, 2))}, r"Toy\.rows .*shape \(2, 2\): the length of 'slit' is 3"),
        ({"given": np.zeros((4, 6))}, r"Toy\.given .*the length of 'cross' is 5"),
        ({"given": np.zeros(5)}, r"Toy\.given .*another number of axes"),
        ({"columns": {"a": np.zeros(4)}}, r"Toy\.columns .*the length of 'slit' is 3"),
        ({"tables": (np.zeros((2, 2)),)}, r"Toy\.tables needs dims \(_\)"),
        ({"level": np.zeros(1)}, r"Toy\.level needs dims \(\), found shape \(1,\)"),
        ({"names": ("a",)}, r"Toy\.names .*the length of 'slit' is 3"),
    ],
)
def test_other_dims_are_an_error_that_names_class_and_field(changes, message):
    with pytest.raises(PlanError, match=message):
        toy(**changes)


def test_a_decorator_besides_does_no_harm():
    @dataclasses.dataclass(frozen=True, eq=False)
    class Decorated(Plan):
        w: Array = array("x")  # noqa: RUF009
        power: int = 1

    assert Decorated(np.zeros(3)).power == 1
    with pytest.raises(PlanError, match=r"Decorated\.w"):
        Decorated(np.zeros((3, 3)))


def test_fields_are_checked_inside_transformations():
    def short(plan):
        return dataclasses.replace(plan, rows=plan.rows[1:])

    def same(plan):
        return dataclasses.replace(plan, rows=2 * plan.rows)

    assert transforms.jit(same)(toy()).rows.shape == (3, 2)
    with pytest.raises(PlanError, match=r"Toy\.rows .*shape \(2, 2\)"):
        transforms.jit(short)(toy())


def all_plans():
    for module in pkgutil.walk_packages(spec2fn.__path__, "spec2fn."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    found, waiting = set(), [Plan]
    while waiting:
        waiting += waiting.pop().__subclasses__()
        found |= set(waiting)
    return sorted((c for c in found if c.__module__.startswith("spec2fn.")), key=str)


# a gwcs, and plans of the steps through which a background goes
VAGUE = {
    ("Extract2dPlan", "wcs"),
    ("WcsPlan", "wcs"),
    ("MasterBackgroundPlan", "resampling"),
    ("MasterBackgroundPlan", "extraction"),
}


def test_every_field_of_arrays_of_the_library_is_declared():
    plans = all_plans()
    assert len(plans) > 40
    for cls in plans:
        for f in dataclasses.fields(cls):
            arrays = any(word in f.type for word in ("Array", "ndarray", "Number"))
            assert not arrays or f.name in cls.declared, f"{cls.__name__}.{f.name}: use array(…)"
            vague = f.type.split("|")[0].strip() in ("Any", "object")
            assert not vague or (cls.__name__, f.name) in VAGUE, (cls, f.name)

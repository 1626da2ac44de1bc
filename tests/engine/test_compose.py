"""Steps, pipelines, parameters and their origins."""

import inspect
from typing import Annotated, Literal

import numpy as np
import pytest
import xarray as xr

from spec2fn.engine import pipeline as compose
from spec2fn.engine.forecast import plan
from spec2fn.engine.pipeline import (
    Observation,
    also_on,
    find_step,
    insert_after,
    insert_before,
    product,
    replace,
    with_parameters,
    without,
)
from spec2fn.engine.run import run
from spec2fn.engine.settings import resolve_settings
from spec2fn.engine.step import Skip, step
from spec2fn.errors import (
    ContractError,
    DatasetError,
    HostOnlyError,
    InputError,
    ParameterError,
    StepFailedError,
)
from spec2fn.parameters import Range
from spec2fn.schema import status_of


def scale(ds, gain=None, *, factor: float = 2.0, mode: Literal["up", "down"] = "up"):
    """Scale.

    Parameters
    ----------
    ds : xarray.Dataset
    """
    if gain is None:
        return Skip("no gain reference")
    k = factor if mode == "up" else 1 / factor
    return ds.assign(sci=ds["sci"] * k * float(gain["sci"].data.mean()))


def plan_shift(ds, *, params):
    return params.by * int(ds.sizes["x"])


def shift(ds, *, plan, by: Annotated[int, Range(0, 9)] = 1):
    return ds.assign(sci=ds["sci"] + plan, shifted=ds["sci"])


@pytest.fixture
def steps():
    return (
        step(refs=("gain",), aliases=("gain_scale",), needs_refs=("gain",))(scale),
        step(planner=plan_shift, provides=("shifted",), traceable=True)(shift),
    )


@pytest.fixture
def ds():
    return xr.Dataset({"sci": (("y", "x"), np.ones((2, 3), "f4"))}, attrs={"exp_type": "A"})


def test_a_step_is_the_function_it_was(steps, ds):
    do_scale, _ = steps
    out = do_scale(ds, np.full((2, 3), 3.0), factor=5)
    assert np.all(out["sci"] == 15)
    assert status_of(out, "scale") == "COMPLETE"
    assert np.all(ds["sci"] == 1)
    assert "status_scale" not in ds.attrs


def test_output_is_read_only_and_input_is_left_alone(steps, ds):
    out = steps[0](ds, np.ones((2, 3)))
    with pytest.raises(ValueError, match="read-only"):
        out["sci"].data[0, 0] = 1
    ds["sci"].data[0, 0] = 7  # the caller's own array stays writable


def test_skip_is_recorded_with_its_reason(steps, ds):
    out = steps[0](ds)
    assert status_of(out, "scale") == "SKIPPED: no gain reference"
    assert out["sci"].identical(ds["sci"])


def test_with_binds_and_validates(steps, ds):
    do_scale, do_shift = steps
    assert do_scale.with_(mode="DOWN", factor="4").defaults() == {"factor": 4.0, "mode": "down"}
    assert hash(do_scale.with_(factor=3)) != hash(do_scale)
    for bad, text in (
        ({"factr": 1}, r"scale has no parameter 'factr'; did you mean 'factor'"),
        ({"mode": "left"}, r"scale.mode: needs 'up' or 'down', got 'left'"),
        ({"factor": "x"}, r"scale.factor: needs float, got 'x'"),
    ):
        with pytest.raises(ParameterError, match=text):
            do_scale.with_(**bad)
    with pytest.raises(ParameterError, match=r"from 0 to 9"):
        do_shift(ds, by=10)
    with pytest.raises(ContractError, match="takes 1 references"):
        do_scale(ds, None, None)


def test_two_phases(steps, ds):
    _, do_shift = steps
    made = do_shift.plan(ds, by=2)
    assert made == 6
    assert np.all(do_shift(ds, plan=made)["sci"] == 7)
    assert np.all(do_shift(ds)["sci"] == 4)


def test_planning_in_a_trace_says_what_to_do(steps, ds):
    from spec2fn.transforms import jit

    _, do_shift = steps
    with pytest.raises(HostOnlyError, match=r"compute plan = shift.plan\(ds, ...\) outside"):
        jit(do_shift)(ds)
    out = jit(lambda d, p: do_shift(d, plan=p))(ds, 3.0)
    assert np.all(np.asarray(out["sci"]) == 4)
    assert status_of(out, "shift") == "COMPLETE"


def test_editing_a_pipeline(steps):
    do_scale, do_shift = steps
    pipeline = (do_scale, product("mid"), do_shift)
    mine = replace(pipeline, scale=do_scale.with_(factor=3), shift=None)
    assert [e.name for e in mine] == ["scale", "product:mid"]
    assert pipeline[0].bound == ()

    def mask(d):
        return d

    assert [e.name for e in insert_after(pipeline, "gain_scale", mask)] == [
        "scale",
        "mask",
        "product:mid",
        "shift",
    ]
    assert insert_before(pipeline, "mid", mask)[1].name == "mask"
    assert without(pipeline, "scale", "mid") == (do_shift,)
    with pytest.raises(ParameterError, match=r"no step 'shfit' in this pipeline; did you mean 's"):
        find_step(pipeline, "shfit")
    with pytest.raises(ContractError, match="a pipeline holds steps"):
        replace(pipeline, shift=3)


def test_parameters_have_an_origin_and_the_user_wins(steps):
    crds = {
        "scale": {"factor": 3, "mode": "down", "pre_hooks": []},
        "pipeline": {"scale": {"factor": 4, "skip": True, "save_results": True}},
    }
    settings = resolve_settings(steps, {"gain_scale": {"skip": "false"}}, crds)
    table = settings.table(settings.pipeline[0])
    assert table["factor"] == (4.0, "CRDS pars-spec2pipeline")
    assert table["mode"] == ("down", "CRDS pars-scale")
    assert table["skip"] == (False, "user")
    assert settings.save == ("scale",)
    assert settings.ignored == ("scale.pre_hooks",)
    with pytest.raises(ParameterError, match="no parameter 'nonsense'"):
        resolve_settings(steps, {"scale": {"nonsense": 1}})


def test_run_takes_products_and_records(steps, ds):
    do_scale, do_shift = steps
    pipeline = (
        do_scale,
        product("a"),
        product("b", of="scale"),
        product("c", optional=True),
        do_shift,
        product("d"),
    )
    result = run(pipeline, ds, {"gain": np.ones((2, 3))}, save_steps=["shift"])
    assert set(result.products) == {"a", "b", "d"}
    assert np.all(result.products["a"]["sci"] == 2)
    assert np.all(result.saved["shift"]["sci"] == 5)
    assert [r.status for r in result.report] == ["COMPLETE", "COMPLETE"]
    assert set(run(pipeline, ds).products) == {"a", "d"}
    again = run(pipeline, ds, {"gain": np.ones((2, 3))}, plans=result.plans, products=("c",))
    assert again.dataset.identical(result.dataset)
    assert "c" in again.products


def test_lifts_act_on_members(steps, ds):
    _, do_shift = steps
    other = ds.isel(x=slice(2))
    obs = Observation(ds, {"background": (other,), "imprint": (other,)})
    shared = run((also_on("background", do_shift, share_plan=True),), obs)
    assert np.all(shared.members["background"][0]["sci"] == 4)
    assert np.all(shared.members["imprint"][0]["sci"] == 1)
    own = run((also_on("background", do_shift),), obs)
    assert np.all(own.members["background"][0]["sci"] == 3)


def test_plans_of_members_are_used_again(steps, ds):
    _, do_shift = steps
    other = ds.isel(x=slice(2))
    pipeline = (also_on("background", do_shift),)
    first = run(pipeline, Observation(ds, {"background": (other,)}))
    assert set(first.plans) == {"shift", "background:shift"}
    # a plan is kept for the exposures it was made for, whatever is given later
    again = run(pipeline, Observation(ds, {"background": (ds,)}), plans=first.plans)
    assert np.all(again.members["background"][0]["sci"] == 3)


def test_a_lift_may_depend_on_another_step(steps, ds):
    do_scale, do_shift = steps
    obs = Observation(ds, {"background": (ds,)})
    lift = also_on("background", do_shift, when="scale")
    for pipeline, shifted in (
        ((lift, do_scale), True),
        ((lift, do_scale.with_(skip=True)), False),
        ((lift,), False),
    ):
        member = run(pipeline, obs).members["background"][0]
        assert ("shifted" in member) == shifted


def test_order_is_checked_before_anything_runs(steps, ds):
    needs = step(reads=("shifted",), name="needs_shift")(lambda d: d)
    with pytest.raises(ContractError, match="reads 'shifted', which no step before it provides"):
        run((needs, steps[1]), ds)
    run((steps[1], needs), ds)


def test_unexpected_errors_name_the_step(steps, ds):
    def broken(d):
        raise KeyError("boo")

    with pytest.raises(StepFailedError, match="step broken failed: KeyError: 'boo'"):
        run(replace((step(name="broken")(broken),)), ds)


def test_plan_foresees_skips(steps, ds):
    pipeline = with_parameters(steps, {"shift": {"skip": True}})
    planned = plan(pipeline, ds, params={"scale": {"factor": 3}})
    scale_row, shift_row = planned.steps
    assert (scale_row.runs, scale_row.reason) == (False, "no gain reference for this exposure")
    assert shift_row.reason.startswith("off by default")
    assert "factor = 3.0  [user]" in str(planned)
    assert planned.as_dict()["steps"][0]["parameters"]["factor"]["origin"] == "user"


def test_plan_knows_the_references_of_each_branch(steps, ds):
    pair = [compose.branch(n, lambda b: b, steps[0], exp_type=n.upper()) for n in ("a", "b")]
    planned = plan((compose.split(*pair),), ds, {"a:gain": 2.0, "b:gain": None, "gain": 2.0})
    assert [(s.name, s.runs) for s in planned.steps] == [("a/scale", True), ("b/scale", False)]


def test_since_begins_at_a_step_in_every_branch(steps):
    do_scale, do_shift = steps
    both = (
        compose.branch("a", lambda b: b, do_scale, do_shift),
        compose.branch("b", lambda b: b, do_shift),
    )
    pipeline = (do_scale, compose.product("mid"), compose.split(*both), compose.product("end"))
    (first, *rest) = compose.since(pipeline, "shift")
    assert [[s.key for s in one.steps] for one in first.branches] == [["a/shift"], ["b/shift"]]
    assert rest == [pipeline[3]]
    assert compose.since(pipeline, "scale") == pipeline
    with pytest.raises(ParameterError, match="a/scale is no step of the branch b, which has shift"):
        compose.since(pipeline, "a/scale")
    with pytest.raises(ParameterError, match="no step 'mid'"):
        compose.since(pipeline, "mid")


def test_the_input_or_the_user_is_named_for_what_a_step_lacks(steps, ds):
    needs = step(reads=("shifted",), name="needs_shift")(lambda d: d)
    with pytest.raises(DatasetError, match="needs_shift reads 'shifted', which it does not hold"):
        run((steps[0], needs), ds)
    with pytest.raises(ParameterError, match="which shift provides, and that is switched off"):
        run((steps[1].with_(skip=True), needs), ds)


def test_nothing_is_done_twice(steps, ds):
    refs = {"gain": np.full((2, 3), 3.0)}
    half = run(steps[:1], ds, refs).dataset
    once = run(steps, ds, refs).dataset
    with pytest.raises(InputError, match=r"scale, shift already.*give the _rate file it was made"):
        run(steps, once, refs)
    with pytest.raises(InputError, match=r"scale already.*since\(pipeline, 'shift'\)"):
        run(steps, half, refs)
    assert run(compose.since(steps, "shift"), half).dataset.identical(once)
    takes = step(members=("background",), name="takes")(lambda d, background=(): d)
    with pytest.raises(InputError, match="has been through scale already"):
        run((*steps, takes), Observation(ds, {"background": (half,)}), refs)


def test_calibrated_units_tell_as_much_as_a_status(ds):
    photom = step(name="photom")(lambda d: d)
    calibrated = ds.assign(sci=ds["sci"].assign_attrs(units="MJy/sr"))
    with pytest.raises(InputError, match="has been through photom already"):
        run((photom,), calibrated)


def test_a_step_shows_its_own_arguments():
    from spec2fn.steps.photom import photom

    shown = inspect.signature(photom).parameters
    assert list(shown)[:4] == ["ds", "photom", "area", "plan"]
    assert shown["plan"].default is None
    assert shown["inverse"].default is False


@pytest.mark.parametrize(
    ("planner", "error", "match"),
    [
        (lambda ds, *, params: params.shifted, ParameterError, "no parameter 'shifted'.*by"),
        (lambda ds, *, shifted: shifted, ParameterError, "no parameter 'shifted'.*by"),
        (lambda ds, *, by: by, ContractError, "read params.by"),
        (lambda ds, flat: flat, ContractError, "2 positional arguments, needs the Dataset"),
    ],
)
def test_a_planner_that_asks_for_what_the_step_has_not_is_refused(planner, error, match):
    def move(ds, *, plan=None, by: float = 1.0):
        return ds

    with pytest.raises(error, match=match):
        step(planner=planner)(move)


def test_planners_get_every_parameter_in_a_frozen_namespace(ds):
    def planner(ds, *, params):
        with pytest.raises(ContractError, match="frozen"):
            params.by = 3.0
        with pytest.raises(ParameterError, match="move has no parameter 'bye'"):
            getattr(params, "by" + "e")
        return dict(params)

    def move(ds, *, plan=None, by: float = 1.0, to: str = "left"):
        return ds

    assert step(planner=planner)(move).plan(ds, by="2") == {"by": 2.0, "to": "left"}

"""References that are absent, for another exposure, cut, empty or without errors.

Every step of a run is given each of its references damaged in turn, on what the steps before it
made of the rendered exposure. It makes what it made before, is skipped with a reason, or one line
names the reference. Where a mode has no reference by right (``area``), it may also go on, and a
warning tells what that means.
"""

import math

import numpy as np
import pytest

from spec2fn.engine import run as running
from spec2fn.engine.pipeline import AlsoOn, references_of
from spec2fn.errors import InputError, ReferenceError
from spec2fn.refs import open_reference
from spec2fn.schema import NOT_EXTRACTED, meta_of, status_of
from tests.robustness.conftest import difference

FAST = (
    *("miri-lrs-slit", "miri-lrs-slitless", "nirspec-fs", "nirspec-bots", "nircam-tsgrism"),
    *("nirspec-lamp", "niriss-soss"),
)
SLOW = ("miri-mrs", "nirspec-ifu", "nirspec-mos")
# their images are on a grid of positions, of which less is no error
GRIDS = ("pathloss", "psf", "barshadow")
OTHERS = {
    "instrument": "FGS",
    "exp_type": "FGS_FOCUS",
    "detector": "NRS9",
    "filter": "F999N",
    "grating": "G999H",
    "channel": "9",
    "band": "EXTREME",
    "module": "Z",
    "pupil": "GRISMZ",
}


@pytest.fixture(scope="module")
def recorded(case):
    """``recorded(mode)``: what every step of a run got, its references, and what it made."""
    known = {}

    def get(mode):
        if mode not in known:
            seen = {}
            apply = running._Run.apply

            def noted(self, element, obs):
                step = element.step if isinstance(element, AlsoOn) else element
                out = apply(self, element, obs)
                if step.refs and not step.skip:
                    refs = references_of(step, self.refs)
                    seen.setdefault(step.key, (step, obs, refs, out.science))
                return out

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(running._Run, "apply", noted)
                assert case(mode).run().error is None
            known[mode] = seen
        return known[mode]

    yield get
    known.clear()


def other(ref):
    """For another exposure: all that the file says of what it was made for."""
    made = dict(ref.attrs["made_for"])
    return ref.assign_attrs(made_for=tuple((name, OTHERS[name]) for name in made))


def cut(ref):
    """Of another subarray: half as large."""
    maps = ref.attrs.get("tree", {}).get("regions")
    if maps is not None:
        tree = {**ref.attrs["tree"], "regions": np.asarray(maps)[:, :, : np.shape(maps)[2] // 2]}
        return ref.assign_attrs(tree=tree)
    dims = [d for d in ref.dims if d in ("y", "x") or str(d).endswith(("_y", "_x"))]
    if not dims or ref.attrs["reftype"] in GRIDS:
        return None
    return ref.isel({d: slice(0, ref.sizes[d] // 2) for d in dims})


def empty(ref):
    """All numbers NaN."""
    if "tree" in ref.attrs:
        return ref.assign_attrs(tree=_nan(ref.attrs["tree"]))
    return ref.assign(
        {
            n: (v.dims, np.full(v.shape, np.nan, v.dtype), v.attrs)
            for n, v in ref.data_vars.items()
            if v.dtype.kind == "f"
        }
    )


def _nan(value):
    if hasattr(value, "items"):
        kept = ("meta", "history", "asdf_library")
        return {k: v if k in kept else _nan(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_nan(v) for v in value]
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        if hasattr(value, "lookup_table"):
            value = value.copy()
            value.lookup_table = np.full(np.shape(value.lookup_table), np.nan)
        elif hasattr(value, "parameters"):
            value = value.copy()
            value.parameters = np.full(np.shape(value.parameters), np.nan)
        elif getattr(getattr(value, "dtype", None), "kind", "") in "iuf" and np.shape(value):
            value = np.full(np.shape(value), np.nan)
        return value
    return math.nan


def without_errors(ref):
    """Without the planes and columns of errors."""
    words = ("err", "uncertainty", "var")
    names = [n for n in ref.data_vars if any(w in str(n).lower() for w in words)]
    return ref.drop_vars(names) if names else None


def outcome(step, obs, refs, reftype, damaged, usual):
    """Return "same", "skipped", "refused", "lost" (slits, with a reason) or "warned"."""
    members = {role: obs.members.get(role, ()) for role in step.members}
    try:
        made = step(obs.science, **{**refs, reftype: damaged}, **members)
    except InputError as error:
        text = str(error)
        assert reftype in text, text
        assert "\n" not in text, text
        return "refused"
    status = status_of(made, step.name)
    if status.startswith("SKIPPED: "):
        return "skipped"
    assert status == "COMPLETE", status
    problems = getattr(made, "problems", None) or meta_of(made).records.get(NOT_EXTRACTED, {})
    before = getattr(usual, "problems", None) or meta_of(usual).records.get(NOT_EXTRACTED, {})
    if any(reftype in text for name, text in problems.items() if text != before.get(name)):
        return "lost"
    found = difference({"": made}, {"": usual})
    warnings = [w for w in meta_of(made).records.get("warnings", ()) if f"no {reftype} ref" in w]
    if damaged is None and warnings:
        return "warned"
    assert found is None, found
    return "same"


def walk(recorded, mode, damage):
    """Damage every reference of every step; outcomes by step and type, or what was wrong."""
    outcomes, wrong = {}, {}
    for key, (step, obs, refs, usual) in recorded(mode).items():
        if damage is None and step.name == "master_background":
            continue  # it applies other steps, which say so where they stand in the pipeline
        for reftype, lazy in refs.items():
            ref = None if lazy is None else lazy.load()
            if ref is not None and damage is other:
                ref = open_reference(lazy.path, reftype)
            damaged = None if ref is None or damage is None else damage(ref)
            if ref is None or (damaged is None and damage is not None):
                continue
            try:
                found = outcome(step, obs, refs, reftype, damaged, usual)
                outcomes[key, reftype] = found
            except Exception as error:  # every kind of third outcome is listed
                wrong[key, reftype] = f"{type(error).__name__}: {error}"[:300]
    assert not wrong, wrong
    assert outcomes
    return outcomes


MODES = [*FAST, *(pytest.param(m, marks=pytest.mark.slow) for m in SLOW)]


@pytest.mark.parametrize("mode", MODES)
def test_absent(recorded, mode):
    walk(recorded, mode, None)


@pytest.mark.parametrize("mode", MODES)
def test_for_another_exposure(recorded, mode):
    outcomes = walk(recorded, mode, other)
    assert set(outcomes.values()) == {"refused"}, outcomes


@pytest.mark.parametrize("mode", MODES)
def test_cut_to_another_subarray(recorded, mode):
    walk(recorded, mode, cut)


@pytest.mark.parametrize("mode", MODES)
def test_nothing_but_nan(recorded, mode):
    outcomes = walk(recorded, mode, empty)
    assert set(outcomes.values()) == {"refused"}, outcomes


@pytest.mark.parametrize("mode", MODES)
def test_without_errors(recorded, mode):
    walk(recorded, mode, without_errors)


@pytest.mark.slow
def test_slices_of_another_channel_are_seen_without_metadata(recorded):
    step, obs, refs, _ = recorded("miri-mrs")["assign_wcs"]
    loaded = {k: v.load() for k, v in refs.items() if v is not None}
    assert not any("made_for" in ref.attrs for ref in loaded.values())
    regions = loaded["regions"]
    maps = np.asarray(regions.attrs["tree"]["regions"])
    tree = {**regions.attrs["tree"], "regions": np.where(maps > 0, maps + 200, maps)}
    with pytest.raises(ReferenceError, match=r"'regions' .* slices that the distortion lacks \(3"):
        step(obs.science, **{**loaded, "regions": regions.assign_attrs(tree=tree)})

"""The peer's products on generated exposures.

``SPEC2FN_PEERBENCH`` names the folder of the generator scripts; tests are skipped without it or
without the ``parity`` extra. A scenario is generated and calibrated by the peer once per session.
How far our numbers may be from the peer's stands in ``allowed.yaml``, nowhere else.
"""

import fcntl
import functools
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import yaml

import spec2fn.buckets
from spec2fn.compatibility import preset
from tests.buckets import FREE_PADDING

SLOW = (
    "cube_build",
    "io_nirspec",
    "ifu_",
    "imprint",
    "master_background",
    "mrs_",
    "msaflagopen",
    "nirspec_",
    "nsclean",
    "residual_fringe",
    "slitless_",
    "soss_",
    "wfss_",
)


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.parent.name == "parity":
            item.add_marker(pytest.mark.parity)
            later = item.get_closest_marker("nightly")
            if item.path.stem.removeprefix("test_").startswith(SLOW) and not later:
                item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="module", autouse=True)
def _buckets_of_the_user():
    """These exposures are large; other tests have as many buckets as they can."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spec2fn.buckets, "FREE_PADDING", FREE_PADDING)
        yield


ENV = {
    "CRDS_SERVER_URL": "https://crds-serverless-mode.stsci.edu",
    "CRDS_OBSERVATORY": "jwst",
    "CRDS_READONLY_CACHE": "1",
}


@pytest.fixture(scope="session")
def peerbench(tmp_path_factory):
    """A private copy of the generator scripts."""
    folder = os.environ.get("SPEC2FN_PEERBENCH")
    if not folder:
        pytest.skip("SPEC2FN_PEERBENCH is not set")
    if importlib.util.find_spec("jwst") is None:
        pytest.skip("the parity extra (jwst==3.0.0) is not installed")
    if not Path(folder, "make.py").exists():
        pytest.fail(f"SPEC2FN_PEERBENCH={folder} holds no make.py")
    copy = tmp_path_factory.mktemp("peerbench") / "scripts"
    shutil.copytree(folder, copy)
    return copy


@pytest.fixture(scope="session")
def scenario(peerbench, tmp_path_factory):
    """``scenario(name, seed=0, without=(), within=(), made=(), given={})``: all there is of it.

    Exposures; ``peer_out`` holds the peer's final products, ``steps`` those of every step. The
    workers of a parallel run share the folders: whoever needs one first makes it, the others wait.
    ``SPEC2FN_SCENARIOS`` names a folder that keeps them for the next session. `without` names
    steps that both are to skip, `within` such as are switched on, `given` has further parameters
    by step; `made` are further arguments of the generator, ``("nints=2",)``.
    """
    base = tmp_path_factory.getbasetemp()
    if os.environ.get("PYTEST_XDIST_WORKER"):
        base = base.parent
    base = Path(os.environ.get("SPEC2FN_SCENARIOS") or base / "scenarios")
    base.mkdir(exist_ok=True)

    def make(name, seed=0, without=(), within=(), made=(), given=None):
        more = given or {}
        changes = [f"no_{step}" for step in without] + [f"with_{step}" for step in within]
        changes += sorted(parameter for values in more.values() for parameter in values)
        label = "-".join([name, str(seed), *(m.replace("=", "_") for m in made), *changes])
        folder = base / label
        done = base / f"{label}.done"
        with (base / f"{label}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)
                settings = {step: {"skip": step in without} for step in (*without, *within)}
                for step, values in more.items():
                    settings.setdefault(step, {}).update(values)
                _make(peerbench, folder, name, seed, settings, made)
                done.touch()
        return folder

    return make


@pytest.fixture
def exposures(peerbench, tmp_path, crds_cache):
    """``exposures(name)``: those of a scenario with seed 0, which the peer has not seen."""

    def make(name):
        _generate(peerbench, tmp_path / name, name, 0, ())
        crds_cache(tmp_path / name)
        return tmp_path / name

    yield make
    shutil.rmtree(tmp_path)  # up to gigabytes, which pytest would keep


def _generate(peerbench, folder, name, seed, made):
    given = [word for setting in made for word in ("--set", setting)]
    _call([peerbench / "make.py", name, folder, "--seed", seed, *given])


def _make(peerbench, folder, name, seed, steps, made):
    _generate(peerbench, folder, name, seed, made)
    config = folder / "scenario.json"
    settings = json.loads(config.read_text())
    for step, values in steps.items():
        settings["steps"].setdefault(step, {}).update(values)
    config.write_text(json.dumps(settings))
    _call([peerbench / "run_peer.py", folder, "--save-all", "--out", folder / "steps"])
    failed = json.loads((folder / "steps" / "timing.json").read_text())["error"]
    assert not failed, f"the peer failed on {name}: {failed}"
    out = folder / "peer_out"
    out.mkdir()
    for kind in ("cal", "calints", "s2d", "s3d", "x1d", "x1dints"):
        for path in (folder / "steps").glob(f"*_{kind}.fits"):
            shutil.copy(path, out)


def _call(command):
    env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    env.pop("JAX_NUMPY_DTYPE_PROMOTION", None)
    done = subprocess.run(
        [sys.executable, *map(str, command)], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}"


@pytest.fixture
def crds_cache(monkeypatch):
    """``crds_cache(folder)``: point the CRDS client at the offline cache of a scenario."""

    def use(folder):
        from spec2fn.refs import clear_cache

        for key, value in {
            **ENV,
            "CRDS_PATH": str(Path(folder) / "crds_cache"),
            "CRDS_CONTEXT": "jwst_0001.pmap",
        }.items():
            monkeypatch.setenv(key, value)
        clear_cache()

    return use


def _fraction(ours, theirs, rtol):
    ours, theirs = np.asarray(ours, dtype=float), np.asarray(theirs, dtype=float)
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
    a, b = np.isfinite(theirs), np.isfinite(ours)
    either, both = a | b, a & b
    if not either.any():
        return 1.0
    scale = np.median(np.abs(theirs[both])) if both.any() else 0.0
    with np.errstate(invalid="ignore"):
        fine = both & (np.abs(ours - theirs) <= rtol * (np.abs(theirs) + scale))
    return fine.sum() / either.sum()


@dataclass(frozen=True)
class Allowed:
    """A row of ``allowed.yaml``: how far our numbers may be from the peer's.

    Attributes
    ----------
    rtol, atol : float
        Of single elements.
    rel, abs : float, optional
        Of keywords, as :func:`pytest.approx` takes them.
    ok : float
        Fraction of a plane or column that has to agree to `rtol`.
    dq : float
        Fraction of a DQ plane that has to be identical.
    why : str
        Why a fraction is not 1.
    """

    name: str
    rtol: float = 0.0
    atol: float = 0.0
    rel: float | None = None
    abs: float | None = None
    ok: float = 1.0
    dq: float = 1.0
    why: str = ""

    def close(self, ours, theirs, **how):
        """Every element agrees."""
        np.testing.assert_allclose(ours, theirs, rtol=self.rtol, atol=self.atol, **how)

    def fraction(self, ours, theirs):
        """Of the elements finite in either: finite in both and within rtol of value + median."""
        return _fraction(ours, theirs, self.rtol)

    def agree(self, ours, theirs, *label):
        """The allowed fraction of the elements agrees."""
        found = self.fraction(ours, theirs)
        assert found >= self.ok, (self.name, *label, found)

    def approx(self, value):
        """A number to compare with."""
        return pytest.approx(value, rel=self.rel, abs=self.abs)


@pytest.fixture
def allowed(request):
    """``allowed("cube")``: that row of the section of the test's file in ``allowed.yaml``."""
    section = request.path.stem.removeprefix("test_")
    table = yaml.safe_load((Path(__file__).parent / "allowed.yaml").read_text("utf-8"))

    def row(name):
        texts = ("why",)
        values = {k: v if k in texts else float(v) for k, v in table[section][name].items()}
        return Allowed(f"{section}.{name}", **values)

    return row


# nsclean as the peer's clean_flicker_noise, and errors as the peer has them
AS_THE_PEER = preset("jwst-3.0")
# the peer's name of a step or its output, and ours
OUR_NAMES = {
    "bkg_subtract": "background",
    "msa_flagging": "msaflagopen",
    "clean_flicker_noise": "nsclean",
    "imprint_subtract": "imprint",
    "master_background_mos": "master_background",
}


@pytest.fixture(scope="session")
def compare(peerbench):
    """Compare two files plane by plane: ``compare(theirs, ours, rtol)`` gives rows."""
    spec = importlib.util.spec_from_file_location("peerbench_compare", peerbench / "compare.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.compare_file


@dataclass
class WholeRun:
    """A scenario calibrated by the peer, and by us with the same parameters.

    Attributes
    ----------
    more : dict
        Parameters by our names of the steps, which the peer has not.
    peer : dict of str to Path
        The peer's files of the science exposure, by name of the product or step.
    """

    folder: Path
    out: Path
    more: dict = field(default_factory=dict)
    peer: dict = field(init=False)
    stem: str = field(init=False)

    def __post_init__(self):
        files = self.folder / "steps"
        (final,) = (p for k in ("cal", "calints") for p in files.glob(f"*_{k}.fits"))
        self.stem = final.stem.rpartition("_")[0]
        found = files.glob(f"{self.stem}_*.fits")
        self.peer = {p.stem.removeprefix(f"{self.stem}_"): p for p in sorted(found)}

    def ours(self, kind):
        """Our file of what the peer calls `kind`."""
        return self.out / f"{self.stem}_{OUR_NAMES.get(kind, kind)}.fits"

    @functools.cached_property
    def skipped(self):
        """Calibrate; return the peer's names of the steps that were skipped."""
        from spec2fn.calibration import calibrate, prepare
        from spec2fn.engine.pipeline import steps_of

        described = json.loads((self.folder / "scenario.json").read_text())
        params = {name: dict(values) for name, values in AS_THE_PEER.items()}
        for name, values in described["steps"].items():
            params.setdefault(OUR_NAMES.get(name, name), {}).update(values)
        for name, values in self.more.items():
            params.setdefault(name, {}).update(values)
        source = self.folder / described["asn"]
        settings = prepare(source, parameter_references=False).settings
        known = {s.name for s in steps_of(settings.pipeline)}
        done = calibrate(
            source,
            self.out,
            params=params,
            save_steps=sorted({OUR_NAMES.get(n, n) for n in self.peer} & known),
            save_bsub=any(k.startswith("bsub") for k in self.peer),
            save_wfss_esec="esec" in self.peer,
        )
        steps = {
            s["step"].rpartition("/")[2]
            for s in done.report["steps"]
            if s["status"].startswith("SKIPPED")
        }
        return steps | {theirs for theirs, ours in OUR_NAMES.items() if ours in steps}

    def files(self):
        """Calibrate; give kind and the peer's file of everything that was not skipped.

        The peer saves what it has skipped as well.
        """
        return [(k, path) for k, path in self.peer.items() if k not in self.skipped]

    def disagreements(self, compare, row_of, flags=("DQ",), without=()):
        """Calibrate; give kind, plane and agreeing fraction of what agrees less than it may.

        `row_of` gives the row of ``allowed.yaml`` for a kind; planes of `flags` have to be
        identical to its `dq`, those `without` are not looked at.
        """
        low = []
        for kind, path in self.files():
            least = row_of(kind)
            for row in compare(path, self.ours(kind), least.rtol):
                assert "problem" not in row, (kind, row)
                plane = str(row["plane"][0])
                if plane in without:
                    continue
                if row.get("ok", 1.0) < (least.dq if plane in flags else least.ok):
                    low.append((kind, row["plane"], row["ok"]))
        return low


@pytest.fixture
def whole_run(scenario, crds_cache, tmp_path):
    """Name of a scenario -> :class:`WholeRun`; `more` are parameters of ours alone."""

    def make(name, more=None, **how):
        folder = scenario(name, **how)
        crds_cache(folder)
        return WholeRun(folder, tmp_path, more or {})

    return make

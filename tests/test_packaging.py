"""``spec2fn.pipelines`` from a checkout, a wheel, a source distribution and an editable install."""

import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "pipelines.py"
CHECK = (
    "import importlib.util, spec2fn, spec2fn.pipelines as p; print(p.__file__);"
    "assert p.MIRI_LRS_FIXEDSLIT; assert importlib.util.find_spec('pipelines') is None"
)

if not (ROOT / "pyproject.toml").exists() or not SOURCE.exists():
    pytest.skip("not in a checkout", allow_module_level=True)


def build(kind, folder):
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (made,) = folder.iterdir()
    return made


def run_python(python, cwd, path=None):
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    if path is not None:
        env["PYTHONPATH"] = str(path)
    done = subprocess.run(
        [str(python), "-c", CHECK], cwd=cwd, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.split()[0])


def test_one_definition():
    assert (ROOT / "spec2fn" / "pipelines.py").resolve() == SOURCE.resolve()


def test_wheel(tmp_path):
    wheel = build("wheel", tmp_path / "dist")
    with zipfile.ZipFile(wheel) as z:
        assert z.read("spec2fn/pipelines.py") == SOURCE.read_bytes()
        top = {name.split("/")[0] for name in z.namelist()}
        assert all(t == "spec2fn" or t.endswith(".dist-info") for t in top), top
        assert "spec2fn/py.typed" in z.namelist()
        z.extractall(tmp_path / "site")
    found = run_python(sys.executable, tmp_path, tmp_path / "site")
    assert found == tmp_path / "site" / "spec2fn" / "pipelines.py"


def test_source_distribution(tmp_path):
    sdist = build("sdist", tmp_path / "dist")
    with tarfile.open(sdist) as t:
        names = {name.split("/", 1)[1]: name for name in t.getnames() if "/" in name}
        assert {"pipelines.py", "pyproject.toml", "LICENSE", "spec2fn/engine/pipeline.py"} <= set(
            names
        )
        t.extractall(tmp_path / "out", filter="data")
    (top,) = (tmp_path / "out").iterdir()
    assert (top / "spec2fn" / "pipelines.py").read_bytes() == SOURCE.read_bytes()


def test_editable_install(tmp_path):
    venv.create(tmp_path / "env", with_pip=False, symlinks=True)
    python = tmp_path / "env" / "bin" / "python"
    (site,) = (tmp_path / "env" / "lib").glob("python*/site-packages")
    # dependencies come from the running environment; a .pth file keeps theirs after our own
    outer = next(p for p in sys.path if p.endswith("site-packages"))
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"),
            *("--no-build-isolation", "--target", str(site), "-e", str(ROOT)),
        ],
        check=True,
        capture_output=True,
    )
    (site / "zz_outer.pth").write_text(outer + "\n")
    found = run_python(python, tmp_path)
    assert found.resolve() == SOURCE.resolve()
    assert not (site / "pipelines.py").exists()


def test_checkout(tmp_path):
    env_path = ROOT
    done = subprocess.run(
        [sys.executable, "-c", "import spec2fn.pipelines as p; print(p.__file__)"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(env_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(done.stdout.strip()).resolve() == SOURCE.resolve()

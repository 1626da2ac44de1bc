"""Importing the package and asking for help load nothing heavy."""

import subprocess
import sys

HEAVY = ("jax", "xarray", "astropy", "gwcs", "asdf", "crds", "scipy", "matplotlib", "pandas")


def loaded(code):
    show = f"{code}; import sys; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", show], capture_output=True, text=True, check=True)
    return done.stdout.strip().splitlines()[-1]


def test_import_is_light():
    assert loaded("import spec2fn") == "[]"
    assert loaded("import spec2fn.cli") == "[]"
    assert loaded("from spec2fn.cli import _parser; _parser()") == "[]"


def test_rooms_are_light():
    assert loaded("import spec2fn.engine.pipeline, spec2fn.io, spec2fn.refs") == "[]"
    assert loaded("import spec2fn.pipelines") == "[]"


def test_float64_is_on_and_can_be_opted_out():
    code = "import spec2fn, jax; print(jax.config.jax_enable_x64)"
    for env, expected in (({}, "True"), ({"SPEC2FN_X64": "0"}, "False")):
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={"PATH": "", "JAX_PLATFORMS": "cpu", **env},
        )
        assert done.stdout.strip() == expected
    late = "import jax, spec2fn; print(jax.config.jax_enable_x64)"
    done = subprocess.run([sys.executable, "-c", late], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"

"""Compiled programs are kept in a private folder of the user, or not at all."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

SHOW = (
    "from spec2fn.compiled.cache import use_cache; import jax, jax.numpy as jnp;"
    "print(use_cache());"
    "print(jax.config.jax_compilation_cache_dir);"
    "jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0);"
    "jax.jit(lambda x: jnp.sin(x) @ x)(jnp.ones(9))"
)


def shown(home, **env):
    done = subprocess.run(
        [sys.executable, "-c", SHOW],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": os.environ["PATH"], "HOME": str(home), "JAX_PLATFORMS": "cpu", **env},
    )
    used, set_for_jax = done.stdout.split()
    assert used == set_for_jax
    return None if used == "None" else Path(used), done.stderr


def test_programs_are_kept_where_only_the_user_can_write(tmp_path):
    folder, told = shown(tmp_path)
    assert folder.parent == tmp_path / ".cache/spec2fn/jax"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert list(folder.iterdir())
    assert "not kept" not in told
    # the same processor, the same folder
    assert shown(tmp_path)[0] == folder
    elsewhere, _ = shown(tmp_path, SPEC2FN_CACHE=str(tmp_path / "mine"))
    assert elsewhere == tmp_path / "mine/jax" / folder.name


def test_nothing_is_kept_if_it_is_switched_off(tmp_path):
    assert shown(tmp_path, SPEC2FN_CACHE="off")[0] is None
    assert not list(tmp_path.iterdir())


def test_a_folder_that_others_can_write_to_is_not_used(tmp_path):
    folder, _ = shown(tmp_path)
    folder.chmod(0o777)
    used, told = shown(tmp_path)
    assert used is None
    assert f"{folder} is not private" in told


def test_what_is_set_for_jax_is_left(tmp_path):
    mine = str(tmp_path / "own")
    assert shown(tmp_path, JAX_COMPILATION_CACHE_DIR=mine)[0] == Path(mine)


@pytest.mark.skipif(os.getuid() == 0, reason="root can write everywhere")
def test_a_folder_that_cannot_be_made_is_said(tmp_path):
    tmp_path.chmod(0o500)
    used, told = shown(tmp_path)
    assert used is None
    assert "not kept" in told

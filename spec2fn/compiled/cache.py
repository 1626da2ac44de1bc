"""Compiled programs are kept on disk, for the next process."""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import platform
import stat
from pathlib import Path

__all__ = ["cache_folder", "use_cache"]

_LOG = logging.getLogger("spec2fn.compiled")
_OFF = ("", "0", "off", "none")
_SECONDS = 0.2  # programs that compile faster are not kept


@functools.cache
def use_cache() -> Path | None:
    """Let JAX keep compiled programs in a folder of the user, and return the folder.

    The folder is ``$SPEC2FN_CACHE/jax/<processor>``, by default below ``~/.cache/spec2fn``; None
    if ``SPEC2FN_CACHE`` is ``off``. A program runs on the type of processor that it was compiled
    for, and whoever can write to the folder can run programs in the user's name: it is private,
    and not used (a warning says so) if it belongs to somebody else, or others can write to it. A
    folder that has been set for JAX itself is left as it is.
    """
    import jax

    already: str | None = jax.config.jax_compilation_cache_dir
    if already:
        return Path(already)
    folder = cache_folder()
    if folder is None:
        return None
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        state = folder.stat()
    except OSError as error:
        _LOG.warning("compiled programs are not kept: %s: %s", folder, error.strerror)
        return None
    if state.st_uid != os.getuid() or state.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        _LOG.warning(
            "compiled programs are not kept: %s is not private; chmod 700, or set SPEC2FN_CACHE",
            folder,
        )
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", _SECONDS)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return folder


def cache_folder() -> Path | None:
    """Return the folder of compiled programs for this processor; None if there is to be none."""
    asked = os.environ.get("SPEC2FN_CACHE")
    if asked is not None and asked.strip().lower() in _OFF:
        return None
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    root = Path(asked).expanduser() if asked else Path(home) / "spec2fn"
    return root / "jax" / _processor()


@functools.cache
def _processor() -> str:
    """What tells processors apart whose programs are not the same."""
    import jax

    about = [platform.machine(), jax.__version__]
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = [platform.processor()]
    told = ("model name", "flags", "Features", "CPU implementer", "CPU part")
    about += sorted({line for line in lines if line.startswith(told)})
    return f"{platform.machine()}-{hashlib.sha256('|'.join(about).encode()).hexdigest()[:12]}"

"""Lock files: exactly which reference files a calibration used.

A lock file is JSON: the CRDS context, and for each reference type the name, SHA-256 and size of
its file; ``<step>:<type>`` stands for the reference of one step alone. A run with a lock file uses
these files or fails; CRDS is not asked which are best.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spec2fn.errors import InputError, ReferenceError
from spec2fn.parameters import user_path
from spec2fn.refs.checksums import file_sha256

if TYPE_CHECKING:
    from spec2fn.refs.resolution import References

__all__ = ["Lock", "Locked", "locked_for_steps", "locked_paths", "read_lock", "write_lock"]

_FORMAT = "spec2fn reference lock 1"


@dataclass(frozen=True)
class Locked:
    """One file of a lock; `path` is set for files that do not come from CRDS."""

    name: str
    sha256: str
    size: int
    path: str = ""


@dataclass(frozen=True)
class Lock:
    """Context and files of a lock; a file is None where there was no reference (N/A)."""

    context: str
    files: Mapping[str, Locked | None]


def write_lock(path: str | os.PathLike[str], refs: References) -> Lock:
    """Write the lock file of a set of references, and return its content.

    Raises
    ------
    spec2fn.errors.InputError
        If a reference was given as data in memory (there is no file to lock), or the lock file
        cannot be written.
    """
    files: dict[str, Locked | None] = {}
    for reftype, value in refs.items():
        where = refs.path(reftype)
        if where is not None:
            own = str(where.resolve()) if reftype in refs.overridden else ""
            files[reftype] = Locked(where.name, refs.sha256(reftype), where.stat().st_size, own)
        elif value is None:
            files[reftype] = None
        else:
            msg = f"lock: reference {reftype!r} is data in memory; save it and give the path"
            raise InputError(msg)
    content = {
        "format": _FORMAT,
        "context": refs.context,
        # the path, which comes last, only of files that have one
        "references": {
            k: v and {n: x for n, x in vars(v).items() if x != ""} for k, v in sorted(files.items())
        },
    }
    where = user_path(path)
    part = where.with_name(f".{where.name}.part{os.getpid()}")
    try:
        part.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        part.replace(where)
    except OSError as error:
        part.unlink(missing_ok=True)
        msg = f"lock file {where} cannot be written ({error.strerror}); choose another folder"
        raise InputError(msg) from None
    return Lock(refs.context, files)


def read_lock(path: str | os.PathLike[str]) -> Lock:
    """Read a lock file.

    Raises
    ------
    spec2fn.errors.InputError
        If it does not exist or is no lock file.
    """
    where = user_path(path)
    try:
        return _parse(json.loads(where.read_text(encoding="utf-8")))
    except OSError as error:
        msg = f"lock file {where} cannot be read ({error.strerror}); check the path"
        raise InputError(msg) from None
    except (ValueError, KeyError, TypeError, AttributeError):
        msg = f"{where} is no reference lock file; write one with: spec2fn refs --write-lock"
        raise InputError(msg) from None


def locked_paths(
    lock: str | os.PathLike[str] | Lock, reftypes: Iterable[str]
) -> tuple[dict[str, Path | None], str]:
    """Return the verified files of a lock for `reftypes`, and the context it names.

    Raises
    ------
    spec2fn.refs.MissingReferencesError
        Listing all locked files that are not there.
    spec2fn.errors.ReferenceError
        If a type is not in the lock, or files differ from those that were locked.
    """
    from spec2fn.refs import selection

    held = lock if isinstance(lock, Lock) else read_lock(lock)
    label = "the lock" if isinstance(lock, Lock) else f"lock file {lock}"
    reftypes = tuple(reftypes)
    absent = [r for r in reftypes if r not in held.files]
    if absent:
        msg = (
            f"{label} has no entry for {', '.join(absent)}; write it again with the steps of this"
            " run, or give them with --override"
        )
        raise ReferenceError(msg)
    locked = {r: held.files[r] for r in reftypes}
    from_crds = {r: e.name for r, e in locked.items() if e is not None and not e.path}
    if from_crds:
        selection.refresh()
        # the lock names the files: the server may bring missing ones, but chooses nothing
        paths: dict[str, Path | None] = selection.fetch(from_crds, held.context)
    else:
        paths = {}
    changed = []
    for reftype, entry in locked.items():
        where = paths.setdefault(reftype, Path(entry.path) if entry else None)
        if entry is not None and where is not None and file_sha256(where) != entry.sha256:
            changed.append(f"{reftype}: {where}")
    if changed:
        msg = (
            f"{len(changed)} reference file{'s differ' if len(changed) > 1 else ' differs'} from"
            f" what {label} holds ({'; '.join(changed)}); fetch the original again, or write a"
            " new lock"
        )
        raise ReferenceError(msg)
    return paths, held.context


def locked_for_steps(
    lock: str | os.PathLike[str] | Lock, steps: Mapping[str, Iterable[str]]
) -> dict[str, Path | None]:
    """Return the verified files that a lock holds for single steps, by ``<step>:<type>``.

    Parameters
    ----------
    lock : path or Lock
    steps : mapping of str to iterable of str
        Reference types by the key of a step; what the lock does not hold is left out.

    Raises
    ------
    spec2fn.errors.ReferenceError
        If a file is not there, or differs from the one that was locked.
    """
    held = lock if isinstance(lock, Lock) else read_lock(lock)
    keys = [f"{step}:{r}" for step, reftypes in steps.items() for r in reftypes]
    keys = [key for key in keys if key in held.files]
    return locked_paths(held, keys)[0]


def _parse(content: Mapping[str, Any]) -> Lock:
    if content["format"] != _FORMAT:
        raise ValueError(content["format"])
    files = {
        kind: None if entry is None else Locked(**entry)
        for kind, entry in content["references"].items()
    }
    return Lock(str(content["context"]), files)

"""The references of one exposure: selected by CRDS, from a lock file, or given by the user."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spec2fn.errors import ParameterError, nearest
from spec2fn.refs.checksums import data_sha256, file_sha256
from spec2fn.refs.reference import LazyReference, coerce_reference

if TYPE_CHECKING:
    import xarray as xr

    from spec2fn.refs.lock import Lock

__all__ = ["References", "reference_types", "references"]


@dataclass(frozen=True, eq=False)
class References(Mapping[str, "LazyReference | xr.Dataset | None"]):
    """References by CRDS type; a value is None where there is none (N/A).

    Attributes
    ----------
    context : str
        CRDS context the selected ones come from; empty if CRDS was not asked.
    names : mapping of str to str
        File names as products record them (``N/A`` for none; ``override`` for data in memory).
    missing : tuple of str
        Files that are needed and not there, as ``type: name``; their values are None.
    overridden : frozenset of str
        Types given by the user.
    """

    values_by_type: Mapping[str, Any]
    names: Mapping[str, str] = field(default_factory=dict)
    context: str = ""
    missing: tuple[str, ...] = ()
    overridden: frozenset[str] = frozenset()

    def __getitem__(self, reftype: str) -> LazyReference | xr.Dataset | None:
        return self.values_by_type[reftype]

    def __iter__(self) -> Iterator[str]:
        return iter(self.values_by_type)

    def __len__(self) -> int:
        return len(self.values_by_type)

    def path(self, reftype: str) -> Path | None:
        """Path of the file, or None if there is none."""
        value = self.get(reftype)
        return value.path if isinstance(value, LazyReference) else None

    def sha256(self, reftype: str) -> str:
        """SHA-256 of the file or of the data in memory, as hex; empty if there is no reference."""
        value = self.get(reftype)
        if value is None:
            return ""
        if isinstance(value, LazyReference):
            return file_sha256(value.path)
        return data_sha256(value)

    def joined(self, other: References) -> References:
        """Return these references and those of `other`."""
        return References(
            {**self.values_by_type, **other.values_by_type},
            {**self.names, **other.names},
            self.context or other.context,
            (*self.missing, *(m for m in other.missing if m not in self.missing)),
            self.overridden | other.overridden,
        )


def references(
    ds: xr.Dataset,
    pipeline_or_reftypes: Iterable[Any],
    *,
    context: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    lock: str | os.PathLike[str] | Lock | None = None,
    allow_missing: bool = False,
    role: str = "",
) -> References:
    """Return the references of an exposure; only what is needed is selected and fetched.

    Parameters
    ----------
    ds : xarray.Dataset
        The exposure.
    pipeline_or_reftypes : iterable
        Reference types, or a pipeline: the types of its steps that are switched on.
    context : str, optional
        CRDS context; default ``CRDS_CONTEXT``, then the server's, then the cache's.
    overrides : mapping of str to path, array, Dataset or None
        References of the user's own; None or ``"N/A"`` means that there is none.
    lock : path or Lock, optional
        Use exactly the files of this lock file; CRDS is not asked.
    allow_missing : bool
        Return with ``missing`` filled instead of raising, and fetch nothing.
    role : str
        Role of an associated exposure, if `ds` is one; the keys are then ``<role>:<type>``.

    Returns
    -------
    refs : References
        One entry per type.

    Raises
    ------
    spec2fn.errors.ParameterError
        If a type is overridden that no step uses.
    spec2fn.refs.MissingReferencesError
        Listing every file that is missing.
    spec2fn.errors.ReferenceError
        If an override does not exist, cannot be a reference or was made for another exposure, or
        a locked file has changed.
    spec2fn.errors.InputError
        For an unknown context.
    """
    reftypes = reference_types(pipeline_or_reftypes)
    given = _overrides(overrides or {}, reftypes, ds.attrs)
    wanted = tuple(r for r in reftypes if r not in given)
    paths: Mapping[str, Path | None] = {}
    used = ""
    missing: tuple[str, ...] = ()
    if lock is not None:
        from spec2fn.refs.lock import locked_paths

        keys = {r: _key(role, r) for r in wanted}
        by_key, used = locked_paths(lock, keys.values())
        paths = {r: by_key[k] for r, k in keys.items()}
    elif wanted:
        paths, used, missing = _selected(ds, wanted, context, allow_missing=allow_missing)
    values: dict[str, Any] = {}
    names: dict[str, str] = {}
    for reftype in reftypes:
        key = _key(role, reftype)
        if reftype in given:
            values[key], names[key] = given[reftype]
        else:
            path = paths.get(reftype)
            values[key] = None if path is None else LazyReference(path, reftype, lock is None)
            names[key] = "N/A" if path is None else path.name
    overridden = frozenset(_key(role, r) for r in given)
    return References(values, names, used, missing, overridden)


def _key(role: str, reftype: str) -> str:
    return f"{role}:{reftype}" if role else reftype


def reference_types(pipeline_or_reftypes: Iterable[Any]) -> tuple[str, ...]:
    """Return reference types, in order and once each, of a pipeline or as they are given."""
    found: dict[str, None] = {}
    for element in pipeline_or_reftypes:
        if isinstance(element, str):
            found[element] = None
            continue
        step = getattr(element, "step", element)
        if not getattr(step, "skip", False):
            found.update(dict.fromkeys(getattr(step, "refs", ())))
    return tuple(found)


def _overrides(
    overrides: Mapping[str, Any], reftypes: tuple[str, ...], exposure: Mapping[str, Any]
) -> dict[str, tuple[LazyReference | xr.Dataset | None, str]]:
    out = {}
    for reftype, value in overrides.items():
        if reftype not in reftypes:
            listed = ", ".join(reftypes) or "none"
            msg = (
                f"override of {reftype!r}: no step that runs uses this reference type"
                f"{nearest(reftype, reftypes)} (used: {listed})"
            )
            raise ParameterError(msg)
        out[reftype] = _override(value, reftype, exposure)
    return out


def _override(
    value: object, reftype: str, exposure: Mapping[str, Any]
) -> tuple[LazyReference | xr.Dataset | None, str]:
    if value is None or (isinstance(value, str) and value.strip().upper() == "N/A"):
        return None, "N/A"
    if isinstance(value, (str, os.PathLike)):
        value = LazyReference(Path(value), reftype)
    # read now: a file that cannot be used must show before anything runs
    data = coerce_reference(value, reftype, exposure)
    if isinstance(value, LazyReference):
        return value, value.name
    assert data is not None
    return data, str(data.attrs.get("filename") or "override")


def _selected(
    ds: xr.Dataset, reftypes: tuple[str, ...], context: str | None, *, allow_missing: bool
) -> tuple[dict[str, Path | None], str, tuple[str, ...]]:
    from spec2fn.refs import selection

    used = selection.resolve_context(context)
    names = selection.select(selection.header_of(ds), reftypes, used)
    if not allow_missing:
        return selection.fetch(names, used), used, ()
    absent = selection.missing_files(names)
    paths = {
        kind: selection.locate(name) if name and kind not in absent else None
        for kind, name in names.items()
    }
    return paths, used, tuple(f"{kind}: {path.name}" for kind, path in sorted(absent.items()))

"""Write an offline CRDS cache for reference files of one's own.

The cache is read by the stock ``crds`` client without a server: rules with valid checksums, the
server's configuration as of the last (never happened) contact, and the reference files.
"""

from __future__ import annotations

import contextlib
import os
import pprint
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from spec2fn.errors import InputError, nearest
from spec2fn.parameters import user_path
from spec2fn.refs.keywords import KEYWORDS

__all__ = ["SERVERLESS", "CacheEntry", "cache_environment", "use_cache", "write_cache"]

SERVERLESS = "https://crds-serverless-mode.stsci.edu"
"""Server name that tells crds that there is none."""

_INSTRUMENTS = ("fgs", "miri", "nircam", "niriss", "nirspec")
_TIME_KEYS = ("META.OBSERVATION.DATE", "META.OBSERVATION.TIME")
_FALLBACK_DATE = "1900-01-01 00:00:00"


@dataclass(frozen=True)
class CacheEntry:
    """A reference file and the exposures it is for.

    Attributes
    ----------
    path : path-like or None
        The file, copied into the cache; None makes the type N/A for matching exposures.
    instrument, reftype : str
        Instrument (any case) and CRDS type.
    match : mapping of str to str
        FITS keyword or CRDS name to value, ``{"EXP_TYPE": "MIR_LRS-SLITLESS"}``; alternatives are
        separated by ``|``. What is left out matches everything.
    useafter : str
        First date of observation the file is for, ``YYYY-MM-DD HH:MM:SS``.
    """

    path: str | os.PathLike[str] | None
    instrument: str
    reftype: str
    match: Mapping[str, str] = field(default_factory=dict)
    useafter: str = "2020-01-01 00:00:00"


def write_cache(
    root: str | os.PathLike[str],
    entries: Iterable[CacheEntry],
    context: str = "jwst_0001.pmap",
) -> Path:
    """Write an offline CRDS cache.

    Parameters
    ----------
    root : path-like
        Folder of the cache; made if need be. Reference files already there are kept.
    entries : iterable of CacheEntry
        Exposures that match no entry of a type get N/A.
    context : str
        Name of the context; its number is that of all rules.

    Returns
    -------
    pathlib.Path
        `root`, absolute.

    Raises
    ------
    spec2fn.errors.InputError
        For an instrument, type or keyword CRDS does not know, or a file that does not exist.
    """
    import crds.jwst

    top = user_path(root).resolve()
    serial = context.removeprefix("jwst_").removesuffix(".pmap")
    if not serial.isdigit() or context != f"jwst_{serial}.pmap":
        msg = f"a CRDS context is called jwst_NNNN.pmap, not {context!r}"
        raise InputError(msg)
    rules = top / "mappings" / "jwst"
    rules.mkdir(parents=True, exist_ok=True)
    grouped: dict[tuple[str, str], list[tuple[str, CacheEntry]]] = {}
    for entry in entries:
        key = (entry.instrument.lower(), entry.reftype.lower())
        if key[0] not in _INSTRUMENTS:
            msg = f"CRDS has no instrument {entry.instrument!r}{nearest(key[0], _INSTRUMENTS)}"
            raise InputError(msg)
        if key[1] not in crds.jwst.FILEKINDS:
            known = crds.jwst.FILEKINDS
            msg = f"CRDS has no reference type {entry.reftype!r}{nearest(key[1], known)}"
            raise InputError(msg)
        group = grouped.setdefault(key, [])
        group.append((_place(top, entry, key, len(group) + 1), entry))
    written = []
    tables: dict[str, dict[str, str]] = {
        i: dict.fromkeys(map(str.upper, crds.jwst.FILEKINDS), "N/A") for i in _INSTRUMENTS
    }
    for (instrument, reftype), group in sorted(grouped.items()):
        name = f"jwst_{instrument}_{reftype}_{serial}.rmap"
        _write_rules(rules / name, *_reference_rules(name, instrument, reftype, group))
        tables[instrument][reftype.upper()] = name
        written.append(name)
    for instrument, table in tables.items():
        name = f"jwst_{instrument}_{serial}.imap"
        header = _header(name, "INSTRUMENT", ("REFTYPE",), instrument=instrument.upper())
        _write_rules(rules / name, header, f"selector = {pprint.pformat(table)}\n")
        written.append(name)
    pipelines = {i.upper(): f"jwst_{i}_{serial}.imap" for i in _INSTRUMENTS}
    header = _header(context, "PIPELINE", ("META.INSTRUMENT.NAME",))
    _write_rules(rules / context, header, f"selector = {pprint.pformat(pipelines)}\n")
    _write_config(top / "config" / "jwst", context, [*written, context])
    return top


def cache_environment(
    root: str | os.PathLike[str], context: str = "jwst_0001.pmap"
) -> dict[str, str]:
    """Return the environment variables with which crds reads an offline cache."""
    return {
        "CRDS_PATH": str(user_path(root).resolve()),
        "CRDS_SERVER_URL": SERVERLESS,
        "CRDS_CONTEXT": context,
        "CRDS_OBSERVATORY": "jwst",
        "CRDS_READONLY_CACHE": "1",
    }


@contextlib.contextmanager
def use_cache(root: str | os.PathLike[str], context: str = "jwst_0001.pmap") -> Iterator[None]:
    """Use an offline cache within a ``with`` block; the environment is restored afterwards.

    crds remembers rules by their names within a process; they are forgotten on both ends.
    """
    before = {k: os.environ[k] for k in _steering()}
    _set_environment(cache_environment(root, context))
    try:
        yield
    finally:
        _set_environment(before)


def _steering() -> list[str]:
    from spec2fn.refs.selection import PATH_VARIABLE

    # crds keeps settings of its own in the environment, which must stay
    fixed = ("CRDS_SERVER_URL", "CRDS_CONTEXT", "CRDS_OBSERVATORY", "CRDS_READONLY_CACHE")
    return [k for k in os.environ if k in fixed or PATH_VARIABLE.match(k)]


def _set_environment(values: Mapping[str, str]) -> None:
    from spec2fn.refs.selection import refresh

    for name in _steering():
        del os.environ[name]
    os.environ.update(values)
    refresh()


def _place(top: Path, entry: CacheEntry, key: tuple[str, str], number: int) -> str:
    if entry.path is None:
        return "N/A"
    source = user_path(entry.path)
    if not source.is_file():
        msg = f"reference {entry.reftype!r} for the cache: {source} does not exist"
        raise InputError(msg)
    instrument, reftype = key
    folder = top / "references" / "jwst" / instrument
    folder.mkdir(parents=True, exist_ok=True)
    standard = f"jwst_{instrument}_{reftype}_"
    if source.name.startswith(standard):
        name = source.name
    else:
        name = f"{standard}{number:04d}{source.suffix}"
    target = folder / name
    if not (target.exists() and target.samefile(source)):
        shutil.copyfile(source, target)
    return name


def _reference_rules(
    name: str, instrument: str, reftype: str, group: list[tuple[str, CacheEntry]]
) -> tuple[dict[str, object], str]:
    keys = tuple(dict.fromkeys(_crds_name(k) for _, e in group for k in e.match))
    keys = keys or ("META.EXPOSURE.TYPE",)
    table: dict[tuple[str, ...], dict[str, str]] = {}
    for file, entry in group:
        values = {_crds_name(k): str(v) for k, v in entry.match.items()}
        row = tuple(values.get(k, "N/A") for k in keys)
        table.setdefault(row, {})[entry.useafter] = file
    # of all rows this one weighs least: whatever matches nothing else has no such reference
    table.setdefault(("N/A",) * len(keys), {_FALLBACK_DATE: "N/A"})
    rows = []
    for row, files in sorted(table.items()):
        dated = "".join(f"        {d!r} : {f!r},\n" for d, f in sorted(files.items()))
        rows.append(f"    {row!r} : UseAfter({{\n{dated}    }}),\n")
    header = _header(
        name,
        "REFERENCE",
        (keys, _TIME_KEYS),
        instrument=instrument.upper(),
        filekind=reftype.upper(),
        classes=("Match", "UseAfter"),
    )
    return header, f"selector = Match({{\n{''.join(rows)}}})\n"


def _crds_name(keyword: str) -> str:
    if keyword.upper() in KEYWORDS:
        return keyword.upper()
    for name, fits in KEYWORDS.items():
        if fits == keyword.upper():
            return name
    msg = f"CRDS does not match by keyword {keyword!r}{nearest(keyword, KEYWORDS.values())}"
    raise InputError(msg)


def _header(name: str, kind: str, parkey: tuple[object, ...], **more: object) -> dict[str, object]:
    return {
        "derived_from": "generated",
        "mapping": kind,
        "name": name,
        "observatory": "JWST",
        "parkey": parkey,
        "sha1sum": "0" * 40,
        **more,
    }


def _write_rules(path: Path, header: Mapping[str, object], selector: str) -> None:
    from crds.core import rmap

    path.write_text(f"header = {pprint.pformat(dict(header))}\n\n{selector}", encoding="utf-8")
    # crds checks the sum over its own formatting: let it write the file
    rmap.Mapping.from_file(str(path), ignore_checksum=True).write(str(path))


def _write_config(folder: Path, context: str, rules: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    info = {
        "observatory": "jwst",
        "operational_context": context,
        "latest_context": context,
        "edit_context": context,
        "mappings": sorted(rules),
        "bad_files": "",
        "bad_files_list": [],
        "connected": False,
        "force_remote_mode": False,
        "status": "cache",
        "last_synced": "2020-01-01 00:00:00.000000",
        "crds_version": {"str": "13.0.0"},
        "reference_url": {"jwst": ""},
        "mapping_url": {"jwst": ""},
        "checksum_url": {"jwst": ""},
    }
    (folder / "server_config").write_text(pprint.pformat(info) + "\n", encoding="utf-8")
    (folder / "bad_files.txt").write_text("", encoding="utf-8")
    (folder / "ref_cache_subdir_mode").write_text("instrument", encoding="utf-8")

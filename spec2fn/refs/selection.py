"""Which reference files CRDS assigns to an exposure, and where they are.

The rules are evaluated by the ``crds`` package on the local cache; the server is asked only for
what the cache lacks: the name of the default context, rules, reference files. With a context
given by name and a complete cache nothing is ever asked.

The environment is that of ``crds``: ``CRDS_PATH``, ``CRDS_SERVER_URL``, ``CRDS_CONTEXT``,
``CRDS_READONLY_CACHE`` (https://jwst-crds.stsci.edu/docs/cmdline_bestrefs/).
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spec2fn.errors import InputError, ReferenceError
from spec2fn.parameters import user_path
from spec2fn.refs.keywords import KEYWORDS
from spec2fn.schema import MODE_ATTRS, meta_of

if TYPE_CHECKING:
    import xarray as xr
    from crds.core.rmap import PipelineContext

__all__ = [
    "MissingReferencesError",
    "fetch",
    "header_of",
    "locate",
    "missing_files",
    "refresh",
    "resolve_context",
    "select",
]

_LOG = logging.getLogger("spec2fn.refs")
_OBSERVATORY = "jwst"
_PUBLIC_SERVER = "https://jwst-crds.stsci.edu"
_REQUIRED = ("INSTRUME", "EXP_TYPE", "DATE-OBS", "TIME-OBS")
PATH_VARIABLE = re.compile(r"CRDS_(MAP|REF|CFG|PICKLE)?PATH(_SINGLE)?$")
_LITERAL = re.compile(r"^jwst_\d{4,}\.pmap$")

# crds memoises rules by file name alone: what they were read from is remembered here
_session: list[tuple[str, ...]] = []


class MissingReferencesError(ReferenceError):
    """Reference files that are neither in the cache nor obtainable.

    Attributes
    ----------
    missing : tuple of str
        One entry per file: type, name and, if known, size.
    """

    def __init__(self, message: str, missing: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.missing = missing


def header_of(ds: xr.Dataset) -> dict[str, Any]:
    """Return what CRDS matches an exposure by.

    Parameters
    ----------
    ds : xarray.Dataset
        Mode attributes win over the header, so that a Dataset whose ``exp_type`` was changed is
        matched as what it has become.

    Returns
    -------
    dict of str to str, bool, int or float
        By CRDS name, ``META.INSTRUMENT.NAME`` and so on; absent keywords are left out.

    Raises
    ------
    spec2fn.errors.InputError
        If instrument, exposure type or date of observation are missing.
    """
    meta = meta_of(ds)
    values = {keyword: meta.get(keyword) for keyword in KEYWORDS.values()}
    for name, (keyword, _) in MODE_ATTRS.items():
        if name in ds.attrs:
            values[keyword] = ds.attrs[name]
    for keyword in _REQUIRED:
        if values.get(keyword) in (None, ""):
            meta.require(keyword, "selection of references by CRDS")
    names = {keyword: name for name, keyword in KEYWORDS.items()}
    return {
        names[keyword]: value
        for keyword, value in values.items()
        if keyword in names and isinstance(value, (str, bool, int, float)) and value != ""
    }


def resolve_context(context: str | None = None) -> str:
    """Return the file name of the CRDS context to use.

    `context` is ``jwst_1234.pmap``, or what CRDS understands besides (``latest``, ``jwst-edit``, a
    date). Default: ``CRDS_CONTEXT``, else the server's, else the last one the cache knows.

    Raises
    ------
    spec2fn.errors.InputError
        If there is no context, or it is neither in the cache nor known to the server.
    """
    refresh()
    asked = (context or os.environ.get("CRDS_CONTEXT", "")).strip()
    name = asked if _LITERAL.match(asked) else _symbolic_context(asked)
    _rules(name)
    return name


def select(
    header: Mapping[str, Any], reftypes: Iterable[str], context: str | None = None
) -> dict[str, str | None]:
    """Return the reference files of some types that CRDS assigns to an exposure; fetch nothing.

    `header` is what :func:`header_of` returns, `context` what :func:`resolve_context` takes.

    Returns
    -------
    dict of str to (str or None)
        File name by type; None where CRDS says N/A, or where the context does not know the type.

    Raises
    ------
    spec2fn.errors.InputError
        For an unknown context.
    spec2fn.errors.ReferenceError
        Naming every type for which no rule matches the exposure, and files marked as bad.
    """
    reftypes = tuple(reftypes)
    if not reftypes:
        return {}
    name = resolve_context(context)
    found, unmatched, unread = _best(name, header, reftypes)
    if unread:
        _fetch_rules(name, unread)
        found, unmatched, unread = _best(name, header, reftypes)
    if unread:
        raise InputError(f"{_incomplete(name, unread)}; {_how_to(name)}")
    if unmatched:
        reasons = "; ".join(f"{kind}: {why}" for kind, why in unmatched.items())
        msg = (
            f"CRDS context {name} has no reference for this exposure ({reasons}); check EXP_TYPE,"
            " the optical elements and DATE-OBS of the exposure, or give a file with --override"
        )
        raise ReferenceError(msg)
    _refuse_bad(found)
    return found


def locate(name: str) -> Path:
    """Return where the cache holds (or would hold) a reference file."""
    import crds

    with _quiet():
        return Path(crds.locate_file(name, _OBSERVATORY))


def missing_files(names: Mapping[str, str | None]) -> dict[str, Path]:
    """Return the files of `names` (by type) that the cache lacks, by type."""
    found = {kind: locate(name) for kind, name in names.items() if name}
    return {kind: path for kind, path in found.items() if not path.is_file()}


def fetch(names: Mapping[str, str | None], context: str) -> dict[str, Path | None]:
    """Bring reference files that :func:`select` found into the cache; return where they are.

    Raises
    ------
    MissingReferencesError
        Listing every file that is neither in the cache nor could be fetched.
    """
    absent = missing_files(names)
    reason = _offline_reason() if absent else ""
    if absent and not reason:
        reason = _download(sorted({path.name for path in absent.values()}), context)
        absent = missing_files(names)
    if absent:
        raise _missing_error(absent, context, reason)
    return {kind: locate(name) if name else None for kind, name in names.items()}


def refresh() -> None:
    """Forget what crds memoised if the environment points it elsewhere than before.

    ``~`` at the start of a path in the environment (which shells leave there between quotes, and
    configuration files always) is replaced by the home folder, in the environment itself: crds
    would make a folder of that name.
    """
    for key, value in os.environ.items():
        if PATH_VARIABLE.match(key) and value.startswith("~"):
            os.environ[key] = str(user_path(value))
    import crds
    from crds.core import utils

    watched = sorted((k, v) for k, v in os.environ.items() if k.startswith("CRDS_"))
    state = tuple(f"{k}={v}" for k, v in watched)
    if _session == [state]:
        return
    with _quiet():
        utils.clear_function_caches()
        server = os.environ.get("CRDS_SERVER_URL", "")
        if server and server.rstrip("/") != crds.client.api.get_crds_server():
            crds.client.api.set_crds_server(server)
    _session[:] = [state]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    # crds prints every lookup to the terminal; its failures reach the user as our errors
    logger = logging.getLogger("CRDS")
    before = logger.disabled
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = before


def _rules_folder() -> str:
    from crds.core import config

    return str(config.get_crds_mappath(_OBSERVATORY))


def _symbolic_context(asked: str) -> str:
    from crds.core import heavy_client

    offline = _offline_reason(writing=False)
    problem = offline
    if not offline:
        try:
            with _quiet():
                return str(heavy_client.get_context_name(_OBSERVATORY, asked or None))
        except (Exception, SystemExit) as error:  # crds ends the process where it sees no way on
            problem = " ".join(str(error).split())[:200] or type(error).__name__
    info = _cached_server_info()
    key = "edit_context" if asked.endswith("edit") else "latest_context"
    plain = asked in ("", "latest", "jwst-latest", "jwst-operational", "jwst-edit")
    name = info.get(key) or info.get("operational_context")
    if plain and name:
        return str(name)
    what = f"{asked!r} is not the name of a CRDS context" if asked else "no CRDS context is set"
    msg = (
        f"{what} and the server cannot be asked ({problem}); set CRDS_CONTEXT or --context to"
        " jwst_NNNN.pmap"
    )
    raise InputError(msg + (_known_contexts() if asked else ""))


def _known_contexts() -> str:
    folder = Path(_rules_folder())
    known = sorted(p.name for p in folder.glob("jwst_*.pmap")) if folder.is_dir() else []
    shown = ", ".join(known[-5:])
    return f" (in the cache: {shown})" if shown else f" (there is none in {folder})"


def _rules(context: str) -> PipelineContext:
    """Return the rules of a context, fetched if need be."""
    from crds.core import rmap
    from crds.core.exceptions import CrdsError

    try:
        with _quiet():
            return rmap.get_cached_mapping(context)
    except OSError:
        _fetch_rules(context, (context,))
    except CrdsError as error:
        raise _damaged(context, error) from error
    try:
        with _quiet():
            return rmap.get_cached_mapping(context)
    except (OSError, CrdsError) as error:
        raise _damaged(context, error) from error


def _damaged(name: str, error: Exception) -> InputError:
    reason = " ".join(str(error).split())[:200]
    return InputError(
        f"CRDS rules {name} in {_rules_folder()} cannot be used ({reason}); remove and fetch them"
        " again"
    )


def _fetch_rules(context: str, names: Iterable[str]) -> None:
    """Bring all rules of a context into the cache; `names` are those known to be missing."""
    from crds.client import api
    from crds.core import utils

    reason = _offline_reason()
    if not reason:
        _LOG.info("fetching the rules of %s from %s", context, api.get_crds_server())
        try:
            with _quiet():
                api.dump_mappings(context)
                utils.clear_function_caches()
        except Exception as error:  # network, disk, server: the user needs to know which
            reason = " ".join(str(error).split())[:200]
        else:
            return
    if context in names:
        msg = f"CRDS context {context!r} is not in {_rules_folder()}{_known_contexts()}"
    else:
        msg = _incomplete(context, names)
    msg += f", and cannot be fetched ({reason}); {_how_to(context)}"
    raise InputError(msg)


def _incomplete(context: str, names: Iterable[str]) -> str:
    return f"CRDS context {context} is incomplete in {_rules_folder()}: no {', '.join(names)}"


def _how_to(context: str) -> str:
    return (
        f"check the name, or run: CRDS_SERVER_URL={_PUBLIC_SERVER} crds sync --contexts {context}"
    )


def _best(
    context: str, header: Mapping[str, Any], reftypes: tuple[str, ...]
) -> tuple[dict[str, str | None], dict[str, str], tuple[str, ...]]:
    """Evaluate the rules: files by type, reasons by type without a match, unreadable rules."""
    from crds.core import exceptions, utils

    found: dict[str, str | None] = {}
    unmatched: dict[str, str] = {}
    unread: list[str] = []
    with _quiet():
        conditioned = utils.condition_header(dict(header))
        try:
            instrument = _rules(context).get_imap(str(header["META.INSTRUMENT.NAME"]))
        except OSError as error:
            return {}, {}, (_file_of(error, context),)
        except exceptions.CrdsUnknownInstrumentError:
            msg = f"CRDS context {context} has no instrument {header['META.INSTRUMENT.NAME']!r}"
            raise InputError(msg + "; check INSTRUME of the exposure") from None
        for kind in reftypes:
            try:
                rules = instrument.get_rmap(kind)
                best = rules.get_best_ref(rules.minimize_header(conditioned))
            except (
                exceptions.IrrelevantReferenceTypeError,
                exceptions.OmitReferenceTypeError,
                exceptions.CrdsUnknownReftypeError,
            ):
                best = None
            except OSError as error:
                unread.append(_file_of(error, kind))
                continue
            except exceptions.ChecksumError as error:
                raise _damaged(kind, error) from error
            if best is None or best.upper() in ("N/A", "NOT FOUND N/A"):
                found[kind] = None
            elif best.startswith("NOT FOUND"):
                unmatched[kind] = best.removeprefix("NOT FOUND").strip(" .")
            else:
                found[kind] = best
    return found, unmatched, tuple(unread)


def _file_of(error: OSError, default: str) -> str:
    return Path(str(error.filename)).name if error.filename else default


def _cached_server_info() -> dict[str, Any]:
    """What the server said when it was last asked, or an empty mapping."""
    import ast

    from crds.core import config

    try:
        text = Path(config.locate_config("server_config", _OBSERVATORY)).read_text("utf-8")
        info = ast.literal_eval(text)
    except (OSError, ValueError, SyntaxError):
        return {}
    return info if isinstance(info, dict) else {}


def _refuse_bad(names: Mapping[str, str | None]) -> None:
    from crds.core import config

    bad = set(_cached_server_info().get("bad_files_list") or ())
    hit = [f"{kind}: {name}" for kind, name in names.items() if name in bad]
    if not hit:
        return
    listed = ", ".join(hit)
    if config.ALLOW_BAD_REFERENCES:
        _LOG.warning("CRDS marks as scientifically invalid: %s", listed)
        return
    msg = (
        f"CRDS marks as scientifically invalid: {listed}; choose a newer context, give files with"
        " --override, or set CRDS_ALLOW_BAD_REFERENCES=1"
    )
    raise ReferenceError(msg)


def _offline_reason(*, writing: bool = True) -> str:
    """Why the server cannot be used, or an empty string."""
    from crds.core import config

    server = os.environ.get("CRDS_SERVER_URL", "")
    if not server:
        return "CRDS_SERVER_URL is not set"
    if "serverless" in server:
        return "CRDS_SERVER_URL is the serverless one"
    if writing and config.get_cache_readonly():
        return "CRDS_READONLY_CACHE is set"
    return ""


def _download(files: list[str], context: str) -> str:
    """Fetch reference files; return why some of them may be missing still."""
    from crds.client import api

    sizes = _sizes(files, online=True)
    total = _megabytes(sum(sizes.values())) if sizes else "size unknown"
    _LOG.info("fetching %d reference files (%s) from %s", len(files), total, api.get_crds_server())
    reason = "the server does not know them"
    try:
        with _quiet():
            api.dump_references(context, baserefs=files, raise_exceptions=True)
    except Exception as error:  # network, disk, server: the user needs to know which
        reason = " ".join(str(error).split())[:300] or type(error).__name__
    return reason


def _sizes(files: Iterable[str], *, online: bool) -> dict[str, int]:
    """Sizes in bytes of the files whose size the server (or its last answer) tells."""
    from crds.client import api, proxy

    try:
        with _quiet():
            if online:
                table = api.get_download_metadata()
            else:
                table = proxy.crds_decode(_cached_server_info()["download_metadata"])
            return {f: int(table[f]["size"]) for f in files if f in table}
    except Exception:  # a size is a courtesy, whatever keeps us from knowing it
        return {}


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


def _missing_error(absent: Mapping[str, Path], context: str, reason: str) -> MissingReferencesError:
    files = sorted({path.name for path in absent.values()})
    sizes = _sizes(files, online=False)
    entries = tuple(
        f"{kind}: {path.name}"
        + (f" ({_megabytes(sizes[path.name])})" if path.name in sizes else "")
        for kind, path in sorted(absent.items())
    )
    folders = " and ".join(sorted({str(path.parent) for path in absent.values()}))
    msg = (
        f"{len(entries)} reference file{'s are' if len(entries) > 1 else ' is'} missing (context"
        f" {context}): {', '.join(entries)}; not in {folders} and not fetched because {reason};"
        f" fetch with: CRDS_SERVER_URL={_PUBLIC_SERVER} crds sync --files {' '.join(files)}, or"
        " give them with --override"
    )
    return MissingReferencesError(msg, entries)

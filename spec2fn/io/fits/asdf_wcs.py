"""The ASDF extension of a product: the gwcs, which FITS keywords cannot carry.

Serialising a gwcs takes some 0.1 s, and several products share one, so the bytes are kept as long
as the gwcs object lives.
"""

from __future__ import annotations

import contextlib
import functools
import io
import re
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np

from spec2fn.deferred import DeferredWcs, as_deferred
from spec2fn.errors import InputError
from spec2fn.io.fits.asdf_tree import SHARED, TreeWriter, cut_slit

if TYPE_CHECKING:
    import asdf
    import gwcs

    Wcs: TypeAlias = gwcs.WCS | DeferredWcs | None

__all__ = [
    "asdf_bytes",
    "deferred_list",
    "deferred_wcs",
    "sorted_extensions",
    "wcs_from_bytes",
    "wcs_of_cut",
]

_Name = TypeVar("_Name")

_PLAIN = (
    "#ASDF 1.0.0\n#ASDF_STANDARD 1.6.0\n%YAML 1.1\n%TAG ! tag:stsci.edu:asdf/\n"
    "--- !core/asdf-1.1.0\nmeta:\n  model_type: {}\n...\n"
)
_cache: dict[int, tuple[weakref.ref[gwcs.WCS], bytes]] = {}
_lists: dict[tuple[str, tuple[int, ...]], tuple[tuple[weakref.ref[Any], ...], bytes]] = {}
_KEPT_LISTS = 4


def deferred_wcs(content: Callable[[], bytes], where: str = "") -> DeferredWcs:
    """Return the gwcs ``meta.wcs`` of an ASDF file, which is read on first use.

    Messages name the file `where`.
    """
    return DeferredWcs(lambda: wcs_from_bytes(content(), where))


def deferred_list(
    content: Callable[[], bytes], where: str, key: str, names: Iterable[_Name]
) -> dict[_Name, DeferredWcs]:
    """Return the gwcs of an ASDF file's list ``slits`` or ``spec``, each read on first use.

    Messages name the file `where`; `names` are those of the result, in the order of the list.
    """
    whole: list[asdf.AsdfFile] = []

    def read(number: int) -> gwcs.WCS | None:
        import asdf

        if not whole:
            file = content()
            one = cut_slit(file, number)
            if one is not None:
                return wcs_of_cut(one, where)
            # the entries of another writer share nodes, so that all are read at once
            with _unreadable(where), asdf.config_context() as config:
                config.validate_on_read = False
                # the arrays need the file for as long as they are not read
                whole.append(asdf.open(io.BytesIO(file), memmap=False))
        with _unreadable(where):
            entries = whole[0].tree.get(key, [])
            wcs = entries[number].get("meta", {}).get("wcs") if number < len(entries) else None
            return _with_arrays(wcs)

    return {n: DeferredWcs(functools.partial(read, k)) for k, n in enumerate(names)}


def _with_arrays(wcs: gwcs.WCS | None) -> gwcs.WCS | None:
    """Read the tables of a gwcs, which would be read from the file when they are used."""
    models = [] if wcs is None else [step.transform for step in wcs.pipeline if step.transform]
    seen: set[int] = set()
    while models:
        model = models.pop()
        if id(model) in seen:
            continue
        seen.add(id(model))
        if hasattr(model, "lookup_table"):
            model.lookup_table = np.asarray(model.lookup_table)
            model.points = tuple(np.asarray(p) for p in model.points)
        held = (getattr(model, n, None) for n in ("_user_inverse", "left", "right"))
        models += [m for m in held if m is not None and not isinstance(m, dict)]
    return wcs


@contextlib.contextmanager
def _unreadable(where: str) -> Iterator[None]:
    try:
        yield
    except Exception as err:
        # asdf raises whatever the converters of the transforms raise
        msg = f"{where or 'ASDF extension'}: the WCS cannot be read ({err}); make the product again"
        raise InputError(msg) from err


def wcs_from_bytes(content: bytes, where: str = "") -> gwcs.WCS | None:
    """Read ``meta.wcs`` of an ASDF file; :class:`InputError` names the file if it cannot be."""
    import asdf

    short = _only_wcs(content)
    if short is not None:
        return wcs_of_cut(short, where, validate=f"\n{SHARED}:\n".encode() not in short)
    with _unreadable(where):
        # the file stays open: it links to extensions of the FITS file, which are not to be read,
        # so its own arrays are read when they are used
        file = asdf.open(io.BytesIO(content), memmap=False)
        return _with_arrays(file.tree.get("meta", {}).get("wcs"))


def wcs_of_cut(content: bytes, where: str = "", *, validate: bool = False) -> gwcs.WCS | None:
    """Read ``meta.wcs`` of an ASDF file that holds nothing else; None if it is empty.

    To validate it against the schemas takes longer than the rest: of what our own writer has
    written a node that is wrong fails in its converter.
    """
    import asdf

    if not content:
        return None
    with _unreadable(where), asdf.config_context() as config:
        config.validate_on_read = validate
        with asdf.open(io.BytesIO(content), lazy_load=False, memmap=False) as file:
            return file.tree["meta"]["wcs"]


def _only_wcs(content: bytes) -> bytes | None:
    """Cut an ASDF file down to ``meta.wcs``; empty without one, None if it cannot be cut.

    The tree of a product holds its logs and links to FITS extensions, which take longer to parse
    than the WCS.
    """
    head, start, rest = content.partition(b"\n--- ")
    tree, end, blocks = rest.partition(b"\n...")
    lines = tree.split(b"\n")
    if b"meta:" not in lines or not start or not end:
        return None
    first = lines.index(b"meta:") + 1
    found: list[bytes] = []
    for line in lines[first:]:
        if not line.startswith(b" "):
            break
        if line.startswith(b"  wcs:") or (found and line.startswith(b"   ")):
            found.append(line)
        elif found:
            break
    if not found:
        return b""
    text = b"\n".join(found)
    mark = SHARED.encode() + b":"
    listed = b""
    if mark in lines[:first]:
        start_of = lines.index(mark)
        listed = b"\n".join(lines[start_of : first - 1])
    # an alias may point to an anchor that was cut away
    anchors = set(re.findall(rb"&(id\d+)", listed + text))
    if set(re.findall(rb"\*(id\d+)", listed + text)) - anchors:
        return None
    blocks = blocks.split(b"#ASDF BLOCK INDEX")[0]
    parts = [lines[0], *([listed] if listed else []), b"meta:", text]
    return head + start + b"\n".join(parts) + end + blocks


def _dump(tree: dict[str, Any]) -> bytes:
    import asdf

    out = io.BytesIO()
    asdf.AsdfFile(tree).write_to(out)
    content = out.getvalue()
    # the index of blocks holds offsets, which inserting a line would make wrong; it is optional
    return sorted_extensions(content.split(b"#ASDF BLOCK INDEX")[0])


def sorted_extensions(content: bytes) -> bytes:
    """Sort the list of ASDF extensions used, which comes in the random order of a set."""
    head, mark, rest = content.partition(b"\n  extensions:\n")
    first = b"  - !core/extension_metadata"
    if not rest.startswith(first):
        return content
    end = re.search(rb"^(?! )", rest, re.MULTILINE)
    assert end is not None
    entries = rest[: end.start()].split(first)[1:]
    return head + mark + b"".join(first + e for e in sorted(entries)) + rest[end.start() :]


def _wcs_dump(wcs: gwcs.WCS) -> bytes:
    key = id(wcs)
    hit = _cache.get(key)
    if hit is not None and hit[0]() is wcs:
        return hit[1]
    # the transforms of many slices: the general writer takes seconds
    many = any(hasattr(step.transform, "selector") for step in wcs.pipeline)
    content = TreeWriter("").single(wcs) if many else _dump({"meta": {"wcs": wcs}})
    try:
        _cache[key] = (weakref.ref(wcs, lambda _: _cache.pop(key, None)), content)
    except TypeError:  # an object without weak references is serialised every time
        _cache.pop(key, None)
    return content


def _list_dump(key: str, wcs: Sequence[Wcs]) -> bytes:
    """Return the ASDF file of many gwcs, kept for the next product that shares them."""
    name = (key, tuple(id(w) for w in wcs))
    hit = _lists.get(name)
    if hit is not None and all(ref() is w for ref, w in zip(hit[0], wcs, strict=True)):
        return hit[1]
    writer = TreeWriter(key)
    for one in wcs:
        writer.add(one)
    content = writer.content(_ANY_MODEL)
    if None not in wcs:
        while len(_lists) >= _KEPT_LISTS:
            _lists.pop(next(iter(_lists)))
        _lists[name] = (tuple(weakref.ref(w) for w in wcs), content)
    return content


_ANY_MODEL = "AnyModel"


def asdf_bytes(model: str, wcs: Wcs | Mapping[Any, Wcs] | list[Wcs] = None) -> bytes:
    """Return the ASDF file that goes into a product.

    A gwcs becomes ``meta.wcs``, the values of a mapping ``spec[i].meta.wcs``, the elements of a
    list ``slits[i].meta.wcs``. The same input gives the same bytes, on one set of library versions.
    """
    if isinstance(wcs, list) or (isinstance(wcs, Mapping) and len(wcs) > 1):
        key = "slits" if isinstance(wcs, list) else "spec"
        values = wcs if isinstance(wcs, list) else [as_deferred(wcs, k) for k in wcs]
        content = _list_dump(key, values)
        line = "\n  model_type: {}\n"
        return content.replace(line.format(_ANY_MODEL).encode(), line.format(model).encode(), 1)
    if isinstance(wcs, Mapping):
        each = [{"meta": {"wcs": _loaded(w)}} for w in wcs.values()]
        return _dump({"meta": {"model_type": model}, "spec": each})
    wcs = _loaded(wcs)
    if wcs is None:
        return _PLAIN.format(model).encode()
    head, mark, tail = _wcs_dump(wcs).partition(b"\nmeta:\n")
    return head + mark + f"  model_type: {model}\n".encode() + tail


def _loaded(wcs: Wcs) -> gwcs.WCS | None:
    return wcs.load() if isinstance(wcs, DeferredWcs) else wcs

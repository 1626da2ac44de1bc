"""The gwcs of many slits as one ASDF file, in time that the slits do not wait for.

The general writer of asdf takes some 0.3 s for each slit: it converts, validates and formats every
node of every transform. Here the converters of the asdf extensions are called for each object
once; nodes that are equal are written once, in the list ``wcs_shared`` at the top of the tree, and
referred to by aliases; and each slit takes one line, so that the gwcs of one slit can be read by
itself. Where slits differ in numbers only, the gwcs of one of them is formatted, and becomes a
template into which the numbers of the others are put. To any reader of ASDF the result is an
ordinary file.

Format: ASDF Standard (https://asdf-standard.readthedocs.io), "YAML tree" and "Blocks".
"""

from __future__ import annotations

import io
import json
import math
import re
import struct
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from spec2fn.deferred import DeferredWcs
from spec2fn.typing import HostArray

if TYPE_CHECKING:
    import gwcs
    from asdf.extension import Converter

__all__ = ["SHARED", "TreeWriter", "cut_slit"]

SHARED = "wcs_shared"
"""Key of the list of nodes that several slits refer to."""

_PREFIX = "tag:stsci.edu:asdf/"
_INLINE = 24  # array elements up to which an array is written as text
_SHORT = 40  # characters up to which an equal node is repeated rather than shared
_NO_FRACTION = re.compile(r"^(-?\d+)(e.*)$")


@dataclass(eq=False)
class _Node:
    """A tagged node: pieces of text, and other nodes between them."""

    parts: tuple[Any, ...] = ()
    uses: int = 0
    name: str = ""
    cyclic: bool = False  # holds itself, as a transform that is its own inverse does

    @property
    def repeated(self) -> bool:
        """Whether the node is written wherever it is met.

        Properties of transforms, such as their bounding box, are functions when they are read by
        themselves, and asdf cannot write those again.
        """
        return self.uses <= 1 or str(self.parts[0]).startswith("!transform/property/")


@dataclass(frozen=True)
class _Slot:
    """The place of a number of a template, or of an array in reverse order."""

    number: int
    reverse: bool = False


class _Template:
    """An entry without its numbers.

    Parameters
    ----------
    parts : list
        Pieces of text, slots, and nodes that hold slots or do not.
    """

    def __init__(self, parts: list[Any]) -> None:
        self.parts = parts
        self.slots: dict[_Node, set[_Slot]] = {}
        """What each node holds, itself or in others."""
        self.used = self._collect(parts)
        for node in self.slots:
            if not self.slots[node]:
                node.uses += 1  # by another entry, too
        self.cyclic = any(node.cyclic and held for node, held in self.slots.items())
        # filled when the entries are written
        self.pieces: list[Any] = []
        self.own: dict[_Node, int] = {}
        """Nodes that each entry has for itself: the position of the line of each."""
        self.lines: list[list[Any]] = []

    def _collect(self, parts: Iterable[Any]) -> set[_Slot]:
        found: set[_Slot] = set()
        for part in parts:
            if isinstance(part, _Slot):
                found.add(part)
            elif isinstance(part, _Node):
                if part not in self.slots:
                    self.slots[part] = set()
                    self.slots[part] = self._collect(part.parts)
                found |= self.slots[part]
        return found


_Entry: TypeAlias = list[Any] | tuple[_Template, dict[_Slot, str]]
"""Pieces of text and nodes, or a template and the texts of its slots."""


class TreeWriter:
    """Collect objects, then write them as the entries of a list.

    Parameters
    ----------
    key : str
        Name of the list: ``slits`` or ``spec``.
    """

    def __init__(self, key: str) -> None:
        import asdf

        self._key = key
        self._file = asdf.AsdfFile()
        self._manager = self._file.extension_manager
        self._converters: dict[type, Converter] = {}
        self._extensions: dict[str, Any] = {}
        self._nodes: dict[tuple[Any, ...], _Node] = {}
        self._known: dict[int, tuple[Any, _Node]] = {}
        self._arrays: dict[bytes, int] = {}
        self._entries: list[_Entry] = []
        self._templates: dict[Any, _Template | None] = {}
        self._slots: dict[Any, _Slot] = {}
        self._strings: dict[str, str] = {}
        self._named = 0

    def add(self, wcs: gwcs.WCS | DeferredWcs | None) -> None:
        """Append an entry with this ``meta.wcs`` (None: with an empty ``meta``)."""
        if isinstance(wcs, DeferredWcs):
            template = self._template(wcs)
            if template is not None:
                self._entries.append((template, self._texts(template.used, wcs.numbers)))
                return
            wcs = wcs.load()
        self._entries.append(self._entry(wcs))

    def _entry(self, wcs: gwcs.WCS | None) -> list[Any]:
        parts: list[Any] = ["{meta: {"]
        if wcs is not None:
            parts.append("wcs: ")
            self._emit(wcs, parts)
        parts.append("}}")
        for part in parts:
            if isinstance(part, _Node):
                part.uses += 1
        return parts

    def _template(self, wcs: DeferredWcs) -> _Template | None:
        """Return the template of a kind of gwcs, or None if there cannot be one."""
        if wcs.kind is None:
            return None
        if wcs.kind not in self._templates:
            made, marks = wcs.marked()
            for k, mark in enumerate(marks):
                if isinstance(mark, np.ndarray):
                    self._slots[_raw(mark[::-1])] = _Slot(k, reverse=True)
                    self._slots[_raw(mark)] = _Slot(k)
                else:
                    self._slots[mark] = _Slot(k)
            template = _Template(self._entry(made))
            self._slots = {}
            # a number that was turned into another one cannot be exchanged
            complete = {s.number for s in template.used} == set(range(len(marks)))
            usable = complete and not template.cyclic
            self._templates[wcs.kind] = template if usable else None
        return self._templates[wcs.kind]

    def _texts(self, slots: Iterable[_Slot], numbers: tuple[Any, ...]) -> dict[_Slot, str]:
        out = {}
        for slot in sorted(slots, key=lambda s: (s.number, s.reverse)):
            parts: list[Any] = []
            number = numbers[slot.number]
            self._emit(number[::-1] if slot.reverse else number, parts)
            out[slot] = "".join(parts)
        return out

    def content(self, model: str) -> bytes:
        """Return the ASDF file of a data model of this type."""
        shared: list[str] = []
        entries = ["- " + self._render_entry(entry, shared) for entry in self._entries]
        text = io.StringIO()
        text.write(f"meta:\n  model_type: {model}\n")
        if shared:
            text.write(f"{SHARED}:\n" + "\n".join(shared) + "\n")
        text.write(f"{self._key}:\n" + "\n".join(entries) if entries else f"{self._key}: []")
        return self._whole(text.getvalue())

    def single(self, wcs: gwcs.WCS) -> bytes:
        """Return the ASDF file that holds this ``meta.wcs`` and nothing else."""
        parts: list[Any] = []
        self._emit(wcs, parts)
        shared: list[str] = []
        value = self._render(parts, shared)
        listed = f"{SHARED}:\n" + "\n".join(shared) + "\n" if shared else ""
        return self._whole(f"{listed}meta:\n  wcs: {value}")

    def _whole(self, tree: str) -> bytes:
        head = (
            f"#ASDF 1.0.0\n#ASDF_STANDARD {self._file.version_string}\n%YAML 1.1\n"
            f"%TAG ! {_PREFIX}\n--- !core/asdf-1.1.0\n{self._history()}"
        )
        return b"".join([f"{head}{tree}\n...\n".encode("ascii"), *map(_block, self._arrays)])

    def _history(self) -> str:
        if not self._extensions:
            return ""
        out = "history:\n  extensions:\n"
        for name, extension in sorted(self._extensions.items()):
            said = {"extension_class": extension.class_name, "extension_uri": name}
            text = ", ".join(f"{k}: {json.dumps(v)}" for k, v in said.items())
            if extension.package_name is not None:
                package = json.dumps(extension.package_name)
                version = json.dumps(str(extension.package_version))
                text += f", software: !core/software-1.0.0 {{name: {package}, version: {version}}}"
            out += f"  - !core/extension_metadata-1.0.0 {{{text}}}\n"
        return out

    def _render_entry(self, entry: _Entry, shared: list[str]) -> str:
        if isinstance(entry, list):
            return self._render(entry, shared)
        template, texts = entry
        if not template.pieces:
            template.pieces = self._flatten(template, template.parts, shared)
        names = [self._next_name() for _ in template.lines]

        def filled(pieces: list[Any]) -> str:
            return "".join(
                p if isinstance(p, str) else texts[p] if isinstance(p, _Slot) else "*" + names[p]
                for p in pieces
            )

        for name, line in zip(names, template.lines, strict=True):
            shared.append(f"- &{name} {filled(line)}")
        return filled(template.pieces)

    def _flatten(self, template: _Template, parts: Iterable[Any], shared: list[str]) -> list[Any]:
        """Return text, slots, and references to lines that the template gets on the way."""
        out: list[Any] = []
        for part in parts:
            if not isinstance(part, _Node):
                out.append(part)
            elif not template.slots[part]:
                out.append(self._render([part], shared))
            elif part in template.own:
                out.append(template.own[part])
            else:
                inner = self._flatten(template, part.parts, shared)
                if part.repeated:
                    out += inner
                    continue
                template.lines.append(inner)
                template.own[part] = len(template.lines) - 1
                out.append(template.own[part])
        return _merged(out)

    def _render(self, parts: Iterable[Any], shared: list[str], *, inside: bool = False) -> str:
        out = []
        for part in parts:
            if isinstance(part, str):
                out.append(part)
            elif part.name:
                out.append("*" + part.name)
            else:
                out.append(self._render_node(part, shared, inside=inside))
        return "".join(out)

    def _render_node(self, node: _Node, shared: list[str], *, inside: bool) -> str:
        """Return the text of a node that is met for the first time, or an alias to it."""
        if node.cyclic:
            node.name = self._next_name()
        text = self._render(node.parts, shared, inside=inside or node.cyclic)
        if not node.cyclic and (node.repeated or len(text) <= _SHORT):
            return text
        node.name = node.name or self._next_name()
        # what is inside a node that holds itself may refer to it, and has to stay there
        if inside:
            return f"&{node.name} {text}"
        shared.append(f"- &{node.name} {text}")
        return "*" + node.name

    def _next_name(self) -> str:
        self._named += 1
        return f"id{self._named:05d}"

    def _emit(self, value: Any, out: list[Any]) -> None:  # noqa: ANN401 - any value of a tree
        kind = type(value)
        if kind is float:
            out.append(self._slots.get(value) or _float(value))
        elif kind is str:
            text = self._strings.get(value)
            if text is None:
                text = self._strings[value] = json.dumps(value)
            out.append(text)
        elif value is None:
            out.append("null")
        elif kind is bool:
            out.append("true" if value else "false")
        elif kind is int:
            out.append(self._slots.get(value) or str(value))
        elif kind in (list, tuple):
            out.append("[")
            for i, item in enumerate(value):
                if i:
                    out.append(", ")
                self._emit(item, out)
            out.append("]")
        elif kind is dict or isinstance(value, OrderedDict):
            out.append("{")
            for i, (key, item) in enumerate(value.items()):
                out.append(", " if i else "")
                self._emit(key, out)
                out.append(": ")
                self._emit(item, out)
            out.append("}")
        elif isinstance(value, np.generic) or (kind is np.ndarray and value.ndim == 0):
            self._emit(value.item(), out)
        elif kind is np.ndarray or kind.__name__ == "NDArrayType":  # the latter is asdf's, lazy
            self._array(np.asarray(value), out)
        else:
            out.append(self._object(value))

    def _array(self, array: HostArray, out: list[Any]) -> None:
        slot = self._slots.get(_raw(array)) if self._slots else None
        if slot is not None:
            out.append(slot)
            return
        tag = _short_tag(next(t for t in self._converter(np.ndarray).tags if "ndarray" in t))
        name = {"bool": "bool8"}.get(array.dtype.name, array.dtype.name)
        out.append(tag + " {")
        if array.size <= _INLINE:
            out.append("data: ")
            self._emit(array.tolist(), out)
        else:
            raw = _raw(array)
            number = self._arrays.setdefault(raw, len(self._arrays))
            out.append(f"source: {number}, byteorder: little")
        shape = ", ".join(map(str, array.shape))
        out.append(f", datatype: {name}, shape: [{shape}]}}")

    def _converter(self, kind: type) -> Converter:
        found = self._converters.get(kind)
        if found is None:
            found = self._converters[kind] = self._manager.get_converter_for_type(kind)
            self._extensions.setdefault(str(found.extension.extension_uri), found.extension)
        return found

    def _object(self, value: object) -> _Node:
        """Return the node of an object that asdf has a converter for."""
        known = self._known.get(id(value))
        if known is not None:
            known[1].cyclic |= not known[1].parts
            return known[1]
        # the object is kept, so that no other gets its id
        node = _Node()
        self._known[id(value)] = (value, node)
        converter = self._converter(type(value))
        tag = converter.select_tag(value, self._file)
        tree = converter.to_yaml_tree(value, tag, self._file)
        parts: list[Any] = []
        if tag is None:  # the converter gives an object that another one converts
            self._emit(tree, parts)
            assert isinstance(parts[0], _Node)
            node = parts[0]
        else:
            parts.append(_short_tag(tag) + " ")
            self._emit(tree if isinstance(tree, (dict, list, str)) else next(tree), parts)
            node = self._interned(node, parts)
        self._known[id(value)] = (value, node)
        return node

    def _interned(self, node: _Node, parts: list[Any]) -> _Node:
        """Complete `node`, or return the one that is equal to it."""
        merged = _merged(parts)
        own = node if node.cyclic else None
        key = tuple(p if isinstance(p, str) else 0 if p is own else id(p) for p in merged)
        known = self._nodes.setdefault(key, node)
        if known is node:
            node.parts = tuple(merged)
            for part in merged:
                if isinstance(part, _Node):
                    part.uses += 1
        return known


def _merged(parts: Iterable[Any]) -> list[Any]:
    """Join pieces of text that follow each other."""
    merged: list[Any] = []
    for part in parts:
        if isinstance(part, str) and merged and isinstance(merged[-1], str):
            merged[-1] += part
        else:
            merged.append(part)
    return merged


def _raw(array: HostArray) -> bytes:
    return np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<")).tobytes()


def _short_tag(tag: str) -> str:
    return "!" + tag.removeprefix(_PREFIX) if tag.startswith(_PREFIX) else f"!<{tag}>"


def _float(value: float) -> str:
    if not math.isfinite(value):
        return ".nan" if math.isnan(value) else ".inf" if value > 0 else "-.inf"
    text = repr(value)
    # YAML 1.1 knows no number with an exponent but without a fraction
    odd = _NO_FRACTION.match(text)
    return f"{odd[1]}.0{odd[2]}" if odd else text


def _block(content: bytes) -> bytes:
    size = len(content)
    return b"\xd3BLK" + struct.pack(">HI4sQQQ16s", 48, 0, b"", size, size, size, b"") + content


def cut_slit(content: bytes, number: int) -> bytes | None:
    """Cut an ASDF file made by :class:`TreeWriter` down to ``meta.wcs`` of the entry at a position.

    The result is empty if the entry has none, and None if another writer made the file.
    """
    head, start, rest = content.partition(b"\n--- ")
    tree, end, blocks = rest.partition(b"\n...")
    before, found, text = tree.partition(b"\n" + SHARED.encode() + b":\n")
    if not found:
        before, found, text = tree.partition(b"\nmeta:\n")
    shared: dict[bytes, bytes] = {}
    entries = []
    for line in text.split(b"\n"):
        if line.startswith(b"- &"):
            shared |= dict.fromkeys(re.findall(rb"&(id\d+) ", line), line)
        elif line.startswith(b"- {meta: {"):
            entries.append(line)
    if not (start and end and found) or number >= len(entries):
        return None
    wcs = entries[number].removeprefix(b"- {meta: {").removesuffix(b"}}")
    if not wcs:
        return b""
    wanted: set[bytes] = set()
    waiting = [wcs]
    while waiting:
        for name in re.findall(rb"\*(id\d+)", waiting.pop()):
            if name not in wanted:
                wanted.add(name)
                waiting.append(shared[name])
    needed = dict.fromkeys(line for name, line in shared.items() if name in wanted)
    first = before.partition(b"\n")[0]
    listed = SHARED.encode() + b":\n" + b"\n".join(needed) + b"\n" if needed else b""
    return head + start + first + b"\n" + listed + b"meta: {" + wcs + b"}" + end + blocks

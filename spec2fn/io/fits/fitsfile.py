"""The structure of a FITS file: where each extension lies, checked against the file's size.

Keywords are read when they are used: a product of many slits has thousands of headers, and to scan
one of 148 extensions takes 5 ms, with :mod:`astropy.io.fits` 50 ms. Pixels are read by offset, so
that a part of a large array costs only that part, and nothing stays mapped or open.
"""

from __future__ import annotations

import functools
import gzip
import io
import math
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.errors import InputError
from spec2fn.parameters import user_path
from spec2fn.typing import HostArray

if TYPE_CHECKING:
    from astropy.io.fits import Header

__all__ = ["BLOCK", "FitsFile", "Hdu", "Table", "scan"]

BLOCK = 2880
"""Length of a FITS block [bytes]."""

_CARD = 80
# the values of nearly all cards: text, logical, integer, real; whatever else is left to astropy
_PLAIN = re.compile(
    rb" *(?:'((?:[^']|'')*)'|([TF])|([+-]?\d+)|([+-]?(?:\d+\.\d*|\.\d+)(?:E[+-]?\d+)?))"
    rb"(?= *(?:/|$))"
)
_TYPES = {8: "u1", 16: ">i2", 32: ">i4", 64: ">i8", -32: ">f4", -64: ">f8"}
_UNSIGNED = {16: 2**15, 32: 2**31, 64: 2**63}


@dataclass(frozen=True, eq=False)
class Hdu:
    """One header and data unit.

    Attributes
    ----------
    number : int
        Position in the file; 0 for the primary one.
    cards : bytes
        The header as it is stored.
    start : int
        Offset of the data in the (decompressed) file [bytes].
    """

    number: int
    cards: bytes
    start: int

    @functools.cached_property
    def name(self) -> str:
        """EXTNAME in upper case; "PRIMARY" for the first."""
        return str(self.get("EXTNAME") or "").strip().upper() if self.number else "PRIMARY"

    @functools.cached_property
    def version(self) -> int:
        """EXTVER."""
        return int(self.value("EXTVER", 1))

    @functools.cached_property
    def header(self) -> Header:
        """The header; treat as read-only."""
        from astropy.io.fits import Header

        return Header.fromstring(self.cards.decode("ascii"))

    @functools.cached_property
    def _places(self) -> dict[bytes, int]:
        """Where the card of each keyword begins, the first if there are several."""
        cards = self.cards
        found: dict[bytes, int] = {}
        for at in range(0, len(cards), _CARD):
            if cards[at + 8 : at + 10] == b"= ":
                found.setdefault(cards[at : at + 8], at)
        return found

    def get(self, keyword: str) -> str | bool | float | None:
        """Return the value of a keyword, or None; a header is not parsed for one value."""
        at = self._places.get(keyword.encode("ascii").ljust(8))
        if at is None:
            return None
        end = at + _CARD
        while self.cards[end : end + 8] == b"CONTINUE":
            end += _CARD
        plain = _PLAIN.match(self.cards, at + 10, at + _CARD)
        if plain is None or end > at + _CARD:
            from astropy.io.fits import Header

            return Header.fromstring(self.cards[at:end].decode("ascii")).get(keyword)
        text, logical, whole, real = plain.groups()
        if text is not None:
            return text.decode("ascii").replace("''", "'").rstrip()
        if logical is not None:
            return logical == b"T"
        return int(whole) if whole is not None else float(real)

    def value(self, keyword: str, default: float | None = None) -> float:
        """Return the value of a keyword that describes the data; ValueError if it is no number."""
        found = self.get(keyword)
        found = default if found is None else found
        if isinstance(found, int | float) and not isinstance(found, bool):
            return found
        raise ValueError(f"{keyword} is {'missing' if found is None else repr(found)}")

    @property
    def is_table(self) -> bool:
        """Whether this is a binary table."""
        return str(self.get("XTENSION")).strip() == "BINTABLE"

    @property
    def units(self) -> dict[str, str | None]:
        """Units of the columns of a table, by their names; None where nothing is said."""
        columns = range(1, int(self.value("TFIELDS")) + 1)
        units = ((self.get(f"TTYPE{i}"), self.get(f"TUNIT{i}")) for i in columns)
        return {str(name).strip(): None if u is None else str(u) for name, u in units}

    @functools.cached_property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array in numpy order; () without data."""
        return tuple(int(self.value(f"NAXIS{i}")) for i in range(int(self.value("NAXIS")), 0, -1))

    @functools.cached_property
    def size(self) -> int:
        """Length of the data without padding [bytes]."""
        if not self.shape:
            return 0
        count = int(self.value("PCOUNT", 0)) + math.prod(self.shape)
        return self.stored.itemsize * int(self.value("GCOUNT", 1)) * count

    @property
    def stored(self) -> np.dtype[Any]:
        """Type of the stored numbers (big-endian)."""
        bits = self.value("BITPIX")
        if bits not in _TYPES:
            raise ValueError(f"BITPIX is {bits}")
        return np.dtype(_TYPES[int(bits)])

    @functools.cached_property
    def offset(self) -> int:
        """What unsigned integers are stored without (the customary BZERO); 0 for other numbers."""
        zero = _UNSIGNED.get(int(self.value("BITPIX")), 0)
        return zero if self.value("BZERO", 0) == zero else 0

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the numbers once read (native)."""
        stored = self.stored
        return np.dtype(f"u{stored.itemsize}") if self.offset else stored.newbyteorder("=")


@dataclass(frozen=True, eq=False)
class FitsFile:
    """A FITS file of known structure; holds no open file.

    Attributes
    ----------
    path : pathlib.Path
    hdus : tuple of Hdu
    content : bytes, optional
        The decompressed file, if it was compressed as a whole or in tiles.
    """

    path: Path
    hdus: tuple[Hdu, ...]
    content: bytes | None = None

    def find(self, name: str) -> Hdu | None:
        """Return the first extension called `name`, or None."""
        return next((hdu for hdu in self.hdus if hdu.name == name), None)

    @property
    def listed(self) -> str:
        """Names of the extensions, for messages."""
        return ", ".join(h.name for h in self.hdus[1:]) or "nothing besides PRIMARY"

    def raw(self, start: int, size: int) -> HostArray:
        """Return `size` bytes from offset `start` as a writable array of uint8.

        Raises
        ------
        InputError
            If the file has shrunk or vanished since it was scanned.
        """
        if self.content is not None:
            return np.frombuffer(bytearray(self.content[start : start + size]), np.uint8)
        out = np.empty(size, np.uint8)
        try:
            with self.path.open("rb") as stream:
                stream.seek(start)
                got = stream.readinto(out.data)
        except OSError as err:
            raise InputError(_unreadable(self.path, err)) from err
        if got < size:
            msg = f"{self.path}: the file has become shorter while it was being read; restore it"
            raise InputError(msg)
        return out

    def data(self, hdu: Hdu) -> bytes:
        """Return the data of `hdu` as they are stored."""
        return bytes(self.raw(hdu.start, hdu.size))

    def array(self, hdu: Hdu, rows: slice = slice(None)) -> HostArray:
        """Return the image of `hdu`, or the part `rows` of its first axis, in native byte order.

        Unsigned integers are restored; a plane with another BSCALE or BZERO becomes float64.
        """
        shape, stored = hdu.shape, hdu.stored
        if not shape:
            return np.zeros((), hdu.dtype)
        chosen = range(shape[0])[rows]
        first = min(chosen, default=0)
        count = max(chosen, default=-1) + 1 - first
        stride = int(np.prod(shape[1:], dtype=np.int64)) * stored.itemsize
        buffer = self.raw(hdu.start + first * stride, count * stride)
        data = np.frombuffer(buffer, stored).reshape(count, *shape[1:])
        native = data.byteswap(inplace=True).view(stored.newbyteorder("="))[:: chosen.step]
        if hdu.offset:
            unsigned = native.view(hdu.dtype)
            unsigned ^= hdu.dtype.type(hdu.offset)
            return unsigned
        scale, zero = hdu.value("BSCALE", 1), hdu.value("BZERO", 0)
        return native if (scale, zero) == (1, 0) else native * float(scale) + float(zero)

    def table(self, hdu: Hdu, rows: slice = slice(None)) -> Table:
        """Read a binary table, or successive rows; columns are converted when they are used.

        Raises
        ------
        InputError
            If the table's header does not describe its rows.
        """
        if hdu.get("ZTABLE") is not None:
            msg = f"{self.path}: {hdu.name} is a tile-compressed table; unpack it with funpack"
            raise InputError(msg)
        try:
            fields = [_field(hdu, i) for i in range(1, int(hdu.value("TFIELDS")) + 1)]
            plain = [f for f in fields if f is not None]
            count, length = hdu.shape
            if len(plain) < len(fields):
                return Table(_with_astropy(hdu, self.data(hdu))[rows], frozenset())
        except InputError:
            raise
        except Exception as err:
            # astropy raises whatever the cards of a column make it stumble over
            said = " ".join(str(err).split())
            msg = f"{self.path}: the columns of {hdu.name} are damaged ({said}); fetch it again"
            raise InputError(msg) from err
        dtype = np.dtype([(name, code, shape) for name, code, shape, _ in plain])
        if dtype.itemsize != length:
            msg = f"{self.path}: the columns of {hdu.name} do not fill its rows; fetch it again"
            raise InputError(msg)
        unsigned = frozenset(name for name, _, _, flag in plain if flag)
        chosen = range(count)[rows]
        first = min(chosen, default=0) * dtype.itemsize
        buffer = self.raw(hdu.start + first, len(chosen) * dtype.itemsize)
        return Table(np.frombuffer(buffer, dtype, len(chosen)), unsigned)

    def column(self, hdu: Hdu, name: str, rows: slice = slice(None)) -> HostArray:
        """Read a column of a binary table, or some rows of it, and nothing beside it.

        Raises
        ------
        InputError
            As :meth:`table` and :meth:`raw`.
        """
        head = self.table(hdu, slice(0, 0))
        fields = head.stored.dtype.fields
        if type(head.stored) is not np.ndarray or fields is None:  # it needs more than a view
            return self.table(hdu)[name][rows]
        kind, offset = fields[name][:2]
        chosen = range(hdu.shape[0])[rows]
        stored = np.empty(len(chosen), [(name, kind.base, kind.shape)])
        cells = stored.view(np.uint8).reshape(len(chosen), kind.itemsize)
        starts = [hdu.start + row * hdu.shape[1] + offset for row in chosen]
        self._fill(cells, starts)
        return Table(stored, head.unsigned)[name]

    def _fill(self, pieces: HostArray, starts: list[int]) -> None:
        """Read pieces (n, size) of bytes from so many offsets."""
        if self.content is not None:
            for piece, start in zip(pieces, starts, strict=True):
                piece[:] = np.frombuffer(self.content, np.uint8, len(piece), start)
            return
        try:
            with self.path.open("rb") as stream:
                for piece, start in zip(pieces, starts, strict=True):
                    stream.seek(start)
                    if stream.readinto(piece.data) < len(piece):
                        msg = f"{self.path}: the file has become shorter; restore it"
                        raise InputError(msg)
        except OSError as err:
            raise InputError(_unreadable(self.path, err)) from err


@dataclass(frozen=True, eq=False)
class Table:
    """A binary table as it is stored.

    Attributes
    ----------
    stored : structured array, or astropy.io.fits.FITS_rec
    unsigned : frozenset of str
        Columns of unsigned 32-bit integers, which are stored as signed ones.
    """

    stored: HostArray
    unsigned: frozenset[str]

    def __len__(self) -> int:
        return len(self.stored)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns."""
        return self.stored.dtype.names or ()

    def width(self, name: str) -> tuple[int, ...]:
        """Shape of one cell of a column; () for a single value."""
        return self.stored.dtype[name].shape

    def __getitem__(self, name: str) -> HostArray:
        column = np.asarray(self.stored[name])
        if name in self.unsigned:
            return column.astype(np.uint32) ^ np.uint32(2**31)
        if column.dtype.kind == "S":
            return np.char.rstrip(np.char.decode(column, "ascii", "replace"))
        return column.astype(column.dtype.newbyteorder("="))

    def structured(self) -> HostArray:
        """Return the whole table as a native structured array."""
        columns = {name: self[name] for name in self.names}
        out = np.empty(len(self), [(name, c.dtype, c.shape[1:]) for name, c in columns.items()])
        for name, column in columns.items():
            out[name] = column
        return out


_CODES = {"B": "u1", "I": ">i2", "J": ">i4", "K": ">i8", "E": ">f4", "D": ">f8"}


def _field(hdu: Hdu, i: int) -> tuple[str, str, tuple[int, ...], bool] | None:
    """Name, type, shape and signedness of a column; None if it needs more than a view."""
    name, form, zero, scale, size = (
        hdu.get(f"{key}{i}") for key in ("TTYPE", "TFORM", "TZERO", "TSCAL", "TDIM")
    )
    if name is None or form is None:
        raise ValueError(f"column {i} has no TTYPE or no TFORM")
    parts = re.fullmatch(r"(\d*)([A-Z]).*", str(form).strip())
    if parts is None:
        return None
    name = str(name).strip()
    count, code = parts.groups()
    unsigned = code == "J" and zero == 2**31
    if code == "A":
        return name, f"S{count or 1}", (), False
    if code not in _CODES or scale not in (None, 1) or not (unsigned or zero in (None, 0)):
        return None
    shape: tuple[int, ...] = (int(count),) if count not in ("", "1") else ()
    if size is not None:
        shape = tuple(int(n) for n in reversed(re.findall(r"\d+", str(size))))
    return name, _CODES[code], shape, unsigned


def _with_astropy(hdu: Hdu, raw: bytes) -> HostArray:
    from astropy.io import fits

    padded = raw.ljust(-(-hdu.size // BLOCK) * BLOCK, b"\0")
    made = fits.BinTableHDU.fromstring(hdu.cards + padded)
    if made.columns.dtype.itemsize != hdu.shape[1]:
        raise ValueError("they do not fill its rows")
    for name in made.columns.names:
        made.data.field(name)  # converted here, and kept, lest damage be noticed later
    return np.asanyarray(made.data)


def _unreadable(path: Path, err: OSError) -> str:
    return f"{path}: cannot be read ({err.strerror or err}); check the path and its permissions"


def scan(path: str | os.PathLike[str]) -> FitsFile:
    """Find every extension of a FITS file (``.fits`` or ``.fits.gz``, images plain or in tiles).

    Raises
    ------
    InputError
        Naming the file, if it is missing, unreadable, not FITS, or shorter than its headers say.
    """
    where = user_path(path)
    content: bytes | None = None
    try:
        with where.open("rb") as stream:
            start = stream.read(10)
            total = os.fstat(stream.fileno()).st_size
            if start[:2] == b"\x1f\x8b":
                stream.seek(0)
                content = _decompress(stream.read(), where)
                start, total = content[:10], len(content)
            if total == 0:
                raise InputError(f"{where}: is empty, not a FITS file; fetch it again")
            if start[:9] != b"SIMPLE  =":
                msg = f"{where}: is not a FITS file (it does not start with SIMPLE); check the path"
                raise InputError(msg)

            def read(at: int, size: int) -> bytes:
                if content is not None:
                    return content[at : at + size]
                stream.seek(at)
                return stream.read(size)

            hdus = tuple(_walk(read, total, where))
            if any(h.get("ZIMAGE") is not None for h in hdus):
                content = _untiled(where if content is None else io.BytesIO(content), where)
                hdus = tuple(_walk(read, len(content), where))
    except FileNotFoundError:
        raise InputError(f"{where}: no such file; check the path") from None
    except OSError as err:
        raise InputError(_unreadable(where, err)) from err
    return FitsFile(where, hdus, content)


def _decompress(raw: bytes, where: Path) -> bytes:
    import zlib

    try:
        return gzip.decompress(raw)
    except (OSError, EOFError, zlib.error) as err:
        raise InputError(f"{where}: is truncated or damaged ({err}); fetch it again") from err


def _untiled(source: Path | io.BytesIO, where: Path) -> bytes:
    """Return the file with its tile-compressed images as plain ones."""
    from astropy.io import fits

    out = io.BytesIO()
    try:
        with fits.open(source, memmap=False) as hdus:
            plain = [
                fits.ImageHDU(h.data, h.header) if isinstance(h, fits.CompImageHDU) else h
                for h in hdus
            ]
            fits.HDUList(plain).writeto(out)
    except Exception as err:
        # the decoders raise whatever they stumble over
        msg = f"{where}: its tile-compressed images cannot be read ({err}); unpack it with funpack"
        raise InputError(msg) from err
    return out.getvalue()


def _walk(read: Callable[[int, int], bytes], total: int, where: Path) -> Iterator[Hdu]:
    at = 0
    number = 0
    while at < total:
        cards, at = _cards(read, at, total, where, number)
        hdu = Hdu(number, cards, at)
        try:
            name, size, _ = hdu.name, hdu.size, hdu.version
        except Exception as err:
            # astropy raises whatever an unusual card makes it stumble over
            msg = f"{where}: the header of extension {number} is damaged ({err}); fetch it again"
            raise InputError(msg) from err
        # the padding of the last block may be missing in files of sloppy writers; data may not
        if at + size > total:
            msg = (
                f"{where}: is truncated: {total} bytes, but extension {name or number} ends at"
                f" byte {at + size}; fetch it again"
            )
            raise InputError(msg)
        yield hdu
        at += -(-size // BLOCK) * BLOCK
        number += 1


def _cards(
    read: Callable[[int, int], bytes], at: int, total: int, where: Path, number: int
) -> tuple[bytes, int]:
    cards = b""
    while True:
        block = read(at, BLOCK)
        if len(block) < BLOCK:
            msg = (
                f"{where}: is truncated: {total} bytes end inside the header of extension"
                f" {number}; fetch it again"
            )
            raise InputError(msg)
        if not cards and number and block[:8] not in (b"XTENSION", b"SIMPLE  "):
            msg = f"{where}: extension {number} does not start with XTENSION; fetch it again"
            raise InputError(msg)
        at += BLOCK
        cards += block
        if any(block[i : i + 8] == b"END     " for i in range(0, BLOCK, 80)):
            break
    if not cards.isascii():
        msg = f"{where}: the header of extension {number} is not text; fetch it again"
        raise InputError(msg)
    return cards, at

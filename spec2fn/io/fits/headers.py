"""FITS headers of products, made from the headers of the input and what the steps found out.

Cards of the input that no step touches are written back as they came; new ones take the place
the JWST keyword dictionary gives them.
"""

from __future__ import annotations

import contextlib
import functools
import math
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from spec2fn.io.fits.fitsfile import BLOCK
from spec2fn.io.fits.keywords import (
    ASSOCIATION_KEYWORDS,
    CRDS_KEYWORDS,
    ONLY_IF_USED,
    RECORDED_OF_KIND,
    RECORDED_WITH,
    REFERENCE_KEYWORDS,
    REFERENCE_POINT,
    RESAMPLE_KEYWORDS,
    SCIENCE_ORDER,
    SLIT_KEYWORDS,
    SLIT_SECTIONS,
    STEP_KEYWORDS,
    UNRECORDED,
    UNRECORDED_OFF,
)
from spec2fn.modes import mode_of
from spec2fn.schema import (
    FIELD_FILES,
    FIELD_KEYWORDS,
    MODE_ATTRS,
    SCALARS,
    SWITCHED_OFF,
    meta_of,
)

if TYPE_CHECKING:
    import xarray as xr
    from astropy.io.fits import Card

__all__ = [
    "Field",
    "card",
    "cutting_comments",
    "encode_header",
    "heading",
    "image_cards",
    "is_structure",
    "join_sections",
    "primary_cards",
    "science_cards",
    "spectral_range",
    "split_sections",
    "table_cards",
    "value_at",
]

_STRUCTURE = {
    "SIMPLE", "XTENSION", "BITPIX", "NAXIS", "EXTEND", "PCOUNT", "GCOUNT", "GROUPS", "BSCALE",
    "BZERO", "CHECKSUM", "DATASUM", "INHERIT",
}  # fmt: skip
_IN_SCIENCE = ("SRCTYPE", "DISPAXIS")
_OF_ONE_SLIT = [
    (k, v) for k, v in SLIT_KEYWORDS.items() if k in SCIENCE_ORDER and not k.startswith("TA_")
]
# what an approximation of the world coordinates replaces, and its polynomials
_POLYNOMIAL = re.compile(r"([AB]P?)_(?:ORDER|\d_\d)")
_REPLACED = re.compile(r"CDELT[12]|PC[12]_[12]|[AB]P?_(?:ORDER|\d_\d)")
_ASSOCIATION = "Association information"
# of a column, by the type of its numbers as they are stored
_LETTERS = {">i4": "J", ">u4": "J", ">f4": "E", ">f8": "D", "u1": "B", "S1": "A"}
_BITPIX = {">f4": -32, ">f8": -64, ">u4": 32, ">i4": 32}

Field: TypeAlias = tuple[str, str, str, tuple[int, ...]]
"""Column of a table: name, type as in :data:`_LETTERS` (``>u4``: unsigned), unit, and shape."""


def card(keyword: str, value: object = "", comment: str = "") -> Card:
    """Make a header card of a Python, NumPy or JAX scalar; letters FITS lacks become ``?``."""
    from astropy.io import fits

    if isinstance(value, str) and not (value.isascii() and value.isprintable()):
        value = "".join(c if " " <= c <= "~" else "?" for c in value)
    if isinstance(value, (bool, np.bool_)):
        value = bool(value)
    elif hasattr(value, "dtype"):
        value = np.asarray(value).item()
    return fits.Card(keyword, value, comment)


@contextlib.contextmanager
def cutting_comments() -> Iterator[None]:
    """Format cards without warnings that a comment does not fit and is cut."""
    from astropy.io.fits.verify import VerifyWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", VerifyWarning)
        yield


def encode_header(cards: Iterable[Card | str]) -> bytes:
    """Return the header of cards, or their images, as padded bytes; long comments are cut."""
    with cutting_comments():
        text = "".join(c if isinstance(c, str) else c.image for c in cards) + "END".ljust(80)
    return text.ljust(-(-len(text) // BLOCK) * BLOCK).encode("ascii")


def is_structure(keyword: str) -> bool:
    """Whether a keyword describes how an extension is stored."""
    axis = keyword.startswith("NAXIS") and keyword[5:].isdigit()
    return keyword in _STRUCTURE or axis


def heading(title: str) -> list[Card]:
    """Return the cards of a section's title."""
    return [card(""), card("", title), card("")]


def split_sections(cards: Iterable[Card]) -> list[tuple[str, list[Card]]]:
    """Split cards at their headings; blank cards are dropped."""
    out: list[tuple[str, list[Card]]] = [("", [])]
    for c in cards:
        if c.keyword:
            out[-1][1].append(c)
        elif str(c.value).strip():
            out.append((str(c.value).strip(), []))
    return out


def join_sections(sections: Iterable[tuple[str, list[Card]]]) -> list[Card]:
    """Return the cards of sections with their headings; empty sections are left out."""
    out: list[Card] = []
    for title, cards in sections:
        if cards:
            out += [*(heading(title) if title else []), *cards]
    return out


def _set(
    cards: list[Card], keyword: str, value: object, comment: str, after: Sequence[str]
) -> None:
    """Replace the value of a keyword, or insert it behind the last of `after` that is there."""
    names = [c.keyword for c in cards]
    if keyword in names:
        i = names.index(keyword)
        old = cards[i]
        if type(old.value) is not type(value) or old.value != value:
            cards[i] = card(keyword, value, comment or old.comment)
        return
    at = max((names.index(a) + 1 for a in after if a in names), default=len(cards))
    cards.insert(at, card(keyword, value, comment))


def primary_cards(ds: xr.Dataset, filename: str) -> list[Card]:
    """Cards of the PRIMARY header of the product `ds`, which gets this name.

    They come from the ``primary`` header of its ``meta`` and the records ``references`` (name by
    reference type), ``crds_context``, ``crds_version``, ``asn_pool``, ``asn_table``.
    """
    meta = meta_of(ds)
    source = [] if meta.primary is None else meta.primary.cards
    sections = split_sections(c for c in source if not is_structure(c.keyword))
    top = sections[0][1]
    _identify(ds, top, filename)
    _put_mode_attrs(ds, sections)
    _put_scalars(ds, sections)
    association = _association(ds, sections)
    sections = [s for s in sections if s[0] != _ASSOCIATION]
    sections.insert(1, (_ASSOCIATION, association))
    given = {c.keyword: c for _, cards in sections for c in cards}
    references = {**CRDS_KEYWORDS, **REFERENCE_KEYWORDS}
    new = [
        ("Reference file information", _section(given, references, _references(ds))),
        (
            "Calibration step information",
            [*_section(given, STEP_KEYWORDS, _steps(ds, given)), *_field(ds, given)],
        ),
        *_own_sections(ds, given),
        ("Resample Parameters", _section(given, RESAMPLE_KEYWORDS, ds.attrs)),
    ]
    ours = {c.keyword for _, cards in new for c in cards}
    rest = [(title, [c for c in cards if c.keyword not in ours]) for title, cards in sections]
    structure = [
        card("SIMPLE", True, "conforms to FITS standard"),
        card("BITPIX", 8, "array data type"),
        card("NAXIS", 0, "number of array dimensions"),
        card("EXTEND", True),
    ]
    return [*structure, *join_sections([*rest, *new])]


def _identify(ds: xr.Dataset, top: list[Card], filename: str) -> None:
    import spec2fn

    order = ["DATE", "ORIGIN", "TIMEUNIT", "FILENAME", "CAL_VER", "CAL_VCS", "DATAMODL"]
    ident = {
        "FILENAME": (filename, "Name of the file"),
        "CAL_VER": (f"spec2fn {spec2fn.__version__}", "Calibration Software Version"),
        "CAL_VCS": ("RELEASE", "Calibration Software Repository Version"),
        "DATAMODL": (str(ds.attrs.get("model", "ImageModel")), "Type of data model"),
        "TELESCOP": ("JWST", "Telescope used to acquire the data"),
    }
    for keyword, (value, comment) in ident.items():
        before = order[: order.index(keyword)] if keyword in order else order
        _set(top, keyword, value, comment, before)


def _find(sections: Sequence[tuple[str, list[Card]]], keyword: str) -> list[Card] | None:
    for _, cards in sections:
        if any(c.keyword == keyword for c in cards):
            return cards
    return None


def _put_mode_attrs(ds: xr.Dataset, sections: list[tuple[str, list[Card]]]) -> None:
    meta = meta_of(ds)
    for name, (keyword, kind) in MODE_ATTRS.items():
        value = ds.attrs.get(name)
        if value is None or keyword in _IN_SCIENCE or meta.get(keyword) == value:
            continue
        if meta.science is not None and keyword in meta.science:
            continue
        _set(_find(sections, keyword) or sections[0][1], keyword, kind(value), "", ())


def _put_scalars(ds: xr.Dataset, sections: list[tuple[str, list[Card]]]) -> None:
    for name, scalar in SCALARS.items():
        if scalar.hdu != "PRIMARY" or scalar.section or name not in ds or ds.variables[name].ndim:
            continue
        value = value_at(ds, name, 0)
        if value is not None:
            where = _find(sections, scalar.keyword) or _find(sections, "YOFFSET") or sections[0][1]
            _set(where, scalar.keyword, value, scalar.about, ("YOFFSET", "DITH_RA"))


def _association(ds: xr.Dataset, sections: Sequence[tuple[str, list[Card]]]) -> list[Card]:
    cards = next((list(c) for title, c in sections if title == _ASSOCIATION), [])
    records = meta_of(ds).records
    for key, (keyword, what) in ASSOCIATION_KEYWORDS.items():
        if records.get(key):
            _set(cards, keyword, str(records[key]), what, ("ASNPOOL",))
    return cards


def _section(
    given: Mapping[str, Card], keywords: Mapping[str, tuple[str, str]], values: Mapping[Any, Any]
) -> list[Card]:
    """Make cards of the values by name; without a value the card of the input stands in."""
    out = []
    for name, (keyword, comment) in keywords.items():
        if values.get(name) is not None:
            out.append(card(keyword, values[name], comment))
        elif keyword in given:
            out.append(given[keyword])
    return out


def _references(ds: xr.Dataset) -> dict[str, str]:
    records = meta_of(ds).records
    names: Mapping[str, Any] = records.get("references", {})
    said = {key: str(records[key]) for key in CRDS_KEYWORDS if records.get(key)}
    named = {reftype: str(name or "N/A") for reftype, name in names.items()}
    # that an exposure has no references which no exposure of its kind has goes without saying
    return said | {k: v for k, v in named.items() if v != "N/A" or k not in ONLY_IF_USED}


def _steps(ds: xr.Dataset, given: Mapping[str, Card]) -> dict[str, str]:
    status = {name: str(ds.attrs.get(f"status_{name}") or "") for name in STEP_KEYWORDS}
    said = {
        name: text.split(":")[0].split()[0]
        for name, text in status.items()
        if text and not (name in UNRECORDED_OFF and text == SWITCHED_OFF)
    }
    if ds.attrs.get("status_nsclean") == "COMPLETE":
        # which has no keyword of its own; its successor has
        said["clean_flicker_noise"] = "COMPLETE"
    mode = mode_of(ds)
    kind = RECORDED_OF_KIND.get("lamp" if mode.lamp else mode.layout, {})
    implied = {
        name
        for step, names in {**RECORDED_WITH, **kind}.items()
        if step in said or STEP_KEYWORDS[step][0] in given
        for name in names
        if STEP_KEYWORDS[name][0] not in given
    }
    instrument = str(ds.attrs.get("instrument"))
    of_mode = UNRECORDED.get(f"{instrument} {'lamp' if mode.lamp else mode.layout}", ())
    implied -= {*UNRECORDED.get(instrument, UNRECORDED["MIRI"]), *of_mode}
    return {**dict.fromkeys(implied, "SKIPPED"), **said}


def _field(ds: xr.Dataset, given: Mapping[str, Card]) -> list[Card]:
    """Files that describe the field of a slitless exposure."""
    keywords = {role: (key, f"{what} filename") for role, (key, what) in FIELD_KEYWORDS.items()}
    return _section(given, keywords, meta_of(ds).records.get(FIELD_FILES, {}))


def _own_sections(ds: xr.Dataset, given: Mapping[str, Card]) -> list[tuple[str, list[Card]]]:
    """Scalars that have a section of their own."""
    out: dict[str, list[Card]] = {}
    for name, scalar in SCALARS.items():
        if scalar.section:
            held = name in ds and not ds.variables[name].ndim
            value = float(ds.variables[name].values) if held else None
            cards = _section(given, {name: (scalar.keyword, scalar.about)}, {name: value})
            out.setdefault(scalar.section, []).extend(cards)
    return list(out.items())


def image_cards(
    name: str,
    stored: str,
    shape: Sequence[int],
    unit: str = "",
    make: Callable[..., Any] = card,
) -> list[Any]:
    """Cards of an image extension that carries no metadata of its own.

    Numbers are `stored` as ``>f4``, ``>f8``, ``>i4``, or ``>u4`` (unsigned); `shape` is in numpy
    order; `make` makes a card, or the image of one, of keyword, value and comment.
    """
    out = [
        make("XTENSION", "IMAGE", "Image extension"),
        make("BITPIX", _BITPIX[stored], "array data type"),
        make("NAXIS", len(shape), "number of array dimensions"),
    ]
    out += [make(f"NAXIS{i}", int(n)) for i, n in enumerate(reversed(shape), 1)]
    out += [
        make("PCOUNT", 0, "number of parameters"),
        make("GCOUNT", 1, "number of groups"),
    ]
    if stored == ">u4":
        out += [make("BSCALE", 1), make("BZERO", 2**31)]
    out.append(make("EXTNAME", name, "extension name"))
    if unit:
        out.append(make("BUNIT", unit, SCIENCE_ORDER["BUNIT"][0]))
    out.append(make("EXTVER", 1, "extension value"))
    return out


def science_cards(ds: xr.Dataset, stored: str, shape: Sequence[int]) -> list[Card]:
    """Cards of the SCI header of the product `ds`; type and shape are as in :func:`image_cards`."""
    meta = meta_of(ds)
    structure = image_cards("SCI", stored, shape)
    held = {"EXTNAME", "EXTVER"}
    kept = [] if meta.science is None else list(meta.science.cards)
    kept = [c for c in kept if not is_structure(c.keyword) and c.keyword not in held]
    # the slit keywords come last, behind EXTVER
    slit = next((i for i, c in enumerate(kept) if c.keyword.startswith("SLT")), len(kept))
    cards = [*structure[:-1], *kept[:slit], structure[-1], *kept[slit:]]
    for keyword, value in _science_values(ds, shape).items():
        _put_science(cards, keyword, value)
    if "sip" in meta.records and ds.attrs.get("model") == "ImageModel":
        cards = _with_approximation(cards, meta.records["sip"].keywords)
    return cards


def _with_approximation(cards: list[Card], keywords: Mapping[str, float | str]) -> list[Card]:
    """Put the approximate world coordinates of an image in the place of what there was."""
    if not keywords:
        return cards
    cards = [c for c in cards if not _REPLACED.fullmatch(c.keyword)]
    basic = {k: v for k, v in keywords.items() if not _POLYNOMIAL.fullmatch(k)}
    order = list(SLIT_SECTIONS["WCS parameters"])
    for keyword, value in basic.items():
        before = order[: order.index(keyword)]
        comment = SCIENCE_ORDER.get(keyword, ("", ""))[0]
        _set(cards, keyword, value, comment, before)
    # those of a polynomial together, its degree first
    terms = [k for k in keywords if k.endswith("_ORDER")]
    terms += [k for p in ("A", "B", "AP", "BP") for k in sorted(keywords) if _term(k) == p]
    at = next((i for i, c in enumerate(cards) if c.keyword == "EXTVER"), len(cards))
    cards[at:at] = [card(k, keywords[k], _about(k)) for k in terms]
    return cards


def _term(keyword: str) -> str:
    found = _POLYNOMIAL.fullmatch(keyword)
    return "" if found is None or keyword.endswith("_ORDER") else found.group(1)


def _about(keyword: str) -> str:
    way = "inverse" if keyword[1] == "P" else "forward"
    if keyword.endswith("_ORDER"):
        return f"Degree of {way} SIP polynomial"
    return f"SIP coefficient, {way} transform"


def _science_values(ds: xr.Dataset, shape: Sequence[int]) -> dict[str, Any]:
    attrs = ds.attrs
    values: dict[str, Any] = {
        "SRCTYPE": attrs.get("source_type"),
        "BUNIT": ds.variables["sci"].attrs.get("units"),
        "S_REGION": attrs.get("s_region"),
        "DISPAXIS": attrs.get("dispaxis"),
        "SPECSYS": attrs.get("specsys"),
    }
    if attrs.get("resample_ndriz") is not None:
        values["TELAPSE"] = meta_of(ds).get("DURATION")
    if attrs.get("model") == "SlitModel":
        values |= {
            "SLTSTRT1": attrs.get("xstart"),
            "SLTSIZE1": attrs.get("xsize", shape[-1]),
            "SLTSTRT2": attrs.get("ystart"),
            "SLTSIZE2": attrs.get("ysize", shape[-2]),
        }
    if "slit_name" in ds and not ds.variables["slit_name"].ndim:
        values |= _one_slit(ds)
    elif "spectral_order" in meta_of(ds).records:
        values |= spectral_range(ds)
    for name, scalar in SCALARS.items():
        if scalar.hdu == "SCI" and name in ds and not ds.variables[name].ndim:
            values[scalar.keyword] = value_at(ds, name, 0)
    return {k: v for k, v in values.items() if v is not None}


def spectral_range(ds: xr.Dataset) -> dict[str, Any]:
    """Keywords of the range of wavelengths and the order."""
    records = meta_of(ds).records
    start, end = records.get("waverange", (None, None))
    return {"WAVSTART": start, "WAVEND": end, "SPORDER": records.get("spectral_order")}


def _one_slit(ds: xr.Dataset) -> dict[str, Any]:
    """Keywords of the slit of a time series."""
    values = spectral_range(ds)
    named = ((v, k) for k, (v, _) in _OF_ONE_SLIT)
    for name, keyword in (("s_region", "S_REGION"), *REFERENCE_POINT.items(), *named):
        if name in ds and not ds.variables[name].ndim:
            value = value_at(ds, name, 0)
            values[keyword] = None if value == "UNKNOWN" else value
    return {k: v for k, v in values.items() if v is not None}


def value_at(ds: xr.Dataset, name: str, k: int) -> str | bool | float | None:
    """Return an element of a variable of one dim (or of none); None if it is unknown."""
    if name not in ds:
        return None
    values = np.asarray(ds.variables[name].values)
    value: str | bool | float = (values[k] if values.ndim else values).item()
    if value == "" or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return value


def _put_science(cards: list[Card], keyword: str, value: object) -> None:
    comment, title = SCIENCE_ORDER[keyword]
    names = [c.keyword for c in cards]
    if keyword in names:
        _set(cards, keyword, value, "", ())
        return
    order = list(SCIENCE_ORDER)
    before = order[: order.index(keyword)]
    at = max((names.index(a) + 1 for a in before if a in names), default=len(cards))
    new = [card(keyword, value, comment)]
    neighbour = cards[at - 1].keyword if at else ""
    headed = any(not c.keyword and str(c.value).strip() == title for c in cards)
    if title and not headed and SCIENCE_ORDER.get(neighbour, ("", ""))[1] != title:
        new = [*heading(title), *new]
    cards[at:at] = new


@functools.lru_cache(maxsize=64)
def _column_images(columns: tuple[Field, ...]) -> list[str]:
    """Images of the cards of the columns, which the tables of many spectra share."""
    out = []
    for i, (column, code, unit, shape) in enumerate(columns, 1):
        count = math.prod(shape) if shape else ""
        out.append(card(f"TTYPE{i}", column))
        out.append(card(f"TFORM{i}", f"{count}{_LETTERS[code]}"))
        if unit:
            out.append(card(f"TUNIT{i}", unit))
        if code == ">u4":
            out.append(card(f"TZERO{i}", 2**31))
        if shape and code not in ("u1", "S1"):
            out.append(card(f"TDIM{i}", f"({','.join(str(n) for n in reversed(shape))})"))
    with cutting_comments():
        return [c.image for c in out]


def table_cards(
    name: str,
    columns: Sequence[Field],
    rows: int,
    version: int = 1,
    extra: Sequence[Card] = (),
) -> list[Card]:
    """Cards of a binary table of this EXTNAME and EXTVER, with `extra` ones behind."""
    length = sum(np.dtype(code).itemsize * math.prod(shape) for _, code, _, shape in columns)
    out = [
        card("XTENSION", "BINTABLE", "binary table extension"),
        card("BITPIX", 8, "array data type"),
        card("NAXIS", 2, "number of array dimensions"),
        card("NAXIS1", length, "length of dimension 1"),
        card("NAXIS2", rows, "length of dimension 2"),
        card("PCOUNT", 0, "number of group parameters"),
        card("GCOUNT", 1, "number of groups"),
        card("TFIELDS", len(columns), "number of table fields"),
    ]
    out += _column_images(tuple(columns))
    out += [
        card("EXTNAME", name, "extension name"),
        card("EXTVER", version, "extension value"),
    ]
    return [*out, *extra]

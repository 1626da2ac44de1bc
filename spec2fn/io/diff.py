"""What differs between two products, plane by plane and column by column."""

from __future__ import annotations

import functools
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from spec2fn.errors import InputError
from spec2fn.io.fits.fitsfile import FitsFile, Hdu, scan
from spec2fn.parameters import user_path
from spec2fn.typing import HostArray

__all__ = ["FileReport", "PlaneReport", "Report", "diff"]

# keywords that say who wrote the file and when, and those that describe how it is stored
_VOLATILE = {
    "DATE", "FILENAME", "CAL_VER", "CAL_VCS", "CRDS_VER", "PRD_VER", "SDP_VER", "CHECKSUM",
    "DATASUM", "SIMPLE", "EXTEND", "XTENSION", "BITPIX", "PCOUNT", "GCOUNT", "TFIELDS", "THEAP",
    "COMMENT", "HISTORY", "", "EXTNAME", "EXTVER", "BSCALE", "BZERO",
}  # fmt: skip
_STORAGE = ("NAXIS", "TTYPE", "TFORM", "TUNIT", "TDIM", "TNULL", "TZERO", "TSCAL", "TDISP")
_IDENTITY = ("SLTNAME", "SOURCEID", "SPORDER")
_BITS = re.compile(r"(^|\.)DQ(\W|$)")
_SUFFIXES = (".fits", ".gz", ".nc", ".nc4")


@dataclass(frozen=True)
class PlaneReport:
    """How one plane or column differs.

    Attributes
    ----------
    name : str
        Extension, or extension and column: ``SCI``, ``EXTRACT1D.FLUX``.
    ok : float
        Of the elements finite in either file, the fraction that agrees within the tolerance; for
        bit planes and text, of all elements the fraction that is identical.
    n : int
        Number of these elements.
    max_rel, p99_rel : float
        Largest difference, and its 99th percentile, relative to the larger of the value in `a`
        and the median of its absolute values.
    nan : float
        Fraction of these elements that is finite in only one of the files.
    bits : str
        Data-quality bits that differ anywhere, in hexadecimal.
    problem : str
        Why the plane could not be compared, or another unit; empty if there is nothing to say.
    """

    name: str
    ok: float = 1.0
    n: int = 0
    max_rel: float = 0.0
    p99_rel: float = 0.0
    nan: float = 0.0
    bits: str = ""
    problem: str = ""


@dataclass(frozen=True)
class FileReport:
    """How two files differ.

    Attributes
    ----------
    name : str
    planes : tuple of PlaneReport
    keywords : mapping of str to (value in a, value in b)
        Keywords that differ, of real numbers those that do not agree to 1e-9; None where a file
        has none.
    problems : tuple of str
        Model type, files and extensions that only one side has.
    """

    name: str
    planes: tuple[PlaneReport, ...] = ()
    keywords: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Report:
    """How two products, or the products in two folders, differ; ``print`` it.

    Attributes
    ----------
    files : tuple of FileReport
    rtol, atol : float
    """

    files: tuple[FileReport, ...]
    rtol: float
    atol: float

    @property
    def worst(self) -> float:
        """Smallest fraction of agreement of all planes."""
        return min((p.ok for f in self.files for p in f.planes), default=0.0)

    @property
    def problems(self) -> tuple[str, ...]:
        """Everything but numbers and values of keywords that differs."""
        out = []
        for f in self.files:
            out += [f"{f.name}: {p}" for p in f.problems]
            out += [f"{f.name} {p.name}: {p.problem}" for p in f.planes if p.problem]
        return tuple(out)

    @property
    def same(self) -> bool:
        """Whether all planes agree everywhere, and nothing else differs but keywords."""
        return bool(self.files) and self.worst == 1.0 and not self.problems

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON-able data."""
        return {
            **asdict(self),
            "same": self.same,
            "worst_ok": self.worst,
            "problems": list(self.problems),
        }

    def __str__(self) -> str:
        lines = []
        for f in self.files:
            lines.append(f.name)
            width = max(34, *(len(p.name) for p in f.planes)) if f.planes else 34
            lines.append(f"  {'plane':{width}} {'ok':>9} {'max rel':>9} {'p99 rel':>9} {'nan':>9}")
            for p in f.planes:
                note = f"  bits {p.bits}" if p.bits else ""
                note += f"  {p.problem}" if p.problem else ""
                numbers = f"{p.ok:9.6f} {p.max_rel:9.2e} {p.p99_rel:9.2e} {p.nan:9.2e}"
                lines.append(f"  {p.name:{width}} {numbers}{note}")
            lines += [f"  {p}" for p in f.problems]
            for keyword, (a, b) in f.keywords.items():
                lines.append(f"  {keyword}: {_shown(a)} | {_shown(b)}")
        verdict = "same" if self.same else "different"
        lines.append(
            f"{verdict}: worst ok {self.worst:.6f} at rtol {self.rtol:g},"
            f" {len(self.problems)} problems"
        )
        return "\n".join(lines)


def _shown(value: object) -> str:
    return "-" if value is None else repr(value)


_Plane: TypeAlias = tuple[Callable[[], HostArray], str]
"""Function that reads a plane, and its unit."""


@dataclass(frozen=True)
class _Product:
    """A product as planes and keywords, whatever file it lies in."""

    model: str
    planes: dict[str, _Plane]
    keywords: dict[str, Any]


def diff(
    a: str | os.PathLike[str], b: str | os.PathLike[str], rtol: float = 1e-5, atol: float = 0.0
) -> Report:
    """Compare two products, or all products of two folders by their names.

    Parameters
    ----------
    a, b : path
        FITS (of spec2fn or the JWST pipeline) or netCDF files, or folders; `a` is the reference.
    rtol, atol : float
        Two numbers agree if they differ by at most ``atol + rtol * (|a| + median |a|)``.

    Returns
    -------
    Report

    Raises
    ------
    InputError
        If a file is missing or cannot be read, a file is compared with a folder, or a tolerance
        is no number from 0 on.
    """
    for name, value in (("rtol", rtol), ("atol", atol)):
        if not 0 <= value < np.inf:
            raise InputError(f"{name} is {value}; it must be a finite number from 0 on")
    first, second = user_path(a), user_path(b)
    for path in (first, second):
        if not path.exists():
            raise InputError(f"{path}: no such file or folder; check the path")
    if first.is_dir() != second.is_dir():
        msg = f"{first} and {second}: one is a folder and one a file; give two of a kind"
        raise InputError(msg)
    if not first.is_dir():
        return Report((_diff_files(first, second, first.name, rtol, atol),), rtol, atol)
    here, there = _listing(first), _listing(second)
    files = []
    for name in sorted({*here, *there}):
        if name in here and name in there:
            files.append(_diff_files(here[name], there[name], name, rtol, atol))
        else:
            missing = second if name in here else first
            files.append(FileReport(name, problems=(f"missing in {missing}",)))
    return Report(tuple(files), rtol, atol)


def _listing(folder: Path) -> dict[str, Path]:
    """Products by their name without suffix, so that FITS and netCDF can be compared."""
    found = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    return {
        p.name.removesuffix(".gz").rsplit(".", 1)[0]: p
        for p in found
        if p.suffix.lower() in _SUFFIXES
    }


def _diff_files(a: Path, b: Path, name: str, rtol: float, atol: float) -> FileReport:
    left, right = _open(a), _open(b)
    problems = []
    if left.model != right.model:
        problems.append(f"model type {left.model or 'none'} | {right.model or 'none'}")
    problems += [f"{p}: missing in {b}" for p in left.planes if p not in right.planes]
    problems += [f"{p}: only in {b}" for p in right.planes if p not in left.planes]
    planes = tuple(
        _compare(p, left.planes[p], right.planes[p], rtol, atol)
        for p in left.planes
        if p in right.planes
    )
    keywords = {
        k: (left.keywords.get(k), right.keywords.get(k))
        for k in sorted({*left.keywords, *right.keywords})
        if not _alike(left.keywords.get(k), right.keywords.get(k))
    }
    return FileReport(name, planes, keywords, tuple(problems))


def _alike(a: object, b: object) -> bool:
    """Whether keywords agree; the last digits of what was computed say nothing."""
    if isinstance(a, float) and isinstance(b, float):
        return a == b or math.isclose(a, b, rel_tol=1e-9)
    return bool(a == b)


def _compare(name: str, a: _Plane, b: _Plane, rtol: float, atol: float) -> PlaneReport:
    x, y = np.asarray(a[0]()), np.asarray(b[0]())
    unit = f"unit {a[1] or 'none'} | {b[1] or 'none'}" if a[1] != b[1] else ""
    if x.shape != y.shape:
        return PlaneReport(name, 0.0, problem=f"shape {x.shape} | {y.shape}")
    if x.dtype.kind not in "biuf" or y.dtype.kind not in "biuf":
        ok = float((x.astype(str) == y.astype(str)).mean()) if x.size else 1.0
        return PlaneReport(name, ok, x.size, problem=unit)
    if _BITS.search(name):
        other = x.astype(np.uint32) ^ y.astype(np.uint32)
        ok = float((other == 0).mean()) if x.size else 1.0
        bits = int(np.bitwise_or.reduce(other.reshape(-1), initial=np.uint32(0)))
        return PlaneReport(name, ok, x.size, bits=f"{bits:#x}" if bits else "", problem=unit)
    return _numbers(name, x.astype(np.float64), y.astype(np.float64), unit, rtol=rtol, atol=atol)


def _numbers(
    name: str, x: HostArray, y: HostArray, problem: str, *, rtol: float, atol: float
) -> PlaneReport:
    here, there = np.isfinite(x), np.isfinite(y)
    both = here & there
    n = int((here | there).sum())
    if not n:
        return PlaneReport(name, problem=problem)
    size = np.abs(x[both])
    scale = float(np.median(size)) if size.size else 0.0
    far = np.abs(x[both] - y[both])
    fine = int((far <= atol + rtol * (size + scale)).sum())
    relative = far / np.maximum(size, scale if scale > 0 else 1.0)
    return PlaneReport(
        name,
        ok=fine / n,
        n=n,
        max_rel=float(relative.max(initial=0.0)),
        p99_rel=float(np.percentile(relative, 99)) if relative.size else 0.0,
        nan=int((here ^ there).sum()) / n,
        problem=problem,
    )


def _open(path: Path) -> _Product:
    if path.suffix.lower() in (".nc", ".nc4"):
        return _from_netcdf(path)
    file = scan(path)
    planes: dict[str, _Plane] = {}
    keywords: dict[str, Any] = {}
    seen: dict[str, int] = {}
    counts = Counter(h.name for h in file.hdus)
    identity = ""
    for hdu in file.hdus:
        if hdu.name in ("ASDF", "SPEC2FN"):
            continue
        if hdu.name in ("SCI", "EXTRACT1D"):
            identity = "/".join(str(hdu.header[k]) for k in _IDENTITY if k in hdu.header)
        name = f"{hdu.name}[{identity}]" if counts[hdu.name] > 1 else hdu.name
        seen[name] = seen.get(name, 0) + 1
        if seen[name] > 1:
            name = f"{name}#{seen[name]}"
        planes.update(_planes(file, hdu, name))
        prefix = "" if hdu.name == "PRIMARY" else f"{name}."
        keywords.update({prefix + k: v for k, v in _keywords(hdu).items()})
    return _Product(str(file.hdus[0].header.get("DATAMODL", "")), planes, keywords)


def _planes(file: FitsFile, hdu: Hdu, name: str) -> dict[str, _Plane]:
    if not hdu.is_table:
        if not hdu.shape:
            return {}
        return {name: (lambda: file.array(hdu), str(hdu.header.get("BUNIT", "")))}
    table = functools.cache(lambda: file.table(hdu))

    def column(name: str) -> HostArray:
        return table()[name]

    return {
        f"{name}.{which}": (functools.partial(column, which), unit or "")
        for which, unit in hdu.units.items()
    }


def _keywords(hdu: Hdu) -> dict[str, Any]:
    keys = (k for k in dict.fromkeys(hdu.header) if k not in _VOLATILE)
    return {k: hdu.header[k] for k in keys if not k.startswith(_STORAGE)}


def _from_netcdf(path: Path) -> _Product:
    """Name the variables of a Dataset as the extensions and columns they would be in FITS."""
    import tempfile

    from spec2fn.io.fits.products import write_product
    from spec2fn.io.netcdf import read_netcdf

    # writing the FITS product is the one definition of that naming
    with tempfile.TemporaryDirectory() as folder:
        copy = write_product(read_netcdf(path), Path(folder) / "product.fits")
        product = _open(copy)
        planes: dict[str, _Plane] = {
            n: (functools.partial(np.asarray, read()), unit)
            for n, (read, unit) in product.planes.items()
        }
    return _Product(product.model, planes, product.keywords)

"""Level-2 associations: which exposures belong together.

The format is that of the JWST associations
(https://jwst-pipeline.readthedocs.io/en/stable/jwst/associations/).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spec2fn.errors import InputError, nearest
from spec2fn.io.naming import base_name
from spec2fn.parameters import user_path
from spec2fn.schema import FIELD_FILES, FIELD_KEYWORDS

if TYPE_CHECKING:
    from spec2fn.engine.pipeline import Observation

__all__ = [
    "ROLES",
    "Association",
    "is_association",
    "open_association",
    "open_observation",
    "products_of",
]

ROLES = (
    "science", "background", "imprint", "selfcal", "target_acquisition", "sourcecat", "segmap",
    "direct_image",
)  # fmt: skip
"""Roles of members that stage 2 knows."""

_OLD_NAMES = {"catalog": "sourcecat"}
_EXPOSURES = ("background", "imprint", "selfcal", "target_acquisition")
_SUBTRACTED = ("background", "imprint")

_ENDINGS = (".json", ".yaml", ".yml")
# how files start that hold exposures: FITS, gzip, HDF5, netCDF
_BINARY = (b"SIMPLE  =", b"\x1f\x8b", b"\x89HDF", b"CDF")


@dataclass(frozen=True)
class Association:
    """A level-2 association with one product.

    Attributes
    ----------
    product : str
        Name of the product, without suffix.
    science : pathlib.Path
        The exposure to calibrate.
    members : mapping of str to tuple of pathlib.Path
        Associated files by role (:data:`ROLES`), without the science exposure.
    pool : str
        Name of the pool the association was made from ("" if unknown).
    table : str
        File name of the association ("" if it was given as a mapping).
    warnings : tuple of str
        What was passed over.
    folder : pathlib.Path
        Where the association lies.
    """

    product: str
    science: Path
    members: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)
    pool: str = ""
    table: str = ""
    warnings: tuple[str, ...] = ()
    folder: Path = Path()


def open_association(
    source: str | os.PathLike[str] | Mapping[str, Any],
    folder: str | os.PathLike[str] | None = None,
    *,
    product: int | None = None,
    must_exist: bool = True,
) -> Association:
    """Read a level-2 association.

    Members are found by their absolute path, relative to the folder of the association, or
    relative to the working directory, in this order.

    Parameters
    ----------
    source : path or mapping
        File in JSON or YAML, or its content.
    folder : path, optional
        Where a mapping counts as lying; the working directory by default.
    product : int, optional
        Which product, counted from 0; by default there may be one only.
    must_exist : bool
        Whether members that do not exist are an error; without, they count as lying beside the
        association.

    Returns
    -------
    Association
        ``warnings`` name the members of roles that stage 2 does not know.

    Raises
    ------
    InputError
        If the file is missing or no association, has several products, several science members or
        none, a member does not exist, is listed twice to be subtracted or is the science exposure
        itself, or its role is that of a misspelt name.
    """
    if isinstance(source, Mapping):
        name, table, content = "association", "", dict(source)
        root = Path() if folder is None else user_path(folder)
    else:
        path = user_path(source)
        name, table, content = str(path), path.name, _load(path)
        root = path.parent
    found = _products(content, name)
    if product is None and len(found) > 1:
        names = ", ".join(str(p.get("name", "?")) for p in found)
        msg = (
            f"{name}: has {len(found)} products ({names}); spec2fn run --all-products"
            " (spec2fn.calibrate_all in Python) calibrates one after the other"
        )
        raise InputError(msg)
    one = found[product or 0]
    members, warnings = _members(one, name, root, must_exist=must_exist)
    science = members.pop("science", ())
    if not science:
        msg = f"{name}: no member is of exptype 'science'; one exposure must be"
        raise InputError(msg)
    if len(science) > 1:
        msg = (
            f"{name}: {len(science)} members are of exptype 'science'"
            f" ({', '.join(p.name for p in science)}), but one exposure is calibrated at a time;"
            " give each an association of its own"
        )
        raise InputError(msg)
    _refuse_repeated(science[0], members, name)
    _refuse_several(members, name)
    return Association(
        product=str(one.get("name") or base_name(science[0])),
        science=science[0],
        members=members,
        pool=str(content.get("asn_pool", "")),
        table=table,
        warnings=tuple(warnings),
        folder=root,
    )


def products_of(source: str | os.PathLike[str], *, spectra: bool = False) -> tuple[str, ...]:
    """Return the names of the products of a level-2 association.

    Parameters
    ----------
    source : path
    spectra : bool
        Whether it has to say that it is of spectra (``asn_type``: ``spec2``, ``tso-spec2``, …).

    Raises
    ------
    InputError
        If the file is missing or no association.
    """
    path = user_path(source)
    content = _load(path)
    names = tuple(str(p.get("name", "?")) for p in _products(content, str(path)))
    kind = str(content.get("asn_type", ""))
    if spectra and "spec2" not in kind:
        raise InputError(f"{path}: is an association of type {kind!r}, not one of spectra (spec2)")
    return names


def _refuse_repeated(science: Path, members: Mapping[str, tuple[Path, ...]], name: str) -> None:
    for role in _SUBTRACTED:
        seen = {science.resolve(): "the science exposure itself"}
        for path in members.get(role, ()):
            where = path.resolve()
            if where in seen:
                msg = f"{name}: {role} member {path.name} is {seen[where]}; leave it out"
                raise InputError(msg)
            seen[where] = "listed twice"


def _refuse_several(members: Mapping[str, tuple[Path, ...]], name: str) -> None:
    for role in FIELD_KEYWORDS:
        found = members.get(role, ())
        if len(found) > 1:
            listed = ", ".join(p.name for p in found)
            msg = f"{name}: {len(found)} members are of exptype {role!r} ({listed}); keep one"
            raise InputError(msg)


def _load(path: Path) -> dict[str, Any]:
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; check the path") from None
    except OSError as err:
        raise InputError(f"{path}: cannot be read ({err.strerror}); check the path") from err
    content = _parse(raw, path)
    if not isinstance(content, dict):
        kind = "empty" if content is None else f"a {type(content).__name__}"
        msg = f"{path}: is {kind}, not an association; give a level-2 association (JSON or YAML)"
        raise InputError(msg)
    return content


def _parse(raw: bytes, path: Path) -> object:
    try:
        # the encoding is told by a byte order mark, or by where the zeros are
        text = raw.decode(json.detect_encoding(raw))
    except UnicodeDecodeError as err:
        msg = f"{path}: is no text ({err}); give a level-2 association (JSON or YAML)"
        raise InputError(msg) from err
    if _is_pool(text):
        msg = (
            f"{path}: is a pool, the list of exposures that associations are made from"
            " (asn_generate); give one of its level-2 associations"
        )
        raise InputError(msg)
    try:
        return json.loads(text)
    except ValueError as err:
        found = f"no JSON ({err})"
    if text.lstrip().startswith(("{", "[")):
        raise InputError(f"{path}: is {found}; give a level-2 association")
    import yaml

    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as err:
        why = " ".join(str(err).split())
        msg = f"{path}: is {found} and no YAML ({why}); give a level-2 association"
        raise InputError(msg) from err


def _is_pool(text: str) -> bool:
    lines = (line for line in text.splitlines() if line.strip() and not line.startswith("#"))
    columns = next(lines, "").upper().split("|")
    return "EXP_TYPE" in columns and "FILENAME" in columns


def _products(content: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    kind = str(content.get("asn_type", ""))
    if "3" in kind:
        msg = f"{name}: is an association of type {kind!r}; stage 2 needs a level-2 one (spec2)"
        raise InputError(msg)
    products = content.get("products")
    if not isinstance(products, list) or not products or not isinstance(products[0], dict):
        msg = f"{name}: has no list of products; a level-2 association has one product"
        raise InputError(msg)
    return [p for p in products if isinstance(p, dict)]


def _members(
    product: Mapping[str, Any], name: str, root: Path, *, must_exist: bool
) -> tuple[dict[str, tuple[Path, ...]], list[str]]:
    listed = product.get("members")
    if not isinstance(listed, list) or not all(isinstance(m, dict) for m in listed):
        msg = f"{name}: its product has no list of members; list at least the science exposure"
        raise InputError(msg)
    members: dict[str, tuple[Path, ...]] = {}
    warnings = []
    for member in listed:
        expname, exptype = member.get("expname"), member.get("exptype")
        if not isinstance(expname, str) or not expname:
            msg = f"{name}: a member has no 'expname'; name the file of every member"
            raise InputError(msg)
        if not isinstance(exptype, str) or not exptype.strip():
            msg = f"{name}: member {expname} has no 'exptype'; known are {', '.join(ROLES)}"
            raise InputError(msg)
        role = exptype.strip().lower()
        role = _OLD_NAMES.get(role, role)
        if role not in ROLES:
            warnings.append(_passed_over(role, expname, name))
            continue
        path = _locate(expname, name, root, must_exist=must_exist)
        members[role] = (*members.get(role, ()), path)
    return members, warnings


def _passed_over(role: str, expname: str, name: str) -> str:
    """Say that a member is left out; :class:`InputError` if its role is a misspelt known one.

    Associations may hold roles that stage 2 has no use for, so that an unknown one is no error.
    """
    meant = nearest(role, ROLES)
    if meant:
        msg = f"{name}: member {expname} is of unknown exptype {role!r}{meant}"
        raise InputError(msg)
    return f"{name}: member {expname} of exptype {role!r} is left out; stage 2 does not use it"


def _locate(expname: str, name: str, root: Path, *, must_exist: bool) -> Path:
    given = user_path(expname)
    places = list(dict.fromkeys((root / given, given)))  # an absolute path is itself in both
    found = next((p for p in places if p.is_file()), None)
    if found is not None or not must_exist:
        return found or places[0]
    beside = root / given.name
    if beside.is_file():
        remedy = f"{given.name} lies beside the association: name the file without its folder"
    else:
        remedy = "correct its path, which counts from the association or the working directory"
    tried = ", ".join(str(p.absolute()) for p in places)
    msg = f"{name}: member {expname} does not exist (not found: {tried}); {remedy}"
    raise InputError(msg)


def is_association(path: str | os.PathLike[str]) -> bool:
    """Whether a file holds an association rather than an exposure: by its ending, or as it starts.

    A file that does not exist counts as an exposure, unless its ending says otherwise.
    """
    where = Path(path)
    if where.suffix.lower() in _ENDINGS:
        return True
    if where.name.lower().endswith((".fits", ".fits.gz")):
        return False
    try:
        with where.open("rb") as stream:
            start = stream.read(512)
    except OSError:
        return False
    # zeros are no text, but for the encodings that a byte order mark announces
    return (
        bool(start)
        and not start.startswith(_BINARY)
        and (b"\0" not in start or start[:2] in (b"\xff\xfe", b"\xfe\xff"))
    )


def open_observation(
    source: str | os.PathLike[str] | Mapping[str, Any] | Association, *, product: bool = False
) -> Observation:
    """Open an exposure together with its associated exposures.

    Parameters
    ----------
    source : path, mapping or Association
        ``_rate``/``_rateints`` FITS file, or level-2 association (file or content).
    product : bool
        The science member is a product to go on from; see :func:`spec2fn.io.open_product`.

    Returns
    -------
    spec2fn.engine.pipeline.Observation
        Pixels are read when they are used. ``meta.records`` of the science exposure holds
        ``product`` (name without suffix), ``folder``, and of an association ``asn_folder``,
        ``asn_pool``, ``asn_table`` and ``warnings``.

    Raises
    ------
    InputError
        As :func:`open_association` and :func:`spec2fn.io.open_exposure`.
    """
    from spec2fn.engine.pipeline import Observation
    from spec2fn.io.open import open_exposure, open_product
    from spec2fn.schema import with_meta, with_warnings

    open_science: Callable[[Path], Any] = open_product if product else open_exposure

    if not isinstance(source, (Association, Mapping)):
        path = user_path(source)
        if not is_association(path):
            ds = open_science(path)
            return Observation(with_meta(ds, records=_origin(path, base_name(path))))
        source = path
    asn = source if isinstance(source, Association) else open_association(source)
    science = open_science(asn.science)
    records = _origin(asn.science, base_name(asn.product)) | {"asn_folder": str(asn.folder)}
    if asn.pool:
        records["asn_pool"] = asn.pool
    if asn.table:
        records["asn_table"] = asn.table
    members: dict[str, tuple[Any, ...]] = {
        role: tuple(open_exposure(p, any_exp_type=True) for p in paths)
        for role, paths in asn.members.items()
        if role in _EXPOSURES
    }
    field = {role: paths[0] for role, paths in asn.members.items() if role in FIELD_KEYWORDS}
    if field:
        from spec2fn.io.catalogs import open_field_member

        members |= {role: (open_field_member(role, path),) for role, path in field.items()}
        records[FIELD_FILES] = {role: path.name for role, path in field.items()}
    science = with_warnings(with_meta(science, records=records), *asn.warnings)
    return Observation(science, members)


def _origin(science: Path, product: str) -> dict[str, Any]:
    # files named in the header (MSA metadata) stand beside the exposure
    return {"product": product, "folder": str(science.parent)}

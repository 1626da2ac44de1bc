"""Level-2 associations: which exposures belong together.

The format is that of the JWST associations
(https://jwst-pipeline.readthedocs.io/en/stable/jwst/associations/).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spec2fn.errors import InputError, nearest
from spec2fn.io.naming import base_name

if TYPE_CHECKING:
    import xarray as xr

    from spec2fn.compose import Observation

__all__ = ["ROLES", "Association", "open_association", "open_observation"]

ROLES = (
    "science",
    "background",
    "imprint",
    "selfcal",
    "target_acquisition",
    "sourcecat",
    "segmap",
    "direct_image",
)
"""Roles of members that stage 2 knows."""

_EXPOSURES = ("background", "imprint", "selfcal", "target_acquisition")


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
    """

    product: str
    science: Path
    members: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)
    pool: str = ""
    table: str = ""
    warnings: tuple[str, ...] = ()


def open_association(
    source: str | os.PathLike[str] | Mapping[str, Any],
    folder: str | os.PathLike[str] | None = None,
) -> Association:
    """Read a level-2 association.

    Parameters
    ----------
    source : path or mapping
        JSON file, or its content.
    folder : path, optional
        Where the members of a mapping lie; the current folder by default.

    Returns
    -------
    Association

    Raises
    ------
    InputError
        If the file is missing or no JSON association, has several products or no science member,
        or a member does not exist or lies outside the association's folder.
    """
    if isinstance(source, Mapping):
        name, table, content = "association", "", dict(source)
        root = Path.cwd() if folder is None else Path(folder)
    else:
        path = Path(source)
        name, table, content = str(path), path.name, _load(path)
        root = path.parent
    product = _product(content, name)
    members, warnings = _members(product, name, root)
    science = members.pop("science", ())
    if not science:
        msg = f"{name}: no member is of exptype 'science'; one exposure must be"
        raise InputError(msg)
    if len(science) > 1:
        left = ", ".join(p.name for p in science[1:])
        warnings.append(f"{name}: several science members; {science[0].name} is used, not {left}")
    return Association(
        product=str(product.get("name") or base_name(science[0])),
        science=science[0],
        members=members,
        pool=str(content.get("asn_pool", "")),
        table=table,
        warnings=tuple(warnings),
    )


def _load(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; check the path") from None
    except OSError as err:
        raise InputError(f"{path}: cannot be read ({err.strerror}); check the path") from err
    except ValueError as err:
        raise InputError(f"{path}: is no JSON ({err}); give a level-2 association") from err
    if not isinstance(content, dict):
        msg = f"{path}: holds a JSON {type(content).__name__}, not an association; give another"
        raise InputError(msg)
    return content


def _product(content: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    kind = str(content.get("asn_type", ""))
    if "3" in kind:
        msg = f"{name}: is an association of type {kind!r}; stage 2 needs a level-2 one (spec2)"
        raise InputError(msg)
    products = content.get("products")
    if not isinstance(products, list) or not products or not isinstance(products[0], dict):
        msg = f"{name}: has no list of products; a level-2 association has one product"
        raise InputError(msg)
    if len(products) > 1:
        names = ", ".join(str(p.get("name", "?")) for p in products if isinstance(p, dict))
        msg = f"{name}: has {len(products)} products ({names}); split it, one product in each file"
        raise InputError(msg)
    return products[0]


def _members(
    product: Mapping[str, Any], name: str, root: Path
) -> tuple[dict[str, tuple[Path, ...]], list[str]]:
    listed = product.get("members")
    if not isinstance(listed, list) or not all(isinstance(m, dict) for m in listed):
        msg = f"{name}: its product has no list of members; list at least the science exposure"
        raise InputError(msg)
    members: dict[str, tuple[Path, ...]] = {}
    warnings = []
    for member in listed:
        expname, role = member.get("expname"), str(member.get("exptype", "")).lower()
        if not isinstance(expname, str) or not expname:
            msg = f"{name}: a member has no 'expname'; name the file of every member"
            raise InputError(msg)
        if role not in ROLES:
            warnings.append(
                f"{name}: member {expname} of exptype {role!r} is left out{nearest(role, ROLES)}"
            )
            continue
        members[role] = (*members.get(role, ()), _locate(expname, name, root))
    return members, warnings


def _locate(expname: str, name: str, root: Path) -> Path:
    inside = Path(expname)
    here = root.resolve()
    if inside.is_absolute() or not (here / inside).resolve().is_relative_to(here):
        if (root / inside).is_symlink() and len(inside.parts) == 1:
            # a link that stands in the folder was put there by whoever owns the folder
            return _existing(root / inside, expname, name)
        msg = (
            f"{name}: member {expname} lies outside the association's folder;"
            " put it (or a link to it) beside the association and name the file alone"
        )
        raise InputError(msg)
    return _existing(root / inside, expname, name)


def _existing(path: Path, expname: str, name: str) -> Path:
    if not path.is_file():
        msg = f"{name}: member {expname} does not exist; put it beside the association"
        raise InputError(msg)
    return path


def open_observation(
    path: str | os.PathLike[str] | Association, *, product: bool = False
) -> Observation:
    """Open an exposure together with its associated exposures.

    Parameters
    ----------
    path : path or Association
        ``_rate``/``_rateints`` FITS file, or level-2 association.
    product : bool
        The science member is a product to go on from; see :func:`spec2fn.io.open_product`.

    Returns
    -------
    spec2fn.compose.Observation
        Pixels are read when they are used. ``meta.records`` of the science exposure holds
        ``product`` (name without suffix), ``folder``, ``asn_pool``, ``asn_table`` and ``warnings``.

    Raises
    ------
    InputError
        As :func:`open_association` and :func:`spec2fn.io.open_exposure`.
    """
    from spec2fn.compose import Observation
    from spec2fn.io.exposures import open_exposure
    from spec2fn.io.reading import open_product
    from spec2fn.schema import meta_of, with_meta

    open_science = open_product if product else open_exposure
    if not isinstance(path, Association):
        if Path(path).suffix.lower() != ".json":
            ds = open_science(path)
            return Observation(with_meta(ds, records=_origin(path, base_name(path))))
        path = open_association(path)
    science = open_science(path.science)
    records = _origin(path.science, base_name(path.product))
    if path.pool:
        records["asn_pool"] = path.pool
    if path.table:
        records["asn_table"] = path.table
    warnings = (*meta_of(science).records.get("warnings", ()), *path.warnings)
    if warnings:
        records["warnings"] = warnings
    members: dict[str, tuple[xr.Dataset, ...]] = {
        role: tuple(open_exposure(p, any_exp_type=True) for p in paths)
        for role, paths in path.members.items()
        if role in _EXPOSURES
    }
    return Observation(with_meta(science, records=records), members)


def _origin(science: Any, product: str) -> dict[str, Any]:
    # files named in the header (MSA metadata) stand beside the exposure
    return {"product": product, "folder": str(Path(science).parent)}

"""Several exposures, one after the other: lists, folders, associations with several products."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spec2fn.calibration import Calibration, calibrate
from spec2fn.calibration.job import Source
from spec2fn.errors import InputError
from spec2fn.modes import known_exp_types
from spec2fn.parameters import user_path

__all__ = ["Outcome", "Task", "calibrate_all", "outcomes", "tasks"]

_EXPOSURES = ("_rate.fits", "_rateints.fits")


@dataclass(frozen=True)
class Task:
    """One exposure to calibrate.

    Attributes
    ----------
    source : Source
        As :func:`spec2fn.calibrate` takes it.
    product : int, optional
        Which product of an association, where it has several.
    label : str
        What the task is called.
    """

    source: Source
    product: int | None = None
    label: str = ""

    def open(self) -> Source:
        """Return what is to be calibrated."""
        from spec2fn.io import open_association

        if self.product is None or not isinstance(self.source, (str, os.PathLike)):
            return self.source
        return open_association(self.source, product=self.product)


@dataclass(frozen=True)
class Outcome:
    """What became of one of several exposures: a calibration, or the error that it ended with."""

    task: Task
    calibration: Calibration | None = None
    error: Exception | None = None


def tasks(
    sources: Iterable[Source], *, all_products: bool = False
) -> tuple[tuple[Task, ...], tuple[str, ...]]:
    """Return the exposures that files, folders and associations name, and what was left out.

    Parameters
    ----------
    sources : iterable of path, mapping, Dataset or Observation
        Of a folder: the level-2 spectroscopic associations in it, with all of their products, and
        the ``_rate`` and ``_rateints`` files with spectra that none of them names.
    all_products : bool
        Take every product of associations that have several.

    Raises
    ------
    InputError
        If a folder holds nothing to calibrate, a file is no association, or two exposures would
        make products of the same name.
    """
    found: list[Task] = []
    left_out: list[str] = []
    for source in sources:
        path = user_path(source) if isinstance(source, (str, os.PathLike)) else None
        if path is None:
            found.append(Task(source, label=f"exposure {len(found) + 1}"))
        elif path.is_dir():
            inside, others = _in_folder(path)
            found += inside
            left_out += others
        else:
            found += _of_file(path, all_products=all_products)
    _refuse_same_names(found)
    return tuple(found), tuple(left_out)


def calibrate_all(
    sources: Iterable[Source],
    output_dir: str | os.PathLike[str] | None = None,
    *,
    all_products: bool = False,
    **options: Any,  # noqa: ANN401 - those of calibrate
) -> Iterator[Outcome]:
    """Calibrate exposures one after the other; one that fails does not stop the others.

    Parameters
    ----------
    sources : iterable of path, mapping, Dataset or Observation
        Files, associations and folders; see :func:`spec2fn.calibration.batch.tasks`.
    output_dir : path, optional
        Where products go.
    all_products : bool
        Take every product of associations that have several.
    **options
        As for :func:`spec2fn.calibrate`.

    Yields
    ------
    Outcome
        When an exposure is done, and before the next is begun.

    Raises
    ------
    InputError
        Before anything is calibrated, if there is nothing to do, or two exposures would make
        products of the same name.

    Examples
    --------
    ::

        for outcome in spec2fn.calibrate_all(["night1/", "nod_asn.json"], "out"):
            print(outcome.task.label, outcome.error or outcome.calibration.files["x1d"])
    """
    found, _ = tasks(sources, all_products=all_products)
    return outcomes(found, output_dir, options)


def outcomes(
    found: Iterable[Task], output_dir: str | os.PathLike[str] | None, options: Mapping[str, Any]
) -> Iterator[Outcome]:
    """Calibrate tasks one after the other; see :func:`calibrate_all`."""
    for task in found:
        try:
            done = calibrate(task.open(), output_dir, **options)
        except Exception as error:
            yield Outcome(task, error=error)
        else:
            yield Outcome(task, done)
            del done


def _of_file(path: Path, *, all_products: bool) -> list[Task]:
    from spec2fn.io import is_association, products_of

    if not all_products or not is_association(path):
        return [Task(path, label=path.name)]
    names = products_of(path)
    if len(names) == 1:
        return [Task(path, label=path.name)]
    return [Task(path, i, f"{path.name}: {name}") for i, name in enumerate(names)]


def _in_folder(folder: Path) -> tuple[list[Task], list[str]]:
    from spec2fn.io import open_association, products_of

    found: list[Task] = []
    left_out: list[str] = []
    named: set[Path] = set()
    for path in sorted(folder.glob("*.json")):
        try:
            names = products_of(path, spectra=True)
        except InputError as error:
            left_out.append(str(error))
            continue
        found += _of_file(path, all_products=True)
        for i in range(len(names)):
            asn = open_association(path, product=i, must_exist=False)
            for one in (asn.science, *(p for paths in asn.members.values() for p in paths)):
                named.add(one.resolve())
    for path in sorted(p for ending in _EXPOSURES for p in folder.glob(f"*{ending}")):
        exp_type = _exp_type(path)
        if path.resolve() in named:
            continue
        if exp_type in ("", *known_exp_types()):
            found.append(Task(path, label=path.name))
        else:
            left_out.append(f"{path.name} ({exp_type})")
    if not found:
        msg = (
            f"{folder}: the folder holds neither _rate or _rateints files of spectra nor level-2"
            " associations (spec2); give another one, or files"
        )
        raise InputError(msg)
    return found, left_out


def _exp_type(path: Path) -> str:
    """EXP_TYPE of a file; "" if it cannot be read, which its calibration will say."""
    from spec2fn.io import open_exposure

    try:
        return str(open_exposure(path, any_exp_type=True).attrs.get("exp_type", ""))
    except InputError:
        return ""


def _refuse_same_names(found: Iterable[Task]) -> None:
    from spec2fn.io import base_name, is_association, open_association

    seen: dict[tuple[str, bool], str] = {}
    for task in found:
        if not isinstance(task.source, (str, os.PathLike)):
            continue
        path = user_path(task.source)
        name, science = path.name, path
        if is_association(path):
            try:
                asn = open_association(path, product=task.product, must_exist=False)
            except InputError:
                continue  # its calibration will say so
            name, science = asn.product, asn.science
        key = base_name(name), science.name.endswith("ints.fits")
        if key in seen:
            msg = (
                f"{task.label} and {seen[key]} make products of the same name, {key[0]}; calibrate"
                " them into different folders"
            )
            raise InputError(msg)
        seen[key] = task.label

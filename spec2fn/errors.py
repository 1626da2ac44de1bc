"""The errors spec2fn raises.

Every message states the requirement, what was found, and how to repair it, in one line: the
command line prints it as it is.
"""

from __future__ import annotations

__all__ = [
    "ContractError",
    "DatasetError",
    "HostOnlyError",
    "InputError",
    "NoDataOnDetectorError",
    "ParameterError",
    "PlanError",
    "ReferenceError",
    "Spec2fnError",
    "StepFailedError",
    "UnsupportedModelError",
    "nearest",
]


class Spec2fnError(Exception):
    """Base class; ``exit_code`` is the exit status of the command line."""

    exit_code = 1


class InputError(Spec2fnError):
    """A file, keyword, association or argument given by the user cannot be used."""

    exit_code = 2


class NoDataOnDetectorError(InputError):
    """No spectrum falls on this detector: nothing is wrong, and there is nothing to be done.

    The exit status is that of the official pipeline.
    """

    exit_code = 64


class DatasetError(InputError):
    """A Dataset lacks a variable, a dimension or an attribute that is needed."""


class ParameterError(InputError):
    """Unknown step or parameter, or a value of the wrong type or out of range."""


class ReferenceError(InputError):  # noqa: A001 - the JWST term; shadows a builtin nobody catches
    """A reference file is missing, of the wrong type or of the wrong size."""


class ContractError(Spec2fnError):
    """A pipeline or a step is put together wrongly."""


class PlanError(ContractError):
    """Arrays of a plan do not have the dims it declares, or cannot be mapped along one."""


class HostOnlyError(Spec2fnError):
    """Host-side geometry was requested inside a JAX trace."""


class UnsupportedModelError(Spec2fnError):
    """A transform of a WCS has no lowering rule."""


class StepFailedError(Spec2fnError):
    """A step raised an unexpected exception; the original one is its cause."""


def nearest(word: str, known: object) -> str:
    """Return ``"; did you mean 'x'?"`` for the known word nearest to `word`, or an empty string."""
    import difflib

    found = difflib.get_close_matches(str(word), [str(k) for k in known], n=1)  # type: ignore[attr-defined]
    return f"; did you mean {found[0]!r}?" if found else ""

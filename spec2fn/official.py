"""What the official pipeline calls its steps, and those of its parameters that no step has here.

Parameter files, dictionaries and scripts that were written for it are read with these tables:
``docs/coverage.md`` lists every parameter, and what becomes of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from spec2fn.errors import ParameterError

__all__ = ["FOREIGN", "OPTIONS", "OVERRULED", "STEPS", "Foreign", "foreign", "step_named"]

STEPS: Mapping[str, str] = {
    "assign_wcs": "assign_wcs",
    "badpix_selfcal": "badpix_selfcal",
    "msaflagopen": "msa_flagging",
    "nsclean": "clean_flicker_noise",
    "imprint": "imprint_subtract",
    "background": "bkg_subtract",
    "extract_2d": "extract_2d",
    "srctype": "srctype",
    "master_background": "master_background_mos",
    "targ_centroid": "targ_centroid",
    "wavecorr": "wavecorr",
    "straylight": "straylight",
    "flat_field": "flat_field",
    "fringe": "fringe",
    "pathloss": "pathloss",
    "barshadow": "barshadow",
    "wfss_contam": "wfss_contam",
    "photom": "photom",
    "residual_fringe": "residual_fringe",
    "adaptive_trace_model": "adaptive_trace_model",
    "pixel_replace": "pixel_replace",
    "resample_spec": "resample_spec",
    "cube_build": "cube_build",
    "extract_1d": "extract_1d",
}
"""Name of a step here to its name in ``Spec2Pipeline``."""

OVERRULED = ("cube_build.skip_dqflagging",)
"""What the official pipeline sets itself, whatever a parameter file says."""

OPTIONS = ("save_bsub", "save_wfss_esec", "fail_on_exception")
"""Parameters of ``Spec2Pipeline`` itself that a run has here too."""


@dataclass(frozen=True)
class Foreign:
    """A parameter of the official pipeline that no step has here.

    Attributes
    ----------
    instead : str
        What to use instead, or why there is nothing to be done.
    neutral : tuple
        Values that ask for nothing, besides None, an empty text and an empty list.
    refused : bool
        Other values are an error; otherwise they are passed over with a note.
    """

    instead: str
    neutral: tuple[Any, ...] = ()
    refused: bool = False

    def asks(self, value: object) -> bool:
        """Whether a value of the parameter asks for anything."""
        plain = _plain(value)
        return plain is not None and not any(plain is n or plain == n for n in self.neutral)

    def note(self, label: str, value: object) -> str:
        """Return what is to be said of a value of the parameter `label`; "" if nothing.

        Raises
        ------
        ParameterError
            If the value is refused.
        """
        if not self.asks(value):
            return ""
        if self.refused:
            raise ParameterError(f"{label}={value!r} cannot be done here; {self.instead}")
        return f"{label}={value!r} is ignored: {self.instead}"


_FUNCTIONS = (
    "put a function of your own into the pipeline (spec2fn.insert_before, spec2fn.insert_after) and"
    " pass pipeline=... to spec2fn.calibrate"
)
_NAMES = "products are named after the exposure or the product of its association, and their kind"
_ONE = "there is one exposure at a time"

FOREIGN: Mapping[str, Foreign] = {
    # of every step
    "input_dir": Foreign("members are sought beside the association and in the working directory"),
    "output_dir": Foreign("products go where --output-dir says, or output_dir= in Python"),
    "output_file": Foreign(_NAMES),
    "output_ext": Foreign("--format fits or netcdf, or file_format= in Python", (".fits", "fits")),
    "output_use_index": Foreign(_NAMES, (True, False)),
    "output_use_model": Foreign(_NAMES, (True, False)),
    "search_output_file": Foreign(_NAMES, (True, False)),
    "suffix": Foreign(_NAMES, ("s2d", "s3d", "x1d", "x1dints", "residual_fringe")),
    "pre_hooks": Foreign(_FUNCTIONS, refused=True),
    "post_hooks": Foreign(_FUNCTIONS, refused=True),
    "logcfg": Foreign("messages go to the logger 'spec2fn' of Python's logging"),
    "logging": Foreign("messages go to the logger 'spec2fn' of Python's logging"),
    # of single steps
    "resample_spec.single": Foreign(_ONE, (True, False)),
    "resample_spec.blendheaders": Foreign(_ONE, (True, False)),
    "resample_spec.in_memory": Foreign(_ONE, (True, False)),
    "adaptive_trace_model.maximum_cores": Foreign("SPEC2FN_THREADS says how many threads work"),
    "master_background.steps": Foreign("the corrections are those of the pipeline"),
}
"""By name, and of single steps by step and name (a parameter that the step has goes before)."""


def step_named(label: str) -> str:
    """Return the name here of a step of the official pipeline, or of ours; "" if there is none."""
    bare = label.rpartition("/")[2]
    for ours, theirs in STEPS.items():
        if bare in (ours, theirs):
            return ours
    return ""


def foreign(step: str, name: str) -> Foreign | None:
    """Return what is known of a parameter that a step does not have here, or None."""
    return FOREIGN.get(f"{step_named(step)}.{name}") or FOREIGN.get(name)


def _plain(value: object) -> object:
    """A value that asks for nothing as None; text as the truth or the number that it spells."""
    if isinstance(value, dict):  # of steps within a step, which are given those of the pipeline
        return None
    if isinstance(value, (list, tuple)):
        return value or None
    if not isinstance(value, str):
        return value
    text = value.strip()
    known = {"": None, "none": None, "[]": None, "true": True, "false": False}
    if text.lower() in known:
        return known[text.lower()]
    try:
        return float(text)
    except ValueError:
        return text

"""The pipelines: one explicit tuple of steps per observing mode.

This is the whole composition of the library. Read a tuple from left to right: steps run in that
order on the science exposure, ``also_on(roles, step)`` runs a step on associated exposures as
well, and ``product(kind)`` marks where a product is taken. Make your own with
:func:`spec2fn.replace`, :func:`spec2fn.insert_after`, :func:`spec2fn.without`, or by slicing::

    mine = replace(MIRI_LRS_SLITLESS, photom=photom.with_(apply_time_correction=False))

Importable as ``spec2fn.pipelines``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spec2fn.steps.assign_wcs import assign_wcs
from spec2fn.steps.background import background
from spec2fn.steps.badpix_selfcal import badpix_selfcal
from spec2fn.steps.extract_1d import extract_1d
from spec2fn.steps.pixel_replace import pixel_replace
from spec2fn.steps.resample_spec import resample_spec
from spec2fn.steps.targ_centroid import targ_centroid

from spec2fn.compose import Pipeline, also_on, product
from spec2fn.errors import InputError
from spec2fn.steps.flat_field import flat_field
from spec2fn.steps.pathloss import pathloss
from spec2fn.steps.photom import photom
from spec2fn.steps.srctype import srctype

__all__ = ["MIRI_LRS_FIXEDSLIT", "MIRI_LRS_SLITLESS", "MODES", "for_exposure"]

MIRI_LRS_FIXEDSLIT: Pipeline = (
    assign_wcs,
    also_on("background", badpix_selfcal, share_plan=True),
    background,
    product("bsub", of="background", optional=True),
    srctype,
    targ_centroid,
    flat_field,
    pathloss,
    photom,
    product("cal"),
    pixel_replace,
    resample_spec,
    product("s2d", of="resample_spec"),
    extract_1d,
    product("x1d", of="extract_1d"),
)

MIRI_LRS_SLITLESS: Pipeline = (
    assign_wcs,
    also_on("background", badpix_selfcal, share_plan=True),
    background,
    product("bsub", of="background", optional=True),
    srctype,
    targ_centroid,
    flat_field,
    photom,
    product("cal"),
    pixel_replace,
    extract_1d,
    product("x1d", of="extract_1d"),
)

MODES: Mapping[str, tuple[str, Pipeline]] = {
    "MIR_LRS-FIXEDSLIT": ("MIRI_LRS_FIXEDSLIT", MIRI_LRS_FIXEDSLIT),
    "MIR_LRS-SLITLESS": ("MIRI_LRS_SLITLESS", MIRI_LRS_SLITLESS),
}
"""EXP_TYPE to the name of its pipeline and the pipeline itself."""


def for_exposure(ds: Any) -> tuple[str, Pipeline]:
    """Return the name and the pipeline of an exposure's mode.

    Parameters
    ----------
    ds : xarray.Dataset
        With attribute ``exp_type``.

    Raises
    ------
    InputError
        If the library has no pipeline for the exposure type.
    """
    exp_type = str(ds.attrs.get("exp_type", ""))
    if exp_type not in MODES:
        msg = (
            f"EXP_TYPE {exp_type!r} has no pipeline; known are {', '.join(MODES)}."
            " Pass pipeline=... to calibrate with steps of your own"
        )
        raise InputError(msg)
    return MODES[exp_type]

"""The pipelines: one explicit tuple of steps per observing mode.

This is the whole composition of the library. Read a tuple from left to right: steps run in that
order on the science exposure, ``also_on(roles, step)`` runs a step on associated exposures as
well, and ``product(kind)`` marks where a product is taken. Make your own with
:func:`spec2fn.replace`, :func:`spec2fn.insert_after`, :func:`spec2fn.without`, or by slicing::

    mine = replace(MIRI_LRS_SLITLESS, photom=photom.with_(apply_time_correction=False))

Importable as ``spec2fn.pipelines``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from spec2fn.engine.pipeline import Branch, Observation, Pipeline, also_on, branch, product, split
from spec2fn.engine.step import Step
from spec2fn.errors import InputError
from spec2fn.modes import mode_of, nothing_to_calibrate
from spec2fn.pieces import Exposure
from spec2fn.schema import FIXED_SLIT_QUADRANT, meta_of
from spec2fn.slits import Slits
from spec2fn.steps.adaptive_trace_model import adaptive_trace_model
from spec2fn.steps.assign_wcs import assign_wcs
from spec2fn.steps.background import background
from spec2fn.steps.badpix_selfcal import badpix_selfcal
from spec2fn.steps.barshadow import barshadow
from spec2fn.steps.cube_build import cube_build
from spec2fn.steps.electron_rate import electron_rate
from spec2fn.steps.extract_1d import extract_1d
from spec2fn.steps.extract_2d import extract_2d
from spec2fn.steps.extract_soss import extract_soss
from spec2fn.steps.flat_field import flat_field
from spec2fn.steps.fringe import fringe
from spec2fn.steps.imprint import imprint
from spec2fn.steps.master_background import master_background
from spec2fn.steps.msaflagopen import msaflagopen
from spec2fn.steps.nsclean import nsclean
from spec2fn.steps.pathloss import pathloss
from spec2fn.steps.photom import photom
from spec2fn.steps.pixel_replace import pixel_replace
from spec2fn.steps.resample_spec import resample_spec
from spec2fn.steps.residual_fringe import residual_fringe
from spec2fn.steps.srctype import srctype
from spec2fn.steps.straylight import straylight
from spec2fn.steps.targ_centroid import targ_centroid
from spec2fn.steps.wavecorr import wavecorr
from spec2fn.steps.wfss_contam import wfss_contam
from spec2fn.typing import HostArray

if TYPE_CHECKING:
    import xarray as xr

__all__ = [
    "MIRI_LRS_FIXEDSLIT",
    "MIRI_LRS_SLITLESS",
    "MIRI_MRS",
    "MIRI_WFSS",
    "MODES",
    "NIRCAM_TSGRISM",
    "NIRCAM_WFSS",
    "NIRISS_SOSS",
    "NIRISS_WFSS",
    "NIRSPEC_AUTOFLAT",
    "NIRSPEC_BRIGHTOBJ",
    "NIRSPEC_FIXEDSLIT",
    "NIRSPEC_IFU",
    "NIRSPEC_LAMP_FLAT_IFU",
    "NIRSPEC_LAMP_FLAT_SLITS",
    "NIRSPEC_LAMP_LINE_IFU",
    "NIRSPEC_LAMP_LINE_SLITS",
    "NIRSPEC_MOS",
    "TSGRISM_PHOTOM_LAST",
    "WFSS_PHOTOM_LAST",
    "for_exposure",
]

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
    adaptive_trace_model,
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
    adaptive_trace_model,
    pixel_replace,
    extract_1d,
    product("x1d", of="extract_1d"),
)

MIRI_MRS: Pipeline = (
    assign_wcs,
    also_on("background", badpix_selfcal, share_plan=True),
    background,
    product("bsub", of="background", optional=True),
    srctype,
    straylight,
    flat_field,
    fringe,
    photom,
    residual_fringe,
    product("cal"),
    adaptive_trace_model,
    pixel_replace,
    cube_build,
    product("s3d", of="cube_build"),
    extract_1d,
    product("x1d", of="extract_1d"),
)

NIRSPEC_FIXEDSLIT: Pipeline = (
    also_on("background", assign_wcs, when="nsclean"),
    also_on("background", nsclean),
    background,
    product("bsub", of="background", optional=True),
    extract_2d,
    srctype,
    wavecorr,
    flat_field,
    pathloss,
    photom,
    product("cal"),
    adaptive_trace_model,
    pixel_replace,
    resample_spec,
    product("s2d", of="resample_spec"),
    extract_1d,
    product("x1d", of="extract_1d"),
)

NIRSPEC_BRIGHTOBJ: Pipeline = (
    also_on("background", assign_wcs, when="nsclean"),
    also_on("background", nsclean),
    background,
    product("bsub", of="background", optional=True),
    extract_2d,
    srctype,
    wavecorr,
    flat_field,
    photom,
    product("cal"),
    adaptive_trace_model,
    pixel_replace,
    extract_1d,
    product("x1d", of="extract_1d"),
)


def _shutters(bucket: xr.Dataset) -> HostArray:
    """Slitlets of the micro-shutter array."""
    return bucket["quadrant"].values != FIXED_SLIT_QUADRANT


def _fixed(bucket: xr.Dataset) -> HostArray:
    """Fixed slits, which a MOS exposure may hold as well."""
    return bucket["quadrant"].values == FIXED_SLIT_QUADRANT


def _has_fixed(observation: Observation) -> bool:
    if isinstance(observation.science, Slits):
        return any(_fixed(bucket).any() for bucket in observation.science.buckets)
    column = "shutter_info.fixed_slit"  # which older files do not have
    metadata = observation.members.get("msa_metadata", ())
    return any(column in m and not m[column].isin(("", "NONE")).all() for m in metadata)


def _fixed_branch(*steps: Step) -> Branch:
    """Fixed slits, with the references of their own mode."""
    return branch("fs", _fixed, *steps, exp_type="NRS_FIXEDSLIT", expected=_has_fixed)


# In a MOS exposure fixed slits part from the slitlets after srctype, take the steps and
# references of the fixed-slit mode, and meet the slitlets again in every product.
NIRSPEC_MOS: Pipeline = (
    also_on("background", "imprint", assign_wcs, when="nsclean"),
    also_on("background", "imprint", msaflagopen, when="nsclean"),
    also_on("background", "imprint", nsclean),
    also_on("background", imprint),
    background,
    product("bsub", of="background", optional=True),
    extract_2d,
    srctype,
    split(
        branch(
            "mos",
            _shutters,
            master_background,
            wavecorr,
            flat_field,
            pathloss,
            barshadow,
            photom,
        ),
        _fixed_branch(wavecorr, flat_field, pathloss, photom),
    ),
    product("cal"),
    adaptive_trace_model,
    pixel_replace,
    resample_spec,
    product("s2d", of="resample_spec"),
    split(
        branch("mos", _shutters, extract_1d),
        _fixed_branch(extract_1d),
    ),
    product("x1d", of="extract_1d"),
)

NIRSPEC_IFU: Pipeline = (
    also_on("background", "imprint", assign_wcs, when="nsclean"),
    also_on("background", badpix_selfcal, share_plan=True),
    also_on("background", "imprint", msaflagopen, when="nsclean"),
    also_on("background", "imprint", nsclean),
    also_on("background", imprint),
    background,
    product("bsub", of="background", optional=True),
    srctype,
    flat_field,
    pathloss,
    photom,
    product("cal"),
    adaptive_trace_model,
    pixel_replace,
    cube_build,
    product("s3d", of="cube_build"),
    extract_1d,
    product("x1d", of="extract_1d"),
)

# Line lamps, which tell wavelengths, through fixed slits and the MSA.
NIRSPEC_LAMP_LINE_SLITS: Pipeline = (
    assign_wcs,
    msaflagopen,
    extract_2d,
    wavecorr,
    flat_field,
    product("cal"),
    adaptive_trace_model,
    pixel_replace,
    resample_spec,
    product("s2d", of="resample_spec"),
    extract_1d,
    product("x1d", of="extract_1d"),
)

# The light of a lamp has no place on the sky: its cubes lie in the plane of the slicer.
NIRSPEC_LAMP_LINE_IFU: Pipeline = (
    assign_wcs,
    msaflagopen,
    wavecorr,
    flat_field,
    product("cal"),
    adaptive_trace_model,
    pixel_replace,
    cube_build.with_(coord_system="internal_cal"),
    product("s3d", of="cube_build"),
    extract_1d,
    product("x1d", of="extract_1d"),
)

# Continuum lamps, of which flats are made, with the flat of the detector alone.
NIRSPEC_LAMP_FLAT_SLITS: Pipeline = (
    assign_wcs,
    msaflagopen,
    extract_2d,
    wavecorr,
    flat_field,
    product("cal"),
)

NIRSPEC_LAMP_FLAT_IFU: Pipeline = (
    assign_wcs,
    msaflagopen,
    imprint,
    wavecorr,
    flat_field,
    product("cal"),
)

NIRSPEC_AUTOFLAT: Pipeline = (
    assign_wcs,
    msaflagopen,
    extract_2d,
    wavecorr,
    product("cal"),
)

NIRISS_WFSS: Pipeline = (
    assign_wcs,
    background,
    product("bsub", of="background", optional=True),
    flat_field,
    electron_rate,
    extract_2d,
    srctype,
    wfss_contam,
    photom,
    product("cal"),
    adaptive_trace_model,
    pixel_replace,
    extract_1d,
    product("x1d", of="extract_1d"),
)

NIRCAM_WFSS: Pipeline = NIRISS_WFSS

# Orders overlap: light has no wavelength and no flux before it is known which order it is of.
NIRISS_SOSS: Pipeline = (
    assign_wcs,
    background,
    product("bsub", of="background", optional=True),
    srctype,
    flat_field,
    pathloss,
    product("cal"),
    adaptive_trace_model,
    pixel_replace,
    extract_soss,
    photom,
    product("x1d", of="extract_1d"),
)

NIRCAM_TSGRISM: Pipeline = (
    assign_wcs,
    flat_field,
    extract_2d,
    srctype,
    photom,
    product("cal"),
    adaptive_trace_model,
    pixel_replace,
    extract_1d,
    product("x1d", of="extract_1d"),
)

# with electrons that have not been through the flat, as the observatory keeps them
MIRI_WFSS: Pipeline = (
    assign_wcs,
    background,
    product("bsub", of="background", optional=True),
    electron_rate,
    flat_field,
    extract_2d,
    srctype,
    photom,
    product("cal"),
    adaptive_trace_model,
    pixel_replace,
    extract_1d,
    product("x1d", of="extract_1d"),
)

# The order of the official pipeline after its version 3.0: slitless images stay in count rates, and
# the spectra are calibrated when they have been extracted.
WFSS_PHOTOM_LAST: Pipeline = (
    assign_wcs,
    background,
    product("bsub", of="background", optional=True),
    flat_field,
    electron_rate,
    extract_2d,
    srctype,
    wfss_contam,
    product("cal"),
    adaptive_trace_model,
    pixel_replace,
    extract_1d,
    photom,
    product("x1d", of="extract_1d"),
)

TSGRISM_PHOTOM_LAST: Pipeline = (
    assign_wcs,
    flat_field,
    extract_2d,
    srctype,
    product("cal"),
    adaptive_trace_model,
    pixel_replace,
    extract_1d,
    photom,
    product("x1d", of="extract_1d"),
)

MODES: dict[str, tuple[str, Pipeline]] = {
    "MIR_LRS-FIXEDSLIT": ("MIRI_LRS_FIXEDSLIT", MIRI_LRS_FIXEDSLIT),
    "MIR_LRS-SLITLESS": ("MIRI_LRS_SLITLESS", MIRI_LRS_SLITLESS),
    "MIR_MRS": ("MIRI_MRS", MIRI_MRS),
    "NRS_FIXEDSLIT": ("NIRSPEC_FIXEDSLIT", NIRSPEC_FIXEDSLIT),
    "NRS_BRIGHTOBJ": ("NIRSPEC_BRIGHTOBJ", NIRSPEC_BRIGHTOBJ),
    "NRS_IFU": ("NIRSPEC_IFU", NIRSPEC_IFU),
    "NRS_MSASPEC": ("NIRSPEC_MOS", NIRSPEC_MOS),
    "NIS_SOSS": ("NIRISS_SOSS", NIRISS_SOSS),
    "NIS_WFSS": ("NIRISS_WFSS", NIRISS_WFSS),
    "NRC_TSGRISM": ("NIRCAM_TSGRISM", NIRCAM_TSGRISM),
    "NRC_WFSS": ("NIRCAM_WFSS", NIRCAM_WFSS),
    "MIR_WFSS": ("MIRI_WFSS", MIRI_WFSS),
    **{
        f"{exp_type}:{opmode}{light}": pipeline
        for exp_type, light in (("NRS_LAMP", ":LINE"), ("NRS_AUTOWAVE", ""))
        for opmode, pipeline in {
            "FIXEDSLIT": ("NIRSPEC_LAMP_LINE_SLITS", NIRSPEC_LAMP_LINE_SLITS),
            "BRIGHTOBJ": ("NIRSPEC_LAMP_LINE_SLITS", NIRSPEC_LAMP_LINE_SLITS),
            "MSASPEC": ("NIRSPEC_LAMP_LINE_SLITS", NIRSPEC_LAMP_LINE_SLITS),
            "IFU": ("NIRSPEC_LAMP_LINE_IFU", NIRSPEC_LAMP_LINE_IFU),
        }.items()
    },
    "NRS_LAMP:FIXEDSLIT:FLAT": ("NIRSPEC_LAMP_FLAT_SLITS", NIRSPEC_LAMP_FLAT_SLITS),
    "NRS_LAMP:BRIGHTOBJ:FLAT": ("NIRSPEC_LAMP_FLAT_SLITS", NIRSPEC_LAMP_FLAT_SLITS),
    "NRS_LAMP:MSASPEC:FLAT": ("NIRSPEC_LAMP_FLAT_SLITS", NIRSPEC_LAMP_FLAT_SLITS),
    "NRS_LAMP:IFU:FLAT": ("NIRSPEC_LAMP_FLAT_IFU", NIRSPEC_LAMP_FLAT_IFU),
    "NRS_AUTOFLAT:MSASPEC": ("NIRSPEC_AUTOFLAT", NIRSPEC_AUTOFLAT),
}
"""Name of the mode (EXP_TYPE; of a lamp also OPMODE and what it shines with:
``NRS_LAMP:IFU:LINE``) to the name of its pipeline and the pipeline itself."""


def for_exposure(ds: Exposure) -> tuple[str, Pipeline]:
    """Return the name and the pipeline of an exposure's mode.

    Parameters
    ----------
    ds : xarray.Dataset
        With attribute ``exp_type``, and ``lamp_mode``, ``lamp_state`` if a lamp was on.

    Raises
    ------
    InputError
        If the library has no pipeline for the exposure type, or a lamp exposure holds no spectrum.
    """
    name = mode_of(ds).name
    idle = nothing_to_calibrate(ds)
    if idle:
        what = meta_of(ds).filename or "the exposure"
        raise InputError(f"{what}: nothing is to be done for a lamp exposure whose {idle}")
    if name not in MODES:
        msg = (
            f"EXP_TYPE {name!r} has no pipeline; known are {', '.join(MODES)}."
            " Pass pipeline=... to calibrate with steps of your own"
        )
        raise InputError(msg)
    return MODES[name]

"""JWST metadata names (``META.INSTRUMENT.NAME``) and the FITS keywords that hold them.

CRDS rules, the ``meta`` tree of ASDF references and FITS headers speak of the same properties;
this table is our dictionary between them. It covers every matching key of the CRDS rules for the
reference types of spectroscopic modes. Source: the JWST keyword dictionary
(https://mast.stsci.edu/portal/Mashup/Clients/jwkeywords/).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["KEYWORDS"]

KEYWORDS: Mapping[str, str] = {
    "META.TELESCOPE": "TELESCOP",
    "META.REFTYPE": "REFTYPE",
    "META.FILENAME": "FILENAME",
    "META.MODEL_TYPE": "DATAMODL",
    "META.INSTRUMENT.NAME": "INSTRUME",
    "META.INSTRUMENT.DETECTOR": "DETECTOR",
    "META.INSTRUMENT.FILTER": "FILTER",
    "META.INSTRUMENT.PUPIL": "PUPIL",
    "META.INSTRUMENT.GRATING": "GRATING",
    "META.INSTRUMENT.CHANNEL": "CHANNEL",
    "META.INSTRUMENT.BAND": "BAND",
    "META.INSTRUMENT.MODULE": "MODULE",
    "META.INSTRUMENT.CORONAGRAPH": "CORONMSK",
    "META.INSTRUMENT.LAMP_MODE": "OPMODE",
    "META.INSTRUMENT.LAMP_STATE": "LAMP",
    "META.INSTRUMENT.FIXED_SLIT": "FXD_SLIT",
    "META.EXPOSURE.TYPE": "EXP_TYPE",
    "META.EXPOSURE.READPATT": "READPATT",
    "META.EXPOSURE.NOUTPUTS": "NOUTPUTS",
    "META.EXPOSURE.ZERO_FRAME": "ZEROFRAM",
    "META.CALIBRATION_SOFTWARE_VERSION": "CAL_VER",
    "META.OBSERVATION.DATE": "DATE-OBS",
    "META.OBSERVATION.TIME": "TIME-OBS",
    "META.SUBARRAY.NAME": "SUBARRAY",
    "META.SUBARRAY.XSTART": "SUBSTRT1",
    "META.SUBARRAY.YSTART": "SUBSTRT2",
    "META.SUBARRAY.XSIZE": "SUBSIZE1",
    "META.SUBARRAY.YSIZE": "SUBSIZE2",
    "META.SUBARRAY.FASTAXIS": "FASTAXIS",
    "META.SUBARRAY.SLOWAXIS": "SLOWAXIS",
    "META.VISIT.TSOVISIT": "TSOVISIT",
    "META.PHOTOMETRY.PIXELAREA_STERADIANS": "PIXAR_SR",
    "META.PHOTOMETRY.PIXELAREA_ARCSECSQ": "PIXAR_A2",
}
"""Metadata name, in the upper case of CRDS, to FITS keyword."""

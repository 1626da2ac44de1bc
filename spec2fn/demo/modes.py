"""Modes there is a demo of; a module of its own because the command line loads nothing else."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["DEMOS"]

DEMOS: Mapping[str, str] = {
    "miri-lrs-slit": "MIR_LRS-FIXEDSLIT",
    "miri-lrs-slitless": "MIR_LRS-SLITLESS",
    "miri-mrs": "MIR_MRS",
    "nircam-tsgrism": "NRC_TSGRISM",
    "nirspec-fs": "NRS_FIXEDSLIT",
    "nirspec-bots": "NRS_BRIGHTOBJ",
    "nirspec-mos": "NRS_MSASPEC",
    "nirspec-ifu": "NRS_IFU",
    "nirspec-lamp": "NRS_LAMP:FIXEDSLIT:LINE",
    "niriss-soss": "NIS_SOSS",
    "niriss-wfss": "NIS_WFSS",
    "nircam-wfss": "NRC_WFSS",
}
"""Mode of each: exposure type, of a lamp with OPMODE and what it shines with."""

"""Data-quality flags of JWST pixels (32 bits, as in the DQ extension of every product).

The names and bits are those of the JWST calibration reference data
(https://jwst-pipeline.readthedocs.io, "Data Quality Flags").
"""

from __future__ import annotations

from enum import IntFlag

__all__ = ["PIXEL", "UNUSABLE", "Pixel", "explain"]


class Pixel(IntFlag):
    """Bits of a pixel's data quality."""

    GOOD = 0
    DO_NOT_USE = 1 << 0
    SATURATED = 1 << 1
    JUMP_DET = 1 << 2
    DROPOUT = 1 << 3
    OUTLIER = 1 << 4
    PERSISTENCE = 1 << 5
    AD_FLOOR = 1 << 6
    CHARGELOSS = 1 << 7
    RESERVED = 1 << 8
    NON_SCIENCE = 1 << 9
    DEAD = 1 << 10
    HOT = 1 << 11
    WARM = 1 << 12
    LOW_QE = 1 << 13
    RC = 1 << 14
    TELEGRAPH = 1 << 15
    NONLINEAR = 1 << 16
    BAD_REF_PIXEL = 1 << 17
    NO_FLAT_FIELD = 1 << 18
    NO_GAIN_VALUE = 1 << 19
    NO_LIN_CORR = 1 << 20
    NO_SAT_CHECK = 1 << 21
    UNRELIABLE_BIAS = 1 << 22
    UNRELIABLE_DARK = 1 << 23
    UNRELIABLE_SLOPE = 1 << 24
    UNRELIABLE_FLAT = 1 << 25
    OPEN = 1 << 26
    ADJ_OPEN = 1 << 27
    FLUX_ESTIMATED = 1 << 28
    MSA_FAILED_OPEN = 1 << 29
    OTHER_BAD_PIXEL = 1 << 30
    REFERENCE_PIXEL = 1 << 31


PIXEL: dict[str, int] = {flag.name: flag.value for flag in Pixel if flag.name}
PIXEL["GOOD"] = 0

UNUSABLE = PIXEL["DO_NOT_USE"] | PIXEL["NON_SCIENCE"]
"""Bits of pixels that no mean is taken of, and of what lies outside of the data."""


def explain(value: int) -> list[str]:
    """Return the names of the flags set in `value`, lowest bit first.

    >>> explain(1 | 4)
    ['DO_NOT_USE', 'JUMP_DET']
    """
    return [name for name, bit in PIXEL.items() if bit and int(value) & bit]

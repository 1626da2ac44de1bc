"""Units of angle, area and brightness that do not go without saying."""

from __future__ import annotations

import math

__all__ = [
    "ARCSEC2_TO_SR",
    "FLUX_DENSITIES",
    "MJSR_TO_UJA2",
    "MJY_TO_JY",
    "RAD_TO_ARCSEC",
    "SR_TO_ARCSEC2",
]

FLUX_DENSITIES = ("Jy", "mJy", "uJy", "nJy", "MJy")
"""Units of the flux of a pixel, which follows its size; surface brightness does not."""

RAD_TO_ARCSEC = 180.0 * 3600.0 / math.pi
"""Arcseconds in a radian."""

ARCSEC2_TO_SR = (math.pi / (180.0 * 3600.0)) ** 2
"""Steradians in a square arcsecond."""

SR_TO_ARCSEC2 = RAD_TO_ARCSEC**2
"""Square arcseconds in a steradian."""

MJSR_TO_UJA2 = 1.0e12 * ARCSEC2_TO_SR
"""Microjansky per square arcsecond in one megajansky per steradian."""

MJY_TO_JY = 1.0e6
"""Jansky in a megajansky."""

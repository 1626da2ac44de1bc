"""World coordinates of an image with more pixels across the dispersion."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.typing import HostArray
from spec2fn.wcs.frames import plane
from spec2fn.wcs.lower import box_of

if TYPE_CHECKING:
    from gwcs import WCS

__all__ = ["FRAME", "OVERSAMPLED", "coarse_pixels", "fine_size", "finer_wcs"]

FRAME = "coordinates"
"""Frame of the finer pixels, in front of all others."""


OVERSAMPLED = "oversampled"
"""Record of the number of pixels into which each of the exposure has been divided."""


def fine_size(size: int, factor: float) -> int:
    """Return the number of pixels into which `size` pixels are divided."""
    return int(np.ceil(size * factor))


def coarse_pixels(count: int, factor: float) -> HostArray:
    """Return where `count` finer pixels lie among those of the exposure, from their first."""
    return (np.arange(count) + 0.5) / factor - 0.5


def finer_wcs(wcs: WCS, factor: float, axis: int) -> WCS:
    """Return the gwcs of an image whose pixels are divided.

    Parameters
    ----------
    wcs : gwcs.WCS
        Of the exposure; not modified.
    factor : float
        Pixels for each of the exposure.
    axis : {0, 1}
        Along x or y.

    Returns
    -------
    gwcs.WCS
        From the finer pixels, with a frame :data:`FRAME` in front.
    """
    from astropy.modeling.models import Identity, Scale, Shift
    from gwcs import WCS

    one = Scale(1.0 / factor) | Shift(0.5 / factor - 0.5)
    divide = one & Identity(1) if axis == 0 else Identity(1) & one
    divide.name = "coord2det"
    divide.inputs = divide.outputs = ("x", "y")
    steps: list[tuple[Any, Any]] = [(s.frame, s.transform) for s in wcs.pipeline]
    if getattr(steps[0][0], "name", steps[0][0]) == FRAME:
        first = divide | steps[0][1]
        first.name, first.inputs, first.outputs = divide.name, ("x", "y"), ("x", "y")
        steps[0] = (steps[0][0], first)
    else:
        steps.insert(0, (plane(FRAME), divide))
    made = WCS(steps, name=wcs.name)
    box = box_of(wcs)
    if box is not None:
        low, high = ((np.array(box[axis]) + 0.5) * factor - 0.5).tolist()
        made.bounding_box = ((low, high), box[1]) if axis == 0 else (box[0], (low, high))
    return made
